# %% [markdown]
# # How to read a lesson
#
# Every lesson of the course is built alike, so that after the first few you know where to look. This page shows the
# parts, the letters that name tensor axes, and how to run, change and check things. Its cells are small on purpose:
# run them, then change them.

# %%
import torch

from minitok import nn, papers, viz
from minitok.data import mnist
from minitok.quantize.vq import VQ

# %% [markdown]
# ## The parts of a lesson
#
# 1. **The card:** the paper, what to read first, how long it takes.
# 2. **The problem,** shown by a baseline that fails.
# 3. **The idea** in one picture, then **the mechanism** in a few small cells.
# 4. **One cell that asserts** that what you built equals the library's function.
# 5. **The experiment:** real data, a fair baseline, the same budget for both.
# 6. **A control** to play with, **the verdict,** and **where it breaks.**
# 7. **Exercises** with checks that say what is still wrong. Solutions lie in `notebooks/src/solutions/`.
#
# ## One method, five places
#
# The registry knows where everything of a lesson is. Try another name.

# %%
print(papers.card("vq"))

# %% [markdown]
# A lesson counts as *working* only while all five places are there and its verdict was measured by the code as it is
# now. Change the module or the notebook, and the status falls back to *planned* until it is run again.
#
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
# Tokens are `(b, n, c)`, the inside of an attention `(b, h, n, d)`, images `(b, c, H, W)` from 0 to 1.

# %%
images = mnist.load("test").images[::100]
b, c, H, W = images.shape
print(f"{b} images of {c} channel, {H} x {W} pixels, from {images.min():.0f} to {images.max():.0f}")
viz.show(viz.images(images, columns=10, height=0.6))

# %% [markdown]
# Signatures say the same, and the test run checks that they are true:
# `encode(z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]` takes a batch of n vectors of width d and gives one code
# each.

# %%
quantizer = VQ(d=4, K=16)
codes = quantizer.encode(torch.randn(2, 5, 4))
print("shape of the codes:", tuple(codes.shape), " bits a code:", quantizer.bits)

# %% [markdown]
# ## When something is wrong
#
# Input that makes no sense raises a `ValueError` that names the argument, what came, and what was expected. Nothing is
# silently cut to fit.

# %%
try:
    quantizer.decode(torch.full((2, 5, 1), 16))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Contracts: why methods can be swapped
#
# A chapter is a kind of thing. All quantizers have `encode`, `decode`, `bits` and the same `forward`; all reductions
# take tokens and say how many to keep. One test holds every method of a chapter to that, so a lesson's method can be
# put in another one's place by changing one line. The shared parts are as small: one Transformer serves all models,
# causal or not by the mask of the call.

# %%
model = nn.Transformer(nn.Shape(width=32, layers=2, heads=4))
tokens = torch.randn(1, 6, 32)
changed = tokens.clone()
changed[:, 4] += 1
for mask in ("causal", "full"):
    moved = (model(tokens, mask) - model(changed, mask)).abs().amax(-1)[0] > 1e-6
    print(f"{mask:6}: changing token 4 moves the outputs", moved.nonzero().flatten().tolist())

# %% [markdown]
# ## Run, change, check
#
# - **Run** a notebook from top to bottom: *Run > Run All Cells*. Its header says how many seconds that takes.
# - **Change** anything: a reader's run never overwrites the recorded verdicts.
# - **Write** a lesson in `notebooks/src/`, as plain Python with text in comments, and make the notebook from it by
#   `python do.py notebooks PATH`.
# - **Check** everything by `python do.py test`, or one part: `python do.py test unit -k vq`.
# - **Train** the models of the course anew by `python do.py train NAME`; an interrupted run goes on where it was.
#
# A verdict looks like this. It is computed, and it may well be negative: a claim that does not show at our scale is a
# result too.

# %%
print(papers.recorded_verdict("vq"))

# %% [markdown]
# Next: [the house models](02_house_models.ipynb), or straight to [the first lesson](../01_quantize/01_vq.ipynb).
