"""JupyterLab on a reader's own copies of the notebooks, in the folder `my`: the shipped ones stay as they are.

`my` lies in the clone, is ignored by git, and has the folders of `notebooks`, so that links lead where they lead
there. Nothing in it is ever lost: a copy whose cells the reader has changed is kept, whatever is shipped later.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minitok import files

SHIPPED = files.ROOT / "notebooks"
OWN = files.ROOT / "my"
RECORD = ".shipped.json"
TOUR = "00_start/00_tour.ipynb"


class Version(NamedTuple):
    """A notebook as it was when a copy was made: the hash of the file, and that of its cells without outputs."""

    file: str = "none"
    cells: str = "none"


def version(path: pathlib.Path) -> Version:
    """The version of a file; what is no notebook has the hash of the file for that of the cells."""
    content = path.read_bytes()
    file = hashlib.sha256(content).hexdigest()
    try:
        told = [[cell["cell_type"], "".join(cell["source"])] for cell in json.loads(content)["cells"]]
        cells = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    except (ValueError, KeyError, TypeError):
        cells = file
    return Version(file, cells)


def beside(copy: pathlib.Path, before: Version) -> pathlib.Path:
    """Where a new version goes beside a changed copy: no place where the reader has changed something already."""
    places = (copy.with_suffix(f".new{number}.ipynb") for number in ("", *range(2, 1000)))
    return next(place for place in places if not place.exists() or version(place).cells == before.cells)


def refresh(shipped: pathlib.Path, copy: pathlib.Path, before: Version) -> tuple[Version, pathlib.Path | None]:
    """Brings one copy up to date; gives the shipped version, and what was written, if anything.

    Missing and unchanged copies become the shipped notebook: a copy that was only run counts as unchanged. Beside a
    changed one the shipped notebook is laid once, as `NAME.new.ipynb`, and not when only its outputs are other ones.
    """
    now = version(shipped)
    if not copy.exists():
        target = copy
    elif now.file == before.file:
        return now, None
    elif version(copy).cells in (before.cells, now.cells):
        target = copy
    elif now.cells == before.cells:
        return now, None
    else:
        target = beside(copy, before)
    files.write(target, shipped.read_bytes())
    return now, target


def recorded(path: pathlib.Path) -> dict[str, Version]:
    """What the record says of each copy: nothing where it is not there or damaged, so that all changed ones stay."""
    try:
        return {name: Version(*pair) for name, pair in json.loads(path.read_text(encoding="utf-8")).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def copies(shipped: pathlib.Path = SHIPPED, own: pathlib.Path = OWN) -> Iterator[str]:
    """Makes the reader's copies or brings them up to date; yields one sentence about each that was kept as changed."""
    record = own / RECORD
    known = recorded(record)
    for path in sorted(shipped.glob("[0-9]*/*.ipynb")):
        name = path.relative_to(shipped).as_posix()
        now, written = refresh(path, own / name, known.get(name, Version()))
        known[name] = now
        if written and written != own / name:
            yield f"my/{name} is yours and stays; the course has a new version, which lies beside it: {written.name}"
    files.write(record, json.dumps(known, indent=0))


def first() -> str:
    """Where JupyterLab opens, from the root of the clone: the reader's tour, or the shipped one without `my`."""
    try:
        for told in copies():
            print(told)
    except OSError as error:
        print(f"{OWN} cannot be written ({error.strerror}): these are the shipped notebooks; save under other names")
        return f"{SHIPPED.name}/{TOUR}"
    print("The notebooks in my/ are yours: git does not see them, and what you change there is kept.", flush=True)
    return f"{OWN.name}/{TOUR}"


def start(options: Sequence[str]) -> None:
    """Runs JupyterLab in this process, on the whole clone, until it is stopped; one Ctrl-C stops it.

    Its kernels run on one thread, as the times in the notebooks' headers were measured, unless the user has set
    OMP_NUM_THREADS. Raises `FileNotFoundError` outside a clone.
    """
    if not SHIPPED.is_dir():
        raise FileNotFoundError("the notebooks are not here: run this in a clone of the project")
    from jupyterlab.labapp import LabApp

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    served = [f"--ServerApp.root_dir={files.ROOT}", "--ServerApp.answer_yes=True"]
    LabApp.launch_instance(argv=[*served, f"--LabApp.default_url=/lab/tree/{first()}", *options])
