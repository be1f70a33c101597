# %% [markdown]
# # Lookup-free quantization: a token is a row of signs
#
# **Paper:** Yu et al., *Language Model Beats Diffusion -- Tokenizer is Key to Visual Generation*, 2023
# ([arXiv 2310.05737](https://arxiv.org/abs/2310.05737)), section 3.1, the quantizer of MAGVIT-v2.
# **Code:** `minitok/quantize/lfq.py`.
# **Read first:** [vector quantization](01_vq.ipynb).
#
# After this lesson you can do without the table of code vectors: a vector of d channels keeps nothing but its signs, d
# signs are a number of d bits, and a loss sees to it that all numbers occur.

# %%
import torch
import torch.nn.functional as F

from minitok import papers, stages, viz
from minitok.metrics import difference, entropy_bits
from minitok.quantize import LFQ
from minitok.quantize.lfq import code_probabilities

# %% [markdown]
# ## The problem: large tables are dear, and die
#
# More codes say more about an image. But n vectors of d channels meet all K code vectors in n d K multiply-adds, and
# the table holds K d numbers. With signs there are n d comparisons and no table. For the 49 vectors of a digit, with a
# table of width 8:

# %%
for bits in (6, 10, 14, 18):
    K = 2**bits
    print(f"K = 2^{bits}: table {K * 8:>9,} numbers, {49 * 8 * K:>11,} multiply-adds; signs {49 * bits} comparisons")

# %% [markdown]
# And most of a large table is never used. On the chapter's stage, an autoencoder of digits trained for 400 steps:
# (*Perplexity* is how many equally frequent codes would be as hard to guess.)

# %%
stage = stages.quantize.stage()
rows = {"VQ, 6 bits": stage.control("vq64"), "VQ, 10 bits": stage.control("vq1024")}
print(stages.quantize.table(rows))

# %% [markdown]
# The idea: let the codes be fixed, all vectors of -1 and 1, the corners of a cube. The nearest corner is the one with
# the same signs, so nothing is searched, and no code is left behind, as no code moves. The encoder has to learn to
# reach all corners.
#
# ## By hand: two vectors, two channels
#
# To have round numbers take z = (1.1, -1.1) and (-1.1, -1.1), more exactly $\ln 3 = 1.0986$.
#
# **Signs and codes.** Above 0 counts as 1, everything else, 0 too, as -1. Channel 1 is worth 1, channel 2 is worth 2:
# signs (1, -1) and (-1, -1), codes 1 and 0.

# %%
z = torch.tensor([[[3.0, 1 / 3], [1 / 3, 1 / 3]]]).log()
assert LFQ(2).encode(z).flatten().tolist() == [1, 0]

# %% [markdown]
# **How sure?** A sign tells nothing of how near the choice was. So each corner c gets a probability, the softmax of
# $-|z - c|^2 / \tau$ over all corners, where the *temperature* $\tau$ says how soft. A squared distance is a sum over
# channels, so this is d independent coins, $p_i = \sigma(4 z_i / \tau)$ for a 1. With $\tau = 4$ they are
# $\sigma(\pm \ln 3)$, three quarters and one quarter:
#
# | | coins | q of code 0 | 1 | 2 | 3 |
# |---|---|---|---|---|---|
# | first vector | 3/4, 1/4 | 3/16 | 9/16 | 1/16 | 3/16 |
# | second | 1/4, 1/4 | 9/16 | 3/16 | 3/16 | 1/16 |
# | mean | | 6/16 | 6/16 | 2/16 | 2/16 |

# %%
corners = LFQ(2).decode(torch.arange(4).view(1, 4, 1))[0]
q = (-torch.cdist(z[0], corners).square() / 4).softmax(-1)
coins = (4 * z[0] / 4).sigmoid()
print("q in sixteenths", (16 * q).round().int().tolist(), "mean", (16 * q.mean(0)).round().int().tolist())
assert difference(q, code_probabilities(coins)) < 1e-6

