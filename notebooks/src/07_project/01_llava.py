# %% [markdown]
# # LLaVA's projector: a picture as words
#
# **Paper:** Liu, Li, Wu and Lee, *Visual Instruction Tuning*, 2023 ([arXiv
# 2304.08485](https://arxiv.org/abs/2304.08485)), LLaVA; its two layers come from *Improved Baselines with Visual
# Instruction Tuning*, 2023 ([arXiv 2310.03744](https://arxiv.org/abs/2310.03744)), LLaVA-1.5. **Code:**
# `minitok/project/llava.py`. **Read first:** nothing; this is the chapter's first lesson. You should know what a
# transformer's embedding is.
#
# After this lesson you can join a vision encoder to a language model, say which parts of it are trained when and on
# which words, and what it costs.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from minitok import papers, stages, viz
from minitok.data.wordings import WORDS, decode
from minitok.metrics import difference
from minitok.project import LLaVA
from minitok.project.llava import answer_loss, learns

# %% [markdown]
# ## The problem: features are no words
#
# A language model reads vectors: each word of its vocabulary has one. A vision encoder writes vectors: one for each
# patch of a picture. Both are 192 numbers here, so nothing stops us from putting the one in place of the other.
#
# The chapter's stage is a small vision-language model that we trained on rendered scenes: a ViT that cuts 64 x 64
# pixels into 256 patches, a **projector**, and a causal language model that reads 256 visual tokens, then a question.

# %%
stage = stages.project.stage(scenes=20)
host = stage.host
scene = 3
viz.show(viz.images(stage.scenes.images[scene : scene + 1], ["a held-out scene"], height=1.92), photo=True)

# %%
for slot in range(stage.asked.words.shape[1]):
    row = stage.asked[scene, slot]
    if row.kind >= 0:
        (question,) = decode(row.words[None])
        answer, share = next(iter(stage.says(scene, question, most=1).items()))
        print(f"{question:55} {answer:8} {share:5.1%}   right: {WORDS[row.answer[0]]}")

# %% [markdown]
# Now without the projector: the patches' features go to the language model as they are. `nn.Identity()` is a projector
# that does nothing. "All kinds" is the mean of right answers over the nine kinds of question, "loyal" the share of
# answers that are those of the host with its own projector.

# %%
raw = stage.measure(nn.Identity())
print(stages.project.table({"its own projector": stage.full, "raw features": raw}))
assert raw.even < stage.full.even - 30

# %% [markdown]
# The answers are gone, though every number that the ViT computed is there. What is missing is a translation.
#
# ## By hand: one patch
#
# LLaVA translates each patch by itself with one matrix, $h = W x$; LLaVA-1.5 with two layers,
# $h = W_2 \, \mathrm{gelu}(W_1 x + b_1) + b_2$. Take features of width 2, a language model of width 3, no shifts, and
# $x = (3, 4)$:
#
# | W | times x |
# |---|---|
# | (1, 0) | 3 |
# | (0, 2) | 8 |
# | (1, 1) | 7 |
#
# So h = (3, 8, 7). With 256 patches there are 256 such h: k = n, and no patch sees another.

# %%
one = LLaVA(c=2, d=3, depth=1).requires_grad_(False)
one.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
one.layers[0].bias.zero_()
print(one(torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])).tolist())
assert one(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[3, 8, 7]]]

# %% [markdown]
# ## By hand: which words are learnt
#
# The row that the language model reads is: visual tokens, question, answer. Each place says what comes **next**, so the
# word at place i is judged by what was said at place i - 1. Only the answer's words are judged, its full stop too:
#
# | place | 0 | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|---|
# | word | what | colour | ? | red | . | - |
# | judged by place | | | | 2 | 3 | |
# | chance given to it | | | | 1/2 | 1/4 | |
#
# The loss is the mean of $-\log$ of these: $(\log 2 + \log 4) / 2 = 1.5 \log 2 = 1.04$. The `-` only fills the row up.

