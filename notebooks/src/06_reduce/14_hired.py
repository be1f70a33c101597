# %% [markdown]
# # HiRED: a budget for each crop, from the first look at the thumbnail
#
# **Paper:** Arif, Yoon, Nikolopoulos, Vandierendonck, John and Ji, *HiRED: Attention-Guided Token Dropping for
# Efficient Inference of High-Resolution Vision-Language Models in Resource-Constrained Environments*, 2024 ([arXiv
# 2408.10945](https://arxiv.org/abs/2408.10945)). **Code:** `minitok/reduce/hired.py`. **Read first:**
# [FastV](03_fastv.ipynb).
#
# After this lesson you can share a fixed number of tokens among a thumbnail and its crops before the language model,
# and test where the gain comes from: from the budgets or from the thumbnail.

# %%
import torch

from minitok import papers, stages, viz
from minitok.reduce import Reduction, hired, tome
from minitok.reduce.hired import budgets, marks

# %% [markdown]
# ## The problem: five pictures instead of one
#
# Models that read large pictures see them as a **thumbnail** of the whole and **crops** at full size, all encoded
# alike: five times the tokens, and crops may be empty. FastV prunes one picture; here pictures compete.
#
# The host is the house's `vlm_many`: a scene of 128x128 as a thumbnail and four quarters, 64 tokens each. All objects
# stand in one quarter. We leave a fifth (64 of 320): by lot, as many of each picture by its own CLS (evenly), or the
# best of all (attended). "object" is how much of the object asked for is kept in all pictures; "right" is the mean of
# nine kinds of question; the verdict counts all 91 alike.

# %%
stage = stages.reduce.stage(scenes=16, host="quarters")
k = 64
controls = {"by lot": stages.reduce.LOTS, "evenly": stages.reduce.evenly, "attended": stages.reduce.attended}
rows = {"all tokens": stage.full} | {name: stage.measure(method, k) for name, method in controls.items()}
print(stages.reduce.table(rows))

# %% [markdown]
# CLS finds the object, and yet a seventh and more of the answers change, counts first.
#
# ## By hand: twelve tokens, eight kept
#
# A thumbnail of 2 x 2 tokens (0 to 3) and two crops, left (4 to 7) and right (8 to 11). Budget k = 8, $\alpha$ = 0.25.
#
# **The thumbnail** keeps min(floor($\alpha$ k), 4) = 2. **The crops** share 6: of the thumbnail's tokens the floor((1 -
# $\alpha$) 4) = 3 that CLS pays most in the *first* layer are marked. It pays 0.3, 0.5, 0, 0.2: marks on 0, 1 and 3.
# Token 0 lies left, 1 and 3 right: counts 1 and 2, so 6 x 1/3 = 2 and 6 x 2/3 = 4.
#
# **Which:** in each picture, what its own CLS pays most in the *last* layer:
#
# | picture | paid in the last layer | keeps |
# |---|---|---|
# | thumbnail | 0.1, 0.2, 0.6, 0.1 | 1, 2 |
# | left | 0.4, 0.3, 0.2, 0.1 | 4, 5 |
# | right | 0.1, 0.2, 0.3, 0.4 | 8, 9, 10, 11 |

# %%
first = torch.tensor([[[0.3, 0.5, 0.0, 0.2] + 8 * [0.0]]])  # one row, one head; crops' first look does not count
last = torch.tensor([[[0.1, 0.2, 0.6, 0.1, 0.4, 0.3, 0.2, 0.1, 0.1, 0.2, 0.3, 0.4]]])
signals = {"cls_first": first, "cls_attention": last, "crops": (1, 2), "alpha": 0.25}
print("counts", marks(first[0, :, :4], (1, 2), 0.25).tolist())
print("kept", hired(torch.zeros(1, 12, 1), 8, **signals).order.tolist())
assert hired(torch.zeros(1, 12, 1), 8, **signals).order.tolist() == [[1, 2, 4, 5, 8, 9, 10, 11]]

# %% [markdown]
# **Rounding.** With k = 6 the thumbnail keeps floor(1.5) = 1, and 5 are shared as 1.67 and 3.33. The paper's code
# rounds down: 1 and 3, and one token is never used. Here what is left over goes, one by one, to the crop with the
# highest count / (tokens so far + 1): 1 / 2 and 2 / 4 are equal, and the lower crop comes first. So 2 and 3.

# %%
shares = budgets(first[0, :, :4], 6, (1, 2), 0.25)
print("thumbnail, left, right:", shares.tolist())
assert shares.tolist() == [[1, 2, 3]]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Two looks.** What CLS pays in the first layer and in the last, heads added up. A token of this host is four
# patches, and its attention their sum. From the first layer, the paper says, one sees where there is content; from the
# last, what matters.

