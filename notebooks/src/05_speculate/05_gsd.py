# %% [markdown]
# # Grouped speculative decoding, or judging a code by its company
#
# **Paper:** So, Shin, Kook and Park, *Grouped Speculative Decoding for Autoregressive Image Generation*, 2025
# ([arXiv 2508.07747](https://arxiv.org/abs/2508.07747)).
# **Code:** `minitok/speculate/gsd.py`.
# **Read first:** *Speculative decoding* (`01_speculative`) and *LANTERN* (`04_lantern`).
#
# You will judge a guessed picture code by the probability of a whole group of codes that would do as well, choose the
# groups anew at every place, and compare them with groups that are chosen once.

# %%
import itertools
from functools import partial

import numpy as np
import torch

from minitok import house, papers, viz
from minitok.data.clothing import CLASSES
from minitok.house.sampling import sample
from minitok.metrics import psnr
from minitok.speculate import Cached, decode, drafter, gsd, speculative
from minitok.speculate.gsd import acceptance, acceptances, by_cluster
from minitok.speculate.speculative import overlap

# %% [markdown]
# ## The problem: refused for the wrong twin
#
# `image_gpt` draws a picture as 256 codes, of 4,096 each, and `image_draft` guesses them. A guess x of probability
# $q(x)$ by the draft and $p(x)$ by the large model stays with probability $\min(1, p(x)/q(x))$. We ask both models at
# two places of each of ten pictures.

# %%
gpt, small, tokenizer = (house.load(name) for name in ("image_gpt", "image_draft", "tokenizer"))
labels, every = torch.arange(10), torch.arange(4096)
codes = sample(gpt, labels, seed=0)
with torch.no_grad():
    p_all, q_all = (m(codes[:, :-1], labels).double().softmax(-1) for m in (gpt, small))
p_rows, q_rows = (rows[:, 40::128].flatten(0, 1) for rows in (p_all, q_all))
exact_rate = float(overlap(p_rows, q_rows).mean())
ranked = 100 * p_rows.sort(descending=True).values
next_to = (ranked[:, 1:100] / ranked[:, :99]).mean()
print(
    f"the exact judge keeps {exact_rate:.0%}; a code has {float(next_to):.0%} of the probability of the next likelier"
)
assert next_to > 0.9

# %% [markdown]
# At one place the codes in order of probability (their **rank**) fall off slowly. Neighbours in rank are equally good
# in the eyes of the large model; which of them the draft happens to prefer decides over a refusal.

# %%
curves = {f"picture {i // 2}": (range(1, 301), ranked[i, :300]) for i in (4, 13, 18)}
figure = viz.lines(curves, "Codes next in rank are about as likely", "rank by image_gpt", "probability (%)", log="xy")
viz.show(figure)

# %% [markdown]
# Is a code that is near in rank also as good to the eye? We replace every code of the pictures by the one next in rank
# at its place, and for comparison by the one whose vector is nearest (each code stands for a vector of four numbers;
# they lie on a grid, and up to eight are equally near: we draw lots). PSNR in decibels falls with the squared error.

# %%
vectors = tokenizer.quantizer.decode(every[None, :, None])[0]  # 4096 4
order = p_all.argsort(-1)
rank = order.argsort(-1).gather(-1, codes[..., None])
apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
ties = apart < apart.amin(-1, keepdim=True) + 1e-3
lots = torch.rand(ties.shape, generator=torch.Generator().manual_seed(0))
swapped = {"as drawn": codes, "next in rank": order.gather(-1, (rank - 1).clamp(min=0))[..., 0]}
swapped["nearest vector"] = (lots * ties).argmax(-1)[codes]
drawn = {name: tokenizer.decode(rows[..., None]) for name, rows in swapped.items()}
like = {name: float(psnr(images, drawn["as drawn"]).mean()) for name, images in list(drawn.items())[1:]}
print(", ".join(f"{name}: {decibels:.1f} dB" for name, decibels in like.items()))
assert like["nearest vector"] > like["next in rank"]
title = "As drawn; each code by the next in rank; by the nearest"
viz.show(viz.images(torch.cat([images[:8] for images in drawn.values()]), height=0.64, title=title), photo=True)

