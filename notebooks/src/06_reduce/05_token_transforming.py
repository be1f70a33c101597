# %% [markdown]
# # Token Transforming: one matrix for pruning, merging, and more
#
# **Paper:** Zeng, Yu, Kong and Tang, *Token Transforming: A Unified and Training-Free Token Compression Framework for
# Vision Transformer Acceleration*, 2025 ([arXiv 2506.05709](https://arxiv.org/abs/2506.05709)).
# **Code:** `minitok/reduce/token_transforming.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb) (what a reduction is) and [ToMe](02_tome.ipynb).
#
# The view that this whole chapter takes, a reduction is a matrix, is this paper's. It asks what the matrix may be if a
# token can go into *several* new ones. We could read the abstract and a figure's caption, and the authors' repository
# holds no code yet: the frame is theirs, the details are our reading, as the card of the module says.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy
from minitok.reduce import Reduction, cost, even, highest, once, resume, spread
from minitok.reduce.random_drop import random_drop
from minitok.reduce.token_transforming import share_out, token_transforming
from minitok.reduce.tome import tome

# %% [markdown]
# ## The problem: what is pruned is gone
#
# A vision transformer's CLS token gathers what its answer needs, and pays *attention* to each token for that: weights
# that add up to 1. So the plain way to save work is to keep the tokens with the most attention. Here the house's
# network, with 128, 64 and 32 tokens left after the attention of layers 2, 4 and 6 (of 8, from 0). Besides the right
# answers we measure how far CLS lands from where it lands with all tokens, in percent of its length.

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::16] if there else photographs.crops(24, 64)
halves, whole = {2: 128, 4: 64, 6: 32}, cost(vit.body, {}, 256)
head, vit.head = vit.head, torch.nn.Identity()  # so that the network gives CLS itself; head reads the class from it
run = resume(vit, images, layer=2)  # layers 0 and 1 are the same for all that follows
full = run(lambda layer: None)
labels = clothing.load("test").labels[::16] if there else head(full).argmax(-1)
print(f"{len(images)} photographs, right with all tokens: {100 * accuracy(head(full), labels):.0f} %")


# %%
def prune(x, k, *, cls_attention):
    return Reduction.keep(highest(cls_attention.mean(1), k), x.shape[1])


def measure(on_layer):
    cls = run(on_layer)
    moved = (cls - full).norm(dim=-1) / full.norm(dim=-1)
    return 100 * float(moved.mean()), 100 * accuracy(head(cls), labels)


moved, right = measure(spread(halves, prune))
print(
    f"pruned, at {cost(vit.body, halves, 256) / whole:.0%} of the cost: {right:.0f} % right, CLS moved by {moved:.0f} %"
)

# %%
seen = []
vit(images[15:16], seen.append)
hidden, keys = seen[2].hidden[:, 1:], seen[2].keys[:, :, 1:]
attention = seen[2].attention[:, :, 0, 1:]  # (b, h, n): what CLS pays to each token in 3 heads
kept = prune(hidden, 64, cls_attention=attention).order[0]
mask = torch.zeros(256, dtype=torch.bool).scatter(0, kept, True)
viz.show(viz.patches(images[15], 4, "The 64 tokens with the most attention", mask), photo=True)

# %% [markdown]
# The other 192 had little attention each, but together much of it, and nothing of them goes on. The class survives, but
# CLS has moved far; see below how much less merging moves it.
#
# ## The idea: fill the matrix
#
# New tokens are $Y = W X$: W has k rows, one for each new token, and n columns, one for each old. **Pruning** leaves
# most columns empty (one-to-one). **Merging** gives each column one entry (many-to-one): a token that lies between two
# clusters must choose. **Token Transforming** allows several (many-to-many). Six tokens on a circle, three new ones:

# %%
angles = torch.tensor([0.0, 25.0, 60.0, 90.0, 130.0, 150.0]).deg2rad()
circle = torch.stack([angles.cos(), angles.sin()], -1)[None]  # (1, 6, 2)
score = torch.tensor([[[0.3, 0.05, 0.2, 0.1, 0.3, 0.05]]])
kinds = {
    "pruning": Reduction.keep(torch.tensor([[0, 2, 4]]), 6),
    "merging": token_transforming(circle, 3, cls_attention=score, temperature=1e-4),
    "many-to-many": token_transforming(circle, 3, cls_attention=score, temperature=0.3),
}
assert ((kinds["merging"].matrix() > 1e-6).sum(1) == 1).all()

