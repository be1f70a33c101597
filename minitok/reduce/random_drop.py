"""Random token dropping: the baseline that every other method of this chapter must beat.

No paper of its own. As a way to train faster: Liu, Matsoukas, Strand, Azizpour, Smith: PatchDropout: Economizing Vision
Transformers Using Patch Dropout, 2022, arXiv 2208.07220.

Mechanism: k of the n tokens stay, in their order; each set of k is as likely as any other. `y = M x` with a row of M
for each kept token, a one in its column. Nothing is learnt, and nothing is looked at.
Differs from the paper: PatchDropout drops the same way before the first layer, and only in training. Here a trained
network may drop anywhere.
Notebook: notebooks/06_reduce/01_random_drop.ipynb
"""

import torch
from jaxtyping import Float
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_tokens, highest


def random_drop(x: Float[Tensor, "b n c"], k: int, *, seed: int | torch.Generator = 0) -> Kept:
    """Keeps k random tokens of each row, ascending.

    >>> random_drop(torch.zeros(1, 8, 1), 3, seed=0).order.tolist()
    [[1, 5, 7]]

    A number always draws the same places, a generator goes on drawing; the global generator is left alone. Each row of
    a batch has its own draw. Raises `ValueError` for tokens that are not finite (b, n, c), and a k outside 1 to n.
    """
    check_tokens(x, k)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    lots = torch.rand(x.shape[:2], generator=generator, device=generator.device)
    return Reduction.keep(highest(lots, k).to(x.device), x.shape[1])
