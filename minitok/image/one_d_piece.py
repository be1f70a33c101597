"""One-D-Piece: a sequence of image tokens that may be cut anywhere, for fewer bytes.

Miwa, Sasaki, Arai, Takahashi, Yamaguchi: One-D-Piece: Image Tokenizer Meets Quality-Controllable Compression, 2025,
arXiv 2501.10064.

Mechanism: TiTok with tail token drop. In each forward pass of training one length k is drawn uniformly from 1..n, for
the whole batch, and the decoder gets the first k quantized tokens, `image = Dec(Quant(Z)[:k] + M)[masks]`. The encoder
thus learns to put first what matters most, and the decoder to do with any prefix. The rest, the quantizer's loss over
all n tokens included, is TiTok's.
Differs from the paper: all that TiTok's card says of ours; in training the tail is hidden from all other tokens by the
attention mask, which gives these what cutting gives (a test holds it) at one shape, so that the network compiles once.
Notebook: notebooks/02_image/03_one_d_piece.ipynb
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.image.titok import TiTok


def without_tail(k: int | Int[Tensor, ""], n: int, others: int) -> Bool[Tensor, "m m"]:
    """What each of m = others + n tokens may see, when of the last n only the first k are to be seen.

    >>> without_tail(1, n=2, others=1).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 0]]

    The columns of the tail are empty: it still computes something, and nobody reads it.
    """
    device = k.device if isinstance(k, Tensor) else None
    seen = torch.arange(others + n, device=device) < others + k
    return seen.expand(others + n, -1)


class OneDPiece(TiTok):
    """TiTok whose tokens were trained to be cut: `decode(tokens[:k])` for k from 1 to all."""

    def paint(self, values: Float[Tensor, "b k d"], mask: str | Tensor = "full") -> Float[Tensor, "b 3 H W"]:
        """As TiTok's; in training, tail token drop chooses what the decoder sees."""
        if self.training:
            n = values.shape[1]
            mask = without_tail(torch.randint(1, n + 1, (), device=values.device), n, self.sizes.patches)
        return super().paint(values, mask)
