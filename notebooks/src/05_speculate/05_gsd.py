# %% [markdown]
# # Grouped speculative decoding: a code judged by its company
#
# **Paper:** So, Shin, Kook and Park, *Grouped Speculative Decoding for Autoregressive Image Generation*, 2025
# ([arXiv 2508.07747](https://arxiv.org/abs/2508.07747)), GSD.
# **Code:** `minitok/speculate/gsd.py`.
# **Read first:** [speculative decoding](01_speculative.ipynb), [LANTERN](04_lantern.ipynb).
#
# After this lesson you can draft without a second model, and judge a guess by a group of codes that would do as well.

# %%
import itertools
from functools import partial

import torch

from minitok import papers, stages, viz
from minitok.speculate import Jacobi, gsd, happens, pick, speculative
from minitok.speculate.gsd import acceptance, by_cluster, group
from minitok.stages.speculate import by_groups, clusters, leniently, level

# %% [markdown]
# ## The problem: refused for a twin
#
# A guessed code x stays with probability $\min(1, p(x) / q(x))$. Sort the codes by p: neighbours in **rank** are about
# equally good, and which of them the draft happens to prefer decides over a refusal.

# %%
stage = stages.speculate.stage(pictures=5)
places = stage.places  # p and q at two places of each of five pictures
exact, ranked = stage.weigh(leniently(places)), 100 * places[0].sort(descending=True).values
step = float((ranked[:, 1:100] / ranked[:, :99]).mean())
print(f"the exact judge keeps {exact.kept:.0f} %; a code has {step:.0%} of the probability of the next likelier")
curves = {f"place {i}": (range(1, 301), ranked[i, :300]) for i in (2, 6, 9)}
title = "Codes next in rank are about as likely"
viz.show(viz.lines(curves, title, "rank by image_gpt", "probability (%)", log="xy"))

# %% [markdown]
# ## By hand: the group
#
# | code = rank by p | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | vector | 0 | 1 | 1.25 | 1.5 |
# | p | 0.1 | 0.2 | 0.3 | 0.4 |
# | q | 0.1 | 0.1 | 0.6 | 0.2 |
#
# Code 2 was guessed. Alone it stays with 0.3 / 0.6. Its **company** by a `window` of 2: the 2 codes below it in rank
# and the 2 - 1 above: 0, 1, 3. The **group** are those whose p differs by less than `gap` = 0.15 (code 0 differs by
# 0.2: out) and whose squared distance is less than `radius` = 0.5 (1 and 3: 0.06, in). x stays with the ratio of the
# sums over x and its group, $0.9 / 0.9 = 1$. A code with fewer than `window` below it is alone.

# %%
line = torch.tensor([[0.0], [1.0], [1.25], [1.5]])
p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
q = torch.tensor([0.1, 0.1, 0.6, 0.2], dtype=torch.float64)
members, inside = group(p, torch.tensor([2]), line, window=2)
print("company of 2 (itself first):", members[0].tolist(), "in the group:", members[inside].tolist())
for window in (0, 1, 2):
    print(f"window {window}: code 2 stays with {acceptance(p, q, 2, line, window=window):.2f}")
assert abs(acceptance(p, q, 2, line, window=1) - 0.5 / 0.7) < 1e-12

# %% [markdown]
# ## By hand: drafts without a second model
#
# The paper drafts by **Jacobi decoding**: from what the last call said behind the first refusal. Three codes:
#
# | | place 1 | place 2 | place 3 |
# |---|---|---|---|
# | call 1 guesses from | all 1/3 | all 1/3 | |
# | guesses, say | b | a | |
# | image_gpt answers | (0.5, 0.4, 0.1) | after b: (0.1, 0.6, 0.3) | after b a: (0.2, 0.3, 0.5) |
# | judged | b: 0.4/0.33, stays | a: 0.1/0.33, refused; b is drawn | |
#
# **The row of place 3** was said after b a, a text that is gone; it is the q of the next guess all the same. Place 4
# joins with all 1/3. Each q is known: the exact judge stays exact.


# %%
def toy(tokens, m):  # image_gpt in the table: its answers after each of the last m prefixes
    rows = {(): [0.5, 0.4, 0.1], (1,): [0.1, 0.6, 0.3], (1, 0): [0.2, 0.3, 0.5], (1, 1): [0.1, 0.1, 0.8]}
    ends = range(len(tokens) - m + 1, len(tokens) + 1)
    return torch.tensor([rows[tuple(tokens[:end].tolist())] for end in ends], dtype=torch.float64)


# %%
jacobi, text = Jacobi(toy, 3), torch.zeros(0, dtype=torch.long)
_, first = jacobi.draft(text, 2, None)
jacobi.target(torch.tensor([1, 0]), 3)  # call 1 on the guesses b a
_, second = jacobi.draft(torch.tensor([1, 1]), 2, None)  # the text is b b now
print("call 1 guesses from", first.numpy().round(2).tolist())
print("call 2 guesses from", second.numpy().round(2).tolist())
assert second[0].tolist() == [0.2, 0.3, 0.5]

