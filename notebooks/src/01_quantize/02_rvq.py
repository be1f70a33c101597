# %% [markdown]
# # Residual vector quantization: say it roughly, then say what is missing
#
# **Paper:** Zeghidour, Luebs, Omran, Skoglund and Tagliasacchi, *SoundStream: An End-to-End Neural Audio Codec*, 2021
# ([arXiv 2107.03312](https://arxiv.org/abs/2107.03312)), section III-C.
# **Code:** `minitok/quantize/rvq.py`.
# **Read first:** [vector quantization](01_vq.ipynb).
#
# After this lesson you can stack small codebooks so that each codes what the ones before it missed, and let one trained
# model serve several bitrates: whoever has fewer bits keeps fewer codes.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.data import photographs
from minitok.metrics import difference
from minitok.optimizers import Adam
from minitok.quantize import RVQ, VQ, nearest
from minitok.quantize.vq import codebook_loss

# %% [markdown]
# ## The problem: one codebook doubles with every bit
#
# A codebook that spends *r* bits on a vector has $2^r$ rows. All are stored, all are compared with every vector, and
# each must be learnt from vectors that choose it. SoundStream at 6000 bits a second has 75 vectors a second, so 80 bits
# for each: $10^{24}$ rows. On the chapter's stage, digits of 49 vectors, learning gives out much earlier:

# %%
stage = stages.quantize.stage()
one = {f"VQ, {K} rows": stage.control(f"vq{K}") for K in (16, 64, 256, 1024)}
print(stages.quantize.table(one))

# %% [markdown]
# From 256 to 1,024 rows nothing is gained: most of the new rows lie idle. (*Perplexity*: so many equally frequent codes
# would be as hard to guess.)
#
# The idea: code what is left over. Spend a few bits first. What remains, vector minus code vector, is the **residual**;
# a second small codebook codes that. Here are pairs of neighbouring pixels, as in lesson 1, with 8 codes in each of two
# **stages**.

# %%
photograph = photographs.load("astronaut").mean(0)
pairs = photograph[:, :512].reshape(-1, 2)
pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:2000]]


