import pytest
import torch

from minitok.reduce import adatoken_3d, fastv
from minitok.reduce.adatoken_3d import enough, flow, tokens_for

# Four spatial tokens pay themselves, then two words pay; two heads.
ITSELF = torch.eye(4).tolist()
HAND = torch.tensor(
    [
        [*ITSELF, [0.5, 0.25, 0, 0.25], [0, 0.25, 0.25, 0.25]],
        [*ITSELF, [0.5, 0.25, 0, 0.25], [0, 0.75, 0.25, 0]],
    ]
)[None]
BOTH = torch.tensor([[True, True]])


def test_four_tokens_by_hand():
    # Words pay 1/2, 1/4, 0, 1/4 twice, then 0, 1/4, 1/4, 1/4 and 0, 3/4, 1/4, 0.
    assert (16 * flow(HAND, BOTH)).tolist() == [[4, 6, 2, 3]]
    # The last word alone: 0, 1/2, 1/4, 1/8.
    assert (8 * flow(HAND, torch.tensor([[False, True]]))).tolist() == [[0, 4, 2, 1]]
    x = torch.arange(4.0).view(1, 4, 1)
    assert adatoken_3d(x, 2, paid=HAND, asked=BOTH).order.tolist() == [[0, 1]]
    assert adatoken_3d(x, 3, paid=HAND, asked=BOTH).apply(x).flatten().tolist() == [0, 1, 3]
    # Of 15 parts the highest are 6, 10, 13.
    assert [int(enough(flow(HAND, BOTH), share)) for share in (0.4, 0.41, 2 / 3, 0.67, 0.86, 0.87, 1.0)] == [
        1, 2, 2, 3, 3, 4, 4
    ]  # fmt: skip


def test_flow_is_a_plain_loop():
    paid, asked = torch.rand(3, 2, 12, 7), torch.rand(3, 5) < 0.6
    asked[:, -1] = True
    found = flow(paid, asked).tolist()
    for row, words, sums in zip(paid.tolist(), asked.tolist(), found, strict=True):
        for j in range(7):
            terms = [head[7 + i][j] for head in row for i in range(5) if words[i]]
            assert sums[j] == pytest.approx(sum(terms) / len(terms), abs=1e-6)


def test_filling_and_spatial_payers_do_not_count():
    paid, asked = torch.rand(2, 3, 9, 6), torch.tensor([[False, True, True], [False, False, True]])
    changed = paid.clone()
    changed[:, :, :7] = torch.rand(2, 3, 7, 6)
    changed[1, :, 7] = 0.7
    assert torch.equal(flow(changed, asked), flow(paid, asked))
    assert flow(paid, torch.zeros(2, 3, dtype=torch.bool)).tolist() == 2 * [6 * [0.0]]
    x = torch.randn(2, 6, 3)
    assert torch.equal(adatoken_3d(x, 2, paid=paid, asked=asked).order[1:], fastv(x, 2, paid=paid).order[1:])
    assert not torch.equal(flow(paid, asked)[0], paid[0, :, -1].mean(0))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_the_count_is_the_smallest_that_carries_the_share(share):
    found = torch.rand(6, 30).pow(3).double()
    for row, count in zip(found, enough(found, share).tolist(), strict=True):
        best = row.sort(descending=True).values
        assert float(best[:count].sum()) >= share * float(row.sum()) - 1e-9
        assert count == 1 or float(best[: count - 1].sum()) < share * float(row.sum()) + 1e-9
    assert torch.equal(enough(found), enough(found, 0.95))


def test_even_flow_needs_the_share_of_the_tokens_and_no_flow_needs_one():
    assert enough(torch.full((1, 64), 0.25), share=0.75).tolist() == [48]
    assert enough(torch.zeros(2, 9)).tolist() == [1, 1]
    assert enough(torch.ones(1, 1)).tolist() == [1]


def test_the_profile_is_a_mean_rounded_up():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0.25, 0.25, 0.25, 0.25]])
    # 1, 3 and 4 tokens carry 95 %: 8/3.
    assert enough(rows).tolist() == [1, 3, 4]
    assert tokens_for(rows) == 3
    assert tokens_for(rows, share=0.25) == 1
    assert tokens_for(rows[:1].expand(4, -1)) == 1


def test_half_precision_is_summed_in_float32():
    paid = torch.full((1, 1, 1004, 4), 2.0**-8).bfloat16()
    paid[..., 2] = 2.0**-8 * (1 + 2.0**-7)
    asked = torch.ones(1, 1000, dtype=torch.bool)
    assert flow(paid, asked).dtype == torch.float32
    assert adatoken_3d(torch.zeros(1, 4, 1), 1, paid=paid, asked=asked).order.tolist() == [[2]]


X, PAID, ASKED = torch.zeros(1, 6, 2), torch.full((1, 2, 8, 6), 1 / 8), torch.ones(1, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adatoken_3d(X[0], 2, paid=PAID, asked=ASKED), r"x of shape \(6, 2\) came"),
        (lambda: adatoken_3d(X, 7, paid=PAID, asked=ASKED), "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (lambda: adatoken_3d(X, 2, paid=PAID[..., 1:], asked=ASKED), r"\(1, 2, 8, 5\) came, expected \(1, any, any, 6"),
        (lambda: adatoken_3d(X, 2, paid=PAID[:, :0], asked=ASKED), "paid by no heads came"),
        (lambda: adatoken_3d(X, 2, paid=PAID / 0, asked=ASKED), "paid holds NaN or infinity"),
        (
            lambda: adatoken_3d(X, 2, paid=PAID, asked=ASKED.expand(2, -1)),
            r"shape \(2, 2\) came, expected booleans \(1, 2\)",
        ),
        (lambda: adatoken_3d(X, 2, paid=PAID, asked=ASKED[:, :1]), r"shape \(1, 1\) came, expected booleans \(1, 2\)"),
        (lambda: adatoken_3d(X, 2, paid=PAID, asked=ASKED.float()), "asked of type torch.float32"),
        (lambda: flow(PAID[:, :, :1], ASKED), "asked of 2 words came for 1 payers"),
        (lambda: enough(X[..., 0], share=1.01), r"share=1.01 came, expected 0 to 1"),
        (lambda: enough(X[..., 0], share=-0.1), r"share=-0.1 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
