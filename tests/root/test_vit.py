import pytest
import torch
import torch.nn.functional as F

from minitok.nn import Shape
from minitok.vit import ViT


def small(size=16, layers=2, classes=10):
    return ViT(Shape(16, layers, 2, pairing=None), size, classes).eval().requires_grad_(False)


@pytest.mark.parametrize(("size", "classes"), [(16, 10), (4, 3), (64, 2)])
def test_shapes(size, classes):
    model, images = small(size, classes=classes), torch.rand(2, 3, size, size)
    assert model.tokens(images).shape == (2, 1 + (size // 4) ** 2, 16)
    assert model(images).shape == (2, classes)


def without_blocks(**sizes):
    """A model whose blocks let tokens pass, so that each token is what the stem made of its patch."""
    model = small(**sizes)
    model.body.blocks = torch.nn.ModuleList()
    return model


def test_the_cls_token_comes_first_and_is_not_of_the_image():
    model = without_blocks()
    tokens = model.tokens(torch.rand(3, 3, 16, 16))
    expected = F.rms_norm(model.cls[0, 0] + model.position[0, 0], (16,), eps=1e-5)
    torch.testing.assert_close(tokens[:, 0], expected.expand(3, -1))


def test_patches_are_in_raster_order():
    model, images = without_blocks(), torch.rand(1, 3, 16, 16)
    before = model.tokens(images)
    for row in range(4):
        for column in range(4):
            other = images.clone()
            other[:, :, 4 * row, 4 * column] += 1
            changed = (model.tokens(other) != before).any(-1)[0]
            near = [abs(i - row) < 2 and abs(j - column) < 2 for i in range(4) for j in range(4)]
            assert changed.tolist() == [False, *near]


def test_each_place_has_its_vector():
    model, images = without_blocks(), torch.rand(1, 3, 16, 16)
    before = model.tokens(images)
    model.position[0, 5] += 1
    changed = (model.tokens(images) != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [5]


def test_middle_grey_is_zero_to_the_stem():
    model = without_blocks()
    for layer in model.stem[::2]:
        layer.bias.zero_()
    tokens = model.tokens(torch.full((1, 3, 16, 16), 0.5))
    torch.testing.assert_close(tokens[:, 1:], F.rms_norm(model.position[:, 1:], (16,), eps=1e-5))


def test_classes_are_read_from_the_cls_token_which_sees_all_patches():
    model, images = small(), torch.rand(2, 3, 16, 16)
    expected = model.tokens(images)[:, 0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).square().sum(), images)
    assert (gradient.abs().sum(1) > 0).all()


class Half:
    """Keeps CLS and every other patch."""

    def apply(self, x):
        return torch.cat([x[:, :1], x[:, 1::2]], 1)

    sizes = apply


def test_on_layer_reaches_the_body():
    model, images = small(), torch.rand(2, 3, 16, 16)
    assert model.tokens(images, lambda layer: Half()).shape == (2, 5, 16)
    assert (model(images, lambda layer: Half()) - model(images)).abs().max() > 0
    torch.testing.assert_close(model(images, lambda layer: None), model(images))


# The second has as many patches as 16x16, and so has the third, after the stem's rounding up.
@pytest.mark.parametrize("size", [(20, 20), (8, 32), (15, 15)])
def test_images_of_another_size_are_refused(size):
    with pytest.raises(ValueError, match=rf"images of \({size[0]}, {size[1]}\) came, expected \(16, 16\)"):
        small().tokens(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("size", [30, 2, 0])
def test_sizes_that_patches_do_not_fill_are_refused(size):
    with pytest.raises(ValueError, match=f"size={size} is not a multiple"):
        ViT(Shape(16, 1, 2), size)
