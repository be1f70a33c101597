# %% [markdown]
# # The explainability compressor: learn what the answer looked at
#
# **Paper:** Lei, Gu, Ma, Tang, Chen and Xu, *Generic Token Compression in Multimodal Large Language Models from an
# Explainability Perspective*, 2025 ([arXiv 2506.01097](https://arxiv.org/abs/2506.01097)).
# **Code:** `minitok/reduce/explain_compress.py`.
# **Read first:** [FastV](03_fastv.ipynb).
#
# After this lesson you can say which visual tokens an answer came from, and train a small network to foresee them.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.data.wordings import WORDS, decode
from minitok.metrics import difference
from minitok.optimizers import Adam
from minitok.reduce import Reduction, explain_compress, highest
from minitok.reduce.explain_compress import Compressor, compressor_loss, explain, mean_paid, rollout, target
from minitok.stages import pruned, pruners
from minitok.tables import aligned

# %% [markdown]
# ## The problem: what is there to look at before the language model?
#
# FastV prunes inside the language model, after some layers on all tokens. Before it little is known: what CLS looked at
# in the ViT, and what the words *would* pay to the visual tokens in its first layer (`first`: the mean over heads and
# words). 48 held-out scenes, 288 questions to the house's `vlm`, 64 of 256 tokens, in percent:

# %%
facts = pruned.load()
head = ("right", "per question", "loyal", "count", "digit", "object")


def table(k, *names):
    rows = {row["method"]: row for row in facts["rows"] if row["tokens"] == k}
    lines = [("", *head), *((name, *(f"{rows[name].get(key, float('nan')):.1f}" for key in head)) for name in names)]
    return aligned(lines)


print(table(64, "lots", "CLS attention", "first"))

# %% [markdown]
# "Right" is the mean of nine kinds of question, "loyal" answers as with all tokens, "object" how much of what is
# asked for was kept. `first` keeps the object, answers no more than lots, and cannot count. What an answer
# needed can be asked *afterwards*.
#
# ## By hand: four visual tokens and a word
#
# Visual tokens 0 to 3, then word 4, which answers. $A$ is what a token pays, $\nabla A$ how the answer's logit grows
# with it, 0 where nothing is said. Two layers, two heads, alike in layer 1:
#
# | layer | who pays whom | $A$ | $\nabla A$ | mean of relu($A \nabla A$) |
# |---|---|---|---|---|
# | 1 | 1 pays 0 | 0.5 | 3 | 1.5 |
# | 1 | 4 pays 1 | 0.25 | -4 | 0: it did harm |
# | 1 | 4 pays 2 | 0.25 | 1 | 0.25 |
# | 2 | 4 pays 1, first head | 0.5 | 2 | 1, |
# | 2 | 4 pays 1, second head | 0.5 | -2 | 0; together 0.5 |
#
# Each head is cut at 0 *before* the mean. The answer's row, 1 for itself, goes **back** through the layers:
# after layer 2 token 1 has 0.5; after layer 1 token 0 has 0.5 x 1.5 = 0.75, by way of token 1, and 2 has 0.25.
# Relevance: 0.75, 0.5, 0.25, 0.

# %%
one, two = torch.zeros(2, 1, 2, 5, 5), torch.zeros(2, 1, 2, 5, 5)  # (A or its gradient, row, head, payer, paid)
one[0, ..., 4, :] = torch.tensor([0.1, 0.25, 0.25, 0.3, 0.1])
one[0, ..., 1, 0], one[1, ..., 1, 0] = 0.5, 3
one[1, ..., 4, 1], one[1, ..., 4, 2] = -4, 1
two[0, ..., 4, 1], two[1, 0, :, 4, 1] = 0.5, torch.tensor([2.0, -2.0])
relevant = rollout([one[0], two[0]], [one[1], two[1]])
print(relevant.tolist())
assert relevant.tolist() == [[0.75, 0.5, 0.25, 0, 1]]

