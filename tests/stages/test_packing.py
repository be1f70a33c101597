"""TokenPacker's own controls: all patches for each query, and a pixel shuffle of as many weights."""

import torch
from torch.testing import assert_close

from minitok import metrics
from minitok.project import TokenPacker
from minitok.stages.packing import Everywhere, Wide
from minitok.stages.projectors import Shuffle


def test_everywhere_is_tokenpacker_without_regions():
    x, levels = torch.randn(2, 16, 6), torch.randn(2, 2, 16, 6)
    sizes = {"layers": (0, 1), "width": 8, "heads": 2, "budgets": (4, 1)}
    one, other = TokenPacker(6, 5, **sizes), Everywhere(6, 5, **sizes)
    other.load_state_dict(one.requires_grad_(False).state_dict())
    other.requires_grad_(False)
    # a single region is the whole picture
    assert_close(other(x, 1, levels=levels), one(x, 1, levels=levels))
    moved = levels.clone()
    moved[:, :, 15] += torch.randn(6)
    apart = (other(x, 4, levels=moved) - other(x, 4, levels=levels)).abs().amax((0, 2))
    assert float(apart.min()) > 1e-6


def test_a_wide_shuffle_is_the_shuffle_with_another_width_inside():
    x, wide, plain = torch.randn(2, 16, 6), Wide(4, 5, 6, 5, n=16), Shuffle(4, 6, 5, n=16)
    wide.load_state_dict({key.removeprefix("mlp."): value for key, value in plain.state_dict().items()})
    assert_close(wide(x), plain(x))
    assert abs(metrics.parameters(Wide(64, 398)) / metrics.parameters(TokenPacker()) - 1) < 0.01
