# %% [markdown]
# # Recoverable Compression: let the question ask tokens back
#
# **Paper:** Chen, Xu, Zhang, Liu, Liu and Liu, *Recoverable Compression: A Multimodal Vision Token Recovery Mechanism
# Guided by Text Information*, 2024 ([arXiv 2409.01179](https://arxiv.org/abs/2409.01179)).
# **Code:** `minitok/reduce/recoverable.py`.
# **Read first:** [FastV](03_fastv.ipynb), [ToMe](02_tome.ipynb).
#
# After this lesson you can prune before the language model by what CLS looks at and by what the question names, and let
# the scores themselves say how many tokens to keep.

# %%
from textwrap import fill

import torch

from minitok import papers, stages, viz
from minitok.data.wordings import decode
from minitok.metrics import difference
from minitok.reduce import Reduction, highest, recoverable
from minitok.reduce.recoverable import budget, lof, merge, outliers, similarity, split, top
from minitok.stages.common_space import common_space
from minitok.stages.reduce_each import measure

# %% [markdown]
# ## The problem: what is salient is not what is asked
#
# FastV waits until words have met the picture, two layers deep. Before the language model only CLS of the vision
# encoder says what matters, and it has not heard the question. 26 of 256 tokens, the paper's 10 %, by CLS and by lot
# ("right" is the mean of nine kinds of question, relations 3 to 7 each, digits 9, others 12 to 14; "per question" below
# all count the same):

# %%
stage, k = stages.reduce.stage(scenes=14, host="vlm"), 26
rows = {"all tokens": stage.full, "by lot": stage.measure(stages.reduce.LOTS[:3], k)}
rows["CLS attention"] = stage.measure(stages.reduce.attended, k)
print(stages.reduce.table(rows))

# %% [markdown]
# CLS spends its tokens on what it likes best; counts and colours that it did not look at are gone. The paper also
# **recovers** what is like the question's text, and merges the rest. How many tokens each step gets is no setting: it
# is the number of **outliers** among the scores.
#
# ## By hand: five scores, six tokens
#
# The *Local Outlier Factor* compares how densely scores stand around one and around its neighbours. Scores 0, 1, 2, 3,
# 9, two neighbours each; the reach to a neighbour is the distance, at least that of the neighbour to its own second
# one:
#
# | score | neighbours | reaches | mean | factor |
# |---|---|---|---|---|
# | 0 | 1, 2 | max(1, 1), max(2, 1) | 1.5 | 1 |
# | 1, 2, 3 | likewise | 1 and 2 | 1.5 | 1 |
# | 9 | 3, 2 | 6, 7 | 6.5 | 6.5 / 1.5 = 4.33 |
#
# Above 1.5 is an outlier: there is one.

# %%
five = torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0]])
print([round(factor, 2) for factor in lof(five, 2)[0].tolist()], "outliers:", outliers(five, 2).tolist())
assert abs(float(lof(five, 2)[0, 4]) - 6.5 / 1.5) < 1e-5
# A score far below is one too: only the number counts, and then the highest are taken.
assert outliers(torch.tensor([[-9.0, 0.0, 1.0, 2.0, 3.0, 12.0]]), 2).tolist() == [2]

# %% [markdown]
# Six tokens; CLS pays 0.3, 0.2, 0.2, 0.1, 0.1, 0.1. Say the counts are 1, 1, 1: token 0 is kept for CLS, token 4
# recovered for the text, and of the rest CLS likes 1 best, a **centre** (of the equal 1 and 2 the lower). The centre
# takes in its partners, here 2, 3 and 5, by what CLS pays them: $(x_1 + 0.2 x_2 + 0.1 x_3 + 0.1 x_5) / 1.4$. One token
# more is the mean of all that is neither: $(0.2 x_2 + 0.1 x_3 + 0.1 x_5) / 0.4$.

