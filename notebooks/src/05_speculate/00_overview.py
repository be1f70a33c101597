# %% [markdown]
# # Speculative decoding: the overview
#
# **Chapter 5.** How can a model that writes one token a call write several, and what may that cost?
# **Code:** `minitok/speculate/`, one file a method; the loop that they share is in `_common.py`, that of trees in
# `_tree.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import statistics
import textwrap
from functools import partial

import torch

from minitok import house, papers, stages, viz
from minitok.speculate import gsd, lantern, speculative
from minitok.speculate.speculative import acceptance, induced, residual
from minitok.stages.speculate import gullible, lenient

# %% [markdown]
# ## The problem: a call for each token
#
# An **autoregressive** model gives the probabilities of the next token after all tokens so far. One is drawn, and the
# model is **called** again. The house's `image_gpt` draws a picture of clothes in this way: 256 tokens, here **codes**,
# each one of 4,096. A call fetches all weights from memory; a graphics card could do a hundred operations for each byte
# in that time, and answers at five places hardly later than at one.
#
# ## The idea: guess and check
#
# Let somebody cheap guess: `image_draft`, which knows how likely it made each guess, q. **One** call of `image_gpt`
# tells how likely each is to itself, p. Five guesses:

# %%
stage = stages.speculate.stage(pictures=5)
large, draft = stage.pair(torch.tensor([0]))
so_far, generator = stage.codes[0, :100], torch.Generator().manual_seed(0)
guesses, q = draft(so_far, 5, generator)
p = large(torch.cat([so_far, guesses]), 6)  # after 100, 101, ... 105 codes, from one call
for i, x in enumerate(guesses.tolist()):
    stays = acceptance(p[i], q[i], x)
    print(f"guess {x:4}: q = {q[i, x]:.4f}, p = {p[i, x]:.4f}, stays with probability {stays:.2f}")
kept, own = speculative.accept(p, q, guesses, generator)
print(f"{kept} stayed; then image_gpt's own code {own}: {kept + 1} codes from one call")

# %% [markdown]
# The rule: from the left, a guess stays with probability $\min(1, p/q)$. At the first refusal a code is drawn from what
# p has above q, and the guesses behind are void. If all stay, the last row gives one more.
#
# Does this change the picture's distribution? A code is guessed *and* stays with probability $\min(p, q)$; what is
# missing to p comes by the corrections. We add it up over all 4,096 codes. The **total variation** of two
# distributions is half the sum of their absolute differences.

# %%
law = induced(p[0], q[0], acceptance, residual)
for name, other in {"what comes out": law, "the guesses alone": q[0]}.items():
    print(f"{name}: total variation {float((other - p[0]).abs().sum()) / 2:.3f} from image_gpt")
assert (law - p[0]).abs().max() < 1e-12

# %% [markdown]
# Nothing changed: such a judge is **exact**.
#
# ## The contract
#
# Three functions, and a loop that does not know what they are:
#
# - `target(tokens, m)` -> the probabilities after the last m prefixes of the tokens, from one call;
# - `draft(context, k, generator)` -> at most k guesses, and the q that they were drawn from;
# - `accept(p, q, drafted, generator)` -> how many guesses stay, and the token that follows them.
#
# `decode(target, draft, accept, context, n, k=4)` returns exactly n `tokens`, and for each call how many were `drafted`
# and `kept`. A judge is exact, or states a `bound` on the total variation; tests add up all outcomes of both.

# %%
judges = {"plain": (speculative.accept, 0), "exact": (speculative.accept, 4)}
rows = {name: stage.measure(*judge) for name, judge in judges.items()}
made = rows["exact"].runs[0]
print("drafted", made.drafted[:12], "...\nkept   ", made.kept[:12], "...")
assert len(made.tokens) == sum(made.kept) + made.calls == len(made.of_draft)
title = f"{made.calls} calls: in full colour {int(made.of_draft.sum())} guesses that stayed"
picture = stage.tokenizer.decode(made.tokens[None, :, None])[0]
viz.show(viz.patches(picture, 4, title, keep=made.of_draft), photo=True)

