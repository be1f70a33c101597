# %% [markdown]
# # Token merging: fewer tokens, and none thrown away
#
# **Paper:** Bolya, Fu, Dai, Zhang, Feichtenhofer and Hoffman, *Token Merging: Your ViT But Faster*, 2022
# ([arXiv 2210.09461](https://arxiv.org/abs/2210.09461)), ToMe.
# **Code:** `minitok/reduce/tome.py`; on a GPU `minitok/reduce/tome_triton.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# After this lesson you can merge tokens inside any trained transformer, by hand and in code, and say what that costs.

# %%
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, even, tome

# %% [markdown]
# ## The problem: a dropped token takes what only it knew
#
# The chapter's stage is a trained vision transformer: 256 patch tokens, a CLS token from which the class of clothing is
# read, 8 layers. Lesson 1 dropped tokens by lot, between the attention and the feed-forward part of layer 3 (they are
# numbered from 0). "Moved" is how far the network's ten probabilities went from those with all tokens, in bits
# (Kullback-Leibler divergence, 0: the same answer).

# %%
stage = stages.reduce.stage(images=62)
lots = {k: stage.measure(stages.reduce.LOTS[:3], k) for k in (64, 32, 16, 8)}
print(stage.data, "\n")
print(stages.reduce.table({"all tokens": stage.full} | {f"by lot, {k}": row for k, row in lots.items()}))

# %% [markdown]
# ToMe throws nothing away: tokens that are alike are replaced by their mean. Here each group of merged patches has its
# mean colours and a white rim (a group may lie in several pieces). With 16 groups much of the background lies in few
# large ones.

# %%
seen = stage.seen(photo=5)  # what layer 3 knows of one photograph
x, keys, photo = seen["x"], seen["keys"], stage.images[5]  # (1, 256, 192), (1, 3, 256, 64); CLS is left out
groups = [viz.painted(photo, tome(x, k, keys=keys)) for k in (256, 64, 16)]
titles = ["the photograph", "64 groups", "16 groups"]
viz.show(viz.images(torch.stack(groups), titles, height=2.56), photo=True)

# %% [markdown]
# ## By hand: six tokens, two layers
#
# Six tokens with one value each and keys of width 2, all of length 1. We merge r = 2 of them, then one more.
#
# | token | 0 | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|---|
# | value | 3 | 10 | 6 | 9 | 20 | 30 |
# | key | (1, 0) | (0, 1) | (0.8, 0.6) | (1, 0) | (0.6, 0.8) | (0, 1) |
#
# **Set A** holds the even places 0, 2, 4, **set B** the odd ones 1, 3, 5. Each of A draws one edge, to the token of B
# whose key has the largest cosine. 0 goes to 3 (cosine 1), 2 to 3 (0.8). Token 4 is as near to 1 as to 5 (0.8): the
# lower index wins, so 4 goes to 1.

# %%
values = torch.tensor([[[3.0], [10.0], [6.0], [9.0], [20.0], [30.0]]])
k6 = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
print(k6[0, 0::2] @ k6[0, 1::2].T)  # rows: 0, 2, 4; columns: 1, 3, 5

# %% [markdown]
# The **r = 2 strongest edges** are merged: 0 to 3 (1.0), and one of the two with 0.8, of which 2 comes before 4. Both
# end in 3, so {0, 2, 3} becomes one token of value (3 + 6 + 9) / 3 = 6 and size 3, which stands where 0 stood. Left: 6,
# 10, 20, 30.

# %%
first = tome(values, 4, keys=k6[:, None])
size = first.sizes(torch.ones(1, 6))
print("values", first.apply(values).flatten().tolist(), "sizes", size.flatten().tolist())
assert (first.apply(values).flatten().tolist(), size.flatten().tolist()) == ([6, 10, 20, 30], [3, 1, 1, 1])

# %% [markdown]
# In the next layer the four left are numbered anew: A = {6, 20}, B = {10, 30}. Their keys are now ((1 + 0.8 + 1) / 3,
# 0.6 / 3) = (0.93, 0.2), then (0, 1), (0.6, 0.8), (0, 1). The edge from 20 has cosine 0.8 to both, and goes to 10; that
# from 6 has 0.2 / 0.95 = 0.21. With r = 1 the two of 10 and 20 become 15, of size 2.
#
# In a third round 30 meets 15. The mean counts patches: (2 x 15 + 30) / 3 = 20, not 22.5.

