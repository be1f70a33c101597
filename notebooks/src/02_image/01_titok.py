# %% [markdown]
# # TiTok: tokens that have no place in the image
#
# **Paper:** Yu, Weber, Deng, Shen, Cremers and Chen, *An Image is Worth 32 Tokens for Reconstruction and Generation*,
# 2024 ([arXiv 2406.07550](https://arxiv.org/abs/2406.07550)), TiTok.
# **Code:** `minitok/image/titok.py`.
# **Read first:** [finite scalar quantization](../01_quantize/03_fsq.ipynb), which turns vectors into codes here.
#
# After this lesson you can build a tokenizer whose tokens are a sequence and not a grid, by hand and in code, and say
# what one of its tokens tells of an image.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.image import Tokens, unpatch
from minitok.metrics import difference
from minitok.stages import rivals

# %% [markdown]
# ## The problem: a grid spends the same everywhere
#
# The usual tokenizer cuts a photograph into a grid and gives each patch one code. Ours, `tokenizer`, has 16 x 16 codes
# of 12 bits for 64 x 64 pixels: 384 bytes. A patch of plain wall costs what a patch of lace costs. Painted over in
# gray: patches in which pixels hardly differ (standard deviation under 0.03, where white less black is 1).

# %%
stage = stages.image.stage(images=62)
photos = stage.images
cut = F.unfold(photos, 4, stride=4).unflatten(1, (3, 16))  # b 3 16 256: the pixels of each patch
busy = cut.std(2).mean(1) > 0.03
print(f"{stage.data}: {1 - busy.float().mean():.0%} of all patches are plain, and take as many of the bits")
viz.show(viz.patches(photos[20], 4, "Painted over: the plain patches", keep=busy[20]), photo=True)

# %% [markdown]
# A larger photograph gets more codes, whether there is more to see or not. And fewer codes on a grid mean larger
# patches everywhere, over lace as over wall. What can be kept in 96 bytes, a quarter? **Grid:** shrink the photograph
# to a thumbnail, take its 8 x 8 codes, enlarge what they give. **WebP:** a file of 96 bytes. And one plain colour.
#
# (PSNR is $-10 \log_{10}$ of the mean squared error, in decibels: 3 dB more halve it. SSIM compares small windows; 1 is
# equal. Edges are steps between neighbouring pixels, in percent of the photographs'.)

# %%
rows = {"plain colour": stage.measure(rivals.plain, 64), "WebP": stage.measure(rivals.webp, 64)}
rows["grid of 8 x 8 codes"] = stage.measure(rivals.thumbnails, 64)
print(stages.image.table(rows))

# %% [markdown]
# ## The idea: ask the whole image a few questions
#
# Give a Transformer the patches *and* n learnt vectors, the **latent tokens**, and let all look at all. Keep only the
# latents. A second Transformer fills a blank grid from them.
#
# ```text
# 64 patches --+-- Transformer -- the latents' outputs -- quantize --> 64 codes: 96 bytes
# 64 latents --+
#
# 64 masks ----+-- Transformer -- the masks' outputs --> 64 patches of pixels
# 64 codes ----+
# ```
#
# Bare attention, without learnt maps, is a softmax over all tokens of the sequence:


# %%
def attend(logits, values):
    return logits.softmax(-1) @ values  # over all tokens of the sequence


# %% [markdown]
# ## By hand: four patches, two latents
#
# One layer whose attention only mixes values; patches of one pixel, 1, 3, 5, 7; latents A and B, of value 0. The
# **softmax runs over all six tokens**, oneself included.
#
# - A: all logits 0, so the mean of six, 16 / 6 = 2.67.
# - B: logit log 3 for the last two patches, else 0; weights 3, 3 and four times 1, of 10: 0.3 x (5 + 7) + 0.1 x (1 + 3)
#   = 4.
#
# Only A's and B's outputs are kept, and rounded: codes **3 and 4**.

# %%
pixels, log = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([2.0, 3.0, 4.0]).log()
joined = torch.cat([pixels, torch.zeros(2)])  # patches first, then latents
a, b = attend(torch.zeros(6), joined), attend(log[1] * torch.tensor([0.0, 0, 1, 1, 0, 0]), joined)
codes = torch.stack([a, b]).round()
print(f"A gathers {a:.2f}, B {b:.2f}; codes {codes.tolist()}")
assert codes.tolist() == [3, 4]

