import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok.optimizers import AdamW
from minitok.reduce.explain_compress import (
    Compressor,
    compressor_loss,
    explain,
    explain_compress,
    mean_paid,
    of_first_layer,
    rollout,
    target,
    written_out,
)


@pytest.fixture
def head():
    torch.manual_seed(1)
    return nn.Linear(16, 5).requires_grad_(False)


def test_three_tokens_by_hand():
    """Two layers of one head each; token 2 answers."""
    first = torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]]])
    second = torch.tensor([[[[1.0, 0, 0], [0.6, 0.4, 0], [0.5, 0.5, 0.0]]]])
    one = torch.zeros(1, 1, 3, 3)
    one[..., 1, 0] = 4  # in the first layer, token 1 gains from token 0
    two = torch.zeros(1, 1, 3, 3)
    two[..., 2, 1], two[..., 2, 0] = 2, -2  # in the second, token 2 from token 1; what it pays token 0 does harm
    # The second layer gives token 1 0.5 * 2 = 1, and token 1 owes 0.5 * 4 = 2 of each unit to token 0.
    assert rollout([first, second], [one, two]).tolist() == [[2.0, 1.0, 1.0]]
    assert rollout([second, first], [two, one]).tolist() == [[0.0, 1.0, 1.0]]  # in the other order nothing is passed on


def test_the_last_row_is_that_of_the_whole_product():
    torch.manual_seed(0)
    weights = [torch.rand(2, 3, 6, 6).tril() for _ in range(4)]
    slopes = [torch.randn(2, 3, 6, 6) for _ in range(4)]
    for i in range(2):
        whole = torch.eye(6)
        for weight, slope in zip(weights, slopes, strict=True):
            step = torch.zeros(6, 6)
            for h in range(3):
                step += (weight[i, h] * slope[i, h]).clamp(min=0) / 3
            whole = whole + step @ whole
        assert_close(rollout(weights, slopes)[i], whole[-1])


def test_a_network_that_writes_its_attention_out_is_the_same(network):
    x, places, layers = torch.randn(2, 9, 16), torch.arange(9.0)[None] * 1.5, []
    hidden, weights = written_out(network, x, places)
    expected = network(x, positions=places, on_layer=layers.append)
    assert_close(hidden.detach(), expected, atol=1e-5, rtol=1e-4)
    for layer, weight in zip(layers, weights, strict=True):
        assert_close(weight.detach(), layer.attention, atol=1e-5, rtol=1e-4)


def test_the_explanation_uses_the_slope_of_the_likeliest_answer(network, head):
    visual, text, places = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.arange(8.0)[None]
    found, logits, weights = explain(network, head, visual, text, places)
    said = head(network(torch.cat([visual, text], 1), positions=places)[:, -1])
    assert_close(logits, said, atol=1e-5, rtol=1e-4)
    assert found.shape == (2, 5)
    assert not found.requires_grad
    assert all(weight.shape == (2, 4, 8, 8) and not weight.requires_grad for weight in weights)
    # In the last layer, the slope by differences: a little more paid by the last token to a visual one.
    block = network.blocks[2]
    x = torch.cat([visual, text], 1)
    for other in network.blocks[:2]:
        x = other(x, places, torch.ones(8, 8, dtype=torch.bool).tril())
    normed = block.norm1(x)
    values = block.attention.split(block.attention.value(normed), None).repeat_interleave(2, 1)

    def logit(weight):
        y = x + block.attention.out((weight @ values).transpose(1, 2).flatten(2))
        return head(network.norm(y + block.mlp(block.norm2(y)))[:, -1]).gather(1, said.argmax(-1, keepdim=True))[:, 0]

    owed = torch.zeros(2, 8)
    for h in range(4):
        for j in range(8):
            more = torch.zeros_like(weights[2])
            more[:, h, -1, j] = 1e-2
            slope = (logit(weights[2] + more) - logit(weights[2] - more)) / 2e-2
            owed[:, j] += (slope * weights[2][:, h, -1, j]).clamp(min=0) / 4
    last = copy.deepcopy(network)
    last.blocks = last.blocks[2:]
    alone, _, _ = explain(last, head, x[:, :5], x[:, 5:], places)
    assert_close(alone, owed[:, :5], atol=1e-3, rtol=1e-2)


