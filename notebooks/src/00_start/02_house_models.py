# %% [markdown]
# # The house models
#
# Many methods of the course need a model that has really learnt something: nothing can be said about pruning tokens of
# an untrained network. So the project trained a few small models and ships them. Each has a *card* with its recipe,
# its data, and figures measured on data that it has not seen. Here we look at each, and measure some figures again.

# %%
import torch

from minitok import house, viz
from minitok.data import clothing, mnist, picture
from minitok.house import image_gpt
from minitok.house.sampling import sample
from minitok.metrics import accuracy, flops, parameters, psnr

# %%
models = {name: house.load(name) for name in house.NAMES}
for name, model in models.items():
    card = house.card(name)
    minutes, where = card["trained"]["seconds"] / 60, card["trained"]["device"]
    print(f"{name:12} {parameters(model) / 1e6:.1f} M parameters, {minutes:4.1f} minutes on {where}")

# %% [markdown]
# The larger ones were trained on 3,068 photographs of clothes in ten classes (CC0). They are a download of 106 MB,
# which this page does not start by itself: `python do.py data --clothing` does. Without them, the cells below that
# need them only show the card's figures.

# %%
there = clothing.at_hand()
test = clothing.load("test") if there else None
print("the photographs of clothes are", "here" if there else "not here: showing the cards' figures")


# %%
def compare(name, figure, measured):
    recorded = house.card(name)["figures"][figure]
    again = "not measured now" if measured is None else f"measured now: {measured:.1f}"
    print(f"{figure}: {recorded:.1f} on the card, {again}")
    assert measured is None or abs(measured - recorded) < 0.2


# %% [markdown]
# ## `digits`: a classifier that experiments can afford
#
# Three stages of convolutions, trained on 4,000 MNIST digits that were turned, moved and resized a little. Its features
# tell digits apart, so they can judge whether a rebuilt or generated digit still looks like one.

# %%
digits = mnist.load("test")
with torch.no_grad():
    logits = models["digits"](digits.images)
compare("digits", "accuracy on 1,000 held-out digits (%)", 100 * accuracy(logits, digits.labels))

# %%
wrong = (logits.argmax(-1) != digits.labels).nonzero().flatten()[:8]
titles = [f"{int(digits.labels[i])}, said {int(logits[i].argmax())}" for i in wrong]
viz.show(viz.images(digits.images[wrong], titles, height=1.0, title="Some of its few errors"))

# %% [markdown]
# ## `vit`: a vision transformer with 256 tokens
#
# It reads 64 x 64 pixels as 16 x 16 patch tokens and one CLS token, from which it names the class. Transformers need
# many images, and there are few, so a convolutional network learnt first and then taught it: the transformer was
# trained to say what the teacher says about endless random views.

# %%
every_eighth = test.images[::8] if there else None
measured = None
if there:
    with torch.no_grad():
        measured = 100 * accuracy(models["vit"](every_eighth), test.labels[::8])
compare("vit", "accuracy on every eighth test photograph (%)", measured)
print("on all 372:", round(house.card("vit")["figures"]["accuracy on the 372 test photographs (%)"], 1))

# %% [markdown]
# Where does it look? The attention of the CLS token says which patches the answer is read from; here the mean over the
# last four layers. `on_layer` lets us see inside. Chapter 6 uses the same seam to remove or merge tokens.

# %%
image = test.images[24:25] if there else picture.load()[None]
maps = []
models["vit"](image, on_layer=lambda layer: maps.append(layer.attention))
looked = torch.stack(maps[-4:])[:, 0, :, 0, 1:].mean((0, 1)).view(1, 1, 16, 16)
looked = (looked / looked.max()).sqrt().repeat_interleave(4, 2).repeat_interleave(4, 3)
seen = torch.cat([image, image * looked])
viz.show(viz.images(seen, ["a picture", "bright: CLS looks here"], height=1.92), photo=True)

