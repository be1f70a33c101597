# %% [markdown]
# # Quantization: the overview
#
# **Chapter 1.** How does a vector become one of a finite set of codes, and how can a network learn through that choice?
# **Code:** `minitok/quantize/`, one file a method; what they share is in `_common.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import functools
import json

import torch
from matplotlib.figure import Figure

from minitok import files, house, papers, stages, viz
from minitok.data import photographs
from minitok.metrics import difference, entropy_bits, parameters
from minitok.optimizers import Adam
from minitok.quantize import FSQ, LFQ, RVQ, VQ, Quantized, TokenBridge, nearest
from minitok.stages import quantize as league

# %% [markdown]
# ## The problem: real numbers have no alphabet
#
# A network turns a picture into vectors of real numbers. The course's image tokenizer makes 16 x 16 vectors of four
# numbers from 64 x 64 pixels. Three things would be good to do with them: *store* them in few bits; *predict* the next
# one as one predicts a letter, with a probability for each entry of a list; *compare* and count them. For each of these
# a vector should be one of a finite alphabet, but hardly two are equal.
#
# A **quantizer** replaces each vector by one of K values. The number of that value, from 0 to K - 1, is its **code**.

# %%
tokenizer, crops = house.load("tokenizer"), photographs.crops(31, 64)
with torch.no_grad():
    latents = tokenizer.latents(crops).flatten(0, 1)  # 31 pictures of 256 vectors, n 4
codes = tokenizer.encode(crops).flatten()
print(f"{len(latents):,} vectors of {32 * latents.shape[1]} bits, {len(latents.unique(dim=0)):,} different ones")
print(f"{len(codes):,} codes of {tokenizer.quantizer.bits:g} bits, {len(codes.unique()):,} different ones")
times = codes.bincount()
print(f"the most frequent code, {times.argmax()}, stands {times.max()} times")

# %% [markdown]
# With K codes a vector costs $\log_2 K$ **bits** if all codes are written equally long. If some are frequent, a coder
# writes those shorter. What it pays in the mean is at least the **entropy**, $-\sum_k p_k \log_2 p_k$ where code k has
# the share $p_k$; at most $\log_2 K$, and only if all are equally frequent. By hand: shares 1/2, 1/4, 1/8, 1/8 have
# 1/2 + 2/4 + 3/8 + 3/8 = 1.75 bits, where four codes written equally long take 2.

# %%
assert entropy_bits(torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]), 4) == 1.75
paid = entropy_bits(codes, tokenizer.quantizer.K)
print(f"{tokenizer.quantizer.bits:g} bits a code, entropy {paid:.1f} bits")
assert paid < tokenizer.quantizer.bits

# %% [markdown]
# ## The idea in one picture
#
# To *see* it we need vectors of two numbers: pairs of neighbouring pixels of a gray photograph, scaled to mean 0 and
# standard deviation 1. Five of the chapter's quantizers may spend 4 bits on a pair, which is 16 codes:
#
# - **vq**: a *codebook* of 16 learnt vectors; the nearest one is taken;
# - **rvq**: a codebook of 4, then another of 4 for what is left over;
# - **fsq**: a fixed grid, each number squashed and rounded to 4 levels;
# - **tokenbridge**: each number falls into one of 4 *bins*, placed for a normal distribution of its mean and spread;
# - **lfq**: only the sign of each number, 2 bits in all.