# %%
figure, axes = viz.panel("From one entry a column to several", "old token (white: 0, black: 1)", "new token", 7, 2.3)
for i, (name, kind) in enumerate(kinds.items()):
    left, right = 8 * i - 0.5, 8 * i + 5.5
    axes.imshow(kind.matrix()[0], cmap="gray_r", vmin=0, vmax=1, extent=(left, right, 2.5, -0.5), zorder=2)
    axes.plot([left, right, right, left, left], [-0.5, -0.5, 2.5, 2.5, -0.5], c=viz.MUTED, linewidth=1, zorder=3)
    axes.text(left, -0.7, name)
axes.set(xlim=(-1, 22), ylim=(2.7, -1.4), yticks=(0, 1, 2))
axes.set_xticks([8 * i + token for i in range(3) for token in range(6)], 3 * list("012345"))
axes.grid(visible=False)
viz.show(figure)

# %% [markdown]
# ## The mechanism, step by step
#
# **1. Anchors.** k tokens become the cores of the new ones: those that CLS pays the most attention to, as above, in the
# order of their places.

# %%
n, k = 256, 64
importance = attention.mean(1)
anchors = importance.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
print(f"{k} anchors hold {importance.gather(1, anchors).sum() / importance.sum():.0%} of the attention to the tokens")

# %% [markdown]
# **2. Compare.** How alike is each token to each anchor? As in ToMe: the cosine of their keys, averaged over heads,
# from -1 to 1.

# %%
unit = F.normalize(keys.mean(1), dim=-1)
cosine = unit.gather(1, anchors[..., None].expand(-1, -1, 64)) @ unit.mT
print("anchors x tokens:", tuple(cosine.shape[1:]))

# %% [markdown]
# **3. Share out.** A softmax over the anchors makes shares that add up to 1 for each token:
# $A_{ij} = \mathrm{softmax}_i(\cos_{ij} / \tau)$. The **temperature** $\tau$ says how evenly. Cosines differ by a few
# tenths, so at $\tau = 1$ all anchors would get nearly the same from everyone; we take 0.02. An anchor keeps to itself:
# its column has a single 1.

# %%
tau = 0.02
A = (cosine / tau).softmax(1)
own = F.one_hot(anchors, n).float()
A = torch.where(own.sum(1, keepdim=True) > 0, own, A)
others = A[0, :, own[0].sum(0) == 0]
into = (-(others * others.clamp(min=1e-9).log()).sum(0)).exp()  # the number of equal shares with the same entropy
print(f"a token goes into {into.mean():.1f} anchors on average; {(into > 1.5).float().mean():.0%} into more than 1.5")

# %% [markdown]
# **4. Make means.** A new token is a weighted mean, so the rows of W must sum to 1: else tokens would grow in length,
# and the network has never seen such. Each token counts by its *size*, the number of patches that it stands for (1, at
# first).

# %%
size = torch.ones(1, n)
W = A * size[:, None]
W = W / W.sum(-1, keepdim=True)
new = W @ hidden
lengths = [f"{t.norm(dim=-1).mean():.1f}" for t in (hidden, new, A @ hidden)]
print("mean length of a token: before {}, after {}, without the division {}".format(*lengths))

# %% [markdown]
# (A mean of different directions is a little shorter than its parts.)
#
# **5. Pass on the sizes.** Later attention counts a new token by what went into it: the share of token j in output i is
# $W_{ij}$ over the sum of its column. (This is not $A_{ij}$: a `Reduction` knows only W, whose rows were divided. A
# token shared by a crowded and a lone anchor counts mostly for the lone one.)

# %%
share = W / W.sum(1, keepdim=True)
new_size = (share * size[:, None]).sum(-1)
print(f"new sizes from {new_size.min():.1f} to {new_size.max():.1f}, together {new_size.sum():.0f}")

# %% [markdown]
# **What you built is what the library has.** `share_out` makes A, `token_transforming` the whole, as a `Reduction`.

