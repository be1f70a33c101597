# %% [markdown]
# # PVC: show a picture four times, and tell something new each time
#
# **Paper:** Yang, Dong, Zhu, Su, Wang, Tian, Chen, Wang, Lu and Dai, *PVC: Progressive Visual Token Compression for
# Unified Image and Video Processing in Large Vision-Language Models*, 2024
# ([arXiv 2412.09613](https://arxiv.org/abs/2412.09613)).
# **Code:** `minitok/project/pvc.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can compress pictures and clips with one module, a few tokens a frame, and say why its norms
# must know the time. Of the paper only the abstract and its README could be read; the recipe says what is our choice.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.data.wordings import WORDS, decode
from minitok.metrics import difference
from minitok.project import PVC
from minitok.project.pvc import Temporal, shuffled, sinusoid

# %% [markdown]
# ## The problem: pictures and clips want different compressors
#
# Many frames leave few tokens for each: a clip is told in a few tokens a frame. One picture told in so few loses its
# details. So models carry two compressors. PVC has one: **a picture is a clip in which nothing moves**, shown T = 4
# times, here with 4 tokens each time. But who compresses the same frame four times gets the same tokens four times.
# Here is a PVC trained with one to four frames, and its clock stopped:

# %%
stage = stages.project.stage(8)
host, levels = stage.host, stage.seen.levels  # features after each of the ViT's six layers
method = stages.project.trained("pvc, any time", 16)
method.timed = False
frozen, stopped = method(stage.features).unflatten(1, (4, 4)), stage.measure(method, 16)
method.timed = True
whole = stage.measure(method, 16)
print("four frames; their tokens differ by at most", round(difference(frozen, frozen[:, :1].expand_as(frozen)), 4))
print(stages.project.table({"256 tokens": stage.full, "clock stopped": stopped, "with its clock": whole}))
assert difference(frozen, frozen[:, :1].expand_as(frozen)) < 1e-3

# %% [markdown]
# Sixteen tokens were paid for, four were told. PVC lets each frame know **when** it is shown, and what came before it.
#
# ## By hand: the same patch, twice
#
# One patch, shown at t = 0 and t = 1, both times x = (3, 1). A layer norm makes it (1, -1). In an **adaptive** norm the
# time sets scale and shift: (1 + scale) · norm + shift. Let scale be (0, 0) at t = 0, (1, 0) at t = 1, shift 0. Then
# **causal** attention over time, in the first channel: key and value are that channel, the query (log 3) / 2 times it.
#
# | t | normed | key, value | query | logits on t = 0, 1 | weights | fetched | x + fetched |
# |---|---|---|---|---|---|---|---|
# | 0 | (1, -1) | 1 | (log 3) / 2 | (log 3) / 2, - | 1, - | 1 | (4, 1) |
# | 1 | (2, -1) | 2 | log 3 | log 3, 2 log 3 | 1/4, 3/4 | 1/4 + 2 · 3/4 = 1.75 | (4.75, 1) |
#
# The same patch has become two. **Pixel shuffle**, last, puts the patches of a square side by side into the channels:
# of a 4 x 4 frame with 4 tokens, the first gets patches 0, 1, 4, 5.

# %%
layer = Temporal(c=2, e=1, inner=1, heads=1).requires_grad_(False)
layer.norm.modulation.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))  # scales, then shifts
for part, weight in ((layer.query, torch.tensor(3.0).log() / 2), (layer.key, 1.0), (layer.value, 1.0)):
    part.weight.copy_(torch.tensor([[weight, 0.0]]))
layer.out.weight.copy_(torch.tensor([[1.0], [0.0]]))
twice, times = torch.tensor([3.0, 1.0]).expand(1, 2, 1, 2), torch.tensor([[0.0], [1.0]])
apart = layer(twice, times)[0, :, 0]
print([[round(value, 2) for value in row] for row in apart.tolist()])
assert difference(apart, torch.tensor([[4.0, 1.0], [4.75, 1.0]])) < 1e-3
assert difference(layer(twice, times * 0)[0, 0], layer(twice, times * 0)[0, 1]) < 1e-6  # the clock stands still
assert shuffled(torch.arange(16.0).view(1, 1, 16, 1), m=4)[0, 0, 0].tolist() == [0, 1, 4, 5]

# %% [markdown]
# With the clock stopped both are (4, 1), and so for any weights: a mean of equal values is that value.
#
# ## The mechanism on real tokens
#
# **1. A still clip, and its clock.** The features are those after the fourth of the ViT's six layers. The time is a
# number of frames; 32 cosines and sines of it go through a small MLP.

# %%
frames = levels[:, 3, None].expand(-1, 4, -1, -1)
time = method.embed(sinusoid(torch.arange(4.0), 32))
print(tuple(levels.shape), "->", tuple(frames.shape), "and times", tuple(time.shape))
assert difference(time, method.time(frames)) < 1e-5

# %% [markdown]
# **2. Time before space.** In each of the last two layers, each place first gathers from its own past, then the frozen
# layer mixes the places of each frame. Attention over all frames and places at once would cost T times as much.


