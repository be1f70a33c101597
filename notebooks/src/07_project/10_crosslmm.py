# %% [markdown]
# # CrossLMM: read a few tokens, look back at all patches
#
# **Paper:** Yan, Han, Tsai, Xue, Fang, Hong, Guo and Zhang, *CrossLMM: Decoupling Long Video Sequences from LMMs via
# Dual Cross-Attention Mechanisms*, 2025 ([arXiv 2505.17020](https://arxiv.org/abs/2505.17020)).
# **Code:** `minitok/project/crosslmm.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can let a language model read one token a frame and fetch what it misses from the patches, while
# it reads. Only the paper's abstract and public reviews of it could be read; the recipe says what is our choice.

# %%
import torch

from minitok import metrics, papers, stages, viz
from minitok.metrics import difference
from minitok.project import CrossLMM
from minitok.project.crosslmm import LookBack, pooled

# %% [markdown]
# ## The problem: a clip is long, and its detail is short
#
# The stage: clips of 8 frames, each of 256 patches, 2,048 in all. The host, a language model behind a frozen ViT, reads
# 64 tokens a frame: 512. Digits show in two frames only. Which way something moves it cannot tell itself.

# %%
stage = stages.project.stage(9, of="clips")
host, x, clip = stage.host, stage.features, 1
found = {"the host's own": stage.full}
print(stages.project.table(found))
viz.show(viz.images(stage.pictures[clip], title="A digit shows in two frames of eight", height=0.96), photo=True)

# %% [markdown]
# Pooled to the mean of its patches, a frame is one token, a clip 8. A projector trained for these answers 64 % of all
# kinds, where the host answers 88 (1,000 clips, below). But patches need not be thrown away: only **reading** is dear.
#
# ## By hand: one token looks back
#
# A frame of four patches, as vectors **V** of width 2: (1, 1), (2, 1), (3, 1), (6, 1). Their mean is the pooled token
# P = (3, 1), all that is read. To look back it asks for a patch whose key is 1:
#
# | patch | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | key | 0 | 0 | 0 | 1 |
# | query times key | 0 | 0 | 0 | log 5 |
# | softmax | 1/8 | 1/8 | 1/8 | 5/8 |
#
# Fetched: (1 + 2 + 3 + 5 · 6) / 8 = 4.5 and 1. With a **gate** of 1/2 it is added to what was there: (3, 1) + (4.5, 1)
# / 2 = (5.25, 1.5). With a gate of 0 nothing happens: training begins at the pooled model.

