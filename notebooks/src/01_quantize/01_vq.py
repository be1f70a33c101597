# %% [markdown]
# # Vector quantization: a picture as a list of whole numbers
#
# **Paper:** van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017
# ([arXiv 1711.00937](https://arxiv.org/abs/1711.00937)), the VQ-VAE.
# **Code:** `minitok/quantize/vq.py`.
# **Read first:** nothing; this is the first lesson.
#
# You will build a layer that turns vectors into *codes*, whole numbers from 0 to K - 1, and that a network can be
# trained through. A token of an image is such a code, and most models that draw pictures in tokens stand on a layer
# like this one.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from minitok import papers, viz
from minitok.data import mnist, photographs
from minitok.metrics import codebook_use, psnr
from minitok.quantize.vq import VQ, nearest

# %% [markdown]
# ## The problem: rounding wastes codes
#
# Look at two neighbouring pixels of a gray photograph at a time: each pair is a point in a square. We may spend
# 4 bits on a pair, so there are $2^4 = 16$ codes to give away. The plain way is to round each pixel to 4 levels, which
# lays a grid of 4 x 4 points over the square: each point stands for one code.

# %%
photograph = photographs.load("astronaut").mean(0)
pairs = photograph[:, :512].reshape(-1, 2)
pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:4000]]
levels = (torch.arange(4) + 0.5) / 4
grid = torch.cartesian_prod(levels, levels)
print(f"{len(pairs)} pairs of pixels, {len(grid)} points on a grid")


# %%
def draw_codes(points, title):
    choice = nearest(pairs[None], points)[0]  # the number of the nearest point, for each pair
    figure, axes = viz.panel(title, "pixel", "its right neighbour", width=4.2, height=4)
    axes.scatter(*pairs[:1500].T, s=3, c=[viz.PALETTE[k % 6] for k in choice[:1500]], linewidths=0)
    axes.scatter(*points.detach().T, s=60, c="white", edgecolors=viz.TEXT, linewidths=1.5)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    return viz.show(figure)


draw_codes(grid, "A grid: most rings stand idle")

# %% [markdown]
# Each dot is a pair, each ring the point of a code. A dot takes the nearest ring, and dots of one ring share a colour
# (there are six colours, so they repeat). Neighbouring pixels are nearly equal: the pairs crowd along the diagonal, and
# the rings off the diagonal are paid for and hardly used.

# %%
rounded = nearest(pairs[None], grid)[0]
counts = rounded.bincount(minlength=16).sort(descending=True).values
grid_error = F.mse_loss(grid[rounded], pairs)
print(f"4 of the 16 codes hold {counts[:4].sum() / len(pairs):.0%} of the pairs")
print(f"mean squared error: {grid_error:.4f}")

# %% [markdown]
# ## The idea: let the points go where the data is
#
# Keep a table of K **code vectors** $e_0, \dots, e_{K-1}$ that are free to move, the **codebook**. A vector z is
# replaced by the nearest code vector; the number of that row, its *code*, is all that is stored. A pair still takes 4
# bits. What is left is to find good places.
#
# ## The mechanism, step by step
#
# **1. Choose.** The squared distance is $\|z - e\|^2 = \|z\|^2 - 2\, z \cdot e + \|e\|^2$. The first term is the same
# for all rows, so one matrix product decides. We start with the rows on 16 of the pairs, so that none is far away.

# %%
codebook = nn.Parameter(pairs[:16].clone())
z = pairs[None]  # one row of 4,000 vectors: (b, n, d) = (1, 4000, 2)
score = codebook.pow(2).sum(-1) - 2 * z @ codebook.T
codes = score.argmin(-1)
print("codes of five pairs:", codes[0, 100:105].tolist())

# %% [markdown]
# **2. Move the code vectors.** Pull each towards the vectors that chose it: minimise $\|\mathrm{sg}[z] - e_k\|^2$,
# where k is the code of z and sg, *stop gradient*, says that this term must not move z. (Here z is data and could not
# anyway.)

# %%
places = [codebook.detach().clone()]
optimizer = torch.optim.Adam([codebook], lr=0.01)
for _ in range(200):
    chosen = codebook[nearest(z, codebook)]
    loss = F.mse_loss(chosen, z.detach())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    places.append(codebook.detach().clone())
print(f"mean squared error: {loss:.4f}, with a grid of as many codes {grid_error:.4f}")
assert loss < grid_error / 2

# %%
draw_codes(codebook, "Learnt: the rings moved to the data")

# %% [markdown]
# A few rings stay with far-off dots: a squared error pays much for those.
#
# When you run this notebook, a slider below takes you through the 200 steps. (Sliders need a running kernel; a page
# that only shows the notebook leaves them out. `viz.ends` moves a slider to both ends, to see that it works.)