# %% [markdown]
# **Entropy** is the mean of $\log 1/q$, here in nats: 0 when one code is sure, $d \log 2 = 1.386$ when all four are
# equal. Each coin has 0.562, so each vector has $H(q) = 1.125$. The mean q has $2 \times 0.375 \times 0.981 + 2 \times
# 0.125 \times 2.079 = 1.255$.
#
# **The loss** wants each vector to be sure, the first entropy small, and all codes to be frequent, the second large:
# $a\,(1.125 - 1.255)$, with a = 0.1. A commitment as in lesson 1 holds z near its corner: all four numbers are 0.099
# from it, so $\beta \times 0.0097$, with $\beta = 0.25$. Together -0.0131 + 0.0024 = -0.0107.

# %%
sure, even = torch.special.entr(q).sum(-1).mean(), torch.special.entr(q.mean(0)).sum()
values, codes, loss = LFQ(2, entropy=0.1, commitment=0.25, temperature=4.0)(z)
print(f"entropies {sure:.3f} and {even:.3f}, loss {loss:.4f}, values {values[0].tolist()}")
assert difference(loss, 0.1 * (sure - even) + 0.25 * (z.abs() - 1).square().mean()) < 1e-6
assert round(float(loss), 4) == -0.0107

# %% [markdown]
# ## The mechanism on real vectors
#
# **1. The first entropy is cheap.** Coins are independent given z, so the entropy is a sum of d terms instead of
# $2^d$.
#
# **2. The second is not.** A mean of products is no product. The obvious shortcut, the entropies of the mean coins, is
# wrong: two vectors at opposite corners make every coin even, which looks like $2^d$ codes, but there are two.

# %%
opposite = torch.tensor([[9.0, 9.0, 9.0, 9.0], [-9.0, -9.0, -9.0, -9.0]])
coins = (4 * opposite / 0.3).sigmoid()
joint = torch.special.entr(code_probabilities(coins).mean(0)).sum() / torch.log(torch.tensor(2.0))
alone = sum(F.binary_cross_entropy(p, p) for p in coins.mean(0)) / torch.log(torch.tensor(2.0))
print(f"entropy of the mean: {joint:.1f} bits; of the mean coins: {alone:.1f} bits")
assert joint < alone

# %% [markdown]
# **3. All of it**, with the softmax over all corners written out.


# %%
def quantize(z, entropy=0.1, commitment=0.25, temperature=0.3):
    d = z.shape[-1]
    signs = torch.where(z > 0, 1.0, -1.0)
    codes = ((z > 0) * 2 ** torch.arange(d)).sum(-1)
    corners = torch.tensor([[2.0 * (k >> i & 1) - 1 for i in range(d)] for k in range(2**d)])
    q = (-(z[:, None] - corners).square().sum(-1) / temperature).softmax(-1)
    sure, even = torch.special.entr(q).sum(-1).mean(), torch.special.entr(q.mean(0)).sum()
    loss = entropy * (sure - even) + commitment * F.mse_loss(z, signs)
    return signs + (z - z.detach()), codes, loss


# %% [markdown]
# What you built is what the library has. It splits the bits in two halves, independent too: from $2^{d/2}$
# probabilities of each half, one matrix product over the vectors gives all $2^d$ means.

# %%
z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
library, built = LFQ(d=6, temperature=2.0)(z[None]), quantize(z, temperature=2.0)
assert torch.equal(library.codes[0, :, 0], built[1])
assert difference(library.values[0], built[0]) == 0
assert difference(library.loss, built[2]) < 1e-6
gradients = [torch.autograd.grad(v.sum() + loss, z)[0] for v, _, loss in (library, built)]
assert difference(*gradients) < 1e-5
print("values, codes, loss and gradients agree")

