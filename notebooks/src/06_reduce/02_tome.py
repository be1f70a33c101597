# %% [markdown]
# # Token merging: fewer tokens, and none thrown away
#
# **Paper:** Bolya, Fu, Dai, Zhang, Feichtenhofer and Hoffman, *Token Merging: Your ViT But Faster*, 2022
# ([arXiv 2210.09461](https://arxiv.org/abs/2210.09461)), ToMe.
# **Code:** `minitok/reduce/tome.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# Lesson 1 threw tokens away. Here the tokens that are most alike are merged into their mean, and nothing is trained.
# You will build the fast matching that finds them, and see when merging beats dropping, and when it does not.

# %%
import itertools
import math
from functools import partial

import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy, flops
from minitok.reduce import Reduction, cost, even, once, resume, spread
from minitok.reduce.random_drop import random_drop
from minitok.reduce.tome import tome

# %% [markdown]
# ## The problem: a dropped token takes what only it knew
#
# The host is the vision transformer of the house: 256 patch tokens, a CLS token from which the class is read, 8 layers.
# Two numbers say what a reduction costs: how many photographs are still named rightly, and by how many **bits** the
# network's answer, its probabilities of the ten classes, moved away from the one with all tokens (the Kullback-Leibler
# divergence; 0 means the same answer). The second is steadier on few photographs. (Without the clothing photographs we
# use crops of others, and "right" means: as the whole network says.)

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::6] if there else photographs.crops(62, 64)
everything = vit(images)
labels = clothing.load("test").labels[::6] if there else everything.argmax(-1)


def score(logits):
    p, q = everything.log_softmax(-1), logits.log_softmax(-1)
    return 100 * accuracy(logits, labels), float((p.exp() * (p - q)).sum(-1).mean()) / math.log(2)


full = score(everything)[0]
print(f"all tokens: {full:.1f} % right")

# %% [markdown]
# Random dropping after layer 3 (they are numbered from 0), the mean of three draws:

# %%
counts, logits = (64, 32, 16, 8), resume(vit, images, 3)
found = {}
for k in counts:
    draws = [score(logits(once(3, k, partial(random_drop, seed=seed)))) for seed in range(3)]
    found["dropped", k] = [sum(values) / 3 for values in zip(*draws, strict=True)]
    print("{:2} tokens: {:.1f} % right, {:.2f} bits away".format(k, *found["dropped", k]))

# %% [markdown]
# ## The idea: let each group of alike tokens speak with one voice
#
# Dropping does not ask whether a token has a double. ToMe looks for doubles and replaces them by their mean. Below,
# each group of merged patches has its mean colour and a white rim (parts of one colour that do not touch are one group
# too). With 16 groups much of the shirt and of the background lies in few large ones; at the shirt's edge groups mix
# both.


# %%
def painted(image, reduction):
    patches = F.avg_pool2d(image[None], 4).flatten(2).mT  # 1 256 3, the mean colour of each patch
    colours = reduction.restore(reduction.apply(patches)).mT
    maps = torch.cat([colours, reduction.assignment[:, None]], 1).unflatten(2, (16, 16))
    maps = maps.repeat_interleave(8, 2).repeat_interleave(8, 3)
    group, rim = maps[:, 3:], torch.zeros_like(maps[:, 3:], dtype=torch.bool)
    rim[..., 1:, :] |= group[..., 1:, :] != group[..., :-1, :]
    rim[..., 1:] |= group[..., 1:] != group[..., :-1]
    return maps[:, :3].masked_fill(rim, 1.0)


# %%
photo, layers = images[5], []
vit(photo[None], layers.append)  # on_layer sees each layer: tokens, keys, attention


def groups_of(layer, k):
    seen = layers[layer]
    return painted(photo, tome(seen.hidden[:, 1:], k, keys=seen.keys[:, :, 1:]))


