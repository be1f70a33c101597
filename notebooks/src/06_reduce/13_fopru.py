# %% [markdown]
# # FoPru: keep what the others look at, or the whole row
#
# **Paper:** Jiang, Huang, Liu, Zeng, Li, Cheng and Xu, *FoPru: Focal Pruning for Efficient Large Vision-Language
# Models*, 2024 ([arXiv 2411.14164](https://arxiv.org/abs/2411.14164)).
# **Code:** `minitok/reduce/fopru.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# Of this paper only the abstract and the opening of the introduction could be read here; the formulas rest on them and
# on a serving system of the same authors (HydraInfer). You will score tokens by the attention that they receive, keep
# the best tokens or the best rows, and see which of the two can still read a line of handwriting.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import clothing, mnist, photographs
from minitok.metrics import accuracy
from minitok.reduce import Reduction, cost, highest, once
from minitok.reduce.fopru import fopru, rows, significance
from minitok.reduce.random_drop import random_drop

# %% [markdown]
# ## The problem: a line of writing has no spare tokens
#
# The house's vision transformer cuts a photograph of 64 x 64 pixels into a grid of 16 x 16 patches, each of 4 x 4
# pixels and a token. We write four digits by hand (MNIST, 16 pixels high) across photographs of clothes, each line at a
# random height. (The photographs are a download; without them we take crops of others, and a class is "right" if it is
# what the network says with all tokens.)

# %%
vit, reader, there = house.load("vit"), house.load("digits"), clothing.at_hand()
images = clothing.load("test").images[::6] if there else photographs.crops(62, 64)
hand, some = mnist.load("test"), [14, 36, 47, 58]


def write(photos, seed):
    """The photographs with a line of digits, the ink, the heights of the lines, and which digits they are."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(hand.labels), (len(photos), 4), generator=generator)
    height = torch.randint(0, 49, (len(photos),), generator=generator).tolist()
    small = F.interpolate(hand.images[which].flatten(0, 1), (16, 16), mode="area").unflatten(0, which.shape)
    lines = torch.cat([small[:, i] for i in range(4)], dim=-1)  # (b, 1, 16, 64)
    ink = torch.stack([F.pad(line, (0, 0, y, 48 - y)) for line, y in zip(lines, height, strict=True)])
    return photos * (1 - ink) + ink, ink, height, which


# %%
written, ink, height, which = write(images, seed=0)
viz.show(viz.images(written[some], height=0.96, title="Who can read it when most tokens are gone?"), photo=True)

# %% [markdown]
# The reader is the house's digit classifier. It gets the ink of the kept patches, and knows where each digit would be;
# what was pruned is black.


# %%
def clear(reduction):
    """1 in the pixels of kept patches, 0 elsewhere: (b, 1, 64, 64)."""
    mask = torch.zeros(len(reduction.order), 256).scatter(1, reduction.order, 1).view(-1, 1, 16, 16)
    return mask.repeat_interleave(4, 2).repeat_interleave(4, 3)


def said(reduction, of=slice(None), ink=ink, height=height):
    """The reader's logits for the four digits of each picture, from what is kept: (b, 4, 10)."""
    left = ink[of] * clear(reduction)
    strips = torch.stack([strip[:, y : y + 16] for strip, y in zip(left, height[of], strict=True)])
    crops = strips.unfold(3, 16, 16).permute(0, 3, 1, 2, 4).flatten(0, 1)
    return reader(F.interpolate(crops, (28, 28), mode="bilinear")).unflatten(0, (-1, 4))


# %%
def read(reduction, ink=ink, height=height, which=which):
    return 100 * accuracy(said(reduction, ink=ink, height=height), hand.labels[which])


k = 80  # five rows of 16 tokens: a line that is 4 patches high lies in 4 or 5 rows
everything = Reduction.keep(torch.arange(256).expand(62, -1), 256)
by_lot = random_drop(torch.zeros(62, 256, 1), k)
print(f"digits read from all 256 tokens: {read(everything):.0f} %, from {k} random ones: {read(by_lot):.0f} %")
assert read(by_lot) < 40 < 90 < read(everything)

# %% [markdown]
# Lots were good enough to tell a shirt from a shoe. A digit lies in 16 or 20 patches, and each of them matters.
#
# ## The idea: let attention point
#
# In each layer of a vision transformer every token looks at every other one: row i of the **attention** map says which
# shares of its attention token i *pays* to whom. Column j says what token j *receives*. What many look at must be worth
# keeping. Here is what each patch receives in layer 5 (of 8, counted from 0), the mean over all that look and over the
# heads, the maps that a layer has side by side:

# %%
seen, received = {}, {}


def look(layer):
    received[layer.index] = layer.attention[:, :, 1:, 1:].mean((1, 2))  # without CLS, token 0
    if layer.index == 5:
        seen.update(hidden=layer.hidden, attention=layer.attention[:, :, 1:, 1:])


vit(written, look)
x, attention = seen["hidden"][:, 1:], seen["attention"]  # (62, 256, 192) and (62, 3, 256, 256)


# %%
def bright(scores):
    scores = (scores / scores.amax(-1, keepdim=True)).view(-1, 1, 16, 16).expand(-1, 3, -1, -1)
    return scores.repeat_interleave(4, 2).repeat_interleave(4, 3)


shown = torch.cat([written[some], bright(received[5][some])])
viz.show(viz.images(shown, columns=4, height=0.96, title="Bright: much attention received, in layer 5"), photo=True)

# %% [markdown]
# Nobody told the network about digits; it was trained on clothes. In the maps, each scaled to its own peak, they are
# hard to see. So measure: how much attention does a patch with ink receive, against the mean of all patches?

# %%
inky = F.avg_pool2d(ink, 4).flatten(1) > 0.1  # (62, 256)
ratios = [float(scores[inky].mean() / scores.mean()) for scores in received.values()]
print("a patch with ink receives, layer by layer,", ", ".join(f"{ratio:.1f}" for ratio in ratios), "times the mean")
assert ratios[5] == max(ratios) > 1.2 or not there

# %% [markdown]
# More than the mean in layer 5, not by much, and in several layers no more than any patch.
#
# ## The mechanism, step by step
#
# **1. Significance.** With H heads and N tokens, $\phi_j = \frac{1}{HN} \sum_h \sum_i A_{h,i,j}$.

# %%
b, _, n, _ = attention.shape
phi = attention.mean((1, 2))  # over heads and payers
print(f"picture 36: significance from {phi[36].min():.4f} to {phi[36].max():.4f}; an even share would be {1 / n:.4f}")

# %% [markdown]
# **2. The rank strategy.** Keep the k tokens of largest $\phi$, wherever they are.

# %%
order = phi.argsort(dim=-1, descending=True, stable=True)  # of equal ones the lower number first
by_rank = order[:, :k].sort(-1).values
print("rank:", by_rank[36, :16].tolist(), "...")

# %% [markdown]
# **3. The row strategy.** Add $\phi$ up along each row of the grid, and keep the rows of largest sum, whole. A token in
# a gap between two strokes stays because its row is good. The price: k must be a number of whole rows. (A reduction
# promises exactly k tokens. Rank, the default, does so for any k; rows refuse a k that is not a multiple of 16.)