# %%
known, x = stage.start.signals, stage.start.visual
early, late = (known[name].sum(1) for name in ("cls_first", "cls_attention"))  # (16 scenes, 320)
thumbnails = stage.drawn.pictures[:, 0]
pictures = []
for i in (3, 7):
    maps = torch.stack([look[i, :64] / look[i, :64].max() for look in (early, late)]).view(2, 1, 8, 8)
    pictures += [thumbnails[i], *maps.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)]
viz.show(viz.images(torch.stack(pictures), 2 * ["thumbnail", "first", "last"], columns=6, height=1.1), photo=True)

# %% [markdown]
# **2. Budgets.** Marks are a yes or no, not a sum of attention: one token with a huge share (and there are such) would
# take all. They are counted where they lie.


# %%
def counted(first, alpha=0.5):
    chosen = first.argsort(descending=True, stable=True)[: int((1 - alpha) * 64)]
    row, column = chosen // 8, chosen % 8
    return (row // 4 * 2 + column // 4).bincount(minlength=4)


counts = torch.stack([counted(look[:64]) for look in early])
assert torch.equal(counts, marks(early[:, :64], (2, 2)))
print("marks in each crop, four scenes:", counts[:4].tolist())

# %% [markdown]
# **3. Choice.** Each picture ranks its own tokens: what two CLS tokens pay is not comparable, as each adds up to 1.
# Built by hand (the crops' budgets
# handed out one by one from the start, which comes to the same), it is the library's:


# %%
def choose(first, last, k, alpha=0.5):
    own = min(int(alpha * k), 64)
    count, given = counted(first[:64], alpha), torch.zeros(4)
    for _ in range(k - own):
        quotient = (count / (given + 1)).masked_fill(given == 64, -1)
        given[quotient.argmax()] += 1
    parts = zip([own, *given.int().tolist()], last.view(5, 64), strict=True)
    best = [64 * j + row.argsort(descending=True, stable=True)[:n] for j, (n, row) in enumerate(parts)]
    return torch.cat(best).sort().values


mine = torch.stack([choose(*row, k) for row in zip(early, late, strict=True)])
made = hired(x, k, cls_first=known["cls_first"], cls_attention=known["cls_attention"])
assert torch.equal(made.order, mine)

# %%
i = 7
even = stages.reduce.evenly(x, k, cls_attention=known["cls_attention"], pictures=5)
both = [Reduction.keep(found.order[i : i + 1], 320) for found in (even, made)]
strips = torch.stack([viz.strip(stage.drawn.pictures[i], found) for found in both])
viz.show(viz.images(strips, ["evenly", "HiRED: thumbnail and four crops"], columns=1, height=1.28), photo=True)

# %% [markdown]
# ## The recipe
#
# 1. From the vision encoder, for the thumbnail and each of the crops (N tokens each): what CLS pays to patches in the
#    first layer and in the last, heads added up. CLS itself is left out.
# 2. Budget k = floor(share x all tokens); the paper uses shares of 0.2 and 0.4. $\alpha$ = 0.5.
# 3. Thumbnail: min(floor($\alpha$ k), N) tokens.
# 4. Mark the floor((1 - $\alpha$) N) tokens of the thumbnail that the first layer pays most; count the marks in the
#    area of each crop.
# 5. Crops share the rest in proportion to their counts: whole parts, at most N each; what is left goes one by one to
#    the highest count / (tokens so far + 1).
# 6. In each picture keep the tokens with the highest attention of the last layer; of equals the lower ones.
# 7. Sort by place; gather after the projector. Nothing is trained, no text. Cost: CLS's row in two layers.
#
# | | paper's code | here |
# |---|---|---|
# | marks of a crop | equal runs of the flat map: bands of rows | the crop's area |
# | left over by rounding | unused | handed out |
# | layers | 0 and 22 of 24 | 0 and 5 of 6 |
#
# ## The experiment: are the budgets right, and do they matter?
#
# Do marks fall in the quarter with the objects? Lots would put a quarter of them there.

# %%
full = stage.drawn.masks[:, 1:].sum((2, 3, 4)).argmax(1)  # the crop with the objects
share = {}
for name, look in {"ours: first layer": early, "last layer": late}.items():
    found = marks(look[:, :64], (2, 2)).gather(1, full[:, None])
    share[name] = 100 * float(found.float().mean()) / 32
viz.show(viz.bars(share | {"baseline: lots": 25.0}, "Marks of neither look find the full quarter", "marks in it (%)"))

# %% [markdown]
# Hardly: a third of the marks, not a quarter. Budgets differ, but seldom for the objects' sake. Then the answers, with
# two ablations: **half**, where the thumbnail gets half as well but the crops share alike; and budgets from the
# **last** layer.


# %%
def half(x, k, *, cls_attention):
    stripes = (torch.arange(320) % 2).expand_as(cls_attention).float()  # marks eight tokens in each crop
    return hired(x, k, cls_first=stripes, cls_attention=cls_attention)


def by_last(x, k, *, cls_attention):
    return hired(x, k, cls_first=cls_attention, cls_attention=cls_attention)


named = {"HiRED": hired, "half": half, "budgets by last": by_last, "ToMe": tome}

# %%
found = {n: {name: stage.measure(method, n) for name, method in named.items()} for n in (k, 32)}
found[k] |= {name: rows[name] for name in controls}
found[32] |= {"evenly": stage.measure(controls["evenly"], 32), "pooling, 20": stage.measure(stages.reduce.pooling, 20)}
for n in (k, 32):
    print(f"{n} tokens\n" + stages.reduce.table(found[n]) + "\n")

# %% [markdown]
# With 64 tokens HiRED answers more than lots, equal budgets and one ranking. But **half** answers as much without any
# marks, though marks keep 10 and 7 points more of the object than it; the last layer's do as well as the first's. ToMe,
# which merges, counts better, and with 32 tokens is right more often of all questions.
#
# ## Play: alpha and the budget


# %%
def draw(scene=7, k=64, alpha=0.5):
    signals = {name: known[name][scene][None] for name in ("cls_first", "cls_attention")}
    made = hired(x[:1], k, alpha=alpha, **signals)
    given = budgets(signals["cls_first"].sum(1)[:, :64], k, (2, 2), alpha)[0].tolist()
    seen = viz.strip(stage.drawn.pictures[scene], made)
    return viz.show(viz.images(seen[None], [f"thumbnail and crops keep {given}"], height=1.28), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 15), k=[32, 64, 160], alpha=[0.0, 0.2, 0.5, 0.8])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over scenes; "answers" counts each question alike.

