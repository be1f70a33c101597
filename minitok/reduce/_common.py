"""What all methods share: the reduction that they return, their checks, a stable top k, and how a network runs them.

A method is a function `(x: b n c, k, *, signals...) -> Reduction`. What it looks at besides the tokens are keyword
arguments; those that a layer of a Transformer can give have fixed names (`offered`), and `once` and `spread` pass each
method what it asks for.
"""

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable
from minitok.nn import Block, Layer, Transformer
from minitok.reduce._checks import check_asked, check_budget, check_signal, check_tokens, precise
from minitok.reduce._reduction import Blended, Kept, Merged, Reduction
from minitok.vit import ViT

__all__ = ["Blended", "Kept", "Merged", "Reduction"]
__all__ += ["check_asked", "check_budget", "check_signal", "check_tokens", "precise"]
__all__ += ["ascending", "cost", "even", "highest", "offered", "once", "repeated", "resume", "spread"]


def highest(scores: Float[Tensor, "b n"], k: int) -> Int[Tensor, "b k"]:
    """The indices of the k highest scores, ascending; of equal scores the lower index counts.

    >>> highest(torch.tensor([[0.2, 0.9, 0.2, 0.7]]), 3).tolist()
    [[0, 1, 3]]

    Raises `ValueError` for scores that are not finite and for a k above n.
    """
    check_signal("scores", scores, (None, None))
    check_budget(k, scores.shape[1])
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values


def ascending(labels: Int[Tensor, "b n"], k: int) -> Int[Tensor, "b n"]:
    """Clusters 0 to k - 1 numbered anew by their first tokens, so that what is merged stands in the input's order.

    >>> ascending(torch.tensor([[2, 0, 2, 1]]), 3).tolist()
    [[0, 1, 0, 2]]

    A label of -1, for a dropped token, stays. Raises `ValueError` for labels outside, and for an empty cluster.
    """
    first = Reduction.merge(labels, k).order
    ranks = first.argsort(-1).argsort(-1)
    return torch.where(labels < 0, -1, ranks.gather(1, labels.clamp(min=0)))