# %% [markdown]
# **Back.** Four times the same **mask token**, of value 0, in front; behind it 3 and 4. What differs between masks is
# their place, and by its place a mask asks: the first two want A (logit log 4), the last two B. One of the first gets
# (4 x 3 + 1 x 4 + four times 0) / 9 = 16 / 9 = 1.78, one of the last (3 + 16) / 9 = 2.11. What stands **at the masks**
# is mapped to pixels, say by 9 x - 14: 2 above and 5 below, where the means of the photograph's rows are 2 and 6.

# %%
joined = torch.cat([torch.zeros(4), codes])  # masks first, then the description
above, under = (attend(log[2] * F.one_hot(torch.tensor(i), 6), joined) for i in (4, 5))
painted = 9 * torch.stack([above, above, under, under]) - 14  # in raster order
picture = unpatch(painted.view(1, 4, 1), 1)[0, 0]
print(f"at the masks {above:.2f} and {under:.2f}; as a picture of 2 x 2:\n{picture}")
assert difference(picture, torch.tensor([[2.0, 2.0], [5.0, 5.0]])) < 1e-5

# %% [markdown]
# ## The mechanism on a real photograph
#
# A trained TiTok: 8 x 8 patches of 8 x 8 pixels, 64 latents, two Transformers of four layers.
#
# **1. Patch tokens.** Each patch is mapped to 96 numbers by one linear map (a convolution whose stride is its size).
# Where it was is added: a learnt vector a place. Attention alone could not tell one place from another.
#
# **2. Join the latents**, which are parameters, the same for every image: 64 questions. Let all see all, and keep what
# stands at the latents. Were patches kept as well, their number would grow with the image again.

# %%
model = house.load("titok")
encoder, decoder, image = model.encoder, model.decoder, photos[20:21]
patches = encoder.patches(image * 2 - 1).flatten(2).transpose(1, 2) + encoder.position
joined = torch.cat([patches, encoder.latents[None]], dim=1)
z = encoder.out(encoder.body(joined, "full")[:, 64:])
print("patches", tuple(patches.shape), "joined", tuple(joined.shape), "to quantize", tuple(z.shape))

# %% [markdown]
# **3. Quantize.** Four channels of 8 levels: $8^4 = 4096 = 2^{12}$ codes. These 64 whole numbers are all that is
# stored. A learnt codebook would do as well, but at our size most of its entries would lie idle.
#
# **4. Paint** from a blank grid. Why masks, and not the description's outputs themselves? Then 64 tokens would have to
# be 64 places; so the picture may have any size, and the description any length. Two small convolutions mend seams.

# %%
values, codes, _ = model.quantizer(z)
description = decoder.enter(values) + decoder.place  # the i-th latent's answer is told by its own vector
blank = decoder.mask + decoder.position
painted = decoder.out(decoder.body(torch.cat([blank[None], description], dim=1), "full")[:, :64])
rough = unpatch(painted, 8)
rebuilt = ((rough + decoder.smooth(rough) + 1) / 2).clamp(0, 1)
shown = torch.cat([image, (rough + 1).clamp(0, 2) / 2, rebuilt])
viz.show(viz.images(shown, ["photograph", "before mending", "from 96 bytes"], height=1.92), photo=True)

# %% [markdown]
# **5. Learn.** One step: images through all of it, then the **logarithm of each image's mean squared error**, and the
# quantizer's own loss (of FSQ 0). The rounding passes gradients on as if it were none. Plain squared error would listen
# to the hardest photographs most; its logarithm makes 1 dB worth the same in each.

# %%
student = house.load("titok").train().requires_grad_(True)
batch = photos[:8]
out = student(batch)
loss = ((out.images - batch).square().mean((1, 2, 3)) + 1e-5).log().mean() + out.loss
loss.backward()
moved = student.encoder.latents.grad.abs().amax(1)
print(f"loss {loss.item():.2f}, that is {-4.343 * loss.item():.1f} dB; gradients reach all {len(moved)} latents")
assert (moved > 0).all()

# %% [markdown]
# **What you built is what the library has.** `TiTok` offers `encode` and `decode`; tokens can be cut like a list,
# `tokens[:k]`.

# %%
tokens = model.encode(image)
assert torch.equal(tokens.codes, codes)
assert difference(model.decode(tokens), rebuilt) < 1e-5
print(f"{len(tokens)} tokens of {model.bits:g} bits; codes and pixels agree")

# %% [markdown]
# ## The recipe
#
# 1. Patches P: cut the image (scaled to -1..1), one linear map a patch, plus a learnt vector a place.
# 2. Latents L: n learnt vectors. Encoder: a Transformer over [P; L], no mask, no CLS.
# 3. Keep the outputs at L, map them to few channels, quantize: n codes.
# 4. Decoder's input: [M; E], M one learnt mask token plus a vector a patch, E the codes' values, mapped up, plus a
#    vector a latent. A Transformer, no mask.
# 5. Outputs at M to pixels, in raster order; a small convolution.
# 6. Loss: the image's error, and the quantizer's loss. Cost: two Transformers over patches + n tokens.
#
# ## The experiment: 96 bytes, spent in four ways

