import numpy as np
import pytest
import torch

from minitok.quantize.rvq import RVQ, cascade
from minitok.quantize.vq import VQ

COARSE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
FINE = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])


def with_codebooks(*codebooks, **settings):
    layer = RVQ(codebooks[0].shape[1], len(codebooks[0]), len(codebooks), **settings)
    with torch.no_grad():
        for stage, codebook in zip(layer.stages, codebooks, strict=True):
            stage.codebook.copy_(codebook)
    return layer


def by_numpy(z, codebooks):
    """Algorithm 1 for one vector, as the paper writes it: the codes, the sum, the squared error of each stage."""
    residual, total, codes, errors = z, np.zeros_like(z), [], []
    for codebook in codebooks:
        code = ((codebook - residual) ** 2).sum(1).argmin()
        total = total + codebook[code]
        residual = residual - codebook[code]
        codes.append(code)
        errors.append((residual**2).sum())
    return codes, total, errors


def test_two_stages_by_hand():
    layer = with_codebooks(COARSE, FINE)
    z = torch.tensor([[[10.5, 1.0], [0.0, 8.5], [-1.5, 0.0]]])
    assert layer.bits == pytest.approx(2 * 1.584962500721156)
    assert layer.encode(z).tolist() == [[[1, 0], [2, 2], [0, 1]]]
    values, codes, loss = layer(z)
    torch.testing.assert_close(values, torch.tensor([[[11.0, 1.0], [0.0, 8.0], [-1.0, 0.0]]]))
    assert codes.tolist() == [[[1, 0], [2, 2], [0, 1]]]
    first, second = 0.5**2 + 1.0**2 + 1.5**2 + 1.5**2, 0.5**2 + 0.5**2 + 0.5**2
    assert loss.item() == pytest.approx(1.25 * (first + second) / 6 / 2)


@pytest.mark.parametrize(("d", "K", "stages"), [(1, 5, 3), (8, 33, 4), (3, 2, 9), (2, 1, 2), (4, 16, 1)])
def test_codes_values_and_loss_are_those_of_a_plain_loop(d, K, stages):
    layer, z = RVQ(d, K, stages, commitment=0.5), torch.randn(3, 7, d)
    values, codes, loss = layer(z)
    books = [codebook.detach().numpy() for codebook in layer.codebooks]
    found = [by_numpy(row, books) for row in z.flatten(0, 1).numpy()]
    assert codes.flatten(0, 1).tolist() == [row[0] for row in found]
    torch.testing.assert_close(values.flatten(0, 1), torch.tensor(np.stack([row[1] for row in found])))
    assert loss.item() == pytest.approx(1.5 * sum(sum(row[2]) for row in found) / z.numel() / stages, rel=1e-5)


def test_each_stage_is_given_what_is_left_over():
    z, codebooks = torch.randn(2, 5, 3), [torch.randn(4, 3) for _ in range(3)]
    codes, chosen, given = cascade(z, codebooks)
    assert torch.equal(given[0], z)
    for i in range(3):
        assert torch.equal(chosen[i], codebooks[i][codes[..., i]])
        torch.testing.assert_close(given[i], z - chosen[:i].sum(0))


def test_one_stage_is_vector_quantization():
    ours, theirs, z = RVQ(4, 16, 1), VQ(4, 16), torch.randn(2, 9, 4)
    theirs.load_state_dict(ours.stages[0].state_dict())
    for mine, other in zip(ours(z), theirs(z), strict=True):
        assert torch.equal(mine, other)
    assert ours.bits == theirs.bits == 4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_prefix_of_the_codes_gives_the_sum_of_the_first_stages(k):
    layer, z = RVQ(4, 8, 3), torch.randn(2, 6, 4)
    codes = layer.encode(z)
    expected = sum(layer.codebooks[i].detach()[codes[..., i]] for i in range(k))
    torch.testing.assert_close(layer.decode(codes[..., :k]), expected)


