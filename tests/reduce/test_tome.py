import math

import pytest
import torch

from minitok.nn import Shape, Transformer
from minitok.reduce._common import once, spread
from minitok.reduce.tome import match, tome


def cosine(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def clusters_by_hand(keys, sizes, k):
    """The whole method for one row in plain Python: clusters as lists of tokens, in the order of their first ones."""
    clusters, sizes = [[i] for i in range(len(keys))], list(sizes)
    keys = [[sum(heads) / len(heads) for heads in zip(*token, strict=True)] for token in keys]
    while len(clusters) > k:
        n = len(clusters)
        edges = []
        for a in range(0, n, 2):
            nearness, b = max((cosine(keys[a], keys[b]), -b) for b in range(1, n, 2))
            edges.append((-nearness, a, -b))
        for _, a, b in sorted(edges)[: min(n - k, n // 2)]:
            whole = sizes[a] + sizes[b]
            keys[b] = [(p * sizes[a] + q * sizes[b]) / whole for p, q in zip(keys[a], keys[b], strict=True)]
            clusters[b], sizes[b], clusters[a] = clusters[a] + clusters[b], whole, []
        left = sorted((min(cluster), i) for i, cluster in enumerate(clusters) if cluster)
        clusters, keys, sizes = ([values[i] for _, i in left] for values in (clusters, keys, sizes))
    return [sorted(cluster) for cluster in clusters]


def members(reduction, row):
    assignment = reduction.assignment[row].tolist()
    return [[i for i, j in enumerate(assignment) if j == output] for output in range(reduction.shape[1])]


def test_six_tokens_by_hand():
    # The angle of each key in degrees. Even places 0, 2, 4 look for the nearest of 1, 3, 5.
    angle = torch.tensor([0.0, 90.0, 85.0, 4.0, 50.0, 93.0]).deg2rad()
    keys = torch.stack([angle.cos(), angle.sin()], -1)[None, None]
    x = torch.tensor([[[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]]])
    # 0 to 3 is 4 degrees, 2 to 1 is 5, 4 to 1 is 40.
    assert members(tome(x, 5, keys=keys), 0) == [[0, 3], [1], [2], [4], [5]]
    assert members(tome(x, 4, keys=keys), 0) == [[0, 3], [1, 2], [4], [5]]
    assert members(tome(x, 3, keys=keys), 0) == [[0, 3], [1, 2, 4], [5]]
    assert tome(x, 3, keys=keys).apply(x).flatten().tolist() == [4.5, pytest.approx(22 / 3), 32.0]
    size = torch.tensor([[1.0, 1.0, 2.0, 3.0, 1.0, 1.0]])
    weighed = tome(x, 3, keys=keys, size=size)
    assert weighed.apply(x).flatten().tolist() == [(1 + 24) / 4, (2 + 8 + 16) / 4, 32.0]
    assert weighed.sizes(size).tolist() == [[4, 4, 1]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [2, 3, 9, 16, 21])
def test_it_is_a_plain_loop(seed, n):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, 3, n, 4, generator=generator)
    size = torch.randint(1, 5, (2, n), generator=generator).float()
    for k in {1, 2, n // 3 + 1, n // 2 + 1, n - 1, n}:
        reduction = tome(torch.randn(2, n, 5), k, keys=keys, size=size)
        for row in range(2):
            expected = clusters_by_hand(keys[row].transpose(0, 1).tolist(), size[row].tolist(), k)
            assert members(reduction, row) == expected


def test_one_step_merges_no_two_tokens_of_odd_place():
    assignment = match(torch.randn(4, 20, 3), 10)
    for row in assignment.tolist():
        assert all(sum(row[i] == j for i in range(1, 20, 2)) <= 1 for j in range(10))
    assert match(torch.randn(4, 21, 3), 10).max() == 10


def test_of_equally_near_tokens_the_lower_index_counts():
    same = torch.ones(1, 6, 2)
    assert match(same, 1).tolist() == [[0, 0, 1, 2, 3, 4]]
    assert match(same, 2).tolist() == [[0, 0, 0, 1, 2, 3]]
    assert match(same, 3).tolist() == [[0, 0, 0, 1, 0, 2]]
    assert [tome(same, 6 - r).assignment.tolist() for r in (1, 2, 3)] == [match(same, r).tolist() for r in (1, 2, 3)]


def test_nothing_is_lost():
    x, size = torch.randn(3, 31, 5), torch.randint(1, 9, (3, 31)).float()
    for k in (30, 16, 15, 4, 1):
        reduction = tome(x, k, size=size)
        before, after = size[..., None] * x, reduction.sizes(size)[..., None] * reduction.apply(x)
        torch.testing.assert_close(after.sum(1), before.sum(1), atol=1e-4, rtol=1e-5)
        assert reduction.sizes(size).sum(1).tolist() == size.sum(1).tolist()


def test_the_keys_decide_by_their_mean_over_heads_and_not_by_their_length():
    x, keys = torch.randn(2, 24, 6), torch.randn(2, 4, 24, 8)
    found = tome(x, 10, keys=keys).assignment
    assert torch.equal(tome(torch.randn(2, 24, 6), 10, keys=keys).assignment, found)
    assert torch.equal(tome(x, 10, keys=keys[:, [2, 0, 3, 1]]).assignment, found)
    assert torch.equal(tome(x, 10, keys=keys.mean(1, keepdim=True)).assignment, found)
    assert not torch.equal(tome(x, 10, keys=keys[:, :2]).assignment, found)
    longer = keys * torch.rand(2, 1, 24, 1).add(0.5)
    assert torch.equal(match(longer.mean(1), 12), match(keys.mean(1), 12))


def test_without_keys_the_tokens_themselves_are_compared():
    x = torch.randn(2, 24, 6)
    assert torch.equal(tome(x, 10).assignment, tome(x, 10, keys=x[:, None]).assignment)
    assert not torch.equal(tome(x, 10).assignment, tome(x, 10, keys=torch.randn(2, 1, 24, 6)).assignment)


def test_sizes_weigh_the_means_of_tokens_and_of_keys():
    x, keys, size = torch.randn(2, 24, 6), torch.randn(2, 1, 24, 4), torch.randint(1, 20, (2, 24)).float()
    plain, weighed = tome(x, 12, keys=keys), tome(x, 12, keys=keys, size=size)
    assert torch.equal(plain.assignment, weighed.assignment)
    assert not torch.allclose(plain.apply(x), weighed.apply(x))
    # A second round compares merged keys, and these depend on the sizes.
    assert not torch.equal(tome(x, 4, keys=keys).assignment, tome(x, 4, keys=keys, size=size).assignment)


def test_a_network_does_not_notice_that_twins_are_merged():
    network = Transformer(Shape(width=16, layers=3, heads=4, pairing=None)).eval().requires_grad_(False)
    for weight in network.parameters():
        if weight.dim() == 2:
            weight.normal_(std=0.3)
    x = torch.randn(2, 9, 16)
    twins = torch.cat([x[:, :1], x[:, 1:].repeat_interleave(2, dim=1)], dim=1)
    whole = network(twins, "full")
    merged = network(twins, "full", on_layer=once(0, 8, tome))
    torch.testing.assert_close(merged[:, 0], whole[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(merged[:, 1:], whole[:, 1::2], atol=1e-4, rtol=0)
    assert (network(twins, "full", on_layer=once(0, 7, tome))[:, 0] - whole[:, 0]).abs().max() > 1e-3


def test_sizes_add_up_over_the_layers():
    network, sizes = Transformer(Shape(width=16, layers=4, heads=4, pairing=None)).eval(), []
    on_layer = spread({0: 10, 1: 6, 2: 3}, tome)

    def watched(layer):
        sizes.append(layer.size)
        return on_layer(layer)

    network(torch.randn(2, 13, 16), "full", on_layer=watched)
    assert [size.shape[1] for size in sizes] == [13, 11, 7, 4]
    assert all(size.sum(1).tolist() == [13, 13] for size in sizes)
    assert all(size[:, 0].tolist() == [1, 1] for size in sizes)


def test_gradients_are_shared_out_by_size():
    x = torch.randn(1, 6, 2, requires_grad=True)
    size = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    reduction = tome(x, 1, size=size)
    (gradient,) = torch.autograd.grad(reduction.apply(x).sum(), x)
    torch.testing.assert_close(gradient, (size / 21)[..., None].expand_as(x), atol=1e-6, rtol=0)


# All cosines of these keys round to 1 in bfloat16.
def test_half_precision_merges_the_nearest_all_the_same():
    angle = torch.tensor([0.0, 6.0, 3.0, 2.0]).deg2rad()
    keys = torch.stack([angle.cos() * 8, angle.sin() * 8], -1)[None, None]
    x = torch.randn(1, 4, 3)
    assert members(tome(x.bfloat16(), 3, keys=keys.bfloat16()), 0) == [[0], [1], [2, 3]]
    assert members(tome(x, 3, keys=keys), 0) == [[0], [1], [2, 3]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: tome(x, 0), "k=0 came, expected a whole number from 1 to the 8 tokens of x"),
        (lambda x: tome(x, 9), "k=9 came"),
        (lambda x: tome(x[0], 3), r"x of shape \(8, 4\) came"),
        (lambda x: tome(x.long(), 3), "x of type torch.int64 came"),
        (lambda x: tome(x / 0, 3), "x holds NaN or infinity"),
        (lambda x: tome(x, 3, keys=x), r"keys of shape \(2, 8, 4\) came, expected \(2, any, 8, any\)"),
        (lambda x: tome(x, 3, keys=x[:, None, :7]), "keys of shape"),
        (lambda x: tome(x, 3, keys=x[:, None] * torch.nan), "keys holds NaN"),
        (lambda x: tome(x, 3, size=x[..., 0].long()), "size of type torch.int64 came"),
        (lambda x: tome(x, 3, size=torch.ones(2, 7)), r"size of shape \(2, 7\) came, expected \(2, 8\)"),
        (lambda x: tome(x, 3, size=-torch.ones(2, 8)), "size from -1 came, expected above 0"),
        (lambda x: tome(x, 8, size=torch.zeros(2, 8)), "size from 0 came, expected above 0"),
        (lambda x: match(x, 5), "r=5 came, expected 1 to 4, half of the 8 tokens"),
        (lambda x: match(x, 0), "r=0 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(2, 8, 4))
