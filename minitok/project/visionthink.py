"""VisionThink: Smart and Efficient Vision Language Model via Reinforcement Learning (2025), arXiv 2507.13348.

The model first reads the picture at half its side, and says an answer, or that it asks for the large picture; then it
reads that too and answers in a second round. GRPO trains what it says: g = 16 rollouts a question, each rewarded by
R = correct + 0.5 well-formed - P. Of a question's correct rollouts the share r answered directly. Where r < 0.2, direct
answers are lucky guesses: P = 0.1 for the correct direct ones; else P = 0.1 for the correct ones that asked. Advantage
A = (R - mean) / std over the g; loss -min(w A, clip(w, 0.8, 1.2) A) + 0.001 KL - 0.001 entropy, w = new / old chance;
questions whose rollouts are all worth the same are left out.
Differs from the paper: the model's words stay as they were; what is trained is a small head on its state after the
question, which says answer or ask. The large picture is the thumbnail with four crops. The authors' code takes 0.1 from
correct askers in any case, so that where 0 < r < 0.2 both kinds are worth the same.
Notebook: notebooks/07_project/13_visionthink.ipynb.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.project.llava import LLaVA
from minitok.vlm import VLM


def rewards(
    correct: Bool[Tensor, "b g"],
    asks: Bool[Tensor, "b g"],
    formed: Bool[Tensor, "b g"] | None = None,
    *,
    penalty: float = 0.1,
    least: float = 0.2,
) -> Float[Tensor, "b g"]:
    """What each of g rollouts of b questions is worth, from 0 to 1.5; all are well-formed unless `formed` says so.

    >>> t, f = True, False
    >>> rewards(torch.tensor([[t, t, f, f]]), torch.tensor([[f, t, f, t]]))  # half of the right ones did not ask
    tensor([[1.5000, 1.4000, 0.5000, 0.5000]])
    >>> rewards(torch.tensor([[t] * 6]), torch.tensor([[f, t, t, t, t, t]]))[0, :2]  # one of six: luck
    tensor([1.4000, 1.5000])
    """
    direct = (correct & ~asks).sum(1, keepdim=True)
    lucky = direct < least * correct.sum(1, keepdim=True)
    fined = correct & torch.where(lucky, ~asks, asks)
    form = torch.ones_like(correct) if formed is None else formed
    return correct + 0.5 * form - penalty * fined


def advantages(worth: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """How far each rollout lies above the mean of its question, in standard deviations (over g - 1).

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.5, 1.5, 1.5, 1.5]])).round(decimals=3)
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    return (worth - worth.mean(1, keepdim=True)) / (worth.std(1, keepdim=True) + 1e-6)


def chances(logits: Float[Tensor, "b"], asks: Bool[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """The logarithm of the chance that each rollout did what it did: ask, or answer."""
    return F.logsigmoid(torch.where(asks, logits[:, None], -logits[:, None]))


def grpo_loss(
    logits: Float[Tensor, "b"],
    old: Float[Tensor, "b"],
    reference: Float[Tensor, "b"],
    asks: Bool[Tensor, "b g"],
    worth: Float[Tensor, "b g"],
    *,
    clip: float = 0.2,
    kl: float = 0.001,
    entropy: float = 0.001,
) -> Float[Tensor, ""]:
    """The mean loss of rollouts that were drawn by `old`, with what they are worth; of questions where that differs.

    `logits` are the policy's, for asking; `reference` are those before all training. The divergence from it is
    estimated as e^d - d - 1, d = reference - new in logarithms.
    """
    lively = worth.std(1) >= 1e-4
    if not lively.any():
        return 0 * logits.sum()
    logits, old, reference, asks, worth = (part[lively] for part in (logits, old, reference, asks, worth))
    new, better = chances(logits, asks), advantages(worth)
    ratio, apart = (new - chances(old, asks)).exp(), chances(reference, asks) - new
    gain = torch.minimum(ratio * better, ratio.clamp(1 - clip, 1 + clip) * better)
    spread = F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")[:, None]
    return (kl * (apart.exp() - apart - 1) - gain - entropy * spread).mean()


def rollouts(
    logits: Float[Tensor, "b"], small: Float[Tensor, "b"], large: Float[Tensor, "b"], g: int = 16
) -> tuple[Bool[Tensor, "b g"], Bool[Tensor, "b g"]]:
    """Which of g rollouts ask and which are right, drawn: an answer's words are right by the chance of their round.

    >>> rollouts(torch.tensor([99.0, -99.0]), torch.zeros(2), torch.ones(2), 3)  # one asks and sees, one does not
    (tensor([[ True,  True,  True],
            [False, False, False]]), tensor([[ True,  True,  True],
            [False, False, False]]))
    """
    u = torch.rand(2, len(logits), g, device=logits.device)
    asks = u[0] < logits.sigmoid()[:, None]
    return asks, u[1] < torch.where(asks, large[:, None], small[:, None])


class Policy(nn.Module):
    """The logit of asking, from the language model's state after the question; 0 before it is trained."""

    def __init__(self, d: int = 192, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, 1))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, state: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        return self.layers(state)[..., 0]


class Merger(nn.Module):
    """Four neighbouring patches side by side become one token by two layers, as in Qwen2.5-VL and our vlm_many."""

    def __init__(self, c: int, d: int, n: int) -> None:
        super().__init__()
        self.side, self.mlp = round(n**0.5), LLaVA(4 * c, d)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k d"]:
        half = self.side // 2
        fours = x.unflatten(1, (-1, half, 2, half, 2)).transpose(3, 4)  # b p i j 2 2 c
        return self.mlp(fours.flatten(4, 6).flatten(1, 3))


class VisionThink(nn.Module):
    """The thumbnail's tokens, n / 4 of them, or those of all pictures: k says which, or the policy in `read`.

    x holds the patches of the thumbnail, n of them, then those of the crops. `project` makes n / 4 tokens a picture,
    such as `host.project`; without it a `Merger` does. Without a policy `read` gives all that there is.
    """

    def __init__(
        self,
        project: Callable[[Tensor], Tensor] | None = None,
        policy: nn.Module | None = None,
        c: int = 192,
        d: int = 192,
        n: int = 256,
    ) -> None:
        super().__init__()
        self.project, self.policy, self.small = project or Merger(c, d, n), policy, n // 4
        self.budgets = (self.small,)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """Raises `ValueError` for a k other than the thumbnail's tokens or all."""
        tokens = self.project(x)
        if k not in (None, self.small, tokens.shape[1]):
            raise ValueError(f"k={k} came, expected {self.small} (the thumbnail) or all {tokens.shape[1]}")
        return tokens[:, :k]

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        text: Float[Tensor, "b t d"],
    ) -> Float[Tensor, "b t d"]:
        """What the host makes of the words: those who ask after the thumbnail get the states of a second round."""
        tokens = self(x, k)
        if k is not None or self.policy is None:
            return host.read(tokens, words, slots=slots, text=text)
        states = host.read(tokens[:, : self.small], words, slots=slots, text=text)
        asks = self.policy(states[:, -1]) > 0
        if asks.any():
            second = host.read(tokens[asks], words[asks], slots=slots, text=text[asks])
            states = states.masked_scatter(asks[:, None, None], second)
        return states
