# %% [markdown]
# # Random token dropping: what a reduction is
#
# **Method:** no paper of its own. As a way to train faster it is *PatchDropout* (Liu and others, 2022,
# [arXiv 2208.07220](https://arxiv.org/abs/2208.07220)).
# **Code:** `minitok/reduce/random_drop.py`; what all methods share is in `minitok/reduce/_common.py`.
# **Read first:** the `vit` of [the house models](../00_start/02_house_models.ipynb).
#
# This chapter makes a trained network cheaper by giving it fewer tokens, without training it again. You will build the
# simplest way, throwing tokens away at random, and the form that all other ways share: a reduction is a matrix. Every
# later lesson has to beat this one.

# %%
from functools import partial

import torch

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy
from minitok.reduce import Reduction, cost, once, resume
from minitok.reduce.random_drop import random_drop

# %% [markdown]
# ## The problem: every patch costs the same
#
# The house's vision transformer cuts a photograph of 64 x 64 pixels into a grid of 16 x 16 patches, each of 4 x 4
# pixels. Each patch becomes a **token**, a vector of 192 numbers, and 8 layers work on all 256. One more token, CLS,
# comes first; the class of clothing is read from it. We take every sixth of the test photographs. (They are a download;
# without them we take crops of other photographs, and "right" then means: as the whole network says.)

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::6] if there else photographs.crops(62, 64)
everything = vit(images)
labels = clothing.load("test").labels[::6] if there else everything.argmax(-1)
full = 100 * accuracy(everything, labels)
print(f"{len(images)} photographs, {full:.1f} % right with all tokens")

# %% [markdown]
# A layer has two parts. In the *feed-forward part* each token is worked on alone, so the cost grows with the number n
# of tokens. In *attention* each token looks at every other one: part of its cost grows with $n^2$. Counted in
# multiplications and additions (FLOPs), if all 8 layers had n tokens:

# %%
for n in (256, 128, 64, 32, 16):
    print(f"{n:3} tokens: {cost(vit.body, {}, n) / 1e6:5.0f} million FLOPs a photograph")

# %% [markdown]
# Are all 256 needed? Much of a photograph is background. Say we want 32 tokens, an eighth, to go on from the middle of
# the network. Which? A first idea is to cut: keep the two top rows of patches, or a block in the centre, where the
# clothes are.

# %%
grid = torch.arange(256).view(16, 16)
places = {"two top rows": grid[:2].flatten(), "centre, 4 x 8": grid[6:10, 4:12].flatten()}


def keep_at(kept):
    return lambda x, k: Reduction.keep(kept.expand(len(x), -1), x.shape[1])


logits = resume(vit, images, layer=3)  # the first layers are the same for all that follows
right = {name: 100 * accuracy(logits(once(3, 32, keep_at(kept))), labels) for name, kept in places.items()}
for name, percent in right.items():
    print(f"{name}: {percent:.1f} % right, and {full:.1f} % with all tokens")

# %% [markdown]
# (`once` and `resume` are explained in step 5.) Both answer far worse. Now the same number of tokens, drawn by lot:

# %%
kept = torch.randperm(256, generator=torch.Generator().manual_seed(0))[:32].sort().values
right["by lot"] = 100 * accuracy(logits(once(3, 32, keep_at(kept))), labels)
print(f"by lot: {right['by lot']:.1f} % right")
assert right["by lot"] > max(right["two top rows"], right["centre, 4 x 8"]) + 3 or not there

# %%
photo = images[5]
mask = torch.zeros(256, dtype=torch.bool).scatter(0, kept, True)
viz.show(viz.patches(photo, 4, "32 of 256 tokens go on", mask), photo=True)

# %% [markdown]
# ## The idea: neighbours say nearly the same
#
# Two neighbouring patches are alike, and after a few layers each token has also looked at the others. So a sample
# spread over the picture says much, and lots are spread over it on average, for free: nothing is learnt, computed or
# looked at. How alike are neighbours in layer 3? The cosine of two tokens is 1 for the same direction, 0 for a right
# angle:

# %%
tokens = []
vit(images[:8], lambda layer: tokens.append(layer.hidden[:, 1:]) if layer.index == 3 else None)
unit = torch.nn.functional.normalize(tokens[0], dim=-1)
rows = unit.view(8, 16, 16, 192)
beside, anywhere = (rows[:, :, 1:] * rows[:, :, :-1]).sum(-1).mean(), (unit @ unit.mT).mean()
print(f"mean cosine of two neighbours {beside:.2f}, of any two tokens {anywhere:.2f}")
assert beside > anywhere + 0.2

