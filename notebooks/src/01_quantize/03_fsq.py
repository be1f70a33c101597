# %% [markdown]
# # Finite scalar quantization: codes without a codebook
#
# **Paper:** Mentzer, Minnen, Agustsson and Tschannen, *Finite Scalar Quantization: VQ-VAE Made Simple*, 2023
# ([arXiv 2309.15505](https://arxiv.org/abs/2309.15505)).
# **Code:** `minitok/quantize/fsq.py`.
# **Read first:** [vector quantization](01_vq.ipynb).
#
# After this lesson you can turn vectors into codes by rounding: no table of code vectors and no loss of its own. Our
# house image tokenizer works so.

# %%
import torch

from minitok import house, papers, stages, viz
from minitok.data import photographs
from minitok.metrics import difference, parameters, psnr
from minitok.quantize import FSQ, VQ
from minitok.quantize.fsq import bound

# %% [markdown]
# ## The problem: a large codebook lies idle
#
# Vector quantization (VQ) learns a codebook of K code vectors. On the chapter's stage, an autoencoder of digits with 7
# x 7 codes each, how many of its codes do 1,000 held-out digits use?

# %%
stage = stages.quantize.stage()
vq = [stage.control(f"vq{K}") for K in (64, 256, 1024)]
idle = {f"baseline: VQ, K = {row.K}": row.used for row in vq}
viz.show(viz.bars(idle, "The larger the codebook, the more of it lies idle", "codes in use on held-out digits (%)"))

# %% [markdown]
# A code vector that nobody chooses does not move, and the larger the codebook, the more of it is lost. Remedies exist
# (restarts, splitting, losses that reward an even use), each one more thing to tune.
#
# The idea: do not learn the points. Let the encoder give a few channels, round each to one of a few levels, and take
# every combination as a code: 8 levels in each of 2 channels are a grid of 64 codes. The points cannot go to the data,
# but the encoder can bring the data to the points. Here it has learnt to, in the same autoencoder:

# %%
fsq = [stage.measure(FSQ((8, 8)), lr=6e-3)]
with torch.no_grad():
    seen = fsq[0].model.vectors(stage.test[::20]).flatten(0, 1)  # 50 digits, 49 vectors of two channels each
squashed, numbers = bound(seen, torch.tensor([8, 8])), torch.arange(-4, 4)
figure, axes = viz.panel("The data comes to the grid", "channel 1, squashed", "channel 2, squashed", 4.4, 4.2)
cells = squashed.round().long().sum(-1) % 2
axes.scatter(*squashed.T, s=3, c=[viz.PALETTE[k] for k in cells], linewidths=0)
axes.scatter(*torch.cartesian_prod(numbers, numbers).T, s=36, c="white", edgecolors=viz.TEXT, linewidths=1.2)
axes.set(xticks=numbers, yticks=numbers)
viz.show(figure, photo=True)

# %% [markdown]
# Each dot is a vector of a held-out digit, each ring a code; a dot takes the ring of its cell (cells alternate between
# two colours). The dense spot is the background.
#
# ## By hand: two channels of 5 and 4 levels
#
# **Squash.** A channel of L levels is pressed into an interval that holds L whole numbers. Five levels are -2 ... 2:
# $f(z) = 2.002 \tanh z$. Four cannot lie evenly around 0: we take -2 ... 1, half a step lower, and move z so that f(0)
# is still 0: $f(z) = 1.5015 \tanh(z + 0.346) - 0.5$. **Round**, a half to the even number.

# %%
z = torch.tensor([[[0.5, -1.0], [2.0, -3.0], [-0.2, 1.0], [-9.0, 9.0]]], requires_grad=True)
print("f", [[round(f, 2) for f in row] for row in bound(z, torch.tensor([5, 4]))[0].tolist()])

# %% [markdown]
# **Code.** The whole numbers, counted from 0, are digits with a base each, like minutes and hours: (first) + 5
# (second). **Value**: the whole numbers divided by 2 and 2, the halves of 5 and 4 rounded down.
#
# | z | f | whole | digits | code | value |
# |---|---|---|---|---|---|
# | (0.5, -1) | (0.93, -1.36) | (1, -1) | (3, 1) | 3 + 5 = 8 | (0.5, -0.5) |
# | (2, -3) | (1.93, -1.99) | (2, -2) | (4, 0) | 4 | (1, -1) |
# | (-0.2, 1) | (-0.40, 0.81) | (0, 1) | (2, 3) | 2 + 15 = 17 | (0, 0.5) |
# | (-9, 9) | (-2.00, 1.00) | (-2, 1) | (0, 3) | 15 | (-1, 0.5) |
#
# Back: 17 is 2 over after division by 5, so 2 - 2 = 0; and 3 times 5, so 3 - 2 = 1, and 1 / 2 = 0.5.