# %% [markdown]
# **The label:** the lower half to 0, the rest divided by its sum: 0.6, 0.4, 0, 0. **The loss** of four equal scores,
# softmax 1/4 each: 0.6 ln(0.6 / 0.25) + 0.4 ln(0.4 / 0.25) = 0.713. **Kept**, k = 2: tokens 0 and 1. By what the word
# pays in layer 1 it would be 3 and, of the equals 1 and 2, the lower.

# %%
label = target(relevant[:, :4])
flat = float(compressor_loss(torch.zeros(1, 4), relevant[:, :4]))
by_paid = highest(one[0, :, 0, 4, :4], 2).tolist()
print(label.tolist(), round(flat, 3), highest(relevant[:, :4], 2).tolist(), by_paid)
assert difference(label, torch.tensor([[0.6, 0.4, 0, 0]])) < 1e-6
assert abs(flat - 0.713) < 5e-4
assert by_paid == [[1, 3]]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Explain.** The frozen host runs with its attention written out, and the logit of the word that it says is
# differentiated with respect to each layer's attention. Visual tokens cannot see the words: the question enters by the
# words' rows alone.

# %%
stage = stages.reduce.stage(scenes=8, host="vlm")
asked, host = stage.questions, stage.host
cut = stage.start.alone(stage.rows, ["first_attention"])  # one row for each question
found, logits, weights = explain(host.lm, host.head, cut.visual[:4], cut.signals["text"][:4], cut.places[:1])
held = pruners.held()[: len(stage.rows)]  # that of all questions takes longer: the project ships it
near = difference(found / found.amax(1, keepdim=True), held[:4])
print([WORDS[i] for i in logits.argmax(-1)], len(weights), "layers of", tuple(weights[0].shape))
assert near < 0.01

# %% [markdown]
# **2. Only right answers teach.** A relevance says what made the model say its word; a wrong word's is worth nothing.
# Three questions about one scene (square roots, so that one sees more):

# %%
paid = mean_paid(cut.signals["first_attention"], cut.signals["asked"])
some = (asked.scene == 6).nonzero()[[1, 3, -1], 0]
maps = torch.cat([held[some], (paid / paid.amax(1, keepdim=True))[some]]).view(-1, 1, 16, 16).sqrt()
maps = maps.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
pictures = torch.cat([stage.scenes.images[[6]], maps[:3], stage.scenes.images[[6]], maps[3:]])
titles = ["scene", *("relevance",) * 3, "scene", *("first layer",) * 3]
print(*decode(asked.words[some]), sep="\n")
viz.show(viz.images(pictures, titles, columns=4, height=1.5), photo=True)

# %% [markdown]
# **3. The compressor** gets one number a token, what it is paid in the first layer. Five pairs of convolutions: along
# the tokens, each channel for itself (kernel 7), then across the channels (to 32, 64, 128, 256, 512), ReLU; then a
# score. Any number of tokens will do.

# %%
net = pruners.load("explain_compress")


def score(paid):
    x = (paid / paid.mean(1, keepdim=True))[:, None]
    for along, across in zip(net.along, net.across, strict=True):
        x = F.conv1d(F.pad(x, (3, 3), mode="replicate"), along.weight, along.bias, groups=x.shape[1])
        x = F.conv1d(x, across.weight, across.bias).relu()
    return F.conv1d(x, net.score.weight, net.score.bias)[:, 0]


assert difference(score(paid), net(paid)) < 1e-4

# %% [markdown]
# **4. The loss** is KL(label || softmax(scores)). The host is not in it: 1,379 questions were explained once; 200 steps
# of 32 are the whole training (`pruners.train`). One step, from scratch:

# %%
torch.manual_seed(0)
fresh = Compressor()
optimizer = Adam(fresh.parameters(), lr=1e-3)
losses = {"fresh": fresh(paid), "what the first layer pays": paid.log(), "trained": net(paid)}
compressor_loss(losses["fresh"], held).backward()
optimizer.step()
losses["fresh, one step later"] = fresh(paid)
losses = {name: float(compressor_loss(scores.detach(), held)) for name, scores in losses.items()}
print({name: round(loss, 2) for name, loss in losses.items()})
assert losses["trained"] < losses["what the first layer pays"]
assert losses["fresh, one step later"] < losses["fresh"]

