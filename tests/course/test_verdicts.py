"""Verdicts: measures that hold or not, what is printed, and what is recorded, by whom."""

import json
import math

import numpy as np
import pytest
import torch

from minitok import papers
from minitok.course import verdicts

WON = papers.better("PSNR", 27.2419, than=24.1, unit="dB", paper="28 dB at 256 codes, table 1")
LOST = papers.better("bits", 10.0, than=9.0, higher=False)


def give(measures, slug="vq"):
    return papers.verdict(slug, "codes keep the image", measures, against="rounding", data="photographs")


@pytest.mark.parametrize(
    ("ours", "than", "options", "holds"),
    [
        (2.0, 1.0, {}, True),
        (1.0, 2.0, {}, False),
        (1.0, 1.0, {}, False),
        (1.0, 2.0, {"higher": False}, True),
        (2.0, 1.0, {"higher": False}, False),
        (27.3, 27.2, {"margin": 0.1}, False),
        (27.4, 27.2, {"margin": 0.1}, True),
        (27.1, 27.2, {"margin": -0.2}, True),
        (27.0, 27.2, {"margin": -0.2}, False),
        (27.3, 27.2, {"higher": False, "margin": -0.2}, True),
        (27.24, 27.21, {}, False),  # both are 27.2 as kept
        (1025, 1024, {}, True),
        (-0.5, -0.6, {}, True),
    ],
)
def test_better_holds_beyond_the_margin(ours, than, options, holds):
    assert papers.better("m", ours, than=than, **options).holds is holds


def test_figures_are_kept_at_three_digits_and_counts_in_full():
    kept = papers.better("m", torch.tensor(1234.5), than=np.float32(0.00012345), margin=0.12345)
    assert (kept.ours, kept.baseline, kept.margin) == (1230.0, 0.000123, 0.123)
    assert papers.better("calls", 123456, than=1).ours == 123456
    assert type(kept.ours) is type(kept.baseline) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("argument", ["ours", "than", "margin"])
def test_a_figure_that_is_not_finite_is_refused(argument, bad):
    figures = {"ours": 1.0, "than": 1.0, "margin": 0.0} | {argument: bad}
    with pytest.raises(ValueError, match=f"{argument}={bad} of the measure 'PSNR' is not finite"):
        papers.better("PSNR", figures["ours"], than=figures["than"], margin=figures["margin"])


def test_exact_holds_as_told():
    assert papers.exact("same", True).holds is True
    assert papers.exact("same", False, paper="section 3").holds is False


@pytest.mark.parametrize(
    ("measures", "outcome"),
    [
        ([WON], "holds"),
        ([WON, papers.exact("same", True)], "holds"),
        ([WON, LOST], "holds in part"),
        ([LOST, papers.exact("same", False)], "does not hold at this scale"),
    ],
)
def test_outcome(project, measures, outcome):
    assert give(measures).outcome == outcome


def test_the_printed_table(project, capsys):
    found = give([WON, LOST, papers.exact("same tokens", True)])
    assert capsys.readouterr().out == (
        "Claim: codes keep the image\n"
        "Against: rounding\n"
        "Data: photographs\n"
        "\n"
        "measure      ours  baseline  holds  the paper's own figure\n"
        "PSNR (dB)    27.2  24.1      yes    28 dB at 256 codes, table 1\n"
        "bits         10.0  9.00      no     the paper gives none\n"
        "same tokens  yes   -         yes    the paper gives none\n"
        "\n"
        "Verdict: holds in part\n"
    )
    assert found.measures[0] == WON


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.0, "0.00"),
        (999.0, "999"),
        (1000.0, "1000"),
        (-27.0, "-27.0"),
        (2e12, "2.00e+12"),
        (10**12, "1" + "0" * 12),
    ],
)
def test_shown(figure, text):
    assert verdicts.shown(figure) == text


def test_a_readers_run_records_nothing(vq_lesson, capsys):
    before = vq_lesson["verdict"].read_bytes()
    give([WON])
    assert capsys.readouterr().out.endswith("This agrees with the recorded verdict: holds.\n")
    give([LOST])
    assert capsys.readouterr().out.endswith("This differs from the recorded verdict: holds.\n")
    vq_lesson["module"].write_text("changed = True\n", encoding="utf-8")
    give([LOST])
    assert "recorded" not in capsys.readouterr().out
    assert vq_lesson["verdict"].read_bytes() == before
    vq_lesson["verdict"].unlink()
    give([WON])
    assert not vq_lesson["verdict"].exists()


def test_the_build_records_what_was_measured(vq_lesson, monkeypatch):
    monkeypatch.setenv("MINITOK_RECORD", "1")
    found = give([LOST, papers.exact("same", True)])
    text = vq_lesson["verdict"].read_text(encoding="utf-8")
    assert text.endswith("}\n")
    recorded = json.loads(text)
    assert list(recorded) == ["against", "claim", "data", "measures", "outcome", "slug", "source"]
    assert (recorded["slug"], recorded["outcome"], recorded["against"]) == ("vq", "holds in part", "rounding")
    assert recorded["source"] == papers.source_hash("vq")
    assert recorded["measures"][0] == {
        "baseline": 9.0,
        "higher": False,
        "holds": False,
        "margin": 0.0,
        "name": "bits",
        "ours": 10.0,
        "paper": None,
        "unit": "",
    }
    assert papers.recorded_verdict("vq") == found


def test_a_verdict_needs_a_known_paper_measures_and_a_source(project, monkeypatch):
    with pytest.raises(ValueError, match=r"measures=\[\] of the verdict on vq"):
        give([])
    with pytest.raises(ValueError, match=r"no paper 'vqq'"):
        give([WON], slug="vqq")
    with pytest.raises(ValueError, match=r"vq has no recorded verdict"):
        papers.recorded_verdict("vq")
    monkeypatch.setenv("MINITOK_RECORD", "1")
    with pytest.raises(ValueError, match=r"vq has no module yet"):
        give([WON])
    assert not (project / "data" / "verdicts").exists()
