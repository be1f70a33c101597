# %% [markdown]
# # LANTERN, or a judge that lets look-alikes pass
#
# **Paper:** Jang, Park, Yang, Jung, Yun, Kundu, Kim and Yang, *LANTERN: Accelerating Visual Autoregressive Models with
# Relaxed Speculative Decoding*, 2024 ([arXiv 2410.03355](https://arxiv.org/abs/2410.03355)).
# **Code:** `minitok/speculate/lantern.py`.
# **Read first:** *Speculative decoding* (`01_speculative`).
#
# You will relax the exact judge of drafts by what is special about picture codes, that many of them look alike. You
# will see what this saves, prove what it costs, and ask whether it matters that the codes look alike.

# %%
import itertools
from functools import partial

import numpy as np
import torch

from minitok import house, papers, viz
from minitok.data.clothing import CLASSES
from minitok.house.sampling import sample
from minitok.metrics import psnr
from minitok.speculate import Cached, decode, drafter, lantern, speculative
from minitok.speculate.lantern import acceptance, borrowed, nearest, residual
from minitok.speculate.speculative import induced, overlap

# %% [markdown]
# ## The problem: many refusals, and for what?
#
# `image_gpt` draws a picture as 256 codes, of 4,096 each; `image_draft` guesses them ahead. A guessed code x, of
# probability $q(x)$ by the draft and $p(x)$ by the large model, stays with probability $\min(1, p(x)/q(x))$. We let
# `image_gpt` draw ten pictures and ask both models at two places of each.

# %%
gpt, small, tokenizer = (house.load(name) for name in ("image_gpt", "image_draft", "tokenizer"))
labels, every = torch.arange(10), torch.arange(4096)
codes = sample(gpt, labels, seed=0)
with torch.no_grad():
    p_rows, q_rows = (m(codes[:, :-1], labels)[:, 40::128].flatten(0, 1).double().softmax(-1) for m in (gpt, small))
exact_rate = float(overlap(p_rows, q_rows).mean())
print(f"{len(p_rows)} places; the exact judge keeps {exact_rate:.0%} of the guesses")
print(f"the likeliest code has a probability of {float(p_rows.amax(-1).mean()):.1%} in the mean")
assert exact_rate < 0.75

# %% [markdown]
# No code is likely; many are about as good as one another. The paper calls this *token selection ambiguity*: a guess
# may be refused although it would look right. And codes do look alike. Each code stands for a vector, here of four
# numbers between -1 and 1. We replace **every** code of the ten pictures by the code whose vector is nearest, and for
# comparison by a random one. Our vectors lie on a grid, where up to eight are equally near. `nearest` takes these by
# number, the lowest first; we also draw lots among them.

# %%
vectors = tokenizer.quantizer.decode(every[None, :, None])[0]  # 4096 4
near = nearest(vectors, 64)
generator = torch.Generator().manual_seed(0)
far = torch.rand(4096, 4096, generator=generator).argsort(-1)[:, :64]
apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
ties = apart < apart.amin(-1, keepdim=True) + 1e-3
lots = (torch.rand(ties.shape, generator=generator) * ties).argmax(-1)
down = (vectors[near[:, 0], 3] < vectors[:, 3]).double().mean()
print(f"{int(ties.sum(-1).min())} to {int(ties.sum(-1).max())} codes are equally near; the lowest number is,", end=" ")
print(f"for {float(down):.0%} of the codes, a step down in the vector's fourth number")
assert down > 0.8

# %%
swapped = {"as drawn": codes, "lowest number": near[codes, 0], "by lot": lots[codes], "random": far[codes, 0]}
drawn = {name: tokenizer.decode(rows[..., None]) for name, rows in swapped.items()}
like = {name: float(psnr(images, drawn["as drawn"]).mean()) for name, images in list(drawn.items())[1:]}
print(", ".join(f"{name}: {decibels:.1f} dB" for name, decibels in like.items()))
assert like["by lot"] - 5 > like["lowest number"] > like["random"] + 5
title = "As drawn; nearest, lowest number; by lot; random"
viz.show(viz.images(torch.cat([images[:8] for images in drawn.values()]), height=0.64, title=title), photo=True)

