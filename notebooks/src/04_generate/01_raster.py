# %% [markdown]
# # Raster autoregression: a picture written like a text
#
# **Paper:** Sun, Jiang, Chen, Zhang, Peng, Luo and Yuan, *Autoregressive Model Beats Diffusion: Llama for Scalable
# Image Generation*, 2024 ([arXiv 2406.06525](https://arxiv.org/abs/2406.06525)), LlamaGen.
# **Code:** `minitok/generate/raster.py`.
# **Read first:** [vector quantization](../01_quantize/01_vq.ipynb), which makes whole numbers, *codes*, of a picture.
#
# After this lesson you can train and run the generator that all others of this chapter are measured against: a language
# model whose words are the codes of a picture, read row by row.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import clothing
from minitok.generate import ImageGPT, Schedule, generate
from minitok.metrics import difference, flops
from minitok.nn import Cache, Shape

# %% [markdown]
# ## The problem: codes that do not know of each other
#
# The house's tokenizer turns a photograph of 64 x 64 pixels into 16 x 16 codes from 0 to 4,095, and paints a picture
# from any such grid. To *generate* is to draw 256 codes so that the picture could be a photograph. Two ways without a
# network: **unigram** draws each code by itself, as often as it occurs; **neighbours** counts which codes follow those
# above and to the left of them.

# %%
stage = stages.generate.stage(images=31)
model, decode = house.load("image_gpt"), house.load("tokenizer").decode
drawn = [stage.codes[1:5], *(stage.draw(counts, 4) for counts in stage.counts.values())]
title = "Photographs from their codes; unigram; neighbours"
print(stage.data)
viz.show(viz.images(decode(torch.cat(drawn)[..., None]), columns=4, height=0.96, title=title), photo=True)

# %% [markdown]
# Codes that do not know of each other give noise. With two neighbours known there are patches of a colour, but no
# shirt: a sleeve depends on the other sleeve, and both on what is being drawn.
#
# How far off is each? Ask what it would *pay* for real photographs: $-\log_2 p$ bits for a code to which it gave the
# probability p. Not knowing anything costs 12 bits a code.

# %%
rows = {name: stage.measure(counts) for name, counts in stage.counts.items()}
print("bits a code:", ", ".join(f"{name} {row.bits:.1f}" for name, row in rows.items()))

# %% [markdown]
# ## The idea: all codes before, in one order
#
# Any joint probability is a product in which each code is given those before it:
#
# $$p(x_1, \dots, x_n \mid \text{class}) = \prod_{k=1}^{n} p(x_k \mid \text{class}, x_1, \dots, x_{k-1}) .$$
#
# Nothing is lost or assumed here. Choose an order, the *raster*: left to right, then the next row; and let one network
# predict every factor. When code 120 is drawn, this is what the network knows:

# %%
known = (torch.arange(256) < 120).view(1, 16, 16).repeat_interleave(4, 1).repeat_interleave(4, 2)
viz.show(viz.images(stage.images[9:10].where(known, 0.9), height=1.28), photo=True, alt="the first 120 of 256 patches")

# %% [markdown]
# ## By hand: a picture of three codes
#
# Codes 0 and 1. A table stands for the network: first 1/2 each; then a code comes again with 3/4. The picture 0, 0, 1
# has p = 1/2 x 3/4 x 1/4 = 3/32, and pays 1 + 0.42 + 2 = 3.42 bits, 1.14 a code: **the loss is the mean over
# positions**. Of 20,000 pictures that the library's `generate` draws 3/32 should be this one.


# %%
class Table:
    schedule, classes = Schedule(((0,), (1,), (2,))), 1

    def step(self, new, labels, cache):
        if new.shape[1] == 0:
            return torch.zeros(len(labels), 1, 2)
        return torch.tensor([3.0, 1.0]).log()[(torch.arange(2) != new) * 1][:, None]


# %%
p = torch.tensor([1 / 2, 3 / 4, 1 / 4])
many = generate(Table(), torch.zeros(20_000, dtype=torch.long)).codes
share = (many == torch.tensor([0, 0, 1])).all(1).float().mean()
print(f"by hand {p.prod():.4f}, drawn {share:.4f}; bits {-p.log2().sum():.2f}, a code {-p.log2().mean():.2f}")
assert abs(float(share) - 3 / 32) < 0.01

# %% [markdown]
# **The mask.** Tokens: the class, then codes; token k predicts code k, counting from 0, so the last code need not be
# read. Token k gathers from tokens 0 to k, **itself included**. With logits of 0 and values 2, 4, 9: token 0 gets 2,
# token 1 (2 + 4) / 2 = 3, token 2 (2 + 4 + 9) / 3 = 5. Later tokens get logit minus infinity *before* the softmax; to
# set their weights to 0 after it would leave sums below 1 (2/3, 2, 5).

