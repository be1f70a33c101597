# %% [markdown]
# # FlexTok: what few tokens leave open, a flow makes up
#
# **Paper:** Bachmann, Allardice, Mizrahi, Fini, Kar, Amirloo, El-Nouby, Zamir and Dehghan, *FlexTok: Resampling Images
# into 1D Token Sequences of Flexible Length*, 2025 ([arXiv 2502.13967](https://arxiv.org/abs/2502.13967)).
# **Code:** `minitok/image/flextok.py`.
# **Read first:** [One-D-Piece](03_one_d_piece.ipynb), whose tokens may be cut anywhere too.
#
# You will put tokens in order (a causal mask and nested dropout), paint from a prefix of them with a *flow*, a decoder
# that draws at random what it was not told, and compare with a model that has order but no flow, and with one that has
# neither.

# %%
from itertools import pairwise
from math import exp, log10

import torch
import torch.nn.functional as F

from minitok import house, papers, viz
from minitok.data import clothing, photographs
from minitok.image import Tokens
from minitok.image.flextok import blocks, draw_kept, guide, nested_dropout
from minitok.metrics import psnr

# %% [markdown]
# ## The problem: the mean of all that it could be
#
# One-D-Piece makes a picture of any prefix, trained to have a small error. But one token fits many photographs, and
# the picture nearest to all of them is their mean: a blur. How blurred? We compare the **edges**, the root mean square
# step between neighbouring pixels, with those of the photographs.

# %%
there = clothing.at_hand()
photos = clothing.load("test").images[::31] if there else photographs.crops(12, 64)
piece, lengths = house.load("one_d_piece"), (1, 4, 16, 64)
pieces = {k: piece.decode(piece.encode(photos)[:k]) for k in lengths}
row = torch.stack([photos, *pieces.values()], 1)[5]
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
viz.show(viz.images(row, titles, height=1.28), photo=True)


# %%
def edges(pictures):
    """The mean over pictures, in percent of the photographs'."""

    def mean(x):
        return (x.diff(dim=2).square().mean((1, 2, 3)) + x.diff(dim=3).square().mean((1, 2, 3))).sqrt().mean()

    return 100 * float(mean(pictures) / mean(photos))


blurred = {k: edges(pictures) for k, pictures in pieces.items()}
print("edges from 1, 4, 16, 64 tokens:", ", ".join(f"{value:.0f} %" for value in blurred.values()))
assert blurred[1] < 30 or not there

# %% [markdown]
# ## The idea: draw one of them
#
# Do not paint the mean of all photographs that fit the tokens. Draw *one*, at random: with few tokens any garment of
# about that colour, with many this one. The decoder becomes a generative model, here a **rectified flow**: it moves
# noise, step by step, towards a picture, and reads the tokens at each step.
#
# ```text
# photograph -- tokenizer's maps --+-- Transformer -- quantize --> 64 ordered codes
#        64 registers, causal -----+                                  | keep k, mask the rest
# noise ---------------------------- flow, 20 steps ------------------+--> maps --> picture
# ```
#
# ## The mechanism, step by step
#
# **1. Maps.** The flow paints what an autoencoder makes of pixels: here the house's 2D `tokenizer`, whose 16 x 16 map
# of four channels we take before it is rounded.

# %%
model = house.load("flextok")
encoder, sizes = model.encoder, model.sizes
maps = model.codec.read(photos)
best = model.codec.show(maps)
print(f"{maps[0].numel()} numbers a photograph, in {sizes.patches} patches: squares of 2 x 2 places")
print(f"the best that any flow could reach: {psnr(best, photos).mean():.1f} dB, edges {edges(best):.0f} %")

# %% [markdown]
# **2. Causal registers.** As in TiTok, learnt vectors (here called **registers**) join the patches. New is who may look
# at whom: patches see patches; a register sees all patches and only the registers *up to itself*. So what the first
# registers say does not depend on the later ones.

