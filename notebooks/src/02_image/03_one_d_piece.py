# %% [markdown]
# # One-D-Piece: a sequence of tokens that may be cut anywhere
#
# **Paper:** Miwa, Sasaki, Arai, Takahashi and Yamaguchi, *One-D-Piece: Image Tokenizer Meets Quality-Controllable
# Compression*, 2025 ([arXiv 2501.10064](https://arxiv.org/abs/2501.10064)).
# **Code:** `minitok/image/one_d_piece.py`.
# **Read first:** [TiTok](01_titok.ipynb), to which this lesson adds one line.
#
# TiTok describes every image by the same number of tokens. You will build the one line that puts the tokens in order,
# see what it did to a trained model, and compare that with the oldest way to say first what matters most.

# %%
from itertools import pairwise

import torch

from minitok import codecs, house, papers, viz
from minitok.data import clothing, photographs
from minitok.image import Tokens
from minitok.image.one_d_piece import without_tail
from minitok.metrics import psnr
from minitok.stages.image import linear_code, principal_components, rebuilt

# %% [markdown]
# ## The problem: one length for all
#
# A plain dress needs few tokens, a checked shirt more; a small screen needs fewer than a large one. TiTok has one model
# for one length. Reading fewer of its 64 tokens does not help: nothing in its training made the first ones more
# important, and the decoder never met a missing one.

# %%
there = clothing.at_hand()
photos = clothing.load("test").images[::3] if there else photographs.crops(124, 64)
titok, lengths = house.load("titok"), (1, 2, 4, 8, 16, 32, 64)
codes = {"titok": titok.encode(photos).codes}
some = photos[[24, 85]]
cut = [some, *(titok.decode(titok.encode(some)[:k]) for k in (4, 16, 32, 64))]
titles = ["held out", "4 tokens", "16 tokens", "32 tokens", "64 tokens"]
viz.show(viz.images(torch.stack(cut, 1)[0], titles, columns=5, height=0.96), photo=True)

# %% [markdown]
# ## The idea: train with the tail cut off
#
# **Tail token drop:** in each step of training draw a number k from 1 to 64 and let the decoder see only the first k
# tokens. Now a token's place says how often it is heard: the first always, the last once in 64 steps.

# %%
draws = torch.randint(1, 65, (100_000,), generator=torch.Generator().manual_seed(0))
heard = [(draws >= i).float().mean().item() for i in range(1, 65)]
title = "A token's place says how often the decoder hears it"
viz.show(viz.lines({"ours: tail token drop": (range(1, 65), heard)}, title, "place of the token", "share of the steps"))

# %% [markdown]
# An encoder that wants a small error had better say first what lowers it most. And the decoder learns to paint from
# whatever it is given. No loss asks for an order; it is only never worth while to put important things last.
#
# ## The mechanism, step by step
#
# **1. Encode and quantize** as TiTok does: 64 latents, 64 codes of 12 bits, all of them, since nobody knows k yet.

# %%
model = house.load("one_d_piece")
codes["one_d_piece"] = model.encode(photos).codes
values = model.quantizer.decode(codes["one_d_piece"][:2])  # what the codes stand for
print(tuple(values.shape), "values of two photographs")

# %% [markdown]
# **2. Draw one k** for the whole batch, each of 1 to 64 equally likely.
#
# **3. Cut** the quantized tokens, and with them the vectors that tell them apart, so that token i keeps its own. The
# 64 blank mask tokens stay: the image is whole, only its description is shorter.

# %%
torch.manual_seed(0)
k = int(torch.randint(1, 65, ()))
decoder = model.decoder
description = decoder.enter(values[:, :k]) + decoder.place[:k]
blank = (decoder.mask + decoder.position).expand(2, -1, -1)
joined = torch.cat([blank, description], dim=1)
print(f"k = {k}: the decoder reads {joined.shape[1]} tokens, not 128")

# %% [markdown]
# **4. Go on as before:** pixels at the mask tokens, the error, its gradient. (Where codes are learnt, the codebook's
# own loss still counts all 64.) Tokens beyond k get no gradient in this step.
#
# A sequence whose length changes at each step is slow to compile for a GPU. The library therefore keeps all 128 places
# and hides the tail by the **attention mask**: no token may look at it. Is that the same?

# %%
mask = without_tail(k, n=64, others=64)
whole = torch.cat([blank, decoder.enter(values) + decoder.place], dim=1)
hidden = decoder.body(whole, mask)[:, :64]
assert torch.allclose(hidden, decoder.body(joined, "full")[:, :64], atol=1e-5)
print(f"each token sees {int(mask[0].sum())} of {mask.shape[1]}; the mask tokens come out the same")