# %% [markdown]
# A nearest code hardly changes a picture, if lots decide among the equally near ones. (PSNR, in decibels, falls with
# the squared error.) By number all codes move to the same side of the grid, hence the violet cast of the second row.
# So why refuse one for another?
#
# ## The idea: neighbours lend their probability
#
# List for each code x the k others that are nearest to it. When x is guessed, its neighbours lend it their probability,
# the nearest first, as long as all loans together stay within a limit **delta**. Then x is judged by what it has now.
# Here is a guess that the exact judge would most likely refuse.

# %%
p, q = p_rows[13], q_rows[13]
x = int((q - p).index_fill(0, p.argsort()[:-300], -1).argmax())  # of the 300 likeliest
title = "x is guessed too often; its neighbours may lend"
figure, axes = viz.panel(title, "x (0) and its neighbours, from the nearest on", "probability (%)", height=3)
row = torch.cat([torch.tensor([x]), near[x, :24]])
axes.bar(range(25), 100 * q[row], width=0.9, color=viz.GRID, edgecolor=viz.MUTED, label="q: the draft")
axes.bar(range(25), 100 * p[row], width=0.5, color=viz.OURS, label="p: image_gpt")
axes.legend()
viz.show(figure)

# %% [markdown]
# ## The mechanism, step by step
#
# **1. The loan.** Add up p over the neighbours from the nearest on, and stop before the sum exceeds delta. The sum is
# $c(x)$.

# %%
delta = 0.002
sums = p[near[x]].cumsum(0)
fits = sums <= delta
loan = float(sums[fits].max()) if fits.any() else 0.0
print(f"q(x) = {q[x]:.4f}, p(x) = {p[x]:.4f}; {int(fits.sum())} neighbours lend {loan:.4f}")
assert loan <= delta

# %% [markdown]
# **2. The test.** x stays with probability $\min(1, (p(x) + c(x)) / q(x))$.

# %%
strict, kind = min(1.0, float(p[x] / q[x])), min(1.0, float((p[x] + loan) / q[x]))
print(f"kept with probability {strict:.2f} by the exact judge, {kind:.2f} with the loan")
assert kind >= strict

# %% [markdown]
# What is x judged by? A distribution that has $p(x) + c(x)$ at x and nothing at its lenders. It differs from p by the
# moved mass, so its **total variation** from p (half the sum of absolute differences) is $c(x) \le \delta$. This is the
# bound that the paper states. We check it for every eighth code at this place.

# %%
moved = torch.stack([lantern.relaxed(p, x, near, delta) for x in range(0, 4096, 8)])
away = (moved - p).abs().sum(-1) / 2
print(f"farthest of {len(moved)}: {float(away.max()):.5f}, delta = {delta}")
within = bool(away.max() <= delta + 1e-12)
assert within
torch.testing.assert_close(away, borrowed(p, every[::8], near, delta), atol=1e-12, rtol=0)

# %% [markdown]
# **3. After a refusal** the code is drawn from $\max(0, p - q)$, scaled to sum 1, as by the exact rule; but at the
# neighbours of an x that had borrowed, q counts as 0: they may be drawn with all of their p. The authors' code has two
# versions, and that for trees of guesses of fixed shape does so, for all k neighbours of x.


# %%
def lent(p, x, delta):
    sums = p[near[x]].cumsum(0)
    return float(torch.where(sums <= delta, sums, 0).max())


def correction(p, q, x, delta):
    q = q.clone()
    if lent(p, x, delta) > 0:
        q[near[x]] = 0
    rest = (p - q).clamp(min=0)
    return rest / rest.sum()


# %% [markdown]
# **4. The chain.** Guesses are judged from the left until one is refused, as in *Speculative decoding*.
#
# **What you built is what the library has.**


