# %% [markdown]
# # How to read a lesson
#
# Every lesson is built alike. This page shows the parts, the letters that
# name tensor axes, and how to run, change and check things. Run its cells, then change them.

# %%
import torch

from minitok import nn, papers, viz
from minitok.data import mnist
from minitok.quantize import FSQ, VQ

# %% [markdown]
# ## The parts of a lesson
#
# 1. **The card:** the paper, what to read first, how long it takes.
# 2. **The problem,** shown by a baseline that fails, and the idea in a picture.
# 3. **By hand:** the whole mechanism on a few tokens, with numbers that a pencil can check.
# 4. **The mechanism** in small cells, and one that asserts that what you built equals the library's function.
# 5. **The recipe:** ten lines to program it from, and where paper and lesson differ.
# 6. **The experiment** on the chapter's *stage*: one host, one budget, one set of controls.
# 7. **A control** to play with, **the verdict,** and **where it breaks.**
# 8. **Exercises** with checks; the first is your own version under the library's tests.

# %%
for chapter in papers.chapters()[:6]:
    print(f"chapter {chapter.number}: {chapter.title}")

# %% [markdown]
# ## One method, five places
#
# Module, notebook (with the source that it is made from), test, verdict, and a row in the registry, which knows where
# they are. Try another name.

# %%
print(papers.card("vq"))

# %% [markdown]
# A lesson is *working* while all five are there and its verdict was measured by the code as it is now. Change the
# module or the notebook, and the status falls back to *planned* until it is run again. What to read before a lesson,
# in order and with minutes:

# %%
for step in papers.path("pitome"):
    print(f"{step.minutes:3} minutes  {step.title}")

# %% [markdown]
# ## The letters
#
# Axes have the same letters everywhere:
#
# | letter | axis | letter | axis |
# |---|---|---|---|
# | `b` | batch | `h` | heads |
# | `t` | time positions | `d` | width of a head or of a code |
# | `n` | tokens | `v` | vocabulary |
# | `k` | tokens that are kept | `K` | size of a codebook |
# | `c` | channels | `H`, `W` | height and width of an image |
#
# Tokens are `(b, n, c)`, vectors to be quantized `(b, n, d)`, images `(b, c, H, W)` with values from 0 to 1.

# %%
images = mnist.load("test").images[::100]
b, c, H, W = images.shape
print(f"{b} images of {c} channel, {H} x {W} pixels, from {images.min():.0f} to {images.max():.0f}")
viz.show(viz.images(images, columns=10, height=0.6))

# %% [markdown]
# Signatures say the same, and the test run checks that they are true:
# `encode(z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]` takes a batch of n vectors of width d, and gives one code
# each; the last axis is there for methods that give several.

# %%
z = torch.randn(2, 5, 4)
quantizer = VQ(d=4, K=4096)
print("shape of the codes:", tuple(quantizer.encode(z).shape), " bits a code:", quantizer.bits)

# %% [markdown]
# ## When something is wrong
#
# Input that makes no sense raises a `ValueError` that names the argument, what came, and what was expected. Nothing is
# silently cut to fit.

# %%
try:
    quantizer.decode(torch.full((2, 5, 1), 4096))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Contracts: why methods can be swapped
#
# All methods of a chapter do the same job in the same form, and one test holds every one of them to it. So one can be
# put in another's place by changing one line. Quantizers have `encode`, `decode`, `bits`, and a `forward` that gives
# values, codes and a loss:

# %%
for quantizer in (VQ(d=4, K=4096), FSQ(levels=(8, 8, 8, 8))):
    values, codes, loss = quantizer(z)
    assert torch.equal(quantizer.decode(codes), values)
    print(f"{type(quantizer).__name__:4} {quantizer.bits:g} bits, decoding its codes gives its values")

# %% [markdown]
# Models are built from shared parts too. One Transformer serves them all; the mask of a call says what a token may see.

# %%
model = nn.Transformer(nn.Shape(width=32, layers=2, heads=4))
tokens = torch.randn(1, 6, 32)
changed = tokens.clone()
changed[:, 4] += 1
for mask in ("causal", "full"):
    difference = (model(tokens, mask) - model(changed, mask)).abs().sum(-1)[0]
    moved = [i for i in range(6) if difference[i] > 1e-5]
    assert moved == ([4, 5] if mask == "causal" else list(range(6)))
    print(f"{mask:6}: changing token 4 moves the outputs {moved}")

# %% [markdown]
# ## Run, change, check
#
# - **Run** a notebook from top to bottom: *Run > Run All Cells*.
# - **Change** anything: your runs never overwrite the recorded verdicts.
# - **Write** a lesson in `notebooks/src/`, as Python with text in comments; `python do.py notebooks PATH` makes the
#   notebook.
# - **Check** a method of your own: `minitok check tome mine.py:my_tome`, or `papers.check("tome", my_tome)` in a
#   notebook. Check everything by `python do.py test`, or a part: `python do.py test unit -k vq`.
# - **Train** a house model anew by `python do.py train NAME`; an interrupted run goes on where it was.

# %%
print(papers.check("fsq", FSQ))

# %% [markdown]
# A verdict looks like this: our figure, the baseline's, what was asked of ours, and the paper's own figure where it
# gives one. It is computed, on our data at our scale, and it may well be negative: a claim that does not show is a
# result too. A line so near that measuring again could tip it is *undecided*, and does not count as held.

# %%
print(papers.recorded_verdict("vq"))

# %% [markdown]
# Next: [the house models](02_house_models.ipynb), or straight to [the first lesson](../01_quantize/01_vq.ipynb).
