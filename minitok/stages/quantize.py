"""The league of chapter 1: one encoder and decoder, 12 bits a vector, every quantizer."""

import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitok.data import clothing, mnist
from minitok.devices import median_seconds
from minitok.house import Options
from minitok.house.bottleneck import Bottleneck, parts, train
from minitok.metrics import entropy_bits, psnr
from minitok.quantize.fsq import FSQ
from minitok.quantize.lfq import LFQ
from minitok.quantize.rvq import RVQ
from minitok.quantize.tokenbridge import TokenBridge
from minitok.quantize.vq import VQ
from minitok.quantize.wetok import WeTok
from minitok.stages._common import kept
from minitok.train import pick_device

TITLE = "12 bits a vector: every quantizer in the same autoencoder"
HOW = (
    "The autoencoder of minitok.house.bottleneck (4 x 4 pixels a vector; 16 channels for digits, 64 for photographs), "
    "2,000 steps of 32 images by Adam. The learning rate of each quantizer is the best of five, and the weights of "
    "LFQ's and WeTok's entropy and commitment the better of two pairs, on 400 digits or 341 photographs held for that; "
    "figures are means over three seeds on 1,000 digits or 372 photographs that nothing was chosen by. Use and entropy "
    "are those of a vector's 12 bits together, one of 4,096 codes. Time is that of `encode` for 65,536 vectors. "
    "TokenBridge quantizes a finished autoencoder; all others are trained with it."
)
SCORES = {"PSNR": "dB", "spread of 3 seeds": "dB", "codes in use": "%", "entropy": "bits", "bits": "", "encoding": "ms"}
DATA = ("digits", "photographs")
STEPS, SEEDS, RATES = 2000, (0, 1, 2), (5e-4, 1.5e-3, 4e-3, 1e-2, 2.5e-2)
QUANTIZERS: dict[str, Callable[..., nn.Module]] = {
    "vq": functools.partial(VQ, d=8, K=4096),
    "rvq": functools.partial(RVQ, d=8, K=64, stages=2),
    "fsq": functools.partial(FSQ, (8, 8, 8, 8)),
    "lfq": functools.partial(LFQ, d=12),
    "wetok": functools.partial(WeTok, d=12, groups=2),
    "tokenbridge": functools.partial(TokenBridge, d=4, levels=8),
}
# The loss's weights: the lessons' own, and lighter ones.
BINARY = ({"entropy": 0.1, "commitment": 0.25}, {"entropy": 0.03, "commitment": 0.01})
WEIGHTS: dict[str, tuple[dict[str, float], ...]] = {"lfq": BINARY, "wetok": BINARY}


class Setting(NamedTuple):
    """What one autoencoder of the table is trained on and how; `name` is that of a quantizer, or `none`."""

    data: str
    name: str
    steps: int
    weights: dict[str, float]
    lr: float

    def make(self) -> nn.Module | None:
        """The quantizer, not trained."""
        return QUANTIZERS[self.name](**self.weights) if self.name in QUANTIZERS else None

    def key(self, end: str) -> str:
        """The name of a piece of work."""
        weights = "".join(f" {name}={value:g}" for name, value in self.weights.items())
        return f"{self.data}-{self.name}{weights}-{self.steps}-{end}"


