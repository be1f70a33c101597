# %% [markdown]
# # DivPrune: keep the tokens that differ most
#
# **Paper:** Alvar, Singh, Akbari and Zhang, *DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
# Models*, 2025 ([arXiv 2503.02175](https://arxiv.org/abs/2503.02175)).
# **Code:** `minitok/reduce/divprune.py`; on a GPU `minitok/reduce/divprune_triton.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# Most ways to prune give each token a score of importance and keep the highest. This one has no score. You will build
# a choice of tokens that are as far from one another as possible, prove how good a greedy choice must be, and see it
# beat attention and lots when few tokens may stay.

# %%
import itertools
from functools import partial

import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy, flops
from minitok.reduce import Reduction, cost, highest, once, resume
from minitok.reduce.divprune import distances, divprune, max_min
from minitok.reduce.random_drop import random_drop

# %% [markdown]
# ## The problem: important tokens are alike
#
# The house's vision transformer cuts a photograph of 64 x 64 pixels into 256 patches of 4 x 4, each a token, and reads
# the class of clothing from one more token, CLS. We prune in layer 2 of its 8 layers (they count from 0), between
# attention and feed-forward part. One pass tells what we need: the tokens there, how much CLS looks at each (mean over
# the heads), and the answers with all tokens. We take every sixth test photograph. (They are a download; without them
# we take crops of others, and "right" means: as the network says with all tokens.)

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::6] if there else photographs.crops(62, 64)
seen = []


def look(layer):
    if layer.index == 2:
        seen.append((layer.hidden, layer.attention[:, :, 0, 1:].mean(1)))


everything = torch.cat([vit(batch, look) for batch in images.split(31)])
hidden, looked = (torch.cat(parts) for parts in zip(*seen, strict=True))
tokens = hidden[:, 1:]  # (62, 256, 192), without CLS

# %%
labels = clothing.load("test").labels[::6] if there else everything.argmax(-1)
full = 100 * accuracy(everything, labels)
print(f"{len(images)} photographs, {full:.1f} % right with all 256 tokens")

# %% [markdown]
# The rest of the network takes what a reduction leaves. Positions were added to the tokens at the start, so a kept
# token still knows its place.


# %%
def answers(reduction):
    x, block = reduction.beside(1).apply(hidden), vit.body.blocks[2]  # beside(1): CLS stays
    x = x + block.mlp(block.norm2(x))
    for block in vit.body.blocks[3:]:
        x = block(x, torch.zeros(1, x.shape[1]))  # zeros: this network needs no positions here
    return vit.head(vit.body.norm(x)[:, 0])


def right(reduction):
    return 100 * accuracy(answers(reduction), labels)


expected = vit(images[:4], once(2, 25, random_drop))
assert torch.allclose(answers(random_drop(tokens, 25))[:4], expected, atol=1e-3)

# %% [markdown]
# The paper's code keeps 9.8 % of the tokens; of 256 that is k = 25. Keep those that CLS looks at most:

# %%
k = 25
by_attention, by_lot = Reduction.keep(highest(looked, k), 256), random_drop(tokens, k)
print(f"{k} tokens by attention: {right(by_attention):.1f} % right, by lot: {right(by_lot):.1f} %")


# %%
def faded(reduction, i=5):
    """A photograph in which only the patches of kept tokens are clear."""
    mask = torch.zeros(256).scatter(0, reduction.order[i], 1).view(1, 16, 16)
    mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return images[i] * mask + (0.15 * images[i] + 0.85) * (1 - mask)


trio = torch.stack([images[5], faded(by_attention), faded(by_lot)])
viz.show(viz.images(trio, ["a photograph", "25 by attention", "25 by lot"], height=1.92), photo=True)

# %% [markdown]
# Attention loses to a lottery. Why? If one patch scores high, so does its twin beside it, and both are
# kept. Measure it: the distance of each kept token to the nearest other kept one, where the **cosine distance** of two
# vectors is $d(x, y) = 1 - \cos(x, y)$: 0 for the same direction, 1 for a right angle, 2 for opposite ones.


# %%
def closest(reduction):
    kept = distances(reduction.apply(tokens))
    apart = kept + 9 * torch.eye(kept.shape[1])  # not to itself
    return float(apart.amin(-1).mean())


