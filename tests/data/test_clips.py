"""Clips and views of large scenes: tracks, flashes of digits, and which pixel goes where."""

import pytest
import torch
from torch.testing import assert_close

from minitok.data import clips, scenes
from minitok.data.views import render_in_a_quarter, views

CLIPS = clips.render(60, frames=5, seed=2)


def test_objects_glide_along_their_tracks_inside_the_picture():
    steps = CLIPS.tracks.diff(dim=1)
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-4)
    edge = torch.minimum(CLIPS.tracks, 64 - CLIPS.tracks).amin((1, 3))
    assert bool((edge - CLIPS.radius > 0)[CLIPS.present].all())
    length = (CLIPS.tracks[:, -1] - CLIPS.tracks[:, 0]).norm(dim=2)
    moving = CLIPS.present & (CLIPS.way < 4)
    assert 16 <= float(length[moving].min()) <= float(length[moving].max()) <= 0.4 * 64
    assert float(length[CLIPS.present & (CLIPS.way == 4)].max()) == 0
    assert set(CLIPS.way[CLIPS.present].tolist()) == {0, 1, 2, 3, 4}
    assert bool((CLIPS.way[~CLIPS.present] == -1).all())


def test_masks_move_with_their_objects():
    alone = CLIPS.present.sum(1) == 1
    for i in alone.nonzero()[:, 0].tolist():
        for t in range(5):
            rows, columns = CLIPS.masks[i, t, 0].nonzero().T.float()
            middle = torch.stack([(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2])
            assert_close(middle[0], CLIPS.tracks[i, t, 0, 0], rtol=0, atol=1.0)
            assert abs(float(middle[1] - CLIPS.tracks[i, t, 0, 1])) < 0.2 * float(CLIPS.radius[i, 0]) + 1


def test_a_digit_shows_in_two_frames_that_follow_each_other():
    shown = CLIPS.shown.int()
    assert set(shown.sum(1).unique().tolist()) == {0, 2}
    together = (shown[:, 1:] * shown[:, :-1]).sum(1)
    assert torch.equal(together, shown.sum(1) // 2)
    assert bool((shown.sum(1)[CLIPS.glyph >= 0] == 2).all())


def test_frames_without_its_digit_show_the_object_plain():
    i, slot = (int(x) for x in (CLIPS.glyph >= 0).nonzero()[0])
    inked = []
    for t in range(5):
        pixels = CLIPS.images[i, t][:, CLIPS.masks[i, t, slot]]
        inked.append(bool(((pixels - pixels.median(1, keepdim=True).values).abs().amax(0) > 0.3).float().mean() > 0.05))
    assert inked == CLIPS.shown[i, :, slot].tolist()


def test_a_clip_does_not_depend_on_the_number_of_clips():
    few = clips.render(4, frames=5, seed=2)
    assert all(torch.equal(a, b[:4]) for a, b in zip(vars(few).values(), vars(CLIPS).values(), strict=True))
    assert not torch.equal(clips.render(4, frames=5, seed=3).images, few.images)


def test_views_are_the_whole_and_its_quarters():
    images = torch.rand(2, 3, 8, 8)
    made = views(images)
    assert made.shape == (2, 5, 3, 4, 4)
    assert_close(made[:, 0, :, 1, 2], images[:, :, 2:4, 4:6].mean((2, 3)))
    for index, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        assert torch.equal(made[:, 1 + index], images[:, :, row : row + 4, column : column + 4])


def test_scenes_in_a_quarter_stay_in_it():
    drawn = render_in_a_quarter(40, seed=1)
    assert drawn.images.shape == (40, 3, 128, 128)
    quarters = [part for half in drawn.masks.chunk(2, 2) for part in half.chunk(2, 3)]
    used = torch.stack([part.any(dim=(1, 2, 3)) for part in quarters], 1)
    assert torch.equal(used.sum(1), torch.ones(40, dtype=torch.long))
    assert bool(used.any(0).all())
    small = scenes.render(40, seed=1)
    assert torch.equal(drawn.shape, small.shape)
    assert torch.equal(drawn.radius, small.radius)


@pytest.mark.usefixtures("unchecked")
def test_an_odd_picture_has_no_quarters():
    with pytest.raises(ValueError, match="images of 5 x 4 came"):
        views(torch.rand(1, 3, 5, 4))
