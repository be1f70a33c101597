"""The fast path of ToMe beside its reference; Triton interprets it where there is no GPU."""

import pytest
import torch

from minitok.reduce import tome as reference
from minitok.reduce._common import Reduction
from minitok.reduce.tome import match

fast = pytest.importorskip("minitok.reduce.tome_triton", reason="Triton is not installed here")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def merges(x, k, **signals):
    """The fast path's merge, of tensors that it has on its device."""
    return fast.tome(x.to(DEVICE), k, **{name: signal.to(DEVICE) for name, signal in signals.items()})


def close(found, expected, dtype):
    # Triton's interpreter cuts where bfloat16 rounds.
    tolerance = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.cpu(), expected, atol=tolerance, rtol=tolerance)


# A program holds 32 tokens of set A, walks over 16 of set B and 32 channels at a time: less, just as much, and more.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("b", "n", "c", "r"), [(1, 2, 1, 1), (2, 3, 5, 1), (1, 33, 33, 16), (1, 64, 32, 20), (1, 71, 70, 3)]
)
def test_one_step_is_the_reference(b, n, c, r, dtype):
    x = torch.randn(b, n, c).to(dtype)
    expected, found = match(x, r), merges(x, n - r)
    assert torch.equal(found.assignment.cpu(), expected)
    close(found.apply(x.to(DEVICE)), Reduction.merge(expected, n - r).apply(x), dtype)


def test_one_step_of_bfloat16_is_the_reference():
    x = torch.randn(1, 35, 8).bfloat16()
    expected, found = match(x, 9), merges(x, 26)
    assert torch.equal(found.assignment.cpu(), expected)
    assert torch.equal(fast.match(x.to(DEVICE), 9).cpu(), expected)
    close(found.apply(x.to(DEVICE)), Reduction.merge(expected, 26).apply(x), torch.bfloat16)


@pytest.mark.parametrize("k", [2, 9, 10, 18, 19])
def test_keys_sizes_and_several_rounds_are_those_of_the_reference(k):
    x, keys, size = torch.randn(2, 19, 3), torch.randn(2, 2, 19, 4), torch.randint(1, 9, (2, 19)).float()
    found, expected = merges(x, k, keys=keys, size=size), reference(x, k, keys=keys, size=size)
    assert torch.equal(found.assignment.cpu(), expected.assignment)
    close(found.apply(x.to(DEVICE)), expected.apply(x), torch.float32)
    torch.testing.assert_close(found.sizes(size.to(DEVICE)).cpu(), expected.sizes(size))
    if k == 2:
        close(merges(x, k, keys=keys).apply(x.to(DEVICE)), reference(x, k, keys=keys).apply(x), torch.float32)


