"""The registry's facts, where it looks for files, and the status that it computes."""

import keyword
import re
import shutil
import tomllib

import pytest

from minitok import files, papers
from minitok.course import registry, verdicts

CHAPTERS = [
    "quantize",
    "image",
    "signal",
    "generate",
    "speculate",
    "reduce",
    "project",
    "mix",
    "context",
    "text",
    "code",
    "series",
    "retrieve",
    "learn",
    "explain",
    "world",
]


def test_facts_hold_199_papers_and_24_parents():
    rows = papers.rows()
    assert sum(not paper.parent for paper in rows) == 199
    assert sum(paper.parent for paper in rows) == 24
    assert len({paper.slug for paper in rows}) == 223
    assert len({(paper.chapter, paper.lesson) for paper in rows}) == 223
    arxiv = [paper.arxiv for paper in rows if paper.arxiv]
    assert len(set(arxiv)) == 222


def test_each_row_is_well_formed():
    for paper in papers.rows():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", paper.slug), paper
        assert not keyword.iskeyword(paper.slug), paper
        assert paper.chapter in CHAPTERS, paper
        assert paper.name.strip() == paper.name != "", paper
        assert paper.title.strip() == paper.title != "", paper
        assert paper.repo is None or re.fullmatch(r"[\w.-]+/[\w.-]+", paper.repo), paper
        if paper.slug == "random_drop":
            assert (paper.arxiv, paper.year, paper.url) == (None, None, None)
            continue
        posted = re.fullmatch(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4}|\d{5})", paper.arxiv or "")
        assert posted, paper
        # a paper is posted in its year, except one of 2004 that was posted when it was old
        assert paper.year == 2000 + int(posted[1]) or (paper.slug, paper.year) == ("lexrank", 2004), paper


def test_chapters_stand_in_order_and_lessons_count_up_parents_first():
    assert [home.slug for home in papers.chapters()] == CHAPTERS
    assert [home.number for home in papers.chapters()] == list(range(1, 17))
    for home in papers.chapters():
        rows = papers.rows(chapter=home.slug)
        assert [paper.lesson for paper in rows] == list(range(1, len(rows) + 1))
        assert [paper.parent for paper in rows] == sorted((paper.parent for paper in rows), reverse=True)
        assert home.title
        assert home.problem.endswith("?")
    assert papers.rows()[0] == papers.get("vq")
    in_order = [CHAPTERS.index(paper.chapter) for paper in papers.rows()]
    assert in_order == sorted(in_order)


def test_the_file_holds_facts_only():
    facts = tomllib.loads(files.shipped("papers.toml").read_text(encoding="utf-8"))
    allowed = {"slug", "name", "title", "year", "arxiv", "repo", "chapter", "lesson", "parent"}
    assert set(facts) == {"chapter", "paper"}
    assert all(set(row) <= allowed and row.get("parent", True) is True for row in facts["paper"])


def test_known_facts():
    vq = papers.get("vq")
    assert (vq.title, vq.year, vq.chapter, vq.lesson, vq.parent) == (
        "Neural Discrete Representation Learning",
        2017,
        "quantize",
        1,
        True,
    )
    assert vq.url == "https://arxiv.org/abs/1711.00937"
    assert papers.get("fqgan").lesson == 5
    assert papers.get("electra").year == 2020


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(ValueError, match=r"no paper 'tomee': did you mean tome"):
        papers.get("tomee")
    with pytest.raises(ValueError, match=r"no paper '9999': 223 are known, none is near"):
        papers.get("9999")
    with pytest.raises(ValueError, match=r"no chapter 'quantise': did you mean quantize"):
        papers.rows(chapter="quantise")
    with pytest.raises(ValueError, match=r"no status 'plan': there are working and planned"):
        papers.rows(status="plan")


def test_places_follow_the_tree(project):
    names = {place: path.relative_to(project).as_posix() for place, path in papers.places("tome").items()}
    assert names == {
        "module": "minitok/reduce/tome.py",
        "notebook": "notebooks/06_reduce/02_tome.ipynb",
        "source": "notebooks/src/06_reduce/02_tome.py",
        "test": "tests/reduce/test_tome.py",
        "verdict": "data/verdicts/tome.json",
        "row": "data/papers.toml",
    }


def test_a_complete_lesson_is_working(vq_lesson):
    assert papers.status("vq") == "working"
    assert papers.rows(status="working") == [papers.get("vq")]
    assert papers.rows("quantize", "planned") == papers.rows("quantize")[1:]
    assert papers.rows("image", "working") == []


@pytest.mark.parametrize("place", ["module", "notebook", "source", "test", "verdict"])
def test_without_any_one_of_its_places_a_lesson_is_planned(vq_lesson, place):
    vq_lesson[place].unlink()
    assert papers.status("vq") == "planned"


@pytest.mark.parametrize("place", ["module", "source"])
def test_a_change_of_the_source_makes_the_verdict_stale(vq_lesson, place):
    original = vq_lesson[place].read_bytes()
    vq_lesson[place].write_bytes(original + b"x = 1\n")
    assert papers.status("vq") == "planned"
    assert "It may be stale" in papers.card("vq")
    vq_lesson[place].write_bytes(original.replace(b"\n", b"\r\n"))
    assert papers.status("vq") == "working"


def test_source_hash_tells_the_module_from_the_notebook(vq_lesson):
    before = papers.source_hash("vq")
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    module, source = vq_lesson["module"].read_bytes(), vq_lesson["source"].read_bytes()
    vq_lesson["module"].write_bytes(module + source)
    vq_lesson["source"].write_bytes(b"")
    assert papers.source_hash("vq") != before
    vq_lesson["source"].unlink()
    with pytest.raises(ValueError, match=r"vq has no source yet: notebooks/src/01_quantize/01_vq.py is missing"):
        papers.source_hash("vq")


def test_in_a_wheel_module_and_verdict_make_a_lesson_working(vq_lesson, project):
    (project / "data").rename(project / "minitok" / "_shipped")
    for folder in ("notebooks", "tests"):
        shutil.rmtree(project / folder)
    assert papers.status("vq") == "working"
    assert papers.status("rvq") == "planned"
    vq_lesson["module"].unlink()
    assert papers.status("vq") == "planned"


def test_a_verdict_that_is_not_json_is_named(vq_lesson):
    vq_lesson["verdict"].write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data/verdicts/vq.json is not JSON"):
        papers.status("vq")


def test_every_recorded_verdict_is_of_a_paper_and_fresh():
    for path in files.shipped("verdicts").glob("*.json"):
        assert registry.is_fresh(path.stem), f"{path.name} is stale: run `python do.py notebooks`"
        if "measured" in (registry.record(path.stem) or {}):  # older records are read, and written anew by the build
            assert path.read_text(encoding="utf-8") == verdicts.as_json(papers.recorded_verdict(path.stem))
