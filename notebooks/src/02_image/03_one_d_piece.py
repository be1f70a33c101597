# %% [markdown]
# # One-D-Piece: a sequence of tokens that may be cut anywhere
#
# **Paper:** Miwa, Sasaki, Arai, Takahashi and Yamaguchi, *One-D-Piece: Image Tokenizer Meets Quality-Controllable
# Compression*, 2025 ([arXiv 2501.10064](https://arxiv.org/abs/2501.10064)).
# **Code:** `minitok/image/one_d_piece.py`.
# **Read first:** [TiTok](01_titok.ipynb), to which this lesson adds one line.
#
# After this lesson you can train a tokenizer of which any first tokens make a picture, and say what that costs.

# %%
from itertools import pairwise

import torch

from minitok import house, papers, stages, viz
from minitok.image import OneDPiece, Tokens
from minitok.image.one_d_piece import without_tail
from minitok.metrics import difference
from minitok.quantize import VQ

# %% [markdown]
# ## The problem: one length for all
#
# A plain dress needs few tokens, a checked shirt more. TiTok has one model for one length: nothing made its first
# tokens more important, and its decoder never met a missing one.

# %%
stage, ks = stages.image.stage(images=62), stages.image.KS
photos, titok = stage.images, house.load("titok")
cuts = [photos, *(stage.pictures(titok, k) for k in (4, 16, 32, 64))]
titles = ["held out", "4 tokens", "16 tokens", "32 tokens", "64 tokens"]
viz.show(viz.images(torch.stack(cuts, 1)[12], titles, columns=5, height=0.96), photo=True)

# %% [markdown]
# ## The idea: train with the tail cut off
#
# **Tail token drop:** in each step of training draw a number k from 1 to n, each as likely; the decoder sees only the
# first k tokens. So place i is heard in the share (n - i + 1) / n of the steps.
#
# ## By hand: why that makes an order
#
# Four things may be told, one a token; each, untold, adds its variance to the error: 16, 4, 1, 0. With n = 4 places are
# missing in 0, 1/4, 2/4, 3/4 of the steps. Important first: 4 x 1/4 + 1 x 2/4 = **1.5** in the mean. Important last: 1
# x 1/4 + 4 x 2/4 + 16 x 3/4 = **14.25**. No loss asks for it.

# %%
n = 4
missing = torch.arange(n) / n  # of places 1 to 4
told = torch.tensor([16.0, 4.0, 1.0, 0.0])
print("important first", float(told @ missing), " important last", float(told.flip(0) @ missing))
draws = torch.randint(1, n + 1, (100_000,), generator=torch.Generator().manual_seed(0))
heard = torch.stack([(draws > i).float().mean() for i in range(n)])
print("heard in 100,000 draws of k:", [round(share, 2) for share in heard.tolist()])
assert float(told @ missing) == 1.5
assert difference(heard, 1 - missing) < 0.01

# %% [markdown]
# **To cut is not to set to zero.** A mask token with logits 0 to all looks at itself (value 0) and at three tokens of
# values 6, 3 and 9. With k = 2:
#
# - cut: the mean of three, (0 + 6 + 3) / 3 = **3**; the third hidden by the attention mask: the same;
# - the third set to zero: (0 + 6 + 3 + 0) / 4 = **2.25**. A zero still takes part in the softmax.

# %%
values, logits = torch.tensor([0.0, 6.0, 3.0, 9.0]), torch.zeros(4)
seen = without_tail(2, n=3, others=1)[0]  # what the mask token may see of [mask, three tokens]
cut = logits[:3].softmax(-1) @ values[:3]
hidden = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ values
zeroed = logits.softmax(-1) @ (values * seen)
print(f"cut {cut:.2f}, hidden {hidden:.2f}, zeroed {zeroed:.2f}")
assert difference(torch.stack([cut, hidden, zeroed]), torch.tensor([3, 3, 2.25])) < 1e-6

# %% [markdown]
# ## The mechanism on a real photograph
#
# **1. Encode and quantize** all 64 tokens: nobody knows k yet. **2. Draw one k** for the batch: several would need
# padding. **3. Cut** the values, and with them the vectors of their places. All 64 mask tokens stay: the image is
# whole.

# %%
model, some = house.load("one_d_piece"), photos[[12, 42]]
decoder, values = model.decoder, model.quantizer(model.latents(some)).values
torch.manual_seed(0)
k = int(torch.randint(1, 65, ()))
description = decoder.enter(values[:, :k]) + decoder.place[:k]
blank = (decoder.mask + decoder.position).expand(2, -1, -1)
joined = torch.cat([blank, description], dim=1)
painted = decoder.body(joined, "full")[:, :64]
print(f"k = {k}: the decoder reads {joined.shape[1]} tokens, not 128")

# %% [markdown]
# Changing lengths are slow to compile for a GPU. The library keeps all 128 places and hides the tail, as above.

# %%
mask = without_tail(k, n=64, others=64)
whole = torch.cat([blank, decoder.enter(values) + decoder.place], dim=1)
assert difference(decoder.body(whole, mask)[:, :64], painted) < 1e-5
print(f"each token sees {int(mask[0].sum())} of {mask.shape[1]}; the mask tokens come out the same")