# %%
n = sizes.patches + sizes.tokens
sees = torch.ones(n, n, dtype=torch.bool).tril()  # row: who looks; column: at whom
sees[: sizes.patches, : sizes.patches] = True
numbers = blocks(sizes.patches, sizes.tokens)
assert torch.equal(sees, numbers[:, None] >= numbers)  # the library says it by numbers
title = "Dark: may look. Rows and columns: 64 patches, then 64 registers"
viz.show(viz.images(1 - 0.8 * sees.float()[None, None], height=1.92, title=title))


# %%
def by_hand(registers):
    patches = encoder.patches(maps).flatten(2).transpose(1, 2) + encoder.position
    joined = torch.cat([patches, registers.expand(len(maps), -1, -1)], dim=1)
    return encoder.out(encoder.body(joined, sees)[:, sizes.patches :])


z = by_hand(encoder.latents)
changed = encoder.latents.clone()
changed[20:] = torch.randn(44, sizes.width, generator=torch.Generator().manual_seed(0))
moved = (by_hand(changed) - z).abs().amax((0, 2))
assert torch.equal(moved[:20], torch.zeros(20))  # not a bit
assert (moved[20:] > 0.01).all()
print("registers 21 to 64 were exchanged: the first 20 outputs are the same to the last bit")

# %% [markdown]
# **3. Quantize** with FSQ, four channels of 8 levels: 12 bits a token, as TiTok here.
#
# **4. Nested dropout**, of which tail token drop is a kind. For each photograph draw how many tokens to keep: 1, 2, 4,
# ..., 64, each as likely, and in a tenth of the cases none (guidance will need that). The others are not taken away, as
# in One-D-Piece; a learnt **mask token** stands in their places.

# %%
values, codes, _ = model.quantizer(z.float())
torch.manual_seed(0)
kept = 2 ** torch.randint(0, 7, (12,))
kept = torch.where(torch.rand(12) < 0.1, 0, kept)
keep = torch.arange(64) < kept[:, None]
dropped = torch.where(keep[..., None], model.enter(values), model.mask)
registers = dropped + model.place  # which place it is, a mask token knows too
print("kept:", kept.tolist())

# %% [markdown]
# **5. A flow's loss.** Mix the maps $x$ with noise, $x_s = (1 - s)\,x + s\,\mathrm{noise}$: at $s = 0$ the maps, at
# $s = 1$ nothing but noise. On this straight way the velocity is $\mathrm{noise} - x$ all along. The flow sees $x_s$,
# $s$ and the registers, and learns to say that velocity; the loss is its squared error. ($s$ is the sigmoid of a normal
# number, so mostly near the middle.)

# %%
noise, s = torch.randn_like(maps), torch.randn(12).sigmoid()
mixed = torch.lerp(maps, noise, s[:, None, None, None])
velocity = model.flow(mixed, s, registers)
error = (velocity - (noise - maps)).square().mean((1, 2, 3))
print(f"mean error {error.mean():.2f}; always to say 0 would give {(noise - maps).square().mean():.1f}")

# %% [markdown]
# From pure noise the way back is not known, and the flow says the *mean* of the velocities of all that could be. But
# after a small step fewer photographs fit, and it is asked again.
#
# **6. Draw.** Start at $s = 1$ from noise, and go back in small **Euler steps**: each moves by the velocity times the
# step's length.

# %%
few = F.pad(values[5:6, :8], (0, 0, 0, 56))  # the first 8 tokens of a photograph, then masks
told = model.embedded(few, torch.tensor([8]))
x, way = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), []
for step in range(20, 0, -1):
    s = torch.tensor([step / 20])
    way.append(x)
    x = x - model.flow(x, s, told) / 20
drawn = model.codec.show(x)
shown = torch.cat([model.codec.show(torch.cat([*way[::10], x])), photos[5:6]])
viz.show(viz.images(shown, ["s = 1", "0.5", "0: drawn", "held out"], height=1.28), photo=True)

