"""`image_gpt`: draws a photograph of a given class code by code, in raster order, with the codes of `tokenizer`.

A causal Transformer reads the class and the codes so far and gives the probabilities of the next one. The vectors by
which it reads codes also read its answer (tied weights). In training a code's vector is its own plus one for each of
its four levels, so that codes which look alike are alike from the start; what is shipped holds the sum.
"""

import pathlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from minitok import metrics
from minitok.data import augment, clothing
from minitok.generate.nar import NAR
from minitok.generate.raster import ImageGPT
from minitok.house._common import Options, batches, in_chunks
from minitok.house.sampling import ANY, GUIDANCE, TEMPERATURE, draw
from minitok.house.tokenizer import Tokenizer
from minitok.house.vit import cls_features
from minitok.metrics import accuracy, frechet_distance
from minitok.nn import Shape
from minitok.train import Plan, fit, pick_device

DATA = "codes of random views of 3,068 clothing photographs; 341 to choose by, 372 held out"
PLAN = Plan(steps=8000, lr=1e-3, warmup=500, weight_decay=0.1, ema=0.999, compile=True)
K = 4096


class PlusLevels(nn.Module):
    """Adds to each code's vector those of its four levels; a parametrization that training puts on and takes off."""

    chosen: Tensor

    def __init__(self, c: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.randn(32, c) * 0.02)
        digits = torch.arange(K)[:, None] // 8 ** torch.arange(4) % 8
        chosen = F.one_hot(digits + 8 * torch.arange(4), 32).sum(1).float()  # K 32
        self.register_buffer("chosen", chosen, persistent=False)

    def forward(self, code: Float[Tensor, "K c"]) -> Float[Tensor, "K c"]:
        return code + self.chosen @ self.level


def build() -> ImageGPT:
    """3.9 million parameters, of which the 4,096 codes hold 0.9 million."""
    return ImageGPT(Shape(width=224, layers=5, heads=4, dropout=0.1))


def views(device: torch.device, tokenizer: Tokenizer) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function that draws the codes and labels of b photographs, each mirrored, moved and cropped a little."""
    data = clothing.load("train")
    draw = batches(device, data.images, data.labels)

    @torch.no_grad()
    def codes(b: int) -> tuple[Tensor, Tensor]:
        images, labels = draw(b)
        images = augment.affine(images, zoom=(0.85, 1.0), flip=True, squeeze=1.1)
        dropped = torch.rand(len(labels), device=device) < 0.1
        return tokenizer.encode(images)[..., 0], torch.where(dropped, ANY, labels)

    return codes


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of each code given the class and the codes before it."""
    return train_on_views(build(), options.apply(PLAN), folder, options)


def train_on_views(model: ImageGPT | NAR, plan: Plan, folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of all codes of random views, 128 a step, whatever the model's schedule."""
    from minitok import house

    device = pick_device(options.device)
    draw = views(device, house.load("tokenizer").to(device))

    def loss(model: nn.Module, step: int) -> Tensor:
        codes, labels = draw(128)
        return F.cross_entropy(model(codes, labels).float().flatten(0, 1), codes.flatten())

    return fit_with_levels(model, loss, plan, folder, options)


def fit_with_levels(
    model: ImageGPT | NAR, loss: Callable, plan: Plan, folder: pathlib.Path, options: Options
) -> nn.Module:
    """`fit` with the levels' vectors added to those of the codes, and summed up at the end."""
    parametrize.register_parametrization(model, "code", PlusLevels(model.code.shape[1]))
    fit(model, loss, plan, folder, **options.where())
    parametrize.remove_parametrizations(model, "code", leave_parametrized=True)
    return model


@torch.no_grad()
def bits_per_code(model: nn.Module, codes: Int[Tensor, "b 256"], labels: Int[Tensor, "b"]) -> float:
    """The mean cross-entropy in bits of codes given their labels, 64 pictures at a time."""
    parts = zip(codes.split(64), labels.split(64), strict=True)
    return sum(metrics.bits_per_code(model(c, y), c) * len(c) for c, y in parts) / len(codes)


def quick(model: ImageGPT | NAR) -> dict[str, float]:
    """Bits a code on every thirtieth test photograph: a figure of the card that a test recomputes in seconds."""
    from minitok import house

    test, device = clothing.load("test"), next(model.parameters()).device
    codes = house.load("tokenizer").encode(test.images[::30])[..., 0].to(device)
    bits = bits_per_code(model, codes, test.labels[::30].to(device))
    return {"bits a code on every thirtieth test photograph": bits}


def generates(model: ImageGPT | NAR) -> dict[str, float]:
    """Bits a code on held-out photographs, and how 5,000 samples are distributed beside them."""
    from minitok import house

    device = pick_device()
    model, test = model.to(device), clothing.load("test")
    codes = in_chunks(house.load("tokenizer").encode, test.images)[..., 0]
    labels = clothing.load("train").labels.repeat(2)[:5000].to(device)
    pictures = draw(model, labels)
    right = accuracy(in_chunks(house.load("vit"), pictures), labels.cpu())
    distance = frechet_distance(cls_features(pictures), cls_features(test.images))
    return {
        "bits a code on the test photographs": bits_per_code(model, codes.to(device), test.labels.to(device)),
        "Frechet distance of 5,000 samples": distance,
        "samples that vit takes for the class asked for (%)": 100 * right,
        "guidance": GUIDANCE,
        "temperature": TEMPERATURE,
        **quick(model),
    }


def measure(model: ImageGPT) -> dict[str, float]:
    """What is measured of a generator, and two Frechet distances that say what 0 could not be expected of it."""
    from minitok import house

    tokenizer, test = house.load("tokenizer"), clothing.load("test").images
    features = cls_features(test)
    rebuilt = in_chunks(lambda x: tokenizer.decode(tokenizer.encode(x)), test)
    return {
        **generates(model),
        "Frechet distance of the training photographs": frechet_distance(
            cls_features(clothing.load("train").images), features
        ),
        "Frechet distance of the rebuilt test photographs": frechet_distance(cls_features(rebuilt), features),
    }