print(f"mean distance to the nearest other kept token: by attention {closest(by_attention):.2f}, ", end="")
print(f"by lot {closest(by_lot):.2f}")
assert closest(by_attention) < closest(by_lot)

# %% [markdown]
# ## The idea: no two alike
#
# Forget importance. Ask for the set S of k tokens whose *smallest* distance to one another is as large as possible:
#
# $$\max_{|S| = k} \; \min_{i \neq j \in S} d(x_i, x_j) .$$
#
# Where many tokens say the same, one may stay; what is unlike all others is taken early. To find the best set one would
# have to try them all, so the paper walks greedily: always take the token that is furthest from all taken so far.
#
# ## The mechanism, step by step
#
# **1. All distances.** Divide each token by its length; then one matrix product has all cosines.

# %%
x = tokens[5]  # of one photograph
unit = x / x.norm(dim=-1, keepdim=True)
built = 1 - unit @ unit.T
distance = distances(x[None])[0]
assert torch.allclose(built, distance, atol=1e-5)
print(f"256 x 256 distances, up to {distance.max():.2f}")

# %% [markdown]
# **2. The first token.** It is the one whose nearest *other* token is furthest. Its distance to itself, 0, must not
# count, so the diagonal is put out of the way.

# %%
nearest = distance.masked_fill(torch.eye(256, dtype=torch.bool), torch.inf).amin(0)
first = int(nearest.argmax())
print(f"token {first}: its nearest other one is at {nearest[first]:.2f}; the median is {nearest.median():.2f}")

# %% [markdown]
# **3. The walk.** Keep, for every token, its *reach*: the distance to the nearest chosen one. Take the token with the
# largest reach, and let the reach shrink by its row of distances. A chosen token gets minus infinity, so that it is
# never chosen again, not even if all that are left are copies.

# %%
chosen, reach, gaps = [first], torch.full((256,), torch.inf), []
while len(chosen) < k:
    reach = torch.minimum(reach, distance[chosen[-1]])
    reach[chosen[-1]] = -torch.inf
    chosen.append(int(reach.argmax()))
    gaps.append(float(reach.max()))
print("in the order of the walk:", chosen)
assert gaps == sorted(gaps, reverse=True)

# %%
step = torch.arange(2, k + 1)
series = {"ours: the token taken": (step, gaps)}
title = "No step can go further than the one before"
viz.show(viz.lines(series, title, "step of the walk", "cosine distance to the nearest chosen one"))

# %% [markdown]
# **4. Back in order.** The walk's order is no order of the picture. The kept tokens are sorted by place, since a
# language model behind them reads them as a sequence.
#
# **What you built is what the library has.** `max_min` walks for a batch, `divprune` returns the `Reduction`.

# %%
assert max_min(distance[None], k)[0].tolist() == chosen
reduction = divprune(x[None], k)
assert reduction.order[0].tolist() == sorted(chosen)
assert torch.equal(reduction.apply(x[None])[0], x[sorted(chosen)])
print("the walk, its order and the tokens agree")

# %%
trio = torch.stack([faded(by_attention), faded(by_lot), faded(divprune(tokens, k))])
viz.show(viz.images(trio, ["by attention", "by lot", "DivPrune"], height=1.92), photo=True)

# %% [markdown]
# Seen as points: the two directions in which the 256 tokens of this photograph vary most, and the two choices.

# %%
centred = x - x.mean(0)
_, spreads, directions = torch.linalg.svd(centred, full_matrices=False)
points, told = centred @ directions[:2].T, float(spreads[:2].square().sum() / spreads.square().sum())
figure, axes = viz.panel("DivPrune reaches where attention does not", "first direction", "second direction", height=4)
axes.scatter(*points.T, s=14, c=viz.MUTED, alpha=0.5, linewidths=0, label="all 256 tokens")
axes.scatter(*points[by_attention.order[5]].T, s=50, c=viz.BASELINE, marker="s", label="25 by attention")
axes.scatter(*points[chosen].T, s=50, facecolors="none", edgecolors=viz.OURS, linewidths=2, label="25 by DivPrune")
figure.legend(loc="outside lower right", ncols=3)
print(f"2 of 192 directions, with {told:.0%} of the variance: rings that touch here may be far apart in the others")
viz.show(figure)

