# %% [markdown]
# # Projectors: the overview
#
# **Chapter 7.** How does a picture reach a language model, and in how few tokens can it still be asked about?
# **Code:** `minitok/project/`, one file a method; the work that all are given is in `minitok/stages/project.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import torch
from torch import nn

from minitok import papers, project, stages, viz
from minitok.metrics import difference
from minitok.project import MQT, TokenPacker
from minitok.stages.seeing import wanted
from minitok.tables import aligned

# %% [markdown]
# ## The problem
#
# A vision-language model is a vision encoder, a **projector** and a language model. The encoder makes a vector of each
# patch; the projector turns them into **visual tokens**, vectors that stand before the words of a question. With one
# token a patch ([LLaVA](01_llava.ipynb)) a question of twelve words is read after 256 tokens, and all of them are paid
# for in every layer:

# %%
stage = stages.project.stage(16)
for k in (256, 64, 16, 4, 1):
    print(f"{k:3} tokens: {stage.cost(k) / 1e6:7.1f} million FLOPs of the language model for one question")
assert stage.cost(256) > 8 * stage.cost(16)

# %% [markdown]
# ## The contract
#
# A projector is an `nn.Module` that is built without arguments: `projector(x, k)` gives k tokens for features x (b rows
# of n patches with c channels). `budgets` says which k it knows; another is a `ValueError`. Whatever else it looks at,
# it asks for by name.

# %%
methods = {name: getattr(project, name) for name in project.__all__}
for name, method in sorted(methods.items(), key=lambda pair: pair[0].lower()):
    k = getattr(method(), "budgets", (256,))
    few = ", ".join(map(str, k if len(k) < 6 else (*k[:2], "...", *k[-2:])))
    print(f"{name:15} k = {few:24}", *wanted(method()))

# %% [markdown]
# `text` are the embedded words of the question, of which `asked` are no filling; `levels` the features after each of
# the encoder's six layers; `cls` its CLS token; `images` the pixels.
#
# A test holds the contract for every method: k tokens come out; rows of a batch do not see each other; gradients reach
# the features and all that is trained; half precision agrees within its rounding. Beyond that, each kind of method
# answers for something of its own:
#
# | kind | methods | what is promised |
# |---|---|---|
# | elastic | MQT, M3, TokenFLEX | one module serves all k; MQT's first k tokens are the same for every budget |
# | region-local | TokenPacker | a token sees only its square of patches |
# | text-guided | SliME, BUS | other words, other tokens; the words of other rows change nothing |
# | inside the language model | LLaVA-Mini, Vision Remember, CrossLMM | words or tokens look at patches again: `read` |
# | video | PVC, CrossLMM, LangDC | frames tell what is new; a clip gets what its caption needs |
# | policy | VisionThink | the model itself asks for the larger picture, and pays |

# %%
torch.manual_seed(0)
x, elastic, local = torch.randn(1, 256, 192), MQT().eval().requires_grad_(False), TokenPacker().eval()
other = x.clone()
other[:, 0] += 1  # the patch in the upper left corner
with torch.no_grad():
    before, after = (local(part, 16, levels=torch.stack([part] * 6, 1)) for part in (x, other))
moved = (after - before).abs().amax(-1)[0] > 1e-6
print("elastic: 4 of 64 tokens are the 4 of 4:", difference(elastic(x, 64)[:, :4], elastic(x, 4)) < 1e-5)
print("region-local: one patch moved token", moved.nonzero().flatten().tolist(), "of 16")
assert moved.nonzero().flatten().tolist() == [0]

# %% [markdown]
# ## The stage
#
# Two vision-language models of ours, trained on rendered pictures; their encoder and language model stay frozen.
# `vlm` answers about **scenes** of 64 x 64; `vlm_many` about **crops** (a scene of 128 x 128 as a thumbnail and four
# quarters) and **clips** of 8 frames. Every projector is trained for 1,200 steps on the same pictures in the same
# order. `stage.measure(projector, k)` asks held-out questions of nine kinds (clips: six).

# %%
viz.show(viz.images(stage.pictures[:8], [f"scene {i}" for i in range(8)], columns=8, height=1.2), photo=True)
scene, question = 3, "how many objects are there ?"
print(question, {answer: f"{share:.0%}" for answer, share in stage.says(scene, question).items()})

# %% [markdown]
# ## The league, in small
#
# Controls look at nothing but the grid: the mean of squares (**pooling**), the patches of a square side by side
# (**pixel shuffle**), k learnt queries (**resampler**). Here with 16 tokens, on 16 scenes. "LM cost" is the language
# model's, "own cost" what the projector computes itself, both in % of the language model's FLOPs with all 256 tokens.

# %%
named = ("pooling", "pixel shuffle", "resampler", "mqt", "m3", "tokenflex")
rows = {"all 256": stage.full}
rows |= {f"{name}, 16": stage.measure(stages.project.trained(name, 16), 16) for name in named}
print(stages.project.table(rows))

