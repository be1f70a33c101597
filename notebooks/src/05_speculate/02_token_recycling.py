# %% [markdown]
# # Token Recycling: what a model did not write, kept as drafts
#
# **Paper:** Luo, Wang, Zhu, Zhang, Zhang, Yang and Xu, *Turning Trash into Treasure: Accelerating Inference of Large
# Language Models with Token Recycling*, 2024 ([arXiv 2408.08696](https://arxiv.org/abs/2408.08696)).
# **Code:** `minitok/speculate/token_recycling.py`; the loop over trees is `minitok/speculate/_tree.py`.
# **Read first:** [speculative decoding](01_speculative.ipynb).
#
# After this lesson you can make a language model write about two tokens a call, word for word the same text, without a
# second model and without training.

# %%
import math

import torch

from minitok import metrics, papers, stages, viz
from minitok.nn import Cache
from minitok.speculate import Tree, TreeCached, decode_tree, walk
from minitok.speculate.token_recycling import CHILDREN, fill, recycle, template

# %% [markdown]
# ## The problem: one call, one token
#
# SmolLM2 (134.5 million weights, trained by others; the first run fetches 93 MB) gives after each token a *logit* for
# each of 49,152 tokens. Greedy decoding writes the highest and calls again. A graphics card does a hundred operations
# in the time in which it fetches a byte of weights: judging 81 guesses is nearly free there. Who guesses?

# %%
stage = stages.speculate.texts(1)
model, vocabulary = stage.model, len(stage.model.tokenizer)
fetched = metrics.bytes_held(*model.parameters())
for n in (1, 81):
    operations = 2 * metrics.parameters(model) * n
    print(f"{n:2} tokens: {fetched / 1e6:.0f} MB fetched, {operations / fetched:.1f} operations for each byte")
prompt, answers = stage.prompts["prose: tides"], stage.read("prose: tides")
for place in (3, 17, 30):
    words = [stage.say(token[None]) for token in answers[place].topk(8).indices]
    print(f"after {stage.say(prompt[place : place + 1])!r}: " + " ".join(map(repr, words)))

# %% [markdown]
# The idea: keep the *eight* highest in a list for their token. When it comes again, its old list is a guess.
#
# ## By hand: a tree of four drafts
#
# Lists of k = 2: after A (B, C), after B (C, D), after C (D, A); of D nothing is known. The text ends with A: the
# **root**. The tree's shape is "two children, then one each"; child r takes entry r of its parent's list.
#
# | place | 0, root | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | token | A | B, A's first | C, A's second | C, B's first | D, C's first |
# | sees | text, 0 | and 1 | and 2 | 1 and 3 | 2 and 4 |
# | position | 0 | 1 | 1 | 2 | 2 |

# %%
shape = template((2, 1, 1))  # children of the root, then of each node, level by level
matrix = torch.tensor([[1, 2], [2, 3], [3, 0], [-1, -1]])  # A = 0, B = 1, C = 2, D = 3; -1: nothing known
tree = fill(matrix, root=0, shape=shape)
print("tokens", ["ABCD"[t] for t in tree.tokens.tolist()], "parents", tree.parents.tolist())
assert tree.tokens.tolist() == [1, 2, 2, 3]

# %% [markdown]
# **One call** answers at all five places. Say its two likeliest are:
#
# | place | 0 (A) | 1 (A B) | 2 (A C) | 3 (A B C) | 4 (A C D) |
# |---|---|---|---|---|---|
# | likeliest | C, B | D, C | D, A | A, D | B, C |
#
# **Walk** from the root: after A the model wants C, and a child has it: to place 2. Then D: to place 4. Then B, which
# no child has: it is written anyway. C D B: two drafts kept, three tokens from one call.
#
# **Recycle every place**, walked or not: A's list is now (C, B), B's (D, C), D's (B, C). C was read twice: of equal
# tokens the *last place* counts, 3, hence (A, D).

# %%
likeliest = torch.tensor([[2, 1], [3, 2], [3, 0], [0, 3], [1, 2]])
logits = torch.zeros(5, 4).scatter(1, likeliest, torch.tensor([2.0, 1.0]).expand(5, 2))
path, new = walk(tree, lambda place: int(logits[place].argmax()))
recycle(matrix, torch.tensor([0, *tree.tokens]), logits)
print("walked", path.tolist(), "new", "ABCD"[new], "lists", ["".join("ABCD"[t] for t in row) for row in matrix])
assert (path.tolist(), new) == ([0, 2, 4], 1)
assert matrix.tolist() == [[2, 1], [3, 2], [0, 3], [1, 2]]

# %% [markdown]
# ## The mechanism on a real model
#
# **1. The lists** form a matrix, at first "nothing known". The prompt is read into it: its logits are there anyway.
#
# **2. The tree.** A chain of first entries would lose all at the first miss; a full tree of six levels has $8^6$
# leaves. The paper's fixed shape has 80 nodes, more below likelier ones.


