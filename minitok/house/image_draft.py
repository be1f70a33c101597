"""`image_draft`: a small `image_gpt` that guesses what the large one will say, for speculative decoding.

It learns what the large model says rather than what the photographs hold: what counts is how often the two agree. The
large model reads some thousand views once and draws several next codes at each place of each; the small one learns
to predict these draws, so that it trains in minutes without a GPU.
"""

import pathlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minitok.data import clothing
from minitok.house import image_gpt
from minitok.house._common import Options, batches, in_chunks
from minitok.metrics import flops
from minitok.nn import Shape
from minitok.train import Plan, pick_device

DATA = "what image_gpt would draw next at each code of 2,048 random views of 3,068 clothing photographs"
PLAN = Plan(steps=2000, lr=3e-3, warmup=100, weight_decay=0.02, ema=0.995, save_every=250)
VIEWS, DRAWS = 2048, 16


def build() -> image_gpt.ImageGPT:
    """0.65 million parameters; at most a sixth of the cost of `image_gpt` a step."""
    return image_gpt.ImageGPT(Shape(width=96, layers=2, heads=3))


@torch.no_grad()
def rehearse(device: torch.device, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (n, 256) and labels (n) of random views, and the large model's draws at each place (n, 256, draws)."""
    from minitok import house

    large = house.load("image_gpt").to(device)
    draw = image_gpt.views(device, house.load("tokenizer").to(device))
    parts = []
    for _ in tqdm(range(VIEWS // 64), desc="what image_gpt says", disable=not progress):
        codes, labels = draw(64)
        p = large(codes[:, :-1], labels).float().softmax(-1)
        said = torch.multinomial(p.flatten(0, 1), DRAWS, replacement=True).unflatten(0, codes.shape)
        parts.append((codes, labels, said))
    codes, labels, said = (torch.cat(column) for column in zip(*parts, strict=True))
    return codes, labels, said


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of the draws: in the mean over draws, that of the large model's probabilities."""
    device = pick_device(options.device)
    torch.manual_seed(options.seed)
    draw = batches(device, *rehearse(device, options.progress))

    def loss(model: nn.Module, step: int) -> Tensor:
        codes, labels, said = draw(16)
        target = said[..., int(torch.randint(DRAWS, ()))]
        return F.cross_entropy(model(codes[:, :-1], labels).float().flatten(0, 1), target.flatten())

    return image_gpt.fit_with_levels(build(), loss, options.apply(PLAN), folder, options)


quick = image_gpt.quick


@torch.no_grad()
def measure(model: image_gpt.ImageGPT) -> dict[str, float]:
    """Bits a code, the share of codes that the large model would accept, and the cost beside it."""
    from minitok import house

    device, test = pick_device(), clothing.load("test")
    model, large = model.to(device), house.load("image_gpt").to(device)
    codes = in_chunks(house.load("tokenizer").encode, test.images)[..., 0].to(device)
    labels = test.labels.to(device)
    overlap = [
        torch.minimum(model(c[:, :-1], y).softmax(-1), large(c[:, :-1], y).softmax(-1)).sum(-1).mean()
        for c, y in zip(codes.split(64), labels.split(64), strict=True)
    ]
    cost = [flops(m, codes[:1, :-1], labels[:1]) for m in (large, model)]
    return {
        "bits a code on the test photographs": image_gpt.bits_per_code(model, codes, labels),
        "acceptance, the overlap of both models' probabilities (%)": 100 * float(torch.stack(overlap).mean()),
        "cost of image_gpt a step over its own": cost[0] / cost[1],
        **quick(model),
    }
