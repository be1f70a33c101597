# %% [markdown]
# # The tour: the life of a picture in tokens
#
# A language model reads words as *tokens*, whole numbers from a fixed vocabulary. Pictures, sounds and videos can be
# told in tokens too, and this course is about how: how tokens are made, predicted, pruned, merged, cached and
# explained. This notebook follows one picture all the way. It uses three small models that the project trained
# itself.

# %%
import os

import torch
from IPython.display import Markdown

from minitok import codecs, house, papers, viz
from minitok.data import clothing, picture
from minitok.house.sampling import sample
from minitok.metrics import psnr

# %% [markdown]
# ## 1. A picture
#
# The portrait shows Grace Hopper, who wrote the first compiler. To follow a picture of your own, put its path in place
# of `None`.

# %%
MY_PICTURE = os.environ.get("MINITOK_PICTURE") or None
image = picture.load(MY_PICTURE, size=64)
c, height, width = image.shape
print(f"{height} x {width} pixels of {c} colours: {image.numel():,} numbers, or bytes")
viz.show(viz.images(image[None], height=1.92), photo=True, alt="the picture at 64 x 64 pixels")

# %% [markdown]
# ## 2. Patches: the tokens that a vision transformer reads
#
# A transformer works on a list of vectors. The plainest way to make a list out of a picture is to cut it up: patches of
# 4 x 4 pixels give 16 x 16 = 256 tokens. Attention compares each with each, so the work grows with the square of their
# number. That is why half of this course is about having fewer.

# %%
viz.show(viz.patches(image, 4, "256 patches of 4 x 4 pixels"), photo=True)

# %% [markdown]
# ## 3. Codes: the tokens that can be counted, stored and predicted
#
# A patch has $256^{48}$ possible values. A *tokenizer* gets by with 4,096. Its encoder turns each place of the
# picture into a vector of four numbers, and each number is rounded to one of eight levels: 8 x 8 x 8 x 8 = 4,096
# codes.

# %%
tokenizer = house.load("tokenizer")
latents = tokenizer.latents(image[None])
quantized = tokenizer.quantizer(latents)
place = 8 * 16 + 8
print("vector at the centre:", [round(float(v), 2) for v in latents[0, place]])
print("rounded:             ", [round(float(v), 2) for v in quantized.values[0, place]])
print("code:                ", int(quantized.codes[0, place]))

# %% [markdown]
# The whole picture is now a table of 16 x 16 whole numbers. Each colour below stands for one code.

# %%
codes = tokenizer.encode(image[None])
grid = codes[0, :, 0].view(16, 16)
print("the first eight codes:", grid[0, :8].tolist())
viz.show(viz.codes(grid, 4096, f"256 codes, {len(grid.unique())} different ones"))

# %% [markdown]
# What does a code look like? Fill a whole picture with one code and let the decoder paint it. Here are 64 of the 4,096:
# the first number rises from left to right, the second from top to bottom, the other two stay in the middle.

# %%
levels = torch.arange(8)
chosen = levels[None, :] + 8 * levels[:, None] + 64 * 4 + 512 * 4
swatches = tokenizer.decode(chosen.view(64, 1, 1).expand(64, 256, 1))[:, :, 28:36, 28:36]
viz.show(viz.images(swatches, columns=8, height=0.32, title="64 of the 4,096 codes"), photo=True)

# %% [markdown]
# ## 4. Back to pixels
#
# The decoder makes a picture from the codes. It was trained on photographs of clothes and on crops of a few others; it
# has never seen this one.

# %%
rebuilt = tokenizer.decode(codes)
titles = ["the picture", f"from 256 codes, {float(psnr(rebuilt, image[None])):.1f} dB"]
pair = torch.cat([image[None], rebuilt])
viz.show(viz.images(pair, titles, height=1.92), photo=True, alt="before and after")

# %% [markdown]
# *dB* is the peak signal-to-noise ratio, PSNR: every 3 dB more halve the squared error. At 30 dB small pictures look
# alike.
#
# With the slider, only the first codes are given, row by row. Below we will meet a model that guesses the rest.


# %%
def begun(codes, n):
    """Pictures of which n codes are known: the others are left blank."""
    known = torch.arange(256) < n
    painted = tokenizer.decode(torch.where(known[:, None], codes, 2340))  # 2340: all four numbers near zero
    blank = ~known.view(16, 16).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return painted.masked_fill(blank, 0.9)


# %%
def first_codes(codes_given=104):
    shown = begun(codes, codes_given)
    return viz.show(viz.images(shown, [f"{codes_given} of 256 codes"], height=1.92), photo=True)


first_codes()

# %% tags=["interactive"]
control = viz.slider(first_codes, codes_given=(0, 256, 16))
viz.ends(control)
control

