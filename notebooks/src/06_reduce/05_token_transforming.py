# %% [markdown]
# # Token Transforming: one matrix for pruning, merging, and more
#
# **Paper:** Zeng, Yu, Kong and Tang, *Token Transforming: A Unified and Training-Free Token Compression Framework for
# Vision Transformer Acceleration*, 2025 ([arXiv 2506.05709](https://arxiv.org/abs/2506.05709)).
# **Code:** `minitok/reduce/token_transforming.py`.
# **Read first:** [token merging](02_tome.ipynb).
#
# ToMe puts each token into one group. Here a token may go into *several* new ones. After this lesson you can build
# such a matrix by hand, and say when it beats a merge. Only the paper's abstract, the opening of its introduction and a
# caption could be read, and its repository holds no code: the frame is theirs, details are our reading.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, token_transforming, tome
from minitok.reduce.token_transforming import share_out

# %% [markdown]
# ## The problem: a token between two groups must choose
#
# New tokens are $Y = W X$: W has a row for each new token and a column for each old one. **Pruning** leaves most
# columns empty (one-to-one). **Merging** gives each column one entry (many-to-one), so a token between two groups goes
# wholly to one. **Token Transforming** fills columns (many-to-many). Six tokens on a circle, three new ones:

# %%
angles = torch.tensor([0.0, 25.0, 60.0, 90.0, 130.0, 150.0]).deg2rad()
circle = torch.stack([angles.cos(), angles.sin()], -1)[None]  # (1, 6, 2)
score = torch.tensor([[[0.3, 0.05, 0.2, 0.1, 0.3, 0.05]]])
kinds = {
    "pruning": Reduction.keep(torch.tensor([[0, 2, 4]]), 6),
    "merging": token_transforming(circle, 3, cls_attention=score, temperature=1e-4),
    "many-to-many": token_transforming(circle, 3, cls_attention=score, temperature=0.3),
}
entries = {name: int((kind.matrix() > 1e-6).sum()) for name, kind in kinds.items()}
print("entries of W above zero:", entries)
assert list(entries.values()) == [3, 6, 12]

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
# ## By hand: four tokens become two
#
# | token | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | value | 10 | 20 | 30 | 40 |
# | attention of CLS to it | 0.4 | 0.3 | 0.2 | 0.1 |
# | key | (1, 0) | (0, 1) | (0.6, 0.8) | (0.8, 0.6) |
# | size (patches it stands for) | 1 | 1 | 1 | 3 |
#
# **Anchors:** the two of most CLS attention, 0 and 1 (of equals the lower). An anchor goes to itself alone.
#
# **Shares:** token 2 has cosine 0.6 to anchor 0 and 0.8 to anchor 1. A softmax **over the anchors** of cosine /
# temperature, here 0.1: logits 6 and 8, so the shares are $1 / (1 + e^2)$ = 0.12 and 0.88. Token 3 has
# them the other way round. So A has the rows (1, 0, 0.12, 0.88) and (0, 1, 0.88, 0.12).
#
# **Means:** times the sizes: (1, 0, 0.12, 2.64), sum 3.76, and (0, 1, 0.88, 0.36), sum 2.24. Each row divided by its
# sum: the new tokens are (10 + 0.12 x 30 + 2.64 x 40) / 3.76 = 31.7 and (20 + 0.88 x 30 + 0.36 x 40) / 2.24 = 27.1.

# %%
values = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
keys4 = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]]])
paid, size = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]), torch.tensor([[1.0, 1.0, 1.0, 3.0]])
A = torch.tensor([[1.0, 0.0, 0.1192, 0.8808], [0.0, 1.0, 0.8808, 0.1192]])
W = A * size / (A * size).sum(-1, keepdim=True)
library = token_transforming(values, 2, cls_attention=paid, keys=keys4[:, None], size=size, temperature=0.1)
print("by hand", (W @ values[0]).flatten().tolist(), "library", library.apply(values).flatten().tolist())
assert difference(library.matrix()[0], W) < 1e-4
assert difference(library.apply(values).flatten(), torch.tensor([31.71, 27.13])) < 0.01

# %% [markdown]
# **Sizes passed on.** Output i gets the share $W_{ij}$ over its column's sum. Token 3: 0.70 and 0.16, so 0.81 of its
# size goes to output 0 (not A's 0.88: rows were divided since). Output 0 counts 1 + 0.07 + 2.44 = 3.5 patches, output 1
# 2.5.

# %%
share = W / W.sum(0)
print("shares of token 3:", share[:, 3].tolist(), "new sizes:", (share @ size[0]).tolist())
assert difference(library.sizes(size)[0], share @ size[0]) < 1e-4
assert abs(float(library.sizes(size).sum()) - 6) < 1e-5

# %% [markdown]
# ## The mechanism on real tokens
#
# The tokens of layer 2 of the chapter's network, 256 become 64. **The temperature** says how evenly tokens are shared
# out. Cosines differ by a few tenths, so at temperature 1 every anchor would get nearly the same from everyone, and all
# new tokens would be alike; we take 0.02, which was the best of four on these photographs (below):
# this favours our rows a little.

