# %% [markdown]
# # WeTok: signs in groups, and a decoder that reads noise
#
# **Paper:** Zhuang et al., *WeTok: Powerful Discrete Tokenization for High-Fidelity Visual Reconstruction*, 2025
# ([arXiv 2508.05599](https://arxiv.org/abs/2508.05599)).
# **Code:** `minitok/quantize/wetok.py`.
# **Read first:** [lookup-free quantization](04_lfq.ipynb) (LFQ).
#
# After this lesson you can give codes of signs any number of bits, where LFQ's loss visits all $2^d$ codes; and for
# codes of very few bits, a decoder that reads noise.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.house.digit_painters import discriminator, laid_out
from minitok.metrics import difference, frechet_distance, psnr
from minitok.quantize import LFQ, WeTok
from minitok.quantize.lfq import code_probabilities, mean_code_probabilities
from minitok.quantize.wetok import GenerativeDecoder, decoder_loss, discriminator_loss

# %% [markdown]
# ## The problem: see every code, or be blind
#
# To bring all $2^d$ codes of d signs into use, LFQ's loss takes the entropy of the mean probabilities of all codes, a
# list of $2^d$ numbers. At 32 bits that is four thousand million, and our LFQ refuses. The other extreme takes each bit
# as if it were alone. In between lie **groups** of a few bits.

# %%
try:
    LFQ(32)
except ValueError as refusal:
    print("LFQ:", refusal)
for d in (8, 16, 24, 32):
    print(f"{d:2} bits: all codes {2**d:>13,} numbers; in groups of 8 bits {d // 8 * 2**8:>5,}; bit by bit {2 * d}")
numbers = [sum(mean_code_probabilities(part).numel() for part in torch.rand(4, 16).chunk(g, 1)) for g in (1, 2)]
assert numbers == [65536, 512]

# %% [markdown]
# ## By hand: two vectors, two groups of two bits
#
# As in lesson 4, all channels are $\pm \ln 3$ and the temperature is 4, so each channel's coin shows 1 with probability
# 3/4 (positive) or 1/4. Take (+ + - -) and (- - + +).
#
# **Codes.** In each group the first channel is worth 1, the second 2: codes 3, 0 for the first vector and 0, 3 for the
# second.

# %%
z = torch.tensor([[3.0, 3.0, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 3.0, 3.0]]).log()
coins = (4 * z / 4).sigmoid()
assert WeTok(4, 2, temperature=4.0).encode(z[None]).tolist() == [[[3, 0], [0, 3]]]


def unsure(p, g):
    return sum(torch.special.entr(code_probabilities(part)).sum(1).mean() for part in p.chunk(g, dim=1))


def even(p, g):
    return sum(torch.special.entr(code_probabilities(part).mean(0)).sum() for part in p.chunk(g, dim=1))


# %% [markdown]
# **How sure is a vector of its code?** The entropy of one coin of 3/4 is 0.562 nats, whichever way it lies. Coins are
# independent, so a vector has 4 x 0.562 = 2.249, cut into groups or not: here cutting changes *nothing*.
#
# **Are all codes frequent?** That is the entropy of the *mean* probabilities, and there it does. In sixteenths, codes 0
# to 3 of the first group:
#
# | | code 0 | 1 | 2 | 3 | entropy |
# |---|---|---|---|---|---|
# | first vector | 1 | 3 | 3 | 9 | |
# | second vector | 9 | 3 | 3 | 1 | |
# | mean | 5 | 3 | 3 | 5 | 1.355 |
#
# The second group has the same mean. The paper adds the groups up: 2 x 1.355 = 2.709.

# %%
for g, name in {1: "one group (LFQ)", 2: "two groups", 4: "bit by bit"}.items():
    print(f"{name:16} unsure {unsure(coins, g):.3f}, even {even(coins, g):.3f}")
assert [round(float(even(coins, g)), 3) for g in (1, 2, 4)] == [2.623, 2.709, 2.773]

