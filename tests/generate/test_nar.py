import pytest
import torch
import torch.nn.functional as F

from minitok.attention import visible
from minitok.generate._common import generate
from minitok.generate.nar import NAR, diagonals, mean, neighbours
from minitok.generate.raster import ImageGPT
from minitok.nn import Cache, Shape

SHAPE = Shape(width=16, layers=3, heads=2)


def small(side: int = 3, **sizes: int) -> NAR:
    model = NAR(SHAPE, **{"K": 5, "classes": 2, "side": side, **sizes}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
            if "norm" in name:
                parameter.add_(torch.rand_like(parameter))
    return model.requires_grad_(False)


def test_the_diagonals_of_a_grid_of_four_by_hand():
    assert diagonals(4).groups == ((0,), (1, 4), (2, 5, 8), (3, 6, 9, 12), (7, 10, 13), (11, 14), (15,))


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_a_picture_takes_twice_its_side_less_one(side):
    schedule = diagonals(side)
    assert len(schedule) == 2 * side - 1
    for c, group in enumerate(schedule.groups):
        assert {k // side + k % side for k in group} == {c}


def test_neighbours_are_those_of_the_grid():
    for side in (1, 2, 4):
        left, above, weight = neighbours(side)
        for k in range(side * side):
            i, j = divmod(k, side)
            if j > 0:
                assert left[k] == 1 + i * side + (j - 1)
            if i > 0:
                assert above[k] == 1 + (i - 1) * side + j
            assert weight[k] == (0.5 if (i == 0) == (j == 0) else float(i == 0))
        assert left[0] == above[0] == 0


def test_a_model_of_two_layers_that_add_nothing_by_hand():
    model = NAR(Shape(width=2, layers=2, heads=1, pairing=None), K=2, side=2, classes=1).eval()
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.zero_()
        model.right_norm.scale.copy_(torch.tensor([1.0, 0.0]))  # the right head sees the first channel alone,
        model.body.norm.scale.copy_(torch.tensor([0.0, 1.0]))  # the head below the second
        model.code.copy_(torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
        model.label.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        model.position.zero_()
        logits = model(torch.tensor([[0, 1, 0, 0]]), torch.tensor([0]))[0]
    a, b = 3 / 12.5**0.5, 4 / 12.5**0.5  # code 0 is (a, b) behind a norm, code 1 is (b, a), the class is (1, 1)
    expected = torch.tensor(
        [
            [(3 + 4) / 2, (4 + 3) / 2],  # cell (0, 0): both heads of the class
            [3 * a, 4 * a],  # (0, 1): the right head of code 0
            [4 * b, 3 * b],  # (1, 0): the head below of code 0
            [(3 * a + 4 * a) / 2, (4 * a + 3 * a) / 2],  # (1, 1): right of code 0 at (1, 0), below code 1 at (0, 1)
        ]
    )
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def plain_logits(model: NAR, codes: torch.Tensor, label: int, side: int) -> torch.Tensor:
    """The mean of both heads' logits, cell by cell, each from a sequence that holds only what it may see."""

    def head(i: int, j: int, which: str) -> torch.Tensor:
        """The logits of one head of cell (i, j), or of the class at (-1, -1)."""
        cells = [(-1, -1), *((r, s) for r in range(side) for s in range(side) if r + s <= i + j)]
        x = torch.stack(
            [
                (model.label.weight[label] if r < 0 else model.code[codes[r * side + s]])
                + model.position[0 if r < 0 else r * side + s + 1]
                for r, s in cells
            ]
        )[None]
        places = torch.tensor(cells, dtype=torch.float32)[None]
        distance = places[0].sum(1)
        seen = distance[:, None] >= distance
        for block in model.body.blocks[: len(model.body.blocks) - (which == "right") * model.below_layers]:
            x = block(x, places, seen)
        norm = model.right_norm if which == "right" else model.body.norm
        return F.rms_norm(x, (16,), norm.scale, 1e-5)[0, cells.index((i, j))] @ model.code.T

    rows = []
    for k in range(side * side):
        i, j = divmod(k, side)
        asked = [(i, j - 1, "right")] * (j > 0) + [(i - 1, j, "below")] * (i > 0)
        asked = asked or [(-1, -1, "right"), (-1, -1, "below")]
        rows.append(torch.stack([head(*cell) for cell in asked]).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize(("side", "below_layers"), [(1, 1), (2, 1), (3, 1), (3, 2)])
def test_the_logits_are_those_of_a_plain_loop_over_cells(side, below_layers):
    model, codes = small(side, below_layers=below_layers), torch.randint(5, (1, side * side))
    expected = plain_logits(model, codes[0], 1, side)
    torch.testing.assert_close(model(codes, torch.tensor([1]))[0], expected, atol=1e-4, rtol=1e-4)


def test_tokens_of_one_diagonal_see_each_other():
    # cell (0, 2) is predicted by (0, 1), which lies on a diagonal with (1, 0)
    model, codes = small(), torch.randint(5, (1, 9))
    other = codes.clone()
    other[0, 3] = (other[0, 3] + 1) % 5
    difference = (model(codes, torch.tensor([0])) - model(other, torch.tensor([0]))).abs().amax(2)[0]
    assert float(difference[2]) > 1e-3
    assert float(difference[:2].max()) == float(difference[3]) == 0


def test_the_mask_is_the_papers_in_a_plain_loop():
    side, distance = 4, NAR(SHAPE, K=3, side=4).distance
    mask = visible(distance, 16, 16, distance.device)
    places = [(-1, -1), *(divmod(k, side) for k in range(15))]
    for a, (i, j) in enumerate(places):
        for b, (r, s) in enumerate(places):
            assert bool(mask[a, b]) == (r + s <= i + j)


def test_codes_of_a_diagonal_are_drawn_independently():
    # Both cells of the first diagonal have their own logits, whatever was drawn in the other: the joint
    # distribution of 20,000 draws is the product of the two.
    model, many = small(2, K=3), 20_000
    codes = generate(model, torch.zeros(many, dtype=torch.long), seed=1).codes
    codes = codes[codes[:, 0] == codes[0, 0]]
    joint = torch.zeros(3, 3).index_put((codes[:, 1], codes[:, 2]), torch.ones(len(codes)), accumulate=True)
    p = model(codes[:1], torch.tensor([0]))[0].softmax(-1)
    expected = p[1][:, None] * p[2][None]
    error = (expected * (1 - expected) / len(codes)).sqrt()
    assert ((joint / len(codes) - expected).abs() < 5.5 * error + 1 / len(codes)).all()


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_mean_before_the_read_out_is_the_mean_of_the_logits(weight):
    right, below, code = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(7, 4)
    expected = weight * (right @ code.T) + (1 - weight) * (below @ code.T)
    torch.testing.assert_close(mean(right, below, torch.full((3,), weight)) @ code.T, expected, atol=1e-5, rtol=1e-5)


def test_rows_and_columns_are_places_of_their_own():
    # With the same vector at every position only the rotary places tell (0, 1) from (1, 0).
    model = small(3)
    model.position.copy_(model.position[:1].expand_as(model.position))
    model.right_norm.scale.copy_(model.body.norm.scale)
    codes = torch.full((1, 9), 2)
    logits = model(codes, torch.tensor([0]))[0]
    assert not torch.allclose(logits[4], logits[8], atol=1e-3)
    flat = NAR(Shape(width=16, layers=3, heads=2, pairing=None), K=5, side=3, classes=2).eval()
    flat.load_state_dict(model.state_dict())
    assert not torch.allclose(flat(codes, torch.tensor([0])), logits[None], atol=1e-3)


def test_a_tenth_of_the_input_is_dropped_in_training():
    model = NAR(Shape(width=64, layers=2, heads=1), K=64, side=7, classes=1)
    with torch.no_grad():
        for name, parameter in model.body.named_parameters():
            parameter.fill_(1.0 if name == "norm.scale" else 0.0)
        model.code.copy_(torch.eye(64))
        model.label.weight.fill_(0.0)
        model.position.fill_(1.0)
    codes, labels = torch.randint(64, (20, 49)), torch.zeros(20, dtype=torch.long)
    dropped = model(codes, labels)[:, :7] == 0  # those of the first row have one neighbour alone; cell 0 the class
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.016)  # of 8,960 channels: five standard errors
    assert not (model.eval()(codes, labels) == 0).any()


def test_by_default_it_draws_the_codes_of_the_houses_tokenizer():
    model = NAR(SHAPE)
    assert (model.K, model.classes, model.schedule.n, len(model.schedule), model.below_layers) == (4096, 10, 256, 31, 1)


def test_it_holds_one_norm_more_than_the_model_of_raster_order():
    count = {type(m): sum(p.numel() for p in m.parameters()) for m in (NAR(SHAPE, side=4), ImageGPT(SHAPE, n=16))}
    assert count[NAR] == count[ImageGPT] + 16


@pytest.mark.usefixtures("unchecked")
def test_training_learns_a_chequerboard():
    torch.manual_seed(0)
    model, codes = NAR(SHAPE, K=3, side=4, classes=1), (torch.arange(4)[:, None] + torch.arange(4)).view(1, 16) % 2
    labels, parameters = torch.tensor([0]), list(model.parameters())
    for _ in range(40):
        loss = F.cross_entropy(model(codes, labels).flatten(0, 1), codes.flatten())
        # torch's optimizers take seconds to be imported
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.02 * slope.sign()
    assert loss.item() < 0.1
    assert torch.equal(generate(model.eval(), labels, temperature=0.1).codes, codes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagonals(0), "side=0 came"),
        (lambda: NAR(SHAPE, side=0), "side=0 came"),
        (lambda: NAR(SHAPE, K=0), "K=0 and classes=10 came"),
        (lambda: NAR(SHAPE, classes=0), "classes=0 came"),
        (lambda: NAR(SHAPE, below_layers=0), "below_layers=0 came, expected 1 to 2"),
        (lambda: NAR(SHAPE, below_layers=3), "below_layers=3 came, expected 1 to 2"),
        (lambda: NAR(Shape(width=12, layers=2, heads=4), side=2, K=3)(torch.zeros(1, 4).long(), ZERO), "axes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


ZERO = torch.tensor([0])


@pytest.mark.usefixtures("unchecked")
def test_a_step_takes_one_diagonal_after_another():
    model, cache = small(), Cache()
    with pytest.raises(ValueError, match="codes: 1 a picture came, expected 0"):
        model.step(torch.tensor([[1]]), ZERO, cache)
    model.step(torch.zeros(1, 0, dtype=torch.long), ZERO, cache)
    with pytest.raises(ValueError, match="codes: 2 a picture came, expected 1"):
        model.step(torch.tensor([[1, 2]]), ZERO, cache)
    model.step(torch.tensor([[1]]), ZERO, cache)
    model.step(torch.tensor([[1, 2]]), ZERO, cache)
    cache.keep(slice(3))
    with pytest.raises(ValueError, match=r"cache of 3 tokens came, expected one of \[0, 1, 2, 4, 7\]"):
        model.step(torch.tensor([[1, 2]]), ZERO, cache)