def test_six_tokens_by_hand():
    # The angle of each key in degrees. Even places 0, 2, 4 look for the nearest of 1, 3, 5.
    angle = torch.tensor([0.0, 90.0, 85.0, 4.0, 50.0, 93.0]).deg2rad()
    keys, x = torch.stack([angle.cos(), angle.sin()], -1)[None, None], 2 ** torch.arange(6.0)[None, :, None]
    assert merges(x, 4, keys=keys).assignment.tolist() == [[0, 1, 1, 0, 2, 3]]
    found = merges(x, 3, keys=keys)
    assert found.assignment.tolist() == [[0, 1, 1, 0, 1, 2]]
    # 2 and 4 go to 1, then 0 to 3; outputs 0 and 1 begin there at 2 and 0; 5 stays alone.
    assert found.members.tolist() == [[2, 4, 0]]
    assert found.lists.tolist() == [[[3, 1, 5], [2, 0, 3], [1, 2, 0]]]
    assert found.apply(x.to(DEVICE)).flatten().tolist() == [4.5, pytest.approx(22 / 3), 32.0]
    size = torch.tensor([[1.0, 1.0, 2.0, 3.0, 1.0, 1.0]])
    weighed = merges(x, 3, keys=keys, size=size).apply(x.to(DEVICE))
    assert weighed.flatten().tolist() == [(1 + 24) / 4, (2 + 8 + 16) / 4, 32.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_of_equally_near_tokens_the_lower_index_counts(dtype):
    same = torch.ones(1, 36, 2).to(dtype)
    assert torch.equal(fast.match(same.to(DEVICE), 9).cpu(), match(same, 9))
    # Two tokens of set B are one; and cosines of 0 and -0 are equally strong.
    twins = torch.tensor([[[1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0]]]).to(dtype)
    assert fast.match(twins.to(DEVICE), 2).tolist() == match(twins, 2).tolist() == [[0, 0, 1, 2, 0, 3]]
    zeros = torch.tensor([[[-0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-0.0, -1.0], [1.0, -0.0]]]).to(dtype)
    assert fast.match(zeros.to(DEVICE), 1).tolist() == match(zeros, 1).tolist() == [[0, 0, 1, 2, 3, 4]]


def test_float32_tells_apart_what_ten_bits_do_not():
    # In set B the cosine with every token of A grows by 3e-6 from one to the next.
    n, order = 40, torch.randperm(20)
    x = torch.zeros(1, n, 3)
    x[0, ::2] = torch.tensor([0.6, 0.8, 0.0])
    cosine = 0.5 + 3e-6 * order.double()
    x[0, 1::2] = torch.stack([0.6 * cosine, 0.8 * cosine, (1 - cosine**2).sqrt()], -1).float()
    expected = match(x.double(), 5)
    assert (expected[0, 1::2].unique().numel(), expected[0, 0]) == (20, expected[0, 2 * order.argmax() + 1])
    assert torch.equal(fast.match(x.to(DEVICE), 5).cpu(), expected)
    turned = torch.cat([x[:, 1:], x[:, :1]], 1)  # now the tokens of A differ, and which edges are strongest
    assert torch.equal(fast.match(turned.to(DEVICE), 5).cpu(), match(turned.double(), 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_directions_count_also_of_long_and_short_tokens(dtype):
    x = torch.randn(1, 30, 5).to(dtype)
    scaled = x * 2.0 ** torch.randint(-6, 7, (1, 30, 1))
    assert torch.equal(fast.match(scaled.to(DEVICE), 8).cpu(), match(x, 8))
    scaled[0, [4, 9]] = 0
    assert torch.equal(fast.match(scaled.to(DEVICE), 15).cpu(), match(scaled, 15))


def test_all_may_go_to_one_and_the_rest_of_the_contract_stays():
    x = torch.randn(1, 24, 5)
    x[0, ::2] = x[0, 3] + 0.1 * x[0, ::2]
    found, expected = merges(x, 12), reference(x, 12)
    assert found.lists[0, 2].max() == 12
    close(found.apply(x.to(DEVICE)), expected.apply(x), torch.float32)
    wide, beside = torch.randn(1, 27, 5), found.beside(1, 2)
    close(beside.apply(wide.to(DEVICE)), expected.beside(1, 2).apply(wide), torch.float32)
    torch.testing.assert_close(found.matrix().cpu(), expected.matrix())
    assert torch.equal(found.order.cpu(), expected.order)


def test_gradients_and_float64_are_those_of_the_reference():
    x = torch.randn(1, 12, 3, requires_grad=True)
    found, expected = merges(x.detach(), 7), reference(x.detach(), 7)
    leaf = x.detach().to(DEVICE).requires_grad_()
    found.apply(leaf).square().sum().backward()
    expected.apply(x).square().sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.cpu(), x.grad)
    with torch.no_grad():
        torch.testing.assert_close(found.apply(leaf).cpu(), expected.apply(x))
    torch.testing.assert_close(found.apply(leaf.detach().double()).cpu(), expected.apply(x.detach().double()))


def test_strides_empty_batches_and_nothing_to_merge():
    x = torch.randn(2, 4, 11).mT
    assert torch.equal(merges(x, 8).assignment.cpu(), match(x, 3))
    close(merges(x, 8).apply(x.to(DEVICE)), reference(x, 8).apply(x), torch.float32)
    assert merges(torch.zeros(0, 6, 2), 4).apply(torch.zeros(0, 6, 2, device=DEVICE)).shape == (0, 4, 2)
    assert torch.equal(merges(x, 11).apply(x.to(DEVICE)).cpu(), x)
    assert merges(torch.ones(1, 1, 3), 1).assignment.tolist() == [[0]]


BAD = torch.ones(1, 6, 2).index_fill(1, torch.tensor([2]), torch.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fast.match(torch.ones(1, 6, 2), 4), "r=4 came, expected 1 to 3, half of the 6 tokens"),
        (lambda: fast.match(torch.ones(1, 6, 2), 0), "r=0 came"),
        (lambda: fast.match(torch.ones(1, 6, 2).double(), 2), "metric of type torch.float64 came"),
        (lambda: fast.match(torch.ones(1, 1, 1).expand(1, 16_385, 1), 2), "n=16385 tokens, expected at most 16384"),
        (lambda: merges(BAD, 4), "holds NaN or infinity"),
        (lambda: merges(BAD.roll(1, 1), 4), "holds NaN or infinity"),
        (lambda: merges(BAD.bfloat16(), 4), "holds NaN or infinity"),
        (lambda: merges(BAD.roll(1, 1).half(), 4), "holds NaN or infinity"),
        (lambda: merges(BAD.nan_to_num(torch.inf), 4), "holds NaN or infinity"),
        (lambda: merges(torch.ones(1, 6, 2), 7), "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (lambda: merges(torch.ones(6, 2), 3), r"x of shape \(6, 2\) came, expected \(b, n, c\)"),
        (lambda: merges(torch.ones(1, 6, 2), 3, keys=torch.ones(1, 5, 2)), r"keys of shape \(1, 5, 2\) came"),
        (lambda: merges(torch.ones(1, 6, 2), 3, size=torch.zeros(1, 6)), "size from 0 came, expected above 0"),
        (lambda: merges(torch.ones(1, 6, 2), 3, size=torch.ones(1, 5)), r"size of shape \(1, 5\) came"),
        (lambda: merges(torch.ones(1, 6, 2), 3).apply(torch.ones(1, 5, 2)), r"x of shape \(1, 5, 2\) came"),
    ],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("unchecked")
def test_it_wants_a_gpu_where_triton_compiles(monkeypatch):
    monkeypatch.setattr("minitok.reduce._launch.interpreted", lambda: False)
    with pytest.raises(ValueError, match=r"metric is on cpu: this function runs on a GPU, that of tome.py anywhere"):
        fast.match(torch.zeros(1, 4, 2), 2)


def test_on_a_gpu_blocks_fit_its_shared_memory(monkeypatch):
    monkeypatch.setattr(fast, "interpreted", lambda: False)
    for c in (1, 64, 100, 4096):
        for split in (False, True):
            sizes = fast.tiles(c, split)
            held = (sizes["ROWS"] + sizes["COLS"]) * sizes["DEPTH"] * 2 * (1 + split) * sizes["num_stages"]
            assert held <= 227 * 1024
            assert sizes["EVEN"] == (c % sizes["DEPTH"] == 0)
    assert [fast.means(c, alike=True)["num_warps"] for c in (3, 768, 4096, 65_536)] == [1, 2, 8, 8]


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU here")
def test_it_can_be_held_in_a_cuda_graph():
    x = torch.randn(2, 300, 64, device=DEVICE)
    expected, graph = fast.tome(x, 200).apply(x), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = fast.tome(x, 200).apply(x)
    graph.replay()
    torch.testing.assert_close(found, expected)