# %%
def through_time(layer, frames):
    scale, shift = layer.norm.modulation(time)[:, None].chunk(2, -1)
    normed = layer.norm.norm(frames) * (1 + scale) + shift
    places = normed.transpose(1, 2).flatten(0, 1)  # each place a row of its own: (b p, t, c)
    q, k, v = (part(places).unflatten(-1, (2, 32)).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    return frames + layer.out(mixed).unflatten(0, (len(frames), -1)).transpose(1, 2)


for layer, block in zip(method.temporal, host.vit.body.blocks[4:], strict=True):
    frames = through_time(layer, frames)
    frames = torch.stack([block(frame, torch.zeros(1, 256)) for frame in frames.unbind(1)], 1)
frames = host.vit.body.norm(frames)

# %% [markdown]
# **3. Compress.** Each patch is made narrow (16 channels), and the 64 of a quarter go side by side into one token of
# 1,024 channels; there the time scales and shifts once more, and an MLP follows. So each frame may tell other patches.
# No early frame is changed by later ones: the first t tokens are those of a shorter clip. How alike are the
# four tokens of the first quarter?

# %%
wide = shuffled(method.narrow(frames), m=4)
scale, shift = method.norm.modulation(time)[:, None].chunk(2, -1)
visual = method.mlp(method.norm.norm(wide) * (1 + scale) + shift).flatten(1, 2)  # frame after frame
words = stage.asked.words[:, 0]
mine = host.read(visual, words)
assert difference(mine, method.read(host, stage.features, words, levels=levels)) < 1e-2 * float(mine.abs().max())
told = F.normalize(visual[:, ::4], dim=-1)
print("cosine of the first quarter's tokens, frame by frame:")
print("\n".join("  ".join(f"{value:5.2f}" for value in row) for row in (told @ told.mT).mean(0).tolist()))
assert difference(method(stage.features, 8), method(stage.features)[:, :8]) < 1e-4

# %% [markdown]
# ## The recipe
#
# 1. A clip as it is; a single picture T = 4 times.
# 2. Time: e_t = MLP(sinusoid(t)).
# 3. AdaLN(x, e) = (1 + scale(e)) · norm(x) + shift(e); scale and shift begin at 0.
# 4. In the encoder's last L layers, before the spatial attention: x_t(p) += Attn over s <= t at the same place p;
#    query, key and value from AdaLN. The last matrix begins at 0.
# 5. After the encoder's last norm: pixel shuffle to m squares a frame, AdaLN, MLP: m tokens a frame.
# 6. The language model reads T m tokens, frame after frame, then the question. Loss: that of the answers.
# 7. Cost: T times the encoder's last L layers (the first ones need to see one picture once), T m tokens.
#
# | | paper, as far as it could be read | here |
# |---|---|---|
# | frames | T = 4 for pictures, 16 to 96 for clips | 4 for pictures, or a random t of 1 to 4 each step |
# | tokens a frame | 1,024 patches to 64 | 256 patches to 4 |
# | L | some last layers | 2 of 6 |
# | time | relative timestamp, 256 cosines and sines | the frame's number, 32 |
# | before the shuffle | - | a matrix to 4 m channels, to keep the MLP small |
# | encoder | trained on | frozen; its last two layers without CLS |
#
# ## The experiment: what does each frame add?
#
# All were trained for 1,200 steps and are asked about the same 4,000 scenes. **Any time** met 1, 2, 3 or 4 frames in
# each step, so that all are familiar. **Four frames** always met four, and **no clock** too, with the clock stopped.
# **At once** shows the picture once, with as many weights, and must tell all of its tokens there:

# %%
facts = stages.load("project")
league = {(r["method"], r["tokens"]): r for r in facts["rows"] if r["pictures"] == "scenes"}
kinds = ("exists", "colour", "shape", "count", "left", "above", "digit", "all kinds")
shown = [("any time", "pvc, any time", k) for k in (4, 8, 16)] + [("four frames", "pvc", k) for k in (16, 4)]
shown += [("no clock", "pvc, no clock", 16), ("at once", "pvc, at once", 16), ("at once", "pvc, at once", 4)]
print(f"{'right (%)':16}tokens" + "".join(f"{kind:>10}" for kind in kinds) + "   weights")
for told, name, k in shown:
    row = league[name, k]
    print(f"{told:16}{k:6}" + "".join(f"{row[kind]:10.1f}" for kind in kinds) + f"{row['parameters']:9.0f}k")

# %%
curves = {"ours: any time, 4 tokens a frame": [league["pvc, any time", k]["all kinds"] for k in (4, 8, 12, 16)]}
marks = {f"{told}, 16 tokens": league[name, k]["all kinds"] for told, name, k in (shown[3], shown[6])}
curves = {name: ((1, 2, 3, 4), values) for name, values in curves.items()}
viz.show(viz.lines(curves, "The second frame adds, the third does not", "frames shown", "all kinds (%)", "x", marks))

# %% [markdown]
# The second frame brings 4 points, most in left and right; the third and the fourth bring none. Trained for four frames
# alone, PVC is no better than one look that tells 16 tokens at once (96.2; 95.8), and the clock is worth 0.8, less than
# the error of 0.9. Four frames of **one token each** lose 10 points to four tokens at once (52.1; 62.2).
#
# The surprise is at 4 tokens. **Any time** with one frame is the very module of **at once**, and answers 27 points more
# (89.0; 62.2): what it learnt while more frames followed seems to serve the first. M3 has the like with its scales.
#
# ## Play: what is known after t frames?

# %%


def draw(scene=3, asks="colour"):
    row, one = [], slice(scene, scene + 1)
    words = stage.asked.words[one, ["exists", "colour", "shape", "count"].index(asks)]
    for t in (1, 2, 3, 4):
        share, code = host.answer_logits(visual[one, : 4 * t], words).softmax(-1)[0].max(-1)
        row.append(f"t = {t}: {WORDS[code]} {float(share):.0%}")
    (question,) = decode(words)
    pictures = stage.scenes.images[scene : scene + 1].expand(4, -1, -1, -1)
    return viz.show(viz.images(pictures, row, title=question, height=1.92), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 7), asks=["exists", "colour", "shape", "count"])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error for the mean of nine kinds (23,000 questions).

