# %% [markdown]
# # Generation: the overview
#
# **Chapter 4.** In which order does a network draw the codes of a picture, and how many of them from one call?
# **Code:** `minitok/generate/`, one file a method; what they share is in `_common.py`.
# **Read first:** [vector quantization](../01_quantize/01_vq.ipynb): a tokenizer turns a photograph into *codes*, whole
# numbers, and paints a picture from any codes.
#
# Each method has a lesson of its own; this page sets them side by side.

# %%
import textwrap

import torch

from minitok import house, stages, viz
from minitok.data import clothing
from minitok.generate import Schedule, generate
from minitok.metrics import difference
from minitok.nn import Cache
from minitok.stages.generate import Several

# %% [markdown]
# ## The problem
#
# The house's tokenizer makes 16 x 16 codes from 0 to 4,095 of a photograph of 64 x 64 pixels. A *generator* draws such
# codes anew, and they must fit each other. The safe way is to draw one code after another, each with all earlier ones
# known: 256 calls of a network, one waiting for the other. Codes that are drawn from one call cannot know of each
# other. So calls are traded for quality, and much depends on *which* codes are drawn together.
#
# ## The contract: generation is a schedule
#
# A method is a network with a `schedule`: groups of positions, in the order in which they are drawn. Together the
# groups hold each position once.

# %%
models = {"raster": house.load("image_gpt"), "nar": house.load("nar")}
models["8 codes a call"] = Several(models["raster"], 8)
for name, model in models.items():
    groups = model.schedule.groups
    print(f"{name:15} {len(groups):3} groups of up to {max(map(len, groups)):2} cells; the second: {groups[1]}")

# %% [markdown]
# `raster` reads a picture like a text, `nar` draws a whole diagonal at once. `8 codes a call` is what somebody in a
# hurry does with the network of `raster`: draw the next 8 codes, all by the prediction for the first of them.

# %%
figures = []
for model in models.values():
    turn = torch.zeros(256)
    for t, group in enumerate(model.schedule.groups):
        turn[list(group)] = t / len(model.schedule)
    figures.append(turn.view(1, 16, 16).expand(3, -1, -1))
viz.show(viz.images(torch.stack(figures), [*models], height=1.92, title="Dark cells are drawn first, white ones last"))

# %% [markdown]
# One loop serves them all. For each group: ask the network for the logits (scores) of its codes, given all groups
# before; draw each code by its own probabilities; go on. This is it, without checks and without *guidance* (lesson 1:
# the network is asked with the class and without it, and what the class adds is enlarged):


# %%
@torch.no_grad()
def loop(model, labels, seed=0):
    generator, cache = torch.Generator().manual_seed(seed), Cache()  # the cache keeps what was read
    parts, new = [], labels.new_zeros(len(labels), 0)
    for group in model.schedule.groups:
        logits = model.step(new, labels, cache)  # b, codes of the group, 4096
        new = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(len(labels), len(group))
        parts.append(new)
    return torch.cat(parts, dim=1)[:, torch.tensor(model.schedule.order).argsort()]


# %%
pants = torch.tensor([clothing.CLASSES.index("pants")])
drawn = {name: generate(model, pants, seed=3) for name, model in models.items()}
for name, model in models.items():
    assert drawn[name].calls == len(model.schedule)
    if len(model.schedule) < 256:  # raster order would agree as well, but takes its time
        assert torch.equal(loop(model, pants, seed=3), drawn[name].codes)
    print(f"{name:15} {drawn[name].calls} calls")

# %% [markdown]
# The contract, which a test holds for every method: no prediction depends on codes of its own group or of later ones
# (disturb them and compare); step by step the network says what it says of a whole picture; it is called once a group;
# one seed gives one picture.
#
# ## Two schedules side by side
#
# Left, raster order; right, diagonals, by the same clock: four calls from frame to frame. What is not drawn is blank.

# %%
tokenizer = house.load("tokenizer")