# %%
attention, similar = torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]]), torch.tensor([[0.0, 0, 0, 0, 1, 0]])
kept = top(attention, torch.tensor([1])) | top(similar, torch.tensor([1]))
centres = top(attention.masked_fill(kept, -1), torch.tensor([1]))
weights = merge(attention, torch.ones(1, 1, 6, 2), similar, kept, centres, k=4)
print(Reduction.blend(weights).matrix()[0].mul(100).round().int().tolist(), "%")
assert (kept + 2 * centres).tolist() == [[1, 2, 0, 0, 1, 0]]
assert difference(weights[0, 1], torch.tensor([0, 1, 0.2, 0.1, 0, 0.1])) < 1e-6

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. What the question is like.** The paper compares CLIP's embedding of the question with CLIP's patches, trained
# into one space. Our vlm has no such tower; `text` gives the question's word embeddings of the language model, whose
# space visual tokens are projected into. Is that a common one? As a stand-in for CLIP the stage fits a linear map, by
# least squares on 48 other scenes, that turns a patch towards the words for what it shows.

# %%
cut = stage.cut().alone(stage.rows, ["cls_attention", "keys", "text", "asked"])
x, text, asked = cut.visual, cut.signals["text"], cut.signals["asked"]
attention = cut.signals["cls_attention"].mean(1)
space = common_space(stage.host)
words, named = similarity(x, text, asked), similarity(space(x), text, asked)
i = 4
bright = torch.stack([(s[i] - s[i].min()) / (s[i].max() - s[i].min()) for s in (attention, words, named)])
pictures = [bright.view(3, 1, 16, 16).expand(-1, 3, -1, -1).repeat_interleave(4, 2).repeat_interleave(4, 3)]
pictures = torch.cat([stage.scenes.images[stage.questions.scene[i]][None], *pictures])
print(*decode(stage.questions.words[i : i + 1]))
viz.show(viz.images(pictures, ["the scene", "CLS", "words", "common space"], height=1.5), photo=True)

# %% [markdown]
# **2. Three counts.** Outliers of CLS's attention: so many are kept. Outliers of the similarities, where what is kept
# stands at the lowest, so that nobody is recovered twice. Outliers of the attention of the rest: centres.

# %%
n, visual = 256, (lof(attention, 20) > 1.5).sum(1)
kept = top(attention, visual)
lowest = named.amin(1, keepdim=True)
recovered = (n - visual) * outliers(torch.where(kept, lowest, named), 20) // n
kept = kept | top(named.masked_fill(kept, -torch.inf), recovered)
merged = outliers(attention, 10, ~kept)
assert torch.equal(torch.stack([visual, recovered, merged], 1), split(attention, named))
print("kept, recovered, centres of three questions", split(attention, named)[:12:5].tolist())

# %% [markdown]
# **3. Merging.** A centre's partners are the 32 others left whose cosine of keys plus 1.8 times the similarity is
# highest. Weights are the attention of CLS: a patch that nobody looks at adds little. Each question has its own number:

# %%
signals = {"cls_attention": cut.signals["cls_attention"], "text": text, "asked": asked, "shared": space(x)}
counts = budget(x, **signals)
centres = top(attention.masked_fill(kept, -torch.inf), merged)
mine = Reduction.blend(merge(attention[:1], cut.signals["keys"][:1], named[:1], kept[:1], centres[:1], int(counts[0])))
one = {name: signal[:1] for name, signal in (signals | {"keys": cut.signals["keys"]}).items()}
assert difference(mine.matrix(), recoverable(x[:1], int(counts[0]), **one).matrix()) < 1e-6
print(f"tokens: {float(counts.float().mean()):.0f} on average, from {int(counts.min())} to {int(counts.max())}")
assert counts.min() < 40 < 80 < counts.max()