# %%
def keep(p, q, x, delta):
    return min(1.0, float((p[x] + lent(p, x, delta)) / q[x]))


for x in torch.multinomial(q, 40, replacement=True, generator=generator).tolist():
    for limit in (0.0, 0.002, 0.1):
        settings = {"neighbours": near, "delta": limit}
        assert abs(keep(p, q, x, limit) - acceptance(p, q, x, **settings)) < 1e-12
        torch.testing.assert_close(correction(p, q, x, limit), residual(p, q, x, **settings), atol=1e-12, rtol=0)
print("40 guesses, three limits: the same")

# %% [markdown]
# ## The experiment: more guesses stay
#
# The share of guesses that stay, $\sum_x q(x)\,a(x)$ with $a$ the acceptance, needs no dice: we add it up over all
# 4,096 codes at the twenty places. (`borrowed` gives the loans of many codes at once; `near[:, :k]` are the k nearest.)


# %%
def rates(near, delta):  # the acceptance of every code at every place
    loans = torch.stack([borrowed(p, every, near, delta) for p in p_rows])
    return ((p_rows + loans) / q_rows).clamp(max=1)


DELTAS = (0.0, 0.0005, 0.002, 0.01, 0.1)
share = {(k, d): 100 * float((q_rows * rates(near[:, :k], d)).sum(-1).mean()) for k in (4, 16, 64) for d in DELTAS}
curves = {f"{k} neighbours": (range(len(DELTAS)), [share[k, d] for d in DELTAS]) for k in (4, 16, 64)}
figure = viz.lines(curves, "More delta, more neighbours: more guesses stay", "delta", "guesses kept (%)")
figure.axes[0].set_xticks(range(len(DELTAS)), [f"{d:g}" for d in DELTAS])
for k in (4, 16, 64):
    assert all(share[k, a] <= share[k, b] + 1e-9 for a, b in itertools.pairwise(DELTAS))
assert all(share[4, d] <= share[16, d] + 1e-9 <= share[64, d] + 2e-9 for d in DELTAS)
viz.show(figure)

# %% [markdown]
# The paper's limits, 0.05 to 0.4, let nearly everything pass here: where no code has more than a few percent, a loan of
# 0.1 is more than any guess needs. Now whole pictures, four guesses a call, judged in both ways.

# %%
judges = {"exact": speculative.accept}
judges |= {f"delta = {d:g}": partial(lantern.accept, neighbours=near, delta=d) for d in (0.002, 0.1)}
runs = {}
for name, judge in judges.items():
    for label in labels[[0, 9]].split(1):
        target, draft = (Cached(lambda new, cache, m=m, y=label: m(new, y, cache)) for m in (gpt, small))
        seeded = torch.Generator().manual_seed(int(label))
        runs[name, int(label)] = decode(target, drafter(draft), judge, codes[0, :0], 256, k=4, generator=seeded)
calls = {name: sum(run.calls for (who, _), run in runs.items() if who == name) / 2 for name in judges}
print("calls a picture:", ", ".join(f"{name}: {number:.0f}" for name, number in calls.items()))
assert calls["delta = 0.002"] < 0.6 * calls["exact"]

# %%
shown = tokenizer.decode(torch.stack([run.tokens for run in runs.values()])[..., None])
titles = [f"{name}\n{run.calls} calls" for (name, _), run in runs.items()]
title = f"Half the calls, other pictures: a {CLASSES[0]} and a {CLASSES[9]} by each judge"
viz.show(viz.images(shown, titles, columns=6, height=1.28, title=title), photo=True)

# %% [markdown]
# Two pictures of each cannot show a distribution; sums can.
#
# ## What it costs, exactly
#
# Every x is judged by a target of its own that is within delta of p. But what *comes out*? Add up: x comes with
# probability $s(x) = \min(q(x), p(x) + c(x))$ as a kept guess. Where that is more than $p(x)$ it is too much, and
# **every additional kept guess is such a one**. With the exact rule's correction, the total variation of what comes out
# equals the gain in kept guesses, to the last digit.


