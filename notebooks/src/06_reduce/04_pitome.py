# %% [markdown]
# # PiToMe: merge the crowd, protect the lone token
#
# **Paper:** Tran and others, *Accelerating Transformers with Spectrum-Preserving Token Merging*, 2024
# ([arXiv 2405.16148](https://arxiv.org/abs/2405.16148)).
# **Code:** `minitok/reduce/pitome.py`.
# **Read first:** [random token dropping](01_random_drop.ipynb) (what a reduction is) and [ToMe](02_tome.ipynb), which
# this paper changes in one place.
#
# ToMe splits tokens into its two sets by their *place*. PiToMe splits them by their *energy*: how large a crowd of
# similar tokens each one stands in. You will build it, measure it in a trained network, and test the theorem that gave
# the paper its title.

# %%
import itertools
import math

import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy, flops
from minitok.reduce import Reduction, cost, spread
from minitok.reduce.pitome import energy, falling, merge_crowd, pitome
from minitok.reduce.random_drop import random_drop
from minitok.reduce.tome import tome

# %% [markdown]
# ## The problem: even and odd places
#
# ToMe puts tokens of even places in a set A, those of odd places in a set B, and merges tokens of A into their most
# similar tokens of B. In a picture of 16 x 16 patches, A is every second column. Here is one where that matters:
# stripes that stand in even columns only. A token is a patch, here its mean colour; 128 of the 256 are to stay.

# %%
blue, red = torch.tensor([[0.1, 0.1, 0.7], [0.8, 0.1, 0.1]]).view(2, 3, 1, 1)
striped = torch.full((3, 16, 16), 0.9)
striped[:, 3:13, 4:12:2] = blue.lerp(red, torch.linspace(0, 1, 10).view(1, 10, 1))
striped = striped + 0.03 * torch.randn(striped.shape, generator=torch.Generator().manual_seed(0))
tokens = striped.flatten(1).T[None]  # (b, n, c) = (1, 256, 3)


def painted(reduction):
    """Each patch in the mean colour of what it was merged with."""
    return reduction.restore(reduction.apply(tokens)).mT.unflatten(2, (16, 16))


# %%
by_place = tome(tokens - 0.5, 128)  # around zero, so that light and dark point in opposite directions
shown = torch.cat([striped[None], painted(by_place)])
assert len(set(by_place.assignment.view(16, 16)[3:13, 4:12:2].flatten().tolist())) == 4
viz.show(
    viz.images(
        shown, ["256 patches", "ToMe: 128 tokens"], height=1.6, title="Light patches take on the stripes' colours"
    )
)

# %% [markdown]
# Half of the tokens must go, so all of A must merge, and every token of a stripe is in A. None has a partner of its
# kind in B: they crowd into the few light patches that are least unlike. Of the 40 tokens of the stripes four are left.
#
# ## The idea: a crowd can spare tokens
#
# A background is a large crowd of nearly equal tokens; a button stands nearly alone. Give each token an **energy**,
# high inside a crowd. Take tokens from crowds only, and pair those of *similar energy*, which are probably of the same
# crowd.
#
# Here are the tokens of the house's vision transformer, after the attention of layer 3 (of 8, from 0):

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::16] if there else photographs.crops(24, 64)
layers = []
vit(images[::3], layers.append)
keys = layers[3].keys[:, :, 1:]  # (b, g, n, d): of 3 heads, without the CLS token
metric = keys.mean(1)
print("keys:", tuple(keys.shape), "-> one vector a token:", tuple(metric.shape))

# %% [markdown]
# ## The mechanism, step by step
#
# **1. Compare.** Like ToMe, PiToMe compares the *keys* of the attention before, averaged over heads, by their cosine: 1
# for the same direction, 0 for a right angle, -1 for opposite ones.

# %%
unit = F.normalize(metric, dim=-1)
cosine = unit @ unit.mT  # (b, n, n)
pairs = cosine[:, ~torch.eye(256, dtype=torch.bool)]  # without each token's cosine to itself
print(f"mean cosine {pairs.mean():.2f}; above 0.9: {(pairs > 0.9).float().mean():.1%} of all pairs")

# %% [markdown]
# **2. Energy.** Sum over all tokens j what they add to the crowd of token i, with a margin m:
#
# $$E_i = \frac{1}{n} \sum_j f(\cos(v_i, v_j) - m), \qquad f(x) = x \text{ for } x \ge 0,\ e^x - 1 \text{ below.}$$
#
# f is called ELU. A copy adds 1 - m, a token at a right angle takes off $1 - e^{-m}$. The margin is high in early
# layers and falls, $m = 0.9 - 0.9\, l / L$ at layer l of L.