# %% [markdown]
# It is: what nobody looks at might as well not be there. (Setting the tail to zeros would not be: a zero still takes
# part in the attention.)
#
# **What you built is what the library has.** In training, `OneDPiece.paint` draws k by itself; from the same seed it
# paints what we paint from our cut sequence.

# %%
torch.manual_seed(0)
library = model.train().paint(values)
model.eval()
pixels = decoder.out(decoder.body(joined, "full")[:, :64]).transpose(1, 2).unflatten(2, (8, 8))
rough = torch.nn.functional.pixel_shuffle(pixels, 8)
assert torch.allclose((rough + decoder.smooth(rough) + 1) / 2, library, atol=1e-5)
assert torch.allclose(model.decode(Tokens(codes["one_d_piece"][:2], (64,))[:k]), library.clamp(0, 1), atol=1e-5)
print("ours, the library in training, and its decoding of a prefix agree")

# %% [markdown]
# ## The experiment: quality against length
#
# Both models were trained on the same views for as many steps, with and without that one line.

# %%
cuts = [some, *(model.decode(model.encode(some)[:k]) for k in (1, 4, 16, 64))]
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
rows = torch.stack(cuts, 1).flatten(0, 1)
viz.show(viz.images(rows, [*titles, *[""] * 5], columns=5, height=1.28), photo=True)

# %% [markdown]
# Two rivals more. **WebP** files of 96 bytes, as many as 64 tokens take. And the oldest way to say first what matters
# most, **principal components**: the directions in which the training photographs differ most. A photograph becomes
# its places along them, each rounded to as many bits as lower the error most. That is the best *linear* encoder and
# decoder, and trained with tail drop a linear network would find these same directions, in this order.


# %%
def quality(pictures):
    return float(psnr(pictures, photos).mean())


models = {"ours: One-D-Piece": (model, codes["one_d_piece"]), "baseline: TiTok, cut": (titok, codes["titok"])}
curves = {name: [quality(rebuilt(m, c, k)) for k in lengths] for name, (m, c) in models.items()}
learnt = clothing.load("train").images if there else photographs.crops(1000, 64, seed=1)
linear = principal_components(learnt)
curves["principal components"] = [quality(linear_code(linear, photos, 12 * k)) for k in lengths]
webp = quality(codecs.at_budget(photos, 96, "WEBP").images)

# %%
series = {name: ([1.5 * k for k in lengths], curve) for name, curve in curves.items()}
series["WebP"] = ([96], [webp])
viz.show(viz.lines(series, "Quality against length", "bytes a photograph", "PSNR (dB)", log="x"))

# %%
for name, curve in curves.items():
    print(f"{name:22}", "  ".join(f"{value:4.1f}" for value in curve), "dB")
print(f"{'WebP':22}", f"{webp:41.1f} dB")

# %% [markdown]
# Three things to see. With tail drop every prefix is a picture; cut TiTok only catches up near its full length. There
# it wins: being prepared for all lengths costs something at the full one. And principal components, no network at all,
# have about the same error as One-D-Piece, for few tokens even less.
#
# Error is one judge. The *Frechet distance* of `vit`'s features asks whether the set of pictures looks like photographs
# to a classifier (0 is best; from the models' cards, all 372 photographs):

# %%
cards = {name: house.card(name)["figures"] for name in ("one_d_piece", "titok")}
own, other = "Frechet distance from {} tokens", "Frechet distance from principal components in the bits of {} tokens"
distances = {
    "ours: One-D-Piece": [cards["one_d_piece"][own.format(k)] for k in lengths],
    "baseline: TiTok, cut": [cards["titok"][own.format(k)] for k in lengths],
    "principal components": [cards["one_d_piece"][other.format(k)] for k in lengths],
}
shown = {name: (lengths, values) for name, values in distances.items()}
title = "To a classifier few tokens of One-D-Piece are best"
viz.show(viz.lines(shown, title, "tokens", "Frechet distance (less is better)", log="x"))

# %% [markdown]
# To the classifier One-D-Piece's short prefixes are nearest to photographs, though two tokens are no better than one.
# With all 64 tokens it comes last.
#
# ## Play: how many tokens do you need?


# %%
def prefix(tokens=8, photo=40):
    part = model.encode(photos[photo : photo + 1])
    two = torch.cat([photos[photo : photo + 1], model.decode(part[:tokens])])
    return viz.show(viz.images(two, ["held out", f"{1.5 * tokens:g} bytes"], height=1.28), photo=True)


prefix()

# %%
control = viz.slider(prefix, tokens=(1, 64), photo=(0, 123))
viz.ends(control)
control