# %% [markdown]
# The nearest is the same picture; the one next in rank keeps the outline and changes patterns. So the paper asks for
# both: near in rank, and not too far in vectors.
#
# ## The mechanism, step by step
#
# **1. The group.** Sort the codes by p, lowest first, and find x. Take the `window` = 7 codes below it and the 6 above.

# %%
p, q = p_rows[13], q_rows[13]
x = int((q - p).index_fill(0, p.argsort()[:-100], -1).argmax())  # guessed too often, of the 100 likeliest
ascending = p.argsort(stable=True)
r = int((ascending == x).nonzero())
company = ascending[r - 7 : r + 7]
print(f"x = {x}, the {4096 - r}th likeliest of 4096; its company:", company.tolist())
assert x in company.tolist()

# %% [markdown]
# **2. Two conditions.** Of these, keep the codes whose probability differs from $p(x)$ by less than 0.15, and whose
# vector's squared distance from that of x is below 0.5. (Numbers of the authors' code, where vectors are those by which
# the model reads its codes; ours are the tokenizer's.)

# %%
gaps, distances = (p[company] - p[x]).abs(), (vectors[company] - vectors[x]).square().sum(-1)
group = company[(gaps < 0.15) & (distances < 0.5)]
print(f"largest gap {float(gaps.max()):.4f}; in the group: {group.tolist()}")
assert gaps.max() < 0.15

# %% [markdown]
# The gap excludes nobody here: our model gives no code as much as 0.15 at this place.
#
# **3. The test.** x, and not another of its group, stays with probability $\min(1, \sum_C p / \sum_C q)$: the same
# codes in both sums.

# %%
alone, together = min(1.0, float(p[x] / q[x])), min(1.0, float(p[group].sum() / q[group].sum()))
title = f"Kept with {alone:.0%} alone, with {together:.0%} in its group"
figure, axes = viz.panel(title, "the company of x, by rank", "probability (%)", height=3)
inside = set(group.tolist())
ticks = ["x" if y == x else "in" if y in inside else "" for y in company.tolist()]
axes.bar(range(14), 100 * q[company], width=0.9, color=viz.GRID, edgecolor=viz.MUTED, label="q: the draft")
axes.bar(range(14), 100 * p[company], width=0.5, color=viz.OURS, label="p: image_gpt")
axes.set_xticks(range(14), ticks)
figure.legend(loc="outside lower center", ncols=2)
viz.show(figure)

# %% [markdown]
# **4. After a refusal** the code is drawn from $\max(0, p - q)$, scaled to sum 1, of the plain p and q.
#
# **What you built is what the library has.**


# %%
def keep(p, q, x, window=7, gap=0.15, radius=0.5):
    ascending = p.argsort(stable=True)
    r = int((ascending == x).nonzero())
    if r < window:  # too few below: x alone
        return min(1.0, float(p[x] / q[x]))
    company = ascending[r - window : r + window]
    near = (vectors[company] - vectors[x]).square().sum(-1) < radius
    group = company[near & ((p[company] - p[x]).abs() < gap)]
    return min(1.0, float(p[group].sum() / q[group].sum()))


