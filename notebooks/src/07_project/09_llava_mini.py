# %% [markdown]
# # LLaVA-Mini: one visual token, and words that have met the picture
#
# **Paper:** Zhang, Fang, Yang and Feng, *LLaVA-Mini: Efficient Image and Video Large Multimodal Models with One Vision
# Token*, 2025 ([arXiv 2501.03895](https://arxiv.org/abs/2501.03895)).
# **Code:** `minitok/project/llava_mini.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can let words look at a picture before a language model reads them, and tell the cost.

# %%
import torch

from minitok import metrics, papers, stages, viz
from minitok.data.questions import KINDS
from minitok.project import LLaVAMini
from minitok.project.llava import answer_loss
from minitok.project.llava_mini import Compressor, grid_positions, stretched
from minitok.vlm import slots_apart

# %% [markdown]
# ## The problem: what are 256 tokens for?
# A projector that gives one token is cheap, and useless:

# %%
stage = stages.project.stage(scenes=16)
host, one_token = stage.host, stage.measure(stages.project.trained("resampler", 1), 1)
print(stages.project.table({"all patches": stage.full, "one token (resampler)": one_token}))
assert one_token.right < 50

# %% [markdown]
# Where do words look at patches? The paper drops all visual tokens from layer l of a trained model on: in the 32 layers
# of LLaVA-1.5, answers suffer for small l alone. We drop them likewise: `after[l]` holds what stands after l layers;
# from there on the words, each question's apart, go on without patches.

