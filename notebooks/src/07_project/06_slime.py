# %% [markdown]
# # SliME: the question chooses what it needs of a large picture
#
# **Paper:** Zhang, Wen, Fu and others, *Beyond LLaVA-HD: Diving into High-Resolution Large Multimodal Models*, 2024
# ([arXiv 2406.08487](https://arxiv.org/abs/2406.08487)).
# **Code:** `minitok/project/slime.py`.
# **Read first:** [LLaVA](01_llava.ipynb).
#
# After this lesson you can give a language model a large picture as one view and a few chosen tokens of its crops, and
# test whether a text-guided choice reads the text.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.data.wordings import decode
from minitok.metrics import difference
from minitok.project.slime import SliME, cosines, top_p
from minitok.stages import answers, asking, routed, routers

# %% [markdown]
# ## The problem: crops are read whole, for one digit
#
# A scene of 128 x 128 reaches `vlm_many` as a thumbnail of 64 tokens and four crops of 64. Small digits show in the
# crops only. We ask for every digit of some held-out scenes.

# %%
stage = routed.digits(16)
questions = stage.asked[stage.which]


def answered(method):
    logits = stage.before if method is None else stage.logits(method)
    return answers.row(logits, stage.before, questions.answer[:, 0])


full = answered(None)
thumbnail = answered(routed.Routed(lambda local, text, asked: torch.zeros(local.shape[:2], dtype=torch.bool)))
print(f"{len(questions.kind)} digits; right: {thumbnail.right:.0f} % with 64 tokens, {full.right:.0f} % with 320")

# %%
row = 4
(sentence,) = decode(questions.words[row][None])
photo = stage.scenes.images[questions.scene[row]]
viz.show(viz.images(photo[None], [sentence], height=2.56), photo=True)

# %% [markdown]
# SliME makes the view of the whole richer, compresses the crops, and lets the question choose among their tokens.
#
# ## By hand: the router
#
# Four tokens, two words; a third one fills the row up and does not count. A token's **score** is the sum of its cosines
# to the words.
#
# | token | cosine to (5, 0) | to (0, 1) | score | e^score | share |
# |---|---|---|---|---|---|
# | 0: (3, 0) | 1 | 0 | 1 | 2.72 | 0.28 |
# | 1: (0, 2) | 0 | 1 | 1 | 2.72 | 0.28 |
# | 2: (3, 4) | 0.6 | 0.8 | 1.4 | 4.06 | 0.41 |
# | 3: (-1, 0) | -1 | 0 | -1 | 0.37 | 0.04 |
#
# **Top-p** with p = 0.5: token 2 has 0.41, not above 0.5; with token 0, the first of equals, it is 0.69. Kept, in
# reading order: 0, 2. Where a sum is p exactly, one more is kept.

# %%
local = torch.tensor([[[3.0, 0], [0, 2], [3, 4], [-1, 0]]])
words, asked = torch.tensor([[[5.0, 0], [0, 1], [9, 9]]]), torch.tensor([[True, True, False]])
scores = cosines(local, words, asked)
for i, (score, share) in enumerate(zip(scores[0].tolist(), scores.softmax(-1)[0].tolist(), strict=True)):
    print(f"token {i}: score {score:4.1f}, share {share:.2f}, kept {bool(top_p(scores, 0.5)[0, i])}")
assert difference(scores, torch.tensor([[1, 1, 1.4, -1]])) < 1e-6
assert top_p(scores, 0.5).tolist() == [[True, False, True, False]]
assert top_p(torch.tensor([[0.25, 0.5, 0.25]]).log(), 0.5).tolist() == [[True, True, False]]

# %% [markdown]
# ## By hand: two adapters, mixed
#
# The view's tokens come from two adapters: LLaVA's MLP, and a resampler before it. A gate
# $g = \mathrm{softmax}(x W)$ says how much of each. For x = (2, 1) and W the identity, g = (0.73, 0.27). If they say 1
# and 3, the token is 0.73 + 0.81 = 1.54. In training the logits get noise of width softplus(xW) + 0.01, here 2.14 and
# 1.32, so that neither adapter is forgotten.