# %% [markdown]
# **5. Keep the k highest**, in their order and places. **Built = library**, and live, on 8 scenes:

# %%
order = score(paid).argsort(dim=-1, descending=True, stable=True)[:, :26].sort(-1).values
signals = {name: cut.signals[name] for name in ("first_attention", "asked")}
made = explain_compress(cut.visual, 26, **signals, compressor=net)
assert (made.order == order).float().mean() > 0.999  # near ties may fall otherwise
live = {"compressor": stage.measure(partial(explain_compress, compressor=net), 26)}
live |= {"oracle": pruners.chosen(stage, held, 26), "first": pruners.chosen(stage, paid, 26, "attention, text")}
live["lots"] = stage.measure(stages.reduce.LOTS, 26)
print(stages.reduce.table(live))
assert live["oracle"].right > live["lots"].right

# %% [markdown]
# ## The recipe
#
# 1. Training questions: run the frozen model with its attention written out; go on with those it answers rightly.
# 2. Differentiate the logit of each generated word with respect to every layer's attention A (after its softmax).
# 3. Start with the row of the token that says the word, 1 for itself. From the last layer to the first: row += row x
#    mean over heads of relu(A * gradient). Take the visual columns; mean over the generated words.
# 4. Label: lowest half (floor(n / 2)) to 0, divide by the sum.
# 5. Input: the first layer's attention of the words to the visual tokens, mean over heads and words, filling left out.
# 6. Compressor: 5 depthwise separable 1-D convolutions (to 32, 64, 128, 256, 512 channels), one score a token.
# 7. Loss: KL(label || softmax of scores). Adam, 128 questions a step.
# 8. In use: keep the k highest (equals: the lower), old order and places.
# 9. Cost: that attention, and the network: 5 % of our (small) model's FLOPs.
#
# | | paper | here |
# |---|---|---|
# | heads of the first layer | not said | mean |
# | kernel, ends, activation, scale of the input | not said | 7, repeated, ReLU, divided by its mean |
# | training | 100 epochs | 200 steps of 32 (5 epochs); the paper 128 a step |
#
# ## The experiment: 48 scenes, 288 questions
#
# `oracle` keeps by the relevance itself, which needs the answer. `first, last word` is FastV's payer. By
# `pruned.measure()`:

# %%
names = ("lots", "radial", "CLS attention", "tome", "first", "first, last word", "explain_compress", "oracle")
for k in (128, 64, 26):
    print(f"{k} tokens\n" + table(k, *names) + "\n")
counts = (128, 64, 26, 16)
labels = {"ours: compressor": "explain_compress", "oracle": "oracle"}
labels |= {"baseline: by lot": "lots", "first layer": "first"}
value = {(row["method"], row["tokens"]): row for row in facts["rows"]}
curves = {label: (counts, [value[name, k]["per question"] for k in counts]) for label, name in labels.items()}
title, axis = "Between its input and its teacher", "visual tokens (of 256)"
viz.show(viz.lines(curves, title, axis, "right, per question (%)", log="x"))

# %% [markdown]
# With half of the tokens the raw first attention does worse than lots; the compressor mends that: over its own input it
# gains 3.5 points with 128 tokens (twice the standard error is 2.0), 4.5 with 26 (2.3), 6.9 with 16 (3.4), with 64 only
# 0.7 (1.4). To relevance itself 4 to 6 are left below half. CLS, which hears no question, answers 4.2 more with 64
# (3.3), and `tome`, which merges, beats all that drop with 26.
#
# ## Play: what would be kept?


