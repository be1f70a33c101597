# %% [markdown]
# # FlexTok: what few tokens leave open, a flow makes up
#
# **Paper:** Bachmann, Allardice, Mizrahi, Fini, Kar, Amirloo, El-Nouby, Zamir and Dehghan, *FlexTok: Resampling Images
# into 1D Token Sequences of Flexible Length*, 2025 ([arXiv 2502.13967](https://arxiv.org/abs/2502.13967)).
# **Code:** `minitok/image/flextok.py`.
# **Read first:** [One-D-Piece](03_one_d_piece.ipynb).
#
# After this lesson you can order tokens by nested dropout, train a *flow* that paints from any prefix, and draw with
# it.

# %%
import math

import torch

from minitok import house, papers, stages, viz
from minitok.image import Tokens
from minitok.image.flextok import blocks, draw_kept, guide, nested_dropout
from minitok.metrics import difference

# %% [markdown]
# ## The problem: the mean of all that it could be
#
# One-D-Piece is trained to have a small error. But one token fits many photographs, and the picture nearest to all is
# their mean: a blur. (Edges: steps from pixel to pixel.)

# %%
stage, piece = stages.image.stage(images=12), house.load("one_d_piece")
blurred = {k: stage.measure(piece, k) for k in (1, 4, 16, 64)}
print(stage.data, "\n", stages.image.table({f"One-D-Piece, {k}": row for k, row in blurred.items()}), sep="\n")
shown = torch.stack([stage.images, *(row.pictures for row in blurred.values())], 1)[5]
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
viz.show(viz.images(shown, titles, height=1.28), photo=True)

# %% [markdown]
# ## The idea: draw one of them, by a flow
#
# A **rectified flow** moves noise towards a picture, and reads the tokens at each step.
#
# ## By hand: a flow in one dimension
#
# x is 2 or 6, each as likely. From x to noise $\varepsilon$ leads $x_s = (1 - s) x + s \varepsilon$,
# velocity $\varepsilon - x$. Where several x fit, the best answer is the mean.
#
# Noise 1, $s = 1$: all fit, the mean of -1 and -5 is **-3**. *One* step ends at 4: neither. *Two*: first 2.5, $s =
# 0.5$. There x = 2 means noise 3, x = 6 noise -1, $e^{4.5 - 0.5} = 55$ times as likely. The velocity is -(7 x 55 - 1) /
# 56 = -6.86, the end 2.5 + 6.86 / 2 = **5.93**.


# %%
def walk(x, steps):
    for step in range(steps, 0, -1):
        s, fits = step / steps, torch.tensor([2.0, 6.0])
        noise = (x - (1 - s) * fits) / s  # normal, so its probability goes with exp(-noise^2 / 2)
        x = x - float((-(noise**2) / 2).softmax(0) @ (noise - fits)) / steps
    return round(x, 2)


for noise in (1.0, -1.0):
    print(f"noise {noise:+.0f}: in 1 step {walk(noise, 1)}, in 2 steps {walk(noise, 2)}, in 20 {walk(noise, 20)}")
assert (walk(1.0, 1), walk(1.0, 2), walk(-1.0, 2)) == (4.0, 5.93, 2.07)

# %% [markdown]
# **Who sees whom.** 3 patches, 2 registers (as TiTok's latents). A patch sees the patches; register 1 also itself;
# register 2 also register 1: 3, 3, 3, 4, 5 tokens. So the first registers do not depend on later ones. In block
# numbers: a token sees its own and those below.
#
# **Not told is not zero.** After the first k tokens a learnt **mask token** stands in every place. Why not zeros? Zero
# *is* a code: level 4 of 0 to 7 stands for (4 - 4) / 4 = 0, so code 4 + 4 x 8 + 4 x 64 + 4 x 512 = 2340 has values 0,
# 0, 0, 0.

# %%
numbers = blocks(3, 2)
sees = numbers[:, None] >= numbers
print(numbers.tolist(), "\n", sees.int(), sep="")
assert sees.sum(1).tolist() == [3, 3, 3, 4, 5]
model = house.load("flextok")
print("code 2340 stands for", model.quantizer.decode(torch.tensor([[[2340]]])).flatten().tolist())
x = torch.tensor([[[1.0], [0.0], [3.0]]])
print("keep 2 of (1, 0, 3), mask 9:", nested_dropout(x, torch.tensor([2]), torch.tensor([9.0])).flatten().tolist())
assert model.quantizer.decode(torch.tensor([[[2340]]])).eq(0).all()

