# %% [markdown]
# # Expedit: fewer tokens in the middle, all of them at the end
#
# **Paper:** Liang, Yuan, Ding, Luo, Lin, Jia, Z. Zhang, C. Zhang and Hu, *Expediting Large-Scale Vision Transformer for
# Dense Prediction without Fine-tuning*, 2022 ([arXiv 2210.01035](https://arxiv.org/abs/2210.01035)).
# **Code:** `minitok/reduce/expedit.py`.
# **Read first:** [ToMe](02_tome.ipynb).
#
# After this lesson you can run the middle layers of a trained network on few tokens and still say something of every
# patch, and you know what decides whether that works: how tokens are brought back.

# %%
from functools import partial

import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference
from minitok.reduce import Reduction, expedit, reconstruction, tome
from minitok.reduce.expedit import near
from minitok.stages import dense_rows, reduce_dense
from minitok.stages.reduce_dense import copied, rebuilt, smooth

# %% [markdown]
# ## The problem: every patch wants an answer
#
# So far one answer a picture was enough. Here the ViT of the house's vlm says of each of 256 patches which shape (8, or
# none), colour and digit stands there, by one linear layer. Layers 3 to 5 (of 0 to 5) run on 64 tokens and CLS; then
# all 256 come back: by **copies** of the group's mean for ToMe, of the kept patch nearest by place for lots; squares of
# four patches are enlarged **bilinearly**, as one does with small pictures. *mIoU*: of each class, the patches that
# show it and are said to, as a share of those where either is true; the mean over classes, then over the three parts.

# %%
stage = stages.reduce.stage(scenes=24, host="dense")
ways = {"by lot": (stages.reduce.LOTS[:2], copied), "squares": (stages.reduce.pooling, smooth), "ToMe": (tome, copied)}
counts = (64, 36, 16)
found = {name: {k: stage.measure(method, k, back=back) for k in counts} for name, (method, back) in ways.items()}
print(stages.reduce.table({"all tokens": stage.full} | {name: rows[64] for name, rows in found.items()}))

# %% [markdown]
# Most patches show no object, so "right" looks well while up to two fifths of the overlap are gone. What is said of
# colours, with all tokens and with 64 squares:

# %%
pictures = [stage.scenes.images[12], stage.coloured(12), stage.coloured(12, stages.reduce.pooling, 64, smooth)]
viz.show(viz.images(torch.stack(pictures), ["scene", "256 tokens", "64 squares"], height=1.92), photo=True)

# %% [markdown]
# ## By hand: four tokens, two centres
#
# Tokens 0, 1, 3, 4 in a row, of one channel. **Start:** the means of two equal cells, 0.5 and 3.5. **Shares:** how much
# of token i goes to centre j is $\mathrm{softmax}_j(-\tau |x_i - s_j|^2)$, over centres, so each token gives away 1 in
# all. With $\tau = 0.1$, token 0 has squared distances 0.25 and 12.25: shares $1 / (1 + e^{-1.2})$ = 0.769 and
# 0.231. Token 1: 0.25 and 6.25, shares 0.646 and 0.354. Tokens 3 and 4 mirror them. **New centre:** the mean of tokens
# weighed by their shares, which sum up to 0.769 + 0.646 + 0.354 + 0.231 = 2:
# (0.646 x 1 + 0.354 x 3 + 0.231 x 4) / 2 = 1.32.

# %%
x4 = torch.tensor([[[0.0], [1.0], [3.0], [4.0]]])
once = expedit(x4, 2, grid=(1, 4), tau=0.1, rounds=1)
print("the first centre's weights:", [round(w, 2) for w in once.matrix()[0, 0].tolist()], "(the shares, halved)")
print("centres:", [round(s, 2) for s in once.apply(x4).flatten().tolist()])
assert difference(once.apply(x4).flatten(), torch.tensor([1.32, 2.68])) < 0.01