# %%
values, mask = torch.tensor([2.0, 4.0, 9.0]), torch.ones(3, 3).tril() == 1
before = torch.zeros(3, 3).masked_fill(~mask, -torch.inf).softmax(-1) @ values
behind = (torch.zeros(3, 3).softmax(-1) * mask) @ values
print("masked before the softmax", before.tolist(), "after it", [round(x, 2) for x in behind.tolist()])
assert difference(before, torch.tensor([2.0, 3.0, 5.0])) < 1e-6

# %% [markdown]
# **Guidance and temperature.** Logits c = (1, 0) with the class and u = (0, 0) without it. Strength g = 2: $u + g (c -
# u)$ = (2, 0); so code 0 goes from 0.73 to 0.88. Then the temperature divides: T = 0.5 gives (4, 0) and 0.98. g = 1 is
# the network's own opinion, 0 forgets the class.

# %%
c, u = torch.tensor([1.0, 0.0]), torch.zeros(2)
for g, T in ((1, 1), (2, 1), (2, 0.5), (0, 1)):
    logits = (u + g * (c - u)) / T
    print(f"g {g}, T {T}: logits {logits.tolist()}, code 0 has {logits.softmax(-1)[0]:.2f}")

# %% [markdown]
# ## The mechanism on real codes
#
# **1. A sequence.** The class is a token, at the front; behind it the codes, each as a vector from a table, since a
# code's number means nothing by itself. To each the vector of its place is added. **2. Causal layers**; queries and
# keys are also turned by their place (*rotary positions*). **3. All predictions at once**: a norm, then the product
# with the table: 4,096 logits for the next code. Training minimises the cross-entropy of all positions in one call; one
# position a call would cost 256 times as much for the same gradients.

# %%
codes, labels = stage.codes, stage.labels
x = torch.cat([model.label(labels)[:, None], model.code[codes[:, :-1]]], dim=1) + model.position
places, mask = torch.arange(256.0)[None], torch.ones(256, 256).tril() == 1
hidden = x
for block in model.body.blocks:
    hidden = block(hidden, places, mask)
logits = model.body.norm(hidden) @ model.code.T
loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())  # what training minimises
print(f"photographs, tokens, channels: {tuple(x.shape)}; {loss:.2f} nats, {loss / torch.tensor(2.0).log():.2f} bits")

# %% [markdown]
# Is the mask right? If a later code leaked into an earlier prediction, training would look splendid and drawing would
# fail. So disturb code 100 and see which predictions move.

# %%
disturbed = codes[:4].clone()
disturbed[:, 100] = (disturbed[:, 100] + 2000) % 4096
moved = (model(disturbed, labels[:4]) - model(codes[:4], labels[:4])).abs().amax((0, 2)) > 1e-4
print(f"predictions that moved: {int(moved.sum())}, the first is number {int(moved.nonzero()[0])}")
assert not moved[:101].any()
assert moved[101:].all()

# %% [markdown]
# Where does it look? The mean attention of the first layer, by how many tokens back:

# %%
first = model.body.blocks[0]
look = first.attention.map(first.norm1(x[:8]), places, mask)[0].mean((0, 1))
back = torch.stack([look.diagonal(-steps)[100 - steps :].mean() for steps in range(1, 50)])
title = "16 and 32 back: one and two rows up"
viz.show(viz.lines({"ours": (range(1, 50), back)}, title, "tokens back", "share of the attention"))

# %% [markdown]
# 15 back is the cell above the one that is *predicted*, since a token predicts the next. Nobody told the network that a
# row has 16 cells.
#
# **4. Draw.** Predict, draw a code from the probabilities, put it at the end, again: 256 calls. Keys and values of read
# tokens do not change, since they see only what came before: keep them in a *cache*, and a call reads one new token.