# %% [markdown]
# ## The mechanism on real photographs
#
# **1. Maps and registers.** The flow paints the maps of the house's `tokenizer`, 4 numbers at each of 16 x 16 places;
# pixels would take a larger flow. 64 registers, FSQ: 12 bits each.

# %%
encoder, photos = model.encoder, stage.images
maps = model.codec.read(photos)
patches = encoder.patches(maps).flatten(2).transpose(1, 2) + encoder.position
joined = torch.cat([patches, encoder.latents.expand(12, -1, -1)], dim=1)
numbers = blocks(64, 64)
z = encoder.out(encoder.body(joined, numbers[:, None] >= numbers)[:, 64:])
values, codes, _ = model.quantizer(z)
print("maps", tuple(maps.shape), "registers", tuple(z.shape))
best = stages.image.Row(model.codec.show(maps), photos)
print(f"the best that any flow could reach: {best.psnr:.1f} dB, edges {best.edges:.0f} %")

# %% [markdown]
# **2. One training step.** For each image k, one of 1, 2, 4, ..., 64 or, in a tenth of the cases, 0; noise; s, the
# sigmoid of a normal number. Loss: the velocity's squared error.

# %%
torch.manual_seed(0)
powers = 2 ** torch.randint(0, 7, (12,))
kept = torch.where(torch.rand(12) < 0.1, 0, powers)
told = torch.where((torch.arange(64) < kept[:, None])[..., None], model.enter(values), model.mask) + model.place
noise, s = torch.randn_like(maps), torch.randn(12).sigmoid()
mixed = torch.lerp(maps, noise, s[:, None, None, None])
error = (model.flow(mixed, s, told) - (noise - maps)).square().mean((1, 2, 3))
print("kept", kept.tolist())
print(f"loss {error.mean():.2f}; always to say 0 would cost {(noise - maps).square().mean():.1f}")

# %% [markdown]
# **3. Inside the flow.** 64 patches of $x_s$ and 64 registers in one sequence; **all see all**, six layers; v is read
# at the patches. And s? 32 cosines and 32 sines of s times frequencies from 1000 down, through a small network, are the
# *condition*: in each layer it gives shift a, scale b and gate g of both halves: `x + g attention((1 + b) norm(x) +
# a)`. Gates begin at 0. One token for s would do less: layers must behave otherwise near noise.

# %%
flow, angle = model.flow, torch.tensor([1.0, 0.5, 0.05])[:, None] * 1000 * 10_000 ** (-torch.arange(32) / 32)
condition = flow.time(torch.cat([angle.cos(), angle.sin()], dim=1))
for name, c in zip(("s = 1", "s = 0.5", "s = 0.05"), condition, strict=True):
    gates = [block.modulate(c[None])[2].abs().mean().item() for block in flow.body.blocks]
    print(f"{name:9} mean gate of the attention, layer by layer:", ", ".join(f"{gate:.2f}" for gate in gates))

# %% [markdown]
# **4. Draw** in **Euler steps**: each moves by the velocity times its length.

# %%
few = model.embedded(values[5:6], torch.tensor([8]))  # the first 8 tokens of a photograph, then masks
x, way = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), []
for step in range(20, 0, -1):
    way.append(x)
    x = x - flow(x, torch.tensor([step / 20]), few) / 20
drawn = model.codec.show(x)
shown = torch.cat([model.codec.show(torch.cat([*way[::5], x])), photos[5:6]])
titles = ["s = 1", "0.75", "0.5", "0.25", "0: drawn", "held out"]
viz.show(viz.images(shown, titles, height=1.28), photo=True)

# %% [markdown]
# **Guidance**: ask also with no token, and go further where the answers differ. By hand: v = (1, 0) with tokens, (0,
# -2) without. The difference (1, 2) is cut to a length of 2.5 (it is shorter); only its part at right angles to v
# counts, (0, 2); with strength 3 twice: (1, 4). Later steps first subtract half of the last difference.
#
# **What you built is what the library has.**

