# %% [markdown]
# # Raster autoregression: a picture written like a text
#
# **Paper:** Sun, Jiang, Chen, Zhang, Peng, Luo and Yuan, *Autoregressive Model Beats Diffusion: Llama for Scalable
# Image Generation*, 2024 ([arXiv 2406.06525](https://arxiv.org/abs/2406.06525)), LlamaGen.
# **Code:** `minitok/generate/raster.py`.
# **Read first:** [vector quantization](../01_quantize/01_vq.ipynb), which makes whole numbers, *codes*, of a picture.
#
# You will build the generator that all others of this chapter are measured against: a language model whose words are
# the codes of a picture, read row by row.

# %%
import torch
import torch.nn.functional as F

from minitok import house, papers, stages, viz
from minitok.data import clothing, photographs
from minitok.generate import generate
from minitok.generate.raster import ImageGPT
from minitok.house.image_gpt import bits_per_code
from minitok.metrics import flops
from minitok.nn import Cache, Shape
from minitok.stages.neighbours import Neighbours

# %% [markdown]
# ## The problem: codes that do not know of each other
#
# The house's tokenizer turns a photograph of 64 x 64 pixels into 16 x 16 codes from 0 to 4,095, and paints a picture
# from any such grid. To *generate* is to draw 256 codes so that the picture could be a photograph. We learn from some
# photographs of clothes and test on others. (They are a download; without them, crops of other photographs stand in,
# and figures differ.)

# %%
tokenizer, model, there = house.load("tokenizer"), house.load("image_gpt"), clothing.at_hand()
if there:
    seen, test = clothing.load("train").images[::48], clothing.load("test")
    photos, labels = test.images[::30], test.labels[::30]
else:
    crops = photographs.crops(77, 64)
    seen, photos, labels = crops[:64], crops[64:], torch.full((13,), 10)
with torch.no_grad():
    learnt, codes = tokenizer.encode(seen)[..., 0], tokenizer.encode(photos)[..., 0]
print(f"{len(learnt)} photographs to count codes in, {len(codes)} to test on; the first codes: {codes[0, :6].tolist()}")

# %% [markdown]
# Two ways without a network. **Unigram:** draw each code by itself, as often as it occurs. **Neighbours:** count which
# codes follow those above and to the left of them, and draw row by row from these counts (`Neighbours` has the
# details: it counts the four levels that a code of this tokenizer consists of).

# %%
counts = torch.bincount(learnt.flatten(), minlength=4096) + 1.0  # none is impossible
generator = torch.Generator().manual_seed(0)
alone = torch.multinomial(counts, 4 * 256, replacement=True, generator=generator).view(4, 256)
neighbours = Neighbours(learnt)
both = torch.cat([codes[1:5], alone, neighbours.draw(4)])
pictures = tokenizer.decode(both[..., None])
title = "Photographs from their codes; unigram; neighbours"
viz.show(viz.images(pictures, columns=4, height=0.96, title=title), photo=True)

# %% [markdown]
# Above, photographs painted from their own codes: codes can say enough. Codes that do not know of each other give
# noise. With two neighbours known there are patches of a colour, but no shirt: a sleeve depends on the other sleeve,
# and both on what is being drawn.
#
# How far off is each? Ask what it would *pay* for real photographs. Coding something of probability p takes
# $-\log_2 p$ bits, so a method that expects what comes pays little. Not knowing anything costs 12 bits a code.

# %%
bits = {"any code alike": 12.0}
bits["unigram"] = float(-(counts / counts.sum()).log2()[codes].mean())
bits["baseline: neighbours"] = neighbours.bits(codes)
print(", ".join(f"{name} {value:.1f}" for name, value in bits.items()), "bits a code")

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
viz.show(viz.patches(photos[2], 4, keep=torch.arange(256) < 120), photo=True, alt="the first 120 of 256 patches")

# %% [markdown]
# ## The mechanism, step by step
#
# **1. A sequence.** The class is a token of its own, at the front. Behind it come the codes, each as a vector from a
# table. To each token the vector of its place is added. Token k predicts code k (counting from 0), so the last code
# need not be read.

# %%
x = torch.cat([model.label(labels)[:, None], model.code[codes[:, :-1]]], dim=1) + model.position
print("photographs, tokens, channels:", tuple(x.shape))

# %% [markdown]
# **2. A causal mask.** In the attention of a Transformer layer each token gathers from the others. Token k may look at
# tokens 0 to k only: what comes later is what it must predict. So the scores of later ones are set to minus infinity
# before the softmax. Here we compute all four heads of the first layer. (`places` turns queries and keys by their place
# in the sequence, *rotary positions*, besides the vectors added in step 1.)

