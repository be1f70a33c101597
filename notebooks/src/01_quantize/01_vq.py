# %% [markdown]
# # Vector quantization: a picture as a list of whole numbers
#
# **Paper:** van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017
# ([arXiv 1711.00937](https://arxiv.org/abs/1711.00937)), the VQ-VAE.
# **Code:** `minitok/quantize/vq.py`.
# **Read first:** nothing; this is the first lesson.
#
# After this lesson you can turn vectors into *codes*, whole numbers from 0 to K - 1, by hand and in a layer that a
# network is trained through. A token of an image is such a code.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from minitok import papers, stages, viz
from minitok.data import photographs
from minitok.metrics import codebook_use, difference
from minitok.optimizers import Adam
from minitok.quantize import VQ, nearest

# %% [markdown]
# ## The problem: rounding wastes codes
#
# Look at two neighbouring pixels of a gray photograph at a time: each pair is a point in a square. We may spend 4 bits
# on a pair, so there are $2^4 = 16$ codes to give away. The plain way is to round each pixel to 4 levels, which lays a
# grid of 4 x 4 points over the square.

# %%
photograph = photographs.load("astronaut").mean(0)
pairs = photograph[:, :512].reshape(-1, 2)
pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:4000]]
levels = (torch.arange(4) + 0.5) / 4
grid = torch.cartesian_prod(levels, levels)
counts = nearest(pairs[None], grid)[0].bincount(minlength=16).sort(descending=True).values
print(f"4 of the 16 codes hold {counts[:4].sum() / len(pairs):.0%} of the {len(pairs)} pairs")


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
# (there are six colours, so they repeat). Neighbouring pixels are nearly equal: the rings off the diagonal are paid for
# and hardly used.
#
# The idea: let the points go where the data is. Keep a table of K **code vectors** that are free to move, the
# **codebook**. A vector is replaced by the nearest code vector; the number of that row is all that is stored.
#
# ## By hand: four vectors, four codes
#
# | code k | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | code vector $e_k$ | (0, 0) | (4, 0) | (0, 4) | (9, 9) |

# %%
# one row of four vectors of width 2: (b, n, d) = (1, 4, 2)
z = torch.tensor([[[1.0, 1.0], [2.0, 0.0], [3.0, 1.0], [0.0, 3.0]]], requires_grad=True)
codebook = nn.Parameter(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]]))

# %% [markdown]
# **Choose.** The squared distance is $|z - e|^2 = |z|^2 - 2\, z \cdot e + |e|^2$. The first term is the same for all
# codes, so the score $|e|^2 - 2\, z \cdot e$ decides. For z = (1, 1) the scores are 0, 16 - 8 = 8, 16 - 8 = 8 and
# 162 - 36 = 126: code 0. For (2, 0) codes 0 and 1 both score 0: of equally near ones the lower number wins. Then (3, 1)
# takes code 1 and (0, 3) code 2. The codes are 0, 0, 1, 2.

# %%
score = codebook.pow(2).sum(-1) - 2 * z @ codebook.T
print(score[0].int().tolist(), "codes", score.argmin(-1).tolist())
assert score.argmin(-1).tolist() == nearest(z, codebook).tolist() == [[0, 0, 1, 2]]

# %% [markdown]
# **Move the codes.** The first loss pulls each code vector to the vectors that chose it: the mean over all 8 numbers of
# $(e_k - z)^2$. The squared distances are 2, 4, 2, 1, so the loss is 9 / 8 = 1.125. Its gradient at $e_0$ is 2 / 8
# times the sum of $e_0 - z$ over (1, 1) and (2, 0), which is (-3, -1) / 4. With a step of 1, $e_0$ goes to
# (0.75, 0.25), $e_1$ to (3.75, 0.25), $e_2$ to (0, 3.75). Nobody chose $e_3$: it stays for ever.

# %%
z_q = codebook[nearest(z, codebook)]
loss = F.mse_loss(z_q, z.detach())  # detach: this term must not move z
(gradient,) = torch.autograd.grad(loss, codebook)
print(f"loss {loss:.3f}; after a step of 1:", (codebook - gradient).tolist())
assert (codebook - gradient).tolist() == [[0.75, 0.25], [3.75, 0.25], [0, 3.75], [9, 9]]

