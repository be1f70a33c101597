# %% [markdown]
# # TokenBridge: codes for an autoencoder that never learnt any
#
# **Paper:** Wang, Lin, Teng, Zhu, Ren, Feng and Liu, *Bridging Continuous and Discrete Tokens for Autoregressive Visual
# Generation*, 2025 ([arXiv 2503.16430](https://arxiv.org/abs/2503.16430)).
# **Code:** `minitok/quantize/tokenbridge.py`.
# **Read first:** [vector quantization](01_vq.ipynb) and [finite scalar quantization](03_fsq.ipynb).
#
# After this lesson you can turn the vectors of a finished autoencoder into codes without training it again, and predict
# such codes one channel after another.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import mnist
from minitok.house.bottleneck import parts
from minitok.house.digit_vae import bridge, known
from minitok.metrics import bits_per_code, difference, parameters
from minitok.quantize import TokenBridge
from minitok.quantize.tokenbridge import frequency_order, normal_bins

# %% [markdown]
# ## The problem: a finished autoencoder has no codes
#
# A **variational autoencoder** (VAE) turns a picture into *latents*, vectors of real numbers, and back; a small penalty
# in its training pulls each channel towards the normal distribution N(0, 1). The course has one of digits (`minitok
# train digit_vae`), with 7 x 7 vectors of 8 channels. Nothing below changes it.
#
# Models that predict tokens want codes. The plain way is a codebook found by k-means: one code of 256 a vector.

# %%
models, data = house.load("digit_vae"), {name: mnist.load(name) for name in ("train", "test")}
# 3,600 digits to learn from, 400 to choose settings by
vae, (learnt, held), test = models["vae"], parts(data["train"].images), data["test"].images[::2]
z_learnt, z_held, z_test = (vae.latents(images) for images in (learnt, held, test))


def error(z, images):
    return F.mse_loss(vae.picture(z), images).item()


continuous, in_codebook = error(z_test, test), models["book"](z_test).values
print(f"one code of 256 for a vector: {error(in_codebook, test) / continuous:.1f} times the VAE's squared error")

# %% [markdown]
# Every further bit doubles the codebook. The idea: round each **channel** by itself to one of B values. With B = 64 the
# decoder hardly notices. Nobody can list a vector's $64^8$ codes, so they are predicted channel by channel.
#
# ## By hand: four values for a channel
#
# **Bins.** Cut N(0, 1) into B = 4 equally probable parts: boundaries -3, -0.674, 0, 0.674, 3 (the outermost, infinite,
# are clamped to $\pm 3$).
#
# **Values.** A bin stands for the mean of N(0, 1) within it, the density $\varphi$ at its left end minus that at its
# right, over its mass. With $\varphi(0) = 0.399$, $\varphi(0.674) = 0.318$, $\varphi(3) = 0.004$:
# (0.399 - 0.318) / 0.25 = 0.325 and (0.318 - 0.004) / 0.249 = 1.260; likewise -0.325 and -1.260.
#
# **Range.** The paper divides latents by their standard deviation and maps $[-5, 5]$ to $[-3, 3]$: times 0.6.
#
# **Code:** the number of the *nearest value*; the boundaries count no more:
#
# | latent | times 0.6 | nearest value | code | comes back as |
# |---|---|---|---|---|
# | 2 | 1.2 | 1.260 | 3 | 2.10 |
# | 1.2 | 0.72, beyond 0.674 | 0.325, as 0.72 < (0.325 + 1.260) / 2 = 0.792 | 2 | 0.54 |
# | 0 | 0 | as near to -0.325 as to 0.325: the lower | 1 | -0.54 |
# | -9 | -5.4 | -1.260 | 0 | -2.10 |

# %%
edges, values = normal_bins(4)
print("boundaries", [round(x, 3) for x in edges.tolist()], "values", [round(x, 3) for x in values.tolist()])
layer, z = TokenBridge(d=1, levels=4, low=-5, high=5), torch.tensor([[[2.0], [1.2], [0.0], [-9.0]]])
codes = layer.encode(z)
print("codes", codes.flatten().tolist(), "back", [round(x, 2) for x in layer.decode(codes).flatten().tolist()])
assert codes.flatten().tolist() == [3, 2, 1, 0]

# %% [markdown]
# **Prediction.** Say two channels of two values are always equal, 00 or 11, each half of the time. Two independent
# heads give each value 1/2, so each pair 1/4: 2 bits, and half of what they draw, 01 and 10, never occurs. In turn,
# the second is asked when the first is known, and is sure: 1 + 0 = 1 bit.
#
# ## The mechanism on real latents
#
# **1. Bins, codes, values**, for the five standard deviations to both sides of each channel's mean.