# %%
mask = torch.ones(256, 256).tril() == 1
places = torch.arange(256.0)[None]
first = model.body.blocks[0]
normed = first.norm1(x[:4])
query, key = (first.attention.split(part(normed), places) for part in (first.attention.query, first.attention.key))
scores = query @ key.transpose(2, 3) / first.attention.d**0.5
weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
torch.testing.assert_close(weights, first.attention.map(normed, places, mask)[0], atol=1e-5, rtol=1e-5)

# %%
look = weights.mean((0, 1))
figure, axes = viz.panel("Each token looks back", "token looked at", "token that looks", 4.6, 4)
axes.imshow(look[:80, :80].clamp(max=0.05).sqrt(), cmap="Blues")  # five rows of the picture
axes.grid(visible=False)
far = torch.tensor([float(look.diagonal(-steps)[100 - steps :].mean()) for steps in range(1, 100)])
print("steps back that are looked at most:", [1 + int(k) for k in far.topk(3).indices])
viz.show(figure)

# %% [markdown]
# The mean over photographs and heads, for the first 80 tokens; darkest is 5 % or more, white above the diagonal the
# mask. (The printed steps are means from token 100 on.) 16 and 32 steps back lie the cells above the code that a token
# holds, 15 steps back the one above the code that it predicts: a row has 16 cells. The network had to learn where its
# neighbours are.
#
# **3. All predictions at once.** Behind the layers a norm; then the product with the table of code vectors gives 4,096
# scores, *logits*, for the next code. Training minimises the bits of all 256 positions in one call: each sees only its
# past.

# %%
hidden = x
for block in model.body.blocks:
    hidden = block(hidden, places, mask)
logits = model.body.norm(hidden) @ model.code.T
surprise = F.cross_entropy(logits.transpose(1, 2), codes, reduction="none") / torch.tensor(2.0).log()
bits["ours: raster"] = float(surprise.mean())
print(f"{bits['ours: raster']:.2f} bits a code")

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
# **4. Draw.** Predict, draw a code from the probabilities, put it at the end, again: 256 calls. But keys and values of
# tokens that were read do not change, since they see only what came before. Keep them in a *cache*, and a call reads
# one new token. The number of calls stays; what does one cost the layers, with and without the cache?


# %%
def again(t):
    return flops(model.body, x[:1, : t + 1])


def from_cache(t):
    cache = Cache()
    if t:
        model.body(x[:1, :t], cache=cache)
    return flops(lambda: model.body(x[:1, t : t + 1], cache=cache))


at = torch.arange(0, 256, 51)
cost = {name: torch.tensor([f(int(t)) / 1e6 for t in at]) for name, f in [("again", again), ("cache", from_cache)]}

# %%
series = {"baseline: all tokens again": (at, cost["again"]), "ours: from the cache": (at, cost["cache"])}
title = "A cache makes each call nearly as cheap as the first"
viz.show(viz.lines(series, title, "codes drawn so far", "million operations a call", log="y"))

# %%
saved = cost["again"].mean() / cost["cache"].mean()
held = 2 * len(model.body.blocks) * model.position.numel()  # a key and a value of each token in each layer
print(f"for all 256 codes: about {float(saved):.0f} times fewer operations with a cache")
print(f"the price: {held / 1e6:.1f} million numbers held for a whole picture")
assert saved > 50

# %% [markdown]
# **5. Guidance.** In one of ten training pictures the class was replaced by "any", number 10. So the network gives two
# opinions: logits c for the class asked for, and u for any. What the class adds is $c - u$, and we may ask for more of
# it: $u + g\,(c - u)$, *classifier-free guidance* with strength g. 1 is the network's own opinion, 0 forgets the class.
# It costs a second row in the batch. And **temperature** T divides the logits: below 1, likely codes get likelier.