# %%
layer = FSQ((5, 4))
values, codes, loss = layer(z)
print("codes", codes.flatten().tolist(), "values", values[0].tolist())
assert codes.flatten().tolist() == [8, 4, 17, 15]
assert torch.equal(layer.decode(torch.tensor([[[17]]])), torch.tensor([[[0.0, 0.5]]]))

# %% [markdown]
# **Gradient.** Rounding has none, so it passes straight through, as in lesson 1: backward only the squash counts. For
# the first channel that is $2.002\,(1 - \tanh^2 z) / 2$: at 0.5, where tanh is 0.462, it is 0.79; at 2 (0.964) it is
# 0.07; at -9 it is 0. Far out the encoder hardly learns, and there is nothing else that holds it: no commitment, no
# loss at all.

# %%
(gradient,) = torch.autograd.grad(values[..., 0].sum(), z)
print("gradients of channel 1:", [round(g, 2) for g in gradient[0, :, 0].tolist()], "loss", loss.item())
assert difference(gradient[0, [0, 1, 3], 0], torch.tensor([0.787, 0.071, 0.0])) < 1e-3

# %% [markdown]
# ## The mechanism on real vectors
#
# **1. Squash, then round.** Why not clamp, which is cheaper? Beyond the ends a clamp has no gradient at all, and a
# vector that starts there never comes back; tanh fades.

# %%
one = torch.linspace(-3, 3, 301)
drawn = {"squashed": (one, 2.002 * one.tanh()), "rounded": (one, (2.002 * one.tanh()).round())}
viz.show(viz.lines(drawn, "Whatever z is, five values come out", "z, one channel", "f(z)"))

# %% [markdown]
# **2. Even numbers of levels.** In full (appendix A.1 of the paper):
#
# $$f(z) = \tanh(z + s)\,h - o, \quad h = \tfrac{(L - 1)(1 + \epsilon)}{2}, \quad o = \tfrac12 \text{ for even } L
# \text{, else } 0, \quad s = \operatorname{atanh}(o / h).$$
#
# Without s, f(0) would be -0.5, on the edge between two codes, where an encoder's first vectors lie.


# %%
def squash(z, levels, eps=1e-3):
    half = (levels - 1) * (1 + eps) / 2
    offset = (levels % 2 == 0) / 2
    return (z + (offset / half).atanh()).tanh() * half - offset


for L in (2, 3, 4, 5, 8):
    found = squash(torch.linspace(-9, 9, 2001), torch.tensor(L)).round().unique().int().tolist()
    print(f"{L} levels: {found}, and f(0) = {abs(squash(torch.zeros(1), torch.tensor(L)).item()):.3f}")
    assert len(found) == L

# %% [markdown]
# **3. All of it.** Division takes a code apart again: no table is needed to decode.


# %%
def quantize(z, levels):
    f = squash(z, levels)
    whole, half, radix = f.round().detach() + (f - f.detach()), levels // 2, levels.cumprod(0) // levels
    codes = ((f.round().long() + half) * radix).sum(-1)
    return whole / half, codes


