# %% [markdown]
# # NAR: draw the next neighbours, a whole diagonal at once
#
# **Paper:** He, He, He, Chen, Zhou, Zhang and Zhuang, *Neighboring Autoregressive Modeling for Efficient Visual
# Generation*, 2025 ([arXiv 2503.10696](https://arxiv.org/abs/2503.10696)).
# **Code:** `minitok/generate/nar.py`.
# **Read first:** [raster autoregression](01_raster.ipynb).
#
# After this lesson you can draw a picture of n x n codes in 2n - 1 calls, train the network for it, and say what it
# costs.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.generate import NAR, ImageGPT, diagonals, generate
from minitok.generate.nar import mean, neighbours
from minitok.metrics import difference
from minitok.nn import Cache, Shape

# %% [markdown]
# ## The problem: several codes from one call
#
# The stage: 16 x 16 codes from 0 to 4,095 a photograph, and two networks of the same width, layers, data and steps.
# `image_gpt` draws in raster order, 256 calls. To spare calls, draw 8 codes from one, all by the prediction for the
# first of them (`Several`): 32 calls.

# %%
stage = stages.generate.stage(images=31)
raster, model, decode = house.load("image_gpt"), house.load("nar"), house.load("tokenizer").decode
rash = stages.generate.Several(raster, 8)
asked = torch.tensor([0, 4])  # a dress and pants
slow, hasty = (generate(method, asked, seed=1) for method in (raster, rash))
titles = [f"{slow.calls} calls", "", f"{hasty.calls} calls", ""]
viz.show(viz.images(decode(torch.cat([slow.codes, hasty.codes])[..., None]), titles, height=0.96), photo=True)

# %% [markdown]
# Codes side by side depend on each other: what is drawn at once should not lie side by side.
#
# ## By hand: a grid of 4 x 4
#
# A cell (i, j), in row i and column j, has the **distance** i + j from the first. Cells of one distance are drawn in
# one call: no two share a side, and the left and upper neighbours have been drawn just before. Seven calls, 2 x 4 - 1:
#
# | | j = 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **i = 0** | 0 | 1 | 2 | 3 |
# | **1** | 1 | 2 | 3 | 4 |
# | **2** | 2 | 3 | 4 | 5 |
# | **3** | 3 | 4 | 5 | 6 |
#
# Third call, distance 2: in raster numbers cells 2, 5 and 8.

# %%
row, column = torch.arange(16) // 4, torch.arange(16) % 4
groups = [torch.nonzero(row + column == c).flatten().tolist() for c in range(7)]
print(groups)
assert [list(group) for group in diagonals(4).groups] == groups
assert groups[2] == [2, 5, 8]

# %% [markdown]
# **Two opinions.** A token predicts two cells: its *right head* the one at its right, its *below head* the one under
# it. Cell 5 in (1, 1) is told by cell 4 (right) and cell 1 (below). With two codes and logits (2, 0) and (0, 4) the
# **mean** is (1, 2): code 1 has $e^2 / (e + e^2) = 0.73$. (That of *probabilities* is 0.55.) Row 0 has only
# the left neighbour, column 0 only the upper one, cell 0 both heads of the class.
#
# **The loss** is the cross-entropy of these *mixed* logits, the mean over cells; no head has a loss of its own. If cell
# 5 holds code 1, it pays $-\log 0.73 = 0.31$ nats, 0.45 bits.

# %%
left, above, weight = neighbours(4)  # token 0 is the class, token k + 1 cell k; weight of the left one
right, below = torch.zeros(1, 16, 2), torch.zeros(1, 16, 2)
right[0, 4 + 1], below[0, 1 + 1] = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
mixed = mean(right[:, left], below[:, above], weight)
p = mixed[0, 5].softmax(-1)[1]
print(f"cell 5: logits {mixed[0, 5].tolist()}, code 1 has {p:.2f}, pays {-p.log():.2f} nats, {-p.log2():.2f} bits")
print("weights of the left neighbour:", weight.tolist())
assert mixed[0, 5].tolist() == [1, 2]