# %% [markdown]
# ## What do the first tokens say?
#
# The authors ask how much each place counts: replace the token there by a random code, and see how far the pixels move
# (all others stay, and all 64 are read).


# %%
def changes(model, codes):
    torch.manual_seed(0)
    before = rebuilt(model, codes, 64)
    for i in range(64):
        changed = codes.clone()
        changed[:, i] = torch.randint(4096, (len(codes), 1))
        yield float((rebuilt(model, changed, 64) - before).abs().mean())


effects = {name: list(changes(m, c[::16])) for name, (m, c) in models.items()}
shown = {name: (range(1, 65), values) for name, values in effects.items()}
title = "With tail drop late places change less"
viz.show(viz.lines(shown, title, "place of the token", "mean change of a pixel (0 to 1)"))

# %%
early, late = (sum(effects["ours: One-D-Piece"][part]) for part in (slice(0, 32), slice(32, 64)))
before, after = (sum(effects["baseline: TiTok, cut"][part]) for part in (slice(0, 32), slice(32, 64)))
print(f"first half over second half: {early / late:.1f} with tail drop, {before / after:.1f} without")
assert early > 1.5 * late or not there
assert 0.7 < before / after < 1.4 or not there

# %% [markdown]
# The authors also group images by their first token, and find alike ones together. Our photographs are of ten kinds of
# clothes. We compare them by what their first k tokens stand for, and name each by its 15 nearest: how often rightly?

# %%
labels = clothing.load("test").labels[::3] if there else torch.arange(124) % 10


def named(values):
    nearest = torch.cdist(values, values).fill_diagonal_(torch.inf).topk(15, largest=False).indices
    return 100 * float((labels[nearest].mode(1).values == labels).float().mean())


right = {"always the commonest kind": 100 * float(labels.bincount().max() / len(labels))}
right["mean colour"] = named(photos.mean((2, 3)))
stand = model.quantizer.decode(codes["one_d_piece"])
right |= {f"ours: first {k} tokens": named(stand[:, :k].flatten(1)) for k in (1, 2, 4, 8, 64)}
viz.show(viz.bars(right, "A few tokens tell much of the kind", "kind named rightly (%)"))

# %% [markdown]
# The first token alone knows little of the kind. What does it hold? Give one photograph's to another and look: a
# colour, and roughly where it lies.

# %%
order = torch.tensor([24, 85])
first = model.decode(Tokens(codes["one_d_piece"][order, :1], (64,)))
mixed = codes["one_d_piece"][order, :8].clone()
mixed[:, 0] = codes["one_d_piece"][order.roll(1), 0]
own8 = model.decode(Tokens(codes["one_d_piece"][order, :8], (64,)))
rows = torch.stack([photos[order], first, own8, model.decode(Tokens(mixed, (64,)))], 1).flatten(0, 1)
titles = ["held out", "first token", "first 8", "other's first", *[""] * 4]
viz.show(viz.images(rows, titles, columns=4, height=1.28), photo=True)

# %% [markdown]
# ## The verdict

# %%
ours, baseline, classical = curves.values()
mean = [sum(curve[:6]) / 6 for curve in (ours, baseline, classical)]
measures = [
    papers.exact("each doubling of the tokens lowers the error", all(b > a for a, b in pairwise(ours))),
    papers.better("PSNR, mean of 1 to 32 tokens, TiTok cut", mean[0], than=mean[1], unit="dB", margin=3),
    papers.better("PSNR, 96 bytes, WebP", ours[-1], than=webp, unit="dB", margin=0.5),
    papers.better("PSNR, 64 tokens, TiTok less 1 dB", ours[-1], than=baseline[-1], unit="dB", margin=-1),
    papers.better("PSNR, mean of 1 to 32 tokens, linear", mean[0], than=mean[2], unit="dB", margin=0.5),
]

# %%
claim = papers.verdict(
    "one_d_piece",
    "Tail token drop makes every prefix a picture, better the longer it is, at a small cost at full length.",
    measures,
    against="TiTok, the same but for tail drop; WebP; principal components of the training photographs; equal bits",
    data="every third clothing photograph of the test set (124)" if there else "124 crops of other photographs",
)
assert claim.outcome == "holds in part" or not there

# %% [markdown]
# The core of the claim holds by far: one model, any length. The cost at full length is more than one decibel, and one
# training run of each stands behind it. The paper's models are far larger and learn with losses of perception (its
# repository gives an rFID, a Frechet distance, of 1.08 from 256 tokens at 256 pixels). It compares itself with JPEG and
# WebP, not with a linear code; for a small squared error, know that one first. What a network adds at few tokens, the
# Frechet distance shows.
#
# ## Where it breaks: the tail starves
#
# The last tokens are seldom heard. What do they bring? Beside it, the linear code, which has no tail drop.

