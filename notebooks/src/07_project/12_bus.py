# %% [markdown]
# # BUS: the question chooses the patches, a small decoder sums them up
#
# **Paper:** Jiang, Xu, Ye, Ye, Li, Yan, Bi, Zhang, Huang and Huang, *BUS: Efficient and Effective Vision-language
# Pre-training with Bottom-Up Patch Summarization*, 2023 ([arXiv 2307.08504](https://arxiv.org/abs/2307.08504)).
# **Code:** `minitok/project/bus.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can build a selector that hears the question inside a ViT, train it with a loss of its own, and
# say when it pays. Of the paper we could read the abstract and summaries; the recipe says which choices are ours.

# %%
from textwrap import fill

import torch
import torch.nn.functional as F

from minitok import metrics, papers, stages, viz
from minitok.data.wordings import decode
from minitok.metrics import difference
from minitok.optimizers import AdamW
from minitok.project.bus import BUS, Selector, Short, matching_loss, patches_of, select
from minitok.stages import by_kind
from minitok.stages.selecting import named, recall

# %% [markdown]
# ## The problem: most of a picture is not asked for
#
# "What digit is on the red star?" is about a tenth of the patches. A projector that does not hear the question must
# keep everything in its few tokens. Here a **resampler**: 16 learnt queries look at all 256 patches.

# %%
stage = stages.project.stage(scenes=10)
host = stage.host
blind = stage.measure(stages.project.trained("resampler", 16), 16)
print(stages.project.table({"the host, 256": stage.full, "resampler, 16": blind}))

# %% [markdown]
# BUS first extracts, then abstracts. Inside the ViT a selector keeps the patches that fit the question, which makes the
# later layers cheap; behind it a small decoder writes the summary. Two questions, and the 32 patches kept:

# %%
bus, seen = stages.project.trained("bus", 16), []
host.vit.tokens(stage.pictures, lambda layer: seen.append(layer.hidden[:, 1:]) if layer.index == bus.layer else None)
inside = seen[0]  # the patches after the attention of the third layer, (10, 256, 192)


def draw(scene=3, slot=4, u=32):
    words = stage.asked.words[scene, [0, slot]]
    logits = bus.selector(inside[[scene, scene]], host.word(words), words > 0)
    keep = (select(logits, u)[:, :-1].sum(1) > 0).view(2, 1, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3)
    bright = 0.15 + 0.85 * torch.cat([torch.ones(1, 1, 64, 64), keep])
    titles = ["the scene", *(fill(question, 24) for question in decode(words))]
    return viz.show(viz.images(stage.pictures[scene] * bright, titles, height=2.56), photo=True)


draw()

# %% [markdown]
# ## By hand: five patches, two stay
#
# Each patch has a score s between 0 and 1. The two highest stay, in their order; the others become **one** token,
# weighed by their scores: 0.5, 0.1 and 0.2 of 0.8.
#
# | patch | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | s | 0.5 | 0.9 | 0.1 | 0.9 | 0.2 |
# | value | 8 | 1 | 16 | 2 | 4 |
# | weight in the fused token | 0.625 | - | 0.125 | - | 0.25 |
#
# Fused: 5 + 2 + 1 = 8, so 1, 2, 8 go on. A choice has no gradient; through the fused token some reaches the scores, but
# it says little about who should stay.

# %%
s = torch.tensor([[0.5, 0.9, 0.1, 0.9, 0.2]])
values = torch.tensor([[8.0], [1.0], [16.0], [2.0], [4.0]])
print((select(s.logit(), 2)[0] @ values).flatten().tolist())
assert difference(select(s.logit(), 2)[0] @ values, torch.tensor([[1.0], [2.0], [8.0]])) < 1e-5

# %% [markdown]
# So the selector has a loss of its own, **patch-text matching**. Label 1: the patch overlaps the box of an object that
# the question names. Patches are 4 pixels wide; a box from x = 3 to 8 overlaps patches 0 (3 to 4) and 1 (4 to 8), and
# only touches patch 2. If 1 and 3 have label 1 above, the loss is the mean of $-\log s$ there and $-\log(1 - s)$
# elsewhere: (0.693 + 0.105 + 0.105 + 0.105 + 0.223) / 5 = 0.246.