# %%
m = 0.9 - 0.9 * 3 / 8
energies = torch.where(cosine >= m, cosine - m, (cosine - m).exp() - 1).mean(-1)
torch.testing.assert_close(energies, energy(metric, margin=m))
print(f"layer 3: margin {m:.2f}, a copy adds {1 - m:.2f}, a right angle takes off {1 - math.exp(-m):.2f}")
print(f"energies from {energies.min():.2f} to {energies.max():.2f}")
assert energies.max() < 0 or not there

# %% [markdown]
# So far tokens count about as much as near ones, and the energies are all below 0: only their order matters. Below,
# each map goes from its lowest energy (black) to its highest (white). The plain ground round the T-shirt is bright, its
# print and its edges are not.

# %%
chosen = [2, 5, 7]
heat = energies[chosen].view(3, 1, 16, 16)
low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
heat = ((heat - low) / (high - low)).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
shown = torch.cat([images[::3][chosen], heat])
viz.show(viz.images(shown, columns=3, height=1.28, title="Bright: high energy, a large crowd"), photo=True)

# %% [markdown]
# **3. Protect.** To lose r tokens, sort all by energy. The 2r highest may merge; the others are protected and stay as
# they are. We take away a fifth: r = 51.

# %%
r, n = 51, 256
rank = energies.argsort(dim=-1, descending=True, stable=True)
crowd, protected = rank[:, : 2 * r], rank[:, 2 * r :]
print(f"{crowd.shape[1]} tokens may merge, {protected.shape[1]} are protected")

# %% [markdown]
# **4. Pair by rank.** Of the 2r, every second *rank* goes to A, the others to B, so that neighbours in energy land on
# different sides. **All** of A merge, each into its most similar token of B.

# %%
in_A, in_B = crowd[:, ::2], crowd[:, 1::2]
rows = torch.arange(len(metric))[:, None]
similar = unit[rows, in_A] @ unit[rows, in_B].mT  # (b, r, r)
partner = in_B.gather(1, similar.argmax(-1))
print(f"{in_A.shape[1]} tokens go, into {len(set(partner[0].tolist()))} different ones in the first photograph")

# %% [markdown]
# **5. Number the outputs.** Each token of A gets its partner's place as its target, all others their own. What is left
# of the places is counted on, in reading order: that is the assignment of a merge. (The authors put protected tokens
# first and the rest by energy; the network does not care, since positions were added to the tokens at the start.)

# %%
target = torch.arange(n).repeat(len(metric), 1).scatter(1, in_A, partner)
left = torch.ones(len(metric), n).scatter(1, in_A, 0.0)
number = (left.cumsum(-1) - 1).long()  # the place of each that is left
built = Reduction.merge(number.gather(1, target), n - r)
print("tokens left:", built.shape[1], "| the largest stands for", int(built.sizes(torch.ones(8, n)).max()))

# %% [markdown]
# **What you built is what the library has.** `merge_crowd` is one step; it hands the sorted crowd to ToMe's `match`.
# `pitome` repeats it where more than half of the tokens must go. Outputs may be numbered in another way, so we compare
# what each of the n tokens is worth afterwards.

# %%
hidden = layers[3].hidden[:, 1:]
library = pitome(hidden, n - r, keys=keys, margin=m)
torch.testing.assert_close(library.restore(library.apply(hidden)), built.restore(built.apply(hidden)))
assert torch.equal(library.assignment, merge_crowd(metric, r, margin=m))
print("tokens and assignment agree")

# %% [markdown]
# The stripes are safe now: dark and light have different energies, so each kind is shared out between A and B. (Half of
# the tokens go, so 2r is all of them and nobody is protected: it is the order that helps.)

# %%
by_energy = pitome(tokens - 0.5, 128)
assert torch.equal(by_energy.assignment, pitome(tokens - 0.5, 128, protect=False).assignment)
error = [float((painted(M)[0] - striped).square().mean()) for M in (by_place, by_energy)]
titles = [f"{name}\nerror {value:.4f}" for name, value in zip(("ToMe", "PiToMe"), error, strict=True)]
assert error[1] < error[0] / 5
shown = torch.cat([painted(by_place), painted(by_energy)])
viz.show(viz.images(shown, titles, height=1.6, title="PiToMe: stripes merge with stripes"))

