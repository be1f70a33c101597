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
# times. But who compresses the same frame four times gets the same tokens four times:

# %%
stage = stages.project.stage(10)
host, scene = stage.host, 3
blind = stages.project.trained("pvc, no clock", 16)
tokens = blind(stage.features[:1]).unflatten(1, (4, 4))
print("four frames, 4 tokens each; the frames differ by", round(difference(tokens, tokens[:, :1].expand_as(tokens)), 4))
found = {"256 tokens": stage.full, "4 of each of 4 equal frames": stage.measure(blind, 16)}
print(stages.project.table(found))
assert difference(tokens, tokens[:, :1].expand_as(tokens)) < 1e-3

# %% [markdown]
# 16 tokens were paid for, 4 were told. PVC lets each frame know **when** it is shown, and what frames before it held.
#
# ## By hand: the same patch, twice
#
# One patch place, shown at t = 0 and t = 1, both times x = (3, 1). A layer norm makes it (1, -1), at both times. In an
# **adaptive** norm the time sets scale and shift: (1 + scale) · norm + shift. Let scale be (0, 0) at t = 0, (1, 0) at
# t = 1, and shift nothing. Then attention over time, in one channel, the first: key and value are that channel, the
# query is (log 3) / 2 times it. It is **causal**: a frame sees itself and those before it.
#
# | t | normed | key, value | query | logits on t = 0, 1 | weights | fetched | x + fetched |
# |---|---|---|---|---|---|---|---|
# | 0 | (1, -1) | 1 | (log 3) / 2 | (log 3) / 2, - | 1, - | 1 | (4, 1) |
# | 1 | (2, -1) | 2 | log 3 | log 3, 2 log 3 | 1/4, 3/4 | 1/4 + 2 · 3/4 = 1.75 | (4.75, 1) |
#
# The same patch has become two.

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

# %% [markdown]
# With the clock stopped both are (4, 1): weights change nothing where all values are equal. That holds for any weights,
# not only for these.
#
# **Pixel shuffle**: the patches of a square go side by side into the channels. Of a 4 x 4 frame, 4 tokens:

# %%
print(shuffled(torch.arange(16.0).view(1, 1, 16, 1), m=4)[0, 0].int().tolist())

# %% [markdown]
# A mean would have left one number of these four; nothing is lost yet, but the channels are m times as many.
#
# ## The mechanism on real tokens
#
# **1. A still clip, and its clock.** The features are those after the fourth of the ViT's six layers. The time is a
# number of frames; 32 cosines and sines of it go through a small MLP.

# %%
method = stages.project.trained("pvc", 16)
levels = stage.seen.levels  # after each of the ViT's layers
frames = levels[:, 3, None].expand(-1, 4, -1, -1)
time = method.embed(sinusoid(torch.arange(4.0), 32))
print(tuple(levels.shape), "->", tuple(frames.shape), "and times", tuple(time.shape))
assert difference(time, method.time(frames)) < 1e-5

# %% [markdown]
# **2. Time before space.** In each of the last two layers, each place first gathers from its own past, then the frozen
# layer mixes the places of each frame as it always did. Attention over all frames and places at once could do both,
# at T times the cost; and the frozen layer would meet what it has never seen.