# %%
stage = stages.reduce.stage(images=62)
seen = stage.seen(photo=15, layer=2)
x, keys, attention = seen["x"], seen["keys"], seen["cls_attention"]  # (1, 256, 192), (1, 3, 256, 64), (1, 3, 256)
anchors = attention.mean(1).argsort(dim=-1, descending=True, stable=True)[:, :64].sort(-1).values
unit = F.normalize(keys.mean(1), dim=-1)
A = (unit[:, anchors[0]] @ unit.mT / 0.02).softmax(1)  # over the anchors: columns sum to 1
own = F.one_hot(anchors, 256).float()
A = torch.where(own.sum(1, keepdim=True) > 0, own, A)
into = (-(A * A.clamp(min=1e-9).log()).sum(1)).exp()  # as many equal shares would have the same entropy
print(f"a token goes into {into.mean():.1f} anchors on average")

# %% [markdown]
# **Means, not sums:** rows of W sum to 1. Without the division a new token would be as long as all that went into it,
# and the network has never seen such.

# %%
W = A / A.sum(-1, keepdim=True)
lengths = [f"{tokens.norm(dim=-1).mean():.0f}" for tokens in (x, W @ x, A @ x)]
print("mean length of a token: before {}, after {}, without the division {}".format(*lengths))
library = token_transforming(x, 64, cls_attention=attention, keys=keys)
assert difference(share_out(keys.mean(1), anchors, 0.02), A) < 1e-5
assert difference(library.matrix(), W) < 1e-5
assert difference(library.apply(x), W @ x) < 1e-3

# %% [markdown]
# **Pruning and merging are special matrices**, in tokens, sizes and on the way back. And at temperature 0 in the limit
# W is a merge: each token goes to its nearest anchor. So many-to-one can be compared with many-to-many, all else equal.

# %%
merged, kept = tome(x, 64, keys=keys), Reduction.keep(anchors, 256)
groups = Reduction.blend((merged.assignment[:, None] == torch.arange(64)[:, None]).float())
for cheap, full in ((kept, Reduction.blend(own)), (merged, groups)):
    y, ones = cheap.apply(x), torch.ones(1, 256)
    assert difference(full.apply(x), y) < 1e-4
    assert difference(full.sizes(ones), cheap.sizes(ones)) < 1e-4
    assert difference(full.restore(y), cheap.restore(y)) < 1e-4

# %% [markdown]
# ## The recipe
#
# 1. After the attention of the chosen layers (here 2, 4, 6): tokens x without CLS, keys averaged over heads, sizes s.
# 2. Anchors: the k tokens of highest CLS attention (mean over heads), in the order of their places.
# 3. $A_{ij} = \mathrm{softmax}_i(\cos(v_i, v_j) / \tau)$ over anchors i, $\tau$ = 0.02; anchors: a single 1.
# 4. $W_{ij} = A_{ij} s_j / \sum_j A_{ij} s_j$, $Y = W X$.
# 5. Sizes: $s'_i = \sum_j s_j W_{ij} / \sum_i W_{ij}$; later attention adds their logarithm. Back: the same shares.
# 6. Cost: k x n cosines, and W X, k x n x c. Nothing is trained.
#
# | | paper | here |
# |---|---|---|
# | $Y = W X$, several entries in a column | yes | yes |
# | how anchors are scored, similarity, softmax, temperature, layers | could not be read | our reading: 2, 3, 1 |
#
# ## The experiment: at one price, which matrix?
#
# Five ways leave the same numbers of tokens in layers 2, 4 and 6, where each keeps the same share. The first, 0.65,
# saves two fifths of the work, as in the paper's headline; 0.4 is a hard cut, for two of them. "Pruned" keeps the
# anchors and drops the rest. "Nearest anchor" sends each token to one anchor.

# %%
ways = {"ours: Token Transforming": token_transforming, "baseline: ToMe": tome}
ways |= {"nearest anchor": partial(token_transforming, temperature=1e-4), "pruned": stages.reduce.attended}
ways["muted: by lot"] = stages.reduce.LOTS[:2]
found = {}
for share, names in {0.4: list(ways)[:2], 0.65: list(ways)}.items():
    schedule = {layer: round(256 * share ** (i + 1)) for i, layer in enumerate((2, 4, 6))}
    found |= {(name, share): stage.along(schedule, ways[name]) for name in names}
print(stages.reduce.table({f"{name}, {share}": row for (name, share), row in found.items()}))

# %%
moved = {f"{name}, {100 * row.flops:.0f} % FLOPs": row.moved for (name, share), row in found.items() if share == 0.65}
viz.show(viz.bars(moved, "On average merging moves the answer less than dropping", "answer moved by (bits)"))

# %%
ours = found["ours: Token Transforming", 0.65]
for name in list(ways)[1:]:
    further, error = stages.reduce.gap(ours, found[name, 0.65])
    print(f"{name.split(': ')[-1]:20} moved further than ours by {further:+.4f} +- {error:.4f} bits")