# %%
def bins(B):
    edges = torch.special.ndtri(torch.linspace(0, 1, B + 1, dtype=torch.float64)).clamp(-3, 3)
    density, mass = (-edges.square() / 2).exp() / (2 * torch.pi) ** 0.5, torch.special.ndtr(edges)
    return ((density[:-1] - density[1:]) / (mass[1:] - mass[:-1])).float()


mean, deviation = z_learnt.mean((0, 1)), z_learnt.std((0, 1))
low, high = mean - 5 * deviation, mean + 5 * deviation
scaled = (z_test[:100] - low) / (high - low) * 6 - 3
codes = (scaled[..., None] - bins(8)).abs().argmin(-1)
back = (bins(8)[codes] + 3) / 6 * (high - low) + low

# %% [markdown]
# What you built is what the library has. (It finds the nearest value by bisection: halfway, codes may
# differ.)

# %%
layer = TokenBridge(d=8, levels=8)
layer.fit_range(z_learnt, spread=5)
assert (layer.encode(z_test[:100]) == codes).float().mean() > 0.9999
assert difference(layer.decode(codes), back) < 1e-4
print(f"8 codes a vector, {layer.bits:g} bits: codes and values agree")

# %% [markdown]
# **2. A head that predicts in turn.** For one position with codes $k_1 \dots k_d$ (in a chosen order of channels) a
# small causal Transformer reads d inputs: what is known of the position (the *condition*), then embeddings of $k_1$,
# $k_2$, ... Output i sees inputs up to i only, and gives B logits for $k_i$ by weights of its own. One network serves
# all channels. The condition reads the *values* of neighbours, not their codes: near values mean much the same.
#
# Channels of low spatial frequency come first: those whose maps of 7 x 7 numbers change slowly.

# %%
order = frequency_order(z_learnt)
print("channels, lowest frequency first:", order)
head, layer = models["low"], bridge(vae, learnt)  # 16 levels
codes = layer.encode(z_test[::2])
conditions = known(layer.decode(codes), data["test"].labels[::4])
with torch.no_grad():
    before = head(conditions[:1], codes[:1])
    changed = codes[:1].clone()
    changed[..., order[2]] = (changed[..., order[2]] + 1) % 16
    moved = (head(conditions[:1], changed) - before).abs().amax((0, 1, 3)) > 1e-6
print("another code in channel", order[2], "changes what is said of", sorted(moved.nonzero().flatten().tolist()))
assert sorted(moved.nonzero().flatten().tolist()) == sorted(order[3:])

# %% [markdown]
# ## The recipe
#
# 1. Take a finished VAE; latents are the means that its encoder gives.
# 2. Range of each channel: mean $\pm$ 5 standard deviations; map it to $[-3, 3]$.
# 3. B values: boundaries $b_i = \Phi^{-1}(i / B)$, clamped to $\pm 3$; value
#    $(\varphi(b_i) - \varphi(b_{i+1})) / (\Phi(b_{i+1}) - \Phi(b_i))$.
# 4. Code: the nearest value, of two the lower. Decode: the value, mapped back, to the VAE's decoder as it is.
# 5. Order the channels, low frequencies first.
# 6. Head: a causal Transformer over the d channels of one position; inputs: condition, then embeddings of the codes
#    before; B logits a channel. Loss: cross-entropy, the mean over channels.
# 7. Draw a position's codes one after another; the next position's condition reads their decoded values.
# 8. Cost: $d \log_2 B$ bits a vector; d calls of the small head a position.
#
# | | paper | here |
# |---|---|---|
# | range | $\pm 5$, latents divided by one spread | $\pm 5$ spreads of each channel |
# | condition | a large network over all positions | class, place, four neighbours |
# | order | a fixed list | `frequency_order`, measured |
#
# ## Experiment 1: how many levels until nobody notices?
#
# Beside the bins of the normal distribution stands the plain way, **uniform** bins: the same range in B equal parts.


# %%
def bridged(z, B, spread=5):
    layer = TokenBridge(d=8, levels=B)
    layer.fit_range(z_learnt, spread)
    return layer.decode(layer.encode(z))


def uniform(z, B, spread=5):
    low, step = mean - spread * deviation, 2 * spread * deviation / B
    return low + (((z - low) / step).floor().clamp(0, B - 1) + 0.5) * step