# %%
def out(kept):  # the law of what comes out, at each place, with the exact rule's correction
    s, rest = q_rows * kept, (p_rows - q_rows).clamp(min=0)
    return s + (1 - s.sum(-1, keepdim=True)) * rest / rest.sum(-1, keepdim=True)


def variation(law):
    return float((law - p_rows).abs().sum(-1).mean()) / 2


# %% [markdown]
# No judge can do better. Let r be what comes out. It equals the guess at least as often as guesses are kept, so the
# overlap of r and q is at least the share kept. The overlap of p and q is what the exact judge keeps. And these two
# overlaps differ by at most the total variation of r and p. So that is at least the gain.

# %%
for d in DELTAS:
    gain, away = share[64, d] / 100 - exact_rate, variation(out(rates(near, d)))
    print(f"delta = {d:g}: {gain:.3f} more guesses kept, total variation {away:.3f}")
    assert abs(gain - away) < 1e-9
assert variation(out(rates(near, 0.01))) > 0.05

# %% [markdown]
# So delta = 0.01 moves what comes out by far more than 0.01: the limit holds for each test, and each code may exceed
# its share by as much. The paper's correction (step 3) does not mend this: it draws readily at neighbours, whether they
# lack anything or not. At most places it changes next to nothing, at some it adds to the cost. The cost of the draft
# itself is never exceeded, as the guesses that the exact rule keeps, $\min(p, q)$, are kept in any case. Two places,
# all outcomes summed:

# %%
for i in (13, 6):
    p, q = p_rows[i], q_rows[i]
    rule = {"neighbours": near, "delta": 0.01}
    law = induced(p, q, partial(acceptance, **rule), partial(residual, **rule))
    plain = induced(p, q, partial(acceptance, **rule), speculative.residual)
    own, simple = (float((x - p).abs().sum()) / 2 for x in (law, plain))
    print(f"total variation: {own:.3f} with the paper's correction, {simple:.3f} with the exact rule's", end="; ")
    print(f"of the draft itself {lantern.bound(p, q):.3f}")
    assert simple - 1e-9 <= own <= lantern.bound(p, q) + 1e-12
assert own > simple + 0.03

# %% [markdown]
# ## Does it matter that they look alike?
#
# If every judge pays the same total variation for the same gain, LANTERN's merit must lie elsewhere: in *which* codes
# come too often. So we compare three judges at the same share of kept guesses:
#
# - **ours:** loans of the 64 nearest codes;
# - **random neighbours:** loans of 64 random codes;
# - **baseline, lenience:** no loans; q is multiplied by a number below 1 (appendix A.5 of *Speculative decoding*).
#
# The measure should forgive a code that stands in for a near one. The **energy distance** of two laws does: twice the
# mean distance (of vectors) between draws of both, minus the mean distances within each. It is 0 if they agree.

# %%
distance = torch.cdist(vectors, vectors)


def energy(law):
    difference = (law - p_rows).float()
    return 1000 * float(-((difference @ distance) * difference).sum(-1).mean())


def surprise(law):
    return float(((law - p_rows) * -p_rows.log2()).sum(-1).mean())


# %%
LIMITS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
ways = {"ours: nearest": [rates(near, d) for d in LIMITS], "random neighbours": [rates(far, d) for d in LIMITS]}
ways["baseline: lenience"] = [(p_rows / q_rows / m).clamp(max=1) for m in (0.8, 0.6, 0.4, 0.2, 0.1, 0.03)]
saved = {name: [100 * float((q_rows * a).sum(-1).mean()) for a in kept] for name, kept in ways.items()}
energies = {name: [energy(out(a)) for a in kept] for name, kept in ways.items()}
title = "At equal savings loans do more harm than lenience"
curves = {name: (saved[name], energies[name]) for name in ways}
viz.show(viz.lines(curves, title, "guesses kept (%)", "energy distance from p (thousandths)"))

