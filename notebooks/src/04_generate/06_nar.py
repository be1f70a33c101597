# %% [markdown]
# # NAR: draw the next neighbours, a whole diagonal at once
#
# **Paper:** He, He, He, Chen, Zhou, Zhang and Zhuang, *Neighboring Autoregressive Modeling for Efficient Visual
# Generation*, 2025 ([arXiv 2503.10696](https://arxiv.org/abs/2503.10696)).
# **Code:** `minitok/generate/nar.py`.
# **Read first:** [raster autoregression](01_raster.ipynb).
#
# Raster order takes 256 calls of the network for 256 codes, one after another. You will build a generator that starts
# in a corner and lets the picture grow to the right and down at once: 31 calls. And you will see what that costs.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import clothing, photographs
from minitok.generate import generate
from minitok.generate.nar import NAR, diagonals
from minitok.generate.raster import ImageGPT
from minitok.nn import Cache, Shape
from minitok.stages.generate import Several

# %% [markdown]
# Both networks are the house's: `image_gpt` draws in raster order, `nar` by neighbours. They have the same width and
# number of layers (and so nearly the same number of parameters), and learnt from the same data for the same number of
# steps, once each. (The photographs of clothes
# are a download; without them, crops of other photographs stand in, and figures differ.)

# %%
tokenizer, raster, model = house.load("tokenizer"), house.load("image_gpt"), house.load("nar")
there = clothing.at_hand()
photos = clothing.load("test").images[::12] if there else photographs.crops(31, 64)
labels = clothing.load("test").labels[::12] if there else torch.full((31,), 10)
with torch.no_grad():
    codes = tokenizer.encode(photos)[..., 0]


def paint(codes):
    return tokenizer.decode(codes[..., None])


def price(logits, codes):
    """What each code costs, in bits."""
    return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none") / torch.tensor(2.0).log()


# %% [markdown]
# ## The problem: several codes from one call
#
# To spare calls, draw several codes from one. Take the network of raster order and draw the next 8 codes, all by the
# probabilities of the first of them (`Several` does that; 32 calls). Below that, the same network with 256 calls.

# %%
classes = torch.tensor([0, 2, 3, 4])
rash, slow = generate(Several(raster, 8), classes, seed=1), generate(raster, classes, seed=1)
title = f"Raster order: {rash.calls} calls above, {slow.calls} below"
viz.show(viz.images(paint(torch.cat([rash.codes, slow.codes])), columns=4, height=0.96, title=title), photo=True)

# %% [markdown]
# The upper row is lost. Only the first of the 8 codes has its own prediction. And codes side by side depend on each
# other: draw them at once, and one edge does not meet the next. What is drawn at once should not lie side by side, and
# should be predicted from nearby.
#
# ## The idea: grow from a corner
#
# Number the cells by their distance from the upper left corner in steps to the right or down: for cell (i, j) it is
# $c = i + j$. Cells of one distance form a diagonal. No two of them share a side, and the left and the upper neighbour
# of each lie on the diagonal before. So draw diagonal after diagonal.

# %%
row, column = torch.arange(256) // 16, torch.arange(256) % 16
distance = row + column
figure, axes = viz.panel("One number: one call", "column", "row", 3.4, 3.2)
axes.imshow(distance.view(16, 16)[:8, :8], cmap="Blues", vmax=25)
for k in torch.nonzero((row < 8) & (column < 8)).flatten():
    axes.text(int(column[k]), int(row[k]), str(int(distance[k])), ha="center", va="center", size=8)
axes.grid(visible=False)
viz.show(figure, alt="an 8 x 8 corner of the grid, each cell with its distance from the first")

# %% [markdown]
# The upper left quarter of our grid of 16 x 16. Cells of one number are drawn in one call.
#
# ## The mechanism, step by step
#
# **1. The schedule.** The cells of each distance form a group: for a grid of n x n there are $2n - 1$.

# %%
groups = [torch.nonzero(distance == c).flatten().tolist() for c in range(31)]
print(f"{len(groups)} groups; the first ones: {groups[:4]}")
assert len(groups) == 2 * 16 - 1
assert [list(group) for group in diagonals(16).groups] == groups

# %% [markdown]
# **2. Who sees whom.** The class is a token, and so is each code. A token may look at all tokens whose distance is not
# larger than its own, its own diagonal with them: when it is read, its whole diagonal has been drawn. The class gets
# the place (-1, -1), before all. The last cell has nobody to predict, so it is no token: 256 tokens in all.

