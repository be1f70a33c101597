"""Measures: when they say yes, no or undecided, how figures are kept, and what a changed figure is told as."""

import math

import numpy as np
import pytest
import torch

from minitok import papers

SURE = {"tolerance": 0}


@pytest.mark.parametrize(
    ("ours", "than", "options", "says"),
    [
        (2.0, 1.0, {"margin": 0}, "yes"),
        (1.0, 2.0, {"margin": 0}, "no"),
        (1.0, 1.0, {"margin": 0} | SURE, "no"),
        (1.0, 2.0, {"margin": 0, "higher": False}, "yes"),
        (2.0, 1.0, {"margin": 0, "higher": False}, "no"),
        (27.3, 27.2, {"margin": 0.1} | SURE, "no"),
        (27.4, 27.2, {"margin": 0.1} | SURE, "yes"),
        (27.24, 27.21, {"margin": 0} | SURE, "no"),  # both are 27.2 as kept
        (1025, 1024, {"margin": 0} | SURE, "yes"),
        (-0.5, -0.6, {"margin": 0} | SURE, "yes"),
    ],
)
def test_better_holds_beyond_the_margin(ours, than, options, says):
    found = papers.better("m", ours, than=than, **options)
    assert (found.says, found.holds) == (says, says == "yes")


@pytest.mark.parametrize(
    ("ours", "than", "options", "says"),
    [
        (27.3, 27.2, {"by": 0} | SURE, "yes"),
        (27.2, 27.2, {"by": 0} | SURE, "yes"),
        (27.1, 27.2, {"by": 0} | SURE, "no"),
        (27.0, 27.2, {"by": 0.2} | SURE, "yes"),
        (26.9, 27.2, {"by": 0.2} | SURE, "no"),
        (27.3, 27.2, {"by": 0.2, "higher": False} | SURE, "yes"),
        (27.5, 27.2, {"by": 0.2, "higher": False} | SURE, "no"),
    ],
)
def test_not_worse_holds_up_to_what_it_allows(ours, than, options, says):
    assert papers.not_worse("m", ours, than=than, **options).says == says


@pytest.mark.parametrize(("ours", "says"), [(50, "no"), (51, "undecided"), (52, "undecided"), (53, "undecided")])
def test_what_could_tip_over_is_undecided_and_does_not_hold(ours, says):
    found = papers.better("m", ours, than=50, margin=2, tolerance=1)
    assert (found.says, found.holds) == (says, False)
    assert papers.better("m", 54, than=50, margin=2, tolerance=1).holds


def test_the_tolerance_is_2_percent_of_the_larger_figure():
    def says(ours, **options):
        return papers.better("m", ours, than=100, margin=0, **options).says

    assert [says(102), says(102, tolerance=1.9), says(103)] == ["undecided", "yes", "yes"]
    assert papers.better("m", 98, than=100, margin=0, higher=False).says == "undecided"
    assert papers.not_worse("m", 100, than=100, by=3).says == "yes"
    assert papers.not_worse("m", 98.5, than=100, by=3).says == "undecided"


def test_figures_are_kept_at_three_digits_and_counts_in_full():
    kept = papers.better("m", torch.tensor(1234.5), than=np.float32(0.00012345), margin=0.12345, tolerance=0.54321)
    assert (kept.ours, kept.baseline, kept.margin, kept.tolerance) == (1230.0, 0.000123, 0.123, 0.543)
    assert [papers.better("calls", n, than=1, margin=0).ours for n in (123456, np.int64(123456))] == [123456, 123456]
    assert type(kept.ours) is type(kept.baseline) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("argument", ["ours", "than", "margin", "tolerance"])
def test_a_figure_that_is_not_finite_is_refused(argument, bad):
    figures = {"ours": 1.0, "than": 1.0, "margin": 0.0, "tolerance": 0.0} | {argument: bad}
    with pytest.raises(ValueError, match=f"{argument}={bad} of the measure 'PSNR' is not finite"):
        papers.better("PSNR", figures.pop("ours"), **figures)
    if argument == "margin":
        with pytest.raises(ValueError, match=f"by={bad} of the measure"):
            papers.not_worse("PSNR", 1.0, than=1.0, by=bad)


def test_an_identity_and_a_negative_margin_are_refused():
    with pytest.raises(ValueError, match="ours=True of the measure 'same' is no figure: assert it"):
        papers.better("same", True, than=0, margin=0)
    with pytest.raises(ValueError, match="margin=-1 of the measure 'm' is below 0; `not_worse` lets"):
        papers.better("m", 1, than=2, margin=-1)
    with pytest.raises(ValueError, match="by=-1 of the measure"):
        papers.not_worse("m", 1, than=2, by=-1)
    with pytest.raises(ValueError, match="tolerance=-1 of the measure"):
        papers.not_worse("m", 1, than=2, by=1, tolerance=-1)
    with pytest.raises(TypeError, match="margin"):
        papers.better("m", 1, than=2)


def test_what_is_asked_is_said_in_words():
    asked = [
        papers.better("m", 1, than=0, margin=0.50),
        papers.better("m", 1, than=0, margin=0),
        papers.not_worse("m", 1, than=0, by=3),
        papers.not_worse("m", 1, than=0, by=0),
    ]
    assert [found.asked for found in asked] == [
        "better by more than 0.5",
        "better",
        "not worse by more than 3",
        "not worse",
    ]


def test_changes_are_figures_beyond_the_tolerance_and_answers_turned_round():
    def measure(ours, than=50, **options):
        return papers.better("right", ours, than=than, **{"margin": 2, "tolerance": 1} | options)

    before = measure(60)
    assert measure(61, than=49).changes(before) == []
    assert measure(62, than=48).changes(before) == [
        "right: ours is 62 now, 60 in the record",
        "right: the baseline is 48 now, 50 in the record",
    ]
    assert measure(50).changes(before)[-1] == "right: says no now, yes in the record"
    assert measure(53.9).changes(measure(53.2)) == []  # undecided before and now
    assert measure(54.0).changes(measure(53.0)) == []  # undecided before
    assert measure(60, margin=3).changes(before) == [
        "right: asks for better by more than 3 now, for better by more than 2 in the record"
    ]


def test_without_a_stated_tolerance_each_figure_may_move_by_2_percent():
    def measure(ours, than):
        return papers.better("far", ours, than=than, margin=5, higher=False)

    assert measure(5.1, 59.0).changes(measure(5.0, 60.0)) == []
    assert measure(5.2, 60.0).changes(measure(5.0, 60.0)) == ["far: ours is 5.20 now, 5.00 in the record"]
