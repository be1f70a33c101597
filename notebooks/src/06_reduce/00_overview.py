# %% [markdown]
# # Token reduction: the overview
#
# **Chapter 6.** Which tokens can be dropped or merged inside a trained model before its answers change?
# **Code:** `minitok/reduce/`, one file a method; the work that all are given is in `minitok/stages/reduce.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import inspect

import torch

from minitok import papers, stages, viz
from minitok.reduce import Reduction, divprune, fopru, pitome, random_drop, token_transforming, tome
from minitok.tables import aligned

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
four = torch.tensor([[[0.0], [10.0], [20.0], [30.0]]])
for name, reduction in kinds.items():
    print(name, reduction.matrix()[0].tolist(), "->", reduction.apply(four).flatten().tolist())
assert kinds["merge pairs"].apply(four).flatten().tolist() == [10, 20]

# %% [markdown]
# What the contract promises, and a test holds for each method: k tokens come out; the rows of M sum to 1; with k = n
# nothing changes; rows of a batch do not see each other; of equal scores the lower token wins; where a method knows no
# places, permuting the tokens permutes the result; half precision decides as float32 does. Whatever else a method
# looks at, it takes by name:

# %%
methods = {method.__name__: method for method in (random_drop, tome, pitome, token_transforming, divprune, fopru)}
for name, method in methods.items():
    print(f"{name:19}", *[f"{p}" for p in inspect.signature(method).parameters if p not in ("x", "k")])

# %% [markdown]
# `keys` and `attention` are those of the layer in which the reduction takes place (`cls_attention` is what CLS pays to
# each patch), `size` says how many patches a token stands for already. `random_drop` and `divprune` need the tokens
# alone. A method that needs attention maps cannot run behind fast attention, which never writes them out.
#
# ## The stage
#
# The house's vision transformer: 64 x 64 pixels, 256 patch tokens and a CLS token from which the class of clothing is
# read, 8 layers. `stage.measure(method, k)` leaves k tokens after the attention of layer 3 (from 0; CLS stays) and
# compares the answers with those from all tokens. One photograph with 24 tokens: patches of merged tokens show their
# group's mean, with a rim; dropped ones stay dark.

# %%
stage = stages.reduce.stage(images=31)
seen = stage.seen(photo=2)


def picture(name, k=24, photo=2):
    known, method = stage.seen(photo), methods[name]
    asked = {key: known[key] for key in inspect.signature(method).parameters if key in known and key != "x"}
    return viz.painted(stage.images[photo], method(known["x"], k, **asked))


shown = torch.stack([picture("tome", 256), *(picture(name) for name in methods)])
titles = ["the photograph", *(name.replace("_", "\n") for name in methods)]
viz.show(viz.images(shown, titles, columns=4, height=1.6), photo=True)