# %% [markdown]
# ("+-": two standard errors over the same photographs.) Is it the sharing? "Nearest anchor" has the same anchors and is
# as good within the error: no. More even shares are worse; the more even, the more alike all new tokens are:

# %%
soft = {0.02: ours.moved, 1e-4: found["nearest anchor", 0.65].moved}
for tau in (0.05, 0.1):
    soft[tau] = stage.along(schedule, partial(token_transforming, temperature=tau)).moved
print("moved, by temperature:", {tau: round(soft[tau], 3) for tau in sorted(soft)})
for tau in (0.02, 0.1, 1.0):
    new = F.normalize(
        token_transforming(x, 64, cls_attention=attention, keys=keys, temperature=tau).apply(x)[0], dim=-1
    )
    print(f"temperature {tau:g}: mean cosine of two new tokens {(new @ new.T).mean():.2f}")

# %% [markdown]
# ## Play
#

# %%
photo = stage.images[15]


def blur(k=64, temperature=0.02):
    made = token_transforming(x, k, cls_attention=attention, keys=keys, temperature=temperature)
    return viz.show(
        viz.images(viz.painted(photo, made)[None], [f"{k} tokens, {temperature:g}"], height=2.56), photo=True
    )


blur()

# %%
control = viz.slider(blur, k=[256, 128, 64, 32, 16, 8], temperature=[1e-4, 0.02, 0.05, 0.1, 1.0])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
measures, settings = [], {"unit": "bits", "higher": False}
nearest, paper = found["nearest anchor", 0.65], "accuracy -0.1 % at 40 % fewer FLOPs (DeiT-S, abstract)"
pairs = {"many-to-many, ToMe": (ours, found["baseline: ToMe", 0.65]), "many-to-many, nearest": (ours, nearest)}
pairs |= {"nearest anchor, pruned": (nearest, found["pruned", 0.65])}
pairs |= {"nearest anchor, by lot": (nearest, found["muted: by lot", 0.65])}
for label, (a, b) in pairs.items():
    margin = stages.reduce.gap(a, b)[1]
    measures.append(papers.better(f"moved, {label}", a.moved, than=b.moved, margin=margin, paper=paper, **settings))

# %%
papers.verdict(
    "token_transforming",
    "A many-to-many matrix loses less than exclusive merging, and that less than pruning, without training.",
    measures,
    against="as named; 166, 108, 70 tokens left in layers 2, 4, 6 (60 % of FLOPs); the house's vit, not trained again",
    data=stage.data,
)

# %% [markdown]
# The paper's own scores, similarity or layers could make sharing pay: the verdict is about the matrix as built above.
#
# ## Where it breaks: anchors that stand for nobody
#
# 64 tokens left after layer 3 alone. How like its nearest anchor is a token, by attention and by lot?

# %%
alone = {name: stage.measure(ways[name], 64).moved for name in list(ways)[:3]}
unit = F.normalize(stage.seen(15, 3)["keys"].mean(1), dim=-1)
chosen = {"by attention": stages.reduce.attended(x, 64, cls_attention=stage.seen(15, 3)["cls_attention"])}
chosen["by lot"] = stages.reduce.LOTS[0](x, 64)
near = {name: float((made.apply(unit) @ unit.mT).amax(1).mean()) for name, made in chosen.items()}
print("cosine to the nearest anchor:", {name: round(value, 2) for name, value in near.items()})
viz.show(viz.bars(alone, "In layer 3 anchors by attention lose to ToMe", "answer moved by (bits), 64 tokens"))

# %% [markdown]
# What CLS looks at need not stand for others: here random anchors are nearer.
#
# ## Exercises
#
# **1. Your own**, for a batch; `Reduction.blend(weights)` divides the rows of weights (b, k, n) by their sums.


# %%
def my_transforming(x, k, *, cls_attention, keys=None, size=None, temperature=0.02):
    return tome(x, k, keys=keys, size=size)  # replace this: each token goes to one output


def check_1(method):
    return papers.check("token_transforming", method)


check_1(my_transforming)

# %% [markdown]
# **2. Two in a row.** Layer 2 reduced with $W_1$, layer 4 with $W_2$. Which single `Reduction` does both?


# %%
def both(first, second):
    return first  # replace this: the second step is missing


# %%
def check_2(both):
    first = token_transforming(x, 64, cls_attention=attention, keys=keys)
    second = tome(first.apply(x), 20)
    expected, found = second.apply(first.apply(x)), both(first, second).apply(x)
    if found.shape != expected.shape:
        return f"{found.shape[1]} tokens come out, expected {expected.shape[1]}"
    return "right" if difference(found, expected) < 1e-3 else "not the tokens of both steps: mind the order"


check_2(both)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/05_token_transforming.py`.
#
# ## What was left out
#
# Segmentation, detection, depth and language models. Read on:
# [DivPrune](11_divprune.ipynb) chooses tokens that are far from one another; they would make other anchors.
