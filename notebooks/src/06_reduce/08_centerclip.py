# %% [markdown]
# # CenterCLIP: a clip's tokens in clusters, segment by segment
#
# **Paper:** Zhao, Zhu, Wang and Yang, *CenterCLIP: Token Clustering for Efficient Text-Video Retrieval*, 2022
# ([arXiv 2205.00823](https://arxiv.org/abs/2205.00823)).
# **Code:** `minitok/reduce/centerclip.py`.
# **Read first:** [ToMe](02_tome.ipynb), [DivPrune](11_divprune.ipynb).
#
# After this lesson you can leave of each run of frames a few of its own tokens, the medoids of their clusters, and say
# what medoids keep and what they lose.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.reduce import Reduction, centerclip
from minitok.reduce.centerclip import assign, distances, kkz, medoids, moved

# %% [markdown]
# ## The problem: eight frames say nearly the same
#
# The chapter's host for clips, the house's `vlm_many`, reads 8 frames of moving objects as 8 x 64 tokens, each of 8x8
# pixels. Most of them show the same background again and again. What remains of its answers with 32 of 512 tokens,
# taken at even distances (*sparse sampling*), or by lot? "Right" is the mean over five kinds of question, 6 to 10 of
# each.


# %%
def sparse(x, k):
    n = x.shape[1]
    return Reduction.keep(((torch.arange(k) + 0.5) * n / k).long().expand(len(x), -1), n)


stage, k = stages.reduce.stage(scenes=8, host="clips"), 32
rows = {"all tokens": stage.full, "sparse": stage.measure(sparse, k)}
rows["by lot"] = stage.measure(stages.reduce.LOTS, k)
print(stages.reduce.table(rows))
frames = stage.drawn.pictures[3, ::2]
viz.show(viz.images(frames, [f"frame {i}" for i in range(0, 8, 2)], columns=4, height=1.4), photo=True)

# %% [markdown]
# ToMe would merge what is alike, two by two. CenterCLIP makes k clusters at once and keeps one **real** token of each,
# its *medoid*; and it does so in **segments** of neighbouring frames, where the repetition is.
#
# ## By hand: six tokens on a line
#
# Tokens 0, 1, 3, 9, 10, 12 and k = 2. **Start:** the token of the largest norm is 12; furthest from it is 0.
#
# | step | cluster of 0 | cluster of 12 | sums of distances | new medoids |
# |---|---|---|---|---|
# | 1 | 0, 1, 3 | 9, 10, 12 | 4, 3, 5 and 4, 3, 5 | 1 and 10 |
# | 2 | 0, 1, 3 | 9, 10, 12 | the same | the same: stop |
#
# The mean of the left cluster would be 1.33, which no token is. The medoid is 1.

# %%
line = torch.tensor([[[0.0], [1.0], [3.0], [9.0], [10.0], [12.0]]])
start = kkz(line, distances(line), 2)
home = assign(distances(line), start)
print("start", start.tolist(), "clusters", home.tolist(), "medoids", moved(distances(line), home, 2).tolist())
assert start.tolist() == [[5, 0]]
assert home.tolist() == [[1, 1, 1, 0, 0, 0]]
assert centerclip(line, 2).order.tolist() == [[1, 4]]

# %% [markdown]
# **Two segments.** Let the six tokens be two frames of three: each segment gets one of k = 2. Here that is the same.
# With k = 4 it is two each, though the frames need not be equally rich:

# %%
uneven = torch.tensor([[[0.0], [0.1], [0.2], [9.0], [20.0], [31.0]]])
print("together", centerclip(uneven, 4, frames=2).order.tolist(), end=" ")
print("in two segments", centerclip(uneven, 4, frames=2, segments=2).order.tolist())
assert (centerclip(uneven, 4, frames=2).order < 3).sum() == 1
assert (centerclip(uneven, 4, frames=2, segments=2).order < 3).sum() == 2

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Segments.** With 4 segments of 2 frames each is a set of 128 tokens; k = 32 leaves 8 of each.

# %%
x, segments = stage.start.visual, 4
runs = x.unflatten(1, (segments, -1)).flatten(0, 1)
count = k // segments
print("tokens", tuple(x.shape), "as segments", tuple(runs.shape), "leave", count, "each")