def decode(codes, levels):
    digits = codes[..., None] // (levels.cumprod(0) // levels) % levels
    return (digits - levels // 2) / (levels // 2)


# %% [markdown]
# What you built is what the library has.

# %%
layer, z = FSQ((8, 5, 5, 4)), torch.randn(2, 500, 4, requires_grad=True)
library, built = layer(z), quantize(z, layer.levels)
assert torch.equal(library.codes[..., 0], built[1])
assert difference(library.values, built[0]) < 1e-6
assert difference(layer.decode(library.codes), decode(built[1], layer.levels)) == 0
gradients = [torch.autograd.grad(values.square().sum(), z)[0] for values in (library.values, built[0])]
assert difference(*gradients) < 1e-5
print(f"{layer.K} codes, {layer.bits:.2f} bits; values, codes and gradients agree")
print(f"numbers to store: {parameters(layer)}; VQ of as many codes: {parameters(VQ(d=8, K=layer.K))}")

# %% [markdown]
# ## The recipe
#
# 1. Choose levels $L_1 \dots L_d$, each at least 5 if it can be; $K = \prod L_i$ codes, at most $2^{63}$.
# 2. The encoder's last layer gives d channels. No codebook, nothing to start.
# 3. Each channel: $f(z) = \tanh(z + s)\,h - o$ as above, $\epsilon = 0.001$; round it to a whole number.
# 4. Gradient: that of f.
# 5. Code: digits $w_i + \lfloor L_i / 2 \rfloor$, first channel worth 1, next $L_1$, next $L_1 L_2$, ...
# 6. Value: $w_i / \lfloor L_i / 2 \rfloor$, in [-1, 1], to the decoder.
# 7. Loss: the decoder's error alone.
# 8. Decode a code by division with rest. Cost: d tanh a vector.
#
# | | paper's listing | here |
# |---|---|---|
# | h | $(L - 1)(1 - \epsilon) / 2$ | $1 + \epsilon$: two levels work too |
# | s | $\tan(o / h)$, so that f(0) is not quite 0 | $\operatorname{atanh}(o / h)$ |
#
# One or two codes in a hundred differ by this.
#
# ## The experiment: the same bits, with and without a codebook
#
# Beside VQ with 64 and 1,024 codes: FSQ with 8 x 8 = 64 and 8 x 5 x 5 x 5 = 1,000, the levels that the paper recommends
# (appendix A.4.1). Steps, batches and network are the same; the bottleneck is 2 or 4 channels wide instead of 8, and
# the learning rate half as large (chosen on digits to learn from; we shall see why).

# %%
fsq.append(stage.measure(FSQ((8, 5, 5, 5)), lr=6e-3))
rows = {f"VQ, {row.K}": row for row in vq[::2]} | {f"FSQ, {row.K}": row for row in fsq}
print(stages.quantize.table(rows))

# %%
roles = {f"{'ours: ' * (name[0] == 'F')}{name} codes": row.used for name, row in rows.items()}
viz.show(viz.bars(roles, "More of the grid is in use", "codes in use on held-out digits (%)"))

# %% [markdown]
# More codes are in use. But by *perplexity* (so many equally frequent codes would be as hard to guess) the two are
# close: many codes of the grid are rare, since most of a digit is background. And the errors are close too, with the
# codebook a little ahead.

# %%
chosen = stage.test[210::200]
columns = torch.stack([chosen, *(row.model.rebuild(chosen) for row in rows.values())], 1).flatten(0, 1)
titles = ["held out", *(f"{name}\n{row.psnr:.1f} dB" for name, row in rows.items())]
viz.show(viz.images(columns, titles + [""] * (len(columns) - 5), columns=5, height=1.12), photo=True)

# %% [markdown]
# ## Play: what does a channel say?
#
# On a grid, codes have neighbours. Take the codes of a digit and set one channel to the same level at all 49 positions;
# the other channel stays as it was. (This is the model with 8 x 8 levels.)

# %%
model = fsq[0].model
with torch.no_grad():
    kept = model.quantizer.decode(model.codes(stage.test[10::100]))  # one digit of each kind


def turned(channel, level, digit=3):
    changed = kept[digit : digit + 1].clone()
    changed[..., channel] = (level - 4) / 4
    with torch.no_grad():
        return model.picture(changed)


# %%
strip = torch.cat([turned(channel, level) for channel in (0, 1) for level in range(8)])
titles = [f"level {level}" for level in range(8)] + [""] * 8
viz.show(
    viz.images(strip, titles, title="Channel 1 (above) and channel 2, turned through 8 levels", height=0.6), photo=True
)


# %%
def draw(digit=3, channel=1, level=4):
    with torch.no_grad():
        before = model.picture(kept[digit : digit + 1])
    pair = torch.cat([before, turned(channel - 1, level, digit)])
    return viz.show(viz.images(pair, ["its own codes", f"channel {channel} at {level}"], height=1.8))


control = viz.slider(draw, digit=(0, 9), channel=(1, 2), level=(0, 7))
viz.ends(control)
control

# %% [markdown]
# ## In the house: photographs in FSQ codes
#
# Our image tokenizer rounds four channels to 8 levels each: 4,096 codes, 12 bits. A photograph of 64 x 64 pixels
# becomes 16 x 16 codes, 384 bytes where the pixels take 12,288. (It learnt from crops of these same photographs, among
# others, so this is a demonstration and no test.)

# %%
tokenizer, crops = house.load("tokenizer"), photographs.crops(4, 64, seed=7)
codes = tokenizer.encode(crops)
returned = tokenizer.decode(codes)
titles = ["as it was", *[""] * 3, *(f"{decibels:.1f} dB" for decibels in psnr(returned, crops))]
print(f"{len(codes)} crops, {codes.unique().numel()} different codes among {codes.numel()}")
viz.show(viz.images(torch.cat([crops, returned]), titles, columns=4, height=0.96), photo=True)

# %% [markdown]
# ## The verdict

# %%
grid, large, table_, vq_large, db = *fsq, vq[0], vq[-1], {"unit": "dB", "tolerance": 0.3}
own = {
    "use": "above 2^11 codes VQ uses less than 50 %, FSQ nearly all up to 2^14 (figure 3c)",
    "error": "FID of VQ is best at 2^11, that of FSQ falls on (figure 3a)",
    "all": "about 100 % for most models (section 1)",
}
measures = [
    papers.better("codes in use, 1,000 codes", large.used, than=vq_large.used, unit="%", margin=10, paper=own["use"]),
    papers.better("all in use but 5 %, 1,000 codes", large.used, than=95, unit="%", margin=0, paper=own["all"]),
    papers.not_worse("PSNR, 64 codes", grid.psnr, than=table_.psnr, by=0.5, **db),
    papers.better("PSNR, 1,000 codes", large.psnr, than=vq_large.psnr, margin=0.3, paper=own["error"], **db),
]

# %%
papers.verdict(
    "fsq",
    "A fixed grid keeps nearly all of its codes in use, and is better than a learnt codebook when there are many.",
    measures,
    against="VQ with d = 8, 64 or 1,024 codes, started on data; 400 steps each",
    data=stage.data,
)

# %% [markdown]
# The paper compares far larger codebooks, on photographs, where idle codes cost more. In
# [the league](00_overview.ipynb), with 4,096 codes and 2,000 steps, nothing is clear between the two.
#
# ## Where it breaks: an encoder that does not spread
#
# No code can die, but nothing forces the encoder to visit them all: with large steps it may leave half of a channel
# aside for good, and far out on the flat part of tanh hardly any gradient reaches it. 150 steps with 8 x 8
# codes, and with four times the learning rate:

# %%
short = stages.quantize.Stage(stage.learnt, stage.test, stage.data, steps=150)
tried = {f"learning rate {lr}": short.measure(FSQ((8, 8)), lr=lr).psnr for lr in (0.006, 0.024)}
viz.show(viz.bars(tried, "Moderate steps", "PSNR on held-out digits after 150 steps (dB)"))

# %% [markdown]
# ## Exercises
#
# **1. Your own squash.** Write `bound` from the recipe: z (..., d) and levels (d) give f(z). The library's tests judge
# it. What is missing here is seen for even numbers of levels only.


# %%
def my_bound(z, levels, eps=1e-3):
    return z.tanh() * (levels - 1) * (1 + eps) / 2  # replace this: it is right for odd levels


# %%
def check_1(my_bound):
    return papers.check("fsq.bound", my_bound)


check_1(my_bound)

# %% [markdown]
# **2. Choose the levels.** The paper finds that fewer than 5 levels a channel do worse. Write a function that returns
# levels of 5 to 8, the largest first, whose product is as near as possible to a target; of equal ones, the fewest
# channels.


# %%
def levels_for(target):
    return (8,) * 2  # replace this: it is right for 64 only


# %%
def check_2(levels_for):
    for target, product in ((64, 64), (256, 252), (1024, 1000), (4096, 4096)):
        found = tuple(levels_for(target))
        if not all(5 <= L <= 8 for L in found) or list(found) != sorted(found, reverse=True):
            return f"{found} for {target}: expected levels of 5 to 8, the largest first"
        if product != FSQ(found).K:
            return f"{found} for {target} has {FSQ(found).K} codes, but {product} can be had"
    return f"right; for 4,096 codes {found}, the levels of our house tokenizer"


check_2(levels_for)

# %% [markdown]
# **3. Neighbours.** Write a function that gives all codes one step away from a code: one channel changed by one level.
# What does a step cost? The check moves a fifth of some digits' codes by a step, then replaces them by random codes.


# %%
def neighbours(code, levels):
    return [code - 1, code + 1]  # replace this: only the first channel, and beyond its ends


def repainted(row, codes):
    with torch.no_grad():
        pictures = row.model.picture(row.model.quantizer.decode(codes)).clamp(0, 1)
    return f"{psnr(pictures, stage.test[::20]).mean():.1f} dB"


# %%
def check_3(neighbours):
    for code, levels, right in ((0, (3, 3), [1, 3]), (4, (3, 3), [1, 3, 5, 7]), (9, (5, 4), [4, 8, 14])):
        if (found := sorted(neighbours(code, levels))) != right:
            return f"code {code} of levels {levels} has the neighbours {right}, not {found}"
    codes = large.model.codes(stage.test[::20])
    near, hit = codes.clone().apply_(lambda c: neighbours(c, (8, 5, 5, 5))[c % 4]), torch.rand(codes.shape) < 0.2
    moved, lost = torch.where(hit, near, codes), torch.where(hit, torch.randint(1000, codes.shape), codes)
    kinds = {"codes as they were": codes, "a fifth moved": moved, "a fifth lost": lost}
    return "right: " + ", ".join(f"{name} {repainted(large, held)}" for name, held in kinds.items())


check_3(neighbours)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/03_fsq.py`.
#
# ## What was left out
#
# The paper trains generators of images (MaskGIT) and dense prediction (UViM) on the codes, where FSQ comes within 0.5
# to 3 % of VQ, and tries many sets of levels (figure 10). Read on: [LFQ](04_lfq.ipynb) takes the grid to its smallest,
# two levels a channel.