# %% [markdown]
# ## First experiment: the spectrum
#
# The title's claim: take the tokens as a *graph*, with an edge of weight $W_{ij} = 1 - \cos(v_i, v_j)$ between any two.
# Its **normalised Laplacian** is $I - D^{-1/2} W D^{-1/2}$, where D holds the sums of the rows; its n eigenvalues, the
# **spectrum**, tell how the graph falls into parts. After merging, every token of a cluster gets the cluster's mean
# edges, and the **spectral distance** is the sum of the differences of both spectra, each sorted
# ([arXiv 1802.04447](https://arxiv.org/abs/1802.04447)). The paper proves that it goes to zero with PiToMe as clusters
# get tighter, and that it need not with ToMe.


# %%
def spectrum(W):
    scale = W.sum(-1).clamp(min=1e-9).rsqrt()
    return torch.linalg.eigvalsh(torch.eye(W.shape[-1]) - scale[:, :, None] * W * scale[:, None])


def graph(vectors):
    unit = F.normalize(vectors, dim=-1)
    return (1 - unit @ unit.mT).clamp(min=0)


def distance(W, reduction):
    P = reduction.restore(reduction.matrix())  # (b, n, n): gives each token the mean over its cluster
    return (spectrum(W) - spectrum(P @ W @ P.mT)).abs().sum(-1)  # (b)


# %% [markdown]
# The theorem's case: 256 tokens in 4 crowds of 60 and 8 pairs, with less and less noise, in random places. Half must go
# in one step, or a tenth.

# %%
draw = torch.Generator().manual_seed(0)
kind = torch.repeat_interleave(torch.arange(12), torch.tensor([60] * 4 + [2] * 8)).expand(16, -1)
kind = kind.gather(1, torch.rand(16, 256, generator=draw).argsort(-1))
centres = F.normalize(torch.randn(16, 12, 64, generator=draw), dim=-1)
noise = torch.randn(16, 256, 64, generator=draw) / 64**0.5
centres = centres.gather(1, kind[..., None].expand(-1, -1, 64))
synthetic = {}
for k, (name, method) in itertools.product((128, 230), {"ToMe": tome, "PiToMe": pitome}.items()):
    for loose in (0.1, 0.05, 0.02):
        clusters = centres + loose * noise
        synthetic[name, loose, k] = float(distance(graph(clusters), method(clusters, k)).mean())
    values = ", ".join(f"{synthetic[name, loose, k]:.5f}" for loose in (0.1, 0.05, 0.02))
    print(f"{k} left, noise 0.1, 0.05, 0.02: {name:6} spectral distance {values}")

# %% [markdown]
# With half to go, PiToMe's distance falls with the noise, and ToMe's soon stays. The theorem's reason: the two tokens
# of a pair have nearly equal energies, so they land on different sides and find each other, while ToMe often has both
# on one side. But with half to go nobody is protected. With a tenth to go most are, and then ToMe is nearer.
#
# Now the real tokens of our 8 photographs, and three ways: ToMe, PiToMe, and *energy order only*: all n tokens sorted
# by energy, no protection, and as in ToMe the r most similar pairs merge (`protect=False`). The authors' code does that
# in half of the layers of a vision transformer.

# %%
counts = (243, 230, 205, 166, 128)
methods = {
    "baseline: ToMe": lambda k: tome(hidden, k, keys=keys),
    "ours: PiToMe": lambda k: pitome(hidden, k, keys=keys, margin=m),
    "energy order only": lambda k: pitome(hidden, k, keys=keys, margin=m, protect=False),
}
W = graph(metric)
real = {name: [distance(W, method(k)).mean() for k in counts] for name, method in methods.items()}
series = {name: (counts, values) for name, values in real.items()}
viz.show(
    viz.lines(series, "Few tokens taken: PiToMe changes the spectrum most", "tokens left of 256", "spectral distance")
)

# %%
at = {name: {k: float(value) for k, value in zip(counts, values, strict=True)} for name, values in real.items()}
for k in (230, 128):
    print(f"{k} left: " + ", ".join(f"{name.split(': ')[-1]} {values[k]:.3f}" for name, values in at.items()))