# %%
def learn(vectors, K, steps=80):
    torch.manual_seed(0)
    layer = VQ(d=2, K=K)
    layer.start_from(vectors[None])
    optimizer = Adam(layer.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(vectors[None]).loss.backward()
        optimizer.step()
    return layer.codebook.detach()


# %%
coarse = learn(pairs, 8)
first = nearest(pairs[None], coarse)[0]
residual = pairs - coarse[first]
fine = learn(residual, 8)
sums = (coarse[:, None] + fine).flatten(0, 1)  # 8 x 8 sums of 16 stored vectors


# %%
def draw(points, rings, title, reach):
    figure, axes = viz.panel(title, "pixel", "its right neighbour", width=3.6, height=3.4)
    axes.scatter(*points[:1500].T, s=3, c=[viz.PALETTE[k % 6] for k in first[:1500]], linewidths=0)
    axes.scatter(*rings.T, s=40, c="white", edgecolors=viz.TEXT, linewidths=1.3)
    axes.set(xlim=reach, ylim=reach)
    return viz.show(figure)


draw(pairs, coarse, "Stage 1: eight for the pairs", (-0.04, 1.04))

# %%
draw(residual, fine, "Stage 2: eight for the rest", (-0.3, 0.3))

# %% [markdown]
# The eight groups, shifted onto each other, make one small cloud, and the second codebook serves all groups at once: 64
# sums from 16 vectors.
#
# ## By hand: three stages on a line
#
# Vectors of one number, two codes a stage, so one bit a stage:
#
# | | code 0 | code 1 |
# |---|---|---|
# | stage 1 | 0 | 8 |
# | stage 2 | -1 | 3 |
# | stage 3 | 0 | 1 |

# %%
books = [torch.tensor([[0.0], [8.0]]), torch.tensor([[-1.0], [3.0]]), torch.tensor([[0.0], [1.0]])]
layer = RVQ(d=1, K=2, stages=3)
for made, book in zip(layer.stages, books, strict=True):
    made.codebook.data = book.clone()

# %% [markdown]
# **z = 10.5.** Stage 1 takes 8 (code 1) and leaves 2.5. Stage 2 takes 3 (code 1) and leaves -0.5. Stage 3 takes 0 (code
# 0) and leaves -0.5. Codes 1, 1, 0; value 8 + 3 + 0 = 11. **A prefix:** with the first code alone the value is 8, with
# two 11.
#
# **z = 4** is as near to 0 as to 8: the lower number wins. Left is 4; stage 2 takes 3 and leaves 1; stage 3 takes 1.
# Codes 0, 1, 1; value 4.
#
# **z = 5.** Stage 1 takes 8, which leaves -3; stage 2 takes -1, which leaves -2; stage 3 takes 0. Value 7, off by 2.
# Codes 0, 1, 1 would have given 4, off by 1: each stage takes what is best for itself (*greedy*).

# %%
z = torch.tensor([[[10.5], [4.0], [5.0]]], requires_grad=True)
values, codes, loss = layer(z)
print("codes", codes[0].tolist(), "values", values.flatten().tolist())
prefixes = [layer.decode(codes[:, :1, :k]).item() for k in (1, 2, 3)]
assert codes.tolist() == [[[1, 1, 0], [0, 1, 1], [1, 0, 0]]]
assert (values.flatten().tolist(), prefixes) == ([11, 4, 7], [8, 11, 11])

# %% [markdown]
# **The loss** is that of lesson 1 in each stage, on that stage's own residual; we take the mean of the stages. What the
# stages leave is 2.5, 4, -3, then -0.5, 1, -2, then -0.5, 0, -2. The squares add up to 31.25, 5.25 and 4.25, so the
# loss is 1.25 x (31.25 + 5.25 + 4.25) / 3 numbers / 3 stages = 5.66.
#
# **Gradients.** Each codebook moves by its own term alone: code 1 of stage 1 has the vectors 10.5 and 5, so its
# gradient is 2 / 9 x ((8 - 10.5) + (8 - 5)) = 0.11. z gets $\beta$ times 2 / 9 times the sum of all that its stages
# left: for 10.5 that is 0.25 x 2 / 9 x (2.5 - 0.5 - 0.5) = 0.083.

# %%
to_first, to_z = torch.autograd.grad(loss, [layer.stages[0].codebook, z])
print(f"loss {loss:.2f}, gradient of 8: {to_first[1].item():.2f}, of 10.5: {to_z[0, 0].item():.3f}")
assert difference(loss, torch.tensor(1.25 * 40.75 / 9)) < 1e-5
assert difference(to_first[1], torch.tensor([2 / 9 * 0.5])) < 1e-6
assert difference(to_z[0, 0], torch.tensor([0.25 * 2 / 9 * 1.5])) < 1e-6

# %% [markdown]
# ## The mechanism on real vectors
#
# **1. The cascade** (the paper's algorithm 1), with the training of lesson 1. Mind `detach()`: a later stage must not
# move an earlier one's vectors. The obvious alternative, to subtract a straight-through value, would be wrong: its
# gradient is that of z, and in the residual z would cancel.


# %%
def quantize(z, codebooks, beta=0.25):
    residual, z_q, loss, codes = z, 0, 0, []
    for codebook in codebooks:
        codes.append(nearest(residual, codebook))
        chosen = codebook[codes[-1]]
        loss = loss + codebook_loss(residual, chosen, beta) / len(codebooks)
        z_q = z_q + chosen
        residual = residual - chosen.detach()
    return z_q.detach() + (z - z.detach()), torch.stack(codes, -1), loss


# %%
codebooks, left, falling = [], pairs, []
for _ in range(5):
    codebooks.append(learn(left, 8, steps=50))
    left = pairs - quantize(pairs[None], codebooks)[0][0]
    falling.append(float(left.square().mean()))
assert falling == sorted(falling, reverse=True)
figure = viz.lines(
    {"ours": (range(1, 6), falling)}, "Each stage cuts the error", "stages", "mean squared error", log="y"
)
figure.axes[0].set_xticks(range(1, 6))
viz.show(figure)

# %% [markdown]
# **2. Quantizer dropout.** A decoder that always got all stages has never seen the sums of fewer. So in training each
# example of a batch draws its own number of stages $n_q$, uniformly from 1 to all; the stages beyond it are left out of
# its value and of its loss. Six examples and four stages, a one for each stage that is used:

# %%
torch.manual_seed(0)
n_q = torch.randint(1, 4 + 1, (6,))
print((torch.arange(4) < n_q[:, None]).int())

# %% [markdown]
# What you built is what the library has.

# %%
layer, z = RVQ(d=2, K=8, stages=5), pairs[None, :500].clone().requires_grad_()
for made, codebook in zip(layer.stages, codebooks, strict=True):
    made.codebook.data = codebook.clone()
library, built = layer(z), quantize(z, layer.codebooks)
assert torch.equal(library.codes, built[1])
assert difference(library.values, built[0]) < 1e-6
assert difference(library.loss, built[2]) < 1e-7
gradients = [torch.autograd.grad(v.square().sum() + part, [z, *layer.codebooks]) for v, _, part in (library, built)]
assert max(difference(a, b) for a, b in zip(*gradients, strict=True)) < 1e-5
print(f"{layer.bits:g} bits a token; values, codes, loss and gradients agree")

# %% [markdown]
# ## The recipe
#
# 1. $N_q$ codebooks of K rows of width d; $N_q \log_2 K$ bits a vector.
# 2. Start stage i on vectors picked from what the stages before it leave of the first batches.
# 3. r = z. For i = 1 ... $N_q$: $k_i$ = the row of codebook i nearest to r (of equal ones the lowest);
#    $z_q$ += that row; r -= that row, without gradient.
# 4. The decoder gets the value of $z_q$ with the gradient of z, once around all stages.
# 5. Loss: the decoder's error + the mean over stages of lesson 1's two losses between r before the stage and its row.
# 6. Dropout: each example draws $n_q$ from 1 ... $N_q$; stages beyond count neither in $z_q$ nor in the loss.
# 7. Store all codes. For fewer bits keep the first k: decode to the sum of k rows.
# 8. Cost: $n\, N_q K d$ multiply-adds, $N_q K d$ numbers.
#
# | | paper | here |
# |---|---|---|
# | how codebooks learn | moving averages | the loss of lesson 1 |
# | start | k-means on the first batch | vectors of the residuals |
# | rarely used vectors | are replaced | stay |
# | commitment | not named | $\beta = 0.25$, mean over stages |
#
# ## The experiment: digits, by one codebook or by several
#
# First **at equal bits**, 8 a vector: one codebook of 256 rows, or two stages of 16. Then **one network for all
# rates**: four stages trained with dropout, and a shipped one without, decoded with 1 to 4 of them.

# %%
two = stage.measure(RVQ(K=16, stages=2))
plain, scalable = stage.control("rvq16x4"), stage.measure(RVQ(K=16, stages=4, dropout=True))
rows = {"VQ, 256 rows": one["VQ, 256 rows"], "2 stages of 16": two, "VQ, 1024 rows": one["VQ, 1024 rows"]}
print(stages.quantize.table(rows | {"4 stages of 16": plain, "4 of 16, dropout": scalable}))

# %% [markdown]
# An eighth of the code vectors and comparisons is enough: the network arranges its vectors so that two stages fit them.

# %%
cut, dropped = ([*(stage.score(row.model, k) for k in (1, 2, 3)), row] for row in (plain, scalable))
own = [one["VQ, 16 rows"], two, plain]
bits = [4, 8, 12, 16]
series = {
    "ours: dropout": (bits, [row.psnr for row in dropped]),
    "baseline: no dropout": (bits, [row.psnr for row in cut]),
    "a network for each rate": ([4, 8, 16], [row.psnr for row in own]),
}
title = "Dropout gains at few bits and costs at many"
figure = viz.lines(series, title, "bits a vector", "PSNR on held-out digits (dB)")
viz.show(figure)

# %% [markdown]
# At four bits dropout gains: without it the decoder has never seen a first stage alone. At 16 bits it costs: the same
# small network must serve four rates, and only a quarter of its examples used all stages.
#
# ## Play: add stages one by one


# %%
def show_stages(k=1):
    examples = stage.test[[210, 310, 510, 810]]
    with torch.no_grad():
        codes = [row.model.codes(examples)[..., :k] for row in (plain, scalable)]
        rebuilt = [m.picture(m.quantizer.decode(c)) for m, c in zip((plain.model, scalable.model), codes, strict=True)]
    titles = [title for name in ("held out", "no dropout", "dropout") for title in (name, "", "", "")]
    shown = torch.cat([examples, *rebuilt]).clamp(0, 1)
    return viz.show(viz.images(shown, titles, columns=4, title=f"Stages: {k}, {4 * k} bits a vector", height=1.1))


show_stages()

# %%
control = viz.slider(show_stages, k=(1, 4))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
depth = "ViSQOL 4.01 with 8 x 1024, 3.98 with 16 x 32, table II"
vanishes = "with dropout the gap vanishes, section V-C and figure 7c"
db = {"unit": "dB", "tolerance": 0.3}
measures = [
    papers.not_worse("8 bits: 2 x 16 or 1 x 256", two.psnr, than=one["VQ, 256 rows"].psnr, by=0.5, paper=depth, **db),
    papers.better("4 bits: dropout or none", dropped[0].psnr, than=cut[0].psnr, margin=0.3, paper=vanishes, **db),
    papers.not_worse("16 bits: dropout or none", dropped[3].psnr, than=cut[3].psnr, by=0.2, paper=vanishes, **db),
]

# %%
papers.verdict(
    "rvq",
    "Small codebooks in stages do for one large one at equal bits; with dropout one model serves all rates.",
    measures,
    against="VQ with K = 256; RVQ without dropout, decoded with as many stages; 400 steps each",
    data=stage.data,
)

# %% [markdown]
# The paper codes speech and music, in table II at 80 bits a vector; ViSQOL is a score of heard quality, up to 5. With
# 8.4 million weights (table I) it finds no cost of dropout at high rates, at 9 and 12 kbps even a small gain.
#
# ## Where it breaks: one pattern for all, chosen greedily
#
# Back to the pixels. All groups share the second stage, and each stage takes what is best for itself. With 64 sums we
# can try them all:

# %%
greedy, free = quantize(pairs[None], [coarse, fine])[0][0], learn(pairs, 64)
errors = {
    "ours: greedy, 8 + 8 vectors": F.mse_loss(greedy, pairs),
    "best of the same 64 sums": F.mse_loss(sums[nearest(pairs[None], sums)[0]], pairs),
    "baseline: one codebook of 64": F.mse_loss(free[nearest(pairs[None], free)[0]], pairs),
}
errors = {name: 1e3 * float(value) for name, value in errors.items()}
viz.show(viz.bars(errors, "What the cascade gives away", "mean squared error (thousandths)"))

# %% [markdown]
# Greed costs little here, the shared pattern most. Greed has another effect: a value may have other codes than those
# that it came from, as 7 above would. Decode the digits' codes and code the values again:

# %%
with torch.no_grad():
    codes = plain.model.codes(stage.test[::5])
    again = plain.model.quantizer.encode(plain.model.quantizer.decode(codes))
print(f"{(again != codes).any(-1).float().mean():.0%} of the vectors get other codes the second time")

# %% [markdown]
# ## Exercises
#
# **1. Your own cascade.** Write algorithm 1 from the recipe: z (b, n, d) and a list of codebooks give codes (b, n, g),
# the chosen rows of all stages (g, b, n, d), and what each stage was given, of the same shape. The library's tests
# judge it.


# %%
def my_cascade(z, codebooks):
    codes = torch.stack([nearest(z, codebook) for codebook in codebooks], -1)  # replace this: no residuals
    chosen = torch.stack([codebook[codes[..., i]] for i, codebook in enumerate(codebooks)])
    return codes, chosen, z.expand_as(chosen)


# %%
def check_1(my_cascade):
    return papers.check("rvq.cascade", my_cascade)


check_1(my_cascade)

# %% [markdown]
# **2. A gradient that went missing.** This cascade subtracts the straight-through value, as code in use has done. Its
# values are right, its commitment is not: no stage but the first pulls z. Mend it so that all do.


# %%
def commitment(z, codebooks):
    residual, loss = z, 0
    for codebook in codebooks:
        chosen = codebook[nearest(residual, codebook)].detach()
        passed = chosen + (residual - residual.detach())
        loss = loss + F.mse_loss(residual, chosen)
        residual = residual - passed  # mend this
    return loss


# %%
def check_2(commitment):
    z = pairs[None, :50].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(commitment(z, [coarse, fine]), z)
    z_q, codes, _ = quantize(z.detach(), [coarse, fine])
    first = 2 * (z.detach() - coarse[codes[..., 0]]) / z.numel()
    second = 2 * (z.detach() - z_q) / z.numel()
    if difference(gradient, first) < 1e-6:
        return "not yet: only the first stage pulls z"
    return "right" if difference(gradient, first + second) < 1e-6 else "both stages should pull z, once each"


check_2(commitment)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/02_rvq.py`.
#
# ## What was left out
#
# SoundStream is a whole codec: convolutions over time, a discriminator of spectrograms, noise suppression on request.
# Read on: [FSQ](03_fsq.ipynb) needs no codebook at all; [the overview](00_overview.ipynb) ranks all quantizers.
