import pytest
import torch

from minitok import house, papers
from minitok.data import clothing
from minitok.house import Options
from minitok.image import Tokens
from minitok.metrics import psnr, ssim
from minitok.stages import image, pictures

needs_photographs = pytest.mark.skipif(not clothing.at_hand(), reason="the photographs of clothes are not at hand")


@pytest.fixture(scope="module")
def stage():
    return image.stage(4)


def test_a_row_is_what_a_tokenizer_paints_beside_the_photographs(stage):
    model = house.load("one_d_piece")
    painted = model.decode(Tokens(model.encode(stage.images).codes, (64,))[:4])
    found = stage.measure(model, 4)
    torch.testing.assert_close(found.decibels, psnr(painted, stage.images), atol=1e-3, rtol=0)
    assert found.ssim == pytest.approx(float(ssim(painted, stage.images).mean()), abs=1e-4)
    assert found.psnr == pytest.approx(float(psnr(painted, stage.images).mean()), abs=1e-3)
    assert found.frechet is None
    assert stage.measure(model, 64).edges > found.edges


def test_rivals_meet_the_same_budget(stage):
    asked = []

    def rival(images, bits):
        asked.append(bits)
        return images

    same = stage.measure(rival, 5)
    assert asked == [60]
    assert (same.ssim, same.edges) == (pytest.approx(1, abs=1e-5), 100)
    rows = {name: stage.measure(rival, 64) for name, rival in stage.rivals.items()}
    assert min(row.psnr for row in rows.values()) == rows["plain colour"].psnr
    assert rows["plain colour"].edges < 1


def test_settings_are_heard(stage):
    model = house.load("flextok")
    one, other = (stage.pictures(model, 2, steps=2, seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, stage.pictures(model, 2, steps=2))


def test_a_gap_is_that_of_pairs_with_twice_its_error():
    decibels = torch.tensor([[21.0, 21.0, 22.0, 22.0], [20.0] * 4])
    ramps = torch.linspace(0, 1, 16).expand(4, 3, 16, 16)
    ours, other = (pictures.Row(ramps + 10 ** (-d / 20)[:, None, None, None], ramps) for d in decibels)
    found, error = pictures.gap(ours, other)
    assert found == pytest.approx(1.5, abs=1e-4)
    assert error == pytest.approx(2 * (1 / 3) ** 0.5 / 2, abs=1e-4)
    name, psnr_, _, edges = pictures.table({"a": ours}).splitlines()[1].split()
    assert (name, psnr_, edges) == ("a", "21.5", "100")


def test_a_set_is_far_from_another_and_not_from_itself():
    images = torch.rand(8, 3, 64, 64)
    features = pictures.cls_features(images)
    assert pictures.Row(images, images, features).frechet == pytest.approx(0, abs=1e-2)
    far = {"a": pictures.Row(1 - images, images, features), "b": pictures.Row(1 - images, images)}
    assert far["a"].frechet > 1
    first, second = (line.split()[-1] for line in pictures.table(far).splitlines()[1:])
    assert (first, second) == (f"{far['a'].frechet:.1f}", "-")


@needs_photographs
def test_the_league_in_small_resumes_and_agrees_with_the_cards(stage, tmp_path, monkeypatch):
    asked, components = [], stage.rivals["principal components"]
    monkeypatch.setattr(image.rivals, "principal_components", lambda images: components)
    monkeypatch.setattr(image, "milliseconds", lambda *given, **settings: asked.append(settings) or 5.0)
    monkeypatch.setattr(image, "KS", (8, 64))
    monkeypatch.setattr(image, "METHODS", {"titok": ("titok", {}), "one_d_piece": ("one_d_piece", {})})
    rows = image.measure(tmp_path, Options(progress=False), every=8)
    assert [row["tokens"] for row in rows] == [8] * 4 + [64] * 6
    for k in (8, 64):
        decibels = [row["PSNR"] for row in rows if row["tokens"] == k]
        assert decibels == sorted(decibels, reverse=True)
    at = {(row["method"], row["tokens"]): row for row in rows}
    for name in ("titok", "one_d_piece"):
        card = house.card(name)["figures"]["PSNR of every 8th test photograph (dB)"]
        assert at[name, 64]["PSNR"] == pytest.approx(card, abs=0.6)  # other photographs of the same set
    assert at["thumbnails", 64]["bytes"] == 96
    assert {method for (method, _), row in at.items() if "decoding" in row} == {"titok", "one_d_piece"}
    assert image.measure(tmp_path, Options(progress=False), every=8) == rows
    assert len(asked) == 4


def test_time_is_of_a_picture_and_threads_are_as_before(stage):
    threads, model = torch.get_num_threads(), house.load("flextok")
    short, long = (image.milliseconds(model, stage.images[:2], 1, steps=steps) for steps in (1, 8))
    assert 0 < short < long
    assert torch.get_num_threads() == threads


def test_every_working_paper_of_the_chapter_is_ranked():
    working = {row.slug for row in papers.rows("image") if papers.status(row.slug) == "working"}
    assert working <= image.METHODS.keys()
