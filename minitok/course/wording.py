"""What is wrong with a reader's version, in words."""

import inspect
import linecache
from collections.abc import Sequence
from typing import Any

import torch

from minitok.course.swaps import CallsLibrary, globals_of
from minitok.course.trial import Failure

SHORT = 60
WANTED = {"==": "", "<": "less than ", ">": "more than ", "<=": "at most ", ">=": "at least "}
Different = tuple[str, Any, Any]


def lacks(original: Any, mine: Any) -> str | None:
    """What the library's takes, or has, and the reader's does not; None where nothing is missing."""
    name = original.__name__
    if isinstance(original, type):
        if not isinstance(mine, type):
            return f"the library's `{name}` is a class, yours is none"
        public = [part for part in vars(original) if not part.startswith("_") and callable(getattr(original, part))]
        missing = [part for part in (*public, "forward") if hasattr(original, part) and not hasattr(mine, part)]
        return f"your class lacks `{'`, `'.join(dict.fromkeys(missing))}`" if missing else None
    if not callable(mine):
        return f"the library's `{name}` is a function, yours is none"
    theirs, ours = (inspect.signature(thing) for thing in (original, mine))
    kinds = [given.kind for given in ours.parameters.values()]
    missing = [part for part in theirs.parameters if part not in ours.parameters]
    if missing and inspect.Parameter.VAR_KEYWORD not in kinds:
        taken = ", ".join(theirs.parameters)
        return f"your version does not take `{'`, `'.join(missing)}`: the library's `{name}` takes ({taken})"
    return None


def told(failure: Failure, original: Any, mine: Any) -> str:
    """A failure as a sentence: the rule, and what was expected and got, or the line that raised."""
    raised = failure.raised.value
    if isinstance(raised, CallsLibrary):
        return f"your version calls the library's `{original.__name__}`: write it yourself"
    if isinstance(raised, RecursionError):
        return (
            f"your version calls itself without end, or calls the library's `{original.__name__}`, whose place it takes"
        )
    return f'not yet. "{rule(failure.test)}": {_reason(failure, mine)} (tests/{_place(failure)})'


def rule(test: Any) -> str:
    """The name of a test as a sentence, with the numbers that it was given.

    `test_of_equally_near_tokens_the_lower_index_counts` is "Of equally near tokens the lower index counts".
    """
    name = test.originalname.removeprefix("test_").replace("_", " ")
    given = test.callspec.params if hasattr(test, "callspec") else {}
    told = [f"{key} = {value}" for key, value in given.items() if isinstance(value, int | float)]
    return name[0].upper() + name[1:] + (f" ({', '.join(told)})" if told else "")


def _reason(failure: Failure, mine: Any) -> str:
    raised = failure.raised.value
    if not isinstance(raised, AssertionError):
        return _raised(failure, mine)
    if failure.compared is not None and (different := first_difference(*failure.compared[1:])):
        place, got, expected = different
        op = failure.compared[0]
        wanted = (
            ""
            if op == "=="
            else {"<": "less than ", ">": "more than ", "<=": "at most ", ">=": "at least "}.get(op, f"{op} ")
        )
        return f"expected {wanted}{shown(expected)}{place}, got {shown(got)}"
    return f"this does not hold: `{str(failure.raised.traceback[-1].statement).strip()}`"


def _raised(failure: Failure, mine: Any) -> str:
    raised = failure.raised.value
    what = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}".rstrip(": ")
    own = [entry for entry in failure.raised.traceback if entry.frame.f_globals is globals_of(mine)]
    if own:
        line = linecache.getline(own[-1].frame.code.raw.co_filename, own[-1].lineno + 1).strip()
        return f"your line `{line}` raised {what}"
    if isinstance(raised, AttributeError) and raised.obj is not None:
        return f"what your version gives, of type {type(raised.obj).__name__}, has no `{raised.name}`"
    return f"what your version gives could not be used: {what}"


def _place(failure: Failure) -> str:
    path = failure.test.path
    entries = [entry for entry in failure.raised.traceback if str(entry.path) == str(path)]
    line = entries[-1].lineno + 1 if entries else 1
    return f"{path.parent.name}/{path.name}, line {line}"


def first_difference(got: Any, expected: Any) -> Different | None:
    """Where two values differ first, as (place, got, expected); the whole of them where they are short or unlike.

    >>> first_difference([[0, 3], [1], [2, 4]], [[0, 3], [1, 4], [2]])
    ('', [[0, 3], [1], [2, 4]], [[0, 3], [1, 4], [2]])
    >>> first_difference(torch.arange(99), torch.arange(99).flip(0))
    (' at place 0', 0, 98)
    """
    if isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        return _in_tensors(got, expected)
    lists = isinstance(got, Sequence) and isinstance(expected, Sequence) and not isinstance(got, str)
    if not lists or len(got) != len(expected) or max(len(repr(got)), len(repr(expected))) <= SHORT:
        return "", got, expected
    at = next((i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b), None)
    if at is None:
        return None
    inner = first_difference(got[at], expected[at])
    return inner and (f" at place {at}" + inner[0].replace(" at place", ","), *inner[1:])


def _in_tensors(got: torch.Tensor, expected: torch.Tensor) -> Different | None:
    if got.shape != expected.shape:
        return "", f"the shape {tuple(got.shape)}", f"the shape {tuple(expected.shape)}"
    if got.numel() <= 8:
        return "", got.tolist(), expected.tolist()
    apart = (got.double() - expected.double()).abs().nan_to_num(torch.inf)
    if not apart.any():
        return "", f"the type {got.dtype}", f"the type {expected.dtype}"
    at = tuple(int(index) for index in torch.unravel_index(apart.argmax(), apart.shape))
    return f" at place {', '.join(map(str, at))}", got[at].item(), expected[at].item()


def shown(value: Any) -> str:
    """A value as a reader reads it: numbers at four digits, long things cut."""
    if isinstance(value, torch.Tensor):
        value = value.tolist() if value.numel() <= 8 else f"a tensor of the shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        inside = ", ".join(shown(item) for item in value)
        text = f"[{inside}]" if isinstance(value, list) else f"({inside})"
    else:
        text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 2 * SHORT else f"{text[: 2 * SHORT]} ..."