# %% [markdown]
# The features of CLS also define the *Frechet distance* of this course: how far apart two sets of pictures are, as
# `vit` sees them. It is not the FID of the literature, which uses another network, so compare it only within the
# course.
#
# ## `tokenizer`: pictures to codes and back

# %%
measured = None
if there:
    rebuilt = models["tokenizer"].decode(models["tokenizer"].encode(every_eighth))
    measured = float(psnr(rebuilt, every_eighth).mean())
compare("tokenizer", "PSNR of every eighth test photograph (dB)", measured)
figures = house.card("tokenizer")["figures"]
for name in ("JPEG", "WEBP", "codes"):
    dB, distance = figures[f"PSNR from {name} (dB)"], figures[f"Frechet distance from {name}"]
    print(f"{name:6} at 384 bytes: {dB:4.1f} dB, Frechet distance {distance:4.1f}")

# %%
pictures = every_eighth[:5] if there else picture.load()[None]
pair = torch.cat([pictures, models["tokenizer"].decode(models["tokenizer"].encode(pictures))])
title = "Above: never seen in training. Below: from 384 bytes of codes"
viz.show(viz.images(pair, columns=len(pictures), height=0.96, title=title if there else ""), photo=True)

# %% [markdown]
# ## `image_gpt` and `image_draft`: pictures one code after another
#
# `image_gpt` is a causal transformer over the tokenizer's codes. One figure of a generator is how well it predicts real
# codes, in bits: 12 would be blind guessing. The other is how its own pictures are distributed.

# %%
measured = None
if there:
    some = models["tokenizer"].encode(test.images[::30])[..., 0]
    measured = image_gpt.bits_per_code(models["image_gpt"], some, test.labels[::30])
compare("image_gpt", "bits a code on every thirtieth test photograph", measured)
for figure, value in house.card("image_gpt")["figures"].items():
    print(f"  {figure}: {value:.1f}")

# %% [markdown]
# Read the three Frechet distances together: 5,000 drawn pictures, the real training photographs, and the test
# photographs rebuilt from their own codes, each against the test photographs. The last is what the tokenizer alone
# costs. The one in the middle is not small: `vit` is surer about photographs that it has learnt from.

# %%
labels = torch.arange(10).repeat(2)
codes = sample(models["image_gpt"], labels, guidance=2.0, seed=0)
drawn = models["tokenizer"].decode(codes[..., None])
titles = [*clothing.CLASSES, *[""] * 10]
viz.show(viz.images(drawn, titles, columns=10, height=0.64), photo=True, alt="two drawn pictures a class")

# %% [markdown]
# Are they copies? Below each of the first ten is the nearest training photograph (mirrored or not), by the squared
# difference of pixels: alike in tone and background, but another piece.

# %%
if there:
    train = clothing.load("train").images
    both = torch.cat([train, train.flip(3)])
    nearest = both[torch.cdist(drawn[:10].flatten(1), both.flatten(1)).argmin(1)]
    shown = viz.images(torch.cat([drawn[:10], nearest]), columns=10, height=0.64)
viz.show(shown, photo=True, alt="drawn pictures above their nearest photographs") if there else None

# %% [markdown]
# `image_draft` guesses what `image_gpt` will say, at a sixth of the cost. How often the two agree is what speculative
# decoding (chapter 5) lives on.

# %%
codes, label = torch.zeros(1, 255, dtype=torch.long), torch.zeros(1, dtype=torch.long)
cost = [flops(models[name], codes, label) / 256e6 for name in ("image_gpt", "image_draft")]
print(f"image_gpt {cost[0]:.1f}, image_draft {cost[1]:.1f} million operations a code")
acceptance = house.card("image_draft")["figures"]["acceptance, the overlap of both models' probabilities (%)"]
print(f"codes of the draft that would be accepted: {acceptance:.0f} %")
assert cost[0] / cost[1] >= 6

# %% [markdown]
# ## Train them yourself
#
# `python do.py train vit` makes `vit` anew, with a progress bar, on a GPU where there is one; after an interruption the
# same command goes on. `--steps 100` gives a quick try. The recipes are short files in `minitok/house/`.
