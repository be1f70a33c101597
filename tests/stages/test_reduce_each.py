import pytest
import torch

from minitok.reduce import Reduction, fastv
from minitok.stages import reduce_each, reduce_vlm
from minitok.stages.controls import attended


@pytest.fixture(scope="module")
def stage():
    return reduce_vlm.stage(3)


def first(x, k):
    return Reduction.keep(torch.arange(k).expand(len(x), -1), x.shape[1])


def test_the_same_number_for_all_is_the_stage_s_own_row(stage):
    counts = torch.full((len(stage.rows),), 40)
    for method, layer in ((attended, None), (fastv, 1), (first, 2)):
        row, whole = reduce_each.measure(stage, method, counts, layer), stage.measure(method, 40, layer)
        torch.testing.assert_close(row.bits, whole.bits, atol=1e-3, rtol=1e-3)
        assert torch.equal(row.correct, whole.correct)
        torch.testing.assert_close(row.recall, whole.recall, equal_nan=True)
        assert (row.flops, row.tokens, row.needs) == (pytest.approx(whole.flops), 40, whole.needs)


def test_each_question_has_its_own_number(stage):
    counts = torch.arange(len(stage.rows)) % 3 * 100 + 20
    row = reduce_each.measure(stage, first, counts)
    for k in (20, 120, 220):
        alone = stage.measure(first, k)
        torch.testing.assert_close(row.bits[counts == k], alone.bits[counts == k], atol=1e-3, rtol=1e-3)
    costs = [stage.measure(first, k).flops * float((counts == k).float().mean()) for k in (20, 120, 220)]
    assert row.flops == pytest.approx(sum(costs))
    assert row.tokens == round(float(counts.float().mean()))


def test_several_methods_give_their_mean(stage):
    counts = torch.full((len(stage.rows),), 30)

    def last(x, k):
        return Reduction.keep(torch.arange(x.shape[1] - k, x.shape[1]).expand(len(x), -1), x.shape[1])

    rows = [reduce_each.measure(stage, method, counts) for method in (first, last)]
    both = reduce_each.measure(stage, [first, last], counts)
    torch.testing.assert_close(both.bits, (rows[0].bits + rows[1].bits) / 2)


def test_a_budget_meets_each_question_alone(stage):
    def budget(x, *, paid, asked):
        assert paid.shape[2] == x.shape[1] + asked.shape[1]
        return 1 + asked.sum(1)

    found = reduce_each.budgets(stage, budget, 1)
    assert torch.equal(found, 1 + (stage.questions.words != 0).sum(1))
