# %% [markdown]
# # GlobalCom2: the thumbnail as the guide of its crops
#
# **Paper:** Liu, Wang, Chen, Han, Wang, Yuan, Song, Huang and Chen, *Compression with Global Guidance: Towards
# Training-free High-Resolution MLLMs Acceleration*, 2025 ([arXiv 2501.05179](https://arxiv.org/abs/2501.05179)).
# **Code:** `minitok/reduce/globalcom2.py`.
# **Read first:** [HiRED](14_hired.ipynb).
#
# After this lesson you can let a thumbnail say how many tokens each crop keeps and which, and test whether a published
# temperature does anything on your own numbers.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, globalcom2
from minitok.reduce.globalcom2 import guided, retention

# %% [markdown]
# ## The problem: a crop does not know what the whole shows
#
# HiRED shares tokens among crops by counts of a first look, and each crop ranks its own. But CLS of an empty crop must
# look somewhere too. GlobalCom2 asks the thumbnail twice, in the last layer: for the budgets and for the choice.
#
# HiRED's host: a thumbnail and four crops of 64 tokens, all objects in one quarter. A quarter of the tokens (80) and a
# tenth (32) stay, by lot, as many of each picture by its own CLS (evenly), or the best of all (attended). "right" is
# the mean of nine kinds of question; the verdict counts all alike.

# %%
stage = stages.reduce.stage(scenes=16, host="quarters")
controls = {"evenly": stages.reduce.evenly, "attended": stages.reduce.attended}
found = {n: {name: stage.measure(method, n) for name, method in controls.items()} for n in (80, 32)}
found[80]["by lot"] = stage.measure(stages.reduce.LOTS, 80)
for n, rows in found.items():
    print(f"{n} tokens\n" + stages.reduce.table(rows) + "\n")

# %% [markdown]
# ## By hand: twelve tokens, six kept
#
# A thumbnail of 2 x 2 (tokens 0 to 3), a left crop (4 to 7) and a right one (8 to 11). What CLS pays:
#
# | thumbnail | left | right |
# |---|---|---|
# | 0.1, 0.4, 0.2, 0.3 | 0.6, 0, 0.8, 0 | 0.5, 0.5, 0.5, 0.5 |
#
# **Budgets.** R = 6/12. The thumbnail pays 0.1 + 0.2 = 0.3 to the left half and 0.7 to the right. With $\tau$ = 0.1 the
# softmax of 3 and 7 is 0.018 and 0.982, so r = 0.5 (1 + 0.018 - 0.5) = 0.259 and 0.741. In tokens: thumbnail 2, left
# 1.04, right 2.96. Whole parts: 2, 1, 2; the one left over goes to the highest share / (tokens + 1): 2/3, 1.04/2 or
# 2.96/3, so to the right.

# %%
paid = torch.tensor([[[0.1, 0.4, 0.2, 0.3, 0.6, 0.0, 0.8, 0.0, 0.5, 0.5, 0.5, 0.5]]])
shares = retention(paid[0, :, :4], 0.5, (1, 2), tau=0.1)
print("left and right keep", [round(share, 3) for share in shares[0].tolist()], "of their tokens")
assert difference(shares, torch.tensor([[0.259, 0.741]])) < 1e-3
assert abs(float(shares.mean()) - 0.5) < 1e-6  # always R, unless a crop is full

# %% [markdown]
# **Choice.** The thumbnail's map, stretched to the four columns of both crops: 0.1, 0.175, 0.325, 0.4 above and 0.2,
# 0.225, 0.275, 0.3 below. The left crop's part has length 0.362. Each token's score is its own share plus the
# thumbnail's, both maps divided by their lengths:
#
# | left crop | 4 | 5 | 6 | 7 |
# |---|---|---|---|---|
# | own / 1 | 0.6 | 0 | 0.8 | 0 |
# | thumbnail's / 0.362 | 0.276 | 0.483 | 0.552 | 0.621 |
# | sum | 0.876 | 0.483 | **1.352** | 0.621 |
#
# The right crop's own map is flat, so the thumbnail decides: 0.4, 0.325, 0.3 are tokens 9, 8 and 11.

# %%
scores = guided(paid[0, :, :4], paid[0, :, 4:].view(1, 2, 4), (1, 2))
print([[round(score, 3) for score in crop] for crop in scores[0].tolist()])
twelve = globalcom2(torch.zeros(1, 12, 1), 6, cls_attention=paid, crops=(1, 2), tau=0.1)
print("kept", twelve.order.tolist())
assert twelve.order.tolist() == [[1, 3, 6, 8, 9, 11]]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. One map a picture.** What CLS pays in the last layer, mean over heads.

