# %% [markdown]
# # FoPru: keep what the others look at, or the whole row
#
# **Paper:** Jiang, Huang, Liu, Zeng, Li, Cheng and Xu, *FoPru: Focal Pruning for Efficient Large Vision-Language
# Models*, 2024 ([arXiv 2411.14164](https://arxiv.org/abs/2411.14164)).
# **Code:** `minitok/reduce/fopru.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb).
#
# After this lesson you can score tokens by the attention that they receive, keep the best tokens or the best rows, and
# say which of the two can still read a line of handwriting. Of the paper only the abstract and the opening of the
# introduction could be read; the formulas rest on them and on a serving system of the same authors (HydraInfer).

# %%
import torch

from minitok import papers, stages, viz
from minitok.data import photographs
from minitok.metrics import difference
from minitok.reduce import Reduction, fopru, highest, random_drop
from minitok.reduce.fopru import rows, significance
from minitok.stages.lines import lines

# %% [markdown]
# ## The problem: a line of writing has no spare tokens
#
# The chapter's network cuts a photograph into 16 x 16 patches. We write four digits by hand (MNIST) across each, in 4
# or 5 rows of patches: a task made for rows. A digit classifier reads them from the ink of the kept patches; what was
# pruned is black. Of 256 tokens 80 may stay: five rows.

# %%
stage = stages.reduce.stage(images=31)
work = lines(stage.vit, stage.images, seed=0)
k, everything = 80, Reduction.keep(torch.arange(256).expand(31, -1), 256)
by_lot = random_drop(torch.zeros(31, 256, 1), k)
print(
    f"digits read from all 256 tokens: {work.read(everything):.0f} %, from {k} random ones: {work.read(by_lot):.0f} %"
)
assert work.read(by_lot) < 40 < 90 < work.read(everything)
some = work.pictures[[5, 14, 20, 29]]
viz.show(viz.images(some, height=0.96, title="Who can read it when most tokens are gone?"), photo=True)

# %% [markdown]
# Lots were good enough to tell a shirt from a shoe. A digit lies in 16 or 20 patches, and each of them matters.
#
# ## By hand: six tokens in two rows
#
# Row i of an **attention** map says what token i *pays* to whom, column j what token j *receives*. What many look at
# must be worth keeping: **significance** $\phi_j$ is the mean of column j over payers, itself too, and heads:
#
# | token (2 rows of 3) | 0 | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|---|
# | head 0 | 0.30 | 0.05 | 0.25 | 0.10 | 0.20 | 0.10 |
# | head 1 | 0.10 | 0.05 | 0.15 | 0.10 | 0.40 | 0.20 |
# | $\phi$ | 0.20 | 0.05 | 0.20 | 0.10 | 0.30 | 0.15 |
#
# **Rank**, k = 3: tokens 4, 0, 2 (of equals the lower), kept in the order 0, 2, 4. **Row**, k = 3: the rows add up to
# 0.45 and 0.55, so the second stays whole: 3, 4, 5. Token 3, which few look at, stays: its row is good. For
# rows k must be whole rows; the library refuses others.

# %%
heads = torch.tensor([[0.30, 0.05, 0.25, 0.10, 0.20, 0.10], [0.10, 0.05, 0.15, 0.10, 0.40, 0.20]])
attention = heads[None, :, None].expand(1, 2, 6, 6)  # all six payers pay alike
phi, six = attention.mean((1, 2)), torch.arange(6.0).view(1, 6, 1)
rank = fopru(six, 3, attention=attention)
row = fopru(six, 3, attention=attention, strategy="row", grid=(2, 3))
print([round(value, 2) for value in phi[0].tolist()], "rank", rank.order[0].tolist(), "row", row.order[0].tolist())
assert difference(significance(attention), phi) < 1e-6
assert (rank.order.tolist(), row.order.tolist()) == ([[0, 2, 4]], [[3, 4, 5]])

# %% [markdown]
# ## The mechanism on real tokens
#
# The maps of layer 5 (of 8, from 0). CLS is cut out as payer and as receiver, and what is left is not renormalised.
# Nobody told the network about digits; it was trained on clothes. How much attention does a patch with ink receive,
# against the mean of all patches?

# %%
received = [maps.mean((1, 2)) for maps in work.attention]  # 8 layers of (31, 256)
ratios = [float(scores[work.inked].mean() / scores.mean()) for scores in received]
print("a patch with ink receives, layer by layer,", ", ".join(f"{ratio:.1f}" for ratio in ratios), "times the mean")
attention, phi = work.attention[5], received[5]
bright = (phi / phi.amax(-1, keepdim=True)).view(-1, 1, 16, 16)[[5, 14, 20, 29]].expand(-1, 3, -1, -1)
bright = bright.repeat_interleave(4, 2).repeat_interleave(4, 3)
viz.show(viz.images(torch.cat([some, bright]), columns=4, height=0.96, title="Bright: much received"), photo=True)

