# %% [markdown]
# # CoreMatching: tokens and neurons that fire together
#
# **Paper:** Wang, Ye, Chung, Liu, Lin, Kuo, Ma, Zhang and Chen, *CoreMatching: A Co-adaptive Sparse Inference Framework
# with Token and Neuron Pruning for Comprehensive Acceleration of Vision-Language Models*, 2025
# ([arXiv 2505.19235](https://arxiv.org/abs/2505.19235)).
# **Code:** `minitok/reduce/corematching.py`.
# **Read first:** [FastV](03_fastv.ipynb).
#
# After this lesson you can rank visual tokens by the neurons that they share with the question, find the elbow of that
# ranking, and let a model answer with two fifths of its neurons.

# %%
from functools import partial

import torch

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, corematching, fastv, highest
from minitok.reduce.corematching import activations, core, elbow, fired, overlap
from minitok.stages.reduce_each import budgets
from minitok.stages.reduce_neurons import decoded

# %% [markdown]
# ## The problem: attention is half of a layer
#
# FastV ranks visual tokens by the attention that the last word pays them. But a layer is also a feed-forward part, here
# of 512 **neurons**: $h = \mathrm{silu}(W_g x) \cdot W_u x$. A neuron with h > 0 *fires*. In each token about half of
# them do:

# %%
stage, layer, k = stages.reduce.stage(scenes=10, host="vlm"), 1, 81
cut = stage.cut(layer).alone(stage.rows, ["neurons", "word_neurons", "asked", "paid"])
x, n = cut.visual, 256
neurons, words, asked, paid = (cut.signals[name] for name in ("neurons", "word_neurons", "asked", "paid"))
block = stage.host.lm.blocks[layer]
assert difference(activations(block.mlp, block.norm2(x)), neurons) < 1e-4
assert difference(block.mlp.out(neurons), block.mlp(block.norm2(x))) < 1e-4
print(f"neurons {tuple(neurons.shape)}; {float(fired(neurons).float().mean()):.0%} of them fire")

# %% [markdown]
# The paper's bet: tokens that matter fire the same neurons as the question. That ranks tokens without attention
# weights, which fast kernels never write out. And the same sets say which neurons the answer needs.
#
# ## By hand: four visual tokens, two words, five neurons
#
# Who fires (1), token by token:
#
# | | neuron 0 | 1 | 2 | 3 | 4 | shared with the last word |
# |---|---|---|---|---|---|---|
# | visual 0 | 1 | 1 | | 1 | | 1 |
# | visual 1 | | 1 | 1 | 1 | 1 | 3 |
# | visual 2 | 1 | | | 1 | | 0 |
# | visual 3 | | | 1 | | 1 | 2 |
# | first word | 1 | | | 1 | 1 | |
# | last word | | 1 | 1 | | 1 | |
# | fire together | 3 | 3 | 3 | 4 | 4 | |
#
# **The code** scores by the last word: 1, 3, 0, 2. **The text** scores by the **core**: with beta = 0.4 the two neurons
# that fire most often, 3 and 4. Then the scores are 1, 2, 1, 1.