# %%
known, x = stage.start.signals, stage.start.visual
looks = known["cls_attention"].mean(1).view(16, 5, 64)  # scenes, pictures, tokens
pictures, i = stage.drawn.pictures, 7
maps = (looks[i] / looks[i].amax(1, keepdim=True)).view(5, 1, 8, 8)
maps = maps.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
titles = ["thumbnail", *(f"crop {j}" for j in range(1, 5))]
viz.show(viz.images(torch.cat([pictures[i], maps]), 2 * titles, columns=5, height=1.1), photo=True)

# %% [markdown]
# **2. Budgets.** Sums over areas; the softmax turns them into weights that add up to 1, and r is R plus or minus.
# **3. Choice.** Bilinear, as the thumbnail is half as fine as its crops. Lengths, not sums: a map with one high peak
# would otherwise leave the other nothing to say.


# %%
def choose(looks, k, tau=10.0, guide=True):
    share, grid = k / 320, looks[0].view(8, 8)
    sums = grid.view(2, 4, 2, 4).sum((1, 3)).flatten()
    weights = (sums / tau).softmax(0)
    each = torch.cat([torch.ones(1), (1 + weights - 0.25).clamp(max=1 / share)])
    large = F.interpolate(grid[None, None], size=(16, 16), mode="bilinear")[0, 0]
    parts = large.view(2, 8, 2, 8).transpose(1, 2).reshape(4, 64)
    own = F.normalize(looks[1:], dim=1) + (F.normalize(parts, dim=1) if guide else 0)
    return filled(torch.cat([looks[:1], own]), each, k)


# %%
def filled(scores, each, k):
    budget = torch.zeros(5)
    for _ in range(k):
        budget[(each / (budget + 1)).masked_fill(budget == 64, -1).argmax()] += 1
    best = scores.argsort(dim=1, descending=True, stable=True)
    return torch.cat([64 * j + best[j, : int(n)] for j, n in enumerate(budget)]).sort().values


for k, tau in ((80, 10.0), (32, 10.0), (80, 0.02)):
    mine = torch.stack([choose(look, k, tau) for look in looks])
    assert torch.equal(globalcom2(x, k, cls_attention=known["cls_attention"], tau=tau).order, mine)

# %% [markdown]
# ## The recipe
#
# 1. From the last layer of the vision encoder, for the thumbnail and each crop (N tokens each): what CLS pays to
#    patches, mean over heads.
# 2. R = k / all tokens. The thumbnail keeps R N, its highest.
# 3. $s_j$ = the thumbnail's map summed over the area of crop j; w = softmax(s / $\tau$), $\tau$ = 10.
# 4. Crop j keeps the share $r_j$ = R (1 + $w_j$ - mean w), at most 1.
# 5. Whole parts of $r_j$ N; what is left goes one by one to the highest share / (tokens so far + 1).
# 6. Resize the thumbnail's map to the grid of all crops (bilinear), cut out each crop's part g.
# 7. Scores of crop j: a / |a| + g / |g|. The highest stay; of equals the lower ones.
# 8. Sort by place; gather after the projector. Nothing is trained, no text. Cost: CLS's row in one layer.
#
# | | paper's code | here |
# |---|---|---|
# | left over by rounding | unused | handed out |
# | borders that fill crops up | taken away first | there are none |
#
# ## The experiment: does the guide guide?
#
# With R = 0.25 a crop has 16 tokens on average. How many has the one with all the objects, at different temperatures?

# %%
full = stage.drawn.masks[:, 1:].sum((2, 3, 4)).argmax(1)  # the crop with the objects
taus = [10.0, 1.0, 0.1, 0.05, 0.02, 0.01]
given = [64 * float(retention(looks[:, 0], 0.25, (2, 2), tau).gather(1, full[:, None]).mean()) for tau in taus]
levels = {"baseline: evenly": 16.0}
viz.show(
    viz.lines({"ours": (taus, given)}, "The published temperature is flat", "tau", "tokens", log="x", levels=levels)
)

# %% [markdown]
# An area's sum is at most 1, so with $\tau$ = 10 exponents differ by less than 0.1: all crops keep 16. Only a
# temperature a hundred times smaller moves tokens. So beside the paper's constant we try 0.02, and there the choice by
# own CLS too:


# %%
def cold(x, k, *, cls_attention):
    return globalcom2(x, k, cls_attention=cls_attention, tau=0.02)