# %% [markdown]
# ## The methods
#
# | lesson | who guesses | who judges | exact? |
# |---|---|---|---|
# | [1 Speculative decoding](01_speculative.ipynb) | a small model | p/q | yes |
# | [2 Token Recycling](02_token_recycling.ipynb) | a tree of the model's own runners-up | its next choice | yes |
# | [4 LANTERN](04_lantern.ipynb) | a small model | codes of near vectors lend p, up to delta | no |
# | [5 GSD](05_gsd.ipynb) | its leftover answers (*Jacobi*) | sums over codes near in rank and vector | no |
# | baseline | a small model | **lenient**: q times a number below 1 | no |
#
# ## The league, in small
#
# How do we know whether a picture is still one of `image_gpt`'s? A code of probability p **surprises** it by
# $\log_2(1/p)$ bits, and it expects some surprise; more in the mean is a sign that somebody else drew.

# %%
near = lantern.nearest(stage.vectors, 64)
judges |= {"exact, Jacobi": (speculative.accept, 8, "jacobi"), "lenient, 0.5": (lenient(0.5), 4)}
judges["gsd, window 60"] = (partial(gsd.accept, codebook=stage.vectors, window=60), 4)
judges["lantern, 0.002"] = (partial(lantern.accept, neighbours=near, delta=0.002), 4)
judges["nobody judges"] = (gullible, 4)
rows |= {name: stage.measure(*judge) for name, judge in judges.items() if name not in rows}
print(stages.speculate.table(rows))
assert rows["nobody judges"].calls < rows["lantern, 0.002"].calls < rows["exact"].calls < 170
assert rows["nobody judges"].surprise > 4 * rows["nobody judges"].chance

# %%
pictures = stage.tokenizer.decode(torch.cat([row.codes for row in rows.values()])[..., None])
titles = [name.replace(", ", "\n") + f"\n{row.calls:.0f} calls" for name, row in rows.items()]
title = "One t-shirt each: the kinder the judge, the fewer calls"
viz.show(viz.images(pictures, titles, columns=7, height=1.28, title=title), photo=True)

# %% [markdown]
# Exact judges have another picture than plain decoding, but from the same distribution. Play: who draws which part?


# %%
def who(judge="exact"):
    made = rows[judge].runs[0]
    image = stage.tokenizer.decode(made.tokens[None, :, None])[0]
    title = f"{judge}: {made.calls} calls, {int(made.of_draft.sum())} guesses stayed"
    return viz.show(viz.patches(image, 4, title, keep=made.of_draft), photo=True)


control = viz.slider(who, judge=list(rows))
viz.ends(control)
control

# %% [markdown]
# ## The league table
#
# Computed once by `minitok league speculate`; k = 4 where a row does not say.

# %%
facts = stages.load("speculate")
print(textwrap.fill(facts["how"], 110), "\n")
without = {"pictures": ("exact", "nodes a call"), "text": ("Frechet distance", "right", "surprise", "setting")}
for work, names in without.items():
    scores = {name: unit for name, unit in facts["scores"].items() if name not in names}
    print(stages.table(facts | {"scores": scores}, work=work), "\n")

# %% [markdown]
# The **Frechet distance** compares two sets of pictures by mean and covariance of features, those from which the
# house's vision transformer reads the class. "Random neighbours" is lantern with lists of codes that look nothing
# alike.
#
# ## The trade

# %%
pictured = {row["method"]: row for row in facts["rows"] if row["work"] == "pictures"}
EXACT = ["plain", "speculative, k = 2", "speculative, k = 4", "Jacobi, k = 8"]
families = {"exact": EXACT, "gsd": ["gsd", "gsd, Jacobi, k = 8"]}
families["lenient"] = ["lenient, q times 0.5", "lenient, q times 0.05"]
families["lantern"] = ["lantern, delta = 0.002", "lantern, delta = 0.1"]
families["random"] = ["random neighbours, delta = 0.1"]


# %%
curves = {}
for family, names in families.items():
    curves[family] = [[pictured[name][figure] for name in names] for figure in ("tokens a call", "surprise")]
title = "Kindness is paid in surprise"
viz.show(viz.lines(curves, title, "codes a call", "surprise (bits a code)"))

# %% [markdown]
# The exact way has no surprise, and only as many codes a call as the guesses are good. `gsd` stays near it, in surprise
# and in gain. Beyond, kindness is paid for. Do look-alikes make it cheaper, as `lantern` says? Its rivals know nothing
# of looks:

# %%
kind, loans = pictured["lenient, q times 0.05"], pictured["lantern, delta = 0.002"]
wide, lots = pictured["lantern, delta = 0.1"], pictured["random neighbours, delta = 0.1"]
for row in (kind, loans, wide, lots):
    print(f"{row['method']:31} {row['tokens a call']:.1f} codes a call, {row['surprise']:.2f} bits")