# %%
words = torch.tensor([[5, 6, 7, 1, 2, 0]])  # what colour ? red . -
chance = torch.full((1, 6, 8), 1 / 8)  # what is said after each of them, over 8 words
chance[0, 2] = torch.tensor([0.1, 0.5, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0])
chance[0, 3] = torch.tensor([0.25, 0.1, 0.25, 0.1, 0.1, 0.1, 0.1, 0.0])
loss = answer_loss(chance.log(), words, asked=3)
print(f"{float(loss):.3f}")
assert difference(loss, 1.5 * torch.tensor(2.0).log()) < 1e-6

# %% [markdown]
# Why not learn the question too? Its words do not depend on the picture alone; most of the loss would be spent on
# guessing what somebody might ask. And in use the question is always given.
#
# ## The mechanism on real tokens
#
# **1. Where the features are taken.** The encoder's patch tokens, without CLS. The paper takes them one layer before
# the last, since the last layer of CLIP was trained for its CLS token only; our ViT's last layer was asked for each
# patch, so we take that.

# %%
tokens = host.vit.tokens(stage.scenes.images[:2])
x = tokens[:, 1:]  # CLS stands first
print(tuple(tokens.shape), "->", tuple(x.shape))
assert difference(x, stage.features[:2]) < 1e-4

# %% [markdown]
# **2. Two layers between.** One matrix can turn and stretch; the non-linearity between two can also decide ("if red,
# then ..."). A whole transformer here, or a resampler with learnt queries, was usual before LLaVA: more to train, and
# more that must be learnt before anything is read.


# %%
def project(x, weight1, bias1, weight2, bias2):
    return F.gelu(x @ weight1.T + bias1) @ weight2.T + bias2


# %% [markdown]
# **3. In front of the words.** The projected patches take the places 0 to 255, the question's words those from 256 on,
# and a causal mask lets each see what came before it. So the question sees the picture, and the picture does not see
# the question: it is read once for all questions about it.


# %%
def answer(visual, question):
    row = torch.cat([visual, host.word(question)], dim=1)
    return host.head(host.lm(row, "causal")[:, -1])  # what is said after the last word, "?"


question = stage.asked.words[:2, 0]
assert difference(answer(host.project(x), question), host.answer_logits(host.project(x), question)) < 1e-3

# %% [markdown]
# **4. Two stages.** Stage 1 trains the projector alone: the encoder already sees, the language model already speaks,
# and an untrained projector would only spoil both. Stage 2 trains the language model too, so that it learns to answer
# instructions; the encoder stays as it is. Here is stage 1 in small: a few steps on a few scenes, with the answers of
# one kind of question.

# %%
torch.manual_seed(0)
fresh = LLaVA()
optimizer = torch.optim.AdamW(learns(fresh, host.lm, stage=1), lr=3e-3)
asked, losses = stage.asked[:, 0], []
row = torch.cat([asked.words, asked.answer[:, :2]], dim=1)
for step in range(9):
    some = torch.arange(2) + 2 * step
    read = host.read(fresh(stage.features[some]), row[some])
    losses.append(answer_loss(host.head(read), row[some], asked=asked.words.shape[1]))
    optimizer.zero_grad()
    losses[-1].backward()
    optimizer.step()

# %%
first, last = (torch.stack(part).mean().detach() for part in (losses[:3], losses[-3:]))
print(f"loss, first and last three steps: {first:.2f} {last:.2f}")
assert last < first / 1.5
assert all(parameter.grad is None for parameter in host.parameters())

# %% [markdown]
# The loss fell; only the projector has gradients. So far it has learnt what an answer looks like, not what is in the
# picture. With scenes enough this goes on until it reads: that took a minute on a GPU, and its weights are here.

# %%
trained = stages.project.trained("llava", 256)
mine = project(stage.features, *trained.layers[0].parameters(), *trained.layers[2].parameters())
assert difference(mine, trained(stage.features)) < 1e-4
print("what you built is what `LLaVA` computes:", tuple(mine.shape))

