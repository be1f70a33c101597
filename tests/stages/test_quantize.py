import functools

import pytest
import torch

from minitok.house import Options, digit_codecs
from minitok.metrics import psnr
from minitok.quantize import LFQ, RVQ, VQ, TokenBridge
from minitok.stages import coded, quantize


@pytest.fixture
def few(monkeypatch):
    """Twelve images of each kind and of each part, and two quantizers with one learning rate and one seed."""
    monkeypatch.setattr(quantize, "RATES", (4e-3, 1e-2))
    monkeypatch.setattr(quantize, "SEEDS", (0,))
    monkeypatch.setattr(quantize, "QUANTIZERS", {name: quantize.QUANTIZERS[name] for name in ("fsq", "rvq")})
    shapes = {"digits": (12, 1, 28, 28), "photographs": (12, 3, 16, 16)}
    monkeypatch.setattr(quantize, "sets", lambda data, device: tuple(torch.rand(shapes[data]) for _ in range(3)))


def test_every_quantizer_spends_12_bits():
    assert {name: make().bits for name, make in quantize.QUANTIZERS.items()} == dict.fromkeys(quantize.QUANTIZERS, 12)


@pytest.mark.usefixtures("few")
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    options = Options(steps=2, device="cpu", progress=False)
    rows = quantize.measure(tmp_path, options)
    assert [row["data"] for row in rows] == ["digits"] * 3 + ["photographs"] * 3
    assert sorted(row["method"] for row in rows[:3]) == ["fsq", "none", "rvq"]
    for row in rows:
        scores = set(quantize.SCORES) if row["method"] != "none" else {"PSNR", "spread of 3 seeds"}
        assert scores <= row.keys()
        assert row["learning rate"] in (4e-3, 1e-2)
    assert rows[0]["PSNR"] >= rows[1]["PSNR"] >= rows[2]["PSNR"]
    monkeypatch.setattr(quantize, "tried", None)
    assert [row["PSNR"] for row in quantize.measure(tmp_path, options)] == [row["PSNR"] for row in rows]


@pytest.fixture
def small():
    """Twelve pictures, three steps."""
    images = torch.rand(12, 1, 28, 28)
    return quantize.Stage(images, images[:6], "twelve pictures of noise", steps=3)


def test_tokenbridge_quantizes_the_finished_continuous_autoencoder(small):
    coded, continuous = small.measure(TokenBridge(4, 8)), small.measure(None, d=4)
    z = continuous.model.vectors(small.learnt)
    assert torch.equal(coded.model.vectors(small.learnt), z)
    deviation, mean = torch.std_mean(z.detach().flatten(0, 1), 0)
    torch.testing.assert_close(coded.model.quantizer.high, mean + 5 * deviation)
    assert coded.codes.shape == (6, 49)
    assert (coded.K, coded.bits) == (4096, 12)
    assert not torch.equal(coded.decibels, continuous.decibels)
    assert (continuous.codes, continuous.K, continuous.used) == (None, 0, 0)


def test_a_row_is_of_held_out_pictures_rebuilt_from_their_codes(small):
    row = small.measure(VQ(4, 8), lr=1e-2)
    expected = psnr(row.model.rebuild(small.test), small.test)
    torch.testing.assert_close(row.decibels, expected)
    assert row.psnr == pytest.approx(float(expected.mean()))
    assert torch.equal(row.codes, row.model.codes(small.test)[..., 0])
    assert row.used == 100 * len(row.codes.unique()) / 8
    assert row.even == pytest.approx(2**row.entropy)
    assert (row.bits, row.K) == (3, 8)


def test_seed_rate_and_width_decide_a_row(small):
    first = small.measure(VQ(4, 8), lr=1e-2).decibels
    torch.manual_seed(5)
    again = small.measure(VQ(4, 8), lr=1e-2)
    assert not torch.equal(first, small.measure(VQ(4, 8), lr=1e-3).decibels)
    assert not torch.equal(first, small.measure(VQ(4, 8), lr=1e-2, seed=1).decibels)
    assert again.decibels.shape == first.shape
    assert small.measure(None, d=3).model.encoder[-1].out_channels == 3