# %%
places = torch.cat([torch.full((1, 2), -1.0), torch.stack([row, column], dim=1)[:-1].float()])
ranks = places.sum(1)
seen = ranks[:, None] >= ranks  # (256, 256): who looks, at whom
figure, axes = viz.panel("The mask is a staircase", "token looked at", "token that looks", 4.6, 4)
order = ranks.argsort(stable=True)
axes.imshow(seen[order][:, order].float(), cmap="Blues", vmax=1.5)
axes.grid(visible=False)
viz.show(figure)

# %% [markdown]
# Tokens are shown in the order of drawing. Each step of the staircase is a diagonal; raster order would have 256 steps
# of one token. What is known when the same cell, in row 6 and column 8, is about to be drawn?

# %%
at = 6 * 16 + 8
known = {"raster order": torch.arange(256) < at, "NAR": distance < distance[at]}
clear = [k.view(1, 16, 16).repeat_interleave(4, 1).repeat_interleave(4, 2) for k in known.values()]
faded = torch.stack([torch.where(k, photos[9], 0.15 * photos[9] + 0.85) for k in clear])
titles = [f"{name}: {int(k.sum())} cells" for name, k in known.items()]
viz.show(viz.images(faded, titles, height=1.92), photo=True)

# %% [markdown]
# Nearly as many cells, but other ones: raster order knows more at the upper right, NAR at the lower left.
#
# **3. Two heads.** In raster order a token predicts one thing, what comes next. Here it has two neighbours to predict:
# the one to its right and the one below. For each there is a *head*. To each token the vector of its place is added.
# Both heads share a trunk of four layers, whose queries and keys are turned by row and column (rotary positions of two
# axes). The right head is a norm behind the trunk. The head below is one more layer
# and a norm of its own.


# %%
def heads(x, tokens, seen=None, cache=None):
    x = x + model.position[tokens]
    for i, block in enumerate(model.body.blocks):
        past = partial(cache.extend, i) if cache is not None else None
        x = block(x, places[tokens][None], seen, None, past)
        if i == 3:
            trunk = x
    return model.right_norm(trunk), model.body.norm(x)


# %%
tokens = torch.arange(256)
x = torch.cat([model.label(labels)[:, None], model.code[codes[:, :-1]]], dim=1)
right, below = heads(x, tokens, seen)
print("what 256 tokens say of the cells to the right and below:", tuple(right.shape), tuple(below.shape))

# %% [markdown]
# **4. The mean of two opinions.** A cell inside is predicted twice: by the right head of its left neighbour and by the
# head below of its upper one. Their logits are averaged. In row 0 there is only a left neighbour, in column 0 only an
# upper one, and the first cell asks both heads of the class. Token 0 is the class and token k + 1 holds cell k, so the
# left neighbour of cell k is token k, the upper one token k - 15.


# %%
def mixed(right, below, tokens, cells):
    slot, logits = {int(token): i for i, token in enumerate(tokens)}, []
    for k in cells:
        said = [right[:, slot[k]]] if k % 16 else []
        said += [below[:, slot[k - 15]]] if k >= 16 else []
        said = said or [right[:, 0], below[:, 0]]
        logits.append(torch.stack([vectors @ model.code.T for vectors in said]).mean(0))
    return torch.stack(logits, dim=1)


logits = mixed(right, below, tokens, range(256))
surprise = price(logits, codes)
print(f"{float(surprise.mean()):.2f} bits a code for photographs that it has not seen")

# %% [markdown]
# **5. Draw.** A call reads the diagonal just drawn, keeps its keys and values in the cache, and gives the logits of the
# next diagonal. Each of its cells is then drawn for itself.


# %%
def draw(labels, seed=0):
    generator, cache, frames = torch.Generator().manual_seed(seed), Cache(), []
    drawn, tokens, x = labels.new_zeros(len(labels), 256), [0], model.label(labels)[:, None]
    for group in groups:
        logits = mixed(*heads(x, tokens, cache=cache), tokens, group)
        p = logits.softmax(-1).flatten(0, 1)
        drawn[:, group] = torch.multinomial(p, 1, generator=generator).view(len(labels), len(group))
        frames.append((drawn.clone(), logits))
        tokens, x = [k + 1 for k in group], model.code[drawn[:, group]]
    return frames