# %%
def draw(model, labels, guidance=1.0, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    asked = torch.cat([labels, torch.full_like(labels, model.classes)])  # with the class, and "any"
    drawn, cache = labels.new_zeros(len(labels), 0), Cache()
    for _ in range(model.schedule.n):
        new = drawn[:, -1:].repeat(2, 1)  # none at first: then the class is read
        c, u = model(new, asked, cache)[:, -1].chunk(2)
        p = ((u + guidance * (c - u)) / temperature).softmax(-1)
        drawn = torch.cat([drawn, torch.multinomial(p, 1, generator=generator)], dim=1)
    return drawn


# %% [markdown]
# **What you built is what the library has.** `generate` is the one loop of the chapter and serves any order of drawing.
# We compare the loops on a small network that knows nothing.

# %%
assert difference(model(codes[:4], labels[:4]), logits[:4]) < 1e-3
torch.manual_seed(0)
small = ImageGPT(Shape(width=16, layers=2, heads=2), K=50, n=25, classes=3).eval().requires_grad_(False)
for how in ({"guidance": 2.0}, {"temperature": 0.5}):
    library = generate(small, torch.tensor([0, 1, 2]), seed=4, **how)
    assert torch.equal(draw(small, torch.tensor([0, 1, 2]), seed=4, **how), library.codes)
print(f"logits and drawn codes agree; {library.calls} calls for 25 codes")

# %% [markdown]
# What is the cache worth? Operations of the layers for the last code of a picture, read anew and from the cache:

# %%
cache = Cache()
model.body(x[:1, :255], cache=cache)
again, cached = flops(model.body, x[:1]), flops(lambda: model.body(x[:1, 255:], cache=cache))
held = 2 * len(model.body.blocks) * model.position.numel()  # a key and a value of each token in each layer
print(f"{again / 1e6:.0f} million operations, or {cached / 1e6:.1f}; the price: {held / 1e6:.1f} million numbers held")
assert again > 100 * cached

# %% [markdown]
# ## The recipe
#
# 1. Tokens: the class, then codes 0 to n - 2 in raster order; vector of class or code plus vector of the place.
# 2. A causal Transformer, rotary positions along the sequence; a norm; logits by the codes' own vectors.
# 3. Loss: cross-entropy of code k at token k, mean over n positions. In a tenth of the pictures the class is "any".
# 4. Draw: read the class, then each code as it is drawn, keys and values kept: n calls.
# 5. Guidance: "any" as a second row; logits $u + g(c - u)$; divide by T, softmax, draw.
#
# ## The experiment
#
# What does it pay for new photographs? Counts know no class, so hide it as well (label 10).

# %%
rows["raster"] = stage.measure(model)
hidden_class = -model(codes, torch.full_like(labels, 10)).log_softmax(-1).gather(-1, codes[..., None]).mean()
paid = {"any code alike": 12.0, "unigram": rows["unigram"].bits, "baseline: neighbours": rows["neighbours"].bits}
paid |= {
    "ours: raster, class hidden": float(hidden_class / torch.tensor(2.0).log()),
    "ours: raster": rows["raster"].bits,
}
viz.show(viz.bars(paid, "The past says much more than two neighbours do", "bits a code on held-out photographs"))

# %%
table = {row["method"]: row for row in stages.load("generate")["rows"]}
for name in ("unigram", "neighbours", "raster"):
    row = table[name]
    print(f"{name:10} {row['bits']:5.2f} bits a code, Frechet distance {row['Frechet']:5.1f}")
print(f"real photographs in the place of drawn ones: Frechet distance {table['real']['Frechet']:.1f}")

# %% [markdown]
# *Frechet distance*: how far 744 drawn pictures are, as a set, from the test photographs, in the features of the
# classifier `vit` ([the overview](00_overview.ipynb)). Bits ask whether the network knows what is likely; this asks
# whether what it draws looks right.
#
# Now guidance: strengths g, temperatures T. Above each is what `vit` takes the picture for.

# %%
strengths, temperatures = [0.0, 1.0, 2.0, 4.0], [0.6, 1.0, 1.4]
pairs = torch.cartesian_prod(torch.tensor(temperatures), torch.tensor(strengths))
dress = torch.full((12,), clothing.CLASSES.index("dress"))
dresses = decode(draw(model, dress, pairs[:, 1:], pairs[:, :1], seed=2)[..., None])
said = house.load("vit")(dresses).argmax(-1)
titles = [f"g {g:g}, T {t:g}\n{clothing.CLASSES[k]}" for (t, g), k in zip(pairs.tolist(), said, strict=True)]
title = "Asked for a dress: guidance grows to the right"
viz.show(viz.images(dresses, titles, columns=4, height=0.96, title=title), photo=True)

# %% [markdown]
# With strength 0 the class is forgotten. Cold drawing gives smooth pictures, hot drawing falls apart, less so under
# strong guidance. Twelve pictures prove nothing; the league has guidance of 1.5 beside 1.
#
# ## Play: guidance and temperature


# %%
def dressed(guidance=2.0, temperature=1.0):
    at = temperatures.index(temperature) * len(strengths) + strengths.index(guidance)
    title = f"guidance {guidance:g}, temperature {temperature:g}"
    return viz.show(viz.images(dresses[at][None], [title], height=1.92), photo=True)


dressed()

# %%
control = viz.slider(dressed, guidance=strengths, temperature=temperatures)
viz.ends(control)
control

# %% [markdown]
# ## The verdict

# %%
plain, guided, near = table["raster"], table["raster, guidance 1.5"], table["neighbours"]
rash, own = table["raster, 8 codes a call"], "FID 2.18 (abstract)"
measures = [
    papers.better("bits a code, neighbours", plain["bits"], than=near["bits"], margin=1, higher=False),
    papers.better("Frechet, neighbours", plain["Frechet"], than=near["Frechet"], margin=10, higher=False, paper=own),
    papers.better("Frechet, 8 codes a call", plain["Frechet"], than=rash["Frechet"], margin=10, higher=False),
    papers.better("right class, guidance 1.5 against 1", guided["right"], than=plain["right"], margin=3, unit="%"),
    papers.not_worse("Frechet, guidance 1.5 against 1", guided["Frechet"], than=plain["Frechet"], by=0.5, higher=False),
]
assert plain["calls"] == model.schedule.n == 256

# %%
claim = papers.verdict(
    "raster",
    "In raster order a causal network pays fewer bits a code and draws better than counts; a call a code.",
    measures,
    against="counts of codes given those above and to the left, without the class, on the same photographs; itself",
    data="the league: 372 test photographs of clothes, twice 744 pictures drawn by each",
)

# %% [markdown]
# The paper claims more: that such a network, large enough, draws better than diffusion models (3.1 billion parameters
# on ImageNet). Ours has 4 million and no such rival, so we cannot judge that.
#
# ## Where it breaks: no way back, and one after another
#
# A code that was drawn stays. Put one wrong code into the middle of row 6 of real photographs: what do the codes that
# follow pay more?

# %%
wrong = codes.clone()
wrong[:, 104] = (wrong[:, 104] + 2000) % 4096
more = F.cross_entropy(model(wrong, labels).transpose(1, 2), wrong, reduction="none") / torch.tensor(2.0).log()
more = (more - rows["raster"].paid).mean(0).where(torch.arange(256) > 104, 0.0)
figure, axes = viz.panel("Its neighbours pay for a wrong code", "column", "row", 4.6, 3.6)
shown = axes.imshow(more.view(16, 16), cmap="RdBu_r", vmin=-2, vmax=2)
axes.plot(8, 6, "kx")
axes.grid(visible=False)
figure.colorbar(shown, label="bits more than before")
print(f"one wrong code: {float(more.sum()):.0f} bits more, paid by all that follow")
viz.show(figure)

# %% [markdown]
# In drawing nobody pays: the wrong code is believed, and all others are drawn to fit it. And 256 calls wait for each
# other, however many processors there are.
#
# ## Exercises
#
# **1. Your own loop.** Draw as `generate` does, each code by `torch.multinomial(p, 1, generator=generator)`; read the
# class and each code once: n calls. `model(new, labels, cache)[:, -1]` gives the next logits.


# %%
def my_generate(model, labels, guidance, temperature, generator):
    return torch.zeros(len(labels), model.schedule.n, dtype=torch.long)  # replace this


# %%
def check_1(my_generate):
    labels, calls = torch.tensor([0, 2]), []
    for g, T in ((1.0, 1.0), (3.0, 0.7)):
        with small.body.register_forward_hook(lambda *_: calls.append(1)):
            found = my_generate(small, labels, g, T, torch.Generator().manual_seed(9))
        right = generate(small, labels, guidance=g, temperature=T, seed=9).codes
        if not torch.equal(found, right):
            return f"g {g}, T {T}: expected {right[0, :5].tolist()} ... first, got {found[0, :5].tolist()} ..."
    return "right, one call a code" if len(calls) == 50 else f"right codes, but {len(calls)} calls for 50 codes"


check_1(my_generate)

# %% [markdown]
# **2. Cut off the tail.** Thousands of unlikely codes together are not unlikely. *Nucleus sampling* keeps the fewest
# likeliest codes whose probabilities reach p together. Set the logits of all others to minus infinity.


# %%
def nucleus(logits, p):
    return logits  # replace this: all are kept


# %%
def check_2(nucleus):
    few = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log()
    for p, expected in ((0.4, [1]), (0.7, [1, 3]), (0.81, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        kept = nucleus(few, p)[0].isfinite().nonzero().flatten().tolist()
        if kept != expected:
            return f"of 0.05, 0.5, 0.15, 0.3 and p = {p}, codes {expected} should stay, not {kept}"
    return "right"


check_2(nucleus)

# %% [markdown]
# Solutions: `notebooks/src/solutions/04_generate/01_raster.py`.
#
# ## What was left out, and where we differ
#
# | | paper | here |
# |---|---|---|
# | rotary positions | by row and column | along the sequence, and a learnt vector a place |
# | read-out | a matrix of its own | the codes' vectors (tied) |
# | codes | 16,384, of 256 to 576 cells | 4,096, of 256 cells |
#
# LlamaGen also draws by top-k, and for a text, whose vectors stand in the place of the class. Read on:
# [NAR](06_nar.ipynb) draws a diagonal at a time, and [speculative sampling](../05_speculate/01_speculative.ipynb)
# spares calls without changing what is drawn.