# %%
pairs = [("frame 2 adds", "pvc, any time", 8, "pvc, any time", 4), ("clock", "pvc", 16, "pvc, no clock", 16)]
pairs += [(f"frame {t} adds", "pvc, any time", 4 * t, "pvc, any time", 4 * t - 4) for t in (3, 4)]
pairs += [(f"{k} at once", "pvc", k, "pvc, at once", k) for k in (16, 4)]
pairs += [("frame 1, any time; 4 at once", "pvc, any time", 4, "pvc, at once", 4)]
measures = []
for label, ours, k, other, of in pairs:
    paper = "DocVQA 92.5 with 4 x 64 tokens a tile, 91.6 with 256 (README)" if label == "16 at once" else None
    told = {"than": league[other, of]["all kinds"], "margin": 0.9, "unit": "%", "tolerance": 0, "paper": paper}
    measures.append(papers.better(f"all kinds, {label}", league[ours, k]["all kinds"], **told))

# %%
papers.verdict(
    "pvc",
    "A picture shown T times with a clock tells more with each frame, and more than as many tokens at once.",
    measures,
    against="fewer frames; a stopped clock; as many tokens of one frame; all of equal weight and steps",
    data="league, 4,000 held-out scenes",
)

# %% [markdown]
# ## Where it breaks: the encoder pays
#
# What the language model saves, the encoder's last layers spend: they run once a frame. Billions of parameters behind
# would hide that; here reading all 256 tokens is cheaper. And the clock was trained for four frames: what do eight add?

# %%
for name, k in (("the host itself", 256), ("pixel shuffle", 16), ("pvc, at once", 16), ("pvc", 16)):
    row = league[name, k]
    print(f"{name:16} {k:3} tokens: language model {row['cost']:5.0f}, before it {row['own']:5.0f} million FLOPs")
assert league["pvc", 16]["own"] > league["the host itself", 256]["cost"]

method.repeats = 8
longer, method.repeats = stage.measure(method, 32), 4
print(f"8 scenes, all kinds: 4 frames {whole.even:.0f} %, 8 {longer.even:.0f} %")

# %% [markdown]
# (The figures of both PVCs hold the encoder's last two layers, once for each frame; the first two lines' models run
# them too, for 554 million, not counted here.)
#
# ## Exercises
#
# **1. Your own encoder.** `encode(frames, spatial)` takes (b, t, p, c) frames and the encoder's last layers, each a
# function of (n, p, c); `self.time(frames)` and `self.temporal` are there. Without layers, the temporal ones stand
# alone. The library's tests judge the whole class.


# %%
class MyPVC(PVC):
    def encode(self, frames, spatial=()):
        return frames  # replace this: no time, no layers


def check_1(method):
    return papers.check("pvc", method)


check_1(MyPVC)

# %% [markdown]
# **2. A stream.** Frames come one by one. Give a temporal layer the next frame (b, 1, p, c), its time (1, e), and what
# you kept of those before (None at first); return the frame's output and what to keep. Do not compute a key twice.


# %%
def next_frame(layer, frame, time, kept):
    return layer(frame, time), kept  # replace this: it forgets


# %%
def check_2(next_frame):
    layer, kept = method.temporal[0], None
    clip = levels[:2, 3, None] * torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1)
    whole = layer(clip, time[:3])
    for t in range(3):
        made, kept = next_frame(layer, clip[:, t : t + 1], time[t : t + 1], kept)
        if (far := difference(made, whole[:, t : t + 1])) > 1e-3:
            return f"frame {t} is off by {far:.2g}: what did the frames before it hold?"
    return "right: a stream is told as it comes"


check_2(next_frame)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/07_pvc.py`.
#
# ## What was left out
#
# The paper trains encoder and language model (InternVL2, 8 billion) on pictures and videos together; our module takes
# clips too (`PVC()(x)` with 256 patches a frame), but was trained on still scenes. Read on:
# [CrossLMM](10_crosslmm.ipynb).
