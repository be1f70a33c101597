import pytest
import torch
from torch.testing import assert_close

from minitok.data import poses
from minitok.house import Options, hot
from minitok.metrics import flops, parameters
from minitok.nn import Shape
from minitok.reduce import Reduction


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return hot.build().eval().requires_grad_(False)


def test_fewer_frames_are_half_of_the_work_and_a_shallow_model_is_as_cheap(models):
    sizes = {name: parameters(model) for name, model in models.items()}
    assert all(2 * size < 1e6 for size in sizes.values())
    deep = [size for name, size in sizes.items() if name != "shallow"]
    assert max(deep) / min(deep) < 1.06
    image = torch.rand(1, 81, 17, 2)
    costs = {name: flops(models[name], image) for name in hot.KINDS}
    for name in ("hot", "uniform", "random", "pooled", "hot, between", "uniform, between", "shallow"):
        assert 0.48 < costs[name] / costs["full"] < 0.58
    assert list(models) == [*hot.KINDS, *(f"{kind}, again" for kind in hot.TWICE)]


def test_controls_choose_as_their_names_say():
    x = torch.arange(9.0).view(1, 9, 1).expand(2, -1, 3)
    assert hot.uniform(x, 3).order.tolist() == 2 * [[1, 4, 7]]
    assert hot.uniform(x, 9).order.tolist() == 2 * [list(range(9))]
    assert hot.pooled(x, 3).apply(x)[1, :, 0].tolist() == [1.0, 4.0, 7.0]
    torch.manual_seed(0)
    drawn = torch.cat([hot.random(x, 3).order for _ in range(300)])
    assert bool((drawn.diff() > 0).all())
    counts = drawn.flatten().bincount(minlength=9)
    assert 130 < int(counts.min()) < int(counts.max()) < 280


def test_between_kept_frames_lie_straight_lines():
    model = hot.Between(Shape(8, 2, 2, pairing=None), 7, 3)
    z = torch.tensor([[[0.0], [6.0], [10.0]], [[1.0], [2.0], [3.0]]])[..., None]
    made = Reduction.keep(torch.tensor([[1, 4, 5], [0, 3, 6]]), 7)
    found = model.recover(z, made)[..., 0, 0]
    assert_close(found[0], torch.tensor([0.0, 0.0, 2.0, 4.0, 6.0, 10.0, 10.0]))
    assert_close(found[1], torch.tensor([1.0, 4 / 3, 5 / 3, 2.0, 7 / 3, 8 / 3, 3.0]))
    assert model.recovery is None


def test_the_recipe_trains_each_by_its_seed_and_resumes(monkeypatch, tmp_path):
    monkeypatch.setattr(hot, "BATCH", 2)
    monkeypatch.setattr(hot, "FRAMES", 9)
    monkeypatch.setattr(hot, "KEPT", 3)
    monkeypatch.setattr(hot, "SHAPE", Shape(width=8, layers=2, heads=2, pairing=None))
    monkeypatch.setattr(hot, "KINDS", {name: hot.KINDS[name] for name in ("hot", "uniform, between")})
    monkeypatch.setattr(hot, "TWICE", ("hot",))
    options = Options(steps=2, device="cpu", progress=False)
    models = hot.train(tmp_path, options)
    assert list(models) == list(hot.build()) == ["hot", "uniform, between", "hot, again"]
    first, other, again = (model.state_dict() for model in models.values())
    assert not torch.equal(first["embed.weight"], again["embed.weight"])
    assert_close(first["embed.weight"], other["embed.weight"], atol=0.1, rtol=0)
    resumed = hot.train(tmp_path, options)
    assert all(torch.equal(a, b) for a, b in zip(models.parameters(), resumed.parameters(), strict=True))


def test_errors_are_in_millimetres():
    held = poses.render(3, frames=hot.FRAMES, seed=2)

    class Off(torch.nn.Module):
        def forward(self, images):
            assert torch.equal(images, held.image)
            return held.relative + torch.tensor([0.03, 0.04, 0.0])

    assert hot.errors(torch.nn.ModuleDict({"off": Off()}), ("off",), 3) == {"off": pytest.approx(50, rel=1e-4)}