# %% [markdown]
# **What you built is what the library has.**

# %%
torch.manual_seed(0)
assert torch.equal(draw_kept(12, 64, codes.device), kept)
assert torch.equal(nested_dropout(model.enter(values), kept, model.mask), dropped)
torch.manual_seed(0)
assert torch.allclose(model(maps).error, error, atol=1e-4)
assert torch.equal(model.encode(photos).codes, codes)
alone = Tokens(codes[5:6], (64,))
assert torch.allclose(model.decode(alone[:8], steps=20, seed=0), drawn, atol=1e-4)
print("mask, dropout, loss, codes and draws agree")

# %% [markdown]
# ## The experiment: any prefix
#
# We draw two pictures from each prefix of 12 held-out photographs, in 10 steps to save time.

# %%
twice = codes.repeat(2, 1, 1)
draws = {k: model.decode(Tokens(twice, (64,))[:k], steps=10).unflatten(0, (2, 12)) for k in lengths}
rows = torch.stack([photos, *(two[0] for two in draws.values())], 1)[[2, 5]].flatten(0, 1)
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
viz.show(viz.images(rows, [*titles, *[""] * 5], columns=5, height=1.28), photo=True)

# %% [markdown]
# The trousers come to be *these* trousers. The sweater keeps its colour, but even from 64 tokens it is crumpled cloth
# without its print. First the error, as PSNR. The models' cards hold it for all 372 test photographs (drawn in 20
# steps), also for the rivals of the last lessons: TiTok, which knows no short length; principal components; and, both
# at 96 bytes, the 2D tokenizer's 64 codes of a thumbnail and WebP files (a JPEG's header alone is larger).

# %%
ks = (1, 2, 4, 8, 16, 32, 64)
cards = {name: house.card(name)["figures"] for name in ("flextok", "one_d_piece", "titok", "image_gpt")}
linear = "principal components in the bits of {} tokens"
sources = {
    "ours: FlexTok": ("flextok", "{} tokens"),
    "One-D-Piece": ("one_d_piece", "{} tokens"),
    "baseline: TiTok, cut": ("titok", "{} tokens"),
    "principal components": ("one_d_piece", linear),
}
form = {"PSNR": "PSNR from {} (dB)", "Frechet": "Frechet distance from {}"}
card = {m: {name: [cards[c][f.format(of.format(k))] for k in ks] for name, (c, of) in sources.items()}
        for m, f in form.items()}  # fmt: skip
flex, regress, cut, classical = card["PSNR"].values()

# %%
series = {name: ([1.5 * k for k in ks], curve) for name, curve in card["PSNR"].items()}
for name, key in (("2D codes, thumbnail", "8x8 codes of thumbnails"), ("WebP", "WEBP")):
    series[name] = ([96], [cards["titok"][form["PSNR"].format(key)]])
title = "Draws have larger errors"
viz.show(viz.lines(series, title, "bytes a photograph", "PSNR (dB)", log="x"))

# %% [markdown]
# By error FlexTok is clearly behind One-D-Piece at every shorter length, and with one token even a little behind TiTok
# cut to one. We shall see why. Now the other judge: the *Frechet distance*, which says how far a set of pictures is
# from the set of test photographs, to the eye of `vit`, the course's classifier of ten kinds of clothes. Other real
# photographs are not at 0: the dashed line is the training set's distance.

# %%
series = {name: (ks, curve) for name, curve in card["Frechet"].items()}
level = cards["image_gpt"]["Frechet distance of the training photographs"]
title = "Draws look more real"
levels = {"other photographs": level}
viz.show(viz.lines(series, title, "tokens", "Frechet distance (less is better)", log="xy", levels=levels))

