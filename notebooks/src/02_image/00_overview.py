# %% [markdown]
# # Image tokenizers: the overview
#
# **Chapter 2.** In how few tokens can an image be written, and what should each of them hold?
# **Code:** `minitok/image/`, one file a method; what they share is in `_common.py`.
# **Read first:** the idea of [vector quantization](../01_quantize/01_vq.ipynb): a vector becomes a *code*, one of a
# finite set of whole numbers.
#
# Each method has a lesson of its own; this page sets them side by side.

# %%
import textwrap

import torch

from minitok import house, papers, stages, viz
from minitok.image import Tokens
from minitok.stages import rivals

# %% [markdown]
# ## The problem: a grid
#
# A **token** is what a network reads or writes as one unit; here it is one code. The usual tokenizer of images lays
# its tokens out as a grid: each stands for a square of pixels. The course's own, `tokenizer`, has one code of 12 bits
# for each 4 x 4 pixels. So the grid grows with the picture, whether there is more to see or not:

# %%
grid = house.load("tokenizer")
for side in (64, 128, 256, 512):
    cells = (side // 4) ** 2
    print(f"{side} x {side} pixels: {cells:6,} tokens, {cells * grid.quantizer.bits / 8:8,.0f} bytes")

# %% [markdown]
# And each token has its fixed place. Stop after the first quarter of them, and a quarter of the picture is there.
#
# A **one-dimensional** tokenizer has a sequence of tokens that belong to no place, as many as its maker likes: here 64,
# in lessons 3 and 4 in an order of which any beginning makes a whole picture.

# %%
stage = stages.image.stage(images=12)
photos = stage.images
one, piece = photos[5:6], house.load("one_d_piece")
cut = grid.decode(grid.encode(one))
cut[:, :, 16:] = 0.93  # what is not told is blank
row = torch.cat([one, cut, *(piece.decode(piece.encode(one)[:k]) for k in (64, 16, 4))])
titles = ["held out", "grid, first 64\n96 bytes", "sequence, 64\n96 bytes"]
titles += ["first 16\n24 bytes", "first 4\n6 bytes"]
title = "Cut a grid, and a part is missing; cut a sequence, and detail is"
print(stage.data)
viz.show(viz.images(row, titles, height=1.28, title=title), photo=True)

# %% [markdown]
# ## The contract
#
# - `encode(images)` gives `Tokens(codes, layout)`: one row of codes a token, and how the tokens lie;
# - `tokens[:k]` are the first k of a sequence;
# - `decode(tokens[:k])` gives images again;
# - `bits` is what one token costs.
#
# The same lines serve all three tokenizers that have a lesson so far:

# %%
models, k = {name: house.load(name) for name in ("titok", "one_d_piece", "flextok")}, 16
for name, model in models.items():
    tokens = model.encode(photos[:2])
    pictures = model.decode(tokens[:k])
    print(f"{name:11} layout {tokens.layout}, codes {tuple(tokens.codes.shape)}", end="; ")
    print(f"from {k} tokens, {k * model.bits / 8:.0f} bytes, pictures {tuple(pictures.shape)}")
    assert pictures.shape == photos[:2].shape
    assert len(tokens) == 64

# %% [markdown]
# The 2D `tokenizer` gives bare codes, in raster order. As `Tokens` they have another layout, and no beginning that
# would make sense:

# %%
tokens = Tokens(grid.encode(photos[:2]), (grid.grid, grid.grid))
print(f"tokenizer   layout {tokens.layout}, codes {tuple(tokens.codes.shape)}", end="; ")
print(f"all {len(tokens)} tokens, {len(tokens) * grid.quantizer.bits / 8:.0f} bytes")
try:
    tokens[:k]
except ValueError as error:
    print(error)

# %% [markdown]
# How the three differ ([TiTok](01_titok.ipynb), [One-D-Piece](03_one_d_piece.ipynb), [FlexTok](04_flextok.ipynb)):
#
# - **titok** is trained with all 64 tokens, for a small error. Fewer tokens it has never met.
# - **one_d_piece** is the same, but in training the tail of the sequence is often cut off. So the first tokens must say
#   what matters most.
# - **flextok** is cut too, and has another decoder: a **flow**, which makes a picture out of noise in 20 small steps.
#   Of all pictures that fit the tokens it draws *one*; the other two paint something like their *mean*.
#
# ## The same photograph from 1, 4, 16 and 64 tokens
#
# At the left what grids make of them: 256 codes (384 bytes), and 64 codes of a thumbnail, enlarged again (96 bytes).

# %%
lengths, pair = (1, 4, 16, 64), photos[5:6]
left = torch.stack([pair, grid.decode(grid.encode(pair)), rivals.thumbnails(pair)], 1)
painted = [[model.decode(model.encode(pair)[:k]) for k in lengths] for model in models.values()]
right = torch.stack([torch.stack(row, 1) for row in painted], 1)  # 1 photograph, 3 models, 4 lengths
rows = torch.cat([left[:, :, None], right], 2).flatten(0, 2)
titles = []
for first, name in zip(("held out", "grid, 256", "grid, 64"), models, strict=True):
    titles += [first, *(f"{name}, {k}" for k in lengths)]
viz.show(viz.images(rows, titles, columns=5, height=1.28), photo=True)

# %% [markdown]
# From few tokens `titok` paints noise. `one_d_piece` paints a blur: first the colours, then an outline. `flextok`
# paints something like clothes, at first not *these*. Try it. (Sliders need a running kernel.)


# %%
def prefix(tokens=8, photo=9):
    one = photos[photo : photo + 1]
    row = torch.cat([one, *(model.decode(model.encode(one)[:tokens]) for model in models.values())])
    titles = ["held out", *(f"{name}, {tokens}" for name in models)]
    return viz.show(viz.images(row, titles, height=1.28), photo=True)


prefix()

# %%
control = viz.slider(prefix, tokens=(1, 64), photo=(0, 11))
viz.ends(control)
control

# %% [markdown]
# ## The league table
#
# A command gave all 372 held-out photographs to all methods. Three judges:
#
# - **PSNR:** $-10 \log_{10}$ of a picture's mean squared error, in decibels. More is better; 3 dB more halve it.
# - **SSIM:** likeness of small windows, 1 for equal ones.
# - **Frechet distance:** do the pictures, as a *set*, look like the set of photographs, to the course's classifier
#   `vit` (by the vector that it makes of each, its *CLS features*)? Less is better. It does not ask which picture
#   belongs to which photograph.

# %%
facts = stages.load("image")
print(textwrap.fill(f"{facts['how']} Made by `{facts['made']['by']}`.", 110), end="\n\n")
some = [row for row in facts["rows"] if row["tokens"] in (1, 8, 64)]
print(stages.table(facts | {"rows": some}))

# %% [markdown]
# Two rivals need no network. **Principal components** are the directions in which the training photographs differ most;
# a picture is said by where it lies on them. **WebP** is a file format. `guidance 2` asks the flow twice a step, with
# tokens and without, and goes further in the direction in which the tokens lead.
#
# All lengths, first by error:

# %%
table = {(row["method"], row["tokens"]): row for row in facts["rows"]}
ks = (1, 2, 4, 8, 16, 32, 64)
shown = {"ours: flextok": "flextok", "one_d_piece": "one_d_piece", "baseline: titok, cut": "titok"}
shown["principal components"] = "principal components"


def curves(score):
    lines = {name: (ks, [table[method, k][score] for k in ks]) for name, method in shown.items()}
    return lines | {f"{name}, 96 bytes": ([64], [table[name, 64][score]]) for name in ("thumbnails", "WebP")}


viz.show(viz.lines(curves("PSNR"), "Judged by error, draws lose", "tokens of 12 bits", "PSNR (dB)", log="x"))

# %% [markdown]
# Then by likeness to photographs. Dashed: how far other real photographs, those of the training set, are.

# %%
real = house.card("image_gpt")["figures"]["Frechet distance of the training photographs"]
title, axis = "Judged by look, draws win", "Frechet distance (less is better)"
levels = {"muted: other photographs": real}
viz.show(viz.lines(curves("Frechet"), title, "tokens of 12 bits", axis, "xy", levels))

# %% [markdown]
# **The two judges disagree.** Who must have a small error and was told little has to paint the mean of all that it
# could be, and a mean of photographs is no photograph. Who draws one of them looks right, and is wrong about details
# that a mean leaves out. In figures:

# %%
scores = {score: curves(score) for score in ("PSNR", "Frechet")}
flow, mean, whole, linear = ({score: scores[score][name][1] for score in scores} for name in shown)
lead = [a - b for a, b in zip(mean["PSNR"], flow["PSNR"], strict=True)]
ratio = [a / b for a, b in zip(mean["Frechet"], flow["Frechet"], strict=True)]
print(f"1 to 32 tokens: one_d_piece has {min(lead[:6]):.1f} to {max(lead[:6]):.1f} dB more than flextok,")
print(f"and {min(ratio[:6]):.1f} to {max(ratio[:6]):.1f} times its Frechet distance")
print(f"all 64: {lead[6]:.1f} dB more, and {ratio[6]:.1f} times the distance")
assert min(lead[:6]) > 2
assert min(ratio) > 2

# %% [markdown]
# At full length, 96 bytes, the training for one length pays:

# %%
best, others = whole["PSNR"][6], {"one_d_piece": mean["PSNR"][6], "principal components": linear["PSNR"][6]}
others |= {name: table[key, 64]["PSNR"] for name, key in (("WebP", "WebP"), ("a grid of as many tokens", "thumbnails"))}
print("titok has", "; ".join(f"{best - value:.1f} dB more than {name}" for name, value in others.items()))
assert best > max(mean["PSNR"][6], linear["PSNR"][6], flow["PSNR"][6], table["WebP", 64]["PSNR"]) + 1
assert whole["Frechet"][6] < table["thumbnails", 64]["Frechet"] - 3

# %% [markdown]
# ## What decoding costs
#
# How often is a decoder asked for one picture? And how does the CPU time of the table compare?

# %%
calls, painters = {}, {"titok": "decoder", "one_d_piece": "decoder", "flextok": "flow"}
for name, painter in painters.items():
    asked = []
    with getattr(models[name], painter).register_forward_hook(lambda *_, asked=asked: asked.append(1)):
        models[name].decode(models[name].encode(photos[:1])[:8])
    calls[name] = len(asked)
slower = [table["flextok", k]["decoding"] / table["one_d_piece", k]["decoding"] for k in ks]
print("calls for one picture:", calls, f"time, flextok to one_d_piece: {min(slower):.0f} to {max(slower):.0f} to 1")
assert list(calls.values()) == [1, 1, 20]
assert min(slower) > 20

# %% [markdown]
# More than the calls say, since each call of the flow works more than a whole decoder of the others (and reads all 64
# places, told or not), and a second network makes pixels of what the flow paints.
#
# ## The league, in small
#
# One call of the stage gives one row of the table; here for twelve photographs, where a Frechet distance would say
# nothing. Photographs differ by some decibels, so the mean of twelve may be 1 dB from that of all.

# %%
live = {f"{name}, {k}": stage.measure(model, k) for k in (8, 64) for name, model in models.items()}
live |= {f"{name}, 64": stage.measure(stage.rivals[name], 64) for name in ("thumbnails", "WebP", "plain colour")}
print(stages.image.table(live))
assert all(live[f"one_d_piece, {k}"].psnr > live[f"flextok, {k}"].psnr for k in (8, 64))

# %% [markdown]
# ## How to read the table
#
# - Read PSNR *and* Frechet distance. A blur may win the first; any real photograph does well in the second.
# - The distance is to the *same* photographs: a perfect copy has 0. It is not the FID of the literature.
# - Principal components come from clothes, WebP knows none, the grid was not trained for thumbnails.
# - One training run stands behind each model: build nothing on small gaps.
#
# ## The way through the chapter
#
# In this order, since each builds on the one before: [TiTok](01_titok.ipynb), how tokens come to have no place;
# [One-D-Piece](03_one_d_piece.ipynb), how they come into an order; [FlexTok](04_flextok.ipynb), how a picture is drawn
# from few. What our measurements made of the papers' claims:

# %%
rows = papers.rows("image")
working = [paper for paper in rows if papers.status(paper.slug) == "working"]
for paper in working:
    print(f"{paper.lesson}. {paper.title} ({paper.slug})")
    found = papers.recorded_verdict(paper.slug)
    print(textwrap.indent(textwrap.fill(f"{found.outcome}: {found.claim}", 100), "   "))
print(f"{len(rows) - len(working)} more papers are planned; `minitok papers --chapter image` lists them.")

# %% [markdown]
# ## Your own method
#
# A tokenizer is `encode`, `decode` and `bits`. This one is no network: 64 patches of 8 x 8 pixels, the mean colour of
# each in 4 bits a channel, in raster order; what is not told gets the mean of what is. Change it: another order (the
# middle first?), coarser patches first, less for blue.


# %%
class Mosaic:
    bits = 12.0

    def encode(self, images):
        colours = torch.nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2)  # b 64 3
        return Tokens((15 * colours).round().long() @ torch.tensor([[1], [16], [256]]), (64,))

    def decode(self, tokens):
        told = tokens.codes // torch.tensor([1, 16, 256]) % 16 / 15
        rest = told.mean(1, keepdim=True).expand(-1, 64 - told.shape[1], -1)
        squares = torch.cat([told, rest], dim=1).transpose(1, 2).unflatten(2, (8, 8))
        return squares.repeat_interleave(8, 2).repeat_interleave(8, 3)