# %% [markdown]
# One question is a point or more here, so this only shows how the table is made.
#
# ## The league table
#
# Computed once by `minitok league project`: first the host and the controls, then the methods. "cost" and "own" as
# above, in FLOPs. `pixel shuffle, wide` has a wider layer, for as many weights as TokenPacker. VisionThink, trained by
# rewards, has its figures in [its lesson](13_visionthink.ipynb) alone.

# %%
facts = stages.load("project")
print(facts["how"], "\n")
scores = ("all kinds", "loyal", "exists", "count", "left", "digit", "cost", "own", "parameters")
short = facts | {"scores": {name: facts["scores"][name] for name in scores}}
controls = ("the host itself", "llava", "pooling", "pixel shuffle", "pixel shuffle, wide", "resampler")
papers_own = ("mqt", "mqt, featured", "m3", "tokenflex", "tokenpacker", "pvc", "bus", "llava_mini", "vision_remember")


def only(names, pictures="scenes"):
    few = ("pictures", "method", "tokens", *scores)
    kept = [{key: row[key] for key in few if key in row} for row in facts["rows"] if row["method"] in names]
    print(stages.table(short | {"rows": kept}, pictures=pictures), "\n")


only(controls)
only(papers_own)

# %% [markdown]
# On large scenes and on clips (LangDC gives at most so many tokens, 20.8 and 17.2 in the mean):

# %%
only(("the host itself", "slime", "slime, by lot", "slime, evenly"), "crops")
clips = ("the host itself", "crosslmm", "crosslmm, t2v", "crosslmm, pooled", "langdc", "langdc, queries")
only(clips, "clips")

# %%
at = {(row["method"], row["tokens"]): row for row in facts["rows"] if row["pictures"] == "scenes"}
whole = {(row["method"], row["tokens"]): row["all kinds"] for row in facts["rows"]}


def curve(name, score="all kinds"):
    found = sorted((k, row[score]) for (method, k), row in at.items() if method == name)
    return [k for k, _ in found], [value for _, value in found]


labels = {"pixel shuffle": "ours: pixel shuffle", "resampler": "baseline: resampler", "pooling": "muted: pooling"}
drawn = ("pixel shuffle", "pooling", "resampler", "mqt", "m3", "tokenflex", "llava_mini")
series = {labels.get(name, name): curve(name) for name in drawn}
title = "Patches side by side keep most"
viz.show(viz.lines(series, title, "visual tokens", "right answers (%), mean of nine kinds", log="x"))

# %% [markdown]
# Not all answers go at once. Relations ("is the red ring left of the star ?", by chance about 50 %) go first; the rest
# hold to 16 tokens.

# %%
kinds = ("exists", "colour", "count", "left", "digit")
print(f"{'':18}", *[f"{kind:>7}" for kind in kinds])
for name, k in (("pooling", 64), ("pooling", 16), ("pooling", 4), ("pixel shuffle", 16), ("m3", 16), ("tokenflex", 16)):
    print(f"{name + ', ' + str(k):18}", *[f"{at[name, k][kind]:7.1f}" for kind in kinds])

# %% [markdown]
# **What does each mechanism add?** Each method beside a control that lacks one thing, trained in as many steps and of
# its own weight (but `bus, by CLS` has a sixth less, and `langdc, queries` trains the expert as well). About 1 point
# tells two apart (crops and clips: 2).

# %%
against = [("mqt", "mqt, fixed", 16), ("mqt", "mqt, only 256", 16), ("m3", "m3, fixed", 16), ("m3", "m3, fixed", 4)]
against += [("tokenflex", "tokenflex, only 64", 64), ("tokenflex", "tokenflex, ungated", 16)]
against += [("tokenpacker", "tokenpacker, last level", 16), ("tokenpacker", "tokenpacker, everywhere", 16)]
against += [("pvc", "pvc, no clock", 16), ("pvc", "pvc, at once", 16), ("pvc", "pvc, at once", 4)]
against += [("pvc, any time", "pvc, at once", 4), ("llava_mini", "llava_mini, unfused", 1)]
against += [("bus", "bus, no matching", 16), ("bus", "bus, by CLS", 16)]
against += [("vision_remember", f"vision_remember, {part}", 4) for part in ("in front", "last level")]
against += [("slime", "slime, by lot", 384), ("crosslmm", "crosslmm, pooled", 8), ("langdc", "langdc, queries", 22)]
lines = [("method", "against", "tokens", "right (%)", "adds")]
for name, other, k in against:
    lines.append((name, other, str(k), f"{whole[name, k]:.1f}", f"{whole[name, k] - whole[other, k]:+.1f}"))
print(aligned(lines))

# %%
control = viz.slider(
    lambda kind="digit", name="pooling": viz.show(
        viz.lines({name: curve(name, kind)}, f"{name}: {kind}", "visual tokens", "right (%)", log="x")
    ),
    kind=list(kinds),
    name=["pooling", "resampler", "mqt", "m3"],
)
viz.ends(control)
control

