"""`digits`: a small convolutional classifier of MNIST-5k; its features serve the experiments that train live."""

import pathlib

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import augment, mnist
from minitok.house._common import Options, batches
from minitok.metrics import accuracy
from minitok.train import Plan, fit, pick_device

DATA = "MNIST-5k: 4,000 digits to learn from, 1,000 held out"
PLAN = Plan(steps=3000, lr=2e-3, weight_decay=0.02, ema=0.998)


class DigitNet(nn.Module):
    """Three stages of two 3x3 convolutions, each halving the image; 128 features; ten classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((1, 32), (32, 64), (64, 128)):
            for c in (c_in, c_out):
                layers += [nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.body, self.head = nn.Sequential(*layers), nn.Linear(128, 10)

    def features(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 128"]:
        """What the digit looks like to the classifier: the mean over its last feature map."""
        return self.body(images.to(self.head.weight.dtype)).mean((2, 3))

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        return self.head(self.features(images))


build = DigitNet


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy on digits that are turned, moved, and resized a little."""
    data = mnist.load("train")
    draw = batches(pick_device(options.device), data.images, data.labels)

    def loss(model: nn.Module, step: int) -> Tensor:
        images, labels = draw(128)
        images = augment.affine(images, zoom=(0.85, 1.2), degrees=12.0, shift=0.1, squeeze=1.2)
        return F.cross_entropy(model(images), labels, label_smoothing=0.05)

    return fit(build(), loss, options.apply(PLAN), folder, **options.where())


def quick(model: DigitNet) -> dict[str, float]:
    """Accuracy on the held-out digits."""
    held_out = mnist.load("test")
    return {"accuracy on 1,000 held-out digits (%)": 100 * accuracy(model(held_out.images), held_out.labels)}


measure = quick