# %%
library = token_transforming(hidden, k, cls_attention=attention, keys=keys, size=size, temperature=tau)
torch.testing.assert_close(share_out(keys.mean(1), anchors, tau), A)
torch.testing.assert_close(library.matrix(), W)
torch.testing.assert_close(library.apply(hidden), new, atol=1e-4, rtol=1e-4)
torch.testing.assert_close(library.sizes(size), new_size, atol=1e-4, rtol=1e-4)
print("shares, matrix, tokens and sizes agree")

# %% [markdown]
# ## Pruning and merging are special matrices
#
# Any W can be handed over by `Reduction.blend`. With a 1 at each kept token it prunes; with ToMe's clusters it merges,
# in tokens, sizes, and on the way back.

# %%
pruned, merged = prune(hidden, k, cls_attention=attention), tome(hidden, k, keys=keys)
one_hot = Reduction.blend(F.one_hot(pruned.order, n).float())
clusters = Reduction.blend((merged.assignment[:, None] == torch.arange(k)[:, None]).float())
same = {"pruning": torch.equal(one_hot.apply(hidden), pruned.apply(hidden))}
for name, special, cheap in (("pruning", one_hot, pruned), ("merging", clusters, merged)):
    y, found = cheap.apply(hidden), special.apply(hidden)
    pairs = [(found, y), (special.sizes(size), cheap.sizes(size)), (special.restore(y), cheap.restore(y))]
    same[name] = all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
print(same)
assert all(same.values())

# %% [markdown]
# And our own W turns into merging when $\tau$ goes to zero: every token goes wholly to its nearest anchor. So we can
# change from many-to-one to many-to-many with all else equal.
#
# ## The experiment: less work, which matrix?
#
# Four reductions leave the same numbers of tokens in layers 2, 4 and 6, where each keeps the same share of what is
# there. The first share, 0.65, saves two fifths of the work, as in the paper's headline.


# %%
def stages(share):
    return {layer: round(256 * share ** (i + 1)) for i, layer in enumerate((2, 4, 6))}


schedules = [stages(share) for share in (0.65, 0.5, 0.32)]
price = [cost(vit.body, schedule, 256) / whole for schedule in schedules]
for schedule, part in zip(schedules, price, strict=True):
    print(f"{list(schedule.values())} tokens: {part:.0%} of the FLOPs")

# %%
ways = {
    "ours: Token Transforming": token_transforming,
    "baseline: ToMe": tome,
    "pruning by attention": prune,
    "muted: random drop": random_drop,
}
found = {name: [measure(spread(schedule, way)) for schedule in schedules] for name, way in ways.items()}
series = {name: ([100 * part for part in price], [moved for moved, _ in figures]) for name, figures in found.items()}
viz.show(viz.lines(series, "Pruning by attention loses most", "FLOPs (% of all tokens)", "CLS moved (% of its length)"))

# %%
for name, figures in found.items():
    told = "; ".join(f"{moved:.1f} % moved, {right:.0f} % right" for moved, right in figures)
    print(f"{name.split(': ')[-1]:20}", told)
ours, merging, pruning, lots = found.values()
for a, b, c, d in zip(ours, merging, lots, pruning, strict=True):
    assert max(a[0], b[0]) < c[0] < d[0] or not there
assert (ours[0][0] < merging[0][0] and ours[2][0] > merging[2][0]) or not there

# %% [markdown]
# Both ways of merging beat both ways of dropping, and pruning by attention does worse than lots, at all three costs. At
# two fifths less work Token Transforming is ahead of ToMe; with few tokens left, it is behind. (With so few photographs
# each one weighs much in the right answers; the distance is the finer measure.)
#
# ## Is it the many-to-many?
#
# Now the same anchors with other temperatures, from nearly many-to-one on the left to nearly all-to-all on the right.

# %%
soft = {0.02: ours[1][0]}
for tau in (1e-4, 0.05, 0.1):
    soft[tau] = measure(spread(schedules[1], partial(token_transforming, temperature=tau)))[0]
temperatures = sorted(soft)
title, levels = "The more evenly shared, the further CLS moves", {"baseline: ToMe": merging[1][0]}
series = {"ours: Token Transforming": (temperatures, [soft[tau] for tau in temperatures])}
viz.show(viz.lines(series, title, "temperature", "CLS moved (% of its length)", log="x", levels=levels))

# %%
exclusive = measure(spread(schedules[0], partial(token_transforming, temperature=1e-4)))[0]
for part, nearest, shared in ((price[0], exclusive, ours[0][0]), (price[1], soft[1e-4], ours[1][0])):
    print(f"{part:.0%} of the FLOPs: each to its nearest anchor {nearest:.1f} % moved, shared out {shared:.1f} %")
