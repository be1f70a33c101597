"""Where quantizers are compared: a small autoencoder of MNIST digits with a quantizer in its middle.

It trains in seconds on a CPU. A digit of 28 x 28 pixels becomes 7 x 7 vectors of the quantizer's width, so it costs 49
times the quantizer's bits. Lesson 1 of chapter 1 builds the same network by hand.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Encoder, quantizer, decoder; `quantizer=None` lets vectors of width `d` pass as they are."""

    def __init__(self, quantizer: nn.Module | None, d: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        d = d if quantizer is None else int(quantizer.d)  # pyright: ignore[reportArgumentType]
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, d, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(d, 32, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
        )  # fmt: skip
        self.quantizer = quantizer

    def vectors(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 49 d"]:
        """What is quantized: one vector a position, in raster order."""
        return self.encoder(images).flatten(2).transpose(1, 2)

    def picture(self, values: Float[Tensor, "b 49 d"]) -> Float[Tensor, "b 1 28 28"]:
        """What the decoder paints of vectors; not clamped."""
        return self.decoder(values.transpose(1, 2).unflatten(2, (7, 7)))

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> tuple[Float[Tensor, "b 1 28 28"], Tensor]:
        """The rebuilt digits and the quantizer's loss."""
        z = self.vectors(images)
        if self.quantizer is None:
            return self.picture(z), z.new_zeros(())
        values, _, loss = self.quantizer(z)
        return self.picture(values), loss

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b 1 28 28"]) -> Int[Tensor, "b 49 g"]:
        """The digits' codes. Raises `ValueError` without a quantizer."""
        if self.quantizer is None:
            raise ValueError("quantizer=None gives no codes")
        return self.quantizer.encode(self.vectors(images))  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def rebuild(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 1 28 28"]:
        """The digits as they come back, in [0, 1]."""
        return self.eval()(images)[0].clamp(0, 1)


def train(
    model: Bottleneck, images: Float[Tensor, "n 1 28 28"], steps: int = 600, lr: float = 1.2e-2, seed: int = 0
) -> Bottleneck:
    """Trains in place on batches of 32 with Adam and a cosine down to zero; returns the model in eval mode.

    A quantizer with `start_from` starts its codebook on vectors of the first 200 images.
    """
    torch.manual_seed(seed)
    start = getattr(model.quantizer, "start_from", None)
    if start is not None:
        start(model.vectors(images[:200]).detach())
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (32,))]
        rebuilt, loss = model(batch)
        optimizer.zero_grad()
        (F.mse_loss(rebuilt, batch) + loss).backward()
        optimizer.step()
        schedule.step()
    return model.eval()
