# %% [markdown]
# # Random token dropping: what a reduction is
#
# **Method:** no paper of its own. As a way to train faster it is *PatchDropout* (Liu and others, 2022,
# [arXiv 2208.07220](https://arxiv.org/abs/2208.07220)).
# **Code:** `minitok/reduce/random_drop.py`.
# **Read first:** [the house models](../00_start/02_house_models.ipynb), of which `vit` is used here.
#
# This chapter makes a trained network cheaper by giving it fewer tokens, without training it again. After this lesson
# you can write any reduction as a matrix, run it inside a network, and say what it saves and loses. Every later lesson
# has to beat the simplest one: throwing tokens away at random.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, cost, once, random_drop

# %% [markdown]
# ## The problem: every patch costs the same
#
# The chapter's stage: a vision transformer cuts a photograph of 64 x 64 pixels into a grid of 16 x 16 patches. Each
# patch becomes a **token**, a vector of 192 numbers, and 8 layers work on all 256. One more token, CLS, comes first;
# the class of clothing is read from it.
#
# In the *feed-forward part* of a layer each token is worked on alone: its cost grows with the number n of tokens. In
# *attention* each token looks at every other one, and part of that grows with $n^2$. If all 8 layers had n tokens:

# %%
stage = stages.reduce.stage(images=62)
vit, photo = stage.vit, stage.images[5]
print(stage.data, f"- {stage.full.right:.1f} % right with all tokens\n")
for n in (256, 128, 64, 32, 16):
    print(f"{n:3} tokens: {cost(vit.body, {}, n) / 1e6:5.0f} million FLOPs a photograph")

# %% [markdown]
# Much of a photograph is background. Say 32 tokens, an eighth, shall go on from the middle of the network, after the
# attention of layer 3 (they count from 0). Which? A first idea is to cut: the two top rows of patches, or a block in
# the centre, where the clothes are. `LOTS` drops by lot, with another seed each; several draws give their mean.

# %%
grid = torch.arange(256).view(16, 16)
regions = {"two top rows": grid[:2].flatten(), "centre, 4 x 8": grid[6:10, 4:12].flatten()}


def keep_at(places):
    return lambda x, k: Reduction.keep(places.expand(len(x), -1), x.shape[1])


rows = {name: stage.measure(keep_at(places), 32) for name, places in regions.items()}
rows["by lot"] = stage.measure(stages.reduce.LOTS[:3], 32)  # the mean of three draws
print(stages.reduce.table(rows))

# %% [markdown]
# ("As before": the same answer as with all tokens. "Moved": how far the ten probabilities went from those with all
# tokens, $\sum_c p_c \log_2 (p_c / q_c)$ bits, 0 for the same answer; it is the finest of the three. "Own": what the
# method itself computes.)
#
# By lot the answers move far less than from one region: lots are spread over the picture, and neighbours are more alike
# than other tokens. How alike in layer 3, in one photograph? The cosine is 1 for the same direction, 0 for a right
# angle:

# %%
x = stage.seen(photo=5)["x"]  # (1, 256, 192): the tokens of one photograph, without CLS
unit = F.normalize(x, dim=-1).view(16, 16, 192)
beside, anywhere = (unit[:, 1:] * unit[:, :-1]).sum(-1).mean(), (unit.flatten(0, 1) @ unit.flatten(0, 1).T).mean()
print(f"mean cosine of two neighbours {beside:.2f}, of any two tokens {anywhere:.2f}")
assert beside > anywhere + 0.2
mask = torch.zeros(256, dtype=torch.bool).scatter(0, random_drop(x, 32, seed=0).order[0], True)
viz.show(viz.patches(photo, 4, "32 of 256 tokens go on", mask), photo=True)

# %% [markdown]
# ## By hand: six tokens, three stay
#
# **Draw.** Each token gets a random number from 0 to 1: 0.3, 0.9, 0.1, 0.6, 0.6, 0.2. The k = 3 highest stay: tokens 1,
# 3 and 4. Of equal numbers the lower index counts (with k = 2, token 3 stays and 4 goes). They stay **in the order in
# which they stood**, not in that of their numbers.
#
# **It is a matrix.** Picking rows is a product $y = M x$ with a row of M for each output and a column for each token.

# %%
values = torch.tensor([[[10.0], [20.0], [30.0], [40.0], [50.0], [60.0]]])  # (b, n, c)
lots = torch.tensor([[0.3, 0.9, 0.1, 0.6, 0.6, 0.2]])
kept = lots.argsort(dim=-1, descending=True, stable=True)[:, :3].sort(-1).values
M = F.one_hot(kept, 6).float()
print("kept", kept[0].tolist(), "values", (M @ values).flatten().tolist(), M[0].int(), sep="\n")
library = Reduction.keep(kept, n=6)
assert kept.tolist() == [[1, 3, 4]]
assert torch.equal(library.matrix(), M)
assert torch.equal(library.apply(values), M @ values)

