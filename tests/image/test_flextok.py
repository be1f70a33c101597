import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitok.image._common import Tokens
from minitok.image.flextok import Codec, FlexTok, blocks, draw_kept, guide, nested_dropout
from minitok.image.titok import Sizes

SMALL = Sizes(size=8, patch=4, tokens=4, width=12, layers=2, heads=2)


def small(sizes=SMALL, layers=1, codec=None):
    """A tokenizer whose flow has left its start, where adaptive norms close every gate."""
    torch.manual_seed(0)
    model = FlexTok(sizes, layers, codec).eval()
    for name, parameter in model.flow.named_parameters():
        if "modulation" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


class Straight(nn.Module):
    """A flow that knows its target: from any noised map it points straight there."""

    def __init__(self, target):
        super().__init__()
        self.target, self.calls = target, []

    def forward(self, noised, s, registers):
        self.calls.append((noised, s, registers))
        return (noised - self.target) / s[:, None, None, None]


def test_a_register_sees_all_patches_and_the_registers_up_to_itself():
    numbers = blocks(3, 4)
    seen = numbers[:, None] >= numbers[None]
    expected = np.tril(np.ones((7, 7), bool))
    expected[:3, :3] = True
    assert seen.numpy().tolist() == expected.tolist()


def test_later_registers_and_no_patch_change_earlier_ones():
    model, maps = small(), torch.rand(1, 3, 8, 8)
    before = model.registers(maps)
    with torch.no_grad():
        model.encoder.latents[2] += 1
    after = model.registers(maps)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert ((after - before)[:, 2:].abs().amax(-1) > 1e-4).all()
    for place in ((0, 0), (4, 4)):
        changed = maps.clone()
        changed[..., place[0], place[1]] += 0.5
        assert ((model.registers(changed) - after).abs().amax(-1) > 1e-5).all()


def test_the_first_codes_do_not_depend_on_how_many_registers_follow():
    long, images = small(), torch.rand(3, 3, 8, 8)
    short = small(Sizes(size=8, patch=4, tokens=2, width=12, layers=2, heads=2))
    own = short.encoder.state_dict()
    short.encoder.load_state_dict(
        {k: v[:2] if k == "latents" else v for k, v in long.encoder.state_dict().items() if k in own}
    )
    assert torch.equal(short.encode(images).codes, long.encode(images).codes[:, :2])


def test_dropped_registers_are_mask_tokens():
    x, mask = torch.randn(4, 5, 2), torch.tensor([7.0, -7.0])
    dropped = nested_dropout(x, torch.tensor([0, 1, 4, 5]), mask)
    for row, kept in enumerate((0, 1, 4, 5)):
        for i in range(5):
            assert torch.equal(dropped[row, i], x[row, i] if i < kept else mask)
    half = nested_dropout(x.bfloat16(), torch.tensor([2, 2, 2, 2]), mask)
    assert half.dtype == torch.bfloat16
    assert nested_dropout(x[:0], torch.zeros(0, dtype=torch.long), mask).shape == (0, 5, 2)


def test_a_dropped_register_keeps_its_place():
    model, values = small(), torch.randn(2, 4, 4)
    embedded = model.embedded(values, torch.tensor([2, 0]))
    expected = values @ model.enter.weight.T + model.enter.bias + model.place
    torch.testing.assert_close(embedded[0, :2], expected[0, :2])
    torch.testing.assert_close(embedded[0, 2:], (model.mask + model.place)[2:])
    torch.testing.assert_close(embedded[1], model.mask + model.place)


@pytest.mark.parametrize("null", [0.0, 0.1, 0.5])
def test_lengths_are_powers_of_two_or_none(null):
    draws = 6000
    counts = draw_kept(draws, 16, torch.device("cpu"), null).bincount(minlength=17)
    expected = torch.zeros(17)
    expected[0], expected[[1, 2, 4, 8, 16]] = null * draws, (1 - null) / 5 * draws
    assert (counts[expected == 0] == 0).all()
    there = expected > 0
    # chi-square with 5 degrees of freedom is above 36 once in a million
    assert ((counts - expected) ** 2)[there].div(expected[there]).sum() < 36