# %% [markdown]
# Bit by bit every coin is 1 half of the time, which looks perfect: 4 log 2 = 2.773. Two groups see that the bits of a
# group agree: 2.709. Only one group sees that the groups are each other's opposite: 2.623. **The finer the groups, the
# less is seen**: the sum is an upper bound of what LFQ takes.
#
# **The loss** is $a\,(\text{unsure} - \text{even}) + \beta\,|z - \mathrm{sign}|^2$: 0.1 x (2.249 - 2.709) + 0.25 x
# 0.0986² = -0.046 + 0.002 = -0.044.

# %%
values, codes, loss = WeTok(4, 2, entropy=0.1, commitment=0.25, temperature=4.0)(z[None])
print(f"loss {loss:.3f}, values {values[0].int().tolist()}")
assert round(float(loss), 3) == -0.044

# %% [markdown]
# ## The mechanism on real vectors
#
# The whole quantizer in a few lines. What you built is what the library has, and with one group `WeTok` is `LFQ`.


# %%
def quantize(z, g, a=0.1, beta=0.25, temperature=0.3):
    signs = torch.where(z > 0, 1.0, -1.0)
    bits = (z > 0).view(len(z), g, -1)
    codes = (bits * 2 ** torch.arange(bits.shape[-1])).sum(-1)
    p = torch.sigmoid(4 * z / temperature)
    loss = a * (unsure(p, g) - even(p, g)) + beta * F.mse_loss(z, signs)
    return signs + (z - z.detach()), codes, loss


# %%
z = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
z = ((z + 2 * z[:, :1]) / 3).requires_grad_()  # channels that share something
library, built = WeTok(6, groups=2, temperature=2.0)(z[None]), quantize(z, 2, temperature=2.0)
assert difference(library.values[0], built[0]) == 0
assert torch.equal(library.codes[0], built[1])
assert difference(library.loss, built[2]) < 1e-6
gradients = [torch.autograd.grad(loss, z)[0] for loss in (library.loss, built[2])]
assert difference(*gradients) < 1e-6
assert difference(WeTok(6, groups=1)(z[None]).loss, LFQ(6)(z[None]).loss) == 0
print("values, codes, loss and gradients agree; with one group they are LFQ's")

# %% [markdown]
# ## The recipe
#
# 1. d channels, cut into g groups of $d' = d / g$ neighbours; g codes of $d'$ bits a vector.
# 2. Sign of each channel (0 counts as negative); in a group's code the first channel is worth 1, the next 2, ...
# 3. The decoder gets the signs with the gradient of z.
# 4. Coins $p_i = \sigma(4 z_i / \tau)$.
# 5. `unsure`: the mean over vectors of the sum of all coins' entropies.
# 6. `even`: for each group the mean over vectors of its $2^{d'}$ probabilities; the entropies of these means, summed.
# 7. Loss: the decoder's error $+\; a\,(\text{unsure} - \text{even}) + \beta\,|z - \mathrm{sg}[\mathrm{sign}]|^2$.
# 8. Cost in training: $g\, 2^{d'}$ numbers where LFQ has $2^{gd'}$.
# 9. Second stage, if wanted: freeze encoder and quantizer; widen the decoder's first layer by channels of noise, their
#    weights zero; train it on the error and a critic's word.
#
# | | paper | released code | here |
# |---|---|---|---|
# | groups in the loss | summed | averaged; one mean list for all | summed, a list each |
# | temperature | not told | 0.01 | 0.3 |
# | critic | kept in check by a penalty (LeCam) | so too | by a spectral norm |
#
# ## The experiment: 12 bits, in one, two or twelve groups
#
# The chapter's stage, with 100 steps; the same weights and learning rate for all three. (*Perplexity*: so many equally
# frequent codes would be as hard to guess.)

# %%
whole = stages.quantize.stage()
stage = stages.quantize.Stage(whole.learnt, whole.test, whole.data, steps=100)
weights = {"entropy": 0.01, "commitment": 0.01}
made = {
    "LFQ, one group": LFQ(12, **weights),
    "two groups": WeTok(12, 2, **weights),
    "bit by bit": WeTok(12, 12, **weights),
}
rows = {name: stage.measure(quantizer, lr=5e-3) for name, quantizer in made.items()}
lfq, two, bits = rows.values()
print(stages.quantize.table(rows))