# %%
best = {k: max((row["all kinds"], name) for (name, tokens), row in at.items() if tokens == k) for k in (64, 16, 4, 1)}
for k, (right, name) in best.items():
    spent = at[name, k]["cost"] + at[name, k]["own"]
    print(f"{k:2} tokens: {name} with {right:.1f} % of all kinds, for {spent:.0f} million FLOPs")
assert at["pixel shuffle", 16]["all kinds"] > at["pooling", 16]["all kinds"] > at["resampler", 16]["all kinds"] + 10
assert at["m3", 4]["all kinds"] > at["pooling", 4]["all kinds"] + 10
assert at["mqt", 4]["all kinds"] < at["resampler", 4]["all kinds"] - 10
assert at["pooling", 64]["digit"] > 95 > 80 > at["pooling", 64]["left"]

# %% [markdown]
# ## On a model of someone else's
#
# Projectors are functions of tensors, so any encoder's features will do. Here a LLaVA of Hugging Face's `transformers`
# (extra `models`; random weights, so there is nothing to download): 256 patches of 64 channels become 16 tokens of a
# Llama of width 96.

# %%
try:
    import transformers
except ImportError:
    transformers = None
    print("pip install minitok[models] brings transformers")

# %%
if transformers is not None:
    each = {"num_hidden_layers": 3, "num_attention_heads": 4}
    eyes = transformers.CLIPVisionConfig(hidden_size=64, image_size=64, patch_size=4, **each)
    mouth = transformers.LlamaConfig(hidden_size=96, vocab_size=200, **each)
    config = transformers.LlavaConfig(vision_config=eyes, text_config=mouth, image_token_index=199)
    theirs = transformers.LlavaForConditionalGeneration(config)
    patches = theirs.model.vision_tower(stage.pictures[:2], output_hidden_states=True).hidden_states[-2][:, 1:]
    visual = MQT(c=64, d=96, heads=4)(patches, 16)
    words = theirs.get_input_embeddings()(torch.tensor([[5, 6, 7], [5, 6, 8]]))
    read = theirs.model.language_model(inputs_embeds=torch.cat([visual, words], 1)).last_hidden_state
    print(tuple(patches.shape), "->", tuple(visual.shape), "->", tuple(theirs.lm_head(read).shape))

# %% [markdown]
# ## Your own method
#
# One class is enough. This one keeps the 16 patches whose features are longest, and the contract judges it; a mistake,
# such as reading the picture of another row, is told in words.


# %%
class Longest(nn.Module):
    budgets = (16,)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 192)

    def forward(self, x, k=None):
        if k not in (None, 16):
            raise ValueError(f"k={k} came, expected 16")
        kept = x.norm(dim=-1).topk(16).indices.sort().values
        return self.layer(x.gather(1, kept[..., None].expand(-1, -1, x.shape[2])))


# %%
class Neighbour(Longest):
    def forward(self, x, k=None):
        return super().forward(x.roll(1, 0), k)  # each row reads the picture of the row before


for method in (Longest, Neighbour):
    print(f"{method.__name__}:", papers.check("project", method))

# %% [markdown]
# Its row, with the host's own projector in place of a trained layer:

# %%
mine = Longest()
mine.layer = stage.host.projector
print(stages.project.table({"longest, 16": stage.measure(mine, 16)} | {name: rows[name] for name in list(rows)[:3]}))

# %% [markdown]
# ## What to take home
#
# - The strongest simple control is hard to beat: four by four patches side by side (pixel shuffle) keep 96 % of the
#   answers in 16 tokens, at a tenth of LLaVA's FLOPs. Their mean, with an eighth of the weights, loses left and right.
# - Learnt queries have to learn where to look. With 16 tokens and more a resampler's stay behind a grid; with 4 they
#   lead (59.6 % against pooling's 50.6, or 58.8 with a wide layer). Features in the keys help: with 16 tokens MQT,
#   whose keys are places alone, answers 62.2 %, `mqt, featured` 77.0; and a query that sees its own square alone
#   (TokenPacker) 88.9, where one that sees all has 66.3.
# - One module for all budgets costs 2 to 7 points where tokens are many (M3, TokenFLEX, PVC; MQT with 256 tokens 18).
#   **Where they are few it can gain**: M3 at 4 tokens 12 points, PVC's first frame 27; MQT, which seldom draws so few,
#   loses 18.
# - Text helps where it is fused or taught to choose (LLaVA-Mini, CrossLMM's T2V, BUS with its matching loss), and fails
#   where nothing has taught words and patches to agree (SliME: a lot is better).
# - Looking again between layers (Vision Remember) is no better than looking as often in front of them.
# - With one token, words that have seen the picture before (LLaVA-Mini) answer most: per token, not per FLOP. They take
#   twice what pixel shuffle with 16 tokens takes (340 against 172 million) and answer 29 points fewer.