# %%
measures = []
for n, names in ((k, [*controls, "half", "ToMe"]), (32, ["evenly", "half", "ToMe"])):
    ours = found[n]["HiRED"]
    for name in names:
        other = found[n][name]
        gap = 100 * stages.reduce.gap(ours, other, of="correct")[1]
        measures.append(papers.better(f"answers, {n}, {name}", ours.right, than=other.right, margin=gap, unit="%"))
    for name in ("evenly", "half"):
        other = found[n][name]
        gap = 100 * stages.reduce.gap(ours, other, of="recall")[1]
        measures.append(papers.better(f"object, {n}, {name}", ours.found, than=other.found, margin=gap, unit="%"))
assert made.shape[1] == k  # never more than the budget

# %%
papers.verdict(
    "hired",
    "Budgets from the first layer keep more answers and more of the object than equal budgets, lots or one ranking.",
    measures,
    against="as many tokens by lot, evenly by picture, by one ranking, by ToMe; half for the thumbnail and crops alike",
    data=f"16 held-out scenes with all objects in a quarter, {len(stage.rows)} questions to the house's vlm_many",
)

# %% [markdown]
# ## Where it breaks: what a thumbnail cannot show
#
# The thumbnail's share of 64 tokens, from nothing to all of them:


# %%
def at(alpha):
    def method(x, k, *, cls_first, cls_attention):
        return hired(x, k, cls_first=cls_first, cls_attention=cls_attention, alpha=alpha)

    return stage.measure(method, k)


swept = {0.0: at(0.0), 0.5: found[k]["HiRED"], 0.75: at(0.75), 1.0: at(1.0)}
kinds = {"ours: all kinds": [row.even for row in swept.values()]}
kinds["digits"] = [row.kind("digit") for row in swept.values()]
lines = {name: ([*swept], values) for name, values in kinds.items()}
viz.show(viz.lines(lines, "The thumbnail alone cannot read", "alpha, the thumbnail's share", "right answers (%)"))

# %% [markdown]
# Digits are read in crops only. Short of that end alpha hardly matters, and no thumbnail at all (0) does as well:
# differences under about six points mean nothing here.
#
# ## Exercises
#
# **1. Your own HiRED**, for a batch and any grid of crops. The library's tests judge it.


# %%
def my_hired(x, k, *, cls_first, cls_attention, crops=(2, 2), alpha=0.5):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("hired", method)


check_1(my_hired)

# %% [markdown]
# **2. Bands.** The paper's code cuts the flat map of marks into equal runs, one a crop. Count the marks so: `first`
# (b, 64) gives (b, 4).


# %%
def bands(first, alpha=0.5):
    return marks(first, (2, 2), alpha)  # replace this: it counts by areas


def check_2(bands):
    upper_left = torch.zeros(1, 64)
    upper_left[0, [8 * row + column for row in range(4) for column in range(4)]] = 1
    if (got := bands(upper_left, 0.75)[0].tolist()) != [8, 8, 0, 0]:
        return f"the upper left quarter lies in the first two bands: [8, 8, 0, 0] should come, not {got}"
    apart = (bands(early[:, :64]) - counts).abs().sum(1).float().mean() / 2
    return f"right: in a scene {float(apart):.1f} of 32 marks count for another crop than the one that they lie in"


check_2(bands)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/14_hired.py`.
#
# ## What was left out
#
# The paper's gain is time: 4.7 times the tokens a second on a small GPU. The borders that fill up crops of other
# shapes. Read on: [GlobalCom2](16_globalcom2.ipynb), where sums instead of marks say what a crop is worth.
