# %% [markdown]
# # Lookup-free quantization: a token is a row of signs
#
# **Paper:** Yu et al., *Language Model Beats Diffusion -- Tokenizer is Key to Visual Generation*, 2023
# ([arXiv 2310.05737](https://arxiv.org/abs/2310.05737)), section 3.1, the quantizer of MAGVIT-v2.
# **Code:** `minitok/quantize/lfq.py`.
# **Read first:** lesson 1, vector quantization.
#
# Lesson 1 kept a table of code vectors and searched it for each vector. You will throw the table away: a vector of d
# channels keeps nothing but its signs, and d signs are a number of d bits.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, viz
from minitok.data import mnist
from minitok.house.bottleneck import Bottleneck, train
from minitok.metrics import codebook_use, entropy_bits, perplexity, psnr
from minitok.quantize.lfq import LFQ, code_probabilities, mean_code_probabilities
from minitok.quantize.vq import VQ

digits, test = mnist.load("train").images, mnist.load("test").images

# %% [markdown]
# ## The problem: large tables are dear, and die
#
# More codes say more about an image. But n vectors of d channels meet all K code vectors in n d K multiply-adds, and
# the table holds K d numbers. With signs there are n d comparisons and no table. We count for the 49 vectors of a
# digit; the table's width is 8.

# %%
for bits in (6, 10, 14, 18):
    K = 2**bits
    print(f"K = 2^{bits}: table {K * 8:>9,} numbers, {49 * 8 * K:>11,} multiply-adds; signs {49 * bits} comparisons")

# %% [markdown]
# And most of a large table is never used. The house's small autoencoder turns a digit into 7 x 7 vectors, as in
# lesson 1. We train it with 1024 code vectors, 10 bits a code, and count which codes 1,000 held-out digits use.
# *Perplexity* is how many equally frequent codes would be as hard to guess.

# %%
quality, use, spread, models = {}, {}, {}, {}


def fit(name, quantizer, lr, steps=300, seed=0):
    models[name] = train(Bottleneck(quantizer, seed=seed), digits, steps, lr, seed)
    codes = models[name].codes(test)
    with torch.no_grad():  # from the codes alone
        rebuilt = models[name].picture(quantizer.decode(codes)).clamp(0, 1)
    quality[name] = float(psnr(rebuilt, test).mean())
    use[name], spread[name] = codebook_use(codes, quantizer.K), perplexity(codes, quantizer.K)
    print(f"{name}: {use[name]:.0%} of {quantizer.K} codes in use, perplexity {spread[name]:.0f}")


fit("VQ, 10 bits", VQ(d=8, K=1024), lr=1.2e-2)

# %% [markdown]
# ## The idea: the corners of a cube
#
# Let the codes be fixed: all vectors of -1 and 1, the corners of a cube. The nearest corner is the one with the same
# signs, so nothing is searched, and no code can be left behind by training, as no code moves. The encoder has to learn
# to reach all corners. Here are vectors of held-out digits from a network with d = 2, four codes (a few
# lie outside the picture):

# %%
square = train(Bottleneck(LFQ(2, entropy=0.1, commitment=0.03)), digits, steps=150, lr=5e-3)
with torch.no_grad():
    z = square.vectors(test[::20]).flatten(0, 1)
codes = LFQ(2).encode(z[None])[0, :, 0]
figure, axes = viz.panel("Four codes: the signs of two channels", "channel 1", "channel 2", width=4.6, height=4.4)
axes.scatter(*z.T, s=4, c=[viz.PALETTE[k] for k in codes], linewidths=0)
axes.axhline(0, color=viz.MUTED, linewidth=1)
axes.axvline(0, color=viz.MUTED, linewidth=1)
for k, corner in enumerate(LFQ(2).decode(torch.arange(4).view(1, 4, 1))[0]):
    axes.scatter(*corner, s=90, c="white", edgecolors=viz.TEXT, linewidths=1.5, zorder=3)
    axes.annotate(f"code {k}", corner, (9 if k % 2 else -52, 7), textcoords="offset points", weight="bold")
axes.set(xlim=(-4, 4), ylim=(-4, 4))
assert len(codes.unique()) == 4
viz.show(figure)

# %% [markdown]
# ## The mechanism, step by step
#
# **1. Signs.** $q(z_i) = -\mathbb 1\{z_i \le 0\} + \mathbb 1\{z_i > 0\}$: a zero counts as negative.
#
# **2. A number.** $\mathrm{Index}(z) = \sum_{i=1}^{d} 2^{i-1}\, \mathbb 1\{z_i > 0\}$: the first channel is worth
# 1, the next 2, then 4. (Of the public code, Open-MAGVIT2 agrees; in `vector-quantize-pytorch` the *last* channel is
# worth 1, so its codes are other numbers for the same signs.)