# %% [markdown]
# ## The recipe
#
# 1. The encoder gives d channels; $K = 2^d$ codes, d bits, no table.
# 2. Sign: 1 where $z_i > 0$, else -1. Code: $\sum_i 2^{i-1} [z_i > 0]$.
# 3. The decoder gets the signs with the gradient of z.
# 4. Coins $p_i = \sigma(4 z_i / \tau)$.
# 5. First entropy: the mean over vectors of $\sum_i H(p_i)$.
# 6. Second: the entropy of the mean, over all vectors of the batch, of the $2^d$ products of coins.
# 7. Loss: the decoder's error $+\; a\,(\text{first} - \text{second}) + \beta\, |z - \mathrm{sg}[\text{sign}]|^2$,
#    in float32.
# 8. Decode: bit i of the code to the sign of channel i. Cost: d comparisons; in training $n\, 2^{d}$ multiply-adds.
#
# | | paper | here |
# |---|---|---|
# | softmax, commitment, weights | not told | those of Open-MAGVIT2, a public code |
# | temperature | not told; 0.01 in that code | 0.3 |
# | second entropy for large d | by groups of bits | refused beyond 18 bits |
# | which channel is worth 1 | the first | the first; in `vector-quantize-pytorch` the last |
#
# ## The experiment: with and without the entropies, and against a table
#
# At 10 bits: LFQ, LFQ with a = 0, and the shipped VQ of 1,024 rows; and shipped LFQ of 8 and 14 bits. The weights count
# relative to the image's error, here near 0.01, so they are smaller than the defaults. We picked them, and a learning
# rate, on one seed.

# %%
rows["LFQ, 8 bits"], rows["LFQ, 14 bits"] = stage.control("lfq8"), stage.control("lfq14")
rows["LFQ, 10 bits"] = stage.measure(LFQ(10, entropy=0.03, commitment=0.01), lr=5e-3)
rows["LFQ, no entropies"] = stage.measure(LFQ(10, entropy=0.0, commitment=0.01), lr=5e-3)
print(stages.quantize.table(rows))

# %%
roles = {"baseline: VQ": "VQ, 10 bits", "baseline: LFQ, no entropies": "LFQ, no entropies", "ours: LFQ": "LFQ, 10 bits"}
bars = {role: rows[name].even for role, name in roles.items()}
viz.show(viz.bars(bars, "The penalty spreads the codes", "perplexity on held-out digits (of 1024)"))

# %%
shown, names = stage.test[210::200], ["VQ, 10 bits", "LFQ, no entropies", "LFQ, 10 bits", "LFQ, 14 bits"]
columns = torch.stack([shown, *(rows[name].model.rebuild(shown) for name in names)], 1).flatten(0, 1)
titles = ["held out", *(f"{name}\n{rows[name].psnr:.1f} dB" for name in names)]
viz.show(viz.images(columns, titles + [""] * (len(columns) - 5), columns=5, height=1.3))

# %% [markdown]
# The penalty does what it is for: nearly all codes are in use. But use is not quality: the digits come back only a
# little better. And at equal bits a table that can move loses less than a cube that cannot. What LFQ has is room to
# grow: at 14 bits it still gains, where a table would hold 16,384 vectors.
#
# Are the bits independent over the digits? Compare the entropy of the codes with the sum over single bits:

# %%
codes = rows["LFQ, 10 bits"].codes
single = sum(entropy_bits(codes >> i & 1, 2) for i in range(10))
print(f"the codes have {rows['LFQ, 10 bits'].entropy:.1f} bits, their ten bits alone {single:.1f} together")
assert rows["LFQ, 10 bits"].entropy < single

# %% [markdown]
# ## Play: what does a bit say?
#
# Flip bit i in all 49 codes of a digit, or at one position (row by row from the top left), and see what the decoder
# paints.


# %%
def flipped(digit=3, bit=0, position=24, everywhere=True):
    model = rows["LFQ, 10 bits"].model
    codes = model.codes(stage.test[digit * 100 : digit * 100 + 1])
    where = torch.ones(49, 1, dtype=torch.bool) if everywhere else torch.arange(49)[:, None] == position
    changed = torch.where(where, codes ^ 2**bit, codes)
    with torch.no_grad():
        before, after = (model.picture(model.quantizer.decode(c)) for c in (codes, changed))
    shown = torch.cat([before, after, (after - before).abs()])
    return viz.show(viz.images(shown, ["as it was", f"bit {bit} flipped", "change"], height=1.5))


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
ours, bare, table_ = rows["LFQ, 10 bits"], rows["LFQ, no entropies"], rows["VQ, 10 bits"]
few, many = rows["LFQ, 8 bits"], rows["LFQ, 14 bits"]
db = {"unit": "dB", "tolerance": 0.3}
fid = "FID instead: curves in figure 1"
measures = [
    papers.better("use, with or without penalty", ours.used, than=bare.used, margin=20, unit="%"),
    papers.better("use, LFQ or VQ", ours.used, than=table_.used, margin=20, unit="%"),
    papers.better("PSNR, with or without penalty", ours.psnr, than=bare.psnr, margin=0.5, **db),
    papers.better("PSNR, 14 or 8 bits", many.psnr, than=few.psnr, margin=0.5, paper=fid, **db),
    papers.better("PSNR, LFQ or VQ", ours.psnr, than=table_.psnr, margin=0.5, paper=fid, **db),
]

