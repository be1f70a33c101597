import itertools
import math
import pathlib
import types
from importlib.machinery import SourceFileLoader

import numpy as np
import pytest
import torch

from minitok.quantize import vq
from minitok.quantize.vq import VQ, centre, codebook_loss, nearest

CODEBOOK = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])


def with_codebook(codebook, **settings):
    layer = VQ(codebook.shape[1], len(codebook), **settings)
    with torch.no_grad():
        layer.codebook.copy_(codebook)
    return layer


def test_four_codes_by_hand():
    layer = with_codebook(CODEBOOK)
    z = torch.tensor([[[0.6, 0.1], [0.4, 0.1], [0.3, 1.2], [-5.0, -4.0]]])
    assert layer.bits == 2
    assert layer.encode(z).tolist() == [[[1], [0], [2], [3]]]
    assert layer.decode(torch.tensor([[[3], [2], [3]]])).tolist() == [[[-1.0, -1.0], [0.0, 2.0], [-1.0, -1.0]]]
    values, codes, loss = layer(z)
    torch.testing.assert_close(values, CODEBOOK[torch.tensor([[1, 0, 2, 3]])])
    squares = [0.4**2 + 0.1**2, 0.4**2 + 0.1**2, 0.3**2 + 0.8**2, 4.0**2 + 3.0**2]
    assert loss.item() == pytest.approx(1.25 * sum(squares) / 8)


@pytest.mark.parametrize(("d", "K"), [(1, 5), (2, 1), (8, 33), (64, 512)])
def test_the_nearest_row_is_that_of_torchs_distances(d, K):
    z, codebook = torch.randn(2, 40, d), torch.randn(K, d)
    expected = torch.cdist(z, codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    assert torch.equal(nearest(z, codebook), expected)


def test_the_nearest_row_is_that_of_a_plain_loop():
    z, codebook = torch.randn(2, 9, 3), torch.randn(7, 3)
    for row, code in zip(z.flatten(0, 1).tolist(), nearest(z, codebook).flatten().tolist(), strict=True):
        distances = [sum((a - b) ** 2 for a, b in zip(row, e, strict=True)) for e in codebook.tolist()]
        assert code == distances.index(min(distances))


def by_distance(z, codebook):
    """Nearest rows and squared distances in float64, by subtraction."""
    differences = z.double()[..., None, :] - codebook.double()
    return differences.square().sum(-1).min(-1)


def test_far_from_zero_the_nearest_row_is_found_as_near_it():
    assert nearest(torch.tensor([[[8000.3]]]), torch.tensor([[8000.0], [8000.25], [8001.0]])).tolist() == [[1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0, 0.5, 10, -30, 100, 1000])
def test_a_shift_of_all_vectors_and_codes_changes_nothing(shift, dtype):
    z, codebook = (torch.randn(2, 100, 16) + shift).to(dtype), (torch.randn(300, 16) + shift).to(dtype)
    codes, right = nearest(z, codebook), by_distance(z, codebook)
    assert torch.equal(codes, right.indices)


def test_a_farther_row_is_farther_by_what_the_docstring_says():
    # Two clusters far apart: from their middle, rows of one are equally near within the rounding.
    codebook = torch.cat([torch.randn(100, 4) + 1000, torch.randn(100, 4) - 1000])
    z = torch.cat([torch.randn(1, 200, 4) + 1000, torch.randn(1, 200, 4) - 1000], 1)
    right, middle = by_distance(z, codebook), centre(codebook)
    taken = codebook[nearest(z, codebook)]
    more = (z.double() - taken).square().sum(-1) - right.values
    allowed = (z - middle).square().sum(-1) + (taken - middle).square().sum(-1)
    assert (more <= 1e-6 * allowed).all()


def test_the_centre_is_the_mean_within_a_128th_of_the_largest_entry():
    for shift in (0.0, 0.3, 7.0, -1e4):
        codebook = torch.randn(50, 3) + shift
        assert (centre(codebook) - codebook.mean(0)).abs().max() <= codebook.abs().max() / 256
    # Of whole numbers below 128 it is a whole number where they are large, and has few digits where they are small.
    assert centre(torch.tensor([[100.0], [101.0], [101.0]])).item() == 100.5
    assert centre(torch.zeros(3, 2)).tolist() == [0, 0]


@pytest.mark.parametrize("largest", [2, 100])
def test_rows_of_whole_numbers_that_are_equally_near_keep_their_order(largest):
    # All mirror images of a row are as near to zero as the row, wherever the centre lies.
    rows = torch.randint(-largest, largest + 1, (30, 5)).float()
    codebook = torch.cat([rows + 1000, rows, -rows, rows.flip(1)])[torch.randperm(120)]
    z = torch.randint(-1, 2, (1, 50, 5)).float()
    assert torch.equal(nearest(z, codebook), by_distance(z, codebook).indices)


BAD = [("z", math.nan), ("z", math.inf), ("z", -math.inf), *(("codebook", x) for x in (math.nan, math.inf, -1e30))]


@pytest.mark.parametrize(("where", "bad"), BAD)
def test_numbers_that_are_not_finite_are_refused(where, bad):
    z, codebook = torch.randn(1, 4, 3), torch.randn(5, 3)
    (z[0, 2] if where == "z" else codebook[2])[1] = bad
    with pytest.raises(ValueError, match="distance of z and codebook holds NaN or infinity"):
        nearest(z, codebook)


def test_of_equally_near_rows_the_first_is_taken():
    codebook = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest(torch.zeros(1, 1, 2), codebook).tolist() == [[1]]
    assert nearest(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]), codebook).tolist() == [[1, 1]]


