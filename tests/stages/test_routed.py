"""SliME's router before an untrained host: what is kept, where it stands, what is asked."""

from typing import Any

import torch
from torch.testing import assert_close

from minitok import house
from minitok.stages import routed


def signals() -> dict[str, Any]:
    return {"text": torch.randn(3, 4, 192), "asked": torch.ones(3, 4, dtype=torch.bool)}


def test_what_is_kept_is_read_at_its_place():
    torch.manual_seed(0)
    host = house.recipe("vlm_many").build().eval().requires_grad_(False)
    x, words = torch.randn(3, 5 * 256, 192), torch.tensor([[0, 9, 12, 1]] * 3)
    marks = torch.zeros(3, 256, dtype=torch.bool)
    marks[0, [3, 200]], marks[1, 7], marks[2, [0, 255]] = True, True, True
    method = routed.Routed(lambda local, text, asked: marks)
    found = method.read(host, x, words, **signals())
    tokens = host.project(x)
    for row in range(3):
        at = torch.cat([torch.arange(64), 64 + marks[row].nonzero()[:, 0]])
        assert_close(
            found[row], host.read(tokens[row, at][None], words[:1], at=at[None].float())[0], atol=1e-5, rtol=1e-4
        )
    assert method.kept.tolist() == [2, 1, 2]
    one = {name: value[:1] for name, value in signals().items()}
    method.choose = lambda local, text, asked: marks[1:2]
    method.read(host, x[:1], words[:1], **one)
    assert method.kept.tolist() == [2, 1, 2]
    method.choose = lambda local, text, asked: marks
    slots = torch.tensor([0, 0, 1, 1])
    apart = method.read(host, x, words, slots=slots, **signals())
    assert_close(apart[:, :2], found[:, :2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(apart[:, 2:], found[:, 2:])
    given = {}

    def every(local, text, asked):
        given.update(local=local, text=text, asked=asked)
        return torch.ones(3, 256, dtype=torch.bool)

    more = signals()
    assert_close(routed.Routed(every).read(host, x, words, **more), host.read(tokens, words), atol=1e-5, rtol=1e-4)
    assert_close(given, {"local": tokens[:, 64:], **more})


def test_the_most_are_as_many_as_each_row_wants():
    scores = torch.tensor([[1.0, 5.0, 2.0, 4.0]] * 2)
    assert routed.most(scores, torch.tensor([1, 3])).int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]


def test_every_digit_is_asked_for_once(monkeypatch):
    monkeypatch.setattr(house, "load", lambda name: house.recipe(name).build().eval())
    made = routed.digits(3, most=9)
    assert made.asked.kind.shape == (3, 9)
    valid = made.asked.kind >= 0
    for row in range(3):
        first = made.asked.first[row, valid[row]].tolist()
        assert len(first) == len(set(first)) > 0
        assert (made.scenes.glyph[row, first] >= 0).all()
