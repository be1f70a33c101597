import json
import sys

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


def test_a_package_that_does_not_load_is_told_as_absent_and_the_others_are_timed(tmp_path, monkeypatch):
    broken = tmp_path / "vector_quantize_pytorch.py"
    broken.write_text("raise ImportError(\"No module named 'loguru'\")")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vector_quantize_pytorch", raising=False)
    z, codebook = torch.randn(1, 50, 8), torch.randn(20, 8)
    right = vq.nearest(z, codebook)[0]
    contenders = {"ours": lambda: right} | kernels.package(codebook, z)
    case = kernels.Case("a look-up", "ours", contenders, right, 1, 1, torch.float32, False)
    monkeypatch.setattr(kernels, "CASES", {"small": lambda device: case})
    monkeypatch.setattr(kernels, "ceilings", lambda *_: (1e9, 1e9))
    monkeypatch.setattr(kernels, "median_seconds", lambda *_: 0.002)
    found = kernels.run("small", torch.device("cpu"))
    assert found["rows"][1] == {"who": "vector-quantize-pytorch", "absent": "No module named 'loguru'"}
    told = kernels.table({"device": "a card", "cases": [found]})
    assert "absent: No module named 'loguru'" in told
    assert ["ours", "2.00", "1.0", "100.00%"] in [line.split() for line in told.splitlines()]


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
