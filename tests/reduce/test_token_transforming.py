import math

import pytest
import torch

from minitok.reduce._common import Blended, Reduction
from minitok.reduce.token_transforming import share_out, token_transforming
from minitok.reduce.tome import tome


def at_angles(*degrees):
    """Unit vectors in the plane: their cosines are those of the differences of angles."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], -1)[None]


def by_loop(vectors, scores, sizes, k, temperature):
    """W written out: a list of k rows."""
    n = len(vectors)
    anchors = sorted(sorted(range(n), key=lambda i: (-scores[i], i))[:k])
    W = [[0.0] * n for _ in range(k)]
    for j in range(n):
        if j in anchors:
            W[anchors.index(j)][j] = sizes[j]
            continue
        cosines = [
            sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
            / (math.hypot(*vectors[i]) * math.hypot(*vectors[j]))
            for i in anchors
        ]
        powers = [math.exp((c - max(cosines)) / temperature) for c in cosines]
        for row, power in zip(W, powers, strict=True):
            row[j] = sizes[j] * power / sum(powers)
    return [[w / sum(row) for w in row] for row in W]


def signals(b=2, n=12):
    return {
        "cls_attention": torch.rand(b, 3, n).softmax(-1),
        "keys": torch.randn(b, 2, n, 4),
        "size": torch.randint(1, 4, (b, n)).float(),
    }


def test_a_token_in_the_middle_goes_half_to_each_side():
    x = torch.tensor([[[2.0], [10.0], [6.0], [7.0]]])
    keys, attention = at_angles(0.0, 60.0, 30.0, 50.0)[:, None], torch.tensor([[[0.5, 0.3, 0.1, 0.1]]])
    reduction = token_transforming(x, 2, cls_attention=attention, keys=keys, temperature=0.1)
    # Token 3 is 10 degrees from one anchor and 50 from the other.
    part = 1 / (1 + math.exp((math.cos(math.radians(10)) - math.cos(math.radians(50))) / 0.1))
    expected = torch.tensor([[1, 0, 0.5, part], [0, 1, 0.5, 1 - part]])
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(reduction.matrix()[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(reduction.apply(x)[0], expected @ x[0], atol=1e-6, rtol=0)
    assert reduction.order.tolist() == [[0, 1]]


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("k", [1, 2, 7, 11])
def test_the_matrix_is_that_of_a_plain_loop(k, temperature):
    x, given = torch.randn(2, 12, 5), signals()
    W = token_transforming(x, k, temperature=temperature, **given).matrix()
    for row in range(2):
        scores, vectors = given["cls_attention"][row].mean(0).tolist(), given["keys"][row].mean(0).tolist()
        expected = by_loop(vectors, scores, given["size"][row].tolist(), k, temperature)
        torch.testing.assert_close(W[row], torch.tensor(expected), atol=1e-5, rtol=0)


def test_shares_of_a_token_add_up_to_one_and_anchors_keep_to_themselves():
    anchors = torch.tensor([[0, 3, 8], [2, 5, 7]])
    A = share_out(torch.randn(2, 10, 4), anchors, temperature=0.3)
    torch.testing.assert_close(A.sum(1), torch.ones(2, 10), atol=1e-6, rtol=0)
    assert (A >= 0).all()
    for row, chosen in zip(A, anchors, strict=True):
        assert torch.equal(row[:, chosen], torch.eye(3))
        others = [j for j in range(10) if j not in chosen.tolist()]
        assert ((row[:, others] > 0).sum(0) > 1).all()


def test_without_temperature_each_token_merges_into_its_nearest_anchor():
    x, given = torch.randn(2, 12, 5), signals()
    found = token_transforming(x, 4, temperature=1e-6, **given)
    anchors = torch.topk(given["cls_attention"].mean(1), 4).indices.sort(-1).values
    keys = given["keys"].mean(1)
    cosine = torch.nn.functional.cosine_similarity(keys[:, :, None], keys[:, None], dim=-1)
    nearest = cosine.gather(2, anchors[:, None].expand(-1, 12, -1)).argmax(-1)
    expected = Reduction.merge(nearest.scatter(1, anchors, torch.arange(4).expand(2, -1)), 4, given["size"])
    torch.testing.assert_close(found.matrix(), expected.matrix(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.apply(x), expected.apply(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sizes(given["size"]), expected.sizes(given["size"]), atol=1e-5, rtol=0)


def test_a_high_temperature_makes_all_outputs_alike():
    x, attention = torch.randn(1, 200, 8), torch.rand(1, 1, 200)
    cold, hot = (token_transforming(x, 5, cls_attention=attention, temperature=t).apply(x) for t in (0.02, 100.0))
    assert hot.std(1).mean() < cold.std(1).mean() / 10
    torch.testing.assert_close(hot[0, 0], x[0].mean(0), atol=0.1, rtol=0)


def test_pruning_and_merging_are_special_matrices():
    x, size = torch.randn(3, 20, 6), torch.randint(1, 4, (3, 20)).float()
    kept = torch.rand(3, 20).argsort(-1)[:, :7].sort(-1).values
    pruned = Reduction.blend(torch.nn.functional.one_hot(kept, 20).float())
    torch.testing.assert_close(pruned.apply(x), torch.stack([row[i] for row, i in zip(x, kept, strict=True)]))
    merged = tome(x, 12, size=size)
    W = torch.zeros(3, 12, 20)
    for b, j in torch.cartesian_prod(torch.arange(3), torch.arange(20)).tolist():
        W[b, merged.assignment[b, j], j] = size[b, j]
    again = Reduction.blend(W)
    torch.testing.assert_close(again.apply(x), merged.apply(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(again.sizes(size), merged.sizes(size), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.restore(again.apply(x)), merged.restore(merged.apply(x)), atol=1e-6, rtol=0)


def test_attention_chooses_the_anchors_in_their_order():
    x = torch.randn(1, 6, 3)
    attention = torch.tensor([[[0.1, 0.9, 0.1, 0.2, 0.3, 0.0], [0.1, 0.0, 0.1, 0.8, 0.3, 0.0]]])
    W = token_transforming(x, 3, cls_attention=attention).matrix()[0]
    # The heads' means are highest at tokens 3, 1 and 4; row i belongs to the i-th of them in the input's order.
    assert torch.equal(W[:, [1, 3, 4]] > 0, torch.eye(3) > 0)


def test_of_equally_attended_tokens_the_lower_indices_are_anchors():
    W = token_transforming(torch.randn(1, 6, 3), 2, cls_attention=torch.ones(1, 2, 6)).matrix()[0]
    assert (W[:, :2] > 0).tolist() == [[True, False], [False, True]]


def test_keys_and_sizes_are_used():
    x, given = torch.randn(2, 12, 5), signals()
    whole = token_transforming(x, 4, **given)
    for name in ("keys", "size"):
        without = {key: value for key, value in given.items() if key != name}
        assert not torch.allclose(token_transforming(x, 4, **without).matrix(), whole.matrix())
    same = token_transforming(x, 4, cls_attention=given["cls_attention"], keys=x[:, None], size=torch.ones(2, 12))
    without = token_transforming(x, 4, cls_attention=given["cls_attention"])
    assert torch.equal(without.matrix(), same.matrix())


def test_gradients_reach_tokens_and_keys():
    x, given = torch.randn(2, 8, 3, requires_grad=True), signals(2, 8)
    given["keys"].requires_grad_()
    y = token_transforming(x, 3, temperature=0.5, **given).apply(x)
    to_x, to_keys = torch.autograd.grad(y.square().sum(), [x, given["keys"]])
    assert (to_x.abs().sum(-1) > 0).all()
    assert to_keys.isfinite().all()
    assert to_keys.abs().sum() > 0


def test_the_result_is_a_blend_of_the_tokens():
    x, given = torch.randn(2, 12, 5), signals()
    reduction = token_transforming(x, 5, **given)
    assert isinstance(reduction, Blended)
    assert reduction.shape == (2, 5, 12)
    assert reduction.apply(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(reduction.sizes(given["size"]).sum(-1), given["size"].sum(-1), atol=1e-4, rtol=0)


def test_doubles_are_not_rounded():
    x, attention = torch.randn(1, 9, 3, dtype=torch.float64), torch.rand(1, 1, 9, dtype=torch.float64)
    reduction = token_transforming(x, 4, cls_attention=attention, temperature=0.3)
    assert reduction.matrix().dtype == torch.float64
    torch.testing.assert_close(reduction.matrix().sum(-1), torch.ones(1, 4, dtype=torch.float64), atol=1e-14, rtol=0)


X, ATTENTION = torch.randn(1, 6, 2), torch.rand(1, 2, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_transforming(X, 7, cls_attention=ATTENTION), "k=7 came"),
        (lambda: token_transforming(X[0], 3, cls_attention=ATTENTION), "x of shape"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION[0]), r"cls_attention of shape \(2, 6\) came"),
        (
            lambda: token_transforming(X, 3, cls_attention=ATTENTION[..., :5]),
            r"cls_attention of shape \(1, 2, 5\) came",
        ),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION / 0), "cls_attention holds NaN or infinity"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, keys=X), "keys of shape"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, size=torch.ones(1, 5)), "size of shape"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, size=torch.zeros(1, 6)), "leave an output empty"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, temperature=0.0), "temperature=0.0 came"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, temperature=-1.0), "temperature=-1.0 came"),
        (lambda: token_transforming(X, 3, cls_attention=ATTENTION, temperature=math.nan), "temperature=nan came"),
        (lambda: share_out(X, torch.tensor([[0, 0]])), "indices name a token twice"),
        (lambda: share_out(X, torch.tensor([[0, 6]])), "indices from 0 to 6 came"),
        (lambda: share_out(X[0], torch.tensor([[0, 5]])), "metric of shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
