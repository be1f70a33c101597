import math

import pytest
import torch
from torch.testing import assert_close

from minitok.data.poses import JOINTS
from minitok.metrics import flops
from minitok.nn import Shape
from minitok.reduce import Reduction
from minitok.reduce.hot import Hourglass, Recovery, hot, lifting_loss, mpjpe

SHAPE = Shape(width=8, layers=3, heads=2, pairing=None)


def plain(x, k, nearest=2):
    """The choice of one row, frame by frame."""
    n, c = x.shape
    apart = [[math.dist(a, b) / c**0.5 for b in x.tolist()] for a in x.tolist()]
    spread = [sum(d * d for d in sorted(row)[:nearest]) / min(nearest, n) for row in apart]
    scores = []
    for i in range(n):
        denser = [apart[i][j] for j in range(n) if (spread[j], j) < (spread[i], i)]
        scores.append(math.exp(-spread[i]) * min(denser, default=max(map(max, apart))))
    return sorted(sorted(range(n), key=lambda i: (-scores[i], i))[:k])


def test_by_hand():
    # Nearest others of 0, 1, 1.5, 9 are 1, 0.5, 0.5, 7.5 away: spreads 0.5, 0.125, 0.125, 28.1. Densest are frames 1
    # and 2, and 1 comes first: it gets the largest distance, 9. Frame 2 is 0.5 from it, frame 0 is 1 from it and 9 is
    # 7.5 from the nearest denser: scores 0.61, 7.9, 0.44, 7.5 exp(-28.1), which is nearly nothing.
    x = torch.tensor([[[0.0], [1.0], [1.5], [9.0]]])
    assert hot(x, 1).order.tolist() == [[1]]
    assert hot(x, 2).order.tolist() == [[0, 1]]
    assert hot(x, 3).order.tolist() == [[0, 1, 2]]
    # The distance is divided by the root of the channels: as one channel of 0, 1, 1.5, 9 here are four of half of it.
    assert hot(x.expand(-1, -1, 4), 2).order.tolist() == [[0, 1]]
    # Of two that are equally dense the earlier one is the centre, and the later one is near it.
    assert hot(torch.tensor([[[5.0], [5.5], [0.0], [0.6]]]), 2).order.tolist() == [[0, 2]]


@pytest.mark.parametrize("nearest", [1, 2, 3, 20])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_choice_is_that_of_plain_loops(nearest, scale):
    torch.manual_seed(nearest)
    x = scale * torch.randn(3, 12, 5, dtype=torch.float64)
    for k in (1, 4, 11):
        assert hot(x, k, nearest=nearest).order.tolist() == [plain(row, k, nearest) for row in x]


def test_far_frames_are_told_apart_where_densities_underflow():
    x = 200 * torch.tensor([[[0.0], [1.0], [3.0], [6.0], [10.0]]])
    # Spreads are 1, 1, 4, 9, 16 times 20,000: their exponentials are 0, but the least of them stays least.
    assert hot(x, 2).order.tolist() == [[0, 1]]
    assert hot(x, 3).order.tolist() == [[0, 1, 2]]
    assert hot(x, 4).order.tolist() == [[0, 1, 2, 3]]


def test_one_frame_of_each_pose_stays_of_a_figure_that_halts():
    places = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
    x = torch.eye(4)[places][None] * 2 + 0.001 * torch.arange(10.0)[None, :, None]
    assert places[hot(x, 4).order[0]].tolist() == [0, 1, 2, 3]


def random(module):
    torch.manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return module.eval().requires_grad_(False)


def test_recovery_is_queries_and_what_they_find():
    made, z = random(Recovery(8, 2, frames=5)), torch.randn(2, 3, 8)
    q, k, v = made.attention.in_proj_weight.split(8)
    bias = made.attention.in_proj_bias.split(8)
    asks = made.queries[0] @ q.T + bias[0]
    for row in range(2):
        keys, values = z[row] @ k.T + bias[1], z[row] @ v.T + bias[2]
        heads = [
            (asks[:, part] @ keys[:, part].T / 4**0.5).softmax(-1) @ values[:, part]
            for part in (slice(0, 4), slice(4, 8))
        ]
        found = torch.cat(heads, 1) @ made.attention.out_proj.weight.T + made.attention.out_proj.bias
        assert_close(made(z)[row], made.queries[0] + found, atol=1e-5, rtol=1e-5)
    assert Recovery(8, 2, frames=5).queries.detach().abs().max() == 0


