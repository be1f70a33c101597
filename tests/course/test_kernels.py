import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from minitok import cli, files
from minitok.course import kernels
from minitok.quantize import vq
from minitok.reduce.tome import match, tome
from minitok.stages import timed, timed_reduce


def test_the_torch_expression_finds_the_nearest_codes():
    z, codebook = torch.randn(1, 50, 8), torch.randn(20, 8)
    assert torch.equal(timed.by_product(z, codebook), vq.nearest(z, codebook)[0])


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_vectors_and_codes_of_the_bench_lie_as_far_from_zero_as_it_says(shift, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed here")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    case = timed.nearest(torch.device("cpu"), torch.float32, shift, n=50, K=20, d=8)
    z, codebook = case.contenders["addmm, argmin"].args
    assert torch.equal(case.right, vq.nearest(z, codebook)[0])
    assert z.mean().item() == pytest.approx(shift, abs=0.5)
    assert codebook.mean().item() == pytest.approx(shift, abs=0.5)
    assert ("100 from zero" in case.work) == (shift == 100)


def test_the_public_package_finds_the_nearest_codes_too():
    pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    z, codebook = torch.randn(1, 50, 8), torch.randn(20, 8)
    (look_up,) = timed.package(codebook, z).values()
    assert torch.equal(look_up()[0], vq.nearest(z, codebook)[0])


def measured(contenders, monkeypatch):
    """What `run` finds for a small case with these contenders, on the CPU, at 2 ms a call; the first one is ours."""
    case = timed.Case("a look-up", next(iter(contenders)), contenders, torch.arange(5), 1, 1, torch.float32, False)
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
    theirs = timed.package(torch.randn(20, 8), torch.randn(1, 50, 8))
    found = measured({"ours": lambda: torch.arange(5), **theirs, "a loop": lambda: torch.zeros(5)}, monkeypatch)
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

    found = measured({"ours": lambda: torch.arange(5), "cdist": large}, monkeypatch)
    assert found["rows"][1] == {"who": "cdist", "absent": "CUDA out of memory."}
    with pytest.raises(torch.OutOfMemoryError):
        measured({"ours": large}, monkeypatch)


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


def test_tome_as_published_makes_the_merges_of_the_reference():
    x = torch.randn(2, 41, 8)
    tokens, merged, into = timed_reduce.published(x, 15)
    edges = timed_reduce.edges(match(x, 15), 26)
    assert torch.equal(into.new_full((2, 21), -1).scatter(1, merged, into), edges)
    assert (edges >= 0).sum(1).tolist() == [15, 15]
    # It lists other places first.
    ours = tome(x, 26).apply(x)
    torch.testing.assert_close(tokens.sort(1).values, ours.sort(1).values)
    assert not torch.allclose(tokens, ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_contender_of_the_merging_is_asked_for_its_edges(dtype, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed here")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    case = timed_reduce.merging(torch.device("cpu"), dtype, b=1, n=22, c=8, r=5)
    assert case.contenders.keys() == case.answers.keys()
    assert {call().shape for call in case.contenders.values()} == {(1, 17, 8)}
    found = {who: (call().flatten() == case.right).double().mean().item() for who, call in case.answers.items()}
    # What was published compares in the type of the tokens.
    assert all(share == 1 for who, share in found.items() if dtype == torch.float32 or "published" not in who)
    assert (case.moved, case.operations) == (8 * (22 + 17) * dtype.itemsize, 2 * 11 * 11 * 8)


def test_the_choice_from_tokens_is_the_one_from_distances(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed here")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    for make, kept in ((timed_reduce.choice, 5), (timed_reduce.max_min, 5)):
        case = make(torch.device("cpu"), n=20, k=5, c=4)
        assert all(torch.equal(call(), case.right) for call in case.contenders.values())
        assert case.right.shape == (kept,)


def test_an_answer_beside_a_contender_is_what_counts(monkeypatch):
    right = torch.tensor([1, 2, 3, 4])
    contenders = {"ours": lambda: right + 1, "loop": lambda: right}
    answers = {"ours": lambda: right.clone().index_fill_(0, torch.tensor([0]), 9)}
    case = timed.Case("a choice", "ours", contenders, right, 1, 1, torch.float32, False, answers)
    monkeypatch.setattr(kernels, "CASES", {"small": lambda device: case})
    monkeypatch.setattr(kernels, "ceilings", lambda *_: (1e9, 1e9))
    monkeypatch.setattr(kernels, "median_seconds", lambda *_: 0.002)
    assert [row["agreement"] for row in kernels.run("small", torch.device("cpu"))["rows"]] == [0.75, 1.0]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--kernels"]) == 2
    assert "on a GPU, and there is none here" in capsys.readouterr().err


def test_products_restores_what_was_set():
    before = torch.backends.cuda.matmul.allow_tf32
    with timed.products(not before):
        assert torch.backends.cuda.matmul.allow_tf32 != before
        assert not timed.precisely(lambda: torch.tensor(torch.backends.cuda.matmul.allow_tf32))()
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
    cases = figures["cases"]
    look_ups, merges = ([case for case in cases if case["work"].startswith(name)] for name in ("nearest", "ToMe"))
    whole, choice = cases[-2:]
    for case in figures["cases"]:
        ours, *others = case["rows"]
        assert ours["who"] == case["ours"]
        assert ours["agreement"] >= 0.999
        # One that merges other tokens may take less: ToMe as published compares in bfloat16.
        rivals = [row for row in others if case not in merges or row["agreement"] >= 0.999]
        times = [row["milliseconds"] for row in rivals if not row["who"].startswith(case["ours"])]
        assert case["floor in milliseconds"] < ours["milliseconds"] < min(times)
    for case in look_ups:
        assert all(row["milliseconds"] > 5 * case["rows"][0]["milliseconds"] for row in case["rows"][1:])
    for case in merges:
        at = {row["who"]: row["milliseconds"] for row in case["rows"]}
        assert at["the reference"] > 5 * at["ours (Triton)"]
        assert min(at, key=lambda who: at[who]) == "ours (Triton), in a CUDA graph"
        assert at["ToMe as published, in a CUDA graph"] > 4 * at["ours (Triton), in a CUDA graph"]
    assert whole["rows"][0]["milliseconds"] <= 3 * whole["floor in milliseconds"]
    assert choice["rows"][1]["who"] == "loop of torch calls"
    assert choice["rows"][1]["milliseconds"] > 20 * choice["rows"][0]["milliseconds"]
    assert all(row["agreement"] == 1 for row in choice["rows"])