# %% [markdown]
# We read all three off at three levels, 12, 30 and 37 percentage points more than the exact judge keeps; and, as a
# second witness, how much more than expected the large model is surprised, in bits: the mean of $\log_2 (1/p)$ over
# what comes out, less its mean over p.

# %%
found, MORE = {}, (12, 30, 37)
for more, (name, kept) in itertools.product(MORE, ways.items()):
    level, bits = 100 * exact_rate + more, [surprise(out(a)) for a in kept]
    assert saved[name][0] < level < saved[name][-1]
    found[more, name] = [float(np.interp(level, saved[name], ys)) for ys in (energies[name], bits)]
    print(f"+{more}, {name}: energy distance {found[more, name][0]:.1f}, surprise {found[more, name][1]:+.2f} bits")
for more, name in itertools.product(MORE, ("ours: nearest", "random neighbours")):
    assert min(np.subtract(found[more, name], found[more, "baseline: lenience"])) > 0

# %% [markdown]
# Lenience does less harm than loans, by both witnesses and at all levels. Near loans are worse than random ones at
# first, and better only where nearly all guesses stay. Why? The neighbours lend on paper only. Nothing makes them come
# less often: a loan keeps x, and what is lost for it is the correction, taken from *all* codes that the draft guesses
# too rarely, wherever they lie. Loans favour codes of little probability in a likely neighbourhood. Lenience favours
# codes in proportion to their own, which surprises less.
#
# ## Play: one place, any limit
#
# Each point is a code (every fourth is drawn); above the dashed line it comes more often than it should.


# %%
def place(delta=0.002, neighbours=64):
    p, q = p_rows[13], q_rows[13]
    s = torch.minimum(q, p + borrowed(p, every, near[:, :neighbours], delta))
    law = s + (1 - s.sum()) * residual(p, q, 0, near, delta=0)
    title = f"{float(s.sum()):.0%} kept, total variation {float((law - p).abs().sum()) / 2:.2f}"
    figure, axes = viz.panel(title, "probability wanted, p", "probability that comes out", width=5, height=4)
    axes.loglog(p[::4], law[::4], ".", markersize=3, color=viz.OURS)
    axes.loglog([1e-9, 1], [1e-9, 1], "--", color=viz.MUTED)
    axes.set(xlim=(1e-9, 0.2), ylim=(1e-9, 0.2))
    return viz.show(figure)


place()

# %%
control = viz.slider(place, delta=[0.0, 0.0005, 0.002, 0.01, 0.1], neighbours=[0, 4, 16, 64])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
same = variation(out(rates(near, 0.0))) < 1e-12
paper = "1.75 times over exact judging, greedy (abstract)"
fewer = papers.better("calls", calls["delta = 0.002"], than=calls["exact"], higher=False, margin=10, paper=paper)
moved = {"than": 0.002, "higher": False, "paper": "a bound, but of the target that each guess is judged by"}
measures = [papers.exact("delta = 0 changes nothing", bool(same)), fewer]
measures.append(papers.exact("each judged target within delta", within, paper="a bound of total variation"))
measures.append(papers.better("what comes out within delta = 0.002", variation(out(rates(near, 0.002))), **moved))
for more, (i, what, margin) in itertools.product(MORE, ((0, "energy distance", 3), (1, "surprise", 0.05))):
    near_one, random_one = found[more, "ours: nearest"][i], found[more, "random neighbours"][i]
    measures.append(papers.better(f"{what} at +{more}", near_one, than=random_one, higher=False, margin=margin))

# %%
claim = papers.verdict(
    "lantern",
    "Loans of near codes save calls, each test and what comes out stay within delta, and random loans hurt more.",
    measures,
    against="calls: exact judging, a picture; harm: loans of 64 random codes, as many guesses kept (points over exact)",
    data="pictures of clothes as 256 codes, temperature 1, drawn by the house models; twenty places",
)
assert [measure.holds for measure in measures] == [True] * 3 + [False] * 5 + [True] * 2

