# %% [markdown]
# # TokenPacker: a coarse picture asks, the fine one answers
#
# **Paper:** Li, Yuan, Liu, Tang, Wang, Qin, Zhu and Zhang, *TokenPacker: Efficient Visual Projector for Multimodal
# LLM*, 2024 ([arXiv 2407.02392](https://arxiv.org/abs/2407.02392)).
# **Code:** `minitok/project/tokenpacker.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can pack each square of patches into one token by attention, by hand and in code, and say what
# its regions and its many layers are worth.

# %%
import torch
import torch.nn.functional as F

from minitok import metrics, papers, stages, viz
from minitok.metrics import difference
from minitok.project import TokenPacker
from minitok.project.tokenpacker import coarse, inject, regions
from minitok.stages import by_kind

# %% [markdown]
# ## The problem: a mean forgets what stands where
#
# The cheapest way to fewer tokens is the mean of each square of patches. All projectors here are trained for the same
# steps before the same frozen ViT and language model.

# %%
stage = stages.project.stage(scenes=16)
means = stage.measure(stages.project.trained("pooling", 16), 16)
print(stages.project.table({"the host's own": stage.full, "means": means}))

# %% [markdown]
# Relations go first. TokenPacker asks which of a square's patches matter: the coarse picture asks, the fine one
# answers, each square by itself.
#
# ## By hand: four patches, one token
#
# One square of 2 x 2 patches with features x = 0, 1, 1, 2. The **query** is x down-sampled to one number, 1. Keys and
# values come from other layers. The logits are query times key (width 1, so no root), the shares their softmax over the
# four patches:
#
# | patch | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | key | 0 | 0 | log 3 | 0 |
# | share | 1/6 | 1/6 | 3/6 | 1/6 |
# | value | 12 | 18 | 24 | 30 |
#
# The token is (12 + 18 + 3 x 24 + 30) / 6 = 22. The mean of the values would be 21. The query itself is not added.

# %%
x4 = torch.tensor([0.0, 1.0, 1.0, 2.0]).view(1, 4, 1)
key = torch.tensor([1.0, 1.0, 3.0, 1.0]).log().view(1, 4, 1)
value = torch.tensor([12.0, 18.0, 24.0, 30.0]).view(1, 4, 1)
query = coarse(x4, 2)
print("query", query.item(), "token", round(inject(query, key, value).item(), 4))
assert difference(inject(query, key, value), torch.tensor([[[22.0]]])) < 1e-4

# %% [markdown]
# **Down-sampling is bilinear**, not a mean: it reads the middle of each square. For s = 2 that is between all four
# patches. For s = 4 it is between the middle four of sixteen. With squares as values, patch i has $i^2$: the middle
# ones are 5, 6, 9, 10, so (25 + 36 + 81 + 100) / 4 = 60.5; the mean of all sixteen is 77.5.
#
# **Order:** squares in raster order, patches in raster order inside each. On a grid of 4 x 4, square 1 (upper right)
# holds patches 2, 3, 6, 7. Cutting the raster into fours would give 4, 5, 6, 7: a row.

# %%
sixteen = torch.arange(16.0).view(1, 16, 1)
print("asks:", coarse(sixteen**2, 4).item(), " mean:", (sixteen**2).mean().item())
print("square 1:", regions(sixteen, 2)[0, 1].flatten().int().tolist())
assert coarse(sixteen**2, 4).item() == 60.5
assert regions(sixteen, 2)[0, 1].flatten().tolist() == [2, 3, 6, 7]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. The query:** the last features, down-sampled by s = 4 to 4 x 4, then a matrix and a norm. A learnt query would
# have to find out where to look.
#
# **2. Keys and values** from layers 3 to 6 of the ViT, side by side in the channels: two layers with a GELU and a norm
# for the keys, two others for the values. Why not the last layer alone? Lines may be left in earlier ones. We shall
# measure that.

# %%
packer = stages.project.trained("tokenpacker", 16)
x, levels = stage.features, stage.seen.levels  # (16, 256, 192), and after each of six layers (16, 6, 256, 192)
grid = x.transpose(1, 2).unflatten(2, (16, 16))
small = F.interpolate(grid, size=(4, 4), mode="bilinear").flatten(2).transpose(1, 2)
query = packer.query(small)  # a matrix without shift, and LayerNorm
many = levels[:, 2:6].transpose(1, 2).flatten(2)
key, value = packer.key(many), packer.value(many)
print(tuple(x.shape), "->", tuple(query.shape), "and", tuple(many.shape), "->", tuple(key.shape))

# %% [markdown]
# **3. Each query looks into its own square.** Were it to look at all 256, it would first have to learn where its place
# is. We shall measure that too.


