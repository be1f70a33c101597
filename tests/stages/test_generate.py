import pytest
import torch

from minitok import papers
from minitok.data import Labelled
from minitok.generate._common import generate
from minitok.generate.raster import ImageGPT
from minitok.house import Options
from minitok.nn import Cache, Shape
from minitok.stages import generate as league
from minitok.stages import orders
from minitok.stages.neighbours import Neighbours, Unigram, levels

SHAPE = Shape(width=8, layers=1, heads=1)


def small(n: int = 7, K: int = 5) -> ImageGPT:
    model = ImageGPT(SHAPE, K=K, n=n, classes=2).eval().requires_grad_(False)
    model.code.mul_(40)
    return model


def test_several_codes_are_drawn_by_the_logits_of_the_first():
    model, codes, labels = small(), torch.randint(5, (2, 7)), torch.tensor([0, 1])
    several = league.Several(model, 3)
    assert several.schedule.groups == ((0, 1, 2), (3, 4, 5), (6,))
    whole, cache = model(codes, labels), Cache()
    at_once = several(codes, labels)
    for k in range(7):
        assert torch.equal(at_once[:, k], whole[:, k - k % 3])
    step = several.step(codes[:, :0], labels, cache)
    torch.testing.assert_close(step, whole[:, :1].expand(-1, 3, -1), atol=1e-5, rtol=0)
    step = several.step(codes[:, :3], labels, cache)
    torch.testing.assert_close(step, whole[:, 3:4].expand(-1, 3, -1), atol=1e-5, rtol=0)


def test_several_codes_take_fewer_calls():
    assert generate(league.Several(small(9), 3), torch.tensor([0, 1])).calls == 3
    model, labels = small(), torch.tensor([1, 0])
    assert torch.equal(generate(league.Several(model, 1), labels).codes, generate(model, labels).codes)


def test_the_first_level_of_a_code_by_hand():
    # One picture of 2 x 2 cells, all of code 3: level 0 is 3, the others 0.
    counts = Neighbours(torch.full((1, 4), 3), side=2, strength=8.0)
    nothing = torch.full((1, 4), 8)
    # nothing known: (4 + 8 / 8) / (4 + 8); no cell above, seen twice: (2 + 8 p) / (2 + 8); none at the left, once
    p = (4 + 1) / 12
    p = (2 + 8 * p) / 10
    p = (1 + 8 * p) / 9
    assert float(counts.level(0, nothing, nothing, nothing)[0, 3]) == pytest.approx(p, abs=1e-6)
    known = torch.tensor([[5, 0, 0, 0]])  # a level above that was never seen: what is known without it
    assert float(counts.level(0, known, known, nothing)[0, 3]) == pytest.approx(5 / 12, abs=1e-6)


def test_probabilities_sum_to_one_and_bits_are_their_logarithms():
    codes = torch.randint(4096, (5, 9), generator=torch.Generator().manual_seed(0))
    counts, grid = Neighbours(codes, side=3), levels(codes).view(5, 3, 3, 4)
    total = 0.0
    for row in range(3):
        for column in range(3):
            up = grid[:, row - 1, column] if row else torch.full((5, 4), 8)
            left = grid[:, row, column - 1] if column else torch.full((5, 4), 8)
            for i in range(4):
                p = counts.level(i, up, left, grid[:, row, column])
                torch.testing.assert_close(p.sum(-1), torch.ones(5), atol=1e-5, rtol=0)
                total -= float(p.gather(1, grid[:, row, column, i, None]).log2().sum())
    assert counts.price(codes).shape == (5, 9)
    assert float(counts.price(codes).mean()) == pytest.approx(total / 45, abs=1e-3)
    assert counts.price(codes).mean() < Neighbours(codes, side=3, strength=64.0).price(codes).mean() < 12