# %% [markdown]
# All methods of the chapter have this form, with another M. **Pruning** keeps tokens: a single one in each row.
# **Merging** takes means of groups: each column has one entry. **Blending** mixes at will. Rows always sum to 1, so a
# new token is a mean of old ones: sums would grow, and the network has never seen such tokens.
#
# Merge 0 with 2 and 1 with 3 of four tokens 10, 20, 30, 40: that gives 20 and 30. Blend with weights (3, 1, 0, 0) and
# (0, 1, 1, 2): divided by their sums, 12.5 and 32.5.

# %%
kinds = {
    "keep 1 and 3": Reduction.keep(torch.tensor([[1, 3]]), n=4),
    "merge 02, 13": Reduction.merge(torch.tensor([[0, 1, 0, 1]]), k=2),
    "blend": Reduction.blend(torch.tensor([[[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 2.0]]])),
}
for name, reduction in kinds.items():
    print(f"{name:13}", reduction.matrix()[0].tolist(), "->", reduction.apply(values[:, :4]).flatten().tolist())
assert kinds["merge 02, 13"].apply(values[:, :4]).flatten().tolist() == [20, 30]
assert kinds["blend"].apply(values[:, :4]).flatten().tolist() == [12.5, 32.5]

# %% [markdown]
# **The way back.** Some tasks want a value for each of the n tokens at the end. `restore` gives a merged token its
# group's value, zeros to one that was dropped (nothing is known of it), and to a blended one the mean of the outputs
# that it went into, by its shares of the column. `sizes` says how many tokens an output
# stands for: a dropped token is lost from the count, a merged one is not, a blended one counts in each output by its
# share of the column. In the blend, token 1 has 0.25 in both rows: half of it went into each.

# %%
for name, reduction in kinds.items():
    back = reduction.restore(torch.tensor([[[10.0], [20.0]]]))[0, :, 0].tolist()
    print(f"{name:13}", "restored", back, "sizes", reduction.sizes(torch.ones(1, 4))[0].tolist())
assert kinds["keep 1 and 3"].restore(torch.tensor([[[10.0], [20.0]]])).flatten().tolist() == [0, 10, 0, 20]
assert kinds["blend"].sizes(torch.ones(1, 4)).tolist() == [[1.5, 2.5]]

# %% [markdown]
# ## The mechanism in a network
#
# `random_drop` draws and keeps. A number as seed always draws the same places; each row of a batch has its own lots.

# %%
lots = torch.rand(1, 256, generator=torch.Generator().manual_seed(0))
mine = lots.argsort(dim=-1, descending=True, stable=True)[:, :32].sort(-1).values
assert torch.equal(random_drop(x, 32, seed=0).order, mine)
assert torch.equal(random_drop(x, 32, seed=0).apply(x), x[:, mine[0]])
assert not torch.equal(random_drop(x, 32, seed=1).order, mine)

# %% [markdown]
# Our transformer calls `on_layer` in each layer, between attention and the feed-forward part, and shows it the tokens.
# If it returns a `Reduction`, later parts see only what is left. CLS must stay, since the answer is read from it:
# `.beside(1)` leaves one token before the others alone.

# %%
seen = []


def on_layer(layer):
    seen.append(layer.hidden.shape[1])
    return random_drop(layer.hidden[:, 1:], 32, seed=0).beside(1) if layer.index == 3 else None


answers = vit(stage.images[:4], on_layer)
print("tokens in each layer, CLS included:", seen)
assert difference(answers, vit(stage.images[:4], once(3, 32, random_drop))) < 1e-3

# %% [markdown]
# `once(layer, k, method)` is this callback, and `stage.measure(method, k, layer=3)` runs it on all photographs.
#
# ## The recipe
#
# 1. Choose a layer, and k (from a ratio: k = round(n ratio), at least 1). CLS is left out and stays.
# 2. After the attention of that layer: draw a number for each of the n tokens, each row of the batch for itself.
# 3. Keep the k highest, in the tokens' own order. Positions were added at the start, so they need no care here.
# 4. The feed-forward part and all later layers see CLS and k tokens. Nothing is trained, nothing is looked at.
# 5. Cost: none. Saved: whatever the later parts would have done for the others.
#
# | | PatchDropout | here |
# |---|---|---|
# | where | before the first layer | after the attention of any layer |
# | when | in training only | in a trained network that always saw all tokens |
#
# ## The experiment: how many tokens, and from which layer on?

# %%
counts = (64, 32, 8)
found = {(layer, k): stage.measure(stages.reduce.LOTS[:3], k, layer) for layer in (1, 3, 5) for k in counts}
print(stages.reduce.table({f"after layer {layer}, {k} left": row for (layer, k), row in found.items()}))

