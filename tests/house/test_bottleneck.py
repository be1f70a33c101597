import pytest
import torch

from minitok.house.bottleneck import Bottleneck, parts, train
from minitok.quantize.fsq import FSQ
from minitok.quantize.vq import VQ


@pytest.fixture
def images() -> torch.Tensor:
    """200 pictures of one bright bar each, at a random place."""
    place = torch.randint(4, 24, (200,))
    bars = (torch.arange(28)[None, :] - place[:, None]).abs() < 3
    return bars[:, None, None, :].expand(200, 1, 28, 28).float()


@pytest.mark.parametrize("quantizer", [VQ(d=4, K=16), FSQ((5, 5)), None])
@pytest.mark.usefixtures("unchecked")
def test_training_lowers_the_error_with_any_quantizer_and_with_none(images, quantizer):
    model = Bottleneck(quantizer, d=4)
    before = (model.rebuild(images) - images).square().mean()
    after = (train(model, images, steps=30).rebuild(images) - images).square().mean()
    assert after < before / 2
    assert not model.training


def test_what_is_rebuilt_is_what_the_codes_say(images):
    model = train(Bottleneck(VQ(d=4, K=16)), images, steps=3)
    codes = model.codes(images[:5])
    assert codes.shape == (5, 49, 1)
    painted = model.picture(model.quantizer.decode(codes)).clamp(0, 1)
    torch.testing.assert_close(painted, model.rebuild(images[:5]), atol=1e-5, rtol=0)


def test_seeds_steps_and_rate_decide_the_weights(images):
    def weights(**how):
        network = how.pop("network", 0)
        return train(Bottleneck(None, d=3, seed=network), images, **{"steps": 2, **how}).encoder[0].weight

    assert torch.equal(weights(), weights())
    for other in ({"seed": 1}, {"network": 1}, {"steps": 3}, {"lr": 1e-3}):
        assert not torch.equal(weights(), weights(**other))


def test_a_codebook_keeps_its_places_when_asked(images):
    places = torch.randn(8, 4)
    model = Bottleneck(VQ(d=4, K=8))
    model.quantizer.codebook.data = places.clone()
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    train(model, images, steps=2, start=False)
    assert torch.equal(model.quantizer.codebook, places)


def test_a_codebook_starts_on_the_data(images):
    model = Bottleneck(VQ(d=4, K=8))
    vectors = model.vectors(images).flatten(0, 1).detach()
    train(model, images, steps=1, lr=1e-9)
    assert torch.cdist(model.quantizer.codebook.detach(), vectors).amin(1).max() < 1e-3


def test_no_quantizer_has_no_codes(images):
    with pytest.raises(ValueError, match="no codes"):
        Bottleneck(None).codes(images[:1])


def test_photographs_have_more_positions_and_colours():
    photographs = torch.rand(6, 3, 16, 16)
    model = Bottleneck(VQ(d=4, K=8), colours=3, width=8)
    assert model.codes(photographs).shape == (6, 16, 1)
    assert model.rebuild(photographs).shape == photographs.shape
    assert model.encoder[0].weight.shape[:2] == (8, 3)


def test_parts_share_the_images_out(images):
    numbered = torch.arange(200.0)[:, None, None, None].expand_as(images)
    learnt, held = parts(numbered, held=40)
    assert (len(learnt), len(held)) == (160, 40)
    assert torch.equal(torch.cat([learnt, held])[:, 0, 0, 0].sort().values, torch.arange(200.0))
    assert torch.equal(parts(numbered, held=40)[1], held)
    assert not torch.equal(parts(numbered, held=40, seed=1)[1], held)


@pytest.mark.parametrize("held", [0, 200])
def test_a_part_without_images_is_refused(images, held):
    with pytest.raises(ValueError, match=f"held={held}"):
        parts(images, held=held)


def test_a_picture_that_holds_no_numbers_ends_training_before_it_ruins_the_weights(images):
    model = Bottleneck(None, d=3)
    with pytest.raises(ArithmeticError, match="the loss is nan at step 0"):
        train(model, images * torch.nan, steps=2)
    assert all(weight.isfinite().all() for weight in model.parameters())