asked = torch.tensor([4, 0])  # pants and a dress
frames = draw(asked, seed=3)
print(len(frames), "calls")

# %% [markdown]
# **What you built is what the library has**, and what training sees is what drawing sees: the logits of all cells at
# once, behind the mask, are those of 31 calls from a cache.

# %%
torch.testing.assert_close(logits[:4], model(codes[:4], labels[:4]), atol=1e-3, rtol=0)
library = generate(model, asked, seed=3)
assert torch.equal(frames[-1][0], library.codes)
assert library.calls == len(frames) == 31
stepwise = torch.cat([step for _, step in frames], dim=1)
at_once = model(library.codes, asked)[:, model.schedule.order]
apart = float((stepwise - at_once).abs().max())
assert apart < 1e-3
print("logits, drawn codes and calls agree")

# %% [markdown]
# Watch it grow. What is not drawn yet is left blank, and painted around with a gray code, number 2,340.


# %%
def part(codes, done):
    """Pictures of the codes that are done, the rest blank."""
    whole = paint(torch.where(done, codes, 2340))
    return torch.where(done.view(1, 1, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3), whole, 0.93)


film = torch.stack([part(so_far, distance <= c) for c, (so_far, _) in enumerate(frames)])
film = film.permute(0, 2, 3, 1, 4).flatten(3)  # two pictures side by side
viz.animation(film, seconds=6, scale=3, alt="two pictures grow from their corners in 31 steps", kilobytes=45)

# %% [markdown]
# ## The experiment: what is won, and what it costs
#
# The league of this chapter measures both networks on the same work ([the overview](00_overview.ipynb) tells how). The
# Frechet distance says how far 744 drawn pictures are from the test photographs, as the house's classifier sees them;
# `real` are other photographs of the same classes. Guidance (lesson 1) doubles the operations.

# %%
table = {entry["method"]: entry for entry in stages.load("generate")["rows"]}
names = ["raster", "raster, guidance 1.5", "raster, 8 codes a call", "nar", "nar, guidance 1.5"]
for name in names:
    had = table[name]
    print(f"{name:22} {had['calls']:3} calls, {had['GFLOP']:.1f} billion operations, ", end="")
    print(f"Frechet distance {had['Frechet']:4.1f}, {had['right']:2.0f} % of the class")
print(f"{'real':22} Frechet distance {table['real']['Frechet']:4.1f}")

# %%
quicker = {"one picture": "alone", "a batch of 32": "in 32"}
ratio = {name: table["raster"][key] / table["nar"][key] for name, key in quicker.items()}
viz.show(viz.bars(ratio, "Fewer calls, less time: most for one picture", "times faster than raster order", digits=2))

# %% [markdown]
# The operations are the same: each code is read once, by as many layers. What is saved is waiting: a call for one
# picture hardly keeps a processor busy, and 31 larger ones keep it busier. With many pictures at once less is won.
#
# And the price? The networks' cards hold figures of 5,000 drawn pictures each, and bits for all test photographs. (Here
# classes were asked for as often as among the training photographs, which differ from the test photographs in that: all
# distances are larger than the league's, and the last line is as low as one can hope for.)

# %%
cards = {name: house.card(name)["figures"] for name in ("image_gpt", "nar")}
far, bits = "Frechet distance of 5,000 samples", "bits a code on the test photographs"
for name, card in cards.items():
    print(f"{name:9} Frechet distance {card[far]:4.1f}, {card[bits]:.2f} bits a code")
photographs_are = cards["image_gpt"]["Frechet distance of the training photographs"]
print(f"3,068 training photographs: Frechet distance {photographs_are:.1f}")

# %% [markdown]
# NAR is worse by the Frechet distance of the league, by that of 5,000 pictures, and by bits; with guidance by less.
# Where does it lose? Take for each cell how many bits it pays more than raster order.

# %%
in_rows = price(raster(codes, labels), codes)
gap = (surprise - in_rows).mean(0).view(16, 16)
figure, axes = viz.panel("NAR pays more on the left", "column", "row", 4.6, 3.6)
drawn = axes.imshow(gap, cmap="RdBu_r", vmin=-1.5, vmax=1.5)
axes.grid(visible=False)
figure.colorbar(drawn, label="bits more than raster order")
viz.show(figure)

