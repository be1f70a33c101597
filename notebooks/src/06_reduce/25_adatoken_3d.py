# %% [markdown]
# # AdaToken-3D: how many tokens carry nearly all of the flow?
#
# **Paper:** Zhang, Chen and Zhang, *AdaToken-3D: Dynamic Spatial Gating for Efficient 3D Large Multimodal-Models
# Reasoning*, 2025 ([arXiv 2505.12782](https://arxiv.org/abs/2505.12782)).
# **Code:** `minitok/reduce/adatoken_3d.py`.
# **Read first:** [FastV](03_fastv.ipynb).
#
# After this lesson you can let a model say how many visual tokens it needs, and test whether what carries no attention
# can really go.
#
# **A reading of an abstract.** Abstract and introduction of this paper could be read; no code is public. They say:
# measure by attention how much flows from each spatial token to the words, fit the pruning to that; over 60 % of the
# tokens contribute less than 5 %. Score, layer, threshold are ours, and the host: patches of a picture, not 3D scenes.

# %%
import torch

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, adatoken_3d, cost, fastv
from minitok.reduce.adatoken_3d import enough, flow, tokens_for
from minitok.stages import reduce_vlm

# %% [markdown]
# ## The problem: k is a guess
#
# FastV keeps half behind layer 2 because that worked for its authors' models. In ours? Keep 44 of 256 tokens after the
# attention of layer 1 or 3 of 6 (from 0), by the last word's attention:

# %%
stage = stages.reduce.stage(scenes=15, host="vlm")
n = 256
for layer in (1, 3):
    row = stage.measure(fastv, 44, layer)
    print(f"layer {layer}: right {row.even:.1f} % (by kinds), {100 * row.flops:.0f} % of the FLOPs")

# %% [markdown]
# Layers differ, and nothing said so beforehand. AdaToken-3D asks the model: a *profile*, on other questions, of how
# attention flows in each layer.
#
# ## By hand: four spatial tokens, two words
#
# One head. What the two words pay to the four spatial tokens (the rest goes to words):
#
# | | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | word 4 | 1/2 | 1/4 | 0 | 1/4 |
# | word 5 | 0 | 1/2 | 1/4 | 1/8 |
# | flow, their mean | 4/16 | 6/16 | 2/16 | 3/16 |
#
# In all 15/16. The highest first: 6, then 6 + 4 = 10, then 13, then 15 of 15. So 2 tokens carry 2/3 of the flow, 3
# carry 13/15 = 87 %, and for 95 % it takes all 4. The last word alone, as in FastV, would give 0, 1/2, 1/4, 1/8.

# %%
words = torch.tensor([[0.5, 0.25, 0, 0.25], [0, 0.5, 0.25, 0.125]])
paid = torch.cat([torch.eye(4), words])[None, None]  # (1 row, 1 head, 4 spatial tokens and 2 words, 4 spatial tokens)
asked = torch.tensor([[True, True]])  # False would be filling in front of a short question
by_hand = flow(paid, asked)
print((16 * by_hand).tolist(), [int(enough(by_hand, share)) for share in (0.65, 0.85, 0.95)])
assert (16 * by_hand).tolist() == [[4, 6, 2, 3]]
assert [int(enough(by_hand, share)) for share in (0.65, 0.85, 0.95)] == [2, 3, 4]

# %% [markdown]
# **Real removal.** Keep tokens 0, 1 and 3. To *zero* token 2 leaves the second word with 1/2 + 1/8 of its attention for
# the picture, as if it looked away; to *remove* it shares the attention out anew among what is left, words included.
# The survivors keep their positions.
#
# ## The mechanism on real tokens
#
# **1. Profile.** Six other scenes. In each layer, what do words pay, and to whom? Under a causal mask spatial tokens
# cannot look at words, so all that they have flows among themselves.

# %%
profile = reduce_vlm.stage(6, seed=4 * 10**6)
flows, shares = {}, {}
for layer in range(6):
    seen = profile.cut(layer).alone(profile.rows, ["paid", "asked"]).signals
    flows[layer] = flow(seen["paid"], seen["asked"])
    shares[layer] = float(flows[layer].sum(1).mean())
print({layer: round(share, 2) for layer, share in shares.items()})

