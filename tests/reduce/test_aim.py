import pytest
import torch
import torch.nn.functional as F

from minitok.reduce import aim, fastv, tome
from minitok.reduce.aim import as_listed, falling_shares, merge, pagerank


def causal(b: int, h: int, m: int, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention logits under a causal mask, and the attention."""
    logits = (scale * torch.randn(b, h, m, m)).masked_fill(~torch.ones(m, m, dtype=torch.bool).tril(), -torch.inf)
    return logits, logits.softmax(-1)


# Three visual tokens and a word, one head; a temperature of 1 leaves the rows as they are.
HAND = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])[None, None]


def test_four_tokens_by_hand():
    # From 1/4 each: token 0 gets 1/4 + 1/8, tokens 1 and 2 get 1/8 + 1/8, the word keeps 1/8.
    assert (8 * pagerank(HAND, temperature=1.0, steps=1)).tolist() == [[3, 2, 2, 1]]
    # Then 3/8 + 1/8, 1/8 + 1/8, 1/8 + 1/16, 1/16.
    assert (16 * pagerank(HAND, temperature=1.0, steps=2)).tolist() == [[8, 4, 3, 1]]
    x = torch.arange(3.0).view(1, 3, 1)
    assert aim(x, 2, payments=HAND, temperature=1.0, steps=2).order.tolist() == [[0, 1]]
    assert aim(x, 2, payments=HAND[..., :3, :3], temperature=1.0, steps=1).order.tolist() == [[0, 1]]
    # Heads by the root of their mean square: here 1/4 and 3/4 for token 0.
    two = torch.stack([torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([[0.75, 0.25], [0.75, 0.25]])])[None]
    assert pagerank(two, temperature=1.0, steps=1).tolist() == [[pytest.approx((10 / 32) ** 0.5)] * 2]


def test_a_temperature_of_a_half_squares_the_rows():
    half = pagerank(HAND, temperature=0.5, steps=1)
    skewed = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    assert torch.equal(half, pagerank(HAND, temperature=1.0, steps=1))  # halves stay halves
    assert pagerank(skewed, temperature=0.5, steps=1).tolist() == [[pytest.approx(0.5 + 0.05), pytest.approx(0.45)]]


@pytest.mark.parametrize(("temperature", "steps"), [(0.1, 5), (1.0, 3), (0.3, 0), (2.0, 1)])
def test_it_is_the_power_of_a_softmax_of_logits(temperature, steps):
    logits, attention = causal(2, 3, 11)
    power = (logits.double() / temperature).softmax(-1).matrix_power(steps)
    expected = power.mean(2).square().mean(1).sqrt()
    found = pagerank(attention.double(), temperature, steps)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)
    one = pagerank(attention[:, :1], temperature, steps)
    torch.testing.assert_close(one.sum(1), torch.ones(2), atol=1e-5, rtol=0)


def test_the_defaults_are_those_of_the_paper():
    _, attention = causal(6, 2, 30)
    torch.testing.assert_close(pagerank(attention), pagerank(attention, 0.1, 5))
    assert not torch.allclose(pagerank(attention), pagerank(attention, 0.1, 4), rtol=0.01)
    assert not torch.allclose(pagerank(attention), pagerank(attention, 0.2, 5), rtol=0.01)
    x = torch.zeros(6, 24, 1)
    score = pagerank(attention)[0, :24]
    assert aim(x, 5, payments=attention).order[0].tolist() == score.argsort(descending=True)[:5].sort().values.tolist()
    assert not torch.equal(
        aim(x, 5, payments=attention).order, aim(x, 5, payments=attention, temperature=2.0, steps=1).order
    )


def test_words_pay_too_but_are_not_ranked():
    _, attention = causal(4, 2, 30)
    x, changed = torch.zeros(4, 24, 1), attention.clone()
    changed[:, :, 24:, :24] = changed[:, :, 24:, :24].flip(3)
    assert not torch.equal(aim(x, 8, payments=attention).order, aim(x, 8, payments=changed).order)
    assert (aim(x, 23, payments=attention).order < 24).all()


def test_steps_under_a_causal_mask_lead_to_the_first_tokens():
    _, attention = causal(8, 2, 60)
    x = torch.zeros(8, 48, 1)
    assert (aim(x, 12, payments=attention).order < 24).float().mean() > 0.85
    assert (fastv(x, 12, paid=attention[..., :48]).order < 24).float().mean() < 0.7
    assert aim(x, 5, payments=attention, steps=0).order.tolist() == 8 * [[0, 1, 2, 3, 4]]


def test_no_power_vanishes():
    even = torch.full((1, 1, 9000, 9000), 1 / 9000)
    torch.testing.assert_close(pagerank(even, steps=1), torch.full((1, 9000), 1 / 9000), atol=0, rtol=1e-3)
    nothing = torch.zeros(1, 2, 4, 4)
    assert pagerank(nothing).tolist() == [[0, 0, 0, 0]]
    half = pagerank(causal(1, 2, 20)[1].bfloat16())
    assert half.dtype == torch.float32


def in_rounds(x: torch.Tensor, rounds: int) -> torch.Tensor:
    """The merging of one picture, a token at a time, listed as the code does."""
    rows = list(x)
    for _ in range(rounds):
        sources, targets = rows[::2], rows[1::2]
        meets = [[target] for target in targets]
        cosines = [[float(F.cosine_similarity(a, b, dim=0)) for b in targets] for a in sources]
        for a, near in zip(sources, cosines, strict=True):
            meets[near.index(max(near))].append(a)
        rows = [torch.stack(group).mean(0) for group in meets]
    return torch.stack(rows)


@pytest.mark.parametrize(("n", "rounds"), [(16, 1), (16, 2), (64, 3), (32, 4)])
def test_rounds_are_those_of_a_plain_loop(n, rounds):
    x = torch.randn(2, n, 6)
    found = merge(x, n // 2**rounds)
    for row, tokens in zip(found.apply(x), x, strict=True):
        expected = in_rounds(tokens, rounds)
        near = (row[:, None] - expected).abs().amax(-1)
        assert near.amin(0).max() < 1e-5
        assert near.amin(1).max() < 1e-5
    assert (found.order.diff() > 0).all()


def test_a_round_takes_plain_means_and_tome_weighs_by_size():
    x = torch.randn(3, 32, 6)
    torch.testing.assert_close(merge(x, 16).matrix(), tome(x, 16).matrix())
    assert not torch.allclose(merge(x, 8).matrix(), tome(x, 8).matrix(), atol=1e-3)
    uneven = torch.tensor([[[6.0, 0.0], [8.0, 1.0], [3.0, 0.0], [3.0, 0.0]]])
    assert merge(uneven, 1).apply(uneven).tolist() == [[[6.0, 0.5]]]
    assert tome(uneven, 1).apply(uneven).tolist() == [[[5.0, 0.25]]]
    weights = merge(x, 4).matrix()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))


def test_the_last_round_may_be_short():
    x = torch.randn(2, 21, 5)
    assert torch.equal(merge(x, 20).matrix(), tome(x, 20).matrix())
    assert merge(x, 7).apply(x).shape == (2, 7, 5)
    assert merge(x, 21).assignment.tolist() == 2 * [list(range(21))]
    assert merge(x.bfloat16(), 5).apply(x.bfloat16()).dtype == torch.bfloat16


def test_lists_begin_with_what_is_left_of_the_even_places():
    # Tokens 0 and 4 joined token 3, token 2 is alone, 1 and 5 are too.
    assert as_listed(torch.tensor([[0, 1, 2, 0, 0, 3]]), 4).tolist() == [[2, 1, 0, 2, 2, 3]]


def test_shares_fall_in_a_straight_line():
    paper = falling_shares(28, 14, 21)
    assert list(paper) == list(range(14, 22))
    assert list(paper.values()) == [max(0.0, 1.0 - (layer - 14 + 1) * 0.125) for layer in range(14, 22)]
    assert falling_shares(6, 5, 5) == {5: 0.0}


X, PAID = torch.zeros(1, 6, 2), torch.full((1, 2, 8, 8), 1 / 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aim(X[0], 2, payments=PAID), r"x of shape \(6, 2\) came"),
        (lambda: aim(X, 7, payments=PAID), "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (lambda: aim(X, 2, payments=PAID[..., :6]), r"payments of shape \(1, 2, 8, 6\) came, expected \(1, any, 6, 6"),
        (lambda: aim(X, 2, payments=PAID[..., :5, :5]), "payments of 5 tokens came, expected at least the 6 of x"),
        (lambda: aim(X, 2, payments=PAID[:, 0]), "payments of shape"),
        (lambda: aim(X, 2, payments=PAID[:, :0]), "payments of no heads came"),
        (lambda: aim(X, 2, payments=PAID / 0), "payments holds NaN or infinity"),
        (lambda: aim(X, 2, payments=PAID, temperature=0.0), r"temperature=0.0 came, expected a number above 0"),
        (lambda: aim(X, 2, payments=PAID, temperature=torch.inf), "temperature=inf came"),
        (lambda: aim(X, 2, payments=PAID, steps=-1), "steps=-1 came, expected a whole number of at least 0"),
        (lambda: merge(X, 0), "k=0 came"),
        (lambda: merge(X * torch.nan, 2), "x holds NaN"),
        (lambda: falling_shares(6, 4, 6), r"first=4 and last=6 came, expected 0 <= first <= last < 6"),
        (lambda: falling_shares(6, 4, 3), "first=4 and last=3 came"),
        (lambda: falling_shares(6, -1, 3), "first=-1 and last=3 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