# %%
ends, gains = (16, 32, 48, 64), {"ours: One-D-Piece": [], "principal components": []}
for a, b in pairwise(ends):
    short, long = (quality(rebuilt(model, codes["one_d_piece"], k)) for k in (a, b))
    gains["ours: One-D-Piece"].append(long - short)
    short, long = (quality(linear_code(linear, photos, 12 * k)) for k in (a, b))
    gains["principal components"].append(long - short)
shown = {name: (ends[1:], values) for name, values in gains.items()}
viz.show(viz.lines(shown, "One-D-Piece's last tokens add little", "tokens", "gain of the last 16 (dB)"))

# %%
for name, values in gains.items():
    print(f"{name}: tokens 33 to 64 add {values[1] + values[2]:.1f} dB")
assert gains["ours: One-D-Piece"][-1] < 0.5 or not there

# %% [markdown]
# Part of the slowing is the photographs' own; the rest fits with a tail that is seldom heard. 72 bytes are nearly as
# good as 96.
#
# ## Exercises
#
# **1. As many as it takes.** Find for each photograph the fewest tokens with a PSNR of at least `wanted` dB; 64 where
# none suffices. A (b,) tensor of whole numbers. `psnr(a, b)` gives one number a photograph,
# `model.decode(tokens[:k])` the pictures.


# %%
def fewest(tokens, images, wanted):
    return torch.full((len(images),), 64)  # replace this: always all


# %%
def check_1(fewest):
    tokens, images = model.encode(photos[:8]), photos[:8]
    table = torch.stack([psnr(model.decode(tokens[:k]), images) for k in range(1, 65)])
    for wanted in (12.0, 19.0, 99.0):
        found = fewest(tokens, images, wanted)
        for i, k in enumerate(found.tolist()):
            if k < 64 and table[k - 1, i] < wanted:
                return f"photograph {i}: {k} tokens do not reach {wanted} dB"
            if k > 1 and (table[: k - 1, i] >= wanted).any():
                return f"photograph {i}: less than {k} tokens reach {wanted} dB"
    many = fewest(model.encode(photos), photos, 19.0)
    return f"right: for 19 dB {int(many.min())} to {int(many.max())} tokens, {many.float().mean():.0f} in the mean"


check_1(fewest)

# %% [markdown]
# **2. Another draw.** FlexTok may draw k from 1, 2, 4, ..., n, each as likely (n is a power of two). In which share of
# the steps is the token at place i (from 1) heard?


# %%
def heard_at(i, n):
    return (n - i + 1) / n  # replace this: the share when all lengths are as likely


def check_2(heard_at):
    for i, share in ((1, 7 / 7), (2, 6 / 7), (3, 5 / 7), (33, 1 / 7), (64, 1 / 7)):
        if abs(heard_at(i, 64) - share) > 1e-6:
            return f"of the 7 lengths up to 64, place {i} is heard in a share of {share:.2f}, not {heard_at(i, 64):.2f}"
    if abs(heard_at(3, 4) - 1 / 3) > 1e-6:
        return "for n = 4 there are three lengths, and place 3 is only in one of them"
    return "right: the last half shares one fate, so its order is not learnt, but it is heard"


check_2(heard_at)

# %% [markdown]
# **3. Real bytes.** Write whole numbers of 12 bits into `bytes`, two in three bytes, an odd last one in two, and read
# k of them back.


# %%
def pack(numbers):
    return bytes(2 * len(numbers))  # replace this: two bytes each, and nothing in them


def unpack(packed, k):
    return [0] * k  # replace this


# %%
def check_3(pack, unpack):
    for k in (1, 2, 3, 8, 63, 64):
        numbers = codes["one_d_piece"][0, :k, 0].tolist()
        packed = pack(numbers)
        if len(packed) != (3 * k + 1) // 2:
            return f"{k} tokens take {(3 * k + 1) // 2} bytes, not {len(packed)}"
        if unpack(packed, k) != numbers:
            return f"{k} tokens do not come back"
    return "right: a file of 12 bytes is a picture"


check_3(pack, unpack)

# %% [markdown]
# Solutions: `notebooks/src/solutions/02_image/03_one_d_piece.py`.
#
# ## What was left out
#
# The paper trains in two stages, as TiTok does, tests what classifiers, detectors and depth estimators make of the
# pictures, and draws images by predicting the tokens. Read on: **FlexTok** lets the decoder make up what few tokens
# leave open, and **KARL** asks the image how many it needs. Nested dropout (Rippel and others, 2014, arXiv 1402.0915)
# had the idea first, and the proof that a linear network finds principal components by it.
