"""`minitok check SLUG FILE.py:NAME` and `papers.check(slug, mine)`: a reader's version under the library's tests."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from minitok import files
from minitok.course import registry, wording
from minitok.course.trial import run

# Whose place a method of the reader's own takes in its chapter's contract: one that has no exceptions there.
STANDS_IN = {"reduce": "divprune", "project": "llava"}


def check(slug: str, mine: Any) -> str:
    """Runs a lesson's tests and its chapter's contract on `mine` in place of the library's function or class.

    Returns a sentence that begins with "right", or says what is wrong first: the rule, a number expected and a number
    got, or the reader's line that raised. `slug` names a lesson (`tome`) and its method is meant, or one part of it
    (`tome.match`), or a chapter (`reduce`): then a method of the reader's own meets the contract alone. Not asked:
    messages for bad input, half precision, devices, compilation. Everything is put back.

    Raises `ValueError` for an unknown slug or part, `FileNotFoundError` without the tests (in an installed package).
    """
    lesson, _, part = slug.partition(".")
    own_method = lesson in STANDS_IN
    lesson = STANDS_IN.get(lesson, lesson)
    original = part_of(lesson, part)
    if mine is original:
        return f"this is the library's own `{original.__name__}`: check a version of yours"
    if not own_method and (lacking := wording.lacks(original, mine)):
        return lacking
    recorder = run(lesson, files_of(lesson)[own_method:], original, mine)
    if recorder.failure is not None:
        return wording.told(recorder.failure, original, mine)
    return f"right: {recorder.passed} tests of the library pass with your version"


def part_of(lesson: str, part: str = "") -> Any:
    """What a reader's version replaces: a part of the lesson's module by name, or its method.

    The method is the function or class that is named like the lesson, else the one class that the chapter passes on,
    else `accept`.
    """
    paper = registry.get(lesson)
    if not registry.places(lesson)["module"].is_file():
        raise ValueError(f"{lesson} is planned: it has no module yet")
    module = importlib.import_module(f"minitok.{paper.chapter}.{lesson}")
    own = {name: held for name, held in vars(module).items() if getattr(held, "__module__", None) == module.__name__}
    if part:
        if part not in own:
            raise ValueError(f"{lesson} has no part {part!r}; there are {', '.join(own)}")
        return own[part]
    passed_on = importlib.import_module(f"minitok.{paper.chapter}").__all__
    classes = [name for name in own if name in passed_on and inspect.isclass(own[name])]
    alike = [name for name in own if name.lower() == lesson.replace("_", "")]
    for name in (lesson, *alike, *(classes if len(classes) == 1 else []), "accept"):
        if name in own:
            return own[name]
    raise ValueError(f"{lesson} has several parts: name one, as in {lesson}.{next(iter(own))}")


def files_of(lesson: str) -> list[Path]:
    """The files of a lesson's tests and of its chapter's contract.

    Raises `FileNotFoundError` where they are not, `ImportError` without pytest.
    """
    own = registry.places(lesson)["test"]
    if not files.in_checkout() or not own.is_file():
        raise FileNotFoundError(
            "the tests are not here: an installed package has none; check in a clone of the project"
        )
    if importlib.util.find_spec("pytest") is None:
        raise ImportError("pytest is not installed: pip install 'minitok[test]'")
    contract = files.ROOT / "tests" / "contracts" / f"test_{registry.get(lesson).chapter}.py"
    return [path for path in (own, contract) if path.is_file()]


def load(place: str) -> Any:
    """The function or class that `FILE.py:NAME` names.

    Raises `ValueError` where the text is none, or the file holds no such name, `FileNotFoundError` without the file.
    """
    file, _, name = place.rpartition(":")
    if not file or not name:
        raise ValueError(f"{place!r} is no FILE.py:NAME, such as mine.py:tome")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{file} holds no {name!r}")
    return getattr(module, name)
