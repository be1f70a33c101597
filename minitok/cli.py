"""The commands: minitok tour | papers | train | bench | league | data | notebooks | docs | lab."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from minitok import __version__, files
from minitok.course import commands, execution

PROBLEMS = (ValueError, ConnectionError, PermissionError, FileNotFoundError, ImportError, execution.CellError)


def parser() -> argparse.ArgumentParser:
    """The commands, their options and their help."""
    top = argparse.ArgumentParser(
        prog="minitok",
        description="Papers on tokens, each one PyTorch module and one notebook; `minitok papers` says what works.",
    )
    top.add_argument("--version", action="version", version=f"minitok {__version__}")
    jobs = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, job: object, about: str, example: str) -> argparse.ArgumentParser:
        made = jobs.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"Example: minitok {example}",
        )
        made.set_defaults(job=job)
        return made

    tour = command(
        "tour",
        _tour,
        "run the tour on a picture of yours; write one HTML page",
        "tour cat.jpg --out cat.html",
    )
    tour.add_argument("picture", help="a picture of at least 64x64 pixels: JPEG, PNG, WebP, ...")
    tour.add_argument("--out", default="tour.html", metavar="FILE", help="the page to write (default: %(default)s)")

    commands.add_papers(command("papers", commands.papers, "list the papers, or show one", "papers --chapter quantize"))
    commands.add_path(command("path", commands.path, "say what to read before a lesson, in order", "path tome"))
    commands.add_check(
        command("check", commands.check, "run a lesson's tests on a version of yours", "check tome mine.py:tome")
    )
    _add_train(command("train", _train, "train a house model from scratch", "train vit --device cuda"))

    bench = command(
        "bench", _bench, "time the house models and the renderer on this machine", "bench --json bench.json"
    )
    bench.add_argument("names", nargs="*", help="only these rows (default: all)")
    bench.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    bench.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    bench.add_argument("--kernels", action="store_true", help="rather time the Triton kernels, on a GPU")

    _add_others(command)
    return top


def _add_others(command: Callable[..., argparse.ArgumentParser]) -> None:
    league = command("league", _league, "compute the league table of a chapter", "league quantize --device cuda")
    league.add_argument("name", help="the chapter, such as quantize")
    league.add_argument("--folder", type=pathlib.Path, help="where pieces are kept (default: runs/league-NAME)")
    league.add_argument("--steps", type=int, help="train for so many steps, for a rehearsal")
    league.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    league.add_argument("--ship", action="store_true", help="in a clone: make it the project's own (not with --steps)")

    data = command("data", commands.data, "bring all data that notebooks read into the cache", "data --list")
    data.add_argument("--list", action="store_true", help="only say what there is, with sizes and licences")
    data.add_argument("--clothing", action="store_true", help="also the photographs of clothes (106 MB)")

    notebooks = command(
        "notebooks", _notebooks, "make notebooks from their sources", "notebooks notebooks/src/00_start"
    )
    notebooks.add_argument("paths", nargs="*", help="sources, notebooks or folders (default: all that changed)")
    notebooks.add_argument("--jobs", type=int, default=1, metavar="N", help="make so many at a time (default: 1)")
    notebooks.add_argument("--fresh-kernels", action="store_true", help="start each kernel anew, fork none")
    notebooks.add_argument("--affected", action="store_true", help="make what any change in minitok reaches")

    command("docs", _docs, "make the notebooks into a site, in build/site", "docs")

    lab = command("lab", _lab, "open the course in JupyterLab, at the tour", "lab --no-browser")
    lab.add_argument("rest", nargs="*", metavar="...", help="whatever follows is passed on to jupyter lab")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("name", help="the house model, such as vit")
    train.add_argument("--folder", type=pathlib.Path, help="where the run is kept and resumed (default: runs/NAME)")
    train.add_argument("--steps", type=int, help="train for so many steps (default: the recipe's)")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    train.add_argument("--devices", type=int, default=1, help="how many GPUs share the work (default: 1)")
    train.add_argument("--seed", type=int, default=0, help="the seed of all random numbers (default: 0)")
    train.add_argument("--ship", action="store_true", help="in a clone: make it the project's own (not with --steps)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    0: all is well; 1: some notebooks failed, or a version is not right; 2: the user can mend it, and one line says
    what; 130: stopped; 141: the reader of the output has closed it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    passed_on = given[1:] if given[:1] == ["lab"] and not {"-h", "--help"} & set(given) else []
    known = parser().parse_args(given[: len(given) - len(passed_on)])
    known.rest = passed_on  # argparse would take JupyterLab's options apart and mix their order
    try:
        status = known.job(known) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who read our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except PROBLEMS as error:
        print(f"minitok: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _tour(given: argparse.Namespace) -> None:
    from minitok.course.tour import tour

    print(f"the tour is written to {tour(given.picture, given.out)}")


def _train(given: argparse.Namespace) -> None:
    from minitok import house
    from minitok.course import records

    house.recipe(given.name)
    options = house.Options(steps=given.steps, seed=given.seed, device=given.device, devices=given.devices)
    folder = files.check_target((given.folder or pathlib.Path("runs", given.name)) / "card.json").parent
    found = records.depends("checkpoints", given.name)
    card = house.train(given.name, folder, options, ship=given.ship)
    if card:
        records.stamp("checkpoints", given.name, found, folder, given.ship)
        print(json.dumps(card, indent=2))


def _bench(given: argparse.Namespace) -> None:
    from minitok.course import bench

    out = files.check_target(given.json) if given.json else None
    if given.kernels:
        from minitok.course import kernels, records

        figures = kernels.measure() | {"depends": records.depends("bench", "kernels")}
        print(kernels.table(figures))
    else:
        figures = bench.measure(given.names, given.device)
        print(bench.table(figures))
    if out:
        files.write(out, json.dumps(figures, indent=2) + "\n")


def _league(given: argparse.Namespace) -> None:
    from minitok import house, stages
    from minitok.course import records

    stages.check_at_hand(given.name)
    options = house.Options(steps=given.steps, device=given.device)
    folder = files.check_target((given.folder or pathlib.Path("runs", f"league-{given.name}")) / "facts.json").parent
    found = records.depends("leagues", given.name)
    facts = stages.compute(given.name, folder, options, given.ship)
    records.stamp("leagues", given.name, found, folder, given.ship)
    print(f"{facts['title']}\n\n{stages.table(facts)}")


def _notebooks(given: argparse.Namespace) -> int:
    from minitok.course import building, catalogue

    failed = building.build_all(given.paths, given.jobs, given.fresh_kernels, given.affected)
    if not given.paths:  # a build of some is a step on the way
        catalogue.update_pages()
    return 1 if failed else 0


def _docs(given: argparse.Namespace) -> None:
    from minitok.course import site

    print(f"the site begins at {site.build()}")


def _lab(given: argparse.Namespace) -> None:
    from minitok.course import lab

    lab.start(given.rest)
