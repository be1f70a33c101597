"""Verdicts: what is printed, what is recorded and by whom, and how a run is held to the record."""

import json
import shutil

import pytest

from minitok import papers
from minitok.course import registry, verdicts

WON = papers.better("PSNR", 27.2419, than=24.1, margin=0.5, unit="dB", paper="28 dB at 256 codes, table 1")
LOST = papers.better("bits", 10.0, than=9.0, margin=0, higher=False)
NEAR = papers.not_worse("right, spread over all layers of the network", 83.9, than=85.5, by=3, unit="%")


def give(measures, slug="vq", data="photographs"):
    return papers.verdict(slug, "codes keep the image", measures, against="rounding", data=data)


@pytest.fixture
def tomorrow(monkeypatch):
    class Tomorrow(verdicts.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2101, 1, 2, tzinfo=tz)

    monkeypatch.setattr(verdicts, "datetime", Tomorrow)


@pytest.mark.parametrize(
    ("measures", "outcome"),
    [
        ([WON], "holds"),
        ([WON, WON], "holds"),
        ([WON, LOST], "holds in part"),
        ([WON, NEAR], "holds in part"),
        ([LOST], "does not hold at this scale"),
        ([NEAR], "does not hold at this scale"),
    ],
)
def test_the_outcome_is_that_of_the_measures(project, measures, outcome):
    assert give(measures).outcome == outcome


def test_the_printed_table(project, capsys):
    found = give([WON, LOST, NEAR])
    assert capsys.readouterr().out == (
        "Claim: codes keep the image\n"
        "Against: rounding\n"
        "Data: photographs\n"
        "\n"
        "measure                  ours  baseline  asked of ours   holds      the paper's own figure\n"
        "PSNR (dB)                27.2  24.1      better by more  yes        28 dB at 256 codes,\n"
        "                                           than 0.5                   table 1\n"
        "bits                     10.0  9.00      better          no         the paper gives none\n"
        "right, spread over all   83.9  85.5      not worse by    undecided  the paper gives none\n"
        "  layers of the network                    more than 3\n"
        "  (%)\n"
        "\n"
        "Undecided: so near that measuring again could tip it; it does not count as held.\n"
        "Verdict: holds in part\n"
    )
    assert found.measures[0] == WON


def test_no_line_is_wide_and_no_word_is_cut(project):
    name = "right answers of 62 photographs with one token in sixteen, against lots"
    measure = papers.not_worse(name, 123456.0, than=1.23e-5, by=0.123, unit="% of all", paper="word " * 30)
    claim = "Merging alike tokens changes the answers of a trained network less than dropping at random. " * 2
    told = str(verdicts.Verdict("vq", claim, (measure,), claim, claim, measured="2026-12-01"))
    assert max(map(len, told.splitlines())) <= 100
    said = told.split()
    assert all(word in said for word in f"{name} {claim} not worse by more than 0.123".split())


def test_a_readers_run_records_nothing_and_says_what_differs(vq_lesson, capsys):
    before, day = vq_lesson["verdict"].read_bytes(), papers.recorded_verdict("vq").measured
    give([WON])
    assert capsys.readouterr().out.endswith(f"This agrees with the record ({day}): holds.\n")
    give([papers.better("PSNR", 20.1, than=24.1, margin=0.5, unit="dB")])
    assert capsys.readouterr().out.endswith(
        f"This differs from the record ({day}):\n"
        "- PSNR: ours is 20.1 now, 27.2 in the record\n"
        "- PSNR: says no now, yes in the record\n"
    )
    give([WON, LOST])
    assert capsys.readouterr().out.endswith("- the measures are PSNR, bits now, PSNR in the record\n")
    assert vq_lesson["verdict"].read_bytes() == before
    vq_lesson["verdict"].unlink()
    give([WON])
    assert not vq_lesson["verdict"].exists()
    assert "record" not in capsys.readouterr().out


