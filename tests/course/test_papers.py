"""What the registry prints: tables, cards, citations, the README's part."""

import json
import re

import pytest
import yaml

import minitok
from minitok import files, papers
from minitok.course import catalogue

README = f"# minitok\n\n{catalogue.BEGIN}\nold\n{catalogue.END}\n\nThe end.\n"


def test_cite_gives_bibtex():
    assert papers.cite("attention") == (
        "@misc{attention2017,\n  title = {{Attention Is All You Need}},\n  year = {2017},\n"
        "  eprint = {1706.03762},\n  archivePrefix = {arXiv},\n  url = {https://arxiv.org/abs/1706.03762}\n}"
    )
    assert r"Mutual Choice \& Feature Choice" in papers.cite("choice_sae")
    assert r"{{S\^{}2IP-LLM: " in papers.cite("s2ip_llm")
    assert r"How \textless{}SEG\textgreater{} Token Works" in papers.cite("read")
    with pytest.raises(ValueError, match=r"random_drop .* has no paper to cite"):
        papers.cite("random_drop")


def test_table_has_a_line_each_and_the_counts(vq_lesson):
    lines = papers.table(papers.rows("quantize")).splitlines()
    assert lines[0].split() == ["lesson", "slug", "name", "year", "arXiv", "status", "verdict"]
    first = "01.01 +vq +Vector quantization \\(VQ-VAE\\) +2017 +1711.00937 +working +holds"
    assert re.fullmatch(first, lines[1])
    assert re.fullmatch("01.05 +fqgan +FQGAN +2024 +2411.16681 +planned", lines[5])
    assert lines[-1] == "Lessons: 8 (papers: 4, parents that they build on: 4). Working: 1. Planned: 7."
    assert len(lines) == 11
    assert "Lessons: 0 (" in papers.table([])
    assert re.search(r"random_drop .* \(the baseline\) +- +- +planned\n", papers.table(papers.rows("reduce")))


def test_dicts_hold_facts_status_and_outcome(vq_lesson):
    first, second = papers.as_dicts(papers.rows("quantize"))[:2]
    assert (first["slug"], first["status"], first["outcome"]) == ("vq", "working", "holds")
    assert (second["slug"], second["status"], second["outcome"]) == ("rvq", "planned", None)
    assert json.loads(json.dumps(first))["arxiv"] == "1711.00937"


def test_card_shows_facts_places_and_verdict(vq_lesson):
    vq_lesson["test"].unlink()
    card = papers.card("vq")
    for part in ("https://arxiv.org/abs/1711.00937", "https://github.com/google-deepmind/sonnet", "27.2"):
        assert part in card
    assert re.search(r"test +tests/quantize/test_vq.py +missing\n", card)
    assert re.search(r"module +minitok/quantize/vq.py\n", card)
    assert "Status: planned" in card
    assert "http" not in papers.card("random_drop")


def test_readme_table_links_what_works(vq_lesson):
    page = papers.readme_table()
    assert page.count("<details>") == page.count("</details>") == 16
    assert page.count("| planned |") == 222
    assert "| 1 of 8 |" in page
    assert "| 0 of 28 |" in page
    method = "*[Vector quantization (VQ-VAE)](notebooks/01_quantize/01_vq.ipynb)*"
    source = "[Neural Discrete Representation Learning](https://arxiv.org/abs/1711.00937), 2017"
    assert f"| 1 | {method} | {source} | holds: PSNR 27.2 dB against 24.1 dB |" in page
    assert "How &lt;SEG&gt; Token Works" in page
    assert "| *Random token dropping (the baseline)* | no paper | planned |" in page


def test_update_readme_replaces_what_stands_between_the_markers(project):
    readme = project / "README.md"
    readme.write_text(README, encoding="utf-8")
    papers.update_readme()
    filled = readme.read_text(encoding="utf-8")
    assert filled == README.replace("\nold\n", f"\n\n{papers.readme_table()}\n\n")
    assert papers.fill_readme(filled) == filled
    other = project / "OTHER.md"
    other.write_text(README, encoding="utf-8")
    papers.update_readme(other)
    assert other.read_text(encoding="utf-8") == filled


@pytest.mark.parametrize(
    "text", ["", catalogue.BEGIN, catalogue.END, f"{catalogue.END}{catalogue.BEGIN}", README + README], ids=str
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match=r"the README needs one line <!-- papers:begin -->"):
        papers.fill_readme(text)


def test_the_readme_is_fresh():
    text = (files.ROOT / "README.md").read_text(encoding="utf-8")
    assert papers.fill_readme(text) == text, "the README's table is stale: run papers.update_readme()"


def test_citation_file_agrees_with_the_package():
    card = yaml.safe_load((files.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (card["cff-version"], card["title"], card["type"]) == ("1.2.0", "minitok", "software")
    assert str(card["version"]) == minitok.__version__
    assert (card["license"], card["authors"]) == ("MIT", [{"name": "The minitok founders"}])