# %% [markdown]
# The contract on it, in short (the chapter's tests ask more), and its row beside the others':


# %%
def contract(tokenizer, images):
    tokens = tokenizer.encode(images)
    assert tokens.codes.max() < 2**tokenizer.bits
    assert torch.equal(tokenizer.encode(images[1:2]).codes, tokens.codes[1:2])  # rows do not see each other
    for k in range(1, len(tokens) + 1):
        assert tokenizer.decode(tokens[:k]).shape == images.shape


contract(Mosaic(), photos)
mine = {f"yours, {k}": stage.measure(Mosaic(), k) for k in (8, 64)}
print(stages.image.table(mine | {name: live[name] for name in ("one_d_piece, 8", "titok, 64")}))

# %% [markdown]
# `minitok league image` makes the whole table; a tokenizer gets its rows by a line in `METHODS` of
# `minitok/stages/image.py`.
#
# ## What to take home
#
# - **A network's tokens may be cut if it was trained with cuts.** Of the three `titok` has the smallest error
#   from all tokens, and noise from a few; `one_d_piece` has a picture from each number, and pays for it at full length.
# - **Order is older than networks.** Principal components come in order too. From few tokens they have the smallest
#   error of all; from 8 on `one_d_piece` is level with them. By Frechet distance both are far behind `flextok`.
# - **Ask what the decoder was told to do.** For a small error: a regression decoder, asked once. For something that
#   looks real: a flow, which makes up what it was not told, and takes its time.
# - **To have no place is no gift by itself.** At equal bits a grid of a thumbnail has about the error of `titok`, if a
#   larger Frechet distance. What a grid does not offer is any number of tokens from one encoding.