def test_one_token_is_a_length_too():
    assert draw_kept(50, 1, torch.device("cpu"), 0.0).tolist() == [1] * 50
    assert draw_kept(50, 1, torch.device("cpu"), 1.0).tolist() == [0] * 50
    assert draw_kept(0, 8, torch.device("cpu")).shape == (0,)


def guided(velocity, null, scale, before, threshold):
    """Adaptive projected guidance of one map in numpy."""
    difference = velocity - null - 0.5 * before
    short = difference * min(1.0, threshold / np.linalg.norm(difference))
    unit = velocity / np.linalg.norm(velocity)
    return velocity + (scale - 1) * (short - (short * unit).sum() * unit), difference


@pytest.mark.parametrize(("scale", "threshold"), [(3.0, 2.5), (3.0, 1e9), (1.0, 2.5), (0.5, 0.1)])
def test_guidance_is_that_of_numpy(scale, threshold):
    velocity, null, before = (torch.randn(3, 2, 4, 4) for _ in range(3))
    found, difference = guide(velocity, null, scale, before, threshold)
    for i in range(3):
        expected, kept = guided(velocity[i].numpy(), null[i].numpy(), scale, before[i].numpy(), threshold)
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(difference[i].numpy(), kept, atol=1e-5)


def test_guidance_by_hand():
    velocity, null = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, -2.0]]]])
    found, difference = guide(velocity, null, scale=3.0)
    assert difference.tolist() == [[[[1.0, 2.0]]]]
    assert found.tolist() == [[[[1.0, 4.0]]]]
    shorter, _ = guide(velocity, null, scale=3.0, threshold=5**0.5 / 2)
    torch.testing.assert_close(shorter, torch.tensor([[[[1.0, 2.0]]]]))
    again, _ = guide(velocity, null, scale=3.0, before=difference)
    torch.testing.assert_close(again, torch.tensor([[[[1.0, 2.0]]]]))