# %% [markdown]
# ## The recipe
#
# 1. Take a, the attention of CLS to the n patches in the encoder's last layer, mean over heads; s, the cosine of each
#    patch with the question, both in one space.
# 2. Factor of a score: 20 nearest, reach = max(distance, the neighbour's own furthest), density = 1 / mean reach,
#    factor = mean density of the neighbours by its own. Outlier: above 1.5.
# 3. v = outliers of a. Keep the v highest.
# 4. Set s of what is kept to the lowest. t = (n - v) times the share of outliers of s, rounded down. Keep the t
#    highest.
# 5. m = outliers, 10 neighbours, of a among the rest; the m highest are centres.
# 6. A centre's partners: of all others that are not kept the 32 with the highest cos(keys) + 1.8 s. It becomes
#    $(x_i + \sum a_j x_j) / (1 + \sum a_j)$.
# 7. Add the mean of all that is neither kept nor a centre, by a.
# 8. Kept tokens and centres keep their order and places. Nothing is trained. k = v + t + m + 1;
#    a given k - 1 is shared out as v : t : m.
#
# | | paper, its code | here |
# |---|---|---|
# | merged | sums | means: a row of M adds up to 1 |
# | keys of partners | looked up by places among the rest: another token's | the token's own |
# | m | share of outliers times the width of the features | their number |
# | in later attention | a merged token counts once | by its size, as in ToMe |
# | text | CLIP's, one vector | mean direction of words, in a space fitted by the stage |
#
# ## The experiment: does the question find its object?
#
# How much of the object asked for lies in the k tokens with the highest score?

# %%
pixels = stage.objects.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).sum((2, 4)).flatten(1).float()
other = similarity(space(x), text.roll(8, 0), asked.roll(8, 0))
scores = {"CLS": attention, "words": words, "ours: common space": named, "baseline: another's question": other}
found = {}
for name, score in scores.items():
    part = [pixels.gather(1, highest(score, count)).sum(1) / pixels.sum(1) for count in (8, 16, 32, 64)]
    found[name] = ((8, 16, 32, 64), [100 * float(share.nanmean()) for share in part])
axis = "tokens with the highest score (of 256)"
viz.show(viz.lines(found, "A common space hears the question", axis, "of the object asked for (%)", log="x"))

# %% [markdown]
# Word embeddings find no more of the object asked for than another's question does: they share a language model with
# the patches, not a space. In the fitted one the question beats CLS. Now the answers, with the paper's own number of
# tokens for each question, with their mean for all, and with 26. "Another's" is ours with the words of a question about
# another scene, "words" ours without the common space. With **no question** all similarities are 0: no outliers, so
# nothing is recovered; the rest is merged as ever.


# %%
def ours(x, k, *, cls_attention, keys, text, asked):
    given = {"cls_attention": cls_attention, "keys": keys, "text": text, "asked": asked}
    return recoverable(x, k, shared=space(x), **given)


def another(x, k, *, cls_attention, keys, text, asked):
    return ours(x, k, cls_attention=cls_attention, keys=keys, text=text.roll(8, 0), asked=asked.roll(8, 0))


def silent(x, k, *, cls_attention, keys, text, asked):
    given = {"cls_attention": cls_attention, "keys": keys, "text": text, "asked": asked}
    return recoverable(x, k, shared=torch.zeros_like(x), **given)


# %%
rows["ours, own number"] = measure(stage, ours, counts)
rows["CLS, as many"] = measure(stage, stages.reduce.attended, counts)
rows["ours, their mean"] = stage.measure(ours, round(float(counts.float().mean())))
methods = {"ours": ours, "another's question": another, "no question": silent, "words": recoverable}
methods |= {"ToMe": stages.reduce.METHODS["tome"], "radial": stages.reduce.radial}
rows |= {name: stage.measure(method, k) for name, method in methods.items()}
rows["pooling"] = stage.measure(stages.reduce.pooling, 25)
print(stages.reduce.table(rows))

# %% [markdown]
# Counts and colours come back. But with another's question, or none, as many do: what helps beside CLS is the merging
# of the rest, not the text. ToMe and 25 squares, which ask nobody, do as well. Nor do numbers of their own help: 52
# tokens for all questions serve as well.
#
# ## Play: kept, recovered, merged


