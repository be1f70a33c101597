import torch

from minitok.house import Options, digit_vae
from minitok.quantize.tokenbridge import frequency_order


def test_the_recipe_orders_its_heads_by_the_frequencies_of_its_latents(tmp_path, monkeypatch):
    models = digit_vae.train(tmp_path, Options(steps=2, device="cpu"))
    assert models.state_dict().keys() == digit_vae.build().state_dict().keys()
    images = digit_vae.parts(digit_vae.mnist.load("train").images)[0]
    order = frequency_order(models["vae"].latents(images))
    assert models["low"].order.tolist() == models["blind"].order.tolist() == order
    assert models["high"].order.tolist() == order[::-1]
    assert models["book"].codebook.std() > 0


def test_a_head_is_told_of_neighbours_class_and_place():
    values = torch.arange(49.0).view(1, 49, 1).expand(-1, -1, 8)
    told = digit_vae.known(values, torch.tensor([3]))
    assert told.shape == (1, 49, digit_vae.WIDTH)
    # position 9 is row 1, column 2: left of it 8, above it 2, above left 1, above right 3
    assert told[0, 9, :32:8].tolist() == [8, 2, 1, 3]
    assert told[0, 0, :32].abs().sum() == 0
    assert told[0, 9, 32:42].argmax() == 3
    assert told[0, 9, 42:].argmax() == 9


def test_blind_heads_do_not_see_earlier_channels_and_independent_ones_no_codes():
    models, condition = digit_vae.build(), torch.randn(1, 3, digit_vae.WIDTH)
    codes = torch.randint(digit_vae.LEVELS, (2, 1, 3, 8))
    for head in (models["blind"], models["independent"], models["low"]):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    for name, same in {"blind": True, "independent": True, "low": False}.items():
        one, other = (models[name](condition, given) for given in codes)
        assert one.shape == (1, 3, 8, digit_vae.LEVELS)
        assert torch.allclose(one, other) == same


def test_latents_are_the_means_and_pictures_lie_in_their_range():
    vae, images = digit_vae.Vae(), torch.rand(3, 1, 28, 28)
    means = vae.encoder(images)[:, :8]
    assert torch.allclose(vae.latents(images)[1, 9], means[1, :, 1, 2], atol=1e-5)
    painted = vae.picture(9 * torch.randn(3, 49, 8))
    assert painted.shape == (3, 1, 28, 28)
    assert 0 <= painted.min() <= painted.max() <= 1
    assert vae(images).shape == ()