# %% [markdown]
# **Back:** blocks make 10 and 20 of the centres 1.32 and 2.68. Token 0 looks where the *old* centres were: $e^{-0.1
# \times 1.32^2}$ = 0.84 and $e^{-0.1 \times 2.68^2}$ = 0.49. Divided by their sum: 0.63 and 0.37, so it becomes 0.63 x
# 10 + 0.37 x 20 = 13.7. The authors' code divides by the length $\sqrt{0.84^2 + 0.49^2}$ = 0.97 instead: 0.87 and
# 0.50, which is 18.7.

# %%
refined = torch.tensor([[[10.0], [20.0]]])
for p, name in ((1.0, "by sum"), (2.0, "by length")):
    weights = reconstruction(x4, once.apply(x4), tau=0.1, p=p)
    print(f"{name}: token 0 becomes {(weights @ refined)[0, 0, 0]:.1f}; its weights sum to {weights[0, 0].sum():.2f}")
assert difference(weights[0, 0], torch.tensor([0.865, 0.501])) < 0.01

# %% [markdown]
# ## The mechanism on real tokens
#
# **1. Start from a coarse grid**, 8 x 8 cells of 2 x 2 patches: centres have a place, and the blocks that follow were
# trained on a grid. **2. A window:** a token may only go to centres within two cells of its own (5 x 5).
#
# **3. Five rounds.** The softmax runs over centres: over tokens, one token could feed all centres, and another none.

# %%
x = stage.levels[:, 3, 1:]  # all patches after layers 0 to 2, (24, 256, 192)
cells = F.adaptive_avg_pool2d(x.mT.unflatten(2, (16, 16)), (8, 8)).flatten(2).mT
open_to = near((16, 16), (8, 8))  # (64 centres, 256 patches)
print("a patch in the corner:", int(open_to[:, 0].sum()), "centres are open to it; at most:", int(open_to.sum(0).max()))


def cluster(x, s, tau=0.01, rounds=5):
    for _ in range(rounds):
        far = torch.cdist(s, x).square().masked_fill(~open_to, torch.inf)
        shares = (-tau * far).softmax(1)
        s = shares @ x / shares.sum(2, keepdim=True)
    return s


# %% [markdown]
# **4. The blocks** run on the 64 centres and CLS. **5. Back:** by distances of tokens and centres *as both were before
# the blocks*: afterwards only the centres have moved on. Of 64 weights the 20 largest count.


# %%
def weights_of(x, s, tau=0.01, nearest=20):
    weights = (-tau * torch.cdist(x, s).square()).exp()
    least = weights.topk(nearest, dim=-1).values[..., -1:]
    weights = weights.where(weights >= least, 0.0)
    return weights / weights.sum(-1, keepdim=True)


centres = cluster(x, cells)
made = expedit(x, 64)
assert difference(made.apply(x), centres) < 0.01
assert difference(reconstruction(x, centres), weights_of(x, centres)) < 1e-3
heaviest = 100 * weights_of(x, centres).amax(-1).mean()
print(f"the same centres and weights; the heaviest weight of a patch is {heaviest:.0f} % on average")

# %% [markdown]
# ## The recipe
#
# Between two blocks of a trained network, for patch tokens x on a grid; CLS goes along.
#
# 1. Choose k = h' w' centres, the block to begin before, and the one to end after.
# 2. Centres s: the means of h' x w' cells of the grid.
# 3. Five times: $a_{ji} = \mathrm{softmax}_j(-\tau |x_i - s_j|^2)$ over the centres at most 2 cells from the cell of i,
#    $\tau = 0.01$; $s_j = \sum_i a_{ji} x_i / \sum_i a_{ji}$. No gradient passes through a.
# 4. Keep x and s. The blocks run on s (positions and windows of a network that has them are scaled to h' x w') and give
#    s'.
# 5. $w_{ij} = \exp(-\tau |x_i - s_j|^2)$; of each i the 20 largest; divided by their sum.
# 6. Token i is $\sum_j w_{ij} s'_j$; the blocks left, or the head, run on all tokens.
# 7. Nothing is trained. Cost: a round takes n k distances of c channels, and as much again for the means; the way back
#    takes each once more.
#
# | | paper | its code | here |
# |---|---|---|---|
# | step 5 divides by | sum | length (L2) | sum; `p=2` |
# | ties at the 20th | - | all count | all count |
# | a centre that gets nothing | - | zero | cannot be: logarithms |
#
# ## The experiment: half of the layers on few tokens