# %%
guesses = torch.multinomial(q, 60, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
for x, window, radius in itertools.product(guesses, (1, 7, 30), (0.2, 0.5)):
    library = acceptance(p, q, x, vectors, window=window, radius=radius)
    assert abs(library - keep(p, q, x, window, radius=radius)) < 1e-12
print("60 guesses, six settings: the same")

# %% [markdown]
# With `window=0` the library takes x alone, and that is the exact rule, bit for bit:

# %%
alone = torch.stack([acceptances(p, q, every, vectors, window=0) for p, q in zip(p_rows, q_rows, strict=True)])
exactly = bool((alone == (p_rows / q_rows).clamp(max=1)).all())
assert exactly
sizes = [gsd.group(p, every, vectors)[1].sum(-1) for p in p_rows]
members_of_a_guess = float((q_rows * torch.stack(sizes)).sum(-1).mean())
print(f"alone exact; with window 7 a guess has {members_of_a_guess:.1f} of 14 in its group, in the mean")

# %% [markdown]
# ## The experiment: groups that move against groups that stay
#
# The paper's weak baseline are **static groups**: the codes' vectors are put into clusters once (k-means), and a code's
# group is its cluster, wherever it stands. A third judge uses no groups: **lenience** multiplies q by a number below 1.
# All three have a knob, so we compare them where they keep equally many guesses. That share, $\sum_x q(x)\,a(x)$ with
# $a$ the acceptance, is added up over all codes.


# %%
def dynamic(window, radius=0.5):
    pairs = zip(p_rows, q_rows, strict=True)
    return torch.stack([acceptances(p, q, every, vectors, window=window, radius=radius) for p, q in pairs])


def static(clusters):
    from sklearn.cluster import KMeans

    found = KMeans(clusters, n_init=1, max_iter=20, random_state=0).fit(vectors.numpy()).labels_
    return by_cluster(p_rows, q_rows, torch.tensor(found).long())


# %%
ways = {"ours: dynamic groups": {w: dynamic(w) for w in (1, 3, 7, 15, 30, 60)}}
ways["baseline: static groups"] = {c: static(c) for c in (3000, 2000, 1000, 300, 80, 40)}
ways["lenience"] = {m: (p_rows / q_rows / m).clamp(max=1) for m in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)}
share = {name: [100 * float((q_rows * a).sum(-1).mean()) for a in knob.values()] for name, knob in ways.items()}
ours = share["ours: dynamic groups"]
print(f"exact: {exact_rate:.0%}; window 7: {ours[2]:.0f} %, window 60: {ours[-1]:.0f} %")
assert ours[2] > 100 * exact_rate + 2
assert ours[-1] > ours[2] > ours[0]

# %% [markdown]
# What comes out is a kept guess, or the correction. Three measures of how far its law is from p: **total variation**
# (half the sum of absolute differences), the **surprise** of the large model (the mean of $\log_2(1/p)$, less its mean
# over p, in bits), and the **energy distance** of the codes' vectors, which forgives a code that stands in for a near
# one (*LANTERN* explains it).

# %%
between = torch.cdist(vectors, vectors)


def cost(kept):
    s, rest = q_rows * kept, (p_rows - q_rows).clamp(min=0)
    change = s + (1 - s.sum(-1, keepdim=True)) * rest / rest.sum(-1, keepdim=True) - p_rows
    bits = -(change * p_rows.log2()).sum(-1).mean()
    energy = -((change.float() @ between) * change.float()).sum(-1).mean()
    return float(change.abs().sum(-1).mean()) / 2, float(bits), 1000 * float(energy)


costs = {name: [cost(a) for a in knob.values()] for name, knob in ways.items()}


# %%
def read_off(name, level):  # the three measures where a judge keeps `level` percent of the guesses
    assert share[name][0] < level <= share[name][-1]
    return [float(np.interp(level, share[name], ys)) for ys in zip(*costs[name], strict=True)]


at = {(window, name): read_off(name, ours[i]) for window, i in ((7, 2), (60, -1)) for name in ways}
for (window, name), (far, bits, energy) in at.items():
    print(f"as many kept as by window {window}, {name}:")
    print(f"    total variation {far:.3f}, surprise {bits:+.3f} bits, energy distance {energy:.1f} thousandths")

# %%
curves = {name: (share[name], [row[1] for row in rows]) for name, rows in costs.items()}
viz.show(viz.lines(curves, "Groups by rank surprise the model least", "guesses kept (%)", "surprise (bits)"))

# %%
curves = {name: (share[name], [row[2] for row in rows]) for name, rows in costs.items()}
title = "By energy distance lenience does the least harm"
figure = viz.lines(curves, title, "guesses kept (%)", "energy distance (thousandths)")
for window in (7, 60):
    (_, bits, energy), still, (_, lenient_bits, least) = (at[window, name] for name in ways)
    assert bits < min(still[1], lenient_bits) - 0.02
    assert least < min(energy, still[2])
viz.show(figure)

# %% [markdown]
# By surprise, groups that move with the ranking do the least harm: a cluster holds likely and unlikely codes, and the
# unlikely ones pass with the rest. Codes next in rank are about equally likely, so probability moves between codes that
# the model likes equally. Wide windows reach further, and the surprise grows.
#
# By energy distance they are the worst of the three: static groups hold codes that look alike. And in total variation
# every judge pays at least what it gains (*LANTERN* says why). Lenience pays just that. Dynamic groups pay more, since
# they also refuse codes that the exact judge would keep, in groups that the draft likes too much.