# %%
def through_time(layer, frames):
    scale, shift = layer.norm.modulation(time)[:, None].chunk(2, -1)
    normed = layer.norm.norm(frames) * (1 + scale) + shift
    places = normed.transpose(1, 2).flatten(0, 1)  # each place a row of its own: (b p, t, c)
    q, k, v = (part(places).unflatten(-1, (2, 32)).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    return frames + layer.out(mixed).unflatten(0, (len(frames), -1)).transpose(1, 2)


# %%
for layer, block in zip(method.temporal, host.vit.body.blocks[4:], strict=True):
    frames = through_time(layer, frames)
    frames = torch.stack([block(frame, torch.zeros(1, 256)) for frame in frames.unbind(1)], 1)
frames = host.vit.body.norm(frames)

# %% [markdown]
# **3. Compress.** Each patch is made narrow (16 channels), each square of 8 x 8 patches goes into one token of 1,024
# channels; there the time scales and shifts once more, and an MLP follows. So each frame may tell other patches, or
# other channels of them.

# %%
wide = shuffled(method.narrow(frames), m=4)
scale, shift = method.norm.modulation(time)[:, None].chunk(2, -1)
visual = method.mlp(method.norm.norm(wide) * (1 + scale) + shift).flatten(1, 2)  # frame after frame
words = stage.asked.words[:, 0]
mine = host.read(visual, words)
assert difference(mine, method.read(host, stage.features, words, levels=levels)) < 1e-2 * float(mine.abs().max())
print("the same as `PVC.read`:", tuple(frames.shape), "->", tuple(wide.shape), "->", tuple(visual.shape))

# %% [markdown]
# **4. Early frames are never changed by later ones.** So the tokens of the first t frames are those of a shorter clip,
# and a stream can be told as it comes. How alike are the four frames' tokens for the language model?

# %%
told = F.normalize(visual.unflatten(1, (4, 4)), dim=-1)
alike = torch.einsum("btmd,bsmd->bmts", told, told).mean((0, 1))
print("cosine of the tokens of one square, frame by frame:")
print("\n".join("  ".join(f"{value:5.2f}" for value in row) for row in alike.tolist()))
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
# | frames | T = 4 for pictures, 16 to 96 for clips | 4 for pictures |
# | tokens a frame | 1,024 patches to 64 | 256 patches to 4, or 1 |
# | L | some last layers | 2 of 6 |
# | time | relative timestamp, 256 cosines and sines | the frame's number, 32 |
# | before the shuffle | - | a matrix to 4 m channels, to keep the MLP small |
# | encoder | trained on | frozen; its last two layers without CLS |
#
# ## The experiment: four times four, or sixteen at once?
#
# "At once" is the same module, shown the picture once with all tokens in one frame; "no clock" stops the time. All
# weigh the same, within 2.2 %. Pooling, pixel shuffle and a resampler are the chapter's controls. 4,000 scenes:

# %%
facts = stages.load("project")
league = {(r["method"], r["tokens"]): r for r in facts["rows"] if r["pictures"] == "scenes"}
names = {"pvc": "4 frames", "pvc, at once": "at once", "pvc, no clock": "4 frames, no clock", "pooling": "pooling"}
names |= {"pixel shuffle": "pixel shuffle", "resampler": "resampler"}
kinds = ("exists", "colour", "shape", "count", "left", "above", "digit", "all kinds")
print(f"{'right (%)':22}" + "".join(f"{kind:>10}" for kind in kinds))
for k in (16, 4):
    for method_name, name in names.items():
        if row := league.get((method_name, k)):
            print(f"{k:2} {name:19}" + "".join(f"{row[kind]:10.1f}" for kind in kinds))

# %% [markdown]
# What does each frame add? One module was trained with 1, 2, 3 or 4 frames by lot, and is asked with each number:

# %%
steps = {k: league["pvc, any time", k] for k in (4, 8, 12, 16)}
series = {
    "ours: all kinds": ([1, 2, 3, 4], [row["all kinds"] for row in steps.values()]),
    "colour": ([1, 2, 3, 4], [row["colour"] for row in steps.values()]),
    "digit": ([1, 2, 3, 4], [row["digit"] for row in steps.values()]),
}
levels_of = {"baseline: no clock, 4 frames": league["pvc, no clock", 16]["all kinds"]}
viz.show(
    viz.lines(series, "Each time it is shown, the picture tells more", "frames shown", "right (%)", levels=levels_of)
)

# %% [markdown]
# ## Play: what is known after t frames?

# %%
progressive = stages.project.trained("pvc, any time", 16)


def draw(scene=3, asks="colour"):
    row, one = [], slice(scene, scene + 1)
    words = stage.asked.words[one, ["exists", "colour", "shape", "count"].index(asks)]
    for t in (1, 2, 4):
        hidden = progressive.read(host, stage.features[one], words, 4 * t, levels=levels[one])
        share, code = host.head(hidden[:, -1]).softmax(-1)[0].max(-1)
        row.append(f"t = {t}: {WORDS[code]} {float(share):.0%}")
    (question,) = decode(words)
    pictures = stage.scenes.images[scene : scene + 1].expand(3, -1, -1, -1)
    return viz.show(viz.images(pictures, row, title=question, height=1.92), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 9), asks=["exists", "colour", "shape", "count"])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of a difference of two shares: about 23,000 questions in all, 2,080 of digits.

# %%
ours, exact = league["pvc", 16], {"unit": "%", "tolerance": 0}
error = 2 * (2 * 50 * 50 / 2080) ** 0.5  # a digit's, at its largest; the mean of nine kinds is surer
small = {"margin": error / 3, **exact}
paper = "DocVQA 92.5 with 4 x 64 tokens a tile, 91.6 with 256 (README)"
measures = [
    papers.better("16 tokens, no clock", ours["all kinds"], than=league["pvc, no clock", 16]["all kinds"], **small),
    papers.better("16, at once", ours["all kinds"], than=league["pvc, at once", 16]["all kinds"], paper=paper, **small),
    papers.better("4, at once", league["pvc", 4]["all kinds"], than=league["pvc, at once", 4]["all kinds"], **small),
]
for before, after in ((4, 8), (8, 12), (12, 16)):
    told = steps[after]["all kinds"], steps[before]["all kinds"]
    measures.append(papers.better(f"frame {after // 4} adds, any time", told[0], than=told[1], **small))

# %%
papers.verdict(
    "pvc",
    "A picture shown T times with a clock tells more with each frame, and more than as many tokens at once.",
    measures,
    against="the same module without a clock, and shown the picture once with all tokens: equal weight and steps",
    data="4,000 held-out scenes: the chapter's league",
)

# %% [markdown]
# ## Where it breaks: the encoder pays
#
# What the language model saves, the encoder's last layers spend: they run once a frame. FLOPs of one question:

# %%
for name, k in (("the host itself", 256), ("pixel shuffle", 16), ("pvc, at once", 16), ("pvc", 16)):
    row = league[name, k]
    print(f"{name:16} {k:3} tokens: language model {row['cost']:5.0f}, before it {row['own']:5.0f} million FLOPs")

# %% [markdown]
# A language model of billions of parameters hides that; ours does not. And the clock was trained for four frames. Shown
# the picture longer, what do frames that it never met add?

# %%
method.repeats = 8
print({t: f"{stage.measure(method, 4 * t).even:.0f} %" for t in (4, 8)})
method.repeats = 4

# %% [markdown]
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
# clips too (`PVC()(x)` with 256 patches a frame), but was trained on still scenes. Read on: `crosslmm` reads few tokens
# of a clip and looks back at all patches.