# %%
control = viz.slider(lambda step=0: draw_codes(places[step], f"After {step} steps"), step=(0, 200, 10))
viz.ends(control)
control

# %% [markdown]
# **3. The encoder must learn too.** In a network z is not data: an encoder makes it from an image, and a decoder makes
# an image from the code vector. Training should tell the encoder how to change z. But a small change of z does not
# change the choice at all: the derivative is zero almost everywhere. To PyTorch, there is no path from the output to z:

# %%
z = pairs[None, :8].clone().requires_grad_()
z_q = codebook[nearest(z, codebook)]
(gradient,) = torch.autograd.grad(z_q.sum(), z, allow_unused=True)
print("gradient of z:", gradient)
assert gradient is None

# %% [markdown]
# **4. Straight through.** The way out is a small lie. Forward, use the code vector. Backward, behave as if z had been
# passed on unchanged: `z + (z_q - z).detach()` has the value of z_q and the gradient of z. The decoder says which way
# z_q should move, and we push z that way; if z moves far enough, it takes a better code.

# %%
passed = z + (z_q - z).detach()
(gradient,) = torch.autograd.grad((passed * torch.tensor([1.0, 2.0])).sum(), z)
print("gradient of the first vector:", gradient[0, 0].tolist())
torch.testing.assert_close(passed, z_q)

# %% [markdown]
# **5. Commit.** Nothing yet keeps z near its code vector: the encoder can run away faster than the codebook follows
# (the experiment below tries it). A third term holds it, with $\beta = 0.25$. The whole loss (equation 3) is
#
# $$\text{error of the image} + \|\mathrm{sg}[z] - e_k\|^2 + \beta\,\|z - \mathrm{sg}[e_k]\|^2 .$$
#
# We average over channels where the paper sums, so that the same $\beta$ serves any width.


# %%
def quantize(z, codebook, beta=0.25):
    codes = (codebook.pow(2).sum(-1) - 2 * z @ codebook.T).argmin(-1)
    z_q = codebook[codes]
    loss = F.mse_loss(z_q, z.detach()) + beta * F.mse_loss(z, z_q.detach())
    return z + (z_q - z).detach(), codes, loss


# %% [markdown]
# **What you built is what the library has.** `minitok.quantize.vq.VQ` holds the codebook and does these same steps,
# with checks of its input. It returns values, codes and the loss; its codes have one more axis, for quantizers that
# give a vector several codes.

# %%
layer = VQ(d=2, K=16, commitment=0.25)
layer.codebook = codebook
library, built = layer(z), quantize(z, codebook)
torch.testing.assert_close(library.values, built[0])
assert torch.equal(library.codes[..., 0], built[1])
torch.testing.assert_close(library.loss, built[2])
torch.testing.assert_close(
    torch.autograd.grad(library.values.sum() + library.loss, z),
    torch.autograd.grad(built[0].sum() + built[2], z),
)
print(f"{layer.bits:g} bits a token; values, codes, loss and gradients agree")

# %% [markdown]
# ## The experiment: digits through a bottleneck of codes
#
# A small autoencoder turns a digit of 28 x 28 pixels into 7 x 7 vectors of 8 channels, and back. With K = 64 a code
# takes $\log_2 64 = 6$ bits, so a digit takes 49 x 6 = 294 bits. Four ways to train it, each for 600 steps on the
# same data:
#
# - **continuous:** no codes at all, for comparison;
# - **codes afterwards:** half of the steps without codes; then k-means, the classical way to place K points among
#   vectors, finds a codebook, and the decoder gets used to it for the other half;
# - **no commitment:** the layer above with $\beta = 0$;
# - **VQ:** the layer above.

# %%
K, train, test = 64, mnist.load("train").images, mnist.load("test").images


def autoencoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU()), *(nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()), nn.Conv2d(32, 8, 1)
    )
    decoder = nn.Sequential(
        *(nn.Conv2d(8, 32, 3, 1, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU()),
        nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )
    return encoder, decoder


# %%
def vectors(encoder, images):
    return encoder(images).flatten(2).transpose(1, 2)  # b 49 8


def picture(decoder, z):
    return decoder(z.transpose(1, 2).unflatten(2, (7, 7)))


# %% [markdown]
# One training step serves all four: the bottleneck between encoder and decoder is a function of z that returns what the
# decoder gets, and a loss of its own.


# %%
def fit(bottleneck, steps, encoder, decoder, codebook=()):
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *codebook], lr=1.2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images = train[torch.randint(len(train), (32,))]
        z_q, loss = bottleneck(vectors(encoder, images))
        loss = loss + F.mse_loss(picture(decoder, z_q), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


# %%
def with_codes(commitment):
    encoder, decoder = autoencoder()
    layer = VQ(d=8, K=K, commitment=commitment)
    layer.start_from(vectors(encoder, train[:200]))  # the codebook starts on K vectors of the data

    def bottleneck(z):
        values, _, loss = layer(z)
        return values, loss

    fit(bottleneck, 600, encoder, decoder, layer.parameters())
    return encoder, decoder, layer


trained = {"VQ": with_codes(0.25), "no commitment": with_codes(0.0)}

# %% [markdown]
# Now the two without the layer. The second is the baseline that the claim is measured against.

# %%
from sklearn.cluster import KMeans

encoder, decoder = autoencoder()
fit(lambda z: (z, 0), 600, encoder, decoder)
trained["continuous"] = (encoder, decoder, None)

encoder, decoder = autoencoder()
fit(lambda z: (z, 0), 300, encoder, decoder)
with torch.no_grad():
    seen = vectors(encoder, train[:400]).flatten(0, 1)
after = VQ(d=8, K=K)
after.codebook.data = torch.tensor(KMeans(K, n_init=1, random_state=0).fit(seen).cluster_centers_).float()
fit(lambda z: (after.decode(after.encode(z)).detach(), 0), 300, encoder, decoder)
trained["codes afterwards"] = (encoder, decoder, after)

# %% [markdown]
# Quality is measured on held-out digits as PSNR, $10 \log_{10}(1 / \text{mean squared error})$ in decibels: 3 dB more
# halve the error.

# %%
rebuilt, quality, use = {}, {}, {}
with torch.no_grad():
    for name, (encoder, decoder, layer) in trained.items():
        z = vectors(encoder, test)
        if layer is not None:
            use[name] = codebook_use(layer.encode(z), K)
            z = layer.decode(layer.encode(z))
        rebuilt[name] = picture(decoder, z).clamp(0, 1)
        quality[name] = float(psnr(rebuilt[name], test).mean())
print("codes in use:", ", ".join(f"{name} {share:.0%}" for name, share in use.items()))

# %%
order = ["continuous", "VQ", "codes afterwards", "no commitment"]
chosen = slice(210, None, 200)
columns = torch.stack([test[chosen], *(rebuilt[name][chosen] for name in order)])
titles = ["held out", *(f"{name}\n{quality[name]:.1f} dB" for name in order)]
titles += [""] * len(titles) * (columns.shape[1] - 1)
rows = columns.transpose(0, 1).flatten(0, 1)
viz.show(viz.images(rows, titles, columns=5, height=1.4))

# %%
bars = {
    "continuous, no limit of bits": quality["continuous"],
    "ours: VQ": quality["VQ"],
    "baseline: codes afterwards": quality["codes afterwards"],
    "no commitment": quality["no commitment"],
}
viz.show(viz.bars(bars, "Codes learnt with the network lose less", "PSNR on held-out digits (dB)"))

# %% [markdown]
# Codes that are learnt together with the encoder beat codes that are found for a finished one: the encoder has learnt
# to put its vectors where codes can follow. Without commitment it runs away, and hardly a code is left in use.
#
# ## Play: what lives in a code?
#
# Codes are exchangeable parts. Take the first *n* of the 49 codes from one digit and the rest from another: the decoder
# paints whatever they say.

# %%
encoder, decoder, layer = trained["VQ"]
with torch.no_grad():
    digits = layer.encode(vectors(encoder, test[::100]))  # the test digits are sorted: one of each kind


def mixture(n=24, first=2, second=7):
    mixed = torch.cat([digits[first, :n], digits[second, n:]])
    with torch.no_grad():
        shown = picture(decoder, layer.decode(torch.stack([digits[first], digits[second], mixed])))
    return viz.show(viz.images(shown, [f"a {first}", f"a {second}", f"{n} codes of the {first}"], height=1.5))


mixture()

# %%
control = viz.slider(mixture, n=(0, 49), first=(0, 9), second=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
gap = {"unit": "dB", "margin": 0.5}
claim = papers.verdict(
    "vq",
    "Codes learnt with the network, by a straight-through gradient, lose less than codes found afterwards.",
    [
        papers.better("PSNR", quality["VQ"], than=quality["codes afterwards"], **gap),
        papers.better("PSNR, no commitment", quality["VQ"], than=quality["no commitment"], **gap),
    ],
    against="300 steps without codes, k-means with K = 64, then 300 steps of the decoder alone",
    data="MNIST-5k: 4,000 digits to learn from, 1,000 held out",
)
assert claim.outcome == "holds"

# %% [markdown]
# The gap opens with training: after a few hundred steps it is within the noise of the seed. Try fewer steps above.
#
# The paper measures something else: how well images are predicted, in bits a dimension (lower is better). On CIFAR-10
# it reports 4.67 with codes and 4.51 with continuous variables, close to each other. Our continuous network has no
# limit of bits at all, so its lead is no contradiction.
#
# ## Where it breaks: dead codes
#
# A code vector that nobody chooses gets no gradient and does not move. Above we started the codebook on data. Here it
# starts from a random cloud around zero, of three widths, while the pairs lie between 0 and 1.


# %%
def survivors(width, steps=300):
    torch.manual_seed(0)
    layer = VQ(d=2, K=64)
    layer.codebook.data *= width / layer.codebook.std()
    first = codebook_use(layer.encode(pairs[None]), 64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(pairs[None]).loss.backward()
        optimizer.step()
    return first, codebook_use(layer.encode(pairs[None]), 64)


# %%
alive = {}
for width in (0.3, 0.7, 2.0):
    alive[f"cloud of width {width}, at first"], alive[f"cloud of width {width}, trained"] = survivors(width)
alive = {name: 100 * share for name, share in alive.items()}
viz.show(viz.bars(alive, "Codes that start far from the data stay dead", "codes in use (% of 64)"))

# %% [markdown]
# Training hardly changes how many codes are in use: who starts badly is lost. Much of the chapter is about this
# weakness: restarts, narrower code vectors, losses that reward an even use, quantizers without a learnt codebook
# (`fsq`, `lfq`).
#
# ## Exercises
#
# **1. Bits after counting.** A frequent code deserves a short name. How many bits a code does a coder need on average
# that knows how often each code occurs (and nothing of its neighbours)? Write a function of codes and K.


# %%
def entropy(codes, K):
    return torch.tensor(K).log2()  # replace this: the same length for all


def check_1(entropy):
    flat, skewed = torch.arange(8), torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    if abs(entropy(flat, 8) - 3) > 1e-4:
        return "eight equally frequent codes need 3 bits each"
    if abs(entropy(skewed, 8) - 1.75) > 1e-4:
        return "counts 4, 2, 1, 1 need 1.75 bits: frequent codes count more, absent ones nothing"
    return f"right: ten digits need {float(entropy(digits.flatten(), K)):.1f} bits a code, not 6"


check_1(entropy)

# %% [markdown]
# **2. Moving averages.** Appendix A.1 of the paper moves a code vector without gradients, to a running mean of the
# vectors that chose it: $N \leftarrow \gamma N + (1-\gamma)\,n$, $m \leftarrow \gamma m + (1-\gamma) \sum z$, $e = m
# / N$, where n vectors chose it. Write one step: vectors z (n, d), codes (n), N (K) and m (K, d) give the new N, m
# and codebook.


# %%
def moving_average(z, codes, N, m, gamma=0.99):
    return N, m, m / N[:, None]  # replace this: nothing moves


def check_2(step):
    z, codes = torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1])
    N, m, e = step(z, codes, torch.ones(3), torch.ones(3, 1), gamma=0.75)
    if not torch.allclose(N, torch.tensor([1.25, 1.0, 0.75])):
        return f"N should be [1.25, 1.0, 0.75]: a quarter of the way to counts 2, 1, 0, not {N.tolist()}"
    if not torch.allclose(m.flatten(), torch.tensor([2.25, 3.0, 0.75])):
        return f"m should be [2.25, 3.0, 0.75]: to sums 6, 9, 0, not {m.flatten().tolist()}"
    return "right; and a dead code keeps its place" if torch.allclose(e, m / N[:, None]) else "e is m / N"


check_2(moving_average)

# %% [markdown]
# **3. Revive the dead.** Put every code vector that nobody chose on a vector picked at random: z (n, d) and codebook
# (K, d) give a new codebook. `nearest(z[None], codebook)[0]` are the codes. The check runs it every 20 steps of the
# training that killed codes above.


# %%
def revive(z, codebook):
    return codebook  # replace this: the dead stay dead


# %%
def check_3(revive):
    torch.manual_seed(0)
    layer = VQ(d=2, K=64)
    for step in range(200):
        if step % 20 == 0:
            layer.codebook.data = revive(pairs, layer.codebook.data.clone())
            optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        optimizer.zero_grad()
        layer(pairs[None]).loss.backward()
        optimizer.step()
    share = codebook_use(layer.encode(pairs[None]), 64)
    return f"{'right' if share > 0.9 else 'not yet'}: {share:.0%} of the codes are in use"


check_3(revive)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/01_vq.py`.
#
# ## What was left out
#
# The paper trains a PixelCNN on the codes to draw new images (chapter 4 of the course does that with transformers), and
# also codes speech and video. Read on: **residual quantization** stacks several codebooks, **FSQ** and **LFQ** do
# without one, and the overview of the chapter ranks them all at equal bits.