@functools.lru_cache(maxsize=1)
def sets(data: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images to learn from, to choose the learning rate by, and to test on."""
    if data == "digits":
        return *parts(mnist.load("train").images.to(device)), mnist.load("test").images.to(device)
    learnt, held, test = (clothing.load(split).images.to(device) for split in ("train", "validation", "test"))
    return learnt, held, test


def trained(setting: Setting, images: Tensor, seed: int) -> Bottleneck:
    """An autoencoder with this quantizer, or with none and four channels; TokenBridge comes when that is done."""
    torch.manual_seed(seed)
    colours, quantizer = images.shape[1], setting.make()
    afterwards = isinstance(quantizer, TokenBridge)
    inside = None if afterwards else quantizer
    model = Bottleneck(inside, d=4, seed=seed, colours=colours, width=16 if colours == 1 else 64)
    train(model.to(images.device), images, setting.steps, setting.lr, seed)
    if afterwards:
        with torch.no_grad():
            z = torch.cat([model.vectors(part) for part in images.split(128)])
        model.quantizer = quantizer.to(images.device)
        quantizer.fit_range(z)
    return model


@torch.no_grad()
def quality(model: Bottleneck, images: Tensor) -> float:
    """PSNR of images rebuilt, in decibels."""
    return float(torch.cat([psnr(model.rebuild(part), part) for part in images.split(128)]).mean())


@torch.no_grad()
def statistics(model: Bottleneck, images: Tensor) -> dict[str, float]:
    """The share of a vector's codes that are in use, and the bits that a coder without context would pay for one."""
    quantizer: Any = model.quantizer
    codes = torch.cat([model.codes(part) for part in images.split(128)]).flatten(0, 1).cpu()
    groups, K = codes.shape[1], round(2**quantizer.bits)
    whole = (codes * round(K ** (1 / groups)) ** torch.arange(groups)).sum(-1)
    return {"codes in use": 100 * len(whole.unique()) / K, "entropy": entropy_bits(whole, K)}


def chosen(name: str, data: str, device: torch.device, folder: pathlib.Path, steps: int) -> Setting:
    """The weights and the learning rate that rebuild held images best."""

    def score(setting: Setting) -> float:
        def job() -> float:
            learnt, held, _ = sets(data, device)
            return quality(trained(setting, learnt, 0), held)

        return kept(folder, setting.key(f"lr={setting.lr:g}"), job)

    tried = itertools.product(WEIGHTS.get(name, ({},)), RATES)
    return max((Setting(data, name, steps, *how) for how in tried), key=score)


def final(setting: Setting, seed: int, device: torch.device, folder: pathlib.Path) -> dict[str, float]:
    """The figures on test images of one training."""

    def job() -> dict[str, float]:
        learnt, _, test = sets(setting.data, device)
        model = trained(setting, learnt, seed)
        found = {"PSNR": quality(model, test)}
        return found | statistics(model, test) if setting.name in QUANTIZERS else found

    return kept(folder, setting.key(f"seed={seed}"), job)


def one(name: str, data: str, device: torch.device, folder: pathlib.Path, steps: int) -> dict[str, Any]:
    """The row of one quantizer (or of `none`) on one data set."""
    setting = chosen(name, data, device, folder, steps)
    runs = [final(setting, seed, device, folder) for seed in SEEDS]
    means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
    spread = max(run["PSNR"] for run in runs) - min(run["PSNR"] for run in runs)
    weights = ", ".join(f"{value:g}" for value in setting.weights.values())
    how = {"learning rate": setting.lr, "weights": weights or "-"}
    return {"data": data, "method": name, **how, **means, "spread of 3 seeds": spread}


@torch.no_grad()
def milliseconds(quantizer: Any, device: torch.device) -> float:
    """The median time in which 65,536 random vectors are encoded."""
    z = torch.randn(16, 4096, quantizer.d, device=device)
    return 1000 * median_seconds(lambda: quantizer.to(device).encode(z), device, 0.5)


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """All rows, best first within each data set; `none` is the same autoencoder without codes."""
    device, steps = pick_device(options.device), options.steps or STEPS
    rows = []
    for data in DATA:
        for name in tqdm((*QUANTIZERS, "none"), desc=data, disable=not options.progress):
            rows.append(one(name, data, device, folder, steps))
            if name in QUANTIZERS:
                quantizer: Any = QUANTIZERS[name]()
                rows[-1] |= {"bits": quantizer.bits, "encoding": milliseconds(quantizer, device)}
    return sorted(rows, key=lambda row: (DATA.index(row["data"]), -row["PSNR"]))