# With 8 bits of mantissa the scores 2047.something of these rows would all be equal.
@pytest.mark.parametrize("how", ["bfloat16 input", "bfloat16 layer", "autocast"])
def test_half_precision_takes_the_nearest_code_all_the_same(how):
    codebook = torch.tensor([[32.0, 31.0], [32.0, 32.0], [31.0, 32.0], [30.0, 32.0]])
    layer, z = with_codebook(codebook), (codebook[None] + 0.25)
    layer = layer.bfloat16() if how == "bfloat16 layer" else layer
    z = z if how == "autocast" else z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        values, codes, loss = layer(z)
    assert codes[0, :, 0].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(values[0].float(), codebook)
    assert loss.item() == pytest.approx(1.25 * 0.0625, rel=0.02)


@pytest.mark.parametrize("commitment", [0.0, 0.25, 2.0])
def test_the_loss_and_its_gradients_are_the_formulas(commitment):
    z, z_q = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(2))
    loss = codebook_loss(z, z_q, commitment)
    difference, size = (z_q - z).detach(), 2 * 3 * 4
    torch.testing.assert_close(loss, (1 + commitment) * difference.square().sum() / size)
    to_z, to_z_q = torch.autograd.grad(loss, [z, z_q])
    torch.testing.assert_close(to_z_q, 2 * difference / size)
    torch.testing.assert_close(to_z, -2 * commitment * difference / size)


def test_the_decoders_gradient_passes_to_the_input_unchanged():
    layer, z, weights = VQ(4, 16), torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    values, _, _ = layer(z)
    to_z, to_codebook = torch.autograd.grad((values**2 * weights).sum(), [z, layer.codebook], allow_unused=True)
    torch.testing.assert_close(to_z, 2 * values.detach() * weights)
    assert to_codebook is None


@pytest.mark.parametrize("commitment", [0.25, 1.0])
def test_the_loss_moves_only_codes_that_were_chosen(commitment):
    layer = with_codebook(CODEBOOK, commitment=commitment)
    z = torch.tensor([[[1.5, 0.0], [1.0, 0.5], [0.0, 0.5]]], requires_grad=True)
    to_codebook, to_z = torch.autograd.grad(layer(z).loss, [layer.codebook, z])
    # Codes 1, 1, 0 are chosen; of six elements each counts a sixth.
    expected = torch.tensor([[0.0, -0.5], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]) * 2 / 6
    torch.testing.assert_close(to_codebook, expected)
    torch.testing.assert_close(to_z, commitment * torch.tensor([[[0.5, 0.0], [0.0, 0.5], [0.0, 0.5]]]) * 2 / 6)


