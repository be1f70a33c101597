# %% [markdown]
# # TokenFLEX: any square number of tokens
#
# **Paper:** Hu, Mao, Liu, Xia, Jia and Lang, *TokenFLEX: Unified VLM Training for Flexible Visual Tokens Inference*,
# 2025 ([arXiv 2504.03154](https://arxiv.org/abs/2504.03154)). **Code:** `minitok/project/tokenflex.py`. **Read first:**
# [LLaVA's projector](01_llava.ipynb), [M3](03_m3.ipynb).
#
# After this lesson you can pool a grid to any side, train one projector for several sides at the price of one, and say
# what it does at sides that it never saw.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.project import TokenFLEX
from minitok.project.tokenflex import BUDGETS, draw, shrunk

# %% [markdown]
# ## The problem: trained for one number, asked for another
#
# M3 makes means of squares that share out the grid: 16, 64 or 256 tokens, nothing between, and each training step runs
# through all scales. The usual projector is trained for one number. Here is TokenFLEX's own module, trained for 64
# and for 16, each asked for both:

# %%
stage = stages.project.stage(scenes=16)
fixed = {k: stages.project.trained(f"tokenflex, only {k}", 64) for k in (64, 16)}
swapped = {(k, asked): stage.measure(made, asked) for k, made in fixed.items() for asked in (64, 16)}
print(stages.project.table({f"trained for {k}, asked for {asked}": row for (k, asked), row in swapped.items()}))
assert swapped[64, 16].right < swapped[16, 16].right
assert swapped[16, 64].right < swapped[64, 64].right

# %% [markdown]
# TokenFLEX draws the number anew **for each batch**, from three: one pass a step, one set of weights. Two things are
# new: a pooling for any side, and a layer with a gate, which may weigh features otherwise where a token
# stands for more patches.
#
# ## By hand: three by three to two by two
#
# Two squares do not share out a side of 3. So the grid is first **stretched** to the next multiple of 2, which is 4,
# with corners on corners: the new points stand at 0, 2/3, 4/3 and 2. Then each square of 2 x 2 has its mean.
#
# | row | 0 | 1 | 2 | stretched | | | |
# |---|---|---|---|---|---|---|---|
# | 0 | 0 | 9 | 18 | 0 | 6 | 12 | 18 |
# | 1 | 27 | 36 | 45 | | | | |
# | 2 | 54 | 63 | 72 | | | | |
#
# Downwards a step of 2/3 adds 18, so the second stretched row is 18, 24, 30, 36. The first mean is
# (0 + 6 + 18 + 24) / 4 = 12, the second (12 + 18 + 30 + 36) / 4 = 24; two rows further down both have 36 more.

# %%
grid = torch.arange(9.0).view(1, 9, 1) * 9
print([round(value, 3) for value in shrunk(grid, 4).flatten().tolist()])
assert difference(shrunk(grid, 4).flatten(), torch.tensor([12.0, 24, 48, 60])) < 1e-4

# %% [markdown]
# **The gated layer.** y = W3 (silu(W1 x) * W2 x), with x brought to mean 0 and variance 1 before: (5, 1) becomes (1,
# -1). silu(z) is nearly z for large z, and nearly 0 for very negative z. One hidden unit, W1 = (20, 0), W2 = (0, 3), W3
# = 1: the gate says 20, what passes is -3, so y = -60. For (1, 5) the gate says -20: it is closed, y = 0.

# %%
hand = TokenFLEX(c=2, d=1, hidden=1, n=1).requires_grad_(False)
for layer, weight in ((hand.gate, [20.0, 0.0]), (hand.up, [0.0, 3.0]), (hand.out, [1.0])):
    layer.weight.copy_(torch.tensor([weight]))
    layer.bias.zero_()