# %%
sums = phi.view(b, 16, 16).sum(-1)
best = sums.argsort(dim=-1, descending=True, stable=True)[:, : k // 16].sort(-1).values
by_row = (16 * best[..., None] + torch.arange(16)).flatten(1)
print("rows kept:", best[36].tolist(), "and the line lies in rows", height[36] // 4, "to", (height[36] + 15) // 4)

# %% [markdown]
# **4. Back in order.** Above, `.sort(-1)` puts what is kept back in the order of the picture. A language model that
# counts its tokens' positions anew needs this. Our network does not: positions are already in the tokens, and
# attention without a mask cannot tell an order. A check further down shows it.
#
# **What you built is what the library has.**

# %%
for strategy, built in {"rank": by_rank, "row": by_row}.items():
    reduction = fopru(x, k, attention=attention, strategy=strategy, grid=(16, 16))
    assert torch.equal(reduction.order, built)
    assert torch.equal(reduction.apply(x), x.gather(1, built[..., None].expand(-1, -1, 192)))
assert torch.allclose(significance(attention), phi)
assert torch.equal(rows(phi, k, (16, 16)), by_row)
assert torch.equal(fopru(x, 256, attention=attention).apply(x), x)
print("both strategies agree, and 256 of 256 tokens are all of them")

# %%
choices = {"by lot": by_lot, "rank": Reduction.keep(by_rank, 256), "row": Reduction.keep(by_row, 256)}
faded = [written * clear(c) + (0.15 * written + 0.85) * (1 - clear(c)) for c in choices.values()]
four = torch.stack([written[36], *(picture[36] for picture in faded)])
viz.show(viz.images(four, ["all tokens", *(f"{name}: {k}" for name in choices)], height=1.6), photo=True)

# %% [markdown]
# ## The experiment: which layer?
#
# Why layer 5? What we could read of the paper does not name a layer. A language model such as LLaVA reads the
# second-last layer of its encoder, in our network layer 6. So here are all
# layers, with 80 tokens, on other photographs with other digits: what we measure on must not choose.

# %%
others = clothing.load("test").images[3::6] if there else photographs.crops(62, 64, seed=2)
(pages, *page), heard = write(others, seed=3), []
vit(pages, lambda layer: heard.append(layer.attention[:, :, 1:, 1:].mean((1, 2))))
names = {"row": "ours: whole rows", "rank": "rank", "lots": "baseline: lots"}


def by_layer(maps, *page):
    kept = {"row": [rows(scores, k, (16, 16)) for scores in maps], "rank": [highest(scores, k) for scores in maps]}
    return {name: [read(Reduction.keep(choice, 256), *page) for choice in choices] for name, choices in kept.items()}


# %%
layers, measured = by_layer(heard, *page), by_layer(received.values())
assert max(range(8), key=lambda i: layers["row"][i]) == 5 or not there
assert all(found["row"][i] > found["rank"][i] for found in (layers, measured) for i in (5, 6, 7)) or not there
series = {names[name]: (range(8), percents) for name, percents in layers.items()}
levels = {"baseline: lots": sum(read(random_drop(x, k, seed=seed), *page) for seed in range(3)) / 3}
viz.show(viz.lines(series, "The layer decides", "layer that gives the scores", "digits read (%)", levels=levels))

# %% [markdown]
# Early layers look elsewhere, and layer 6, the second-last, finds much less of the line. So we take layer 5: who
# borrows the method must try layers first. From layer 5 on rows lead, in layer 6 too.
#
# ## The experiment: reading
#
# Back to our 62 pictures. Equal numbers of tokens for all, in whole rows; lots are the mean of three draws.

# %%
counts, digits = (32, 64, 80, 128), {"row": [], "rank": [], "lots": []}
for count in counts:
    for strategy in ("row", "rank"):
        reduction = fopru(x, count, attention=attention, strategy=strategy, grid=(16, 16))
        digits[strategy].append(read(reduction))
    digits["lots"].append(sum(read(random_drop(x, count, seed=seed)) for seed in range(3)) / 3)
series = {names[name]: (counts, percents) for name, percents in digits.items()}
levels = {"muted: all tokens": read(everything)}
viz.show(viz.lines(series, "Rows keep digits whole", "tokens kept (of 256)", "digits read (%)", levels=levels))

# %% [markdown]
# Both find the line, and rows read more of it from as many tokens: rank misses strokes that few look at.
#
# ## The experiment: naming the class
#
# Now the photographs without writing. The task of the network itself is to name the class, from the CLS token. We prune
# in layer 5; the rest of the network reads what is left, and is not trained again.

# %%
vit_says = vit(images, look)
hidden, looks = seen["hidden"], seen["attention"]
tokens = hidden[:, 1:]
labels = clothing.load("test").labels[::6] if there else vit_says.argmax(-1)


def answers(reduction):
    x, block = reduction.beside(1).apply(hidden), vit.body.blocks[5]  # beside(1): CLS stays
    x = x + block.mlp(block.norm2(x))
    for block in vit.body.blocks[6:]:
        x = block(x, torch.zeros(1, x.shape[1]))
    return vit.head(vit.body.norm(x)[:, 0])


# %%
reduction = fopru(tokens, 64, attention=looks)
expected = vit(images[:4], once(5, 64, fopru))  # `once` hands the layer's attention to who asks for it
assert torch.allclose(answers(reduction)[:4], expected, atol=1e-3)
shuffled = Reduction.keep(reduction.order.flip(-1), 256)
assert torch.allclose(answers(shuffled), answers(reduction), atol=1e-3)
print("kept tokens in reverse: the same answers")

# %%
few, named = (128, 64, 32, 16), {"row": [], "rank": [], "lots": []}
for count in few:
    for strategy in ("row", "rank"):
        reduction = fopru(tokens, count, attention=looks, strategy=strategy, grid=(16, 16))
        named[strategy].append(100 * accuracy(answers(reduction), labels))
    draws = [accuracy(answers(random_drop(tokens, count, seed=seed)), labels) for seed in range(3)]
    named["lots"].append(100 * sum(draws) / 3)
full = 100 * accuracy(vit_says, labels)
series = {names[name]: (few, percents) for name, percents in named.items()}
title, axis, levels = "For the class lots do as well", "right answers (%)", {"muted: all tokens": full}
viz.show(viz.lines(series, title, "tokens kept (of 256)", axis, levels=levels))

# %%
price = [cost(vit.body, {5: count}, 256) / 1e9 for count in few]
series = {names[name]: (price, percents) for name, percents in named.items()}
x_axis = f"billion FLOPs a photograph (all tokens: {cost(vit.body, {}, 256) / 1e9:.2f})"
viz.show(viz.lines(series, "The same, against the cost", x_axis, axis, levels=levels))

# %% [markdown]
# With a quarter of the tokens little is lost, but lots lose as little: rank, rows and lots differ by a photograph or
# two. Attention received says what stands out; the class needs something of everything. And so late, little is saved:
# in the paper the language model that follows is far larger than the encoder.
#
# ## Play: what does the reader say?


# %%
def draw(k=80, strategy="row", picture=36):
    one = slice(picture, picture + 1)
    reduction = fopru(x[one], k, attention=attention[one], strategy=strategy, grid=(16, 16))
    mask, words = clear(reduction), " ".join(map(str, said(reduction, one)[0].argmax(-1).tolist()))
    faded = written[one] * mask + (0.15 * written[one] + 0.85) * (1 - mask)
    title = f"{strategy}, {k} tokens: {words}"
    return viz.show(viz.images(torch.cat([written[one], faded]), ["", title], height=1.92), photo=True)


draw()

# %%
control = viz.slider(draw, k=(16, 256, 16), strategy=["rank", "row"], picture=(0, 61))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
unit, paper = {"unit": "%"}, "large cuts at high accuracy (abstract)"
rank, row, lots = (digits[name][2] for name in ("rank", "row", "lots"))
measures = [
    papers.better("class right with 64 tokens", named["rank"][1], than=named["lots"][1], margin=3, **unit),
    papers.better("class, against all tokens", named["rank"][1], than=full, margin=-3, paper=paper, **unit),
    papers.better("digits, layer 5, rank against lots", rank, than=lots, margin=5, **unit),
    papers.better("digits, layer 5, rows against rank", row, than=rank, margin=5, **unit),
    papers.better("digits, layer 6, rows against lots", measured["row"][6], than=lots, margin=5, **unit),
]

# %%
claim = papers.verdict(
    "fopru",
    "The tokens that receive most attention in the encoder are the ones to keep; of a line of text, whole rows.",
    measures,
    against="as many random tokens of the same layer; where it says so, all tokens, or the rank strategy",
    data="every sixth clothing photograph of the test set (62), and a line of four MNIST digits on each",
)
assert claim.outcome == "holds in part" or not there
assert measured["row"][6] < 0.6 * row or not there
print(f"\nfrom 80 tokens by rows layer 6 reads {measured['row'][6]:.0f} %, layer 5 {row:.0f} %")

# %% [markdown]
# For the class, choosing by attention is no better than lots (at most 3 points under all tokens, two photographs, is as
# fine as we can see). For the line of text it is better, and rows help; but by the attention of layer 6 much less is
# read. The paper's language models are not here: a digit classifier and the last layers of the network read instead.
#
# ## Where it breaks: the layer, and the class
#
# In layer 3 the league of [the overview](00_overview.ipynb) compares all methods. There attention received chooses
# worse than lots for the class:

# %%
facts = stages.load("reduce")["rows"]
at = {(row["method"], row["tokens"]): row for row in facts if row["where"] == "once"}
for count in (128, 64, 32, 16, 8):
    told = [
        f"{at[name, count]['right']:.1f} % right, {at[name, count]['moved']:.2f} bits"
        for name in ("fopru", "random_drop")
    ]
    print(f"{count:3} tokens: FoPru {told[0]}; lots {told[1]}")
    assert at["fopru", count]["moved"] > at["random_drop", count]["moved"]

# %% [markdown]
# ## Does it break by sinks? Not here
#
# In large vision transformers a few tokens of the background draw much of the attention, as *sinks* in which the
# network keeps notes of its own ([arXiv 2309.16588](https://arxiv.org/abs/2309.16588)). A score of attention would keep
# those first. Does ours have them? How much more than an even share does the most looked-at patch get, and how many of
# the top 64 lie among the flatter half of the patches, with little to see?

# %%
pixels = images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)  # (62, 3, 16, 16, 16 pixels)
flatness = pixels.std(-1).mean(1).flatten(1)
flat = flatness < flatness.median(-1, keepdim=True).values
for layer, scores in received.items():
    peak, top = (scores.amax(-1) / scores.mean(-1)).mean(), highest(scores, 64)
    share = flat.gather(1, top).float().mean()
    print(f"layer {layer}: the peak gets {peak:.1f} times the mean; {share:.0%} are flat")
    assert peak < 8
    assert layer < 4 or share < 0.35 or not there

# %%
three = some[1:]
shown = torch.cat([images[three], bright(received[5][three]), bright(received[6][three])])
titles = ["photograph", "", "", "layer 5", "", "", "layer 6", "", ""]
viz.show(viz.images(shown, titles, columns=3, height=0.96, title="To garments, and to seams"), photo=True)

# %% [markdown]
# (Each map is scaled to its own peak.) No sinks to speak of in so small a network: from the middle on, attention goes
# to patches with something in them. But a seam of the floor is something, too, and neighbours that look alike are kept
# together, as the lesson on DivPrune shows.
#
# ## Exercises
#
# **1. Columns.** Some scripts run downwards. Write the strategy for columns: scores (b, n), k and the grid (rows,
# columns) give the tokens of the best columns, ascending.


# %%
def columns(scores, k, grid):
    return rows(scores, k, grid)  # replace this: rows, not columns


def check_1(columns):
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.3, 0.0, 0.8, 0.1, 0.0, 0.3]])
    for k, expected in {3: [2, 5, 8], 6: [1, 2, 4, 5, 7, 8]}.items():
        if (kept := columns(scores, k, (3, 3))[0].tolist()) != expected:
            return f"columns add up to 0.5, 0.9 and 1.3: with k={k}, {expected} should stay, not {kept}"
    if (kept := columns(scores[:, :6], 2, (2, 3))[0].tolist()) != [2, 5]:
        return f"a grid need not be square: of 2 x 3 tokens [2, 5] should stay, not {kept}"
    return f"right: {read(Reduction.keep(columns(phi, 80, (16, 16)), 256)):.0f} % of the digits, {row:.0f} % by rows"


