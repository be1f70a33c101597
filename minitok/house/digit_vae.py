"""`digit_vae`: a finished autoencoder of digits for TokenBridge's lesson, and the heads that predict its codes.

`vae` is the network of `minitok.house.bottleneck` as a variational autoencoder with 8 channels, `book` 256 codes that
k-means finds among its latents. The heads predict the codes of a vector, 16 levels a channel, from the class, the
position and four neighbours: `low` and `high` in turn, channels of low or of high frequencies first, `independent` all
at once, `blind` as `low`, but given zeros for the channels before.
"""

import pathlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import mnist
from minitok.house._common import Options, in_chunks
from minitok.house.bottleneck import Bottleneck, parts
from minitok.house.digit_codecs import kmeans
from minitok.metrics import bits_per_code
from minitok.optimizers import Adam
from minitok.quantize import VQ, TokenBridge
from minitok.quantize.tokenbridge import ChannelHead, frequency_order
from minitok.train import Plan, pick_device

DATA = "MNIST-5k: 3,600 digits to learn from, 400 to choose settings by, 1,000 held out"
PLAN = Plan(steps=600, lr=1e-2)
D, LEVELS, WIDTH = 8, 16, 10 + 49 + 4 * 8
RATES = {"low": 2e-2, "high": 2e-2, "independent": 4e-2, "blind": 4e-2}


class Vae(nn.Module):
    """Encoder and decoder; the encoder gives each latent a mean and a spread, of which the lesson takes the means."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Bottleneck(None, d=2 * D).encoder, Bottleneck(None, d=D).decoder

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, ""]:
        """The training loss: the squared error of a sample, and a small KL divergence from N(0, 1)."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return F.mse_loss(self.decoder(z), images) + 1e-3 * kl

    @torch.no_grad()
    def latents(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 49 d"]:
        """The means, one vector a position."""
        return in_chunks(lambda part: self.encoder(part).chunk(2, 1)[0].flatten(2).transpose(1, 2), images)

    @torch.no_grad()
    def picture(self, z: Float[Tensor, "b 49 d"]) -> Float[Tensor, "b 1 28 28"]:
        """The pictures of latents, in [0, 1]."""
        return self.decoder(z.transpose(1, 2).unflatten(2, (7, 7))).clamp(0, 1)


class Independent(nn.Module):
    """Predicts all channels at once."""

    def __init__(self, hidden: int = 112) -> None:
        super().__init__()
        inner = nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, D * LEVELS)
        self.net = nn.Sequential(nn.Linear(WIDTH, hidden), nn.SiLU(), *inner)

    def forward(self, condition: Float[Tensor, "b n e"], codes: Int[Tensor, "b n d"]) -> Float[Tensor, "b n d v"]:
        return self.net(condition).unflatten(-1, (D, LEVELS))


class Blind(ChannelHead):
    """The Transformer of `ChannelHead`, given zeros in place of the codes before."""

    def forward(self, condition: Float[Tensor, "b n e"], codes: Int[Tensor, "b n d"]) -> Float[Tensor, "b n d v"]:
        return super().forward(condition, torch.zeros_like(codes))


def build() -> nn.ModuleDict:
    """All of them by name, not trained."""
    low, high, blind = (kind(D, LEVELS, WIDTH, width=32, layers=1) for kind in (ChannelHead, ChannelHead, Blind))
    heads = {"low": low, "high": high, "independent": Independent(), "blind": blind}
    return nn.ModuleDict({"vae": Vae(), "book": VQ(D, 256), **heads})


def known(values: Float[Tensor, "b 49 d"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b 49 e"]:
    """What a head is told of each position: the values left of it and of the three above, the class, the position."""
    grid = F.pad(values.transpose(1, 2).unflatten(2, (7, 7)), (1, 1, 1, 0))  # zeros around
    near = [grid[:, :, 1:, :7], grid[:, :, :7, 1:8], grid[:, :, :7, :7], grid[:, :, :7, 2:]]
    kind, place = F.one_hot(labels, 10)[:, None].expand(-1, 49, -1), torch.eye(49, device=values.device)
    return torch.cat([torch.cat(near, 1).flatten(2).transpose(1, 2), kind, place.expand(len(values), -1, -1)], 2)


def bridge(vae: Vae, images: Float[Tensor, "n 1 28 28"]) -> TokenBridge:
    """The layer whose codes the heads predict, its range fitted to pictures to learn from."""
    layer = TokenBridge(D, LEVELS).to(images.device)
    layer.fit_range(vae.latents(images))
    return layer


def descend(module: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float) -> None:
    """Adam down `loss()`, the rate by a cosine to zero."""
    optimizer = Adam(module.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """The autoencoder, k-means, then each head; nothing is kept in `folder`, since all take a minute."""
    plan, device, data = options.apply(PLAN), pick_device(options.device), mnist.load("train")
    images, labels = (parts(t.to(device))[0] for t in (data.images, data.labels))
    models = build().to(device)
    vae, book = models["vae"], models["book"]
    descend(vae, lambda: vae(images[torch.randint(len(images), (32,), device=device)]), plan.steps, plan.lr)
    z = vae.latents(images)  # pyright: ignore[reportCallIssue]
    book.codebook.data = kmeans(z[:300], 256)  # pyright: ignore
    layer, order = bridge(vae, images), frequency_order(z)  # pyright: ignore[reportArgumentType]
    codes = layer.encode(z)
    conditions, flat = known(layer.decode(codes), labels).flatten(0, 1), codes.flatten(0, 1)
    for name, rate in RATES.items():
        head = models[name]
        if name != "independent":
            head.order.copy_(torch.tensor(order if name != "high" else order[::-1]))  # pyright: ignore[reportCallIssue]

        def loss(head: nn.Module = head) -> Tensor:
            picked = torch.randint(len(flat), (1, 256), device=device)
            return F.cross_entropy(head(conditions[picked], flat[picked]).flatten(0, 2), flat[picked].flatten())

        descend(head, loss, plan.steps, rate)
    return models


@torch.no_grad()
def quick(models: nn.ModuleDict) -> dict[str, float]:
    """Bits a code of each head on held-out digits."""
    data, vae = mnist.load("test"), models["vae"]
    layer = bridge(vae, parts(mnist.load("train").images)[0])  # pyright: ignore[reportArgumentType]
    codes = layer.encode(vae.latents(data.images))  # pyright: ignore[reportCallIssue]
    given = known(layer.decode(codes), data.labels)
    return {f"bits a code, {name}": bits_per_code(models[name](given, codes), codes) for name in RATES}


measure = quick
