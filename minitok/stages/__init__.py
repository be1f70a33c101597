"""The league tables: all methods of a chapter at the same work under the same budget, `minitok league NAME`.

A table is computed once, by a command, and kept in data/leagues/NAME.json with how it was made; notebooks show it and
repeat a small part of it.
"""

import importlib
import json
import pathlib
from typing import Any

import torch

from minitok import __version__, files
from minitok.house import Options, device_name
from minitok.tables import aligned, shown

ON_CLOTHES = ("quantize", "image", "generate", "reduce")  # these leagues are computed on the photographs of clothes
NAMES = ("quantize", "image", "generate", "speculate", "reduce", "project")


def league(name: str) -> Any:
    """The module of a league: its `TITLE`, `HOW`, `SCORES` and `measure(folder, options) -> rows`.

    One that trains models of its own has `ship(folder)`, which puts them among the project's.
    """
    if name not in NAMES:
        raise ValueError(f"no league is called {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"minitok.stages.{name}")


def __getattr__(name: str) -> Any:
    """The stage of a chapter, imported when it is first asked for: `stages.reduce.stage()`."""
    if name in NAMES:
        return league(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_at_hand(name: str) -> None:
    """Raises `ValueError`, saying how to get them, where the league `name` reads photographs that are not here."""
    from minitok.data import clothing

    league(name)
    if name in ON_CLOTHES and not clothing.at_hand():
        raise ValueError(
            f"the league of {name} is computed on the photographs of clothes, a download of 106 MB that is not here: "
            "run `python do.py data --clothing` first"
        )


def compute(name: str, folder: str | pathlib.Path, options: Options | None = None, ship: bool = False) -> dict:
    """Computes a league table; returns it with what it was made by and on.

    An interrupted run goes on from `folder`, where each finished piece is kept. `ship` also writes the table among the
    project's. `options.steps` shortens every training, for a rehearsal.
    """
    module, options = league(name), options or Options()
    if ship:
        options.check_shipping()
    rows = module.measure(pathlib.Path(folder), options)
    facts = {
        "name": name, "title": module.TITLE, "how": module.HOW, "scores": module.SCORES, "rows": rows,
        "made": {
            "by": f"minitok league {name}", "device": device_name(), "torch": torch.__version__, "minitok": __version__,
        },
    }  # fmt: skip
    text = json.dumps(facts, indent=2) + "\n"
    files.write(pathlib.Path(folder) / f"{name}.json", text)
    if ship:
        if hasattr(module, "ship"):
            module.ship(pathlib.Path(folder))
        files.write(files.ROOT / "data" / "leagues" / f"{name}.json", text)
    return facts


def load(name: str) -> dict[str, Any]:
    """The table that the project ships."""
    league(name)
    return json.loads(files.shipped("leagues", f"{name}.json").read_text(encoding="utf-8"))


def table(facts: dict[str, Any], **only: str) -> str:
    """The table as text, columns aligned; `only` picks rows, as in `data="digits"`.

    >>> print(table({"scores": {"PSNR": "dB"}, "rows": [{"method": "VQ", "PSNR": 21.04}, {"method": "FSQ"}]}))
    method  PSNR (dB)
    VQ      21.0
    FSQ     -
    """
    rows = [row for row in facts["rows"] if all(row[key] == value for key, value in only.items())]
    scores = {name: f"{name} ({unit})" if unit else name for name, unit in facts["scores"].items()}
    facts_of = [key for key in (rows[0] if rows else {}) if key not in scores and key not in only]
    lines = [(*facts_of, *scores.values())]
    for row in rows:
        figures = (row.get(name) for name in scores)
        told = (value if isinstance(value, str) else "-" if value is None else shown(value) for value in figures)
        lines.append((*(str(row[key]) for key in facts_of), *told))
    return aligned(lines)
