# %% [markdown]
# # Speculative decoding: the overview
#
# **Chapter 5.** How can a model that writes one token a call write several, and what may that cost?
# **Code:** `minitok/speculate/`, one file a method; the loop that they share is in `_common.py`, that of trees in
# `_tree.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import functools
import statistics
import textwrap
from functools import partial

import torch

from minitok import house, metrics, papers, stages, viz
from minitok.house import smollm2
from minitok.house.sampling import sample
from minitok.speculate import Accept, Cached, TreeCached, decode, decode_tree, drafter, gsd, lantern, pick, speculative
from minitok.speculate.token_recycling import TokenRecycling, recycle
from minitok.stages.speculate import leniently

# %% [markdown]
# ## The problem: a call for each token
#
# An **autoregressive** model gives the probabilities of the next token after all tokens so far. One is drawn from them,
# and the model is **called** again. The house's `image_gpt` draws a picture of clothes in this way, from the upper left
# to the lower right: 256 tokens, here named **codes**, each one of 4,096, each for a patch of 4 x 4 pixels. Code 57
# needs code 56, so no two calls can be made at once.

# %%
gpt, small, tokenizer = (house.load(name) for name in ("image_gpt", "image_draft", "tokenizer"))
label, nothing = torch.tensor([9]), torch.zeros(0, dtype=torch.long)  # the class t-shirt; no codes yet


def models():  # each with a cache, so that a call computes only what is new
    return [Cached(lambda new, cache, model=model: model(new, label, cache)) for model in (gpt, small)]


large, little = models()
generator = torch.Generator().manual_seed(0)
plain = decode(large, drafter(little), speculative.accept, nothing, 256, k=0, generator=generator)
print(f"{len(plain.tokens)} codes, {plain.calls} calls")

# %% [markdown]
# What is a call spent on? All weights must be fetched from memory, and each takes part in a multiplication and an
# addition for every place at which the model answers.

# %%
fetched = metrics.bytes_held(*gpt.parameters())
for places in (1, 5):
    operations = 2 * metrics.parameters(gpt) * places
    print(f"places: {places}; {fetched / 1e6:.0f} MB fetched, {operations / 1e6:.0f} million operations", end="; ")
    print(f"{operations / fetched:.1f} for each byte")

# %% [markdown]
# A graphics card does more than a hundred operations in the time in which it fetches one byte. So it mostly waits, and
# answers at five places hardly later than at one. If only we knew codes to ask about!
#
# ## The idea: guess and check
#
# Let somebody cheap guess: `image_draft`, a small model that learnt to say what `image_gpt` says. It knows how likely
# it made each guess, $q$. Then **one** call of `image_gpt` tells how likely each of them is to itself, $p$. Here are
# five guesses after the first 100 codes of the picture.

# %%
so_far = plain.tokens[:100]
generator = torch.Generator().manual_seed(1)
guesses, q = drafter(little)(so_far, 5, generator)
p = large(torch.cat([so_far, guesses]), 6)  # after 100, 101, ... 105 codes, from one call
for i, x in enumerate(guesses.tolist()):
    stays = speculative.acceptance(p[i], q[i], x)
    print(f"guess {x:4}: q = {q[i, x]:.4f}, p = {p[i, x]:.4f}, stays with probability {stays:.2f}")
kept, own = speculative.accept(p, q, guesses, generator)
print(f"{kept} stayed; then image_gpt's own code {own}: {kept + 1} codes from one call")

# %% [markdown]
# The rule: from the left, a guess stays with probability $\min(1, p/q)$. At the first refusal a code is drawn from what
# p has above q, $\max(0, p - q)$ scaled to sum 1, and the guesses behind are void. If all stay, the last row gives one
# more. So a call gives 1 to k + 1 codes.
#
# Does this change the picture's distribution? A code is guessed *and* stays with probability $q \min(1, p/q)$, which is
# $\min(p, q)$; what is missing to p comes by the corrections. We check it for all 4,096 codes. The **total variation**
# of two distributions is half the sum of their absolute differences: 0 if they are equal, at most 1.

