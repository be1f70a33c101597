"""Where quantizers are compared: a small autoencoder with a quantizer in its middle.

It trains in seconds on a CPU. A digit of 28 x 28 pixels becomes 7 x 7 vectors of the quantizer's width, so it costs 49
times the quantizer's bits; lesson 1 of chapter 1 builds the same network by hand. Of colour photographs it takes each
4 x 4 pixels for a vector likewise, with more channels.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from minitok.optimizers import Adam
from minitok.train import check_step


class Bottleneck(nn.Module):
    """Encoder, quantizer, decoder; `quantizer=None` lets vectors of width `d` pass as they are.

    `colours` is the number of channels of the square images, `width` that of the first feature map.
    """

    def __init__(
        self, quantizer: nn.Module | None, d: int = 8, seed: int = 0, colours: int = 1, width: int = 16
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        d, c = d if quantizer is None else int(quantizer.d), width  # pyright: ignore[reportArgumentType]
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, c, 4, 2, 1), nn.ReLU(), nn.Conv2d(c, 2 * c, 4, 2, 1), nn.ReLU(), nn.Conv2d(2 * c, d, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(d, 2 * c, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(2 * c, c, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(c, colours, 4, 2, 1),
        )  # fmt: skip
        self.quantizer = quantizer

    def vectors(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b n d"]:
        """What is quantized: one vector a position, in raster order; of a digit 49."""
        return self.encoder(images.to(next(self.parameters()).dtype)).flatten(2).transpose(1, 2)

    def picture(self, values: Float[Tensor, "b n d"]) -> Float[Tensor, "b c H W"]:
        """What the decoder paints of vectors of a square grid; not clamped."""
        side = math.isqrt(values.shape[1])
        grid = values.transpose(1, 2).unflatten(2, (side, side))
        return self.decoder(grid.to(next(self.parameters()).dtype))

    def forward(self, images: Float[Tensor, "b c H W"]) -> tuple[Float[Tensor, "b c H W"], Tensor]:
        """The rebuilt images and the quantizer's loss."""
        z = self.vectors(images)
        if self.quantizer is None:
            return self.picture(z), z.new_zeros(())
        values, _, loss = self.quantizer(z)
        return self.picture(values), loss

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b c H W"]) -> Int[Tensor, "b n g"]:
        """The images' codes. Raises `ValueError` without a quantizer."""
        if self.quantizer is None:
            raise ValueError("quantizer=None gives no codes")
        return self.quantizer.encode(self.vectors(images))  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def rebuild(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """The images as they come back, in [0, 1]."""
        return self.eval()(images)[0].clamp(0, 1)


def train(
    model: Bottleneck,
    images: Float[Tensor, "n c H W"],
    steps: int = 600,
    lr: float = 1.2e-2,
    seed: int = 0,
    start: bool = True,
) -> Bottleneck:
    """Trains in place on batches of 32 with Adam and a cosine down to zero; returns the model in eval mode.

    A quantizer with `start_from` starts its codebook on vectors of the first 200 images, unless `start` is False.
    Choose `lr` and the like on images that are in neither set: `parts` cuts some off. Raises `ArithmeticError` before a
    step whose loss or gradient is not finite.
    """
    torch.manual_seed(seed)
    start_from = getattr(model.quantizer, "start_from", None)
    if start and start_from is not None:
        start_from(model.vectors(images[:200]).detach())
    optimizer = Adam(model.train().parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = images[torch.randint(len(images), (32,), device=images.device)]
        rebuilt, loss = model(batch)
        optimizer.zero_grad()
        (total := F.mse_loss(rebuilt, batch) + loss).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        check_step(total.detach(), nn.utils.get_total_norm(gradients), step)
        optimizer.step()
        schedule.step()
    return model.eval()


def parts(images: Shaped[Tensor, "n ..."], held: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (or their labels) to learn from, and `held` others to choose settings by: never choose by test images.

    Raises `ValueError` unless both parts get some.
    """
    if not 1 <= held < len(images):
        raise ValueError(f"held={held} came, expected 1 to {len(images) - 1} of the {len(images)} images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images[order[held:]], images[order[:held]]
