# %% [markdown]
# # Vision Remember: visual tokens look again
#
# **Paper:** Feng, Liu, Yang, Xiao, Li, Yang and Wang, *Vision Remember: Alleviating Visual Forgetting in Efficient MLLM
# with Vision Feature Resample*, 2025 ([arXiv 2506.03928](https://arxiv.org/abs/2506.03928)).
# **Code:** `minitok/project/vision_remember.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can let a few visual tokens look at their patches again between a language model's layers.
#
# We could read abstracts of both versions and short reviews, neither text nor code. What is ours is marked.

# %%
import torch
import torch.nn.functional as F

from minitok import metrics, papers, stages, viz
from minitok.project import VisionRemember
from minitok.project.llava import answer_loss
from minitok.project.vision_remember import Remember, regions

# %% [markdown]
# ## The problem: pooled away
#
# **Pooling** gives the language model the mean of each square of patches: of 16 patches with 16 tokens, of 64 with 4.
# What the mean does not say is lost.

# %%
stage = stages.project.stage(scenes=20)
host, x, levels = stage.host, stage.features, stage.seen.levels
pooled = {k: stage.measure(stages.project.trained("pooling", k)) for k in (16, 4)}
print(stages.project.table({"all patches": stage.full} | {f"pooling, {k}": row for k, row in pooled.items()}))
assert pooled[4].right < pooled[16].right < stage.full.right

# %% [markdown]
# Vision Remember keeps the encoder's features, and lets visual tokens **look at them again between the language model's
# layers**, each at its own square alone.
#
# ## By hand: one token, four patches
#
# A token x = (1, -1) asks its square's four patches. Keys and values are the features themselves; the query's matrix
# makes the logit log 3 times x f, so a patch weighs 3 to the power x f:
#
# | f | x f | weight | times f |
# |---|---|---|---|
# | (1, 0) | 1 | 3 | (3, 0) |
# | (0, 1) | -1 | 1/3 | (0, 1/3) |
# | (0, 0) | 0 | 1 | (0, 0) |
# | (1, 1) | 0 | 1 | (1, 1) |
#
# The weights' sum is 16/3, the last column's (4, 4/3): gathered is (3/4, 1/4), and the token becomes (1.75, -0.75).
# Other squares' patches have no weight. A feed-forward part follows, here zero.
#
# Squares and patches are numbered in raster order: in a grid of 4 x 4, square 1 of 4 holds patches 2, 3, 6, 7, not 4 to
# 7.

# %%
hand, one = Remember(c=2, d=2, width=2, heads=1, hidden=1).requires_grad_(False), torch.eye(2)
hand.query.weight.copy_(one * torch.tensor(3.0).log() * 2**0.5)  # the softmax divides by the root of the width
for matrix in (hand.key, hand.value, hand.out):
    matrix.weight.copy_(one)
tokens = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]])
squares = torch.tensor([[[[1.0, 0], [0, 1], [0, 0], [1, 1]], [[0, 0], [0, 0], [0, 0], [0, 0]]]])
print([[round(value, 3) for value in token] for token in hand(tokens, squares)[0].tolist()])
assert metrics.difference(hand(tokens, squares)[0, 0], torch.tensor([1.75, -0.75])) < 1e-4
print("squares:", cut := regions(torch.arange(16.0).view(1, 16, 1), 4)[0, :, :, 0].int().tolist())
assert cut[1] == [2, 3, 6, 7]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Several levels.** The paper keeps the encoder's layers 13, 18 and 23 (so a review says), side by side in the
# channels; of our six we take 3, 5 and 6. Later layers have longer vectors, so each level is normed by itself (ours).

# %%
print("length of a patch's features after each layer:", levels.norm(dim=-1).mean((0, 2)).int().tolist())
remember = stages.project.trained("vision_remember", 4)
kept = torch.cat([F.layer_norm(levels[:, i], (192,)) for i in remember.levels], dim=-1)  # (20, 256, 576)
looked_at = regions(kept, 4)  # (20, 4, 64, 576)
assert metrics.difference(looked_at, remember.features(levels)) < 1e-4

# %% [markdown]
# **2. Look.** One query a token, its square's patches as keys: every patch is looked at once, however many tokens there
# are. If all looked at all, it would be k times that.


# %%
def look(module, tokens, features):
    q = module.query(module.norm1(tokens))[:, :, None]  # (b, k, 1, 96): one query a square
    heads = [slice(i, i + 32) for i in (0, 32, 64)]
    key, value = module.key(features), module.value(features)
    shares = [(q[..., h] @ key[..., h].mT / 32**0.5).softmax(-1) for h in heads]
    gathered = torch.cat([share @ value[..., h] for share, h in zip(shares, heads, strict=True)], dim=-1)
    tokens = tokens + module.out(gathered[:, :, 0])
    return tokens + module.mlp(module.norm2(tokens)), shares