# %%
first, guessed = p[0], q[0]
stays = torch.minimum(first, guessed)
law = stays + (1 - stays.sum()) * speculative.residual(first, guessed, 0)
for name, other in {"what comes out": law, "the guesses alone": guessed}.items():
    print(f"{name}: total variation {float((other - first).abs().sum()) / 2:.3f} from image_gpt")
assert (law - first).abs().max() < 1e-12

# %% [markdown]
# Nothing changed: such a judge is called **exact**, and *Speculative decoding* (lesson 1) proves it. Now a whole
# picture with four guesses a call. Who drew what?


# %%
@functools.cache
def drawn(judge="exact", k=4, jacobi=False):
    large, little = models()
    own, generator = gsd.Jacobi(large, 4096), torch.Generator().manual_seed(0)
    pair = (own.target, own.draft) if jacobi else (large, drafter(little))
    return decode(*pair, judges[judge], nothing, 256, k=k, generator=generator)


def who(made, name):
    title = f"{name}: {made.calls} calls, {int(made.of_draft.sum())} guesses stayed (in full colour)"
    return viz.patches(tokenizer.decode(made.tokens[None, :, None])[0], 4, title, keep=made.of_draft)


# %%
judges: dict[str, Accept] = {"exact": speculative.accept}
viz.show(who(drawn(), "exact"), photo=True)

# %% [markdown]
# ## The contract
#
# Three functions, and a loop that does not know what they are:
#
# - `target(tokens, m)` -> the probabilities after the last m prefixes of the tokens, from one call;
# - `draft(context, k, generator)` -> at most k guesses, and the q that they were drawn from;
# - `accept(p, q, drafted, generator)` -> how many guesses stay, and the token that follows them.
#
# `decode(target, draft, accept, context, n, k=4)` returns a `Decoded`: exactly n `tokens`, and for each call how many
# were `drafted` and `kept`; from these follow `calls` and `of_draft`.

# %%
made = drawn()
print("tokens ", made.tokens[:8].tolist(), "...")
print("drafted", made.drafted[:12], "...")
print("kept   ", made.kept[:12], "...")
assert len(made.tokens) == sum(made.kept) + made.calls == len(made.of_draft)

# %% [markdown]
# A judge that is not exact states a `bound` on the total variation; tests hold both, adding up all outcomes. Why be
# kinder? Each code stands for a vector of four numbers, and codes of near vectors look alike, so that a refusal often
# seems needless:
#
# - **lantern:** codes of near vectors lend the guess their p, as long as all loans stay within `delta`;
# - **gsd:** the guess is judged by the sums of p and of q over a group, codes of similar p and near vector;
# - **lenient**, the baseline: q is multiplied by a number below 1, whatever codes look like.
#
# And a judge of your own takes two lines. This one believes everything:


# %%
def gullible(p, q, drafted, generator):
    return len(drafted), pick(p[-1], generator)


vectors = tokenizer.quantizer.decode(torch.arange(4096)[None, :, None])[0]  # 4096 4
judges["gsd"] = partial(gsd.accept, codebook=vectors)
judges["lenient"] = partial(leniently, share=0.05)
judges["lantern"] = partial(lantern.accept, neighbours=lantern.nearest(vectors, 64), delta=0.002)
judges["gullible"] = gullible

# %% [markdown]
# The guesses, too, may come from elsewhere. **Jacobi:** a call answers at all guessed places, also behind the first
# refusal; from these leftovers the next guesses are drawn, without a small model. What they were drawn from is their q.
#
# **Token Recycling** does it for text. A matrix holds for each token what the model last thought of after it (as a
# graph: which tokens are neighbours). It gives a *tree* of guesses, all judged in one call. Trees have a loop of their
# own, `decode_tree(target, drafter, context, n)`, that returns the same `Decoded`. The model is SmolLM2, which others
# trained (the first run fetches its 93 MB); it writes greedily, always the likeliest token.

# %%
model = smollm2.load()
prompt = torch.tensor(model.tokenizer.encode("for i in range(10):\n    print(i)\nfor j in range(10):\n"))
memory = TokenRecycling(len(model.tokenizer))
with torch.no_grad():
    recycle(memory.matrix, prompt, model(prompt[None])[0])  # the prompt is read anyway