def after(name, calls):
    """The picture after so many calls; a gray code, number 2,340, stands in for what is not drawn yet."""
    done = torch.zeros(256, dtype=torch.bool)
    done[[k for group in models[name].schedule.groups[:calls] for k in group]] = True
    picture = tokenizer.decode(torch.where(done, drawn[name].codes, 2340)[..., None])
    return torch.where(done.view(1, 1, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3), picture, 0.93)


# %%
clock = range(4, 260, 4)
last = {name: after(name, 256) for name in models}
frames = {name: [after(name, t) if t < len(models[name].schedule) else last[name] for t in clock] for name in models}
between = torch.ones(len(clock), 3, 64, 4)
film = torch.cat([torch.cat(frames["raster"]), between, torch.cat(frames["nar"])], dim=3)
viz.animation(film, seconds=8, scale=3, alt="raster order fills row by row while diagonals are long done")

# %% [markdown]
# Stop the clock where you like. (Sliders need a running kernel.)


# %%
def stopped(calls=24):
    titles = [f"{name}\n{min(calls, len(model.schedule))} calls" for name, model in models.items()]
    return viz.show(viz.images(torch.cat([after(name, calls) for name in models]), titles, height=1.28), photo=True)


stopped()

# %%
control = viz.slider(stopped, calls=[1, 4, 8, 16, 24, 32, 64, 128, 256])
viz.ends(control)
control

# %% [markdown]
# ## The league, in small
#
# Three questions to a generator. What does it *pay* for real photographs: $-\log_2 p$ bits for a code that it gave the
# probability p? Does the house's classifier `vit` take its pictures for the class asked for? Do they look right? One
# call of the stage gives a row.

# %%
stage = stages.generate.stage(images=13)
rows = {name: stage.measure(model, draw=6) for name, model in models.items()}
rows["neighbours"] = stage.measure(stage.counts["neighbours"])
print(stage.data, stages.generate.table(rows), sep="\n\n")
assert rows["raster"].bits < rows["neighbours"].bits < rows["8 codes a call"].bits

# %%
asked = torch.arange(0, 10, 2)
pictures = [tokenizer.decode(generate(model, asked, seed=2).codes[..., None]) for model in models.values()]
title = "Above raster, then nar, below 8 codes a call"
names = [clothing.CLASSES[k] for k in asked] + [""] * 10
viz.show(viz.images(torch.cat(pictures), names, columns=5, height=0.96, title=title), photo=True)

# %% [markdown]
# Ten pictures prove nothing; this only shows how the table is made.
#
# ## The league table
#
# A command draws hundreds of pictures with every method and judges them alike:

# %%
facts = stages.load("generate")
print(textwrap.fill(f"{facts['how']} Made by `{facts['made']['by']}`.", 110))

# %%
print(stages.table(facts))

# %% [markdown]
# How to read it. `bits` says whether a method knows what is likely; not knowing anything costs 12, and to be sure of
# the wrong thing, as 8 codes a call is, costs more. `Frechet` says whether what it draws is distributed like
# photographs, as `vit` sees them: lower is better, and `real` is where other photographs of the same classes stand. It
# is not the FID of the literature, and small sets give higher values than large ones: compare only values of this
# table, and tell no two apart whose gap is not clearly above their `spread`. `right` says whether the class was heeded,
# `slant` is explained in the lesson on `nar`.

# %%
table = {row["method"]: row for row in facts["rows"]}
title = "Diagonals: an eighth of the calls"
figure, axes = viz.panel(title, "calls of the network for one picture", "Frechet distance (lower is better)", 6.4, 4)
for name, row in table.items():
    x, y, ink = row.get("calls"), row["Frechet"], viz.OURS if name.startswith("nar") else viz.BASELINE
    if x:
        axes.plot(x, y, "o", color=ink)
        shift, side = (-8 if x > 100 else 8, -8 if "guidance" in name else 8), "right" if x > 100 else "left"
        axes.annotate(name, (x, y), shift, textcoords="offset points", ha=side, va="center")
    elif name != "unigram":
        axes.axhline(y, color=viz.MUTED, linestyle="--", linewidth=1.5)
        axes.annotate(name, (330, y), (0, 4), textcoords="offset points", ha="right")