# %% [markdown]
# ## The mechanism on real codes
#
# Why rank *and* vector? Near vectors put likely and unlikely codes together, rank alone codes that look different.


# %%
def keep(p, q, x, codebook, window=7, gap=0.15, radius=0.5):
    ascending = p.argsort(stable=True)  # of equal ones the lower code ranks lower
    r = int((ascending == x).nonzero())
    if r < window:
        return min(1.0, float(p[x] / q[x]))
    company = ascending[r - window : r + window]
    near = (codebook[company] - codebook[x]).square().sum(-1) < radius
    found = company[near & ((p[company] - p[x]).abs() < gap)]
    return min(1.0, float(p[found].sum() / q[found].sum()))


# %% [markdown]
# ## The recipe
#
# 1. Draw k guesses, each from what the target said at its place in the last call, else from all codes alike.
# 2. One call gives p at all places; q is the row of the draw.
# 3. For each guess x, from the left: sort the codes by p; take 7 ranks below x and 6 above.
# 4. Keep those with $|p(y)-p(x)|<0.15$ and squared distance $<0.5$; x with too few below is alone.
# 5. x stays with $\min(1,\sum_C p/\sum_C q)$, the same codes in both sums.
# 6. Refused: draw from $\max(0,p-q)$, scaled; void the rest. All kept: one more from p.
# 7. window = 0 is exact. No bound is promised.
#
# `keep` is what the library has:

# %%
p, q = (rows[6] for rows in places)
guesses = torch.multinomial(q, 60, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
for x, window, radius in itertools.product(guesses, (1, 7, 30), (0.2, 0.5)):
    library = acceptance(p, q, x, stage.vectors, window=window, radius=radius)
    assert abs(library - keep(p, q, x, stage.vectors, window, radius=radius)) < 1e-12
sizes = [group(p, torch.arange(4096), stage.vectors)[1].sum(-1) for p in places[0]]
sizes = (places[1] * torch.stack(sizes)).sum(-1).mean()
print(f"60 guesses, six settings: the same; a guess has {float(sizes):.1f} of 14 in its group, in the mean")
likely = int((places[0].amax(-1) > 0.15).sum())
print(f"a code of more than 0.15 is at {likely} of ten places; at the others the gap excludes nobody")

# %% [markdown]
# | | paper and its code | here |
# |---|---|---|
# | drafts | Jacobi; a window's refused guesses are kept or refreshed | any; `Jacobi` draws all anew |
# | vectors | those by which the model reads its codes | the tokenizer's |
#
# ## The experiment: groups that move against groups that stay
#
# The paper's weak baseline: **static groups**, clusters of the vectors (k-means). And **lenience**, q times a number
# below 1. Sums over all codes at ten places, as in LANTERN.

# %%
ways = {"ours: moving groups": [stage.weigh(by_groups(places, stage.vectors, w)) for w in (0, 7, 30, 60)]}
counts = (4096, 1000, 300, 80, 40, 20)
ways["baseline: static groups"] = [stage.weigh(by_cluster(*places, clusters(stage.vectors, n))) for n in counts]
ways["lenience"] = [stage.weigh(leniently(places, share)) for share in (1, 0.9, 0.8, 0.7, 0.6)]
alone, seven, _, sixty = ways["ours: moving groups"]
assert abs(alone.kept - exact.kept) < 1e-9
assert alone.variation < 1e-12
curves = {name: ([cost.kept for cost in found], [cost.surprise for cost in found]) for name, found in ways.items()}
title = "Groups by rank surprise the model least"
viz.show(viz.lines(curves, title, "guesses kept (%)", "surprise (bits)"))

# %%
found = {(w, name): level(ways[name], cost.kept) for w, cost in ((7, seven), (60, sixty)) for name in ways}
print(stages.speculate.table({f"window {w}, {name.split(': ')[-1]}": cost for (w, name), cost in found.items()}))
for w in (7, 60):
    ours, still, lenient = (found[w, name] for name in ways)
    assert ours.surprise < min(still.surprise, lenient.surprise) - 0.02
    assert lenient.energy < min(ours.energy, still.energy)
    assert lenient.variation < ours.variation

# %% [markdown]
# By surprise moving groups do the least harm, by energy lenience. Groups pay more total variation than they gain: they
# also refuse what the exact judge keeps.
#
# ## Whole pictures, with and without a second model

# %%
judges = {"exact": speculative.accept, "window 60": partial(gsd.accept, codebook=stage.vectors, window=60)}
rows = {f"image_draft, {name}": stage.measure(judge) for name, judge in judges.items()}
rows |= {f"Jacobi, {name}": stage.measure(judge, 8, "jacobi") for name, judge in judges.items()}
print(stages.speculate.table(rows))
assert rows["image_draft, window 60"].calls < rows["image_draft, exact"].calls < 170
assert rows["Jacobi, exact"].calls < 220

# %%
shown = stage.tokenizer.decode(torch.cat([row.codes for row in rows.values()])[..., None])
titles = [name.replace(", ", "\n") + f"\n{row.calls:.0f} calls" for name, row in rows.items()]
viz.show(viz.images(shown, titles, columns=4, height=1.28, title="Fewer calls, other pictures"), photo=True)

# %% [markdown]
# ## Play: who is in the group?
#
# All codes by the first two numbers of their vectors; the group of a likely code in colour.


# %%
def draw(window=30, radius=0.5, guess=0):
    x = p.topk(20).indices[guess : guess + 1]
    near, inside = group(p, x, stage.vectors, window=window, radius=radius)
    title = f"{int(inside.sum())} of {2 * window} in the group, with {100 * float(p[near[inside]].sum()):.1f} % of p"
    figure, axes = viz.panel(title, "first number of the vector", "second number", width=5, height=3.6)
    axes.plot(*stage.vectors[:, :2].T, ".", color=viz.GRID)
    axes.plot(*stage.vectors[near[0], :2].T, "s", color=viz.BASELINE, markersize=8, label="near in rank")
    axes.plot(*stage.vectors[near[inside], :2].T, "o", color=viz.OURS, label="and in vector: the group")
    axes.plot(*stage.vectors[x, :2].T, "*", color=viz.TEXT, markersize=12, label="x")
    figure.legend(loc="outside lower center", ncols=3)
    return viz.show(figure)


# %%
draw()

# %%
control = viz.slider(draw, window=(1, 60), radius=[0.1, 0.2, 0.5, 1.0, 9.0], guess=(0, 19))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours, still, lenient = (found[60, name] for name in ways)
before, after = (rows[f"image_draft, {name}"].calls for name in ("exact", "window 60"))
tamer = {"higher": False, "unit": "bits", "margin": 0.03, "tolerance": 0.02}
paper = "none over exact; 3.7 times sooner than plain (abstract)"
measures = [
    papers.better("guesses kept, window 7", seven.kept, than=exact.kept, unit="%", margin=2, tolerance=1),
    papers.better("calls, window 60", after, than=before, higher=False, margin=5, paper=paper, tolerance=10),
    papers.better("surprise, window 60", ours.surprise, than=still.surprise, **tamer),
    papers.better("the same, than lenience", ours.surprise, than=lenient.surprise, **tamer),
    papers.better("energy, window 60", ours.energy, than=still.energy, unit="1/1000", higher=False, margin=0.3),
]

# %%
papers.verdict(
    "gsd",
    "Judging a code by its group saves calls; groups by the target's ranking do less harm than static ones.",
    measures,
    against="the exact judge (a picture); k-means clusters that keep as many as window 60 (harm)",
    data="pictures of clothes as 256 codes, temperature 1, drawn by the house models; ten places",
)

# %% [markdown]
# Our saving needs a window of 60: few codes next in rank are near in vectors.
#
# ## Where it breaks: groups without distance
#
# Let rank alone decide: codes that look different stand in for one another.

# %%
wide = stage.weigh(by_groups(places, stage.vectors, 7, radius=100.0))
both = {"rank alone": wide, "lenience": level(ways["lenience"], wide.kept)}
print(stages.speculate.table(both))
assert wide.kept > seven.kept + 2
assert wide.energy > both["lenience"].energy + 2

# %% [markdown]
# ## Exercises
#
# **1. Your own judge.** Write `accept` from steps 3 to 6, with `happens(probability, generator)` and `pick(p,
# generator)`. The library's tests judge it.


# %%
def my_accept(p, q, drafted, generator=None, *, codebook, window=7, gap=0.15, radius=0.5):
    kept = sum(happens(0.5, generator) for _ in drafted)
    return kept, pick(p[kept], generator)  # replace this: it tosses coins


# %%
def check_1(method):
    return papers.check("gsd.accept", method)


check_1(my_accept)

# %% [markdown]
# **2. Never stricter.** Write a rule for all codes of one place: a guess passes with the larger of its own ratio and
# its group's.

# %%
every = torch.arange(4096)


def kinder(p, q):
    return gsd.acceptances(p, q, every, stage.vectors, window=30)  # replace this


# %%
def check_2(kinder):
    a = torch.stack([kinder(p, q) for p, q in zip(*places, strict=True)])
    if (a < leniently(places) - 1e-12).any():
        return "some guesses are judged more strictly than by the exact rule"
    cost = stage.weigh(a)
    gain = (cost.kept - exact.kept) / 100
    found = "right" if abs(gain - cost.variation) < 1e-9 and gain > 0.03 else "not yet"
    return f"{found}: {gain:.1%} more kept for a total variation of {cost.variation:.3f}"


check_2(kinder)

# %% [markdown]
# Solutions: `notebooks/src/solutions/05_speculate/05_gsd.py`.
#
# ## What was left out
#
# The paper's models, its latencies, the refreshing of a window. More pictures: [the league](00_overview.ipynb).
