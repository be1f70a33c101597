"""The captions of clips by a plain loop, the expert's training on features of a host that has learnt nothing."""

import json

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.testing import assert_close

from minitok import house
from minitok.data import clips
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import WAYS, decode
from minitok.house import Options
from minitok.project.langdc import Captioner, Told
from minitok.stages import telling
from minitok.vlm import ManyVLM

QUIET = Options(steps=2, device="cpu", progress=False)


class Blind(ManyVLM):
    """A host whose features are the mean colours of patches, in 192 channels."""

    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.randn(3, 192, generator=torch.Generator().manual_seed(0)))

    def look(self, images):
        patches = nn.functional.avg_pool2d(images.flatten(0, 1), 4).flatten(2).mT
        return (patches @ self.weight).unflatten(0, images.shape[:2]).flatten(1, 2)


@pytest.fixture
def host(monkeypatch):
    made = Blind().requires_grad_(False)
    monkeypatch.setattr(house, "load", lambda name: made)
    for name, value in (("CLIPS", 3), ("BATCH", 1)):
        monkeypatch.setattr(telling, name, value)
    return made


def test_captions_name_what_a_part_shows_from_left_to_right():
    made = clips.render(20, seed=11)
    said = telling.captions(made)
    assert said.shape == (20, 2, 20)
    digits = 0
    for row in range(20):
        for part in (0, 1):
            frames, phrases = range(4 * part, 4 * part + 4), []
            for slot in range(4):
                if not any(bool(made.masks[row, t, slot].any()) for t in frames):
                    continue
                digit = int(made.glyph[row, slot])
                shows = digit >= 0 and any(bool(made.shown[row, t, slot]) for t in frames)
                words = [[*COLOURS][made.colour[row, slot]], SHAPES[made.shape[row, slot]]]
                words += [*([str(digit)] if shows else []), WAYS[made.way[row, slot]]]
                phrases.append((float(made.tracks[row, frames, slot, 0].mean()), " ".join(words)))
                digits += shows
            told = " , ".join(phrase for _, phrase in sorted(phrases)) + " ."
            assert decode(said[row, part][None]) == [told]
            assert (said[row, part] > 0).sum() == len(told.split())
    assert digits > 5


def test_a_bank_holds_each_part_with_its_caption(host):
    features, said, objects = telling.bank(host, 3, seed=5, size=2)
    made = [clips.render(2, seed=5), clips.render(1, seed=7)]
    whole = torch.cat([host.look(part.images) for part in made])
    assert features.dtype == torch.float16
    assert_close(features.float().view(3, 2048, 192), whole, atol=1e-2, rtol=1e-3)
    assert torch.equal(said.view(3, 2, 20), torch.cat([telling.captions(part) for part in made]))
    present = torch.cat([part.present.sum(1) for part in made])
    assert torch.equal(objects, present.repeat_interleave(2))


def test_the_expert_is_trained_and_kept_with_its_card(host, tmp_path):
    figures = telling.train(tmp_path, QUIET)
    card = json.loads((tmp_path / f"{telling.NAME}.json").read_text())
    assert card["figures"] == figures
    assert card["steps"] == 2
    assert set(figures) >= {"captions right (%)", "words a part", "rank correlation of words and objects"}
    expert = telling.expert(3, tmp_path)
    assert (expert.layer, expert.training) == (3, False)
    torch.manual_seed(0)
    start = Captioner().state_dict()
    moved = [name for name, value in expert.state_dict().items() if not torch.equal(value, start[name].half().float())]
    assert {"head.weight", "prompt", "place", "see.weight"} <= set(moved)


def test_figures_of_what_is_told():
    class Sure(Captioner):
        def tell(self, x, most):
            words = x[:, :most].long()
            return Told(words, x[..., None], words > 0)

    said = torch.zeros(4, 20, dtype=torch.long)
    for row, n in enumerate((5, 10, 15, 20)):
        said[row, :n] = 3
    wrong = said.clone()
    wrong[0, 0], wrong[1, 9] = 4, 0
    figures = telling.tells(Sure(), wrong.float(), said, torch.tensor([1, 2, 3, 4]))
    assert figures["captions right (%)"] == 50
    assert figures["of the right length (%)"] == 75
    assert figures["words a part"] == pytest.approx((5 + 9 + 15 + 20) / 4)
    assert figures["rank correlation of words and objects"] == 1


def test_the_rank_correlation_is_spearmans():
    a, b = torch.randint(5, (30,)), torch.randint(4, (30,))
    assert telling.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert telling.rank_correlation(a, -a) == pytest.approx(-1)
    assert telling.rank_correlation(a, torch.ones_like(a)) == 0


def test_langdc_is_built_on_the_expert_with_room_for_k(host, tmp_path, monkeypatch):
    telling.train(tmp_path / "checkpoints" / "projectors", QUIET)
    monkeypatch.setattr(telling.files, "shipped", tmp_path.joinpath)
    method = telling.langdc(22, layer=0)
    assert (method.most, method.held[0].layer) == (11, 0)
    assert torch.equal(method.held[0].prompt, telling.expert().prompt)


def test_the_control_gives_k_tokens_from_parts_that_do_not_see_each_other():
    x, queries = torch.randn(2, 2048, 192), telling.Queries(22)
    assert queries(x, 22).shape == (2, 22, 192)
    changed = x.clone()
    changed[0, 1024:] += 1
    assert torch.equal(queries(changed)[0, :11], queries(x)[0, :11])
    assert not torch.allclose(queries(changed)[0, 11:], queries(x)[0, 11:])
    assert torch.equal(queries(changed)[1], queries(x)[1])
    queries(x).square().sum().backward()
    assert all(weight.grad is not None for weight in queries.parameters())