# %% [markdown]
# Not flat, but on another level than the rivals. (From 64 tokens the pictures repeat the very test photographs, which
# other photographs do not: so one can fall below the line.) The mean over 1 to 32 tokens, and the edges of live
# pictures from one token:

# %%
mean = {name: sum(curve[:6]) / 6 for name, curve in card["Frechet"].items()}
titok = house.load("titok")
by_length = {k: sum(edges(two) for two in draws[k]) / 2 for k in lengths}
sharp = {"ours: FlexTok": by_length[1], "One-D-Piece": blurred[1]}
sharp["baseline: TiTok, cut"] = edges(titok.decode(titok.encode(photos)[:1]))
ideas = ("order and a flow", "order", "neither")
for (name, value), idea in zip(sharp.items(), ideas, strict=True):
    print(f"{name:21} {idea:26} Frechet distance {mean[name]:4.0f}   edges from one token {value:4.0f} %")
print("FlexTok, 1, 4, 16, 64 tokens:", ", ".join(f"{value:.0f} %" for value in by_length.values()))
assert by_length[1] > 2 * blurred[1] or not there
assert by_length[1] > blurred[64] or not there

# %% [markdown]
# The order makes prefixes useful, but blurred. The flow brings back edges: from one token more than One-D-Piece has
# from all 64, if not as many as the photographs have or their maps keep. (One-D-Piece differs also in its mask and in
# how it drops: part of the gap may be theirs. And edges alone prove nothing: cut TiTok paints more than a photograph
# has.)
#
# ## What is told and what is made up
#
# The same prefix, three draws. What stays was told, what changes is made up.

# %%
same = Tokens(codes[5:6].repeat(3, 1, 1), (64,))
rows = [torch.cat([photos[5:6], model.decode(same[:k], steps=10)]) for k in (1, 16)]
titles = ["held out", *["1 token"] * 3, "", *["16 tokens"] * 3]
viz.show(viz.images(torch.cat(rows), titles, columns=4, height=1.28), photo=True)

# %% [markdown]
# If the flow draws rightly from all photographs that fit the tokens, then the photograph itself might be one of the
# draws: a second draw is as far from the first as the photograph is. Call such draws *fair*. What does drawing cost?
# With D the squared error between two draws and E that of a draw, the mean of very many draws would have $E - D / 2$.

# %%
apart = {
    "draw and photograph": [float(psnr(draws[k][0], photos).mean()) for k in lengths],
    "draw and another draw": [float(psnr(*draws[k]).mean()) for k in lengths],
    "mean of two and photograph": [float(psnr(draws[k].mean(0), photos).mean()) for k in lengths],
}
single, other, both = apart.values()
assert all(b > a for a, b in zip(single, both, strict=True))
assert other[3] - single[3] > 1.2 > max(o - s for o, s in zip(other[:3], single[:3], strict=True)) or not there
E = [float((draws[k] - photos).square().mean()) for k in lengths]
D = [float(draws[k].diff(dim=0).square().mean()) for k in lengths]
price = [10 * log10(e / (e - d / 2)) for e, d in zip(E, D, strict=True)]
behind = [regress[ks.index(k)] - flex[ks.index(k)] for k in lengths]
for name, curve in (apart | {"drawing costs": price, "behind One-D-Piece": behind}).items():
    print(f"{name:27}", "  ".join(f"{x:4.1f}" for x in curve), "dB")
assert all(p > b / 2 for p, b in zip(price, behind, strict=True)) or not there

# %% [markdown]
# Nearly so with few tokens. With all 64 a second draw is clearly nearer than the photograph: there the flow is too
# sure.
# A fair draw has *twice* the squared error of the best possible mean, 3 dB more. What ours lose by being drawn is, with
# few tokens, more than half of the gap to One-D-Piece. It is no failure of the tokens: the two decoders answer
# different questions.
#
# ## Play: tokens and chance