# %% [markdown]
# ## The recipe
#
# 1. A vision encoder and a language model, both trained already. Features: the encoder's patch tokens, without CLS.
# 2. Projector: Linear(c, d), GELU, Linear(d, d), with shifts; for each patch by itself. k = n.
# 3. Row: projected patches, then the question's words, then the answer's, then its end. Causal mask.
# 4. Loss: the mean cross-entropy of the answer's words and its end, each judged by the place before it.
# 5. Stage 1: train the projector alone (paper: 595,000 captions, one epoch, learning rate 2e-3).
# 6. Stage 2: projector and language model (paper: 158,000 conversations, three epochs, 2e-5). Never the encoder.
# 7. Cost: c d + d d + 2 d parameters; the language model reads n more tokens for every question.
#
# | | papers | here |
# |---|---|---|
# | features | last layer but one of CLIP ViT-L, 256 (LLaVA) or 576 (LLaVA-1.5) | last layer of our ViT, 256 |
# | language model | Vicuna, 7 or 13 billion | 2.7 million, which has only ever read of scenes |
# | stages | both | stage 1: the host was trained as one, then its projector taken out |
# | answers | sentences | one word and a full stop, or a caption |
#
# ## The experiment: one layer, two layers, none
#
# All projectors below were trained for the same steps on the same questions, before the same frozen ViT and language
# model. Two of them use 64 tokens: the mean of each square of four patches (**pooling**), and the four side by side
# (**pixel shuffle**), each with LLaVA's two layers behind. "LM cost" is the language model's for one question, "own
# cost" the projector's, both as a share of the language model's with all 256. The host's own is twice as wide inside.

# %%
found = {"two layers": stage.measure(trained), "raw features": raw}
found["one layer"] = stage.measure(stages.project.trained("llava, one layer", 256))
for name in ("pooling", "pixel shuffle"):
    found[f"{name}, 64"] = stage.measure(stages.project.trained(name, 64))
print(stages.project.table({"the host's own": stage.full} | found))

# %%
bars = {f"{'ours: ' if name == 'two layers' else ''}{name}": row.even for name, row in found.items()}
viz.show(viz.bars(bars, "A projector alone makes a frozen model read", "right answers (%), mean of nine kinds"))

# %% [markdown]
# The same on 4,000 scenes, with fewer tokens too, from the chapter's league:

# %%
facts = stages.load("project")
rows = [row for row in facts["rows"] if row["method"] in ("llava", "llava, one layer", "pooling", "pixel shuffle")]
scores = {name: facts["scores"][name] for name in ("all kinds", "loyal", "colour", "left", "digit", "cost")}
shown = [{name: row[name] for name in ("method", "tokens", *scores)} for row in rows]
print(stages.table(facts | {"scores": scores, "rows": shown}))

# %% [markdown]
# One matrix reads as well as two layers here: both are at the ceiling, since our ViT was asked during its training what
# stands at each patch, and a language model that has only read of scenes needs few words. So whether the second layer
# helps cannot be told here; the papers' encoder was trained on captions of whole pictures, and there it does. With 64
# means it is the relations (left) that go first; at 16 they are guessed, at 4 all kinds of question suffer. Pixel
# shuffle loses next to nothing between 64 and 16.
#
# ## Play: what does it say?
#
# Choose a scene, a question and the projector between.

# %%
between = {"two layers": trained, "raw features": nn.Identity()}
asks = ["how many objects are there ?", "what do you see ?", "which objects are there ?"]


def ask(scene=3, question="how many objects are there ?", projector="two layers"):
    told = stage.says(scene, question, between[projector])
    title = ", ".join(f"{word} {share:.0%}" for word, share in told.items())
    return viz.show(viz.images(stage.scenes.images[scene : scene + 1], [title], height=2.56), photo=True)


ask()

