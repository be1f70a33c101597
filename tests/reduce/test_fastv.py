import pytest
import torch

from minitok.nn import Shape, Transformer
from minitok.reduce import fopru, highest, once
from minitok.reduce.fastv import fastv, scores


def random_paid(b: int, h: int, m: int, n: int) -> torch.Tensor:
    return torch.randn(b, h, m, n).softmax(-1)


def causal_paid(b: int, h: int, n: int, words: int) -> torch.Tensor:
    """What n visual tokens and then some words, each seeing what stands before it, pay to the visual ones."""
    m = n + words
    seen = torch.ones(m, m, dtype=torch.bool).tril()
    return torch.randn(b, h, m, m).masked_fill(~seen, -torch.inf).softmax(-1)[..., :n]


# Four visual tokens and two words under a causal mask, two heads; what the words pay to words is left out.
FIRST = [[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0], [0.25, 0.25, 0.25, 0.25]]
HAND = torch.tensor(
    [
        [*FIRST, [0.0, 0.25, 0.0, 0.25], [0.0, 0.0, 0.5, 0.0]],
        [*FIRST, [0.25, 0.25, 0.0, 0.0], [0.0, 0.0, 0.25, 0.25]],
    ]
)[None]


def test_four_tokens_by_hand():
    x = torch.arange(8.0).view(1, 4, 2)
    assert scores(HAND).tolist() == [[0, 0, 0.375, 0.125]]
    assert fastv(x, 1, paid=HAND).order.tolist() == [[2]]
    assert fastv(x, 2, paid=HAND).apply(x).tolist() == [[[4, 5], [6, 7]]]
    # Columns add up to 4.75, 2.5, 1.75 and 1 over two heads and six payers.
    assert (12 * scores(HAND, "all")).tolist() == [[4.75, 2.5, 1.75, 1.0]]
    assert fastv(x, 2, paid=HAND, payers="all").order.tolist() == [[0, 1]]
    # Words alone: their rows are given, and all of them pay.
    assert (4 * scores(HAND[:, :, 4:], "all")).tolist() == [[0.25, 0.5, 0.75, 0.5]]
    assert fastv(x, 2, paid=HAND[:, :, 4:], payers="all").order.tolist() == [[1, 2]]


@pytest.mark.parametrize(("b", "h", "m", "n"), [(1, 1, 1, 1), (2, 3, 9, 7), (3, 2, 1, 30)])
def test_scores_are_a_plain_loop(b, h, m, n):
    paid = random_paid(b, h, m, n)
    last, everybody = scores(paid).tolist(), scores(paid, "all").tolist()
    for row, ends, whole in zip(paid.tolist(), last, everybody, strict=True):
        for j in range(n):
            assert ends[j] == pytest.approx(sum(row[head][m - 1][j] for head in range(h)) / h, abs=1e-6)
            received = [row[head][i][j] for head in range(h) for i in range(m)]
            assert whole[j] == pytest.approx(sum(received) / (h * m), abs=1e-6)


@pytest.mark.parametrize("payers", ["last", "all"])
@pytest.mark.parametrize("k", [1, 5, 12, 13])
def test_the_choice_is_that_of_a_plain_sort(k, payers):
    paid, x = random_paid(4, 2, 17, 13), torch.randn(4, 13, 3)
    found = fastv(x, k, paid=paid, payers=payers).order.tolist()
    for row, kept in zip(scores(paid, payers).tolist(), found, strict=True):
        assert kept == sorted(sorted(range(13), key=lambda j: (-row[j], j))[:k])


def test_the_last_token_alone_decides_by_default():
    paid = random_paid(2, 3, 12, 8)
    changed = torch.cat([random_paid(2, 3, 11, 8), paid[:, :, -1:]], 2)
    x = torch.randn(2, 8, 3)
    assert torch.equal(fastv(x, 3, paid=changed).order, fastv(x, 3, paid=paid).order)
    assert torch.equal(fastv(x, 3, paid=paid[:, :, -1:]).order, fastv(x, 3, paid=paid).order)
    assert not torch.equal(scores(changed, "all"), scores(paid, "all"))
    assert not torch.equal(fastv(x, 3, paid=paid, payers="all").order, fastv(x, 3, paid=paid).order)


