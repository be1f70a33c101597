"""The contract of chapter 5, held by every method of it that the registry knows and the tree has.

A method that judges drafts has `accept(p, q, drafted, generator, **settings)` with the rule that it applies to each
token, `acceptance(p, q, x, **settings)` and `residual(p, q, x, **settings)`. It says `LOSSLESS = True`, or states by
`bound(p, q, **settings)` how far the token that comes out may be from p in total variation (1 promises nothing).
Settings without a default are given by `SUPPLY`. Nothing here is sampled: laws are summed over all outcomes.
"""

import importlib
import inspect
import itertools
import sys
from functools import partial
from typing import Any, get_args, get_origin

import jaxtyping
import numpy as np
import pytest
import torch

from minitok import papers
from minitok.metrics import difference
from minitok.speculate import gsd
from minitok.speculate._common import Decoded, decode, drafter

NOT_JUDGING = {
    "token_recycling": "verifies a tree, greedily, in a loop of its own",
    "aded": "verifies a tree, greedily, in a loop of its own",
    "awrs": "samples one model under a constraint: nothing is drafted",
    "opera": "searches by beams: nothing is drafted",
}


def codebook(v: int) -> torch.Tensor:
    return torch.randn(v, 4, generator=torch.Generator().manual_seed(v))


def neighbours(v: int) -> torch.Tensor:
    """The other tokens from the nearest to the farthest, at most three."""
    return torch.cdist(codebook(v), codebook(v)).fill_diagonal_(torch.inf).argsort(-1)[:, : min(v - 1, 3)]


SUPPLY = {"codebook": codebook, "neighbours": neighbours}
METHODS = [row.slug for row in papers.rows("speculate") if papers.places(row.slug)["module"].exists()]
JUDGING = [slug for slug in METHODS if slug not in NOT_JUDGING]
RULES = ("accept", "acceptance", "residual")


def module_of(slug: str) -> Any:
    return importlib.import_module(f"minitok.speculate.{slug}")


LOSSLESS = [slug for slug in JUDGING if getattr(module_of(slug), "LOSSLESS", False)]
RELAXED = [slug for slug in JUDGING if slug not in LOSSLESS]


def settings(function: Any, v: int) -> dict[str, Any]:
    return {name: SUPPLY[name](v) for name in inspect.signature(function).parameters if name in SUPPLY}


def rules(slug: str, v: int) -> list[Any]:
    """`accept`, `acceptance` and `residual` of a method with their settings for a vocabulary of v tokens."""
    return [partial(rule, **settings(rule, v)) for rule in (getattr(module_of(slug), name) for name in RULES)]