assert at["ours: PiToMe"][230] > at["baseline: ToMe"][230] or not there
assert at["ours: PiToMe"][128] < at["baseline: ToMe"][128] or not there
assert at["energy order only"][128] == at["ours: PiToMe"][128]
first, middle, last = (synthetic["PiToMe", loose, 128] / synthetic["ToMe", loose, 128] for loose in (0.1, 0.05, 0.02))
assert last < middle < first < 0.7
assert synthetic["PiToMe", 0.02, 128] < synthetic["PiToMe", 0.05, 128] < synthetic["PiToMe", 0.1, 128]
assert synthetic["PiToMe", 0.05, 230] > 1.1 * synthetic["ToMe", 0.05, 230]

# %% [markdown]
# When half must go, 2r is all 256 tokens: nobody is protected, PiToMe is the order by energy alone, and a little ahead
# of ToMe. When a tenth must go, most are protected, and PiToMe is far behind: *all* of A must merge, even if nothing
# near is in B, while ToMe picks the best r of 128 pairs.
#
# ## Second experiment: in the network
#
# The method is used in every layer, each keeping the same share of its tokens: the authors' *ratio*. Nothing is
# trained. We measure how far the CLS token, from which the class is read, lands from where it lands with all tokens, in
# percent of its length; and the right answers.

# %%
schedules = {}
for ratio in (0.9, 0.75, 0.6):
    left, schedules[ratio] = 256, {}
    for layer in range(8):
        left -= int(left - left * ratio)
        schedules[ratio][layer] = left
whole = cost(vit.body, {}, 256)
share = {ratio: cost(vit.body, schedule, 256) / whole for ratio, schedule in schedules.items()}
for ratio, schedule in schedules.items():
    print(f"ratio {ratio}: {list(schedule.values())} tokens, {share[ratio]:.0%} of the FLOPs")


# %%
def each_moved(cls):
    return 100 * (cls - target_cls).norm(dim=-1) / target_cls.norm(dim=-1)


def measure(on_layer):
    with torch.no_grad():
        cls = vit.tokens(images, on_layer)[:, 0]
    return float(each_moved(cls).mean()), 100 * accuracy(vit.head(cls), labels)


with torch.no_grad():
    target_cls = vit.tokens(images)[:, 0]
labels = clothing.load("test").labels[::16] if there else vit.head(target_cls).argmax(-1)
print(f"{len(images)} photographs, right with all tokens: {measure(None)[1]:.0f} %")

# %% [markdown]
# `spread` runs a method in the layers of a schedule; `falling` does so with PiToMe and the falling margin.

# %%
ways = {
    "baseline: ToMe": lambda schedule: spread(schedule, tome),
    "ours: PiToMe": lambda schedule: falling(schedule, layers=8),
    "energy order only": lambda schedule: falling(schedule, layers=8, protect=False),
    "muted: random drop": lambda schedule: spread(schedule, random_drop),
}
found = {(name, ratio): measure(way(schedules[ratio])) for name, way in ways.items() for ratio in schedules}
series = {
    name: ([100 * share[ratio] for ratio in schedules], [found[name, ratio][0] for ratio in schedules]) for name in ways
}
title, axis = "Protection moves CLS more", "CLS moved (% of its length)"
viz.show(viz.lines(series, title, "FLOPs (% of all tokens)", axis))

# %%
for name in ways:
    line = [f"{found[name, ratio][0]:.0f} % moved, {found[name, ratio][1]:.0f} % right" for ratio in schedules]
    print(f"{name.split(': ')[-1]:18}", "; ".join(line))
for ratio in schedules:
    order, place, protected = (
        found[name, ratio][0] for name in ("energy order only", "baseline: ToMe", "ours: PiToMe")
    )
    assert order < min(place, protected) or not there
    print(f"ratio {ratio}: with protection CLS moves {protected / order:.1f} times as far as with the order only")
assert found["ours: PiToMe", 0.9][0] > found["baseline: ToMe", 0.9][0] or not there

# %% [markdown]
# In this network the order by energy helps and the protection hurts, at all three ratios; the factor is largest where
# few tokens go. (With so few photographs each one weighs much in the right answers; the distance is the finer measure.)
# And the authors' own recipe for this kind of network, energy order only in the first half of the layers, protection in
# the second, margins from 0.75 down? For each photograph we take the difference to ToMe, and twice its standard error:


# %%
def recipe(layer):
    return falling(schedules[0.9], 8, highest=0.75, protect=layer.index >= 4)(layer)


with torch.no_grad():
    ours, theirs = (each_moved(vit.tokens(images, way)[:, 0]) for way in (recipe, spread(schedules[0.9], tome)))