# %%
papers.verdict(
    "lfq",
    "The entropy penalty brings codes into use, more codes help LFQ, and it is ahead of VQ.",
    measures,
    against="at 10 bits, 400 steps: LFQ without the penalty; VQ with a table of 1024 vectors of 8 channels",
    data=stage.data,
)

# %% [markdown]
# Digits are simple, and a table of 1024 is small and cheap; the paper goes to $2^{18}$ codes, for photographs and
# videos.
#
# ## Where it breaks: weights
#
# Signs have no "in between". If the commitment is heavy beside the image's error, vectors stay at the corner where they
# began, before the decoder has learnt to tell corners apart. The default weight of 0.25, without the penalty, for 100
# steps:

# %%
heavy = stages.quantize.Stage(stage.learnt, stage.test, stage.data, steps=100)
stuck = heavy.measure(LFQ(10, entropy=0.0, commitment=0.25), lr=5e-3)
print(stages.quantize.table({"heavy commitment": stuck}))
assert stuck.even < 20

# %% [markdown]
# The temperature matters too: a bit with $|z_i|$ far above $\tau$ gets no gradient from the entropies. At 0.01, the
# value of the public code, that is all but a thin slice of the cube.
#
# ## Exercises
#
# **1. Your own probabilities.** Write `code_probabilities` from the recipe: coins p (n, d) give q (n, $2^d$), the
# columns in the order of the codes. The library's tests judge it.


# %%
def my_probabilities(p):
    return p.new_full((len(p), 2 ** p.shape[1]), 0.5 ** p.shape[1])  # replace this: all codes equal


# %%
def check_1(my_probabilities):
    return papers.check("lfq.code_probabilities", my_probabilities)


check_1(my_probabilities)

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
    exact, single = float(torch.special.entr(code_probabilities(p).mean(0)).sum()), float(grouped(p, 1))
    bits = float(sum(F.binary_cross_entropy(m, m) for m in p.mean(0)))
    if abs(float(grouped(p, 6)) - exact) > 1e-4:
        return f"one group of all 6 bits should give the exact {exact:.3f} nats"
    if abs(single - bits) > 1e-4:
        return f"groups of one bit should give {bits:.3f} nats, the sum over mean coins, not {single:.3f}"
    return f"right: exact {exact:.3f}, bit by bit {single:.3f} nats: finer groups say more"


check_2(grouped)

# %% [markdown]
# **3. The other order.** Turn codes of d bits whose first channel is least significant into those whose first channel
# is *most* significant.


# %%
def reverse_bits(codes, d):
    return codes  # replace this


# %%
def check_3(reverse_bits):
    if reverse_bits(torch.tensor([1]), 4).tolist() != [8]:
        return "channel 1 of 4 alone was worth 1; read from the other end it is worth 8"
    codes = torch.arange(32)
    if not torch.equal(reverse_bits(reverse_bits(codes, 5), 5), codes):
        return "turned twice, every code should be itself"
    return "right" if reverse_bits(torch.tensor([11]), 4).tolist() == [13] else "1011 should become 1101"


check_3(reverse_bits)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/04_lfq.py`.
#
# ## What was left out
#
# The paper's tokenizer for video (causal 3D convolutions), and its split of a code of 18 bits into two of 9, so that a
# language model need not choose among $2^{18}$ at once. Read on: [FSQ](03_fsq.ipynb) takes more than two levels a
# channel, [WeTok](06_wetok.ipynb) takes the penalty in groups.