# %%
found["Expedit"] = {k: stage.measure(expedit, k, back=rebuilt) for k in counts}
for k in (64, 16):
    print(f"{k} tokens\n" + stages.reduce.table({name: rows[k] for name, rows in found.items()}) + "\n")
names = {"Expedit": "ours: Expedit", "ToMe": "baseline: ToMe, copied", "squares": "muted: squares, bilinear"}
curves = {names.get(name, name): (counts, [row.miou for row in rows.values()]) for name, rows in found.items()}
viz.show(viz.lines(curves, "Expedit loses least at each number", "tokens in layers 3 to 5", "mIoU (%)", log="x"))

# %% [markdown]
# At 64 tokens 39 % of the FLOPs go, of which the method takes 4.9 back. **Which half does the work?** Clusters and ways
# back can be exchanged. `changed` leaves each token what it was and adds how its group's mean changed.


# %%
def changed(made, x, y):
    return x + made.restore(y - made.apply(x))


trials = {"Expedit": (expedit, rebuilt), "Expedit, one round": (partial(expedit, rounds=1), rebuilt)}
trials |= {"Expedit's clusters, copied": (expedit, copied), "ToMe, rebuilt": (tome, rebuilt)}
trials |= {"ToMe, copied": (tome, copied), "ToMe, changed": (tome, changed), "Expedit, changed": (expedit, changed)}
trials["by lot, rebuilt"] = (stages.reduce.LOTS[:2], rebuilt)
halves = {k: {n: stage.measure(m, k, back=back) for n, (m, back) in trials.items()} for k in (64, 16)}
bars = {("ours: " if n == "Expedit" else "") + f"{n}, {k}": halves[k][n].miou for k in halves for n in trials}
viz.show(viz.bars(bars, "The rounds matter, and what is brought back", "mIoU (%)"))

# %% [markdown]
# The rounds matter much; the weights of the way back little beyond the clusters' own shares. More than half of ToMe's
# loss is that of copying: with `changed` it is within twice the standard error of Expedit, for a ninth or a fifth of
# the own cost, and Expedit gains by it too. Even lots gain 23 and 13 points by the way back. The paper tries neither
# control.
#
# **Sum or length?** The same here to the last digit: the norm before the head divides each token by its size. (In
# Segment Anything a norm follows too.) With a block between, it is not:

# %%
for layers in ((3, 6), (3, 5)):
    both = [stage.measure(expedit, 16, layers, partial(rebuilt, p=p)).miou for p in (1.0, 2.0)]
    print(f"layers {layers[0]} to {layers[1] - 1} on 16 tokens: by sum {both[0]:.1f} %, by length {both[1]:.1f} %")

# %% [markdown]
# ## Play: how soft are the centres?
#
# Each patch shows the mean of the centres that it went to, by shares.


# %%
def draw(scene=12, k=64, tau=0.01):
    made = expedit(x[scene][None], k, tau=tau)
    said = stage.coloured(scene, partial(expedit, tau=tau), k, partial(rebuilt, tau=tau))
    pair = [viz.painted(stage.scenes.images[scene], made, scale=1), said]
    return viz.show(viz.images(torch.stack(pair), [f"{k} centres", "what is said"], height=2.56), photo=True)


draw()

# %%
control = viz.slider(draw, scene=(0, 23), k=[16, 36, 64], tau=[0.003, 0.01, 0.03, 0.1])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# Margins are twice the standard error of the difference, each scene left out in turn. The paper keeps 99.5 % of the
# mIoU of a large Segmenter on ADE20K with 30 % fewer FLOPs.

