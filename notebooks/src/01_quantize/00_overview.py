# %% [markdown]
# # Quantization: the overview
#
# **Chapter 1.** How does a vector become one of a finite set of codes, and how can a network learn through that choice?
# **Code:** `minitok/quantize/`, one file a method; what they share is in `_common.py`.
# **Read first:** nothing. Each method has a lesson of its own; this page sets them side by side.

# %%
import functools
import inspect
import json
import textwrap

import torch
from matplotlib.figure import Figure

from minitok import files, house, papers, stages, viz
from minitok.course import kernels
from minitok.data import photographs
from minitok.metrics import entropy_bits, parameters
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
# the share $p_k$; at most $\log_2 K$, and only if all are equally frequent.

# %%
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
from minitok.quantize.fsq import FSQ
from minitok.quantize.lfq import LFQ
from minitok.quantize.rvq import RVQ
from minitok.quantize.tokenbridge import TokenBridge
from minitok.quantize.vq import VQ, nearest

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
@functools.cache
def settled(kind, bits=4):
    torch.manual_seed(0)
    quantizer = kinds[kind](bits)
    if hasattr(quantizer, "fit_range"):
        quantizer.fit_range(z, spread=3)
    if hasattr(quantizer, "start_from"):
        quantizer.start_from(z)
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
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
    names, cell, counts = cells(settled(kind, bits), z).unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(names), 2).index_add(0, cell, z[0]) / counts[:, None]
    lost = 100 * float((z[0] - means[cell]).square().mean() / z[0].var(0).mean())
    return names, means, counts / counts.sum(), entropy_bits(cell, len(names)), lost


# %%
def draw(axes, kind, bits=4):
    names, means, shares, paid, lost = told(kind, bits)
    of = cells(settled(kind, bits), field).view(side, side)
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

# %%
paid, lost = ({kind: told(kind)[i] for kind in kinds} for i in (3, 4))
for fixed in ("fsq", "tokenbridge"):
    for learnt in ("vq", "rvq"):
        assert paid[fixed] < paid[learnt] - 0.5
        assert lost[fixed] > 2 * lost[learnt]

# %% [markdown]
# A learnt codebook has its cells (with their means as rings) where the dots are. Two stages cut each of four coarse
# cells in the same pattern: 8 stored vectors in place of 16. Grid and bins store no vectors, but a few of their cells
# hold most pairs, since the two numbers of a pair are nearly equal; so they lose more, and their entropy is far below 4
# bits. Signs have two bits in all.
#
# In a network the *encoder* may move the dots to the cells; a fixed grid counts on that. Play with the number of bits:


# %%
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
# Rounding has a derivative of zero. So that one can learn through it, `forward` returns
# `z + (values - z).detach()`: the quantized value with the gradient of z (**straight-through**; `fsq` does so with its
# squashed z). A loss that subtracts an entropy may be negative. The same lines for all, at 12 bits:


# %%
torch.manual_seed(0)
print("             z               codes       bits  loss  learnt numbers")
for name, make in league.QUANTIZERS.items():
    quantizer = make()
    some = torch.randn(2, 49, quantizer.d, requires_grad=True)
    codes = quantizer.encode(some)
    values, same, loss = quantizer(some)
    torch.testing.assert_close(quantizer.decode(codes), values)
    assert torch.equal(codes, same)
    (gradient,) = torch.autograd.grad(values.sum(), some)
    assert gradient.min() > 0 if name == "fsq" else torch.equal(gradient, torch.ones_like(gradient))
    shapes = f"{tuple(some.shape)!s:13}-> {tuple(codes.shape)}"
    print(f"{name:12} {shapes}  {quantizer.bits:g}   {loss.item():5.2f}  {parameters(quantizer):6}")

# %% [markdown]
# Only the width d differs. `wetok` is `lfq` with its bits in two groups.
#
# ## The league in small
#
# An autoencoder of digits, 28 x 28 pixels to 7 x 7 vectors and back, with a quantizer of 12 bits in its middle. Each
# trains for 200 steps at the learning rate that the league chose. `lfq` has a loss with two weights, and comes twice:
# with those of lesson 4 and with the lighter ones that the league chose. Quality is the PSNR on held-out digits, $10
# \log_{10}(1 / \text{mean squared error})$ in decibels (dB): 3 dB more halve the error. Use and entropy are of a
# vector's codes together; a coder that writes group by group pays the last number.

