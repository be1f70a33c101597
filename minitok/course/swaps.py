"""A reader's version in place of the library's, in this process, and everything put back afterwards."""

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class CallsLibrary(RuntimeError):
    """A reader's version called the very thing that it is to replace."""


def stand_in(original: Any, mine: Any) -> Any:
    """What takes the original's place: the reader's version under the original's name and module."""
    if isinstance(mine, type):
        names = {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
        return type(original.__name__, (mine,), names)

    def called(*given: Any, **named: Any) -> Any:
        return mine(*given, **named)

    called.__wrapped__ = mine  # by which `inspect.signature` sees the reader's parameters
    called.__name__, called.__module__ = original.__name__, original.__module__
    return called


@contextlib.contextmanager
def replaced(original: Any, mine: Any) -> Iterator[None]:
    """Puts the reader's version in place of the original in all modules of minitok, and refuses it to the reader's."""

    def refused(*_: Any, **__: Any) -> None:
        raise CallsLibrary(original.__name__)

    taken, own = stand_in(original, mine), globals_of(mine)
    places = [vars(module) for module in modules("minitok").values()]
    swaps = [(place, name, original, taken) for place in places for name in holding(place, original)]
    swaps += [
        (own, name, original, refused) for name in holding(own, original) if all(own is not place for place in places)
    ]
    for place, name, _, new in swaps:
        place[name] = new
    try:
        yield
    finally:
        for place, name, old, _ in swaps:
            place[name] = old
        for module in modules("minitok").values():  # those that were first imported meanwhile
            for name in holding(vars(module), taken):
                setattr(module, name, original)


@contextlib.contextmanager
def kept_as_it_was() -> Iterator[None]:
    """Puts back what a run of pytest changes: random numbers, threads, the environment, and the tests' modules.

    Those of the tests that were loaded before would keep the original, so they are set aside.
    """
    before = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002 - tests seed it
    environment, known = dict(os.environ), modules("tests")
    errors = {name: held for name, held in vars(sys).items() if name.startswith("last_")}
    forget(known)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        forget(modules("tests"))
        sys.modules.update(known)
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_num_threads(before[2])
        for name in [name for name in vars(sys) if name.startswith("last_")]:
            delattr(sys, name)
        for name, held in errors.items():
            setattr(sys, name, held)


def modules(package: str) -> dict[str, Any]:
    """The modules of a package that are loaded, by their names."""
    return {name: module for name, module in list(sys.modules.items()) if f"{name}.".startswith(f"{package}.")}


def forget(loaded: dict[str, Any]) -> None:
    """Makes Python import these modules anew."""
    for name in loaded:
        del sys.modules[name]


def holding(place: dict[str, Any], thing: Any) -> list[str]:
    """The names under which a module holds a thing."""
    return [name for name, held in place.items() if held is thing]


def globals_of(mine: Any) -> dict[str, Any]:
    """The global names that a reader's version sees."""
    code = getattr(mine, "func", mine)
    parts = vars(code).values() if isinstance(code, type) else [code]
    return next((part.__globals__ for part in parts if hasattr(part, "__globals__")), {})
