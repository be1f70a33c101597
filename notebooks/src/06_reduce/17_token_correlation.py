# %% [markdown]
# # TokenCorrCompressor: a crop says itself how much it holds
#
# **Paper:** Zhang, Lyu, Shao, Chen, Guan and Nie, *Token-level Correlation-guided Compression for Efficient Multimodal
# Document Understanding*, 2024 ([arXiv 2407.14439](https://arxiv.org/abs/2407.14439)).
# **Code:** `minitok/reduce/token_correlation.py`.
# **Read first:** [ToMe](02_tome.ipynb), [HiRED](14_hired.ipynb).
#
# After this lesson you can give crops tokens by how much they repeat themselves, and draw and merge the rest. Paper and
# code could not be read, only the abstract and reviews: what they leave open is decided here.

# %%
import functools

import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import pages, views
from minitok.reduce import Reduction, token_correlation, tome
from minitok.reduce.token_correlation import densities, joined, natural, outliers, redundant, sampled
from minitok.stages import reduce_many

# %% [markdown]
# ## The problem: most of a page is blank
#
# HiRED and GlobalCom2 ask a thumbnail what a crop is worth. Of a document it shows nothing that can be read; this
# method asks each crop alone.
#
# Our pages: 128x128, handwritten digits in lines, cut into four crops of 64 tokens. A token shows one digit or blank,
# so we can count how much of the **text** is kept. The encoder is the house's `vlm_many`, which has never seen a page.

# %%
made = pages.render(16, seed=2)
crops = views.views(made.images)[:, 1:]
with torch.no_grad():
    known = reduce_many.looked(house.load("vlm_many"), crops)
text = torch.stack([part for half in made.text.chunk(2, 1) for part in half.chunk(2, 2)], 1).flatten(1).float()
print("text in each crop (%), four pages:", (100 * text.view(16, 4, 64).mean(2))[:4].int().tolist())
viz.show(viz.images(made.images[:4], [f"page {i}" for i in range(4)], columns=4, height=1.28), photo=True)

# %% [markdown]
# ## By hand: two crops of four tokens, four kept
#
# Keys of the left crop: (1, 0, 0), twice nearly the same, and (0, 1, 0). Of the right: four directions.
#
# **Density.** A token is *redundant* if its key's cosine is above 0.99 with more than a tenth of the crop's tokens
# (here 0.4, so with any). Left: three are, density 1/4. Right: none, 4/4. So 4 tokens are shared as 0.8 and 3.2; whole
# parts 0 and 3, and the one left over goes to the higher density / (tokens + 1): 0.25/1 or 1/4. Equal: the one with
# fewer tokens, so 1 and 3.
#
# **Outliers.** CLS pays the left crop 0.1, 0.1, 0.1, 0.7 in the last layer. Quartiles: 0.1 and 0.25. Above 0.25 + 1.5 x
# 0.15 = 0.475 lies token 3: kept first. The right crop pays alike: no outlier, so three are drawn.

