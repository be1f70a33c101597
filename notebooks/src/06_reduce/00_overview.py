# %% [markdown]
# # Token reduction: the overview
#
# **Chapter 6.** Which tokens can be dropped or merged inside a trained model before its answers change?
# **Code:** `minitok/reduce/`, one file a method; what they share is in `_common.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import inspect

import torch

from minitok import house, stages, viz
from minitok.data import clothing, photographs
from minitok.metrics import accuracy
from minitok.reduce import Reduction, once, resume
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

# %% [markdown]
# `once(3, k, method)` reduces between the attention and the feed-forward part of layer 3, and `.beside(1)` in it leaves
# CLS alone. `resume` computes the layers before it once. `watched` hands a method the signals that it asks for, and
# remembers the `Reduction` that it made. [Lesson 1](01_random_drop.ipynb) goes through all this slowly.

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
# `random_drop`, `divprune` and `fopru` keep some patches as they are and leave the others dark. `tome`, `pitome` and
# `token_transforming` take means, so that nothing is dark and all is blurred. Choose a method and a number:

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
# On all 372 test photographs, computed once by `minitok league reduce`. "moved" is how far the answer, ten
# probabilities, went from that with all tokens: $\sum_c p_c \log_2 (p_c / q_c)$ bits, p with all tokens and q with
# fewer (0: the same answer).

# %%
facts = stages.load("reduce")
print(facts["how"], "\n")
print(stages.table(facts, where="none"), "\n")
print(stages.table(facts, where="once"))

# %%
rows = [row for row in facts["rows"] if row["where"] == "once"]
names = dict.fromkeys(row["method"] for row in rows)
whole = next(row for row in facts["rows"] if row["where"] == "none")


def curve(where, name, across, up):
    found = [row for row in facts["rows"] if (row["where"], row["method"]) == (where, name)]
    return [row[across] for row in found], [row[up] for row in found]


roles = {"random_drop": "baseline: random drop", "pooling": "muted: pooling"}
series = {roles.get(name, name): curve("once", name, "tokens", "right") for name in names}
title, levels = "FoPru falls below random drop", {"muted: all tokens": whole["right"]}
viz.show(viz.lines(series, title, "tokens left after layer 3", "right answers (%)", log="x", levels=levels))

# %%
share = whole["right"] / 100
print(f"uncertain by {100 * (share * (1 - share) / 372) ** 0.5:.0f} points, since there are 372 photographs")

# %% [markdown]
# So most gaps in this figure are too small to rank by, and ToMe with 192 tokens is not better than all tokens. How far
# the answer moves is steadier; lower is better:

# %%
series = {roles.get(name, name): curve("once", name, "tokens", "moved") for name in names}
viz.show(viz.lines(series, "Merging moves the answer least", "tokens left after layer 3", "moved (bits)", log="xy"))

# %%
at = {(row["where"], row["method"], row["tokens"]): row for row in facts["rows"]}
for k in (128, 64, 32, 16, 8):
    moved = {name: at["once", name, k]["moved"] for name in methods}
    assert set(sorted(moved, key=lambda name: moved[name])[:2]) == {"tome", "pitome"}
    assert moved["fopru"] == max(moved.values())
    assert at["once", "divprune", k]["right"] > at["once", "fopru", k]["right"]
for k in (64, 32, 16):
    assert at["once", "divprune", k]["right"] > at["once", "tome", k]["right"] - 1
for k, base in ((64, "pooling"), (16, "pooling"), (64, "random_drop"), (16, "random_drop")):
    lead = at["once", "tome", k]["right"] - at["once", base, k]["right"]
    print(f"{k} tokens: ToMe has {lead:.1f} points more than {base}")
assert abs(at["once", "tome", 16]["right"] - at["once", "pooling", 16]["right"]) < 1

# %% [markdown]
# Two rows depend on the layer: `fopru` and `token_transforming` choose by attention, and in layer 3 of this network
# attention chooses badly. Lessons [13](13_fopru.ipynb) and [5](05_token_transforming.ipynb) show it.
#
# ## A little in every layer
#
# Taking away a few tokens in every layer instead costs more FLOPs for the same number at the end, but the early layers
# still see much. What counts is what the layers cost (what a method itself computes is left out; the lessons measure
# it):

# %%
pair = {"one cut, 32 left": ("once", 32, viz.BASELINE), "spread, 16 left in the end": ("spread", 16, viz.OURS)}
figure, axes = viz.panel("At one price, spread moves it less", "moved (bits)", "")
for label, (where, k, ink) in pair.items():
    axes.scatter([at[where, name, k]["moved"] for name in methods], list(methods), s=60, c=ink, label=label)
axes.set_xlim(left=0)
axes.invert_yaxis()
figure.legend(loc="outside lower right", ncols=2)
viz.show(figure)

# %%
print(stages.table(facts, where="spread"), "\n")
print(f"at {at['spread', 'tome', 16]['cost']:.2f} (spread) and {at['once', 'tome', 32]['cost']:.2f} billion FLOPs:")
for name in methods:
    spread, cut = at["spread", name, 16], at["once", name, 32]
    told = [f"{row['moved']:.3f} bits, {row['right']:.1f} % right" for row in (spread, cut)]
    print(f"{name:19} spread {told[0]}; one cut {told[1]}")
    assert spread["moved"] < cut["moved"]
assert at["spread", "pitome", 64]["moved"] > at["spread", "random_drop", 64]["moved"]

# %% [markdown]
# Figure and last lines compare at one price: 256 tokens spread down to 16, or cut to 32 at once. Every method moves the
# answer less when it is spread. The ranking changes too. PiToMe, second after one cut, is behind random dropping with
# 64 tokens ([lesson 4](04_pitome.ipynb) looks at why), and FoPru, last after one cut, names as many photographs as
# others.
#
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
# - The table of one cut has one place, layer 3. [Lesson 1](01_random_drop.ipynb) moves the cut, and the answers move
#   with it: compare methods only at the same layer and the same number of tokens.
# - Blind pooling of squares names as many photographs as ToMe with 16 tokens, and moves the answer further; random
#   dropping is behind ToMe everywhere. The league has both as rows, since a method that looks should beat them.
# - After one cut to 128 tokens or fewer, ToMe and PiToMe move the answer least. In right answers DivPrune, which drops,
#   is level with ToMe from 64 to 16 tokens.
# - After one cut to 128 tokens or fewer, choosing for variety (DivPrune) beats choosing by attention (FoPru). The
#   lessons say where each of them breaks.