half, unsure = measure(recipe), 2 * float((ours - theirs).std() / len(ours) ** 0.5)
print(f"half of the layers protect: {half[0]:.1f} % moved; ToMe {theirs.mean():.1f} %; uncertain by {unsure:.1f}")
for name, method in {"PiToMe": pitome, "ToMe": tome}.items():
    extra = flops(lambda method=method: method(hidden[:1], 230, keys=keys[:1])) / (whole / 8)
    print(f"what {name} itself computes: {extra:.1%} of a layer")

# %% [markdown]
# About as far as ToMe: 24 photographs cannot tell the two apart. (The energies are a product of all
# tokens with all, hence their cost; ToMe needs a quarter of that.)
#
# ## Play: who merges?
#
# Every patch in the mean colour of its cluster; patches of tokens that stayed alone are shown as they are. Choose how
# many tokens stay, and whether some are protected.

# %%
photo = images[15:16]
patches = photo.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (1, 256, 48)


def who(k=180, protect=True):
    M = pitome(patches, k, keys=keys[5:6], margin=m, protect=protect)
    alone = M.matrix().amax(1)[0] == 1
    colour = M.restore(M.apply(patches)).view(256, 3, 16).mean(-1).repeat_interleave(16, 1)
    mixed = torch.where(alone[:, None], patches[0], colour).view(16, 16, 3, 4, 4).permute(2, 0, 3, 1, 4)
    shown, title = torch.stack([photo[0], mixed.reshape(3, 64, 64)]), f"{int(alone.sum())} of 256 stay alone"
    return viz.show(viz.images(shown, ["256", f"{k} left"], height=1.92, title=title), photo=True)


who()

# %%
control = viz.slider(who, k=[256, 243, 230, 205, 180, 128, 64, 32, 16, 8], protect=[True, False])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
base, ours, paper = "baseline: ToMe", "ours: PiToMe", "-0.5 % against -2.6 %, ViT-MAE-H, abstract"
spectra = {
    "tight clusters, half left": (synthetic["PiToMe", 0.05, 128], synthetic["ToMe", 0.05, 128]),
    "tight clusters, 9/10 left": (synthetic["PiToMe", 0.05, 230], synthetic["ToMe", 0.05, 230]),
    "real tokens, half left": (at[ours][128], at[base][128]),
    "real tokens, 9/10 left": (at[ours][230], at[base][230]),
}
measures = [papers.better(f"spectral distance, {n}", a, than=b, higher=False) for n, (a, b) in spectra.items()]
place, less = found[base, 0.9][0], {"unit": "%", "higher": False, "margin": unsure}
moved = {"protection in all layers": found[ours, 0.9][0], "the authors' recipe": half[0]}
measures += [papers.better(f"CLS moved, ratio 0.9, {n}", value, than=place, **less) for n, value in moved.items()]
right = [found[name, 0.75][1] for name in (ours, base)]
measures.append(papers.better("right, ratio 0.75", right[0], than=right[1], unit="%", paper=paper))

# %%
claim = papers.verdict(
    "pitome",
    "Merging by energy, with lone tokens protected, keeps spectrum and answers better than ToMe, split by place.",
    measures,
    against="ToMe, the same number of tokens in the same layers; the vit of the house, not trained again",
    data="every 16th clothing photograph of the test set (24); 8 of them, and 16 synthetic sets, for spectra",
)
assert claim.outcome == "holds in part" or not there
order = found["energy order only", 0.9][0]
print(f"\nnot in the claim: without protection, the order by energy moves CLS by {order:.1f} %")

# %% [markdown]
# So two lines hold, those with half left, where nobody is protected; wherever protection is at work, ToMe is ahead or
# level. The order by energy alone is the better half of the paper here. We cannot say how the paper's networks differ,
# which are much larger.
#
# ## Where it breaks: merges by force
#
# How far does a token move when it merges? One minus the cosine between a merged token and the mean of its cluster, on
# average over those that merge, when a tenth of the 256 tokens goes:


# %%
def strain(reduction):
    cluster = F.normalize(reduction.restore(reduction.apply(unit)), dim=-1)
    merges = reduction.restore(reduction.sizes(torch.ones(8, 256))[..., None])[..., 0] > 1
    return float((1 - (unit * cluster).sum(-1))[merges].mean())


strains = {name: strain(method(230)) for name, method in methods.items()}
viz.show(viz.bars(strains, "The protected method merges what is less alike", "1 - cosine to the cluster's mean"))