def test_a_stage_that_can_add_nothing_never_hurts():
    codebooks = [torch.randn(16, 4) for _ in range(5)]
    for codebook in codebooks:
        codebook[0] = 0
    layer, z = with_codebooks(*codebooks), torch.randn(2, 50, 4)
    codes = layer.encode(z)
    errors = torch.stack([(layer.decode(codes[..., :k]) - z).square().sum(-1) for k in range(1, 6)])
    assert (errors[1:] <= errors[:-1] + 1e-5).all()
    assert errors[-1].mean() < errors[0].mean() / 4


def test_the_codes_of_a_vector_are_greedy_so_values_may_have_other_codes():
    layer = with_codebooks(torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [3.0]]))
    codes = layer.encode(torch.tensor([[[1.8]]]))
    assert codes.tolist() == [[[0, 1]]]
    assert layer.decode(codes).item() == 3
    assert layer.encode(layer.decode(codes)).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("commitment", [0.0, 0.25, 2.0])
def test_gradients_are_those_of_the_formulas(commitment):
    layer = with_codebooks(COARSE, FINE, commitment=commitment)
    z = torch.tensor([[[10.5, 1.0], [0.0, 8.5], [-1.5, 0.0]]], requires_grad=True)
    to_z, to_coarse, to_fine = torch.autograd.grad(layer(z).loss, [z, *layer.codebooks])
    after_first = torch.tensor([[0.5, 1.0], [0.0, -1.5], [-1.5, 0.0]])
    after_second = torch.tensor([[-0.5, 0.0], [0.0, 0.5], [-0.5, 0.0]])
    # The commitment of both stages pulls z; no stage moves the code vectors of another.
    torch.testing.assert_close(to_z[0], commitment * 2 / 6 / 2 * (after_first + after_second))
    torch.testing.assert_close(to_coarse, -2 / 6 / 2 * after_first[[2, 0, 1]])
    torch.testing.assert_close(to_fine, -2 / 6 / 2 * after_second[[0, 2, 1]])


def test_the_decoders_gradient_passes_to_the_input_unchanged():
    layer, z, weights = RVQ(4, 16), torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    values, _, _ = layer(z)
    to_z, *to_codebooks = torch.autograd.grad((values**2 * weights).sum(), [z, *layer.codebooks], allow_unused=True)
    torch.testing.assert_close(to_z, 2 * values.detach() * weights)
    assert to_codebooks == [None] * 4


def test_dropout_uses_every_number_of_stages_equally_often():
    layer = with_codebooks(*(torch.full((1, 1), 10.0**i) for i in range(4)), dropout=True)
    values, codes, _ = layer.train()(torch.zeros(4000, 2, 1))
    assert torch.equal(values[:, 0], values[:, 1])
    sums, counts = values[:, 0, 0].unique(return_counts=True)
    torch.testing.assert_close(sums, torch.tensor([1.0, 11.0, 111.0, 1111.0]))
    # 1000 of each are expected with a standard deviation of 27: five of them are a chance below 1e-6.
    assert (counts - 1000).abs().max() < 5 * 27
    assert codes.shape == (4000, 2, 4)


def test_dropout_leaves_unused_stages_out_of_loss_and_gradients():
    layer = with_codebooks(torch.full((1, 1), 1.0), torch.full((1, 1), 10.0), dropout=True, commitment=0.0).train()
    z = torch.zeros(8, 1, 1)
    values, _, loss = layer(z)
    both = int((values > 5).sum())
    assert 0 < both < 8
    # What is left for the second stage is -1, and it gives 10.
    assert loss.item() == pytest.approx((8 * 1**2 + both * 11**2) / 8 / 2)
    to_first, to_second = torch.autograd.grad(loss, layer.codebooks)
    assert to_first.item() == pytest.approx(2 / 2)
    assert to_second.item() == pytest.approx(2 * 11 * both / 8 / 2)