# %% [markdown]
# ## The mechanism, step by step
#
# **1. Draw.** Give each token a random number; the k highest stay, in the order in which they stood. Here 8 tokens of 4
# channels, k = 3.

# %%
n, k = 8, 3
x = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(1))  # (b, n, c): one row of 8 tokens
lots = torch.rand(1, n, generator=torch.Generator().manual_seed(0))
kept = lots.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
print("lots:", [round(lot, 2) for lot in lots[0].tolist()])
print("kept:", kept[0].tolist())

# %% [markdown]
# **2. Keep.** Pick these rows of x.

# %%
y = x.gather(1, kept[..., None].expand(-1, -1, 4))
print(tuple(x.shape), "->", tuple(y.shape))

# %% [markdown]
# **3. See it as a matrix.** Picking rows is a product, $y = M x$, with a matrix M of k rows and n columns: a one where
# an output takes its token, zeros elsewhere.

# %%
M = torch.nn.functional.one_hot(kept, n).float()
print(M[0].int())
torch.testing.assert_close(M @ x, y)

# %% [markdown]
# The chapter's methods all have this form, with another M. **Pruning** keeps tokens: a one in each row. **Merging**
# takes the mean of some: each token goes into one output. **Blending** mixes at will. The rows of M always sum to 1,
# so that a new token is a mean of old ones. `Reduction` has a constructor for each; four tokens become two:

# %%
kinds = {
    "keep tokens 1 and 3": Reduction.keep(torch.tensor([[1, 3]]), n=4),
    "merge 0 with 2, and 1 with 3": Reduction.merge(torch.tensor([[0, 1, 0, 1]]), k=2),
    "blend": Reduction.blend(torch.tensor([[[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 2.0]]])),
}
for name, reduction in kinds.items():
    print(name, reduction.matrix()[0].tolist())

# %% [markdown]
# **4. The way back.** Some tasks want a value for each of the n tokens at the end. `restore` gives a merged token the
# value of its cluster, and zeros to one that was dropped: nothing is known of it. `sizes` tells how many tokens an
# output stands for. Pruned ones are lost from the count, merged ones are not. A blended token gets the mean of the
# outputs that it went into, and counts in each, by its shares: below, token 1 went half into each.

# %%
for name, reduction in kinds.items():
    back = reduction.restore(torch.tensor([[[10.0], [20.0]]]))[0, :, 0].tolist()
    sizes = reduction.sizes(torch.ones(1, 4))[0].tolist()
    print(name, "| restored:", [round(value, 1) for value in back], "| sizes:", [round(size, 2) for size in sizes])

# %% [markdown]
# **What you built is what the library has.** `random_drop` does these steps and returns a `Reduction`; its seed says
# which lots are drawn.

# %%
reduction = random_drop(x, k, seed=0)
assert torch.equal(reduction.order, kept)
assert torch.equal(reduction.apply(x), y)
assert torch.equal(reduction.matrix(), M)
assert not torch.equal(random_drop(x, k, seed=1).order, kept)
print("indices, tokens and matrix agree")

# %% [markdown]
# **5. Inside the network.** Our transformer calls `on_layer` in each layer, between attention and the feed-forward
# part, and shows it the tokens. If it returns a `Reduction`, the tokens are reduced there, and all later layers see
# only what is left. CLS must stay: `.beside(1)` leaves one token before the others alone.

# %%
seen = []


def on_layer(layer):
    seen.append(layer.hidden.shape[1])
    if layer.index == 3:
        return random_drop(layer.hidden[:, 1:], 32, seed=0).beside(1)
    return None


answers = vit(images[:4], on_layer)
print("tokens in each layer, CLS included:", seen)
torch.testing.assert_close(answers, vit(images[:4], once(3, 32, random_drop)), atol=1e-4, rtol=0)

# %% [markdown]
# `once(layer, k, method)` is this callback. `resume(vit, images, layer)` computes the layers before that one and
# returns the rest as a function, so that many reductions can be tried quickly.
#
# ## The experiment: how many tokens, and from which layer on?
#
# We drop after the attention of layers 1, 3 and 5 (they are numbered from 0), and keep 64 to 8 tokens. Luck plays a
# part, so each figure is the mean of three draws.