# %%
levels, kinds = [2, 4, 8, 16, 64], {"ours: normal bins": bridged, "baseline: uniform bins": uniform}
ratio = {name: [error(kind(z_test, B), test) / continuous for B in levels] for name, kind in kinds.items()}
curves = {name: (levels, ratios) for name, ratios in ratio.items()} | {"continuous VAE": (levels, [1] * 5)}
title = "The error falls to that of the continuous VAE"
for name, ratios in ratio.items():
    print(f"{name:22}", ", ".join(f"B = {B}: {r:.3g}" for B, r in zip(levels, ratios, strict=True)))
viz.show(viz.lines(curves, title, "levels a channel", "squared error / continuous VAE's", log="x"))

# %%
chosen = torch.arange(15, 500, 100)
rows = [test[chosen], vae.picture(z_test[chosen]), vae.picture(in_codebook[chosen])]
rows += [vae.picture(bridged(z_test[chosen], B)) for B in (2, 4, 64)]
titles = ["held out", "continuous", "one of 256", "B = 2", "B = 4", "B = 64"]
viz.show(viz.images(torch.stack(rows, 1).flatten(0, 1), titles + [""] * 24, columns=6, height=1))

# %% [markdown]
# **Why five deviations?** Bins have equal mass only if $[-3, 3]$ covers three; with five the outer bins are hardly
# used. But equal mass makes codes equally frequent, not the error small. For many levels, values should lie as densely
# as the *cube root* of the data's density (Panter and Dite, 1951): for N(0, 1) a normal distribution $\sqrt 3$ times as
# wide, a range of 5.2 deviations. Both kinds of bins choose their range on the 400 digits:

# %%
best = {}
for B in (4, 8):
    for name, kind in {"normal": bridged, "uniform": uniform}.items():
        spread = min((2, 3, 4, 5, 6, 7), key=lambda s, kind=kind, B=B: error(kind(z_held, B, s), held))
        best[name, B] = error(kind(z_test, B, spread), test) / continuous
        print(f"B = {B}, {name:7}: range chosen {spread}, {best[name, B]:.2f} times the error on test digits")
equal = [error(kind(z_test, 4, 3), test) / continuous for kind in kinds.values()]
print(f"B = 4, range 3 (equal mass): normal {equal[0]:.2f}, uniform {equal[1]:.2f}")

# %% [markdown]
# ## Experiment 2: predict the codes, in turn or at once
#
# Four heads, shipped with the VAE, each trained for 600 steps: in turn, low or high frequencies first; a network that
# predicts all channels **at once**; and the Transformer given zeros for the channels before (**blind**).

# %%
with torch.no_grad():
    bits = {
        name: bits_per_code(models[name](conditions, codes), codes) for name in ("low", "high", "independent", "blind")
    }
names = {"low": "ours: low first", "high": "high first", "independent": "baseline: at once", "blind": "blind"}
print(", ".join(f"{label} {parameters(models[name])}" for name, label in names.items()), "parameters")
bars = {label: bits[name] for name, label in names.items()}
viz.show(viz.bars(bars, "What channels say of one another saves bits", "bits a code on test digits (plain: 4)"))

# %% [markdown]
# Any order gives the same total for a perfect head; ours differ little. What do the bits buy? Draw digits, position
# after position. (Neither generator is good: each knows four neighbours.)


# %%
@torch.no_grad()
def draw(sample):
    torch.manual_seed(0)
    drawn = torch.zeros(10, 49, 8, dtype=torch.long)
    for place in range(49):
        drawn[:, place] = sample(known(layer.decode(drawn), torch.arange(10))[:, place : place + 1])[:, 0]
    return vae.picture(layer.decode(drawn))


def at_once(condition):
    return torch.distributions.Categorical(logits=models["independent"](condition, codes[:10, :1])).sample()


pictures = torch.cat([draw(models["low"].sample), draw(at_once)])
viz.show(viz.images(pictures, ["in turn", *[""] * 9, "at once", *[""] * 9], columns=10, height=0.56))

# %% [markdown]
# ## Play: levels and range


# %%
def play(levels=4, spread=5.0):
    z = bridged(z_test[chosen], levels, spread)
    times = error(z, test[chosen]) / error(z_test[chosen], test[chosen])
    title = f"B = {levels}, {spread} deviations, these five digits: {times:.2f} times the error"
    return viz.show(viz.images(vae.picture(z), title=title, height=1.1))