# %%
x, W = torch.tensor([2.0, 1.0]), torch.eye(2)
gates = (x @ W).softmax(-1)
mixed = gates @ torch.tensor([1.0, 3.0])
print([round(value, 2) for value in (*gates.tolist(), float(mixed), *(F.softplus(x @ W) + 0.01).tolist())])
assert abs(float(mixed) - 1.54) < 0.005
assert difference(F.softplus(x @ W) + 0.01, torch.tensor([2.137, 1.323])) < 1e-3

# %% [markdown]
# ## The mechanism on real features
#
# **1. The view**: all 256 patches of the thumbnail, through two adapters that share one MLP.

# %%
torch.manual_seed(0)
slime = SliME().eval().requires_grad_(False)
features, question = stage.features[:2], stage.asked.words[:2, 0]
text, asked = stage.host.word(question), question > 0
patches, crops = features[:, :256], features[:, 256:]
gates = (patches @ slime.gate).softmax(-1)
view = gates[..., :1] * slime.mlp(patches) + gates[..., 1:] * slime.mlp(slime.whole(patches))


# %% [markdown]
# **2. A resampler**: learnt queries in a grid gather by one layer of attention; places are added to queries and keys,
# not to values. For a crop 64 queries replace 256 patches.
#
# **3. Reading order.** Four crops of 8 x 8 tokens become 16 rows of 16, as in the whole picture.


# %%
def resample(r, x):
    x = r.norm(x)
    query = (r.norm_query(r.query) + r.own).expand(len(x), -1, -1)
    return r.norm_out(r.attention(query, x + r.places, x)[0])


few = slime.mlp(resample(slime.local, crops.reshape(8, 256, 192)))  # 2 pictures of 4 crops
few = few.view(2, 2, 2, 8, 8, 192).transpose(2, 3).reshape(2, 256, 192)


# %% [markdown]
# **4. The choice**: cosines, softmax, the likeliest until p is passed. In training the scores get noise, 0.1 N(0, 1).
# Choosing has no gradient: the router learns only as its tokens do.


# %%
def choose(local, text, asked, p, temperature):
    alike = F.cosine_similarity(local[:, :, None], text[:, None], dim=-1)
    share = ((alike * asked[:, None]).sum(-1) / temperature).softmax(-1)
    order = share.argsort(dim=1, descending=True)
    many = (share.gather(1, order).cumsum(1) <= p).sum(1) + 1
    return [row[:count].sort().values for row, count in zip(order, many, strict=True)]


assert difference(torch.cat([view, few], 1), slime(features, text=text, asked=asked)) < 1e-4
for p, temperature in ((0.5, 1.0), (0.9, 0.1)):
    kept = top_p(cosines(few, text, asked), p, temperature)
    mine = choose(few, text, asked, p, temperature)
    assert all(torch.equal(a, b.nonzero()[:, 0]) for a, b in zip(mine, kept, strict=True))
    print(f"p = {p}, temperature {temperature}: {kept.sum(1).tolist()} of 256 kept")

# %% [markdown]
# **5. Training in turns.** View and crops could make up for each other's faults. So first the MLP alone with the view
# (`learns(slime, "mlp")`), then the resampler; then the crops' resampler, read without the view; at last all.
#
# ## The recipe
#
# 1. The picture at the encoder's size (the view), and crops of that size; patch features of each, without CLS.
# 2. View: g1 MLP(x) + g2 MLP(resampler(x)), g = softmax(xW), W zero at first; noise in training.
# 3. Crops: a resampler with a quarter as many queries as patches, the same MLP; the picture's raster order.
# 4. Score of a crop's token: the sum over the question's words of cosines between it and their embeddings.
# 5. softmax(score / temperature), sorted; keep until the sum exceeds p; back to reading order.
# 6. The language model reads view, kept tokens, question. k differs from question to question.
# 7. Loss: LLaVA's. In turns: MLP, resampler, crops' resampler, at last everything with the language model.
# 8. Cost: n m products for n tokens and m words; no weights in the router.
#
# | | paper, its code | here |
# |---|---|---|
# | view, crops | 576 tokens; 144 a crop, up to 36 crops | 256; 64 a crop, four crops |
# | between them | a comma's embedding | nothing |
# | noise of the gate | the code takes W again | the same |
# | p, temperature | 1 in pretraining, then 0.95; 1 | chosen below |
#
# ## The experiment, first: the router before a trained host
#
# `vlm_many` was never trained for choosing. Its own tokens take the place of both adapters; its thumbnail, 64 tokens
# (not 256 as in the recipe's view), that of the view: up to 64 + 256 = 320, not 512. The router alone is measured.
#
# We take temperature 0.1 and two values of p. Rivals keep as many tokens in each row: by **lot**, those
# that **another question** about a digit chooses, and those that **random words** do.