# %%
y, keys4 = first.apply(values), first.apply(k6)  # a real layer computes new keys; here they are merged as well
second = tome(y, 3, keys=keys4[:, None], size=size)
y, keys3, size = second.apply(y), tome(y, 3, keys=keys4[:, None], size=size).apply(keys4), second.sizes(size)
third = tome(y, 2, keys=keys3[:, None], size=size)
print("values", y.flatten().tolist(), "then", third.apply(y).flatten().tolist(), "sizes", third.sizes(size).tolist())
assert y.flatten().tolist() == [6, 15, 30]
assert difference(third.apply(y).flatten(), torch.tensor([6.0, 20.0])) < 1e-5

# %% [markdown]
# **Attention counts patches too.** Say two twins and a third token have logits 1, 1 and 0.5. Merged, the twins would
# get the share of one. ToMe adds log s to the logits (*proportional attention*), which is the same as having s copies
# of the key:

# %%
logits, sizes = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([2.0, 1.0])
twins = logits.softmax(-1)
merged, plain = (logits[1:] + sizes.log()).softmax(-1), logits[1:].softmax(-1)
for name, share in {"two twins": twins, "merged, no sizes": plain, "merged, log sizes": merged}.items():
    print(f"{name:18}", [round(value, 2) for value in share.tolist()])
assert difference(merged, torch.stack([twins[:2].sum(), twins[2]])) < 1e-6

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. What is alike?** In attention queries are compared with keys: a token's **key** says which queries it answers. A
# token's whole vector holds more than that, and is three times as wide here. We take the keys of layer 3, their mean
# over heads.
#
# **2. Two sets, one edge each.** The best pairs among all 256 would have to be found one after another, since each
# merge changes what is left. With two sets one matrix product finds all edges at once.


# %%
def edges(metric):
    metric = F.normalize(metric, dim=-1)
    cosine, partner = (metric[0::2] @ metric[1::2].T).max(-1)  # for each of A; max takes the first of equals
    return cosine, 2 * partner + 1


cosine, partner = edges(keys[0].mean(0))
print("the first five of A go to", partner[:5].tolist(), "by", [round(value, 2) for value in cosine[:5].tolist()])

# %% [markdown]
# **3. The r strongest edges are merged.** A threshold on likeness would leave another number of tokens in each picture;
# a fixed r keeps batches rectangular. One step can take away at most half of the tokens: to go further, match again.


# %%
def step(metric, r):
    cosine, partner = edges(metric)
    groups = [[i] for i in range(len(metric))]
    for a in cosine.argsort(descending=True, stable=True)[:r].tolist():
        groups[int(partner[a])] += groups[2 * a]
        groups[2 * a] = []
    return sorted(sorted(group) for group in groups if group)  # in the order of their first tokens


# %% [markdown]
# **4. A mean that counts patches**, for the tokens and, where a call matches again, for the keys.


