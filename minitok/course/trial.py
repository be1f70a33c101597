"""A trial: the tests of a lesson run in this process with a reader's version in place of the library's."""

import contextlib
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitok import files
from minitok.course.swaps import kept_as_it_was, replaced

# What a library owes its users and a first version does not, by words in a test: these are not asked of a reader's.
NOT_ASKED = re.compile(
    r"refuse|half|float16|float64|dtype|autocast|compile|device|meta\b|state_dict|empty|triton|fast_path|METHODS\)"
)
# The relative and absolute tolerances of `torch.testing.assert_close`.
TOLERANCES = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5), torch.float32: (1.3e-6, 1e-5)}
TOLERANCES[torch.float64] = (1e-7, 1e-7)
OPTIONS = ("-x", "--import-mode=importlib", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:terminal")
PLUGINS_LEFT_OUT = ("cacheprovider", "capture", "doctest", "faulthandler", "logging", "threadexception")
PLUGINS_LEFT_OUT += ("unraisableexception", "warnings")


class Failure(NamedTuple):
    """The first test that failed: the test, what was raised, and the last two things that were compared."""

    test: Any
    raised: Any
    compared: tuple[str, Any, Any] | None


class Recorder:
    """A plugin of pytest that picks the tests that concern a method, and keeps the first failure."""

    def __init__(self, slug: str) -> None:
        self.slug, self.passed, self.failure = slug, 0, None
        self.compared: tuple[str, Any, Any] | None = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keeps the lesson's own tests, and those of the contract that are given this method."""
        items[:] = [item for item in items if self.concerns(item)]

    def concerns(self, test: Any) -> bool:
        """Whether a test says something on the method that is asked of a reader's version."""
        if {"unchecked", "monkeypatch"} & set(test.fixturenames) or test.get_closest_marker("slow"):
            return False
        if NOT_ASKED.search(f"{test.name} {inspect.getsource(test.function)}"):
            return False
        given = test.callspec.params.values() if hasattr(test, "callspec") else ()
        return test.path.parent.name != "contracts" or self.slug in [value for value in given if isinstance(value, str)]

    def pytest_assertrepr_compare(self, op: str, left: Any, right: Any) -> None:
        """Keeps both sides of a comparison that failed."""
        self.compared = (op, left, right)

    def pytest_runtest_setup(self) -> None:
        """Forgets what the test before has compared."""
        self.compared = None

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Counts what passed, and keeps what failed first."""
        import pytest

        if call.excinfo is None:
            self.passed += call.when == "call"
        elif self.failure is None and not call.excinfo.errisinstance(pytest.skip.Exception):
            self.failure = Failure(item, call.excinfo, self.compared)


def run(slug: str, paths: list[Path], original: Any, mine: Any) -> Recorder:
    """Runs the tests in `paths` that concern the method, until one fails."""
    import pytest

    recorder = Recorder(slug)
    left_out = [option for name in PLUGINS_LEFT_OUT for option in ("-p", f"no:{name}")]
    place = (f"--rootdir={files.ROOT}", "-c", str(files.ROOT / "pyproject.toml"))
    command = [*OPTIONS, *left_out, *place, *map(str, paths)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_as_it_was())
        stack.enter_context(replaced(original, mine))
        stack.enter_context(watched(recorder))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        told = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        status = pytest.main(command, plugins=[recorder])
        if status == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if recorder.failure is None and status != pytest.ExitCode.OK:
            raise RuntimeError(f"the tests could not be run ({status}): {told.getvalue().strip()[-500:]}")
    return recorder


@contextlib.contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """Lets the recorder see what `torch.equal`, `torch.allclose` and `assert_close` found to be different.

    In place of torch's own `assert_close`, whose first call imports for seconds, it is `agree`.
    """
    before = torch.equal, torch.allclose, torch.testing.assert_close

    def seen(compare: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(actual: Any, expected: Any, *given: Any, **named: Any) -> Any:
            recorder.compared = ("==", actual, expected)
            found = compare(actual, expected, *given, **named)
            if found is not False:
                recorder.compared = None
            return found

        return wrapper

    torch.equal, torch.allclose, torch.testing.assert_close = map(seen, (torch.equal, torch.allclose, agree))
    try:
        yield
    finally:
        torch.equal, torch.allclose, torch.testing.assert_close = before


def agree(actual: Any, expected: Any, *, atol: Any = None, rtol: Any = None, **options: Any) -> None:
    """Raises `AssertionError` where `torch.testing.assert_close` does, for tensors, numbers and sequences of them."""
    if isinstance(actual, Sequence) and isinstance(expected, Sequence):
        if len(actual) != len(expected):
            raise AssertionError(f"{len(actual)} values, not {len(expected)}")
        for pair in zip(actual, expected, strict=True):
            agree(*pair, atol=atol, rtol=rtol, **options)
        return
    if not all(isinstance(value, Tensor | int | float | complex) for value in (actual, expected)):
        raise AssertionError("not both are tensors or numbers")
    exact = isinstance(actual, Tensor) and isinstance(expected, Tensor) and options.get("check_dtype", True)
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    kinds = actual.dtype, expected.dtype
    if actual.shape != expected.shape or (exact and kinds[0] != kinds[1]):
        raise AssertionError("the shapes or types differ")
    if atol is None or rtol is None:
        rtol, atol = max(TOLERANCES.get(kind, (0.0, 0.0)) for kind in kinds)
    alike = options.get("equal_nan", False)
    if not torch.isclose(actual.to(kinds[1]), expected, rtol=rtol, atol=atol, equal_nan=alike).all():
        raise AssertionError("the values differ")