# %%
z = torch.tensor([[0.7, -0.2, 0.0, 1.5], [-0.4, -0.9, -2.0, -0.1], [0.1, 0.3, -0.6, -1.0]])
signs = torch.where(z > 0, 1.0, -1.0)
codes = ((z > 0) * 2 ** torch.arange(4)).sum(-1)
print(codes.tolist(), signs.tolist())
assert codes.tolist() == [1 + 8, 0, 1 + 2]

# %% [markdown]
# The gradient goes straight through, as in lesson 1: `z + (signs - z).detach()`.
#
# **3. How sure?** A sign tells nothing of how near the choice was. So give each code c a probability: the softmax of
# $-\|z - c\|^2 / \tau$ over all $2^d$ corners, where the *temperature* $\tau$ says how soft. Its *entropy* H, the mean
# of $\log 1/p$, is 0 when z is sure of its code and $d \log 2$ when it sits in the middle of the cube.

# %%
temperature = 0.3
corners = LFQ(4).decode(torch.arange(16).view(1, 16, 1))[0]
q = (-torch.cdist(z, corners).square() / temperature).softmax(-1)
H = torch.special.entr(q).sum(-1)
print("entropy of each vector:", [round(h, 2) for h in H.tolist()], "nats of", round(4 * 0.6931, 2))

# %% [markdown]
# **4. It is only d coins.** A squared distance is a sum over channels, so the softmax is a product: each bit is a coin
# of its own, with $p_i = \sigma(4 z_i / \tau)$ for the 1. The entropy of independent coins is the sum of theirs:
# d terms instead of $2^d$, and exact.

# %%
p = torch.sigmoid(4 * z / temperature)
coins = (torch.special.entr(p) + torch.special.entr(1 - p)).sum(-1)
torch.testing.assert_close(coins, H, atol=1e-5, rtol=0)
print("entropy by coins:", [round(h, 2) for h in coins.tolist()])

# %% [markdown]
# **5. The mean is not.** The second entropy is that of the *mean* q over many vectors: high if all codes are frequent.
# But a mean of products is no product. Take two vectors at opposite corners: each bit alone is 1 half of the time,
# which looks like 16 even codes, but there are two. Bit by bit we get an upper bound; the true value needs all $2^d$.

# %%
two = torch.tensor([[9.0, 9.0, 9.0, 9.0], [-9.0, -9.0, -9.0, -9.0]])
q_two = (-torch.cdist(two, corners).square() / temperature).softmax(-1)
p_two = torch.sigmoid(4 * two / temperature)
joint = torch.special.entr(q_two.mean(0)).sum() / torch.log(torch.tensor(2.0))
bound = sum(F.binary_cross_entropy(p, p) for p in p_two.mean(0)) / torch.log(torch.tensor(2.0))
print(f"entropy of the mean: {joint:.1f} bits; bit by bit: {bound:.1f} bits")
assert joint < bound

# %% [markdown]
# **6. The loss.** The paper's entropy penalty is $\mathbb E[H(q(z))] - H[\mathbb E\, q(z)]$: each vector sure, all
# codes frequent. A commitment term as in lesson 1 keeps z near its corner:
#
# $$a\,\big(\mathbb E[H(q(z))] - H[\mathbb E\, q(z)]\big) + \beta\, \|z - \mathrm{sg}[q(z)]\|^2 .$$


# %%
def quantize(z, entropy=0.1, commitment=0.25, temperature=0.3):
    d = z.shape[-1]
    signs = torch.where(z > 0, 1.0, -1.0)
    codes = ((z > 0) * 2 ** torch.arange(d)).sum(-1)
    corners = torch.tensor([[2.0 * (k >> i & 1) - 1 for i in range(d)] for k in range(2**d)])
    q = (-(z[:, None] - corners).square().sum(-1) / temperature).softmax(-1)
    sure, even = torch.special.entr(q).sum(-1).mean(), torch.special.entr(q.mean(0)).sum()
    loss = entropy * (sure - even) + commitment * F.mse_loss(z, signs)
    return z + (signs - z).detach(), codes, loss


