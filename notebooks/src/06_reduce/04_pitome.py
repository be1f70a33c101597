# %% [markdown]
# # PiToMe: merge the crowd, protect the lone token
#
# **Paper:** Tran and others, *Accelerating Transformers with Spectrum-Preserving Token Merging*, 2024
# ([arXiv 2405.16148](https://arxiv.org/abs/2405.16148)).
# **Code:** `minitok/reduce/pitome.py`.
# **Read first:** [token merging](02_tome.ipynb), which this paper changes in two places: who may merge, and how the two
# sides are made.
#
# ToMe splits tokens into its two sets by their *place*. PiToMe splits them by their *energy*: how large a crowd of
# similar tokens each one stands in. After this lesson you can work it out by hand, and say where it wins.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, falling, pitome, tome
from minitok.reduce.pitome import by_ratio, energy, spectral_distance

# %% [markdown]
# ## The problem: twins on the same side
#
# In ToMe tokens of even places look for a partner among those of odd places. Two copies of one thing that both stand in
# even places can meet only through a third token. Below, stripes stand in even columns of a picture of 16 x 16 patches;
# a token is a patch's colour, and 128 of the 256 are to stay. So all of set A must merge, and each token of a stripe
# goes into the light patch that is least unlike. (With half to go PiToMe protects nobody: what helps here is how it
# makes its sides.)

# %%
blue, red = torch.tensor([[0.1, 0.1, 0.7], [0.8, 0.1, 0.1]]).view(2, 3, 1, 1)
striped = torch.full((3, 16, 16), 0.9)
striped[:, 3:13, 4:12:2] = blue.lerp(red, torch.linspace(0, 1, 10).view(1, 10, 1))
striped = striped + 0.03 * torch.randn(striped.shape, generator=torch.Generator().manual_seed(0))
tokens = striped.flatten(1).T[None] - 0.5  # (1, 256, 3), around zero: light and dark point in opposite directions
ways = {"256 patches": Reduction.keep(torch.arange(256)[None], 256), "ToMe": tome(tokens, 128)}
ways["PiToMe"] = pitome(tokens, 128)
shown = torch.stack([way.restore(way.apply(tokens))[0].T.view(3, 16, 16) + 0.5 for way in ways.values()])
errors = (shown - shown[:1]).square().mean((1, 2, 3))
assert errors[2] < errors[1] / 5
viz.show(viz.images(shown, list(ways), height=1.6, title="By place, some light patches take on the stripes' colours"))

# %% [markdown]
# ## By hand: six tokens, two to go
#
# | token | 0 | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|---|
# | value | 2 | 10 | 4 | 7 | 20 | 9 |
# | key | (1, 0) | (0, 1) | (1, 0) | (0.8, 0.6) | (-1, 0) | (0.6, 0.8) |
#
# **Energy.** $E_i$ is the mean over **all** tokens j, itself too, of f(cosine - m), with margin m = 0.5 here. f(x) = x
# from 0 on, and $e^x - 1$ below (ELU). Cosines of token 0: 1, 0, 1, 0.8, -1, 0.6. So a copy and itself add 0.5 each,
# token 3 adds 0.3, token 5 0.1; token 1 takes off $1 - e^{-0.5}$ = 0.39, token 4 $1 - e^{-1.5}$ = 0.78. The sum 0.23
# over 6 is 0.04.

# %%
values = torch.tensor([[[2.0], [10.0], [4.0], [7.0], [20.0], [9.0]]])
keys6 = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [0.6, 0.8]]])
cosines = keys6 @ keys6.mT
by_hand = torch.where(cosines >= 0.5, cosines - 0.5, (cosines - 0.5).exp() - 1).mean(-1)
assert difference(by_hand, energy(keys6, margin=0.5)) < 1e-6
print("energies", [round(value, 3) for value in by_hand[0].tolist()])