def test_the_first_attention_needs_only_the_first_layer(network):
    visual, text, places, layers = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.arange(8.0)[None], []
    network(torch.cat([visual, text], 1), positions=places, on_layer=layers.append)
    assert_close(of_first_layer(network, visual, text, places), layers[0].attention[:, :, 5:, :5], atol=1e-5, rtol=1e-4)


def test_filling_does_not_count_in_the_mean():
    paid = torch.tensor([[[[9.0, 9.0], [0.0, 0.2], [0.4, 0.2]], [[9.0, 9.0], [0.2, 0.0], [0.2, 0.0]]]])
    assert_close(mean_paid(paid, torch.tensor([[False, True, True]])), torch.tensor([[0.2, 0.1]]))
    assert mean_paid(paid.half(), torch.ones(1, 3, dtype=torch.bool)).dtype == torch.float32


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, [0.25, 0, 0, 0.75]), (0.25, [4 / 18, 0, 2 / 18, 12 / 18]), (0.0, None), (0.9, [0.0, 0, 0, 1])],
)
def test_the_target_forgets_the_lowest_share(share, expected):
    relevance = torch.tensor([[4.0, 1.0, 2.0, 12.0]])
    assert_close(target(relevance, share), relevance / 19 if expected is None else torch.tensor([expected]))


def test_the_loss_is_the_divergence_and_its_minimum_the_target():
    relevance = torch.tensor([[4.0, 1.0, 2.0, 12.0], [1.0, 1.0, 3.0, 0.0]])
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 2.0]])
    expected = 0.0
    for row, goal in zip(scores.softmax(-1).tolist(), target(relevance).tolist(), strict=True):
        expected += sum(p * torch.tensor(p / q).log().item() for p, q in zip(goal, row, strict=True) if p) / 2
    assert float(compressor_loss(scores, relevance)) == pytest.approx(expected, abs=1e-5)
    best = target(relevance).clamp(min=1e-30).log()
    assert float(compressor_loss(best, relevance)) == pytest.approx(0, abs=1e-5)
    assert float(compressor_loss(scores, relevance, 0.0)) != pytest.approx(expected, abs=1e-2)


def test_the_compressor_is_a_plain_chain_of_convolutions_of_any_length():
    torch.manual_seed(0)
    made = Compressor((1, 3, 2), kernel=3).requires_grad_(False)
    paid = torch.rand(2, 7)
    x = (paid / paid.mean(1, keepdim=True))[:, :, None].tolist()
    for along, across in zip(made.along, made.across, strict=True):
        y = []
        for row in x:
            ends = [row[0], *row, row[-1]]
            y.append([])
            for i in range(len(row)):
                deep = [
                    sum(float(along.weight[c, 0, t]) * ends[i + t][c] for t in range(3)) + float(along.bias[c])
                    for c in range(len(row[0]))
                ]
                wide = [
                    max(0.0, sum(float(weight[c, 0]) * deep[c] for c in range(len(deep))) + float(bias))
                    for weight, bias in zip(across.weight, across.bias, strict=True)
                ]
                y[-1].append(wide)
        x = y
    found = [
        [sum(float(made.score.weight[0, c, 0]) * v[c] for c in range(2)) + float(made.score.bias) for v in row]
        for row in x
    ]
    assert_close(made(paid).detach(), torch.tensor(found), atol=1e-5, rtol=1e-4)
    # Scaling does not matter, nor the length: far from the ends a longer row has the same scores.
    assert_close(made(3 * paid), made(paid), atol=1e-5, rtol=1e-4)
    repeated = torch.cat([paid, paid], 1)
    assert_close(made(repeated)[:, :4], made(paid)[:, :4], atol=1e-5, rtol=1e-4)


