import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from minitok.image._common import Tokens, check_tokens, unpatch
from minitok.image.titok import Rebuilt, Sizes, TiTok
from minitok.quantize.fsq import FSQ
from minitok.quantize.vq import VQ

SMALL = Sizes(size=8, patch=4, tokens=3, width=12, layers=2, heads=2)


def small(sizes=SMALL, quantizer=None):
    """A tokenizer whose smoothing convolutions do something, as after training."""
    torch.manual_seed(0)
    return TiTok(sizes, quantizer).eval()


def norm(x, scale):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale


def attended(block, x, seen):
    """Attention in plain loops over heads and tokens."""
    a, normed = block.attention, norm(x, block.norm1.scale)
    q, k, v = (normed @ layer.weight.T for layer in (a.query, a.key, a.value))
    out = torch.zeros_like(x)
    for first in range(0, a.heads * a.d, a.d):
        part = slice(first, first + a.d)
        for i in range(len(x)):
            weights = (k[:, part] @ q[i, part] / math.sqrt(a.d)).masked_fill(~seen[i], -torch.inf).softmax(0)
            out[i, part] = weights @ v[:, part]
    return x + out @ a.out.weight.T


def plain(body, x, seen=None):
    """The Transformer on one sequence (n, c)."""
    seen = torch.ones(len(x), len(x), dtype=torch.bool) if seen is None else seen
    for block in body.blocks:
        x = attended(block, x, seen)
        normed, mlp = norm(x, block.norm2.scale), block.mlp
        x = x + (F.silu(normed @ mlp.gate.weight.T) * (normed @ mlp.up.weight.T)) @ mlp.out.weight.T
    return norm(x, body.norm.scale)


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