# %% [markdown]
# **Protect.** r = 2 are to go, so the 2r = 4 of highest energy may merge: 3 (0.155), 5 (0.132), 0 and 2 (0.038 both,
# the lower index first). Tokens 1 and 4 are protected.
#
# **Pair by rank.** Of the sorted 3, 5, 0, 2 the even ranks are A = {3, 0}, the odd ones B = {5, 2}. **All** of A merge,
# each into its most similar of B: 3 into 5 (cosine 0.96, against 0.8 to 2), 0 into its twin 2. Left, in the order of
# first tokens: 3, 10, 8, 20. ToMe has 0, 2, 4 in A: both twins go into token 3.

# %%
ours, theirs = (method(values, 4, keys=keys6[:, None]) for method in (pitome, tome))
print("PiToMe", ours.apply(values).flatten().tolist(), "groups", ours.assignment.flatten().tolist())
print("ToMe  ", [round(v, 2) for v in theirs.apply(values).flatten().tolist()], theirs.assignment.flatten().tolist())
assert ours.apply(values).flatten().tolist() == [3, 10, 8, 20]
assert theirs.assignment.flatten().tolist() == [0, 1, 0, 0, 2, 3]

# %% [markdown]
# ## The mechanism on real tokens
#
# The tokens of a photograph after the attention of layer 3 (of 8). As in ToMe the keys decide. The margin falls with
# depth, $m = 0.9 - 0.9\, l / L$: in early layers only near copies count as a crowd.

# %%
stage = stages.reduce.stage(images=48)
seen = stage.seen(photo=5)
x, keys = seen["x"], seen["keys"]  # (1, 256, 192), (1, 3, 256, 64), without CLS
m, metric = 0.9 - 0.9 * 3 / 8, keys.mean(1)
heat = energy(metric, margin=m).view(1, 1, 16, 16)
heat = (heat - heat.min()) / (heat.max() - heat.min())
heat = heat.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
shown = torch.cat([stage.images[5:6], heat])
viz.show(viz.images(shown, height=1.92, title="Bright: high energy, a large crowd"), photo=True)

# %% [markdown]
# One step. Merging the most similar pairs of all n (`protect=False`) may still merge a lone token. Pairing by rank puts
# tokens of nearly equal energy, which probably stand in one crowd, on different sides.


# %%
def step(metric, r):
    n, unit = len(metric), F.normalize(metric, dim=-1)
    rank = energy(metric[None], margin=m)[0].argsort(descending=True, stable=True)
    in_a, in_b = rank[: 2 * r : 2], rank[1 : 2 * r : 2]
    partner = in_b[(unit[in_a] @ unit[in_b].T).argmax(-1)]
    target = torch.arange(n).scatter(0, in_a, partner)
    number = torch.ones(n, dtype=torch.long).scatter(0, in_a, 0).cumsum(0) - 1  # the places that are left, numbered on
    return Reduction.merge(number[target][None], n - r)


library = pitome(x, 205, keys=keys, margin=m)
mine = step(metric[0], 51)
assert difference(library.restore(library.apply(x)), mine.restore(mine.apply(x))) < 1e-4
print("tokens left:", library.shape[1], "| the largest group has", int(library.sizes(torch.ones(1, 256)).max()))

# %% [markdown]
# ## The recipe
#
# 1. In layer l of L, between attention and feed-forward part: tokens without CLS, keys averaged over heads, sizes s.
# 2. From the ratio (the share that a layer keeps, at least 0.5): r = floor(n - n ratio).
# 3. $E_i = \frac{1}{n} \sum_j f(\cos(k_i, k_j) - m)$, f = ELU, m = 0.9 - 0.9 l / L (for DeiT and MAE 0.75 - 0.75 l /
#    L).
# 4. Sort by E, descending, equal ones by index. The n - 2r last are protected: they stay as they are.
# 5. Of the first 2r, even ranks are A, odd ranks B. Every a merges into its most similar b (largest cosine).
# 6. Means weighed by size, sizes added, attention with log s: as in ToMe.
# 7. Fewer than half at once: start again with merged keys and sizes.
# 8. Cost: all cosines, n x n, four times ToMe's matching. Nothing is trained.
#
# | | paper | its code for ViTs | here |
# |---|---|---|---|
# | protection | in all layers | in the last half; before: all n sorted by energy, r best pairs | `protect=`, both |
# | order after it | not said | protected first, then by energy | by first token |
# | log s in attention | yes | computed, never handed over | yes |
#
# ## First experiment: the spectrum
#
# The title's claim. Tokens are a **graph** with an edge of weight $W_{ij}$ = 1 - cosine between any two. The
# eigenvalues of its normalised Laplacian $I - D^{-1/2} W D^{-1/2}$, D holding the sums of the rows, are its
# **spectrum**: it tells how the graph falls into parts. After merging, each pair of old tokens gets the mean edge of
# their groups. The paper proves that the spectra's distance (the sum of the changes of the sorted eigenvalues) goes to
# zero as clusters get tighter, and that ToMe's need not.
#
# 256 tokens in 4 crowds of 60 and 8 pairs, in random places, and real ones. A half or a tenth goes.