# %%
words, t = stage.asked.words.flatten(1), stage.asked.words.shape[2]
slots = torch.arange(stage.asked.words.shape[1]).repeat_interleave(t)
places, visual = 256.0 + torch.arange(t).repeat(len(slots) // t)[None], host.project(stage.features)
after = [torch.cat([visual, host.word(words)], dim=1)]
with torch.no_grad():
    host.read(visual, words, slots=slots, after_layer=lambda i, y: after.append(y) or y)


@torch.no_grad()
def right_without_patches_from(l):
    y = after[l][:, 256:]
    for block in host.lm.blocks[l:]:
        y = block(y, places, slots_apart(0, slots))
    return host.head(host.lm.norm(y)[:, t - 1 :: t]).argmax(-1) == stage.asked.answer[..., 0]


# %%
def attention_on_patches(l):
    block, row = host.lm.blocks[l], torch.cat([torch.arange(256.0)[None], places], dim=1)
    paid, _ = block.attention.map(block.norm1(after[l]), row, slots_apart(256, slots))
    return 100 * paid[:, :, 256:, :256].sum(-1).mean(1)[words > 0].mean().item()


seen = torch.stack([right_without_patches_from(l)[stage.which] for l in range(7)]).float() * 100
kinds = stage.asked.kind[stage.which]
curves = {name: (range(7), seen[:, kinds == KINDS.index(name)].mean(1)) for name in ("exists", "colour", "digit")}
curves["muted: all questions"] = range(7), seen.mean(1)
print("attention that words pay to patches, by layer (%):", [round(attention_on_patches(l)) for l in range(6)])
viz.show(viz.lines(curves, "Colours are read early, digits last", "layers that see patches (of 6)", "right (%)"))

# %% [markdown]
# In LLaVA-1.5 the attention to patches falls after the first layers; here it does not, and digits are read in the last.
# The conclusion can still be tried: words **absorb** what they need before the language model, in a few layers made for
# that.
#
# ## By hand: the compressor
#
# One learnt query Q gathers from four patches: $q = LN(Q) + p$, $k = LN(V) + p$, $v = LN(V)$; all matrices the
# identity. The place p is (0, 1, 0, 1), sine and cosine of column 0 and row 0. Vectors of mean 0 and variance 1 pass
# the norms unchanged: Q = a = (1, -1, 1, -1), b = (1, 1, -1, -1). So q = (1, 0, 1, 0):
#
# | patch | k = v + p | q k / 2 | weight: e to that |
# |---|---|---|---|
# | a | (1, 0, 1, 0) | 1 | 2.718 |
# | b | (1, 2, -1, 0) | 0 | 1 |
# | -a | (-1, 2, -1, 2) | -1 | 0.368 |
# | -b | (-1, 0, 1, 2) | 0 | 1 |
#
# Gathered: $a \, (2.718 - 0.368) / 5.086 = 0.462 \, a$; the two b cancel out.

# %%
a, b, one = torch.tensor([1.0, -1, 1, -1]), torch.tensor([1.0, 1, -1, -1]), torch.eye(4)
hand = Compressor(side=1, c=4, heads=1).requires_grad_(False)
hand.queries.copy_(a[None])
hand.attention.in_proj_weight.copy_(torch.cat([one, one, one]))
hand.attention.out_proj.weight.copy_(one)
gathered = hand(torch.stack([a, b, -a, -b])[None])[0, 0]
print([round(value, 3) for value in gathered.tolist()])
assert metrics.difference(gathered, 0.4621 * a) < 1e-3

# %% [markdown]
# ## By hand: who sees whom
#
# A **pre-fusion** block, a layer like the language model's own, reads patches V, compressed token C and words in this
# order, causally. Filling (-) stands in front of the words; the answer (red) is there in training only. Neither is seen
# by others, or counted, or fused:
#
# | | V V V V | C | - | colour | ? | red |
# |---|---|---|---|---|---|---|
# | place | 0 1 2 3 | 4 | | 5 | 6 | |
# | seen by C | yes | yes | | | | |
# | seen by "colour" | yes | yes | no | yes | | |
# | seen by "?" | yes | yes | no | yes | yes | |
#
# We change each input and see whose output moves:

# %%
torch.manual_seed(0)
tiny, asked = LLaVAMini(c=8, d=8, heads=2).requires_grad_(False), torch.tensor([[False, True, True, False]])
[weight.normal_() for weight in tiny.blocks.parameters()]  # the last ones begin as zero
patches, text = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
before, outputs = torch.cat(tiny.fuse(patches, text, asked), dim=1), ["C", "-", "colour", "?", "red"]
expected = {"V": ["C", "colour", "?"], "-": ["-"], "colour": ["colour", "?"], "?": ["?"], "red": ["red"]}
for name, i in {"V": 0, "-": 0, "colour": 1, "?": 2, "red": 3}.items():
    changed = [patches.clone(), text.clone()]
    changed[name != "V"][0, i] += 1
    moved = (torch.cat(tiny.fuse(*changed, asked), dim=1) - before).abs().amax(-1)[0] > 1e-6
    print(f"{name:7} moves", names := [told for told, is_so in zip(outputs, moved, strict=True) if is_so])
    assert names == expected[name]

# %% [markdown]
# Filling and answer come out unchanged. Seen by the words, the answer would be given away in training; not fused,
# it is read as in use.
#
# ## The mechanism on real tokens
#
# **1. Compress.** With one query all keys have the same place, which adds the same to all logits: it can look at
# *something*, not *somewhere*. With C x C = 4, four places are stretched over the grid.

# %%
mini = stages.project.trained("llava_mini", 1)
x, order = stage.features, torch.randperm(256)
assert metrics.difference(mini.compressor(x[:2, order]), mini.compressor(x[:2])) < 1e-4
waves = stretched(grid_positions(2, 4), 16)[:4, 0].tolist()  # from sine of 0 to sine of 1, swinging over
print("sine of the column over a row of four patches, of four queries:", [round(wave, 2) for wave in waves])

# %% [markdown]
# **2. Fuse.** LLaVA's two layers project patches and compressed token alike: in one row they must be of one kind. The
# compressed token goes through the blocks too.


# %%
def fuse(x, text, asked):
    y = torch.cat([mini.mlp(x), mini.mlp(mini.compressor(x)), text], dim=1)
    there = torch.cat([asked.new_ones(len(x), 257), asked], dim=1)
    positions, causal = there.cumsum(1) - 1.0, torch.ones(y.shape[1], y.shape[1]).tril().bool()
    for block in mini.blocks:
        y = block(y, positions, causal & there[:, None, None, :])
    return y[:, 256:257], torch.where(asked[..., None], y[:, 257:], text)


question = stage.asked.words[:, 1]  # (16, t): what colour ...
compressed, fused = fuse(x, host.word(question), question > 0)
for mine, theirs in zip((compressed, fused), mini.fuse(x, host.word(question), question > 0), strict=True):
    assert metrics.difference(mine, theirs) < 1e-3
print("what you built is what `LLaVAMini` computes:", tuple(compressed.shape), tuple(fused.shape))

# %% [markdown]
# **3. Read and train.** The language model gets one visual token and fused words.
# The loss is LLaVA's, on the answer's words; these stand in the row, but are not `asked`.

# %%
read = host.read(compressed, question, text=fused)
assert metrics.difference(read, mini.read(host, x, question, text=host.word(question), asked=question > 0)) < 1e-3
fresh, row = LLaVAMini(), torch.cat([question, stage.asked.answer[:, 1, :2]], dim=1)[:4]
asked = (row > 0) & (torch.arange(row.shape[1]) < t)
hidden = fresh.read(host, x[:4], row, text=host.word(row), asked=asked)
loss = answer_loss(host.head(hidden), row, asked=t)
loss.backward()
assert all(parameter.grad is not None for parameter in fresh.parameters())
assert all(parameter.grad is None for parameter in host.parameters())
print(f"loss {loss.item():.1f}; projector, compressor and blocks learn, the language model does not")

# %% [markdown]
# ## The recipe
#
# 1. Patch features V (n, c) of a frozen encoder, without CLS, n a square number; question's words, embedded: (t, d).
# 2. Compressor: C x C queries Q (normal, deviation 0.02); q = LN(Q) + pos, k = LN(V) + pos', v = LN(V); one multi-head
#    attention with maps for q, k, v and output. pos: sines and cosines of column and row of the C x C grid; pos': the
#    same, bicubic, on the patches' grid.
# 3. The same two-layer projector for V and for the k = C C compressed tokens.
# 4. Row: projected V, compressed tokens, words; filling and answer are seen by none and have no place. Places count on.
# 5. N causal blocks of the language model's kind on this row; no last norm. Their last matrices begin as zero (ours).
# 6. The language model reads what stands at the compressed tokens, then at the words; filling and answer as they were.
# 7. Loss: LLaVA's; first the projector alone, then everything.
# 8. Cost: N layers for n + k + t tokens, all layers for k + t.
#
# | | paper and its code | here |
# |---|---|---|
# | N, C | 4 layers beside 32; C = 1, in the code 2 | 1 smaller layer beside 6; C = 1 and 2 |
# | trained | first the projector, then all | all but the language model |
# | places in the language model | from 0 on | a picture's and words' own |
# | video, large pictures | a token a frame, fused words averaged; crops | left out |
#
# ## The experiment: one token, four tokens
#
# All had 1,200 steps on the same scenes before the same frozen language model. The figure has the league's 4,000
# scenes. **Unfused** is the same module, whose words stay as they were: what it adds is what fusing does. Resamplers
# have half of the parameters.

# %%
four = stages.project.trained("llava_mini", 4)
found = {"LLaVA-Mini, 1": stage.measure(mini), "LLaVA-Mini, 4": stage.measure(four)}
print(stages.project.table({"all patches": stage.full, "resampler, 1": one_token} | found))
assert found["LLaVA-Mini, 1"].right > one_token.right + 10
league = {(row["method"], row["tokens"]): row for row in stages.load("project")["rows"]}
names = {("llava", 256): "LLaVA, all patches"}
names |= {("llava_mini", k): f"ours: LLaVA-Mini, {k} token{'s' * (k > 1)}" for k in (4, 1)}
names |= {("llava_mini, unfused", k): f"baseline: unfused, {k} token{'s' * (k > 1)}" for k in (4, 1)}
names |= {("resampler", k): f"resampler, {k} token{'s' * (k > 1)}" for k in (256, 1)}
names |= {("pixel shuffle", 16): "muted: pixel shuffle, 16 tokens"}
bars = {told: league[key]["all kinds"] for key, told in names.items()}
viz.show(viz.bars(bars, "Fusing the words brings 13 to 24 points", "right (%), mean of nine kinds"))

# %% [markdown]
# Fusing brings 24 points with one token, 13 with four; a second block of fusing, at equal weight, brings none (67.4).
# But pixel shuffle answers 96 % for half of the FLOPs. **Who carries the picture?** We give the language model another
# picture's compressed tokens, or words that have met another picture.

# %%
rows, digit = stage.which[:, [1, 6]].nonzero(as_tuple=True)
asks, right = (held[:, [1, 6]][rows, digit] for held in (stage.asked.words, stage.asked.answer[..., 0]))
for name, module in {"1 token": mini, "4 tokens": four}.items():
    own, other = (module.fuse(x[r], host.word(asks), asks > 0) for r in (rows, (rows + 1) % len(x)))
    given = {"its own": own, "another's tokens": (other[0], own[1]), "another's words": (own[0], other[1])}
    for told, (few, text) in given.items():
        hit = (host.head(host.read(few, asks, text=text)[:, -1]).argmax(-1) == right).float() * 100
        print(f"{name:9} {told:17} colours {hit[digit == 0].mean():4.0f} %, digits {hit[digit == 1].mean():4.0f} %")

# %% [markdown]
# Of colours and digits the one token says next to nothing: the words do it. Of four tokens and words, the tokens say
# the digits, the words the colours. (One digit is 11 points. Other kinds were not swapped.)
#
# ## Play: what does it say?

# %%
between = {1: mini, 4: four}
wordings = ["how many objects are there ?", "which objects are there ?", "what digit is on the circle ?"]


def ask(scene=3, question="how many objects are there ?", tokens=1):
    told = stage.says(scene, question, between[tokens])
    title = ", ".join(f"{word} {share:.0%}" for word, share in told.items())
    return viz.show(viz.images(stage.pictures[scene : scene + 1], [title], height=2.56), photo=True)


ask()

# %%
control = viz.slider(ask, scene=(0, 15), question=wordings, tokens=list(between))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# "All kinds": the league's, where 1 point tells two means apart. "Per question": this lesson's.

# %%
one, spent = league["llava_mini", 1], 100 * (found["LLaVA-Mini, 1"].flops + found["LLaVA-Mini, 1"].own)
named = (("llava", 256), ("llava_mini, unfused", 1), ("llava_mini, unfused", 4), ("pixel shuffle", 16))
patches, single, several, shuffled = (league[key]["all kinds"] for key in named)
blind, sighted = seen[5:].mean(1).tolist()
measures = [
    papers.better("all kinds, unfused, 1", one["all kinds"], than=single, margin=1, unit="%"),
    papers.better("all kinds, unfused, 4", league["llava_mini", 4]["all kinds"], than=several, margin=1, unit="%"),
    papers.better("all kinds, pixel shuffle, 16", one["all kinds"], than=shuffled, margin=1, unit="%"),
    papers.not_worse("all kinds, all patches", one["all kinds"], than=patches, by=5, unit="%", paper="above 576"),
    papers.better("FLOPs, all patches", spent, than=100, margin=50, unit="%", higher=False, paper="23 (77 fewer)"),
    papers.not_worse("per question, last layer blind", blind, than=sighted, by=5, unit="%"),
]

# %%
papers.verdict(
    "llava_mini",
    "Patches matter in early layers alone; so words fused with the picture and one token answer as all patches do.",
    measures,
    against="equal steps: the same module with unfused words (equal weights), pixel shuffle (half of the FLOPs), "
    "LLaVA; the host",
    data=f"4,000 held-out scenes (league); {len(x)} scenes, {int(stage.which.sum())} questions (last layer, FLOPs)",
)

# %% [markdown]
# With one token 1,200 steps taught colours in part and relations not at all.
#
# ## Where it breaks: the second question
#
# LLaVA reads a picture once for all questions about it. Fused words belong to one question.

# %%
counts, spends = (1, 2, 4, 8, 16), {"baseline: all patches, read once": [], "ours: fused for each question": []}
for q in counts:
    asks_q = stage.asked.words[:1, :1].expand(-1, q, -1)
    once = metrics.flops(lambda: host.several(host.project(x[:1]), asks_q))  # noqa: B023
    spends["baseline: all patches, read once"].append(once / 1e6)
    spends["ours: fused for each question"].append(q * stage.spent(mini, 1) / 1e6)
curves = {name: (counts, values) for name, values in spends.items()}
viz.show(
    viz.lines(curves, "From eight questions on, fusing costs more", "questions about one picture", "million FLOPs")
)

# %% [markdown]
# But what the blocks make of patches does not depend on words: exercise 2.
#
# ## Exercises
#
# **1. Your own pre-fusion**, under the library's tests. `self.mlp`, `self.compressor`, `self.blocks`, `self.budgets`
# are there; `block(y, positions, seen)` takes floats (b, n) and truths (b, 1, n, n).


# %%
class MyLLaVAMini(LLaVAMini):
    def fuse(self, x, text, asked):
        return self.mlp(self.compressor(x)), text  # replace this: it fuses nothing


def check_1(method):
    return papers.check("llava_mini", method)


check_1(MyLLaVAMini)

# %% [markdown]
# **2. Many questions about one picture.** `x` is one picture (1, n, c), `questions` words (q, t). Return the fused
# words (q, t, d), with the patches going through the blocks once. `slots_apart(k, slots)` says who sees whom where
# questions follow one another after k tokens.


# %%
def fuse_all(x, questions):
    each = [mini.fuse(x, host.word(one[None]), one[None] > 0)[1] for one in questions]  # replace this
    return torch.cat(each)


def check_2(fuse_many):
    def one_by_one(picture, questions):
        return mini.fuse(picture.expand(len(questions), -1, -1), host.word(questions), questions > 0)[1]

    given = x[:1], stage.asked.words[0, :6]
    if metrics.difference(fuse_many(*given), one_by_one(*given)) > 1e-3:
        return "other words come than one by one"
    share = metrics.flops(fuse_many, *given) / metrics.flops(one_by_one, *given)
    return f"right: {share:.0%} of the FLOPs for 6 questions" if share < 0.5 else f"{share:.0%} of the FLOPs: once?"


check_2(fuse_all)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/09_llava_mini.py`.
#
# ## What was left out
#
# Video, large pictures. Read on: [CrossLMM](10_crosslmm.ipynb) lets words look at patches inside the model.
