"""The rules on files: what lies where, that lessons are whole, what no file says, what checkpoints weigh."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

from minitok import files, papers

ROOT = pathlib.Path(__file__).parents[2]
SKIPPED = {".ipynb_checkpoints", "__pycache__"}
SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json", ".cff", ".cfg", ""}
TOP_LEVEL = {
    *(".ci", ".gitignore", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "data", "do.py"),
    *("environment.yml", "minitok", "notebooks", "pyproject.toml", "tests"),
}
NEVER = {
    "a path of one machine": r"(?<![\w.~])(?:/(?:root|work)(?![\w-])|/(?:home|Users|tmp)/\w|[A-Z]:\\+Users)",
    "the address of a package index": r"pypi\.org|pythonhosted\.org|anaconda\.org|download\.pytorch\.org",
    "a note on work that is left": r"\b(?:[T]ODO|[F]IXME|[X]XX)\b(?!\(when )",
}


def tracked() -> list[str]:
    """The files that git knows, by their paths from the root; where there is no git the test is skipped."""
    git = shutil.which("git")
    listed = subprocess.run([git or "git", "ls-files"], cwd=ROOT, capture_output=True, text=True) if git else None
    if listed is None or listed.returncode or not listed.stdout:
        pytest.skip("this is not a clone made by git, or nothing is committed yet")
    return listed.stdout.splitlines()


def texts() -> list[pathlib.Path]:
    found = [ROOT / name for name in TOP_LEVEL]
    found += [path for folder in found if folder.is_dir() for path in folder.rglob("*")]
    kept = [path for path in found if path.is_file() and path.suffix in SUFFIXES]
    return sorted(path for path in kept if not SKIPPED.intersection(path.parts))


def said(text: str) -> list[str]:
    """Which of the things in `NEVER` a text says; pictures inside notebooks are not read."""
    plain = re.sub(r"[A-Za-z0-9+/=]{200,}", "", text)
    return [what for what, pattern in NEVER.items() if re.search(pattern, plain)]


def strays(root: pathlib.Path) -> list[str]:
    """Modules, notebooks, sources and tests of the chapters that belong to no row, nor to what its modules share."""
    there: list[pathlib.Path] = []
    for chapter in papers.chapters():
        there += [path for path in (root / "minitok" / chapter.slug).glob("[!_]*.py") if "_triton" not in path.stem]
        tests, shared = root / "tests" / chapter.slug, root / "minitok" / chapter.slug
        there += [path for path in tests.glob("test_*.py") if not (shared / f"{path.stem[4:]}.py").exists()]
    for folder in (root / "notebooks", root / "notebooks" / "src"):
        there += [path for path in folder.glob("[0-9]*/*.*") if path.suffix in (".py", ".ipynb")]
    known = {path.relative_to(ROOT) for row in papers.rows() for path in papers.places(row.slug).values()}
    free = {f"{chapter.folder}/00_overview" for chapter in papers.chapters()}
    return [
        str(path.relative_to(root))
        for path in sorted(there)
        if path.relative_to(root) not in known
        and path.parent.name != "00_start"
        and f"{path.parent.name}/{path.stem}" not in free
        and not path.stem.endswith("_triton")
    ]


def bad_checkpoints(folder: pathlib.Path) -> list[str]:
    found, total = [], 0
    for stem in sorted({path.stem for path in folder.iterdir() if path.name[0] != "."}):
        one, many = folder / f"{stem}.safetensors", folder / stem
        card = many / "card.json" if many.is_dir() else folder / f"{stem}.json"
        held = sorted(many.glob("*.safetensors")) if many.is_dir() else [one]
        if not (card.exists() and held and all(path.exists() for path in held)):
            found.append(f"{stem} has no card or no weights")
            continue
        sizes = [path.stat().st_size for path in held]
        total += sum(sizes)
        if max(sizes) > (1.3e6 if many.is_dir() else 12e6):
            found.append(f"{stem} has more than {'1.3 MB in a file' if many.is_dir() else '12 MB'}")
        hashes = {path.stem: files.sha256(path) for path in held}
        if json.loads(card.read_text(encoding="utf-8"))["sha256"] != (hashes if many.is_dir() else hashes[stem]):
            found.append(f"{stem} has another hash than its card says")
    return [*found, *(["all together have more than 120 MB"] if total > 120e6 else [])]


def test_the_top_level_holds_what_the_design_lists() -> None:
    assert {path.split("/")[0] for path in tracked()} <= TOP_LEVEL
    assert all((ROOT / name).exists() for name in TOP_LEVEL)


def test_no_file_says_what_it_must_not() -> None:
    wrong = {str(path.relative_to(ROOT)): said(path.read_text(encoding="utf-8")) for path in texts()}
    assert {path: found for path, found in wrong.items() if found} == {}


def test_what_must_not_be_said_is_found() -> None:
    # The texts are cut, so that this file does not say them.
    for text in ("in /wo|rk/main", '"/roo|t/x"', "/home|/ann", "/Users|/ann", "C:|\\Users\\ann", "(/tm|p/x)"):
        assert said(text.replace("|", "")) == ["a path of one machine"], text
    assert said("https://py" + "pi.org/simple") == ["the address of a package index"]
    assert said("# TO" + "DO: later") == ["a note on work that is left"]
    for text in (
        "a/work",
        "docs/home/ann",
        "the /works",
        "# TO" + "DO(when torch 3 is out): drop",
        "A" * 200 + "/wo" + "rk",
    ):
        assert said(text) == [], text


def test_every_file_of_a_chapter_has_its_row() -> None:
    assert strays(ROOT) == []


def test_a_file_without_a_row_is_found(tmp_path: pathlib.Path) -> None:
    kept = ("minitok/quantize/fsq.py", "minitok/quantize/fsq_triton.py", "minitok/quantize/_common.py")
    kept += ("notebooks/00_start/00_tour.ipynb", "notebooks/01_quantize/00_overview.ipynb")
    kept += ("tests/quantize/test_common.py",)
    wrong = ("minitok/quantize/ours.py", "notebooks/01_quantize/77_fsq.ipynb", "tests/quantize/test_ours.py")
    for name in (*kept, *wrong):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert strays(tmp_path) == list(wrong)


def test_a_lesson_that_has_a_notebook_is_complete_and_fresh() -> None:
    begun = [row.slug for row in papers.rows() if papers.places(row.slug)["notebook"].exists()]
    assert [slug for slug in begun if papers.status(slug) != "working"] == []


def test_every_checkpoint_is_small_and_has_its_card() -> None:
    assert bad_checkpoints(ROOT / "data" / "checkpoints") == []


def test_a_bad_checkpoint_is_found(tmp_path: pathlib.Path) -> None:
    for name, size in (("a", 10), ("b", 10), ("c", 12_000_001)):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(size))
        (tmp_path / f"{name}.json").write_text(json.dumps({"sha256": files.sha256(tmp_path / f"{name}.safetensors")}))
    assert bad_checkpoints(tmp_path) == ["c has more than 12 MB"]
    (tmp_path / "c.safetensors").unlink()
    (tmp_path / "b.json").unlink()
    (tmp_path / "a.safetensors").write_bytes(b"other")
    assert bad_checkpoints(tmp_path) == [
        "a has another hash than its card says",
        "b has no card or no weights",
        "c has no card or no weights",
    ]


def test_a_folder_of_weights_has_one_card(tmp_path: pathlib.Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "a.safetensors").write_bytes(b"weights")
    assert bad_checkpoints(tmp_path) == ["many has no card or no weights"]
    card, hashes = tmp_path / "many" / "card.json", {"a": files.sha256(tmp_path / "many" / "a.safetensors")}
    card.write_text(json.dumps({"sha256": hashes}))
    assert bad_checkpoints(tmp_path) == []
    (tmp_path / "many" / "b.safetensors").write_bytes(bytes(1_400_000))
    assert bad_checkpoints(tmp_path) == [
        "many has more than 1.3 MB in a file",
        "many has another hash than its card says",
    ]