# %% [markdown]
# **Hold the vectors.** The second loss is the same distance, but now z moves and the codes are held; it counts with
# $\beta = 0.25$. Both together: 1.125 x 1.25 = 1.406. Its gradient at z = (1, 1) is 0.25 x 2 / 8 x (1, 1) = (0.0625,
# 0.0625).
#
# **Straight through.** A decoder reads $z_q$ and sends a gradient back, say (1, 2) for each vector. It cannot reach z:
# a small change of z does not change the choice. So we pretend that z went through unchanged, and z gets (1, 2) too.

# %%
layer = VQ(d=2, K=4, commitment=0.25)
layer.codebook = codebook
values, codes, loss = layer(z)
(held,) = torch.autograd.grad(loss, z, retain_graph=True)
(passed,) = torch.autograd.grad((values * torch.tensor([1.0, 2.0])).sum(), z)
print(f"loss {loss:.3f}; gradients at (1, 1): {held[0, 0].tolist()} and {passed[0, 0].tolist()}")
assert difference(loss, torch.tensor(1.40625)) < 1e-6
assert (held[0, 0].tolist(), passed[0, 0].tolist()) == ([0.0625, 0.0625], [1, 2])

# %% [markdown]
# ## The mechanism on real vectors
#
# **1. Choose and move**, 200 times, on the pairs of pixels. The codebook starts on 16 of the pairs: a code that starts
# far from all data would be nobody's nearest, and never move.

# %%
rings, z = nn.Parameter(pairs[:16].clone()), pairs[None]
places, optimizer = [], Adam([rings], lr=0.01)
for _ in range(201):
    places.append(rings.detach().clone())
    optimizer.zero_grad()
    loss = F.mse_loss(rings[nearest(z, rings)], z)
    loss.backward()
    optimizer.step()
grid_error = F.mse_loss(grid[nearest(z, grid)], z)
print(f"mean squared error: {loss:.4f}, with a grid of as many codes {grid_error:.4f}")
assert loss < grid_error / 2

# %%
control = viz.slider(lambda step=200: draw_codes(places[step], f"After {step} steps"), step=(0, 200, 10))
draw_codes(places[-1], "Learnt: the rings moved to the data")

# %% [markdown]
# (A slider needs a running kernel; a page that only shows the notebook leaves it out. `viz.ends` moves it to both ends,
# to see that it works.)

# %%
viz.ends(control)
control

# %% [markdown]
# **2. Straight through in code.** To PyTorch there is no path from the choice back to z. The line below has the value
# of $z_q$ and the gradient of z. It is often written `z + (z_q - z).detach()`, which rounds: where z is large, that sum
# is not $z_q$ any more. Softening the choice instead (a weighted mean of codes) would give true gradients, and values
# that no code stands for.


# %%
def quantize(z, codebook, beta=0.25):
    codes = (codebook.pow(2).sum(-1) - 2 * z @ codebook.T).argmin(-1)
    z_q = codebook[codes]
    loss = F.mse_loss(z_q, z.detach()) + beta * F.mse_loss(z, z_q.detach())
    return z_q.detach() + (z - z.detach()), codes, loss


big, near = torch.tensor([30_000.0]), torch.tensor([0.1])
print("0.1 comes out as", [float(line) for line in (big + (near - big), near + (big - big))])

# %% [markdown]
# What you built is what the library has, with gradients. `VQ` takes the mean of the codes off both sides before the
# product: distances stay, and data far from zero keep their digits. Its codes have one more axis, for quantizers that
# give a vector several codes.

# %%
z = pairs[None, :500].clone().requires_grad_()
layer = VQ(d=2, K=16, commitment=0.25)
layer.codebook = rings
library, built = layer(z), quantize(z, rings)
assert torch.equal(library.codes[..., 0], built[1])
assert difference(library.values, built[0]) == 0
assert difference(library.loss, built[2]) < 1e-7
ours, theirs = (torch.autograd.grad(v.square().sum() + part, z)[0] for v, _, part in (built, library))
assert difference(ours, theirs) < 1e-6
print(f"{layer.bits:g} bits a token; values, codes, loss and gradients agree")