text = decode_tree(TreeCached(model).branch, memory, prompt, 8)
print(repr(model.tokenizer.decode(text.tokens.tolist())), "in", text.calls, "calls; guesses in each:", text.drafted)
greedy = Cached(lambda new, cache: model(new, cache=cache), temperature=0)
alone = decode(greedy, drafter(greedy), speculative.accept, prompt, 8, k=0)
assert torch.equal(text.tokens, alone.tokens)
assert text.calls < alone.calls == 8

# %% [markdown]
# ## The league, in small
#
# One picture a judge, four guesses a call (Jacobi: eight). How do we know whether a picture is still one of
# `image_gpt`'s? A code of probability p **surprises** it by $\log_2(1/p)$ bits. It expects some surprise; more than
# that in the mean is a sign that somebody else drew. (None is no proof of the contrary.)


# %%
@torch.no_grad()
def surprise(codes, labels):  # of each code: bits above those expected, and their standard deviation
    log2 = gpt(codes[:, :-1], labels).log_softmax(-1) / torch.tensor(2.0).log()
    p = log2.exp2()
    expected, squares = -(p * log2).sum(-1), (p * log2.square()).sum(-1)
    return -log2.gather(-1, codes[..., None])[..., 0] - expected, (squares - expected**2).sqrt()


tried = {"plain": plain, "exact, Jacobi": drawn("exact", 8, jacobi=True)} | {name: drawn(name) for name in judges}
for name, one in tried.items():
    more, spread = surprise(one.tokens[None], label)
    chance = float(spread.square().mean().sqrt()) / 16  # of a mean over 256 codes
    print(f"{name:13} {256 / one.calls:.2f} codes a call, surprise {float(more.mean()):+.2f} bits", end=" ")
    print(f"(standard deviation by chance {chance:.2f})")

# %%
order = sorted(tried, key=lambda name: -tried[name].calls)
pictures = tokenizer.decode(torch.stack([tried[name].tokens for name in order])[..., None])
titles = [name.replace(", ", "\n") + f"\n{tried[name].calls} calls" for name in order]
title = "One t-shirt each: the kinder the judge, the fewer calls"
viz.show(viz.images(pictures, titles, columns=7, height=1.28, title=title), photo=True)

# %% [markdown]
# Exact judges have another picture than plain decoding, but from the same distribution. Play: who draws which part, if
# you change the number of guesses a call, or the judge?


# %%
@functools.cache
def play(k=4, judge="lenient"):
    return viz.show(who(drawn(judge, k), judge), photo=True)


control = viz.slider(lambda k=4, judge="lenient": play(k, judge), k=[1, 2, 4, 8], judge=list(judges))
viz.ends(control)
control

# %% [markdown]
# ## The league table
#
# Fifty pictures a row, computed once by `minitok league speculate`; k = 4 where a row does not say.

# %%
facts = stages.load("speculate")
print(textwrap.fill(facts["how"], 110), "\n")
for work, without in (("pictures", ("exact",)), ("text", ("Frechet distance", "right", "surprise"))):
    scores = {name: unit for name, unit in facts["scores"].items() if name not in without}
    print(stages.table(facts | {"scores": scores}, work=work), "\n")

# %% [markdown]
# The **Frechet distance** compares two sets of pictures by mean and covariance of features, here those from which the
# house's vision transformer reads the class (its CLS token); 0 if these agree. "Random neighbours" is lantern with
# lists of codes that look nothing alike.
#
# ## The trade
#
# What if nobody judged? Then `image_draft` draws alone. That is the mark that a judge must stay below (in the figure a
# dashed line, with its standard error in gray).

# %%
twenty = torch.arange(20) % 10  # two of each class
alone = surprise(sample(small, twenty, seed=0), twenty)[0].mean(-1)
mark, error = float(alone.mean()), float(alone.std()) / len(alone) ** 0.5
print(f"image_draft alone, {len(alone)} pictures: surprise {mark:.2f} bits, standard error {error:.2f}")
assert mark > 3 * error

