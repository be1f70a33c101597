"""What projectors and their controls share, by hand and against a plain loop."""

import math

import pytest
import torch
from torch.testing import assert_close

from minitok.project._common import grid_positions, regions, stretched


def cubic(distance):
    """The weight of a neighbour in bicubic interpolation, with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_places_by_hand():
    found = grid_positions(3, 8)
    for place in range(9):
        column, row = place % 3, place // 3
        waves = [f(at * w) for at in (column, row) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
        assert_close(found[place], torch.tensor(waves))
    assert_close(grid_positions(256, 4)[255, 0], torch.tensor(math.sin(255)))


@pytest.mark.parametrize(("side", "wanted"), [(4, 6), (3, 7), (5, 2)])
def test_places_are_stretched_by_cubic_weights(side, wanted):
    grid, expected = torch.randn(side**2, 2), torch.zeros(wanted**2, 2)
    for row in range(wanted):
        for column in range(wanted):
            y, x = ((i + 0.5) * side / wanted - 0.5 for i in (row, column))
            for down in range(math.floor(y) - 1, math.floor(y) + 3):
                for along in range(math.floor(x) - 1, math.floor(x) + 3):
                    at = min(max(down, 0), side - 1) * side + min(max(along, 0), side - 1)
                    expected[row * wanted + column] += cubic(y - down) * cubic(x - along) * grid[at]
    assert_close(stretched(grid, wanted**2), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(stretched(grid, side**2), grid)
    assert stretched(grid.bfloat16(), wanted**2).dtype == torch.bfloat16


def test_one_place_says_the_same_everywhere():
    assert_close(stretched(torch.full((1, 1), 2.0), 9), torch.full((9, 1), 2.0))


@pytest.mark.usefixtures("unchecked")
def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="c=6 came, expected a multiple of 4"):
        grid_positions(3, 6)
    for places, n in ((1, 12), (3, 16)):
        with pytest.raises(ValueError, match=f"n={n} came for {places} places, expected two square numbers"):
            stretched(torch.zeros(places, 4), n)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [0, 2, 9, 64])
def test_squares_share_out_the_grid_or_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k} of 16 tokens came"):
        regions(torch.zeros(1, 16, 1), k)


def test_squares_are_in_raster_order_within_and_without():
    x = torch.arange(36.0).view(1, 36, 1)
    assert regions(x, 4)[0, 3, :, 0].tolist() == [21, 22, 23, 27, 28, 29, 33, 34, 35]
    assert torch.equal(regions(x, 36)[:, :, 0], x)
