# %% [markdown]
# # The tour: the life of a picture in tokens
#
# A language model reads words as *tokens*: items of a list, each of them a whole number from a fixed vocabulary, or the
# vector that stands for it. Pictures, sounds and videos can be written as tokens too. This course is about how tokens
# are made, predicted, pruned, merged, cached and explained.
#
# The tour turns one picture into tokens and back, and then draws new pictures token by token. It uses two small
# models that the project trained itself.

# %%
import os

import torch
from IPython.display import Markdown

from minitok import codecs, house, papers, viz
from minitok.data import clothing, picture
from minitok.house.sampling import sample
from minitok.metrics import psnr
from minitok.quantize.fsq import bound

# %% [markdown]
# ## 1. A picture

# %% [markdown] tags=["interactive"]
# If you give none, it is a portrait of Grace Hopper, who wrote one of the first compilers (United States Navy, public
# domain). To follow a picture of your own, put its path in place of `None`.

# %%
MY_PICTURE = os.environ.get("MINITOK_PICTURE") or None
image = picture.load(MY_PICTURE, size=64)
c, height, width = image.shape
print(f"{height} x {width} pixels of {c} channels: {image.numel():,} numbers, one byte each")
viz.show(viz.images(image[None], height=1.92), photo=True, alt="the picture at 64 x 64 pixels")

# %% [markdown]
# ## 2. Patches: the tokens that a vision transformer reads
#
# A transformer works on a list of vectors. The plainest way to make a list out of a picture is to cut it up. Each patch
# of 4 x 4 pixels has 48 numbers; a learnt matrix turns them into one vector, and a second vector says where the patch
# was. That gives 16 x 16 = 256 tokens. Attention compares each with each, so its work grows with the square of their
# number. Two chapters are about having fewer tokens (6 and 7), one about cheaper ways to mix them (8).

# %%
viz.show(viz.patches(image, 4, "256 patches of 4 x 4 pixels"), photo=True)

# %% [markdown]
# ## 3. Codes: the tokens that can be counted, stored and predicted
#
# A patch has 256⁴⁸ possible values. A *tokenizer* gets by with 4,096. Its parts:
#
# picture → **encoder** → four numbers at each of 16 x 16 places → **rounding** → codes → **decoder** → picture
#
# Rounding squashes each number into a range that holds eight whole numbers, -4 to 3, and takes the nearest. Four
# numbers of eight levels make 8 x 8 x 8 x 8 = 4,096 codes.

# %%
tokenizer = house.load("tokenizer")
latents = tokenizer.latents(image[None])
squashed = bound(latents, tokenizer.quantizer.levels)
codes = tokenizer.encode(image[None])
place = 8 * 16 + 8
print("four numbers at the centre:", [round(float(v), 2) for v in latents[0, place]])
print("squashed:                  ", [round(float(v), 2) for v in squashed[0, place]])
digits = [int(v) + 4 for v in squashed[0, place].round()]
code = digits[0] + 8 * digits[1] + 64 * digits[2] + 512 * digits[3]
print("rounded, counted from 0:   ", digits, " as one number, the code:", code)
assert code == codes[0, place]

# %% [markdown]
# The whole picture is now a table of 16 x 16 whole numbers. Below, each code is a square, coloured by three of its four
# numbers as red, green and blue.