# %%
facts = stages.load("quantize")
rates = {row["method"]: row["learning rate"] for row in facts["rows"] if row["data"] == "digits"}
learnt, _, test = league.sets("digits", torch.device("cpu"))
tried = {"rvq": {}, "fsq": {}, "lfq": league.BINARY[0], "lfq, lighter": league.BINARY[1]}
small = {}
for name, weights in tried.items():
    method = name.split(",")[0]
    small[name] = league.trained(league.Setting("digits", method, 200, weights, rates[method]), learnt, seed=0)

# %%
quality, use = {}, {}
for name, model in small.items():
    quality[name], found = league.quality(model, test), league.statistics(model, test)
    apart = sum(entropy_bits(column, 4096) for column in model.codes(test).flatten(0, 1).unbind(1))
    use[name], together = found["codes in use"], found["entropy"]
    print(f"{name:12} {quality[name]:.1f} dB, {use[name]:3.0f} % of the codes used,", end=" ")
    print(f"entropy {together:.1f} bits, group by group {apart:.1f}")
    assert together < apart - 0.3 if name == "rvq" else abs(together - apart) < 0.01
assert quality["rvq"] > quality["lfq"] + 1
assert use["lfq, lighter"] > use["lfq"]

# %%
chosen = test[210::200]
rows = torch.stack([chosen, *(model.rebuild(chosen) for model in small.values())], 1).flatten(0, 1)
titles = ["held out", *(f"{name}\n{decibels:.1f} dB" for name, decibels in quality.items())]
viz.show(viz.images(rows, titles + [""] * (len(rows) - 5), columns=5, height=1.12))

# %% [markdown]
# ## The league table
#
# Ten times as many steps, all quantizers, and `none`, the autoencoder whose vectors are not quantized; computed once by
# `minitok league quantize`. (`none` has vectors of width 4, so it is no bound for those that are wider.)

# %%
print(textwrap.fill(facts["how"], 100), "\n")
assert {row["bits"] for row in facts["rows"] if row["method"] in league.QUANTIZERS} == {12}
scores = {name: unit for name, unit in facts["scores"].items() if name != "bits"}
plain = [{key: value for key, value in row.items() if key != "weights"} for row in facts["rows"]]  # more on them below
for data in league.DATA:
    print(data, stages.table(facts | {"scores": scores, "rows": plain}, data=data), sep="\n", end="\n\n")
print("device:", facts["made"]["device"])

# %% [markdown]
# The spread is that between the best and the worst of three seeds; no seed lies further from their mean than two thirds
# of it. So let us call a lead *clear* only if all seeds of one must be above all of the other:


# %%
def rows_of(data):
    return {row["method"]: row for row in facts["rows"] if row["data"] == data}


def clear(above, below):
    spreads = above["spread of 3 seeds"] + below["spread of 3 seeds"]
    return above["PSNR"] - below["PSNR"] > 2 / 3 * spreads


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
# - **Residual** quantization leads on both data sets, clearly over one codebook; on digits the seeds of `fsq` differ
#   too much to say more.
# - **Learnt or fixed:** between `vq` and `fsq` nothing is clear, though `vq` learns a table and `fsq` not one number.
# - **Afterwards:** `tokenbridge` comes when the network is trained. At 3 bits a channel that costs much; lesson 8 asks
#   with how many it costs nothing.
# - The **binary** ones, `lfq` and `wetok`, are last, though on digits not clearly behind `tokenbridge`. More below.
# - The unquantized autoencoder of digits itself varies by about 2 dB from seed to seed. Do not read small differences.
#
# ## The trade: error against what a coder pays

# %%
labels = "entropy (bits a vector)", "PSNR (dB)"
figure, axes = panels(2, 7.6, 3.8, "What a coder pays does not tell the error", *labels, sharey=True)
for place, (data, rows) in zip(axes, (("digits", digits), ("photographs", photos)), strict=True):
    free, off = rows["none"]["PSNR"], 2 / 3 * rows["none"]["spread of 3 seeds"]
    place.axhspan(free - off, free + off, color=viz.GRID, zorder=0)
    place.axhline(free, color=viz.MUTED, linestyle="--")
    for name in league.QUANTIZERS:
        x, y, off = (rows[name][key] for key in ("entropy", "PSNR", "spread of 3 seeds"))
        ink = viz.BASELINE if name in ("lfq", "wetok") else viz.OURS
        place.errorbar(x, y, 2 / 3 * off, fmt="o", color=ink)
        shift = {"ha": "right", "xytext": (-8, 0)} if name in ("vq", "rvq", "lfq") else {"ha": "left", "xytext": (8, 0)}
        place.annotate(name, (x, y), textcoords="offset points", va="center", **shift)
    place.set_xlim(5, 12.2)
    place.set_title(f"{data} (dashed: not quantized)", size=10)
