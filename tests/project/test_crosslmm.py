"""CrossLMM by hand, by torch's own pooling and attention, and by the language model's layers one after another."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minitok.metrics import difference
from minitok.nn import Shape
from minitok.project.crosslmm import CrossLMM, LookBack, pooled
from minitok.vlm import ManyVLM

FRAMES = 2


@pytest.fixture(scope="module")
def host() -> ManyVLM:
    torch.manual_seed(0)
    return ManyVLM(Shape(width=24, layers=4, heads=3), vocabulary=11).eval().requires_grad_(False)


@pytest.fixture
def method() -> CrossLMM:
    torch.manual_seed(1)
    return CrossLMM(v2v=(0, 2), t2v=(1, 2), hidden=20, c=10, d=24, frames=3)


@pytest.fixture
def opened(method) -> CrossLMM:
    for i, look in enumerate([*method.v2v.values(), *method.t2v.values()]):
        look.gate.data.fill_(0.5 + i)
    return method


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, FRAMES * 256, 10, generator=torch.Generator().manual_seed(2))


WORDS = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 7, 8, 0, 9, 10]])


def test_a_look_back_by_hand():
    look = LookBack(2, 1).requires_grad_(False)
    look.query.weight.copy_(torch.tensor([[math.log(3) * 2**0.5, 0.0], [0.0, 0.0]]))
    look.out.weight.copy_(torch.eye(2))
    look.gate.fill_(0.5)
    # The norm makes (3, 1) into (1, -1). Three keys: logits log 3, 0, 0, so weights 3/5, 1/5, 1/5.
    keys = torch.tensor([[[[1.0, 9.0], [0.0, 0.0], [0.0, 5.0]]]])
    values = torch.tensor([[[[10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]]])
    expected = torch.tensor([[[3 + 0.5 * 6, 1 + 0.5 * 2]]])
    assert_close(look(torch.tensor([[[3.0, 1.0]]]), (keys, values)), expected, rtol=0, atol=1e-4)


def test_a_look_back_is_torchs_attention_behind_a_gate():
    torch.manual_seed(0)
    look, reference = LookBack(12, 3), nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    x, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    query, key, value = reference.in_proj_weight.chunk(3)
    look.query.weight.data, look.out.weight.data = query.data, reference.out_proj.weight.data
    look.norm.weight.data.normal_()
    look.gate.data.fill_(0.7)
    memory = tuple((v @ part.T).unflatten(-1, (3, 4)).transpose(1, 2) for part in (key, value))
    normed = F.layer_norm(x, (12,)) * look.norm.weight
    assert_close(look(x, memory), x + 0.7 * reference(normed, v, v)[0])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("m", [1, 4, 16, 64, 256])
def test_pooling_is_torchs_frame_by_frame(m, count):
    x = torch.randn(2, count * 256, 5)
    frames = x.unflatten(1, (count, 16, 16)).flatten(0, 1).movedim(-1, 1)
    expected = F.adaptive_avg_pool2d(frames, math.isqrt(m)).flatten(2).transpose(1, 2)
    assert_close(pooled(x, count, m), expected.reshape(2, count * m, 5))


@pytest.mark.parametrize("m", [1, 4, 16])
def test_pooled_tokens_go_through_the_mlp_and_know_their_frame(method, x, m):
    first, _, second = method.mlp
    mean = pooled(x, FRAMES, m)
    inside = F.linear(mean, first.weight, first.bias)
    inside = inside * (1 + torch.erf(inside / 2**0.5)) / 2
    expected = F.linear(inside, second.weight, second.bias)
    expected[:, :m] += method.frame[0]
    expected[:, m:] += method.frame[1]
    assert_close(method(x, FRAMES * m), expected)


def test_by_default_there_are_16_tokens_a_frame(method, x):
    assert_close(method(x), method(x, 16 * FRAMES))
    usual = CrossLMM()
    assert usual(torch.randn(1, 8 * 256, 192)).shape == (1, 128, 192)
    assert list(usual.v2v) == list(usual.t2v) == ["1", "3"]
    assert usual.frame.shape == (8, 192)
    assert 0.015 < float(usual.frame.detach().std()) < 0.025


def test_what_is_remembered_are_all_patches_through_the_same_mlp(method, x):
    keys, values = method.remember(x)
    assert keys.shape == values.shape == (2, 3, FRAMES * 256, 8)
    v = method.mlp(x) + method.frame[:FRAMES].repeat_interleave(256, 0)
    v = F.layer_norm(v, (24,)) * method.norm.weight + method.norm.bias
    assert_close(keys.transpose(1, 2).flatten(2), v @ method.key.weight.T)
    assert_close(values.transpose(1, 2).flatten(2), v @ method.value.weight.T)


@pytest.mark.parametrize("slots", [None, torch.tensor([0, 0, 0, 1, 1, 1])])
def test_with_closed_gates_it_is_the_pooled_model(method, host, x, slots):
    assert_close(
        method.read(host, x, WORDS, 2, slots=slots), host.read(method(x, 2), WORDS, slots=slots), rtol=0, atol=0
    )


def test_open_gates_by_the_layers_one_after_another(opened, host, x):
    hidden, memory = torch.cat([opened(x, 8), host.word(WORDS)], 1), opened.remember(x)
    places = torch.cat([torch.arange(8.0), 512 + torch.arange(6.0)])[None]
    seen = torch.ones(14, 14, dtype=torch.bool).tril()
    for i, block in enumerate(host.lm.blocks):
        hidden = block(hidden, places, seen)
        visual, words = hidden.split([8, 6], 1)
        if i in (0, 2):
            visual = opened.v2v[str(i)](visual, memory)
        if i in (1, 2):
            words = opened.t2v[str(i)](words, memory)
        hidden = torch.cat([visual, words], 1)
    assert_close(opened.read(host, x, WORDS, 8), host.lm.norm(hidden)[:, 8:])


def test_each_look_changes_its_own_tokens_after_its_own_layers(opened, x):
    hidden, memory = torch.randn(2, 8, 24), opened.remember(x)
    for i, moved in enumerate(([0, 1], [2, 3, 4, 5, 6, 7], list(range(8)), [])):
        apart = (opened.look(i, hidden, 2, memory) - hidden).abs().amax((0, 2)) > 1e-6
        assert apart.nonzero().flatten().tolist() == moved


def test_patches_are_remembered_once_and_never_read(opened, host, x):
    made, lengths = [], []
    opened.key.register_forward_hook(lambda *_: made.append("keys"))
    host.lm.blocks[3].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    opened.read(host, x, WORDS, 2)
    assert made == ["keys"]
    assert lengths == [2 + 6]


def test_questions_of_one_clip_do_not_see_each_other(opened, host, x):
    slots = torch.tensor([0, 0, 0, 1, 1, 1])
    both = opened.read(host, x, WORDS, 8, slots=slots)
    alone = opened.read(host, x, WORDS[:, 3:], 8)
    assert_close(both[:, 3:], alone)


def test_a_patch_reaches_the_words_only_through_open_gates(opened, host, x):
    other = x.clone()
    other[:, 3] += 1
    other[:, 4] -= 1  # the mean of the frame, and so the pooled token, stays
    assert_close(opened(other, 2), opened(x, 2))
    assert difference(opened.read(host, other, WORDS, 2), opened.read(host, x, WORDS, 2)) > 1e-3
    for look in (*opened.v2v.values(), *opened.t2v.values()):
        look.gate.data.zero_()
    assert_close(opened.read(host, other, WORDS, 2), opened.read(host, x, WORDS, 2))


@pytest.mark.parametrize("slots", [None, torch.tensor([0, 0, 0, 1, 1, 1])])
def test_without_looks_it_is_a_pooling_projector(host, x, slots):
    plain = CrossLMM((), (), hidden=30, c=10, d=24)
    assert [name for name, _ in plain.named_parameters() if not name.startswith("mlp")] == ["frame"]
    assert_close(plain.read(host, x, WORDS, 2, slots=slots), host.read(plain(x, 2), WORDS, slots=slots))


def test_gates_learn_first_and_then_everything(method, host, x):
    method.read(host, x, WORDS, 2).sum().backward()
    looks = [*method.v2v.values(), *method.t2v.values()]
    assert all(float(look.gate.grad) != 0 and not look.query.weight.grad.any() for look in looks)
    method.zero_grad()
    for look in looks:
        look.gate.data.fill_(1.0)
    method.read(host, x, WORDS, 2).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in method.parameters())


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(method, x):
    with pytest.raises(ValueError, match=r"k=3 came for 2 frames, expected one of \[32, 8, 2\]"):
        method(x, 3)
    with pytest.raises(ValueError, match=r"k=0 came for 2 frames"):
        method(x, 0)
    for count in (4 * 256, 100, 257, 0):
        with pytest.raises(ValueError, match=f"{count} patches came, expected 1 to 3 frames of 256"):
            method(torch.zeros(1, count, 10))
    for frames, m in ((0, 1), (-1, 4), (2, 1), (1, 3), (1, 9), (1, 0), (3, 1)):
        with pytest.raises(ValueError, match=f"frames={frames} of m={m} tokens came for 16 patches"):
            pooled(torch.zeros(1, 16, 2), frames, m)