# %%
more = torch.tensor([int((distance < distance[k]).sum()) - k for k in range(256)]).float().view(16, 16)
for name, part_of in {"columns 0 to 4": slice(5), "columns 11 to 15": slice(11, 16)}.items():
    print(f"{name}: NAR knows {more[:, part_of].mean():+.0f} cells, pays {gap[:, part_of].mean():+.2f} bits a code")
assert gap[:, :5].mean() > gap[:, 11:].mean()

# %% [markdown]
# On the left NAR knows fewer cells than raster order when it predicts, on the right more. What remains may have several
# causes, which this cannot tell apart: cells of a diagonal do not know of each other, the right head has a layer less,
# two opinions are averaged, and each network was trained once, with settings chosen for raster order.
#
# ## Play: after so many calls
#
# The same class, after equally many calls of either network.

# %%
rows, fans = slow.codes[3:], library.codes[:1]  # pants, by either network


def after(calls=16):
    both = torch.cat([part(rows, torch.arange(256) < calls), part(fans, distance < calls)])
    titles = [f"raster: {min(calls, 256)} codes", f"NAR: {int((distance < calls).sum())} codes"]
    return viz.show(viz.images(both, titles, height=1.92, title=f"After {calls} calls"), photo=True)


after()

# %%
control = viz.slider(after, calls=[1, 4, 8, 16, 24, 31, 64, 128, 192, 256])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours, theirs, eight = table["nar"], table["raster"], table["raster, 8 codes a call"]
both = table["nar, guidance 1.5"], table["raster, guidance 1.5"]
throughput, fid, less = "2.4 x PAR-4X (abstract)", "FID below PAR-4X (abstract)", {"higher": False}
plain = less | {"paper": "not in the abstract"}
measures = [
    papers.exact("logits of 31 cached calls are those of one masked call", apart < 1e-3),
    papers.better("calls for 16 x 16 codes", library.calls, than=theirs["calls"], **less, paper="2n - 1"),
    papers.better("speed, one picture on a CPU", ratio["one picture"], than=1, margin=0.5, paper=throughput),
    papers.better("Frechet distance, raster order", cards["nar"][far], than=cards["image_gpt"][far], **plain),
    papers.better("the same, guidance 1.5 for both", both[0]["Frechet"], than=both[1]["Frechet"], **plain),
    papers.better("Frechet distance, 8 codes a call", ours["Frechet"], than=eight["Frechet"], **less, paper=fid),
]

# %%
claim = papers.verdict(
    "nar",
    "Diagonals take 2n - 1 calls instead of n x n, are faster, and the pictures are as good or better.",
    measures,
    against="raster order: same width, layers, data and steps; the same, 8 codes a call, not trained for that",
    data="3,068 photographs of clothes; drawn: 5,000 against raster order (cards), else twice 744 (league)",
)
assert claim.outcome == "holds in part"

# %% [markdown]
# The calls are a fact, and they buy time. That the pictures are as good does not hold here: they are worse than those
# of raster order, with guidance by little. The paper's rival is PAR-4X, which draws four cells far apart at once and is
# trained for it; we did not train it. Our stand-in, 8 codes from a call of a network that never learnt that, is weak.
#
# ## Where it breaks: what lies on one diagonal
#
# Cells of a diagonal are drawn each by itself. If they depend on each other, no training helps. An extreme case: each
# of the 9 diagonals of 5 x 5 cells has one of two colours. A picture takes 9 bits.