check_1(columns)

# %% [markdown]
# **2. Received or paid?** HydraInfer scores each picture by attention received or attention paid (the mean over the
# *columns* of the map), whichever has the larger variance over the tokens. Write that score of attention (b, h, n, n).


# %%
def either(attention):
    return significance(attention)  # replace this: always what is received


def check_2(either):
    payers = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]]]])  # token 0 pays, token 1 does not; both receive alike
    if (found := either(payers).tolist()) != [[0.5, 0.0]]:
        return f"here what is paid varies more: [[0.5, 0.0]], not {found}"
    if either(torch.cat([payers, payers.mT])).tolist() != [[0.5, 0.0], [0.5, 0.0]]:
        return "each picture should be decided by itself"
    same = (either(attention) == significance(attention)).all(-1).float().mean()
    return f"right: for {same:.0%} of our pictures it is what is received"


check_2(either)

# %% [markdown]
# **3. As many rows as it takes.** Instead of a fixed k, find for each picture the smallest number of rows that hold a
# given share of its significance. Scores (b, n), the grid and the share give whole numbers (b).


# %%
def rows_needed(scores, grid, share):
    return torch.full((len(scores),), grid[0])  # replace this: all rows


def check_3(rows_needed):
    scores = torch.tensor([[0.1, 0.1, 0.4, 0.2, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]])
    needed = [rows_needed(scores, (3, 2), share).tolist() for share in (0.5, 0.7, 0.9)]
    if needed != [[1, 1], [2, 1], [3, 1]]:
        return f"rows hold 0.2, 0.6, 0.2 and 0, 1, 0: [[1, 1], [2, 1], [3, 1]] are needed, not {needed}"
    found = rows_needed(phi, (16, 16), 0.5).float()
    return f"right: half of the attention lies in {found.mean():.1f} of 16 rows"


check_3(rows_needed)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/13_fopru.py`.
#
# ## What was left out
#
# The paper runs several vision-language models and measures how much sooner their first word comes. Attention as a
# score has a price that FLOPs do not show: fast attention never writes the map out. Read on: **HiRED** spends a budget
# over the crops of a large picture by attention, **DivPrune** goes by difference alone.