# %% [markdown]
# ## How far from the best can the walk end?
#
# By half at most, if the distance is a *metric*: no detour is shorter than the direct way. Let the best set have
# smallest distance D. While fewer than k are chosen, draw a ball of radius D/2, without its rim, around each.
# Two tokens in one ball are nearer than D, so these balls cannot hold all k of the best set: the walk can still step by
# D/2.
#
# The cosine distance is no metric. The chord between unit vectors, $\sqrt{2d}$ long, is, and orders pairs alike: the
# walk is the same (half of a chord is a quarter of d). Try all 495 sets of 4 among 12 tokens:

# %%
few = distances(tokens[:, torch.randperm(256, generator=torch.Generator().manual_seed(0))[:12]])
pairs = list(itertools.combinations(range(4), 2))
sets = torch.tensor(list(itertools.combinations(range(12), 4)))


def smallest(choice):  # (b or 1, sets, 4) token numbers -> the smallest distance in each set
    rows = torch.arange(len(few))[:, None]
    return torch.stack([few[rows, choice[..., i], choice[..., j]] for i, j in pairs]).amin(0)


best, greedy = smallest(sets[None]).amax(1), smallest(max_min(few, 4)[:, None])[:, 0]
share = (greedy / best).sqrt()  # of chords
print(f"of the best chord: {share.min():.2f} at worst, {share.mean():.2f} on average")
assert share.min() >= 0.5
assert torch.equal(max_min(few, 4), max_min((2 * few.clamp(min=0)).sqrt(), 4))

# %%
figure, axes = viz.panel(
    "4 of 12 tokens: far better than guaranteed", "share of the best smallest chord", "photographs"
)
axes.hist(share, bins=torch.linspace(0.45, 1.0001, 23).tolist(), color=viz.OURS)
axes.axvline(0.5, color=viz.PAPER, linestyle="--", label="guaranteed")
axes.legend()
viz.show(figure)

# %% [markdown]
# ## The experiment: few tokens
#
# Three choices, of the same number of tokens, in the same layer, with the same rest of the network, which is not
# trained again: DivPrune, the attention of CLS, and lots (the mean of three draws).

# %%
counts, found = (128, 64, 25, 8), {"DivPrune": [], "attention": [], "lots": []}
for count in counts:
    found["DivPrune"].append(right(divprune(tokens, count)))
    found["attention"].append(right(Reduction.keep(highest(looked, count), 256)))
    draws = [right(random_drop(tokens, count, seed=seed)) for seed in range(3)]
    found["lots"].append(sum(draws) / 3)
for name, percents in found.items():
    print(f"{name:9}", ", ".join(f"{c} tokens {p:.0f} %" for c, p in zip(counts, percents, strict=True)))

# %%
names = {"DivPrune": "ours: DivPrune", "lots": "baseline: lots", "attention": "CLS attention"}
series = {names[name]: (counts, percents) for name, percents in found.items()}
title, axis, levels = "Few tokens: it pays to differ", "right answers (%)", {"muted: all tokens": full}
assert all(worst < min(a, b) - 2 for a, b, worst in zip(*(found[n] for n in names), strict=True)) or not there
viz.show(viz.lines(series, title, "tokens kept (of 256)", axis, log="x", levels=levels))

# %% [markdown]
# With half or a quarter of the tokens lots are as good as DivPrune. With fewer DivPrune leads, and the more so the
# fewer they are. Attention comes last everywhere.
#
# It is not free. The distances cost one product of n x n cosines; the walk itself makes k steps of n comparisons,
# which are no multiplications but must be made one after the other. Counted in FLOPs, with the distances:

# %%
own = flops(distances, tokens[:1])
whole = cost(vit.body, {}, 256)
price = {name: [cost(vit.body, {2: c}, 256) / 1e9 for c in counts] for name in found}
price["DivPrune"] = [flop + own / 1e9 for flop in price["DivPrune"]]
print(f"the distances cost {own / whole:.1%} of the whole network", end="; ")
print(f"25 tokens, with the distances, {price['DivPrune'][2] * 1e9 / whole:.0%}")
series = {names[name]: (price[name], percents) for name, percents in found.items()}
x_axis = f"billion FLOPs a photograph (all tokens: {whole / 1e9:.2f})"
viz.show(viz.lines(series, "The same, against the cost", x_axis, axis, levels=levels))

