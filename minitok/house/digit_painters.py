"""`digit_painters`: decoders of digits from one bit a vector, with and without noise and a critic, for WeTok's lesson.

`codec` is the small autoencoder of `minitok.house.bottleneck` with one sign a vector, 49 bits a digit. The others begin
as its decoder and are trained on with encoder and signs frozen, for as many steps each: `noise` reads noise and has the
squared error alone, `critic` has a critic and no noise, `both` has both, as WeTok's second stage.
"""

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok import house
from minitok.data import mnist
from minitok.house._common import Options
from minitok.house.bottleneck import Bottleneck
from minitok.house.bottleneck import train as fit
from minitok.metrics import frechet_distance
from minitok.optimizers import Adam
from minitok.quantize import WeTok
from minitok.quantize.wetok import GenerativeDecoder, decoder_loss, discriminator_loss
from minitok.train import Plan, pick_device

DATA = "MNIST-5k: 4,000 digits to learn from, 1,000 held out"
PLAN = Plan(steps=600, lr=2e-3)
NOISE, WEIGHT = 8, 0.02


def build() -> nn.ModuleDict:
    """All of them by name, not trained."""
    codec = Bottleneck(WeTok(1, 1, entropy=0.03, commitment=0.01))
    read = {name: GenerativeDecoder(codec.decoder, NOISE) for name in ("noise", "both")}
    return nn.ModuleDict({"codec": codec, "critic": copy.deepcopy(codec.decoder)} | read)


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """The autoencoder for two thirds of the steps, then each decoder; nothing is kept in `folder`."""
    plan, images = options.apply(PLAN), mnist.load("train").images.to(pick_device(options.device))
    codec: Any = Bottleneck(WeTok(1, 1, entropy=0.03, commitment=0.01), seed=plan.seed).to(images.device)
    fit(codec, images, plan.steps * 2 // 3, 5e-3, plan.seed)
    maps = laid_out(codec, images)
    painters = {"critic": copy.deepcopy(codec.decoder)}
    painters |= {name: GenerativeDecoder(codec.decoder, NOISE).to(images.device) for name in ("noise", "both")}
    for name, painter in painters.items():
        second_stage(painter, maps, images, plan, 0.0 if name == "noise" else WEIGHT)
    return nn.ModuleDict({"codec": codec} | painters)


@torch.no_grad()
def laid_out(codec: Bottleneck, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 1 7 7"]:
    """The signs of pictures as maps, which the decoders read."""
    quantizer: Any = codec.quantizer
    return quantizer.decode(codec.codes(images)).transpose(1, 2).unflatten(2, (7, 7))


def discriminator() -> nn.Module:
    """The critic: one logit a digit; a spectral norm bounds how steep its layers are."""
    layers = [nn.Conv2d(4, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Linear(512, 1)]
    first, second, last = (nn.utils.parametrizations.spectral_norm(layer) for layer in layers)
    return nn.Sequential(nn.PixelUnshuffle(2), first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Flatten(), last)


def updater(module: nn.Module, lr: float, steps: int) -> Callable[[Tensor], None]:
    """A function that takes a step of Adam down a loss; the rate falls to 0 in the second half of the steps."""
    optimizer = Adam(module.parameters(), lr=lr, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, 2 - 2 * i / steps))

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    return update


def second_stage(
    painter: nn.Module, maps: Float[Tensor, "n 1 7 7"], images: Float[Tensor, "n 1 28 28"], plan: Plan, weight: float
) -> nn.Module:
    """Trains a decoder in place by squared error and `weight` times the critic's word, and the critic beside it."""
    torch.manual_seed(plan.seed)
    critic = discriminator().to(images.device)
    paint, judge = updater(painter, plan.lr, plan.steps), updater(critic, 2 * plan.lr, plan.steps)
    for _ in range(plan.steps):
        rows = torch.randint(len(images), (32,), device=images.device)
        fake = painter(maps[rows])
        loss = F.mse_loss(fake, images[rows])
        paint(loss + weight * decoder_loss(critic(fake)) if weight else loss)
        if weight:
            judge(discriminator_loss(critic(images[rows]), critic(fake.detach())))
    return painter.eval()


@torch.no_grad()
def quick(models: nn.ModuleDict) -> dict[str, float]:
    """Frechet distance of 500 painted digits to those that they stand for, on features of `digits`."""
    images, classifier = mnist.load("test").images[::2], house.load("digits")
    maps, real, found = laid_out(models["codec"], images), classifier.features(images), {}  # pyright: ignore
    for name, model in models.items():
        torch.manual_seed(0)
        painter = model.decoder if name == "codec" else model
        painted = painter(maps).clamp(0, 1)  # pyright: ignore[reportCallIssue]
        found[f"Frechet distance of {name} (features of digits)"] = frechet_distance(classifier.features(painted), real)
    return found


measure = quick
