import functools

import pytest
import torch

from minitok.house import Options
from minitok.quantize.lfq import LFQ
from minitok.stages import quantize


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
    monkeypatch.setattr(quantize, "trained", None)
    assert [row["PSNR"] for row in quantize.measure(tmp_path, options)] == [row["PSNR"] for row in rows]


def test_tokenbridge_quantizes_the_finished_continuous_autoencoder():
    images = torch.rand(12, 1, 28, 28)
    coded, continuous = (
        quantize.trained(quantize.Setting("digits", name, 3, {}, 4e-3), images, 0) for name in ("tokenbridge", "none")
    )
    z = continuous.vectors(images)
    assert torch.equal(coded.vectors(images), z)
    deviation, mean = torch.std_mean(z.detach().flatten(0, 1), 0)
    assert coded.quantizer is not None
    torch.testing.assert_close(coded.quantizer.high, mean + 5 * deviation)
    assert coded.codes(images).shape == (12, 49, 4)
    assert not torch.equal(coded.rebuild(images), continuous.rebuild(images))


@pytest.mark.usefixtures("unchecked")
def test_statistics_are_of_the_groups_of_a_vector_together():
    class Fixed:
        class quantizer:
            bits = 4

        @staticmethod
        def codes(images):
            return torch.tensor([[[0, 1], [0, 2], [3, 0], [0, 1]]])

    found = quantize.statistics(Fixed(), torch.zeros(1, 1, 28, 28))
    assert found == {"codes in use": pytest.approx(100 * 3 / 16), "entropy": pytest.approx(1.5)}


@pytest.mark.usefixtures("few")
def test_the_better_weights_and_rate_are_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "QUANTIZERS", {"lfq": functools.partial(LFQ, d=4)})
    monkeypatch.setattr(quantize, "WEIGHTS", {"lfq": quantize.BINARY})
    tried = []

    def trained(setting, images, seed):
        tried.append((setting.weights["entropy"], setting.lr))
        return setting

    monkeypatch.setattr(quantize, "trained", trained)
    monkeypatch.setattr(quantize, "quality", lambda setting, images: -setting.weights["entropy"] - setting.lr)
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
