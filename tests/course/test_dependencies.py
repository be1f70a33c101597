"""What a file depends on, by a made-up package, and how records say that it changed."""

import json
import shutil

import pytest

from minitok import files
from minitok.course import dependencies, records

FILES = {
    "minitok/__init__.py": "",
    "minitok/files.py": "",
    "minitok/nn.py": "from minitok import files\n",
    "minitok/papers.py": "from minitok import nn\n",
    "minitok/course/kernels.py": "from minitok.quantize import vq\n",
    "minitok/quantize/__init__.py": "from minitok.quantize._common import Code\nfrom minitok.quantize.vq import VQ\n",
    "minitok/quantize/_common.py": "class Code: ...\n",
    "minitok/quantize/vq.py": "import torch\nfrom minitok.quantize import Code\n",
    "minitok/house/__init__.py": 'NAMES = ("vit", "gpt")\ndef load(name): ...\n',
    "minitok/house/vit.py": 'from minitok import house\nimport minitok.nn as net\nhouse.load("vit")\n',
    "minitok/house/gpt.py": "",
    "minitok/stages/__init__.py": "",
    "minitok/stages/reduce.py": 'from minitok import house\n\ndef f():\n    return house.load("vit")\n',
    "data/papers.toml": "",
    "data/checkpoints/vit.json": '{"sha256": "1"}',
    "data/checkpoints/vit.safetensors": "1",
    "data/checkpoints/gpt.json": "{}",
    "data/checkpoints/gpt.safetensors": "2",
    "data/leagues/reduce.json": '{"rows": []}',
    "data/bench/kernels.json": "{}",
}


@pytest.fixture
def package(project):
    for name, text in FILES.items():
        if name != "data/papers.toml":
            files.write(project / name, text)
    return project


def reached(package, text):
    files.write(package / "lesson.py", text)
    found = dependencies.closure(package / "lesson.py")
    assert found[0] == package / "lesson.py"
    return [path.relative_to(package).as_posix() for path in found[1:]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch", []),
        ("from minitok import nn", ["files", "nn"]),
        ("import minitok.nn", ["files", "nn"]),
        ("def f():\n    from minitok.nn import x", ["files", "nn"]),
        ("from minitok.quantize import Code", ["quantize/_common"]),
        ("from minitok.quantize import VQ", ["quantize/_common", "quantize/vq"]),
        ("from minitok.quantize.vq import VQ", ["quantize/_common", "quantize/vq"]),
        ("from minitok import quantize", ["quantize/__init__", "quantize/_common", "quantize/vq"]),
        ("from minitok.house import load", ["house/__init__"]),
        ('import_module("minitok.nn")', ["files", "nn"]),
        ("from minitok import papers\nfrom minitok.course import kernels\nfrom minitok import nothing", []),
    ],
)
def test_the_closure_follows_imports_wherever_they_stand(package, text, found):
    assert reached(package, text) == [f"minitok/{name}.py" for name in found]


def test_the_closure_holds_models_and_leagues_that_are_loaded_by_name(package):
    weights = [f"data/checkpoints/{name}.{end}" for name in ("gpt", "vit") for end in ("json", "safetensors")]
    code = [f"minitok/{name}.py" for name in ("files", "house/__init__", "house/vit", "nn")]
    assert reached(package, 'from minitok import house\nhouse.load("vit")') == [*weights[2:], *code]
    assert reached(package, "from minitok import house\n[house.load(n) for n in house.NAMES]") == sorted(
        [*weights, *code, "minitok/house/gpt.py"]
    )
    assert reached(package, 'print("vit")') == []
    league = reached(package, 'from minitok import stages\nstages.load("reduce")')
    assert {"data/leagues/reduce.json", "minitok/stages/reduce.py", *weights[2:]} <= set(league)


def test_comments_and_docstrings_do_not_count_and_code_and_models_do(package):
    path = package / "minitok/stages/reduce.py"
    before = dependencies.digests(path)
    assert set(before) >= {"minitok/stages/reduce.py", "minitok/nn.py", "data/checkpoints/vit.safetensors"}
    files.write(package / "minitok/nn.py", '"""Networks."""\n\n# of files\nfrom minitok import files  # all of them\n')
    files.write(package / "data/checkpoints/vit.json", '{"depends": {}, "sha256": "1"}')
    assert dependencies.digests(path) == before
    files.write(package / "minitok/nn.py", "from minitok import files\nx = '#'\n")
    assert dependencies.changes(before, dependencies.digests(path)) == ["minitok/nn.py"]
    files.write(package / "data/checkpoints/vit.safetensors", "other")
    whole = dependencies.digest(path)
    files.write(package / "data/checkpoints/vit.safetensors", "another")
    assert len(whole) == 16
    assert dependencies.digest(path) != whole


def test_records_say_what_changed_since_they_were_made(package):
    unknown = [records.Stale(kind, name, records.UNKNOWN) for kind, name in (("league", "reduce"), ("model", "gpt"))]
    assert unknown[0] in records.stale()
    assert unknown[1] in records.stale()
    for folder, name in (("leagues", "reduce"), ("checkpoints", "vit"), ("checkpoints", "gpt"), ("bench", "kernels")):
        run = package / "runs"
        shutil.copytree(files.shipped(folder), run, dirs_exist_ok=True)
        records.stamp(folder, name, records.depends(folder, name), run, shipped=True)
        assert (run / f"{name}.json").read_bytes() == files.shipped(folder, f"{name}.json").read_bytes()
    assert records.stale() == []
    assert json.loads(files.shipped("leagues", "reduce.json").read_text())["rows"] == []
    files.write(package / "minitok/quantize/vq.py", "import torch\n")
    (package / "data/checkpoints/vit.safetensors").write_text("other")
    assert records.stale() == [
        records.Stale("league", "reduce", "changed since: data/checkpoints/vit.safetensors"),
        records.Stale("bench", "kernels", "changed since: minitok/quantize/_common.py, minitok/quantize/vq.py"),
    ]


def test_a_record_without_a_maker_and_an_installed_package_say_so(package):
    files.write(package / "data/leagues/lost.json", '{"depends": {}}')
    assert (
        records.Stale("league", "lost", "no module minitok/stages/lost makes lost of data/leagues") in records.stale()
    )
    shutil.move(package / "data", package / "minitok/_shipped")
    with pytest.raises(FileNotFoundError, match="only a clone"):
        records.stale()


def test_a_stale_verdict_is_listed(vq_lesson):
    assert records.stale() == []
    vq_lesson["module"].write_text("changed = True\n", encoding="utf-8")
    assert [(found.kind, found.name) for found in records.stale()] == [("verdict", "vq")]


def test_every_record_of_the_project_has_a_maker():
    for folder in records.MAKERS:
        for path in files.shipped(folder).glob("*.json"):
            assert len(records.depends(folder, path.stem)) > 3
