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
# 64 tokens a frame: 512. Digits show in two frames only. Pooled to the mean of its patches, a frame is one token and a
# clip 8. A projector of that kind was trained for it, with a wide MLP (445,000 parameters):

# %%
stage = stages.project.stage(8, of="clips")
host, x, clip = stage.host, stage.features, 1
pooling = stages.project.trained("crosslmm, pooled", 8)
found = {"the host's own": stage.full, "pooled": stage.measure(pooling, 8)}
print(stages.project.table(found))
viz.show(viz.images(stage.pictures[clip], title="A digit shows in two frames of eight", height=0.96), photo=True)

# %% [markdown]
# A mean of 256 patches has no room for a digit. But nobody has to throw the patches away: only the **reading** is
# dear, since each token is read by every layer, and by every later token.
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
# Fetched: (1 + 2 + 3 + 5 · 6) / 8 = 4.5 in the first channel, 1 in the second. With a **gate** of 1/2 it is added to
# what was there: (3, 1) + (4.5, 1) / 2 = (5.25, 1.5). With a gate of 0 nothing happens: so training begins at the
# pooled model.

# %%
v = torch.tensor([[[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [6.0, 1.0]]])
p = pooled(v, frames=1, m=1)
look = LookBack(d=2, heads=1).requires_grad_(False)
look.query.weight.copy_(torch.tensor([[torch.tensor(5.0).log() * 2**0.5, 0.0], [0.0, 0.0]]))
look.out.weight.copy_(torch.eye(2))  # the norm makes (3, 1) into (1, -1), attention divides by the root of 2
keys = torch.tensor([[[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]])
closed = look(p, (keys, v[:, None]))
look.opening.fill_(0.5 / 2**0.5)  # a gate is the root of d times what is trained
opened = look(p, (keys, v[:, None]))
print("pooled", p.tolist(), "gate 0", closed.tolist(), "gate 1/2", [round(c, 3) for c in opened[0, 0].tolist()])
assert torch.equal(closed, p)
assert difference(opened, torch.tensor([[[5.25, 1.5]]])) < 1e-4

# %% [markdown]
# Pooled tokens look back: **visual to visual**, V2V. The question's words do the same with a look of their own: **text
# to visual**, T2V. A pooled token asks for its clip, whatever the question is; a word knows what is asked.
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
# **2. Remember.** Keys and values of all patches are made once a clip, and every look uses them: V does not change
# while the language model reads. Three heads of 64 channels.


# %%
def heads(tokens):
    return tokens.unflatten(-1, (3, 64)).transpose(1, 2)


keys, values = heads(method.key(method.norm(V))), heads(method.value(method.norm(V)))
assert difference(keys, method.remember(x)[0]) < 1e-3

# %% [markdown]
# **3. Look.** Attention without a mask: every token may see the whole clip. In a causal mask the first frame's token
# would never learn of the last frame.


# %%
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

# %%
assert difference(mine, method.read(host, x, words, 8)) < 1e-2 * float(mine.abs().max())
print(
    f"the same as `CrossLMM.read`; the language model read {hidden.shape[1]} tokens, never one of {x.shape[1]} patches"
)
gates = {f"{kind}, layer {i}": look.gate for kind in ("v2v", "t2v") for i, look in getattr(method, kind).items()}
print("gates after training:", ", ".join(f"{name}: {float(gate):.2f}" for name, gate in gates.items()))

# %% [markdown]
# **5. Train** P's and V's MLP, looks and gates with the answers' loss. At first the gates alone have a gradient: what
# stands behind a closed gate changes nothing. One step later everything learns.

# %%
torch.manual_seed(0)
fresh = CrossLMM()
assert torch.equal(fresh.read(host, x, words, 8), host.read(fresh(x, 8), words))
fresh.read(host, x[:2], words[:2], 8).square().mean().backward()
assert fresh.t2v["1"].opening.grad != 0
assert not fresh.t2v["1"].query.weight.grad.any()
print("an untrained CrossLMM is the pooled model; its gates learn first")

# %% [markdown]
# ## The recipe
#
# 1. Encode each of F frames: n patch tokens, without CLS.
# 2. Pool to m tokens a frame: means of m equal squares. k = F m.
# 3. P = MLP(pooled), V = MLP(patches), one MLP; add to each its frame's vector.
# 4. Keys V W_k and values V W_v once a clip (V normed).
# 5. The language model reads [P, words]. After chosen layers: P += g CA(P, V) and words += g CA(words, V), with
#    CA(q, V) = softmax(norm(q) W_q K^T / sqrt(d)) (V W_v) W_o, no mask; its own W_q, W_o, norm and g in each place.
# 6. g = 0 at first. Loss: that of the answers.
# 7. Cost: self-attention over F m + t tokens in place of F n + t; a look costs (F m + t) F n products of width d.
#
# | | paper, as far as it could be read | here |
# |---|---|---|
# | frames | 27 x 27 patches (SigLIP 2), pooled to 1, 9 or 16 | 16 x 16, pooled to 1, 4 or 16 |
# | looks after | chosen layers; how often is an ablation | layers 1 and 3 of 6 |
# | keys and values | not said whether looks share them | shared |
# | gate | a reviewer read one for V2V and T2V | one for each look, from 0 |
# | frame's vector | not said | added to P and V |
# | trained | looks first, then the language model too | the projector and its looks; the rest frozen |
#
# ## The experiment: which look fetches what?
#
# All have the same weight, within 0.3 %, and the same steps. "V2V only" and "T2V only" look after four layers in place
# of two, since they have one kind of look. On 1,000 held-out clips, from the chapter's league:

# %%
facts = stages.load("project")
league = {(r["method"], r["tokens"]): r for r in facts["rows"] if r["pictures"] == "clips"}
full = next(row for (name, _), row in league.items() if name == "the host itself")
names = {"pooled": "crosslmm, pooled", "V2V only": "crosslmm, v2v", "T2V only": "crosslmm, t2v", "both": "crosslmm"}
rows = {name: league[method, 8] for name, method in names.items()}
rows |= {"pooled, 32": league["crosslmm, pooled", 32], "both, 32": league["crosslmm", 32], "the host, 512": full}
kinds = ("exists", "colour", "shape", "count", "motion", "digit", "all kinds")
print(f"{'right (%)':14}" + "".join(f"{kind:>10}" for kind in kinds))
for name, row in rows.items():
    print(f"{name:14}" + "".join(f"{row[kind]:10.1f}" for kind in kinds))

# %%
bars = {f"{'ours: ' if name == 'both' else ''}{name}": row["digit"] for name, row in rows.items()}
viz.show(viz.bars(bars, "Who can look back reads what flashed up", "digits read (%)"))

# %% [markdown]
# What does it cost? FLOPs of one question, without the encoder: those of the language model, and of the projector with
# its looks.

# %%
for name in ("pooled", "both", "both, 32", "the host, 512"):
    row = rows[name]
    print(f"{name:14} reads {row['tokens']:3} tokens: {row['cost']:6.0f} + {row['own']:5.0f} million FLOPs")
assert rows["both"]["cost"] == rows["pooled"]["cost"] < full["cost"] / 5

# %% [markdown]
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


# %%
asked = stage.asked[:, 5:7]
pays = [weights_of(method.t2v["3"], asked.words[:, j])[:, -1].unflatten(1, (8, 256)).sum(2) for j in range(2)]
there = stage.scenes.shown.transpose(1, 2).gather(1, asked.first.clamp(min=0)[..., None].expand(-1, -1, 8))
digits = asked.kind >= 0
shares = [100 * float(torch.stack(pays, 1)[digits][there[digits] == shown].mean()) for shown in (True, False)]
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
control = viz.slider(draw, clip=(0, 7), layer=[1, 3])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of a difference of two shares, on 1,000 clips with about 1,090 questions
# about digits. "Gap closed" is how much of the way from pooled to the host's own answers.

# %%
pooled8, both8, digit = rows["pooled"], rows["both"], {"unit": "%", "tolerance": 0}
error = 2 * (2 * 50 * 50 / 1090) ** 0.5  # at its largest, for shares near one half
gap = 100 * (both8["all kinds"] - pooled8["all kinds"]) / (full["all kinds"] - pooled8["all kinds"])
abl = "ablations of V2V and T2V: MVBench +0.2 for T2V alone, +1.0 for both (public reviews)"
measures = [
    papers.better("digits, pooled", both8["digit"], than=pooled8["digit"], margin=error, paper=abl, **digit),
    papers.better("digits, V2V only", both8["digit"], than=rows["V2V only"]["digit"], margin=error, **digit),
    papers.better("digits, T2V only", both8["digit"], than=rows["T2V only"]["digit"], margin=error, **digit),
    papers.better("gap closed, half", gap, than=50, margin=0, **digit),
    papers.better("FLOPs, host", both8["cost"] + both8["own"], than=full["cost"] + full["own"], margin=0, higher=False),
]

# %%
papers.verdict(
    "crosslmm",
    "One token a frame with V2V and T2V regains most of what pooling loses; each look alone regains less.",
    measures,
    against="pooled tokens, V2V alone, T2V alone: equal weight and steps; the host with 512 tokens, trained as a whole",
    data="1,000 held-out clips of 8 frames: the chapter's league",
)

# %% [markdown]
# ## Where it breaks: looks are paid for by the patch
#
# A look costs products with all patches, for each pooled token and each word; keys and values cost more still. How does
# that grow with the clip, beside reading 64 tokens a frame? FLOPs of one question, by counting:

# %%
wide = CrossLMM(frames=32).requires_grad_(False)


def spent(frames):
    features, question = torch.zeros(1, 256 * frames, 192), words[:1]
    reads = metrics.flops(host.read, torch.zeros(1, 64 * frames, 192), question)
    return reads, metrics.flops(lambda: wide.read(host, features, question, frames))


costs = {frames: spent(frames) for frames in (2, 8, 32)}
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
# **2. Own frames.** The abstract does not say whether a pooled token may see other frames than its own. Write the mask
# of one that may not: booleans (F m, F n), true where pooled token i may look at patch j.


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
# The paper tunes a language model of 2 or 7 billion parameters on videos in two stages, and measures memory and time.
# Read on: `vision_remember` refreshes visual tokens alone, each from its own region; `llava_mini` fuses the question
# into the patches before the language model.
