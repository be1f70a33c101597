# %% [markdown]
# # ToDRE: keep what is unlike all that is kept
#
# **Paper:** Li, Yang and Lu, *ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large
# Vision-Language Models*, 2025 ([arXiv 2505.18757](https://arxiv.org/abs/2505.18757); here its second version).
# **Code:** `minitok/reduce/todre.py`.
# **Read first:** [FastV](03_fastv.ipynb), [DivPrune](11_divprune.ipynb).
#
# After this lesson you can prune nine of ten visual tokens before the language model reads them, and test whether it
# still needs any of them in its last layers.

# %%

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, todre
from minitok.reduce.todre import finished, max_sum, ratios

# %% [markdown]
# ## The problem: what is looked at is alike
#
# FastV's host again, with its questions. Now the cut is **before** the language model, which
# saves most, and only 28 of 256 tokens stay (11 %). Those that CLS looks at most in the ViT's last layer, and lots.
# "Right" is the mean of nine kinds of question (relations 4 to 7 each, digits 10, others 14 to 16);
# "per question", in the verdict, all 94 count the same:

# %%
stage = stages.reduce.stage(scenes=16, host="vlm")
k = 28
rows = {"all tokens": stage.full, "by lot": stage.measure(stages.reduce.LOTS, k)}
rows["CLS attention"] = stage.measure(stages.reduce.attended, k)
print(stages.reduce.table(rows))

# %% [markdown]
# CLS finds the objects (two thirds of the asked object stay), and yet colours and counts are lost: it spends its tokens
# on many patches of the same object. ToDRE's first stage looks for **diversity**, its second for **relevance**.
#
# ## By hand: five tokens, four chosen
#
# Five tokens by direction: (1, 0), (0.6, 0.8), (0, 1), (-1, 0), (0, -1). Say CLS looks most at token 1: the **pivot**.
# Each other token has a running sum S of cosines with all that are chosen. The smallest comes next (k = 3
# stops one row earlier):
#
# | chosen | S of 0 | S of 2 | S of 3 | S of 4 | next |
# |---|---|---|---|---|---|
# | 1 | 0.6 | 0.8 | -0.6 | -0.8 | 4 |
# | 1, 4 | 0.6 + 0 | 0.8 - 1 | -0.6 + 0 | | 3 |
# | 1, 4, 3 | 0.6 - 1 | -0.2 + 0 | | | 0 |

# %%
five = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]])
looks = torch.tensor([[[0.1, 0.5, 0.2, 0.1, 0.1]]])  # one head of CLS
print("in the order of choice", max_sum(five, torch.tensor([1]), 4).tolist())
print("kept, in the order of the input", todre(five, 3, cls_attention=looks).order.tolist())
assert max_sum(five, torch.tensor([1]), 4).tolist() == [[1, 4, 3, 0]]

# %% [markdown]
# **Not DivPrune.** DivPrune takes the token whose *nearest* chosen one is furthest (max-min); this takes the largest
# *sum* of distances. Tokens at 0, 179, 183 and 90 degrees; 0 and 179 are chosen. The sum for 183 is -0.9986 + 0.9976 =
# -0.001, for 90 it is 0 + 0.0175. So the sum takes 183, almost a copy of 179; max-min takes 90.

# %%
angle = torch.tensor([0.0, 179.0, 183.0, 90.0]).deg2rad()
four = torch.stack([angle.cos(), angle.sin()], -1)[None]
print("max-sum:", max_sum(four, torch.tensor([0]), 3).tolist())
assert max_sum(four, torch.tensor([0]), 3).tolist() == [[0, 1, 2]]

# %% [markdown]
# **Stage 2** asks one layer of the language model whether words still look at the picture. One head; a system token
# (S), two visual tokens (V), two words (T), each row adding up to 1:
#
# | payer | S | V | V | T | T |
# |---|---|---|---|---|---|
# | first word | 0.8 | 0.1 | 0 | 0.1 | 0 |
# | second word | 0.5 | 0 | 0.06 | 0.2 | 0.24 |
#
# Words pay 0.1 + 0.06 of 2 to visual tokens: 0.08. Visual tokens pay 0 to words, which come later. Both are below
# $\tau = 0.1$, so all visual tokens go.

# %%
first_word, second_word = [0.8, 0.1, 0, 0.1, 0], [0.5, 0, 0.06, 0.2, 0.24]
before = [[1.0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.5, 0.25, 0.25, 0, 0]]
attention = torch.tensor([[[*before, first_word, second_word]]])
print(ratios(attention, n=2, first=1), finished(attention, n=2, first=1))
assert difference(ratios(attention, n=2, first=1), torch.tensor([[0.08, 0.0]])) < 1e-6

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. The pivot.** From what CLS pays in the encoder's last layer, heads added up: one that matters is kept for sure.