def rows(m: int, v: int, seed: int, sharp: float = 2.0) -> torch.Tensor:
    return (sharp * torch.randn(m, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def law(p, q, acceptance, residual) -> torch.Tensor:
    """Every draft with its two outcomes, added up one by one."""
    total = [0.0] * len(p)
    for x, drawn in enumerate(q.tolist()):
        if drawn > 0:
            kept = acceptance(p, q, x)
            total[x] += drawn * kept
            for y, after in enumerate(residual(p, q, x).tolist() if kept < 1 else []):
                total[y] += drawn * (1 - kept) * after
    return torch.tensor(total, dtype=torch.float64)


CASES = {
    "random": lambda v: (rows(1, v, 1)[0], rows(1, v, 2)[0]),
    "sharp": lambda v: (rows(1, v, 3, 9.0)[0], rows(1, v, 4, 9.0)[0]),
    "equal": lambda v: (rows(1, v, 5)[0], rows(1, v, 5)[0]),
    "one token drafted": lambda v: (rows(1, v, 6)[0], torch.eye(v, dtype=torch.float64)[v - 1]),
    "one token right": lambda v: (torch.eye(v, dtype=torch.float64)[0], rows(1, v, 7)[0]),
    "nothing in common": lambda v: (
        torch.nn.functional.pad(rows(1, v - v // 2, 8)[0], (0, v // 2)),
        torch.nn.functional.pad(rows(1, v // 2, 9)[0], (v - v // 2, 0)),
    ),
}
PAIRS = [(name, v) for name in CASES for v in (2, 3, 7, 40)]


def test_the_registry_finds_methods_that_say_what_they_keep():
    assert "speculative" in LOSSLESS
    for slug in JUDGING:
        assert hasattr(module_of(slug), "bound") != (slug in LOSSLESS), f"{slug}: LOSSLESS = True or bound(), not both"


@pytest.mark.parametrize("slug", JUDGING)
@pytest.mark.parametrize(("name", "v"), PAIRS)
def test_acceptance_and_residual_are_probabilities(slug, name, v):
    _, acceptance, residual = rules(slug, v)
    p, q = CASES[name](v)
    for x in q.nonzero().flatten().tolist():
        kept = acceptance(p, q, x)
        assert 0 <= kept <= 1
        if kept < 1:
            after = residual(p, q, x)
            assert (after >= 0).all()
            assert after.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("slug", LOSSLESS)
@pytest.mark.parametrize(("name", "v"), PAIRS)
def test_the_token_of_a_lossless_method_has_the_law_of_the_target(slug, name, v):
    _, acceptance, residual = rules(slug, v)
    p, q = CASES[name](v)
    torch.testing.assert_close(law(p, q, acceptance, residual), p, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slug", RELAXED)
@pytest.mark.parametrize(("name", "v"), PAIRS)
def test_the_token_of_a_relaxed_method_keeps_its_bound(slug, name, v):
    _, acceptance, residual = rules(slug, v)
    p, q = CASES[name](v)
    bound = module_of(slug).bound
    away = (law(p, q, acceptance, residual) - p).abs().sum().item() / 2
    assert away <= bound(p, q, **settings(bound, v)) + 1e-12


def table(v: int, seed: int, sharp: float = 2.0):
    """A model of v tokens: its next-token probabilities hang on the last two tokens, in a table of random numbers."""
    numbers = rows((v + 1) ** 2, v, seed, sharp)

    def model(tokens: torch.Tensor, m: int) -> torch.Tensor:
        seen = [v, v, *tokens.tolist()]
        ends = range(len(tokens) - m + 1, len(tokens) + 1)
        return torch.stack([numbers[seen[end] * (v + 1) + seen[end + 1]] for end in ends])

    return model


class Outcomes:
    """Stands in for chance: `runs` repeats a computation for every outcome of its random choices, with its weight."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path: list[tuple[int, list[tuple[int, float]]]] = []
        places = [vars(held) for name, held in list(sys.modules.items()) if name.startswith("minitok.speculate.")]
        # A reader's version, which `papers.check` puts in place of ours, has names of its own.
        places += [inspect.unwrap(module_of(slug).accept).__globals__ for slug in JUDGING]
        for place, stand_in in itertools.product(places, ("pick", "happens")):
            if stand_in in place:
                monkeypatch.setitem(place, stand_in, getattr(self, stand_in))

    def choose(self, options: list[tuple[int, float]]) -> int:
        if self.at == len(self.path):
            self.path.append((0, [option for option in options if option[1] > 0]))
        index, options = self.path[self.at]
        self.at += 1
        self.weight *= options[index][1]
        return options[index][0]

    def pick(self, p: torch.Tensor, generator: Any = None) -> int:
        return self.choose(list(enumerate(p.tolist())))

    def happens(self, probability: float, generator: Any = None) -> bool:
        return bool(self.choose([(1, probability), (0, 1 - probability)]))

    def runs(self, compute: Any) -> Any:
        while True:
            self.at, self.weight = 0, 1.0
            yield compute(), self.weight
            while self.path and self.path[-1][0] + 1 == len(self.path[-1][1]):
                self.path.pop()
            if not self.path:
                return
            index, options = self.path.pop()
            self.path.append((index + 1, options))


@pytest.mark.parametrize("slug", LOSSLESS)
@pytest.mark.parametrize(("v", "n", "k"), [(2, 4, 3), (2, 4, 1), (3, 3, 2), (4, 2, 9), (3, 3, 0)])
def test_sequences_of_a_lossless_method_have_the_law_of_the_target(slug, v, n, k, monkeypatch):
    accept, _, _ = rules(slug, v)
    target, draft, context = table(v, 1), drafter(table(v, 2)), torch.tensor([0])
    found = dict.fromkeys(itertools.product(range(v), repeat=n), 0.0)
    for decoded, weight in Outcomes(monkeypatch).runs(lambda: decode(target, draft, accept, context, n, k=k)):
        assert decoded.calls <= n
        found[tuple(decoded.tokens.tolist())] += weight
    for tokens, weight in found.items():
        p = target(torch.tensor([0, *tokens]), n + 1)[:-1]
        expected = p.gather(1, torch.tensor(tokens)[:, None]).prod().item()
        assert weight == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("slug", LOSSLESS)
@pytest.mark.parametrize(("v", "n", "k"), [(2, 4, 2), (3, 3, 2), (2, 3, 1)])
def test_jacobi_drafts_keep_the_law_of_a_lossless_method(slug, v, n, k, monkeypatch):
    accept, _, _ = rules(slug, v)
    target, found = table(v, 1), dict.fromkeys(itertools.product(range(v), repeat=n), 0.0)

    def run():
        jacobi = gsd.Jacobi(target, v)
        return decode(jacobi.target, jacobi.draft, accept, torch.tensor([0]), n, k=k)

    calls = 0.0
    for decoded, weight in Outcomes(monkeypatch).runs(run):
        found[tuple(decoded.tokens.tolist())] += weight
        calls += weight * decoded.calls
    for tokens, weight in found.items():
        p = target(torch.tensor([0, *tokens]), n + 1)[:-1]
        assert weight == pytest.approx(p.gather(1, torch.tensor(tokens)[:, None]).prod().item(), abs=1e-12)
    assert calls < n


@pytest.mark.parametrize("slug", JUDGING)
def test_accept_applies_its_rule_from_the_left(slug, monkeypatch):
    accept, acceptance, residual = rules(slug, 3)
    p, q, drafted = rows(3, 3, 1), rows(2, 3, 2), torch.tensor([2, 0])
    a, b = acceptance(p[0], q[0], 2), acceptance(p[1], q[1], 0)
    expected = {}
    for y in range(3):
        expected[0, y] = (1 - a) * float(residual(p[0], q[0], 2)[y]) if a < 1 else 0
        expected[1, y] = a * (1 - b) * float(residual(p[1], q[1], 0)[y]) if b < 1 else 0
        expected[2, y] = a * b * float(p[2, y])
    found = dict.fromkeys(expected, 0.0)
    for outcome, weight in Outcomes(monkeypatch).runs(lambda: accept(p, q, drafted, None)):
        found[outcome] += weight
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("slug", JUDGING)
@pytest.mark.parametrize("k", [0, 1, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 17])
def test_calls_never_exceed_tokens(slug, n, k):
    accept, _, _ = rules(slug, 5)
    for seed in range(3):
        decoded = decode(
            table(5, seed), drafter(table(5, 9)), accept, torch.tensor([1]), n, k=k,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert isinstance(decoded, Decoded)
        assert len(decoded.tokens) == n == decoded.calls + sum(decoded.kept)
        assert decoded.calls <= n
        assert all(kept <= drafted <= k for kept, drafted in zip(decoded.kept, decoded.drafted, strict=True))


@pytest.mark.parametrize("slug", JUDGING)
def test_a_draft_that_is_the_target_is_always_kept(slug):
    accept, _, _ = rules(slug, 5)
    decoded = decode(table(5, 1), drafter(table(5, 1)), accept, torch.tensor([1]), 20, k=4)
    assert decoded.kept == (4, 4, 4, 4)


@pytest.mark.parametrize("slug", JUDGING)
def test_one_seed_gives_one_result(slug):
    accept, _, _ = rules(slug, 9)

    def tokens(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return decode(
            table(9, 1), drafter(table(9, 2)), accept, torch.tensor([1]), 30, k=3, generator=generator
        ).tokens.tolist()

    assert tokens(0) == tokens(0)
    assert tokens(0) != tokens(1)


@pytest.mark.parametrize("slug", JUDGING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_floats_are_judged_as_the_numbers_that_they_hold(slug, dtype):
    accept, _, _ = rules(slug, 6)
    p, q, drafted = rows(4, 6, 1).to(dtype), rows(3, 6, 2).to(dtype), torch.tensor([0, 3, 5])
    for seed in range(40):
        narrow, wide = (
            accept(a, b, drafted, torch.Generator().manual_seed(seed)) for a, b in ((p, q), (p.double(), q.double()))
        )
        assert narrow == wide


@pytest.mark.parametrize("slug", JUDGING)
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.01), (torch.float16, 0.001)])
def test_half_precision_moves_the_law_by_little(slug, dtype, most):
    accept, acceptance, residual = rules(slug, 40)
    p, q = (row.log().to(dtype).double().softmax(-1) for row in CASES["random"](40))
    exact = law(*CASES["random"](40), acceptance, residual)
    assert 0 < (law(p, q, acceptance, residual) - exact).abs().sum().item() / 2 < most


@pytest.mark.parametrize("slug", JUDGING)
def test_what_is_judged_first_does_not_hang_on_what_follows(slug):
    accept, _, _ = rules(slug, 6)
    p, q = rows(4, 6, 1), rows(3, 6, 2)
    for seed, x in itertools.product(range(20), range(6)):
        alone = accept(p[:2], q[:1], torch.tensor([x]), torch.Generator().manual_seed(seed))
        longer = accept(p, q, torch.tensor([x, 3, 5]), torch.Generator().manual_seed(seed))
        assert alone == longer or min(alone[0], longer[0]) == 1


@pytest.mark.parametrize("slug", JUDGING)
def test_tensors_are_made_where_the_input_is(slug):
    # A device on which nothing can be computed stands in for the processor: who makes a tensor without saying where
    # makes it there, and fails.
    accept, acceptance, residual = rules(slug, 6)
    p, q, drafted = rows(3, 6, 1), rows(2, 6, 2), torch.tensor([0, 3])
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        for _ in range(20):
            accept(p, q, drafted, generator)
        assert acceptance(p[0], q[0], 3) <= 1
        assert residual(p[0], q[0], 3).device == p.device


# What cannot be compiled in one piece, and why.
NOT_COMPILED = {
    "induced": "adds up over drafts one by one: a proof, not a step of decoding",
    "fill": "a tree has as many nodes as the matrix knows tokens: its shape hangs on data",
    "recycle": "writes in place, the last of equal tokens: a dictionary of Python's",
}


def arguments(function: Any, v: int) -> dict[str, Any]:
    """Values for all arguments without a default, by their names."""
    p, q = rows(2, v, 1).float()
    known = {"p": p, "q": q, "delta": 0.1, "k": 3, "logits": rows(2, v, 3).float()}
    known |= {name: make(v) for name, make in SUPPLY.items()} | {"clusters": torch.arange(v) // 2}
    asked = inspect.signature(function).parameters
    known["x"] = 1 if "x" in asked and asked["x"].annotation is int else torch.tensor([1, 0])
    return {name: known[name] for name, one in asked.items() if one.default is one.empty and name in known}


def tensor_functions(slug: str) -> list[str]:
    """The public functions of a method that take and return tensors alone."""
    found = []
    for name, function in inspect.getmembers(module_of(slug), inspect.isfunction):
        back = inspect.signature(function).return_annotation
        kinds = get_args(back) if get_origin(back) is tuple else (back,)
        tensors = all(inspect.isclass(kind) and issubclass(kind, jaxtyping.AbstractArray) for kind in kinds)
        if tensors and not name.startswith("_") and name not in NOT_COMPILED:
            found.append(name)
    return found


COMPILED = [(slug, name) for slug in METHODS for name in tensor_functions(slug)]


def test_the_contract_finds_what_can_be_compiled():
    assert {("speculative", "overlap"), ("lantern", "nearest"), ("gsd", "by_cluster")} <= set(COMPILED)


def compiled_in_one_piece(slug: str, name: str) -> float:
    """How far what a function returns, compiled, is from what it returns otherwise."""
    function = inspect.unwrap(getattr(module_of(slug), name))
    given = arguments(function, 9)
    found = torch.compile(function, fullgraph=True, backend="eager")(**given)
    pairs = zip(*(t if isinstance(t, tuple) else [t] for t in (found, function(**given))), strict=True)
    return max(difference(ours, theirs) for ours, theirs in pairs)


P, Q, DRAFTED = rows(3, 4, 1), rows(2, 4, 2), torch.tensor([1, 3])


@pytest.mark.parametrize("slug", JUDGING)
@pytest.mark.parametrize(
    ("p", "q", "drafted", "message"),
    [
        (P[:2], Q, DRAFTED, r"^p of shape \(2, 4\) came for 2 drafted"),
        (P[0], Q, DRAFTED, "^p of shape"),
        (P, Q[:1], DRAFTED, "^q of shape"),
        (P, Q[:, :3], DRAFTED, "^q of shape"),
        (P.log(), Q, DRAFTED, "^p holds rows that are no probabilities"),
        (P, Q * 2, DRAFTED, "^q holds rows that are no probabilities"),
        (P * torch.nan, Q, DRAFTED, "^p holds rows that are no probabilities"),
        (P, Q, torch.tensor([1, 4]), "^drafted from 1 to 4 came, expected 0 to 3"),
        (P, Q, torch.tensor([-1, 3]), "^drafted from -1 to 3 came"),
        (P, Q, DRAFTED.float(), "^drafted of .* whole numbers"),
        (P, Q, DRAFTED[None], "^drafted of shape"),
        (P, torch.eye(4, dtype=torch.float64)[:2], DRAFTED, "^drafted holds a token to which q gives no"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_drafts_are_refused(slug, p, q, drafted, message):
    accept, _, _ = rules(slug, 4)
    with pytest.raises(ValueError, match=message):
        accept(p, q, drafted, None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("slug", JUDGING)
def test_whole_numbers_may_be_those_of_numpy(slug):
    accept, _, _ = rules(slug, 5)
    n, k, v = np.array([7, 3, 5])
    drafts, plain = (
        decode(
            table(5, 1), gsd.Jacobi(table(5, 2), v).draft, accept, torch.tensor([1]), n, k=k,
            generator=torch.Generator().manual_seed(0),
        )
        for n, k, v in ((n, k, v), (7, 3, 5))
    )  # fmt: skip
    assert drafts.tokens.tolist() == plain.tokens.tolist()