# %% [markdown]
# ## The mechanism on real codes
#
# **1. Heads.** Class and codes as vectors, plus a vector a place. A trunk of four layers (rotary positions by row and
# column), then a norm: the right head. One more layer and its norm: the below head. One head for both would have to say
# the same of both cells.


# %%
def heads(x, tokens, seen=None, cache=None):
    x, at = x + model.position[tokens], model.places[tokens][None]
    for i, block in enumerate(model.body.blocks):
        past = partial(cache.extend, i) if cache is not None else None
        x = block(x, at, seen, None, past)
        if i == 3:
            trunk = x
    return model.right_norm(trunk), model.body.norm(x)


# %% [markdown]
# **Who sees whom.** A token sees those whose distance is not larger than its own; the class, at (-1, -1), comes before
# all. Token (1, 0) sees the class, (0, 0), (0, 1) and itself: 4. When it is read, its whole diagonal has been drawn;
# but (0, 2) is drawn in the same call as what it predicts. The last cell predicts nobody, so it is no token.
#
# **2. Mix and pay.** The left neighbour of cell k is token k, the upper one token k - 15.


# %%
def mix(right, below, tokens, cells):
    slot, logits = {int(token): i for i, token in enumerate(tokens)}, []
    for k in cells:
        said = [right[:, slot[k]]] if k % 16 else []
        said += [below[:, slot[k - 15]]] if k >= 16 else []
        said = said or [right[:, 0], below[:, 0]]
        logits.append(torch.stack([vector @ model.code.T for vector in said]).mean(0))
    return torch.stack(logits, dim=1)


# %%
codes, labels, tokens = stage.codes[:8], stage.labels[:8], torch.arange(256)
seen = model.distance[:, None] >= model.distance  # row: who looks
print("seen by the class, (0, 0), (0, 1), (0, 2), (1, 0):", seen.sum(1)[[0, 1, 2, 3, 17]].tolist())
x = torch.cat([model.label(labels)[:, None], model.code[codes[:, :-1]]], dim=1)
right, below = heads(x, tokens, seen)
logits = mix(right, below, tokens, range(256))
loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())  # what training minimises
print(f"{loss:.2f} nats, {loss / torch.tensor(2.0).log():.2f} bits a code")

# %% [markdown]
# **3. Draw.** A call reads the diagonal just drawn, keeps its keys and values, and gives the next one's logits. Each of
# its cells is drawn by itself.


# %%
def draw(labels, seed=0):
    generator, cache, steps = torch.Generator().manual_seed(seed), Cache(), []
    drawn, tokens, x = labels.new_zeros(len(labels), 256), [0], model.label(labels)[:, None]
    for group in map(list, diagonals(16).groups):
        logits = mix(*heads(x, tokens, cache=cache), tokens, group)
        p = logits.softmax(-1).flatten(0, 1)
        drawn[:, group] = torch.multinomial(p, 1, generator=generator).view(len(labels), len(group))
        steps.append((drawn.clone(), logits))
        tokens, x = [k + 1 for k in group], model.code[drawn[:, group]]
    return steps


# %% [markdown]
# **What you built is what the library has**, and what training sees is what drawing sees: the logits of all cells at
# once are those of 31 calls from a cache.

# %%
assert difference(logits, model(codes, labels)) < 1e-3
steps, library = draw(asked, seed=3), generate(model, asked, seed=3)
assert torch.equal(steps[-1][0], library.codes)
assert library.calls == len(steps) == 31
at_once = model(library.codes, asked)[:, model.schedule.order]
assert difference(torch.cat([step for _, step in steps], dim=1), at_once) < 1e-3
print("logits, drawn codes and calls agree")