# %%
series = {
    f"after layer {layer}": ([100 * found[layer, k].flops for k in counts], [found[layer, k].moved for k in counts])
    for layer in (1, 3, 5)
}
title = "Cheaper and better: early, keeping more"
viz.show(viz.lines(series, title, "FLOPs (% of all tokens)", "answer moved by (bits)", log="y"))

# %% [markdown]
# The same number of tokens does better late: by then they have told CLS, and each other, what they know. But late
# also saves less, since all layers before have worked on all tokens. It is better to drop many tokens early than nearly
# all of them late: 64 tokens from layer 1 on cost less than 8 from layer 3 on, and move the answer less.
#
# ## Play: the lots decide
#
# The title says how sure the network is of what it says with all tokens.

# %%
label = int(stage.logits[5].argmax())


def draw(k=16, seed=0):
    kept = random_drop(x, k, seed=seed).order[0]
    logits = vit(photo[None], once(3, k, keep_at(kept)))
    mask = torch.zeros(256, dtype=torch.bool).scatter(0, kept, True)
    title = f"{k} tokens: {100 * logits.softmax(-1)[0, label]:.0f} % sure"
    return viz.show(viz.patches(photo, 4, title, mask), photo=True)


draw()

# %%
control = viz.slider(draw, k=[256, 128, 64, 32, 16, 8, 4, 2, 1], seed=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# A line holds where the gap is above twice its standard error over the same photographs.

# %%
pairs = {
    "32 tokens, by lot, two rows": (rows["by lot"], rows["two top rows"]),
    "32 tokens, by lot, centre": (rows["by lot"], rows["centre, 4 x 8"]),
    "64 from layer 1, 8 from layer 3": (found[1, 64], found[3, 8]),
}
measures = [
    papers.better(f"moved, {name}", a.moved, than=b.moved, margin=stages.reduce.gap(a, b)[1], unit="bits", higher=False)
    for name, (a, b) in pairs.items()
]

# %%
papers.verdict(
    "random_drop",
    "From an eighth of its tokens, drawn by lot, a network says more than from one region; early and more beats late.",
    measures,
    against="as many tokens of one region; another layer; mean of three draws; the house's vit, not trained again",
    data=stage.data,
)

# %% [markdown]
# The claim is against one region, not against all tokens: by lot half of the FLOPs are saved, and 7 points of right
# answers are lost, or 0.21 bits. (64 tokens from layer 1 also cost less than 8 from layer 3.)
#
# ## Where it breaks: it is a matter of luck
#
# For how many photographs does the answer change among four draws?

# %%
changing = {}
for k in (64, 8):
    answers = [stage.before(3)(once(3, k, method)).argmax(-1) for method in stages.reduce.LOTS[:4]]
    changing[f"{k} tokens"] = 100 * float((torch.stack(answers) != answers[0]).any(0).float().mean())
viz.show(viz.bars(changing, "The fewer tokens, the more the draw decides", "photographs whose answer changes (%)"))

# %% [markdown]
# And a small detail, such as a logo, may be lost if none of its patches is drawn. The other methods of the chapter look
# before they choose: at attention, at keys, at how alike tokens are, or at the question that is asked.
#
# ## Exercises
#
# **1. Your own random drop**, for a batch: each row has its own lots, a seed is a number or a `torch.Generator`.
# `Reduction.keep(places, n)` takes places (b, k). The library's tests judge it.


# %%
def my_drop(x, k, *, seed=0):
    b, n, _ = x.shape
    return Reduction.keep(torch.arange(k).expand(b, k), n)  # replace this: it keeps the first


# %%
def check_1(method):
    return papers.check("random_drop", method)


check_1(my_drop)

# %% [markdown]
# **2. No luck.** Write a method that keeps a regular grid, every second row and column: 64 of the 256 tokens (`grid`
# above holds their numbers). It gets x and k like any method.


# %%
def regular(x, k):
    return random_drop(x, k)  # replace this: the places are random


# %%
def check_2(method):
    places = method(torch.randn(2, 256, 4), 64).order
    if places.shape != (2, 64):
        return f"order should be (2, 64), not {tuple(places.shape)}: expand the places to every row of the batch"
    if not (places[0].view(8, 8).diff() == 2).all():
        return f"in a row of the grid the steps should be 2, not {places[0].view(8, 8).diff().unique().tolist()}"
    return f"right: moved by {stage.measure(method, 64).moved:.3f} bits, by lot {found[3, 64].moved:.3f}"


check_2(regular)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/01_random_drop.py`.
#
# ## What was left out
#
# Dropping is also a way to train: PatchDropout trains transformers on a random part of the patches, and the masked
# autoencoder ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377)) shows its encoder only a quarter of them. A network
# trained so suffers less from dropping than ours. Read on: [ToMe](02_tome.ipynb) merges tokens instead.
