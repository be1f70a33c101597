# %% [markdown]
# # LangDC: as many tokens as the caption has words
#
# **Paper:** Wang, Zhang, Wang, Zhang and Zheng, *Seeing More, Saying More: Lightweight Language Experts are Dynamic
# Video Token Compressors*, 2025 ([arXiv 2509.00969](https://arxiv.org/abs/2509.00969)), LangDC.
# **Code:** `minitok/project/langdc.py`.
# **Read first:** [LLaVA's projector](01_llava.ipynb).
#
# After this lesson you can let a small language model decide how many visual tokens a clip of a video gets, and take
# them from its hidden states, in training and in use at the same places.

# %%
import torch

from minitok import papers, stages, viz
from minitok.data import clips
from minitok.data.wordings import CODES, decode
from minitok.metrics import difference
from minitok.optimizers import AdamW
from minitok.project import LangDC
from minitok.project.langdc import Captioner, Told, caption_loss, packed, tell
from minitok.stages import crowds, telling

# %% [markdown]
# ## The problem: one budget for empty and for crowded clips
#
# The stage: clips of 8 frames of 256 patches, and a language model that answers questions about them; its own projector
# gives it 512 visual tokens. Most compressors make equally many tokens of every clip. Of these two, one holds less:

# %%
stage = stages.project.stage(6, of="clips")
objects = stage.scenes.present.sum(1)
few, many = int(objects.argmin()), int(objects.argmax())
frames = torch.cat([stage.pictures[clip, ::2] for clip in (few, many)])
titles = [f"{int(objects[clip])} objects, frame {frame}" for clip in (few, many) for frame in range(0, 8, 2)]
viz.show(viz.images(frames, titles, columns=4, height=1.6), photo=True)

# %% [markdown]
# Measured once on a GPU, on 1,000 clips: 22 **learnt queries** in a small transformer that reads all patches, trained
# on the answers. "By objects": right answers on clips of one, two, three and four objects. "Cost" is in FLOPs, the
# method's with the language model's, of what the language model spends with 512 tokens.

# %%
facts = crowds.load()
rows = {row["method"]: row for row in facts["rows"]}


def told_of(*names):
    for name in names:
        row = rows[name]
        each = " ".join(f"{right:5.1f}" for right in row["by objects"])
        all_of_it = f"{row['tokens']:5.1f} tokens, cost {row['cost']:.2f}, right {row['right']:.1f} %"
        print(f"{name:20} {all_of_it}, by objects {each}")


told_of("the host itself", "langdc, queries, 22")

# %% [markdown]
# LangDC's idea: let a small language model, the **expert**, describe the clip. As many words as it says, so many tokens
# the clip gets: not the words, but the hidden states that said them.
#
# ## By hand: three words
#
# An expert with the words `.` (1), ring (2), left (3). Its state at each place is one number here:
#
# | read so far | state | says |
# |---|---|---|
# | clip, prompt | 10 | ring |
# | ..., ring | 12 | left |
# | ..., left | 13 | `.` |
#
# The stop ends it: 3 words, so 3 tokens, **10, 12, 13**: the states that *said* the words, the stop too. Taking the
# states at the places where the words *stand* would give 12, 13 and one more: everything one place later. A second part
# that says only "ring ." adds 10, 12; what is not there moves to the end.


# %%
def step(word):  # None is the prompt; what it returns: the state and the logits at the last place
    word = torch.tensor([0]) if word is None else word
    says = {0: 2, 2: 3, 3: 1}[int(word)]
    return word[:, None] + 10.0, torch.eye(4)[says][None]


