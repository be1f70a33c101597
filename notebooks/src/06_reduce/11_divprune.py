# %% [markdown]
# # DivPrune: keep the tokens that differ most
#
# **Paper:** Alvar, Singh, Akbari and Zhang, *DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
# Models*, 2025 ([arXiv 2503.02175](https://arxiv.org/abs/2503.02175)).
# **Code:** `minitok/reduce/divprune.py`; on a GPU `minitok/reduce/divprune_triton.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# Most ways to prune give each token a score of importance and keep the highest. This one has no score. After this
# lesson you can walk to a set of tokens that are far from one another, say how good it must be, and when it wins.

# %%
import itertools

import torch

from minitok import papers, stages, viz
from minitok.data import photographs
from minitok.metrics import difference
from minitok.reduce import Reduction, divprune, once
from minitok.reduce.divprune import distances, max_min

# %% [markdown]
# ## The problem: important tokens are alike
#
# The chapter's trained vision transformer, 256 patch tokens. We prune in layer 2 of its 8 (counted from 0). The paper's
# code keeps 9.8 % of the tokens; of 256 that is 25. "Attended" keeps those that CLS, from which the class is read,
# looks at most.

# %%
stage = stages.reduce.stage(images=62)
lots, k = stages.reduce.LOTS[:2], 25
found = {
    ("attended", k): stage.measure(stages.reduce.attended, k, layer=2),
    ("by lot", k): stage.measure(lots, k, layer=2),
}
print(stages.reduce.table({f"{name}, {k}": row for (name, k), row in found.items()}))

# %% [markdown]
# Attention loses to a lottery. One reason may be that where one patch scores high, so does its twin beside it, and both
# are kept. Measure it, in one photograph, with
# the **cosine distance**, $d(x, y) = 1 - \cos(x, y)$: 0 for the same direction, 1 for a right angle, 2 for opposite
# ones.

# %%
seen, photo = stage.seen(photo=5, layer=2), stage.images[5]
x = seen["x"]  # (1, 256, 192), without CLS
attended = stages.reduce.attended(x, k, cls_attention=seen["cls_attention"])
choices = {"attended": attended, "by lot": lots[0](x, k), "DivPrune": divprune(x, k)}
closest = {name: distances(made.apply(x))[0].fill_diagonal_(9).amin(-1).mean() for name, made in choices.items()}
print("mean distance to the nearest other kept token:", {name: round(float(d), 2) for name, d in closest.items()})
shown = torch.stack([viz.painted(photo, made) for made in choices.values()])
viz.show(viz.images(shown, list(choices), height=1.92, title="25 of 256 tokens, three ways"), photo=True)

# %% [markdown]
# ## By hand: three of five tokens
#
# DivPrune asks for the set of k tokens whose *smallest* distance to one another is as large as possible. To find it one
# would have to try all sets; it walks greedily instead. Five directions at 0, 10, 60, 90 and 180 degrees:
#
# | distance | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | 0 (0 degrees) | - | 0.02 | 0.50 | 1.00 | 2.00 |
# | 1 (10) | 0.02 | - | 0.36 | 0.83 | 1.98 |
# | 2 (60) | 0.50 | 0.36 | - | 0.13 | 1.50 |
# | 3 (90) | 1.00 | 0.83 | 0.13 | - | 1.00 |
# | 4 (180) | 2.00 | 1.98 | 1.50 | 1.00 | - |
#
# **First** comes the token whose nearest *other* one (not itself, at 0) is furthest: 0.02, 0.02, 0.13, 0.13, 1.00, so
# token 4. Then always the token of largest **reach**, its distance to the nearest chosen one. Reaches now: 2.00, 1.98,
# 1.50, 1.00, so token 0. Then 1: min(1.98, 0.02), 2: min(1.50, 0.50), 3: min(1.00, 1.00), so token 3. Of equals the
# lowest would win. The walk is 4, 0, 3; kept in the order of the picture: 0, 3, 4.

# %%
angles = torch.tensor([0.0, 10.0, 60.0, 90.0, 180.0]).deg2rad()
five = torch.stack([angles.cos(), angles.sin()], -1)[None]
print(distances(five)[0], "walk:", max_min(distances(five), 3)[0].tolist())
assert max_min(distances(five), 3).tolist() == [[4, 0, 3]]
assert divprune(five, 3).order.tolist() == [[0, 3, 4]]

# %% [markdown]
# **How many?** From a ratio r the authors take k = round(r n), Python's `round`: halves go to the even number, so half
# of five tokens are 2, and half of seven are 4.

# %%
print([round(0.5 * n) for n in (5, 7)], round(0.098 * 256))
assert [round(0.5 * n) for n in (5, 7)] == [2, 4]