# %% [markdown]
# What the loss sees comes into use: two groups lie between.
#
# ## The second stage: few bits, and noise
#
# Now one bit a vector: 49 bits for a digit. Many digits share their codes, and the squared error asks for their mean, a
# blur. By hand: a pixel is 0 or 1, equally often, and the codes do not tell. Gray, 0.5, has a squared error of 0.25; a
# guess is right half of the time, and has 0.5. **Variety is pure cost.** So a *critic* learns to tell real pictures
# from painted ones, and the decoder is rewarded for passing. The critic's loss (hinge) asks for logits above 1 for
# real ones, below -1 for painted ones: with 2 and 0, -3 and -1 it is $((0 + 1) / 2 + 0) / 2 = 0.25$. The decoder pays
# $\log(1 + e^{-D})$: (3.05 + 1.31) / 2 = 2.18.

# %%
real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, -1.0])
print(f"critic {discriminator_loss(real, fake):.2f}, decoder {decoder_loss(fake):.2f}")
models = house.load("digit_painters")
maps = laid_out(models["codec"], stage.test[::2])  # signs as maps of 7 x 7
widened, noise = GenerativeDecoder(models["codec"].decoder, channels=8), torch.randn(500, 8, 7, 7)
with torch.no_grad():
    apart = difference(widened(maps, noise), models["codec"].decoder(maps))
print(f"widened by 8 channels of noise with weights of zero: {apart:.0e} from the decoder as it was")
assert apart < 1e-5

# %% [markdown]
# Three decoders were trained from that start, for 600 steps each (`minitok train digit_painters`): with noise and the
# squared error alone; with a critic and no noise; with both, as in the paper. The **Frechet distance** compares 250
# painted digits with the 250 that they stand for, by features of our classifier `digits` (not those of "FID"; less is
# better). *Spread*: how far a pixel moves between two samples of the same codes.

# %%
classifier, distance, spread = house.load("digits"), {}, {}
torch.manual_seed(0)
with torch.no_grad():
    features = classifier.features(stage.test[::4])
    for name, model in models.items():
        painter = model.decoder if name == "codec" else model
        one, other = (painter(maps[::2]).clamp(0, 1) for _ in range(2))
        distance[name] = frechet_distance(classifier.features(one), features)
        spread[name] = float((one - other).square().mean().div(2).sqrt())
        print(f"{name:7} {distance[name]:.2f}, {psnr(one, stage.test[::4]).mean():.1f} dB, spread {spread[name]:.3f}")

# %%
chosen = [105, 155, 205, 355, 455]
with torch.no_grad():
    painted = [models[name](maps[chosen]) for name in ("noise", "both", "both")]
    columns = [stage.test[::2][chosen], models["codec"].decoder(maps[chosen]), *painted]
titles = ["held out", "first stage", "squared error", "critic, noise", "2nd sample", *[""] * 20]
viz.show(viz.images(torch.stack(columns, 1).flatten(0, 1), titles, columns=5, height=1.12))

# %% [markdown]
# The critic makes strokes sharper and costs PSNR. The noise does little: see the last two columns, and the spreads. A
# critic that judges one picture at a time asks for real pictures, not for different ones: no noise is needed.
#
# ## Play: what does the noise do?
#
# Turn it up beyond what the decoder was trained with. The last picture shows where 50 samples differ (white: much).


# %%
@torch.no_grad()
def samples(strength=1.0, digit=3):
    drawn = models["both"](maps[50 * digit + 5].expand(50, -1, -1, -1), strength * noise[:50]).clamp(0, 1)
    shown = torch.cat([drawn[:3], drawn.std(0, keepdim=True) * 4])
    return viz.show(viz.images(shown, ["sample 1", "sample 2", "sample 3", "spread, x 4"], height=1.3))