# %% [markdown]
# ## Play: the walk, step by step
#
# The first k of the walk's tokens. The title says what the network answers from them.

# %%
walk = max_min(distances(tokens), 256)


def draw(k=25, photo=5):
    reduction = Reduction.keep(walk[:, :k].sort(-1).values, 256)
    one = resume(vit, images[photo : photo + 1], 2)
    said = int(one(once(2, k, divprune)).argmax())
    title = f"{k} tokens: {clothing.CLASSES[said]}"
    return viz.show(viz.images(faded(reduction, photo)[None], [title], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, k=[1, 2, 4, 8, 16, 25, 50, 100, 256], photo=(0, 61))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours, lots, attention = found["DivPrune"], found["lots"], found["attention"]
at, points, paper = counts.index(k), {"unit": "%", "margin": 2}, "56.9 % against 38.7 % (GQA)"
claim = papers.verdict(
    "divprune",
    "Of few tokens kept, those that differ most say more than those looked at most, and more than random ones.",
    [
        papers.better("right with 25 tokens", ours[at], than=attention[at], paper=paper, **points),
        papers.better("right with 25 tokens, against lots", ours[at], than=lots[at], **points),
        papers.better("right with 8 tokens, against lots", ours[-1], than=lots[-1], **points),
        papers.exact("the walk's smallest chord is at least half of the best", bool((share >= 0.5).all())),
    ],
    against="the 25 tokens of highest CLS attention; 25 random ones (three draws); same layer, no training",
    data="every sixth clothing photograph of the test set (62)",
)
assert claim.outcome == "holds" or not there

# %% [markdown]
# The paper's figures: exact answers on GQA, a set of questions about photographs, at a sixth of the operations, against
# FastV, which keeps tokens by attention. There LLaVA 1.5, of 7 billion parameters, reads another network's tokens; here
# our last five layers read those of the first three.
#
# (The last line cannot fail, by the proof above: it tests the code.)
#
# ## Where it breaks: rubbish differs too
#
# What is unlike all others need not matter. Paste a collage of 5 x 5 scraps of other photographs, each a patch, into a
# corner. It covers a tenth; how many tokens does it get, and what becomes of the answers?

# %%
scraps = photographs.crops(25 * 62, 4, seed=1).view(62, 5, 5, 3, 4, 4)
spoiled = images.clone()
spoiled[:, :, :20, :20] = scraps.permute(0, 3, 1, 4, 2, 5).reshape(62, 3, 20, 20)
corner = F.pad(torch.ones(5, 5), (0, 11, 0, 11)).flatten().bool()
viz.show(viz.images(spoiled[2:11:2], height=0.96, title="A tenth of each picture is rubbish"), photo=True)

# %%
kept, lottery = {}, [partial(random_drop, seed=seed) for seed in range(3)]


def compare(run, labels, k):
    """Right answers by DivPrune, and the mean of three draws of lots."""
    percents = [100 * accuracy(run(once(2, k, method)), labels) for method in (divprune, *lottery)]
    return percents[0], sum(percents[1:]) / 3


def count_corner(layer):
    for name, method in {"DivPrune": divprune, "lots": random_drop}.items():
        kept[name] = 100 * float(corner[method(layer.hidden[:, 1:], k).order].float().mean())


# %%
run, lead = resume(vit, spoiled, 2), {}
print(f"all 256 tokens: {full:.0f} % right, with the collage {100 * accuracy(run(lambda layer: None), labels):.0f} %")
for count in (k, 8):
    clean, dirty = [found[name][counts.index(count)] for name in ("DivPrune", "lots")], compare(run, labels, count)
    lead[count] = clean[0] - clean[1], dirty[0] - dirty[1]
    print(f"{count} tokens: DivPrune {clean[0]:.0f} %, with the collage {dirty[0]:.0f} %; ", end="")
    print(f"lots {clean[1]:.0f} %, with the collage {dirty[1]:.0f} %")
assert (lead[k][1] > 0 and lead[8][1] < lead[8][0] - 8) or not there
run(lambda layer: count_corner(layer) if layer.index == 2 else None)
assert kept["DivPrune"] > 1.3 * kept["lots"]
viz.show(viz.bars(kept, "The collage gets more tokens than its due", "tokens in the corner (% of 25)"))

# %% [markdown]
# With 25 tokens DivPrune stays ahead of lots, though the rubbish costs both; with 8 its lead is gone.
#
# And on crops of other photographs, without garments, where "right" is what the network says with all tokens:

# %%
crops = photographs.crops(62, 64)
run = resume(vit, crops, 2)
said = run(lambda layer: None).argmax(-1)
for count in (k, 8):
    ours_left, lots_left = compare(run, said, count)
    print(f"{count} tokens: DivPrune {ours_left:.0f} % as with all tokens, lots {lots_left:.0f} %")
assert ours_left < lots_left

# %% [markdown]
# There too the lead over lots is gone. Why, we did not test.
#
# And the choice knows no question: whoever asks for the colour of a button gets the same tokens as whoever asks for the
# length of a sleeve. Methods that mix importance and difference come later in the chapter.
#
# ## Exercises
#
# **1. Importance first, then difference.** Let the walk start at the token that CLS looks at most, instead of the
# loneliest. Write a function of distances (b, n, n), attention (b, n) and k that gives the tokens in the walk's order.


# %%
def walk_from(distance, looked, k):
    return max_min(distance, k)  # replace this: it starts at the loneliest token


# %%
def check_1(walk_from):
    place = torch.tensor([0.0, 1.0, 5.0, 9.0])
    picks = walk_from((place[:, None] - place).abs()[None], torch.tensor([[0.1, 0.7, 0.1, 0.1]]), 4)[0].tolist()
    if picks != [1, 3, 2, 0]:
        return f"the walk should start at token 1 and go to 9, 5 and 0: tokens [1, 3, 2, 0], not {picks}"
    percent = right(Reduction.keep(walk_from(distances(tokens), looked, k).sort(-1).values, 256))
    return f"right: {percent:.0f} % of the answers, {found['DivPrune'][at]:.0f} % from the loneliest"


check_1(walk_from)

# %% [markdown]
# **2. The sum instead of the minimum.** Another measure of difference is the *sum* of the distances to all chosen
# tokens. Take the same first token, then always the one of the largest sum. The check shows on a line what becomes of
# the middle.


# %%
def max_sum(distance, k):
    return max_min(distance, k)  # replace this: the smallest distance decides


def check_2(max_sum):
    place = torch.tensor([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
    picks = max_sum((place[:, None] - place).abs()[None], 4)[0].tolist()
    if picks != [2, 5, 0, 4]:
        return f"from 4 the sums lead to 11, then 0, then 10: tokens [2, 5, 0, 4], not {picks}"
    percent = right(Reduction.keep(max_sum(distances(tokens), k).sort(-1).values, 256))
    return f"right, neighbours at one end: {percent:.0f} % of the answers, {found['DivPrune'][at]:.0f} % before"


check_2(max_sum)

# %% [markdown]
# **3. A short cut.** Show that the cosine distance is no metric: give three vectors a, b, c (3, 2) such that the detour
# from a to c by b is shorter than the direct way.

# %%
triangle = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # replace this: here the detour is as long


def check_3(triangle):
    d = distances(triangle[None])[0]
    direct, detour = float(d[0, 2]), float(d[0, 1] + d[1, 2])
    if detour > direct - 0.1:
        return f"the detour, {detour:.2f}, is not shorter than the direct way, {direct:.2f}, by 0.1 or more"
    direct_chord, *steps = (2 * d[[0, 0, 1], [2, 1, 2]]).sqrt().tolist()
    return f"right: {detour:.2f} against {direct:.2f}; by chords {sum(steps):.2f} against {direct_chord:.2f}"


check_3(triangle)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/11_divprune.py`.
#
# ## What was left out
#
# The paper measures 16 data sets of images and videos, memory and latency; our model answers one question about small
# photographs. Its tokens can also be pruned inside the language model. Read on: **ToDRE** walks by sums and adds the
# text, **CenterCLIP** starts its clusters with the same walk, **FoPru** goes by attention alone.