assert kind["tokens a call"] > loans["tokens a call"]
assert kind["surprise"] < loans["surprise"] - 0.1
assert pictured["gsd"]["surprise"] < 0.1 < pictured["lenient, q times 0.5"]["surprise"]
assert abs(wide["surprise"] - lots["surprise"]) < 0.1

# %% [markdown]
# Lenience gives more codes a call for less surprise, and random neighbours do about as well as near ones. Lesson 4 asks
# why.
#
# ## How far does chance move these figures?
#
# The exact rows draw from one distribution: their differences are chance.

# %%
band = {}
for up in ("Frechet distance", "right", "surprise"):
    values = sorted(pictured[name][up] for name in EXACT)
    band[up] = statistics.mean(values), statistics.stdev(values)
    print(f"{up}: {values[0]:.3g} to {values[-1]:.3g} among exact rows; standard deviation {band[up][1]:.2g}")
middle, one = band["Frechet distance"]
hidden = pictured["lenient, q times 0.5"]
assert wide["Frechet distance"] > middle + 5 * one > hidden["Frechet distance"]
assert hidden["surprise"] > band["surprise"][0] + 5 * band["surprise"][1]

# %% [markdown]
# Fifty pictures show only large differences of the Frechet distance: `lenient, q times 0.5` hides within five standard
# deviations, and surprise, which hears each of 12,800 codes, tells it from `image_gpt` with ease.
#
# ## What is saved, and where
#
# Fewer calls are less time only if a call with its guesses costs little more. "Here" is one thread of a processor, as
# measured; "there", by arithmetic, a machine on which further places are free.

# %%
share = 1 / house.card("image_draft")["figures"]["cost of image_gpt a step over its own"]
for name in (*EXACT, "gsd", "gsd, Jacobi, k = 8"):
    row = pictured[name]
    k = 0 if name == "plain" or "Jacobi" in name else 2 if "k = 2" in name else 4  # calls of image_draft
    print(f"{name:20} time {row['time']:3.0f} % here, {row['calls'] * (1 + k * share):3.0f} % there")
texts = {row["method"]: row for row in facts["rows"] if row["work"] == "text"}
print(f"{'token_recycling':20} time {texts['token_recycling']['time']:3.0f} % here", end=", ")
print(f"{texts['token_recycling']['calls']:3.0f} % there, the same text: {texts['token_recycling']['exact']}")
assert pictured["Jacobi, k = 8"]["time"] < 80 < pictured["speculative, k = 4"]["time"]
assert texts["token_recycling"]["time"] > 100

# %% [markdown]
# So a paper's factor of speed belongs to its machine, its models and its baseline, while calls can be compared.
#
# ## What became of the claims

# %%
for paper in papers.rows("speculate", "working"):
    found = papers.recorded_verdict(paper.slug)
    print(f"{paper.lesson}. {paper.name}: {found.outcome}", textwrap.fill(found.claim, 100), "", sep="\n")

# %% [markdown]
# ## Your own judge
#
# A judge takes two rules: with which probability a guess stays, and what to draw from after a refusal. `verify` makes
# `accept` of them. This one is lenient where p is high, and exact elsewhere. The contract asks how far what comes out
# may be from p; `induced` adds it up. Change the rule, and see what its row says.


# %%
def mine(p, q, x):
    return min(1.0, float((2 if p[x] > 0.001 else 1) * p[x] / q[x]))


def my_accept(p, q, drafted, generator):
    return speculative.verify(p, q, drafted, mine, residual, generator)


# %%
law = induced(p[0], q[0], mine, residual)
far, farthest = (float((other - p[0]).abs().sum()) / 2 for other in (law, q[0]))
print(f"total variation {far:.3f}; where nobody judges {farthest:.3f}")
table = {"exact": rows["exact"], "yours": stage.measure(my_accept), "lenient, 0.5": rows["lenient, 0.5"]}
print(stages.speculate.table(table))
assert table["yours"].calls < rows["exact"].calls

# %% [markdown]
# `minitok check speculative FILE.py:accept` runs the library's tests on a judge that should be exact.
#
# ## What to take home
#
# - Calls can be more than halved, and with an exact judge the distribution stays what it was. The price is computation.
# - More than that is a trade. Ask a relaxed method for its price at equal savings, and set it beside lenience.
# - Do not rank by a Frechet distance of few pictures; look for a witness that hears every token.
# - Guesses from leftovers need no small model: Jacobi saves time even here. Token Recycling's calls are so wide that on
#   a processor it takes longer than plain decoding.