# %% [markdown]
# Loans save half of the calls. Each test stays within delta; what comes out does not. That *near* codes lend is a
# merit only where nearly all guesses stay, and lenience always does less harm. Our 4,096 codes are a grid's points
# (with lots among equally near ones the results are alike; not run here), the draft is a model of its own; the
# paper's codebook is learnt, has 16,384 codes, and its draft is a tree made from the large model's features.
#
# ## Where it breaks
#
# **A limit that does not limit.** Ten codes of equal probability, of which the draft knows only five. No test moves
# more than 0.1. All guesses pass, and half of the codes never come:

# %%
p, q = torch.tensor([[0.1] * 10, [0.2] * 5 + [0.0] * 5], dtype=torch.float64)
rule = {"neighbours": nearest(torch.arange(10.0)[:, None], 9), "delta": 0.1}
law = induced(p, q, partial(acceptance, **rule), partial(residual, **rule))
print("comes out:", [round(x, 2) for x in law.tolist()], "total variation", round(float((law - p).abs().sum()) / 2, 2))
assert (law[5:] == 0).all()

# %% [markdown]
# **A limit of the wrong size.** The paper's delta of 0.05 to 0.4 suits a model whose probabilities are of that size.
# Ours spreads over hundreds of codes: 0.1 makes any guess pass, and `image_draft` draws the picture.
#
# ## Exercises
#
# **1. Greedy.** At temperature 0 the exact judge keeps a guess if it is the likeliest code. LANTERN first puts
# $p(x) + c(x)$ at x (its lenders keep theirs), then asks the same. Write the judge; it returns a bool.


# %%
def greedy(p, x, near, delta):
    return int(p.argmax()) == x  # replace this: the exact judge


# %%
def check_1(greedy):
    places = [(p, int(q.argmax())) for p, q in zip(p_rows, q_rows, strict=True)]
    exact, kept = (sum(greedy(p, x, near, delta) for p, x in places) for delta in (0.0, 0.1))
    if kept <= exact:
        return f"delta = 0.1 keeps {kept} of {len(places)} guesses, as many as delta = 0"
    reach = sum(bool(p[x] + borrowed(p, torch.tensor([x]), near, 0.1)[0] >= p.max()) for p, x in places)
    return f"{'right' if kept == reach else 'not yet'}: {exact} of {len(places)} kept exactly, {kept} with loans"


check_1(greedy)

# %% [markdown]
# **2. A limit in proportion.** For delta above 1 the authors' code has another rule: the loans may be at most
# $(\delta - 1)\,p(x)$, so that a code that is unlikely itself borrows little. Write the loan of each code as
# `borrowed` does, for all codes, and see whether it surprises the model less.


# %%
def in_proportion(p, near, delta):  # the loans of all codes
    return torch.zeros_like(p)  # replace this


# %%
def check_2(in_proportion):
    loans = torch.stack([in_proportion(p, near, 3.0) for p in p_rows])
    if (loans > 2 * p_rows + 1e-12).any() or not loans.any():
        return "with delta = 3 a code may borrow up to twice its own probability, and some do"
    kept = ((p_rows + loans) / q_rows).clamp(max=1)
    gain = float((q_rows * kept).sum(-1).mean()) - exact_rate
    return f"right: {gain:.0%} more kept, energy {energy(out(kept)):.1f}, surprise {surprise(out(kept)):+.2f} bits"


check_2(in_proportion)

# %% [markdown]
# Solutions: `notebooks/src/solutions/05_speculate/04_lantern.py`.
#
# ## What was left out
#
# The paper guesses a tree of continuations (EAGLE-2), and after a refusal tries the next branch with what is left of p.
# Its successor LANTERN++ (2025) takes a tree of fixed shape and the limit of exercise 2. Whole pictures in larger
# numbers are compared in the chapter's league (`minitok league speculate`). Read on: `gsd` judges by groups of codes
# that are near in rank.