# %% [markdown]
# ## The recipe
#
# 1. Tokens: the class at (-1, -1), then all codes but the last; vector plus vector of the place.
# 2. Attention: rotary by row and column; a token sees all of distance i + j not larger than its own.
# 3. Right head: norm(trunk). Below head: norm(one more layer). Read out by the codes' vectors.
# 4. Logits of (i, j): mean of right(i, j - 1) and below(i - 1, j), or the one there is; at (0, 0) both of the class.
# 5. Loss: their cross-entropy, mean over cells; in a tenth the class is "any".
# 6. Draw by diagonals, each cell independently, keys and values kept: 2n - 1 calls.
#
# ## The experiment: what is won, and what it costs

# %%
methods = {"raster": raster, "nar": model, "8 codes a call": rash}
rows = {name: stage.measure(method) for name, method in methods.items()}
print(", ".join(f"{name}: {row.calls} calls, {row.bits:.2f} bits a code" for name, row in rows.items()))
behind, error = stages.generate.gap(rows["nar"], rows["raster"])
print(f"{stage.data}: NAR pays {-behind:+.2f} bits, +- {error:.2f} (two standard errors)")
table = {entry["method"]: entry for entry in stages.load("generate")["rows"]}
kinds = {"one picture": "alone", "batch of 32": "in 32"}
ratio = {name: table["raster"][key] / table["nar"][key] for name, key in kinds.items()}
viz.show(viz.bars(ratio, "Fewer calls, less time: most for one picture", "times faster than raster order", digits=2))

# %% [markdown]
# The operations are the same; what is saved is waiting.
#
# ## Play: after so many calls