# %%
rows = {row["method"]: row for row in facts["rows"] if row["work"] == "pictures"}
EXACT = ["plain", "speculative, k = 2", "speculative, k = 4", "Jacobi, k = 8"]
families = {"exact": EXACT, "gsd; with Jacobi": ["gsd", "gsd, Jacobi, k = 8"]}
families["lenient, q times 0.5; 0.05"] = ["lenient, q times 0.5", "lenient, q times 0.05"]
families["lantern, delta = 0.002; 0.1"] = ["lantern, delta = 0.002", "lantern, delta = 0.1"]
families["random neighbours"] = ["random neighbours, delta = 0.1"]


def trade(title, up, label):
    figure, axes = viz.panel(title, "codes a call", label, width=6.5, height=4.2)
    for (family, names), mark in zip(families.items(), "osD^v", strict=True):
        points = [(rows[name]["tokens a call"], rows[name][up]) for name in names]
        axes.plot(*zip(*points, strict=True), mark, linestyle="-", linewidth=1, markersize=8, label=family)
    return figure, axes


# %%
figure, axes = trade("Kinder judges pay for codes with surprise", "surprise", "surprise (bits a code)")
axes.axhspan(mark - error, mark + error, color=viz.GRID, zorder=0)
axes.axhline(mark, color=viz.MUTED, linestyle="--", label="image_draft alone")
for name in EXACT:
    text = name.replace("speculative, ", "").replace(", k = 8", "")
    axes.annotate(text, (rows[name]["tokens a call"], -0.05), rotation=90, ha="center", va="top")
axes.set_ylim(-0.3, 1)
figure.legend(loc="outside lower center", ncols=2, frameon=False)
viz.show(figure)

# %% [markdown]
# Blue is the exact way: no surprise, and only as many codes a call as the guesses are good. `gsd` stays near it, in
# surprise and in gain. Beyond, kindness is paid for. Do look-alikes make it cheaper, as `lantern` says? Its two rivals
# know nothing of looks.

# %%
for name in (*families["lenient, q times 0.5; 0.05"], *families["lantern, delta = 0.002; 0.1"], "random neighbours"):
    row = rows[name if name in rows else f"{name}, delta = 0.1"]
    print(f"{name:24} {row['tokens a call']:.1f} codes a call, {row['surprise']:.2f} bits, {row['right']:.0f} % right")
kind, loans = rows["lenient, q times 0.05"], rows["lantern, delta = 0.002"]
assert kind["tokens a call"] > loans["tokens a call"]
assert kind["surprise"] < loans["surprise"] - 0.1
assert loans["surprise"] > mark - 3 * error
assert rows["gsd"]["surprise"] < 0.1 < rows["lenient, q times 0.5"]["surprise"]
assert abs(rows["lantern, delta = 0.1"]["surprise"] - rows["random neighbours, delta = 0.1"]["surprise"]) < 0.1

# %% [markdown]
# On these models lenience gives more codes a call for less surprise, random neighbours do about as well as near ones
# (at delta = 0.1), and lantern is no better than the dashed line, where one might as well believe every guess and have
# nearly five codes a call. Lesson 4 asks why.
#
# ## How far does chance move these figures?
#
# The four exact rows draw from one distribution, so that all differences between them are chance. For the Frechet
# distance and for right pictures we take their spread. For surprise we know it: the standard deviation of a code, from
# above, over the square root of the number of codes.

# %%
chance = {up: statistics.stdev(rows[name][up] for name in EXACT) for up in ("Frechet distance", "right")}
chance["surprise"] = float(surprise(plain.tokens[None], label)[1].square().mean().sqrt()) / (50 * 256) ** 0.5
middle = {up: statistics.mean(rows[name][up] for name in EXACT) for up in chance}
for up, one in chance.items():
    values = sorted(rows[name][up] for name in EXACT)
    print(f"{up}: {values[0]:.3g} to {values[-1]:.3g} among exact rows; one standard deviation: {one:.2g}")
assert max(abs(rows[name]["surprise"]) for name in EXACT) < 5 * chance["surprise"]