# %% [markdown]
# **What you built is what the library has.** `minitok.quantize.lfq.LFQ` takes the first entropy by coins. For the mean
# it splits the bits in two halves, independent too: with $2^{d/2}$ probabilities for each half, one matrix product over
# the vectors gives all $2^d$ means, and n x $2^d$ numbers are never held. (Where a probability is 0, `entr` has no
# gradient; the library guards its logarithm.)

# %%
z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
library, built = LFQ(d=6, temperature=2.0)(z[None]), quantize(z, temperature=2.0)
torch.testing.assert_close(library.values[0], built[0])
assert torch.equal(library.codes[0, :, 0], built[1])
torch.testing.assert_close(library.loss, built[2])
torch.testing.assert_close(
    torch.autograd.grad(library.values.sum() + library.loss, z),
    torch.autograd.grad(built[0].sum() + built[2], z),
)
print("values, codes, loss and gradients agree")

# %% [markdown]
# ## The experiment: with and without the entropies, and against a table
#
# The same autoencoder, 300 steps, at equal bits. `LFQ` with the penalty, and with $a = 0$ and all else the same. The
# weights count relative to the image's loss, here a squared error near 0.01, so they are smaller than the defaults. We
# picked them, and a learning rate for VQ and one for LFQ, on one seed.

# %%
weights = {"commitment": 0.01, "temperature": 0.3}
for bits in (8, 10, 14):
    fit(f"LFQ, {bits} bits", LFQ(bits, entropy=0.03, **weights), lr=5e-3)
fit("no entropies, 10 bits", LFQ(10, entropy=0, **weights), lr=5e-3)

# %%
names = ["VQ, 10 bits", "no entropies, 10 bits", "LFQ, 10 bits"]
roles = ["baseline: VQ", "baseline: LFQ without entropies", "ours: LFQ"]
bars = {role: spread[name] for role, name in zip(roles, names, strict=True)}
viz.show(viz.bars(bars, "The penalty spreads the codes", "perplexity on held-out digits (of 1024)"))

# %%
series = {
    "ours: LFQ": ([8, 10, 14], [quality[f"LFQ, {bits} bits"] for bits in (8, 10, 14)]),
    "baseline: VQ": ([10], [quality["VQ, 10 bits"]]),
    "LFQ without entropies": ([10], [quality["no entropies, 10 bits"]]),
}
viz.show(viz.lines(series, "LFQ gains from bits; a table is still ahead", "bits a code", "PSNR (dB)"))

# %%
shown = slice(210, None, 200)
columns = torch.stack([test[shown], *(models[name].rebuild(test[shown]) for name in names)])
titles = ["held out", *(f"{name.split(',')[0]}\n{quality[name]:.1f} dB" for name in names)]
titles += [""] * 4 * (columns.shape[1] - 1)
viz.show(viz.images(columns.transpose(0, 1).flatten(0, 1), titles, columns=4, height=1.4))

# %% [markdown]
# The penalty does what it is for: most codes are in use. But use is not quality: the digits come back only a little
# better. And at equal bits a table that can move loses less than a cube that cannot. What LFQ has is room to grow: at
# 14 bits it still gains, where a table would hold 16,384 vectors.
#
# Are the bits independent over the digits? Compare the entropy of the codes with the sum over single bits:

# %%
codes = models["LFQ, 10 bits"].codes(test)
single = sum(entropy_bits(codes >> i & 1, 2) for i in range(10))
print(f"the codes have {entropy_bits(codes, 1024):.1f} bits, their ten bits alone {single:.1f} together")
assert entropy_bits(codes, 1024) < single

# %% [markdown]
# ## Play: what does a bit say?
#
# Each bit of a code can be flipped. Flip bit i in all 49 codes of a digit, or at one position (row by row from the top
# left), and see what the decoder paints.


# %%
def flipped(digit=3, bit=0, position=24, everywhere=True):
    model = models["LFQ, 10 bits"]
    codes = model.codes(test[digit * 100 : digit * 100 + 1])
    where = torch.ones(49, 1, dtype=torch.bool) if everywhere else torch.arange(49)[:, None] == position
    changed = torch.where(where, codes ^ 2**bit, codes)
    with torch.no_grad():
        before, after = (model.picture(model.quantizer.decode(c)) for c in (codes, changed))
    change = (after - before).abs()
    titles = ["as it was", f"bit {bit} flipped", "change"]
    return viz.show(viz.images(torch.cat([before, after, change]), titles, height=1.5))


flipped()

# %%
control = viz.slider(flipped, digit=(0, 9), bit=(0, 9), position=(0, 48), everywhere=[True, False])
viz.ends(control)
control