assert exclusive < ours[0][0] + 0.5 or not there
assert soft[1e-4] < soft[0.02] < soft[0.05] < soft[0.1] or not there

# %% [markdown]
# So the gain is not from sharing: sent to the nearest anchor only, tokens do as well or better. Which of the other
# differences from ToMe makes the gain, we did not test. A blend of many tokens is a blur, and the more even the shares,
# the more alike all new tokens are.
#
# ## Play: who goes where?
#
# Each patch in the colour that comes back from the tokens it went into: blurred where they hold much else. Choose how
# many anchors, and how even the shares.

# %%
patches = images[15:16].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def blur(k=64, temperature=0.02):
    M = token_transforming(patches, k, cls_attention=attention, keys=keys, temperature=temperature)
    back = M.restore(M.apply(patches)).view(16, 16, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
    shown, titles = torch.stack([images[15], back]), ["256 tokens", f"{k} new ones"]
    return viz.show(viz.images(shown, titles, height=1.92, title=f"temperature {temperature:g}"), photo=True)


blur()

# %%
control = viz.slider(blur, k=[256, 128, 64, 32, 16, 8], temperature=[1e-4, 0.02, 0.05, 0.1, 1.0])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
paper = "accuracy -0.1 % at 40 % fewer FLOPs, DeiT-S, abstract"
all_right, unit = 100 * accuracy(head(full), labels), {"unit": "%"}
measures = [papers.exact("pruning and merging are special matrices", all(same.values()))]
measures.append(papers.better("right, against all tokens", ours[0][1], than=all_right, margin=-5, paper=paper, **unit))
for name, value, than in (
    ("pruning by attention", ours[0][0], pruning[0][0]),
    ("random dropping", ours[0][0], lots[0][0]),
    ("ToMe", ours[0][0], merging[0][0]),
    (f"ToMe, {price[2]:.0%} of the FLOPs", ours[2][0], merging[2][0]),
    ("the nearest anchor only", ours[0][0], exclusive),
):
    measures.append(papers.better(f"CLS moved, against {name}", value, than=than, higher=False, **unit))

# %%
claim = papers.verdict(
    "token_transforming",
    "A many-to-many matrix loses less than exclusive merging, and that less than pruning, without training.",
    measures,
    against="as named; 166, 108, 70 tokens left in layers 2, 4, 6 (60 % of FLOPs); the house's vit, not trained again",
    data="every 16th clothing photograph of the test set (24)",
)
assert claim.outcome == "holds in part" or not there

# %% [markdown]
# Against ToMe it holds for a mild cut and not for a hard one. The right answers are as many as with all tokens, but a
# photograph is 4 points here. The paper's method may differ from our reading where it counts: its scores, its
# similarity or its layers could make sharing pay. What the verdict says is about the matrix as built above.
#
# ## Where it breaks: anchors in a crowd, and many small steps
#
# Here 64 tokens are left after layer 3 alone:

# %%
run = resume(vit, images, layer=3)
alone = {name: measure(once(3, 64, way))[0] for name, way in ways.items()}
assert alone["ours: Token Transforming"] > alone["baseline: ToMe"] or not there
viz.show(viz.bars(alone, "In layer 3 anchors by attention lose to ToMe", "CLS moved (% of its length)"))

# %%
mask = torch.zeros(256, dtype=torch.bool)
mask[highest(seen[3].attention[:, :, 0, 1:].mean(1), 64)[0]] = True
viz.show(viz.patches(images[15], 4, "The 64 anchors of layer 3", mask), photo=True)

# %% [markdown]
# In this picture many anchors lie at the bottom. Over all photographs: where do the anchors lie, and how like its
# nearest anchor is a token that is none? For comparison, 64 random anchors.


# %%
def nearness(keys, anchors):
    unit = F.normalize(keys.mean(1), dim=-1)
    nearest = (Reduction.keep(anchors, 256).apply(unit) @ unit.mT).amax(1)
    return nearest[torch.ones_like(nearest, dtype=torch.bool).scatter(1, anchors, False)].mean()


every, near = [], {}
vit(images, every.append)
for layer in (2, 3):
    by_score = highest(every[layer].attention[:, :, 0, 1:].mean(1), 64)
    by_lot = random_drop(torch.zeros(len(images), 256, 1), 64).order
    low = (by_score // 16 >= 11).float().mean()
    near[layer] = [nearness(every[layer].keys[:, :, 1:], chosen) for chosen in (by_score, by_lot)]
    print(f"layer {layer}: {low:.0%} of the anchors in the lowest 5 of 16 rows; cosine to the nearest", end=" ")
    print(f"{near[layer][0]:.2f}, to random ones {near[layer][1]:.2f}")

# %% [markdown]
# So in both layers a token's nearest anchor is less like it than a random one would be, and in layer 3 still less: what
# CLS looks at is not what stands for the others.
#
# And where every layer takes a few tokens away, ToMe picks the few best pairs, while here those with the least
# attention must go, whether an anchor is like them or not. 64 tokens left in the end:

# %%
assert near[3][0] < near[2][0] < min(near[2][1], near[3][1]) or not there
gradual, small = even(256, 64, layers=8), {}
for name in ("ours: Token Transforming", "baseline: ToMe"):
    cls = vit(images, spread(gradual, ways[name]))
    small[name] = 100 * float(((cls - full).norm(dim=-1) / full.norm(dim=-1)).mean())
    print(f"{name.split(': ')[-1]}: CLS moved by {small[name]:.1f} %")
assert small["ours: Token Transforming"] > small["baseline: ToMe"] or not there

# %% [markdown]
# ## Exercises
#
# **1. Spread the anchors.** [DivPrune](11_divprune.ipynb) chooses tokens that are far from one another: with `from
# minitok.reduce import divprune`, `divprune.max_min(divprune.distances(v), k)` gives their numbers, for vectors v (b,
# n, d), unsorted. Take them as anchors, with `share_out` and `Reduction.blend`.


# %%
def spread_out(x, k, *, keys, size, cls_attention):
    return token_transforming(x, k, keys=keys, size=size, cls_attention=cls_attention)  # replace this: by attention


def check_1(method):
    result = measure(once(3, 64, method))[0]
    if abs(result - alone["ours: Token Transforming"]) < 0.01:
        return "these are still the anchors of attention"
    verdict = "right" if result < alone["baseline: ToMe"] else "not yet"
    return f"{verdict}: CLS moved by {result:.1f} %, with ToMe by {alone['baseline: ToMe']:.1f} %"


check_1(spread_out)

# %% [markdown]
# **2. The other softmax.** One could let each *anchor* choose its tokens: a softmax over tokens, along the rows. Write
# it, from vectors (b, n, d) and anchors (b, k). What does it become when the temperature goes to zero?


# %%
def gather(metric, anchors, temperature):
    return share_out(metric, anchors, temperature)  # replace this: each token shares itself out


def check_2(gather):
    rows = gather(keys.mean(1), anchors, 0.05)
    if not torch.allclose(rows.sum(-1), torch.ones(1, 64), atol=1e-4):
        return "rows should sum to 1: softmax over the last axis"
    if not torch.allclose(gather(keys.mean(1), anchors, 1e-4), own, atol=1e-3):
        return "at temperature 0 each anchor should take itself alone: compare keys of length 1"
    return "right: at temperature 0 it prunes, where the other one merges"


check_2(gather)

# %% [markdown]
# **3. Two in a row.** Layer 2 reduced with $W_1$, layer 4 with $W_2$. Which single reduction does both? Give a
# `Reduction`.


# %%
def both(first, second):
    return first  # replace this: the second step is missing


def check_3(both):
    first = token_transforming(hidden, 64, cls_attention=attention, keys=keys)
    second = tome(first.apply(hidden), 20)
    expected = second.apply(first.apply(hidden))
    found = both(first, second).apply(hidden)
    if found.shape != expected.shape:
        return f"{found.shape[1]} tokens come out, expected {expected.shape[1]}"
    return "right" if torch.allclose(found, expected, atol=1e-3) else "not the tokens of both steps: mind the order"


check_3(both)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/05_token_transforming.py`.
#
# ## What was left out
#
# The paper also measures segmentation, detection, depth and language models. Dense tasks need the n tokens back; our
# `restore` does that, the paper's way we could not read. An earlier workshop paper of the authors has the name M2M-TAG.
# Read on: the chapter's other methods, each of which fills W in its own way.