@pytest.mark.parametrize("sizes", [SMALL, Sizes(size=6, patch=2, tokens=5, width=8, layers=1, heads=1)])
def test_the_latents_are_those_of_a_plain_loop(sizes):
    model, images = small(sizes), torch.rand(2, 3, sizes.size, sizes.size)
    encoder, p = model.encoder, sizes.patch
    for image, latents in zip(images * 2 - 1, model.latents(images), strict=True):
        cut = rearrange(image, "c (h i) (w j) -> (h w) (c i j)", i=p, j=p)
        patches = cut @ encoder.patches.weight.flatten(1).T + encoder.patches.bias + encoder.position
        joined = plain(encoder.body, torch.cat([patches, encoder.latents]))
        torch.testing.assert_close(latents, linear(encoder.out, joined[-sizes.tokens :]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_pixels_are_those_of_a_plain_loop(k):
    model, values = small(), torch.randn(2, k, 4)
    decoder = model.decoder
    for z, image in zip(values, model.paint(values), strict=True):
        latents = linear(decoder.enter, z) + decoder.place[:k]
        joined = plain(decoder.body, torch.cat([decoder.mask + decoder.position, latents]))
        pixels = linear(decoder.out, joined[:4])
        rough = rearrange(pixels, "(h w) (c i j) -> c (h i) (w j)", h=2, i=4, j=4)
        first, _, second = decoder.smooth
        mended = F.conv2d(
            F.silu(F.conv2d(rough, first.weight, first.bias, padding=1)), second.weight, second.bias, padding=1
        )
        torch.testing.assert_close(image * 2 - 1, rough + mended, atol=1e-5, rtol=1e-4)


def test_masks_say_what_both_networks_see():
    model, image, values = small(), torch.rand(1, 3, 8, 8) * 2 - 1, torch.randn(1, 3, 4)
    seen = torch.rand(7, 7) < 0.5
    seen.fill_diagonal_(True)
    encoder, decoder = model.encoder, model.decoder
    patches = encoder.patches(image).flatten(2)[0].T + encoder.position
    joined = plain(encoder.body, torch.cat([patches, encoder.latents]), seen)
    torch.testing.assert_close(encoder(image, seen)[0], linear(encoder.out, joined[4:]), atol=1e-5, rtol=1e-4)
    latents = linear(decoder.enter, values[0]) + decoder.place
    joined = plain(decoder.body, torch.cat([decoder.mask + decoder.position, latents]), seen)
    rough = unpatch(linear(decoder.out, joined[:4])[None], 4)
    torch.testing.assert_close(decoder(values, seen), rough + decoder.smooth(rough), atol=1e-5, rtol=1e-4)


def test_weights_begin_as_wide_as_said():
    model = TiTok(Sizes(size=64, patch=4, tokens=64, width=96, layers=8, heads=3)).requires_grad_(False)
    learnt = (model.encoder.position, model.encoder.latents, model.decoder.place, model.decoder.position)
    for tokens in (*learnt, model.decoder.mask):
        assert float(tokens.std()) == pytest.approx(0.02, rel=5 / (2 * tokens.numel()) ** 0.5)
    for body in (model.encoder.body, model.decoder.body):
        for name, weight in body.named_parameters():
            if weight.dim() == 2:
                wide = 0.02 / 16**0.5 if ".out." in name else 96**-0.5
                assert float(weight.std()) == pytest.approx(wide, rel=5 / (2 * weight.numel()) ** 0.5)


@pytest.mark.parametrize(("side", "patch", "c"), [(1, 1, 1), (2, 3, 3), (3, 2, 4), (5, 1, 2)])
def test_patches_are_laid_out_as_einops_lays_them(side, patch, c):
    x = torch.randn(2, side * side, c * patch * patch)
    expected = rearrange(x, "b (h w) (c i j) -> b c (h i) (w j)", h=side, i=patch, j=patch)
    assert torch.equal(unpatch(x, patch), expected)


def test_every_token_reads_every_patch():
    model, image = small(), torch.rand(1, 3, 8, 8)
    before = model.latents(image)
    for row in (0, 4):
        for column in (0, 4):
            changed = image.clone()
            changed[..., row : row + 4, column : column + 4] = torch.rand(1, 3, 4, 4)
            assert ((model.latents(changed) - before).abs().amax(-1) > 1e-5).all()


def test_every_token_may_paint_every_patch():
    model, values = small(), torch.randn(1, 3, 4)
    before = model.paint(values)
    for i in range(3):
        changed = values.clone()
        changed[:, i] += 1
        moved = F.max_pool2d((model.paint(changed) - before).abs(), 4)
        assert (moved > 1e-5).all()


def test_a_token_has_no_place_but_its_own_latent():
    model, images = small(), torch.rand(2, 3, 8, 8)
    before = model.encode(images).codes
    with torch.no_grad():
        model.encoder.latents.copy_(model.encoder.latents[[2, 0, 1]].clone())
    assert torch.equal(model.encode(images).codes, before[:, [2, 0, 1]])


def test_a_mask_token_paints_the_patch_of_its_position():
    model, values = small(), torch.randn(2, 3, 4)
    with torch.no_grad():
        model.decoder.smooth[2].weight.zero_()
        before = model.paint(values)
        model.decoder.position.copy_(model.decoder.position[[1, 0, 2, 3]].clone())
    after = model.paint(values)
    torch.testing.assert_close(after[..., :4, :], before[..., :4, :].roll(4, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(after[..., 4:, :], before[..., 4:, :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [8, 16, 24])
def test_the_number_of_tokens_does_not_grow_with_the_area(size):
    model = small(Sizes(size=size, patch=4, tokens=5, width=12, layers=1, heads=2))
    tokens = model.encode(torch.rand(2, 3, size, size))
    assert tokens.codes.shape == (2, 5, 1)
    assert tokens.layout == (5,)
    assert model.decode(tokens).shape == (2, 3, size, size)


@pytest.mark.parametrize(
    ("changed", "shape", "which"),
    [
        ({"size": 16}, (16, 12), "decoder.position"),
        ({"patch": 2}, (16, 12), "encoder.position"),
        ({"tokens": 7}, (7, 12), "encoder.latents"),
        ({"width": 16}, (16,), "decoder.mask"),
        ({"channels": 1}, (12, 1, 4, 4), "encoder.patches.weight"),
    ],
)
def test_each_size_is_heard(changed, shape, which):
    sizes = Sizes(**{**vars(SMALL), **changed})
    parameters = dict(TiTok(sizes).named_parameters())
    assert parameters[which].shape == shape


def test_layers_and_heads_are_heard():
    model = TiTok(Sizes(size=8, patch=4, tokens=3, width=12, layers=5, heads=3))
    for body in (model.encoder.body, model.decoder.body):
        assert len(body.blocks) == 5
        assert body.blocks[0].attention.heads == 3


def test_by_default_64_tokens_of_12_bits_describe_an_image():
    model = TiTok()
    assert (model.sizes.tokens, model.sizes.patches, model.bits) == (64, 64, 12)
    assert model.sizes == Sizes(size=64, patch=8, tokens=64, width=96, layers=4, heads=3, channels=3)
    assert len(model.encode(torch.rand(1, 3, 64, 64))) == 64


def test_any_quantizer_of_chapter_1_serves():
    model, images = small(quantizer=VQ(d=5, K=16)), torch.rand(2, 3, 8, 8)
    assert model.bits == 4
    rebuilt = model(images)
    assert rebuilt.codes.max() < 16
    assert rebuilt.loss > 0
    assert torch.equal(model.encode(images).codes, rebuilt.codes)
    torch.testing.assert_close(model.decode(model.encode(images)), rebuilt.images.clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("quantizer", [FSQ((5, 3)), VQ(d=3, K=8)])
def test_the_error_moves_every_parameter(quantizer):
    model, images = small(quantizer=quantizer), torch.rand(4, 3, 8, 8)
    rebuilt = model(images)
    ((rebuilt.images - images).square().mean() + rebuilt.loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.usefixtures("unchecked")
def test_training_rebuilds_the_colours_of_four_images():
    images = torch.rand(4, 3, 1, 1).expand(-1, -1, 4, 4)
    model = TiTok(Sizes(size=4, patch=2, tokens=3, width=12, layers=1, heads=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(model(images).images, images).backward()
        optimizer.step()
    rebuilt = model.decode(model.encode(images))
    mean = images.mean(0, keepdim=True).expand_as(images)
    assert F.mse_loss(rebuilt, images) < 0.1 * F.mse_loss(mean, images)


@pytest.mark.parametrize("how", ["bfloat16 layer", "autocast"])
def test_half_precision_paints_about_the_same(how):
    model, images = small(), torch.rand(2, 3, 8, 8)
    whole = model.paint(model.latents(images))
    model = model.bfloat16() if how == "bfloat16 layer" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        latents = model.latents(images.bfloat16() if how == "bfloat16 layer" else images)
        painted = model.paint(latents)
    assert latents.dtype == painted.dtype == torch.float32
    torch.testing.assert_close(painted, whole, atol=0.1, rtol=0)


def test_no_image_gives_no_tokens():
    model = small()
    tokens = model.encode(torch.rand(0, 3, 8, 8))
    assert tokens.codes.shape == (0, 3, 1)
    assert model.decode(tokens).shape == (0, 3, 8, 8)
    assert isinstance(model(torch.rand(0, 3, 8, 8)), Rebuilt)


def test_a_prefix_keeps_codes_and_layout():
    tokens = Tokens(torch.arange(10).view(1, 5, 2), (5,))
    assert len(tokens) == 5
    assert tokens[:2].codes.tolist() == [[[0, 1], [2, 3]]]
    assert tokens[:2].layout == (5,)
    assert len(tokens[:4][:3]) == 3
    assert torch.equal(tokens[:].codes, tokens.codes)
    assert torch.equal(tokens[0:1:1].codes, tokens.codes[:, :1])


TOKENS = Tokens(torch.zeros(1, 3, 1, dtype=torch.long), (3,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sizes(size=10, patch=4), "size=10 is not a multiple of patch=4"),
        (lambda: Sizes(patch=0), "size=64 is not a multiple of patch=0"),
        (lambda: Sizes(tokens=0), "tokens=0 and layers=4 came"),
        (lambda: Sizes(layers=0), "tokens=64 and layers=0 came"),
        (lambda: TiTok(Sizes(width=10, heads=3)), "width=10, heads=3"),
        (lambda: TOKENS[:0], r"tokens\[:0\] came, expected 1 to 3"),
        (lambda: TOKENS[:4], r"tokens\[:4\] came, expected 1 to 3"),
        (lambda: TOKENS[1:2], r"expected a prefix"),
        (lambda: TOKENS[::2], r"expected a prefix"),
        (lambda: TOKENS[1], r"expected a prefix"),
        (lambda: Tokens(TOKENS.codes, (3, 1))[:1], "only a sequence has prefixes"),
        (lambda: check_tokens(TOKENS.codes, 3), "tokens of type Tensor came"),
        (lambda: check_tokens(TOKENS, 4), r"layout \(3,\) came, expected \(4,\)"),
        (lambda: check_tokens(Tokens(TOKENS.codes[0], (3,)), 3), r"codes of shape \(3, 1\)"),
        (lambda: check_tokens(Tokens(TOKENS.codes.repeat(1, 2, 1), (3,)), 3), r"codes of shape \(1, 6, 1\)"),
        (lambda: small().decode(Tokens(TOKENS.codes + 4096, (3,))), "codes from 4096 to 4096 came"),
        (lambda: small().decode(Tokens(TOKENS.codes.float(), (3,))), "codes of type torch.float32"),
        (lambda: small().encode(torch.rand(3, 8, 8)), r"images of shape \(3, 8, 8\) came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
