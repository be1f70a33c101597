import pytest
import torch
import torch.nn.functional as F

from minitok.reduce import Reduction
from minitok.reduce._outliers import outliers
from minitok.reduce.recoverable import LEAN, budget, merge, recoverable, shared_out, similarity, split, top


def signals(b: int = 3, n: int = 60, seed: int = 0) -> dict:
    """Attention with a few high tokens, keys, a text of two words near some tokens, and the tokens themselves."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    x, text = random(b, n, 8), random(b, 2, 8)
    x[:, 10:16] += 3 * F.normalize(text, dim=-1).sum(1, keepdim=True)
    logits = random(b, 2, n) * 0.1
    logits[..., 3:8] += 2 + random(b, 2, 5) * 0.3
    return {"x": x, "text": text, "cls_attention": logits.softmax(-1), "keys": random(b, 2, n, 4)}


def called(k: int, given: dict, **changed) -> Reduction:
    return recoverable(k=k, **(given | changed))


def test_similarity_by_hand():
    x, text = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]]]), torch.tensor([[[5.0, 0.0], [0.0, 0.1]]])
    root = 0.5**0.5
    torch.testing.assert_close(similarity(x, text), torch.tensor([[root, root, -1.0]]))
    only = similarity(x, text, torch.tensor([[False, True]]))
    torch.testing.assert_close(only, torch.tensor([[0.0, 1.0, -root]]))
    assert similarity(x, text, torch.tensor([[False, False]])).tolist() == [[0, 0, 0]]


def test_the_highest_by_row():
    scores = torch.randint(0, 4, (5, 9)).float()
    counts = torch.tensor([0, 1, 4, 8, 9])
    for row, count, found in zip(scores.tolist(), counts.tolist(), top(scores, counts).tolist(), strict=True):
        best = sorted(range(9), key=lambda i: (-row[i], i))[:count]
        assert [i for i in range(9) if found[i]] == sorted(best)


def by_rule(given: dict, row: int) -> tuple[list[int], list[int], list[int]]:
    """Kept, recovered and centres of one row by the paper's rule, in plain Python."""

    def count(scores, neighbours):  # test_outliers.py holds it to the definitions
        return int(outliers(torch.tensor([scores]), neighbours))

    attention = given["cls_attention"][row].double().mean(0).tolist()
    words = F.normalize(given["text"][row].double(), dim=-1).sum(0)
    similar = F.cosine_similarity(given["x"][row].double(), words[None], dim=-1).tolist()
    n = len(attention)
    by_attention = sorted(range(n), key=lambda i: -attention[i])
    kept = by_attention[: count(attention, 20)]
    left = [min(similar) if i in kept else similar[i] for i in range(n)]
    share = (n - len(kept)) * count(left, 20) // n
    recovered = sorted((i for i in range(n) if i not in kept), key=lambda i: -similar[i])[:share]
    rest = [i for i in by_attention if i not in kept + recovered]
    return kept, recovered, rest[: count([attention[i] for i in rest], 10)]


@pytest.mark.parametrize("seed", range(6))
def test_the_paper_s_own_number_of_tokens_gives_its_parts(seed):
    given = signals(b=2, seed=seed)
    asked = {name: given[name] for name in ("x", "cls_attention", "text")}
    for row, k in enumerate(budget(**asked).tolist()):
        kept, recovered, centres = by_rule(given, row)
        assert k == len(kept) + len(recovered) + len(centres) + 1
        one = {name: signal[row : row + 1] for name, signal in given.items()}
        found = called(k, one)
        assert found.order[0, :-1].tolist() == sorted(kept + recovered + centres)
        weights = found.matrix()[0]
        alone = {int(i) for i in found.order[0, :-1][(weights[:-1] > 0).sum(-1) == 1]}
        assert alone == set(kept + recovered)
        check_merged(one, weights, found.order[0].tolist(), kept + recovered, centres)


def check_merged(given, weights, order, kept, centres):
    """Centres take 32 of the others that are left, the last output all that is neither kept nor a centre."""
    attention, keys = given["cls_attention"][0].mean(0), given["keys"][0].transpose(0, 1).flatten(1)
    similar, n = similarity(given["x"], given["text"])[0], len(attention)
    for centre in centres:
        left = [j for j in range(n) if j not in kept and j != centre]
        near = [float(F.cosine_similarity(keys[j], keys[centre], dim=0) + LEAN * similar[j]) for j in left]
        partners = [left[i] for i in sorted(range(len(left)), key=lambda i: -near[i])[:32]]
        expected = torch.zeros(n)
        expected[partners], expected[centre] = attention[partners], 1.0
        torch.testing.assert_close(weights[order.index(centre)], expected / expected.sum(), atol=1e-6, rtol=0)
    rest = torch.tensor([float(j not in kept + centres) for j in range(n)]) * attention
    torch.testing.assert_close(weights[-1], rest / rest.sum(), atol=1e-6, rtol=0)


def test_the_parts_are_not_empty_on_the_tests_own_signals():
    given = signals()
    found = split(given["cls_attention"].mean(1), similarity(given["x"], given["text"]))
    assert (found[[0, 2]] > 0).all()
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_six_tokens_merged_by_hand():
    # 0 is kept, 4 recovered, 1 a centre; 2, 3 and 5 are its partners and the rest.
    attention = torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]])
    kept = torch.tensor([[True, False, False, False, True, False]])
    centres = torch.tensor([[False, True, False, False, False, False]])
    weights = merge(attention, torch.randn(1, 1, 6, 2), torch.zeros(1, 6), kept, centres, k=4)
    expected = [[1, 0, 0, 0, 0, 0], [0, 1, 0.2, 0.1, 0, 0.1], [0, 0, 0, 0, 1, 0], [0, 0, 0.2, 0.1, 0, 0.1]]
    torch.testing.assert_close(weights, torch.tensor([expected]))


