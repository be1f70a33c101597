import torch

from minitok import viz
from minitok.reduce import Reduction


def test_merged_patches_have_their_mean_and_a_rim_between_groups():
    image = torch.rand(3, 8, 8)  # patches of 4: a b / c d
    reduction = Reduction.merge(torch.tensor([[0, 0, 1, 1]]), 2)
    made = viz.painted(image, reduction, scale=1)
    assert made.shape == (3, 8, 8)
    torch.testing.assert_close(made[:, :4, :4], (image[:, :4, :4] + image[:, :4, 4:]) / 2)
    torch.testing.assert_close(made[:, :4, 4:], made[:, :4, :4])
    assert made[:, 4].eq(1).all()
    assert not made[:, 5:].eq(1).any()
    assert viz.painted(image, reduction, scale=3).shape == (3, 24, 24)


def test_kept_patches_are_as_they_were_and_dropped_ones_dark():
    image = torch.rand(3, 8, 8)
    made = viz.painted(image, Reduction.keep(torch.tensor([[1, 2]]), 4), scale=1)
    assert torch.equal(made[:, :4, 4:], image[:, :4, 4:])
    assert torch.equal(made[:, 4:, :4], image[:, 4:, :4])
    assert made[:, :4, :4].eq(0).all()


def test_a_blend_has_no_groups_to_draw():
    image = torch.rand(3, 8, 8)
    reduction = Reduction.blend(torch.rand(1, 2, 4))
    made = viz.painted(image, reduction, scale=1)
    pixels = image.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(1, 4, 48)
    expected = reduction.restore(reduction.apply(pixels)).view(2, 2, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 8, 8)
    torch.testing.assert_close(made, expected)


def test_pictures_stand_side_by_side_with_what_each_kept():
    pictures = torch.stack([torch.full((3, 16, 8), 0.25), torch.full((3, 16, 8), 0.75)])
    made = viz.strip(pictures, Reduction.keep(torch.tensor([[1, 2]]), 4), patch=8, scale=1)
    assert made.shape == (3, 16, 16)
    assert made[0, ::8, ::8].tolist() == [[0, 0.75], [0.25, 0]]
    assert viz.strip(pictures, Reduction.keep(torch.tensor([[1, 2]]), 4)).shape == (3, 32, 32)