hand = tell(step, most=4, stop=1)
states = torch.tensor([[10.0, 12.0, 13.0, 0.0], [10.0, 12.0, 0.0, 0.0]]).view(1, 2, 4, 1)
there = torch.tensor([[[True, True, True, False], [True, True, False, False]]])
tokens, left = packed(states, there)
print(hand.words.tolist(), hand.states[0, :, 0].tolist(), "packed:", tokens.flatten().tolist(), left.int().tolist())
assert hand.states[0, :, 0].tolist() == [10, 12, 13, 0]
assert tokens.flatten().tolist() == [10, 12, 13, 10, 12, 0, 0, 0]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Cut, and read.** A clip is cut into parts of 4 frames (the paper's clips); the expert
# never sees two at once. It reads the mean of
# each square of four patches, projected to its width, then the prompt, one learnt vector.

# %%
expert = telling.expert()
parts = stage.features[[many]].unflatten(1, (2, 4 * 256)).flatten(0, 1)
read = expert.clip(parts)
print("patches", tuple(parts.shape), "as the expert reads them", tuple(read.shape))

# %% [markdown]
# **2. Say word after word, and keep an inner state.** The last layers turn towards the next word, so the paper
# takes the states some way below the top.


# %%
def look(read):  # the inner state and the likeliest word, at the last place
    kept = []
    last = expert.lm(read, after_layer=lambda i, x: kept.append(x) or x)
    return kept[1][:, -1], expert.head(last)[:, -1].argmax(-1)


def describe(read, most=20):
    states, words = [], []
    while len(words) < most and (not words or int(words[-1]) != CODES["."]):
        state, word = look(read)
        states, words = [*states, state], [*words, word]
        read = torch.cat([read, expert.word(word)[:, None]], 1)
    return torch.cat(states), torch.cat(words)


# %% [markdown]
# **3. In training nothing need be said.** With a given caption all states come from one pass: *teacher forcing*. They
# are the same, if they are taken at the same places; one place later they are not.

# %%
said = [describe(part[None]) for part in read]
for _, words in said:
    print(f"{len(words):2} tokens:", *decode(words[None]))
states, words = said[0]
forced, _ = expert(parts[:1], words[None])
print(f"same places: differ by {difference(forced[0], states):.0e}")
print(f"one later:   differ by {difference(forced[0, 1:], states[:-1]):.0e}")
assert difference(forced[0], states) < 1e-3 < difference(forced[0, 1:], states[:-1])

# %% [markdown]
# The authors' code takes the later places in training and the earlier ones in use.
#
# **4. How long? The stop decides**, and captions teach it. Ours name each object from left to right: colour, shape, the
# digit if it shows in these frames, its way, a comma or the stop. So a caption is long where there is much to see. The
# loss is the mean cross-entropy of all words with the stop; four steps of a fresh expert. (The trained one, after
# 6,000, says 90 % of held-out captions right word for word, 98 % of the right length.)

# %%
true = telling.captions(stage.scenes)
print(*decode(true[many]), sep="\n")
torch.manual_seed(0)
fresh, x = Captioner(), stage.features[:4, :1024]
optimizer, losses = AdamW(list(fresh.parameters()), lr=1e-2), []
for _ in range(4):
    losses.append(caption_loss(fresh, x, true[:4, 0]))
    optimizer.zero_grad()
    losses[-1].backward()
    optimizer.step()
print([round(float(loss.detach()), 2) for loss in losses])
assert losses[-1] < losses[0]

# %% [markdown]
# **5. Project, pack, mask.** The expert is frozen now. LLaVA's two layers lead its states to the language model's
# width. Rows of a batch have different numbers of tokens: they are filled up, and no word may look at the filling.
# What you built is what the library has:

# %%
method = stages.project.trained("langdc", 40)
mine = method.projector(torch.cat([states for states, _ in said])[None])
visual, there = method.tokens(stage.features[[many]])
assert difference(visual[:, there[0]], mine) < 1e-3
question = stage.asked.words[[many], 0]
answer = method.read(stage.host, stage.features[[many]], question)
assert difference(answer, stage.host.read(mine, question)) < 1e-3
print(int(there.sum()), "of", there.shape[1], "tokens are there; the host reads them as if there were no others")

# %% [markdown]
# ## The recipe
#
# 1. Cut the clip into parts of 4 frames; encode each frame; patch tokens without CLS.
# 2. Expert: a small causal language model. Its input: projected features, squares of four averaged, then a prompt.
# 3. Train it on captions of parts: cross-entropy of all words and the stop. Captions must grow with what there is.
# 4. Freeze it. Say the likeliest word after each word until the stop, at most `most` (paper: 128).
# 5. Token i of a part: the state after an inner layer at the place that says word i; the prompt's last place says word
#    0. The stop's is the last token.
# 6. Projector: Linear, GELU, Linear, each token by itself.
# 7. Parts one after another in time; rows filled up; the filling masked.
# 8. Train the projector on answers (paper: the language model too), states by teacher forcing.
# 9. Cost: the expert reads each part once, and each word; the language model reads a few dozen tokens.
#
# | | paper and its code | here |
# |---|---|---|
# | expert | Qwen2 0.5B, two vision encoders | 0.37 million parameters, one |
# | inner layer | after 16 of 24 | after 2 of 3 |
# | states in 8 | of true captions, one place later than in use | of what it says, same places |
# | beside them | a second branch of pooled tokens, if wanted | none |
#
# ## The experiment
#
# Same steps, same questions, frozen host. LangDC (at most 2 x 20 words), **cut** at 11 a part (17.2 in the mean), its
# **words** alone (states of layer 0), and **pooled** frames, four tokens each, no expert.

# %%
told_of(*rows)
print("tokens of clips of one to four objects:", [round(mean, 1) for mean in facts["tokens by objects"]])
shown = {"ours: LangDC": "langdc, 40", "LangDC, cut": "langdc, 22"}
shown |= {"baseline: learnt queries": "langdc, queries, 22", "muted: pooled frames": "crosslmm, pooled, 32"}
series = {label: ([1, 2, 3, 4], rows[name]["by objects"]) for label, name in shown.items()}
title = "Cut captions lose crowded clips"
viz.show(viz.lines(series, title, "objects in the clip", "right answers (%)", log="x"))

# %% [markdown]
# Tokens do follow what is there. But as many learnt queries answer as much, on crowded clips too, and pooled frames
# more for a third of the cost: the expert costs more than the language model. States say more than words, but for
# one object and for the way, which captions name: about motion the league finds words 35 % right, states 20 (a guess),
# the host itself 31.
#
# Live, on the six clips (the table counts the filling too):

# %%
counts = method.tokens(stage.features)[1].sum(1)
print("objects", objects.tolist(), "tokens", counts.tolist())
small = stage.measure(method, 40)
print(stages.project.table({"the host itself": stage.full, "langdc": small}))
assert telling.rank_correlation(counts, objects) > 0.5

# %% [markdown]
# ## Play: what does the expert say?


# %%
def draw(clip=many, part=0):
    words = method.told(stage.features[[clip]]).words[part]
    picked = stage.pictures[clip, 4 * part : 4 * part + 4]
    titles = [f"{int((words > 0).sum())} tokens", *decode(words[None]), "", ""]
    return viz.show(viz.images(picked, titles, columns=4, height=1.6), photo=True)


control = viz.slider(draw, clip=(0, 5), part=(0, 1))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over the clips.

# %%
ours, gaps = rows["langdc, 40"], facts["gaps"]
least = 0.8  # of the rank correlation
measures = [papers.better("rank correlation, tokens and objects", facts["rank correlation"], than=least, margin=0)]
for name in ("langdc, queries, 22", "crosslmm, pooled, 32", "langdc, 22"):
    for where, key in (("all", "right"), ("crowded", "crowded")):
        given = {"than": rows[name][key], "margin": gaps[name][where][1], "unit": "%", "tolerance": 0}
        measures.append(papers.better(f"right, {where}, {name}", ours[key], **given))

# %%
whole, own = rows["the host itself"], "49 % fewer than VideoGPT+, comparable accuracy"
for name in ("the host itself", "crosslmm, pooled, 32"):
    given = {"than": 100 * rows[name]["cost"], "margin": 0, "unit": "%", "higher": False, "tolerance": 0}
    measures.append(papers.better(f"FLOPs, {name}", 100 * ours["cost"], **given, paper=own if "host" in name else None))
given = {"than": whole["right"], "by": gaps["the host itself"]["all"][1], "unit": "%", "tolerance": 0}
measures.append(papers.not_worse("right, all, the host itself", ours["right"], **given))

# %%
papers.verdict(
    "langdc",
    "Tokens grow with what a clip holds, and an equal mean number answers more than fixed ones, above all if crowded.",
    measures,
    against="22 learnt queries in the expert's body, 32 pooled frames, LangDC cut; equal steps, one training each",
    data=f"{facts['clips']} held-out clips of 8 frames, {facts['questions']} questions; crowded: 3 or 4 objects",
)

# %% [markdown]
# ## Where it breaks: more than it was ever told
#
# The expert learnt captions of one to four objects, at most 20 words. Three clips of five to eight, with this room and
# with more:

# %%
full = clips.render(6, seed=5, max_objects=9)
print("objects there:      ", full.present.sum(1)[1:4].tolist())
words = LangDC(expert, most=45).told(stage.host.look(full.images[1:4])).words[::2]  # of the first four frames
for room in (20, 45):
    named = torch.isin(words[:, :room], torch.tensor([CODES[","], CODES["."]])).sum(1)
    print(f"named, {room} words room:", named.tolist())
print(decode(words)[1])
assert (named != full.present.sum(1)[1:4]).any()

# %% [markdown]
# With 20 words fuller clips are cut; with more it repeats itself, and does not stop.
#
# ## Exercises
#
# **1. Your own `tell`**, under the library's tests: for a batch, with zeros after each row's stop. `step(None)` reads
# the prompt, `step(words)` one word a row; each returns the states (b, w) and logits (b, v) of the last place.


# %%
def my_tell(step, most, stop=CODES["."]):
    state, logits = step(None)  # replace this: it says one word, whatever comes
    word = logits.argmax(-1)
    return Told(word[:, None], state[:, None], torch.ones_like(word[:, None], dtype=torch.bool))


def check_1(mine):
    return papers.check("langdc.tell", mine)


check_1(my_tell)

# %% [markdown]
# **2. Do the commas carry anything?** Give, for words (b, t), which of their tokens to keep: all words but commas and
# stops. The check asks the trained projector again, without these.


# %%
def content(words):
    return words > 0  # replace this: it keeps all words


def check_2(choose):
    class Chosen(LangDC):
        def told(self, x):
            return (told := super().told(x))._replace(there=told.there & choose(told.words))

    if choose(torch.tensor([[CODES["red"], CODES[","], CODES["."], 0]])).tolist() != [[True, False, False, False]]:
        return "keep words, but no commas, no stops and no filling"
    (chosen := Chosen(expert)).projector = method.projector
    row, mean = stage.measure(chosen, 40), float(chosen.tokens(stage.features)[1].sum(1).float().mean())
    return f"right: {mean:.1f} tokens in the mean, {row.even:.0f} % right; with commas {small.even:.0f} %"


check_2(content)

# %% [markdown]
# Solutions: `notebooks/src/solutions/07_project/11_langdc.py`.
#
# ## What was left out
#
# Pretraining on text, and the second branch. Read on:
# [CrossLMM](10_crosslmm.ipynb) keeps few tokens and looks back at all patches.
