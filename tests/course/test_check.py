"""A reader's version under the library's tests: what is said of right and wrong ones; nothing stays changed."""

import importlib
import math
import os
import pathlib
import random
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minitok import cli, files, papers, reduce
from minitok.course import check, swaps, trial, wording
from minitok.quantize import VQ
from minitok.quantize._common import Quantized, straight_through
from minitok.reduce import Reduction
from minitok.stages import reduce as stage

library = importlib.import_module("minitok.reduce.tome")


def matched(metric, r):
    """A right version of `tome.match`: a plain loop."""
    groups = []
    for row in F.normalize(metric.float(), dim=-1):
        edges = []
        for a in range(0, len(row), 2):
            near = [float(row[a] @ row[b]) for b in range(1, len(row), 2)]
            edges.append((-max(near), a, 2 * near.index(max(near)) + 1))
        target = list(range(len(row)))
        for _, a, b in sorted(edges)[:r]:
            target[a] = b
        order = {group: i for i, group in enumerate(dict.fromkeys(target))}
        groups.append([order[group] for group in target])
    return torch.tensor(groups)


def merged(x, k, *, keys=None, size=None):
    """A right version of `tome`, by the library's parts."""
    keys, size = (
        (x[:, None] if keys is None else keys).float().mean(1),
        torch.ones_like(x[..., 0]) if size is None else size,
    )
    whole, weights = torch.arange(x.shape[1]).expand(len(x), -1), size.float()
    while (n := keys.shape[1]) > k:
        r = min(n - k, n // 2)
        step = Reduction.merge(library.match(keys, r), n - r, weights)
        whole, keys, weights = step.assignment.gather(1, whole), step.apply(keys), step.sizes(weights)
    return Reduction.merge(whole, k, size.float())


class Mine(torch.nn.Module):
    """A right VQ."""

    def __init__(self, d=8, K=512, commitment=0.25):
        super().__init__()
        self.d, self.K, self.commitment = d, K, commitment
        self.codebook = torch.nn.Parameter(torch.randn(K, d) / d**0.5)

    @property
    def bits(self):
        return math.log2(self.K)

    @torch.no_grad()
    def start_from(self, z):
        if len(vectors := z.flatten(0, 1)) < self.K:
            raise ValueError(f"z holds {len(vectors)} vectors, expected at least K={self.K}")
        self.codebook.copy_(vectors[torch.randperm(len(vectors))[: self.K]])

    def encode(self, z):
        apart = z[..., None, :].double() - self.codebook.double()
        return apart.square().sum(-1).argmin(-1)[..., None]

    def decode(self, codes):
        return self.codebook[codes[..., 0]]

    def loss(self, z, z_q):
        return F.mse_loss(z_q, z.detach()) + self.commitment * F.mse_loss(z, z_q.detach())

    def forward(self, z):
        codes = self.encode(z)
        z_q = self.decode(codes)
        return Quantized(straight_through(z, z_q), codes, self.loss(z, z_q))


def test_a_right_version_is_right_and_nothing_stays_changed():
    environment, threads = dict(os.environ), torch.get_num_threads()
    known = {name: sys.modules[name] for name in swaps.modules("tests")}
    assert papers.check("tome", merged).startswith("right: ")
    assert library.tome is reduce.tome is stage.tome
    assert library.tome is not merged
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)
    assert {name: sys.modules[name] for name in swaps.modules("tests")} == known
    assert torch.equal is equal


def test_random_numbers_go_on_as_if_no_test_had_run():
    def drawn():
        return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: NPY002

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    with swaps.kept_as_it_was():
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        torch.set_num_threads(2)
    assert drawn() == expected


def test_a_part_may_be_checked_and_the_method_then_uses_it():
    assert papers.check("tome.match", matched).startswith("right: ")
    told = papers.check("tome.match", lambda metric, r: matched(-metric.abs(), r))
    assert told.startswith('not yet. "Six tokens by hand": expected [[0, 3], [1], [2], [4], [5]], got ')