large = photo[None].repeat_interleave(2, 2).repeat_interleave(2, 3)
shown = torch.cat([large, groups_of(3, 64), groups_of(3, 16)])
viz.show(viz.images(shown, ["the photograph", "64 groups", "16 groups"], height=2.56), photo=True)

# %% [markdown]
# ## The mechanism, step by step
#
# **1. What is alike?** Attention compares queries with **keys**, so a token's key already sums up what it has to say.
# We take the keys of layer 3, their mean over the 3 heads, and compare directions: the cosine of two keys.

# %%
x, keys = layers[3].hidden[:, 1:], layers[3].keys[:, :, 1:]  # (1, 256, 192), (1, 3, 256, 64); CLS is left out
metric = F.normalize(keys.mean(1), dim=-1)[0]
print("cosine of patch 100 and its right neighbour:", round(float(metric[100] @ metric[101]), 2))
print("cosine of patch 100 and patch 5, far away:", round(float(metric[100] @ metric[5]), 2))

# %% [markdown]
# **2. Two sets.** The best pairs among all of 256 tokens would be found one after another, since a pair changes what is
# left. ToMe avoids that: tokens of even place are set A, the others set B, and only pairs across count. In our grid
# these are, in the first round, alternating columns.
#
# **3. One edge each.** Each token of A draws an edge to its most similar token of B: one matrix product.

# %%
A, B = metric[0::2], metric[1::2]
similarity, partner = (A @ B.T).max(-1)  # for each of the 128 in A
print("A's first five go to tokens", (2 * partner[:5] + 1).tolist())
print("similarities:", [round(value, 2) for value in similarity[:5].tolist()])

# %% [markdown]
# **4. The r strongest edges are merged.** Several of A may go to the same token of B and form one group. Then r tokens
# fewer are left, always, whatever the picture shows: batches stay rectangular.


# %%
def pair(metric, r):
    metric = F.normalize(metric, dim=-1)
    similarity, partner = (metric[0::2] @ metric[1::2].T).max(-1)
    groups = [[i] for i in range(len(metric))]
    for a in similarity.argsort(descending=True, stable=True)[:r].tolist():
        groups[2 * int(partner[a]) + 1] += groups[2 * a]
        groups[2 * a] = []
    return sorted(sorted(group) for group in groups if group)  # in the order of their first tokens


groups = pair(keys[0].mean(0), r=100)
print(len(groups), "tokens; the five largest groups have", sorted(map(len, groups))[-5:])

# %% [markdown]
# **5. A mean that counts patches.** A token that already stands for three patches weighs three times in the next mean:
# its **size** s. One step can merge at most half of the tokens, so to go further we match again.