# %%
v = torch.tensor([[[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [6.0, 1.0]]])
p = pooled(v, frames=1, m=1)
look = LookBack(d=2, heads=1).requires_grad_(False)
look.query.weight.copy_(torch.tensor([[torch.tensor(5.0).log() * 2**0.5, 0.0], [0.0, 0.0]]))
look.out.weight.copy_(torch.eye(2))  # the norm makes (3, 1) into (1, -1), attention divides by the root of 2
keys = torch.tensor([[[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]])
closed = look(p, (keys, v[:, None]))
look.gate.fill_(0.5)
opened = look(p, (keys, v[:, None]))
print("pooled", p.tolist(), "gate 0", closed.tolist(), "gate 1/2", [round(c, 3) for c in opened[0, 0].tolist()])
assert torch.equal(closed, p)
assert difference(opened, torch.tensor([[[5.25, 1.5]]])) < 1e-4

# %% [markdown]
# Pooled tokens look back: **visual to visual**, V2V. The question's words have looks of their own: **text to visual**,
# T2V. A word knows what is asked.
#
# ## The mechanism on real tokens
#
# **1. Pool, and lead both into the language model's width.** One MLP serves the pooled tokens P and the patches V. A
# vector for the frame is added to both: without it no look could tell when something was.

# %%
method = stages.project.trained("crosslmm", 8)
frames = method.frame.repeat_interleave(256, 0)
means = x.unflatten(1, (8, 256)).mean(2)
P, V = method.mlp(means) + method.frame, method.mlp(x) + frames
print(tuple(x.shape), "-> P", tuple(P.shape), "and V", tuple(V.shape))
assert difference(P, method(x, 8)) < 1e-4

# %% [markdown]
# **2. Remember.** Keys and values of all patches are made once a clip.
#
# **3. Look.** Attention without a mask: under a causal one the first frame's token would never learn of the last frame.


# %%
def heads(tokens):
    return tokens.unflatten(-1, (3, 64)).transpose(1, 2)


keys, values = heads(method.key(method.norm(V))), heads(method.value(method.norm(V)))
assert difference(keys, method.remember(x)[0]) < 1e-3


def look_back(tokens, look):
    query = heads(look.query(look.norm(tokens)))
    weights = (query @ keys.mT / 64**0.5).softmax(-1)
    return tokens + look.gate * look.out((weights @ values).transpose(1, 2).flatten(2))


# %% [markdown]
# **4. After the second and the fourth layer** (1 and 3) of six. After the last one it would be too late for V2V: nobody
# reads the visual tokens any more.

# %%
words = stage.asked.words[:, 5]  # a digit is asked for
hidden = torch.cat([P, host.word(words)], 1)
places = torch.cat([torch.arange(8.0), 512 + torch.arange(words.shape[1])])[None]
causal = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
for i, block in enumerate(host.lm.blocks):
    hidden = block(hidden, places, causal)
    if i in (1, 3):
        visual = look_back(hidden[:, :8], method.v2v[str(i)])
        hidden = torch.cat([visual, look_back(hidden[:, 8:], method.t2v[str(i)])], 1)
mine = host.lm.norm(hidden)[:, 8:]
assert difference(mine, method.read(host, x, words, 8)) < 1e-2 * float(mine.abs().max())
print(f"the same as `CrossLMM.read`: {hidden.shape[1]} tokens were read, none of {x.shape[1]} patches")

# %% [markdown]
# **5. Train** P's and V's MLP, looks and gates with the answers' loss. MLP and frames' vectors learn at once, P being
# read. Of the looks at first only the gates do: what stands behind a closed gate changes nothing.

# %%
torch.manual_seed(0)
fresh = CrossLMM()
assert torch.equal(fresh.read(host, x, words, 8), host.read(fresh(x, 8), words))
fresh.read(host, x[:2], words[:2], 8).square().mean().backward()
assert fresh.t2v["1"].gate.grad != 0
assert fresh.frame.grad.any()
assert not fresh.t2v["1"].query.weight.grad.any()
gates = {f"{kind}, layer {i}": look.gate for kind in ("v2v", "t2v") for i, look in getattr(method, kind).items()}
print("gates after training:", ", ".join(f"{name}: {float(gate):.2f}" for name, gate in gates.items()))

# %% [markdown]
# ## The recipe
#
# 1. Encode each of F frames: n patch tokens, without CLS.
# 2. Pool to m tokens a frame: means of m equal squares. k = F m.
# 3. P = MLP(pooled), V = MLP(patches), one MLP; add each frame's vector.
# 4. Keys and values of normed V: once a clip.
# 5. The language model reads [P, words]. After chosen layers: P += g CA(P, V), words += g CA(words, V), where CA(q, V)
#    = softmax(norm(q) W_q K^T / sqrt(d)) (V W_v) W_o, no mask; W_q, W_o, norm and g are each look's own.
# 6. g = 0 at first. Loss: that of the answers.
# 7. Cost: self-attention over F m + t tokens, not F n + t; a look (F m + t) F n products of width d.
#
# | | paper, as far as it could be read | here |
# |---|---|---|
# | frames | 27 x 27 patches, pooled to 1, 9 or 16 | 16 x 16, to 1, 4 or 16 |
# | looks after | chosen layers | layers 1 and 3 of 6 |
# | keys and values | not said | shared by all looks |
# | gate | one for V2V and T2V, a reviewer read | each look its own, from 0 |
# | frame's vector | not said | yes |
# | trained | the language model too | MLP and looks |
#
# ## The experiment: which look fetches what?
#
# Four modules of equal weight, trained for the same 1,200 steps: with both looks, with either alone at all four layers,
# and with none, a wider MLP in their place (**pooled**). First on our nine clips, which tell little; then on the
# league's 1,000, where "+" are the FLOPs of projector and looks.

# %%
found["CrossLMM, 8"] = stage.measure(method, 8)
found["pooled, 8"] = stage.measure(stages.project.trained("crosslmm, pooled", 8), 8)
print(stages.project.table(found))
league = {(r["method"], r["tokens"]): r for r in stages.load("project")["rows"] if r["pictures"] == "clips"}
shown = {
    ("the host itself", 512): "the host, 512",
    ("crosslmm", 32): "CrossLMM, 32",
    ("crosslmm, pooled", 32): "pooled, 32",
}
shown |= {("crosslmm", 8): "CrossLMM, 8", ("crosslmm, v2v", 8): "V2V alone, 8", ("crosslmm, t2v", 8): "T2V alone, 8"}
shown |= {("crosslmm, pooled", 8): "pooled, 8"}

# %%
kinds = ("exists", "colour", "shape", "count", "motion", "digit", "all kinds")
print(f"{'right (%)':14}" + "".join(f"{kind:>10}" for kind in kinds) + "   million FLOPs")
for key, name in shown.items():
    row = league[key]
    told = "".join(f"{row[kind]:10.1f}" for kind in kinds)
    print(f"{name:14}{told}{row['cost']:9.0f} + {row['own']:.0f}")
bars = {f"{'ours: ' * (key[0] == 'crosslmm')}{name}": league[key]["all kinds"] for key, name in shown.items()}
viz.show(viz.bars(bars, "At one token a frame the words' looks help", "all kinds (%), 1,000 clips"))

# %% [markdown]
# With one token a frame T2V alone is worth 6.7 points: the words fetch what they ask for (objects there, their shapes
# and number). Both looks are worth 2.5, too little to decide; perhaps since V2V takes two of four layers from the
# words. Digits come through without any look. Motion is beyond the host itself. And **four pooled tokens a frame** are
# better and cheaper: 86 % for 271 million FLOPs, where both looks at one token take 782. There looks add nothing.
#
# ## Where does a word look?
#
# The weights of the last word's look after layer 3, summed over each frame, for questions about a digit; beside them
# the same for frames in which that digit does not show.


# %%
def weights_of(look, question, clips=slice(None)):
    taken = []
    hook = look.query.register_forward_hook(lambda module, given, out: taken.append(heads(out)))
    method.read(host, x[clips], question[clips], 8)
    hook.remove()
    return (taken[0] @ keys[clips].mT / 64**0.5).softmax(-1).mean(1)  # the mean of the heads


asked = stage.asked[:, 5:7]
pays = [weights_of(method.t2v["3"], asked.words[:, j])[:, -1].unflatten(1, (8, 256)).sum(2) for j in range(2)]
there = stage.scenes.shown.transpose(1, 2).gather(1, asked.first.clamp(min=0)[..., None].expand(-1, -1, 8))
there_is = asked.kind >= 0
shares = [100 * float(torch.stack(pays, 1)[there_is][there[there_is] == shown].mean()) for shown in (True, False)]
print(f"a frame with the digit gets {shares[0]:.0f} % of the look, a frame without it {shares[1]:.0f} %")

# %% [markdown]
# ## Play: ask, and see where it looks


# %%
def draw(clip=1, layer=3):
    weights = weights_of(method.t2v[str(layer)], words, slice(clip, clip + 1))[0, -1].view(8, 1, 16, 16)
    bright = (weights / weights.max()) ** 0.5
    bright = bright.repeat_interleave(4, 2).repeat_interleave(4, 3)
    frames = stage.pictures[clip] * (0.25 + 0.75 * bright)
    return viz.show(viz.images(frames, title="Bright: what the question's last word looks at", height=0.96), photo=True)


draw()

# %%
control = viz.slider(draw, clip=(0, 8), layer=[1, 3])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# From the league's 1,000 clips; 1.8 points are twice the standard error of the difference of two means over its kinds,
# as if they had not been asked the same 5,900 questions.

# %%
measures = []
pairs = [("crosslmm, pooled", 8, None), ("crosslmm, pooled", 32, None)]
pairs += [("crosslmm, t2v", 8, "V2V with T2V +1.0 points on MVBench"), ("crosslmm, v2v", 8, None)]
for name, k, paper in pairs:  # the paper's as public reviews tell its ablations
    told = {"than": league[name, k]["all kinds"], "margin": 1.8, "unit": "%", "paper": paper}
    measures.append(papers.better(f"all kinds, {k} tokens, {name}", league["crosslmm", k]["all kinds"], **told))
alone = {name: league[f"crosslmm, {name}", 8]["all kinds"] for name in ("t2v", "pooled")}
measures.append(papers.better("all kinds, T2V alone, pooled", alone["t2v"], than=alone["pooled"], margin=1.8, unit="%"))
flops = [league[key]["cost"] + league[key]["own"] for key in (("crosslmm", 8), ("the host itself", 512))]
measures.append(papers.better("million FLOPs, the host", flops[0], than=flops[1], margin=0, higher=False))

# %%
papers.verdict(
    "crosslmm",
    "One token a frame with V2V and T2V answers more than one without looks, or with either look alone.",
    measures,
    against="of equal weight and steps: either look alone, and a wider MLP without looks",
    data="league, 1,000 held-out clips of 8 frames",
)

# %% [markdown]
# ## Where it breaks: looks are paid for by the patch
#
# A look costs products with all patches, keys and values more. How does that grow?

# %%
wide = CrossLMM(frames=16).requires_grad_(False)


def spent(frames):
    features, question = torch.zeros(1, 256 * frames, 192), words[:1]
    reads = metrics.flops(host.read, torch.zeros(1, 64 * frames, 192), question)
    return reads, metrics.flops(lambda: wide.read(host, features, question, frames))


costs = {frames: spent(frames) for frames in (2, 8, 16)}
series = {"64 tokens a frame": [c[0] / 1e6 for c in costs.values()], "ours": [c[1] / 1e6 for c in costs.values()]}
series = {name: (list(costs), values) for name, values in series.items()}
viz.show(viz.lines(series, "Looking back grows with the clip, reading faster", "frames", "million FLOPs", log="xy"))

# %% [markdown]
# ## Exercises
#
# **1. Your own looks.** `look(i, x, k, memory)` is called after layer i with all hidden states, the k visual tokens
# first, and with the keys and values; `self.v2v` and `self.t2v` hold a `LookBack` by the layer's number as a string.
# The library's tests judge the whole class.


# %%
class MyCrossLMM(CrossLMM):
    def look(self, i, x, k, memory):
        return x  # replace this: nobody looks


def check_1(method):
    return papers.check("crosslmm", method)


check_1(MyCrossLMM)

# %% [markdown]
# **2. Own frames.** Write the mask of a V2V in which a token sees its own frame only: booleans (F m, F n), true where
# pooled token i may look at patch j.


# %%
def own_frame(frames, m, n):
    return torch.ones(frames * m, frames * n, dtype=torch.bool)  # replace this: all of the clip


# %%
def check_2(mask):
    if mask(2, 1, 3).int().tolist() != [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]:
        return "2 frames of 3 patches, 1 token each: the first token sees patches 0 to 2, the second 3 to 5"
    if tuple(mask(8, 4, 256).shape) != (32, 2048) or mask(8, 4, 256).sum(1).unique().tolist() != [256]:
        return "8 frames of 256 patches, 4 tokens each: 32 rows, each with 256 patches"
    free = weights_of(method.v2v["1"], words).mean(0)
    share = float(free[mask(8, 1, 256)].sum() / free.sum())
    return f"right: of the trained V2V's attention {share:.0%} stays in the token's own frame, by chance 12%"


check_2(own_frame)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/10_crosslmm.py`.
#
# ## What was left out
#
# The paper tunes language models of billions of parameters on videos, in two stages. Read on:
# [Vision Remember](08_vision_remember.ipynb), [LLaVA-Mini](09_llava_mini.ipynb).