def cold_own(x, k, *, cls_attention):
    each = cls_attention.mean(1).unflatten(1, (5, 64))
    return Reduction.keep(torch.stack([choose(look, k, 0.02, guide=False) for look in each]), 320)


for n, rows in found.items():
    for name, method in {"GlobalCom2": globalcom2, "tau 0.02": cold, "tau 0.02, own choice": cold_own}.items():
        rows[name] = stage.measure(method, n)
    print(f"{n} tokens\n" + stages.reduce.table(rows) + "\n")

# %% [markdown]
# The answers stay where they were; those that fail are counts, as objects are in thumbnail and crop twice. But the
# object: a colder softmax keeps more of it.
#
# ## Play: temperature and budget


# %%
def draw(scene=7, k=80, tau=10.0):
    made = globalcom2(x[:1], k, cls_attention=known["cls_attention"][scene][None], tau=tau)
    number = (made.order[0] // 64).bincount(minlength=5).tolist()
    seen = viz.strip(pictures[scene], made)
    return viz.show(viz.images(seen[None], [f"thumbnail and crops keep {number}"], height=1.28), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 15), k=[32, 80, 160], tau=[10.0, 0.1, 0.02])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over scenes.

# %%
measures = []
for n in (80, 32):
    for name in ("GlobalCom2", "tau 0.02"):
        ours, other = found[n][name], found[n]["evenly"]
        for what, of in {"answers": "correct", "object": "recall"}.items():
            got, than = (100 * float(getattr(row, of).float().nanmean()) for row in (ours, other))
            gap = 100 * stages.reduce.gap(ours, other, of=of)[1]
            measures.append(papers.better(f"{what}, {n}, {name}", got, than=than, margin=gap, unit="%"))
ours, lots = found[80]["GlobalCom2"], found[80]["by lot"]
gap = 100 * stages.reduce.gap(ours, lots, of="correct")[1]
measures.append(papers.better("answers, 80, to lots", ours.right, than=lots.right, margin=gap, unit="%"))

# %%
papers.verdict(
    "globalcom2",
    "Budgets and choice by the thumbnail keep more answers and more of the object than as many tokens of each picture.",
    measures,
    against="as many tokens of each picture by its own CLS (evenly), and five draws by lot; the same number of tokens",
    data=f"16 held-out scenes with all objects in a quarter, {len(stage.rows)} questions to the house's vlm_many",
)

# %% [markdown]
# ## Where it breaks: the guide's choice
#
# Budgets and choice apart: how much of the object asked for is kept of 80 tokens?

# %%
order = {"baseline: neither (evenly)": "evenly", "choice": "GlobalCom2", "budgets": "tau 0.02, own choice"}
order |= {"ours: both": "tau 0.02"}
bars = {name: found[80][row].found for name, row in order.items()}
viz.show(viz.bars(bars, "Guided budgets keep the object, the guided choice does not", "object kept (%), 80 tokens"))

# %% [markdown]
# The thumbnail knows **where** there is something better than which small tokens show it: its map is half as fine, and
# blurred. A crop's own CLS sees the object at full size.
#
# ## Exercises
#
# **1. Your own GlobalCom2**, for a batch and any grid of crops. The library's tests judge it.


# %%
def my_globalcom2(x, k, *, cls_attention, crops=(2, 2), tau=10.0):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("globalcom2", method)


check_1(my_globalcom2)

# %% [markdown]
# **2. Without a temperature.** Let the weights be the sums themselves, divided by their total. `thumbnail` (b, m), the
# share R and (rows, columns) of crops that divide its side give the shares (b, crops).


# %%
def linear(thumbnail, share, crops):
    return retention(thumbnail, share, crops)  # replace this: it has a temperature


# %%
def check_2(linear):
    if difference(got := linear(paid[0, :, :4], 0.5, (1, 2)), torch.tensor([[0.4, 0.6]])) > 1e-3:
        found = [round(r, 3) for r in got[0].tolist()]
        return f"weights of 0.3 and 0.7 give 0.5 (1 + 0.3 - 0.5) = 0.4 and 0.6, not {found}"
    tokens = 64 * float(linear(looks[:, 0], 0.25, (2, 2)).gather(1, full[:, None]).mean())
    return f"right: the crop with the objects gets {tokens:.1f} tokens; with tau = 10 it is {given[0]:.1f}"


check_2(linear)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/16_globalcom2.py`.
#
# ## What was left out
#
# The paper measures ten benchmarks on LLaVA-NeXT, and models that merge before they prune. Read on:
# [TokenCorrCompressor](17_token_correlation.ipynb), where each crop says itself how much it holds.