# %%
control = viz.slider(
    lambda method="tome", k=24, photo=2: viz.show(
        viz.images(picture(method, k, photo)[None], [f"{method}, {k} tokens"], height=2.56), photo=True
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
# The call of all lessons, on 31 photographs. "As before": the same answer as with all tokens. "Moved": how far the ten
# probabilities went from those with all tokens, $\sum_c p_c \log_2 (p_c / q_c)$ bits. Three controls that look at
# nothing or at one thing: squares of patches merged (`pooling`), the patches nearest the middle (`radial`), those that
# CLS attends to most (`attended`).

# %%
rows = {"all tokens": stage.full}
here = [name for name, k in stages.reduce.pieces("once") if k == 16]  # the others: see the second host
rows |= {name: stage.measure(stages.reduce.METHODS[name], 16) for name in here}
print(stages.reduce.table(rows))

# %% [markdown]
# A photograph is 3 points here, so this only shows how the table is made.
#
# ## The league table
#
# On all 372 test photographs, computed once by `minitok league reduce`.

# %%
facts = stages.load("reduce")
print(facts["how"], "\n")
clothes = facts | {"scores": {name: facts["scores"][name] for name in ("right", "loyal", "moved", "cost", "own")}}
print(stages.table(clothes, where="all tokens, vit"), "\n")
print(stages.table(clothes, where="once"))

# %%
whole = next(row for row in facts["rows"] if row["where"] == "all tokens, vit")
at = {(row["where"], row["method"], row["tokens"]): row for row in facts["rows"]}
roles = {"random_drop": "baseline: random drop", "pooling": "muted: pooling", "tome": "ours: tome"}
names = ("tome", "pitome", "divprune", "fopru", "token_transforming", "random_drop", "pooling")


def curve(name, up):
    found = [row for row in facts["rows"] if (row["where"], row["method"]) == ("once", name)]
    return [row["tokens"] for row in found], [row[up] for row in found]


series = {roles.get(name, name): curve(name, "moved") for name in names[:6]}
viz.show(viz.lines(series, "Merging moves the answer least", "tokens left after layer 3", "moved (bits)", log="xy"))

# %%
share = whole["right"] / 100
print(f"'right' is uncertain by {100 * (share * (1 - share) / 372) ** 0.5:.0f} points: 372 photographs")
for k in (64, 16):
    order = sorted(
        (name for place, name, tokens in at if (place, tokens) == ("once", k)), key=lambda n: at["once", n, k]["moved"]
    )
    print(f"{k} tokens, least moved first:", ", ".join(f"{name} {at['once', name, k]['moved']:.2f}" for name in order))

# %% [markdown]
# Most gaps in "right" are too small to rank by. How far the answer moves is steadier. Two rows depend on the layer:
# `fopru` and `token_transforming` choose by attention, and in layer 3 of this network attention chooses badly;
# [FoPru](13_fopru.ipynb) and [Token Transforming](05_token_transforming.ipynb) show it.

# %%
for k in (128, 64, 32, 16, 8):
    moved = {name: at["once", name, k]["moved"] for name in methods}
    assert set(sorted(moved, key=lambda name: moved[name])[:2]) == {"tome", "pitome"}
    assert moved["fopru"] == max(moved.values())

# %% [markdown]
# ## A little in every layer
#
# Taking away a few tokens in every layer instead costs more FLOPs for the same number at the end, but the early layers
# still see much. At one price: 256 tokens spread down to 16, or cut to 32 at once.

# %%
print(stages.table(clothes, where="spread"), "\n")
print(f"at {at['spread', 'tome', 16]['cost']:.2f} (spread) and {at['once', 'tome', 32]['cost']:.2f} billion FLOPs:")
for name in methods:
    spread, cut = at["spread", name, 16]["moved"], at["once", name, 32]["moved"]
    print(f"{name:19} spread {spread:.3f} bits, one cut {cut:.3f}")
    assert spread < cut

# %% [markdown]
# Every method moves the answer less when it is spread, and the ranking changes. PiToMe, near ToMe after one cut, falls
# behind random dropping with 64 tokens spread; [its lesson](04_pitome.ipynb) looks at why.
#
# ## The second host: a model that reads
#
# The house's `vlm` answers questions about scenes. Its 256 visual tokens can be cut **before** the language model, or
# **inside** it, after layer 1 of 0 to 5; there `fastv` can ask the words. `object` says how much of the object asked
# for was kept.

# %%
reading = {name: facts["scores"][name] for name in ("right", "moved", "count", "digit", "object", "own")}
few = [row for row in facts["rows"] if row["where"] in ("before", "inside") and row["tokens"] in (81, 16)]
for where in ("before", "inside"):
    print(where + "\n" + stages.table(facts | {"scores": reading, "rows": few}, where=where), "\n")

# %%
best = {"todre": "ours: todre", "fastv": "fastv", "tome": "tome", "attended": "attended"}
best |= {"random_drop": "baseline: random drop"}
found = {name: [at["inside", name, k]["right"] for k in (128, 81, 32, 16, 8)] for name in best}
series = {best[name]: ((128, 81, 32, 16, 8), right) for name, right in found.items()}
title = "At a third lots do; below, choosing pays"
viz.show(viz.lines(series, title, "visual tokens left after layer 1", "right answers (%)", log="x"))
assert abs(found["random_drop"][1] - found["fastv"][1]) < 1
assert found["todre"][3] > found["random_drop"][3] + 5

# %% [markdown]
# With 81 tokens lots answer as much as [FastV](03_fastv.ipynb). With 16 the order turns: variety
# ([DivPrune](11_divprune.ipynb), [ToDRE](12_todre.ipynb)) leads, and before the language model attention
# ([FoPru](13_fopru.ipynb), [HiPrune](15_hiprune.ipynb)) keeps more of the object asked for and answers less. Means of
# squares count well and lose relations.
#
# ## All hosts side by side
#
# `vlm_many` reads several pictures at once, a thumbnail with four **crops** of a large scene or the frames of
# **clips**, and one budget is shared among them; in **quarters** all objects are in one crop. **Dense** asks the
# `vlm`'s vision encoder what each patch shows, with fewer tokens in between. Right answers in %, "-" where a method is
# not made for it:

# %%
places = {"once": 16, "before": 32, "inside": 32, "crops": 64, "quarters": 64, "clips": 64, "dense": 64}
names = dict.fromkeys(row["method"] for row in facts["rows"] if row["where"] in places)
lines = [("", *(f"{where}, {k}" for where, k in places.items()))]
for name in names:
    found = [at.get((where, name, k)) for where, k in places.items()]
    lines.append((name, *(f"{row['right']:.1f}" if row else "-" for row in found)))
print(aligned(lines))

# %%
for where, k in (("before", 81), ("inside", 81), *places.items()):
    lots, found = at[where, "random_drop", k]["right"], [at.get((where, name, k)) for name in names]
    right = [row["right"] for row in found if row and row["method"] != "random_drop"]
    best = max((row for row in found if row), key=lambda row: row["right"])
    worse = sum(value < lots for value in right)
    print(f"{where:9} {k:3} tokens: {worse} of {len(right)} answer less than lots; best {best['method']}")

# %% [markdown]
# Lots are a rival: inside the model, and most of all on clips, many methods answer less than they do. Those that choose
# by attention spend a clip's budget on few frames. Crops want a share for the thumbnail, labels of patches a way back.
# On a GPU `tome_triton` and `divprune_triton` choose alike in a few launches; `minitok bench --kernels` times them.
#
# ## On a model of someone else's
#
# The methods are functions of tensors, so any model's tokens will do. Here two of Hugging Face's `transformers` (extra
# `models`; random weights, so there is nothing to download): a ViT, whose patch tokens are merged between two of its
# layers, and a LLaVA, whose language model reads 32 of 256 visual tokens.

# %%
try:
    import transformers
except ImportError:
    transformers = None
    print("pip install minitok[models] brings transformers")
else:
    each = {"image_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.ViTConfig(hidden_size=96, patch_size=8, **each)
    other = transformers.ViTModel(config, add_pooling_layer=False).eval()
    merge_after = lambda layer, inputs, hidden: tome(hidden[:, 1:], 16).beside(1).apply(hidden)  # noqa: E731
    other.layers[1].register_forward_hook(merge_after)  # CLS stays, 64 patch tokens become 16
    print("tokens that come out:", tuple(other(pixel_values=stage.images[:2]).last_hidden_state.shape))

# %%
if transformers is not None:
    eyes = transformers.CLIPVisionConfig(hidden_size=64, patch_size=4, **each)
    mouth = transformers.LlamaConfig(hidden_size=96, vocab_size=200, num_hidden_layers=3, num_attention_heads=4)
    theirs = transformers.LlavaConfig(vision_config=eyes, text_config=mouth, image_token_index=199)
    theirs = transformers.LlavaForConditionalGeneration(theirs).eval()
    patches = theirs.model.vision_tower(stage.images[:2], output_hidden_states=True).hidden_states[-2][:, 1:]
    visual = theirs.model.multi_modal_projector(patches)
    few = divprune(visual, 32).apply(visual)
    words = theirs.get_input_embeddings()(torch.tensor([[5, 6, 7], [5, 6, 8]]))
    read = theirs.model.language_model(inputs_embeds=torch.cat([few, words], 1)).last_hidden_state
    print(tuple(visual.shape), "->", tuple(few.shape), "->", tuple(theirs.lm_head(read).shape))

# %% [markdown]
# ## Your own method
#
# One function is enough. This one keeps the tokens that are longest, and the contract judges it; a mistake, such as
# keeping one too few, is told in words. Then its row:


# %%
def longest(x, k):
    order = x.float().norm(dim=-1).argsort(dim=-1, descending=True, stable=True)
    return Reduction.keep(order[:, :k].sort(-1).values, x.shape[1])


def one_too_few(x, k):
    return longest(x, max(k - 1, 1))


for method in (longest, one_too_few):
    print(f"{method.__name__}:", papers.check("reduce", method))

# %%
print(stages.reduce.table({"longest": stage.measure(longest, 16), "tome": rows["tome"], "by lot": rows["random_drop"]}))

# %% [markdown]
# ## What to take home
#
# - Compare methods only at the same layer and the same number of tokens: for lots, moving the cut moves the answers
#   more than most methods do ([lesson 1](01_random_drop.ipynb)).
# - Blind pooling of squares names as many photographs as [ToMe](02_tome.ipynb) with 16 tokens, and moves the answers a
#   third further; random dropping is behind ToMe everywhere. The league has both as rows, since a method that looks
#   should beat them.
# - After one cut, choosing for variety ([DivPrune](11_divprune.ipynb)) beats choosing by attention. The lessons say
#   where each of them breaks.