# %%
def draw(question=int(some[0]), k=26, by="compressor"):
    scores = {"compressor": net(paid), "relevance": held, "first layer": paid}[by]
    made = Reduction.keep(highest(scores[[question]], k), 256)
    picture = viz.painted(stage.scenes.images[asked.scene[question]], made)
    (words,) = decode(asked.words[[question]])
    return viz.show(viz.images(picture[None], [words], height=2.56), photo=True)


draw()

# %%
by = ["compressor", "relevance", "first layer"]
control = viz.slider(draw, question=(0, len(paid) - 1), k=[16, 26, 64, 128], by=by)
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error over scenes.

# %%
paper = {128: "97.4 % of all tokens' score with half (LLaVA-OneVision)", 64: "92.1 % with a quarter"}
measures = []
for k in (128, 64, 26):
    for ours, other in (("oracle", "explain_compress"), ("explain_compress", "first"), ("first", "lots")):
        margin = facts["gaps"][f"{ours} over {other}, {k}"][1]
        pair = {"than": value[other, k]["per question"], "unit": "%", "paper": paper.get(k, "")}
        name, figure = f"{ours} over {other}, {k} kept", value[ours, k]["per question"]
        if ours == "oracle":
            measures.append(papers.not_worse(name, figure, by=margin, **pair))
        else:
            measures.append(papers.better(name, figure, margin=margin, **pair))

# %%
papers.verdict(
    "explain_compress",
    "Before the language model, the tokens of an explanation are enough; a small network foresees them.",
    measures,
    against="the first layer's attention and five draws by lot: the same cut of the same frozen host",
    data=f"{facts['scenes']} held-out scenes, {facts['questions']} questions to the house's vlm",
)

# %% [markdown]
# ## Where it breaks: relevance is not need; and where it does not: longer rows
#
# Kinds of question apart, with 64 tokens; the last row is [CoViPAL](21_covipal.ipynb), which learns from answers given
# with *fewer* tokens. Below: a second compressor, trained on 64 tokens alone (means of 2 x 2 patches), meets 256:

# %%
kinds = ("exists", "colour", "shape", "count", "relations", "digit")
lines = [("64 kept", *kinds)]
for name in ("lots", "first", "explain_compress", "oracle", "covipal"):
    lines.append((name, *(f"{value[name, 64][kind]:.0f}" for kind in kinds)))
print(aligned(lines))
for k in counts:
    found = ", ".join(
        f"{value[name, k]['per question']:.1f}" for name in ("explain_compress_64", labels["first layer"])
    )
    gap, error = facts["gaps"][f"explain_compress_64 over first, {k}"]
    print(f"{k} kept: trained on 64 tokens, first layer: {found} %; {gap:+.1f} ({error:.1f})")

# %% [markdown]
# For a count relevance names the patches that the answer came from while all were there; lots count better. So it is
# no upper bound: with 64 tokens CoViPAL answers 5.2 points more (twice the standard error is 3.3), with 26 11 less.
# Longer rows do no harm: that compressor is nowhere below the first layer, with 26 above it.
#
# ## Exercises
#
# **1. Your own pruner**, for a batch, given a trained `compressor` (mean paid (b, n) -> scores). The library's tests
# judge it.


# %%
def my_explain_compress(x, k, *, first_attention, asked, compressor):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("explain_compress", method)


check_1(my_explain_compress)

# %% [markdown]
# **2. Without the cut at 0.** The same way back with the mean over heads of $A \nabla A$ as it is. Lists of (b, h, m,
# m), a layer each; returns (b, m).


# %%
def signed(weights, slopes):
    return rollout(weights, slopes)  # replace this: it cuts at 0


# %%
def check_2(signed):
    got = signed([one[0], two[0]], [one[1], two[1]])[0].tolist()
    if difference(torch.tensor(got), torch.tensor([0, -1, 0.25, 0, 1])) > 1e-6:
        return f"by hand token 1 loses 1 to its harm, and passes nothing on: 0, -1, 0.25, 0, 1 should come, not {got}"
    return "right: token 1 did more harm than good"


check_2(signed)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/19_explain_compress.py`.
#
# ## What was left out
#
# Three large models, videos, time.