# %%
counts = {share: [tokens_for(flows[layer], share) for layer in range(6)] for share in (0.95, 0.8, 0.6)}
names = {0.95: "ours: for 95 % of the flow", 0.8: "for 80 %", 0.6: "for 60 %"}
series = {names[share]: (range(6), found) for share, found in counts.items()}
levels = {"muted: 40 % of the tokens": 0.4 * n}
viz.show(viz.lines(series, "It takes most tokens to carry 95 %", "layer", "tokens of 256", levels=levels))

# %% [markdown]
# The words look at the picture more and more, and nowhere does a small part of it hold all of their looks. Layer 3 is
# the most selective.
#
# **2. How many.** For each profiled question the smallest count that carries the share, their mean, rounded up.

# %%
layer = min(range(6), key=lambda at: counts[0.95][at])
best = flows[layer].sort(-1, descending=True).values.cumsum(-1)
each = (best < 0.95 * best[:, -1:]).sum(-1) + 1
k = -int(-each.double().mean() // 1)
assert k == tokens_for(flows[layer]) == counts[0.95][layer]
print(f"layer {layer}: {k} tokens, from {int(each.min())} to {int(each.max())} for single questions")

# %% [markdown]
# **3. Keep the k of the highest flow** of the question at hand, in their order.

# %%
cut = stage.cut(layer).alone(stage.rows, ["paid", "asked"])
rows_of_words = cut.signals["paid"][:, :, n:].mean(1)  # (questions, words, spatial tokens)
real = cut.signals["asked"][..., None]
mine = (rows_of_words * real).sum(1) / real.sum(1)
order = mine.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
assert difference(mine, flow(cut.signals["paid"], cut.signals["asked"])) < 1e-6
assert torch.equal(order, adatoken_3d(cut.visual, k, paid=cut.signals["paid"], asked=cut.signals["asked"]).order)

# %% [markdown]
# ## The recipe
#
# 1. Profile: run the model on other questions. In each layer take the attention of the question's words (filling left
#    out) to the spatial tokens, mean over heads and words: the flow of each token.
# 2. For each question, count how many tokens, the highest first, carry at least 95 % of all flow. k of the layer: the
#    mean over questions, rounded up.
# 3. Choose the layer with the smallest k.
# 4. For a new question run up to that layer's attention, take the flow, keep the k highest, of equals the lower. All
#    words stay, positions too; the others leave the sequence and the cache.
# 5. Nothing is trained. Cost: attention weights that are written out, in one layer.
#
# | | paper | here |
# |---|---|---|
# | what is pruned | tokens of a 3D scene | 256 patches of a picture |
# | score | "token-level information flows" | words to tokens, one layer |
# | count | by contribution, for each model; "dynamic" | the profile's mean, one for a layer |
# | layer, threshold | not known; 5 % | the smallest k; 95 % |
#
# ## The experiment: does what carries little matter little?

# %%
rows = {"all tokens": stage.full}
settings = {"95 %": (k, layer), "60 %": (counts[0.6][2], 2)}
for share, (count, at) in settings.items():
    rows[f"ours, {share} of the flow"] = stage.measure(adatoken_3d, count, at)
    rows[f"FastV, {count}"] = stage.measure(fastv, count, at)
    rows[f"by lot, {count}"] = stage.measure(stages.reduce.LOTS[:2], count, at)
print(stages.reduce.table(rows))

# %%
shown, count = (0.8, 0.6, 0.4), counts[0.6][2]
found = [tokens_for(flows[2], share) for share in shown]
ours = [rows["ours, 60 % of the flow"] if k == count else stage.measure(adatoken_3d, k, 2) for k in found]
lots = [rows[f"by lot, {count}"] if k == count else stage.measure(stages.reduce.LOTS[0], k, 2) for k in found]
series = {name: (found, [row.even for row in many]) for name, many in (("ours: highest flow", ours), ("by lot", lots))}
viz.show(
    viz.lines(
        series, "Little is lost until little is left", "visual tokens after layer 2 (of 256)", "right answers (%)"
    )
)

# %% [markdown]
# With 95 % of the flow nothing happens, and nothing happens with as many tokens by lot either: after layer 3 an answer
# hardly needs three quarters of the picture. The threshold saves an eighth of the FLOPs where FastV's setting saves
# half. With 60 % of layer 2's flow no answer is lost; as many tokens by the *last* word's attention lose 3 of 100
# (relations most of all), which so few questions leave undecided.
#
# ## Play: what carries the flow?


# %%
def draw(question=20, share=0.6, at=2):
    seen = stage.cut(at).alone(stage.rows[question : question + 1], ["paid", "asked"])
    given = {name: seen.signals[name] for name in ("paid", "asked")}
    made = adatoken_3d(seen.visual, count := int(enough(flow(**given), share)), **given)
    picture = viz.painted(stage.scenes.images[stage.questions.scene[question]], made)
    return viz.show(viz.images(picture[None], [f"{count} tokens for {share:.0%}"], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, question=(0, 40), share=[0.2, 0.4, 0.6, 0.8, 0.95], at=(1, 3))
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Per question: all count the same. Margins are twice the standard error of the paired difference over scenes, and
# one answer may fall the other way.

# %%
outside, saved = 100 * (1 - k / n), 100 * (1 - rows["ours, 95 % of the flow"].flops)
measures = [papers.better("tokens outside 95 % of the flow", outside, than=50.0, margin=0, unit="%", paper="over 60 %")]
measures.append(papers.better("FLOPs saved at 95 %", saved, than=50.0, margin=0, unit="%", paper="63 %"))
kept = {"than": 100.0, "by": 3, "unit": "%", "paper": "the accuracy of all tokens"}
measures.append(papers.not_worse("per question, 95 %, all", rows["ours, 95 % of the flow"].right, **kept))

# %%
for share, (count, _) in settings.items():
    mine = rows[f"ours, {share} of the flow"]
    for name in (f"by lot, {count}", f"FastV, {count}"):
        margin = 100 * stages.reduce.gap(mine, rows[name], of="correct")[1]
        pair = {"than": rows[name].right, "margin": margin, "unit": "%", "tolerance": 0.7}
        measures.append(papers.better(f"per question, {share}, {name}", mine.right, **pair))

# %%
papers.verdict(
    "adatoken_3d",
    "Less than half of the tokens carry 95 % of the flow to the words; the rest can go, and lots of as many cannot.",
    measures,
    against="all tokens; two draws by lot and FastV with as many tokens, the same cut of the same frozen host",
    data=f"15 held-out scenes, {len(stage.rows)} questions to the house's vlm; the profile is of 6 others",
)

# %% [markdown]
# ## Where it breaks: attention is not all
#
# A token that gets no attention here may be what a later layer looks at. How much of the flow of the last layer goes to
# tokens that layer 2 would have dropped?

# %%
late = profile.cut(5).alone(profile.rows, ["paid", "asked"]).signals
late = flow(late["paid"], late["asked"])
for share in shown:
    keep = flows[2].argsort(dim=-1, descending=True)[:, : tokens_for(flows[2], share)]
    lost = 1 - float((late.gather(1, keep).sum(1) / late.sum(1)).mean())
    print(f"{share:.0%} of layer 2's flow kept, {keep.shape[1]:3} tokens: {lost:.0%} of layer 5's flow is on others")

# %% [markdown]
# Layers look at different tokens: at 60 % half of layer 5's looks would go where nothing is left, and yet no answer
# changed. What attention says in one layer proves neither that a token is needed later nor that it is not.
#
# ## Exercises
#
# **1. Your own AdaToken-3D.** The library's tests judge it.


# %%
def my_adatoken(x, k, *, paid, asked):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("adatoken_3d", method)


check_1(my_adatoken)

# %% [markdown]
# **2. A budget of FLOPs.** Of all layers and of shares in steps of 5 %, find the (layer, share) whose count costs at
# most this part of the language model's FLOPs, with the largest share. `counted(layer, share)` gives the tokens,
# `spent(layer, k)` the part of the FLOPs.


# %%
def choose(counted, spent, most):
    return 3, 0.95  # replace this


# %%
def check_2(choose):
    def spent(at, count):
        return cost(stage.host.lm, {at: count}, n, first=12) / cost(stage.host.lm, {}, n, first=12)

    def counted(at, share):
        return tokens_for(flows[at], share)

    at, share = choose(counted, spent, 0.5)
    if (part := spent(at, counted(at, share))) > 0.5:
        return f"layer {at} with {share:.0%} of its flow costs {part:.0%}, more than 50 %"
    row = stage.measure(adatoken_3d, counted(at, share), at)
    return f"right: layer {at}, {share:.0%} of the flow, {row.tokens} tokens: {row.even:.1f} % of the answers"


check_2(choose)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/25_adatoken_3d.py`.
#
# ## What was left out
#
# The paper's 3D model has thousands of spatial tokens beside those of pictures, and measures seconds: 21 % faster. Read
# on: [AIM](22_aim.ipynb) prunes in several layers.