# %% [markdown]
# Keeping single tokens misses strokes that few look at: that is why there are rows. Sums over columns of the grid would
# do for scripts that run downwards (an exercise). Kept tokens are put back in the order of the picture, since a
# language model that counts positions anew reads them as a sequence.

# %%
by_rank = phi.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
best = phi.view(31, 16, 16).sum(-1).argsort(dim=-1, descending=True, stable=True)[:, : k // 16].sort(-1).values
by_row = (16 * best[..., None] + torch.arange(16)).flatten(1)
x = torch.zeros(31, 256, 1)
for strategy, mine in {"rank": by_rank, "row": by_row}.items():
    assert torch.equal(fopru(x, k, attention=attention, strategy=strategy, grid=(16, 16)).order, mine)
choices = {"by lot": by_lot, "rank": Reduction.keep(by_rank, 256), "row": Reduction.keep(by_row, 256)}
faded = torch.stack([work.pictures[20] * (0.2 + 0.8 * work.clear(made)[20]) for made in choices.values()])
viz.show(viz.images(faded, [f"{name}: {k}" for name in choices], height=1.6), photo=True)

# %% [markdown]
# ## The recipe
#
# 1. Before the language model: the vision encoder's attention of one layer, (heads, N, N) over patch tokens.
# 2. $\phi_j = \frac{1}{H N} \sum_h \sum_i A_{h,i,j}$: received, mean over heads and payers.
# 3. Rank: the k tokens of largest $\phi$; of equals the lower index.
# 4. Row: add $\phi$ up along each row of the grid, keep the k / columns rows of largest sum, whole.
# 5. Sort by place. Nothing is trained. Cost: no products of its own (so 0 in our tables), but the attention map must be
#    written out, which fast attention avoids.
#
# | | paper, as far as it could be read | its authors' serving system | here |
# |---|---|---|---|
# | score | attention | received or paid, whichever varies more | received |
# | layer | not said (LLaVA's features: the second-last) | that of the features | an argument; chosen below |
# | where | between encoder and projector | the same | after any layer |
#
# ## The experiment: which layer?
#
# With 80 tokens, on **other** pictures (crops of scikit-image's photographs) with other digits: what we measure on must
# not choose.

# %%
other = lines(stage.vit, photographs.crops(16, 64), seed=3)
layers = {
    "ours: whole rows": [rows(maps.mean((1, 2)), k, (16, 16)) for maps in other.attention],
    "rank": [highest(maps.mean((1, 2)), k) for maps in other.attention],
}
layers = {name: [other.read(Reduction.keep(kept, 256)) for kept in choice] for name, choice in layers.items()}
lots = {"baseline: lots": other.read(random_drop(torch.zeros(16, 256, 1), k))}
series = {name: (range(8), percents) for name, percents in layers.items()}
viz.show(viz.lines(series, "The layer decides", "layer that gives the scores", "digits read (%)", levels=lots))

# %% [markdown]
# Layer 6, the second-last, finds much less of the line than layer 5, and rows lead from layer 5 on. Who borrows the
# method must try layers first.
#
# ## The experiment: reading, and naming the class

# %%
digits = {}
for name in ("row", "rank"):
    settings = {"attention": attention, "strategy": name, "grid": (16, 16)}
    digits[name] = [work.read(fopru(x, count, **settings)) for count in (48, 80)]
digits["lots"] = [sum(work.read(random_drop(x, c, seed=seed)) for seed in range(3)) / 3 for c in (48, 80)]
names = {"row": "ours: whole rows", "rank": "rank", "lots": "baseline: lots"}
series = {names[name]: ((48, 80), percents) for name, percents in digits.items()}
levels = {"muted: all tokens": work.read(everything)}
viz.show(viz.lines(series, "Rows keep digits whole", "tokens kept (of 256)", "digits read (%)", levels=levels))

# %% [markdown]
# Both find the line, and rows read more of it. Now the network's own work on photographs without writing: the class,
# after pruning in layer 5, and in layer 3, where [the overview](00_overview.ipynb) compares all methods.

# %%
rows_of = {}
for layer in (5, 3):
    for name, way in {"FoPru, rank": fopru, "by lot": stages.reduce.LOTS[:3]}.items():
        rows_of[name, layer] = stage.measure(way, 64, layer)
print(stages.reduce.table({f"{name}, layer {layer}": row for (name, layer), row in rows_of.items()}))

# %% [markdown]
# Attention received says what stands out; the class needs something of everything, and lots give that for free. In
# layer 5 the two are level; in layer 3 FoPru is behind on average.
#
# ## Play: what does the reader say?


# %%
def draw(k=80, strategy="row", picture=20):
    made = fopru(x, k, attention=attention, strategy=strategy, grid=(16, 16))
    words = " ".join(map(str, work.said(made)[picture].argmax(-1).tolist()))
    faded = work.pictures[picture] * (0.2 + 0.8 * work.clear(made)[picture])
    pair = torch.stack([work.pictures[picture], faded])
    return viz.show(viz.images(pair, ["", f"{strategy}, {k}: {words}"], height=1.92), photo=True)


draw()

# %%
control = viz.slider(draw, k=(16, 256, 16), strategy=["rank", "row"], picture=(0, 30))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# 10 points are about twice the standard error of a difference on 124 digits.

# %%
late = Reduction.keep(rows(received[6], k, (16, 16)), 256)
paper = "large cuts at high accuracy (abstract)"
row80, rank80, lots80 = (digits[name][1] for name in ("row", "rank", "lots"))
measures = [
    papers.better("digits, layer 5, rank, lots", rank80, than=lots80, margin=10, unit="%", paper=paper),
    papers.better("digits, layer 5, rows, rank", row80, than=rank80, margin=10, unit="%"),
    papers.better("digits, layer 6, rows, lots", work.read(late), than=lots80, margin=10, unit="%"),
]
for layer in (5, 3):
    ours, other_row = rows_of["FoPru, rank", layer], rows_of["by lot", layer]
    settings = {"margin": stages.reduce.gap(ours, other_row)[1], "unit": "bits", "higher": False}
    measures.append(papers.better(f"moved, layer {layer}, lots", ours.moved, than=other_row.moved, **settings))

# %%
papers.verdict(
    "fopru",
    "The tokens that receive most attention are the ones to keep, for the class and for digits; of a line, whole rows.",
    measures,
    against="as many random tokens of the same layer (three draws); where it says so, all tokens, or the rank strategy",
    data=f"{stage.data}, and a line of four MNIST digits on each",
)

# %% [markdown]
# The paper's language models are not here: a digit classifier and the last layers of the network read instead.
#
# ## Where it breaks: the layer, and perhaps sinks
#
# In large vision transformers a few tokens of the background draw much of the attention, as *sinks* in which the
# network keeps notes of its own ([arXiv 2309.16588](https://arxiv.org/abs/2309.16588)). A score of attention would keep
# those first. How much more than the mean does the most looked-at patch get?

# %%
peaks = [float((scores.amax(-1) / scores.mean(-1)).mean()) for scores in received]
print("the peak, layer by layer:", ", ".join(f"{peak:.1f}" for peak in peaks), "times the mean")
assert max(peaks) < 20

# %% [markdown]
# No sinks to speak of in so small a network. What breaks it here is the layer: layer 6 reads half as many digits as
# layer 5, and in layer 3 attention chooses no better than lots for the class.
#
# ## Exercises
#
# **1. Your own FoPru**, for a batch, with both strategies. The library's tests judge it.


# %%
def my_fopru(x, k, *, attention, strategy="rank", grid=None):
    return random_drop(x, k)  # replace this: it looks at nothing


def check_1(method):
    return papers.check("fopru", method)


check_1(my_fopru)

# %% [markdown]
# **2. Columns.** Some scripts run downwards. Write the strategy for columns: scores (b, n), k and the grid (rows,
# columns) give the tokens of the best columns, ascending.


# %%
def columns(scores, k, grid):
    return rows(scores, k, grid)  # replace this: rows, not columns


# %%
def check_2(columns):
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.3, 0.0, 0.8, 0.1, 0.0, 0.3]])
    for k, expected in {3: [2, 5, 8], 6: [1, 2, 4, 5, 7, 8]}.items():
        if (kept := columns(scores, k, (3, 3))[0].tolist()) != expected:
            return f"columns add up to 0.5, 0.9 and 1.3: with k={k}, {expected} should stay, not {kept}"
    if (kept := columns(scores[:, :6], 2, (2, 3))[0].tolist()) != [2, 5]:
        return f"a grid need not be square: of 2 x 3 tokens [2, 5] should stay, not {kept}"
    return (
        f"right: {work.read(Reduction.keep(columns(phi, 80, (16, 16)), 256)):.0f} % of the digits, rows {row80:.0f} %"
    )


check_2(columns)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/13_fopru.py`.
#
# ## What was left out
#
# The paper runs several vision-language models and measures how much sooner their first word comes. Read on:
# [DivPrune](11_divprune.ipynb) goes by difference alone.
