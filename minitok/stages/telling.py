"""LangDC's language expert on our clips: captions that say more where there is more to see, its training, controls.

`train(folder)` teaches it, before the projectors behind it are trained; `expert()` is the one that the project ships.
To make LangDC anew, in this order:

    telling.train("data/checkpoints/projectors", Options())
    minitok league project --ship  # trains what is not yet in its folder, LangDC before the expert that is shipped
    crowds.measure("data/checkpoints/projectors", Options())
"""

import json
import pathlib
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from minitok import files, house
from minitok.data import clips
from minitok.data.asked import COLOUR, DIGIT, SHAPE, STOP, WAY
from minitok.data.clips import Clips
from minitok.data.wordings import CODES
from minitok.devices import pick_device
from minitok.house import Options
from minitok.house._answers import TRAINED, in_parts
from minitok.project.langdc import SIDE, Captioner, LangDC, caption_loss, packed
from minitok.project.llava import LLaVA
from minitok.stages.fitting import shipped
from minitok.train import Plan, fit
from minitok.vlm import ManyVLM

PLAN = Plan(steps=6000, lr=3e-3, warmup=100, weight_decay=0.01, ema=0.998, save_every=10_000)
# Clips of 8 frames to learn from, how many of them a step reads, and clips that are held out.
CLIPS, BATCH, HELD = 24_000, 128, 1000
FRAMES, MOST = 4, 20
NAME = "langdc_expert"


def captions(made: Clips, frames: int = FRAMES) -> Int[Tensor, "b p t"]:
    """What is in each part of `frames` frames, from left to right: "red ring 7 left , blue star nowhere ."

    Colour, shape, the digit if it shows in these frames, the way, and a comma or the stop: four or five words an
    object, filled up with zeros.
    """
    parts = made.images.shape[1] // frames
    cut = lambda x: x.unflatten(1, (parts, frames))  # noqa: E731
    there = cut(made.masks.flatten(3).any(3)).any(2)  # b p m
    left = cut(made.tracks[..., 0]).mean(2).masked_fill(~there, torch.inf)
    order = left.argsort(dim=-1, stable=True)
    digit = cut(made.shown).any(2) & (made.glyph >= 0)[:, None]
    colour, shape, glyph, way = (
        part[:, None].expand_as(order).gather(2, order) for part in (made.colour, made.shape, made.glyph, made.way)
    )
    there, digit = there.gather(2, order), digit.gather(2, order)
    last = there.cumsum(2) == there.sum(2, keepdim=True)
    link = torch.where(last, STOP, CODES[","])
    words = torch.stack([COLOUR + colour, SHAPE + shape, DIGIT + glyph, WAY + way, link], 3)
    said = there[..., None].repeat(1, 1, 1, 5)
    said[..., 2] &= digit
    flat = words.flatten(2).flatten(0, 1)[:, None, :, None]
    return packed(flat.float(), said.flatten(2).flatten(0, 1)[:, None])[0][..., 0].long().unflatten(0, (-1, parts))


def bank(host: ManyVLM, count: int, seed: int, size: int = 500) -> tuple[Float[Tensor, "n m c"], Tensor, Tensor]:
    """Features, in half precision, and captions of all parts of `count` clips, and how many objects each shows."""
    device, held = next(host.parameters()).device, []
    for start in range(0, count, size):
        made = clips.render(min(size, count - start), seed=seed + start, device=device)
        features = in_parts(host.look, made.images, size=50)
        parts = features.unflatten(1, (-1, FRAMES * SIDE**2)).flatten(0, 1)
        said = captions(made).flatten(0, 1)
        held.append((parts.half(), said, (said == CODES[","]).sum(1) + 1))
    features, said, objects = (torch.cat(part) for part in zip(*held, strict=True))
    return features, said, objects