def repeated(
    step: Callable[[Tensor, int], Tensor],
    x: Float[Tensor, "b n c"],
    k: int,
    keys: Float[Tensor, "b g n d"] | None = None,
    size: Float[Tensor, "b n"] | None = None,
) -> Merged:
    """Merges until k tokens are left, in as few steps as can be: each takes away at most half of what is left.

    `step(metric (b, n, d), r)` says which of n - r outputs each token goes to. The metric is the mean of the `keys`
    over heads (default: the tokens themselves); it is merged as the tokens are, by `size` (default: 1), for the next
    step. Raises `ValueError` for a k outside 1 to n, for tokens or signals of other shapes or types or with NaN, and
    for a size that is not above 0.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("keys", keys := x[:, None] if keys is None else keys, (b, None, n, None))
    check_signal("size", size := torch.ones_like(x[..., 0]) if size is None else size, (b, n))
    if readable(size) and (size <= 0).any():
        raise ValueError(f"size from {float(size.min()):.3g} came, expected above 0")
    metric, weights = precise(keys).mean(1), precise(size)
    assignment = torch.arange(n, device=x.device).expand(b, n)
    while (left := metric.shape[1]) > k:
        r = min(left - k, left // 2)
        made = Reduction.merge(step(metric, r), left - r, weights)
        assignment = made.assignment.gather(1, assignment)
        metric, weights = made.apply(metric), made.sizes(weights)
    return Reduction.merge(assignment, k, precise(size))


SIGNALS: dict[str, Callable[[Layer, int, int], Tensor]] = {
    "keys": lambda layer, first, end: layer.keys[:, :, first:end],
    "attention": lambda layer, first, end: layer.attention[:, :, first:end, first:end],
    "cls_attention": lambda layer, first, end: layer.attention[:, :, 0, first:end],
    "paid": lambda layer, first, end: layer.attention[:, :, first:, first:end],
    "size": lambda layer, first, end: layer.size[:, first:end],
}


def offered(layer: Layer, first: int = 1, asked: Collection[str] = tuple(SIGNALS), after: int = 0) -> dict[str, Tensor]:
    """What a layer can tell of its tokens but the `first` and the `after` last ones, by the names methods ask for.

    `keys` (b g n d); `attention` (b h n n), what each pays to each, without what went to the first tokens, so its rows
    add up to less than 1; `cls_attention` (b h n), what token 0 pays to each; `paid` (b h m n), what each and then the
    last ones pay to each; `size` (b n). Only what is `asked` for is looked at: a layer writes its attention out when
    it must.
    """
    end = layer.hidden.shape[1] - after
    return {name: look(layer, first, end) for name, look in SIGNALS.items() if name in asked}


def spread(
    schedule: Mapping[int, int], method: Callable[..., Reduction], first: int = 1, after: int = 0
) -> Callable[[Layer], Reduction | None]:
    """An `on_layer` that leaves `schedule[i]` tokens after the attention of layer i, besides those that stay.

    The `first` ones stay, such as CLS, and the `after` last ones, such as the words after a picture. `method(x, k,
    ...)` gets of `offered` what it has parameters for; bind others with `functools.partial`. Layers that are not in the
    schedule pass on what they have. Raises `ValueError` where more is asked for than is left.
    """
    asked = inspect.signature(method).parameters

    def on_layer(layer: Layer) -> Reduction | None:
        if layer.index not in schedule:
            return None
        x = layer.hidden[:, first : layer.hidden.shape[1] - after]
        return method(x, schedule[layer.index], **offered(layer, first, asked, after)).beside(first, after)

    return on_layer


def once(
    layer: int, k: int, method: Callable[..., Reduction], first: int = 1, after: int = 0
) -> Callable[[Layer], Reduction | None]:
    """An `on_layer` that leaves k tokens, besides those that stay, after the attention of one layer (0: the first)."""
    return spread({layer: k}, method, first, after)


def resume(
    vit: ViT, images: Float[Tensor, "b 3 H W"], layer: int
) -> Callable[[Callable[[Layer], Reduction | None]], Float[Tensor, "b classes"]]:
    """The logits of a ViT as a function of `on_layer`, with the layers before number `layer` computed only once.

    It is for trying many reductions that leave those layers alone: `on_layer` is not called in them. It sees the
    numbers that the layers have in the whole network. Raises `ValueError` for a layer that the network does not have.
    """
    if not 0 <= layer < len(vit.body.blocks):
        raise ValueError(f"layer={layer} came, expected 0 to {len(vit.body.blocks) - 1}")
    rest = copy.deepcopy(vit.body)
    rest.blocks, before = rest.blocks[layer:], vit.body.blocks[:layer]
    x = vit.embed(images)
    positions = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)[None]
    for block in before:
        x = block(x, positions)

    def logits(on_layer: Callable[[Layer], Reduction | None]) -> Float[Tensor, "b classes"]:
        def shifted(seen: Layer) -> Reduction | None:
            return on_layer(replace(seen, index=seen.index + layer))

        # Attention maps of many images at once would fill the memory.
        return torch.cat([vit.head(rest(part, "full", on_layer=shifted)[:, 0]) for part in x.split(32)])

    return logits


def even(n: int, k: int, layers: int) -> dict[int, int]:
    """A schedule from n tokens to k in which every layer takes away as many as any other, up to rounding.

    >>> even(256, 64, 4)
    {0: 208, 1: 160, 2: 112, 3: 64}
    """
    check_budget(k, n)
    return {i: n - round((n - k) * (i + 1) / layers) for i in range(layers)}


def cost(body: Transformer, schedule: Mapping[int, int], n: int, first: int = 1) -> int:
    """FLOPs of a Transformer's layers on one row of `first` + n tokens that `spread` reduces by the same schedule.

    What the method itself computes is not in it: `metrics.flops` of the method gives that.
    """
    block, c = cast("Block", body.blocks[0]), body.shape.width
    linear = 2 * c * (2 * c + 2 * block.attention.kv_heads * block.attention.d)  # queries and out; keys and values
    each, total = 6 * c * block.mlp.out.in_features, 0
    for i in range(len(body.blocks)):
        m = first + n
        total += linear * m + 4 * c * m * m  # the weights, and the sums that they make
        n = schedule.get(i, n)
        total += each * (first + n)
    return total