# %%
assert strains["ours: PiToMe"] > 1.3 * strains["baseline: ToMe"] or not there
loose = centres + 0.5 * noise
broken = {
    name: float(distance(graph(loose), way(loose, 230)).mean()) for name, way in (("ToMe", tome), ("PiToMe", pitome))
}
print("a tenth goes, spectral distance:")
for name, value in broken.items():
    print(f"{name:6} tight clusters {synthetic[name, 0.05, 230]:.5f}, loose clusters {value:.5f}")
assert broken["PiToMe"] > 1.1 * broken["ToMe"]
assert broken["PiToMe"] > 20 * synthetic["PiToMe", 0.05, 230]

# %% [markdown]
# Tokens that are near copies of one another may be merged by force at little cost; loose ones may not. And high energy
# means *a large crowd*, not *near copies*: in the middle of a wide crowd the energy is highest, and its tokens may
# still differ. ToMe asks the other question, and finds the copies wherever they are.
#
# ## Exercises
#
# **1. Any mixing will do?** When half must go, PiToMe beats ToMe. Is it the energy, or only that A is no longer every
# second column? Write ToMe on tokens in *random* order: permute, merge, and bring the assignment back to the old
# places. It gets vectors (b, n, d) and k.


# %%
def shuffled(vectors, k):
    return tome(vectors, k)  # replace this: in the order of the places


def check_1(method):
    torch.manual_seed(0)
    M = method(metric, 128)
    if torch.equal(M.assignment, tome(metric, 128).assignment):
        return "this is still ToMe: permute the tokens first, each row of the batch in its own way"
    if strain(M) > 0.1:
        return "clusters hold tokens that differ much: bring the assignment back to the old places"
    return f"right: {distance(W, M).mean():.3f}, against ToMe {at[base][128]:.3f} and PiToMe {at[ours][128]:.3f}"


check_1(shuffled)

# %% [markdown]
# **2. The energy for text.** For text the authors take a bell curve instead of the ELU:
# $E_i = \frac{1}{n} \sum_j \frac{1}{\sigma \sqrt{2 \pi}}\, e^{-(1 - \cos)^2 / (2 \sigma^2)}$ with $\sigma = 1 - m$.
# Write it.


# %%
def bell(metric, margin):
    return energy(metric, margin)  # replace this: the ELU


def check_2(bell):
    one, right_angle = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    if abs(bell(one, 0.5).item() - 0.7979) > 1e-3:
        return "a token alone has cosine 1 with itself: 1 / (0.5 sqrt(2 pi)) = 0.798 for a margin of 0.5"
    if abs(bell(right_angle, 0.5)[0, 0].item() - 0.4529) > 1e-3:
        return "at a right angle the other adds 0.798 exp(-2): together 0.453 on average"
    top, ours = (f(metric, 0.5).argsort(-1)[:, -50:] for f in (energy, bell))
    return f"right; it shares {(ours[..., None] == top[:, None]).sum() / ours.numel():.0%} of the top 50 with the ELU"


check_2(bell)

# %% [markdown]
# **3. A small graph has the same spectrum.** The distance above works with n x n matrices. Build the k x k graph of the
# clusters, with the *sum* of all edges between two clusters (inside one, too), and give its spectrum with n - k ones
# added, sorted. `reduction.shares()` is 1 where a token belongs to a cluster.


# %%
def small_spectrum(W, reduction):
    return spectrum(reduction.matrix() @ W @ reduction.matrix().mT)  # replace this: means, and n - k values are missing


def check_3(small_spectrum):
    M = pitome(metric, 100, margin=m)
    P = M.restore(M.matrix())
    expected, found = spectrum(P @ W @ P.mT), small_spectrum(W, M)
    if found.shape != expected.shape:
        return f"{found.shape[1]} eigenvalues, {expected.shape[1]} expected: merged tokens leave ones behind"
    worst = float((found - expected).abs().max())
    return "right: merging keeps what lies between clusters" if worst < 1e-3 else f"one is off by {worst:.3f}"


check_3(small_spectrum)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/04_pitome.py`.
#
# ## What was left out
#
# The paper also reports retrained networks, retrieval of images by text, and answers to questions about images, with
# models of up to 13 billion parameters. For text its code splits the crowd into the higher and the lower half instead
# of every second rank. The code for vision transformers computes sizes but does not pass them to attention; ours does,
# as in ToMe. Read on: **Token Transforming** lets a token go into several others.