# %%
def grow(matrix, root, depth):
    row, parents, place = [root], [], {0: 0}  # place: where a node of the shape stands in the row
    for node, (parent, rank, level) in enumerate(zip(*map(torch.Tensor.tolist, template()), strict=True), 1):
        if parent in place and level <= depth and (token := int(matrix[row[place[parent]], rank])) >= 0:
            place[node] = len(row)
            parents.append(place[parent])
            row.append(token)
    return torch.tensor(row), parents


# %%
matrix = torch.full((vocabulary, 8), -1)
recycle(matrix, prompt, answers)
row, parents = grow(matrix, int(prompt[-1]), depth=6)
print(f"shape: {CHILDREN[0]} children of the root, then {CHILDREN[1:9]}, ...; {len(parents)} of {sum(CHILDREN)} known")
words = [stage.say(token[None]) for token in row]
viz.show(viz.tree(words, parents, "Drafts after the prompt"))

# %% [markdown]
# **3. One call.** By mask and position the model answers at a node as if its branch alone had been written.


# %%
def sight(parents, known):
    seen = torch.eye(len(parents) + 1, dtype=torch.bool)
    for node, parent in enumerate(parents, start=1):
        seen[node] |= seen[parent]
    mask = torch.cat([torch.ones(len(seen), known, dtype=torch.bool), seen], dim=1)
    return {"mask": mask, "positions": (known + seen.sum(-1) - 1)[None].float()}


# %% [markdown]
# **4. Walk, recycle, cut.** In the cache only the walked places stay. That is the loop:


# %%
def write(prompt, n, matrix):
    cache, tokens, calls = Cache(), prompt, 0
    model(prompt[None, :-1], cache=cache)
    while (left := len(prompt) + n - len(tokens)) > 0:
        row, parents = grow(matrix, int(tokens[-1]), depth=left - 1)
        known, calls = len(cache), calls + 1
        logits = model(row[None], **sight(parents, known), cache=cache)[0]
        path, new = walk(Tree(row[1:], torch.tensor(parents).long()), logits.argmax(-1).tolist().__getitem__)
        recycle(matrix, row, logits)
        cache.keep(torch.cat([torch.arange(known), known + path]))
        tokens = torch.cat([tokens, row[path[1:]], torch.tensor([new])])
    return tokens[len(prompt) :], calls


# %% [markdown]
# ## The recipe
#
# 1. A matrix of the vocabulary by 8 tokens, all "nothing known". Read the prompt into it.
# 2. Root = the last token. Level by level rank r below token t is `matrix[t, r]`; leave out what is not known, and
#    levels beyond the tokens wanted.
# 3. One call: each node sees the text, its ancestors, itself; position by depth.
# 4. From the root step to the child with the likeliest token, while there is one. Write the path, and the likeliest
#    token after it.
# 5. Write the 8 likeliest into the row of *every* place's token; of equal tokens the last counts.
# 6. Cache: the walked places. The matrix stays.
#
# `write` is what `decode_tree` does with a `TokenRecycling`:

# %%
built, calls = write(prompt, 6, matrix)
drafter = stage.recycling("prose: tides")
library = decode_tree(TreeCached(model).branch, drafter, prompt, 6)
assert torch.equal(library.tokens, built)
assert library.calls == calls < 6
assert torch.equal(drafter.matrix, matrix)
print(f"6 tokens in {calls} calls: {stage.say(built)!r}; text, calls and matrix agree")

# %% [markdown]
# | | paper and its code | here |
# |---|---|---|
# | start | all rows token 0; kept from earlier texts; the prompt is not read in | "nothing known"; the prompt |
# | the last calls | whole trees | cut to what is wanted |
# | temperature | 0 | also above: the walk draws, drafts change nothing |
#
# ## The experiment: other ways to draft
#
# - **frozen:** the same start and trees, but nothing is recycled;
# - **kept only:** only tokens that are written are recycled;
# - **lookup:** no matrix: ten tokens that followed the last three (else two, else one) when they stood before.
#
# None of them learns from rejected nodes, so the stage replays their calls on the finished text.

# %%
name, n = "prose: tides", 32
ours = stage.write(name, stage.recycling(name), n)
known = stage.answers(name, ours.run.tokens)
assert torch.equal(known[len(prompt) - 1 : -1].argmax(-1), ours.run.tokens)  # as greedy decoding
calls = {"ours: every node is recycled": ours.run.calls}
for way, make in stages.speculate.CONTROLS.items():
    calls[way] = stage.replay(name, make(stage, name), ours.run.tokens, known).calls
print(repr(stage.say(ours.run.tokens)))
assert ours.run.calls < min(calls["frozen"], calls["kept only"], calls["lookup"])
viz.show(viz.bars(calls, f"Recycling all nodes: {ours.run.calls} calls for {n} tokens", "calls of the model"))

