# %% [markdown]
# # Token reduction: the overview
#
# **Chapter 6.** Which tokens can be dropped or merged inside a trained model before its answers change?
# **Code:** `minitok/reduce/`, one file a method; what they share is in `_common.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import inspect

import torch

from minitok import house, leagues, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy
from minitok.reduce._common import Reduction, once, resume
from minitok.reduce.divprune import divprune
from minitok.reduce.fopru import fopru
from minitok.reduce.pitome import pitome
from minitok.reduce.random_drop import random_drop
from minitok.reduce.token_transforming import token_transforming
from minitok.reduce.tome import tome

# %% [markdown]
# ## The problem
#
# A vision transformer makes a **token**, a vector, of each patch of a photograph. Every layer works on every token,
# and in attention each looks at all others. If a trained network can do with fewer from some layer on, it gets cheaper
# at once, without new training.
#
# ## The contract: a reduction is a matrix
#
# Every method of the chapter is a function of the tokens x (b rows of n tokens with c channels) and the number k that
# shall be left, `method(x, k, ...) -> Reduction`. A `Reduction` stands for a matrix M with k rows and n columns, and
# the new tokens are $y = M x$. Keeping, merging and mixing tokens differ in what M looks like:

# %%
kinds = {
    "keep two of four": Reduction.keep(torch.tensor([[1, 3]]), n=4),
    "merge pairs": Reduction.merge(torch.tensor([[0, 1, 0, 1]]), k=2),
    "mix all": Reduction.blend(torch.tensor([[[4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, 4.0]]])),
}
x = torch.tensor([[[0.0], [10.0], [20.0], [30.0]]])
for name, reduction in kinds.items():
    print(name, reduction.matrix()[0].tolist(), "->", reduction.apply(x).flatten().tolist())

# %% [markdown]
# What the contract promises, and a test holds for each method: k tokens come out; the rows of M sum to 1; with k = n
# nothing changes; rows of a batch do not see each other; of equal scores the lower token wins; where a method knows no
# places, permuting the tokens permutes the result. Whatever else a method looks at, it takes by name:

# %%
methods = {method.__name__: method for method in (random_drop, tome, pitome, token_transforming, divprune, fopru)}
for name, method in methods.items():
    print(f"{name:19}", *[f"{p}" for p in inspect.signature(method).parameters if p not in ("x", "k")])

# %% [markdown]
# `keys` and `attention` are those of the layer in which the reduction takes place (`cls_attention` is what CLS pays to
# each patch), `size` says how many patches a token
# stands for already. `random_drop` and `divprune` need the tokens alone.
#
# ## All of them on one photograph
#
# The host is the vision transformer of the house: 64 x 64 pixels, 256 patch tokens and a CLS token from which the class
# of clothing is read, 8 layers. Each method leaves 24 tokens after layer 3.

# %%
vit, there = house.load("vit"), clothing.at_hand()
images = clothing.load("test").images[::12] if there else photographs.crops(31, 64)
everything = vit(images)
labels = clothing.load("test").labels[::12] if there else everything.argmax(-1)
logits = resume(vit, images, layer=3)  # the layers before it are computed once
print(f"{len(images)} photographs, {100 * accuracy(everything, labels):.0f} % right with all tokens")

# %%
made = {}


def watched(name, k):
    def method(x, k, keys=None, attention=None, cls_attention=None, size=None):
        signals = {"keys": keys, "attention": attention, "cls_attention": cls_attention, "size": size}
        asked = inspect.signature(methods[name]).parameters
        made[name] = methods[name](x, k, **{key: value for key, value in signals.items() if key in asked})
        return made[name]

    return once(3, k, method)


# %% [markdown]
# To see what a method made of a picture, paint each token's patch in the colour that M gives it: restored patches of
# merged tokens show their cluster's mean colour, patches of dropped tokens stay dark.


# %%
def picture(name, k=24, photo=5):
    resume(vit, images[photo : photo + 1], 3)(watched(name, k))
    patches = images[photo].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).permute(1, 2, 0, 3).flatten(0, 1).flatten(1)
    restored = made[name].restore(made[name].apply(patches[None]))[0]
    return restored.view(16, 16, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 64, 64)


shown = torch.stack([images[5], *(picture(name) for name in methods)])
titles = ["the photograph", *(name.replace("_", "\n") for name in methods)]
viz.show(viz.images(shown, titles, columns=7, height=1.25), photo=True)