# %%
box = torch.tensor([[[3.0, 0.0, 8.0, 4.0]]])
print(patches_of(box, torch.tensor([[True]]), side=3).int().tolist())
loss = matching_loss(s.logit(), torch.tensor([[False, True, False, True, False]]))
print(f"{float(loss):.3f}")
assert difference(loss, torch.tensor([0.5, 0.9, 0.9, 0.9, 0.8]).log().mean().neg()) < 1e-6

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Patch and question meet** in an MLP of both, side by side. The question is one vector t: the mean of its embedded
# words. A dot product would ask that patches and words live in one space; nothing made them.


# %%
def judge(selector, x, text, asked):
    t = (text * asked[..., None]).sum(1) / asked.sum(1, keepdim=True)
    both = torch.cat([selector.norm(x), selector.norm_text(t)[:, None].expand_as(x)], -1)
    first = torch.cat([selector.see.weight, selector.hear.weight], 1)
    return selector.out(F.gelu(both @ first.T + selector.see.bias))[..., 0]


rows, slots = (stage.which & (stage.asked.first >= 0)).nonzero(as_tuple=True)
asked = stage.asked[rows, slots]  # the questions about objects that are there
text, real = host.word(asked.words), asked.words > 0
logits = judge(bus.selector, inside[rows], text, real)
assert difference(logits, bus.selector(inside[rows], text, real)) < 1e-3

# %% [markdown]
# **2. Its own loss trains it.** A fresh selector, forty steps on every second question; its **recall** on the others:
# of the patches that overlap what is asked for, how many are among the 32 that stay (where more overlap, of 32; by lot
# about 18 %).

# %%
torch.manual_seed(1)
fresh, wanted = Selector(), patches_of(stage.scenes.boxes[rows], named(asked))
optimizer = AdamW(fresh.parameters(), lr=3e-3)
for _ in range(40):
    loss = matching_loss(fresh(inside[rows[::2]], text[::2], real[::2]), wanted[::2])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
keep = select(fresh(inside[rows[1::2]], text[1::2], real[1::2]), 32)[:, :-1].sum(1) > 0
share = (keep & wanted[1::2]).sum(1) / wanted[1::2].sum(1).clamp(max=32)
print(f"loss {loss.item():.2f} (a guess of 1/2: 0.69); recall on other questions {float(share.mean()):.0%}")
assert loss.item() < 0.35

# %% [markdown]
# **3. Inside the ViT.** Between attention and feed-forward part of the third layer, CLS, 32 patches and the fused one
# take the place of 257 tokens. Behind the ViT, all of it would have run on all patches; before it, the selector would
# see raw patches.


# %%
def shortened(layer):
    if layer.index != 2:
        return None
    rows = select(bus.selector(layer.hidden[:, 1:], text[:2], real[:2]), 32)
    matrix = torch.zeros(2, 34, 257)
    matrix[:, 0, 0], matrix[:, 1:, 1:] = 1, rows  # CLS stays
    return Short(matrix)


kept = host.vit.tokens(stage.pictures[rows[:2]], shortened)
print(tuple(kept.shape))

# %% [markdown]
# **4. PAD**, the decoder: in each of two layers 16 learnt queries look at one another, then at what was kept, then
# think. LLaVA's two layers follow. What you built is what the library has:


# %%
def abstract(q, kept):
    for layer in bus.decoder:
        normed = layer.norms[0](q)
        q = q + layer.among(normed, normed)  # attention of the queries to themselves
        q = q + layer.into(layer.norms[1](q), kept)  # and to the patches
        q = q + layer.think(layer.norms[2](q))
    return bus.mlp(bus.norm(q))


summary = abstract(bus.queries.expand(2, -1, -1), kept)
assert difference(kept, bus.see(host.vit, stage.pictures[rows[:2]], text[:2], real[:2])) < 1e-3
assert difference(summary, bus.summary(kept)) < 1e-3