# %%
def merge(x, metric, size, k):
    while len(x) > k:
        groups = pair(metric, r=min(len(x) - k, len(x) // 2))
        weights = [size[group, None] / size[group].sum() for group in groups]
        x, metric = (
            torch.stack([(w * values[group]).sum(0) for w, group in zip(weights, groups, strict=True)])
            for values in (x, metric)
        )
        size = torch.stack([size[group].sum() for group in groups])
    return x, size


# %% [markdown]
# **What you built is what the library has.** `tome` returns the `Reduction`: the matrix whose rows are these means.

# %%
for k in (200, 60, 7):
    merged, size = merge(x[0], keys[0].mean(0), torch.ones(256), k)
    reduction = tome(x, k, keys=keys)
    torch.testing.assert_close(reduction.apply(x)[0], merged, atol=1e-4, rtol=0)
    assert torch.equal(reduction.sizes(torch.ones(1, 256))[0], size)
print("tokens and sizes agree; sizes of the last seven:", size.int().tolist())

# %% [markdown]
# **6. Attention must count patches too.** Say two of three tokens have the same key. Merged they would get the share of
# one. **Proportional attention** adds log s to the logits, `softmax(q k / sqrt(d) + log s)` with heads of width d,
# which is the same as having s copies of the key.

# %%
logit = torch.tensor([1.0, 1.0, 0.5])
print("two twins and a third: ", [round(share, 2) for share in logit.softmax(-1).tolist()])
print("merged, without sizes: ", [round(share, 2) for share in logit[1:].softmax(-1).tolist()])
sizes = torch.tensor([2.0, 1.0])
print("merged, with log sizes:", [round(share, 2) for share in (logit[1:] + sizes.log()).softmax(-1).tolist()])

# %% [markdown]
# Our transformer does this in every layer after `on_layer` has returned a reduction.
#
# ## The experiment, first part: one cut in the middle
#
# The same cut as above, after layer 3, with the same numbers of tokens.

# %%
for k in counts:
    found["merged", k] = score(logits(once(3, k, tome)))
    print("{:2} tokens: {:.1f} % right, {:.2f} bits away".format(k, *found["merged", k]))

# %%
names = {"ours: merged (ToMe)": "merged", "baseline: dropped at random": "dropped"}
series = {name: (counts, [found[how, k][0] for k in counts]) for name, how in names.items()}
title, axis = "Merged, the answers last longer", "tokens kept after layer 3 (of 256)"
viz.show(viz.lines(series, title, axis, "right answers (%)", levels={"all tokens": full}))

# %%
series = {name: (counts, [found[how, k][1] for k in counts]) for name, how in names.items()}
viz.show(viz.lines(series, "Merged, the answer moves less", axis, "answer moved by (bits)"))

# %%
ratio = {k: found["merged", k][1] / found["dropped", k][1] for k in counts}
print("merged, of the way by lot:", ", ".join(f"{value:.2f} ({k} tokens)" for k, value in ratio.items()))
assert max(ratio.values()) < 0.85 or not there

# %% [markdown]
# (One photograph of 62 is more than a point: that 8 tokens seem better than 16, and 64 better than all, is chance. The
# bits do not turn.)
#
# The price is the same: the layers cost as much with 16 merged tokens as with 16 kept ones, and the matching itself
# takes next to nothing.

# %%
layers_cost = cost(vit.body, {3: 16}, 256)
extra = flops(lambda: tome(x, 16, keys=keys))
print(f"layers {layers_cost / 1e6:.0f}, matching {extra / 1e6:.1f} million FLOPs a photograph")
assert extra < 0.01 * layers_cost

# %% [markdown]
# ## The experiment, second part: a little in each layer
#
# The paper merges r tokens in every layer, so that each layer's keys decide anew. `even` makes such a schedule and
# `spread` runs it: here from 256 down to 16.

# %%
schedule = even(256, 16, 8)
print("tokens left after each layer:", list(schedule.values()))
share = cost(vit.body, schedule, 256) / cost(vit.body, {}, 256)
print(f"{share:.0%} of the FLOPs")
found["merged", "spread"] = score(vit(images, spread(schedule, tome)))
draws = [score(vit(images, spread(schedule, partial(random_drop, seed=seed)))) for seed in range(2)]
found["dropped", "spread"] = [sum(values) / 2 for values in zip(*draws, strict=True)]
for how in ("merged", "dropped"):
    print("{}: {:.1f} % right, {:.3f} bits away".format(how, *found[how, "spread"]))

# %% [markdown]
# In right answers the two ways are close, and neither is far from all tokens; in bits they are well apart.
#
# ## Play: who is merged with whom?
#
# Choose the layer whose keys decide, and the number of tokens. Here are 12 tokens by the keys of three layers. In layer
# 0 groups follow colour, and the bright red is one of them; in layer 2 most of the bear is a group of its own; in layer
# 5 one large group holds shirt and bear.


# %%
def draw(layer=5, k=12):
    shown = torch.cat([large, groups_of(layer, k)])
    return viz.show(viz.images(shown, ["the photograph", f"layer {layer}: {k} tokens"], height=2.56), photo=True)


three = torch.cat([groups_of(layer, 12) for layer in (0, 2, 5)])
viz.show(
    viz.images(three, ["layer 0", "layer 2", "layer 5"], height=2.56, title="12 groups, by whose keys?"), photo=True
)

# %%
control = viz.slider(draw, layer=(0, 7), k=[2, 4, 8, 12, 16, 32, 64, 128, 256])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours, lots = ([sum(found[how, k][i] for k in counts) / len(counts) for i in (0, 1)] for how in ("merged", "dropped"))
spread_ours, spread_lots = found["merged", "spread"], found["dropped", "spread"]
own = "0.2-0.3 points lost at twice the speed (abstract)"
measures = [
    papers.better("right, one cut, mean of 64 to 8 tokens", ours[0], than=lots[0], unit="%", margin=2),
    papers.better("answer moved, one cut", ours[1], than=lots[1], unit="bits", higher=False, margin=0.1),
    papers.better("right, spread", spread_ours[0], than=spread_lots[0], unit="%", margin=-3),
    papers.better("right, spread, against all tokens", spread_ours[0], than=full, unit="%", margin=-3, paper=own),
    papers.better("answer moved, spread", spread_ours[1], than=spread_lots[1], unit="bits", higher=False, margin=0.01),
]

# %%
claim = papers.verdict(
    "tome",
    "At equal tokens and FLOPs, merging alike tokens changes a trained network's answers less than dropping at random.",
    measures,
    against="random dropping in the same layers, 3 draws (spread: 2); all tokens; the house's vit, not trained again",
    data="every sixth clothing photograph of the test set (62)",
)
assert claim.outcome == "holds" or not there

# %% [markdown]
# Spread, the network has half of its FLOPs left. The third line only says that merging is at most 3 points worse than
# dropping, the fourth that it is at most 3 points, two photographs, under all tokens: the paper's 0.2 to 0.3 points are
# finer than 62 photographs can show.
#
# ## Where it breaks: too early
#
# The claim was measured in the middle of the network and spread over it. Right after the attention of layer 0 it is the
# other way round. A third way helps to see why: **squares** merges squares of 2 x 2 (or 4 x 4) patches, without looking
# at anything.


# %%
def squares(x, k):
    side = round((256 / k) ** 0.5)
    rows = torch.arange(16) // side
    return Reduction.merge((16 // side * rows[:, None] + rows).flatten().expand(len(x), -1), k)


# %%
first = resume(vit, images, 0)
draws = [score(first(once(0, 64, partial(random_drop, seed=seed))))[1] for seed in range(3)]
lost, moved = {(0, 64): sum(draws) / 3, (3, 64): found["dropped", 64][1], (3, 16): found["dropped", 16][1]}, {}
for (layer, k), dropped in lost.items():
    run, where = logits if layer else first, f"layer {layer}, {k} tokens"
    moved[f"ours: merged, {where}"] = score(run(once(layer, k, tome)))[1]
    moved[f"baseline: dropped, {where}"] = dropped
    moved[f"squares, {where}"] = score(run(once(layer, k, squares)))[1]
viz.show(viz.bars(moved, "In layer 0 means harm, in layer 3 they help", "answer moved by (bits)"))

# %%
for layer, k in lost:
    merged, dropped, square = (
        moved[f"{n}, layer {layer}, {k} tokens"] for n in ("ours: merged", "baseline: dropped", "squares")
    )
    print(f"layer {layer}, {k} tokens: merged moves {merged / dropped:.1f} times as far as dropped", end="")
    print(f", squares {square / merged:.1f} times as far as merged")
    assert min(merged, square) > dropped if layer == 0 else max(merged, square) < dropped or not there
assert moved["squares, layer 3, 64 tokens"] > 1.3 * moved["ours: merged, layer 3, 64 tokens"] or not there

# %% [markdown]
# In the first layer means harm, those of alike tokens as well as those of squares; in layer 3 they do not. The network
# was trained with means in neither place: why early layers cannot use them, this figure does not say.
#
# Squares, which look at nothing, move the answer further than ToMe with 64 tokens but not with 16, on these 62
# photographs; on all 372 of [the league](00_overview.ipynb) ToMe is ahead in both. A clever choice should beat them.
#
# ## Exercises
#
# **1. Choose or average?** ToMe finds doubles, and it averages them. Which of the two does the work? Write a method
# that finds the same groups, but keeps only the first token of each (`reduction.order` has their places).


# %%
def first_of_each(x, k, *, keys, size):
    return tome(x, k, keys=keys, size=size)  # replace this: it takes the mean


# %%
def check_1(method):
    reduction = method(x, 8, keys=keys, size=torch.ones(1, 256))
    if not torch.equal(reduction.apply(x), x[:, reduction.order[0]]):
        return "each output should be one of the tokens as it was"
    if reduction.shape != (1, 8, 256):
        return f"8 of 256 tokens should stay, not {reduction.shape[1]} of {reduction.shape[2]}"
    moved = score(logits(once(3, 8, method)))[1]
    mean, lots = found["merged", 8][1], found["dropped", 8][1]
    work = "the mean does the work" if mean < 0.8 * moved else "here the choice does the work"
    return f"right: {moved:.2f} bits, with the mean {mean:.2f}, by lot {lots:.2f}: {work}"


check_1(first_of_each)

# %% [markdown]
# **2. A falling schedule.** The authors' code can also merge most in the first layers: layer i takes away a number of
# tokens that falls in a straight line to (about) zero in the last. Write it for n tokens, k left and L layers, as a
# dictionary like that of `even`.


# %%
def falling(n, k, layers):
    return even(n, k, layers)  # replace this: it takes away the same everywhere


# %%
def check_2(schedule):
    left = [256, *schedule(256, 16, 8).values()]
    steps = [before - after for before, after in itertools.pairwise(left)]
    if len(steps) != 8 or left[-1] != 16:
        return f"after 8 layers 16 tokens should be left, not {left[-1]} after {len(steps)}"
    line = [steps[0] * (7 - i) / 7 for i in range(8)]
    if max(abs(step - on_line) for step, on_line in zip(steps, line, strict=True)) > 3:
        return f"the steps should fall in a straight line to about zero, not {steps}"
    price = cost(vit.body, schedule(256, 16, 8), 256) / cost(vit.body, {}, 256)
    return f"right: {price:.0%} of the FLOPs, {share:.0%} with the even one"


check_2(falling)

# %% [markdown]
# **3. Back to a picture.** Tasks with an answer for each patch need 256 values again. Given the reductions of several
# layers, first to last (without CLS), and k values y of the last, return a value for each patch.


# %%
def unmerge(reductions, y):
    return reductions[-1].restore(y)  # replace this: it goes back by one layer only


# %%
def check_3(unmerge):
    tokens, reductions, group = x, [], torch.arange(256)
    for k in (128, 40, 9):
        reductions.append(tome(tokens, k))
        tokens, group = reductions[-1].apply(tokens), reductions[-1].assignment[0, group]
    back = unmerge(reductions, tokens)
    if back.shape != x.shape:
        return f"the result should be (1, 256, 192), not {tuple(back.shape)}"
    right = torch.allclose(back[0], tokens[0, group], atol=1e-5)
    return "right" if right else "a patch should get the value of the group that it ended in"


check_3(unmerge)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/02_tome.py`.
#
# ## What was left out
#
# The paper also trains with merging, which makes training faster and closes most of the gap, and applies it to video
# and sound. Its tables are about speed on large networks; ours counts operations. Read on: **PiToMe** protects what is
# special before it merges, **Token Transforming** lets every token go to several outputs, and **FastV** moves to
# language models, where attention says which tokens may go.