# %%
def merge(x, metric, size, k):
    while len(x) > k:
        groups = step(metric, r=min(len(x) - k, len(x) // 2))
        weights = [size[group, None] / size[group].sum() for group in groups]
        x, metric = (
            torch.stack([(w * held[group]).sum(0) for w, group in zip(weights, groups, strict=True)])
            for held in (x, metric)
        )
        size = torch.stack([size[group].sum() for group in groups])
    return x, size


# %% [markdown]
# What you built is what the library has. `tome` returns a `Reduction`: the matrix whose rows are these means.

# %%
for k in (200, 60, 7):
    mine, size = merge(x[0], keys[0].mean(0), torch.ones(256), k)
    reduction = tome(x, k, keys=keys)
    assert difference(reduction.apply(x)[0], mine) < 1e-4
    assert torch.equal(reduction.sizes(torch.ones(1, 256))[0], size)
print("tokens and sizes agree; sizes of the last seven:", size.int().tolist())

# %% [markdown]
# ## The recipe
#
# In every layer (or the chosen ones), between the attention and the feed-forward part:
#
# 1. Take the tokens x (n, c), the keys of that attention and the sizes s (at first all 1). CLS is left out and stays.
# 2. Metric: the mean of the keys over heads, each divided by its length.
# 3. A = even places, B = odd places. For each a in A: the b in B of the largest cosine; of equal ones the lower.
# 4. Sort the edges by cosine, equal ones by index; the first r are merged, r at most floor(n / 2); for
#    fewer tokens than that, repeat with merged keys and sizes.
# 5. Each b and all a that came to it: $x = \sum_i s_i x_i / \sum_i s_i$, and $s = \sum_i s_i$.
# 6. Order: a group stands where its first token stood. Other tokens of A stay as they are.
# 7. From then on every attention is $\mathrm{softmax}(q k^T / \sqrt{d} + \log s)$.
# 8. r is a setting: constant, or falling from layer to layer. Here k is given, and r = n - k.
# 9. Cost: one product of n/2 by n/2 keys. Nothing is trained. Undo it by copying each group's value to its patches.
#
# | | paper and its code | here |
# |---|---|---|
# | order | what is left of A, then B | by first token |
# | sets | A begins with CLS, so with patches 1, 3, ... | A begins with patch 0 |
# | more than half at once | not done: r per layer | matched again, by merged keys |
#
# ## The experiment: one cut, and a little in every layer
#
# The same cut as by lot, with the same numbers of tokens, and beside it the blind mean of squares of patches
# (**pooling**), the strongest method that looks at nothing.

# %%
merged = {k: stage.measure(tome, k) for k in lots}
squares = {k: stage.measure(stages.reduce.pooling, k) for k in (64, 16)}
series = {"ours: merged (ToMe)": merged, "baseline: by lot": lots, "muted: squares": squares}
curves = {name: (list(rows), [row.moved for row in rows.values()]) for name, rows in series.items()}
title, axis = "Merged, the answers move less than by lot", "tokens kept after layer 3 (of 256)"
viz.show(viz.lines(curves, title, axis, "answer moved by (bits)", log="x"))

# %% [markdown]
# The paper takes r tokens away in every layer, so that each layer's keys decide anew: `layer=None`.

# %%
spread, spread_lots = stage.measure(tome, 16, layer=None), stage.measure(stages.reduce.LOTS[:2], 16, layer=None)
print("tokens left after each layer:", list(even(256, 16, 8).values()), "\n")
named = {"merged": merged, "by lot": lots, "squares": squares}
rows = {f"{name}, {k}": found[k] for name, found in named.items() for k in (64, 16)}
print(stages.reduce.table(rows | {"merged, spread to 16": spread, "by lot, spread to 16": spread_lots}))

# %% [markdown]
# One photograph is 1.6 points, so "right" can rank little here; the bits can rank more. Spread, half of the FLOPs are
# left, and the answers are nearly those with all tokens. The matching itself costs 0.1 % for one cut, 0.3 % spread.
#
# **Do the sizes matter?** The obvious simpler version merges but leaves attention as it is:


# %%
def without_sizes(layer, k=16):
    if layer.index == 3:
        made = tome(layer.hidden[:, 1:], k, keys=layer.keys[:, :, 1:]).beside(1)  # CLS stays before them
        return SimpleNamespace(apply=made.apply, sizes=lambda size: torch.ones(len(size), 1 + k))
    return None


unsized = stage.score(stage.before(3)(without_sizes))
further, error = stages.reduce.gap(merged[16], unsized)
print(f"16 tokens: {merged[16].moved:.2f} bits with log s, {unsized.moved:.2f} without;", end=" ")
print(f"difference {further:+.2f} +- {error:.2f} (two standard errors)")

# %% [markdown]
# With 16 tokens after one cut, leaving the sizes out is better in this network. The paper reports that they help its
# larger ones.
#
# ## Play: who is merged with whom?
#
# Choose the layer whose keys decide, and the number of tokens.


# %%
def draw(layer=5, k=12):
    seen = stage.seen(5, layer)
    made = viz.painted(photo, tome(seen["x"], k, keys=seen["keys"]))
    return viz.show(viz.images(made[None], [f"keys of layer {layer}, {k} tokens"], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, layer=(0, 7), k=[2, 4, 8, 12, 16, 32, 64, 128, 256])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Each line asks for a gap above twice its standard error over the same photographs, so that chance alone does not hold.
# The paper's own figure, 0.2 to 0.3 points lost at twice the speed, is finer than 62 photographs can show.

# %%
one_cut, one_cut_lots = (stages.reduce.mean(list(found.values())) for found in (merged, lots))
both, blind = stages.reduce.mean([merged[64], merged[16]]), stages.reduce.mean(list(squares.values()))
pairs = {
    "moved, one cut, by lot": (one_cut, one_cut_lots),
    "moved, spread, by lot": (spread, spread_lots),
    "moved, one cut, squares": (both, blind),
}
measures = [
    papers.better(name, a.moved, than=b.moved, margin=stages.reduce.gap(a, b)[1], unit="bits", higher=False)
    for name, (a, b) in pairs.items()
]

# %%
papers.verdict(
    "tome",
    "At equal tokens, merging alike tokens changes a trained network's answers less than dropping or blind pooling.",
    measures,
    against="3 draws by lot (spread: 2), squares of patches (64 and 16 tokens); the house's vit, not trained again",
    data=stage.data,
)

# %% [markdown]
# On 62 photographs ToMe and blind squares cannot be told apart; on all 372 of [the league](00_overview.ipynb) ToMe is
# ahead.
#
# ## Where it breaks: too early
#
# Right after the attention of layer 0, the same 64 tokens:

# %%
early = {"merged": stage.measure(tome, 64, layer=0), "squares": stage.measure(stages.reduce.pooling, 64, layer=0)}
early["by lot"] = stage.measure(stages.reduce.LOTS[:3], 64, layer=0)
moved = {f"layer 0, {name}": row.moved for name, row in early.items()}
moved |= {f"layer 3, {name}": rows[f"{name}, 64"].moved for name in ("squares", "by lot")}
moved["ours: layer 3, merged"] = merged[64].moved
viz.show(viz.bars(moved, "In layer 0 means lose to lots; in layer 3 they win", "answer moved by (bits), 64 tokens"))

# %% [markdown]
# In the first layer means of alike tokens harm as means of squares do; why later layers bear them, this figure does not
# say.
#
# ## Exercises
#
# **1. Your own ToMe.** Write it from the recipe, for a batch: `keys` (b, heads, n, d) and `size` (b, n) may be missing.
# `Reduction.merge(assignment, k, size)` makes the means, if `assignment` (b, n) says for each token which of the k
# outputs it goes to. The library's tests judge it.


# %%
def my_tome(x, k, *, keys=None, size=None):
    b, n, _ = x.shape
    return Reduction.merge((torch.arange(n) % k).expand(b, n), k, size)  # replace this: it merges whatever comes


# %%
def check_1(method):
    return papers.check("tome", method)


check_1(my_tome)

# %% [markdown]
# **2. Choose or average?** ToMe finds doubles, and it averages them. Which of the two does the work? Write a method
# that finds the same groups, but keeps only the first token of each (`reduction.order` has their places).


# %%
def first_of_each(x, k, *, keys, size):
    return tome(x, k, keys=keys, size=size)  # replace this: it takes the mean


# %%
def check_2(method):
    reduction = method(x, 8, keys=keys, size=torch.ones(1, 256))
    if reduction.shape != (1, 8, 256):
        return f"8 of 256 tokens should stay, not {reduction.shape[1]} of {reduction.shape[2]}"
    if not torch.equal(reduction.apply(x), x[:, reduction.order[0]]):
        return "each output should be one of the tokens as it was"
    row, pairs = stage.measure(method, 8), {"the means": merged[8], "lots": lots[8]}
    return f"right: moved by {row.moved:.2f} bits; " + ", ".join(f"{n} {r.moved:.2f}" for n, r in pairs.items())


check_2(first_of_each)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/02_tome.py`.
#
# ## What was left out
#
# The paper also trains with merging, which makes training faster and closes most of the gap, and applies it to video
# and sound. Its tables are about speed on large networks; ours counts operations. `tome_triton.tome` matches and merges
# in four launches on a GPU; `minitok bench --kernels` times it. Read on:
# [PiToMe](04_pitome.ipynb) protects what is special before it merges,
# [Token Transforming](05_token_transforming.ipynb) lets every token go to several outputs.
