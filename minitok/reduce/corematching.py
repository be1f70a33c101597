"""CoreMatching: keep the tokens whose neurons fire with the question's, and decode with few neurons.

Wang, Ye, Chung, Liu, Lin, Kuo, Ma, Zhang, Chen: CoreMatching: A Co-adaptive Sparse Inference Framework with Token and
Neuron Pruning for Comprehensive Acceleration of Vision-Language Models, 2025, arXiv 2505.19235.

Mechanism: in a layer's feed-forward part token t has neurons `h_t = silu(gate x_t) * up x_t`; G(t) are those with
h > 0, of them the share rho of the largest. The core C is the share beta of all neurons that fire for most tokens of
the prompt. A visual token's score is `|G(v) & C|`, or `|G(v) & G(last word)|`. Sorted scores are a curve; its elbow is
the point furthest from the line between its ends, and tokens above the elbow's score are kept. While it answers, the
model computes the neurons in C only.
Differs from the paper: its text matches with the core of the whole prompt, its code with the set of one of the last
words and rho = 1; both are here, the code's with the very last word by default. The code zeroes keys and values of
dropped tokens, to which attention still pays exp(0), in each of layers 5 to 19 of 32; here tokens are dropped once. A
k may be given in the elbow's place. How the shares are rounded we chose: rho up, beta to the nearest. Filled places of
a question are no tokens.
Notebook: notebooks/06_reduce/24_corematching.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.nn import MLP
from minitok.reduce._common import Kept, Reduction, check_asked, check_signal, check_tokens, highest, precise

MATCHES = ("last", "core")


def activations(mlp: MLP, x: Float[Tensor, "b m c"]) -> Float[Tensor, "b m f"]:
    """The neurons of a gated feed-forward part, before its last layer: `mlp(x) == mlp.out(activations(mlp, x))`."""
    return F.silu(mlp.gate(x)) * mlp.up(x)


def fired(neurons: Float[Tensor, "b m f"], rho: float = 1.0) -> Bool[Tensor, "b m f"]:
    """G: of each token's positive neurons the share rho of the largest, rounded up; of equals the lower index.

    >>> fired(torch.tensor([[[0.5, -1.0, 0.2, 0.9]]]), rho=0.5).int().tolist()
    [[[1, 0, 0, 1]]]
    """
    positive, h = neurons > 0, precise(neurons)
    if rho == 1:
        return positive
    rank = h.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    # 0.1 of 30 is 3, though 0.1 * 30 is a little more.
    return positive & (rank < (rho * positive.sum(-1, keepdim=True).double() - 1e-9).ceil())


def core(fired: Bool[Tensor, "b m f"], beta: float = 0.4) -> Bool[Tensor, "b f"]:
    """C: the share beta of the neurons that fire for most tokens, at least one; of equals the lower index.

    >>> core(torch.tensor([[[True, False, True], [False, False, True]]]), beta=0.4).int().tolist()
    [[0, 0, 1]]
    """
    often = fired.sum(1)
    count = max(round(beta * fired.shape[2]), 1)
    return torch.zeros_like(often, dtype=torch.bool).scatter(1, highest(often.float(), count), True)


def elbow(scores: Float[Tensor, "b n"]) -> Int[Tensor, "b"]:
    """How many scores lie above the elbow of the sorted ones, at least one.

    >>> elbow(torch.tensor([[9.0, 2.0, 8.0, 1.0, 0.0]])).tolist()
    [2]

    From 9 to 0 the line falls by 2.25 a step; 9, 8, 2, 1, 0 lie 0, 1.25, 2.5, 1.25 and 0 beside it: two are above 2.
    The distance at a right angle is this times a constant, so the scale of neither axis matters. Of equally far points
    the first counts.
    """
    curve = precise(scores).sort(dim=-1, descending=True).values
    n = curve.shape[1]
    step = torch.arange(n, device=curve.device) / max(n - 1, 1)
    line = curve[:, :1] + (curve[:, -1:] - curve[:, :1]) * step
    at = curve.gather(1, (curve - line).abs().argmax(-1, keepdim=True))
    return (curve > at).sum(-1).clamp(min=1)


def overlap(
    neurons: Float[Tensor, "b n f"],
    word_neurons: Float[Tensor, "b t f"],
    asked: Bool[Tensor, "b t"] | None = None,
    match: str = "last",
    rho: float = 1.0,
    beta: float = 0.4,
) -> Float[Tensor, "b n"]:
    """How many neurons each visual token shares with the last word, or with the core of all tokens (`match="core"`).

    Raises `ValueError` for another match, and for a rho or a beta that is not above 0 and at most 1.
    """
    if match not in MATCHES:
        raise ValueError(f"match={match!r} came, expected one of {MATCHES}")
    for name, share in (("rho", rho), ("beta", beta)):
        if not (0 < share <= 1 and math.isfinite(share)):
            raise ValueError(f"{name}={share} came, expected above 0, at most 1")
    visual, words = fired(neurons, rho), fired(word_neurons, rho)
    if match == "last":
        return (visual & words[:, -1:]).sum(-1).float()
    words = words if asked is None else words & asked[..., None]
    return (visual & core(torch.cat([visual, words], 1), beta)[:, None]).sum(-1).float()


def corematching(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    neurons: Float[Tensor, "b n f"],
    word_neurons: Float[Tensor, "b t f"],
    asked: Bool[Tensor, "b t"] | None = None,
    match: str = "last",
    rho: float = 1.0,
    beta: float = 0.4,
) -> Kept:
    """Keeps the k visual tokens that share most neurons with the question, in the order of the input.

    `neurons` are the visual tokens' in one layer of the language model, what comes into `down_proj` of a Llama's `mlp`
    in Hugging Face's library, `word_neurons` the words', of which `asked` says which are there. Of equal scores the
    lower index counts. `elbow(overlap(...))` is the paper's own k. Raises `ValueError` for bad tokens, a k outside 1 to
    n, signals of another shape or of nothing, and for what `overlap` refuses.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("neurons", neurons, (b, n, None))
    check_signal("word_neurons", word_neurons, (b, None, neurons.shape[2]))
    if 0 in word_neurons.shape[1:]:
        raise ValueError(f"word_neurons of shape {tuple(word_neurons.shape)} came, expected at least one of each")
    if asked is not None:
        check_asked(asked, (b, word_neurons.shape[1]))
    return Reduction.keep(highest(overlap(neurons, word_neurons, asked, match, rho, beta), k), n)


def sparse(mlp: MLP, x: Float[Tensor, "b m c"], core: Bool[Tensor, "b f"]) -> Float[Tensor, "b m c"]:
    """The feed-forward part of which only the core is computed: rows of gate and up, columns of out.

    Each row of the batch has its own core, of the same number of neurons in all. Raises `ValueError` otherwise.
    """
    counts = core.sum(1)
    if len(counts) and not bool((counts == counts[0]).all()):
        raise ValueError(f"core with {counts.tolist()} neurons came, expected as many in each row")
    index = core.nonzero()[:, 1].view(len(core), int(counts.max()) if len(core) else 0)
    gate, up, out = (linear[index] for linear in (mlp.gate.weight, mlp.up.weight, mlp.out.weight.mT))
    return (F.silu(x @ gate.mT) * (x @ up.mT)) @ out