viz.show(figure)

# %% [markdown]
# Bars, and the gray band, hold all three seeds. All had 12 bits to spend. Two things to see:
#
# - **Entropy is not quality.** `lfq` has the most of it, and a far larger error than `vq`, which has the least. A code
#   says much only if the decoder can do something with it.
# - **Equal bits are not equal cost.** The lead of `rvq` over `vq` is worth less to somebody who pays by entropy.

# %%
for data, rows in (("digits", digits), ("photographs", photos)):
    more = {key: rows["rvq"][key] - rows["vq"][key] for key in ("PSNR", "entropy")}
    print(f"{data}: rvq has {more['PSNR']:.1f} dB more than vq and pays {more['entropy']:.1f} bits more")
    assert more["entropy"] > 1
    assert rows["lfq"]["entropy"] > rows["vq"]["entropy"] + 1
    assert clear(rows["vq"], rows["lfq"])

# %% [markdown]
# Nor are many codes in use the same as a small error. For photographs:

# %%
for name in sorted(league.QUANTIZERS, key=lambda name: -photos[name]["codes in use"]):
    share, decibels = photos[name]["codes in use"], photos[name]["PSNR"]
    print(f"{name:12} {share / 100 * 4096:4.0f} of 4096 codes in use; {decibels:.1f} dB")
assert photos["lfq"]["codes in use"] > 90 > 30 > photos["vq"]["codes in use"]

# %% [markdown]
# ## What the binary ones need
#
# In the small league we can look. How often is each of the 12 signs positive on held-out digits?

# %%
stuck = {}
for name in ("lfq", "lfq, lighter"):
    with torch.no_grad():
        share = (small[name].vectors(test) > 0).float().mean((0, 1))
    stuck[name] = int(((share < 0.001) | (share > 0.999)).sum())
    print(f"{name:12} {stuck[name]} stuck; positive (%):", *(f"{100 * one:3.0f}" for one in share))
assert stuck["lfq"] > stuck["lfq, lighter"]

# %% [markdown]
# Some signs are **stuck**: the same for all vectors. The loss of `lfq` has two parts. One asks for all codes, one pulls
# each number to its sign, and both outweigh the small squared error of these pictures, unless their weights are small.
# The league tried both pairs of weights, and took the lighter ones for both quantizers and both data sets:

# %%
for data in league.DATA:
    taken = {name: rows_of(data)[name]["weights"] for name in ("lfq", "wetok")}
    print(f"{data}: entropy and commitment", taken)
    assert set(taken.values()) == {"0.03, 0.01"}
    assert all(rows_of(data)[name]["codes in use"] > 35 for name in taken)

# %% [markdown]
# Then no sign need be stuck, and they are last all the same. Lesson 4 chooses weights too; a codebook is ahead there:

# %%
chosen_there = {measure.name: measure for measure in papers.recorded_verdict("lfq").measures}["PSNR, LFQ or VQ"]
print(f"lesson 4, 10 bits: LFQ {chosen_there.ours:.1f} dB, VQ {chosen_there.baseline:.1f} dB")
assert not chosen_there.holds

# %% [markdown]
# Each sign needs a channel of its own, and says no more than plus or minus 1. The papers have far larger networks,
# longer training, and $2^{18}$ codes and more, where a table would be costly to store and to search.
#
# ## Encoding, and what a fast path is
#
# Codebooks must be searched. K distances for each of n vectors are a table of n x K numbers, written to memory only to
# find the smallest of each row.

# %%
sizes = {name: given.default for name, given in inspect.signature(kernels.nearest).parameters.items()}
n, K, d = (sizes[name] for name in "nKd")
print(f"{n:,} vectors, {K:,} codes: a table of {4 * n * K / 1e9:.0f} GB; vectors, codebook and codes:", end=" ")
print(f"{(4 * (n + K) * d + 8 * n) / 1e9:.2f} GB")

# %% [markdown]
# The table need not exist. Walk through the codebook in blocks, and keep the best code so far:


# %%
def blockwise(z, codebook, size=256):
    best, code = torch.full(z.shape[:2], torch.inf), torch.zeros(z.shape[:2], dtype=torch.long)
    for start in range(0, len(codebook), size):
        block = codebook[start : start + size]
        score, place = (block.pow(2).sum(-1) - 2 * z @ block.T).min(-1)
        nearer = score < best
        best, code = torch.where(nearer, score, best), torch.where(nearer, start + place, code)
    return code


