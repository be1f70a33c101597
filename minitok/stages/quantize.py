"""The stage of chapter 1: a small autoencoder of digits, into whose middle any quantizer goes, and one call a row.

`stage().measure(VQ(8, 64))` trains the autoencoder with that quantizer for 400 steps and says how near held-out digits
come back from their codes, and which codes they use. Controls are shipped: no codes, codes found afterwards by k-means,
one learnt codebook of four sizes. Lessons, overview and league all call it, so their figures compare.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitok import house
from minitok.data import clothing, mnist
from minitok.devices import median_seconds
from minitok.house import Options
from minitok.house.bottleneck import Bottleneck, parts, train
from minitok.house.digit_codecs import PLAN
from minitok.quantize import FSQ, LFQ, RVQ, VQ, TokenBridge, WeTok
from minitok.stages._common import kept
from minitok.stages.coded import Row, gap, row, table, whole
from minitok.train import pick_device

__all__ = ["DATA", "QUANTIZERS", "Row", "Setting", "Stage", "gap", "stage", "table", "whole"]
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


@dataclass(frozen=True)
class Stage:
    """Pictures to learn from and others to judge by, and the steps of a training; `measure` tries a quantizer."""

    learnt: Tensor
    test: Tensor
    data: str
    steps: int = PLAN.steps

    def measure(self, quantizer: Any, lr: float = PLAN.lr, seed: int = 0, d: int = 8) -> Row:
        """Trains an autoencoder with this quantizer in its middle (None: vectors of width d pass), and scores it.

        A quantizer with `fit_range` comes afterwards: the autoencoder, of that width, is trained without it.
        """
        colours, later = self.learnt.shape[1], hasattr(quantizer, "fit_range")
        inside, d = (None, quantizer.d) if later else (quantizer, d)
        model = Bottleneck(inside, d, seed, colours, width=16 if colours == 1 else 64)
        train(model.to(self.learnt.device), self.learnt, self.steps, lr, seed)
        return self.score(self.quantized(model, quantizer) if later else model)

    @torch.no_grad()
    def quantized(self, model: Bottleneck, quantizer: Any) -> Bottleneck:
        """A finished autoencoder whose vectors are quantized from now on, in a range fitted to learnt pictures."""
        z = torch.cat([model.vectors(part) for part in self.learnt.split(128)])
        model.quantizer = quantizer.to(z.device)
        quantizer.fit_range(z)
        return model

    def score(self, model: Bottleneck, k: int | None = None) -> Row:
        """The row of a trained autoencoder; with `k` by the first k codes of each vector alone."""
        return row(model, self.test, k)

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    def control(self, name: str) -> Row:
        """The row of a shipped autoencoder, by its name in `minitok.house.digit_codecs`: `none`, `vq64`, ..."""
        return self.score(house.load("digit_codecs")[name])


def stage() -> Stage:
    """The stage on digits. Raises `ConnectionError` where they can neither be found nor fetched."""
    learnt, test = mnist.load("train").images, mnist.load("test").images
    return Stage(learnt, test, "MNIST-5k: 4,000 digits to learn from, 1,000 held out")


@functools.lru_cache(maxsize=1)
def sets(data: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images to learn from, to choose the learning rate by, and to test on."""
    if data == "digits":
        return *parts(mnist.load("train").images.to(device)), mnist.load("test").images.to(device)
    learnt, held, test = (clothing.load(split).images.to(device) for split in ("train", "validation", "test"))
    return learnt, held, test


def tried(setting: Setting, judge: str, device: torch.device, seed: int) -> Row:
    """The row of a setting of the league, judged by the `held` pictures or by those of the `test`."""
    learnt, held, test = sets(setting.data, device)
    made = Stage(learnt, held if judge == "held" else test, setting.data, setting.steps)
    return made.measure(setting.make(), setting.lr, seed, d=4)


def chosen(name: str, data: str, device: torch.device, folder: pathlib.Path, steps: int) -> Setting:
    """The weights and the learning rate that rebuild held images best."""

    def score(setting: Setting) -> float:
        return kept(folder, setting.key(f"lr={setting.lr:g}"), lambda: tried(setting, "held", device, 0).psnr)

    ways = itertools.product(WEIGHTS.get(name, ({},)), RATES)
    return max((Setting(data, name, steps, *how) for how in ways), key=score)


def final(setting: Setting, seed: int, device: torch.device, folder: pathlib.Path) -> dict[str, float]:
    """The figures on test images of one training."""

    def job() -> dict[str, float]:
        row = tried(setting, "test", device, seed)
        uses = {"codes in use": row.used, "entropy": row.entropy} if row.K else {}
        return {"PSNR": row.psnr} | uses

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