# %% [markdown]
# **3. Between the layers.** After the language model's second and fifth layer of six (ours; each with weights of its
# own), the first k hidden states, which are the visual tokens, are refreshed; words pass.

# %%
tokens, words = remember(x), stage.asked.words[:, 0]


def refresh(i, y, features=looked_at):
    if i not in (1, 4):
        return y
    return torch.cat([look(remember.remember[i // 4], y[:, :4], features)[0], y[:, 4:]], dim=1)


mine = host.read(tokens, words, after_layer=refresh)
assert metrics.difference(mine, remember.read(host, x, words, levels=levels)) < 1e-3
print("what you built is what `VisionRemember` computes:", tuple(mine.shape))

# %% [markdown]
# **4. Begin with nothing.** A module with random weights would throw noise between the layers. The last matrices of
# attention and feed-forward part begin as zero (ours), so that training starts from the pooled model.

# %%
fresh = VisionRemember(4)
assert torch.equal(fresh.read(host, x, words, levels=levels), host.read(fresh(x), words, after_layer=lambda i, y: y))
row = torch.cat([words, stage.asked.answer[:, 0, :2]], dim=1)[:4]
read = fresh.read(host, x[:4], row, levels=levels[:4])
loss = answer_loss(host.head(read), row, asked=words.shape[1])
loss.backward()
first = fresh.remember[0]
print(
    "learns in the first step: out", bool(first.out.weight.grad.any()), "- query", bool(first.query.weight.grad.any())
)
assert all(parameter.grad is None for parameter in host.parameters())

# %% [markdown]
# Behind a matrix of zeros nothing learns in the first step; the matrix itself does.
#
# ## The recipe
#
# 1. Visual tokens: the mean of each of k squares of patches, then LLaVA's two layers. (Ours; the paper tries several
#    projectors.)
# 2. Features: the encoder's layers 3, 5, 6 of 6, without CLS, each normed over its channels (ours), side by side: 3 c.
# 3. Cut into k squares, squares and patches in raster order, like the tokens.
# 4. After layers 2 and 5 of the language model, of the k first hidden states x alone:
#    a. q = RMSNorm(x) Wq, keys F Wk, values F Wv, width 96, three heads; softmax over the square's own patches.
#    b. x = x + (what was gathered) Wo, then x = x + FFN(RMSNorm(x)). FFN: gated, hidden width 64. (Sizes ours.)
#    c. Wo and FFN's last matrix begin as zero. Each module has its own weights. (Ours.)
# 5. Words are not changed. Loss: LLaVA's.
# 6. Cost: for each module two maps of n features, n products of attention.
#
# | | paper | here |
# |---|---|---|
# | before the picture | a system's text, so visual tokens know words | nothing: they know no question |
# | second version | also attention among visual tokens and the last word before | left out: there is no such word |
# | trained | language model too | projector and modules alone |
#
# ## The experiment: four tokens
#
# With equal steps before the same frozen language model: pooling, a resampler, whose four learnt queries gather from
# all patches, and controls of Vision Remember's own weight. **Pooling, wide** has them in its MLP; **in front** looks
# as often, but before the language model, not between its layers. The table has 20 scenes, three questions for "left".

# %%
trained = {"pooling": stages.project.trained("pooling", 4), "pooling, wide": stages.project.trained("pooling, wide", 4)}
found = {"Vision Remember": stage.measure(remember)}
found |= {name: stage.measure(module) for name, module in trained.items()}
print(stages.project.table(found))
facts = stages.load("project")
league = {(row["method"], row["tokens"]): row for row in facts["rows"]}
names = {"vision_remember": "ours: Vision Remember", "vision_remember, in front": "in front"}
names |= {"pooling, wide": "pooling, wide", "pooling": "pooling"}
shown = {
    f"{told}, {kind}": league[name, 4][kind] for kind in ("digit", "colour", "left") for name, told in names.items()
}
viz.show(viz.bars(shown, "Digits come back, but with a wide MLP as well", "right answers (%), four tokens"))

# %% [markdown]
# **What does the work?** Each part changed, and trained anew with as many weights; right answers of all kinds on the
# league's 4,000 scenes, where about 1 point tells two apart:

# %%
parts = {"vision_remember": "ours: looks between layers", "vision_remember, all see all": "all patches for all tokens"}
parts |= {
    "vision_remember, last level": "the last level three times",
    "vision_remember, in front": "all looks in front",
}
parts |= {
    "pooling, wide": "no looks, a wider MLP",
    "resampler": "resampler, half the weights",
    "pooling": "pooling, a sixth",
}
bars = {told: league[name, 4]["all kinds"] for name, told in parts.items()}
viz.show(viz.bars(bars, "Looks in front do no worse", "all kinds (%), four tokens"))

# %% [markdown]
# Looking is worth 10 points over plain pooling, over a wide MLP 1.5, too little to decide. What is the paper's own is
# not shown: looks in front of the language model are 2 points better than between its layers, own squares no better
# than all patches, three levels no better than one. At **16 tokens** it answers 96.4 %, as a pixel shuffle does (95.9),
# where pooling has 85.8.
#
# ## Play: where does a token look?
#
# Brightness is the share of its square's attention that a patch gets, mean of three heads.


# %%
def draw(scene=3, module=0):
    one, met = slice(scene, scene + 1), {}
    host.read(tokens[one], words[one], after_layer=lambda i, y: refresh(i, met.setdefault(i, y), looked_at[one]))
    _, shares = look(remember.remember[module], met[(1, 4)[module]][:, :4], looked_at[one])
    heat = torch.stack(shares).mean(0)[0, :, 0].view(2, 2, 8, 8).transpose(1, 2).reshape(1, 1, 16, 16)
    heat = (heat / heat.amax()).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 64, 64)
    seen = torch.cat([stage.pictures[one], heat])
    return viz.show(viz.images(seen, ["scene", f"after layer {(2, 5)[module]}"], height=1.92), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 19), module=[0, 1])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# From the league's 4,000 scenes and 23,000 questions.

# %%
rivals = {"pooling": "+2.7 over TokenPacker (second version)", "pooling, wide": None}
rivals |= dict.fromkeys(name for name in parts if name.startswith("vision_remember, "))
pairs = [(name, 4, paper) for name, paper in rivals.items()] + [("pixel shuffle", 16, None)]
measures = []
for name, k, paper in pairs:
    told = {"than": league[name, k]["all kinds"], "margin": 1, "unit": "%", "paper": paper}
    ours = league["vision_remember", k]["all kinds"]
    measures.append(papers.better(f"all kinds, {k} tokens, {name}", ours, **told))

# %%
papers.verdict(
    "vision_remember",
    "Visual tokens that look at their own patches again between the layers answer what pooling alone has lost.",
    measures,
    against="equal steps: pooling (a sixth of the weights); a wide MLP; each part changed and retrained",
    data="4,000 held-out scenes, about 23,000 questions (the chapter's league)",
)

# %% [markdown]
# ## Where it breaks: how many, and where
#
# With more tokens pooling loses less: with 16 it reads digits and colours unaided. And looks cost: four tokens take 86
# million FLOPs of the language model and 115 of their own for 60.3 % of all kinds; pooling with 16 takes 155 in all for
# 85.8 %.

# %%
pooling = {k: row for (name, k), row in league.items() if name == "pooling"}
curves = {kind: (list(pooling), [row[kind] for row in pooling.values()]) for kind in ("digit", "colour", "left")}
title = "Digits and colours are back at 16 tokens"
viz.show(viz.lines(curves, title, "visual tokens of pooling", "right answers (%)", log="x"))

# %% [markdown]
# ## Exercises
#
# **1. Your own `read`**, under the library's tests. `self(x, k)` are the visual tokens, `self.features(levels)` what
# they look at, `self.remember[j]` the module for layer `self.after[j]`, given tokens and features; `host.read` takes
# `after_layer`.


# %%
class MyVisionRemember(VisionRemember):
    def read(self, host, x, words, k=None, *, slots=None, levels):
        return host.read(self(x, k), words, slots=slots)  # replace this: nothing is refreshed


def check_1(method):
    return papers.check("vision_remember", method)


check_1(MyVisionRemember)

# %% [markdown]
# **2. Which level is it?** Return the same `levels` (b, 6, n, c), but for level i, which says the same of all patches:
# its mean over them. The check then asks what four tokens can still answer without what level i knows of places.


# %%
def levelled(levels, i):
    return levels  # replace this: it changes nothing


# %%
def check_2(flat):
    for i in remember.levels:
        given, others = flat(levels, i), [j for j in range(6) if j != i]
        if not torch.equal(given[:, others], levels[:, others]):
            return f"levels other than {i} should stay as they are"
        if metrics.difference(given[:, i], levels[:, i].mean(1, keepdim=True).expand(-1, 256, -1)) > 1e-3:
            return f"level {i} should be its mean over the patches, at each of them"
    said = {i: host.head(remember.read(host, x, words, levels=flat(levels, i))[:, -1]) for i in remember.levels}
    right = {i: int((s.argmax(-1) == stage.asked.answer[:, 0, 0]).sum()) for i, s in said.items()}
    return f"right: of {len(x)} questions whether something is there, so many are answered without level i: {right}"


check_2(levelled)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/08_vision_remember.py`.
#
# ## What was left out
#
# The second version's attention among visual tokens and the word before them; training the language model along.
# Read on: [LLaVA-Mini](09_llava_mini.ipynb) lets words look at patches before the language model,
# [CrossLMM](10_crosslmm.ipynb) inside it.