# %%
figure, axes = trade("Fifty pictures show only large differences", "Frechet distance", "Frechet distance")
low, high = (middle["Frechet distance"] + 5 * sign * chance["Frechet distance"] for sign in (-1, 1))
axes.axhspan(low, high, color=viz.GRID, zorder=0)
axes.annotate("band: exact rows, 5 standard deviations", (2.9, low + 0.3), color=viz.MUTED)
figure.legend(loc="outside lower center", ncols=2, frameon=False)
viz.show(figure)

# %%
print("standard deviations from the exact rows")
for name, row in rows.items():
    away = {up: (row[up] - (up != "surprise") * middle[up]) / chance[up] for up in chance}
    if name not in EXACT:
        print(f"{name:31}", *(f"{up} {value:+5.1f}  " for up, value in away.items()))
assert rows["lantern, delta = 0.1"]["Frechet distance"] > high
hidden = rows["lenient, q times 0.5"]
assert hidden["Frechet distance"] < high
assert hidden["surprise"] > 5 * chance["surprise"]

# %% [markdown]
# Within the band the Frechet distance cannot tell a row from plain, whatever its digits say. (Five deviations, since a
# spread from four rows is itself rough.) `lenient, q times 0.5` hides there, and yet surprise, which hears
# each of 12,800 codes, tells it from `image_gpt` with ease.
#
# ## What is saved, and where
#
# Fewer calls are less time only if a call with its guesses costs little more. `time` over `calls` tells this for one
# thread of a processor ("here"), on which further places are not free. Beside it, as arithmetic, a machine ("there") on
# which further places are free and a call of `image_draft` costs its share of operations.

# %%
share = 1 / house.card("image_draft")["figures"]["cost of image_gpt a step over its own"]
print(f"a call of image_draft: {share:.2f} of image_gpt's operations")
for name, row in rows.items():
    k = 0 if name == "plain" or "Jacobi" in name else 2 if "k = 2" in name else 4  # calls of image_draft
    there, cost = row["calls"] * (1 + k * share), row["time"] / row["calls"]
    print(f"{name:31} a call costs {cost:.1f} plain ones here; time {row['time']:3.0f} % here, {there:3.0f} % there")
assert rows["Jacobi, k = 8"]["time"] < 80 < rows["speculative, k = 4"]["time"]
assert rows["Jacobi, k = 8"]["calls"] < 45

# %% [markdown]
# That is why a paper's factor of speed belongs to its machine, its models and its baseline, while calls can be
# compared. Of all columns time is the least sure: it also moves with what else the processor does.

# %%
made = {row["method"]: row for row in facts["rows"] if row["work"] == "text"}["token_recycling"]
print(f"Token Recycling: {made['tokens a call']:.1f} tokens a call, the same text: {made['exact']}", end="; ")
print(f"a call of up to 81 places costs {made['time'] / made['calls']:.1f} plain ones; time {made['time']:.0f} % here")
assert made["exact"] == "yes"
assert made["time"] > 100

# %% [markdown]
# ## The way through the chapter
#
# Begin with *Speculative decoding*: judge, proof and loop. *Token Recycling* then drafts without a second model, by
# trees. *LANTERN* and *GSD* relax the judge for pictures; read them in this order, since *GSD* uses what *LANTERN*
# finds about the price. Their claims, and what our measurements made of them:

# %%
for paper in papers.rows("speculate", "working"):
    found = papers.recorded_verdict(paper.slug)
    print(f"{paper.lesson}. {paper.name}: {found.outcome}", textwrap.fill(found.claim, 100), "", sep="\n")

# %% [markdown]
# ## What to take home
#
# - Calls can be more than halved, and with an exact judge the distribution stays what it was. The price is computation.
# - More than that is a trade. Ask a relaxed method for its price at equal savings, and set it beside lenience.
# - Do not rank by a Frechet distance of few pictures; look for a witness that hears every token.
# - Guesses from leftovers need no small model, whose calls eat the gain here: Jacobi saves time. Token Recycling's
#   calls are so wide that on a processor it takes longer than plain decoding.