control = viz.slider(play, levels=[2, 3, 4, 6, 8, 16, 64, 256], spread=(1.0, 10.0, 0.5))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
(_, four, eight, _, many), (_, four_flat, eight_flat, _, _) = ratio.values()
alone, less = min(bits["independent"], bits["blind"]), {"higher": False, "unit": "times the VAE's error"}
near = "rFID 1.11 on training images, as the continuous VAE (release's README)"
measures = [
    papers.not_worse("error, B = 64", many, than=1, by=0.03, paper=near, tolerance=0.01, **less),
    papers.better("range 5, B = 4, than uniform", four, than=four_flat, margin=0.05, **less),
    papers.better("range 5, B = 8, than uniform", eight, than=eight_flat, margin=0.05, **less),
    papers.better("range 3 (equal mass), B = 4, than uniform", equal[0], than=equal[1], margin=0, **less),
    papers.better("best ranges, B = 4, than uniform", best["normal", 4], than=best["uniform", 4], margin=0.1, **less),
    papers.better("best ranges, B = 8, than uniform", best["normal", 8], than=best["uniform", 8], margin=0.1, **less),
    papers.better("channels in turn", bits["low"], than=alone, higher=False, margin=0.1, unit="bits"),
]

# %%
papers.verdict(
    "tokenbridge",
    "Latents rounded channel by channel, with no retraining, decode as well as continuous ones; bins by the normal "
    "distribution beat uniform ones at 4 and 8 levels; channels in turn cost fewer bits than independent ones.",
    measures,
    against="the continuous VAE; uniform bins; independent heads of more parameters and a blind Transformer",
    data="MNIST-5k: 3,600 digits to learn from, 400 to choose settings by, 500 of 1,000 held out",
)

# %% [markdown]
# Mind the bits: B = 4 in 8 channels takes 16 bits a vector, twice those of one code of 256. Prediction gets part back.
#
# ## Where it breaks: a range that does not fit
#
# The layer's default is the paper's $\pm 5$, for latents of standard deviation 1. The same latents in other units:

# %%
fixed, fits = TokenBridge(8, 16), {}
for scale, fit in {0.1: "range too wide", 1: "about right", 10: "range too narrow"}.items():
    fits[f"latents x {scale}: {fit}"] = error(fixed.decode(fixed.encode(z_test * scale)) / scale, test) / continuous
fits["ours: range fitted to each channel"] = ratio["ours: normal bins"][3]
viz.show(viz.bars(fits, "Too wide wastes levels, too narrow cuts off", "squared error / continuous VAE's, B = 16"))

# %% [markdown]
# ## Exercises
#
# **1. Your own bins.** Write `normal_bins` from the recipe: B gives the boundaries (B + 1) and the values (B), in
# float32. The library's tests judge it.


# %%
def my_bins(levels):
    edges = torch.linspace(-3, 3, levels + 1)  # replace this: uniform bins
    return edges, (edges[1:] + edges[:-1]) / 2


def check_1(my_bins):
    return papers.check("tokenbridge.normal_bins", my_bins)


check_1(my_bins)

# %% [markdown]
# **2. What one channel says of another.** The mutual information of two columns of codes a and b (n) is
# $H(a) + H(b) - H(a, b)$ in bits, where H is the entropy of the counts. It is what independent heads pay twice.


# %%
def mutual_information(a, b, B):
    return 0.0  # replace this: as if they were independent


def check_2(mutual_information):
    a = torch.arange(4).repeat(4)
    if abs(mutual_information(a, a, 4) - 2) > 1e-4:
        return "of four even codes, a copy says everything: 2 bits"
    if abs(mutual_information(a, a.sort().values, 4)) > 1e-4:
        return "when all 16 pairs are equally frequent, one says nothing of the other: 0 bits"
    flat = codes.flatten(0, 1).T
    pairs = {(i, j): float(mutual_information(flat[i], flat[j], 16)) for i in range(8) for j in range(i)}
    return f"right: channels {max(pairs, key=pairs.get)} share {max(pairs.values()):.2f} bits"


check_2(mutual_information)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/08_tokenbridge.py`.
#
# ## What was left out
#
# The paper's large network over all positions, masked and drawn in random order, with guidance by the class. On
# ImageNet at 256 x 256 it reports a Frechet distance of 1.55. Read on: [lookup-free quantization](04_lfq.ipynb) trains
# its channels to be bits; [the overview](00_overview.ipynb) ranks all quantizers at equal bits.