def test_the_hourglass_is_its_parts_in_order():
    model, images = random(Hourglass(SHAPE, frames=6, k=2, early=2, joints=3)), torch.randn(2, 6, 3, 2)
    x = images @ model.embed.weight.T + model.embed.bias + model.joint
    for i in range(3):
        if i == 2:
            order = hot(x.mean(2), 2).order
            x = torch.stack([row[kept] for row, kept in zip(x, order, strict=True)]) + model.slot[:, :, None]
        x = torch.stack([model.spatial[i](row, torch.zeros(1, 3)) for row in x])
        rows = x.transpose(1, 2) + (model.time if i == 0 else 0)
        x = torch.stack([model.temporal[i](row, torch.zeros(1, rows.shape[2])) for row in rows]).transpose(1, 2)
    back = torch.stack([model.recovery(x[:, :, j]) for j in range(3)], 2)
    assert_close(model(images), model.head(model.norm(back)), atol=1e-4, rtol=1e-4)
    assert torch.equal(model.kept(images), order)


def test_without_an_hourglass_all_pairs_read_all_frames():
    model, images = random(Hourglass(SHAPE, frames=6, k=None, joints=3)), torch.randn(2, 6, 3, 2)
    x = model.frames(images)
    x = model.pair(2, model.pair(1, x))
    assert_close(model(images), model.head(model.norm(x)), atol=1e-5, rtol=1e-5)
    assert model.recovery is None
    assert model.slot is None
    assert model.kept(images).tolist() == 2 * [list(range(6))]


def test_whoever_chooses_is_asked_for_k_of_the_means_over_joints():
    def last(x, k):
        asked.append((x, k))
        return Reduction.keep(torch.arange(6 - k, 6).expand(len(x), -1), 6)

    asked = []
    model, images = random(Hourglass(SHAPE, frames=6, k=2, joints=3, choose=last)), torch.randn(2, 6, 3, 2)
    assert model.kept(images).tolist() == [[4, 5], [4, 5]]
    assert_close(asked[0][0], model.frames(images).mean(2))
    other = images.clone()
    other[1] += 1
    assert_close(model(other)[0], model(images)[0], atol=1e-5, rtol=1e-5)


def test_fewer_frames_cost_less_and_all_that_is_learnt_gets_gradients():
    images, shape = torch.randn(1, 27, 17, 2), Shape(width=32, layers=4, heads=2, pairing=None)
    full, third, late = (Hourglass(shape, 27, k, early) for k, early in ((None, 1), (9, 1), (9, 3)))
    costs = [flops(model, images) for model in (third, late, full)]
    assert costs == sorted(costs)
    assert 0.48 < costs[0] / costs[2] < 0.58
    third(images).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in third.parameters())
    assert third.slot.grad.abs().amin() > 0
    assert third.recovery.queries.grad.abs().amin() > 0
    assert Hourglass(shape)(torch.randn(1, 81, 17, 2)).shape == (1, 81, 17, 3)


def test_errors_by_hand():
    true = torch.zeros(1, 2, 2, 3)
    found = torch.tensor([[[[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]]]])
    assert float(mpjpe(found, true)) == pytest.approx((5 + 0 + 1 + 2) / 4)
    # Steps (-3, -4, 1) and (0, 2, 0): lengths root 26 and 2, mean squares (2 * 26 + 4) / 6 with weights 2 and 1.
    expected = (2 * 5 + 2 * 1 + 2) / 4 + 0.5 * (2 * 26 + 4) / 6 + 2 * (26**0.5 + 2) / 2
    assert float(lifting_loss(found, true, weights=(2.0, 1.0))) == pytest.approx(expected, rel=1e-6)
    # By default joints count as the authors have it: 1 for the trunk and hips, 1.5 for head and shoulders, 2.5 for
    # legs, 4 for elbows and wrists.
    nothing, counts = torch.zeros(1, 2, 17, 3), {"head": 1.5, "knee": 2.5, "ankle": 2.5, "elbow": 4, "wrist": 4}
    for i, name in enumerate(JOINTS):
        off = nothing.clone()
        off[..., i, 0] = 17.0
        expected = 1.5 if "shoulder" in name else counts.get(name.split()[-1], 1)
        assert float(lifting_loss(off, nothing)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hot(torch.zeros(1, 3, 2), 2, nearest=0), "nearest=0 came, expected at least 1"),
        (lambda: Hourglass(SHAPE, early=0), "early=0 and k=27 came, expected 1 to the 3 pairs"),
        (lambda: Hourglass(SHAPE, early=4), "early=4 and k=27 came"),
        (lambda: Hourglass(SHAPE, k=0), "early=1 and k=0 came"),
        (lambda: Hourglass(SHAPE, frames=9, k=10), "k=10 came, expected 1 to the 3 pairs and 1 to the 9 frames"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