# %%
signals = stage.start.signals
x = stage.start.visual  # projected: as the language model reads them
pivot = signals["cls_attention"].sum(1).argmax(1)
print("visual tokens", tuple(x.shape), "pivots of four scenes", pivot[:4].tolist())

# %% [markdown]
# **2. Running sums.** Each step needs the cosines with the newest token alone, not a map of all pairs.


# %%
def walk(x, pivot, k):
    x = F.normalize(x, dim=-1)
    chosen, total = [pivot], torch.zeros(len(x))
    for _ in range(k - 1):
        total = total + x @ x[chosen[-1]]
        total[chosen[-1]] = torch.inf  # never again
        chosen.append(int(total.argmin()))  # of equals the lowest
    return chosen


# %% [markdown]
# **3. Order.** What is kept stands in the order of the picture, at its old places. Built by hand, it is the library's:

# %%
mine = torch.tensor([sorted(walk(row, int(start), k)) for row, start in zip(x, pivot, strict=True)])
made = todre(x, k, cls_attention=signals["cls_attention"])
assert torch.equal(made.order, mine)
scenes = [5, 6]
kept = {"CLS": stages.reduce.attended(x, k, cls_attention=signals["cls_attention"]), "ToDRE": made}
pictures = [
    viz.painted(stage.scenes.images[i], Reduction.keep(m.order[i : i + 1], 256)) for i in scenes for m in kept.values()
]
viz.show(viz.images(torch.stack(pictures), [*kept, *kept], columns=4, height=1.6), photo=True)

# %% [markdown]
# CLS fills one object; ToDRE takes a few patches of each.
#
# ## The recipe
#
# 1. Take the projected visual tokens x (n, c), divided by their lengths.
# 2. Pivot: the token with the largest attention of CLS in the encoder's last layer, heads added up. No CLS: any.
# 3. S = 0. Repeat k - 1 times: add to each S its cosine with the newest token, leave chosen ones out, take the
#    smallest S (of equals the lowest).
# 4. Sort by place. Kept tokens keep their places.
# 5. In layer $\lceil 7L/8 \rceil$ (from 1) of the language model: mean over heads, then the words' share of attention
#    paid to visual tokens, and the visual tokens' share paid to words.
# 6. If both are below $\tau = 0.1$, no later layer and no later word sees visual tokens.
# 7. Nothing is trained. Cost: k n c for stage 1; one layer's attention weights for stage 2.
#
# | | paper | here |
# |---|---|---|
# | crops | pivot from the thumbnail (or from the best of a frame) | one picture |
# | stage 2 | layer 28 of 32 | four are tried; 7L/8 is the last (5 from 0): nothing is left to skip or save |
# | words | question and system prompt apart | a question, filled up in front |
#
# ## The experiment: stage 1

# %%
methods = {"ToDRE": todre, "DivPrune": stages.reduce.METHODS["divprune"], "ToMe": stages.reduce.METHODS["tome"]}
rows |= {name: stage.measure(method, k) for name, method in methods.items()}
rows["ToDRE, any pivot"] = stage.measure([lambda x, k, s=s: todre(x, k, seed=s) for s in range(3)], k)
rows["radial"] = stage.measure(stages.reduce.radial, k)
rows["pooling, 25"] = stage.measure(stages.reduce.pooling, 25)
print(stages.reduce.table(rows))

# %%
tokens, draws = (81, k, 16), stages.reduce.LOTS[:2]
named = {"ours: ToDRE": todre, "DivPrune": methods["DivPrune"], "CLS attention": stages.reduce.attended}
named["baseline: by lot"] = draws
curves = {}
for name, method in named.items():
    found = [stage.measure(method, count) if count != k else rows[name.split(": ")[-1]] for count in tokens]
    curves[name] = (tokens, [row.even for row in found])
axis = "visual tokens before the language model (of 256)"
viz.show(viz.lines(curves, "Diversity keeps the answers", axis, "right answers (%)", log="x"))

# %% [markdown]
# With a ninth of the tokens both ways to be diverse keep nine answers of ten, where what CLS looks at loses a quarter.
# Which of the two is better, these scenes cannot tell. Diversity holds a part of *each* object. The pivot hardly
# matters, as the paper says, but counts fall from 68.8 to 54.2 (16 questions: twice the standard error is 17).
#
# ## The experiment: stage 2
#
# For four layers: the words' share of attention that goes to visual tokens, and what remains of the answers if no layer
# after this one sees any.


# %%
def nothing(x, k):
    return Reduction.keep(torch.zeros(len(x), 0, dtype=torch.long), x.shape[1])


shares, dropped, layers = [], [], (0, 2, 4, 5)
for layer in layers:
    paid = stage.cut(layer).alone(stage.rows, ["paid"]).signals["paid"]
    shares.append(float(paid[:, :, 256:].sum(-1).mean()))
    dropped.append(stage.measure(nothing, 0, layer))
