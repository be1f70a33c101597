# %% [markdown]
# # AIM: merge before the language model, prune inside it
#
# **Paper:** Zhong, Liu, Li and Wang, *AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning*, 2024
# ([arXiv 2412.03248](https://arxiv.org/abs/2412.03248)).
# **Code:** `minitok/reduce/aim.py`.
# **Read first:** [ToMe](02_tome.ipynb), [FastV](03_fastv.ipynb).
#
# After this lesson you can take tokens away at several places of one pass, rank them by PageRank, and tell which half
# of such a schedule earns its keep.

# %%
from functools import partial

import torch

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, aim, cost, fastv, highest, tome
from minitok.reduce.aim import falling_shares, merge, pagerank
from minitok.stages import reduce_cuts

# %% [markdown]
# ## The problem: each place knows something else
#
# Before the language model a token is saved in every layer, but nobody knows the question: like tokens are *merged*.
# Inside, the words have met the picture, and what they do not need is *pruned*, but the layers before have been paid
# for. AIM does both. What does either do alone, at 19 % of the language model's FLOPs?

# %%
stage = stages.reduce.stage(scenes=20, host="vlm")
lm, n, words = stage.host.lm, 256, 12
schedule = {None: 64} | {layer: int(64 * share) for layer, share in falling_shares(6, first=3, last=5).items()}
print("visual tokens before the language model (None), and after the attention of each layer:", schedule)


def budget(first, inside=()):
    return cost(lm, dict(inside), first, first=words) / cost(lm, {}, n, first=words)


# %%
spent = budget(64, {layer: k for layer, k in schedule.items() if layer is not None})
before = max(k for k in range(1, n) if budget(k) <= spent)
early = max(k for k in range(1, n) if budget(n, {0: k}) <= spent)
rows = {
    "merge only": stage.along({None: before}, merge, weigh=False),
    "FastV in layer 0": stage.measure(fastv, early, 0),
}
print(f"of the FLOPs, {spent:.1%}: so merging alone may leave {before} tokens, FastV in layer 0 {early}")
print(stages.reduce.table(rows))

# %% [markdown]
# ## By hand: where does attention lead?
#
# Three visual tokens and a word. Each row says what a token *pays*, to itself and to those before it:
#
# | | 0 | 1 | 2 | word |
# |---|---|---|---|---|
# | token 0 | 1 | | | |
# | token 1 | 1/2 | 1/2 | | |
# | token 2 | | 1/2 | 1/2 | |
# | the word | | | 1/2 | 1/2 |
#
# FastV reads the last row: token 2 counts. **PageRank** gives everybody 1/4 and lets all pay from what they hold:
# 3/8, 2/8, 2/8, 1/8. Once more: 3/8 + 1/8 = 8/16, then 4/16, 3/16, 1/16. Nothing is lost, the sum stays 1, and under a
# causal mask it runs to the front: token 0 can pay nobody else.

# %%
four = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])[None, None]
for steps in (1, 2):
    print(steps, pagerank(four, temperature=1.0, steps=steps).tolist())
assert (16 * pagerank(four, temperature=1.0, steps=2)).tolist() == [[8, 4, 3, 1]]

# %% [markdown]
# **Sharpened.** M is the softmax of the attention's logits divided by 0.1, which is each row to the power of 10: a row
# 3/4, 1/4 becomes 0.99998, 0.00002. **Heads** walk apart; the importance is the root of the mean of their squares: with
# 1/4 in one head and 3/4 in the other, sqrt((1/16 + 9/16) / 2) = 0.559.
#
# **Merged by rounds.** Each round halves, and takes plain means: tokens 6, 3, 3 meet (mean 4), then 4 and 8 (mean 6).
# ToMe weighs by size: (6 + 3 + 3 + 8) / 4 = 5.