def test_the_error_is_that_of_the_straight_velocity():
    model, maps = small(), torch.randn(40, 3, 8, 8)
    model.flow = Straight(torch.zeros(3, 8, 8))
    flowed = model(maps)
    noised, s, registers = model.flow.calls[0]
    assert ((s > 0) & (s < 1)).all()
    assert s.unique().numel() == 40
    weight = s[:, None, None, None]
    noise = (noised - (1 - weight) * maps) / weight
    assert noise.mean().abs() < 0.06  # of 7,680 normal numbers; five standard deviations
    assert (noise.std() - 1).abs() < 0.05
    expected = (noised / weight - (noise - maps)).square().mean((1, 2, 3))
    torch.testing.assert_close(flowed.error, expected, atol=1e-3, rtol=1e-3)
    dropped = (registers - (model.mask + model.place)).abs().amax(-1) < 1e-6
    assert set(dropped.sum(1).tolist()) <= {0, 2, 3, 4}
    assert len(set(dropped.sum(1).tolist())) > 2


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_steps_end_on_the_target_of_a_straight_flow(steps):
    model, target = small(), torch.rand(2, 3, 8, 8)
    model.flow = Straight(target * 2 - 1)
    tokens = model.encode(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(model.decode(tokens, steps=steps), target, atol=1e-5, rtol=0)
    assert [round(float(call[1][0]) * steps) for call in model.flow.calls] == list(range(steps, 0, -1))


class Curved(nn.Module):
    """A flow whose velocity changes on the way, and which hears the registers."""

    def forward(self, noised, s, registers):
        return noised * s[:, None, None, None] + 20 * registers.mean((1, 2))[:, None, None, None] * noised.sin()


@pytest.mark.parametrize("guidance", [1.0, 0.5, 3.0])
def test_the_walk_is_that_of_a_plain_loop(guidance):
    model = small()
    model.flow = Curved()
    tokens, steps = model.encode(torch.rand(2, 3, 8, 8))[:3], 3
    told = torch.full((2, 4, 12), 0.0) + model.mask + model.place
    told[:, :3] = model.enter(model.quantizer.decode(tokens.codes)) + model.place[:3]
    free = (model.mask + model.place).expand(2, -1, -1)
    x, before = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7)), torch.zeros(2, 3, 8, 8)
    for s in (1, 2 / 3, 1 / 3):
        s = torch.tensor([s, s])
        velocity, before = guide(model.flow(x, s, told), model.flow(x, s, free), guidance, before)
        x = x - velocity / 3
    decoded = model.decode(tokens, steps=steps, guidance=guidance, seed=7)
    torch.testing.assert_close(decoded, ((x + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_the_flow_reads_the_time_as_cosines_and_sines():
    flow, read = small().flow, []
    flow.time.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    s = torch.tensor([0.0, 0.3, 1.0])
    flow(torch.zeros(3, 3, 8, 8), s, torch.zeros(3, 4, 12))
    angles = np.array([[1000 * t / 10_000 ** (i / 32) for i in range(32)] for t in s.tolist()])
    np.testing.assert_allclose(read[0].numpy(), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4)


def test_times_of_training_are_sigmoids_of_normal_numbers():
    model = small(Sizes(size=2, patch=2, tokens=1, width=4, layers=1, heads=1))
    model.flow, n = Straight(torch.zeros(3, 2, 2)), 4000
    model(torch.zeros(n, 3, 2, 2))
    normal = model.flow.calls[0][1].logit()
    # five standard errors of the mean, of the spread, and of the share within one
    assert normal.mean().abs() < 5 / n**0.5
    assert (normal.std() - 1).abs() < 5 / (2 * n) ** 0.5
    assert ((normal.abs() < 1).float().mean() - 0.6827).abs() < 5 * (0.6827 * 0.3173 / n) ** 0.5


def test_guidance_asks_the_flow_twice_once_without_any_token():
    model = small()
    model.flow = Straight(torch.zeros(2, 3, 8, 8))
    tokens = model.encode(torch.rand(2, 3, 8, 8))
    model.decode(tokens[:2], steps=3, guidance=2.0)
    assert len(model.flow.calls) == 6
    nothing = (model.mask + model.place).expand(2, -1, -1)
    for i, (_, _, registers) in enumerate(model.flow.calls):
        assert torch.equal(registers, nothing) == bool(i % 2)
    model.flow.calls.clear()
    model.decode(tokens[:2], steps=3, guidance=1.0)
    assert len(model.flow.calls) == 3


def test_a_flow_that_ignores_tokens_is_not_guided():
    model = small()
    model.flow = Straight(torch.rand(1, 3, 8, 8) - 0.5)
    tokens = model.encode(torch.rand(1, 3, 8, 8))
    torch.testing.assert_close(model.decode(tokens, guidance=5.0), model.decode(tokens), atol=1e-6, rtol=0)


def test_tokens_steps_seed_and_guidance_are_heard():
    model = small()
    tokens = model.encode(torch.rand(1, 3, 8, 8))
    base = model.decode(tokens, steps=4)
    assert torch.equal(model.decode(tokens, steps=4), base)
    for other in (
        model.decode(tokens[:1], steps=4),
        model.decode(tokens, steps=5),
        model.decode(tokens, steps=4, seed=1),
        model.decode(tokens, steps=4, guidance=3.0),
    ):
        assert (other - base).abs().max() > 1e-4


def test_the_flow_reads_every_patch_the_time_and_every_register():
    flow = small(layers=2).flow
    noised, s, registers = torch.randn(1, 3, 8, 8), torch.tensor([0.5]), torch.randn(1, 4, 12)
    before = flow(noised, s, registers)
    assert before.shape == noised.shape
    assert (flow(noised, torch.tensor([0.6]), registers) - before).abs().max() > 1e-4
    for i in range(4):
        changed = registers.clone()
        changed[:, i] += 1
        moved = F.max_pool2d((flow(noised, s, changed) - before).abs(), 4)
        assert (moved > 1e-5).all()
    changed = noised.clone()
    changed[..., 0, 0] += 1
    assert (F.max_pool2d((flow(changed, s, registers) - before).abs(), 4) > 1e-5).all()


def test_a_codec_says_what_is_painted():
    halved = Codec(lambda x: F.avg_pool2d(x, 2), lambda m: m.repeat_interleave(2, 2).repeat_interleave(2, 3), 16)
    model, images = small(codec=halved), torch.rand(2, 3, 16, 16)
    tokens = model.encode(images)
    expected = model.quantizer.encode(model.registers(F.avg_pool2d(images, 2)))
    assert torch.equal(tokens.codes, expected)
    model.flow = Straight(F.avg_pool2d(images, 2))
    torch.testing.assert_close(F.avg_pool2d(model.decode(tokens), 2), F.avg_pool2d(images, 2), atol=1e-5, rtol=0)
    assert not any("codec" in name for name in model.state_dict())


def test_the_condition_is_a_small_network_of_the_times_waves():
    flow, s, seen = small().flow, torch.tensor([0.2]), []
    flow.body.register_forward_hook(lambda *given: seen.append(given[2]), with_kwargs=True)
    flow.body.register_forward_pre_hook(lambda _, inputs, named: seen.append(named["condition"]), with_kwargs=True)
    flow(torch.zeros(1, 3, 8, 8), s, torch.zeros(1, 4, 12))
    angle = s[:, None] * 1000 / 10_000 ** (torch.arange(32) / 32)
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    first, _, second = flow.time
    expected = F.silu(waves @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-4)


def test_by_default_64_tokens_and_a_flow_of_six_layers():
    model = FlexTok()
    assert model.sizes == Sizes(size=64, patch=8, tokens=64, width=128, layers=3, heads=4, channels=3)
    assert len(model.flow.body.blocks) == 6
    assert "blocks" not in model.state_dict()


def test_places_and_the_mask_start_small():
    model = FlexTok()
    for parameter in (model.flow.position, model.place, model.mask):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.25)
        assert abs(parameter.mean().item()) < 0.01


def test_maps_in_half_precision_meet_noise_in_whole():
    model, maps, errors = small(), torch.rand(2, 3, 8, 8).bfloat16(), []
    for given in (maps, maps.float()):
        torch.manual_seed(3)
        errors.append(model(given).error)
    assert torch.equal(*errors)


def test_layers_and_condition_are_heard():
    model = FlexTok(SMALL, layers=5)
    assert len(model.flow.body.blocks) == 5
    assert len(model.encoder.body.blocks) == 2
    assert model.bits == 12


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_error_moves_every_parameter_and_training_lowers_it():
    maps = torch.rand(4, 3, 1, 1).expand(-1, -1, 4, 4) * 2 - 1
    model = FlexTok(Sizes(size=4, patch=2, tokens=4, width=12, layers=2, heads=2), layers=1)
    optimizer, errors, moved = torch.optim.Adam(model.parameters(), lr=1e-2), [], set()
    for _ in range(60):
        optimizer.zero_grad()
        error = model(maps.repeat(16, 1, 1, 1)).error.mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert moved == {name for name, _ in model.named_parameters()}
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_half_precision_gives_finite_images():
    model, images = small(), torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        flowed, decoded = model(images), model.decode(model.encode(images)[:1], steps=2)
    assert flowed.error.dtype == torch.float32
    assert flowed.error.isfinite().all()
    assert decoded.isfinite().all()


TOKENS = Tokens(torch.zeros(1, 4, 1, dtype=torch.long), (4,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.decode(TOKENS, steps=0), "steps=0 and guidance=1.0 came"),
        (lambda m: m.decode(TOKENS, guidance=-1.0), "steps=20 and guidance=-1.0 came"),
        (lambda m: m.decode(TOKENS, guidance=float("nan")), "guidance=nan came"),
        (lambda m: m.decode(TOKENS, guidance=float("inf")), "guidance=inf came"),
        (lambda m: m.decode(TOKENS.codes), "tokens of type Tensor"),
        (lambda m: m.decode(Tokens(TOKENS.codes, (8,))), r"layout \(8,\) came"),
        (lambda m: m.decode(Tokens(TOKENS.codes + 5000, (4,))), "codes from 5000"),
        (lambda m: m.encode(torch.rand(1, 3, 64, 64)), r"expected \(b, 3, 8, 8\)"),
        (lambda m: m.encode(-torch.rand(1, 3, 8, 8)), "expected values in"),
        (lambda m: draw_kept(2, 6, torch.device("cpu")), "n=6 tokens came, expected a power of two"),
        (lambda m: draw_kept(2, 0, torch.device("cpu")), "n=0 tokens came"),
        (lambda m: FlexTok(Sizes(size=10, patch=4)), "size=10 is not a multiple"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small())