# %% [markdown]
# **2. A start without lots.** The largest norm, then always the furthest: the same clip gives the same tokens again.
# That is DivPrune's walk, with distances for cosines.


# %%
def begin(distance, first, count):
    chosen = [first]
    while len(chosen) < count:
        nearest = distance[:, chosen].amin(1)
        nearest[chosen] = -1  # never again
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


distance = distances(runs)
first = begin(distance[0], int(runs[0].norm(dim=-1).argmax()), count)
assert first.tolist() == kkz(runs, distance, count)[0].tolist()

# %% [markdown]
# **3. Assign, move, repeat.** The sums of all tokens to all clusters are one product of the distances with the matrix
# of membership.


# %%
def cluster(distance, chosen):
    before = torch.zeros(0)
    while not torch.equal(before, chosen):
        home = distance[:, chosen].argmin(1)
        home[chosen] = torch.arange(len(chosen))  # a medoid is its own, even beside a copy
        member = F.one_hot(home, len(chosen)).bool()
        before, chosen = chosen, (distance @ member.float()).masked_fill(~member, torch.inf).argmin(0)
    return chosen.sort().values


mine = cluster(distance[0], first)
assert torch.equal(centerclip(x, k, frames=8, segments=segments).order[0, :count], mine)
print("kept of the first segment of clip 0:", mine.tolist())

# %% [markdown]
# **4. Order.** Sorted, medoids stand as in the clip, frame after frame; so the frames can be painted as one tall
# picture. What is kept of clip 3, every second frame:

# %%
made = centerclip(x[3:4], k, frames=8, segments=segments)
film = stage.drawn.pictures[3].transpose(0, 1).flatten(1, 2)
pictures = viz.painted(film, made, patch=8).unflatten(1, (8, -1)).transpose(0, 1)[::2]
viz.show(viz.images(pictures, [f"frame {i}" for i in range(0, 8, 2)], columns=4, height=1.4), photo=True)

# %% [markdown]
# ## The recipe
#
# 1. Cut T frames into S segments of T / S; take the patch tokens of a segment's frames as one set.
# 2. D: Euclidean distances in it.
# 3. First medoid: the token with the largest norm. Until there are K: add the one whose distance to its nearest medoid
#    is largest (of equals the lowest).
# 4. Each token goes to its nearest medoid; each cluster's new medoid is its member with the smallest sum of distances
#    to the members. Repeat until none moves, 60 times at most.
# 5. Sort the medoids, drop all others. S K tokens stay.
# 6. In a ViT with CLS tokens: average those of a segment's frames and set them before its medoids; later blocks attend
#    across the segment.
# 7. Nothing is learnt by it, and no gradient passes through the choice. Cost: S (n / S)^2 c for D, and n K a step.
#
# | | paper, its code | here |
# |---|---|---|
# | where | inside CLIP's ViT, trained on | before a frozen language model |
# | stop | mean shift of the batch below a bound | no medoid moves |
# | other clusters | distances below 0, times 0 | masked |
# | second way | spectral clustering | left out |
#
# ## The experiment: how many segments?

# %%
kinds = {f"ours, {s} segment{'s'[: s > 1]}": partial(centerclip, frames=8, segments=s) for s in (1, 2, 4, 8)}
rows |= {name: stage.measure(method, k) for name, method in kinds.items()}
for name in ("tome", "divprune", "attended"):
    rows[name] = stage.measure(stages.reduce.METHODS[name], k)
print(stages.reduce.table(rows))

# %%
counts, ours = (128, 64, 32), partial(centerclip, frames=8, segments=8)
named = {"ours: 8 segments": ours, "baseline: by lot": stages.reduce.LOTS[:2], "ToMe": stages.reduce.METHODS["tome"]}
found = {name: [stage.measure(method, count) for count in counts] for name, method in named.items()}
series = {name: (counts, [row.even for row in line]) for name, line in found.items()}
series["ours, counting"] = (counts, [row.kind("count") for row in found["ours: 8 segments"]])
title, axis = "Medoids answer all but counting", "visual tokens of a clip (of 512)"
viz.show(viz.lines(series, title, axis, "right answers (%)", log="x"))