# %%
heads = torch.tensor([[[0.25, 0.75], [0.25, 0.75]], [[0.75, 0.25], [0.75, 0.25]]])[None]
print(round(float(pagerank(heads, temperature=1.0, steps=1)[0, 0]), 3))
tokens = torch.tensor([[[6.0, 0.0], [8.0, 1.0], [3.0, 0.0], [3.0, 0.0]]])
print("AIM", merge(tokens, 1).apply(tokens).tolist(), "ToMe", tome(tokens, 1).apply(tokens).tolist())
assert merge(tokens, 1).apply(tokens).tolist() == [[[6.0, 0.5]]]

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Merge.** [ToMe's](02_tome.ipynb) matching, on the tokens that the language model would read (not on keys), in two
# rounds: 256, 128, 64. In AIM every token counts once in later attention, whatever it stands for.

# %%
x = stage.start.visual
merged = merge(x, 64)
cut = stage.start.left(merged)
sizes = merged.sizes(torch.ones(len(x), n))
print("tokens", tuple(x.shape), "->", tuple(cut.visual.shape), "the largest stands for", int(sizes.max()), "patches")
viz.show(
    viz.images(viz.painted(stage.scenes.images[6], merge(x[6:7], 64))[None], ["64 merged tokens"], height=1.92), True
)

# %% [markdown]
# **2. One map of payments.** In layer 3 of 6 (from 0) the merged tokens and the words of one question: everybody's row
# is needed, where FastV needs one.

# %%
inside = reduce_cuts.after(cut, 3).alone(stage.rows, ["payments"])
payments = inside.signals["payments"]
print("payments", tuple(payments.shape), "(questions, heads, payers, paid)")

# %% [markdown]
# **3. Five steps.** The map to the power of 10, row by row (in parts of the largest: else small numbers vanish).

# %%
flow = (payments / payments.amax(-1, keepdim=True)) ** 10
flow = flow / flow.sum(-1, keepdim=True)
p = torch.full_like(flow[:, :, :1], 1 / flow.shape[-1])
for _ in range(5):
    p = p @ flow
importance = p[:, :, 0].square().mean(1).sqrt()
assert difference(importance, pagerank(payments)) < 1e-5
assert difference(p.sum(-1), torch.ones(p.shape[:-1])) < 1e-4

# %% [markdown]
# **4. Keep the share of this layer,** among visual tokens only. Words are never pruned. In the next layer the ranking
# is made anew, on what is left.

# %%
k = schedule[3]
order = importance[:, :64].argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
assert torch.equal(order, aim(inside.visual, k, payments=payments).order)
methods = {layer: merge if layer is None else aim for layer in schedule}
rows["AIM"] = stage.along(schedule, methods, weigh=False)
print(f"{100 * rows['AIM'].flops:.1f} % of the FLOPs, its own {100 * rows['AIM'].own:.2f} %")

# %% [markdown]
# ## The recipe
#
# 1. Before the language model, for each picture: repeat until the share is reached (two rounds: 25 %).
# 2. Even places are A, odd places B. Each of A finds its most similar of B, by the cosine of the projected tokens.
# 3. Merge the r = half of all tokens with the strongest edges: plain means of a B with all that joined it. List what
#    is left of A, then B.
# 4. In layer l of the language model: M = softmax(L / 0.1), L the logits of all tokens under the causal mask.
# 5. p = 1 / m; five times p <- p M, in each head. Importance: sqrt(mean over heads of p^2).
# 6. Keep all words, and of the visual tokens the most important: of those after step 3 the share
#    1 - (l - first + 1) / (last - first + 1), rounded down. 28 layers: first 14, last 21, where none are left.
# 7. Later words see in each layer what was kept there. Nothing is trained. Cost: 5 h m^2 products, and the whole map.
#
# | | paper and code | here |
# |---|---|---|
# | layers | 14 to 21 of 28 | 3 to 5 of 6 |
# | cut | behind the layer | between its attention and feed-forward part |
# | removed tokens | masked, their rows pay on | gone |
# | places of merged tokens | numbered anew: A's rest, then B | between those of their parts |
#
# ## The experiment: whose half is it?
#
# The same schedule with another ranking inside: FastV's last word, and lots. Then the two halves alone at equal FLOPs,
# and lots.

# %%
rankings = {"merge, last word": [fastv], "merge, lots": stages.reduce.LOTS[:2]}
for name, ranked in rankings.items():
    found = [stage.along(schedule, methods | dict.fromkeys((3, 4, 5), one), weigh=False) for one in ranked]
    rows[name] = stages.reduce.mean(found)
rows["ToMe only"] = stage.measure(tome, before)
rows["lots only"] = stage.measure(stages.reduce.LOTS[:2], before)
print(stages.reduce.table(rows))

# %%
tried = {}
for steps in (1, 2):
    tried[steps] = stage.along(schedule, methods | dict.fromkeys((3, 4, 5), partial(aim, steps=steps)), weigh=False)
tried[5] = rows["AIM"]
series = {"ours: PageRank": (list(tried), [row.even for row in tried.values()])}
levels = {"baseline: the last word": rows["merge, last word"].even, "muted: lots": rows["merge, lots"].even}
viz.show(viz.lines(series, "More steps, worse answers", "steps of PageRank", "right answers (%)", levels=levels))

# %% [markdown]
# The schedule is sound, the ranking is not. With the last word in PageRank's place, 15 points more of the answers stay
# right, and lots do no worse than PageRank. One step is 8 points better than five. And the merging half depends on how
# one merges: ToMe by keys, with sizes that weigh in later attention, is 9 points better at the same count than AIM's
# plain means of tokens that count once.
#
# ## Play: what is kept inside?


# %%
def draw(question=20, steps=5, k=64):
    at = stage.cut(3).alone(stage.rows[question : question + 1], ["payments"])
    made = aim(at.visual, k, payments=at.signals["payments"], steps=steps)
    picture = viz.painted(stage.scenes.images[stage.questions.scene[question]], made)
    return viz.show(viz.images(picture[None], [f"layer 3, {steps} steps"], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, question=(0, 40), steps=(0, 8), k=[16, 64, 128])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Per question: all count the same. Margins are twice the standard error of the paired difference over scenes.

# %%
paper = "6.8 times fewer FLOPs at nearly the same accuracy; +4.6 on MLVU at equal FLOPs"
measures = [papers.not_worse("loyal, AIM, all tokens", rows["AIM"].loyal, than=100.0, by=3, unit="%", paper=paper)]
for name in ("merge only", "FastV in layer 0", "merge, last word", "merge, lots"):
    margin = 100 * stages.reduce.gap(rows["AIM"], rows[name], of="correct")[1]
    pair = {"than": rows[name].right, "margin": margin, "unit": "%"}
    measures.append(papers.better(f"per question, AIM, {name}", rows["AIM"].right, **pair))
halves = stages.reduce.gap(rows["merge, last word"], rows["merge only"], of="correct")
pair = {"than": rows["merge only"].right, "margin": 100 * halves[1], "unit": "%"}
measures.append(papers.better("per question, merge and last word, merge only", rows["merge, last word"].right, **pair))

# %%
papers.verdict(
    "aim",
    "Merging before the language model and PageRank pruning inside it beat either alone at equal FLOPs.",
    measures,
    against="merging only, FastV in layer 0, the schedule by the last word and by lots: equal FLOPs, one frozen host",
    data=f"20 held-out scenes, {len(stage.rows)} questions to the house's vlm",
)

# %% [markdown]
# ## Where it breaks: everything flows to the front
#
# How far in front stand the 21 tokens of layer 3 with most importance, if 0 is the first of 64 and 63 the last?

# %%
places = {}
for steps in (0, 1, 2, 3, 5, 10):
    top = pagerank(payments, steps=steps)[:, :64].argsort(dim=-1, descending=True, stable=True)[:, :21]
    places[steps] = float(top.float().mean())
last = payments[:, :, -1, :64].mean(1).argsort(-1, descending=True)[:, :21].float().mean()
series = {"ours: PageRank": (list(places), list(places.values()))}
levels = {"baseline: the last word": float(last), "muted: anywhere": 31.5}
viz.show(viz.lines(series, "PageRank keeps what stands early", "steps", "mean place of what is kept", levels=levels))

# %% [markdown]
# One step brings the kept tokens forward from the middle (31.5) to 19: early tokens have more payers, the fault of
# FastV with all payers. More steps bring them to 17; the last word's are at 26. In the paper's models thousands of
# visual tokens stand between a system prompt and the words.
#
# ## Exercises
#
# **1. Your own AIM** (inside the language model). The library's tests judge it.


# %%
def my_aim(x, k, *, payments, temperature=0.1, steps=5):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("aim", method)


check_1(my_aim)

# %% [markdown]
# **2. Let the answer pull.** Start the walk at the last word alone instead of everywhere: p = (0, ..., 0, 1), s steps,
# rows as they are (no temperature). Returns the importance (b, m), over heads as in AIM. One step is then nearly
# FastV's score; what do two say?


# %%
def pulled(payments, steps):
    return pagerank(payments, temperature=1.0, steps=steps)  # replace this: it starts everywhere


# %%
def check_2(pulled):
    found = (16 * pulled(four, 3)[0]).tolist()
    if difference(torch.tensor(found), torch.tensor([2.0, 6.0, 6.0, 2.0])) > 1e-4:
        return f"by hand, three steps from the word lead to 2, 6, 6, 2 sixteenths, not {found}"

    def method(x, k, *, payments):
        return Reduction.keep(highest(pulled(payments, 2)[:, : x.shape[1]], k), x.shape[1])

    row = stage.along(schedule, methods | dict.fromkeys((3, 4, 5), method), weigh=False)
    return f"right: {row.even:.1f} % of the answers with two steps; AIM {rows['AIM'].even:.1f} %"


check_2(pulled)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/22_aim.py`.
#
# ## What was left out
#
# Video, the paper's main subject: merging goes frame by frame, and what is saved buys more frames. Read on:
# [VFlowOpt](20_vflowopt.ipynb) searches its schedule.
