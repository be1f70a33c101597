import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitok.generate.raster import ImageGPT, raster
from minitok.nn import Cache, Shape

SHAPE = Shape(width=8, layers=2, heads=2)


def test_a_model_without_layers_by_hand():
    model = ImageGPT(Shape(width=2, layers=0, heads=1), K=3, n=2, classes=1).eval()
    with torch.no_grad():
        model.code.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model.label.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        model.position.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    logits = model(torch.tensor([[2, 0]]), torch.tensor([0]))
    # the class is (3, 4), the code 2 with its place (1, 2); the last norm divides by the root of the mean square
    first, second = torch.tensor([3.0, 4.0]) / 12.5**0.5, torch.tensor([1.0, 2.0]) / 2.5**0.5
    expected = torch.stack([torch.stack([x[0], x[1], x[0] + x[1]]) for x in (first, second)])
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 7, 256])
def test_each_group_is_the_next_position(n):
    assert raster(n).groups == tuple((k,) for k in range(n))
    assert raster(n).order == list(range(n))


def torchs_logits(model: ImageGPT, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same network from torch's own parts, one head and one code at a time, each position from its prefix."""
    rows = []
    for picture, label in zip(codes, labels, strict=True):
        x = torch.stack([model.label.weight[label], *(model.code[k] for k in picture[:-1])]) + model.position
        for block in model.body.blocks:
            normed = F.rms_norm(x, (8,), block.norm1.scale, 1e-5)
            a = block.attention
            heads = []
            for h in range(2):
                q, k, v = (
                    turn(normed @ w.weight[4 * h : 4 * h + 4].T, w is a.value) for w in (a.query, a.key, a.value)
                )
                out = [(q[i] @ k[: i + 1].T / 2).softmax(-1) @ v[: i + 1] for i in range(len(x))]
                heads.append(torch.stack(out))
            x = x + torch.cat(heads, 1) @ a.out.weight.T
            y = F.rms_norm(x, (8,), block.norm2.scale, 1e-5)
            x = x + (F.silu(y @ block.mlp.gate.weight.T) * (y @ block.mlp.up.weight.T)) @ block.mlp.out.weight.T
        rows.append(F.rms_norm(x, (8,), model.body.norm.scale, 1e-5) @ model.code.T)
    return torch.stack(rows)


def turn(x: torch.Tensor, leave: bool) -> torch.Tensor:
    """Rotary positions of four channels as complex numbers: channel i with i + 2, by p and by p / 100 radians."""
    if leave:
        return x
    angle = torch.arange(len(x))[:, None] * torch.tensor([1.0, 0.01])
    z = torch.complex(x[:, :2], x[:, 2:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=1)


def test_the_logits_are_those_of_a_plain_loop():
    model = ImageGPT(SHAPE, K=5, n=6, classes=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
        codes, labels = torch.randint(5, (2, 6)), torch.tensor([2, 0])
        torch.testing.assert_close(model(codes, labels), torchs_logits(model, codes, labels), atol=1e-4, rtol=1e-4)


def test_any_cut_of_the_sequence_gives_the_same_logits_from_a_cache():
    model = ImageGPT(SHAPE, K=5, n=9, classes=2).eval()
    codes, labels, cache = torch.randint(5, (1, 9)), torch.tensor([1]), Cache()
    with torch.no_grad():
        parts = [model(codes[:, a:b], labels, cache) for a, b in ((0, 3), (3, 4), (4, 8))]
        assert [part.shape[1] for part in parts] == [4, 1, 4]
        torch.testing.assert_close(torch.cat(parts, 1), model(codes, labels), atol=1e-5, rtol=0)


def test_a_step_answers_for_the_last_of_several_codes():
    model, codes, labels = ImageGPT(SHAPE, K=5, n=9, classes=2).eval(), torch.randint(5, (2, 4)), torch.tensor([1, 0])
    torch.testing.assert_close(model.step(codes, labels, Cache()), model(codes, labels)[:, 4:], atol=1e-6, rtol=0)


def test_a_tenth_of_the_input_is_dropped_in_training():
    model = ImageGPT(Shape(width=64, layers=0, heads=1), K=64, n=50, classes=1)
    with torch.no_grad():
        model.code.copy_(torch.eye(64))
        model.label.weight.fill_(0.0)
        model.position.fill_(1.0)
    codes = torch.randint(64, (20, 49))
    dropped = model(codes, torch.zeros(20, dtype=torch.long)) == 0  # 64,000 channels: five standard errors
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.006)
    assert not (model.eval()(codes, torch.zeros(20, dtype=torch.long)) == 0).any()


def test_the_last_code_is_followed_by_none():
    model = ImageGPT(SHAPE, K=5, n=9, classes=2).eval()
    codes, labels = torch.randint(5, (2, 9)), torch.tensor([1, 0])
    assert torch.equal(model(codes, labels), model(codes[:, :-1], labels))
    assert model(codes[:, :4], labels).shape == (2, 5, 5)
    assert model(codes[:, :0], labels).shape == (2, 1, 5)


def test_training_learns_a_row_that_always_repeats():
    torch.manual_seed(0)
    model, codes = ImageGPT(SHAPE, K=4, n=6, classes=1), torch.tensor([[0, 1, 2, 3, 2, 1]] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(codes, torch.zeros(4, dtype=torch.long)).flatten(0, 1), codes.flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    assert model.eval().step(codes[:1, :0], torch.tensor([0]), Cache()).argmax().item() == 0


def test_sizes_are_what_one_says():
    model = ImageGPT(SHAPE, K=6, n=12, classes=4)
    assert (model.code.shape, model.label.weight.shape, model.position.shape) == ((6, 8), (5, 8), (12, 8))
    assert (model.K, model.classes, len(model.schedule)) == (6, 4, 12)
    assert isinstance(model.label, nn.Embedding)
    assert (ImageGPT(SHAPE).K, ImageGPT(SHAPE).classes, len(ImageGPT(SHAPE).schedule)) == (4096, 10, 256)


@pytest.mark.parametrize("sizes", [{"K": 0}, {"n": 0}, {"classes": 0}])
def test_sizes_below_1_are_refused(sizes):
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        ImageGPT(SHAPE, **sizes)


@pytest.mark.usefixtures("unchecked")
def test_after_the_class_alone_a_code_is_asked_for_and_a_whole_picture_may_come():
    model, cache = ImageGPT(SHAPE, K=5, n=3, classes=1).eval(), Cache()
    codes, labels = torch.tensor([[3, 1, 4]]), torch.tensor([0])
    first = model(codes[:, :0], labels, cache)
    with pytest.raises(ValueError, match="codes: 0 a picture came, expected 1 to 3"):
        model(codes[:, :0], labels, cache)
    rest = model(codes, labels, cache)
    torch.testing.assert_close(torch.cat([first, rest], 1), model(codes, labels), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("unchecked")
def test_a_cache_that_is_full_or_a_call_without_a_code_is_refused():
    model, cache = ImageGPT(SHAPE, K=5, n=3, classes=1).eval(), Cache()
    codes, labels = torch.zeros(1, 3, dtype=torch.long), torch.tensor([0])
    with pytest.raises(ValueError, match="codes: 4 a picture came, expected 0 to 3"):
        model(torch.zeros(1, 4, dtype=torch.long), labels)
    model(codes[:, :1], labels, cache)
    with pytest.raises(ValueError, match="codes: 0 a picture came, expected 1 to 2"):
        model(codes[:, :0], labels, cache)
    with pytest.raises(ValueError, match="codes: 3 a picture came"):
        model(codes, labels, cache)