@pytest.mark.parametrize(("dropout", "training", "expected"), [(True, False, 1), (False, True, 1), (True, True, 4)])
def test_dropout_acts_in_training_only_and_only_when_asked(dropout, training, expected):
    layer = with_codebooks(*(torch.full((1, 1), 10.0**i) for i in range(4)), dropout=dropout).train(training)
    values = layer(torch.zeros(300, 1, 1)).values
    assert len(values.unique()) == expected
    assert values.max() == 1111


def test_each_codebook_starts_from_what_the_ones_before_leave():
    layer, z = RVQ(3, 20, 3), torch.randn(2, 300, 3)
    layer.start_from(z)
    left = z.flatten(0, 1)
    scales = []
    for codebook in layer.codebooks:
        rows = codebook.detach()
        assert len({tuple(row) for row in rows.tolist()}) > 15
        assert torch.cdist(rows, left, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-6
        chosen = rows[torch.cdist(left, rows, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)]
        left = left - chosen
        scales.append(left.square().mean().item())
    assert scales[0] < 0.4
    assert scales[2] < scales[1] / 1.5 < scales[0] / 1.5**2
    assert all(codebook.requires_grad for codebook in layer.codebooks)


@pytest.mark.parametrize("how", ["bfloat16 input", "bfloat16 layer", "autocast"])
def test_half_precision_takes_the_codes_of_float32(how):
    codebooks = (torch.tensor([[32.0], [64.0]]), torch.tensor([[0.0], [0.25]]), torch.tensor([[-0.0625], [0.0625]]))
    layer, z = with_codebooks(*codebooks), torch.tensor([[[32.25], [64.0], [32.0]]])
    layer = layer.bfloat16() if how == "bfloat16 layer" else layer
    z = z if how == "autocast" else z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        values, codes, loss = layer(z)
    assert codes.tolist() == [[[0, 1, 0], [1, 0, 0], [0, 0, 0]]]
    torch.testing.assert_close(values.float(), torch.tensor([[[32.1875], [63.9375], [31.9375]]]), rtol=0.004, atol=0)
    assert loss.item() == pytest.approx(1.25 * (0.0625 / 3 + 0.0625**2) / 3, rel=0.02)


def test_residuals_of_a_bfloat16_layer_are_not_rounded():
    # 128 - 0.375 = 127.625 is nearer to 128; bfloat16 would round it to 127.5, as near to 127, the first.
    layer = with_codebooks(torch.tensor([[0.375], [-500.0]]), torch.tensor([[127.0], [128.0]])).bfloat16()
    assert layer.encode(torch.tensor([[[128.0]]]).bfloat16()).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4)])
@pytest.mark.parametrize("dropout", [False, True])
def test_empty_input_gives_empty_output(shape, dropout):
    values, codes, _ = RVQ(4, 8, 3, dropout=dropout).train()(torch.zeros(shape))
    assert values.shape == shape
    assert codes.shape == (*shape[:2], 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RVQ(stages=0), "stages=0 came, expected at least 1"),
        (lambda: RVQ(d=0), "d=0 and K=64 came"),
        (lambda: RVQ(K=0), "d=8 and K=0 came"),
        (lambda: RVQ(commitment=-1.0), r"commitment=-1.0 came"),
        (lambda: RVQ(2, 7, 2).start_from(torch.randn(2, 3, 2)), "z holds 6 vectors, expected at least K=7"),
        (lambda: RVQ(2, 2, 2).start_from(torch.randn(2, 3, 5)), r"z of shape \(2, 3, 5\) came"),
        (lambda: RVQ(2, 7, 3).decode(torch.zeros(1, 2, 4).long()), r"shape \(1, 2, 4\) .* with k from 1 to 3"),
        (lambda: RVQ(2, 7, 3).decode(torch.zeros(1, 2, 0).long()), r"codes of shape \(1, 2, 0\) came"),
        (lambda: RVQ(2, 7, 3).decode(torch.tensor([[[0, 7]]])), "codes from 0 to 7 came, expected 0 to 6"),
        (lambda: RVQ(2, 7, 3).decode(torch.tensor([[[-1, 0, 1]]])), "codes from -1 to 1 came"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
