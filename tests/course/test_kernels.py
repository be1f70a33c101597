import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from minitok import cli, files
from minitok.course import kernels
from minitok.quantize import vq


def test_the_torch_expression_finds_the_nearest_codes():
    z, codebook = torch.randn(1, 50, 8), torch.randn(20, 8)
    assert torch.equal(kernels.by_product(z, codebook), vq.nearest(z, codebook)[0])


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_vectors_and_codes_of_the_bench_lie_as_far_from_zero_as_it_says(shift, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed here")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    case = kernels.nearest(torch.device("cpu"), torch.float32, shift, n=50, K=20, d=8)
    z, codebook = case.contenders["addmm, argmin"].args
    assert torch.equal(case.right, vq.nearest(z, codebook)[0])
    assert z.mean().item() == pytest.approx(shift, abs=0.5)
    assert codebook.mean().item() == pytest.approx(shift, abs=0.5)
    assert ("100 from zero" in case.work) == (shift == 100)


def test_the_public_package_finds_the_nearest_codes_too():
    pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    z, codebook = torch.randn(1, 50, 8), torch.randn(20, 8)
    (look_up,) = kernels.package(codebook, z).values()
    assert torch.equal(look_up()[0], vq.nearest(z, codebook)[0])


def timed(contenders, monkeypatch):
    """What `run` finds for a small case with these contenders, on the CPU, at 2 ms a call; the first one is ours."""
    case = kernels.Case("a look-up", next(iter(contenders)), contenders, torch.arange(5), 1, 1, torch.float32, False)
    monkeypatch.setattr(kernels, "CASES", {"small": lambda device: case})
    monkeypatch.setattr(kernels, "ceilings", lambda *_: (1e9, 1e9))
    monkeypatch.setattr(kernels, "median_seconds", lambda *_: 0.002)
    return kernels.run("small", torch.device("cpu"))


@pytest.mark.parametrize(
    ("package", "told"),
    [
        ("raise ImportError(\"No module named 'loguru'\")", "No module named 'loguru'"),
        ("raise RuntimeError", "RuntimeError"),
        ("", "module 'vector_quantize_pytorch' has no attribute 'VectorQuantize'"),
        ("class VectorQuantize:\n    def __init__(self, dim): ...", "unexpected keyword argument 'codebook_size'"),
        ("class VectorQuantize:\n    def __init__(self, **_): ...", "has no attribute '_codebook'"),
    ],
)
def test_a_package_that_cannot_be_used_is_told_as_absent_and_the_others_are_timed(package, told, tmp_path, monkeypatch):
    (tmp_path / "vector_quantize_pytorch.py").write_text(package)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vector_quantize_pytorch", raising=False)
    theirs = kernels.package(torch.randn(20, 8), torch.randn(1, 50, 8))
    found = timed({"ours": lambda: torch.arange(5), **theirs, "a loop": lambda: torch.zeros(5)}, monkeypatch)
    ours, absent, loop = found["rows"]
    assert absent["who"] == "vector-quantize-pytorch"
    assert told in absent["absent"]
    assert (ours["agreement"], loop["agreement"]) == (1, 0.2)
    lines = kernels.table({"device": "a card", "cases": [found]}).splitlines()
    assert ["ours", "2.00", "1.0", "100.00%"] in [line.split() for line in lines]
    assert any(line.startswith("vector-quantize-pytorch  absent: ") for line in lines)


def test_a_call_that_fails_is_told_as_absent_in_one_line_unless_it_is_ours(monkeypatch):
    def large():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 16 GiB")

    found = timed({"ours": lambda: torch.arange(5), "cdist": large}, monkeypatch)
    assert found["rows"][1] == {"who": "cdist", "absent": "CUDA out of memory."}
    with pytest.raises(torch.OutOfMemoryError):
        timed({"ours": large}, monkeypatch)


def test_a_package_that_pip_does_not_know_ends_no_bench(tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed here")
    (tmp_path / "vector_quantize_pytorch.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in {"is_available": lambda: True, "get_device_name": lambda: "a card"}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(kernels, "CASES", {})
    monkeypatch.setattr("importlib.metadata.distribution", _unknown)
    assert kernels.measure()["vector-quantize-pytorch"] == "of no known version"


def _unknown(name):
    raise PackageNotFoundError(name)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--kernels"]) == 2
    assert "on a GPU, and there is none here" in capsys.readouterr().err


def test_products_restores_what_was_set():
    before = torch.backends.cuda.matmul.allow_tf32
    with kernels.products(not before):
        assert torch.backends.cuda.matmul.allow_tf32 != before
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_the_table_gives_times_as_ratios_to_ours():
    rows = [
        {"who": "ours (Triton)", "milliseconds": 2.0, "agreement": 1.0},
        {"who": "loop", "milliseconds": 30.0, "agreement": 0.999},
    ]
    case = {"work": "a choice", "floor in milliseconds": 0.5, "ours": "ours (Triton)", "rows": rows}
    told = kernels.table({"device": "a card", "torch": "2.11", "cases": [case]})
    assert told.splitlines()[0] == "a card, torch 2.11"
    assert [line.split()[-3:] for line in told.splitlines()[-3:-1]] == [
        ["2.00", "1.0", "100.00%"],
        ["30.00", "15.0", "99.90%"],
    ]
    assert told.splitlines()[-1].split() == ["floor", "0.50", "0.25"]


def test_the_shipped_figures_keep_what_the_kernels_promise():
    figures = json.loads(files.shipped("bench", "kernels.json").read_text(encoding="utf-8"))
    assert {"device", "torch", "triton", "vector-quantize-pytorch"} <= figures.keys()
    assert 4 <= len(figures["cases"]) <= len(kernels.CASES)
    look_ups, choice = [case for case in figures["cases"] if case["work"].startswith("nearest")], figures["cases"][-1]
    for case in figures["cases"]:
        ours, *others = case["rows"]
        assert ours["who"] == case["ours"]
        assert ours["agreement"] >= 0.999
        assert case["floor in milliseconds"] < ours["milliseconds"] < min(row["milliseconds"] for row in others)
    for case in look_ups:
        assert all(row["milliseconds"] > 5 * case["rows"][0]["milliseconds"] for row in case["rows"][1:])
    assert choice["rows"][1]["who"] == "loop of torch calls"
    assert choice["rows"][1]["milliseconds"] > 20 * choice["rows"][0]["milliseconds"]
    assert all(row["agreement"] == 1 for row in choice["rows"])
