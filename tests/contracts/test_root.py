"""What holds for every network of the root and the house: half precision, compilation, devices, batches."""

import copy

import pytest
import torch
from torch import nn

from minitok import checks
from minitok.house.bottleneck import Bottleneck
from minitok.house.byte_bpe import ByteBPE
from minitok.house.digits import DigitNet
from minitok.house.smollm2 import SmolLM2
from minitok.house.vit import Teacher
from minitok.metrics import difference
from minitok.nn import MLP, Attention, Block, LayerNorm, RMSNorm, Shape, Transformer
from minitok.vit import ViT

SMALL = Shape(width=32, layers=2, heads=4, kv_heads=2)
B, N = 3, 6


class Placed(nn.Module):
    """A part that is given positions, with them."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x, torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[None])


class Rebuilt(nn.Module):
    """A bottleneck's images without its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Bottleneck(None, d=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)[0]


class Conditioned(nn.Module):
    """A Transformer whose condition is the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(Shape(width=32, layers=2, heads=4, condition=32))
        for block in self.body.blocks:
            nn.init.normal_(block.modulation.weight, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x, "full", condition=x.mean(1))


def language_model() -> nn.Module:
    model = SmolLM2(SMALL, ByteBPE([chr(i) for i in range(97, 117)], []))
    nn.init.normal_(model.embedding, std=0.5)
    return model


def tokens() -> torch.Tensor:
    return torch.randn(B, N, 32)


NETWORKS = {
    "RMSNorm": (lambda: RMSNorm(32), tokens),
    "LayerNorm": (lambda: LayerNorm(32), tokens),
    "MLP": (lambda: MLP(32, 48), tokens),
    "Attention": (lambda: Placed(Attention(32, 4, 2)), tokens),
    "Block": (lambda: Placed(Block(SMALL)), tokens),
    "Transformer": (lambda: Transformer(SMALL), tokens),
    "conditioned Transformer": (Conditioned, tokens),
    "ViT": (lambda: ViT(Shape(width=32, layers=2, heads=2, pairing=None), size=16), lambda: torch.rand(B, 3, 16, 16)),
    "DigitNet": (DigitNet, lambda: torch.rand(B, 1, 28, 28)),
    "Teacher": (Teacher, lambda: torch.rand(B, 3, 16, 16)),
    "Bottleneck": (Rebuilt, lambda: torch.rand(B, 1, 28, 28)),
    "SmolLM2": (language_model, lambda: torch.randint(20, (B, N))),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    build, data = NETWORKS[request.param]
    return build().eval().requires_grad_(False), data()


BOUNDS = {torch.bfloat16: 0.06, torch.float16: 0.01, torch.float64: 1e-5}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_cast_network_gives_nearly_the_same_in_its_own_type(network, dtype):
    model, x = network
    expected = model(x)
    cast = copy.deepcopy(model).to(dtype)
    pictures = x.dim() == 4  # pictures stay float32, as data give them; tokens come from another part of the network
    found = cast(x if pictures or not x.is_floating_point() else x.to(dtype))
    assert found.dtype == dtype
    assert difference(found, expected) < BOUNDS[dtype] * float(expected.abs().max())


def compiled_whole(name: str) -> float:
    """How far what a network gives, compiled, is from what it gives otherwise."""
    build, data = NETWORKS[name]
    model, x = build().eval().requires_grad_(False), data()
    torch.compiler.reset()
    return difference(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def checked(x: torch.Tensor, k: int) -> torch.Tensor:
    """What looks at numbers, where `compiled.py` lets none be looked at."""
    checks.check_finite("x", x)
    checks.check_logits("x", x)
    return x * checks.whole("k", k, 1, 9)


def test_a_network_stays_on_the_device_of_its_input(network):
    model, x = network
    found = model.to("meta")(x.to("meta"))
    assert found.device.type == "meta"


def test_rows_of_a_batch_do_not_see_each_other(network):
    model, x = network
    whole = model(x)
    assert difference(model(x[[2, 0]]), whole[[2, 0]]) < 1e-5
    assert difference(model(x[1:2].expand(4, *x.shape[1:]))[3:], whole[1:2]) < 1e-5
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("mask", ["causal", "full"])
def test_a_reduced_network_stays_on_the_device_of_its_input(mask):
    seen = []
    model = Transformer(SMALL).to("meta")
    model(tokens().to("meta"), mask, on_layer=lambda layer: seen.extend([layer.attention, layer.keys, layer.size]))
    assert {part.device.type for part in seen} == {"meta"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"width": 0}, "width=0 came"),
        ({"layers": -1}, "layers=-1"),
        ({"heads": 0}, "heads=0"),
        ({"base": float("nan")}, "base=nan"),
        ({"dropout": float("nan")}, "dropout=nan"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_sizes_that_are_none_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Shape(**{"width": 16, "layers": 1, "heads": 2} | wrong)