# %% [markdown]
# **4. The loss**: $\log \frac{1}{m} \sum (\hat x_k - x)^2$ over an image's m numbers, of the picture from k tokens,
# plus the quantizer's own loss. From the first, tokens beyond k get **no gradient** in this step. The second counts
# **all n**, cut or not: where codes are learnt (VQ: each vector is pulled to its code and back), the tail's codes go on
# fitting. FSQ, in our trained model, has none; so here a new model with VQ, and k = 3:

# %%
torch.manual_seed(0)
new = OneDPiece(quantizer=VQ(d=4, K=16))
latents = new.latents(some).detach().requires_grad_()
values_vq, _, own = new.quantizer(latents)
seen = without_tail(3, n=64, others=64)
error = ((super(OneDPiece, new).paint(values_vq, seen) - some).square().mean((1, 2, 3)) + 1e-5).log().mean()
for name, loss in {"the picture's error": error, "the quantizer's loss": own}.items():
    slope = torch.autograd.grad(loss, latents, retain_graph=True)[0].abs().amax((0, 2))
    print(f"{name:21} moves {int((slope > 0).sum()):2} of 64 tokens")
    assert int((slope > 0).sum()) == (3 if loss is error else 64)

# %% [markdown]
# **What you built is what the library has.** In training `OneDPiece.paint` draws k itself: the same from the same seed.

# %%
torch.manual_seed(0)
library = model.train().paint(values)
model.eval()
rough = torch.nn.functional.pixel_shuffle(decoder.out(painted).transpose(1, 2).unflatten(2, (8, 8)), 8)
assert difference((rough + decoder.smooth(rough) + 1) / 2, library) < 1e-5
assert difference(model.decode(model.encode(some)[:k]), library.clamp(0, 1)) < 1e-4
print("ours, the library in training, and its decoding of a prefix agree")

# %% [markdown]
# ## The recipe
#
# 1. TiTok's encoder and quantizer, on all n tokens.
# 2. In each training step one k for the batch, uniform in 1..n.
# 3. The decoder gets [masks; the first k values], token i with the vector of place i.
# 4. Loss: the error of that picture, plus the quantizer's loss over all n tokens.
# 5. Use: store the first k codes, any k; decode them alone.
# 6. Cost: none at use; in training a mask.
#
# ## The experiment: quality against length
#
# Both models learnt from the same views as long. Rivals: **WebP**, and **principal components**, the
# directions in which training photographs differ most, places along them rounded for the least error. A *linear*
# network with tail drop finds these.

# %%
linear, webp = stage.rivals["principal components"], stage.measure(stage.rivals["WebP"], 64)
methods = {"ours: One-D-Piece": model, "baseline: TiTok, cut": titok, "principal components": linear}
rows = {name: {k: stage.measure(method, k) for k in ks} for name, method in methods.items()}
curves = {name: [row.psnr for row in found.values()] for name, found in rows.items()}
series = {name: ([1.5 * k for k in ks], curve) for name, curve in curves.items()}
series["WebP"] = ([96], [webp.psnr])
viz.show(viz.lines(series, "Quality against length", "bytes a photograph", "PSNR (dB)", log="x"))

# %%
print(stages.image.table({f"{name.split(': ')[-1]}, {k}": found[k] for k in (4, 64) for name, found in rows.items()}))
assert all(after > before for before, after in pairwise(curves["ours: One-D-Piece"]))
cuts = [photos, *(stage.pictures(model, k) for k in (1, 4, 16, 64))]
titles = ["held out", "1 token", "4 tokens", "16 tokens", "64 tokens"]
pair = torch.stack(cuts, 1)[[12, 42]].flatten(0, 1)
viz.show(viz.images(pair, [*titles, *[""] * 5], columns=5, height=1.28), photo=True)

# %% [markdown]
# Cut TiTok catches up near its full length, where it wins: to be prepared for all lengths costs something. Principal
# components, no network, have about the same error. The *Frechet distance* of `vit`'s features asks whether the set
# looks like photographs to a classifier (the league, all 372):

# %%
league = {(row["method"], row["tokens"]): row["Frechet"] for row in stages.load("image")["rows"]}
keys = {"ours: One-D-Piece": "one_d_piece", "baseline: TiTok, cut": "titok"}
far = {name: [league[keys.get(name, name), k] for k in ks] for name in methods}
title = "To a classifier few tokens of One-D-Piece are best"
shown = {name: (ks, values) for name, values in far.items()}
viz.show(viz.lines(shown, title, "tokens", "Frechet distance (less is better)", log="x"))

# %% [markdown]
# ## Play: how many tokens do you need, and what does the first one say?
#
# `first`: the first token is that of the other photograph. It brings a colour, and roughly where it lies.


# %%
def prefix(tokens=8, photo=12, first=42):
    codes = model.encode(photos[[photo, first]]).codes[:, :tokens]
    codes = torch.cat([codes[:1], codes[:1]])
    codes[1, 0] = model.encode(photos[first : first + 1]).codes[0, 0]
    four = torch.cat([photos[photo : photo + 1], model.decode(Tokens(codes, (64,))), photos[first : first + 1]])
    titles = ["held out", f"{1.5 * tokens:g} bytes", "other's first", "the other"]
    return viz.show(viz.images(four, titles, height=1.28), photo=True)