# %% [markdown]
# The chapter's league has 48 tokens of four texts, and two other starts.

# %%
rows = {row["method"]: row for row in stages.load("speculate")["rows"] if row["work"] == "text"}
lines = [(way, f"{row['tokens a call']:.2f}", f"{row['nodes a call']:.0f}", row["exact"]) for way, row in rows.items()]
print(viz.aligned([("", "tokens a call", "drafts a call", "as greedy"), *lines]))
assert {row["exact"] for row in rows.values()} == {"yes"}

# %% [markdown]
# ("token_recycling" has read the prompt; the paper's start is "from another text".) Rejected nodes are worth their
# rows: they are tokens that the model nearly wrote.
#
# ## Play: the calls of a text

# %%
title = "Call {} of {}: {} drafted, {} kept"


def watch(call=4):
    context, tree, path = ours.calls[call - 1]
    words = [stage.say(token[None]) for token in torch.cat([context[-1:], tree.tokens])]
    said = title.format(call, len(ours.calls), len(tree.tokens), len(path) - 1)
    return viz.show(viz.tree(words, tree.parents.tolist(), said, path.tolist()))


watch()

# %%
control = viz.slider(watch, call=(1, len(ours.calls)))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
rate = {way: row["tokens a call"] for way, row in rows.items()}
most, paper = rate["token_recycling"], "2.70 (Vicuna 7B, SpecBench, table 1)"
measures = [
    papers.better("tokens a call, than frozen", most, than=rate["frozen"], margin=0.1, paper=paper),
    papers.better("than kept only", most, than=rate["kept only"], margin=0.1),
    papers.better("than lookup", most, than=rate["lookup"], margin=0.1, paper="2.70, lookup 1.75 (table 1)"),
    papers.better("start: another text, nothing", rate["from another text"], than=rate["from nothing"], margin=0.1),
]

# %%
papers.verdict(
    "token_recycling",
    "A matrix of runners-up that every judged node updates saves more calls than other ways without training.",
    measures,
    against="the same tree from a matrix that has read the prompt and is then frozen; lookup of ten tokens",
    data="the league: SmolLM2-135M, greedy, 48 tokens after each of four passages, two of prose and two of code",
)

# %% [markdown]
# ## Where it breaks: when nodes are not free
#
# Say a machine judges f tokens in the time of one, and more in proportion.


# %%
def sooner(way, free):  # by the league's calls, each with its mean number of drafts
    return rows[way]["tokens a call"] / max(1, (rows[way]["nodes a call"] + 1) / free)


free = [2, 4, 8, 16, 32, 64, 128]
series = {way: (free, [sooner(way, f) for f in free]) for way in ("token_recycling", "lookup")}
series = {"ours": series.pop("token_recycling"), **series}
assert sooner("token_recycling", 4) < 1 < sooner("token_recycling", 64)
title, x = "Trees pay where many tokens cost like one", "f: tokens judged in the time of one"
viz.show(viz.lines(series, title, x, "times sooner", "x", {"baseline: plain greedy": 1}))

# %% [markdown]
# A graphics card with one text is at the right end; one that serves many, and a processor, further left.
#
# ## Exercises
#
# **1. Your own drafter.** `draft` fills the tree below the last token (`self.shape` has parents, ranks, depths; at most
# `depth` levels), `learn` recycles the row. The library's tests judge it.


# %%
class MyRecycling:
    def __init__(self, v, k=8, children=CHILDREN):
        self.shape, self.matrix = template(children), torch.full((v, k), -1)

    def draft(self, context, depth):
        return Tree(context[:0], context[:0])  # replace this: it drafts nothing

    def learn(self, row, logits, path=None):
        pass  # replace this: it learns nothing


# %%
def check_1(drafter):
    return papers.check("token_recycling", drafter)


check_1(MyRecycling)

# %% [markdown]
# **2. The best shape.** Let rank r be right with probability `p[r]`; a node is kept if all ranks down to it are right.
# Write the n nodes of the largest sum of probabilities, as tuples of ranks such as (0, 2).


# %%
def best_nodes(p, n):
    return [(r,) for r in range(len(p))][:n]  # replace this: a tree of one level


# %%
def check_2(best_nodes):
    nodes = best_nodes([0.5, 0.3], 4)
    worth = sum(math.prod([0.5, 0.3][r] for r in node) for node in set(nodes))
    if len(nodes) != 4 or abs(worth - 1.2) > 1e-4:
        return f"4 different nodes can be worth 1.2, these are worth {worth:.2f}: {nodes}"
    return "right: (0,), (1,), (0, 0) and one that is worth 0.15"


check_2(best_nodes)

# %% [markdown]
# Solutions: `notebooks/src/solutions/05_speculate/02_token_recycling.py`.
#
# ## What was left out
#
# The paper measures seconds on a graphics card, on models of 7 to 33 billion weights: twice as many tokens a second. A
# later lesson, ADED, grows its tree anew at each call.