# %%
grid = codes[0, :, 0].view(16, 16)
print("codes at the upper left:", grid[0, :8].tolist())
numbers = squashed.round()[0, :, :3].T.view(1, 3, 16, 16)
as_colours = ((numbers + 4) / 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
title = f"256 codes, {len(grid.unique())} different ones"
viz.show(viz.images(as_colours, title=title, height=1.92), alt="16 x 16 coloured squares, one a code")

# %% [markdown]
# What does a code look like? Fill a whole picture with one code, let the decoder paint it, and cut out its centre.
# (Among other neighbours a code looks a little different: the decoder sees them all.) Here are 64 of the 4,096.

# %%
levels = torch.arange(8)
chosen = levels[None, :] + 8 * levels[:, None] + 64 * 4 + 512 * 4  # the other two numbers stay in the middle
swatches = tokenizer.decode(chosen.view(64, 1, 1).expand(64, 256, 1))[:, :, 28:36, 28:36]
title = "Across: first number, down: second"
viz.show(viz.images(swatches, columns=8, height=0.32, title=title), photo=True, alt="64 codes, painted")

# %% [markdown]
# ## 4. Back to pixels
#
# The decoder makes a picture from the codes. It was trained on photographs of clothes and on crops of eleven others;
# the picture above was not among them. How close it comes is measured as *PSNR*, in decibels (dB): 3 dB more halve the
# squared error.

# %%
rebuilt = tokenizer.decode(codes)
titles = ["the picture", f"from 256 codes, {float(psnr(rebuilt, image[None])):.1f} dB"]
pair = torch.cat([image[None], rebuilt])
viz.show(viz.images(pair, titles, height=1.6), photo=True, alt="the picture, and beside it the rebuilt one")

# %% [markdown]
# The large forms survive, fine marks do not. Codes are read row by row, like writing. Here the decoder has only the
# first of them: a row settles when the one below it is known, since the decoder looks at neighbours. Unknown places
# are blank.


# %%
def first_codes(codes_given=112):
    known = torch.arange(256) < codes_given
    painted = tokenizer.decode(torch.where(known[:, None], codes, 4 + 8 * 4 + 64 * 4 + 512 * 4))
    blank = ~known.view(16, 16).repeat_interleave(4, 0).repeat_interleave(4, 1)
    title = [f"{codes_given} of 256 codes"]
    return viz.show(viz.images(painted.masked_fill(blank, 0.9), title, height=1.92), photo=True)


first_codes()

# %% [markdown] tags=["interactive"]
# The slider (it needs a running kernel) says how many codes are known.

# %% tags=["interactive"]
control = viz.slider(first_codes, codes_given=(0, 256, 16))
viz.ends(control)  # tries both ends
control

# %% [markdown]
# ## 5. What did it cost?
#
# A code is one of 4,096, so it takes 12 bits; 256 of them take 384 bytes, against 12,288 for the pixels. Compare that
# with the picture formats that everybody has, allowed as many bytes for the whole file.

# %%
budget = 256 * 12 // 8
files = {name: codecs.at_budget(image[None], budget, name) for name in ("JPEG", "WEBP")}
shown = torch.cat([image[None], *(coded.images for coded in files.values()), rebuilt])
sizes = [12_288, *(int(coded.bytes) for coded in files.values()), budget]
quality = ["", *(f"\n{float(psnr(x[None], image[None])):.1f} dB" for x in shown[1:])]
names = ["pixels", *files, "codes"]
titles = [f"{name}\n{size:,} bytes{dB}" for name, size, dB in zip(names, sizes, quality, strict=True)]
viz.show(viz.images(shown, titles, height=0.96), photo=True, alt="pixels, JPEG, WebP and codes")

# %% [markdown]
# Is that fair? About 300 bytes of the JPEG file are its header, and the decoder's weights, which serve all pictures,
# are not counted. One picture also proves little. Here are 372 photographs of clothes that the tokenizer has not
# seen; but clothes are what it knows best. (The figures are from its card.)

# %%
facts = house.card("tokenizer")["figures"]
for name in ("JPEG", "WEBP", "codes"):
    dB, distance = facts[f"PSNR from {name} (dB)"], facts[f"Frechet distance from {name}"]
    print(f"{name:5} {dB:5.1f} dB   Frechet distance {distance:5.2f}")

# %% [markdown]
# The Frechet distance compares two sets of pictures in the eyes of one network, here our `vit`, which had no part in
# training the tokenizer; 0 is best. WebP is close in dB, less so for `vit`. Codes have a form that the bytes of a
# file have not: always 256 symbols of one vocabulary, each for one place. A language model can learn such lists.
#
# ## 6. New pictures, code by code
#
# `image_gpt` is a transformer that sees only what came before: the kind of clothes asked for
# and the codes so far. It gives a probability to each of the 4,096 next codes. Draw one, append it, ask again.

# %% [markdown] tags=["interactive"]
# (`guidance` above 1 exaggerates what sets the kind apart.)

# %%
gpt, calls = house.load("image_gpt"), []
gpt.body.register_forward_hook(lambda *_: calls.append(1))
wanted = ["t-shirt", "pants", "dress", "hat", "shorts", "shirt"]
labels = torch.tensor([clothing.CLASSES.index(name) for name in wanted])
drawn = sample(gpt, labels, guidance=1.5, seed=0)
print(f"{len(calls)} calls of the model, one after another, for {len(labels)} pictures side by side")
assert len(calls) == 256

# %%
new = tokenizer.decode(drawn[..., None])
viz.show(viz.images(new, wanted, columns=6, height=0.64), photo=True, alt="six drawn pictures of clothes")

# %% [markdown]
# Some kinds succeed better than others. Here are the first two again, uncovered in the order in which their codes were
# drawn.

# %% [markdown] tags=["interactive"]
# (Are they copies of photographs that the model has seen? [The house models](02_house_models.ipynb) looks for the
# nearest ones.)

# %%
both = torch.nn.functional.pad(new[:2], (1, 1), value=0.9)
frames = [both.clone() for _ in range(20)]
for n, frame in enumerate(frames[:16]):
    frame[:, :, 4 * n + 4 :] = 0.9
rows = torch.stack([torch.cat([*frame], dim=2) for frame in frames])
viz.animation(rows, seconds=6, scale=2, kilobytes=9, alt="a t-shirt and trousers appear row by row")

# %% [markdown]
# ## 7. Why is this slow, and what can be done?
#
# Each code needs a whole pass through the model and must wait for the one before: within a picture, nothing can be done
# side by side. A picture twice as wide and high has four times as many codes. The chapters work on this and on other
# costs of tokens: better codes (1 to 3), fewer calls (4), guessing ahead (5), fewer tokens (6, 7), cheaper mixing and
# memory (8, 9). Then they leave pictures: text, code, time series, search, training, explanation and the world (10 to
# 16).

# %%
Markdown(papers.chapter_table(progress=False))

# %% [markdown]
# ## The way in one picture

# %% tags=["banner"]
titles = ["12,288 bytes", "256 codes", "rebuilt", f"new: {wanted[0]}", f"new: {wanted[1]}"]
strip = torch.cat([image[None], as_colours, rebuilt, new[:2]])
viz.show(viz.images(strip, titles, columns=5, height=0.96), photo=True, alt="picture, codes, rebuilt, new")

# %% [markdown] tags=["interactive"]
# ## Where to go next
#
# - [How to read a lesson](01_how_to_read.ipynb): how lessons are built, how to run and change them.
# - [The house models](02_house_models.ipynb): what the models of this tour are and how good they are.
# - [The first lesson](../01_quantize/01_vq.ipynb): the tokenizer above rounds to a fixed grid; there, it is learnt.