prefix()

# %%
control = viz.slider(prefix, tokens=(1, 64), first=(0, 61))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Half a decibel is asked for at least, since one training run stands behind each model.

# %%
ours, parent, classical = curves.values()
short = [sum(curve[:6]) / 6 for curve in (ours, parent, classical)]
look = [sum(curve[:6]) / 6 for curve in far.values()]
dB, own = {"unit": "dB", "tolerance": 0.1}, "rFID 1.08, 256 tokens (repository)"
measures = [
    papers.better("PSNR, mean of 1 to 32 tokens, TiTok cut", short[0], than=short[1], margin=3, **dB),
    papers.better("PSNR, 96 bytes, WebP", ours[-1], than=webp.psnr, margin=0.5, **dB),
    papers.not_worse("PSNR, 64 tokens, TiTok", ours[-1], than=parent[-1], by=1, **dB),
    papers.better("PSNR, mean of 1 to 32 tokens, linear", short[0], than=short[2], margin=0.5, **dB),
    papers.better("Frechet, mean of 1 to 32, linear", look[0], than=look[2], higher=False, margin=5, paper=own),
]

# %%
claim = papers.verdict(
    "one_d_piece",
    "Tail token drop makes every prefix a picture, better the longer it is, at a small cost at full length.",
    measures,
    against="TiTok, the same but for tail drop; WebP; principal components of the training photographs; equal bits",
    data=f"{stage.data}; Frechet distance, of vit's features: the league, all 372",
)

# %% [markdown]
# The core holds by far: one model, any length. The paper compares itself with JPEG and WebP, not with a linear code.
#
# ## Where it breaks: the tail starves
#
# The last tokens are seldom heard. What do they bring? Beside it, the linear code.

# %%
ends, gains = (16, 32, 48, 64), {}
for name in ("ours: One-D-Piece", "principal components"):
    at = [stage.measure(methods[name], k).psnr for k in ends]
    gains[name] = (ends[1:], [after - before for before, after in pairwise(at)])
    print(f"{name.split(': ')[-1]}: tokens 33 to 64 add {at[-1] - at[1]:.1f} dB")
viz.show(viz.lines(gains, "One-D-Piece's last tokens add little", "tokens", "gain of the last 16 (dB)"))

# %% [markdown]
# Part of the slowing is the photographs' own.
#
# ## Exercises
#
# **1. Your own tail drop.** Return the loss of step 4 for a given k: the mean over images of log(squared error + 1e-5),
# plus the quantizer's. `model.latents`, `model.quantizer` (values, codes, loss), `model.paint` (outside of training)
# help.


# %%
def step_loss(model, images, k):
    rebuilt = model(images)  # replace this: all tokens
    return ((rebuilt.images - images).square().mean((1, 2, 3)) + 1e-5).log().mean() + rebuilt.loss


# %%
def check_1(step_loss):
    for tried in (model, OneDPiece(quantizer=VQ(d=4, K=16)).eval()):
        values, _, own = tried.quantizer(tried.latents(some))
        for k in (64, 5, 1):
            error = (tried.paint(values[:, :k]) - some).square().mean((1, 2, 3))
            right = ((error + 1e-5).log().mean() + own).item()
            if abs((found := step_loss(tried, some, k).item()) - right) > 1e-3:
                return f"k = {k}, {type(tried.quantizer).__name__}: {found:.3f}, expected {right:.3f}"
    return "right"


check_1(step_loss)

# %% [markdown]
# **2. Another draw.** FlexTok draws k from 1, 2, 4, ..., n, each as likely. In which share of the steps is place i
# (from 1) heard?


# %%
def heard_at(i, n):
    return (n - i + 1) / n  # replace this: the share when all lengths are as likely


def check_2(heard_at):
    for i, n, share in ((1, 64, 1), (2, 64, 6 / 7), (3, 64, 5 / 7), (33, 64, 1 / 7), (64, 64, 1 / 7), (3, 4, 1 / 3)):
        if abs(heard_at(i, n) - share) > 1e-6:
            return f"n = {n}: place {i} is heard in {share:.2f} of the steps, not {heard_at(i, n):.2f}"
    return "right: the last half shares one fate"


check_2(heard_at)

# %% [markdown]
# Solutions: `notebooks/src/solutions/02_image/03_one_d_piece.py`.
#
# ## What was left out, and where we differ
#
# | | paper | here |
# |---|---|---|
# | tail in training | cut | hidden by the mask: the same |
# | tokens, pixels | 256, 256 x 256 | 64, 64 x 64 |
# | loss of the picture | two stages, perceptual, adversarial | log of the squared error |
# | quantizer | codebook of 4,096 | FSQ |
#
# Nested dropout (Rippel and others, 2014, arXiv 1402.0915) had the idea first. Read on: [FlexTok](04_flextok.ipynb)
# lets the decoder make up what few tokens leave open, **KARL** asks the image how many it needs.