# %%
axes.set(xscale="log", yscale="log", xlim=(24, 340), ylim=(3.7, 110), xticks=[32, 64, 128, 256], yticks=[5, 10, 20, 50])
axes.set(xticklabels=["32", "64", "128", "256"], yticklabels=["5", "10", "20", "50"])
axes.minorticks_off()
viz.show(figure)

# %% [markdown]
# Upper left, few calls and no picture; lower right, good pictures and many calls. One wants to be at the lower left.

# %%
raster, nar, rash = table["raster"], table["nar"], table["raster, 8 codes a call"]
guided, near = table["nar, guidance 1.5"], table["neighbours"]
print(f"CPU time of one picture, raster to nar: {raster['alone'] / nar['alone']:.1f} to 1", end="; ")
print(f"in a batch of 32: {raster['in 32'] / nar['in 32']:.1f} to 1")
assert len(models["nar"].schedule) == nar["calls"] < raster["calls"] / 8
assert raster["Frechet"] + 1 < nar["Frechet"] < near["Frechet"] / 2
assert guided["Frechet"] + 1 < nar["Frechet"]
assert abs(table["raster, guidance 1.5"]["Frechet"] - raster["Frechet"]) < 0.5
assert rash["Frechet"] > near["Frechet"]

# %% [markdown]
# ## Your own method
#
# A schedule, and a network that serves it. `Growing` hurries more and more: the first rows of a picture, from which all
# else follows, one code a call; later ones 4 a call, each by the logits of the first of them. Change its groups.


# %%
class Growing:
    def __init__(self, model, alone=128, together=4):
        groups = [range(k, k + 1) for k in range(alone)] + [range(k, k + together) for k in range(alone, 256, together)]
        self.model, self.classes, self.schedule = model, model.classes, Schedule(tuple(map(tuple, groups)))
        self.first = torch.tensor([group[0] for group in groups for _ in group])

    def __call__(self, codes, labels):
        return self.model(codes, labels)[:, self.first]

    def step(self, new, labels, cache):
        following = len(cache) + new.shape[1] - (len(cache) > 0)  # the class is a token too
        return self.model.step(new, labels, cache).expand(-1, int((self.first == following).sum()), -1)


# %% [markdown]
# The contract on it (its heart; the chapter's tests ask more), and its row:


# %%
def contract(method, codes, labels):
    whole, cache, new = method(codes, labels), Cache(), codes[:, :0]
    for group in map(list, method.schedule.groups):
        assert difference(method.step(new, labels, cache), whole[:, group]) < 1e-3  # drawn as it was priced
        new = codes[:, group]


contract(Growing(models["raster"]), stage.codes[:2], stage.labels[:2])
mine = {"yours": stage.measure(Growing(models["raster"]), draw=4)}
print(stages.generate.table(mine | {name: rows[name] for name in ("raster", "8 codes a call")}))
assert mine["yours"].calls == 160

# %% [markdown]
# `minitok league generate` makes the whole table; a method gets its row by a line in `methods` of
# `minitok/stages/generate.py`. An interrupted run goes on where it was.
#
# ## What to take home
#
# - **Counting neighbours is not enough:** in the table it is far from every network that knows the whole past. Lesson 1
#   shows its patches of colour.
# - **Several codes from one call, without training for it,** is the worst bargain: few calls, and pictures that are no
#   nearer to photographs than those of counted neighbours.
# - **Diagonals** take an eighth of the calls. Their pictures are worse than those of raster order, and much better than
#   those of counts. Time falls less than calls do, since the operations stay: each call works more.
# - **Guidance** doubles the operations. The class is clearer for both orders; the Frechet distance falls for diagonals
#   only.
#
# ## The way through the chapter
#
# - Lesson 1, [raster autoregression](01_raster.ipynb): one code after another. Begin here: all others are measured
#   against it.
# - Lesson 6, [NAR](06_nar.ipynb): the next neighbours, a diagonal at a time.
#
# Other orders are planned (`minitok papers --chapter generate` lists them): masks, scales, cells, pivots.