# %%
counts, draws, kept_right, price, runs = (64, 32, 8), {}, {}, {}, {3: logits}
methods = [partial(random_drop, seed=seed) for seed in range(3)]
for layer in (1, 3, 5):
    runs[layer] = runs.get(layer) or resume(vit, images, layer)
    for k in counts:
        draws[layer, k] = [100 * accuracy(runs[layer](once(layer, k, method)), labels) for method in methods]
        kept_right[layer, k] = sum(draws[layer, k]) / 3
        price[layer, k] = cost(vit.body, {layer: k}, 256) / 1e9
whole = cost(vit.body, {}, 256) / 1e9
for layer in (1, 3, 5):
    print(f"layer {layer}: " + ", ".join(f"{k} tokens {kept_right[layer, k]:.0f} %" for k in counts))
print("layer 3, 32 tokens, draw by draw:", ", ".join(f"{percent:.0f} %" for percent in draws[3, 32]))

# %%
levels, axis = {"all tokens": full}, "right answers (%)"
series = {f"after layer {layer}": (counts, [kept_right[layer, k] for k in counts]) for layer in (1, 3, 5)}
viz.show(viz.lines(series, "Later, fewer tokens are needed", "tokens kept (of 256)", axis, levels=levels))

# %% [markdown]
# Later is better for the answer: by then the tokens have told CLS, and each other, what they know. (One photograph of
# 62 is more than a point, so small bends mean nothing.) But later also saves less, since all layers before have worked
# on all tokens. The fair picture has the cost below:

# %%
prices = {layer: [price[layer, k] for k in counts] for layer in (1, 3, 5)}
series = {f"after layer {layer}": (prices[layer], [kept_right[layer, k] for k in counts]) for layer in (1, 3, 5)}
unit = f"billion FLOPs a photograph (all tokens: {whole:.2f})"
viz.show(viz.lines(series, "At one price, cut early and keep more", unit, axis, levels=levels))

# %% [markdown]
# At one price it is better to drop many tokens early than nearly all of them late: 64 tokens from layer 1 on cost less
# than 8 from layer 3 on, and say more. And the last few tokens save almost nothing.

# %%
assert price[1, 64] < price[3, 8]
assert kept_right[1, 64] > kept_right[3, 8] + 5 or not there
print(f"{price[1, 64]:.2f} billion FLOPs: {kept_right[1, 64]:.0f} %, {price[3, 8]:.2f}: {kept_right[3, 8]:.0f} %")

# %% [markdown]
# ## Play: the lots decide
#
# Choose how many tokens stay after layer 3, and another draw. The title says how sure the network is of what it says
# with all tokens.

# %%
name = clothing.CLASSES[int(vit(photo[None]).argmax())]
one = resume(vit, photo[None], 3)


def draw(k=16, seed=0):
    method = partial(random_drop, seed=seed)
    sure = one(once(3, k, method)).softmax(-1)[0, clothing.CLASSES.index(name)]
    mask = torch.zeros(256, dtype=torch.bool).scatter(0, method(torch.zeros(1, 256, 1), k).order[0], True)
    return viz.show(viz.patches(photo, 4, f"{k} tokens: {name}, {100 * sure:.0f} %", mask), photo=True)


draw()