# %% [markdown]
# ## The verdict
#
# The paper's figure 1 shows FID, a distance between sets of images: with more codes, LFQ improves in reconstruction and
# in generation; VQ does not in generation. We measure reconstruction (as PSNR) and use, not generation.

# %%
table, bare, ours = names
fid = "FID instead: curves in figure 1"
measures = [
    papers.better("use, with or without penalty", use[ours], than=use[bare], margin=0.2),
    papers.better("use, LFQ or VQ", use[ours], than=use[table], margin=0.2),
    papers.better("PSNR, with or without penalty", quality[ours], than=quality[bare], unit="dB"),
    papers.better("PSNR, 14 or 8 bits", quality["LFQ, 14 bits"], than=quality["LFQ, 8 bits"], unit="dB", paper=fid),
    papers.better("PSNR, LFQ or VQ", quality[ours], than=quality[table], unit="dB", paper=fid),
]

# %%
claim = papers.verdict(
    "lfq",
    "The entropy penalty brings codes into use, more codes help LFQ, and it is ahead of VQ.",
    measures,
    against="at 10 bits, 300 steps: LFQ without the penalty; VQ with a table of 1024 vectors of 8 channels",
    data="MNIST-5k: 4,000 digits to learn from, 1,000 held out",
)
assert claim.outcome == "holds in part"
assert [measure.holds for measure in measures[:2]] == [True, True]
assert [measure.holds for measure in measures[3:]] == [True, False]

# %% [markdown]
# On four seeds each line came out the same way. But read the third as a draw: with a commitment tuned for it (0.003),
# the network without penalty nearly catches up in PSNR, not in use. Digits are simple, and a table of 1024 is small and
# cheap; the paper goes to $2^{18}$ codes, for photographs and videos.
#
# ## Where it breaks: weights
#
# Signs have no "in between". If the commitment is heavy beside the image's loss, vectors stay at the corner where they
# began, before the decoder has learnt to tell corners apart. Here is the default weight of 0.25, without the penalty:

# %%
fit("heavy commitment", LFQ(10, entropy=0, commitment=0.25), lr=5e-3, steps=100)
assert spread["heavy commitment"] < 20

# %% [markdown]
# The temperature matters too: a bit with $|z_i|$ far above $\tau$ gets no gradient from the entropies. At 0.01, the
# value of the public code, that is all but a thin slice of the cube.
#
# ## Exercises
#
# **1. The other order.** Turn codes of d bits whose first channel is least significant into those whose first channel
# is *most* significant.


# %%
def reverse_bits(codes, d):
    return codes  # replace this


def check_1(reverse_bits):
    if reverse_bits(torch.tensor([1]), 4).tolist() != [8]:
        return "channel 1 of 4 alone was worth 1; read from the other end it is worth 8"
    codes = torch.arange(32)
    if not torch.equal(reverse_bits(reverse_bits(codes, 5), 5), codes):
        return "turned twice, every code should be itself"
    return "right" if reverse_bits(torch.tensor([11]), 4).tolist() == [13] else "1011 should become 1101"


check_1(reverse_bits)

# %% [markdown]
# **2. Groups.** For very large d the paper takes the entropy of the mean in groups of bits. Write the sum of the
# groups' entropies of the mean, in nats: coins p (n, d) and a group's size g give a number. The library's
# `code_probabilities` turns coins (n, g) into probabilities (n, 2^g).


# %%
def grouped(p, g):
    return torch.special.entr(code_probabilities(p[:, :g]).mean(0)).sum()  # only the first group: replace this


# %%
def check_2(grouped):
    p = torch.sigmoid(3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    exact = float(torch.special.entr(mean_code_probabilities(p)).sum())
    if abs(float(grouped(p, 6)) - exact) > 1e-3:
        return f"one group of all six bits should give the exact {exact:.3f}, not {float(grouped(p, 6)):.3f}"
    if not float(grouped(p, 1)) > float(grouped(p, 2)) > float(grouped(p, 3)) > exact:
        return "all groups count; small ones see less of what bits share, so their sum is larger"
    return "right: groups bound the entropy from above"


check_2(grouped)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/04_lfq.py`.
#
# ## What was left out
#
# The paper's tokenizer for video (causal 3D convolutions), and its split of a code of 18 bits into two of 9, so that a
# language model need not choose among $2^{18}$ at once. Read on: **FSQ** (lesson 3) takes more than two levels a
# channel; **BSQ** puts the corners on a sphere; **WeTok** takes the penalty in groups.
