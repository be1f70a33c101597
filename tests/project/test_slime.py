"""SliME's views, router and stages: by hand, by plain loops, and by torch's own layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minitok import house
from minitok.project import slime as module
from minitok.project._common import grid_positions
from minitok.project.slime import STAGES, Resampler, SliME, cosines, learns, top_p


def small(n: int = 16, queries: int = 4) -> SliME:
    """Built for pictures of few patches, with gates and queries that matter."""
    torch.manual_seed(0)
    made = SliME(12, 6, n, queries).eval()
    nn.init.normal_(made.gate)
    for resampler in (made.whole, made.local):
        nn.init.normal_(resampler.query)
    return made.requires_grad_(False)


def question(b: int = 2, t: int = 5, d: int = 6) -> dict[str, torch.Tensor]:
    asked = torch.ones(b, t, dtype=torch.bool)
    asked[:, :2] = False
    return {"text": torch.randn(b, t, d), "asked": asked}


def test_cosines_by_hand():
    local = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]]])
    text = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    both = cosines(local, text, torch.tensor([[True, True, False]]))
    assert_close(both, torch.tensor([[1.0, 1.0, math.sqrt(2), -1.0]]))
    assert_close(cosines(local, text, torch.tensor([[True, False, False]])), torch.tensor([[1.0, 0.0, 0.5**0.5, -1.0]]))


def test_the_router_keeps_the_shortest_prefix_that_passes_p():
    scores = torch.randn(40, 13) * 2
    for p in (0.0, 0.3, 0.8, 0.95, 1.0):
        for temperature in (0.5, 2.0):
            kept = top_p(scores, p, temperature)
            for row, mine in zip(scores.tolist(), kept.tolist(), strict=True):
                weights = [math.exp(value / temperature) for value in row]
                order = sorted(range(13), key=lambda i, row=row: -row[i])
                mass, expected = 0.0, set()
                for i in order:
                    if expected and p < 1 and mass > p:
                        break
                    expected.add(i)
                    mass += weights[i] / sum(weights)
                assert {i for i, there in enumerate(mine) if there} == expected
    assert bool(top_p(scores, 1.0).all())


def test_ties_at_p_take_one_more_and_equals_go_to_the_first():
    halves = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert top_p(halves, 0.5).tolist() == [[True, True, False]]
    assert top_p(halves, 0.49).tolist() == [[False, True, False]]
    assert top_p(torch.zeros(1, 4), 0.0).tolist() == [[True, False, False, False]]
    assert top_p(halves.bfloat16(), 0.49).tolist() == [[False, True, False]]


def test_the_resampler_is_one_layer_of_attention():
    made = Resampler(4, 12, 16).requires_grad_(False)
    for norm in (made.norm_query, made.norm, made.norm_out):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    nn.init.normal_(made.query)
    x = torch.randn(2, 16, 12)

    def norm(layer, x):
        return layer.weight * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt() + (
            layer.bias
        )

    fine = F.interpolate(grid_positions(2, 12).view(1, 2, 2, 12).permute(0, 3, 1, 2), (4, 4), mode="bicubic")
    query = norm(made.norm_query, made.query) + grid_positions(2, 12)
    values = norm(made.norm, x)
    keys = values + fine.permute(0, 2, 3, 1).reshape(16, 12)
    weights, shifts = made.attention.in_proj_weight.chunk(3), made.attention.in_proj_bias.chunk(3)
    q, k, v = (
        part @ w.T + s for part, w, s in zip((query.expand(2, -1, -1), keys, values), weights, shifts, strict=True)
    )
    gathered = []
    for head in range(3):
        of = slice(4 * head, 4 * head + 4)
        gathered.append((q[..., of] @ k[..., of].transpose(1, 2) / 2).softmax(-1) @ v[..., of])
    out = made.attention.out_proj
    assert_close(made(x), norm(made.norm_out, torch.cat(gathered, -1) @ out.weight.T + out.bias), atol=1e-5, rtol=1e-4)


def test_the_view_mixes_two_adapters_token_by_token():
    made, x = small(), torch.randn(2, 16, 12)
    logits = torch.einsum("bnc,ce->bne", x, made.gate)
    share = 1 / (1 + (logits[..., 1] - logits[..., 0]).exp())
    plain, gathered = made.mlp(x), made.mlp(made.whole(x))
    assert_close(made.view(x), share[..., None] * plain + (1 - share[..., None]) * gathered)
    assert_close(made.alone(x, "mlp"), plain)
    assert_close(made.alone(x, "resampler"), gathered)


def test_gates_are_noisy_in_training_alone_and_the_noise_takes_the_same_weights():
    made, x = small(), torch.randn(3000, 4, 12) * 0 + torch.randn(4, 12)
    clean = x @ made.gate
    assert_close(made.gates(x), clean.softmax(-1))
    made.train()
    logits = made.gates(x).log()
    apart = logits[..., 0] - logits[..., 1]
    assert_close(apart.mean(0), (clean[0, :, 0] - clean[0, :, 1]), atol=0.25, rtol=0.1)
    width = (F.softplus(clean[0]) + 0.01).square().sum(-1).sqrt()
    assert_close(apart.std(0), width, rtol=0.1, atol=0)
    nn.init.constant_(made.gate, -20 / 12)  # softplus leaves next to nothing there
    least = made.gates(torch.ones(4000, 1, 12)).log()
    assert float((least[..., 0] - least[..., 1]).std()) == pytest.approx(math.sqrt(2) * 0.01, rel=0.1)


def test_crops_stand_in_the_raster_order_of_the_whole_picture():
    made, x = small(), torch.randn(2, 4 * 16, 12)
    tokens = made.crops(x)
    assert tokens.shape == (2, 16, 6)
    for crop in range(4):
        own = made.mlp(made.local(x[:, 16 * crop : 16 * crop + 16]))
        for token in range(4):
            row, column = 2 * (crop // 2) + token // 2, 2 * (crop % 2) + token % 2
            assert_close(tokens[:, 4 * row + column], own[:, token])


def test_a_budget_keeps_the_view_and_the_best_scores_in_reading_order():
    made, x, signals = small(), torch.randn(2, 5 * 16, 12), question()
    view, local = made.both(x)
    assert_close(view, made.view(x[:, :16]))
    assert_close(local, made.crops(x[:, 16:]))
    scores = cosines(local, **signals)
    for k in (16, 17, 21, 32):
        got = made(x, k, **signals)
        for row in range(2):
            best = sorted(range(16), key=lambda i, row=row: -float(scores[row, i]))[: k - 16]
            assert_close(got[row], torch.cat([view[row], local[row, sorted(best)]]))
    assert_close(made(x, **signals), torch.cat([view, local], 1))
    other = made(x, 21, **question())
    assert_close(other[:, :16], view)
    assert not torch.allclose(other, made(x, 21, **signals))


def test_a_picture_without_crops_is_its_own():
    made, x, signals = small(), torch.randn(2, 16, 12), question()
    assert_close(made(x, **signals), torch.cat([made.view(x), made.crops(x)], 1))
    assert made.budgets == (20, 17)


def test_words_that_fill_up_change_nothing():
    made, x, signals = small(), torch.randn(2, 5 * 16, 12), question()
    noisy = signals | {"text": signals["text"] + 9 * (~signals["asked"])[..., None]}
    assert_close(made(x, 20, **noisy), made(x, 20, **signals))


def test_training_adds_a_tenth_of_noise_to_the_scores():
    made, signals = small(), question(1)
    local = torch.randn(1, 5000, 6)
    clean = cosines(local, **signals)
    assert_close(made.score(local, **signals), clean)
    noise = made.train().score(local, **signals) - clean
    assert float(noise.std()) == pytest.approx(0.1, rel=0.08)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


def test_without_a_budget_each_row_is_read_with_what_passes_p():
    torch.manual_seed(0)
    host = house.recipe("vlm_many").build().eval().requires_grad_(False)
    made = SliME(p=0.05, temperature=0.5).eval().requires_grad_(False)
    x, words = torch.randn(2, 5 * 256, 192), torch.tensor([[0, 0, 9, 12, 31, 1], [0, 40, 41, 17, 18, 1]])
    signals = {"text": host.word(words) * 50, "asked": words > 0}
    view, local = made.both(x)
    kept = top_p(cosines(local, **signals), 0.05, 0.5)
    assert 0 < int(kept[0].sum()) != int(kept[1].sum())
    hidden = made.read(host, x, words, **signals)
    for row in range(2):
        visual = torch.cat([view[row], local[row, kept[row]]])[None]
        assert_close(hidden[row], host.read(visual, words[row : row + 1])[0], atol=1e-5, rtol=1e-4)
    few = made.read(host, x, words, 260, **signals)
    assert_close(few, host.read(made(x, 260, **signals), words))
    slots = torch.tensor([0, 0, 0, 1, 1, 1])
    apart = made.read(host, x, words, 260, slots=slots, **signals)
    assert_close(apart, host.read(made(x, 260, **signals), words, slots=slots))
    assert_close(made.read(host, x, words, slots=slots, **signals)[:, :3], hidden[:, :3], atol=1e-5, rtol=1e-4)


def test_each_stage_trains_its_part():
    made, x = small().requires_grad_(True), torch.randn(2, 5 * 16, 12)
    parts = {"mlp": "mlp.", "resampler": "whole.", "local": "local."}
    for stage in STAGES:
        made.zero_grad()
        given = made(x, **question()) if stage == "all" else made.alone(x, stage)
        assert given.shape[1] == {"local": 16, "all": 32}.get(stage, 16)
        (given * torch.randn(6)).sum().backward()
        learnt = {id(p) for p in learns(made, stage)}
        for name, parameter in made.named_parameters():
            assert (id(parameter) in learnt) == (stage == "all" or name.startswith(parts[stage]))
            if id(parameter) in learnt:
                assert parameter.grad is not None
    assert_close(made.alone(x, "local"), made.crops(x[:, 16:]))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    made, signals = small(), question()
    for k in (15, 33):
        with pytest.raises(ValueError, match=f"k={k} came, expected 16 to 32 tokens"):
            made(torch.zeros(2, 5 * 16, 12), k, **signals)
    with pytest.raises(ValueError, match="48 features came for crops of 16"):
        made(torch.zeros(2, 4 * 16, 12), **signals)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"p={p} came, expected 0 to 1"):
            top_p(torch.zeros(1, 3), p)
    with pytest.raises(ValueError, match="stage='sft' came, expected one of mlp"):
        list(learns(made, "sft"))
    assert module.STAGES[-1] == "all"
