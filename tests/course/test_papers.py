"""What the registry prints: tables, cards, citations, the README's part."""

import json
import re
import runpy

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


def test_the_catalogue_shows_what_there_is_and_folds_what_is_planned(vq_lesson, project):
    files.write(vq_lesson["source"], "# %% [markdown]\n# # VQ: codes\n#\n# **Read first:** nothing.\n")
    folder = vq_lesson["source"].parent
    files.write(folder / "02_rvq.py", "# %% [markdown]\n# # RVQ\n#\n# **Read first:** [VQ](01_vq.ipynb).\n")
    files.write(papers.places("rvq")["notebook"], '{"metadata": {"minitok": {"minutes": 7}}}')
    files.write(vq_lesson["notebook"], '{"metadata": {}}')
    page = catalogue.lessons_page()
    assert "| 1 | *[Vector quantization (VQ-VAE)](01_quantize/01_vq.ipynb)* | to be measured again | 0 | - |" in page
    soundstream = "[Residual vector quantization (SoundStream)](01_quantize/02_rvq.ipynb)"
    assert f"| 2 | *{soundstream}* | to be measured again | 7 | [VQ](01_quantize/01_vq.ipynb) |" in page
    assert page.count("<details>") == page.count("</details>") == 16
    assert page.count("- Lesson ") == 221
    title = "[Factorized Visual Tokenization and Generation](https://arxiv.org/abs/2411.16681)"
    assert f"- Lesson 5, FQGAN: {title}, 2024\n" in page
    assert "How &lt;SEG&gt; Token Works" in page
    assert "- Lesson 1, Random token dropping (the baseline)\n" in page
    assert '  subgraph c01["quantize"]\n    n0101["Vector quantization (VQ-VAE)"]\n' in page
    assert "  n0101 --> n0102\n```" in page
    assert "verdict  vq  its module or its notebook has changed since" in page
    assert "verdict  vq" not in catalogue.settled(page)
    assert "n0101 --> n0102" in catalogue.settled(page)


def test_a_finding_is_one_line(vq_lesson):
    assert catalogue._finding(papers.get("vq")) == "holds: PSNR 27.2 dB against 24.1 dB"


def test_update_pages_writes_the_catalogue_and_the_readmes_chapters(vq_lesson, project):
    files.write(vq_lesson["notebook"], '{"metadata": {}}')
    (project / "README.md").write_text(README, encoding="utf-8")
    papers.update_pages()
    filled = (project / "README.md").read_text(encoding="utf-8")
    table = f"{catalogue.counts(papers.rows())}\n\n{papers.chapter_table()}"
    assert filled == README.replace("\nold\n", f"\n\n{table}\n\n")
    assert "| 1 | [`quantize`](notebooks/01_quantize) | " in filled
    assert "| 1 of 8 |" in filled
    assert "| 0 of 28 |" in filled
    assert catalogue.fill_readme(filled) == filled
    assert (project / "notebooks" / "README.md").read_text(encoding="utf-8") == catalogue.lessons_page()


@pytest.mark.parametrize(
    "text", ["", catalogue.BEGIN, catalogue.END, f"{catalogue.END}{catalogue.BEGIN}", README + README], ids=str
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match=r"the README needs one line <!-- chapters:begin -->"):
        catalogue.fill_readme(text)


def test_the_pages_are_fresh():
    readme, page = (files.ROOT / name for name in ("README.md", "notebooks/README.md"))
    again = "made from other lessons: run `python do.py notebooks`"
    text = readme.read_text(encoding="utf-8")
    assert catalogue.fill_readme(text) == text, f"README.md was {again}"
    before = catalogue.settled(page.read_text(encoding="utf-8"))
    assert catalogue.settled(catalogue.lessons_page()) == before, f"notebooks/README.md was {again}"


def test_the_readme_is_short_and_its_example_runs(capsys):
    text = (files.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 7
    expected = re.findall(r"^print\(.*\)  # (.+)$", example, flags=re.MULTILINE)
    exec(example, {})
    assert capsys.readouterr().out.splitlines() == expected
    jobs = re.findall(r"^\| `python3? do\.py (\w+)", text, flags=re.MULTILINE)
    assert set(jobs) == set(runpy.run_path(str(files.ROOT / "do.py"))["JOBS"])
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (files.ROOT / target).exists(), target


def test_citation_file_agrees_with_the_package():
    card = yaml.safe_load((files.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (card["cff-version"], card["title"], card["type"]) == ("1.2.0", "minitok", "software")
    assert str(card["version"]) == minitok.__version__
    assert (card["license"], card["authors"]) == ("MIT", [{"name": "The minitok founders"}])
