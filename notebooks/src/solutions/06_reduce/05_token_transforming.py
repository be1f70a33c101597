"""Solutions to the exercises of notebooks/06_reduce/05_token_transforming.ipynb; running this file checks them."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction
from minitok.reduce.divprune import distances, max_min
from minitok.reduce.token_transforming import share_out
from minitok.reduce.tome import tome


def spread_out(x, k, *, keys, size, cls_attention):
    """Exercise 1: anchors that are far from one another, sorted."""
    metric = keys.mean(1)
    anchors = max_min(distances(metric), k).sort(-1).values
    return Reduction.blend(share_out(metric, anchors) * size[:, None])


def gather(metric, anchors, temperature):
    """Exercise 2: each anchor's mean over all tokens, weighed by likeness; cold, it takes itself alone: pruning."""
    unit = F.normalize(metric, dim=-1)
    cosine = unit.gather(1, anchors[..., None].expand(-1, -1, unit.shape[2])) @ unit.mT
    return (cosine / temperature).softmax(-1)


def both(first, second):
    """Exercise 3: the product of the matrices, the later one on the left."""
    return Reduction.blend(second.matrix() @ first.matrix())


if __name__ == "__main__":
    torch.manual_seed(0)
    x, keys, size = torch.randn(2, 30, 6), torch.randn(2, 3, 30, 4), torch.ones(2, 30)
    reduction = spread_out(x, 8, keys=keys, size=size, cls_attention=torch.rand(2, 3, 30))
    assert reduction.shape == (2, 8, 30)
    chosen = max_min(distances(keys.mean(1)), 8).sort(-1).values
    assert torch.equal(reduction.matrix()[0][:, chosen[0]] > 0, torch.eye(8) > 0)
    anchors = torch.tensor([[1, 4, 9], [0, 2, 29]])
    torch.testing.assert_close(gather(keys.mean(1), anchors, 0.1).sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(gather(keys.mean(1), anchors, 1e-5), F.one_hot(anchors, 30).float(), atol=1e-3, rtol=0)
    second = tome(reduction.apply(x), 5)
    together = both(reduction, second)
    torch.testing.assert_close(together.apply(x), second.apply(reduction.apply(x)), atol=1e-5, rtol=0)