def with_sizes_forgotten(x, k, *, keys=None, size=None):
    return merged(x, k, keys=keys)


def one_short(x, k, *, keys=None, size=None):
    return merged(x, max(k - 1, 1), keys=keys, size=size)


def raising(x, k, *, keys=None, size=None):
    return x[:, [300]]


def a_tensor(x, k, *, keys=None, size=None):
    return x[:, :k]


def calling(x, k, *, keys=None, size=None):
    return library_tome(x, k, keys=keys, size=size)


def without_end(x, k, *, keys=None, size=None):
    return library.tome(x, k, keys=keys, size=size)


library_tome, equal = library.tome, torch.equal


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (with_sizes_forgotten, '"Six tokens by hand": expected [6.25, 6.5, 32], got [4.5, 7.333, 32] (tests/reduce/'),
        (one_short, '"Six tokens by hand": expected [[0, 3], [1], [2], [4], [5]], got [[0, 3], [1, 2], [4], [5]]'),
        (raising, '"Six tokens by hand": your line `return x[:, [300]]` raised IndexError: index 300 is out of bounds'),
        (a_tensor, '"Six tokens by hand": what your version gives, of type Tensor, has no `assignment` (tests/reduce/'),
        (calling, "your version calls the library's `tome`: write it yourself"),
        (without_end, "your version calls itself without end, or calls the library's `tome`, whose place it takes"),
        (lambda x, k: x, "your version does not take `keys`, `size`: the library's `tome` takes (x, k, keys, size)"),
        (VQ, "your version does not take"),
        (3, "the library's `tome` is a function, yours is none"),
        (library.tome, "this is the library's own `tome`: check a version of yours"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(version, told):
    assert told in papers.check("tome", version)


def test_a_right_class_is_right_and_what_is_wrong_with_one_is_said():
    class Farthest(Mine):
        def encode(self, z):
            return torch.cdist(z, self.codebook[None]).argmax(-1)[..., None]

    class Stuck(Mine):
        def forward(self, z):
            return Quantized(self.decode(self.encode(z)), self.encode(z), super().forward(z).loss)

    class Turned(Mine):
        def loss(self, z, z_q):
            return super().loss(z_q, z)

    class Raw(torch.nn.Module):
        def encode(self, z): ...

    said = [papers.check("vq", version) for version in (Farthest, Stuck, Turned)]
    assert said[0].startswith(
        'not yet. "Four codes by hand": expected [[[1], [0], [2], [3]]], got [[[2], [2], [3], [2]]]'
    )
    assert '"The decoders gradient passes to the input unchanged": expected' in said[1]
    assert "got None" in said[1]
    assert '"The loss moves only codes that were chosen (commitment = 0.25)": expected [[0, -0.1667], ' in said[2]
    assert papers.check("vq", Raw) == "your class lacks `start_from`, `decode`"
    assert papers.check("vq", merged) == "the library's `VQ` is a class, yours is none"


def test_the_part_that_is_meant_is_found():
    meant = {"tome": "tome", "vq": "VQ", "one_d_piece": "OneDPiece", "gsd": "Jacobi", "lantern": "accept"}
    assert {slug: check.part_of(slug).__name__ for slug in meant} == meant
    with pytest.raises(ValueError, match=r"vq has no part 'neighest'; there are .*nearest, "):
        papers.check("vq.neighest", Mine)
    with pytest.raises(ValueError, match="fqgan is planned: it has no module yet"):
        papers.check("fqgan", Mine)
    with pytest.raises(ValueError, match="no paper 'tomee'"):
        papers.check("tomee", merged)


def test_an_installed_package_says_that_it_has_no_tests(project):
    (project / "data").rename(project / "minitok_shipped")
    files.write(files.PACKAGE / "_shipped" / "papers.toml", (project / "minitok_shipped" / "papers.toml").read_bytes())
    with pytest.raises(FileNotFoundError, match="the tests are not here"):
        check.files_of("tome")


def test_the_command_reads_a_file(tmp_path: pathlib.Path, capsys):
    path = tmp_path / "my_version.py"
    path.write_text("def tome(x, k, *, keys=None, size=None):\n    rows = x[:, :k]\n    return rows / 0 + undefined\n")
    assert cli.main(["check", "tome", f"{path}:tome"]) == 1
    assert "your line `return rows / 0 + undefined` raised NameError: name 'undefined' is" in capsys.readouterr().out
    for wrong, told in (("tome", "is no FILE.py:NAME"), ("no.py:f", "no file no.py"), (f"{path}:f", "holds no 'f'")):
        assert cli.main(["check", "tome", wrong]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("got", "expected", "different"),
    [
        (3, 4, ("", 3, 4)),
        ([1.0] * 99, [1.0] * 98 + [2.0], (" at place 98", 1.0, 2.0)),
        ([[0] * 50, [0] * 50], [[0] * 50, [0] * 49 + [7]], (" at place 1, 49", 0, 7)),
        ([0] * 99, [0] * 98, ("", [0] * 99, [0] * 98)),
        ("abc" * 50, "abx" * 50, ("", "abc" * 50, "abx" * 50)),
        (torch.zeros(2, 9), torch.zeros(9), ("", "the shape (2, 9)", "the shape (9,)")),
        (torch.zeros(3), torch.ones(3), ("", [0.0] * 3, [1.0] * 3)),
        (torch.zeros(3, 4), torch.eye(3, 4).mul(torch.tensor([1, 5, 1, 1])), (" at place 1, 1", 0.0, 5.0)),
        (torch.zeros(9), torch.zeros(9).double(), ("", "the type torch.float32", "the type torch.float64")),
        (torch.full((9,), torch.nan), torch.ones(9), (" at place 0", pytest.approx(torch.nan, nan_ok=True), 1.0)),
    ],
)
def test_the_first_difference_is_found(got, expected, different):
    assert wording.first_difference(got, expected) == different


def test_a_method_of_the_readers_own_meets_the_contract_of_its_chapter():
    def longest(x, k):
        order = x.float().norm(dim=-1).argsort(dim=-1, descending=True, stable=True)
        return Reduction.keep(order[:, :k].sort(-1).values, x.shape[1])

    def one_too_few(x, k):
        return longest(x, max(k - 1, 1))

    assert papers.check("reduce", longest).startswith("right: ")
    told = papers.check("reduce", one_too_few)
    assert not told.startswith("right")
    assert "leaves as many tokens as promised" in told


SOME = torch.tensor([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("actual", "expected", "options"),
    [
        (SOME, SOME + 1e-5, {}),
        (SOME, SOME + 1e-4, {}),
        (SOME, SOME + 1e-4, {"atol": 2e-4, "rtol": 0}),
        (SOME, SOME * 1.01, {"atol": 0, "rtol": 0.02}),
        (SOME, SOME.double(), {}),
        (SOME, SOME.double(), {"check_dtype": False}),
        (SOME.bfloat16(), SOME.bfloat16() * 1.01, {}),
        (SOME.long(), SOME.long(), {}),
        (SOME.long(), SOME.long() + 1, {}),
        (SOME > 2, SOME > 3, {}),
        (SOME, SOME[:2], {}),
        (SOME, SOME[None], {}),
        (SOME / 0 * 0, SOME / 0 * 0, {}),
        (SOME / 0 * 0, SOME / 0 * 0, {"equal_nan": True}),
        ((SOME, SOME), [SOME, SOME], {}),
        ((SOME, SOME), (SOME, SOME + 1), {}),
        ((SOME,), (SOME, SOME), {}),
        (1.0, 1.0, {}),
        (1.0, 1.1, {}),
    ],
)
def test_agree_judges_as_torch_does(actual, expected, options):
    def fails(compare):
        try:
            compare(actual, expected, **options)
        except AssertionError:
            return True
        return False

    assert fails(trial.agree) is fails(torch.testing.assert_close)