# %%
kinds = {
    "vq": lambda bits: VQ(d=2, K=2**bits),
    "rvq": lambda bits: RVQ(d=2, K=2 ** (bits // 2), stages=2),
    "fsq": lambda bits: FSQ((2 ** (bits // 2),) * 2),
    "tokenbridge": lambda bits: TokenBridge(d=2, levels=2 ** (bits // 2)),
    "lfq": lambda bits: LFQ(d=2),
}

# %%
pairs = photographs.load("astronaut").mean(0)[:, :512].reshape(-1, 2)
pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:4000]]
z = ((pairs - pairs.mean(0)) / pairs.std(0))[None]  # b n d: one row of 4,000 vectors of width 2
side, reach = 170, (-1.9, 2.7)
line = torch.linspace(*reach, side)
field = torch.cartesian_prod(line, line).flip(1)[None]  # every place of the plane, row by row from below
print(f"{z.shape[1]:,} pairs; correlation of the two pixels {float(z[0].T.corrcoef()[0, 1]):.2f}")

# %% [markdown]
# Those with a codebook learn it, by the loss that the quantizer itself returns; `fit_range` measures mean and spread.


# %%
def settled(kind, bits=4):
    quantizer = kinds[kind](bits)
    if kind == "tokenbridge":
        quantizer.fit_range(z, spread=3)
    if hasattr(quantizer, "start_from"):
        quantizer.start_from(z)
        optimizer = Adam(quantizer.parameters(), lr=0.02)
        for _ in range(120):
            optimizer.zero_grad()
            quantizer(z).loss.backward()
            optimizer.step()
    return quantizer


# %% [markdown]
# All vectors with one code are a **cell**. A decoder that gets the code can do no better than the mean of its cell, so
# what is lost is the distance of the vectors from that mean. We count it as a share of the variance.


# %%
def cells(quantizer, z):  # one number for all codes of a vector
    codes = quantizer.encode(z)[0]
    return (codes << 10 * torch.arange(codes.shape[1])).sum(-1)


@functools.cache
def told(kind, bits=4):
    quantizer = settled(kind, bits)
    names, cell, counts = cells(quantizer, z).unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(names), 2).index_add(0, cell, z[0]) / counts[:, None]
    lost = 100 * float((z[0] - means[cell]).square().mean() / z[0].var(0).mean())
    return quantizer, names, means, counts / counts.sum(), entropy_bits(cell, len(names)), lost


# %%
def draw(axes, kind, bits=4):
    quantizer, names, means, shares, paid, lost = told(kind, bits)
    of = cells(quantizer, field).view(side, side)
    shade = ((of[..., None] == names) * shares).sum(-1)
    shade[1:][of[1:] != of[:-1]] = torch.nan  # the borders, where the axes' gray shows through
    shade[:, 1:][of[:, 1:] != of[:, :-1]] = torch.nan
    axes.set_facecolor(viz.MUTED)
    axes.imshow(shade, "Oranges", vmin=0, vmax=0.8, extent=reach * 2, origin="lower", interpolation="nearest")
    axes.scatter(*z[0, :800].T, s=2, color=viz.OURS, linewidths=0)
    axes.scatter(*means.T, s=16, color="white", edgecolors=viz.TEXT, linewidths=1.2)
    axes.set_title(f"{kind}: {lost:.1f} % lost,\nentropy {paid:.1f} bits", size=10)


# %%
def panels(count, width, height, title, x, y, **options):
    with viz.style():
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        figure.supxlabel(x, size=10)
        figure.supylabel(y, size=10)
        return figure, figure.subplots(-(-count // 3), min(count, 3), squeeze=False, **options).flatten()


# %%
labels = "pixel (standard deviations from the mean)", "its right neighbour"
figure, axes = panels(
    6, 7.6, 5.8, "Four bits: the darker a cell, the more pairs it holds", *labels, sharex=True, sharey=True
)
axes[0].scatter(*z[0, :800].T, s=2, color=viz.OURS, linewidths=0)
axes[0].set(xlim=reach, ylim=reach, aspect="equal")
axes[0].set_title("the pairs", size=10)
for place, kind in zip(axes[1:], kinds, strict=True):
    draw(place, kind)
    place.grid(visible=False)
viz.show(figure)

# %% [markdown]
# A learnt codebook has its cells (with their means as rings) where the dots are. Two stages cut each of four coarse
# cells in the same pattern: 8 stored vectors in place of 16. Grid and bins store no vectors, but a few of their cells
# hold most pairs, so they lose more, and their entropy is far below 4 bits. In a network the *encoder* may move dots
# to the cells; a fixed grid counts on that. Play with the number of bits:


# %%
assert all(told(fixed)[-1] > 2 * told(learnt)[-1] for fixed in ("fsq", "tokenbridge") for learnt in ("vq", "rvq"))


def play(kind="rvq", bits=4):
    figure, axes = panels(1, 3.6, 4, f"{2 if kind == 'lfq' else bits} bits a pair", *labels)
    draw(axes[0], kind, bits)
    return figure


control = viz.slider(play, kind=list(kinds), bits=[2, 4, 6])
viz.ends(control)
control

# %% [markdown]
# ## The contract
#
# Each quantizer is a module that takes vectors (b, n, d), b rows of n:
#
# - `encode(z) -> codes` (b, n, g): whole numbers, g **groups** of them for a vector;
# - `decode(codes) -> values` (b, n, d): what the codes stand for;
# - `forward(z) -> (values, codes, loss)`: both, and a loss to add to the network's;
# - `bits`: what a vector costs when all codes are written equally long.
#
# Rounding has a derivative of zero, so `forward` returns `values.detach() + (z - z.detach())`: the quantized value with
# the gradient of z (**straight-through**; `fsq` does so with its squashed z). The same lines for all, at 12 bits:


# %%
def contract(quantizer):
    z = torch.randn(2, 49, quantizer.d, requires_grad=True)
    codes, (values, same, loss) = quantizer.encode(z), quantizer(z)
    assert difference(quantizer.decode(codes), values) == 0
    assert torch.equal(codes, same)
    assert 0 <= codes.min() <= codes.max() < 2 ** (quantizer.bits / codes.shape[-1])
    assert torch.autograd.grad(values.sum() + 0 * loss, z)[0].abs().sum(-1).min() > 0
    return f"{tuple(codes.shape)!s:12} {quantizer.bits:g}   {loss.item():5.2f}  {parameters(quantizer):6}"


torch.manual_seed(0)
print("             codes      bits  loss  learnt numbers")
print(*(f"{name:12} {contract(make())}" for name, make in league.QUANTIZERS.items()), sep="\n")

# %% [markdown]
# Only the width d differs. `wetok` is `lfq` with its bits in two groups.
#
# ## The league in small
#
# The chapter's **stage** is an autoencoder of digits, 28 x 28 pixels to 7 x 7 vectors and back, with the quantizer in
# its middle. `stage.measure(quantizer)` trains it and scores 1,000 held-out digits; lessons call it with 400 steps, the
# league with 2,000. Here all have 12 bits and 100 steps, at the league's learning rates. `lfq` comes twice, with the
# weights of its layer and with lighter ones. Quality is PSNR, $10 \log_{10}(1 / \text{mean squared error})$ in
# decibels: 3 dB more halve the error. *Perplexity*: so many equally frequent codes would be as hard to guess.

# %%
facts, whole = stages.load("quantize"), league.stage()
rates = {row["method"]: row["learning rate"] for row in facts["rows"] if row["data"] == "digits"}
stage = league.Stage(whole.learnt, whole.test, whole.data, steps=100)
tried = {"rvq": {}, "fsq": {}, "lfq": league.BINARY[0], "lfq, lighter": league.BINARY[1]}
small = {}
for name, weights in tried.items():
    method = name.split(",")[0]
    small[name] = stage.measure(league.QUANTIZERS[method](**weights), lr=rates[method])
print(stages.quantize.table(small))

# %% [markdown]
# A coder that writes group by group pays more than one that writes a vector's codes together:

# %%
codes = small["rvq"].model.codes(stage.test).flatten(0, 1)
apart = sum(entropy_bits(column, 64) for column in codes.unbind(1))
print(f"rvq: together {small['rvq'].entropy:.1f} bits, stage by stage {apart:.1f}")
assert small["rvq"].entropy < apart - 0.3
assert small["rvq"].psnr > small["lfq"].psnr + 1
assert small["lfq, lighter"].used > small["lfq"].used
chosen = stage.test[210::200]
rows = torch.stack([chosen, *(row.model.rebuild(chosen) for row in small.values())], 1).flatten(0, 1)
titles = ["held out", *(f"{name}\n{row.psnr:.1f} dB" for name, row in small.items())]
viz.show(viz.images(rows, titles + [""] * (len(rows) - 5), columns=5, height=1.12))

# %% [markdown]
# ## The league table
#
# Twenty times as many steps, all quantizers, and `none`, whose vectors of width 4 are not quantized (no bound for those
# that are wider); computed once by `minitok league quantize`, also for photographs of clothes.
# Each has the learning rate that was best on pictures held for that; figures are means over three seeds.

# %%
assert {row["bits"] for row in facts["rows"] if row["method"] in league.QUANTIZERS} == {12}
scores = {name: unit for name, unit in facts["scores"].items() if name != "bits"}
plain = [{key: value for key, value in row.items() if key != "weights"} for row in facts["rows"]]  # more on them below
for data in league.DATA:
    print(data, stages.table(facts | {"scores": scores, "rows": plain}, data=data), sep="\n", end="\n\n")
print("device:", facts["made"]["device"])

# %% [markdown]
# No seed lies further from the mean than two thirds of the spread. So let us call a lead *clear* only if all seeds of
# one must be above all of the other:


# %%
def rows_of(data):
    return {row["method"]: row for row in facts["rows"] if row["data"] == data}


def clear(above, below):
    return above["PSNR"] - below["PSNR"] > 2 / 3 * (above["spread of 3 seeds"] + below["spread of 3 seeds"])


for data in league.DATA:
    for name, row in rows_of(data).items():
        beaten = [other for other, below in rows_of(data).items() if clear(row, below)]
        print(f"{data:12}{name:12}clearly above: {', '.join(beaten) or '-'}")

# %%
digits, photos = (rows_of(data) for data in league.DATA)
for rows in (digits, photos):
    assert max(league.QUANTIZERS, key=lambda name, rows=rows: rows[name]["PSNR"]) == "rvq"
    assert clear(rows["rvq"], rows["vq"])
    assert not clear(rows["vq"], rows["fsq"])
    assert not clear(rows["fsq"], rows["vq"])
    for name in ("vq", "fsq", "tokenbridge"):
        assert min(rows[name]["PSNR"] - rows[binary]["PSNR"] for binary in ("lfq", "wetok")) > 0
assert not clear(digits["none"], digits["rvq"])
assert 1.5 < digits["none"]["spread of 3 seeds"] < 2.5
assert not clear(digits["rvq"], digits["fsq"])
assert not clear(digits["tokenbridge"], digits["lfq"])

# %% [markdown]
# - **Residual** quantization leads on both data sets, clearly over one codebook.
# - **Learnt or fixed:** between `vq` and `fsq` nothing is clear, though `fsq` learns not one number.
# - **Afterwards:** `tokenbridge` comes when the network is trained. At 3 bits a channel that costs much.
# - The **binary** ones, `lfq` and `wetok`, are last, though on digits not clearly behind `tokenbridge`.
# - The unquantized autoencoder of digits varies by 2 dB from seed to seed. Do not read small differences.
#
# ## The trade: error against what a coder pays

# %%
labels = "entropy (bits a vector)", "PSNR (dB)"
figure, axes = panels(2, 7.6, 3.8, "What a coder pays does not tell the error", *labels, sharey=True)
for place, (data, rows) in zip(axes, (("digits", digits), ("photographs", photos)), strict=True):
    place.axhline(rows["none"]["PSNR"], color=viz.MUTED, linestyle="--")
    for name in league.QUANTIZERS:
        x, y, off = (rows[name][key] for key in ("entropy", "PSNR", "spread of 3 seeds"))
        place.errorbar(x, y, 2 / 3 * off, fmt="o", color=viz.BASELINE if name in ("lfq", "wetok") else viz.OURS)
        shift = {"ha": "right", "xytext": (-8, 0)} if name in ("vq", "rvq", "lfq") else {"ha": "left", "xytext": (8, 0)}
        place.annotate(name, (x, y), textcoords="offset points", va="center", **shift)
    place.set_xlim(5, 12.2)
    place.set_title(f"{data} (dashed: not quantized)", size=10)
viz.show(figure)

# %% [markdown]
# Bars hold all three seeds. **Entropy is not quality:** `lfq` has the most of it, and a far larger error than `vq`,
# which has the least. **Equal bits are not equal cost:** the lead of `rvq` is worth less to who pays by entropy.

# %%
for data, rows in (("digits", digits), ("photographs", photos)):
    more = {key: rows["rvq"][key] - rows["vq"][key] for key in ("PSNR", "entropy")}
    print(f"{data}: rvq has {more['PSNR']:.1f} dB more than vq and pays {more['entropy']:.1f} bits more")
    assert more["entropy"] > 1
    assert rows["lfq"]["entropy"] > rows["vq"]["entropy"] + 1
    assert clear(rows["vq"], rows["lfq"])
print("\nphotographs: many codes in use are not a small error either")
for name in sorted(league.QUANTIZERS, key=lambda name: -photos[name]["codes in use"]):
    share, decibels = photos[name]["codes in use"], photos[name]["PSNR"]
    print(f"{name:12} {share / 100 * 4096:4.0f} of 4096 codes in use; {decibels:.1f} dB")
assert photos["lfq"]["codes in use"] > 90 > 30 > photos["vq"]["codes in use"]

# %% [markdown]
# **What the binary ones need.** How often is each of the 12 signs positive on held-out digits, in the small league?

# %%
for name in ("lfq", "lfq, lighter"):
    with torch.no_grad():
        share = (small[name].model.vectors(stage.test) > 0).float().mean((0, 1))
    stuck = int(((share < 0.001) | (share > 0.999)).sum())
    print(f"{name:12} {stuck} stuck; positive (%):", *(f"{100 * one:3.0f}" for one in share))
assert all(rows_of(data)[name]["weights"] == "0.03, 0.01" for data in league.DATA for name in ("lfq", "wetok"))

# %% [markdown]
# Some signs are **stuck**, the same for all vectors, unless the weights of the loss are small beside the squared error
# of these pictures. The league took the lighter ones, and they are last all the same: a sign needs a channel of its own
# and says no more than plus or minus 1. The papers have $2^{18}$ codes and more, where a table would be costly.
#
# ## Encoding, and what a fast path is
#
# Codebooks must be searched. K distances for each of n vectors are a table of n x K numbers (17 GB for 262,144 vectors
# and 16,384 codes). It need not exist: walk through the codebook in blocks, and keep the best code so far.


# %%
def blockwise(z, codebook, size=256):
    best, code = torch.full(z.shape[:2], torch.inf), torch.zeros(z.shape[:2], dtype=torch.long)
    for start in range(0, len(codebook), size):
        block = codebook[start : start + size]
        score, place = (block.pow(2).sum(-1) - 2 * z @ block.T).min(-1)
        best, code = torch.where(score < best, score, best), torch.where(score < best, start + place, code)
    return code


some, codebook = torch.randn(1, 500, 8), torch.randn(4096, 8)
assert (blockwise(some, codebook) == nearest(some, codebook)).float().mean() > 0.99  # rounding decides near ties

# %% [markdown]
# On a GPU this pays when a block's scores never leave the chip. `vq_triton.nearest` is such a **fast path**: a kernel
# with the signature of `vq.nearest`. You choose it by importing it; nothing switches silently. `minitok bench
# --kernels` measures it beside the best of torch's own functions and a public package. The floor is the time of the
# multiplications alone. Quantizers without a codebook need not search, as the league's last column says.

# %%
shipped = json.loads(files.shipped("bench", "kernels.json").read_text(encoding="utf-8"))
case = shipped["cases"][0]
print(case["work"], *(f"{row['who']:30} right in {100 * row['agreement']:.2f} %" for row in case["rows"]), sep="\n")
bars = {row["who"]: row["milliseconds"] for row in case["rows"]} | {"floor": case["floor in milliseconds"]}
ours, *others = bars[case["ours"]], *(bars[row["who"]] for row in case["rows"] if row["who"] != case["ours"])
assert 5 * ours < min(others)
title = f"Without the table the nearest code comes {min(others) / ours:.0f} times sooner"
viz.show(viz.bars(bars, title, f"milliseconds on one {shipped['device']}"))

# %% [markdown]
# ## The way through the chapter
#
# - [Vector quantization](01_vq.ipynb): how does a network learn a codebook, and why do codes die? Begin here.
# - [Residual quantization](02_rvq.ipynb): how do many bits come from small codebooks, and one model serve all rates?
# - [FSQ](03_fsq.ipynb): can one round, and learn no codebook at all?
# - [LFQ](04_lfq.ipynb): what if each channel is one bit, and a loss asks for all codes?
# - [WeTok](06_wetok.ipynb), after LFQ: what if there are too many bits for that loss?
# - [TokenBridge](08_tokenbridge.ipynb), after FSQ: can a finished autoencoder get codes, and how does one predict them?

# %%
for paper in papers.rows("quantize"):
    if papers.status(paper.slug) == "working":
        print(f"{paper.slug:12} {papers.recorded_verdict(paper.slug).outcome}")

# %% [markdown]
# ## Your own method
#
# A quantizer of yours needs three functions and two numbers. This one clamps three channels and rounds each to 16
# levels: `fsq` without its squash. Change it: the contract must hold, then the stage gives its row.


# %%
class Mine(torch.nn.Module):
    d, bits = 3, 12.0
    encode = staticmethod(lambda z: ((z.clamp(-2, 2) + 2) / 4 * 15).round().long())
    decode = staticmethod(lambda codes: codes / 15 * 4 - 2)

    def forward(self, z):
        codes = self.encode(z)
        return Quantized(self.decode(codes) + (z - z.detach()), codes, z.new_zeros(()))


print("mine        ", contract(Mine()), "\n")
print(stages.quantize.table({"mine": stage.measure(Mine(), lr=4e-3)} | small))

# %% [markdown]
# ## What to take home
#
# - A quantizer is three functions; whichever you take, the rest of the network does not change, but for the width d.
# - Begin with `fsq`: nothing to learn, nothing to search; but train more than one seed. Where all codes are written
#   equally long and bits are short, take `rvq`. A single large codebook is the dearest to search and mostly idle.
# - Ask of a table: are bits equal, or what a coder pays? How far do seeds differ? Who chose which setting for whom?