@pytest.mark.parametrize("k", [2, 9, 30, 59])
def test_a_given_number_is_shared_out_in_the_same_proportions(k):
    given = signals()
    counts = split(given["cls_attention"].mean(1), similarity(given["x"], given["text"]))
    parts, found = shared_out(counts, k - 1), called(k, given)
    assert parts.sum(1).tolist() == 3 * [k - 1]
    exact = (k - 1) * counts / counts.sum(1, keepdim=True)
    assert ((parts - exact).abs() <= 1).all()
    alone = ((found.matrix()[:, :-1] > 0).sum(-1) == 1).sum(-1)
    assert alone.tolist() == parts[:, :2].sum(1).tolist()


def test_a_half_goes_to_the_even():
    assert shared_out(torch.tensor([[1, 1, 0], [1, 2, 1], [0, 0, 0], [0, 0, 4]]), 3).tolist() == [
        [2, 1, 0], [1, 1, 1], [3, 0, 0], [0, 0, 3],
    ]  # fmt: skip


def test_the_text_decides_what_is_recovered():
    given = signals()
    here, there = called(20, given), called(20, given, text=-given["text"])
    assert not torch.equal(here.order, there.order)
    masked = called(20, given, asked=torch.tensor([[True, False]]).expand(3, -1))
    assert torch.equal(masked.order, called(20, given, text=given["text"][:, :1]).order)
    assert not torch.equal(masked.order, here.order)
    names = {name: given[name] for name in ("x", "cls_attention", "text")}
    only = budget(**names, asked=torch.tensor([[True, False]]).expand(3, -1))
    assert torch.equal(only, budget(**(names | {"text": given["text"][:, :1]})))
    assert not torch.equal(only, budget(**names))


def test_the_text_may_live_in_another_space_than_the_tokens():
    given = signals()
    x, shared = torch.randn_like(given["x"]), given["x"]
    assert torch.equal(called(20, given, x=x, shared=shared).matrix(), called(20, given).matrix())
    wide = {"shared": F.pad(shared, (0, 3)), "text": F.pad(given["text"], (0, 3))}
    torch.testing.assert_close(called(20, given, x=x, **wide).matrix(), called(20, given).matrix())
    names = {"cls_attention": given["cls_attention"], "text": given["text"]}
    assert torch.equal(budget(x, shared=shared, **names), budget(shared, **names))


def test_heads_pay_alike_and_keys_are_set_side_by_side():
    given = signals()
    mean = given["cls_attention"].mean(1, keepdim=True)
    torch.testing.assert_close(called(20, given, cls_attention=mean).matrix(), called(20, given).matrix())
    wide = given["keys"].transpose(1, 2).flatten(2)[:, None]
    torch.testing.assert_close(called(20, given, keys=wide).matrix(), called(20, given).matrix())
    assert not torch.allclose(called(20, given, keys=given["keys"][:, :1]).matrix(), called(20, given).matrix())


def test_without_any_attention_or_text_there_is_still_no_nan():
    given = signals()
    empty = {name: torch.zeros_like(given[name]) for name in ("cls_attention", "keys", "text", "x")}
    for k in (1, 7, 59):
        assert called(k, empty).matrix().isfinite().all()
        assert called(k, empty).order[:, :-1].tolist() == 3 * [list(range(k - 1))]


X, GIVEN = torch.randn(2, 6, 3), {
    "cls_attention": torch.rand(2, 2, 6), "keys": torch.randn(2, 1, 6, 4), "text": torch.randn(2, 5, 3),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 0}, "k=0 came, expected a whole number from 1 to the 6 tokens"),
        ({"k": 7}, "k=7 came"),
        ({"x": X[0]}, r"x of shape \(6, 3\) came"),
        ({"cls_attention": GIVEN["cls_attention"][:, :0]}, r"cls_attention of shape \(2, 0, 6\) came, expected at lea"),
        ({"cls_attention": GIVEN["cls_attention"][..., 1:]}, r"cls_attention of shape \(2, 2, 5\) came, expected \(2"),
        ({"keys": GIVEN["keys"][:, :, 1:]}, "keys of shape"),
        ({"keys": GIVEN["keys"] / 0}, "keys holds NaN"),
        ({"text": GIVEN["text"][..., 1:]}, r"text of shape \(2, 5, 2\) came, expected \(2, any, 3\)"),
        ({"text": GIVEN["text"][:, :0]}, r"text of shape \(2, 0, 3\) came, expected at least one"),
        ({"asked": torch.ones(2, 4, dtype=torch.bool)}, r"asked of shape \(2, 4\) and type"),
        ({"asked": torch.zeros(2, 5, dtype=torch.bool)}, "asked "),
        ({"shared": torch.randn(2, 5, 3)}, r"shared of shape \(2, 5, 3\) came, expected \(2, 6, any\)"),
        ({"shared": torch.randn(2, 6, 4)}, r"text of shape \(2, 5, 3\) came, expected \(2, any, 4\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        recoverable(**({"x": X, "k": 3} | GIVEN | changed))