series = {"words' attention to visual tokens": (layers, [100 * share for share in shares])}
series["ours: right answers without them"] = (layers, [row.even for row in dropped])
levels = {"muted: the paper's threshold": 10}
viz.show(viz.lines(series, "Words look at the picture to the end", "after layer", "%", levels=levels))

# %% [markdown]
# In the paper's models the shares fall with depth: what the picture says has moved into the words (*information
# migration*). Here the words' share grows. (The second is 0 wherever all words come after the picture.) The rule never
# fires, and rightly so: without visual tokens after layer 4, 16 of 100 answers change.
#
# ## Play: what is kept?


# %%
def draw(scene=6, k=28, method="ToDRE"):
    choose = {"ToDRE": todre, "CLS": stages.reduce.attended}[method]
    made = choose(x[scene : scene + 1], k, cls_attention=signals["cls_attention"][scene : scene + 1])
    return viz.show(
        viz.images(viz.painted(stage.scenes.images[scene], made)[None], [f"{method}, {k}"], height=2.56), True
    )


draw()

# %%
control = viz.slider(draw, scene=(0, 15), k=[4, 8, 16, 28, 81, 256], method=["ToDRE", "CLS"])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over scenes.

# %%
paper = "95.0 % of the performance with 10 % of tokens"
measures = []
for name in ("by lot", "CLS attention", "DivPrune"):
    margin = 100 * stages.reduce.gap(rows["ToDRE"], rows[name], of="correct")[1]
    pair = {"than": rows[name].right, "margin": margin, "unit": "%", "paper": paper if name == "by lot" else ""}
    measures.append(papers.better(f"per question, {k} kept, {name}", rows["ToDRE"].right, **pair))
free = {"than": rows["ToDRE"].right, "by": 5, "unit": "%", "paper": "nearly the same"}
measures.append(papers.not_worse("per question, any pivot, CLS's", rows["ToDRE, any pivot"].right, **free))
low = {"than": 10.0, "margin": 0, "unit": "%", "higher": False, "paper": "falls with depth (a figure)"}
measures.append(papers.better("attention in layer 5, threshold", 100 * shares[-1], **low))
measures.append(papers.not_worse("loyal, none after layer 4, all", dropped[2].loyal, than=100.0, by=1, unit="%"))

# %%
papers.verdict(
    "todre",
    "Tokens chosen for diversity keep the answers at a tenth; late layers need no visual tokens.",
    measures,
    against="five draws by lot, CLS attention, DivPrune, before the language model; all tokens in its late layers",
    data=f"16 held-out scenes, {len(stage.rows)} questions to the house's vlm",
)

# %% [markdown]
# ## Where it breaks: it knows no question
#
# Stage 1 keeps as much of what nobody asks for. With 8 tokens not every object has one:

# %%
for name, method in (methods | {"CLS attention": stages.reduce.attended}).items():
    few = stage.measure(method, 8)
    kinds = ", ".join(f"{kind} {few.kind(kind):.0f} %" for kind in ("count", "colour", "digit"))
    print(f"{name:14} 8 tokens: right {few.even:.0f} %, {kinds}")

# %% [markdown]
# ## Exercises
#
# **1. Your own ToDRE** (stage 1), for a batch, with `cls_attention` (b, heads, n), or without it from a pivot that is
# drawn by `seed` and leaves torch's own generator alone. The library's tests judge it.


# %%
def my_todre(x, k, *, cls_attention=None, seed=0):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("todre", method)


check_1(my_todre)

# %% [markdown]
# **2. k-center.** Write the walk of the paper's first version for one row: from the pivot, always the token whose
# largest cosine with a chosen one is smallest. x (n, c), a list of k places.


# %%
def k_center(x, pivot, k):
    return walk(x, pivot, k)  # replace this: it goes by sums


# %%
def check_2(walk):
    if (found := walk(four[0], 0, 3)) != [0, 1, 3]:
        return f"from 0 and 179 degrees on, 90 is further from both than 183: [0, 1, 3] should come, not {found}"

    def method(x, k, *, cls_attention):
        starts = cls_attention.sum(1).argmax(1).tolist()
        return Reduction.keep(torch.tensor([sorted(walk(row, s, k)) for row, s in zip(x, starts, strict=True)]), 256)

    row = stage.measure(method, k)
    return f"right: {row.even:.1f} % of the answers; by sums {rows['ToDRE'].even:.1f} %"


check_2(k_center)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/12_todre.py`.
#
# ## What was left out
#
# The paper prunes thumbnails with crops, and video, and measures time and memory. Read on:
# [HiPrune](15_hiprune.ipynb) keeps neighbours together.