# %%
def ranked(score, p):
    def keep(local, text, asked):
        few = top_p(cosines(local, text, asked), p, 0.1).sum(1)
        return routed.most(score(local, text, asked), few)

    return routed.Routed(keep)


drawn = stage.host.word(torch.randint(1, 93, questions.words.shape))  # random words of the house's 92
torch.manual_seed(0)
scores = {"router": cosines, "lot": lambda local, text, asked: torch.rand(local.shape[:2])}
scores |= {"another question": lambda local, text, asked: cosines(local, text.roll(9, 0), asked.roll(9, 0))}
scores |= {"random words": lambda local, text, asked: cosines(local, drawn[: len(local)], asked)}

# %%
found, kept = {}, {}
for p in (0.5, 0.95):
    for name, score in scores.items():
        method = ranked(score, p)
        found[name, p], kept[p] = answered(method), float(method.kept.float().mean())
for p, many in kept.items():
    rights = ", ".join(f"{name} {found[name, p].right:.0f} %" for name in scores)
    cost = stage.cost(64 + round(many)) / 1e6
    print(f"p = {p}, {many:.0f} of 256 tokens, {cost:.0f} million FLOPs: {rights}")
print(f"all: {stage.cost(320) / 1e6:.0f} million FLOPs, thumbnail: {stage.cost(64) / 1e6:.0f}")

# %% [markdown]
# The chosen tokens read far more digits than as many by lot. But another question's words do as well, and even random
# ones choose far better than a lot.
#
# **Second: trained as a whole.** Adapters, resampler and router, 1,200 steps before the frozen language model, with
# numbers of tokens drawn; all kinds of question on 1,000 scenes, from the league. Beside it as many tokens by **lot**
# or **evenly** spaced, a router that **learns**, and SliME trained **in turns**, as the paper does.

# %%
league = {(row["method"], row["tokens"]): row for row in stages.load("project")["rows"] if row["pictures"] == "crops"}
shown = {"slime": "ours: SliME", "slime, by lot": "baseline: by lot", "slime, evenly": "evenly"}
shown |= {"slime, router learns": "the router learns", "slime, in turns": "in turns"}
for score in ("all kinds", "digit"):
    print(f"{score:10}" + "".join(f"{k:>8}" for k in routers.BUDGETS))
    for name, told in shown.items():
        print(f"  {told:20}" + "".join(f"{league[name, k][score]:8.1f}" for k in routers.BUDGETS))
each = {name: [(k, league[name, k]["all kinds"]) for k in routers.BUDGETS] for name in shown}
curves = {told: tuple(zip(*each[name], strict=True)) for name, told in shown.items()}
viz.show(viz.lines(curves, "Trained along, the router loses to a lot", "visual tokens", "all kinds (%)", log="x"))

# %% [markdown]
# Here the router loses: with 384 tokens it reads 81 % of the digits, a lot 93. Nothing has taught compressed tokens and
# words to agree, and a router that learns does no better. Of the 3 points in all kinds 1 is there with all 512 too,
# where nothing is chosen. In turns, relations are learnt less; yet digits bear the choice (90 %).
#
# ## Play: what is kept?