# %% [markdown]
# With 32 tokens medoids beat even sampling by far. Digits, of which a clip shows few tokens, lie alone in space and
# become medoids early. But **more tokens do not help**: counting is no better at 128 than at 32, where lots count well.
# Medoids are chosen for being different: many stand on objects, few for all the background, and the model sees a crowd.
# More segments keep frames apart and cost a part: distances grow with the square of a segment.
#
# ## Play: segments


# %%
def draw(clip=3, k=32, segments=4):
    made = centerclip(x[clip : clip + 1], k, frames=8, segments=segments)
    film = stage.drawn.pictures[clip].transpose(0, 1).flatten(1, 2)
    shown = viz.painted(film, made, patch=8).unflatten(1, (8, -1)).transpose(0, 1)[::2]
    titles = [f"frame {i}: {int((made.order // 64 == i).sum())}" for i in range(0, 8, 2)]
    return viz.show(viz.images(shown, titles, columns=4, height=1.4), photo=True)


draw()

# %%
control = viz.slider(draw, clip=(0, 7), k=[8, 32, 64, 128], segments=[1, 2, 4, 8])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over clips.

# %%
best, measures = rows["ours, 8 segments"], []
for name in ("by lot", "sparse", "tome", "ours, 1 segment"):
    margin = 100 * stages.reduce.gap(best, rows[name], of="correct")[1]
    pair = {"than": rows[name].right, "margin": margin, "unit": "%"}
    measures.append(papers.better(f"per question, 32, {name}", best.right, **pair))
more = {"than": found["baseline: by lot"][0].right, "margin": 0, "unit": "%"}
measures.append(papers.better("per question, 128, by lot", found["ours: 8 segments"][0].right, **more))
cost = {"than": 100 * rows["ours, 1 segment"].own, "margin": 0, "unit": "%", "higher": False}
measures.append(papers.better("own cost, 1 segment", 100 * best.own, **cost, paper="14 % faster in all"))

# %%
papers.verdict(
    "centerclip",
    "Medoids of segments answer better than as many tokens by lot or at even distances, and segments are cheaper.",
    measures,
    against="five draws by lot, sparse sampling, ToMe, one segment; the same cut before the same frozen host",
    data=f"8 held-out clips of 8 frames, {len(stage.rows)} questions to the house's vlm_many",
)

# %% [markdown]
# ## Where it breaks: it forgets how much it stands for
#
# A medoid of 60 background tokens counts as much as a medoid alone. Keep the clusters, but give each its mean (an
# option of the authors' code), which weighs in the attention by its size, as ToMe's tokens do:


# %%
def weighed(x, k, segments=8):
    runs = x.unflatten(1, (segments, -1)).flatten(0, 1)
    home = assign(distances(runs), medoids(runs, k // segments)).unflatten(0, (len(x), segments))
    return Reduction.merge((home + torch.arange(segments)[:, None] * (k // segments)).flatten(1), k)


for count in (32, 128):
    row, plain = stage.measure(weighed, count), found["ours: 8 segments"][counts.index(count)]
    print(f"{count:3} tokens: right {row.even:.0f} %, count {row.kind('count'):.0f} %;", end=" ")
    print(f"medoids alone {plain.even:.0f} %, count {plain.kind('count'):.0f} %")

# %% [markdown]
# ## Exercises
#
# **1. Your own CenterCLIP**, for a batch. The library's tests judge it.


# %%
def my_centerclip(x, k, *, frames=1, segments=1, rounds=60):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("centerclip", method)


check_1(my_centerclip)

# %% [markdown]
# **2. The other start.** k-means++ without lots begins anywhere: let the walk begin at the most *central* token, the
# one with the smallest sum of distances. distance (n, n), returns a list of k places.


# %%
def central(distance, k):
    return begin(distance, 0, k).tolist()  # replace this: it begins at token 0


# %%
def check_2(walk):
    if (chosen := walk(distances(line)[0], 3)) != [2, 5, 0]:
        return f"sums are 35, 31, 27, 27, 29, 37: begin at 2, then 5 and 0, not {chosen}"
    return "right: " + str(cluster(distances(line)[0], torch.tensor(walk(distances(line)[0], 2))).tolist())


check_2(central)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/08_centerclip.py`.
#
# ## What was left out
#
# The place inside CLIP, training with it, retrieval, where the paper gains 35 % of memory, and spectral clustering.
# Read on: [DivPrune](11_divprune.ipynb) takes the start alone.