# %%
ours, paper = found["Expedit"], "99.5 % of the mIoU, 30 % fewer FLOPs (Segmenter ViT-L, ADE20K)"
kept = 100 * ours[64].miou / stage.full.miou
measures = [papers.not_worse("mIoU kept, 64 tokens", kept, than=100.0, by=0.5, unit="%", paper=paper)]
rivals = {"squares": found["squares"], "by lot": found["by lot"], "ToMe": found["ToMe"]}
rivals |= {name: {k: halves[k][name] for k in halves} for name in ("by lot, rebuilt", "ToMe, changed")}
for k in (64, 16):
    for name, rows in rivals.items():
        margin = dense_rows.gap(ours[k], rows[k])[1]
        measures.append(papers.better(f"mIoU, {k}, {name}", ours[k].miou, than=rows[k].miou, margin=margin, unit="%"))

# %%
papers.verdict(
    "expedit",
    "With few tokens in half of the layers, clusters that are rebuilt lose less of dense labels than other ways back.",
    measures,
    against="squares enlarged bilinearly; two draws by lot, copied and rebuilt; ToMe, copied and adding its change",
    data="24 held-out scenes, shape, colour and digit of 256 patches each; the house's vlm, not trained again",
)

# %% [markdown]
# ## Where it breaks: tau is in the features' own units
#
# Squared distances of 192 channels are hundreds here. On 12 other scenes, with 64 tokens from layer 3 on and from
# layer 2 on:

# %%
other, taus = reduce_dense.stage(12, seed=5 * 10**6), (0.003, 0.01, 0.02, 0.05, 0.1)
swept = {}
for start, name in ((3, "ours: from layer 3"), (2, "from layer 2")):
    tried = [other.measure(partial(expedit, tau=t), 64, (start, 6), partial(rebuilt, tau=t)).miou for t in taus]
    swept[name] = (taus, tried)
assert swept["ours: from layer 3"][1][1] > swept["from layer 2"][1][1]
viz.show(viz.lines(swept, "The paper's 0.01 fits one place, not the other", "tau", "mIoU (%)", log="x"))

# %% [markdown]
# A smaller tau blurs everything into one. So the paper's number is a setting of its networks, to be chosen anew for
# yours. Earlier layers also make worse clusters: the best from layer 2 is lower.
#
# ## Exercises
#
# **1. Your own clustering layer**, for a batch, any `grid` (default: a square), `tau`, `rounds` and `window`;
# `coarse(k, grid)` of `minitok.reduce.expedit` gives h' and w'. `Reduction.blend` takes weights (b, k, n) and makes
# rows sum to 1. The library's tests judge it.


# %%
def my_expedit(x, k, *, grid=None, tau=0.01, rounds=5, window=5):
    return Reduction.blend(torch.ones(len(x), k, x.shape[1]))  # replace this: all centres are the mean of all tokens


def check_1(method):
    return papers.check("expedit", method)


check_1(my_expedit)

# %% [markdown]
# **2. Both at once.** Bring back by Expedit's weights, but only the *change* of the centres, added to what each token
# was. `made` is the reduction, x (b, n, c) and y (b, k, c) as above.


# %%
def change_rebuilt(made, x, y):
    return rebuilt(made, x, y)  # replace this: it forgets what the tokens were


def check_2(back):
    given = made.apply(x)
    if difference(back(made, x, given), x) > 1e-2:
        return "if the blocks change nothing, all tokens must come back as they were"
    if difference(back(made, x, given + 1.0), x + 1.0) > 1e-2:
        return "if each centre goes up by 1, so must each token"
    row = stage.measure(expedit, 16, back=back)
    return f"right: mIoU {row.miou:.1f} % with 16 tokens; Expedit {ours[16].miou:.1f} %"


check_2(change_rebuilt)

# %% [markdown]
# Solutions: `notebooks/src/solutions/06_reduce/07_expedit.py`.
#
# ## What was left out
#
# Networks with windows and relative positions, whose sizes must be scaled to the centres; detection, depth and
# instances, which the paper shows too; and time: it counts frames a second, we count operations. Read on:
# [Token Transforming](05_token_transforming.ipynb), where also every token goes to several outputs.