# %%
rows["ours: TiTok"] = stage.measure(model, 64)
lead, error = stages.image.gap(rows["ours: TiTok"], rows["grid of 8 x 8 codes"])
print(stages.image.table(rows))
print(f"\nTiTok less grid: {lead:+.2f} dB, +- {error:.2f} (two standard errors over photographs)")

# %%
kept = {"TiTok": stage.pictures(model, 64)}
kept |= {"grid of codes": stage.pictures(rivals.thumbnails, 64), "WebP": stage.pictures(rivals.webp, 64)}
some = torch.stack([photos, *kept.values()], dim=1)[[20, 29, 43]].flatten(0, 1)
viz.show(viz.images(some, ["held out", *kept, *[""] * 8], columns=4, height=1.28), photo=True)

# %% [markdown]
# PSNR is one judge. Another is the *Frechet distance*: how far apart the rebuilt and the real photographs are, as sets,
# in the features of `vit`, the course's classifier of clothes (0 is best). It needs many photographs, so we read it off
# the chapter's league: all 372 of the test set.

# %%
league = {(row["method"], row["tokens"]): row for row in stages.load("image")["rows"]}
names = {"ours: TiTok": "titok", "baseline: grid of codes": "thumbnails", "WebP": "WebP"}
distance = {name: league[method, 64]["Frechet"] for name, method in names.items()}
title = "96 bytes: what a classifier sees is best kept by TiTok"
viz.show(viz.bars(distance, title, "Frechet distance (less is better)"))

# %% [markdown]
# Against a file TiTok wins clearly. Against the grid of as many codes it wins the classifier's eye, and next to nothing
# in PSNR. Why so little, when its tokens are free?
#
# ## What does one token say?
#
# Take one token of a photograph from another photograph, paint, and see where pixels moved. The mean over a dozen
# photographs is the token's **footprint**.

# %%
group = model.encode(photos[::5])
whole, foreign = model.decode(group), group.codes.roll(5, 0)


def with_foreign(i):
    mixed = group.codes.clone()
    mixed[:, i] = foreign[:, i]
    return model.decode(Tokens(mixed, group.layout))


footprints = torch.stack([(with_foreign(i) - whole).abs().mean((0, 1)) for i in range(64)])[:, None]
share = footprints.flatten(1).topk(256).values.sum(1) / footprints.flatten(1).sum(1)

# %%
order = share.argsort(descending=True)
maps = F.avg_pool2d(footprints[order], 4)
maps = maps / maps.amax((1, 2, 3), keepdim=True)
local, wide = int((share > 0.5).sum()), int((share < 0.3).sum())
print(f"{local} of 64 tokens have more than half of their effect on 1/16 of the pixels,")
print(f"{wide} have less than 30 % there: these speak of the whole image")
title = "Where each of the 64 tokens moves pixels, the most local first"
viz.show(viz.images(maps, columns=16, height=0.64, title=title))

# %% [markdown]
# Nobody told the tokens to take places, and most did: 64 tokens for 64 patches are enough to **rediscover the grid**.
# Only a few speak of what patches share, which no token of a grid can do: a likely reason why so little is won. The
# paper has 32 tokens for 256 patches, so one token a patch is ruled out there.
#
# ## Play: give one photograph a token of another
#
# Tokens are sorted as above: 0 is the most local. The last picture shows ten times the change.


# %%
def swapped(token=63, other=7):
    i, mixed = order[token], group.codes[1:2].clone()
    mixed[0, i] = group.codes[other, i]
    before, after = whole[1], model.decode(Tokens(mixed, group.layout))[0]
    four = torch.stack([before, whole[other], after, ((after - before).abs() * 10).clamp(max=1)])
    return viz.show(viz.images(four, ["rebuilt", "another", "swapped", "change"], height=1.28), photo=True)


swapped()

# %%
control = viz.slider(swapped, token=(0, 63), other=(0, 12))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# One training run stands behind this, so more than half a decibel, or two of the distance, is asked for.

