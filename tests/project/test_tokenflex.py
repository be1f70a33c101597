"""TokenFLEX's squares, its gated layer and its draw: by hand and by plain loops."""

import math
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from minitok.project.tokenflex import BUDGETS, TokenFLEX, draw, shrunk


def at(grid, y, x):
    """The value of a grid (side, side, c) between its points, bilinear."""
    top, left = min(int(y), len(grid) - 2), min(int(x), len(grid) - 2)
    down, along = y - top, x - left
    above = grid[top, left] * (1 - along) + grid[top, left + 1] * along
    below = grid[top + 1, left] * (1 - along) + grid[top + 1, left + 1] * along
    return above * (1 - down) + below * down


@pytest.mark.parametrize(("side", "few"), [(4, 2), (4, 3), (5, 2), (6, 4), (6, 5), (6, 6), (7, 1), (9, 4)])
def test_squares_are_means_of_a_grid_that_is_stretched_to_a_multiple(side, few):
    x = torch.randn(2, side**2, 3)
    grid = x[0].unflatten(0, (side, side))
    full = math.ceil(side / few) * few
    scale, span = (side - 1) / max(full - 1, 1), full // few
    found = shrunk(x, few**2)
    assert found.shape == (2, few**2, 3)
    for token in range(few**2):
        top, left = token // few * span, token % few * span
        points = [at(grid, (top + y) * scale, (left + z) * scale) for y in range(span) for z in range(span)]
        assert_close(found[0, token], sum(points) / span**2, atol=1e-5, rtol=1e-5)


def test_a_side_that_fits_needs_no_stretching():
    x = torch.randn(1, 36, 2)
    assert torch.equal(shrunk(x, 36), x)
    assert_close(shrunk(x, 9)[:, 5], x[:, [16, 17, 22, 23]].mean(1))
    assert_close(shrunk(x, 1)[:, 0], x.mean(1))


def test_the_gated_layer_by_hand():
    projector = TokenFLEX(2, 3, hidden=1, n=4).requires_grad_(False)
    weights = {"gate": [[2.0, 0.0]], "up": [[0.0, 3.0]], "out": [[1.0], [-1.0], [0.5]]}
    for name, value in weights.items():
        projector.get_parameter(f"{name}.weight").copy_(torch.tensor(value))
        projector.get_parameter(f"{name}.bias").fill_(0.5)
    found = projector(torch.tensor([[[5.0, 1.0]] * 4]), 1)
    # (5, 1) has mean 3 and deviation 2: it becomes (1, -1)
    gate, up = 2 * 1 + 0.5, 3 * -1 + 0.5
    inside = gate / (1 + math.exp(-gate)) * up
    expected = [inside + 0.5, -inside + 0.5, 0.5 * inside + 0.5]
    assert_close(found, torch.tensor([[expected]]), atol=1e-4, rtol=1e-4)


def test_tokens_are_pooled_first_and_normalised_then():
    torch.manual_seed(0)
    projector, x = TokenFLEX(6, 4, hidden=5, n=16).requires_grad_(False), torch.randn(2, 16, 6)
    projector.norm.weight.uniform_(0.5, 2)
    mean = x[:, [2, 3, 6, 7]].mean(1)
    spread = mean - mean.mean(-1, keepdim=True)
    normed = spread / (spread.square().mean(-1, keepdim=True) + 1e-5).sqrt() * projector.norm.weight
    gate, up = (normed @ layer.weight.T + layer.bias for layer in (projector.gate, projector.up))
    expected = (gate * gate.sigmoid() * up) @ projector.out.weight.T + projector.out.bias
    assert_close(projector(x, 4)[:, 1], expected, atol=1e-5, rtol=1e-5)


def test_one_set_of_weights_serves_every_side():
    projector, x = TokenFLEX(6, 4, hidden=5, n=25), torch.randn(2, 25, 6)
    assert projector.budgets == (25, 16, 9, 4, 1)
    for k in projector.budgets:
        assert projector(x, k).shape == (2, k, 4)
    assert torch.equal(projector(x), projector(x, 25))
    sizes = {name: tuple(weight.shape) for name, weight in TokenFLEX().named_parameters() if "weight" in name}
    wide = (3 * 192, 192)
    assert sizes == {"norm.weight": (192,), "gate.weight": wide, "up.weight": wide, "out.weight": wide[::-1]}
    assert TokenFLEX().budgets == tuple(side**2 for side in range(16, 0, -1))


def test_each_budget_is_drawn_as_often():
    generator = torch.Generator().manual_seed(0)
    counts = Counter(draw(generator) for _ in range(3000))
    assert set(counts) == set(BUDGETS) == {16, 36, 64}
    assert all(abs(count - 1000) < 5.1 * math.sqrt(3000 * 2 / 9) for count in counts.values())
    assert draw(generator, budgets=(7,)) == 7
    assert len({draw(generator.manual_seed(5)) for _ in range(9)}) == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [0, -4, 2, 15, 25])
def test_bad_input_is_named(k):
    with pytest.raises(ValueError, match=f"k={k} of 16 tokens came, expected square numbers, k from 1 to n"):
        shrunk(torch.zeros(1, 16, 2), k)
    with pytest.raises(ValueError, match="k=4 of 15 tokens came"):
        TokenFLEX(2, 2)(torch.zeros(1, 15, 2), 4)