def test_training_lowers_the_error_to_that_of_two_clusters():
    z = torch.cat([torch.randn(1, 50, 2) * 0.1 + 3, torch.randn(1, 50, 2) * 0.1 - 3], dim=1)
    layer = with_codebook(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        layer(z).loss.backward()
        optimizer.step()
    torch.testing.assert_close(
        layer.codebook.data, torch.stack([z[0, :50].mean(0), z[0, 50:].mean(0)]), atol=1e-3, rtol=0
    )


def test_a_codebook_starts_from_different_vectors_of_the_data():
    layer, z = VQ(3, 20), torch.randn(2, 15, 3)
    before = layer.codebook.detach().clone()
    layer.start_from(z)
    rows, data = ({tuple(row) for row in t.reshape(-1, 3).tolist()} for t in (layer.codebook, z))
    assert len(rows) == 20
    assert rows < data
    assert (layer.codebook != before).all()
    assert layer.codebook.requires_grad
    again = VQ(3, 20)
    again.start_from(z)
    assert (again.codebook != layer.codebook).any()
    whole = VQ(3, 30)
    whole.start_from(z)
    assert {tuple(row) for row in whole.codebook.tolist()} == data


def test_a_codebook_is_large_as_one_says_and_starts_near_length_1():
    layer = VQ(32, 400)
    assert layer.codebook.shape == (400, 32)
    assert layer.codebook.norm(dim=-1).mean().item() == pytest.approx(1, abs=0.05)
    assert layer.bits == pytest.approx(math.log2(400))


def test_codes_do_not_depend_on_the_order_of_the_vectors():
    layer, z, order = VQ(4, 64), torch.randn(1, 30, 4), torch.randperm(30)
    assert torch.equal(layer.encode(z[:, order]), layer.encode(z)[:, order])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VQ(0, 4), "d=0 and K=4 came"),
        (lambda: VQ(4, 0), "d=4 and K=0 came"),
        (lambda: VQ(4, 4, commitment=-0.1), "commitment=-0.1 came"),
        (lambda: VQ(4, 4, commitment=math.nan), "commitment=nan came, expected a finite number from 0"),
        (lambda: VQ(4, 4, commitment=math.inf), "commitment=inf came"),
        (lambda: VQ(2, 7).start_from(torch.randn(2, 3, 2)), "z holds 6 vectors, expected at least K=7"),
        (lambda: VQ(2, 2).start_from(torch.randn(2, 3, 5)), r"shape \(2, 3, 5\) came, expected \(b, n, 2\)"),
        (lambda: VQ(2, 2).start_from(torch.full((1, 3, 2), torch.nan)), "NaN"),
        (lambda: VQ(2, 7).decode(torch.tensor([[[0], [7]]])), "codes from 0 to 7 came, expected 0 to 6"),
        (lambda: VQ(2, 7).decode(torch.tensor([[[-1], [6]]])), "codes from -1 to 6 came"),
        (lambda: nearest(torch.zeros(1, 1, 2), torch.zeros(0, 2)), "codebook is empty"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_by_default_512_codes_of_width_8_and_the_commitment_may_be_nothing():
    layer = VQ()
    assert (layer.codebook.shape, layer.bits, layer.commitment) == ((512, 8), 9, 0.25)
    z, free = torch.randn(1, 3, 2), VQ(2, 4, commitment=0.0)
    torch.testing.assert_close(free(z).loss, (free.codebook[free.encode(z)[..., 0]] - z).square().mean())


@pytest.fixture
def twin():
    """The fast path, which Triton interprets here; `conftest.py` asks for that.

    It is loaded past the check of annotations, which wraps a kernel, so that the interpreter, which looks for helpers
    where the wrapper was written, does not find the kernel's own.
    """
    pytest.importorskip("triton", reason="Triton is not installed here")
    loader = SourceFileLoader("vq_triton", str(pathlib.Path(vq.__file__).with_name("vq_triton.py")))
    module = types.ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


def on_device(twin, z, codebook):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return twin.nearest(z.to(device), codebook.to(device)).cpu()


# A program holds 32 vectors and walks over 16 codes at a time: less, just as much, and more than both.
@pytest.mark.parametrize(
    ("b", "n", "d", "K"), [(1, 1, 1, 1), (1, 3, 2, 5), (2, 16, 8, 16), (1, 33, 7, 17), (3, 11, 20, 50), (1, 5, 128, 33)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_fast_path_finds_the_nearest_row(twin, b, n, d, K, dtype):
    z, codebook = torch.randn(b, n, d).to(dtype), torch.randn(K, d).to(dtype)
    codes = on_device(twin, z, codebook)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, by_distance(z, codebook).indices)
    assert torch.equal(codes, nearest(z, codebook))


@pytest.fixture
def tensor_cores(monkeypatch):
    """Where Triton interprets its kernels: products of TF32 keep 10 bits of each factor, unless others are asked for,
    and what lies outside of a mask holds anything, not zeros.
    """
    if torch.cuda.is_available():
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, tf32 = interpreter.InterpreterBuilder, interpreter._ir.INPUT_PRECISION.TF32
    whole, load = builder.create_dot, builder.create_masked_load

    def ten_bits(handle):
        bits = handle.data.astype(np.float32).view(np.uint32) + np.uint32(1 << 12) & np.uint32(0xFFFFE000)
        return interpreter.TensorHandle(bits.view(np.float32), handle.dtype)

    def dot(self, a, b, d, precision, *others):
        a, b = (ten_bits(a), ten_bits(b)) if precision == tf32 else (a, b)
        return whole(self, a, b, d, precision, *others)

    def unknown(self, pointers, mask, other, *others):
        if other is None:
            kind = pointers.get_element_ty()
            other = interpreter.TensorHandle(np.full(pointers.data.shape, np.nan, np.float32), kind)
        return load(self, pointers, mask, other, *others)

    monkeypatch.setattr(builder, "create_dot", dot)
    monkeypatch.setattr(builder, "create_masked_load", unknown)


@pytest.fixture
def coarse(tensor_cores, twin, monkeypatch):
    """The fast path with the precision that it has for large codebooks."""
    tiles = twin.tiles
    if not torch.cuda.is_available():
        monkeypatch.setattr(twin, "tiles", lambda *sizes: tiles(*sizes) | {"PRECISION": "tf32"})


@pytest.mark.usefixtures("tensor_cores")
@pytest.mark.parametrize(("d", "K"), [(3, 5), (5, 40)])
def test_in_a_small_codebook_products_tell_codes_of_one_block_apart(twin, d, K):
    # Of three rows beside each other a block of 16 keeps one; products of 10 bits err by more than they are apart.
    z, codebook = torch.randn(1, 100, d), 20 * torch.randn(K, d)
    codebook[1:4] = 0.01 * torch.randn(3, d)
    assert torch.equal(on_device(twin, z, codebook), by_distance(z, codebook).indices)


@pytest.mark.usefixtures("coarse")
def test_of_equal_rows_the_first_is_the_runner_up(twin):
    # Rows 20 and 40 are one; coarse products often think row 3 nearer than both.
    codebook, z = 50 * torch.randn(60, 8), torch.randn(1, 40, 8)
    codebook[3], codebook[20], codebook[40] = 0.001, -0.001, -0.001
    assert torch.equal(on_device(twin, z, codebook), by_distance(z, codebook).indices)
    assert set(on_device(twin, z, codebook).flatten().tolist()) == {3, 20}


def test_on_a_gpu_small_codebooks_have_precise_products_and_blocks_fit_its_memory(twin, monkeypatch):
    monkeypatch.setattr(twin, "interpreted", lambda: False)
    assert [twin.tiles(64, K, 4)["PRECISION"] for K in (2, 2047, 2048, 16_384)] == ["tf32x3", "tf32x3", "tf32", "tf32"]
    for D, K, size in itertools.product((16, 32, 64, 128), (16, 16_384), (2, 4)):
        found = twin.tiles(D, K, size)
        rows, codes = found["ROWS"], found["CODES"]
        assert found["D"] == D
        for length in (rows, codes, found["num_warps"]):
            assert length.bit_count() == 1
        # An H100 has 227 KiB of shared memory for a program: its vectors and the codes of all stages.
        assert (rows + codes * found["num_stages"]) * D * size <= 227 * 1024
        # A warp multiplies 16 rows at least.
        assert rows >= 16 * found["num_warps"]


@pytest.mark.parametrize("shift", [0, 0.5, 10, 30, 100])
@pytest.mark.usefixtures("coarse")
def test_the_fast_path_finds_the_nearest_row_by_coarse_products_wherever_the_data_lie(twin, shift):
    z, codebook = torch.randn(1, 128, 32) + shift, torch.randn(500, 32) + shift
    assert torch.equal(on_device(twin, z, codebook), by_distance(z, codebook).indices)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("places", [(3, 20), (20, 3), (3, 40), (40, 3), (17, 59)])
def test_the_fast_path_measures_the_two_best_again_wherever_they_stand(twin, places):
    # Pairs of rows that coarse products cannot tell apart; others are far. Of a block of 16 codes one is kept.
    codebook = 50 * torch.randn(60, 8)
    z = torch.randn(1, 40, 8)
    codebook[places[0]], codebook[places[1]] = 0.001, -0.001
    assert torch.equal(on_device(twin, z, codebook), by_distance(z, codebook).indices)
    assert set(on_device(twin, z, codebook).flatten().tolist()) == set(places)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize(("where", "bad"), BAD)
def test_the_fast_path_refuses_numbers_that_are_not_finite(twin, where, bad):
    z, codebook = torch.randn(1, 4, 3), torch.randn(5, 3)
    (z[0, 2] if where == "z" else codebook[2])[1] = bad
    with pytest.raises(ValueError, match="distance of z and codebook holds NaN or infinity"):
        on_device(twin, z, codebook)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fast_path_takes_the_first_of_equally_near_rows(twin, dtype):
    # Small whole numbers: all products are exact, and rows are equal within a block of 16 and between blocks.
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], *15 * [[7.0, 7.0]], [0.0, 1.0]])
    z = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [7.0, 7.0], [0.0, 3.0], [-4.0, -4.0]]])
    assert on_device(twin, z.to(dtype), codebook.to(dtype)).tolist() == [[1, 1, 4, 19, 2]]
    equal = torch.ones(40, 3, dtype=dtype)
    assert on_device(twin, torch.zeros(1, 2, 3, dtype=dtype), equal).tolist() == [[0, 0]]


