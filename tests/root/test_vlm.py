"""The vision-language model: who sees whom, where tokens stand, and that asking at once is asking one by one."""

import pytest
import torch
from torch.testing import assert_close

from minitok.nn import Shape
from minitok.reduce import Reduction
from minitok.vlm import VLM, ManyVLM

SHAPE = Shape(width=32, layers=2, heads=2)


@pytest.fixture
def model():
    return VLM(SHAPE, 40, size=16).eval().requires_grad_(False)


@pytest.fixture
def many():
    return ManyVLM(SHAPE, 40, size=16).eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16)


def asked(*shape):
    return torch.randint(1, 40, shape)


def test_the_whole_is_its_parts(model, images):
    words = asked(3, 5)
    features = model.vit.tokens(images)[:, 1:]
    assert_close(model.see(images), features)
    first, _, second = model.projector
    visual = second(torch.nn.functional.gelu(first(features)))
    assert_close(model.project(features), visual)
    x = torch.cat([visual, model.word(words)], 1)
    logits = model.head(model.lm(x, "causal")[:, -1])
    assert_close(model(images, words), logits)
    assert logits.shape == (3, 40)


def test_several_questions_at_once_are_those_questions(model, images):
    words, visual = asked(3, 4, 5), model.project(model.see(images))
    at = torch.tensor([[0.0, 2.0, 3.0, 9.0]])
    for kept, places in ((visual, None), (visual[:, [0, 2, 3, 9]], at)):
        one_by_one = [model.answer_logits(kept, words[:, i], at=places) for i in range(4)]
        assert_close(model.several(kept, words, at=places), torch.stack(one_by_one, 1))


def test_words_go_on_where_a_question_is_continued(model, images):
    words, visual = asked(3, 5), model.project(model.see(images))
    said = model.generate(visual, words, most=4)
    row = words
    for _ in range(4):
        row = torch.cat([row, model.answer_logits(visual, row).argmax(-1, keepdim=True)], 1)
    assert torch.equal(said, row[:, 5:])
    at = torch.arange(16.0).flip(0)[None]
    assert torch.equal(
        model.generate(visual, words, 1, at=at)[:, 0], model.answer_logits(visual, words, at=at).argmax(-1)
    )


def test_visual_tokens_stand_at_their_patches(model, images):
    assert model.places(16, torch.device("cpu")).tolist() == [list(range(16))]
    assert model.places(2, torch.device("cpu")).tolist() == [[3.5, 11.5]]
    words, visual = asked(3, 5), model.project(model.see(images))
    own = torch.arange(16.0)[None]
    assert_close(model.answer_logits(visual, words, at=own), model.answer_logits(visual, words))
    moved = model.answer_logits(visual, words, at=own + 1)
    assert float((moved - model.answer_logits(visual, words)).abs().max()) > 1e-5
    # words stand from 16 on whatever the number of visual tokens: only distances count
    few = visual[:, 12:]
    logits = model.head(model.lm(torch.cat([few, model.word(words)], 1), "causal")[:, -1])
    assert_close(model.answer_logits(few, words, at=own[:, 12:]), logits)


def test_answers_depend_on_picture_and_question_and_on_no_other_row(model, images):
    words = asked(3, 5)
    logits = model(images, words)
    other, asked_other = images.clone(), words.clone()
    other[0, :, 3, 3] = 1 - other[0, :, 3, 3]
    asked_other[0, 1] = (words[0, 1] + 1) % 40
    for changed in (model(other, words), model(images, asked_other)):
        assert float((changed[0] - logits[0]).abs().max()) > 1e-6
        assert_close(changed[1:], logits[1:])


def test_on_layer_reaches_the_language_model_and_the_vit(model, images):
    words, seen = asked(3, 5), []
    visual = model.project(model.see(images, on_layer=lambda layer: seen.append(layer.hidden.shape[1])))

    def halve(layer):
        n = layer.hidden.shape[1]
        seen.append(n)
        return Reduction.keep(torch.arange(8, n).expand(3, -1), n) if layer.index == 0 else None

    fewer = model.answer_logits(visual, words, on_layer=halve)
    assert seen == [17, 17, 21, 13]
    assert float((fewer - model.answer_logits(visual, words)).abs().max()) > 1e-6


def test_a_square_of_patches_becomes_one_token(many):
    pictures = torch.rand(2, 5, 3, 16, 16)
    features = many.look(pictures)
    assert_close(features[:, 16:32], many.see(pictures[:, 1]))
    tokens = many.project(features)
    assert tokens.shape == (2, 20, 32)
    square = torch.cat([features[:, 16 + i] for i in (2, 3, 6, 7)], 1)  # the second of four squares of picture 1
    assert_close(tokens[:, 5], many.projector(square) + many.picture[1])


def test_crops_and_frames_are_told_apart(many):
    features = torch.randn(1, 64, 32)
    frames = many.project(features)
    assert_close(many.project(features, many.FRAMES[:4]), frames)
    assert_close(
        many.project(features, many.CROPS[:4]) - frames,
        (many.picture[:4] - many.picture[5:9]).repeat_interleave(4, 0)[None],
    )
    assert many.project(torch.randn(1, 80, 32)).shape == (1, 20, 32)
    assert many.places(20, torch.device("cpu")).tolist() == [list(range(20))]
    assert many.patches == 32
    with pytest.raises(ValueError, match="80 features came for 2 pictures of 16"):
        many.project(torch.randn(1, 80, 32), (0, 1))