control = viz.slider(samples, strength=(0.0, 8.0, 0.5), digit=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
many, less = "FID 5.37 without, 3.90 with (both with a critic)", {"higher": False, "margin": 0.5, "tolerance": 0.2}
db = {"unit": "dB", "tolerance": 0.1}
measures = [
    papers.better("numbers in the mean, 16 bits", numbers[1], than=numbers[0], margin=0, higher=False, tolerance=0),
    papers.better("perplexity, groups or bits", two.even, than=bits.even, margin=25),
    papers.not_worse("perplexity, groups or LFQ", two.even, than=lfq.even, by=25),
    papers.better("PSNR, groups or bits", two.psnr, than=bits.psnr, margin=0.1, **db),
    papers.not_worse("PSNR, groups or LFQ", two.psnr, than=lfq.psnr, by=0.1, paper="a little ahead", **db),
    papers.better("Frechet, critic or not", distance["both"], than=distance["noise"], **less),
    papers.better("spread of a pixel, likewise", spread["both"], than=spread["noise"], margin=0.02, tolerance=0.005),
    papers.better("Frechet, noise or none", distance["both"], than=distance["critic"], paper=many, **less),
]

# %%
papers.verdict(
    "wetok",
    "Groups of bits serve as well as LFQ with far fewer numbers; a decoder with noise paints more real pictures.",
    measures,
    against="12 bits, 100 steps: LFQ, each bit alone; 1 bit, 600 steps: squared error with noise, critic without",
    data=stage.data,
)

# %% [markdown]
# Photographs, whose codes leave open the texture of fur, may ask more of the noise than digits do.
#
# ## Where it breaks: noise without a reason
#
# At the start nothing pulls: from weights of zero, a noise and its opposite ask for opposite changes, on average for
# none, whatever the loss.

# %%
start, critic = GenerativeDecoder(models["codec"].decoder, 8).requires_grad_(True), discriminator().eval()
for name, loss in {
    "error": lambda y: F.mse_loss(y, stage.test[::2]),
    "critic": lambda y: decoder_loss(critic(y)),
}.items():
    pulls = [
        torch.autograd.grad(loss(start(maps, sign * noise)), start.decoder[0].weight)[0][:, 1:] for sign in (1, -1)
    ]
    print(f"{name}: size of one {pulls[0].norm():.4f}, of the sum of both {sum(pulls).norm():.4f}")
    assert difference(pulls[0], -pulls[1]) < 1e-5

# %% [markdown]
# ## Exercises
#
# **1. Your own entropies.** Write `group_entropies` from the recipe: z (b, n, d) and the number of groups give `unsure`
# and `even`. The library's tests judge it. `lfq.entropies` is yours to use.


# %%
def my_entropies(z, groups, temperature=0.3):
    p = torch.sigmoid(4 * z.flatten(0, 1) / temperature)
    return unsure(p, groups), even(p, p.shape[1])  # replace this: it is blind within groups


def check_1(my_entropies):
    return papers.check("wetok.group_entropies", my_entropies)


check_1(my_entropies)

# %% [markdown]
# **2. The released code's mean.** It counts all groups into *one* list of $2^{d'}$ probabilities, as if groups were
# more vectors. Write the entropy of that mean, from coins p (n, d) and the number of groups. What does it miss?


# %%
def shared(p, g):
    return even(p, g) / g  # replace this: the mean of the groups' entropies


# %%
def check_2(shared):
    p = torch.sigmoid(3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))
    stuck = torch.tensor([[1.0, 0.0]]).expand(40, 2)
    if abs(float(shared(stuck, 2)) - 0.6931) > 1e-3:
        return "a bit that is always 1 and one that is always 0 look even in one list: log 2"
    if not float(shared(p, 2)) > float(even(p, 2)) / 2:
        return "one list for all groups is at least as even as each of them"
    return "right: groups that are stuck in different codes go unpunished"


check_2(shared)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/06_wetok.py`.
#
# ## What was left out
#
# The paper's networks for photographs (adaptive norms, a perceptual loss), its general-domain models at ratios from 24
# to 768, and a generator that predicts a vector's group codes one after the other.
# [TokenBridge](08_tokenbridge.ipynb) predicts in that way; [the overview](00_overview.ipynb) compares all quantizers.