# %% [markdown]
# ## The recipe
#
# 1. An encoder gives n vectors z of width d; the codebook e has K rows of width d, $\log_2 K$ bits a code.
# 2. Start the rows on K different vectors of the first batches.
# 3. Code of z: $k = \operatorname{argmin}_j |z - e_j|^2$, of equal ones the lowest, in float32.
# 4. $z_q = e_k$. The decoder gets the value of $z_q$ with the gradient of z.
# 5. Loss: the decoder's error $+\; |\mathrm{sg}[z] - e_k|^2 + \beta\, |z - \mathrm{sg}[e_k]|^2$, where sg stops the
#    gradient; $\beta = 0.25$.
# 6. Train encoder, codebook and decoder together. Rows that nobody chooses get no gradient.
# 7. Store k; decode by looking up row k.
# 8. Cost: n K d multiply-adds for the distances, K d numbers for the table.
#
# | | paper | here |
# |---|---|---|
# | the two losses | sums over channels | means over numbers |
# | start of the codebook | not told | vectors of the data |
# | other way to learn it | running means (appendix A.1) | exercise 2 |
#
# ## The experiment: digits through a bottleneck of codes
#
# The chapter's stage: a small autoencoder turns a digit of 28 x 28 pixels into 7 x 7 vectors of 8 channels, and back.
# With K = 64 a digit takes 49 x 6 = 294 bits. `stage.measure` trains it for 400 steps with the quantizer in its middle
# and scores 1,000 held-out digits by PSNR, $10 \log_{10} (1 / \text{mean squared error})$ in decibels: 3 dB more halve
# the error. The controls have been trained in the same way and are shipped:
#
# - **none:** no codes at all, so no limit of bits;
# - **codes afterwards:** 200 steps without codes, then k-means, the classical way to place K points among vectors, and
#   200 steps in which the decoder gets used to its codes.

# %%
stage = stages.quantize.stage()
rows = {
    "none": stage.control("none"),
    "VQ": stage.measure(VQ(d=8, K=64)),
    "codes afterwards": stage.control("kmeans64"),
    "no commitment": stage.measure(VQ(d=8, K=64, commitment=0.0)),
}
print(stages.quantize.table(rows))

# %% [markdown]
# (*Perplexity* is how many equally frequent codes would be as hard to guess.)

# %%
chosen = stage.test[210::200]
columns = torch.stack([chosen, *(row.model.rebuild(chosen) for row in rows.values())], 1).flatten(0, 1)
titles = ["held out", *(f"{name}\n{row.psnr:.1f} dB" for name, row in rows.items())]
viz.show(viz.images(columns, titles + [""] * (len(columns) - 5), columns=5, height=1.3))

# %% [markdown]
# Codes that are learnt together with the encoder beat codes that are found for a finished one: the encoder learns to
# put its vectors where codes can follow. Without commitment it runs away from its codes, and hardly one is left in use.
#
# ## Play: what lives in a code?
#
# Codes are exchangeable parts. Take the first *n* of the 49 codes from one digit and the rest from another: the decoder
# paints whatever they say.

# %%
model = rows["VQ"].model
digits = model.codes(stage.test[::100])  # the test digits are sorted: one of each kind


def mixture(n=24, first=2, second=7):
    mixed = torch.cat([digits[first, :n], digits[second, n:]])
    with torch.no_grad():
        shown = model.picture(model.quantizer.decode(torch.stack([digits[first], digits[second], mixed])))
    return viz.show(viz.images(shown, [f"a {first}", f"a {second}", f"{n} codes of the {first}"], height=1.5))


mixture()

# %%
control = viz.slider(mixture, n=(0, 49), first=(0, 9), second=(0, 9))
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
ours = rows["VQ"]
measures = [
    papers.better(name, ours.psnr, than=rows[other].psnr, unit="dB", margin=0.5, tolerance=0.3)
    for name, other in {"PSNR, codes afterwards": "codes afterwards", "PSNR, no commitment": "no commitment"}.items()
]
measures.append(
    papers.better("codes used, no commitment", ours.used, than=rows["no commitment"].used, unit="%", margin=20)
)