# %%
draw = torch.Generator().manual_seed(0)
kind = torch.repeat_interleave(torch.arange(12), torch.tensor([60] * 4 + [2] * 8)).expand(4, -1)
kind = kind.gather(1, torch.rand(4, 256, generator=draw).argsort(-1))
centres = F.normalize(torch.randn(4, 12, 64, generator=draw), dim=-1).gather(1, kind[..., None].expand(-1, -1, 64))
noise = torch.randn(4, 256, 64, generator=draw) / 8
sets = {f"clusters, noise {loose}": centres + loose * noise for loose in (0.1, 0.05, 0.02)}
sets["4 photographs"] = stage.seen(slice(4))["keys"].mean(1)
far = {}
for (name, vectors), k in [(item, k) for item in sets.items() for k in (128, 230)]:
    both = {method.__name__: spectral_distance(vectors, method(vectors, k)).mean() for method in (tome, pitome)}
    far[name, k] = [float(both["pitome"]), float(both["tome"])]
    print(f"{name:20} {k} of 256 left: PiToMe {far[name, k][0]:.5f}, ToMe {far[name, k][1]:.5f}")

# %% [markdown]
# With half to go, PiToMe's distance falls with the noise and ToMe's soon stays: the theorem shows. But then 2r is all
# 256, and **nobody is protected**. With a tenth to go most are, and ToMe is nearer: *all* of A must merge, even where
# nothing near is in B, while ToMe picks the best r of 128 pairs.

# %% [markdown]
# ## Second experiment: in the network
#
# Each of 8 layers keeps the same share. Beside ToMe and lots: PiToMe; the order by energy alone, without protection;
# the authors' recipe for this kind of network.


# %%
def recipe(schedule, method):
    return lambda layer: falling(schedule, 8, highest=0.75, protect=layer.index >= 4)(layer)


ways = {
    "ours: PiToMe": (pitome, lambda schedule, _: falling(schedule, 8)),
    "energy order only": (pitome, lambda schedule, _: falling(schedule, 8, protect=False)),
    "authors' recipe": (pitome, recipe),
}

# %%
rows, schedule = {}, by_ratio(256, 0.9, 8)
rows["baseline: ToMe", 0.9] = stage.along(schedule, tome)
rows["by lot", 0.9] = stage.along(schedule, stages.reduce.LOTS[:2])
for name, (method, through) in ways.items():
    rows[name, 0.9] = stage.along(schedule, method, through)
rows["baseline: ToMe", 0.75] = stage.along(by_ratio(256, 0.75, 8), tome)
rows["authors' recipe", 0.75] = stage.along(by_ratio(256, 0.75, 8), pitome, recipe)
print(stages.reduce.table({f"{name}, {ratio}": row for (name, ratio), row in rows.items()}))

# %%
moved = {name: row.moved for (name, ratio), row in rows.items() if ratio == 0.9}
viz.show(viz.bars(moved, "A tenth goes: protecting in all layers does not pay", "answer moved by (bits)"))

# %% [markdown]
# Here PiToMe, protecting in all layers, is no better than ToMe or lots. The order by energy alone and the authors'
# recipe are ahead of ToMe on average, within the error: 48 photographs cannot tell. The paper's networks are much
# larger.
#
# ## Play

# %%
photo = stage.images[5]


def who(k=180, protect=True):
    made = pitome(x, k, keys=keys, margin=m, protect=protect)
    alone = int((made.sizes(torch.ones(1, 256)) == 1).sum())
    return viz.show(viz.images(viz.painted(photo, made)[None], [f"{k} left, {alone} alone"], height=2.56), photo=True)