def test_a_prefix_of_the_codes_is_a_row_of_fewer_bits(small):
    model = small.measure(RVQ(4, 16, 4)).model
    row = small.score(model, 2)
    assert (row.bits, row.K) == (8, 256)
    codes = model.codes(small.test)
    assert torch.equal(row.codes, codes[..., 0] + 16 * codes[..., 1])
    painted = model.picture(model.quantizer.decode(codes[..., :2])).clamp(0, 1)
    torch.testing.assert_close(row.decibels, psnr(painted, small.test))


def test_groups_of_a_vector_are_counted_together():
    codes = coded.whole(torch.tensor([[[0, 1], [0, 2], [3, 0], [0, 1]]]), 16)
    assert codes.tolist() == [[4, 8, 3, 4]]
    row = coded.Row(torch.zeros(1), codes, 16, 4.0)
    assert (row.used, row.entropy) == (pytest.approx(100 * 3 / 16), pytest.approx(1.5))


def test_a_gap_is_that_of_pairs_with_twice_its_error():
    ours, other = coded.Row(torch.tensor([21.0, 22.0, 24.0, 25.0])), coded.Row(torch.tensor([20.0, 21.0, 22.0, 23.0]))
    found, error = coded.gap(ours, other)
    assert found == 1.5
    assert error == pytest.approx(2 * (1 / 3) ** 0.5 / 2)


def test_the_table_says_nothing_of_codes_where_there_are_none():
    rows = {
        "codes": coded.Row(torch.tensor([20.0]), torch.tensor([[0, 1, 2, 3]]), 8, 3.0),
        "none": coded.Row(torch.ones(1)),
    }
    lines = [line.split() for line in coded.table(rows).splitlines()]
    assert lines[1:] == [["codes", "20.0", "3", "50", "4"], ["none", "1.0", "-", "-", "-"]]


def test_the_controls_are_the_shipped_autoencoders():
    made = quantize.stage()
    assert (len(made.learnt), len(made.test), made.steps) == (4000, 1000, 400)
    found = {name: made.control(name) for name in digit_codecs.build()}
    assert {name: row.bits for name, row in found.items() if row.K} == {
        "vq16": 4, "kmeans64": 6, "vq64": 6, "vq256": 8, "vq1024": 10, "rvq16x4": 16, "lfq8": 8, "lfq14": 14,
    }  # fmt: skip
    assert found["none"].psnr > found["vq1024"].psnr > found["vq64"].psnr > found["vq16"].psnr
    assert found["vq64"].psnr > found["kmeans64"].psnr + 0.3


@pytest.mark.usefixtures("few")
def test_the_better_weights_and_rate_are_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "QUANTIZERS", {"lfq": functools.partial(LFQ, d=4)})
    monkeypatch.setattr(quantize, "WEIGHTS", {"lfq": quantize.BINARY})
    tried = []

    def score(setting, judge, device, seed):
        assert judge == "held"
        tried.append((setting.weights["entropy"], setting.lr))
        return coded.Row(torch.tensor([-setting.weights["entropy"] - setting.lr]))

    monkeypatch.setattr(quantize, "tried", score)
    best = quantize.chosen("lfq", "digits", torch.device("cpu"), tmp_path, 2)
    assert (best.weights, best.lr) == ({"entropy": 0.03, "commitment": 0.01}, 4e-3)
    assert sorted(tried) == [(0.03, 4e-3), (0.03, 1e-2), (0.1, 4e-3), (0.1, 1e-2)]
    assert best.key("seed=0") == "digits-lfq entropy=0.03 commitment=0.01-2-seed=0"
    assert best.make().entropy == 0.03


def test_tuning_never_sees_a_test_image():
    learnt, held, test = quantize.sets("digits", torch.device("cpu"))
    assert (len(learnt), len(held), len(test)) == (3600, 400, 1000)
    seen = {image.numpy().tobytes() for image in torch.cat([learnt, held])}
    assert len(seen & {image.numpy().tobytes() for image in test}) < 5