# %% [markdown]
# ## The mechanism on real tokens
#
# All distances come from one product; the walk keeps one number a token. A chosen token gets minus infinity, or copies
# of it, all at reach 0, could bring it back.

# %%
unit = x[0] / x[0].norm(dim=-1, keepdim=True)
distance = 1 - unit @ unit.T
nearest = distance.clone().fill_diagonal_(torch.inf).amin(0)
walk, reach, gaps = [int(nearest.argmax())], torch.full((256,), torch.inf), []
while len(walk) < k:
    reach = torch.minimum(reach, distance[walk[-1]])
    reach[walk[-1]] = -torch.inf
    walk.append(int(reach.argmax()))
    gaps.append(float(reach.max()))
print("the walk:", walk)

# %%
assert difference(distances(x)[0], distance) < 1e-5
assert max_min(distances(x), k)[0].tolist() == walk
assert divprune(x, k).order[0].tolist() == sorted(walk)  # a language model behind reads the tokens in this order
assert gaps == sorted(gaps, reverse=True)
series = {"ours: the token taken": (range(2, k + 1), gaps)}
title = "No step can go further than the one before"
viz.show(viz.lines(series, title, "step of the walk", "distance to the nearest chosen one"))

# %% [markdown]
# **How far from the best can the walk end? By half at most** (of the chord below, so a quarter in cosine distance), if
# the distance is a *metric*: no detour is shorter than the direct way. Let the best set have smallest distance D. While
# fewer than k are chosen, draw a ball of radius D/2, without its rim, around each. Two tokens in one ball are nearer
# than D, so these balls cannot hold all k of the best set: the walk can still step by D/2. The cosine distance is no
# metric, but the chord $\sqrt{2 d}$ is, and orders pairs alike. All 495 sets of 4 among 12 tokens:

# %%
tokens = stage.seen(slice(16), layer=2)["x"][:, torch.randperm(256, generator=torch.Generator().manual_seed(0))[:12]]
few, sets = distances(tokens).clamp(min=0), torch.tensor(list(itertools.combinations(range(12), 4)))


def smallest(chosen):  # (b or 1, sets, 4) -> the smallest distance in each set
    row = torch.arange(len(few))[:, None]
    pairs = itertools.combinations(chosen.unbind(-1), 2)
    return torch.stack([few[row, i, j] for i, j in pairs]).amin(0)


share = (smallest(max_min(few, 4)[:, None])[:, 0] / smallest(sets[None]).amax(1)).sqrt()
print(f"16 photographs: of the best set's smallest chord {share.min():.2f} at worst, {share.mean():.2f} on average")
assert share.min() >= 0.5
assert torch.equal(max_min(few, 4), max_min((2 * few).sqrt(), 4))

# %% [markdown]
# ## The recipe
#
# 1. Tokens x (n, c): in a vision-language model the projected visual tokens, before its first layer; here those of
#    layer 2, without CLS. No attention, no text, no training.
# 2. k = round(r n), at least 1.
# 3. $d_{ij} = 1 - \cos(x_i, x_j)$.
# 4. First token: the largest $\min_{j \neq i} d_{ij}$. 5. Reach $m_i = \min_{j \in S} d_{ij}$; add the token of largest
#    reach, never one of S; until |S| = k. Of equals the lowest.
# 6. Sort S, so that order and positions stay the picture's.
# 7. Cost: n x n cosines, and k steps of n comparisons, one after the other.
#
# | | the authors' code | here |
# |---|---|---|
# | where | before layer 0 of the language model | any layer, after attention |
# | copies | may be picked twice | never |
#
# ## The experiment: few tokens

# %%
ways, counts = {"DivPrune": divprune, "by lot": lots, "attended": stages.reduce.attended}, (64, 25, 8)
for name, count in itertools.product(ways, counts):
    found[name, count] = found.get((name, count)) or stage.measure(ways[name], count, layer=2)
print(stages.reduce.table({f"{name}, {count}": found[name, count] for name in ways for count in counts}))

# %%
roles = {"DivPrune": "ours: DivPrune", "by lot": "baseline: by lot", "attended": "attended"}
series = {roles[name]: (counts, [found[name, count].moved for count in counts]) for name in ways}
title = "The fewer tokens, the more it pays to differ"
viz.show(viz.lines(series, title, "tokens kept in layer 2 (of 256)", "answer moved by (bits)", log="x"))

# %% [markdown]
# With a quarter of the tokens lots are about as good. With fewer DivPrune leads, with 25 on average, with 8
# beyond the error; attention comes last everywhere.
# The distances cost a hundredth of the network.
#
# ## Play: the walk, step by step


