"""MQT's queries, keys and draw: by hand, by a plain loop over heads, and what a budget changes and what not."""

import math
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from minitok.project._common import grid_positions, stretched
from minitok.project.mqt import MQT, draw


@pytest.fixture
def mqt():
    torch.manual_seed(0)
    made = MQT(8, 6, most=16, heads=2).requires_grad_(False)
    for weight in made.parameters():
        weight.add_(torch.randn_like(weight) * 0.3)
    return made


def normed(vector, norm):
    mean = sum(vector) / len(vector)
    spread = sum((v - mean) ** 2 for v in vector) / len(vector)
    bent = [(v - mean) / math.sqrt(spread + 1e-6) for v in vector]
    return torch.tensor([v * w + b for v, w, b in zip(bent, norm.weight.tolist(), norm.bias.tolist(), strict=True)])


@pytest.mark.parametrize("featured", [False, True])
@pytest.mark.parametrize("n", [16, 36])
def test_it_is_a_plain_loop_over_queries_and_heads(mqt, featured, n):
    mqt.featured = featured
    x = torch.randn(1, n, 8)
    at = stretched(grid_positions(4, 8), n)
    keys = [normed((x[0, i] * featured + at[i]).tolist(), mqt.norm_key) for i in range(n)]
    values = [normed(x[0, i].tolist(), mqt.norm_value) for i in range(n)]
    weight, bias = mqt.attention.in_proj_weight.chunk(3), mqt.attention.in_proj_bias.chunk(3)
    found = mqt(x, 5)[0]
    for j in range(5):
        query = weight[0] @ normed((mqt.query[j] + grid_positions(4, 8)[j]).tolist(), mqt.norm_query) + bias[0]
        gathered = []
        for part in (slice(0, 4), slice(4, 8)):
            shares = torch.stack([query[part] @ (weight[1] @ key + bias[1])[part] / 2 for key in keys]).softmax(0)
            told = torch.stack([(weight[2] @ value + bias[2])[part] for value in values])
            gathered.append(shares @ told)
        out = mqt.attention.out_proj.weight @ torch.cat(gathered) + mqt.attention.out_proj.bias
        assert_close(found[j], out @ mqt.matrix, atol=1e-5, rtol=1e-4)


def test_the_first_tokens_are_the_same_for_every_budget(mqt):
    x = torch.randn(2, 25, 8)
    whole = mqt(x)
    assert whole.shape == (2, 16, 6)
    for k in range(1, 17):
        assert_close(mqt(x, k), whole[:, :k])
    assert not torch.allclose(whole[:, 0], whole[:, 1])


def test_a_query_that_is_not_asked_gets_no_gradient(mqt):
    mqt.requires_grad_(True)
    mqt(torch.randn(2, 16, 8), 6).square().sum().backward()
    assert (mqt.query.grad.abs().amax(-1) > 0).tolist() == [True] * 6 + [False] * 10


def test_only_featured_keys_look_at_the_picture():
    for featured in (False, True):
        torch.manual_seed(1)
        mqt = MQT(8, 6, most=16, heads=2, featured=featured)
        x = torch.randn(2, 16, 8)
        keys = mqt.keys(x)
        assert torch.equal(keys[0], keys[1]) is not featured
        _, shares = mqt.attention(mqt.asks(3).expand(2, -1, -1), keys, mqt.norm_value(x))
        assert torch.allclose(shares[0], shares[1]) is not featured


def test_sizes_and_beginnings():
    assert not MQT().featured
    assert (tuple(MQT().query.shape), tuple(MQT().matrix.shape)) == ((256, 192), (192, 192))
    mqt = MQT(12, 20, most=64, heads=3)
    assert mqt.budgets == (64, 32, 16, 8, 4, 2, 1)
    assert MQT(4, 4, most=9, heads=1).budgets == (9, 4, 2, 1)
    assert {name: tuple(value.shape) for name, value in mqt.named_parameters() if "." not in name} == {
        "query": (64, 12),
        "matrix": (12, 20),
    }
    assert "place" not in mqt.state_dict()
    assert torch.equal(mqt.place, grid_positions(8, 12))
    wide = MQT(192, 768)
    assert wide.attention.num_heads == 3
    for weight, deviation in (
        (wide.query, 0.02),
        (wide.attention.out_proj.weight, 0.02),
        (wide.matrix, 768**-0.5),
    ):
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert len({norm.eps for norm in (wide.norm_query, wide.norm_key, wide.norm_value)} | {1e-6}) == 1


def test_each_even_number_is_drawn_as_often():
    generator = torch.Generator().manual_seed(0)
    counts = Counter(draw(generator, most=8) for _ in range(4000))
    assert sorted(counts) == [2, 4, 6, 8]
    assert all(abs(count - 1000) < 5.1 * math.sqrt(4000 * 3 / 16) for count in counts.values())
    drawn = {draw(generator) for _ in range(3000)}
    assert drawn == set(range(2, 257, 2))
    twice = [[draw(generator.manual_seed(3)) for _ in range(2)] for _ in range(2)]
    assert twice[0] == twice[1]


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(mqt):
    for k in (0, 17, -1, 2.5):
        with pytest.raises(ValueError, match=f"k={k} came, expected a whole number from 1 to 16"):
            mqt(torch.zeros(1, 16, 8), k)
    with pytest.raises(ValueError, match="n=15 came for 16 places, expected two square numbers"):
        mqt(torch.zeros(1, 15, 8), 3)
    with pytest.raises(ValueError, match="n=8 came for 4 places"):
        MQT(8, 8, most=8, heads=1)
