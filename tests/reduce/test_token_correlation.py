import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok.reduce._pictures import shared
from minitok.reduce.token_correlation import (
    densities,
    joined,
    natural,
    outliers,
    quantile,
    redundant,
    sampled,
    token_correlation,
)

# Two pictures of four patches: three alike and one other; four that differ.
KEYS = torch.tensor([[1.0, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
KEYS = KEYS.view(1, 1, 8, 3)
EARLY = torch.tensor([[[0.4, 0.3, 0.2, 0.1, 0.25, 0.25, 0.25, 0.25]]])
LATE = torch.tensor([[[0.1, 0.1, 0.1, 0.7, 0.25, 0.25, 0.25, 0.25]]])
X = torch.arange(8.0).view(1, 8, 1)


def test_eight_tokens_by_hand():
    # The first three are each like 2 others, more than 0.1 x 4: redundant. Densities 1/4 and 4/4, so 4 as 1 and 3.
    assert redundant(KEYS[0, 0, :4]).tolist() == [True, True, True, False]
    assert densities(KEYS, 2).tolist() == [[0.25, 1.0]]
    assert natural(KEYS, 2).tolist() == [5]
    assert shared(densities(KEYS, 2), 4, 4).tolist() == [[1, 3]]
    # 0.7 is above 0.25 + 1.5 x 0.15 = 0.475: an outlier, kept before all draws.
    assert outliers(LATE[0, 0, :4]).tolist() == [False, False, False, True]
    kept = sampled(EARLY[:, 0], LATE[:, 0], torch.tensor([[1, 3]]), 4)[0].tolist()
    assert kept[0] == 3
    assert len(set(kept) & {4, 5, 6, 7}) == 3
    made = token_correlation(X, 4, keys=KEYS, cls_first=EARLY, cls_attention=LATE, pictures=2)
    assert made.shape == (1, 4, 8)
    # What is like nothing kept weighs nothing: (0 + 0.01 x 1 + 0 + 3) / (1 + 0.01), by cosines 0, 0.01, 0 and 1.
    assert float(made.apply(X)[0, 0, 0]) == pytest.approx((0.01 * 1 + 3) / 1.01, abs=1e-4)


@pytest.mark.parametrize(("similar", "many"), [(0.5, 0.1), (0.2, 0.3), (0.0, 0.5), (-0.3, 0.7)])
def test_redundant_is_a_count_of_cosines(similar, many):
    keys = torch.randn(2, 12, 4)
    for row, found in zip(keys, redundant(keys, similar, many), strict=True):
        for i in range(12):
            others = sum(float(F.cosine_similarity(row[i], row[j], 0)) > similar for j in range(12) if j != i)
            assert bool(found[i]) == (others > many * 12)


def test_densities_look_within_each_picture_and_over_all_heads():
    keys = torch.randn(2, 3, 20, 4)
    whole = keys.transpose(1, 2).flatten(2)
    expected = torch.stack([1 - redundant(part, 0.3).float().mean(1) for part in whole.split(5, 1)], 1)
    assert_close(densities(keys, 4, 0.3), expected.clamp(min=0.2))
    assert densities(torch.ones(1, 1, 16, 2), 4).tolist() == [4 * [0.25]]  # blank pages: one patch of four
    assert natural(keys, 4, 0.3).tolist() == [round(5 * float(row.sum())) for row in expected.clamp(min=0.2)]
    assert densities(keys, 4, 0.3, 0.6).ne(densities(keys, 4, 0.3)).any()


@pytest.mark.parametrize("m", [1, 2, 5, 64])
def test_quantiles_are_numpy_s(m):
    x = torch.rand(3, m, dtype=torch.double)
    for q in (0.25, 0.75, 0.1):
        assert_close(quantile(x, q)[:, 0], torch.from_numpy(np.quantile(x.numpy(), q, axis=1)), atol=1e-12, rtol=0)
    assert not outliers(torch.full((3, m), 0.2)).any()


def test_outliers_come_first_by_what_they_are_paid():
    late = torch.full((1, 32), 0.01)
    late[0, [3, 7, 20]] = torch.tensor([0.2, 0.3, 0.1])
    assert sampled(torch.rand(1, 32), late, torch.tensor([[1, 1]]), 2).tolist() == [[7, 20]]
    kept = sampled(torch.rand(1, 32), late, torch.tensor([[3, 4]]), 7)[0].tolist()
    assert {3, 7, 20} < set(kept)
    assert sum(i < 16 for i in kept) == 3


def test_the_rest_is_drawn_in_proportion_to_the_early_look():
    early = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    late = torch.full((1, 4), 0.25)
    lots = [int(sampled(early, late, torch.tensor([[1]]), 1, seed)) for seed in range(3000)]
    share = torch.tensor(lots).bincount(minlength=4) / 3000
    assert_close(share, early[0], atol=0.045, rtol=0)  # five standard errors
    assert sampled(early, late, torch.tensor([[3]]), 3, 0).tolist() == [[0, 1, 2]]
    drawn = [sampled(early.repeat(1, 8), late.repeat(1, 8), torch.tensor([[9]]), 9, seed) for seed in (0, 1)]
    assert not torch.equal(*drawn)


def test_all_rows_share_a_draw():
    early, late = torch.full((2, 16), 0.1), torch.full((2, 16), 0.1)
    first, second = sampled(early, late, torch.tensor([[2, 3], [2, 3]]), 5).tolist()
    assert first == second


def test_what_is_dropped_goes_to_the_nearest_key_of_its_picture():
    keys, kept = torch.randn(2, 2, 12, 3), torch.tensor([[1, 5, 9, 10], [0, 3, 4, 11]])
    made = joined(keys, kept, 3)
    whole = keys.transpose(1, 2).flatten(2)
    expected, x = torch.zeros(2, 4, 12), torch.randn(2, 12, 5)
    for b in range(2):
        for i in range(12):
            if i in kept[b].tolist():
                expected[b, kept[b].tolist().index(i), i] = 1
                continue
            near = [j for j in range(4) if int(kept[b, j]) // 4 == i // 4]
            if near:
                cosine = {j: float(F.cosine_similarity(whole[b, i], whole[b, kept[b, j]], 0)) for j in near}
                best = max(near, key=cosine.__getitem__)
                expected[b, best, i] = max(cosine[best], 0)
    expected = expected / expected.sum(2, keepdim=True)
    assert_close(made.matrix(), expected, atol=1e-5, rtol=0)
    assert_close(made.apply(x), expected @ x, atol=1e-5, rtol=0)


def test_a_picture_that_keeps_none_is_dropped():
    made = joined(torch.randn(1, 1, 8, 3), torch.tensor([[4, 6]]), 2)
    assert made.matrix()[0, :, :4].abs().sum() == 0
    assert made.assignment[0, :4].tolist() == [-1, -1, -1, -1]


def test_each_signal_and_setting_decides():
    keys, early, late = torch.randn(1, 2, 40, 3), torch.rand(1, 2, 40), torch.rand(1, 3, 40) ** 6
    given = {"keys": keys, "cls_first": early, "cls_attention": late, "similar": 0.6}
    made = token_correlation(torch.zeros(1, 40, 1), 14, **given).matrix()
    changes = {"keys": torch.randn(1, 2, 40, 3), "cls_first": early.flip(2) ** 4, "cls_attention": late.flip(2)}
    for name, changed in (changes | {"similar": 0.9, "seed": 5, "pictures": 4}).items():
        assert not torch.equal(token_correlation(torch.zeros(1, 40, 1), 14, **given | {name: changed}).matrix(), made)
    heads = late[:, :1].repeat(1, 2, 1)
    one = token_correlation(torch.zeros(1, 40, 1), 14, **given | {"cls_attention": late[:, :1]})
    two = token_correlation(torch.zeros(1, 40, 1), 14, **given | {"cls_attention": heads})
    assert torch.equal(one.matrix(), two.matrix())


@pytest.mark.parametrize(
    ("k", "given", "message"),
    [
        (0, {}, "k=0 came, expected a whole number from 1 to the 8 tokens"),
        (9, {}, "k=9 came"),
        (2, {"x": X[0]}, r"x of shape \(8, 1\) came"),
        (2, {"keys": KEYS[:, :, 1:]}, r"keys of shape \(1, 1, 7, 3\) came, expected \(1, any, 8, any\)"),
        (2, {"cls_first": EARLY[..., 1:]}, r"cls_first of shape \(1, 1, 7\) came, expected \(1, any, 8\)"),
        (2, {"cls_attention": LATE[:, :0]}, "cls_attention of no heads came, expected at least one"),
        (2, {"cls_first": EARLY / 0}, "cls_first holds NaN or infinity"),
        (2, {"pictures": 3}, "pictures=3 came for 8 tokens, expected a number that divides them"),
        (2, {"pictures": 0}, "pictures=0 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(k, given, message):
    arguments = {"x": X, "keys": KEYS, "cls_first": EARLY, "cls_attention": LATE, "pictures": 2} | given
    with pytest.raises(ValueError, match=message):
        token_correlation(arguments.pop("x"), k, **arguments)
