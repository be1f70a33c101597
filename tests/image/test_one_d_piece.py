import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitok.image._common import Tokens
from minitok.image.one_d_piece import OneDPiece, without_tail
from minitok.image.titok import Sizes, TiTok
from minitok.quantize.fsq import FSQ
from minitok.quantize.vq import VQ

SMALL = Sizes(size=8, patch=4, tokens=5, width=12, layers=2, heads=2)  # of 4 patches


def small(method=OneDPiece, sizes=SMALL, quantizer=None):
    torch.manual_seed(0)
    return method(sizes, quantizer)


class Watch(nn.Module):
    """Stands in for a decoder and keeps what it was called with."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.masks = decoder, []

    def forward(self, values, mask):
        self.masks.append(mask)
        return self.decoder(values, mask)

    def lengths(self, others):
        """How many tokens each call let the others see."""
        return [int(mask[0].sum()) - others for mask in self.masks]


@pytest.mark.parametrize(("k", "n", "others"), [(1, 1, 1), (1, 3, 2), (3, 3, 2), (2, 5, 0)])
def test_the_mask_is_that_of_a_plain_loop(k, n, others):
    mask = without_tail(k, n, others)
    m = others + n
    assert mask.shape == (m, m)
    assert mask.dtype == torch.bool
    for i in range(m):
        for j in range(m):
            assert bool(mask[i, j]) == (j < others or j - others < k)
    assert torch.equal(without_tail(torch.tensor(k), n, others), mask)


@pytest.mark.parametrize("sizes", [SMALL, Sizes(size=6, patch=2, tokens=3, width=8, layers=1, heads=1)])
def test_hiding_the_tail_paints_what_cutting_it_paints(sizes):
    model = small(sizes=sizes).eval()
    values = torch.randn(2, sizes.tokens, 4)
    painted = []
    for k in range(1, sizes.tokens + 1):
        hidden = model.paint(values, without_tail(k, sizes.tokens, sizes.patches))
        torch.testing.assert_close(hidden, model.paint(values[:, :k]), atol=1e-5, rtol=0)
        painted.append(hidden)
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.pairwise(painted))


def test_what_the_tail_says_is_never_heard():
    model, values = small().eval(), torch.randn(2, 5, 4, requires_grad=True)
    mask = without_tail(2, 5, SMALL.patches)
    other = torch.cat([values[:, :2], torch.randn(2, 3, 4)], 1)
    torch.testing.assert_close(model.paint(values, mask), model.paint(other, mask), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(model.paint(values, mask).square().sum(), values)
    assert (gradient[:, 2:] == 0).all()
    assert (gradient[:, :2] != 0).all()


@pytest.mark.usefixtures("unchecked")
def test_in_training_each_length_is_as_likely_and_one_serves_the_batch():
    model, values, n, draws = small().train(), torch.randn(3, 5, 4), 5, 250
    model.decoder = Watch(model.decoder)
    with torch.no_grad():
        for _ in range(draws):
            model.paint(values)
    assert all(mask.shape == (9, 9) for mask in model.decoder.masks)
    counts = torch.tensor(model.decoder.lengths(SMALL.patches)).bincount(minlength=n + 1)
    assert counts[0] == 0
    # chi-square with 4 degrees of freedom is above 33.4 once in a million
    assert ((counts[1:] - draws / n) ** 2 / (draws / n)).sum() < 33.4


def test_in_training_the_tail_gets_no_gradient_from_the_image():
    model, images = small().train(), torch.rand(2, 3, 8, 8)
    model.decoder = Watch(model.decoder)
    seen = set()
    for _ in range(30):
        latents = model.latents(images).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.paint(model.quantizer(latents).values).sum(), latents)
        k = model.decoder.lengths(SMALL.patches)[-1]
        assert (gradient[:, :k].abs().amax(-1) > 0).all()
        assert (gradient[:, k:] == 0).all()
        seen.add(k)
    assert len(seen) > 1


def test_the_quantizers_loss_counts_all_tokens():
    images = torch.rand(2, 3, 8, 8)
    with_drop = small(quantizer=VQ(d=3, K=8)).train()
    without = small(TiTok, quantizer=VQ(d=3, K=8)).train()
    without.load_state_dict(with_drop.state_dict())
    for _ in range(5):
        ours, titok = with_drop(images), without(images)
        torch.testing.assert_close(ours.loss, titok.loss)
        assert torch.equal(ours.codes, titok.codes)


def test_outside_training_it_is_titok():
    ours, titok = small().eval(), small(TiTok).eval()
    titok.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 8, 8)
    tokens = ours.encode(images)
    assert torch.equal(tokens.codes, titok.encode(images).codes)
    for k in range(1, 6):
        assert torch.equal(ours.decode(tokens[:k]), titok.decode(tokens[:k]))


def learnt(method):
    """The error from 1 and from 2 of 4 tokens that learnt plain colours, which they could share in any way."""
    torch.manual_seed(0)
    images = torch.rand(32, 3, 1, 1).expand(-1, -1, 4, 4)
    model = method(Sizes(size=4, patch=2, tokens=4, width=16, layers=1, heads=2), FSQ((8, 8)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        F.mse_loss(model.train()(images).images, images).backward()
        optimizer.step()
    model.eval()
    tokens = model.encode(images)
    return [F.mse_loss(model.decode(tokens[:k]), images).item() for k in (1, 2)]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_only_tail_drop_learns_prefixes():
    ours, titok = learnt(OneDPiece), learnt(TiTok)
    assert ours[0] < 0.5 * titok[0]
    assert ours[1] < 0.5 * titok[1]


def test_half_precision_hides_the_tail_too():
    model, values = small().bfloat16().eval(), torch.randn(2, 5, 4).bfloat16()
    hidden = model.paint(values, without_tail(2, 5, SMALL.patches))
    torch.testing.assert_close(hidden, model.paint(values[:, :2]), atol=0.02, rtol=0)


TOKENS = Tokens(torch.zeros(2, 5, 1, dtype=torch.long), (5,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.decode(TOKENS[:6]), r"tokens\[:6\] came, expected 1 to 5"),
        (lambda m: m.decode(Tokens(TOKENS.codes[:, :0], (5,))), r"codes of shape \(2, 0, 1\) came"),
        (lambda m: m.decode(Tokens(TOKENS.codes, (64,))), r"layout \(64,\) came, expected \(5,\)"),
        (lambda m: m.decode(TOKENS.codes), "tokens of type Tensor came"),
        (lambda m: m.decode(Tokens(TOKENS.codes - 1, (5,))), "codes from -1 to -1 came, expected 0 to 4095"),
        (lambda m: m.encode(torch.rand(2, 3, 8, 9)), r"images of shape \(2, 3, 8, 9\) came, expected \(b, 3, 8, 8\)"),
        (lambda m: m.encode(torch.rand(2, 3, 8, 8) * 255), "expected values in"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small().eval())
