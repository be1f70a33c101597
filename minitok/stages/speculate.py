"""The league of chapter 5: drafts for pictures and for text, judged exactly or more kindly."""

import pathlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.house import Options, smollm2
from minitok.house.vit import cls_features
from minitok.metrics import accuracy, frechet_distance
from minitok.speculate import TreeCached, decode_tree, gsd, lantern, speculative
from minitok.speculate._common import Accept, Cached, Decoded, decode, drafter
from minitok.speculate.token_recycling import TokenRecycling, recycle
from minitok.stages._common import kept, photograph_features

TITLE = "How many calls of a large model do drafts save, and what do kinder judges do to the pictures?"
HOW = (
    "Pictures: image_gpt, 256 codes of ten classes in turn, temperature 1; image_draft guesses k codes a call, or "
    "image_gpt's own last answers do (Jacobi). Frechet distance of the pictures to 372 test photographs, over the CLS "
    "features of the house's vit; it falls with more pictures. Right: pictures that vit takes for the class "
    "asked for. Surprise: bits a code above what image_gpt expects; 0 for its own pictures but for chance. "
    "Text: SmolLM2-135M, greedy, 24 tokens after each of four openings; exact if it is what plain decoding writes. "
    "Time is that of one processor thread, as a share of plain decoding in the same run."
)
SCORES = {
    "tokens a call": "", "calls": "%", "time": "%",
    "Frechet distance": "", "right": "%", "surprise": "bits", "exact": "",
}  # fmt: skip
PICTURES, TEN, NEW = 50, 10, 24
OPENINGS = (
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "The capital of France is Paris. The capital of Italy is",
    "for i in range(10):\n    print(i)\nfor j in range(10):\n",
    "Water boils at one hundred degrees. When it boils, it",
)


def leniently(
    p: Tensor, q: Tensor, drafted: Tensor, generator: torch.Generator | None, share: float
) -> tuple[int, int]:
    """A judge that looks at no neighbours: as strict as if q were `share` times as large."""

    def lenient(p: Tensor, q: Tensor, x: int) -> float:
        return min(1.0, float(p[x] / (share * q[x])))

    return speculative.verify(p, q, drafted, lenient, speculative.residual, generator)


def judges() -> dict[str, tuple[int, Accept]]:
    """How many codes are drafted a call, and by whom they are judged."""
    vectors = house.load("tokenizer").quantizer.decode(torch.arange(4096)[None, :, None])[0]
    near = lantern.nearest(vectors, 64)
    far = torch.rand(4096, 4096, generator=torch.Generator().manual_seed(0)).argsort(-1)[:, :300]
    return {
        "plain": (0, speculative.accept),
        "speculative, k = 2": (2, speculative.accept),
        "speculative, k = 4": (4, speculative.accept),
        "Jacobi, k = 8": (8, speculative.accept),
        "lantern, delta = 0.002": (4, partial(lantern.accept, neighbours=near, delta=0.002)),
        "lantern, delta = 0.1": (4, partial(lantern.accept, neighbours=near, delta=0.1)),
        "random neighbours, delta = 0.1": (4, partial(lantern.accept, neighbours=far, delta=0.1)),
        "lenient, q times 0.5": (4, partial(leniently, share=0.5)),
        "lenient, q times 0.05": (4, partial(leniently, share=0.05)),
        "gsd": (4, partial(gsd.accept, codebook=vectors)),
        "gsd, Jacobi, k = 8": (8, partial(gsd.accept, codebook=vectors)),
    }


def ten(name: str, k: int, accept: Accept, seed: int, n: int) -> dict[str, Any]:
    """One picture of each class: their first n codes, calls and seconds."""
    gpt, small, codes, calls = house.load("image_gpt"), house.load("image_draft"), [], 0
    begin = time.process_time()
    for c in range(TEN):
        label, start = torch.tensor([c]), torch.zeros(0, dtype=torch.long)
        target: Any = Cached(lambda new, cache, label=label: gpt(new, label, cache))
        draft = drafter(Cached(lambda new, cache, label=label: small(new, label, cache)))
        if "Jacobi" in name:
            jacobi = gsd.Jacobi(target, 4096)
            target, draft = jacobi.target, jacobi.draft
        generator = torch.Generator().manual_seed(TEN * seed + c)
        made = decode(target, draft, accept, start, n, k=k, generator=generator)
        codes.append(made.tokens.tolist())
        calls += made.calls
    return {"codes": codes, "calls": calls, "seconds": time.process_time() - begin}