# %%
def stripes(b):
    return torch.randint(2, (b, 9))[:, torch.arange(25) // 5 + torch.arange(25) % 5]


def learn(network, steps=80):
    optimizer, label = torch.optim.AdamW(network.parameters(), 6e-3, weight_decay=0.0), torch.zeros(32).long()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(steps):
        drawn = stripes(32)
        F.cross_entropy(network(drawn, label).flatten(0, 1), drawn.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return network.eval().requires_grad_(False)


# %%
torch.manual_seed(0)
shape, test, none = Shape(width=32, layers=2, heads=2), stripes(200), torch.zeros(200).long()
small = {"raster": ImageGPT(shape, K=2, n=25, classes=1), "NAR": NAR(shape, K=2, side=5, classes=1)}
pays, pictures = {}, [test[:5]]
for name, network in small.items():
    pays[name] = float(price(learn(network)(test, none), test).mean())
    pictures.append(generate(network, none[:5]).codes)
print(", ".join(f"{name} {bits:.2f} bits a code" for name, bits in pays.items()), f"(possible: {9 / 25:.2f})")
assert pays["raster"] < 0.6
assert pays["NAR"] > 0.95

# %%
squares = 0.15 + 0.7 * torch.cat(pictures).float().view(15, 1, 5, 5)
viz.show(viz.images(squares, columns=5, height=0.9, title="Above real stripes, then raster order, below NAR"))

# %% [markdown]
# NAR tosses a coin for each cell. (Stripes that fall to the right it could draw: there the colour comes down from the
# diagonals before.) In photographs this is faint, but it leaves a trace. Cells (i, j + 1) and (i + 1, j) touch at a
# corner, and NAR draws them at once; (i, j) and (i + 1, j + 1) touch as well, and are drawn in turn. In photographs
# both pairs differ about as much, by the mean difference of their codes' levels. By how many percent does the first
# pair differ more in drawn ones?

# %%
for name in ("real", "raster", "nar"):
    print(f"{name:7} {table[name]['slant']:+.1f} %")
assert table["nar"]["slant"] > table["raster"]["slant"] + 0.7

# %% [markdown]
# And a network must draw as it was trained: one of raster order cannot be used by diagonals, nor the other way round.
# Exercise 3 shows how much a small change of the mask costs.
#
# ## Exercises
#
# **1. Any grid.** Return the groups for a grid of any shape, such as (rows, columns) or (frames, rows, columns): cells
# are numbered in raster order and grouped by the sum of their coordinates.


# %%
def waves(shape):
    return [[k] for k in range(torch.tensor(shape).prod())]  # replace this: raster order


def check_1(waves):
    for shape, expected in (((2, 3), [[0], [1, 3], [2, 4], [5]]), ((2, 2, 2), [[0], [1, 2, 4], [3, 5, 6], [7]])):
        if (found := [sorted(group) for group in waves(shape)]) != expected:
            return f"a grid of {shape} should give {expected}, not {found}"
    return f"right: a film of 8 frames of 16 x 16 takes {len(waves((8, 16, 16)))} calls instead of 2048"


check_1(waves)

# %% [markdown]
# **2. Two ways to average.** The mean of logits multiplies two opinions: what either thinks impossible is out. The mean
# of *probabilities* lets each have half a vote. Return the logarithm of the mean of both probabilities, from logits.


# %%
def vote(a, b):
    return (a + b) / 2  # replace this: the mean of logits


def check_2(vote):
    a, b = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.3, 0.7]).log()
    if not torch.allclose(vote(a, b + 3).exp(), torch.tensor([0.6, 0.4]), atol=1e-5):
        return "of (0.9, 0.1) and (0.3, 0.7) the mean is (0.6, 0.4); adding 3 to all logits must not change that"
    k = torch.nonzero((row > 0) & (column > 0)).flatten()
    votes = vote(right[:4, k] @ model.code.T, below[:4, k - 15] @ model.code.T)
    pay = [float(price(x, codes[:4, k]).mean()) for x in (votes, logits[:4, k])]
    return f"right: {pay[0]:.2f} bits a code by votes, {pay[1]:.2f} by the mean of logits"


check_2(vote)

# %% [markdown]
# **3. Another mask.** Return a mask (256, 256) under which a token sees itself and the diagonals before its own, but
# not the others of its own diagonal. `ranks` is at hand. What does the trained network pay under it?


# %%
def alone(ranks):
    return ranks[:, None] >= ranks  # replace this: the mask of above


def check_3(alone):
    mask = alone(ranks)
    if not mask.diagonal().all() or (mask.sum(1) != (ranks < ranks[:, None]).sum(1) + 1).any():
        return "a token should see itself and exactly those of smaller distance"
    other = mixed(*heads(x[:4], torch.arange(256), mask), torch.arange(256), range(256))
    pay = [float(price(y, codes[:4]).mean()) for y in (other, logits[:4])]
    return f"right: {pay[0]:.2f} bits a code under it, {pay[1]:.2f} under the mask of training"


check_3(alone)

# %% [markdown]
# Solutions: `notebooks/src/solutions/04_generate/06_nar.py`.
#
# ## What was left out
#
# PAR-4X, as said. Films, for which the paper adds a third head that predicts the next frame. Pictures for a text. And
# two details of the release: each head has a table of its own to read out by, where ours share one (so that the mean
# may be taken before it), and the class has no place there. Read on: [the overview](00_overview.ipynb) ranks all orders
# of this chapter at the same work.