opened, closed = hand(torch.tensor([[[5.0, 1.0]], [[1.0, 5.0]]])).flatten()
print(f"{opened:.2f} {abs(closed):.2f}")
assert abs(opened + 60) < 0.01
assert abs(closed) < 0.01

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Stretch, then mean.** "Adaptive pooling" often means squares of unequal size that overlap (torch's
# `adaptive_avg_pool2d`). In the code released with the authors' Ristretto-3B all squares are equal, and the grid gives
# way.


# %%
def squares(x, side):
    grid = x.mT.unflatten(2, (16, 16))  # b c 16 16
    span = -(-16 // side)  # rounded up
    stretched = F.interpolate(grid, (side * span, side * span), mode="bilinear", align_corners=True)
    return F.avg_pool2d(stretched, span).flatten(2).mT


x = stage.features
for side in (3, 6, 7):
    uneven = F.adaptive_avg_pool2d(x.mT.unflatten(2, (16, 16)), side).flatten(2).mT
    apart = float((squares(x, side) - uneven).norm() / uneven.norm())
    print(f"side {side}: grid of {side * -(-16 // side)}, {apart:.0%} away from torch's adaptive pooling")

# %% [markdown]
# **2. Norm, gate, out**, token by token, with a hidden width of three times c.

# %%
flex = stages.project.trained("tokenflex", 64)


def mine(x, side):
    x = F.layer_norm(squares(x, side), (192,), flex.norm.weight, flex.norm.bias)
    gate, passing = (x @ layer.weight.T + layer.bias for layer in (flex.gate, flex.up))
    return (gate * gate.sigmoid() * passing) @ flex.out.weight.T + flex.out.bias


for side in (1, 4, 6, 7, 16):
    assert difference(mine(x, side), flex(x, side**2)) < 1e-3
print("what you built is what `TokenFLEX` computes, for any side")

# %% [markdown]
# **3. A draw for each batch.** All rows of a batch have the same number of tokens, so nothing is filled up. On average
# a step reads (64 + 36 + 16) / 3 = 38.7 tokens: one that is trained for 64 alone costs more.

# %%
generator = torch.Generator().manual_seed(0)
drawn = [draw(generator) for _ in range(300)]
print("the first:", drawn[:8], f"mean of these 300: {sum(drawn) / len(drawn):.1f}")
assert set(drawn) == set(BUDGETS)

# %% [markdown]
# ## The recipe
#
# 1. Patch features x (n, c) of a frozen encoder, without CLS; n a square number.
# 2. For k = s x s tokens: the side is stretched to the smallest multiple of s that is not below it (bilinear, corners
#    on corners; nothing happens where s shares it out), then the mean of each of s x s equal squares, in raster order.
# 3. LN, then y = W3 (silu(W1 x) * W2 x), with shifts; hidden width 3 c.
# 4. Training step: k drawn from three numbers for the whole batch; LLaVA's loss.
# 5. In use: any s from 1 to the side.
# 6. Cost: 6 c c + 3 c d weights; the projector works on k tokens, not on n.
#
# | | paper, its code | here |
# |---|---|---|
# | drawn | 64, 144, 256, with unequal chances that we do not know | 64, 36, 16, each a third |
# | grid | 27 x 27 (SigLIP at 384 pixels): always stretched | 16 x 16: stretched for 6, not for 8 and 4 |
# | read by us | the abstract, the code of the projector | |
#
# ## The experiment: one for all against one for each
#
# All had 1,200 steps on the same scenes. **Only k** is the same module of 333,504 weights, trained for k tokens alone.
# **Ungated** has a plain layer of as many weights in place of the gated one. **Pixel shuffle** (squares side by side,
# then two layers) is made for one number: 184,704 weights for 64, 627,072 for 16.

# %%
rows = {f"TokenFLEX, {k}": stage.measure(flex, k) for k in (64, 16)}
rows |= {f"only {k}": swapped[k, k] for k in (64, 16)} | {"only 64, asked for 16": swapped[64, 16]}
ungated = stages.project.trained("tokenflex, ungated", 64)
rows |= {f"ungated, {k}": stage.measure(ungated, k) for k in (64, 16)}
rows |= {f"pixel shuffle for {k}": stage.measure(stages.project.trained("pixel shuffle", k), k) for k in (64, 16)}
print(stages.project.table(rows))

# %% [markdown]
# The same on 4,000 scenes, from the league:

# %%
league = {}
for found in stages.load("project")["rows"]:
    league.setdefault(found["method"], {})[found["tokens"]] = found
league["each"] = {k: league[f"tokenflex, only {k}"][k] for k in BUDGETS}
names = {"tokenflex": "ours: TokenFLEX", "each": "baseline: only k, each", "tokenflex, only 64": "only 64"}
names |= {"tokenflex, ungated": "ungated", "m3": "muted: M3"}
some = {told: {k: row for k, row in league[name].items() if 16 <= k <= 64} for name, told in names.items()}
curves = {told: ([*found], [row["all kinds"] for row in found.values()]) for told, found in some.items()}
viz.show(viz.lines(curves, "Good where it was drawn", "visual tokens", "all kinds (%)", log="x"))

# %% [markdown]
# At the three drawn numbers it answers equally well, 92 to 93 %: 16 tokens are as good as 64. That one serves for three
# has its price here, where the paper has a gain: each trained alone is 2 to 4 points better, in left and right (86
# against 64 % with 64). Asked for another number, one trained alone falls by 6 to 17. The gate is worth 1 point, hardly
# more than the error. At 25 and 49, which were not drawn, TokenFLEX loses 3 to 3.5 points to 64.
#
# ## Play: choose a side
#
# The scene as its squares would have it, stretched where they do not fit, and what the language model answers.


# %%
def look(scene=3, side=6, question="how many objects are there ?"):
    told = stage.says(scene, question, lambda x: flex(x, side**2))
    picture = stage.pictures[scene : scene + 1]
    coarse = shrunk(F.avg_pool2d(picture, 4).flatten(2).mT, side**2).mT.unflatten(2, (side, side))
    titles = ["the scene", ", ".join(f"{word} {share:.0%}" for word, share in told.items())]
    return viz.show(viz.images(torch.cat([picture, F.interpolate(coarse, 64)]), titles, height=2.56), photo=True)


look()

# %%
control = viz.slider(look, scene=(0, 15), side=(1, 16))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# All kinds, from the league: twice the standard error on its 4,000 scenes is 0.8 points.

# %%
drawn, measures = league["tokenflex"], []
paper = {16: "+1.6 points, 64 tokens", 36: "+1.0 points, 144 tokens", 64: "+0.4 points, 256 tokens"}
compared = [("better", k, f"tokenflex, only {other}", k) for k, other in ((16, 64), (64, 16))]
compared += [("not worse", k, f"tokenflex, only {k}", k) for k in BUDGETS[::-1]]
compared += [("not worse", 49, "tokenflex", 64), ("better", 16, "tokenflex, ungated", 16)]
for kind, k, name, of in compared:
    told = {"than": league[name][of]["all kinds"], "unit": "%", "tolerance": 0.01}
    told |= {"margin": 0.8} if kind == "better" else {"by": 1, "paper": paper.get(k) if k == of else None}
    label, judge = f"{k} tokens; {name}, {of}", papers.better if kind == "better" else papers.not_worse
    measures.append(judge(label, drawn[k]["all kinds"], **told))

# %%
papers.verdict(
    "tokenflex",
    "One projector trained with drawn numbers of tokens is at each at least as good as one trained for it in as many "
    "steps, far better than one trained for another, and as good at numbers between.",
    measures,
    against="the same module trained for one number alone, and without its gate: equal weights and steps",
    data="league, 4,000 held-out scenes",
)

# %% [markdown]
# ## Where it breaks: between and outside
#
# What is lost at numbers that were not drawn?

# %%
found = {k: drawn[k] for k in sorted(drawn)}
kinds = {kind: ([*found], [row[kind] for row in found.values()]) for kind in ("left", "right", "above", "digit")}
outside = {k: stage.measure(flex, k).right for k in (1, 4, 9, 144)}
print("outside, per question:", {k: f"{right:.0f} %" for k, right in outside.items()})
viz.show(viz.lines(kinds, "Between 16, 36 and 64 left and right fall", "visual tokens", "right (%)", log="x"))

# %% [markdown]
# Only left and right. A token's place in the row follows from k: the middle of one of k equal spans of 256. Perhaps the
# projector has learnt the spacing of the drawn grids alone; we did not test that. Outside, few tokens say less and
# less, and 144 no more than 16 (93 % of our 16 scenes' questions).
#
# ## Exercises
#
# **1. Your own pooling**, under the library's tests. For a k that is no square number from 1 to n, and for n that is
# none, raise `ValueError` as in `k=15 of 16 tokens came, expected square numbers, k from 1 to n`.


# %%
def my_shrunk(x, k):
    side = int(x.shape[1] ** 0.5)
    grid = x.mT.unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, int(k**0.5)).flatten(2).mT  # replace this: its squares are not equal


# %%
def check_1(method):
    return papers.check("tokenflex.shrunk", method)


check_1(my_shrunk)

# %% [markdown]
# **2. A limit.** Return the most tokens with which one question costs at most `limit` FLOPs, language model and
# projector together. `stage.cost(k)` is the language model's; the projector's you can work out: a multiplication and
# an addition for each weight of its three matrices, for each token.


# %%
def most(limit):
    return 16  # replace this: it never uses what it may


# %%
def check_2(rule):
    spent = {side**2: stage.cost(side**2) + 2 * 9 * 192**2 * side**2 for side in range(1, 17)}
    for limit in (10**8, 2 * 10**8, 5 * 10**8, 10**9):
        best = max(k for k, cost in spent.items() if cost <= limit)
        if rule(limit) != best:
            return f"for {limit / 1e6:.0f} million FLOPs {best} tokens are the most, not {rule(limit)}"
    return "right: and the same weights serve all four limits"


check_2(most)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/04_tokenflex.py`.
#
# ## What was left out
#
# What the paper trains besides the projector, tiles of large pictures, and its eight benchmarks: +1.6, +1.0 and +0.4
# points over fixed numbers at 64, 144 and 256 tokens.