def test_the_tokens_themselves_do_not_matter():
    paid = random_paid(2, 3, 12, 8)
    first, second = fastv(torch.randn(2, 8, 3), 3, paid=paid), fastv(torch.randn(2, 8, 5), 3, paid=paid)
    assert torch.equal(first.order, second.order)


def test_under_a_causal_mask_all_payers_keep_what_stands_early():
    paid, x = causal_paid(6, 2, 40, 8), torch.zeros(6, 40, 1)
    assert (fastv(x, 20, paid=paid, payers="all").order < 20).float().mean() > 0.9
    assert (fastv(x, 20, paid=paid).order < 20).float().mean() < 0.7


def test_it_is_fopru_on_the_language_model_where_only_visual_tokens_pay():
    attention, x = random_paid(2, 3, 10, 10), torch.randn(2, 10, 4)
    assert torch.equal(fastv(x, 4, paid=attention, payers="all").order, fopru(x, 4, attention=attention).order)


def test_a_causal_network_keeps_its_words_and_places():
    network = Transformer(Shape(width=16, layers=3, heads=2)).eval().requires_grad_(False)
    for weight in network.parameters():
        if weight.dim() == 2:
            weight.normal_(std=0.3)
    x, seen = torch.randn(1, 12, 16), []
    network(x, on_layer=seen.append)
    kept = highest(seen[0].attention[:, :, -1, :9].mean(1), 4)[0].tolist()
    y = network(x, on_layer=once(0, 4, fastv, first=0, after=3))
    assert y.shape == (1, 7, 16)
    # The first layer sees all; after it, what is left goes through the rest at the places that it had.
    left, places = [*kept, 9, 10, 11], torch.tensor([[*kept, 9, 10, 11]]).float()
    rest = seen[0].hidden[:, left]
    rest = rest + network.blocks[0].mlp(network.blocks[0].norm2(rest))
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    for block in network.blocks[1:]:
        rest = block(rest, places, mask)
    torch.testing.assert_close(y, network.norm(rest), atol=1e-5, rtol=1e-5)


def test_half_precision_counts_in_float32():
    paid = torch.full((1, 1, 1001, 900), 2.0**-8).bfloat16()
    paid[0, 0, :, 7] = 2.0**-8 * (1 + 2.0**-7)
    assert scores(paid, "all").dtype == torch.float32
    assert scores(paid, "all")[0, 7].item() == pytest.approx(2.0**-8 * (1 + 2.0**-7), rel=1e-5)
    assert fastv(torch.zeros(1, 900, 1), 1, paid=paid, payers="all").order.tolist() == [[7]]


def test_gradients_reach_only_what_is_kept():
    x = torch.randn(1, 4, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(fastv(x, 2, paid=HAND).apply(x).sum(), x)
    assert gradient[0, :, 0].tolist() == [0, 0, 1, 1]


X, PAID = torch.zeros(1, 6, 2), torch.full((1, 2, 8, 6), 1 / 8)


@pytest.mark.parametrize(
    ("x", "k", "given", "message"),
    [
        (X[0], 2, {}, r"x of shape \(6, 2\) came"),
        (X * torch.nan, 2, {}, "x holds NaN"),
        (X, 0, {}, "k=0 came, expected a whole number from 1 to the 6 tokens"),
        (X, 7, {}, "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (X, 2, {"paid": PAID[..., 1:]}, r"paid of shape \(1, 2, 8, 5\) came, expected \(1, any, any, 6\)"),
        (X, 2, {"paid": PAID[:, 0]}, "paid of shape"),
        (X, 2, {"paid": PAID[:, :0]}, r"paid of shape \(1, 0, 8, 6\) came, expected at least one head and one payer"),
        (X, 2, {"paid": PAID[:, :, :0]}, r"paid of shape \(1, 2, 0, 6\) came, expected at least one head"),
        (X, 2, {"paid": PAID / 0}, "paid holds NaN or infinity"),
        (X, 2, {"paid": PAID.long()}, "paid of type torch.int64"),
        (X, 2, {"payers": "words"}, r"payers='words' came, expected one of \('last', 'all'\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, given, message):
    with pytest.raises(ValueError, match=message):
        fastv(x, k, **({"paid": PAID} | given))