# %%
def prefix(tokens=8, photo=2, seed=0):
    part = Tokens(codes[photo : photo + 1], (64,))[:tokens]
    three = [
        photos[photo : photo + 1],
        model.decode(part, steps=10, seed=seed),
        piece.decode(piece.encode(photos[photo : photo + 1])[:tokens]),
    ]
    return viz.show(viz.images(torch.cat(three), ["held out", "FlexTok", "One-D-Piece"], height=1.28), photo=True)


prefix()

# %%
control = viz.slider(prefix, tokens=(1, 64), photo=(0, 11), seed=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## What does the first token say?
#
# We ask the flow for its first velocity, from pure noise. How large is its error when it reads no token, another
# photograph's first token, the right one, or more? And if one just says the noise?

# %%
noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
foreign = torch.cat([values.roll(5, 0)[:, :1], values[:, 1:]], dim=1)


def first_error(values, k):
    velocity = model.flow(noise, torch.ones(12), model.embedded(values, torch.full((12,), k)))
    return float((velocity - (noise - maps)).square().mean())


asked = {"(the noise)": float(maps.square().mean()), "no token": first_error(values, 0)}
asked["another's first"] = first_error(foreign, 1)
asked |= {f"{k} token{'s' * (k > 1)}": first_error(values, k) for k in (1, 2, 4, 8, 64)}
assert asked["1 token"] < asked["another's first"] or not there
for name, value in asked.items():
    print(f"{name:15} squared error {value:.2f}")

# %% [markdown]
# With no token the flow is no better than one that says the noise (in training s is hardly ever 1). The right first
# token helps, another's hardly. Now exchange the first of 8 tokens between two photographs, and keep the noise: some
# colour of the other's ground moves in.

# %%
pair = torch.tensor([2, 5])
mixed = codes[pair, :8].clone()
mixed[:, 0] = codes[pair.flip(0), 0]
own, swapped = (model.decode(Tokens(c, (64,)), steps=10) for c in (codes[pair, :8], mixed))
rows = torch.stack([photos[pair], own, swapped], 1).flatten(0, 1)
viz.show(viz.images(rows, ["held out", "8 tokens", "other's first", *[""] * 3], columns=3, height=1.28), photo=True)

# %% [markdown]
# What do the first tokens fix, colour or kind? For both draws of the 12 photographs: how well the mean colours of draws
# and photographs correlate (1: perfectly, 0: not at all), and how often `vit` sees the same kind of clothes in them, of
# ten, as in the photograph. *Chance*: the same with the photographs shifted, so that none meets its own draw.

# %%
vit = house.load("vit")
seen = {k: vit(draws[k].flatten(0, 1)).argmax(1).view(2, 12) for k in lengths}
truth = vit(photos).argmax(1)
shifted = torch.stack([truth.roll(i) for i in range(1, 12)])
for k in lengths:
    a, b = (p - p.mean(0) for p in (draws[k].mean((0, 3, 4)), photos.mean((2, 3))))
    colour = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    right, chance = (100 * float((seen[k][:, None] == t).float().mean()) for t in (truth, shifted))
    print(f"{k:2} tokens: colour {colour:4.1f}   kind {right:3.0f} %, by chance {chance:3.0f} %")
    if k == 1:
        assert colour < 0.6 or not there
assert right > chance + 30 or not there

# %% [markdown]
# (24 draws: one more or less is 4 %.) One token alone hardly steers a draw; colour comes first, the kind much later.
# The authors' project page says that 8 of their tokens suffice for the kind. Why ours come later we did not test: they
# have a thousand kinds, and far larger models.
#
# ## Guidance
#
# A flow can exaggerate what the tokens say: ask it also with *no* token, and go further in the direction in which the
# two answers differ. FlexTok does it by **adaptive projected guidance**: the difference is cut to a length of 2.5, and
# only its part at right angles to the velocity counts. (That length was chosen for maps of 16 times as many numbers.)

# %%
scales = [model.decode(alone[:4], steps=10, guidance=g) for g in (1.0, 2.0, 8.0)]
text = "Frechet distance from {} tokens"
without, with_ = (sum(cards["flextok"][text.format(k) + end] for k in ks) / 7 for end in ("", " with guidance"))
print(f"Frechet distance, mean over the lengths: {without:.1f} without guidance, {with_:.1f} with guidance of 2")
row = torch.cat([photos[5:6], *scales])
viz.show(viz.images(row, ["held out", "no guidance", "2", "8"], height=1.28), photo=True)

# %% [markdown]
# At our size it changes little: the distance hardly moves.
#
# ## The verdict

# %%
fd = card["Frechet"]["ours: FlexTok"]
ours, order, neither = (mean[name] for name in ("ours: FlexTok", "One-D-Piece", "baseline: TiTok, cut"))
first = [sum(curve[:6]) / 6 for curve in (flex, cut)]
own = "FID < 2, 8 to 128 of 256 tokens (abstract; generated images)"
measures = [
    papers.exact("each doubling of the tokens lowers the error", all(b > a for a, b in pairwise(flex))),
    papers.better("PSNR, mean of 1 to 32 tokens, TiTok cut", first[0], than=first[1], unit="dB", margin=1),
    papers.better("Frechet, mean of 1 to 32 tokens, TiTok cut", ours, than=neither, higher=False, margin=20),
    papers.better("Frechet, mean of 1 to 32 tokens, One-D-Piece", ours, than=order, higher=False, margin=20),
    papers.better("edges from 1 token, One-D-Piece", sharp["ours: FlexTok"], than=blurred[1], unit="%", margin=15),
    papers.better("Frechet, 1 token, other photographs", fd[0], than=level, higher=False, margin=-3),
    papers.better("flat: Frechet, 2 tokens, 1.5 times 32", fd[1], than=1.5 * fd[5], higher=False, paper=own),
]

# %%
claim = papers.verdict(
    "flextok",
    "Any prefix of the tokens makes a plausible picture, about as real from few tokens as from all.",
    measures,
    against="TiTok cut short; One-D-Piece (tail token drop, no flow); other real photographs; itself at full length",
    data="PSNR and Frechet distance (of vit's features): all 372 clothing photographs of the test set; edges: "
    + ("every 31st of them (12), two draws" if there else "12 crops of other photographs, two draws"),
)
assert claim.outcome == "holds in part" or not there

# %% [markdown]
# Order and flow do what they should: every prefix paints, the error falls, and short prefixes look far more real than
# with either rival. But they do not look *as* real as long ones: in the paper's range, a 32nd to half of the tokens,
# the distance nearly doubles. The paper's models are far larger (decoders of up to 28 layers), learn from ImageNet, and
# are helped by a loss on DINOv2's features. One training run stands behind each model here.
#
# ## Where it breaks: in a hurry, and where identity counts
#
# One-D-Piece's decoder is asked once for a picture, a flow at each step. What if we take fewer steps?

# %%
few = Tokens(codes[:8], (64,))[:4]
hurried = {steps: model.decode(few, steps=steps) for steps in (1, 2, 5, 20)}
errors = {steps: float(psnr(pictures, photos[:8]).mean()) for steps, pictures in hurried.items()}
print("PSNR in 1, 2, 5, 20 steps:", ", ".join(f"{value:.1f}" for value in errors.values()), "dB", end="; ")
print(f"One-D-Piece {psnr(pieces[4], photos)[:8].mean():.1f} dB")
assert errors[20] + 0.5 < errors[1] < float(psnr(pieces[4], photos)[:8].mean()) or not there
row = torch.stack([photos[:8], *hurried.values()], 1)[5]
viz.show(viz.images(row, ["held out", "1 step", "2 steps", "5 steps", "20 steps"], height=1.28), photo=True)

# %% [markdown]
# In one step the flow only aims at the mean: its error is smaller than in twenty, but stripes stay, and One-D-Piece's
# is smaller still. From 5 steps on it draws cloth with folds. And where the picture must be *this* one (a document, a
# face), a made-up detail is worse than a blur: it looks certain.
#
# ## Exercises
#
# **1. A better step.** Euler takes the velocity at the step's beginning. The *midpoint method* takes half a step, asks
# there, and goes the whole step with that answer. `velocity(x, s)` is any flow; go from s = 1 to 0 in equal steps.


# %%
def midpoint(velocity, x, steps):
    for step in range(steps, 0, -1):
        x = x - velocity(x, step / steps) / steps  # replace this: it is Euler's
    return x


def check_1(midpoint):
    asked = []
    end = midpoint(lambda x, s: asked.append(s) or x, 1.0, 8)  # the exact end is 1 / e
    if len(asked) != 16 or abs(asked[1] - 15 / 16) > 1e-9:
        return f"8 steps ask the flow 16 times, the second time at s = 15/16; yours {len(asked)} times"
    return "right: for twice the price a far smaller error" if abs(end - exp(-1)) < 0.002 else f"{end:.3f}, not 0.368"


check_1(midpoint)

# %% [markdown]
# **2. Guidance.** `velocity` and `null`, of (b, c, H, W), are the flow's answers with tokens and without. Cut their
# difference to a length of at most 2.5 for each picture, keep its part at right angles to `velocity`, and add that
# `scale` - 1 times. (The library's `guide` also has a momentum over the steps, which is none at the first.)


# %%
def guided_velocity(velocity, null, scale):
    return null + scale * (velocity - null)  # replace this: the classical way, neither cut nor projected


# %%
def check_2(guided_velocity):
    torch.manual_seed(0)
    for size in (0.1, 1.0):  # differences that are shorter than 2.5, and longer
        velocity, difference = torch.randn(2, 3, 4, 8, 8)
        added = guided_velocity(velocity, velocity - size * difference, 3.0) - velocity
        if float((added * velocity).sum((1, 2, 3)).abs().max()) > 1e-2:
            return "what is added is not at right angles to the velocity"
        if not torch.allclose(velocity + added, guide(velocity, velocity - size * difference, 3.0)[0], atol=1e-4):
            return "the direction is right, the length is not: cut to 2.5, then project, then times 2"
    return "right"


check_2(guided_velocity)

# %% [markdown]
# **3. Back to the mean.** Paint the mean of n draws from the first k tokens of `photos[::4]` (a seed for each draw, 5
# steps will do). With many draws it comes near to what One-D-Piece was trained to paint.


# %%
def mean_of_draws(k, n):
    return model.decode(Tokens(codes[::4], (64,))[:k], steps=5, seed=0)  # replace this: one draw


def check_3(mean_of_draws):
    one, three = (float(psnr(mean_of_draws(4, n), photos[::4]).mean()) for n in (1, 3))
    if three < one + 0.5:
        return f"3 draws give {three:.1f} dB, one gives {one:.1f}: differences between draws should partly cancel"
    return f"right: {one:.1f} dB from one draw, {three:.1f} from three; and the edges?"


check_3(mean_of_draws)

# %% [markdown]
# Solutions: `notebooks/src/solutions/02_image/04_flextok.py`.
#
# ## What was left out
#
# We did not train a flow without nested dropout, which would show the flow's part alone. The paper's second half draws
# new images: a GPT predicts the tokens one by one from a class or a text, and may stop after any number, since the flow
# paints from any. It also trains with a loss that pulls the flow's features towards DINOv2's, and tries uniform lengths
# beside powers of two. That a small error and a real look are at odds, whatever the method, is a theorem: Blau and
# Michaeli, *The Perception-Distortion Tradeoff*, 2018 (arXiv 1711.06077). Read on: **KARL** lets the photograph say how
# many tokens it needs.
