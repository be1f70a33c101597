import torch

from minitok import house, papers
from minitok.house import Options
from minitok.stages import image


def test_rows_hold_the_figures_of_the_cards_and_resume(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(image, "milliseconds", lambda name, k, **settings: asked.append((name, k, settings)) or 5.0)
    rows = image.measure(tmp_path, Options(progress=False))
    assert [row["tokens"] for row in rows] == [k for k in (1, 2, 4, 8, 16, 32) for _ in range(5)] + [64] * 7
    for k in (1, 64):
        decibels = [row["PSNR"] for row in rows if row["tokens"] == k]
        assert decibels == sorted(decibels, reverse=True)
    at = {(row["method"], row["tokens"]): row for row in rows}
    cards = {name: house.card(name)["figures"] for name in ("titok", "one_d_piece", "flextok")}
    assert at["titok", 4]["PSNR"] == cards["titok"]["PSNR from 4 tokens (dB)"]
    assert at["flextok, guidance 2", 64]["Frechet"] == cards["flextok"]["Frechet distance from 64 tokens with guidance"]
    linear = cards["one_d_piece"]["SSIM from principal components in the bits of 2 tokens"]
    assert at["principal components", 2]["SSIM"] == linear
    assert at["thumbnails", 64]["bytes"] == 96
    assert len(asked) == 4 * 7
    assert ("flextok", 8, {"guidance": 2.0}) in asked
    assert {method for (method, _), row in at.items() if "decoding" in row} == {*list(image.SOURCES)[:4]}
    assert image.measure(tmp_path, Options(progress=False)) == rows
    assert len(asked) == 4 * 7


def test_time_is_of_a_picture_and_threads_are_as_before():
    threads = torch.get_num_threads()
    short, long = (image.milliseconds("flextok", 1, steps=steps) for steps in (1, 8))
    assert 0 < short < long
    assert torch.get_num_threads() == threads


def test_every_working_paper_of_the_chapter_is_ranked():
    working = {row.slug for row in papers.rows("image") if papers.status(row.slug) == "working"}
    assert working <= image.SOURCES.keys()