# %% [markdown]
# ## The recipe
#
# 1. Inside a ViT, after some layer: patches v_i, and the question as one vector t.
# 2. s_i = sigmoid(MLP([v_i; t])) for each patch; CLS is not judged.
# 3. Keep CLS and the u patches of the highest s, in raster order; of equal ones the lower index.
# 4. Fuse the rest into one token, the mean weighed by s. It stands last.
# 5. The layers that remain run on these u + 2 tokens.
# 6. PAD: m learnt queries through a few decoder layers that look at these, then to the language model's width: m
#    tokens, before the words.
# 7. Loss: the answers' words, plus patch-text matching: the mean binary cross-entropy of s_i with label 1 where patch i
#    overlaps the box of an object that the text names.
# 8. Cost: the selector looks at all n patches; the ViT's later layers and the language model at few.
#
# | | paper | here |
# |---|---|---|
# | place, u, m | not read | after the attention of layer 3 of 6; 32 of 256; 16 or 4 |
# | t | the text encoder's [CLS] | the mean of the words' embeddings |
# | queries of PAD | not read | learnt; two layers, 96 channels |
# | losses beside matching | ITC, ITM, MLM, PrefixLM | the answers' words |
# | trained | everything | selector and PAD; ViT and language model frozen |
# | boxes for counts | not read | those of all objects |
#
# ## The experiment: who chooses the patches?
#
# Four selectors before the same PAD, trained for the same steps: by lot; by what CLS pays to a patch in that layer; the
# selector without its matching loss; and BUS. First: what do they find?

# %%
tried = {"ours: BUS": "bus", "no matching": "bus, no matching", "by CLS": "bus, by CLS", "by lot": "bus, by lot"}
trained = {told: stages.project.trained(name, 16) for told, name in tried.items()}
finds = {told: recall(stage, method) for told, method in trained.items()}
found = {told: float(each.mean()) for told, each in finds.items()}
live = stage.measure(bus, 16)
gap, error = stages.answers.gap(live, blind)
print(f"answers moved from the host's: {live.moved:.2f} bits, the resampler's {gap:+.2f} +- {error:.2f} further")
assert found["ours: BUS"] > max(found["no matching"], found["by lot"])
axis = "patches found of those asked for (%), 32 of 256 kept"
viz.show(viz.bars(found, "Matching finds most of what is asked for", axis))


# %%
league = {(row["method"], row["tokens"]): row for row in stages.load("project")["rows"] if row["pictures"] == "scenes"}
rows_of = [(name, 16) for name in (*tried.values(), "resampler", "pooling", "pixel shuffle")]
rows_of += [(name, 4) for name in ("bus", "resampler", "pooling", "llava_mini")]
head = ("all kinds", "exists", "colour", "count", "left", "digit", "own", "parameters")
lines = [(name, str(k), *(viz.shown(league[name, k][score]) for score in head)) for name, k in rows_of]
print(viz.aligned([("4,000 scenes", "tokens", *head), *lines]))

# %% [markdown]
# "Own" is in million FLOPs, for BUS with the encoder's run, which hears the question; the others' encoder, 1,780 once a
# picture, is not counted. Matching is worth 21 points: without it lots answer more. Hearing the question
# is worth 8 against CLS, 25 for digits. But BUS guesses relations, as all learnt queries of this league do. Means and
# shuffles of squares hear nothing, know relations (means above and below), and answer more. With 4 tokens BUS leads
# pooling and resampler, and LLaVA-Mini leads BUS.
#
# ## Play: what is kept?
#
# Choose a scene, a second question (1: colour, 2: shape, 3: count, 4 and 5: relations, 6: digit) and u.

# %%
control = viz.slider(draw, scene=(0, 9), slot=(1, 6), u=[4, 8, 16, 32, 64, 128])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Right answers are the league's; a margin is twice the standard error of the paired difference, at most. Recall is
# this lesson's, its margin twice the standard error over the same questions.


# %%
def against(name, k=16):
    ours, other = league["bus", k], league[name, k]
    given = {"than": other["all kinds"], "margin": by_kind.apart(ours, other), "unit": "%", "tolerance": 0}
    return papers.better(f"right, {k}, {name}", ours["all kinds"], **given)