# %%
def draw(model, labels, guidance=1.0, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    asked = torch.cat([labels, torch.full_like(labels, model.classes)])
    drawn, cache = labels.new_zeros(len(labels), 0), Cache()
    for _ in range(model.schedule.n):
        new = drawn[:, -1:].repeat(2, 1)  # none at first: then the class is read
        c, u = model(new, asked, cache)[:, -1].chunk(2)
        p = ((u + guidance * (c - u)) / temperature).softmax(-1)
        drawn = torch.cat([drawn, torch.multinomial(p, 1, generator=generator)], dim=1)
    return drawn


# %% [markdown]
# **What you built is what the library has.** `ImageGPT` gives the logits; `generate` is the one loop of the chapter and
# serves any order of drawing. We compare the loops on a small network that knows nothing.

# %%
torch.testing.assert_close(model(codes[:4], labels[:4]), logits[:4], atol=1e-3, rtol=0)
assert abs(bits["ours: raster"] - bits_per_code(model, codes, labels)) < 1e-3
small = ImageGPT(Shape(width=16, layers=2, heads=2), K=50, n=25, classes=3).eval().requires_grad_(False)
for how in ({"guidance": 2.0}, {"temperature": 0.5}):
    library = generate(small, torch.tensor([0, 1, 2]), seed=4, **how)
    assert torch.equal(draw(small, torch.tensor([0, 1, 2]), seed=4, **how), library.codes)
print(f"logits and drawn codes agree; {library.calls} calls for 25 codes")

# %% [markdown]
# ## The experiment
#
# What does it pay for photographs that it has never seen? The counts know no class, so hide it from the network as
# well.

# %%
bits["ours: raster, class hidden"] = bits_per_code(model, codes, torch.full_like(labels, model.classes))
viz.show(viz.bars(bits, "The past says much more than two neighbours do", "bits a code on held-out photographs"))

# %% [markdown]
# Hiding the class costs little, perhaps since what has been drawn already shows it. But our counts come from few
# photographs, and the network was trained on all. The league of this chapter counts all 3,068, so that both know the
# same, tests on all 372, and has 744 pictures drawn by each, twice ([the overview](00_overview.ipynb) tells how).

# %%
table = {row["method"]: row for row in stages.load("generate")["rows"]}
for name in ("unigram", "neighbours", "raster"):
    row = table[name]
    print(f"{name:10} {row['bits']:5.2f} bits a code, Frechet distance {row['Frechet']:5.1f}")
print(f"real photographs in the place of drawn ones: Frechet distance {table['real']['Frechet']:.1f}")
if there:
    card = house.card("image_gpt")["figures"]["bits a code on every thirtieth test photograph"]
    assert abs(bits["ours: raster"] - card) < 0.02

# %% [markdown]
# The *Frechet distance* is how far a set of drawn pictures is from the test photographs, as the house's classifier
# `vit` sees them: 0 would be the same set, and other photographs of the same classes come as near as the last line
# says. Bits ask whether the network knows what is likely; this asks whether what it draws looks right.
#
# Now guidance. Twelve pairs of strength g and temperature T, all in one batch, one class. Above each is what `vit`
# takes the picture for.

# %%
strengths, temperatures = [0.0, 1.0, 2.0, 4.0], [0.6, 1.0, 1.4]
pairs = torch.cartesian_prod(torch.tensor(temperatures), torch.tensor(strengths))
dress = torch.full((12,), clothing.CLASSES.index("dress"))
dresses = tokenizer.decode(draw(model, dress, pairs[:, 1:], pairs[:, :1], seed=2)[..., None])
said = house.load("vit")(dresses).argmax(-1)
titles = [f"g {g:g}, T {t:g}\n{clothing.CLASSES[k]}" for (t, g), k in zip(pairs.tolist(), said, strict=True)]
title = "Asked for a dress: guidance grows to the right"
viz.show(viz.images(dresses, titles, columns=4, height=1.28, title=title), photo=True)

# %% [markdown]
# With strength 0 the class is forgotten: anything may come. From 1 on `vit` takes most for what was asked for. Cold
# drawing gives smooth pictures, hot drawing falls apart, less so under strong guidance. Twelve pictures prove nothing,
# so ask the league:

# %%
plain, guided = table["raster"], table["raster, guidance 1.5"]
for row in (plain, guided):
    share, distance = row["right"], row["Frechet"]
    print(f"{row['method']:21} {share:.0f} % taken for the class asked for, Frechet distance {distance:.1f}")

# %% [markdown]
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
near, less = table["neighbours"], {"higher": False, "margin": 1}
measures = [
    papers.better("bits a code", plain["bits"], than=near["bits"], **less),
    papers.better("Frechet distance", plain["Frechet"], than=near["Frechet"], **less, paper="FID 2.18 (abstract)"),
    papers.exact("one call a code: 256 calls", plain["calls"] == model.schedule.n == 256),
    papers.exact("no prediction depends on a later code", not bool(moved[:101].any())),
    papers.better("right class, guidance 1.5 against 1", guided["right"], than=plain["right"], unit="%", margin=2),
]

# %%
claim = papers.verdict(
    "raster",
    "In raster order a causal network pays fewer bits a code and draws better than counts; a call a code.",
    measures,
    against="counts of codes given those above and to the left, without the class, on the same photographs",
    data="the league: 372 test photographs of clothes, twice 744 pictures drawn by each",
)
assert claim.outcome == "holds"

# %% [markdown]
# The paper claims more: that such a network, if it only is large enough, draws better than diffusion models do. It
# reports an FID (a Frechet distance over the features of another network) of 2.18 with 3.1 billion parameters on
# ImageNet (abstract); the release lists 5.46 for its smallest network, of 111 million, on 16 x 16 codes. Ours has 4
# million, 3,068 photographs and no rival of the other kind, so we cannot judge that.
#
# ## Where it breaks
#
# **No way back.** A code that was drawn stays. Put one wrong code into the middle of row 6 of real photographs: what do
# the codes that follow pay more?

# %%
wrong = codes.clone()
wrong[:, 104] = (wrong[:, 104] + 2000) % 4096
paid = F.cross_entropy(model(wrong, labels).transpose(1, 2), wrong, reduction="none") / torch.tensor(2.0).log()
more = (paid - surprise).mean(0)
more[:105] = 0.0
figure, axes = viz.panel("Its neighbours pay for a wrong code", "column", "row", 4.6, 3.6)
drawn = axes.imshow(more.view(16, 16), cmap="RdBu_r", vmin=-2, vmax=2)
axes.plot(8, 6, "kx")
axes.grid(visible=False)
figure.colorbar(drawn, label="bits more than before")
viz.show(figure)

# %%
print(f"paid for one wrong code: {float(more.sum()):.0f} bits more by all that follow")
assert more.sum() > 2

# %% [markdown]
# The cells right of it and below are hit. In drawing nobody pays: a code that was drawn is believed, and all others are
# drawn to fit it. So it is in every order in which each code is drawn once.
#
# **One after another.** 256 calls, and none can begin before the last has ended, however many processors there are.
# The next lessons draw several codes in a call.
#
# ## Exercises
#
# **1. Cut off the tail.** Thousands of unlikely codes together are not unlikely. *Nucleus sampling* keeps the fewest
# likeliest codes whose probabilities reach p together. Set the logits of all others to minus infinity.


# %%
def nucleus(logits, p):
    return logits  # replace this: all are kept


def check_1(nucleus):
    logits = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log()
    for p, expected in ((0.4, [1]), (0.7, [1, 3]), (0.81, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        kept = nucleus(logits, p)[0].isfinite().nonzero().flatten().tolist()
        if kept != expected:
            return f"of probabilities 0.05, 0.5, 0.15, 0.3 and p = {p}, codes {expected} should stay, not {kept}"
    sure = nucleus(model(codes[:4], labels[:4]), 0.9).isfinite().sum(-1).float().mean()
    return f"right; with p = 0.9, of 4,096 codes {float(sure):.0f} stay on average"


check_1(nucleus)

# %% [markdown]
# **2. A generator that classifies.** By the rule of Bayes, the class that makes the codes likeliest is the best guess,
# if all classes are equally frequent. Return the best class of each picture. `network(codes, labels)` gives logits.


# %%
def which(network, codes):
    return torch.zeros(len(codes), dtype=torch.long)  # replace this: always class 0


# %%
class Three:  # a network of three classes that expects class 0 to draw 0s, class 1 to draw 1s, ...
    classes = 3

    def __call__(self, codes, labels):
        return 5 * F.one_hot(labels, 3)[:, None].expand(-1, codes.shape[1], -1).float()


def check_2(which):
    if which(Three(), torch.tensor([[2, 2, 0, 2], [1, 0, 1, 1]])).tolist() != [2, 1]:
        return "a picture of codes 2, 2, 0, 2 is most likely of class 2, one of 1, 0, 1, 1 of class 1"
    share = (which(model, codes[::2]) == labels[::2]).float().mean()
    return f"right; it names the class of {float(share):.0%} of {len(codes[::2])} photographs"


check_2(which)

# %% [markdown]
# **3. Finish a picture.** Given the first m codes of pictures, (b, m), draw the rest. Read the given ones in one call.


# %%
def finish(network, given, labels, seed=0):
    return draw(network, labels, seed=seed)  # replace this: it draws everything anew


def check_3(finish):
    calls, given = [], torch.arange(10)[None]
    hook = small.body.register_forward_hook(lambda *_: calls.append(1))
    whole = finish(small, given, torch.tensor([1]))
    hook.remove()
    if whole.shape != (1, 25) or not torch.equal(whole[:, :10], given):
        return f"the ten codes 0 to 9 should come first, and 25 in all; here are {whole[0].tolist()}"
    return "right: one call for each new code" if len(calls) == 15 else f"15 calls are enough, here were {len(calls)}"


check_3(finish)

# %% [markdown]
# Solutions: `notebooks/src/solutions/04_generate/01_raster.py`.
#
# ## What was left out
#
# LlamaGen also writes pictures for a text, whose vectors come first in the place of the class, and it trains its own
# tokenizer with a loss that asks a critic. Its rotary positions count rows and columns; ours count along the sequence,
# with learnt vectors besides. Read on: [NAR](06_nar.ipynb) draws a diagonal at a time, and
# [speculative sampling](../05_speculate/01_speculative.ipynb) spares calls without changing what is drawn.
