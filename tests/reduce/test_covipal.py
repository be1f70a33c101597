import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok.optimizers import AdamW
from minitok.reduce.covipal import (
    TEMPERATURE,
    PruningModule,
    covipal,
    guide_loss,
    guide_target,
    read_softly,
    retention,
    softly,
    threshold,
)


def test_four_tokens_by_hand():
    # Two heads of the guide layer; the sums are 0.4, 0.1, 0.8 and 0.2, the largest is 0.8.
    paid = torch.tensor([[[0.3, 0.1, 0.4, 0.2], [0.1, 0.0, 0.4, 0.0]]])
    assert_close(guide_target(paid), torch.tensor([[0.5, 0.125, 1.0, 0.25]]))
    # All scores 0 say 1/2 of each: the squares are 0, 9/64, 1/4 and 1/16.
    assert float(guide_loss(torch.zeros(1, 4), paid)) == pytest.approx((9 / 64 + 16 / 64 + 4 / 64) / 4)
    # At temperature 1 scores of +-ln 3 have retentions of 3/4 and 1/4: half on average, so tau is 0.
    scores = torch.tensor([[1.0, -1.0, 1.0, -1.0]]) * torch.tensor(3.0).log()
    assert float(threshold(scores, 0.5, 1.0)) == pytest.approx(0, abs=1e-5)
    assert_close(retention(scores, 0.5, 1.0).exp(), torch.tensor([[0.75, 0.25, 0.75, 0.25]]))
    assert_close(retention(scores + 5, 0.5, 1.0), retention(scores, 0.5, 1.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.03, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.05, 0.25, 2.0])
def test_the_mean_retention_is_the_share(share, temperature):
    torch.manual_seed(0)
    scores = torch.randn(3, 50) * torch.tensor([[0.1], [3.0], [30.0]])
    kept = retention(scores, share, temperature).exp()
    assert_close(kept.mean(1), torch.full((3,), share), atol=1e-4, rtol=0)
    assert (kept.gather(1, scores.argsort()).diff() >= 0).all()
    if temperature == TEMPERATURE:
        assert torch.equal(retention(scores, share), retention(scores, share, temperature))


def test_the_gradient_of_the_threshold_is_exact():
    torch.manual_seed(0)
    scores = torch.randn(2, 9, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: threshold(given, 0.3, 0.5), scores)
    (gradient,) = torch.autograd.grad(retention(scores, 0.3, 0.5).exp().sum(), scores)
    assert gradient.abs().max() < 1e-6  # the mean stays, so no score can raise it


def test_full_retention_changes_nothing_and_none_is_as_if_the_token_were_gone(network):
    torch.manual_seed(0)
    x, places = torch.randn(2, 9, 16), torch.arange(9.0)[None]
    whole = network(x, positions=places)
    assert_close(read_softly(network, x, places, torch.zeros(2, 6)), whole, atol=1e-5, rtol=1e-4)
    kept = torch.zeros(2, 6)
    kept[:, [1, 4]] = -60.0
    left = [0, 2, 3, 5, 6, 7, 8]
    gone = network(x[:, left], positions=places[:, left])
    assert_close(read_softly(network, x, places, kept)[:, left], gone, atol=1e-5, rtol=1e-4)
    assert (whole[:, left] - gone).abs().max() > 0.01


def test_half_a_key_weighs_half(network):
    """A retention of 1/2 gives a key half the weight before the softmax is normalised: by a plain loop, layer 0."""
    torch.manual_seed(0)
    bias = softly(torch.tensor([[0.5, 1.0]]).log(), 3)
    logits = torch.randn(1, 1, 3, 3)
    found = (logits + bias).softmax(-1)[0, 0]
    for i in range(3):
        raw = [float(logits[0, 0, i, j].exp()) * (0.5 if j == 0 else 1.0) * (j <= i) for j in range(3)]
        assert found[i].tolist() == pytest.approx([value / sum(raw) for value in raw], abs=1e-6)