# %% [markdown]
# `random_drop`, `divprune` and `fopru` keep patches as they are; `tome` and `pitome` merge, so that nothing is dark;
# `token_transforming` mixes, so that all looks blurred. Choose a method and a number:

# %%
control = viz.slider(
    lambda method="tome", k=24, photo=5: viz.show(
        viz.images(torch.stack([images[photo], picture(method, k, photo)]), ["", f"{method}, {k} tokens"], height=2.2),
        photo=True,
    ),
    method=list(methods),
    k=[256, 128, 64, 24, 8, 1],
    photo=(0, 30),
)
viz.ends(control)
control

# %% [markdown]
# ## The league, in small
#
# The photographs above, one draw of the lots: how many answers are still right?

# %%
counts = (64, 16, 8)
small = {name: [100 * accuracy(logits(watched(name, k)), labels) for k in counts] for name in methods}
for name, percents in small.items():
    print(f"{name:19}", *(f"{k} tokens {percent:3.0f} %  " for k, percent in zip(counts, percents, strict=True)))

# %% [markdown]
# A photograph is 3 points here, so this only shows how the table is made.
#
# ## The league table
#
# On all 372 test photographs, computed once by `minitok league reduce`:

# %%
facts = leagues.load("reduce")
print(facts["how"], "\n")
print(leagues.table(facts, where="none"), "\n")
print(leagues.table(facts, where="once"))

# %%
rows = [row for row in facts["rows"] if row["where"] == "once"]
names = dict.fromkeys(row["method"] for row in rows)
whole = next(row for row in facts["rows"] if row["where"] == "none")


def curve(where, name, across, up):
    found = [row for row in facts["rows"] if (row["where"], row["method"]) == (where, name)]
    return [row[across] for row in found], [row[up] for row in found]


roles = {"random_drop": "baseline: random drop", "pooling": "muted: pooling"}
series = {roles.get(name, name): curve("once", name, "tokens", "right") for name in names}
title = f"One cut after layer 3 (all: {whole['right']:.0f} %)"
viz.show(viz.lines(series, title, "tokens left", "right answers (%)", log="x"))

# %% [markdown]
# Accuracy moves by whole photographs (0.27 points each), the answer's own movement is steadier. Here is how far it
# moves from that with all tokens, in bits; lower is better.

# %%
series = {roles.get(name, name): curve("once", name, "tokens", "moved") for name in names}
viz.show(viz.lines(series, "How far the answer moves", "tokens left", "moved (bits)", log="xy"))

# %% [markdown]
# Taking away a few tokens in every layer instead costs more FLOPs for the same number at the end, but the early layers
# still see much. What counts is the right answers for the price of the whole network:

# %%
series = {}
for name in ("random_drop", "tome", "pitome", "token_transforming", "divprune"):
    series[f"{roles.get(name, name)}, spread"] = curve("spread", name, "cost", "right")
series["muted: tome, one cut"] = curve("once", "tome", "cost", "right")
title = "What an answer costs"
viz.show(viz.lines(series, title, "billion FLOPs a photograph", "right answers (%)"))

# %%
print(leagues.table(facts, where="spread"))

# %% [markdown]
# ## On a model of someone else's
#
# The methods are functions of tensors, so any model's tokens will do. Here a ViT of Hugging Face's `transformers`
# (extra `models`; with random weights, so there is nothing to download), whose patch tokens are merged between two of
# its layers:

# %%
try:
    from transformers import ViTConfig, ViTModel
except ImportError:
    print("pip install minitok[models] brings transformers")
else:
    config = ViTConfig(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8)
    other = ViTModel(config, add_pooling_layer=False).eval()

    def merge_after(layer, inputs, hidden):
        return tome(hidden[:, 1:], 16).beside(1).apply(hidden)  # CLS stays, 64 patch tokens become 16

    other.layers[1].register_forward_hook(merge_after)
    print("tokens that come out:", tuple(other(pixel_values=images[:2]).last_hidden_state.shape))

# %% [markdown]
# ## What to take home
#
# - Where a cut is made matters more than how: compare methods only at the same layer and the same number of tokens.
# - Against random lots and blind pooling of squares the margins are smaller than papers' tables suggest; the league
#   has both as rows for that reason.
# - Merging keeps what dropping loses, choosing for variety beats choosing by attention in the middle of this network;
#   the lessons say where each of them breaks.