some, codebook = torch.randn(1, 500, 8), torch.randn(4096, 8)
agree = (blockwise(some, codebook) == nearest(some, codebook)).float().mean()
assert agree > 0.99  # where two codes are equally near, rounding decides

# %% [markdown]
# On a GPU this pays when a block's scores never leave the chip. `vq_triton.nearest` is such a **fast path**: a kernel
# (a small program for the GPU, written in Triton) with the signature of `vq.nearest`. You choose it by importing it;
# nothing switches silently. `minitok bench --kernels` measures it beside others: `addmm, argmin`, plain or compiled, is
# the best way in torch's own functions that we know, `vector-quantize-pytorch` a public package.

# %%
shipped = json.loads(files.shipped("bench", "kernels.json").read_text(encoding="utf-8"))
case = shipped["cases"][0]
bars = {row["who"]: row["milliseconds"] for row in case["rows"]} | {"floor": case["floor in milliseconds"]}
ratio = min(time for who, time in bars.items() if who not in (case["ours"], "floor")) / bars[case["ours"]]
title = f"Without the table the nearest code comes {ratio:.0f} times sooner"
viz.show(viz.bars(bars, title, f"milliseconds on one {shipped['device']}"))

# %%
print(case["work"])
for row in case["rows"]:
    print(f"{row['who']:30} right in {100 * row['agreement']:.2f} %")
others = [row for row in case["rows"] if row["who"] != case["ours"]]
assert 5 * bars[case["ours"]] < min(row["milliseconds"] for row in others)
assert min(row["agreement"] for row in case["rows"]) > 0.99
assert case["rows"][0]["agreement"] >= max(row["agreement"] for row in others)

# %% [markdown]
# The floor is the time of the multiplications alone, at the best rate measured on that card. The numbers are float32,
# and all rows may multiply in TF32, which keeps 10 bits of a factor, so that of two nearly equal distances the wrong
# one may win; the kernel measures its two best candidates again. ("Right" is what float64 finds.)
#
# For quantizers without a codebook there is nothing to search, and `rvq` searches little. The league's column says it:

# %%
times = {name: (digits[name]["encoding"] + photos[name]["encoding"]) / 2 for name in league.QUANTIZERS}
title = "65,536 vectors of 12 bits: one large codebook is the slowest"
device = facts["made"]["device"]
viz.show(viz.bars(dict(sorted(times.items(), key=lambda item: -item[1])), title, f"milliseconds on one {device}", 2))
apart = max(max(digits[n]["encoding"], photos[n]["encoding"]) / times[n] for n in times)
print(f"the same work was timed twice; a time is up to {apart:.1f} times the mean of both")
others = [rows[name]["encoding"] for rows in (digits, photos) for name in times if name != "vq"]
assert min(digits["vq"]["encoding"], photos["vq"]["encoding"]) > 2 * max(others)

# %% [markdown]
# So only the lead of all over `vq` is clear. (`vq` was timed without the fast path.)

# %% [markdown]
# ## The way through the chapter
#
# Begin with lesson 1, since all others are measured against it; then 2 to 4 in any order. `wetok` needs 4,
# `tokenbridge` needs 3. For each lesson its question (or its title, where it is planned), and what our measurement made
# of which claim.

# %%
questions = {
    "vq": "How does a network learn a codebook, and why do codes die?",
    "rvq": "How do many bits come from small codebooks, and one model serve all rates?",
    "fsq": "Can one round, and learn no codebook at all?",
    "lfq": "What if each channel is one bit, and a loss asks for all codes?",
    "wetok": "What if there are too many bits for that loss? And can a decoder paint what codes leave open?",
    "tokenbridge": "Can a finished autoencoder get codes, and how does one predict a vector of many?",
}

# %%
for paper in papers.rows("quantize"):
    print(f"{paper.lesson}. {paper.name}: {questions.get(paper.slug, paper.title)}")
    if papers.status(paper.slug) == "working":
        found = papers.recorded_verdict(paper.slug)
        print(textwrap.indent(textwrap.fill(f"{found.outcome}: {found.claim}", 100), "   "))

# %% [markdown]
# ## What to take home
#
# - A quantizer is three functions; whichever you take, the rest of the network does not change, but for the width d.
# - Begin with `fsq`: nothing to learn, nothing to search; but its seeds may differ much, so train more than one. Where
#   all codes are written equally long and bits are short, take `rvq`; where a coder writes them, it pays more for its
#   lead. A single large codebook is the dearest to search and mostly idle, and what most papers compare with.
# - Ask of a table: are bits equal, or what a coder pays? Codes in use of how many? How far do seeds differ? Who chose
#   which setting for whom?
