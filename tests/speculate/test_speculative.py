import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitok.nn import Shape, Transformer
from minitok.speculate._common import Cached, Decoded, decode, drafter, happens, pick, probabilities
from minitok.speculate.speculative import (
    accept,
    acceptance,
    expected_tokens,
    improvement,
    induced,
    operations,
    overlap,
    residual,
    verify,
)

P = torch.tensor([0.5, 0.3, 0.2, 0.0])
Q = torch.tensor([0.1, 0.6, 0.2, 0.1])


def rows(m, v, seed=0, dtype=torch.float64):
    return (
        (2 * torch.randn(m, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        .softmax(-1)
        .to(dtype)
    )


class Model(nn.Module):
    """A small causal model that puts a class of its own before the first token, as a picture's generator does."""

    def __init__(self, v=11, with_class=True):
        super().__init__()
        torch.manual_seed(v)
        self.code, self.start = nn.Embedding(v, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.body, self.with_class = Transformer(Shape(width=16, layers=2, heads=2)), with_class
        for weight in self.body.parameters():
            nn.init.normal_(weight, std=0.3)

    def forward(self, tokens, cache=None):
        x = self.code(tokens)
        if self.with_class and (cache is None or len(cache) == 0):
            x = torch.cat([self.start.expand(len(x), 1, 16), x], dim=1)
        return self.body(x, "causal", cache=cache) @ self.code.weight.T


def test_four_tokens_by_hand():
    assert [acceptance(P, Q, x) for x in range(4)] == pytest.approx([1, 0.5, 1, 0])
    assert residual(P, Q, 1).tolist() == pytest.approx([1, 0, 0, 0])
    assert overlap(P, Q).item() == pytest.approx(0.1 + 0.3 + 0.2)
    # Drafted and kept: 0.1, 0.3, 0.2, 0; refused with probability 0.4, all of which goes to token 0.
    assert induced(P, Q, acceptance, residual).tolist() == pytest.approx([0.5, 0.3, 0.2, 0])


def test_the_law_of_the_wrong_rules_is_what_one_expects():
    p, q = rows(2, 9)
    keep_all = induced(p, q, lambda p, q, x: 1.0, residual)
    torch.testing.assert_close(keep_all, q, atol=1e-12, rtol=0)
    redrawn = induced(p, q, acceptance, lambda p, q, x: p)
    torch.testing.assert_close(redrawn, torch.minimum(p, q) + (1 - overlap(p, q)) * p, atol=1e-12, rtol=0)
    assert (redrawn - p).abs().sum() > 0.1
    torch.testing.assert_close(induced(p, q, lambda p, q, x: 0.0, lambda p, q, x: p), p, atol=1e-12, rtol=0)


def test_the_law_may_hang_on_the_drafted_token():
    p, q = rows(2, 4)
    moved = induced(p, q, lambda p, q, x: 0.0, lambda p, q, x: torch.eye(4, dtype=torch.float64)[(x + 1) % 4])
    torch.testing.assert_close(moved, q.roll(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("v", [1, 2, 4096])
def test_a_refused_token_has_no_part_in_the_residual(dtype, v):
    p, q = rows(2, v, dtype=dtype)
    if v > 1:
        after = residual(p, q, 0)
        assert after.dtype == dtype
        assert (after[q >= p] == 0).all()
        torch.testing.assert_close(after.double().sum().item(), 1.0, atol=0.02, rtol=0)
    assert torch.equal(residual(p, p, 0), p)


def test_algorithm_1_is_that_of_a_plain_loop():
    for seed in range(200):
        p, q = rows(4, 5, seed), rows(3, 5, seed + 1000)
        drafted = torch.multinomial(q, 1)[:, 0]
        generator = torch.Generator().manual_seed(seed)
        n = 0
        while n < 3:
            r = torch.rand((), dtype=torch.float64, generator=generator)
            if r > p[n, drafted[n]] / q[n, drafted[n]]:
                break
            n += 1
        last = p[n] if n == 3 else torch.maximum(torch.zeros(5), p[n] - q[n])
        t = int(torch.multinomial(last / last.sum(), 1, generator=generator))
        assert accept(p, q, drafted, torch.Generator().manual_seed(seed)) == (n, t)


def test_of_equal_rows_all_are_kept_and_of_disjoint_ones_none():
    p = torch.eye(5)[[0, 1, 2]]
    assert accept(p, p[:2], torch.tensor([0, 1])) == (2, 2)
    assert accept(p, torch.eye(5)[[3, 1]], torch.tensor([3, 1])) == (0, 0)
    assert accept(p, torch.eye(5)[[0, 4]], torch.tensor([0, 4])) == (1, 1)
    assert accept(p[:1], p[:0], torch.zeros(0, dtype=torch.long)) == (0, 0)


def test_verify_applies_the_rule_that_it_is_given():
    p, q, drafted = rows(3, 4, 1), rows(2, 4, 2), torch.tensor([1, 3])
    kept_all = verify(p, q, drafted, lambda p, q, x: 1.0, residual, torch.Generator().manual_seed(0))
    assert kept_all[0] == 2
    assert verify(p, q, drafted, lambda p, q, x: 0.0, lambda p, q, x: torch.eye(4)[x]) == (0, 1)
    assert verify(p, q, drafted, lambda p, q, x: float(x == 1), lambda p, q, x: torch.eye(4)[0]) == (1, 0)


@pytest.mark.usefixtures("unchecked")
def test_chance_is_fair():
    generator, n = torch.Generator().manual_seed(0), 10_000
    p = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0], dtype=torch.float64)
    counts = torch.tensor([pick(p, generator) for _ in range(n)]).bincount(minlength=5)
    assert counts[4] == 0
    # A chi-square of 3 degrees of freedom is above 32 once in 1.9 million.
    assert float(((counts - n * p) ** 2 / (n * p))[:4].sum()) < 32
    kept = sum(happens(0.3, generator) for _ in range(n))
    assert abs(kept - 0.3 * n) < 5 * math.sqrt(n * 0.3 * 0.7)
    assert not any(happens(0.0, generator) for _ in range(1000))
    assert all(happens(1.0, generator) for _ in range(1000))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3])
def test_temperature_divides_the_logits(temperature):
    logits = torch.randn(3, 7)
    expected = F.softmax(logits.double() / temperature, dim=-1)
    torch.testing.assert_close(probabilities(logits, temperature), expected, atol=1e-12, rtol=0)
    narrow = probabilities(logits.bfloat16(), temperature)
    assert narrow.dtype == torch.float64
    torch.testing.assert_close(narrow.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [0, 0.5, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_that_are_no_numbers_are_refused_where_they_enter(temperature, dtype):
    nan, inf = math.nan, math.inf
    for bad in ([0.0, nan, 1.0], [0.0, inf, 1.0], [-inf, -inf, -inf]):
        with pytest.raises(ValueError, match=r"^logits holds NaN, infinity.*: the highest of row 1 is"):
            probabilities(torch.tensor([[0.0, 1.0, 2.0], bad]).to(dtype), temperature)
    forbidden = probabilities(torch.tensor([[-inf, 0.0, -inf]], dtype=dtype), temperature)
    assert forbidden.tolist() == [[0, 1, 0]]
    broken = Cached(lambda new, cache: torch.full((1, new.shape[1], 3), nan, dtype=dtype), temperature)
    for k in (0, 2):
        draft = drafter(lambda tokens, m: torch.full((m, 3), 1 / 3))
        with pytest.raises(ValueError, match=r"^logits holds .*: the highest of row \d is nan"):
            decode(broken, draft, accept, torch.tensor([1]), 3, k=k)


@pytest.mark.parametrize("bad", [[0.5, math.nan], [1.5, -0.5], [0.0, 0.0], [math.inf, 1.0]])
def test_only_probabilities_are_drawn_from(bad):
    with pytest.raises(ValueError, match="expected probabilities"):
        pick(torch.tensor(bad))


def test_temperature_0_is_the_argmax_and_the_first_of_equals():
    assert probabilities(torch.tensor([[1.0, 4.0, 4.0], [2.0, 0.0, 1.0]]), 0).tolist() == [[0, 1, 0], [1, 0, 0]]


# What is asked of the model one after another: growing, cut back, turned, repeated, without tokens, another text.
ASKED = [(12, 3), (13, 1), (9, 4), (20, 5), (20, 5), (20, 20), (0, 1), (1, 2), (7, 8), (5, 1)]


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_cache_changes_nothing(chunk):
    model = Model().eval()
    cached, text = Cached(lambda new, cache: model(new, cache)), torch.randint(11, (20,))
    for n, m in ASKED * chunk:
        text = text.roll(1) if n == 9 else text
        expected = model(text[None, :n])[0].double().softmax(-1)[-m:]
        torch.testing.assert_close(cached(text[:n], m), expected, atol=1e-5, rtol=0)
    assert cached.calls == len(ASKED) * chunk


def test_only_new_tokens_are_computed():
    model, fed = Model(with_class=False).eval(), []

    def forward(new, cache):
        fed.append(new[0].tolist())
        return model(new, cache)

    cached = Cached(forward)
    for tokens, m in [([1, 2, 3], 1), ([1, 2, 3, 4, 5], 2), ([1, 2, 3, 9], 1), ([1, 2, 3, 9], 1), ([7, 2], 2)]:
        cached(torch.tensor(tokens), m)
    assert fed == [[1, 2, 3], [4, 5], [9], [9], [7, 2]]


def test_the_callers_tokens_may_change_afterwards():
    model = Model().eval()
    cached, tokens = Cached(lambda new, cache: model(new, cache)), torch.tensor([1, 2, 3, 4])
    cached(tokens)
    tokens[1] = 9
    expected = model(tokens[None])[0, -1:].double().softmax(-1)
    torch.testing.assert_close(cached(tokens), expected, atol=1e-5, rtol=0)


def test_an_interrupted_call_leaves_nothing_behind():
    model, stop = Model().eval(), True

    def forward(new, cache):
        logits = model(new, cache)
        if stop and new.shape[1] == 2:
            raise KeyboardInterrupt
        return logits

    cached, tokens = Cached(forward), torch.tensor([1, 2, 3, 4, 5, 6])
    cached(tokens[:3])
    with pytest.raises(KeyboardInterrupt):
        cached(tokens[:5])
    stop = False
    expected = model(tokens[None])[0, -1:].double().softmax(-1)
    torch.testing.assert_close(cached(tokens), expected, atol=1e-5, rtol=0)


def test_a_model_may_answer_for_a_batch_such_as_guidance_needs():
    model = Model().eval()

    def guided(new, cache):
        one, other = model(torch.cat([new, new]), cache).chunk(2)
        return one + 0.5 * (one - other)

    cached = Cached(guided, temperature=0.7)
    text = torch.randint(11, (9,))
    for n in (3, 9, 6):
        expected = (model(text[None, :n])[0, -1:] / 0.7).double().softmax(-1)
        torch.testing.assert_close(cached(text[:n]), expected, atol=1e-5, rtol=0)


def test_greedy_decoding_is_that_of_the_target_alone():
    target, small = Model().eval(), Model(with_class=True).eval()
    with torch.no_grad():
        for weight in small.parameters():
            weight += 0.1 * torch.randn_like(weight)
    tokens = torch.zeros(0, dtype=torch.long)
    while len(tokens) < 40:
        tokens = torch.cat([tokens, target(tokens[None])[0, -1:].argmax(-1)])
    large = Cached(lambda new, cache: target(new, cache), temperature=0)
    draft = drafter(Cached(lambda new, cache: small(new, cache), temperature=0))
    decoded = decode(large, draft, accept, tokens[:0], 40, k=3)
    assert torch.equal(decoded.tokens, tokens)
    assert decoded.calls == large.calls < 40
    assert torch.equal(decode(large, draft, accept, tokens[:25], 15, k=5).tokens, tokens[25:])


def test_the_drafter_reports_what_it_drew_from():
    model = Model().eval()
    cached = Cached(lambda new, cache: model(new, cache))
    tokens, q = drafter(cached)(torch.tensor([3, 1]), 4, torch.Generator().manual_seed(0))
    whole = model(torch.cat([torch.tensor([3, 1]), tokens])[None])[0].double().softmax(-1)
    torch.testing.assert_close(q, whole[2:-1], atol=1e-5, rtol=0)
    assert cached.calls == 4


def test_calls_are_counted_and_watched():
    p, seen = torch.eye(6, dtype=torch.float64), []

    def target(tokens, m):  # counts up: 0, 1, 2, ... 5, 0, ...
        return p[(tokens[len(tokens) - m :] + 1) % 6]

    def draft(context, k, generator):  # never guesses 4
        guess = (context[-1] + 1 + torch.arange(k)) % 6
        guess = torch.where(guess == 4, 0, guess)
        return guess, p[guess]

    decoded = decode(
        target, draft, accept, torch.tensor([0]), 9, k=3,
        watch=lambda tokens, guess, kept: seen.append((tokens.tolist(), guess.tolist(), kept)),
    )  # fmt: skip
    assert decoded.tokens.tolist() == [1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert (decoded.kept, decoded.drafted, decoded.calls) == ((3, 3, 0), (3, 3, 0), 3)
    assert decoded.of_draft.tolist() == [True] * 3 + [False] + [True] * 3 + [False, False]
    assert seen[1] == ([0, 1, 2, 3, 4], [5, 0, 1], 3)
    shifted = decode(target, draft, accept, torch.tensor([1]), 4, k=3)
    assert (shifted.kept, shifted.drafted) == ((2, 0), (3, 0))
    nothing = decode(target, draft, accept, torch.tensor([1]), 0)
    assert (nothing.tokens.tolist(), nothing.calls, nothing.of_draft.tolist()) == ([], 0, [])


def test_a_draft_may_stop_early_or_say_nothing():
    model = Model().eval()
    cached = Cached(lambda new, cache: model(new, cache))
    silent = decode(
        cached, lambda context, k, generator: (context[:0], torch.zeros(0, 11)), accept, torch.tensor([1]), 5, k=4
    )
    assert (silent.kept, silent.drafted) == ((0,) * 5, (0,) * 5)
    short = decode(cached, lambda context, k, g: drafter(cached)(context, min(k, 2), g), accept, torch.tensor([1]), 6)
    assert (short.kept, short.drafted) == ((2, 2), (2, 2))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1])
@pytest.mark.parametrize("k", [0, 1, 5])
def test_expected_tokens_is_the_mean_of_a_capped_geometric_number(alpha, k):
    by_outcome = sum((i + 1) * alpha**i * (1 - alpha) for i in range(k)) + (k + 1) * alpha**k
    assert expected_tokens(alpha, k) == pytest.approx(by_outcome)
    assert improvement(alpha, k, 0.1) == pytest.approx(by_outcome / (1 + 0.1 * k))
    assert operations(alpha, k, 0.1) == pytest.approx((1 + 1.1 * k) / by_outcome)


def test_the_papers_figures_follow_from_its_formulas():
    # Section 3.6: a bigram draft with alpha 0.2, no cost and 3 guesses gives 1.25; table 1: 1.53 times as many
    # operations for alpha 0.6 and 2 guesses, at a speed of 1.96.
    assert improvement(0.2, 3, 0) == pytest.approx(1.25, abs=0.005)
    assert improvement(0.6, 2, 0) == pytest.approx(1.96, abs=0.005)
    assert operations(0.6, 2, 0) == pytest.approx(1.53, abs=0.005)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: acceptance(P, torch.eye(4)[0], 2), "q gives token 2 the probability 0.0"),
        (lambda: expected_tokens(1.2, 3), "alpha=1.2 and k=3 came"),
        (lambda: expected_tokens(0.5, -1), "alpha=0.5 and k=-1 came"),
        (lambda: improvement(0.5, 3, -0.1), "cost=-0.1 came"),
        (lambda: operations(0.5, 3, -0.1), "cost=-0.1 came"),
        (lambda: probabilities(torch.zeros(1, 3), -1.0), "temperature=-1.0 came"),
        (lambda: probabilities(torch.zeros(1, 3), math.nan), "temperature=nan came"),
        (lambda: Cached(Model())(torch.zeros(1, 3, dtype=torch.long)), r"context of shape \(1, 3\) came"),
        (lambda: Cached(Model())(torch.zeros(3)), "context of type torch.float32 came"),
        (lambda: Cached(Model())(torch.tensor([1]), 0), "m=0 came"),
        (lambda: Cached(Model(with_class=False))(torch.tensor([1]), 2), "m=2 needs 2 rows of logits, but 1 tokens"),
        (lambda: decode(*MODELS, torch.tensor([1]), -1), "n=-1 and k=4 came"),
        (lambda: decode(*MODELS, torch.tensor([1]), 3, k=-2), "n=3 and k=-2 came"),
        (lambda: decode(*MODELS, torch.tensor([0.5]), 3), "context of type"),
        (lambda: decode(*MODELS, torch.tensor([[1]]), 3), "context of shape"),
        (lambda: decode(MODELS[0], too_much, accept, torch.tensor([1]), 3, k=1), "draft gave 2 tokens, expected at"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


MODELS = (Cached(Model()), drafter(Cached(Model())), accept)


def too_much(context, k, generator):
    return MODELS[1](context, k + 1, generator)


def test_what_decode_returns_can_be_unpacked():
    tokens, kept, drafted = Decoded(torch.tensor([1, 2]), (1,), (3,))
    assert (tokens.tolist(), kept, drafted) == ([1, 2], (1,), (3,))