# %%
own, ours = "rFID 2.21, 32 tokens, 256 pixels (repository)", rows["ours: TiTok"].psnr
grid, seen = rows["grid of 8 x 8 codes"].psnr, [*distance.values()]
decibels, sets = {"unit": "dB", "tolerance": 0.1}, {"higher": False, "margin": 2}
measures = [
    papers.better("PSNR, WebP", ours, than=rows["WebP"].psnr, margin=1, **decibels),
    papers.better("PSNR, the grid", ours, than=grid, margin=0.5, **decibels),
    papers.better("Frechet distance, WebP", seen[0], than=seen[2], **sets),
    papers.better("Frechet distance, the grid", seen[0], than=seen[1], paper=own, **sets),
]

# %%
claim = papers.verdict(
    "titok",
    "In as many bits, tokens without a place keep more of a photograph than tokens of a grid.",
    measures,
    against="8x8 codes of a thumbnail by the house's 2D tokenizer, not trained for it; WebP files; all 96 bytes",
    data=f"{stage.data}; Frechet distance, of vit's features: the league, all 372",
)

# %% [markdown]
# The grid has more weights than TiTok, but was never trained for thumbnails; one that was might win. The paper's own
# comparison is with grids of 256 tokens and more, at 256 pixels, with losses of perception and models of a size that
# ours have not.
#
# ## Where it breaks: half of the tokens spoil the picture
#
# Its tokens come in a row, so let us read only the first k.

# %%
ks = (1, 4, 16, 32, 48, 64)
prefix = {k: stage.measure(model, k).psnr for k in ks}
title = "The first tokens of TiTok are worth little alone"
levels = {"baseline: one plain colour": rows["plain colour"].psnr}
viz.show(viz.lines({"ours: TiTok": (ks, [*prefix.values()])}, title, "tokens read", "PSNR (dB)", levels=levels))
assert prefix[64] - prefix[32] > 5

# %% [markdown]
# Nothing in the training tied a token's importance to its number, and the decoder never met a missing one. One
# photograph, one length. [One-D-Piece](03_one_d_piece.ipynb) mends that with a change of one line.
#
# ## Exercises
#
# **1. Your own TiTok.** From the recipe: `encode(model, images)` gives the values to quantize, (b, 64, 4), and
# `paint(model, values)` the images, not clamped. Use the parts of `model.encoder` and `model.decoder`, for any batch
# and any number of values up to 64.


# %%
def encode(model, images):
    return torch.zeros(len(images), 64, 4)  # replace this


def paint(model, values):
    return torch.zeros(len(values), 3, 64, 64)  # replace this


# %%
def check_1(encode, paint):
    for images in (photos[:3], photos[7:8]):
        if (apart := difference(encode(model, images), model.latents(images))) > 1e-4:
            return f"encode: the library's values differ by up to {apart:.2g}; is the scale -1 to 1, are latents kept?"
        for k in (64, 5):
            values = model.quantizer.decode(model.encode(images).codes)[:, :k]
            if (apart := difference(paint(model, values), model.paint(values))) > 1e-4:
                return f"paint: from {k} values the library's pixels differ by up to {apart:.2g}"
    return "right: the whole tokenizer, with the quantizer between"


check_1(encode, paint)

# %% [markdown]
# **2. Only a name.** The order of the tokens means nothing: renumber them, and the images stay the same. Change the
# model in place so that its token i is what token `order[i]` was. Two tensors have one row a token:
# `model.encoder.latents` and `model.decoder.place`.


# %%
def renumber(model, order):
    model.encoder.latents.data = model.encoder.latents[order]  # and the other one?


# %%
def check_2(renumber):
    other, order = house.load("titok"), torch.randperm(64)
    renumber(other, order)
    moved, before = other.encode(photos[:4]), model.encode(photos[:4])
    if not torch.equal(moved.codes, before.codes[:, order]):
        return "token i should have the code that token order[i] had"
    same = difference(other.decode(moved), model.decode(before)) < 1e-4
    return "right: a sequence in name only" if same else "codes are right, images are not: see the decoder"


check_2(renumber)

# %% [markdown]
# Solutions: `notebooks/src/solutions/02_image/01_titok.py`.
#
# ## What was left out, and where we differ
#
# | | paper and its code | here |
# |---|---|---|
# | quantizer | 4,096 codes of width 12, l2-normalised | FSQ, four channels of 8 levels |
# | stages | another tokenizer's codes first, then pixels | pixels at once |
# | loss | squared, perceptual, adversarial | log of the squared error |
# | tokens | 32, 64 or 128 for 256 patches | 64 for 64 patches |
#
# The paper then draws images, by predicting the 32 tokens with a masked Transformer. Read on:
# [One-D-Piece](03_one_d_piece.ipynb) and [FlexTok](04_flextok.ipynb) order the tokens by importance; **KARL** lets the
# image say how many it needs.
