"""LLaVA's projector: Visual Instruction Tuning (2023), arXiv 2304.08485; two layers since Improved Baselines with
Visual Instruction Tuning (2023), arXiv 2310.03744.

Each patch token of a frozen vision encoder becomes one token of the language model by itself: h = W x in the first
paper, h = W2 gelu(W1 x + b1) + b2 in the second (`mlp2x_gelu`). They stand before the words of the question. The loss
is that of the answer's words alone: L = -sum_i log p(a_i | h, question, a_<i), i from the first word of the answer on.
Stage 1 trains the projector alone, with the encoder and the language model frozen; stage 2 the language model too.

Differs from the paper: the features are our ViT's last ones without CLS (the paper: the last layer but one of CLIP);
one question and answer make a row, where the paper chains the turns of a conversation.
Notebook: notebooks/07_project/01_llava.ipynb.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

STAGES = (1, 2)


class LLaVA(nn.Module):
    """One token in, one token out, each by itself: k is n.

    `depth` 1 is the matrix of LLaVA, 2 the two layers of LLaVA-1.5; c is the encoder's width, d that of the language
    model (the paper's W is d x c).
    """

    def __init__(self, c: int = 192, d: int = 192, depth: int = 2) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} came, expected 1 (LLaVA) or more (2: LLaVA-1.5)")
        layers: list[nn.Module] = [nn.Linear(c, d)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(d, d)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b n d"]:
        """Raises `ValueError` for a k other than n: this projector has no other budget."""
        if k not in (None, x.shape[1]):
            raise ValueError(f"k={k} came for {x.shape[1]} tokens: this projector keeps their number")
        return self.layers(x)


def answer_loss(
    logits: Float[Tensor, "b t v"], words: Int[Tensor, "b t"], asked: int, fill: int = 0
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the answers' words, in nats: those after the first `asked` words of each row.

    `logits[:, i]` are what the model says after word i, so word i + 1 is judged by them. The question's own words and
    `fill`, which makes rows equally long, are not learnt. Raises `ValueError` where no answer can follow.

    >>> words = Tensor([[5, 1, 2, 0]]).long()  # one word of question, an answer of two, one to fill up
    >>> sure = F.one_hot(Tensor([[1, 2, 9, 9]]).long(), 10) * 100.0
    >>> answer_loss(sure, words, 1).item(), answer_loss(sure * 0, words, 1).exp().round().item()
    (0.0, 10.0)
    """
    if not 1 <= asked < words.shape[1]:
        raise ValueError(f"asked={asked} came for rows of {words.shape[1]} words, expected 1 to {words.shape[1] - 1}")
    said, target = logits[:, asked - 1 : -1], words[:, asked:]
    return F.cross_entropy(said.flatten(0, 1).float(), target.masked_fill(target == fill, -100).flatten())


def learns(projector: nn.Module, language: nn.Module, stage: int) -> Iterator[nn.Parameter]:
    """What a stage trains: 1 the projector (2e-3 in the paper), 2 the language model too (2e-5); never the encoder.

    Raises `ValueError` for another stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage={stage} came, expected one of {STAGES}")
    yield from projector.parameters()
    if stage == 2:
        yield from language.parameters()