# %%
def draw(question=4, p=0.8, temperature=0.1):
    one = questions[question : question + 1]
    tokens = stage.host.project(stage.features[one.scene])[:, 64:]
    marks = top_p(cosines(tokens, stage.host.word(one.words), one.words > 0), p, temperature)
    grid = marks.view(2, 2, 8, 8).transpose(1, 2).flatten()
    title = f"{decode(one.words)[0]} {int(marks.sum())} tokens"
    return viz.show(viz.patches(stage.scenes.images[one.scene[0]], 8, title, grid), photo=True)


draw()

# %%
control = viz.slider(draw, question=(0, len(questions.kind) - 1), p=(0.1, 1.0), temperature=[0.05, 0.1, 0.2, 1.0])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# First both p together, margins twice the paired difference's standard error; then the league.

# %%
mean = {name: answers.mean([found[name, p] for p in kept]) for name in scores}
ours = mean["router"]
measures = [
    papers.better(f"digits, {name}", ours.right, than=row.right, margin=asking.gap(ours, row)[1], unit="%")
    for name, row in mean.items()
    if name != "router"
]
measures.append(papers.not_worse("digits, all tokens", found["router", 0.95].right, than=full.right, by=5, unit="%"))
pairs = ("slime", "slime, by lot", 384), ("slime", "slime, evenly", 384), ("slime, in turns", "slime", 512)
for name, other, k in pairs:
    ours, than = (league[method, k]["all kinds"] for method in (name, other))
    measures.append(papers.better(f"all kinds, {k}: {name}; {other}", ours, than=than, margin=2, unit="%"))

# %%
papers.verdict(
    "slime",
    "Tokens of crops near to the question's words answer better than as many by lot, and nearly as well as "
    "all; it is this question's words that choose them; training in turns pays.",
    measures,
    against="lots, another question's and random words at equal numbers in each row; retrained: of equal weight",
    data=f"{len(questions.kind)} digits of 16 scenes, vlm_many's own tokens; trained: league, 1,000 scenes",
)

# %% [markdown]
# ## Where it breaks: p means nothing by itself
#
# The paper's temperature, 1, would keep 240 of 256 here:

# %%
tokens = stage.host.project(stage.features[questions.scene])[:, 64:]
scores = cosines(tokens, stage.host.word(questions.words), questions.words > 0)
numbers = {t: float(top_p(scores, 0.95, t).sum(1).float().mean()) for t in (1.0, 0.3, 0.1, 0.03)}
bars = {f"temperature {t}": many for t, many in numbers.items()}
print(", ".join(f"{name}: {many:.0f} of 256" for name, many in bars.items()))
viz.show(viz.bars(bars, "The same p = 0.95 keeps nearly all, or few", "tokens kept of 256"))

# %% [markdown]
# ## Exercises
#
# **1. Your own top-p**, under the library's tests: booleans (b, n); p = 1 keeps all, one outside 0 to 1 raises
# `ValueError`.


# %%
def my_top_p(scores, p, temperature=1.0):
    return (scores / temperature).softmax(-1) > (1 - p) / scores.shape[1]  # replace this: it only looks at each alone


def check_1(method):
    return papers.check("slime.top_p", method)


check_1(my_top_p)

# %% [markdown]
# **2. A router that knows.** `masks` (b, 128, 128) show the object that is asked for. Score the 256 tokens, crop after
# crop, each of 8 x 8 pixels, by how much of the object they show. 16 are kept.


# %%
def covered(masks):
    return torch.zeros(len(masks), 256)  # replace this: it knows nothing


# %%
def check_2(method):
    scores = method(stage.scenes.masks[questions.scene, questions.first])
    if scores.shape != (len(questions.kind), 256):
        return "a score for each of the 256 tokens of each question is wanted"
    logits = stage.logits(routed.Routed(lambda local, text, asked: routed.most(scores, 16)))
    right = 100 * float((logits.argmax(-1) == questions.answer[:, 0]).float().mean())
    told = f"{right:.0f} % with 16 tokens, {full.right:.0f} % with all 256"
    return f"right: {told}" if right > full.right - 5 else f"{told}: are these the object's tokens?"


check_2(covered)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/06_slime.py`.
#
# ## What was left out
#
# Pictures of any shape, and a router with attention. Read on: [VisionThink](13_visionthink.ipynb).