def test_the_loss_of_the_answers_reaches_every_weight_of_the_module(network):
    torch.manual_seed(0)
    module, visual, text = PruningModule(16, 8), torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    asked = torch.tensor([[False, True, True], [True, True, True]])
    kept = retention(module(visual, text, asked), 0.5)
    state = read_softly(network, torch.cat([visual, text], 1), torch.arange(9.0)[None], kept)
    F.cross_entropy(state[:, -1], torch.tensor([3, 7])).backward()
    for name, weight in module.named_parameters():
        # A key's shift moves all words alike, and the last shift all scores.
        if name not in ("score.2.bias",) and "words.1.bias" not in name:
            assert weight.grad.abs().max() > 0, name
    assert module.score[2].bias.grad.abs().max() < 1e-5


def test_the_module_is_a_plain_attention_to_the_words():
    torch.manual_seed(0)
    module = PruningModule(6, hidden=4, heads=2).requires_grad_(False)
    visual, text, asked = torch.randn(1, 3, 6), torch.randn(1, 4, 6), torch.tensor([[False, True, False, True]])

    def norm(x):
        apart = x - x.mean(-1, keepdim=True)
        return apart / (apart.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    seen = module.visual[1](norm(visual))[0]
    keys, values = module.words[1](norm(text))[0].chunk(2, -1)
    queries = module.query(seen)
    for i in range(3):
        heard = []
        for h in range(2):
            part = slice(2 * h, 2 * h + 2)
            weight = torch.stack([queries[i, part] @ keys[j, part] / 2**0.5 for j in (1, 3)]).softmax(0)
            heard.append(weight[0] * values[1, part] + weight[1] * values[3, part])
        heard = torch.cat(heard)
        expected = module.score(torch.cat([seen[i], heard, seen[i] * heard]))
        assert_close(module(visual, text, asked)[0, i], expected[0], atol=1e-5, rtol=1e-4)


def test_it_hears_the_question_and_not_the_filling():
    torch.manual_seed(0)
    module, x, text = PruningModule(8), torch.randn(2, 20, 8), torch.randn(2, 5, 8)
    asked = torch.tensor([[False, False, True, True, True]]).expand(2, -1)
    kept = covipal(x, 6, text=text, asked=asked, module=module).order
    other = torch.cat([torch.randn(2, 2, 8), text[:, 2:]], 1)
    assert torch.equal(covipal(x, 6, text=other, asked=asked, module=module).order, kept)
    other = torch.cat([text[:, :2], torch.randn(2, 3, 8) * 5], 1)
    assert not torch.equal(covipal(x, 6, text=other, asked=asked, module=module).order, kept)
    assert kept.tolist() == module(x, text, asked).topk(6).indices.sort(-1).values.tolist()


def test_both_stages_teach_to_keep_what_a_question_asks_for(network):
    """One of eight tokens is like the only word, and the guide pays it: after training it is kept first."""
    torch.manual_seed(0)
    module = PruningModule(16, 16)
    optimizer = AdamW(module.parameters(), lr=1e-2)
    asked = torch.ones(16, 1, dtype=torch.bool)
    for _ in range(150):
        x, i = torch.randn(16, 8, 16), torch.randint(8, (16,))
        text = x[torch.arange(16), i][:, None]
        loss = guide_loss(module(x, text, asked), F.one_hot(i, 8)[:, None].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(16, 8, 16)
    kept = covipal(x, 1, text=x[:, 5:6], asked=asked, module=module).order
    assert (kept == 5).float().mean() > 0.7


X, TEXT, ASKED = torch.zeros(1, 6, 4), torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "k", "given", "message"),
    [
        (X[0], 2, {}, r"x of shape \(6, 4\) came"),
        (X, 7, {}, "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (X, 2, {"text": TEXT[..., 1:]}, r"text of shape \(1, 3, 3\) came, expected \(1, any, 4\)"),
        (X, 2, {"text": TEXT / 0}, "text holds NaN or infinity"),
        (X, 2, {"asked": ASKED[:, 1:]}, r"asked of shape \(1, 2\) and type torch.bool came, expected booleans"),
        (X, 2, {"asked": ~ASKED}, "asked has a row without a word"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, given, message):
    with pytest.raises(ValueError, match=message):
        covipal(x, k, **({"text": TEXT, "asked": ASKED, "module": PruningModule(4, 4)} | given))