# %%
def attend(query, key, value, s=4, heads=4):
    q, squares = packer.to_query(query), [regions(packer.to_key(key), s), regions(packer.to_value(value), s)]
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, *squares))  # b 16 h d, and b 16 m h d twice
    shares = (torch.einsum("bqhd,bqmhd->bqhm", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return packer.out(torch.einsum("bqhm,bqmhd->bqhd", shares, v).flatten(2)), shares


packed, shares = attend(query, key, value)
print(tuple(packed.shape), "shares", tuple(shares.shape))

# %% [markdown]
# **4. To the language model's width** by LLaVA's two layers. The loss is LLaVA's, of the answers' words. What you built
# is what the library has:

# %%
mine = packer.mlp(packed)
assert difference(mine, packer(x, 16, levels=levels)) < 1e-4
moved = levels.clone()
moved[:, :, :4] += 1  # the first four patches of the top row lie in square 0
apart = (packer(x, 16, levels=moved) - mine).abs().amax((0, 2))
print("tokens that see patches 0 to 3:", (apart > 1e-5).nonzero().flatten().tolist())
assert (apart > 1e-5).nonzero().flatten().tolist() == [0]

# %% [markdown]
# ## The recipe
#
# 1. The encoder's last features x (n patches on a square grid, without CLS); those of four layers, side by side.
# 2. k = n / s^2 for a whole s that divides the side.
# 3. Query: x down-sampled bilinearly to the side / s, in float32; a matrix without shift; LayerNorm (1e-6).
# 4. Keys: Linear, GELU, Linear, LayerNorm of the joined layers. Values: the same with other weights.
# 5. Cut keys and values into squares of s x s, squares and patches in raster order.
# 6. Attention with its usual matrices and several heads: query i over the s x s patches of square i; softmax over
#    these. No residual, no position, no mask.
# 7. Linear, GELU, Linear to the language model's width. k tokens in raster order.
# 8. Loss: the answers' words. The weights fit any s, and are trained for one.
# 9. Cost: n keys and values through wide layers; only n products in each head of the attention.
#
# | | paper and its code | here |
# |---|---|---|
# | layers | 12, 16, 22, 23 of 24; x is layer 23 | 3, 4, 5, 6 of 6; x is the last, normed |
# | inside | 1,024 channels, 8 heads | 128 channels, 4 heads |
# | tokens | 144, 64, 36 of 576 | 64, 16 of 256 |
# | trained | then the language model too | the projector alone |
# | large pictures | sliced into tiles | not done |
#
# ## The experiment: what do regions and layers buy?
#
# Against it: **means** before LLaVA's layers, behind them (**M3**), or before gated ones (**TokenFLEX**); a **pixel
# shuffle** (a square's patches side by side in the channels, then two layers: heavier with 16 tokens, as heavy with
# 64); a **resampler** with learnt queries; and TokenPacker itself, as heavy, with the last level four times, or with
# every query looking everywhere.

# %%
league = {(row["method"], row["tokens"]): row for row in stages.load("project")["rows"] if row["pictures"] == "scenes"}
names = {"tokenpacker": "ours: TokenPacker", "tokenpacker, last level": "last level only"}
names |= {"tokenpacker, everywhere": "everywhere", "pooling": "means", "m3, fixed": "M3", "resampler": "resampler"}
names |= {"tokenflex, only 16": "TokenFLEX", "pixel shuffle": "baseline: pixel shuffle"}
also = [(name, 64) for name in ("tokenpacker", "tokenpacker, last level", "pooling", "tokenflex, only 64")]
rows = [*((name, 16) for name in names), *also, ("pixel shuffle, wide", 64)]
head = ("all kinds", "count", "left", "digit", "cost", "own", "parameters")
lines = [(name, str(k), *(viz.shown(league[name, k][score]) for score in head)) for name, k in rows]
print(viz.aligned([("4,000 scenes", "tokens", *head), *lines]))
bars = {told: league[name, 16]["all kinds"] for name, told in names.items()}
viz.show(viz.bars(bars, "16 tokens: regions give 23 points, levels 2", "right answers (%), mean of nine kinds"))

# %% [markdown]
# "Cost" is the language model's for a question, "own" the projector's (million FLOPs; parameters in thousands). Looking
# into its own square makes TokenPacker work. But means and shuffles keep to squares too. Attention adds 1 to 3 points
# to means and M3 with 16 tokens and takes 1 with 64, and costs nearly what the language model does; TokenFLEX, lighter,
# and the shuffles answer more, above all relations, for far less.
#
# The same weights on this lesson's scenes, with how far answers moved from the host's. A gap below its error says
# nothing: so few questions only rank "everywhere".

# %%
tried = {"ours": "tokenpacker", "last level": "tokenpacker, last level", "everywhere": "tokenpacker, everywhere"}
tried |= {"pixel shuffle": "pixel shuffle"}
live = {told: stage.measure(stages.project.trained(name, 16), 16) for told, name in tried.items()}
live["means"] = means
for told, row in live.items():
    gap, error = stages.answers.gap(live["ours"], row)
    print(f"16 tokens, {told:14} right {row.even:3.0f} %, moved {row.moved:.2f} bits, {gap:+.2f} +- {error:.2f}")
gap, error = stages.answers.gap(live["ours"], live["everywhere"])
assert gap > error

# %% [markdown]
# ## Play: where in its square does a token look?
#
# Each of the sixteen squares is as bright as the share that its token gives to the patch.


# %%
def draw(scene=3, head=0):
    looks = shares[scene, :, head].view(4, 4, 4, 4).transpose(1, 2).reshape(1, 16, 16)
    looks = (looks / looks.amax()).repeat_interleave(4, 1).repeat_interleave(4, 2)
    pair = torch.stack([stage.pictures[scene], stage.pictures[scene] * (0.15 + 0.85 * looks)])
    return viz.show(viz.images(pair, ["the scene", f"head {head}"], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 15), head=(0, 3))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# All from 4,000 scenes, 23,000 questions. A margin is twice the standard error of the paired difference, at most: the
# league keeps shares, and these bound how often one of two is right and the other wrong.


# %%
def against(told, name, k=16, method="tokenpacker"):
    ours, other = league[method, k], league[name, k]
    found, margin = (ours["all kinds"], other["all kinds"]), by_kind.apart(ours, other)
    return papers.better(f"right, {k}, {told}", found[0], than=found[1], margin=margin, unit="%", tolerance=0)


measures = [against(told.split(": ")[-1], name) for name, told in names.items() if name != "tokenpacker"]
others = {"means": "pooling", "last level": "tokenpacker, last level", "equal shuffle": "pixel shuffle, wide"}
measures += [against(told, name, 64) for told, name in others.items()]
few, all_of_them = league["tokenpacker", 64]["all kinds"], league["llava", 256]["all kinds"]
own = "75 % fewer tokens at comparable accuracy"
measures.append(papers.not_worse("right, 64, all 256", few, than=all_of_them, by=1, unit="%", paper=own, tolerance=0))

# %%
papers.verdict(
    "tokenpacker",
    "A coarse query that looks into its own square, at several layers, beats means, shuffles and learnt queries.",
    measures,
    against="three kinds of means, pixel shuffles, a resampler; itself with one level, without regions; equal steps",
    data="the chapter's league: 4,000 held-out scenes, one training each",
)

# %% [markdown]
# So here regions pay, several levels a little with 16 tokens and nothing that shows with 64, and a plain shuffle of
# equal weight beats the attention. Our language model stays frozen and training is short.
#
# ## Where it breaks: another size of square
#
# The weights fit any s. Trained for squares of 2 x 2 (64 tokens), used with 4 x 4, and the other way round, on the 16
# scenes (too few to tell the two apart with 4 x 4):

# %%
fine = stages.project.trained("tokenpacker", 64)
crossed = {(64, b): stage.measure(fine, b).even for b in (64, 16)}
crossed |= {(16, 64): stage.measure(packer, 64).even, (16, 16): live["ours"].even}
bars = {f"{'ours: ' if a == b else ''}trained for {a}, used with {b}": even for (a, b), even in crossed.items()}
viz.show(viz.bars(bars, "Trained for one size of square, weaker at the other", "right answers (%), mean of nine kinds"))

# %% [markdown]
# ## Exercises
#
# **1. Your own TokenPacker**, under the library's tests: `gather` (what the queries find, before `out`) and `forward`.


# %%
class MyTokenPacker(TokenPacker):
    def gather(self, query, key, value):
        return regions(self.to_value(value), 2).mean(2)  # replace this: it is the mean of each square of four

    def forward(self, x, k=None, *, levels):
        many = levels[:, list(self.layers)].transpose(1, 2).flatten(2)
        return self.mlp(self.out(self.gather(x, self.key(many), self.value(many))))


# %%
def check_1(method):
    return papers.check("tokenpacker", method)


check_1(MyTokenPacker)

# %% [markdown]
# **2. What does it cost?** FLOPs for n patches and k tokens; a row times a matrix of a x b costs 2 a b. Features have
# 192 channels, four layers 768, inside are 128, the language model has 192. Down-sampling is free.


# %%
def flops(k, n=256):
    return 2 * k * 192 * 128  # replace this: it is the query's first matrix alone


def check_2(cost):
    for k in (64, 16):
        true = metrics.flops(lambda k=k: packer(x[:1], k, levels=levels[:1]))
        if cost(k) != true:
            return f"{cost(k) / 1e6:.2f} million came for k={k}, {true / 1e6:.2f} million were counted"
    return f"right: {cost(16) / 1e6:.0f} million for 16 tokens; the language model's are {stage.cost(16) / 1e6:.0f}"


check_2(flops)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/05_tokenpacker.py`.
#
# ## What was left out
#
# TokenPacker-HD slices a large picture into tiles, packs each, and sets a word after each row of them. Read on:
# [SliME](06_slime.ipynb), [Vision Remember](08_vision_remember.ipynb).