def test_the_fast_path_reads_tensors_that_are_not_contiguous(twin):
    z, codebook = torch.randn(1, 6, 9).transpose(1, 2), torch.randn(12, 21)[:, ::4][:, :6]
    assert not z.is_contiguous()
    assert not codebook.is_contiguous()
    assert torch.equal(on_device(twin, z, codebook), by_distance(z, codebook).indices)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_the_fast_path_gives_no_codes_for_no_vectors(twin, shape):
    assert on_device(twin, torch.zeros(shape), torch.ones(4, 2)).shape == shape[:2]


@pytest.mark.parametrize(
    ("z", "codebook", "message"),
    [
        (torch.zeros(1, 1, 2), torch.zeros(0, 2), "codebook is empty"),
        (torch.zeros(1, 1, 2), torch.zeros(3, 4), "z has d=2 channels, the codebook 4"),
        (torch.zeros(1, 1, 129), torch.zeros(3, 129), "d=129 came, expected at most 128"),
        (torch.zeros(1, 1, 2), torch.zeros(3, 2).half(), "z of torch.float32 and a codebook of torch.float16 came"),
        (torch.zeros(1, 1, 2).double(), torch.zeros(3, 2).double(), "z of torch.float64 and a codebook of"),
        (torch.zeros(1, 1, 2, dtype=torch.long), torch.zeros(3, 2, dtype=torch.long), "z of torch.int64"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_the_fast_path_refuses_bad_input(twin, z, codebook, message):
    with pytest.raises(ValueError, match=message):
        twin.nearest(z, codebook)


def test_the_fast_path_wants_a_gpu_where_triton_compiles(twin, monkeypatch):
    monkeypatch.setattr(twin, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="z is on cpu: this function runs on a GPU"):
        twin.nearest(torch.zeros(1, 1, 2), torch.ones(3, 2))