def test_what_was_counted_is_drawn():
    stripes = (torch.arange(16) // 4 % 2 * 7).expand(8, -1)  # rows of code 0 and rows of code 7 in turn
    counts = Neighbours(stripes, side=4, strength=1e-4)
    assert torch.equal(counts.draw(3), stripes[:3])
    free = Neighbours(stripes, side=4, strength=1e4)
    assert not torch.equal(free.draw(3, seed=1), free.draw(3, seed=2))
    assert torch.equal(free.draw(3, seed=1), free.draw(3, seed=1))


def test_slant_is_0_for_mirror_images_and_sees_diagonal_stripes():
    codes = torch.randint(4096, (50, 16, 16), generator=torch.Generator().manual_seed(0))
    assert orders.slant(torch.cat([codes, codes.flip(2)]).flatten(1)) == pytest.approx(0, abs=1e-4)
    cell = torch.arange(16)
    assert orders.slant(((cell[:, None] + cell) % 8).reshape(1, 256)) == pytest.approx(-100)


def test_the_cost_of_a_small_model():
    plain, guided = (league.cost(small(), guidance) for guidance in (1.0, 2.0))
    assert guided["GFLOP"] == pytest.approx(2 * plain["GFLOP"])
    assert 0 < plain["in 32"] < plain["alone"]


def test_each_code_by_itself_pays_by_its_share():
    counts = Unigram(torch.tensor([[0, 0, 1, 3]]), K=4)  # one is added to each: 3, 2, 1, 2 of 8
    torch.testing.assert_close(2 ** -counts.price(torch.tensor([[0, 1, 2, 3]])), torch.tensor([[3, 2, 1, 2]]) / 8)
    drawn = counts.draw(500, seed=1, n=8)
    assert drawn.shape == (500, 8)
    share = drawn.flatten().bincount() / 4000
    assert (share - torch.tensor([3, 2, 1, 2]) / 8).abs().max() < 5 * (0.24 / 4000) ** 0.5
    assert not torch.equal(drawn, counts.draw(500, seed=2, n=8))


def test_a_network_pays_the_logarithms_of_its_probabilities():
    model, codes, labels = small(), torch.randint(5, (70, 7)), torch.arange(70) % 2
    p = model(codes, labels).softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(orders.price(model, codes, labels), -p.log2(), atol=1e-4, rtol=0)


def test_a_gap_is_that_of_pairs_with_twice_its_error():
    ours, other = (
        orders.Row(3, torch.zeros(4, 2)),
        orders.Row(5, torch.tensor([[1.0], [1.0], [2.0], [2.0]]).expand(4, 2)),
    )
    found, error = orders.gap(ours, other)
    assert found == 1.5
    assert error == pytest.approx(2 * (1 / 3) ** 0.5 / 2)
    assert orders.table({"a": other}).splitlines()[1].split() == ["a", "5", "1.50", "-", "-"]
    with pytest.raises(ValueError, match="no price"):
        _ = orders.Row(3).bits
    with pytest.raises(ValueError, match="need a price"):
        orders.gap(ours, orders.Row(3))


@pytest.fixture
def few(monkeypatch):
    """Eight random photographs, 16 of their pixels for features, and a small model, untrained, of 16 codes a call."""
    photographs = Labelled(torch.rand(8, 3, 64, 64), torch.tensor([0, 1, 1, 0, 1, 0, 1, 0]), ("a", "b"))
    model = league.Several(small(256, 4096), 16)
    monkeypatch.setattr(league.clothing, "load", lambda split: photographs)
    monkeypatch.setattr(league.clothing, "at_hand", lambda: True)
    monkeypatch.setattr(league, "methods", lambda: {"raster": (model, 1.0), "raster, guidance 2": (model, 2.0)})
    for module in (league, orders):
        monkeypatch.setattr(module, "cls_features", lambda images: images[:, 0, ::16, ::16].flatten(1))
    monkeypatch.setattr(league, "ENOUGH", 6)
    monkeypatch.setattr(league, "cost", lambda model, guidance: {"GFLOP": guidance})
    return model


@pytest.mark.usefixtures("few")
@pytest.mark.usefixtures("unchecked")
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(league, "stage", lambda images, stage=league.stage: stage(6))
    options = Options(steps=3, device="cpu", progress=False)
    rows = league.measure(tmp_path, options)
    assert sorted(row["method"] for row in rows) == ["neighbours", "raster", "raster, guidance 2", "real", "unigram"]
    found = {row["method"]: row for row in rows}
    assert set(found["raster"]) == {"method", "calls", "Frechet", "spread", "right", "bits", "slant", "GFLOP"}
    assert "bits" not in found["raster, guidance 2"]
    assert found["real"].keys() == {"method", "Frechet", "spread", "slant"}
    assert found["unigram"].keys() == {"method", "Frechet", "spread", "slant", "bits"}
    assert [row["Frechet"] for row in rows] == sorted(row["Frechet"] for row in rows)
    assert found["raster"]["Frechet"] != found["raster, guidance 2"]["Frechet"]
    assert all(row["spread"] > 0 for row in rows)
    again = league.measure(tmp_path, options)
    assert again == rows


@pytest.mark.usefixtures("unchecked")
def test_the_stage_measures_networks_and_counts_by_one_call(few):
    stage = league.stage(6)
    row = stage.measure(few, draw=4)
    torch.testing.assert_close(row.paid, orders.price(few, stage.codes, stage.labels))
    assert (row.calls, row.Frechet is not None, row.right is not None) == (16, True, True)
    assert torch.equal(stage.draw(few, 4), generate(few, stage.labels[:4]).codes)
    guided = stage.measure(few, draw=4, guidance=3.0)
    assert guided.paid is None
    assert guided.slant != row.slant
    counts = stage.measure(Unigram(stage.codes), draw=4)
    assert counts.right is None
    assert counts.bits < 12
    assert stage.measure(few).slant is None
    assert stage.counts.keys() == {"unigram", "neighbours"}


def test_photographs_are_taken_by_the_classes_asked_for():
    there, asked = torch.arange(40) % 4, torch.tensor([3, 0, 3, 3, 1])
    rows = league.of_classes(there, asked, seed=0)
    assert there[rows].tolist() == [0, 1, 3, 3, 3]
    assert len(set(rows.tolist())) == 5
    assert not torch.equal(rows, league.of_classes(there, asked, seed=1))
    assert there[league.of_classes(there, torch.full((30,), 2), seed=0)].tolist() == [2] * 10


def test_methods_of_the_registry_stand_under_their_slugs():
    found = league.methods()
    assert {name.split(",")[0] for name in found} == {row.slug for row in papers.rows("generate") if there(row.slug)}
    assert [len(model.schedule) for model, _ in found.values()] == [256, 256, 32, 31, 31]


def there(slug: str) -> bool:
    return papers.places(slug)["module"].exists()