# %%
def after(calls=16):
    number, shown = torch.arange(256), []
    for codes, turn in ((slow.codes[1:], number), (library.codes[1:], number // 16 + number % 16)):
        picture = decode(codes.where(turn < calls, 2340)[..., None])  # 2340 is a gray code
        blank = (turn >= calls).view(1, 1, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3)
        shown.append(picture.masked_fill(blank, 0.93))
    return viz.show(viz.images(torch.cat(shown), ["raster", "NAR"], height=1.92, title=f"{calls} calls"), photo=True)


after()

# %%
control = viz.slider(after, calls=[1, 4, 8, 16, 24, 31, 64, 128, 192, 256])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# The networks' cards judge 5,000 drawn pictures each; sets of the league differ by up to 0.4.

# %%
cards = [house.card(name)["figures"]["Frechet distance of 5,000 samples"] for name in ("nar", "image_gpt")]
bits, far, two = ([table[n + end][key] for n in ("nar", "raster")] for key, end in
                  (("bits", ""), ("Frechet", ""), ("Frechet", ", guidance 1.5")))  # fmt: skip
less, eight = {"higher": False}, table["raster, 8 codes a call"]["Frechet"]
measures = [
    papers.better("speed, one picture", ratio["one picture"], than=1, margin=1, paper="2.4 x PAR-4X (abstract)"),
    papers.better("speed, a batch of 32", ratio["batch of 32"], than=1, margin=0.5),
    papers.not_worse("bits a code, raster order", bits[0], than=bits[1], by=0.05, tolerance=0.01, **less),
    papers.not_worse("Frechet distance, raster order", cards[0], than=cards[1], by=0.5, **less),
    papers.not_worse("the same, guidance 1.5 for both", two[0], than=two[1], by=0.5, **less),
    papers.better("Frechet distance, 8 codes a call", far[0], than=eight, margin=5, **less),
]

# %%
claim = papers.verdict(
    "nar",
    "Diagonals take 2n - 1 calls instead of n x n, are faster, and the pictures are as good or better.",
    measures,
    against="raster order: same width, layers, data and steps; the same, 8 codes a call, not trained for that",
    data="3,068 photographs of clothes; drawn: 5,000 against raster order (cards), else twice 744 (league)",
)

# %% [markdown]
# The calls buy time; that the pictures are as good does not hold here. The paper's rival, PAR-4X, draws four cells far
# apart and is trained for it; our stand-in is weak.
#
# ## Where it breaks: what lies on one diagonal
#
# Each of the 9 diagonals of 5 x 5 cells has one of two colours: 9 bits a picture, 0.36 a cell.


# %%
def learn(network):
    parameters, label = [*network.parameters()], torch.zeros(32).long()
    for step in range(80):
        stripes = torch.randint(2, (32, 9))[:, torch.arange(25) // 5 + torch.arange(25) % 5]
        loss = F.cross_entropy(network(stripes, label).flatten(0, 1), stripes.flatten())
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.01 * (1 - step / 80) * slope.sign()
    return loss.item() / 0.693  # in bits


# %%
torch.manual_seed(0)
shape = Shape(width=32, layers=2, heads=2)
small = {"raster order": ImageGPT(shape, K=2, n=25, classes=1), "NAR": NAR(shape, K=2, side=5, classes=1)}
pays = {name: learn(network) for name, network in small.items()}
print(", ".join(f"{name} {bits:.2f} bits a cell" for name, bits in pays.items()))
print("slant:", ", ".join(f"{name} {table[name]['slant']:+.1f} %" for name in ("real", "raster", "nar")))
assert pays["raster order"] < 0.7 < 0.9 < pays["NAR"]

# %% [markdown]
# NAR tosses a coin for each cell. In photographs it leaves a trace, the **slant**: by how much more codes differ
# between (i, j + 1) and (i + 1, j), which NAR draws at once, than between (i, j) and (i + 1, j + 1).
#
# ## Exercises
#
# **1. Your own logits.** From the recipe: all logits, (b, n, K), of any `NAR` from its `label`, `code`, `position`,
# `places`, `distance`, `body.blocks`, `right_norm`, `body.norm` and `below_layers`.


# %%
def all_logits(model, codes, labels):
    return torch.zeros(*codes.shape, model.K)  # replace this


# %%
def check_1(all_logits):
    torch.manual_seed(0)
    for side, below_layers in ((3, 1), (4, 2), (1, 1)):
        tried = NAR(Shape(16, 3, 2), K=5, side=side, classes=2, below_layers=below_layers).eval()
        codes, labels = torch.randint(5, (2, side * side)), torch.tensor([0, 2])
        apart = (all_logits(tried, codes, labels) - tried(codes, labels)).abs().amax((0, 2))
        if apart.max() > 1e-4:
            return f"side {side}, {below_layers} layers below: cell {int(apart.argmax())} is off by {apart.max():.2g}"
    return "right, for any side and any number of layers below"


check_1(all_logits)

# %% [markdown]
# **2. Any grid.** Return the groups for a grid of any shape, such as (frames, rows, columns): cells are numbered in
# raster order and grouped by the sum of their coordinates.


# %%
def waves(shape):
    return [[k] for k in range(torch.tensor(shape).prod())]  # replace this: raster order


def check_2(waves):
    for shape, expected in (((2, 3), [[0], [1, 3], [2, 4], [5]]), ((2, 2, 2), [[0], [1, 2, 4], [3, 5, 6], [7]])):
        if (found := [sorted(group) for group in waves(shape)]) != expected:
            return f"a grid of {shape} should give {expected}, not {found}"
    return f"right: a film of 8 frames of 16 x 16 takes {len(waves((8, 16, 16)))} calls instead of 2048"


check_2(waves)

# %% [markdown]
# Solutions: `notebooks/src/solutions/04_generate/06_nar.py`.
#
# ## What was left out, and where we differ
#
# | | paper's release | here |
# |---|---|---|
# | read-out | a matrix a head | one matrix, so the mean may be taken before it |
# | positions | rotary | and a learnt vector a place |
# | class token | queries and keys turned to zero | a place, up and left of the grid |
#
# Also PAR-4X, a third head for films, and pictures for a text. Read on: [the overview](00_overview.ipynb) ranks all
# orders of this chapter at the same work.