# %%
assert torch.equal(nested_dropout(model.enter(values), kept, model.mask) + model.place, told)
torch.manual_seed(0)
assert torch.equal(draw_kept(12, 64, codes.device), kept)
torch.manual_seed(0)
assert difference(model(maps).error, error) < 1e-4
assert torch.equal(model.encode(photos).codes, codes)
assert difference(model.decode(Tokens(codes[5:6], (64,))[:8], steps=20, seed=0), drawn) < 1e-4
print("dropout, loss, codes and draws agree")
v, null = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, -2.0]]]])
guided, before = guide(v, null, scale=3.0)
print("guided", guided.tolist(), "in the second step", guide(v, null, 3.0, before)[0].tolist())
assert guided.flatten().tolist() == [1, 4]

# %% [markdown]
# ## The recipe
#
# 1. Maps x of an autoencoder, in patches; n registers. Patches see patches, a register all patches and registers up to
#    itself. The registers' outputs to FSQ: n codes.
# 2. Training: k from 1, 2, 4, ..., n, or 0 (a tenth); after k the mask token; to each its place.
# 3. Noise $\varepsilon$, s = sigmoid(normal), $x_s = (1 - s) x + s \varepsilon$. Loss: $|v - (\varepsilon - x)|^2$.
# 4. Flow: [patches of $x_s$; registers], full attention, s by adaptive norms; v at the patches.
# 5. Draw: noise at s = 1; 20 times $x \leftarrow x - v / 20$: 20 calls, guided 40.
#
# ## The experiment: any prefix

# %%
pictures = {k: stage.measure(model, k, steps=10) for k in (1, 4, 16, 64)}
shown = torch.stack([photos, *(row.pictures for row in pictures.values())], 1)[[2, 5]].flatten(0, 1)
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
print(stages.image.table({f"FlexTok, {k}": row for k, row in pictures.items()}))
viz.show(viz.images(shown, [*titles, *[""] * 5], columns=5, height=1.28), photo=True)

# %% [markdown]
# *Frechet distance*: how far the set of pictures is from that of photographs, to the classifier `vit` (the league: all
# 372, 20 steps).

# %%
ks, league = stages.image.KS, {(row["method"], row["tokens"]): row for row in stages.load("image")["rows"]}
names = {"ours: FlexTok": "flextok", "One-D-Piece": "one_d_piece", "baseline: TiTok, cut": "titok"}
psnr, far = ({name: [league[m, k][score] for k in ks] for name, m in names.items()} for score in ("PSNR", "Frechet"))
for name, curve in psnr.items():
    print(
        f"{name.split(': ')[-1]:12} PSNR from {ks[0]} to {ks[-1]} tokens:", ", ".join(f"{value:.1f}" for value in curve)
    )
real = house.card("image_gpt")["figures"]["Frechet distance of the training photographs"]
levels, axis = {"muted: other photographs": real}, "Frechet distance (less is better)"
series = {name: (ks, curve) for name, curve in far.items()}
viz.show(viz.lines(series, "Draws look more real", "tokens", axis, log="xy", levels=levels))

# %% [markdown]
# A fair draw has *twice* the squared error of the mean, 3 dB more.
#
# ## Play: what is told, and what is made up
#
# What stays was told, what changes is made up.


# %%
def prefix(tokens=4, photo=5, seed=0):
    part = Tokens(codes[photo : photo + 1], (64,))[:tokens]
    three = [model.decode(part, steps=5, seed=seed + i) for i in range(3)]
    titles = ["held out", *(f"seed {seed + i}" for i in range(3))]
    return viz.show(viz.images(torch.cat([photos[photo : photo + 1], *three]), titles, height=1.28), photo=True)


prefix()

