"""LLaVA's projector and loss, by hand, by torch's own layers, and by a plain loop."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok.project.llava import LLaVA, answer_loss, learns


def test_one_layer_is_a_matrix_by_hand():
    projector = LLaVA(2, 3, depth=1)
    projector.load_state_dict(
        {"layers.0.weight": torch.tensor([[1.0, 0], [0, 2], [1, 1]]), "layers.0.bias": torch.zeros(3)}
    )
    assert projector(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[3, 8, 7]]]


def test_two_layers_by_hand():
    projector = LLaVA(1, 1)
    for name, value in (("0.weight", 2.0), ("0.bias", -1.0), ("2.weight", 3.0), ("2.bias", 0.5)):
        projector.get_parameter(f"layers.{name}").data.fill_(value)
    inside = 2 * 1.0 - 1  # gelu(1) = 1 * Phi(1)
    phi = (1 + math.erf(inside / math.sqrt(2))) / 2
    assert_close(projector(torch.ones(1, 1, 1)).item(), 3 * inside * phi + 0.5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_layers_are_matrices_with_an_exact_gelu_between_them(depth):
    projector, x = LLaVA(6, 4, depth), torch.randn(2, 5, 6)
    weights = list(projector.parameters())
    assert [tuple(w.shape) for w in weights] == [(4, 6), (4,)] + [(4, 4), (4,)] * (depth - 1)
    expected = torch.einsum("bnc,dc->bnd", x, weights[0]) + weights[1]
    for matrix, shift in zip(weights[2::2], weights[3::2], strict=True):
        bent = expected * (1 + torch.erf(expected / 2**0.5)) / 2
        expected = torch.einsum("bnc,dc->bnd", bent, matrix) + shift
    assert_close(projector(x), expected)


def test_each_token_is_projected_by_itself():
    projector, x = LLaVA(6, 4), torch.randn(2, 5, 6)
    order = torch.tensor([3, 1, 0, 4, 2])
    assert_close(projector(x[:, order]), projector(x)[:, order])
    changed = x.clone()
    changed[0, 2] += 1
    moved = (projector(changed) - projector(x)).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[0, 2]]


def test_the_loss_is_that_of_the_answers_alone():
    words = torch.tensor([[7, 8, 1, 2, 3], [7, 9, 4, 5, 0]])  # two words asked; answers of three and of two words
    logits = torch.randn(2, 5, 10)
    each = []
    for row in range(2):
        for i in range(2, 5):
            if words[row, i] != 0:
                p = logits[row, i - 1].softmax(-1)
                each.append(-math.log(float(p[words[row, i]])))
    assert len(each) == 5
    assert_close(answer_loss(logits, words, 2).item(), sum(each) / 5, rtol=1e-5, atol=0)
    question, last = logits.clone(), logits.clone()
    question[:, 0] += torch.randn(10)
    last[:, 4] += torch.randn(10)
    for untouched in (question, last):
        assert_close(answer_loss(untouched, words, 2), answer_loss(logits, words, 2))
    assert answer_loss(logits, words, 2, fill=5) != answer_loss(logits, words, 2)
    assert answer_loss(logits.bfloat16(), words, 2).dtype == torch.float32


def test_stage_one_trains_the_projector_and_stage_two_the_language_model_too():
    projector, language = LLaVA(6, 4), nn.Linear(4, 3)
    assert [id(p) for p in learns(projector, language, 1)] == [id(p) for p in projector.parameters()]
    both = [id(p) for p in (*projector.parameters(), *language.parameters())]
    assert [id(p) for p in learns(projector, language, 2)] == both


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="depth=0 came"):
        LLaVA(depth=0)
    with pytest.raises(ValueError, match="k=3 came for 5 tokens"):
        LLaVA(6, 4)(torch.zeros(1, 5, 6), 3)
    with pytest.raises(ValueError, match="stage=3 came, expected one of"):
        list(learns(LLaVA(), nn.Linear(1, 1), 3))
    for asked in (0, 4):
        with pytest.raises(ValueError, match=f"asked={asked} came for rows of 4 words, expected 1 to 3"):
            answer_loss(torch.zeros(1, 4, 5), torch.ones(1, 4, dtype=torch.long), asked)