# %%
for name, rows in costs.items():
    extra = [row[0] - (kept / 100 - exact_rate) for row, kept in zip(rows, share[name], strict=True)]
    print(f"{name}: total variation above the gain, {abs(min(extra)):.3f} to {abs(max(extra)):.3f}")
    assert min(extra) > -1e-9
    assert name != "lenience" or max(extra) < 1e-9

# %% [markdown]
# ## Whole pictures, with and without a second model
#
# The paper has no second model. It drafts by **Jacobi decoding**: a call of the large model answers at all guessed
# places at once, and its answers behind the first refusal, though they rest on void guesses, are what the next guesses
# are drawn from. `gsd.Jacobi` remembers these rows. Guesses then cost nothing, and the exact judge stays exact, since
# each is drawn from a known q. One picture of each judge; `image_draft` guesses four codes a call, Jacobi eight.


# %%
def picture(judge, k, second_model):
    target, draft = (Cached(lambda new, cache, m=m: m(new, labels[9:], cache)) for m in (gpt, small))
    jacobi = gsd.Jacobi(target, 4096)
    pair = (target, drafter(draft)) if second_model else (jacobi.target, jacobi.draft)
    return decode(*pair, judge, codes[0, :0], 256, k=k, generator=torch.Generator().manual_seed(0))


judges = {"exact": speculative.accept, "gsd": partial(gsd.accept, codebook=vectors)}
judges["gsd, window 60"] = partial(gsd.accept, codebook=vectors, window=60)
runs = {("image_draft", name): picture(judge, 4, True) for name, judge in judges.items()}
runs |= {("Jacobi", name): picture(judges[name], 8, False) for name in ("exact", "gsd, window 60")}
for (source, name), run in runs.items():
    print(f"{source}, {name}: {run.calls} calls")
assert runs["image_draft", "gsd, window 60"].calls < runs["image_draft", "exact"].calls < 170
assert runs["Jacobi", "exact"].calls < 240

# %%
shown = tokenizer.decode(torch.stack([run.tokens for run in runs.values()])[..., None])
titles = [f"{source}\n{name}\n{run.calls} calls" for (source, name), run in runs.items()]
title = f"Fewer calls, other pictures: a {CLASSES[9]} of each judge"
viz.show(viz.images(shown, titles, columns=5, height=1.28, title=title), photo=True)

# %% [markdown]
# ## Play: who is in the group?
#
# All codes at one place by their first two numbers (each point holds 64 codes); the group of a likely code in colour.


# %%
def members(window=30, radius=0.5, guess=0):
    p = p_rows[13]
    x = p.topk(20).indices[guess : guess + 1]
    found, inside = gsd.group(p, x, vectors, window=window, radius=radius)
    title = f"{int(inside.sum())} of {2 * window} in the group, with {100 * float(p[found[inside]].sum()):.1f} % of p"
    figure, axes = viz.panel(title, "first number of the vector", "second number", width=5, height=4)
    axes.plot(*vectors[:, :2].T, ".", color=viz.GRID)
    axes.plot(*vectors[found[0], :2].T, "s", color=viz.BASELINE, markersize=8, label="near in rank")
    axes.plot(*vectors[found[inside], :2].T, "o", color=viz.OURS, label="and in vector: the group")
    axes.plot(*vectors[x, :2].T, "*", color=viz.TEXT, markersize=12, label="x")
    figure.legend(loc="outside lower center", ncols=3)
    return viz.show(figure)


members()

# %%
control = viz.slider(members, window=(1, 60), radius=[0.1, 0.2, 0.5, 1.0, 9.0], guess=(0, 19))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
moving, still = at[60, "ours: dynamic groups"], at[60, "baseline: static groups"]
before, after = (runs["image_draft", name].calls for name in ("exact", "gsd, window 60"))
paper = "none over exact; 3.7 times sooner than plain (abstract)"
tamer = {"higher": False, "unit": "bits", "margin": 0.03}
measures = [
    papers.exact("a group of one is exact", exactly),
    papers.better("guesses kept, window 7", ours[2], than=100 * exact_rate, unit="%", margin=2),
    papers.better("calls a picture, window 60", after, than=before, higher=False, margin=5, paper=paper),
    papers.better("surprise, window 60", moving[1], than=still[1], **tamer),
    papers.better("the same, than lenience", moving[1], than=at[60, "lenience"][1], **tamer),
    papers.better("energy distance, window 60", moving[2], than=still[2], unit="1/1000", higher=False, margin=0.3),
]

