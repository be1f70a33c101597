"""PVC by hand, by plain loops over places and frames, by torch's pixel shuffle, and inside a ViT's last layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok.metrics import difference
from minitok.nn import Shape
from minitok.project.pvc import PVC, AdaLN, Temporal, causal, shuffled, sinusoid
from minitok.vlm import VLM


@pytest.fixture(scope="module")
def host() -> VLM:
    torch.manual_seed(0)
    return VLM(Shape(width=12, layers=3, heads=3), vocabulary=11).eval().requires_grad_(False)


def awake(method: PVC) -> PVC:
    """A module whose zeros are zeros no more."""
    torch.manual_seed(1)
    for parameter in method.parameters():
        parameter.data.normal_(std=0.3)
    return method.requires_grad_(False)


@pytest.fixture
def method() -> PVC:
    return awake(PVC(c=12, d=12, e=8))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 256, 12, generator=torch.Generator().manual_seed(2))


def test_attention_over_time_by_hand():
    # One place, one head of width 1, three frames; logits are q k.
    q = torch.tensor([0.0, math.log(3), 1.0]).view(1, 3, 1, 1, 1)
    k = torch.tensor([5.0, 6.0, -9.0]).view(1, 3, 1, 1, 1)
    v = torch.tensor([4.0, 8.0, 99.0]).view(1, 3, 1, 1, 1)
    found = causal(q, k, v).flatten()
    assert_close(found[0], torch.tensor(4.0))
    assert_close(found[1], torch.tensor((4 + 3 * 8) / 4))  # weights 1/4 and 3/4: the logits are log 3 apart
    assert_close(causal(q * 2, k, v).flatten()[1], torch.tensor((4 + 9 * 8) / 10))


def test_attention_over_time_is_torchs_for_each_place():
    q, k, v = torch.randn(3, 2, 4, 5, 3, 6)
    expected = torch.empty(2, 4, 5, 3, 6)
    for place in range(5):
        one, key, value = (part[:, :, place].transpose(1, 2) for part in (q, k, v))
        expected[:, :, place] = F.scaled_dot_product_attention(one, key, value, is_causal=True).transpose(1, 2)
    assert_close(causal(q, k, v), expected)


def test_the_norm_is_scaled_and_shifted_by_the_time():
    norm = AdaLN(2, 1).requires_grad_(False)
    x, time = torch.tensor([3.0, 1.0]).expand(1, 2, 1, 2), torch.tensor([[0.0], [1.0]])
    assert_close(norm(x, time), torch.tensor([1.0, -1.0]).expand(1, 2, 1, 2), rtol=0, atol=1e-4)
    norm.modulation.weight.copy_(torch.tensor([[0.5], [2.0], [10.0], [20.0]]))
    expected = torch.tensor([[1.0, -1.0], [1.5 * 1 + 10, 3 * -1 + 20]]).view(1, 2, 1, 2)
    assert_close(norm(x, time), expected, rtol=0, atol=1e-3)


def test_timestamps_are_cosines_and_sines():
    t = torch.arange(5.0)
    expected = [
        [math.cos(t * f) for f in (1, 0.1, 0.01, 0.001)] + [math.sin(t * f) for f in (1, 0.1, 0.01, 0.001)]
        for t in range(5)
    ]
    assert_close(sinusoid(t, 8), torch.tensor(expected))


@pytest.mark.parametrize("m", [1, 4, 16])
def test_squares_side_by_side_are_torchs_unfolded_blocks(m):
    x, side = torch.randn(2, 3, 64, 5), 8 // math.isqrt(m)
    grid = x.flatten(0, 1).transpose(1, 2).unflatten(2, (8, 8))
    blocks = F.unfold(grid, side, stride=side)  # (frame, c * patches of a square, squares)
    expected = blocks.unflatten(1, (5, side**2)).permute(0, 3, 2, 1).flatten(2)
    assert_close(shuffled(x, m), expected.unflatten(0, (2, 3)))


def test_a_temporal_layer_by_loops_over_places_frames_and_heads():
    torch.manual_seed(0)
    layer, x, time = Temporal(6, 4, inner=4, heads=2), torch.randn(1, 3, 2, 6), torch.randn(3, 4)
    for parameter in layer.parameters():
        parameter.data.normal_()
    expected = x.clone()
    scale, shift = (time @ layer.norm.modulation.weight.T + layer.norm.modulation.bias).split(6, 1)
    normed = F.layer_norm(x, (6,)) * (1 + scale[:, None]) + shift[:, None]
    q, k, v = (normed @ part.weight.T for part in (layer.query, layer.key, layer.value))
    for place in range(2):
        for t in range(3):
            found = []
            for head in (slice(0, 2), slice(2, 4)):
                logits = k[0, : t + 1, place, head] @ q[0, t, place, head] / 2**0.5
                found.append(logits.softmax(0) @ v[0, : t + 1, place, head])
            expected[0, t, place] += layer.out.weight @ torch.cat(found)
    assert_close(layer(x, time), expected)


def test_tokens_of_a_frame_are_its_squares_in_its_time(method, x):
    frames, time = method.clip(x), method.time(method.clip(x))
    told = method.compress(frames)
    narrow = F.linear(frames, method.narrow.weight, method.narrow.bias)
    grid = narrow.unflatten(2, (16, 16))
    for t in range(4):
        for square, (i, j) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
            patches = grid[:, t, i : i + 8, j : j + 8].reshape(2, -1)
            scale, shift = method.norm.modulation(time[t]).chunk(2)
            normed = F.layer_norm(patches, (1024,)) * (1 + scale) + shift
            first, _, second = method.mlp
            inside = normed @ first.weight.T + first.bias
            inside = inside * (1 + torch.erf(inside / 2**0.5)) / 2
            assert_close(told[:, 4 * t + square], inside @ second.weight.T + second.bias, rtol=1e-4, atol=1e-4)


def test_time_is_embedded_by_two_layers(method, x):
    first, _, second = method.embed
    inside = F.linear(sinusoid(torch.arange(4.0), 8), first.weight, first.bias)
    expected = F.linear(inside * torch.sigmoid(inside), second.weight, second.bias)
    assert_close(method.time(method.clip(x)), expected)


def test_first_tokens_do_not_need_later_frames(method, host):
    clip = torch.randn(2, 3 * 256, 12)
    other = clip.clone()
    other[:, 512:] += torch.randn(2, 256, 12)
    assert_close(method(other)[:, :8], method(clip)[:, :8])
    assert difference(method(other)[:, 8:], method(clip)[:, 8:]) > 1e-2
    assert_close(method(clip, 8), method(clip)[:, :8])
    earlier = clip.clone()
    earlier[:, :256] += torch.randn(2, 256, 12)
    assert difference(method(earlier)[:, 8:], method(clip)[:, 8:]) > 1e-3


def test_without_a_clock_all_frames_of_a_picture_are_one(x):
    still, running = awake(PVC(c=12, d=12, e=8, timed=False)), awake(PVC(c=12, d=12, e=8))
    first, *others = still(x).unflatten(1, (4, 4)).unbind(1)
    for other in others:
        assert_close(other, first, rtol=1e-5, atol=1e-5)
    first, *others = running(x).unflatten(1, (4, 4)).unbind(1)
    assert all(difference(other, first) > 1e-2 for other in others)


@pytest.mark.parametrize(("m", "repeats"), [(1, 4), (4, 4), (4, 2), (16, 1)])
def test_all_sizes_weigh_the_same_but_for_the_first_matrix(m, repeats):
    method = PVC(m, repeats)
    tokens = method(torch.randn(1, 256, 192))
    assert tokens.shape == (1, m * repeats, 192)
    assert method.budgets == tuple(m * t for t in range(repeats, 0, -1))
    weights = sum(parameter.numel() for name, parameter in method.named_parameters() if "narrow" not in name)
    assert weights == sum(p.numel() for name, p in PVC().named_parameters() if "narrow" not in name) < 450_000


def test_encoding_begins_as_the_frozen_encoder(host):
    method, levels = PVC(c=12, d=12, e=8), torch.randn(2, 3, 256, 12)
    frames = levels[:, 0]
    for block in host.vit.body.blocks[1:]:
        frames = block(frames, torch.zeros(1, 256))
    words = torch.tensor([[1, 2, 3], [0, 4, 5]])
    expected = host.read(method.compress(host.vit.body.norm(method.clip(frames))), words)
    assert_close(method.read(host, levels[:, -1], words, levels=levels), expected)


@pytest.mark.parametrize("slots", [None, torch.tensor([0, 0, 1])])
def test_time_enters_before_each_of_the_last_layers(method, host, slots):
    levels, words = torch.randn(2, 3, 256, 12), torch.tensor([[1, 2, 3], [0, 4, 5]])
    frames = levels[:, :1].transpose(1, 2).expand(-1, -1, 3, -1).transpose(1, 2)
    time, body = method.time(frames), host.vit.body
    for temporal, block in zip(method.temporal, body.blocks[1:], strict=True):
        frames = temporal(frames, time)
        frames = torch.stack([block(frame, torch.zeros(1, 256)) for frame in frames.unbind(1)], 1)
    expected = host.read(method.compress(body.norm(frames)), words, slots=slots)
    assert_close(method.read(host, levels[:, -1], words, 12, slots=slots, levels=levels), expected)


def test_clips_are_read_as_they_are(method, host):
    levels, words = torch.randn(1, 3, 2 * 256, 12), torch.tensor([[1, 2, 3]])
    one, both = (method.read(host, levels[:, -1], words, k, levels=levels) for k in (4, 8))
    other = levels.clone()
    other[:, :, 256:] += 1
    assert_close(method.read(host, levels[:, -1], words, 4, levels=other), one)
    assert difference(method.read(host, levels[:, -1], words, 8, levels=other), both) > 1e-4


def test_half_precision_agrees(method, x):
    exact, rounded = method(x), method.bfloat16()(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert difference(rounded.float(), exact) < 0.05 * float(exact.abs().max())


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(method, x):
    with pytest.raises(ValueError, match=r"k=5 came for 4 frames, expected one of \[16, 12, 8, 4\]"):
        method(x, 5)
    with pytest.raises(ValueError, match=r"k=0 came for 4 frames"):
        method(x, 0)
    with pytest.raises(ValueError, match="257 patches came, expected frames of 256"):
        method(torch.zeros(1, 257, 12))
    for m in (0, 2, 9, -4):
        with pytest.raises(ValueError, match=f"m={m} came, expected 1, 4, 16, 64 or 256"):
            PVC(m)
    with pytest.raises(ValueError, match="layers=0 came, expected 1 or more"):
        PVC(layers=0)
    with pytest.raises(ValueError, match="repeats=0 came, expected 1 or more"):
        PVC(repeats=0)