def test_it_keeps_what_the_compressor_scores_highest_from_the_words_alone():
    torch.manual_seed(0)
    made, paid = Compressor((1, 4, 8), 3).requires_grad_(False), torch.rand(3, 2, 4, 20)
    asked = torch.tensor([[False, True, True, True]] * 2 + [[False, False, False, True]])
    x = torch.randn(3, 20, 2)
    kept = explain_compress(x, 6, first_attention=paid, asked=asked, compressor=made).order
    for i, words in enumerate(([1, 2, 3], [1, 2, 3], [3])):
        mean = torch.stack([paid[i, h, j] for h in range(2) for j in words]).mean(0)
        assert kept[i].tolist() == sorted(made(mean[None])[0].topk(6).indices.tolist())
    other = torch.cat([torch.rand(3, 2, 1, 20), paid[:, :, 1:]], 2)
    assert torch.equal(explain_compress(x, 6, first_attention=other, asked=asked, compressor=made).order, kept)
    other = torch.cat([paid[:, :, :1], torch.rand(3, 2, 3, 20)], 2)
    assert not torch.equal(explain_compress(x, 6, first_attention=other, asked=asked, compressor=made).order, kept)


def test_by_default_it_has_the_papers_channels():
    made = Compressor()
    assert [layer.out_channels for layer in made.across] == [32, 64, 128, 256, 512]
    assert all(layer.groups == layer.in_channels and layer.kernel_size == (7,) for layer in made.along)
    assert sum(weight.numel() for weight in made.parameters()) == 179_465


def test_it_learns_a_pattern_that_the_attention_hides():
    """What matters stands one place behind what is paid: attention alone is of no use, a convolution finds it."""
    torch.manual_seed(0)
    made = Compressor((1, 8, 8), 3)
    optimizer = AdamW(made.parameters(), lr=2e-2)
    for _ in range(60):
        paid = torch.rand(8, 32) ** 4
        loss = compressor_loss(made(paid), paid.roll(1, 1) + 1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    paid = torch.rand(8, 64) ** 4  # longer than in training
    first, asked = paid[:, None, None], torch.ones(8, 1) > 0
    found = explain_compress(torch.zeros(8, 64, 1), 16, first_attention=first, asked=asked, compressor=made).order
    wanted = paid.roll(1, 1).topk(16).indices
    hit = (found[:, :, None] == wanted[:, None]).any(1).float().mean()
    missed = (paid.topk(16).indices[:, :, None] == wanted[:, None]).any(1).float().mean()
    assert hit > 0.8 > 0.6 > missed


X, PAID, ASKED = torch.zeros(1, 6, 2), torch.full((1, 2, 3, 6), 1 / 8), torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "k", "given", "message"),
    [
        (X[0], 2, {}, r"x of shape \(6, 2\) came"),
        (X, 7, {}, "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (
            X,
            2,
            {"first_attention": PAID[..., 1:]},
            r"first_attention of shape \(1, 2, 3, 5\) came, expected \(1, any, any",
        ),
        (X, 2, {"first_attention": PAID / 0}, "first_attention holds NaN or infinity"),
        (
            X,
            2,
            {"asked": ASKED[:, 1:]},
            r"asked of shape \(1, 2\) and type torch.bool came, expected booleans of shape",
        ),
        (X, 2, {"asked": ASKED.long()}, "asked of shape .* and type torch.int64 came"),
        (X, 2, {"asked": ~ASKED}, "asked has a row without a word"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, given, message):
    signals = {"first_attention": PAID, "asked": ASKED, "compressor": Compressor((1, 2), 3)} | given
    with pytest.raises(ValueError, match=message):
        explain_compress(x, k, **signals)