# %%
def draw(k=25, photo=5):
    made = divprune(stage.seen(photo, layer=2)["x"], k)
    return viz.show(viz.images(viz.painted(stage.images[photo], made)[None], [f"{k} tokens"], height=2.56), photo=True)


draw(k=8)

# %%
control = viz.slider(draw, k=[1, 2, 4, 8, 16, 25, 50, 100, 256], photo=(0, 61))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
measures, paper = [], "56.9 % against FastV's 38.7 % (GQA, LLaVA 1.5 7B, a sixth of the operations)"
for name, count in (("attended", 25), ("by lot", 25), ("by lot", 8), ("by lot", 64)):
    ours, other = found["DivPrune", count], found[name, count]
    settings = {"margin": stages.reduce.gap(ours, other)[1], "unit": "bits", "higher": False}
    label = f"moved, {count} tokens, {name}"
    own = paper if name == "attended" else None
    measures.append(papers.better(label, ours.moved, than=other.moved, paper=own, **settings))

# %%
papers.verdict(
    "divprune",
    "Of few tokens kept, those that differ most say more than those looked at most, and more than random ones.",
    measures,
    against="as many tokens of highest CLS attention; as many random ones (two draws); same layer, no training",
    data=stage.data,
)

# %% [markdown]
# (In the paper a language model reads another network's tokens; here our last layers read those of the first three.)
#
# ## Where it breaks: rubbish differs too
#
# What is unlike all others need not matter. Paste a collage of 5 x 5 scraps of other photographs, each a patch, into a
# corner: a tenth of the picture. How many of 25 tokens does it get, and how far do answers move from those of the clean
# pictures?

# %%
scraps = photographs.crops(25 * 62, 4, seed=1).view(62, 5, 5, 3, 4, 4)
spoiled = stage.images.clone()
spoiled[:, :, :20, :20] = scraps.permute(0, 3, 1, 4, 2, 5).reshape(62, 3, 20, 20)
corner = torch.nn.functional.pad(torch.ones(5, 5), (0, 11, 0, 11)).flatten().bool()
kept, answers = {}, {"all tokens": stage.score(stage.vit(spoiled)).moved}
for name, method in {"DivPrune": divprune, "by lot": lots[0]}.items():

    def counted(x, k, name=name, method=method):
        made = method(x, k)
        kept[name] = 100 * float(corner[made.order].float().mean())
        return made

    answers[name] = stage.score(stage.vit(spoiled, once(2, k, counted))).moved

# %%
print("answers moved by (bits):", {name: round(value, 2) for name, value in answers.items()})
assert kept["DivPrune"] > 1.3 * kept["by lot"]
viz.show(viz.bars(kept, "The collage gets more tokens than its due", "tokens in the corner (% of 25)"))

# %% [markdown]
# DivPrune spends more than lots on the rubbish, and keeps some of its lead all the same: 25 tokens are enough for both.
# What breaks is its economy. And the choice knows no question: whoever asks for the colour of a button gets the same
# tokens as whoever asks for the length of a sleeve. Methods that mix importance and difference come later in the
# chapter.
#
# ## Exercises
#
# **1. Your own DivPrune**, for a batch, from the recipe. The library's tests judge it.


# %%
def my_divprune(x, k):
    return lots[0](x, k)  # replace this: it looks at nothing


def check_1(method):
    return papers.check("divprune", method)


check_1(my_divprune)

# %% [markdown]
# **2. Importance first, then difference.** Let the walk start at the token that CLS looks at most, instead of the
# loneliest. Write a function of distances (b, n, n), attention (b, n) and k that gives the tokens in the walk's order.


# %%
def walk_from(distance, looked, k):
    return max_min(distance, k)  # replace this: it starts at the loneliest token


# %%
def check_2(walk_from):
    place = torch.tensor([0.0, 1.0, 5.0, 9.0])
    picks = walk_from((place[:, None] - place).abs()[None], torch.tensor([[0.1, 0.7, 0.1, 0.1]]), 4)[0].tolist()
    if picks != [1, 3, 2, 0]:
        return f"the walk should start at token 1 and go to 9, 5 and 0: tokens [1, 3, 2, 0], not {picks}"

    def method(x, k, *, cls_attention):
        return Reduction.keep(walk_from(distances(x), cls_attention.mean(1), k).sort(-1).values, x.shape[1])

    return f"right: moved by {stage.measure(method, k, 2).moved:.2f} bits, DivPrune {found['DivPrune', k].moved:.2f}"


check_2(walk_from)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/11_divprune.py`.
#
# ## What was left out
#
# The paper measures 16 sets of questions about pictures and films, with models of up to 13 billion parameters. On a GPU
# the walk is one launch of a kernel (`divprune_triton.divprune`). Read on: [FoPru](13_fopru.ipynb) goes by attention.