who()

# %%
control = viz.slider(who, k=[256, 243, 230, 205, 180, 128, 64, 32, 16, 8], protect=[True, False])
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
paper = "-0.5 % against -2.6 % (accuracy, ViT-MAE-H, abstract)"
measures = []
for name, kind in {"clusters": "clusters, noise 0.05", "photographs": "4 photographs"}.items():
    ours, theirs = far[kind, 128]
    measures.append(
        papers.better(f"spectrum, {name}, half left", ours, than=theirs, margin=0.05 * theirs, higher=False)
    )
for name, ratio in (("ours: PiToMe", 0.9), ("authors' recipe", 0.9), ("authors' recipe", 0.75)):
    ours, theirs, label = rows[name, ratio], rows["baseline: ToMe", ratio], name.split(": ")[-1]
    settings = {"margin": stages.reduce.gap(ours, theirs)[1], "unit": "bits", "higher": False, "paper": paper}
    measures.append(papers.better(f"moved, ratio {ratio}, {label}", ours.moved, than=theirs.moved, **settings))

# %%
papers.verdict(
    "pitome",
    "Sides by energy keep the spectrum better than sides by place; protecting lone tokens keeps answers better.",
    measures,
    against="ToMe, the same number of tokens in the same layers; the house's vit, not trained again",
    data=f"{stage.data}; 4 of them and 4 synthetic sets for spectra",
)

# %% [markdown]
# ## Where it breaks: force
#
# How far is a token that merges from its group's mean, when a tenth of the 256 goes?


# %%
def strain(reduction):
    unit = F.normalize(metric, dim=-1)
    mean = F.normalize(reduction.restore(reduction.apply(unit)), dim=-1)
    merges = reduction.restore(reduction.sizes(torch.ones(1, 256))[..., None])[..., 0] > 1
    return float((1 - (unit * mean).sum(-1))[merges].mean())


forced = {"PiToMe": pitome(x, 230, keys=keys, margin=m), "ToMe": tome(x, 230, keys=keys)}
forced["energy order only"] = pitome(x, 230, keys=keys, margin=m, protect=False)
print("1 - cosine to the group's mean:", {name: round(strain(made), 3) for name, made in forced.items()})

# %% [markdown]
# High energy means *a large crowd*, not *near copies*: in a wide crowd tokens may still differ, and under protection
# all of A must merge there. ToMe finds copies wherever they are.
#
# ## Exercises
#
# **1. Your own PiToMe**, for a batch; below half of the tokens it starts again with what it has merged.


# %%
def my_pitome(x, k, *, keys=None, size=None, margin=0.5, protect=True):
    return tome(x, k, keys=keys, size=size)  # replace this: it splits by place


def check_1(method):
    return papers.check("pitome", method)


check_1(my_pitome)

# %% [markdown]
# **2. Any mixing will do?** Is it the energy, or only that A is no longer every second place? Write ToMe on vectors
# (b, n, d) in *random* order: permute, merge, and bring the assignment back to the old places.


# %%
def shuffled(vectors, k):
    return tome(vectors, k)  # replace this: in the order of the places


# %%
def check_2(method):
    torch.manual_seed(0)
    vectors = sets["clusters, noise 0.05"]
    made = method(vectors, 128)
    if torch.equal(made.assignment, tome(vectors, 128).assignment):
        return "this is still ToMe: permute the tokens first, each row of the batch in its own way"
    spread = (vectors - made.restore(made.apply(vectors))).norm(dim=-1).mean()
    if spread > 0.2:
        return f"tokens are {spread:.2f} from their group's mean: bring the assignment back to the old places"
    found, (ours, theirs) = spectral_distance(vectors, made).mean(), far["clusters, noise 0.05", 128]
    return f"right: {found:.4f}, PiToMe {ours:.4f}, ToMe {theirs:.4f}"


check_2(shuffled)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/04_pitome.py`.
#
# ## What was left out
#
# For text the code takes a bell curve for the energy. Read on:
# [Token Transforming](05_token_transforming.ipynb) lets a token go into several others.