# %%
control = viz.slider(draw, k=[256, 128, 64, 32, 16, 8, 4, 2, 1], seed=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours, by = kept_right[3, 32], {"unit": "%", "margin": 2, "paper": "no paper"}
claim = papers.verdict(
    "random_drop",
    "From an eighth of its tokens, drawn by lot, a trained network says more than from one region; late, fewer do.",
    [
        papers.better("right with 32 tokens, against two rows", ours, than=right["two top rows"], **by),
        papers.better("right with 32 tokens, against the centre", ours, than=right["centre, 4 x 8"], **by),
        papers.better("right with 8 tokens, layer 5 against 1", kept_right[5, 8], than=kept_right[1, 8], **by),
        papers.better("billion FLOPs with 32 tokens", price[3, 32], than=whole, higher=False, paper="no paper"),
    ],
    against="as many tokens of one region; all tokens (FLOPs); three draws; the house's vit, not trained again",
    data="every sixth clothing photograph of the test set (62)",
)
assert claim.outcome == "holds" or not there
print(f"\n{1 - price[3, 32] / whole:.0%} of the FLOPs saved, {full - ours:.0f} points of right answers lost")

# %% [markdown]
# So the claim is against one region, not against all tokens: by lot much is saved, and something is lost.
#
# ## Where it breaks: it is a matter of luck
#
# With few tokens the answer depends on the draw. For how many photographs does the answer change among four draws?

# %%
changing = {}
for k in (64, 8):
    answers = [logits(once(3, k, partial(random_drop, seed=seed))).argmax(-1) for seed in range(4)]
    changing[f"{k} tokens"] = 100 * float((torch.stack(answers) != answers[0]).any(0).float().mean())
viz.show(viz.bars(changing, "The fewer tokens, the more the draw decides", "photographs whose answer changes (%)"))

# %%
print(f"even with 64 tokens the answer changes for {changing['64 tokens']:.0f} % of the photographs")
assert changing["8 tokens"] > 2 * changing["64 tokens"] > 0 or not there

# %% [markdown]
# And a small detail, such as a logo, is gone if none of its patches is drawn. The other methods of the chapter look
# before they choose: at attention, at keys, at how alike tokens are, or at the question that is asked.
#
# ## Exercises
#
# **1. No luck.** Write a method that keeps a regular grid, every second row and column, which is k = 64 of 256 tokens
# (`grid` above holds their numbers). It gets x and k like any method.


# %%
def regular(x, k):
    return random_drop(x, k)  # replace this: the places are random


# %%
def check_1(method):
    first, other = (method(torch.randn(2, 256, 4), 64).order for _ in range(2))
    if first.shape != (2, 64):
        return f"order should be (2, 64), not {tuple(first.shape)}: expand the places to every row of the batch"
    steps = first[0].view(8, 8).diff()
    if not (steps == 2).all():
        return f"in a row of the grid the steps should be 2, not {steps.unique().tolist()}"
    percent = 100 * accuracy(logits(once(3, 64, method)), labels)
    return f"right, and {percent:.0f} % of the answers too, {kept_right[3, 64]:.0f} % by lot"


check_1(regular)

# %% [markdown]
# **2. Squares.** Instead of dropping, merge each square of 2 x 2 patches: give each of the 256 tokens the number of its
# square, 0 to 63 in reading order, and use `Reduction.merge`.


# %%
def squares(x, k):
    return Reduction.merge((torch.arange(256) // 4).expand(len(x), -1), 64)  # replace this: four patches of one row


# %%
def check_2(method):
    reduction = method(torch.zeros(2, 256, 1), 64)
    if not (reduction.sizes(torch.ones(2, 256)) == 4).all():
        return "each square should hold 4 tokens"
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    places = torch.stack([rows, columns], -1).view(1, 256, 2).expand(2, -1, -1)
    if not torch.allclose(reduction.apply(places)[0, 9], torch.tensor([2.5, 2.5])):
        return f"square 9 should have its centre at row 2.5, column 2.5, not {reduction.apply(places)[0, 9].tolist()}"
    percent = 100 * accuracy(logits(once(3, 64, method)), labels)
    return f"right, and {percent:.0f} % of the answers too; remember these squares for the next lesson"


check_2(squares)

# %% [markdown]
# **3. A budget.** Given the share of FLOPs that you may spend, which is the largest k that you can keep after layer 3?
# `cost(vit.body, {3: k}, 256)` and `cost(vit.body, {}, 256)` are what you need.


# %%
def affordable(share):
    return 256  # replace this: nothing is saved


# %%
def check_3(affordable):
    for share in (0.9, 0.7, 0.55):
        k, limit = affordable(share), share * cost(vit.body, {}, 256)
        if cost(vit.body, {3: k}, 256) > limit:
            return f"{k} tokens cost more than {share:.0%}"
        if cost(vit.body, {3: k + 1}, 256) <= limit:
            return f"for {share:.0%} you can keep more than {k} tokens"
    return f"right: 70 % of the cost allow {affordable(0.7)} tokens"


check_3(affordable)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/01_random_drop.py`.
#
# ## What was left out
#
# Dropping is also a way to train: PatchDropout trains transformers on a random part of the patches, and the masked
# autoencoder ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377)) shows its encoder only a quarter of them. A network
# trained so suffers less from dropping than ours, which always saw all tokens. Read on: **ToMe** merges tokens instead
# of dropping them.