# %%
def draw(question=4, k=32, space_of="common space"):
    one = {name: signal[[question]] for name, signal in cut.signals.items()}
    one["shared"] = space(x[[question]]) if space_of == "common space" else x[[question]]
    made = recoverable(x[[question]], k, **one)
    alone = made.order[:, :-1][:, (made.matrix()[0, :-1] > 0).sum(-1) == 1]
    scene = stage.scenes.images[stage.questions.scene[question]]
    (said,) = decode(stage.questions.words[[question]])
    picture = viz.painted(scene, Reduction.keep(alone, 256))[None]
    title = fill(said, 28) + f"\n{alone.shape[1]} of {k} stay as they are"
    return viz.show(viz.images(picture, [title], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, question=(0, 40), k=[8, 16, 32, 64, 128], space_of=["common space", "words"])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the paired difference over scenes.

# %%
paper = "about 10 % of the tokens, comparable to all"
own, few = rows["ours, own number"], rows["ours"]
measures = [papers.not_worse("per question, all", own.right, than=100.0, by=5, unit="%", paper=paper)]
pairs = [("own number, CLS", own, "CLS, as many"), ("26, CLS", few, "CLS attention"), ("26, by lot", few, "by lot")]
pairs += [("own number, their mean", own, "ours, their mean")]
pairs += [(f"26, {name}", few, name) for name in ("ToMe", "pooling", "words", "another's question", "no question")]
for name, row, than in pairs:
    margin = 100 * stages.reduce.gap(row, rows[than], of="correct")[1]
    measures.append(papers.better(name, row.right, than=rows[than].right, margin=margin, unit="%", tolerance=0))
object_ = {"than": found["CLS"][1][1], "margin": 5, "unit": "%"}
measures.append(papers.better("object in 16 tokens, CLS", found["ours: common space"][1][1], **object_))

# %%
share = 100 * float(counts.float().mean()) / 256
papers.verdict(
    "recoverable",
    "Tokens that the question asks back keep answers that salience loses, at a number of tokens that adapts.",
    measures,
    against="CLS attention, lots, ToMe; itself with no or another's question, or no common space; equal numbers",
    data=f"14 held-out scenes, {len(stage.rows)} questions to the house's vlm; {share:.0f} % of the tokens, or 10 %",
)

# %% [markdown]
# ## Where it breaks: outliers are not what is needed
#
# Does the number of odd scores know how much there is to see? Its correlation, over the questions, with the number of
# patches that show an object, and with the bits by which the answer moved when all got 26:

# %%
shown = stage.scenes.masks.any(1)[:, 2::4, 2::4].flatten(1).sum(1)[stage.questions.scene]
for name, need in {"patches with objects": shown, "bits lost at 26 for all": few.bits}.items():
    print(f"{name:24} {float(torch.corrcoef(torch.stack([counts.float(), need.float()]))[0, 1]):+.1f}")

# %% [markdown]
# ## Exercises
#
# **1. Your own Recoverable Compression** for a batch and a given k. `lof` and `outliers` may be used. The library's
# tests judge it.


# %%
def my_recoverable(x, k, *, cls_attention, keys, text, asked=None, shared=None):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])  # replace this: it keeps the first k


def check_1(method):
    return papers.check("recoverable", method)


check_1(my_recoverable)

# %% [markdown]
# **2. Only upwards.** An outlier below the crowd adds a token to the budget too. Count those only that lie above the
# median of their row: scores (b, n), a count for each row.


# %%
def upwards(scores, neighbours):
    return outliers(scores, neighbours)  # replace this: it counts both sides


def check_2(count):
    scores = torch.tensor([[-9.0, 0.0, 1.0, 2.0, 3.0, 12.0], [-9.0, 0.0, 1.0, 2.0, 3.0, 4.0]])
    if (found := count(scores, 2).tolist()) != [1, 0]:
        return f"12 lies above its crowd, -9 below: [1, 0] should come, not {found}"
    both, high = outliers(attention, 20).sum(), count(attention, 20).sum()
    return f"right: {int(high)} of the {int(both)} outliers of CLS's attention lie above"


check_2(upwards)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/18_recoverable.py`.
#
# ## What was left out
#
# A real CLIP, and the paper's other variant, which recovers among all tokens. Read on: [ToDRE](12_todre.ipynb) looks
# for diversity where this one asks the question.