# %%
claim = papers.verdict(
    "gsd",
    "Judging a code by its group saves calls; groups by the target's ranking do less harm than static ones.",
    measures,
    against="calls: the exact judge, same draft, one picture; harm: k-means clusters that keep as many as window 60",
    data="pictures of clothes as 256 codes, temperature 1, drawn by the house models; twenty places",
)
assert [measure.holds for measure in measures] == [True, True, True, True, True, False]
jacobi = [256 / runs["Jacobi", name].calls for name in ("exact", "gsd, window 60")]
print(f"over plain decoding, in calls: Jacobi {jacobi[0]:.1f} times by the exact rule, {jacobi[1]:.1f} by groups")

# %% [markdown]
# The paper's 3.7 is over plain decoding, too. Our saving needs window 60. The authors' 7 saves little here, since most
# of the codes next in rank do not lie close in vectors. The paper's model has 8,192 codes and measures with its own
# vectors. Which judge does the least harm depends on the measure: groups by rank win by surprise, lenience by energy
# distance and total variation.
#
# ## Where it breaks
#
# **Groups without distance.** Widen the radius until rank alone decides. Far more guesses stay, and codes that look
# different stand in for one another: the energy distance is well above that of lenience with as many kept.

# %%
wide = dynamic(7, radius=100.0)
kept = 100 * float((q_rows * wide).sum(-1).mean())
found = {"rank alone": cost(wide), "lenience": read_off("lenience", kept)}
for name, (far, bits, energy) in found.items():
    print(f"{name}, {kept:.0f}% kept: total variation {far:.2f}, surprise {bits:+.2f} bits, energy {energy:.1f}")
assert kept > ours[2] + 2
assert found["rank alone"][2] > found["lenience"][2] + 3

# %% [markdown]
# **The last ranks.** In the authors' code a code with fewer than seven below it gets an empty slice, and an error that
# is caught sends it to the plain rule; at the top the slice is cut short in silence.
#
# ## Exercises
#
# **1. Groups by the draft.** What if the ranking were the draft's? Write the acceptance of all codes with groups from q
# and the same ratio, and see what happens to the surprise.


# %%
def by_draft(p, q):
    return acceptances(p, q, every, vectors, window=30)  # replace this: groups by the target


def check_1(by_draft):
    a = torch.stack([by_draft(p, q) for p, q in zip(p_rows, q_rows, strict=True)])
    if torch.equal(a, dynamic(30)):
        return "these are the target's groups"
    x, q = int(q_rows[0].argsort()[3]), q_rows[0]
    if not torch.isclose(a[0, x], (p_rows[0, x] / q[x]).clamp(max=1)):
        return "a code of the draft's lowest ranks should be alone"
    return f"right: {float((q_rows * a).sum(-1).mean()):.0%} kept, surprise {cost(a)[1]:+.3f} bits"


check_1(by_draft)

# %% [markdown]
# **2. Never stricter.** Let a guess pass with the larger of its own ratio and its group's. Does it keep more for the
# same total variation?


# %%
def kinder(p, q):
    return acceptances(p, q, every, vectors, window=30)  # replace this


def check_2(kinder):
    a = torch.stack([kinder(p, q) for p, q in zip(p_rows, q_rows, strict=True)])
    if (a < (p_rows / q_rows).clamp(max=1) - 1e-12).any():
        return "some guesses are judged more strictly than by the exact rule"
    gain, (far, bits, _) = float((q_rows * a).sum(-1).mean()) - exact_rate, cost(a)
    found = "right" if abs(gain - far) < 1e-9 and gain > 0.03 else "not yet"
    return f"{found}: {gain:.1%} more kept, total variation {far:.3f}, surprise {bits:+.3f} bits"


check_2(kinder)

# %% [markdown]
# Solutions: `notebooks/src/solutions/05_speculate/05_gsd.py`.
#
# ## What was left out
#
# The paper's models (Lumina-mGPT, with guidance and top-k sampling) and its measurements of latency; the refreshing of
# a window in speculative Jacobi decoding, which keeps refused guesses where ours draws all anew. The chapter's league
# (`minitok league speculate`) compares whole pictures of all judges.