# %%
left = [[1, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [0, 1, 0]]
right = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
keys = torch.tensor([[left + right]]).float()
early = torch.tensor([[[0.4, 0.3, 0.2, 0.1, 0.25, 0.25, 0.25, 0.25]]])
late = torch.tensor([[[0.1, 0.1, 0.1, 0.7, 0.25, 0.25, 0.25, 0.25]]])
print("redundant", redundant(keys[0, 0, :4]).tolist(), "densities", densities(keys, 2).tolist())
print("outliers", outliers(late[0, 0, :4]).tolist())
eight = token_correlation(torch.zeros(1, 8, 1), 4, keys=keys, cls_first=early, cls_attention=late, pictures=2)
print("goes to (-1: dropped)", eight.assignment.tolist())
assert eight.assignment[0, :4].tolist() == [-1, 0, -1, 0]

# %% [markdown]
# **A draw** takes tokens without returning, in proportion to what CLS pays in the first layer. **Merging:** what is not
# kept goes to the kept token of its crop with the highest cosine, and weighs as much as that; a kept one weighs 1.
# Token 1 has 0.01 with token 3; tokens 0 and 2 have 0 and are dropped. With values 0, 1, 2, 3: (3 + 0.01 x 1) / 1.01 =
# 2.98.

# %%
value = eight.apply(torch.arange(8.0).view(1, 8, 1))[0, 0, 0]
assert abs(float(value) - 3.01 / 1.01) < 1e-4

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Densities.** Keys, not values or features: they say what a patch is to the attention. From how many are unlike
# the paper's rule takes each crop's number of tokens; we share a given k in that proportion, to compare at equal cost.

# %%
density = densities(known["keys"], 4)
print("by the paper's rule, of 256 tokens:", natural(known["keys"], 4).tolist())
unlike = ~redundant(known["keys"].transpose(1, 2).flatten(2).unflatten(1, (4, 64)))
shown = unlike.view(16, 4, 1, 8, 8).float().repeat_interleave(8, 3).repeat_interleave(8, 4).expand(-1, -1, 3, -1, -1)
pair = torch.cat([crops[1], shown[1]])
names = [f"{100 * d:.0f} % unlike" for d in density[1].tolist()]
viz.show(viz.images(pair, 4 * [""] + names, columns=4, height=1.1), photo=True)

# %% [markdown]
# White is unlike: text, and some of the blank rim. **2. Outliers and draws.** In the late layer few patches hold what
# the whole crop is about. Between the others lots are drawn: a draw without returning is a ranking of log a - log(-log
# u) with u from 0 to 1.


# %%
def chosen(early, late, density, k, seed=0):
    budget = torch.zeros(len(density))
    for _ in range(k):
        budget[(density / (budget + 1)).masked_fill(budget == 64, -1).argmax()] += 1
    u = torch.rand(len(early), generator=torch.Generator().manual_seed(seed))
    lots = early.log() - (-u.log()).log()
    kept = []
    for j, number in enumerate(budget.int().tolist()):
        part = slice(64 * j, 64 * j + 64)
        first = torch.where(outliers(late[part]), 1e3 + late[part], lots[part])
        kept += (64 * j + first.argsort(descending=True, stable=True)[:number]).tolist()
    return sorted(kept)


# %% [markdown]
# **3. Merging.** Unlike in ToMe, the kept tokens are fixed first.


# %%
def merged(keys, kept, p=4):
    keys = F.normalize(keys.transpose(0, 1).flatten(1), dim=1)  # heads side by side
    matrix = torch.zeros(len(kept), len(keys))
    matrix[range(len(kept)), kept] = 1
    for i in {*range(len(keys))} - {*kept}:
        near = [j for j, at in enumerate(kept) if at // 64 == i // 64]
        cosines = keys[[kept[j] for j in near]] @ keys[i] if near else torch.zeros(1)
        if cosines.max() > 0:
            matrix[near[int(cosines.argmax())], i] = cosines.max()
    return matrix / matrix.sum(1, keepdim=True)


# %%
k = 88  # about a third, as in the paper
early, late = known["cls_first"].mean(1), known["cls_attention"].mean(1)
mine = [chosen(*row, k) for row in zip(early, late, density, strict=True)]
signals = {name: known[name] for name in ("keys", "cls_first", "cls_attention")}
ours = token_correlation(torch.zeros(16, 256, 1), k, **signals, pictures=4)
assert torch.allclose(ours.matrix()[3], merged(known["keys"][3], mine[3]), atol=1e-5)

# %% [markdown]
# ## The recipe
#
# 1. From the vision encoder, for each crop (N tokens): keys of a layer, heads side by side; what CLS pays in an early
#    layer and in a late one, mean over heads.
# 2. A token is redundant if its key's cosine is above 0.99 with more than N / 10 other tokens of its crop.
# 3. Density d = share of tokens that are not redundant, at least 1 / N. The paper keeps about d N of each crop; for a
#    given k: whole parts of k d / (sum of d), the rest one by one to the highest d / (tokens so far + 1).
# 4. Outliers of the late attention, above Q3 + 1.5 (Q3 - Q1), are kept first, the highest before others.
# 5. Up to its budget, draw from the others without returning, in proportion to the early attention.
# 6. Each token that is not kept goes to the kept one of its crop with the highest cosine, if that is above 0, and
#    weighs as much; kept ones weigh 1. Outputs are weighted means, in the order of the kept tokens.
# 7. Nothing is trained. Cost: N x N cosines a crop.
#
# | | paper | here |
# |---|---|---|
# | threshold, count, layers | not known to us | 0.99, N / 10, first and last layer |
# | number of tokens | follows from d | k is given |
#
# ## The experiment: is density text, and is text kept?
#
# Crops in five groups by how much of them is text:

# %%
cover = text.view(16, 4, 64).mean(2).flatten()
groups = (5 * cover).long().clamp(max=4)
means = [100 * float(density.flatten()[groups == i].mean()) for i in range(5)]
middles = [100 * float(cover[groups == i].mean()) for i in range(5)]
viz.show(viz.lines({"ours": (middles, means)}, "Fuller crops are denser", "text in a crop (%)", "density (%)"))


def ranks(values):
    return torch.stack([(values < v).sum() + 0.5 * ((values == v).sum() - 1) for v in values])


rank = float(torch.corrcoef(torch.stack([ranks(cover), ranks(density.flatten())]))[0, 1])
print(f"rank correlation of text and density: {rank:.2f}")
assert rank > 0.8

# %% [markdown]
# How much of the text do the kept tokens hold? The same draws with as many tokens a crop, lots, and the rankings by
# CLS:

# %%
x = torch.zeros(16, 256, 1)
alike = torch.ones(16, 4)
even = [chosen(*row, k) for row in zip(early, late, alike, strict=True)]
lots = [draw(x, k).order for draw in stages.reduce.LOTS]
cls = {"cls_attention": known["cls_attention"]}
ways = {"ours": torch.tensor(mine), "even budgets, drawn": torch.tensor(even)}
ways["evenly, by CLS"] = stages.reduce.evenly(x, k, **cls, pictures=4).order
ways["attended"] = stages.reduce.attended(x, k, **cls).order


def recall(kept):
    return text.gather(1, kept).sum(1) / text.sum(1)


kept = {name: recall(order) for name, order in ways.items()} | {"by lot": torch.stack([*map(recall, lots)]).mean(0)}
print({name: f"{100 * float(values.mean()):.1f} %" for name, values in kept.items()})

# %% [markdown]
# Densities find the text, and budgets by them keep more of it than equal ones. But the draw loses more than they win:
# the plain ranking of all tokens by CLS holds the most text.
#
# Now answers, where merging counts too: scenes with objects everywhere, thumbnail and crops as five pictures. Three
# draws are averaged; "kept only" does not merge.

# %%
stage = stages.reduce.stage(scenes=12, host="crops")


def kept_only(x, k, *, keys, cls_first, cls_attention):
    rows = zip(cls_first.mean(1), cls_attention.mean(1), densities(keys, 5), strict=True)
    return Reduction.keep(torch.tensor([chosen(*row, k) for row in rows]), x.shape[1])


seeds = [functools.partial(token_correlation, seed=seed) for seed in range(3)]
named = {"ours": seeds, "kept only": kept_only, "evenly": stages.reduce.evenly, "ToMe": tome}
named |= {"pooling": stages.reduce.pooling, "by lot": stages.reduce.LOTS[:3]}
rows = {name: stage.measure(method, 80) for name, method in named.items()}
print(stages.reduce.table(rows))

# %% [markdown]
# Merging does it: the answers move less than with the kept tokens alone, which are no better than equal budgets, and
# less than by lot; against ToMe 12 scenes do not decide.
#
# ## Play: one page


# %%
def draw(page=1, k=88, similar=0.99):
    one = {name: signal[page : page + 1] for name, signal in signals.items()}
    budget = densities(one["keys"], 4, similar)
    order = torch.tensor([chosen(early[page], late[page], budget[0], k)])
    seen = viz.strip(crops[page], Reduction.keep(order, 256))
    number = (order[0] // 64).bincount(minlength=4).tolist()
    return viz.show(viz.images(seen[None], [f"the crops keep {number}"], height=1.28), photo=True)


draw()

# %%
control = viz.slider(draw, page=(0, 15), k=[32, 88, 160], similar=[0.9, 0.99])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over pages, or over scenes.

# %%
paper = "66 % of tokens removed, scores comparable"
measures = [papers.better("rank correlation", rank, than=0.8, margin=0)]
measures.append(papers.not_worse("loyal, 80 of 320", rows["ours"].loyal, than=100.0, by=5, unit="%", paper=paper))
for name in ("even budgets, drawn", "evenly, by CLS", "attended", "by lot"):
    apart = 100 * (kept["ours"] - kept[name])
    got, than = (100 * float(kept[which].mean()) for which in ("ours", name))
    gap = 2 * float(apart.std()) / len(apart) ** 0.5
    measures.append(papers.better(f"text, {name}", got, than=than, margin=gap, unit="%"))
for name in ("kept only", "evenly", "ToMe", "by lot"):
    gap = stages.reduce.gap(rows["ours"], rows[name])[1]
    ours, other = rows["ours"].moved, rows[name].moved
    measures.append(papers.better(f"moved, {name}", ours, than=other, margin=gap, unit="bits", higher=False))

# %%
papers.verdict(
    "token_correlation",
    "Density follows text; budgets by it, outliers and draws keep more text than equal budgets or lots; merging helps.",
    measures,
    against="as many tokens, drawn alike with equal budgets, by CLS with equal budgets or with none, by lot, and ToMe",
    data=f"16 pages of 256 cells; {len(stage.rows)} questions about 12 held-out scenes to the house's vlm_many",
)

# %% [markdown]
# ## Where it breaks: at one number of the encoder
#
# The threshold, and how well density then follows text:

# %%
sweep = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995]
found = []
for similar in sweep:
    pair = torch.stack([ranks(cover), ranks(densities(known["keys"], 4, similar).flatten())])
    found.append(float(torch.corrcoef(pair)[0, 1]))
viz.show(viz.lines({"ours": (sweep, found)}, "Only near 0.99 is density text", "threshold", "rank correlation"))

# %% [markdown]
# Keys of this encoder are alike, text or blank: half of the pairs are above 0.9. 0.99 was chosen on other pages.
#
# ## Exercises
#
# **1. Your own compressor**, from `densities`, `sampled` and `joined` or without them. The library's tests judge it.


# %%
def my_compressor(x, k, *, keys, cls_first, cls_attention, pictures=5, similar=0.99, seed=0):
    kept = torch.arange(k).expand(len(x), k)  # replace this: it keeps the first k
    return joined(keys, kept, pictures)


def check_1(method):
    return papers.check("token_correlation", method)


check_1(my_compressor)

# %% [markdown]
# **2. No lots.** Of each crop keep the `budgets` (b, 4) tokens that the late layer pays most, `late` (b, 256), in their
# order, k in all.


# %%
def best(late, budgets, k):
    return sampled(early, late, budgets, k)  # replace this: it draws


# %%
def check_2(best):
    given = torch.tensor(mine).div(64, rounding_mode="floor")
    budgets = torch.stack([row.bincount(minlength=4) for row in given])
    got = best(late, budgets, k)
    first = sorted(late[0, :64].argsort(descending=True, stable=True)[: int(budgets[0, 0])].tolist())
    if got[0, : len(first)].tolist() != first:
        return f"page 0 keeps {len(first)} tokens of crop 0: {first[:3]} ... should come, not {got[0, :3].tolist()} ..."
    percent = [100 * float(values.mean()) for values in (recall(got), kept["ours"])]
    return f"right: {percent[0]:.1f} % of the text; with draws {percent[1]:.1f} %"


check_2(best)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/17_token_correlation.py`.
#
# ## What was left out
#
# The paper trains mPLUG-DocOwl1.5 with the module. Read on: [ToMe](02_tome.ipynb) again.
