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
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import clothing, photographs
from minitok.image import Tokens
from minitok.metrics import psnr
from minitok.stages.image import through_thumbnails

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
# in lessons 3 and 4 in an order of which any beginning makes a whole picture. (Below and later: photographs of clothes
# that no model has learnt from, or crops of other photographs where those are not at hand.)

# %%
there = clothing.at_hand()
photos = clothing.load("test").images[::31] if there else photographs.crops(12, 64)
one, piece = photos[5:6], house.load("one_d_piece")
cut = grid.decode(grid.encode(one))
cut[:, :, 16:] = 0.93  # what is not told is blank
row = torch.cat([one, cut, *(piece.decode(piece.encode(one)[:k]) for k in (64, 16, 4))])
titles = ["held out", "grid, first 64\n96 bytes", "sequence, 64\n96 bytes"]
titles += ["first 16\n24 bytes", "first 4\n6 bytes"]
title = "Cut a grid, and a part is missing; cut a sequence, and detail is"
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
# How the three differ:
#
# - **titok** is trained with all 64 tokens, for a small error. Fewer tokens it has never met.
# - **one_d_piece** is the same, but in training the tail of the sequence is often cut off. So the first tokens must say
#   what matters most.
# - **flextok** is cut too, and has another decoder: a **flow**, which makes a picture out of noise in 20 small steps.
#   Of all pictures that fit the tokens it draws *one*; the other two paint something like their *mean*.
#
# ## The same photographs from 1, 4, 16 and 64 tokens
#
# At the left what grids make of them: 256 codes (384 bytes), and 64 codes of a thumbnail, enlarged again (96 bytes).

# %%
lengths, pair = (1, 4, 16, 64), photos[[5, 2]]
left = torch.stack([pair, grid.decode(grid.encode(pair)), through_thumbnails(pair)], 1)
painted = [[model.decode(model.encode(pair)[:k]) for k in lengths] for model in models.values()]
right = torch.stack([torch.stack(row, 1) for row in painted], 1)  # 2 photographs, 3 models, 4 lengths
rows = torch.cat([left[:, :, None], right], 2).flatten(0, 2)
titles = []
for first, name in zip(("held out", "grid, 256", "grid, 64"), models, strict=True):
    titles += [first, *(f"{name}, {k}" for k in lengths)]
viz.show(viz.images(rows, titles * 2, columns=5, height=1.28), photo=True)

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
for other in (mean, whole, linear):
    assert all(2 * a < b for a, b in zip(flow["Frechet"], other["Frechet"], strict=True))
assert all(a > b + 3 for a, b in zip(mean["PSNR"][:6], whole["PSNR"], strict=False))
assert all(a > b + 0.5 for a, b in zip(linear["PSNR"][:3], mean["PSNR"], strict=False))
assert all(abs(a - b) < 0.6 for a, b in zip(linear["PSNR"][3:], mean["PSNR"][3:], strict=True))

# %% [markdown]
# At full length, 96 bytes, the training for one length pays:

# %%
thumbnails, webp, best = table["thumbnails", 64], table["WebP", 64], whole["PSNR"][6]
rivals = {"one_d_piece": mean["PSNR"][6], "WebP": webp["PSNR"], "a grid of as many tokens": thumbnails["PSNR"]}
print("titok has", "; ".join(f"{best - value:.1f} dB more than {name}" for name, value in rivals.items()))
assert best > max(mean["PSNR"][6], linear["PSNR"][6], flow["PSNR"][6], webp["PSNR"]) + 1
assert abs(best - thumbnails["PSNR"]) < 0.5
assert whole["Frechet"][6] < thumbnails["Frechet"] - 3

# %% [markdown]
# ## What decoding costs
#
# How often is a decoder asked for one picture? And how does the CPU time of the table compare?

# %%
calls = {}
for name, body in (("titok", "decoder"), ("one_d_piece", "decoder"), ("flextok", "flow")):
    asked = []
    hook = getattr(models[name], body).register_forward_hook(lambda *_, asked=asked: asked.append(1))
    models[name].decode(models[name].encode(photos[:1])[:8])
    hook.remove()
    calls[name] = len(asked)
print("calls for one picture:", calls)
assert list(calls.values()) == [1, 1, 20]
slower = [table["flextok", k]["decoding"] / table["one_d_piece", k]["decoding"] for k in ks]
guided = [table["flextok, guidance 2", k]["decoding"] / table["flextok", k]["decoding"] for k in ks]
print(f"time, flextok to one_d_piece: {min(slower):.0f} to {max(slower):.0f} to 1", end="; ")
print(f"with guidance to without: {sum(guided) / len(ks):.1f} to 1")
assert min(slower) > 20
assert min(guided) > 1.4

# %% [markdown]
# More than the calls say, since each call of the flow works more than a whole decoder of the others (and reads all 64
# places, told or not), and a second network makes pixels of what the flow paints.
#
# ## The league, in small
#
# PSNR again, live, for eight of the photographs. Photographs differ by some decibels, so the mean of eight may well be
# 1 dB from that of all; we allow 1.5 dB. (With other photographs nothing is compared.)

# %%
live, eight = {}, photos[:8]
for name, model in models.items():
    tokens = model.encode(eight)
    live[name] = {k: float(psnr(model.decode(tokens[:k]), eight).mean()) for k in (1, 8, 64)}
    told = (f"{k} tokens {v:.1f} dB (table {table[name, k]['PSNR']:.1f})" for k, v in live[name].items())
    print(f"{name:11}", ", ".join(told))
    assert all(abs(value - table[name, k]["PSNR"]) < 1.5 for k, value in live[name].items()) or not there
assert all(live["one_d_piece"][k] > live["flextok"][k] for k in (1, 8, 64)) or not there

# %% [markdown]
# ## How to read the table
#
# - Read PSNR *and* Frechet distance. A blur may win the first; any real photograph does well in the second.
# - The distance is to the *same* photographs that were tokenized: a perfect copy has 0, and at full length one may come
#   below "other photographs". It is not the FID of the literature, whose features are others.
# - Rivals differ: principal components come from clothes, WebP knows none, the grid was not trained for thumbnails.
# - One training run stands behind each model, one draw behind each picture of `flextok`: build nothing on small gaps.
#   Compare times only with each other.
#
# And a token that *may* go anywhere need not. Exchange one for another photograph's:

# %%
few = photos[::3]
for name in ("titok", "one_d_piece"):
    codes, settled = models[name].encode(few).codes, 0
    before = models[name].decode(Tokens(codes, (64,)))
    for i in range(64):
        other = codes.clone()
        other[:, i] = codes.roll(1, 0)[:, i]
        moved = (models[name].decode(Tokens(other, (64,))) - before).square().mean(1, keepdim=True)
        nearby = F.avg_pool2d(moved, 16, 1).amax((1, 2, 3)) / 16 / moved.mean((1, 2, 3)).clamp(min=1e-12)
        settled += bool(nearby.mean() > 0.8)
    print(f"{name:11} {settled} of 64 tokens have four fifths of what they change within 16 x 16 pixels")
    assert settled > 32 or not there


# %% [markdown]
# Most took a place of their own: here there are as many tokens as patches of 8 x 8 pixels. Lesson 1 shows the map.
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
#
# `minitok league image` makes the table anew from the models' cards.