def test_a_judged_run_fails_where_the_record_is_not_reproduced(vq_lesson, monkeypatch):
    monkeypatch.setenv("MINITOK_JUDGE", "1")
    assert give([WON]).outcome == "holds"
    with pytest.raises(verdicts.NotReproduced, match=r"verdict on vq is not reproduced(.|\n)*ours is 26\.1 now, 27\.2"):
        give([papers.better("PSNR", 26.1, than=24.1, margin=0.5, unit="dB")])
    with pytest.raises(verdicts.NotReproduced, match="the measures are bits now, PSNR in the record"):
        give([LOST])
    vq_lesson["verdict"].unlink()
    with pytest.raises(verdicts.NotReproduced, match=r"vq has no recorded verdict: run `python do\.py notebooks`"):
        give([WON])


@pytest.mark.parametrize("variable", [None, "MINITOK_JUDGE", "MINITOK_RECORD"])
def test_on_other_data_the_verdict_is_told_as_recorded(vq_lesson, monkeypatch, capsys, variable):
    if variable:
        monkeypatch.setenv(variable, "1")
    before = vq_lesson["verdict"].read_bytes()
    found = give([LOST], data="crops of faces")
    assert (found, found.data) == (papers.recorded_verdict("vq"), "photographs")
    told = capsys.readouterr().out
    assert told.startswith(
        "Here we have other data: crops of faces.\nThe verdict as it was recorded, not measured now:"
    )
    assert f"Data: photographs\nMeasured: {found.measured}\n" in told
    assert "bits" not in told
    assert vq_lesson["verdict"].read_bytes() == before


def test_a_lesson_that_was_changed_may_be_recorded_on_other_data(vq_lesson, monkeypatch):
    monkeypatch.setenv("MINITOK_RECORD", "1")
    vq_lesson["source"].write_text("# another\n", encoding="utf-8")
    give([LOST], data="crops of faces")
    assert papers.recorded_verdict("vq").data == "crops of faces"


def test_the_build_records_what_was_measured(vq_lesson, monkeypatch):
    monkeypatch.setenv("MINITOK_RECORD", "1")
    found = give([LOST, NEAR])
    text = vq_lesson["verdict"].read_text(encoding="utf-8")
    assert text.endswith("}\n")
    recorded = json.loads(text)
    assert list(recorded) == ["against", "claim", "data", "measured", "measures", "outcome", "slug", "source"]
    assert (recorded["slug"], recorded["outcome"]) == ("vq", "does not hold at this scale")
    assert recorded["source"] == papers.source_hash("vq")
    assert recorded["measures"][0] == {
        "baseline": 9.0,
        "higher": False,
        "kind": "better",
        "margin": 0,
        "name": "bits",
        "ours": 10.0,
        "paper": None,
        "says": "no",
        "tolerance": None,
        "unit": "",
    }
    assert (recorded["measures"][1]["kind"], recorded["measures"][1]["says"]) == ("not worse", "undecided")
    assert papers.recorded_verdict("vq") == found


@pytest.mark.usefixtures("tomorrow")
def test_the_day_moves_only_with_what_was_measured(vq_lesson, monkeypatch):
    monkeypatch.setenv("MINITOK_RECORD", "1")
    before = vq_lesson["verdict"].read_bytes()
    give(papers.recorded_verdict("vq").measures)
    assert vq_lesson["verdict"].read_bytes() != before  # the claim's baseline is told otherwise
    assert papers.recorded_verdict("vq").measured == "2101-01-02"
    vq_lesson["verdict"].write_bytes(before)
    papers.verdict(
        "vq",
        "codes keep the image",
        papers.recorded_verdict("vq").measures,
        against="scalar rounding",
        data="photographs",
    )
    assert vq_lesson["verdict"].read_bytes() == before


def test_in_a_wheel_a_reader_is_told_too(vq_lesson, project, capsys):
    (project / "data").rename(project / "minitok" / "_shipped")
    for folder in ("notebooks", "tests"):
        shutil.rmtree(project / folder)
    give([WON])
    assert "This agrees with the record" in capsys.readouterr().out


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
    assert not registry.places("vq")["verdict"].exists()


def test_a_notebook_does_not_show_a_verdict_twice(capsys):
    from IPython.core.formatters import DisplayFormatter

    measures = (papers.better("PSNR", 27.2, than=24.1, margin=0.5),)
    data, metadata = DisplayFormatter().format(verdicts.Verdict("vq", "codes keep it", measures, "rounding", "photos"))
    assert (data, metadata, capsys.readouterr().out) == ({}, {}, "")