# %%
control = viz.slider(prefix, tokens=(1, 64), photo=(0, 11), seed=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
short = [sum(curve[:6]) / 6 for curve in (psnr["ours: FlexTok"], psnr["baseline: TiTok, cut"])]
look, mine, less = [sum(curve[:6]) / 6 for curve in far.values()], far["ours: FlexTok"], {"higher": False}
sharp, own = [pictures[1].edges, blurred[1].edges], "FID < 2, 8 to 128 of 256 tokens (abstract; generated)"
measures = [
    papers.better("PSNR, mean of 1 to 32, TiTok cut", short[0], than=short[1], unit="dB", margin=1, tolerance=0.1),
    papers.better("Frechet, mean of 1 to 32, TiTok cut", look[0], than=look[2], margin=20, **less),
    papers.better("Frechet, mean of 1 to 32, One-D-Piece", look[0], than=look[1], margin=20, **less),
    papers.better("edges from 1 token, One-D-Piece", sharp[0], than=sharp[1], unit="%", margin=15, tolerance=2),
    papers.not_worse("Frechet, 1 token, other photographs", mine[0], than=real, by=3, **less),
    papers.not_worse("flat: Frechet, 2 tokens, 32", mine[1], than=mine[5], by=5, paper=own, **less),
]

# %%
claim = papers.verdict(
    "flextok",
    "Any prefix of the tokens makes a plausible picture, about as real from few tokens as from all.",
    measures,
    against="TiTok cut short; One-D-Piece (tail token drop, no flow); other real photographs; itself at full length",
    data=f"the league, all 372; edges: {stage.data}, 10 steps",
)

# %% [markdown]
# Every prefix paints, short ones far more really than with either rival, not *as* really as long ones.
#
# ## Where it breaks: in a hurry, and where identity counts

# %%
tokens = Tokens(codes[:8], (64,))[:4]
hurried = {f"{n} steps": stages.image.Row(model.decode(tokens, steps=n), photos[:8]) for n in (1, 2, 5, 20)}
print(stages.image.table(hurried | {"One-D-Piece": stages.image.Row(blurred[4].pictures[:8], photos[:8])}))
shown = torch.stack([photos[:8], *(row.pictures for row in hurried.values())], 1)[5]
viz.show(viz.images(shown, ["held out", *hurried], height=1.28), photo=True)

# %% [markdown]
# In one step the flow aims at the mean. And where it must be *this* picture, a made-up detail is worse than a blur.
#
# ## Exercises
#
# **1. Your own training step.** Each image's error (b) from `maps`, k as `kept` (b), `noise` and `s` (b), with
# `model.registers(maps)`, `model.quantizer`, `model.enter`, `model.mask`, `model.place`, `model.flow(x_s, s,
# registers)`.


# %%
def flow_error(model, maps, kept, noise, s):
    return (noise - maps).square().mean((1, 2, 3))  # replace this: a flow that says 0


# %%
def check_1(flow_error):
    for k in (torch.tensor([0, 1, 8, 64]), torch.tensor([2, 2, 0, 32])):
        x_s = torch.lerp(maps[:4], noise[:4], s[:4, None, None, None])
        velocity = model.flow(x_s, s[:4], model.embedded(values[:4], k))
        right = (velocity - (noise[:4] - maps[:4])).square().mean((1, 2, 3))
        apart = (flow_error(model, maps[:4], k, noise[:4], s[:4]) - right).abs()
        if apart.max() > 1e-3:
            return f"k = {int(k[apart.argmax()])}: off by {apart.max():.2g}; what stands in the places after k?"
    return "right: the whole training step"


check_1(flow_error)

# %% [markdown]
# **2. A better step.** The *midpoint method* takes half a step, asks there, and goes the whole step with that answer,
# from s = 1 to 0.


# %%
def midpoint(velocity, x, steps):
    return x - velocity(x, 1.0)  # replace this: one Euler step


# %%
def check_2(midpoint):
    asked = []
    end = midpoint(lambda x, s: asked.append(s) or x, 1.0, 8)  # the exact end is 1 / e
    if len(asked) != 16 or abs(asked[1] - 15 / 16) > 1e-9:
        return f"8 steps ask the flow 16 times, the second time at s = 15/16; yours {len(asked)} times"
    return "right: a far smaller error" if abs(end - math.exp(-1)) < 0.002 else f"{end:.3f}, not 0.368"


check_2(midpoint)

# %% [markdown]
# Solutions: `notebooks/src/solutions/02_image/04_flextok.py`.
#
# ## What was left out, and where we differ
#
# The paper: 64,000 codes, 256 registers, a null condition of its own, a loss on DINOv2's features; ours 4,096, 64, mask
# tokens, none. Error and look are at odds by a theorem (Blau and Michaeli, 2018, arXiv 1711.06077). Read on:
# **KARL** lets the photograph say how many tokens it needs.
