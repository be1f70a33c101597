"""`vit`: a vision transformer with a CLS token on the clothing photographs: 64x64 pixels, 256 patch tokens, 10 classes.

Three thousand photographs are few for a transformer, which knows nothing of images. So a convolutional network
learns them first, and the transformer learns to say what it says about endless random views of them (a patient and
consistent teacher, arXiv 2106.05237). Only the transformer is kept.
"""

import itertools
import pathlib

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import augment, clothing
from minitok.house._common import Options, batches, in_chunks
from minitok.metrics import accuracy
from minitok.nn import Shape
from minitok.train import Plan, fit, pick_device
from minitok.vit import ViT

DATA = "clothing photographs, 64x64: 3,068 to learn from, 341 to choose by, 372 held out"
TEACHER_PLAN = Plan(steps=3000, lr=2e-3, weight_decay=0.1, ema=0.998, compile=True)
PLAN = Plan(steps=7000, lr=1e-3, warmup=500, weight_decay=0.05, ema=0.999, compile=True)


def build() -> ViT:
    """3.8 million parameters; tokens know their place by a learnt table, not by rotary positions."""
    return ViT(Shape(width=192, layers=8, heads=3, pairing=None))


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input passes; a stride halves the map."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(c_out), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        return self.skip(x) + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Teacher(nn.Module):
    """A small residual network (11 million parameters), used in training only."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(Residual(c_in, c_out, 1 + (i > 0)), Residual(c_out, c_out, 1))
            for i, (c_in, c_out) in enumerate(itertools.pairwise(widths))
        )
        self.norm, self.head = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], classes)

    def maps(self, images: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """The feature map after each of the four stages."""
        x, maps = self.stem((images * 2 - 1).to(self.head.weight.dtype)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
        return self.head(F.relu(self.norm(self.maps(images)[-1])).mean((2, 3)))


def view(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """A strong random view: window, turn, mirror, colours, a missing square."""
    images = augment.affine(images, zoom=(0.55, 1.1), degrees=20.0, shift=0.1, flip=True, squeeze=1.5)
    return augment.erase(augment.recolour(images, 0.4))


def mixed(images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b 3 H W"], Tensor, Tensor]:
    """Each image blended with another one: the blend, the other's row, and the share of the first (mixup)."""
    other = torch.randperm(len(images), device=images.device)
    share = torch.rand(len(images), device=images.device) * 0.5 + 0.5
    share = torch.where(torch.rand_like(share) < 0.5, share, torch.ones_like(share))
    weight = share[:, None, None, None]
    return images * weight + images[other] * (1 - weight), other, share


def train_teacher(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy on strong views, half of them blended with another image."""
    data = clothing.load("train")
    draw = batches(pick_device(options.device), data.images, data.labels)

    def loss(model: nn.Module, step: int) -> Tensor:
        images, labels = draw(256)
        images, other, share = mixed(view(images))
        logits = model(images.contiguous(memory_format=torch.channels_last))
        first = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
        second = F.cross_entropy(logits, labels[other], reduction="none", label_smoothing=0.1)
        return (share * first + (1 - share) * second).mean()

    model = Teacher().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return fit(model, loss, options.apply(TEACHER_PLAN), folder, **options.where())


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """The teacher first, then the transformer, which matches the teacher's class probabilities on the same views."""
    teacher = train_teacher(folder / "teacher", options)
    draw = batches(pick_device(options.device), clothing.load("train").images)

    def loss(model: nn.Module, step: int) -> Tensor:
        (images,) = draw(256)
        images, _, _ = mixed(view(images))
        with torch.no_grad():
            target = teacher(images.contiguous(memory_format=torch.channels_last)).float().softmax(-1)
        return F.cross_entropy(model(images).float(), target)

    return fit(build(), loss, options.apply(PLAN), folder / "vit", **options.where())


def quick(model: ViT) -> dict[str, float]:
    """Accuracy on every eighth test photograph: a figure of the card that a test recomputes in seconds."""
    data = clothing.load("test")
    right = accuracy(in_chunks(model, data.images[::8]), data.labels[::8])
    return {"accuracy on every eighth test photograph (%)": 100 * right}


def measure(model: ViT) -> dict[str, float]:
    """Accuracy on the photographs that nothing was learnt from."""
    figures = quick(model)
    for split in ("validation", "test"):
        data = clothing.load(split)
        right = accuracy(in_chunks(model, data.images), data.labels)
        figures[f"accuracy on the {len(data.labels)} {split} photographs (%)"] = 100 * right
    return figures


def cls_features(images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 192"]:
    """The shipped model's CLS features, over which the project's Frechet distance on photographs is taken."""
    from minitok import house

    device = pick_device()
    model = house.load("vit").to(device)
    return in_chunks(lambda x: model.tokens(x.to(device))[:, 0].cpu(), images)