# %%
papers.verdict(
    "vq",
    "Codes learnt with the network, by a straight-through gradient, lose less than codes found afterwards.",
    measures,
    against="200 steps without codes, k-means with K = 64, 200 of the decoder; and VQ with beta = 0; all 400 steps",
    data=stage.data,
)

# %% [markdown]
# The paper measures something else: how well images are predicted, in bits a dimension (lower is better). On CIFAR-10
# it reports 4.67 with codes and 4.51 with continuous variables, close to each other.
#
# ## Where it breaks: dead codes
#
# A code vector that nobody chooses does not move. Here the codebook starts from a random cloud around zero, of three
# widths, while the pairs lie between 0 and 1.


# %%
def survivors(width, steps=150):
    torch.manual_seed(0)
    layer = VQ(d=2, K=64)
    layer.codebook.data *= width / layer.codebook.std()
    optimizer = Adam(layer.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(pairs[None, :2000]).loss.backward()
        optimizer.step()
    return 100 * codebook_use(layer.encode(pairs[None]), 64)


# %%
alive = {f"cloud of width {width}": survivors(width) for width in (0.3, 0.7, 2.0)}
viz.show(viz.bars(alive, "Codes that start far from the data stay dead", "codes in use after 150 steps (% of 64)"))

# %% [markdown]
# Much of the chapter is about this weakness: restarts, narrower code vectors, losses that reward an even use,
# quantizers without a learnt codebook ([FSQ](03_fsq.ipynb), [LFQ](04_lfq.ipynb)).
#
# ## Exercises
#
# **1. Your own nearest codes.** Write `nearest` from the recipe: z (b, n, d) and a codebook (K, d) give codes (b, n).
# The library's tests judge it: ties, and data far from zero, where the score of step 3 runs out of digits.


# %%
def my_nearest(z, codebook):
    return (codebook.pow(2).sum(-1) - 2 * z @ codebook.T).argmin(-1)  # replace this: far from zero it is wrong


# %%
def check_1(my_nearest):
    return papers.check("vq.nearest", my_nearest)


check_1(my_nearest)

# %% [markdown]
# **2. Moving averages.** Appendix A.1 of the paper moves a code vector without gradients, to a running mean of the
# vectors that chose it: $N \leftarrow \gamma N + (1-\gamma)\,n$, $m \leftarrow \gamma m + (1-\gamma) \sum z$, $e = m
# / N$, where n vectors chose it. Write one step: vectors z (n, d), codes (n), N (K) and m (K, d) give the new N, m
# and codebook.


# %%
def moving_average(z, codes, N, m, gamma=0.99):
    return N, m, m / N[:, None]  # replace this: nothing moves


# %%
def check_2(moving_average):
    z, codes = torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1])
    N, m, e = moving_average(z, codes, torch.ones(3), torch.ones(3, 1), gamma=0.75)
    if not torch.allclose(N, torch.tensor([1.25, 1.0, 0.75])):
        return f"N should be [1.25, 1.0, 0.75]: a quarter of the way to counts 2, 1, 0, not {N.tolist()}"
    if not torch.allclose(m.flatten(), torch.tensor([2.25, 3.0, 0.75])):
        return f"m should be [2.25, 3.0, 0.75]: to sums 6, 9, 0, not {m.flatten().tolist()}"
    return "right; and a dead code keeps its place" if torch.allclose(e, m / N[:, None]) else "e is m / N"


check_2(moving_average)

# %% [markdown]
# Solutions: `notebooks/src/solutions/01_quantize/01_vq.py`.
#
# ## What was left out
#
# The paper trains a PixelCNN on the codes to draw new images (chapter 4 of the course does that with transformers), and
# also codes speech and video. Read on: [residual quantization](02_rvq.ipynb) stacks several codebooks,
# [FSQ](03_fsq.ipynb) and [LFQ](04_lfq.ipynb) do without one, and [the overview](00_overview.ipynb) ranks them all at
# equal bits.
