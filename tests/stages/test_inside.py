"""The controls that reach into the language model: equal weights, and what each leaves out."""

import pytest
import torch
from torch.testing import assert_close

from minitok.metrics import parameters
from minitok.nn import Shape
from minitok.project import LLaVAMini, VisionRemember
from minitok.stages.inside import LooksFirst, Unfused, WidePooling
from minitok.stages.seeing import wanted
from minitok.vlm import VLM


@pytest.fixture(scope="module")
def host():
    torch.manual_seed(0)
    return VLM(Shape(width=192, layers=2, heads=3), vocabulary=9).requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(2, 256, 192)


def test_controls_have_equal_parameters():
    assert parameters(Unfused()) == parameters(LLaVAMini())
    assert parameters(LooksFirst()) == parameters(VisionRemember()) == parameters(VisionRemember(seen=1))
    assert parameters(VisionRemember(levels=(5, 5, 5))) == parameters(VisionRemember())
    assert 0.998 < parameters(WidePooling(16)) / parameters(VisionRemember()) < 1.002


def test_words_that_are_not_fused_are_read_after_the_same_compressed_tokens(host, x):
    control, words = Unfused().requires_grad_(False), torch.randint(1, 9, (2, 5))
    method = LLaVAMini()
    method.load_state_dict(control.state_dict())
    assert wanted(control) == wanted(method) == ["text", "asked"]
    text = host.word(words)
    read = control.read(host, x, words, text=text, asked=words > 0)
    assert_close(read, host.read(method(x), words), atol=1e-4, rtol=1e-4)


def test_in_front_the_language_model_is_left_alone(host, x):
    control, words = LooksFirst().requires_grad_(False), torch.randint(1, 9, (2, 5))
    for module in control.remember:
        module.out.weight.normal_(std=0.1)
    levels = torch.randn(2, 6, 256, 192)
    first, second = control.remember
    visual = second(first(control(x), control.features(levels)), control.features(levels))
    assert wanted(control) == ["levels"]
    read = control.read(host, x, words, levels=levels)
    assert_close(read, host.read(visual, words), atol=1e-4, rtol=1e-4)