@torch.no_grad()
def quality(codes: Tensor) -> dict[str, float]:
    """How pictures of ten classes in turn are distributed, recognised, and how much they surprise their model."""
    labels = torch.arange(len(codes)) % TEN
    gpt, tokenizer, bits = house.load("image_gpt"), house.load("tokenizer"), []
    pictures = torch.cat([tokenizer.decode(part[..., None]) for part in codes.split(50)])
    for part, asked in zip(codes.split(10), labels.split(10), strict=True):
        logarithms = gpt(part[:, :-1], asked).double().log_softmax(-1)
        expected = -(logarithms.exp() * logarithms).sum(-1)
        bits.append((-logarithms.gather(-1, part[..., None])[..., 0] - expected) / torch.tensor(2.0).log())
    return {
        "Frechet distance": frechet_distance(cls_features(pictures), photograph_features()),
        "right": 100 * accuracy(house.load("vit")(pictures), labels),
        "surprise": float(torch.cat(bits).mean()),
    }


def pictures(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """The rows of all judges; `options.steps` shortens the pictures for a rehearsal, which then have no quality."""
    n, rows, seconds = options.steps or 256, [], {}
    rounds = PICTURES // TEN if n == 256 else 1
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in judges()}
    # Round by round, so that a busy minute of the machine meets all rows.
    pieces = [(seed, name, *how) for seed in range(rounds) for name, how in judges().items()]
    for seed, name, k, accept in tqdm(pieces, desc="pictures", disable=not options.progress):
        job = partial(ten, name, k, accept, seed, n)
        made[name].append(kept(folder, f"{name}-{n}-seed={seed}", job))
    for name, parts in made.items():
        calls, codes = (
            sum(part["calls"] for part in parts),
            torch.tensor([row for part in parts for row in part["codes"]]),
        )
        seconds[name] = sum(part["seconds"] for part in parts)
        row = {"work": "pictures", "method": name, "tokens a call": codes.numel() / calls}
        row |= {"calls": 100 * calls / codes.numel(), "time": 100 * seconds[name] / seconds["plain"]}
        found = kept(folder, f"{name}-quality-{PICTURES}", partial(quality, codes)) if n == 256 else {}
        rows.append(row | found)
    return rows


def written(run: Callable[[Tensor], Decoded], prompts: list[Tensor]) -> dict[str, Any]:
    """What a way of decoding writes after each prompt, its calls and seconds."""
    begin = time.process_time()
    made = [run(prompt) for prompt in prompts]
    seconds = time.process_time() - begin
    return {"codes": [one.tokens.tolist() for one in made], "calls": sum(one.calls for one in made), "seconds": seconds}


def text(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """Token Recycling beside plain greedy decoding."""
    n, ways = min(NEW, options.steps or NEW), ("plain", "token_recycling")

    def job(way: str) -> dict[str, Any]:
        model = smollm2.load()
        prompts = [torch.tensor(model.tokenizer.encode(opening)) for opening in OPENINGS]
        memory = TokenRecycling(len(model.tokenizer))

        def run(prompt: Tensor) -> Decoded:
            if way == "plain":
                greedy = Cached(lambda new, cache: model(new, cache=cache), temperature=0)
                return decode(greedy, drafter(greedy), speculative.accept, prompt, n, k=0)
            with torch.no_grad():
                recycle(memory.matrix, prompt, model(prompt[None])[0])
            return decode_tree(TreeCached(model).branch, memory, prompt, n)

        return written(run, prompts)

    made = {way: kept(folder, f"text-{way}-{n}", partial(job, way)) for way in ways}
    tokens, plain = n * len(OPENINGS), made["plain"]
    return [
        {
            "work": "text", "method": way, "tokens a call": tokens / run["calls"], "calls": 100 * run["calls"] / tokens,
            "time": 100 * run["seconds"] / plain["seconds"], "exact": "yes" if run["codes"] == plain["codes"] else "no",
        }
        for way, run in made.items()
    ]  # fmt: skip


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """Rows of pictures in the order of `judges`, then those of text."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return pictures(folder, options) + text(folder, options)
    finally:
        torch.set_num_threads(threads)