def train(folder: str | pathlib.Path, options: Options) -> dict[str, float]:
    """Teaches the expert captions, writes it into `folder` with a card of what it tells of clips held out.

    A minute or two on a GPU. Returns the card's figures.
    """
    folder, device = pathlib.Path(folder), pick_device(options.device)
    plan, host = options.apply(PLAN), house.load("vlm_many").to(device)
    features, said, _ = bank(host, min(CLIPS, plan.steps * BATCH), TRAINED)
    torch.manual_seed(options.seed)
    captioner = Captioner()
    with torch.no_grad():
        for weight in captioner.lm.parameters():
            weight *= 5 if weight.dim() == 2 else 1  # to 0.1, about 1 / sqrt(96): such a narrow one learns sooner
    if device.type == "cuda":
        for block in captioner.lm.blocks:
            block.compile(dynamic=False)

    def loss(model: nn.Module, step: int) -> Tensor:
        rows = torch.randint(len(said), (2 * BATCH,)).to(said.device)
        return caption_loss(cast(Captioner, model), features[rows].float(), said[rows])

    shipped(fit(captioner, loss, plan, **options.where()), folder / f"{NAME}.safetensors")
    figures = tells(expert(folder=folder).to(device), *bank(host, HELD if options.steps is None else 4, 2 * 10**6))
    files.write(folder / f"{NAME}.json", json.dumps({"steps": plan.steps, "clips": CLIPS, "figures": figures}) + "\n")
    return figures


@torch.no_grad()
def tells(captioner: Captioner, features: Tensor, said: Tensor, objects: Tensor) -> dict[str, float]:
    """How well clips are told: captions right word for word, of the right length, words a clip, and the rank
    correlation of the number of words with the number of objects."""
    told = [captioner.tell(part.float(), MOST) for part in features.split(200)]
    words, length = (torch.cat(part) for part in ([t.words for t in told], [t.there.sum(1) for t in told]))
    right = (words == said).all(1)
    figures: dict[str, Any] = {
        "captions right (%)": 100 * right.float().mean(),
        "of the right length (%)": 100 * (length == (said > 0).sum(1)).float().mean(),
        "words a part": length.float().mean(),
        "rank correlation of words and objects": rank_correlation(length, objects),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of ranks, equal numbers having the mean of their ranks; 0 where one never varies.

    >>> round(rank_correlation(torch.tensor([1, 2, 3, 3]), torch.tensor([10, 30, 20, 40])), 4)
    0.6325
    """
    ranks = torch.stack([(x[:, None] > x).double().sum(1) + (x[:, None] == x).double().sum(1) / 2 for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1].nan_to_num())


def expert(layer: int = 2, folder: str | pathlib.Path | None = None) -> Captioner:
    """The expert that was taught captions, its states taken after `layer` layers; by default the shipped one."""
    path = pathlib.Path(folder) if folder else files.shipped("checkpoints", "projectors")
    captioner = Captioner(layer=layer)
    state = load_file(path / f"{NAME}.safetensors")
    captioner.load_state_dict({key: value.float() for key, value in state.items()})
    return captioner.eval().requires_grad_(False)


def langdc(k: int, layer: int = 2) -> LangDC:
    """LangDC on clips of 8 frames, two parts, with room for k words in all: longer captions are cut."""
    return LangDC(expert(layer), most=k // 2)


class Queries(nn.Module):
    """Control: the expert's own body, but k learnt queries instead of words; taught by answers alone."""

    def __init__(self, k: int, parts: int = 2, d: int = 192) -> None:
        super().__init__()
        self.parts, self.body = parts, Captioner(layer=3)
        del self.body.head, self.body.word
        self.queries = nn.Parameter(torch.randn(k // parts, self.body.width) * 0.02)
        self.mlp = LLaVA(self.body.width, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        x = self.body.clip(x.unflatten(1, (self.parts, -1)).flatten(0, 1))
        states = self.body.lm(torch.cat([x, self.queries.expand(len(x), -1, -1)], 1))[:, -len(self.queries) :]
        return self.mlp(states).unflatten(0, (-1, self.parts)).flatten(1, 2)