# %%
control = viz.slider(ask, scene=(0, 19), question=asks, projector=list(between))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
league = {(row["method"], row["tokens"]): row for row in rows}
two, single = league["llava", 256], league["llava, one layer", 256]
own = "MM-Vet 27.8 against 26.3, GQA 47.3 against 46.8 (LLaVA-1.5, table of its scaling results)"
measures = [
    papers.better("all kinds, raw features", found["two layers"].even, than=raw.even, margin=30, unit="%"),
    papers.better("all kinds, one layer", two["all kinds"], than=single["all kinds"], margin=0.5, unit="%", paper=own),
    papers.not_worse("all kinds, the host's own", found["two layers"].even, than=stage.full.even, by=3, unit="%"),
]

# %%
papers.verdict(
    "llava",
    "A small projector, trained alone, makes a frozen language model read a frozen encoder; two layers do it better.",
    measures,
    against="raw features, one layer (4,000 scenes, equal steps), the host's own projector, trained with the rest",
    data=f"{len(stage.features)} held-out scenes, {int(stage.which.sum())} questions; one layer: the chapter's league",
)

# %% [markdown]
# ## Where it breaks: every patch is paid for
#
# The language model reads 256 visual tokens for a question of at most 12 words. Can we just leave some out? The trained
# projector, with every second, every fourth, every eighth patch. Fewer tokens stand in the middle of equal spans of
# the 256 places (of every eighth: 3.5, 11.5, ...), so nearly where their patches were:

# %%
thin = {every: stage.measure(lambda x, every=every: trained(x[:, ::every])) for every in (2, 4, 8)}
kinds = {
    kind: ([256 // every for every in thin], [row.of(kind) for row in thin.values()]) for kind in ("exists", "digit")
}
viz.show(viz.lines(kinds, "Fewer patches, fewer answers", "visual tokens", "right (%)", log="x"))

# %% [markdown]
# Half can go, since each patch of our ViT knows its neighbours; 32 cannot. Nothing in LLaVA's projector can say the
# same in fewer tokens: k is n. The rest of this chapter is about projectors that can.
#
# ## Exercises
#
# **1. Your own projector**, of any depth, under the library's tests. `LLaVA(c, d, depth)` keeps its layers in
# `self.layers`, an `nn.Sequential`, so that weights can be loaded; called with another k than n it raises `ValueError`.


# %%
class MyLLaVA(nn.Module):
    def __init__(self, c=192, d=192, depth=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(c, d))  # replace this: it has one layer whatever the depth

    def forward(self, x, k=None):
        return self.layers(x)


# %%
def check_1(method):
    return papers.check("llava", method)


check_1(MyLLaVA)

# %% [markdown]
# **2. Which patches does an answer need?** Of the 256 tokens keep the 16 whose patches are nearest to the centre of the
# object that is asked about, in their order. `centre` (b, 2) is (x, y) in pixels; a patch is 4 pixels wide. Return the
# patches' numbers (b, 16), ascending. The check reads the digits from them, and from 16 that know nothing.


# %%
def nearest(centre):
    return torch.arange(16).expand(len(centre), 16)  # replace this: it keeps the first row of patches


# %%
def check_2(choose):
    digits = stage.asked[stage.asked.kind == 8]
    kept = choose(stage.scenes.centre[digits.scene, digits.first])
    if kept.shape != (len(digits.kind), 16) or (kept.diff(dim=1) <= 0).any():
        return "give 16 different patches for each question, in ascending order"
    with torch.no_grad():
        visual = trained(stage.features[digits.scene].gather(1, kept[..., None].expand(-1, -1, 192)))
        right = host.answer_logits(visual, digits.words, at=kept.float()).argmax(-1) == digits.answer[:, 0]
    told = f"{int(right.sum())} of {len(right)} digits are read from 16 of 256 patches"
    return f"right: {told}" if right.float().mean() > 0.5 else f"{told}: are these the object's?"


check_2(nearest)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/01_llava.py`.
#
# ## What was left out
#
# The papers' larger half is their data: 158,000 conversations about pictures that a language model wrote from captions
# and boxes, and in LLaVA-1.5 academic questions with a prompt for short answers. We render scenes and know the answers.
# Later work cuts large pictures into crops, each of 256 tokens or more, which makes the cost the problem. Read on:
# `mqt`, `m3` and `tokenflex` let one projector give as many tokens as one asks for.
