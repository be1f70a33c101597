import torch

from minitok.house import Options, digit_codecs
from minitok.quantize import VQ, nearest


def test_kmeans_places_are_the_means_of_their_vectors():
    z = torch.randn(1, 300, 3) + 4 * torch.randint(0, 2, (1, 300, 1))
    places = digit_codecs.kmeans(z, 5, rounds=100)
    code = nearest(z, places)[0]
    for k in code.unique():
        torch.testing.assert_close(places[k], z[0, code == k].mean(0))
    assert (z[0] - places[code]).square().mean() < 0.6 * z.var()
    first = digit_codecs.kmeans(z, 5, rounds=0)
    assert {tuple(row) for row in first.tolist()} <= {tuple(row) for row in z[0].tolist()}


def test_the_recipe_makes_each_and_kmeans_freezes_its_encoder(monkeypatch, tmp_path):
    monkeypatch.setattr(digit_codecs, "QUANTIZERS", {"vq16": lambda: VQ(8, 16), "kmeans64": lambda: VQ(8, 8)})
    models = digit_codecs.train(tmp_path, Options(steps=4, device="cpu"))
    assert list(models) == list(digit_codecs.build()) == ["none", "vq16", "kmeans64"]
    assert models["none"].quantizer is None
    assert [models[name].quantizer.K for name in ("vq16", "kmeans64")] == [16, 8]
    after = models["kmeans64"]
    assert not any(weight.requires_grad for part in (after.encoder, after.quantizer) for weight in part.parameters())
    again = digit_codecs.train(tmp_path, Options(steps=4, device="cpu"))
    assert all(torch.equal(a, b) for a, b in zip(models.parameters(), again.parameters(), strict=True))
    assert digit_codecs.quick(models).keys() == {f"PSNR of {name} (dB)" for name in models}