measures = [against(name, k) for name, k in rows_of if name not in ("bus", "llava_mini")]
apart = finds["ours: BUS"] - finds["no matching"]
error, low = 2 * float(apart.std() / len(apart) ** 0.5), found["no matching"]
measures += [papers.better("recall, no matching", found["ours: BUS"], than=low, margin=error, unit="%")]

# %%
one = stage.pictures[:1]
whole = metrics.flops(host.vit.tokens, one)
short = metrics.flops(lambda: bus.summary(bus.see(host.vit, one, text[:1], real[:1])))
plain = whole + metrics.flops(stages.project.trained("resampler", 16), stage.features[:1])
asks = {"margin": 0, "higher": False, "unit": "million FLOPs", "paper": "half the training time, as good or better"}
measures += [papers.better("encoder and projector, resampler", short / 1e6, than=plain / 1e6, **asks)]

# %%
papers.verdict(
    "bus",
    "Patches chosen by a selector with a matching loss answer better than lots, CLS, no matching, or hearing nothing.",
    measures,
    against="lots, CLS, no matching before the same decoder; resampler, means, pixel shuffle; equal steps",
    data=f"the chapter's league: 4,000 held-out scenes; recall: {len(apart)} questions on 10",
)

# %% [markdown]
# ## Where it breaks: a second question
#
# BUS looks anew for each question, but for the layers before the selector.
# Encoder, projector and language model together, for several questions about one picture:

# %%
shared = whole * 2.5 / 6  # two layers and a half before the selector
cost = {"ours: BUS": lambda q: shared + q * (short - shared), "baseline: resampler, once": lambda q: plain}
many = (1, 2, 4, 8)
curves = {name: (many, [(of(q) + q * stage.cost(16)) / 1e6 for q in many]) for name, of in cost.items()}
title, axis = "One question: BUS is cheaper. Many: it is not", "questions about one picture"
viz.show(viz.lines(curves, title, axis, "million FLOPs", log="x"))

# %% [markdown]
# ## Exercises
#
# **1. Your own BUS.** The parts are there; write `summary` (PAD, with its check of k)
# and `forward` (select among features, sum up). The library's tests judge it.


# %%
class MyBUS(BUS):
    def summary(self, kept, k=None):
        return self.mlp(self.norm(self.queries)).expand(len(kept), -1, -1)  # replace this: it looks at nothing

    def forward(self, x, k=None, *, text, asked):
        return self.summary(x, k)


def check_1(method):
    return papers.check("bus", method)


check_1(MyBUS)

# %% [markdown]
# **2. A stricter label.** A box must cover at least half of a patch: `boxes` (b, m, 4) hold (left, top, right, bottom)
# in pixels, `which` (b, m) says which count, and the grid is 16 x 16 patches of 4 pixels. Return (b, 256) booleans.


# %%
def half_covered(boxes, which):
    return patches_of(boxes, which)  # replace this: any overlap counts


def check_2(label):
    boxes, which = stage.scenes.boxes, stage.scenes.present
    pixel = torch.arange(64) + 0.5
    over = [(boxes[..., i, None] < pixel) & (pixel < boxes[..., i + 2, None]) for i in (0, 1)]  # x, then y
    area = F.avg_pool2d((over[1][..., :, None] & over[0][..., None, :]).float(), 4).flatten(2)
    right = ((area >= 0.5) & which[..., None]).any(1)
    if not torch.equal(label(boxes, which), right):
        return f"{int((label(boxes, which) != right).sum())} of {right.numel()} labels differ"
    return f"right: {int(right.sum())} patches count, {int(patches_of(boxes, which).sum())} by any overlap"


check_2(half_covered)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/12_bus.py`.
#
# ## What was left out
#
# The paper trains all parts from pictures with texts, and spends the time saved on larger pictures. Read on:
# [LLaVA-Mini](09_llava_mini.ipynb) lets words meet all patches before the language model,
# [VisionThink](13_visionthink.ipynb) learns when to ask for more.
