import pytest
import torch

from minitok import house
from minitok.data import clothing
from minitok.house import Options, stvit
from minitok.metrics import flops, parameters
from minitok.reduce.stvit import SemanticTokens

needs_photographs = pytest.mark.skipif(not clothing.at_hand(), reason="the photographs of clothes are not at hand")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return stvit.build().eval().requires_grad_(False)


def test_all_have_as_many_weights_and_the_reduced_ones_less_than_half_of_the_work(models):
    sizes = {name: parameters(model) for name, model in models.items()}
    assert max(sizes.values()) / min(sizes.values()) < 1.02
    assert sizes["stvit"] == sizes["queries"] == sizes["pooled"] == sizes["mean"]
    assert all(2 * size <= 1e6 for size in sizes.values())
    image = torch.rand(1, 3, 64, 64)
    costs = {name: flops(models[name], image) for name in stvit.KINDS}
    assert all(cost < 0.52 * costs["full"] for name, cost in costs.items() if name not in ("full", "pruned"))
    assert costs["pooled"] < costs["stvit"] < costs["pruned"] < costs["full"]


def test_controls_differ_in_one_thing_each():
    torch.manual_seed(0)
    x, cls = torch.randn(2, 256, 8), torch.randn(2, 1, 8)
    ours, queries, blind = (kind(8, 2, scale=0.3) for kind in (SemanticTokens, stvit.Queries, stvit.Pooled))
    for made in (queries, blind):
        made.load_state_dict(ours.state_dict())
    assert torch.equal(queries.start(x), ours.centres.expand(2, -1, -1))
    assert torch.equal(blind.start(x), ours.start(x))
    # A patch that is nowhere the largest changes what looks, and not what only pools.
    other = x.clone()
    other[:, 0] = -10.0
    low = x.clone()
    low[:, 0, 0] = -20.0
    assert torch.equal(blind(other, cls), blind(low, cls))
    assert not torch.equal(ours(other, cls), ours(low, cls))
    assert not torch.equal(queries(other, cls), queries(low, cls))


def test_pruning_keeps_what_cls_attends_to_most(models):
    seen, pruned, image = [], models["pruned"], torch.rand(1, 3, 64, 64)
    pruned.vit(image, seen.append)
    best = seen[stvit.EARLY].attention[0, :, 0, 1:].mean(0).topk(16).indices.sort().values
    widths = []
    pruned.vit.body.blocks[3].register_forward_pre_hook(lambda _, given: widths.append(given[0]))
    pruned(image)
    assert widths[0].shape == (1, 17, 64)
    block = pruned.vit.body.blocks[stvit.EARLY]
    kept = torch.cat([seen[stvit.EARLY].hidden[:, :1], seen[stvit.EARLY].hidden[:, 1 + best]], 1)
    torch.testing.assert_close(widths[0], kept + block.mlp(block.norm2(kept)), atol=1e-4, rtol=1e-4)


@needs_photographs
def test_a_bank_holds_views_and_what_the_teacher_says(monkeypatch):
    photographs = clothing.load("train").images
    monkeypatch.setattr(stvit, "view", lambda images: images)
    monkeypatch.setattr(stvit, "mixed", lambda images: (images, None, None))
    images, said = stvit.bank(3, torch.device("cpu"))
    assert torch.equal(images, photographs[:3].half())
    torch.testing.assert_close(said, house.load("vit")(images.float()).softmax(-1), atol=1e-5, rtol=1e-4)


@needs_photographs
def test_the_recipe_trains_each_by_its_seed_and_resumes(monkeypatch, tmp_path):
    monkeypatch.setattr(stvit, "BATCH", 2)
    kinds = {name: stvit.KINDS[name] for name in ("stvit", "queries")}
    monkeypatch.setattr(stvit, "KINDS", kinds)
    monkeypatch.setattr(stvit, "TWICE", ("stvit",))
    options = Options(steps=2, device="cpu", progress=False)
    models = stvit.train(tmp_path, options)
    assert list(models) == list(stvit.build()) == ["stvit", "queries", "stvit, again"]
    first, second, again = (model.state_dict() for model in models.values())
    assert not torch.equal(first["tokens.centres"], again["tokens.centres"])
    torch.testing.assert_close(first["vit.stem.0.weight"], second["vit.stem.0.weight"], atol=0.02, rtol=0)
    torch.manual_seed(0)
    assert not torch.equal(first["vit.head.weight"], stvit.KINDS["stvit"]().vit.head.weight)
    resumed = stvit.train(tmp_path, options)
    assert all(torch.equal(a, b) for a, b in zip(models.parameters(), resumed.parameters(), strict=True))


def test_a_distance_is_a_divergence_in_bits():
    said = torch.tensor([[0.5, 0.5]]).log()
    assert stvit.apart(said, said) == pytest.approx(0, abs=1e-6)
    # 0.5 log2(0.5 / 0.25) + 0.5 log2(0.5 / 0.75) = 0.2075
    assert stvit.apart(torch.tensor([[0.25, 0.75]]).log(), said) == pytest.approx(0.2075, abs=1e-4)
