import math

import numpy as np
import pytest
import torch

from minitok import checks


@pytest.mark.parametrize("number", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3])[0]])
def test_whole_numbers_of_all_kinds_become_an_int(number):
    found = checks.whole("k", number, 1, 3)
    assert type(found) is int
    assert found == 3


@pytest.mark.parametrize(
    "number", [True, np.bool_(True), torch.tensor(True), 2.0, np.float64(2), "2", None, torch.tensor(2.0), [2], 0, 9]
)
def test_what_is_no_whole_number_in_the_range_is_named(number):
    with pytest.raises(ValueError, match=r"^k=.* came, expected a whole number from 1 to 8$"):
        checks.whole("k", number, 1, 8)


def test_without_an_upper_end_only_the_lower_one_counts():
    assert checks.whole("n", 10**20, 0) == 10**20
    with pytest.raises(ValueError, match="n=-1 came, expected a whole number of at least 0"):
        checks.whole("n", -1, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=f"^guidance={bad} came, expected a finite number"):
        checks.check_finite("guidance", bad)
    with pytest.raises(ValueError, match=r"^x holds NaN or infinity"):
        checks.check_finite("x", torch.tensor([[0.0], [bad]]))
    checks.check_finite("x", torch.tensor([1e38, -1e38]))
    checks.check_finite("codes", torch.tensor([1, 2]))


def test_logits_may_rule_entries_out_but_not_all():
    rows = torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    checks.check_logits("logits", rows)
    checks.check_logits("logits", rows[:0])
    for bad in (math.nan, math.inf):
        rows = torch.tensor([[0.0, 1.0], [bad, -math.inf]])
        with pytest.raises(ValueError, match=f"logits holds NaN, infinity.*: the highest of row 1 is {bad}"):
            checks.check_logits("logits", rows)
        with pytest.raises(ValueError, match=rf"the highest of row \(0, 1\) is {bad}"):
            checks.check_logits("logits", rows[None])
    with pytest.raises(ValueError, match=r"nothing is possible: the highest of row 0 is -inf"):
        checks.check_logits("logits", torch.full((1, 3), -math.inf))


def test_numbers_that_cannot_be_looked_at_are_let_pass():
    meta = torch.zeros(2, 3, device="meta")
    assert not checks.readable(torch.zeros(1), meta)
    assert checks.readable(torch.zeros(1), torch.zeros(2))
    checks.check_finite("x", meta)
    checks.check_logits("x", meta)
