"""Pictures as the work of chapter 5: who guesses, who judges, what is saved, and what comes out."""

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from minitok import files, house
from minitok.house.sampling import sample
from minitok.speculate import Accept, Cached, decode, drafter, gsd
from minitok.stages.judged import Cost, Row

CODES, CLASSES = 4096, 10
GUESSES = ("image_draft", "likeliest", "jacobi")
NOTHING = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Stage:
    """image_gpt with its drafter, and pictures that image_gpt drew, one of each class; see `measure` and `weigh`."""

    gpt: Any
    small: Any
    tokenizer: Any
    codes: Int[Tensor, "b n"]

    @functools.cached_property
    def vectors(self) -> Float[Tensor, "v d"]:
        """What each code stands for."""
        return self.tokenizer.quantizer.decode(torch.arange(CODES)[None, :, None])[0]

    @functools.cached_property
    def rows(self) -> tuple[Float[Tensor, "b n v"], Float[Tensor, "b n v"]]:
        """p and q, the probabilities of image_gpt and of its drafter at all places of the pictures."""
        labels = torch.arange(len(self.codes)) % CLASSES
        with torch.no_grad():
            p, q = (model(self.codes[:, :-1], labels).softmax(-1) for model in (self.gpt, self.small))
        return p, q

    @functools.cached_property
    def places(self) -> tuple[Float[Tensor, "m v"], Float[Tensor, "m v"]]:
        """p and q at two places of each picture, in float64."""
        chosen = (rows[:, 40::128].flatten(0, 1).double() for rows in self.rows)
        p, q = (rows / rows.sum(-1, keepdim=True) for rows in chosen)
        return p, q

    @functools.cached_property
    def apart(self) -> Float[Tensor, "v v"]:
        """The distances of the codes' vectors."""
        return torch.cdist(self.vectors, self.vectors)

    def measure(
        self,
        accept: Accept,
        k: int = 4,
        guesses: str = "image_draft",
        *,
        pictures: int = 1,
        seed: int = 0,
        n: int = 256,
        watch: Callable[[Tensor, Tensor, int], None] | None = None,
    ) -> Row:
        """The row of a judge: it draws whole pictures, of class 9, 8, ... in turn, k guesses a call.

        Guesses are drawn from `image_draft`, or are its `likeliest` codes (for greedy judges), or come from image_gpt's
        own last answers (`jacobi`). k = 0 is plain drawing. n below 256 leaves pictures unfinished.
        """
        labels = (CLASSES - 1 - torch.arange(pictures)) % CLASSES
        begin, runs = time.process_time(), []
        for i, label in enumerate(labels.split(1)):
            target, draft = self.pair(label, guesses)
            generator = Generator().manual_seed(CLASSES * seed + i)
            runs.append(decode(target, draft, accept, NOTHING, n, k=k, generator=generator, watch=watch))
        seconds = time.process_time() - begin
        return Row(tuple(runs), *self.surprise(torch.stack([run.tokens for run in runs]), labels), seconds)

    def pair(self, label: Int[Tensor, "1"], guesses: str = "image_draft") -> tuple[Any, Any]:
        """Target and draft for one picture of a class, as `decode` takes them."""
        if guesses not in GUESSES:
            raise ValueError(f"guesses={guesses!r} came, expected one of {', '.join(GUESSES)}")
        large = Cached(lambda new, cache: self.gpt(new, label, cache))
        if guesses == "jacobi":
            jacobi = gsd.Jacobi(large, CODES)
            return jacobi.target, jacobi.draft
        temperature = 0 if guesses == "likeliest" else 1
        return large, drafter(Cached(lambda new, cache: self.small(new, label, cache), temperature))

    @torch.no_grad()
    def surprise(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Bits of each code above those that image_gpt expects at its place, and their standard deviation there."""
        found = []
        for part, asked in zip(codes.split(10), labels.split(10), strict=True):
            bits = -self.gpt(part[:, :-1], asked).double().log_softmax(-1) / torch.tensor(2.0).log()
            p = torch.exp2(-bits)
            expected = (p * bits).sum(-1)
            spread = ((p * bits.square()).sum(-1) - expected.square()).clamp(min=0).sqrt()
            found.append((bits.gather(-1, part[..., None])[..., 0] - expected, spread))
        more, spreads = zip(*found, strict=True)
        return torch.cat(more), torch.cat(spreads)

    def weigh(self, kept: Float[Tensor, "m v"]) -> Cost:
        """The cost of a judge that keeps each code at each of `places` with these probabilities.

        After a refusal the code comes from what p has above q, as by the exact rule.
        """
        p, q = self.places
        s, rest = q * kept, (p - q).clamp(min=0)
        moved = s + (1 - s.sum(-1, keepdim=True)) * rest / rest.sum(-1, keepdim=True) - p
        bits = -(moved * p.log2()).sum(-1).mean()
        energy = -((moved.float() @ self.apart) * moved.float()).sum(-1).mean()
        share, variation = s.sum(-1).mean(), moved.abs().sum(-1).mean() / 2
        return Cost(100 * float(share), float(variation), float(bits), 1000 * float(energy))


@functools.lru_cache(maxsize=1)
def stage(pictures: int = 10) -> Stage:
    """The stage with so many pictures drawn by image_gpt, class 0, 1, ... in turn: `places` has two of each."""
    gpt, small, tokenizer = (house.load(name) for name in ("image_gpt", "image_draft", "tokenizer"))
    return Stage(gpt, small, tokenizer, drawn(gpt, pictures))


def drawn(gpt: Any, pictures: int) -> Int[Tensor, "b n"]:
    """Codes that image_gpt drew: from the cache, where another lesson left them, else now."""
    with contextlib.suppress(OSError, ValueError):  # no cache, nothing there yet, or a damaged file: they are drawn
        return torch.tensor(json.loads(_kept(pictures).read_text(encoding="utf-8")))
    codes = sample(gpt, torch.arange(pictures) % CLASSES, seed=0)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        files.write(_kept(pictures), json.dumps(codes.tolist()))
    return codes


def _kept(pictures: int) -> pathlib.Path:
    """Where the cache keeps them. Raises `PermissionError` where there is no folder for a cache."""
    key = house.card("image_gpt")["sha256"][:12]
    return files.cache_folder() / "stages" / f"pictures-{pictures}-{key}.json"