# %%
visual = torch.tensor([[[1.0, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]])
said = torch.tensor([[[1.0, 0, 0, 1, 1], [0, 1, 1, 0, 1]]])
print("last word", overlap(visual, said).tolist(), "core", overlap(visual, said, match="core").tolist())
assert overlap(visual, said).tolist() == [[1, 3, 0, 2]]
assert overlap(visual, said, match="core").tolist() == [[1, 2, 1, 1]]
four = torch.zeros(1, 4, 1)
assert corematching(four, 2, neurons=visual, word_neurons=said).order.tolist() == [[1, 3]]

# %% [markdown]
# **The elbow** says how many. Scores 9, 8, 2, 1, 0, sorted: the line from 9 to 0 falls by 2.25 a step, through 9, 6.75,
# 4.5, 2.25, 0. The points lie 0, 1.25, 2.5, 1.25, 0 beside it: the third is the elbow. Only what is *above* its score
# stays: two tokens.

# %%
assert elbow(torch.tensor([[9.0, 2.0, 8.0, 1.0, 0.0]])).tolist() == [2]
print("above the elbow:", elbow(torch.tensor([[9.0, 2.0, 8.0, 1.0, 0.0]])).tolist())

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Sets.** G(t) is what fires in token t; in the paper only the share rho of its largest, in the code all.

# %%
sets, last = neurons > 0, words[:, -1:] > 0
crowd = torch.cat([neurons, words], 1) > 0
crowd[:, n:] &= asked[..., None]  # questions are filled up in front
often = crowd.sum(1)

# %% [markdown]
# **2. The core.** Counts over the whole prompt, not a mean of strengths: one loud token must not decide.

# %%
size = round(0.4 * often.shape[1])
best = often.argsort(dim=-1, descending=True, stable=True)[:, :size]
mine = torch.zeros_like(often, dtype=torch.bool).scatter(1, best, True)
assert torch.equal(mine, core(crowd, 0.4))
print(size, "of", often.shape[1], "neurons are the core")

# %% [markdown]
# **3. Scores and order.** Of equal scores, which are common among whole numbers, the lower place counts.

# %%
by_word, by_core = (sets & last).sum(-1).float(), (sets & mine[:, None]).sum(-1).float()
signals = {"neurons": neurons, "word_neurons": words, "asked": asked}
assert torch.equal(corematching(x, k, **signals).order, highest(by_word, k))
assert torch.equal(corematching(x, k, **signals, match="core").order, highest(by_core, k))
some = torch.stack([by_word[4], by_core[4], paid[4, :, -1].mean(0)])
bright = ((some - some.amin(1, True)) / (some.amax(1, True) - some.amin(1, True))).view(3, 1, 16, 16)
bright = bright.expand(-1, 3, -1, -1).repeat_interleave(4, 2).repeat_interleave(4, 3)
pictures = torch.cat([stage.scenes.images[stage.questions.scene[4]][None], bright])
viz.show(viz.images(pictures, ["the scene", "last word", "core", "attention"], height=1.5), photo=True)

# %% [markdown]
# The core is bright where nothing is. Most tokens are background, so what fires most often is what fires there.
#
# **4. Fewer neurons.** While it answers, the model computes only the core: rows of $W_g$, $W_u$ and columns of the last
# matrix. The lesson's stage lets the last word of each question, which says the answer, pass every layer so.


# %%
def by_crowd(before, there, last, beta=0.4, rho=1.0):
    return core(fired(before, rho) & there[..., None], beta)


def by_lot(before, there, last, beta=0.4):
    lots = torch.rand(last.shape, generator=torch.Generator().manual_seed(0))
    return torch.zeros_like(last, dtype=torch.bool).scatter(1, lots.topk(round(beta * last.shape[1])).indices, True)


betas = (0.2, 0.4)
ways = {f"core {beta}": partial(by_crowd, beta=beta) for beta in betas}
answered = decoded(stage, ways | {f"lots {beta}": partial(by_lot, beta=beta) for beta in betas})
cores, lots = ([answered[f"{name} {beta}"] for beta in betas] for name in ("core", "lots"))

# %% [markdown]
# ## The recipe
#
# 1. In a layer of the language model take $h = \mathrm{silu}(W_g x) \cdot W_u x$ of all tokens of the prompt.
# 2. G(t): neurons with h > 0; with rho < 1 the share rho of them with the largest h, rounded up.
# 3. C: count over all tokens how often each neuron is in G; the round(beta f) highest of f neurons (beta = 0.4).
# 4. Score of a visual token v: $|G(v) \cap C|$, or $|G(v) \cap G(\mathrm{last\ word})|$.
# 5. k: sort the scores, take the point furthest from the line between first and last, keep what is strictly above its
#    score, at least one.
# 6. Keep the k highest (of equals the lower place), in their order and at their places; all words stay.
# 7. Decode with the neurons of C only; each layer has its own.
# 8. Nothing is trained. Cost: n f comparisons a layer, no attention weights.
#
# | | paper | its code | here |
# |---|---|---|---|
# | match with | core of the prompt | one of the last words | the last word; `match="core"` |
# | rho | a share | all positive | all; `rho=` |
# | dropped tokens | do not go on | keys and values zeroed in layers 5 to 19: attention still pays exp(0) | gone |
# | decoding | with C only | with all | both measured |
#
# ## The experiment: which tokens?
#
# FastV's cut: after the attention of layer 1 of 6, 81 of 256 tokens. "Right" is the mean of nine kinds of question
# (relations 2 to 6 each, others 6 to 10); in the verdict all count the same. The elbow gives each question its own
# number.

# %%
rows = {"by lot": stage.measure(stages.reduce.LOTS, k, layer)}
methods = {"ours": corematching, "ours, core": partial(corematching, match="core"), "FastV": fastv}
methods |= {"ToMe": stages.reduce.METHODS["tome"], "attended": stages.reduce.attended, "radial": stages.reduce.radial}
rows |= {name: stage.measure(method, k, layer) for name, method in methods.items()}
rows["pooling"] = stage.measure(stages.reduce.pooling, k, layer)
counts = budgets(stage, lambda x, *, neurons, word_neurons: elbow(overlap(neurons, word_neurons)), layer)
print(stages.reduce.table(rows))
print(f"above the elbow: {float(counts.float().mean()):.0f} tokens, from {int(counts.min())} to {int(counts.max())}")

# %% [markdown]
# It does not hold here. Tokens that fire with the last word are no better than lots, and those of the core are the
# worst that one can keep: they show background. Attention, which the paper wants to replace, holds more of the object.
# And the elbow of so smooth a curve leaves half of all tokens, or nine, or nearly all.
#
# **Which neurons?** The other half of the paper does better:

# %%
series = {
    "ours: core": ((20, 40, 100), [row.loyal for row in (*cores, stage.full)]),
    "baseline: by lot": ((20, 40, 100), [row.loyal for row in (*lots, stage.full)]),
}
axis = "neurons that the last word computes (%)"
viz.show(viz.lines(series, "The crowd's neurons serve the answer", axis, "answers as before (%)"))

# %% [markdown]
# With the 40 % of neurons that the prompt fires most, nearly every answer stays. But so it does with lots.
#
# ## Play: scores and elbow


# %%
def draw(question=4, match="last", rho=1.0):
    score = overlap(neurons[[question]], words[[question]], asked[[question]], match, rho)
    curve, count = score[0].sort(descending=True).values.tolist(), int(elbow(score))
    ends = [curve[0] + (curve[-1] - curve[0]) * i / 255 for i in range(256)]
    at, axes = range(0, 256, 15), ("tokens, sorted", "neurons shared")
    series = {"scores": (at, [curve[i] for i in at]), "line": (at, [ends[i] for i in at])}
    return viz.show(viz.lines(series, f"{count} tokens are above the elbow", *axes))


draw()

# %%
control = viz.slider(draw, question=(0, 40), match=["last", "core"], rho=[0.2, 0.5, 1.0])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over scenes.

# %%
measures, ours = [], rows["ours"]
for row, name in ((ours, "by lot"), (ours, "FastV"), (rows["ours, core"], "by lot")):
    margin = 100 * stages.reduce.gap(row, rows[name], of="correct")[1]
    who = f"per question, 81 kept{', core' if row is not ours else ''}, {name}"
    measures.append(papers.better(who, row.right, than=rows[name].right, margin=margin, unit="%"))
found = {"than": rows["FastV"].found, "margin": 0, "unit": "%"}
measures.append(papers.better("object kept, FastV", ours.found, **found))
few = {"than": 100.0, "by": 5, "unit": "%", "paper": "nearly lossless at 40 %"}
measures.append(papers.not_worse("loyal, 40 % of neurons, all", cores[1].loyal, **few))
margin = 100 * stages.reduce.gap(cores[1], lots[1], of="same")[1]
measures.append(papers.better("loyal, 40 %, by lot", cores[1].loyal, than=lots[1].loyal, margin=margin, unit="%"))

# %%
papers.verdict(
    "corematching",
    "Tokens that fire the question's neurons keep the answer, and the neurons that fire most are enough to say it.",
    measures,
    against="five draws of tokens, FastV, the core of the whole prompt, after layer 1; one draw of neurons",
    data=f"10 held-out scenes, {len(stage.rows)} questions to the house's vlm",
)

# %% [markdown]
# ## Where it breaks: the theory, and who fires much
#
# The paper proves, under assumptions, that overlap tracks the cosine between what two tokens get from the layer, better
# than attention does. Rank correlations over the 256 tokens of a question, on average:


# %%
def ranks(values):
    order = values.argsort(-1).argsort(-1).float()
    return torch.nn.functional.normalize(order - order.mean(-1, keepdim=True), dim=-1)


given = block.mlp.out(neurons), block.mlp.out(words[:, -1:])
cosine = torch.nn.functional.cosine_similarity(*given, dim=-1)
for name, score in {"overlap": by_word, "attention": paid[:, :, -1].mean(1)}.items():
    print(f"{name:9} with the cosine: {float((ranks(score) * ranks(cosine)).sum(-1).mean()):+.1f}")
much = sets.sum(-1).float()
print(f"overlap with how many neurons a token fires: {float((ranks(by_word) * ranks(much)).sum(-1).mean()):+.1f}")

# %% [markdown]
# Overlap hardly knows the cosine; it knows who fires much. Neurons here fire in half of all tokens, so sets overlap by
# size more than by meaning. The paper's models are a thousand times larger, and their neurons more choosy.
#
# ## Exercises
#
# **1. Your own CoreMatching**, for a batch. The library's tests judge it.


# %%
def my_corematching(x, k, *, neurons, word_neurons, asked=None, match="last", rho=1.0, beta=0.4):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("corematching", method)


check_1(my_corematching)

# %% [markdown]
# **2. Fair to the quiet.** Divide the overlap of two sets by the size of their union (Jaccard), so that a token that
# fires much has no advantage: neurons (b, n, f), the last word's (b, 1, f), scores (b, n).


# %%
def jaccard(neurons, last):
    return ((neurons > 0) & (last > 0)).sum(-1).float()  # replace this: it does not divide


# %%
def check_2(score):
    if difference(found := score(visual, said[:, -1:]), torch.tensor([[1 / 5, 3 / 4, 0, 2 / 3]])) > 1e-4:
        return f"by hand the scores are 1/5, 3/4, 0 and 2/3, not {found.tolist()}"

    def method(x, k, *, neurons, word_neurons):
        return Reduction.keep(highest(score(neurons, word_neurons[:, -1:]), k), n)

    row = stage.measure(method, k, layer)
    return f"right: {row.found:.0f} % of the object is kept, without dividing {ours.found:.0f} %"


check_2(jaccard)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/24_corematching.py`.
#
# ## What was left out
#
# Pruning again in each of fifteen layers, long answers, and speed: the paper's gain is in loading fewer weights. Read
# on: [FastV](03_fastv.ipynb) for attention, [FoPru](13_fopru.ipynb) for the encoder's.
