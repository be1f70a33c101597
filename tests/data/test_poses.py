import pytest
import torch
from torch.testing import assert_close

from minitok.data import poses

DRAWN = poses.render(24, frames=41, seed=3, noise=0.0)
LOWER = [poses.JOINTS.index(f"{side} {joint}") for side in ("left", "right") for joint in ("knee", "ankle")]


def test_bones_keep_their_lengths_and_figures_are_as_tall_as_people():
    ends = torch.tensor(poses.BONES)
    lengths = (DRAWN.space[:, :, ends[:, 0]] - DRAWN.space[:, :, ends[:, 1]]).norm(dim=-1)
    assert_close(lengths, lengths[:, :1].expand_as(lengths), atol=1e-5, rtol=0)
    halves = [poses.BONES.index(pair) for pair in ((1, 2), (4, 5))]
    assert_close(lengths[:, 0, halves[0]], lengths[:, 0, halves[1]], atol=1e-5, rtol=0)
    assert 0.3 < float(lengths[..., halves[0]].min()) < float(lengths[..., halves[0]].max()) < 0.6
    # Every joint hangs on the pelvis, and a tree of 17 joints has 16 bones.
    assert sorted(end for _, end in poses.BONES) == list(range(1, 17))
    tall = DRAWN.space[..., [3, 6], :].sub(DRAWN.space[..., 10:11, :]).norm(dim=-1).amax((1, 2))
    assert 1.2 < float(tall.min()) < float(tall.max()) < 2.1


def test_a_picture_is_what_a_pinhole_sees():
    x, y, z = DRAWN.space[5, 7, 13].tolist()
    assert DRAWN.image[5, 7, 13].tolist() == pytest.approx([2 * x / z, 2 * y / z], abs=1e-5)
    assert float(DRAWN.image.abs().max()) < 1.0
    assert float(DRAWN.space[..., 2].min()) > 2.0
    # Heads are above feet: down is positive.
    assert bool((DRAWN.image[:, :, 10, 1] < DRAWN.image[:, :, [3, 6], 1].amin(-1)).all())
    assert torch.equal(DRAWN.relative[:, :, 0], torch.zeros(24, 41, 3))
    assert_close(DRAWN.relative[1, 2, 3], DRAWN.space[1, 2, 3] - DRAWN.space[1, 2, 0])


def test_the_lower_foot_stands_on_a_floor_that_does_not_move():
    # A camera that does not tilt sees the floor where it hangs above it.
    level = {name: torch.tensor([[0.9 if name == "camera" else 4.0 if name == "distance" else 0.0]])
             for name in ("camera", "distance", "aside")}  # fmt: skip
    body = torch.randn(1, 5, 17, 3)
    space = poses.seen(body, level, torch.zeros(1, 5))
    assert_close(space[:, :, [3, 6], 1].amax(2), torch.full((1, 5), 0.9), atol=1e-5, rtol=0)
    assert_close(space[..., 0], body[..., 0], atol=1e-6, rtol=0)
    assert_close(space[..., 2], body[..., 2] + 4, atol=1e-6, rtol=0)
    turned = poses.seen(body, level, torch.full((1, 5), torch.pi / 2))
    assert_close(turned[..., 0], body[..., 2], atol=1e-5, rtol=0)


def test_a_tilted_camera_changes_no_distance_and_looks_at_the_middle_of_a_figure():
    u = {"camera": torch.tensor([[2.1]]), "distance": torch.tensor([[4.0]]), "aside": torch.zeros(1, 1)}
    body = torch.randn(1, 2, 17, 3)
    body[:, :, :, 1] += 3
    body[:, :, [3, 6], 1] = 0
    body[:, :, 0] = torch.tensor([0.0, 0.9, 0.0])
    space = poses.seen(body, u, torch.rand(1, 2))
    assert_close(torch.cdist(space, space), torch.cdist(body, body), atol=2e-3, rtol=1e-3)
    assert_close(space[:, :, 0], torch.tensor([0.0, 0.0, (4.0**2 + 1.2**2) ** 0.5]).expand(1, 2, 3), atol=1e-4, rtol=0)


def test_legs_rest_in_a_halt_and_swing_in_a_gait():
    halts = (DRAWN.moving.amin(1) < 0.1).nonzero()[:, 0]
    assert 6 < len(halts) < 20
    rested = 0
    hips = DRAWN.space[:, :, [4, 4, 1, 1]]
    speed = (DRAWN.space[:, :, LOWER] - hips).diff(dim=1).norm(dim=-1).mean(2)
    for i in halts.tolist():
        still = DRAWN.moving[i, 1:] < 0.02
        if still.sum() > 3:
            rested += 1
            assert float(speed[i][still].mean()) < 0.35 * float(speed[i][DRAWN.moving[i, 1:] > 0.99].mean())
    assert rested > 3
    gait = DRAWN.moving.amin(1) > 0.999
    assert float(speed[gait].mean()) > 0.03


def test_a_limb_by_hand():
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    start = torch.tensor([[[1.0, 2.0, 3.0]]])
    down, end = poses.limb(start, (one, 2 * one), zero, zero + torch.pi / 2, zero)
    assert_close(down, torch.tensor([[[1.0, 1.0, 3.0]]]))
    assert_close(end, torch.tensor([[[1.0, 1.0, 5.0]]]))
    aside, _ = poses.limb(start, (one, one), zero, zero, zero + torch.pi / 2)
    assert_close(aside, torch.tensor([[[2.0, 2.0, 3.0]]]))


def test_a_detector_errs_as_told():
    loud = poses.render(24, frames=41, seed=3, noise=0.02)
    assert torch.equal(loud.space, DRAWN.space)
    errors = loud.image - DRAWN.image
    assert float(errors.std()) == pytest.approx(0.02, rel=0.03)
    assert abs(float(errors.mean())) < 1e-3
    assert float(errors.abs().max()) <= 0.02 * 6**0.5
    by_default = poses.render(24, frames=41, seed=3).image - DRAWN.image
    assert_close(by_default, errors / 2, atol=1e-6, rtol=0)


def test_a_sequence_does_not_depend_on_the_number_of_sequences():
    few = poses.render(4, frames=41, seed=3, noise=0.0)
    assert all(torch.equal(a, b[:4]) for a, b in zip(vars(few).values(), vars(DRAWN).values(), strict=True))
    assert not torch.equal(poses.render(4, frames=41, seed=4, noise=0.0).space, few.space)
    assert poses.render(1).image.shape == (1, 81, 17, 2)


def test_arms_reach_and_figures_turn():
    # The wrist that is higher above its shoulder's height, at its highest: some reach, each on one side.
    above = DRAWN.relative[:, :, [11, 14], 1] - DRAWN.relative[:, :, [13, 16], 1]
    raised = above.amax(1) > 0
    assert int(raised.any(1).sum()) > 8
    assert not bool(raised.all(1).any())
    across = DRAWN.relative[:, :, 1, [0, 2]]
    ways = torch.atan2(across[..., 1], across[..., 0])
    turned = (ways[:, -1] - ways[:, 0]).remainder(2 * torch.pi)
    assert int(((turned > 0.3) & (turned < 2 * torch.pi - 0.3)).sum()) > 8


@pytest.mark.parametrize("bad", [{"n": 0}, {"frames": 1}, {"noise": -0.1}, {"noise": float("nan")}])
def test_what_cannot_be_drawn_is_refused(bad):
    with pytest.raises(ValueError, match="expected at least 1, 2 and 0"):
        poses.render(**({"n": 2} | bad))