# %% [markdown]
# ## 5. What did it cost?
#
# A code is one of 4,096, so it takes 12 bits; 256 of them take 384 bytes, against 12,288 for the pixels. Is that good?
# The honest comparison is with the picture formats that everybody has, allowed as many bytes for the whole file. A JPEG
# header alone is about 300.

# %%
budget = 256 * 12 // 8
files = {name: codecs.at_budget(image[None], budget, name) for name in ("JPEG", "WEBP")}
shown = torch.cat([image[None], *(coded.images for coded in files.values()), rebuilt])
names = ["pixels, 12,288 bytes"] + [f"{name}, {int(coded.bytes)} bytes" for name, coded in files.items()]
quality = [""] + [f"{float(psnr(x[None], image[None])):.1f} dB" for x in shown[1:]]
titles = [f"{name}\n{dB}" for name, dB in zip([*names, f"codes, {budget} bytes"], quality, strict=True)]
viz.show(viz.images(shown, titles, height=1.28), photo=True, alt="four ways to store it")

# %% [markdown]
# One picture proves little, and a portrait is not what the tokenizer knows best. Over 372 photographs of clothes that
# no model has seen (figures from the tokenizer's card):

# %%
facts = house.card("tokenizer")["figures"]
for name in ("JPEG", "WEBP", "codes"):
    dB, distance = facts[f"PSNR from {name} (dB)"], facts[f"Frechet distance from {name}"]
    print(f"{name:5} {dB:5.1f} dB   Frechet distance {distance:5.2f}")

# %% [markdown]
# The Frechet distance compares how a vision transformer sees two sets of pictures; 0 is best. WebP, made by engineers
# over many years, is close in dB. The codes win by more where it counts for a model: what they rebuild *looks* like
# the original to a network. And, unlike the bytes of a WebP file, they can be predicted.
#
# ## 6. New pictures, code by code
#
# `image_gpt` is a causal transformer, built like a language model. It reads a class and the codes so far, and gives a
# probability to each of the 4,096 next codes. Draw one, append it, ask again: 256 times. (`guidance` above 1 makes the
# pictures more typical of their class.)

# %%
gpt, calls = house.load("image_gpt"), []
gpt.body.register_forward_hook(lambda *_: calls.append(1))
wanted = ["t-shirt", "pants", "dress", "hat", "shorts", "shirt"]
labels = torch.tensor([clothing.CLASSES.index(name) for name in wanted])
drawn = sample(gpt, labels, guidance=1.5, seed=3)
print(f"{len(calls)} calls of the model, one after another, for {len(labels)} pictures side by side")
assert len(calls) == 256

# %%
new = tokenizer.decode(drawn[..., None])
viz.show(viz.images(new, wanted, columns=6, height=1.28), photo=True, alt="six drawn pictures")

# %% [markdown]
# These clothes do not exist. Here are the first two as they grow in *raster order*, row by row, like writing.

# %%
frames = [torch.cat([*begun(drawn[:2, :, None], n)], dim=2) for n in range(16, 257, 16)]
viz.animation(torch.stack(frames), seconds=6, scale=3, kilobytes=17, alt="pictures growing by rows")

# %% [markdown]
# ## 7. Why is this slow, and what can be done?
#
# Each code needs a whole pass through the model, and must wait for the one before. Nothing here can be done side by
# side: a picture twice as wide and high has four times as many codes. The chapters to come attack this, and other
# costs of tokens, from all sides: better codes (1 to 3), fewer calls (4), guessing ahead (5), fewer tokens (6, 7),
# cheaper mixing and memory (8, 9), and beyond pictures: text, code, time series, search, training and explanation.

# %%
Markdown(papers.chapter_table())

# %% [markdown]
# ## The way in one picture
#
# The codes are shown by three of their four numbers, as red, green and blue.

# %% tags=["banner"]
numbers = (quantized.values[0, :, :3].T.view(1, 3, 16, 16) + 1) / 2  # as red, green, blue
as_colours = numbers.repeat_interleave(4, 2).repeat_interleave(4, 3)
titles = ["12,288 bytes", "256 codes", "rebuilt: 384 bytes", "drawn", "drawn"]
strip = torch.cat([image[None], as_colours, rebuilt, new[:2]])
viz.show(viz.images(strip, titles, columns=5, height=1.28), photo=True, alt="the tour in one picture")

# %% [markdown]
# ## Where to go next
#
# - [How to read a lesson](01_how_to_read.ipynb): how lessons are built, how to run and change them.
# - [The house models](02_house_models.ipynb): what the models of this tour are and how good they are.
# - [The first lesson](../01_quantize/01_vq.ipynb): how a codebook is learnt.
