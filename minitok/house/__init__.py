"""The house models: small models that the project trained itself and ships, so that methods meet something real.

`load("vit")` gives the trained model, `card("vit")` what is known of it, `train("vit", folder)` makes it anew.
"""

import importlib
import json
import pathlib
import platform
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from minitok import __version__, files
from minitok.checkpoints import not_finite, read
from minitok.devices import is_first
from minitok.house._common import Options
from minitok.train import seconds_spent

NAMES = ("digits", "vit", "tokenizer", "image_gpt", "image_draft")
# Models that belong to one lesson each, trained and shipped by the same rules.
OF_LESSONS: tuple[str, ...] = (
    "digit_codecs",
    "digit_painters",
    "digit_vae",
    "titok",
    "one_d_piece",
    "flextok",
    "nar",
    "vlm",
    "vlm_many",
    "stvit",
    "vlm_dense",
    "hot",
    "top_vim",
)


def recipe(name: str) -> Any:
    """The module of a house model: its `build`, `train`, `measure`, `quick`, `PLAN` and `DATA`."""
    if name not in (*NAMES, *OF_LESSONS):
        raise ValueError(f"no house model is called {name!r}; there are {', '.join((*NAMES, *OF_LESSONS))}")
    return importlib.import_module(f"minitok.house.{name}")


def card(name: str) -> dict[str, Any]:
    """What is known of a shipped model: recipe, seed, data, figures, training time, device, sha256.

    `seeded` says what the seed decided. A card without it is of a run that drew batches by its seed, and its initial
    weights before: only its checkpoint gives that model again.
    """
    recipe(name)
    return read_card(files.shipped("checkpoints"), name)


def read_card(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """The card in a folder; where it is not there or damaged, the error says how to get it again."""
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {path}: {remedy(folder, name)}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy(folder, name)}") from error


def remedy(folder: pathlib.Path, name: str) -> str:
    """How to get a checkpoint and its card again."""
    if folder != files.shipped("checkpoints"):
        return f"make it again with `minitok train {name} --folder {folder}`"
    return f"`git checkout -- {folder}` brings it back" if files.in_checkout() else "install minitok again"


def load(name: str, folder: str | pathlib.Path | None = None) -> Any:
    """A trained house model in float32 and eval mode, its weights frozen.

    `folder` holds NAME.safetensors and NAME.json; by default the shipped ones. Raises `ValueError` for an unknown name
    or a damaged file (its SHA-256 is not that of its card), `FileNotFoundError` when there is none, with the way out.
    """
    model = recipe(name).build()
    where = pathlib.Path(folder) if folder else files.shipped("checkpoints")
    facts, path = read_card(where, name), where / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: {remedy(where, name)}")
    files.check_sha256(path, facts["sha256"], remedy(where, name))
    _, state = read(path, remedy(where, name))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)


def train(name: str, folder: str | pathlib.Path, options: Options | None = None, ship: bool = False) -> dict[str, Any]:
    """Trains a house model by its recipe, measures it, and writes checkpoint and card into `folder`; returns the card.

    A run that was interrupted goes on from `folder`. The seed decides all random numbers, those of the initial weights
    too. `ship` also writes both among the project's checkpoints: a `ValueError` outside a clone, or after fewer steps
    than the recipe's. Of several processes only the first measures and writes; the others return an empty card.
    """
    options, module, folder = options or Options(), recipe(name), pathlib.Path(folder)
    if ship:
        options.check_shipping()
    torch.manual_seed(options.seed)
    model = keep_half(module.train(folder, options)).cpu()
    if not is_first():
        return {}
    facts = {
        "name": name, "recipe": f"minitok train {name}", "data": module.DATA, "seed": options.seed,
        "seeded": "initial weights, batches and dropout",
        "steps": options.apply(module.PLAN).steps, "parameters": sum(p.numel() for p in model.parameters()),
        "figures": rounded(module.measure(model)),
        "trained": {"seconds": round(seconds_spent(folder)), "device": device_name(), "torch": torch.__version__},
        "minitok": __version__,
    }  # fmt: skip
    for target in [folder, *([files.shipped("checkpoints")] if ship else [])]:
        write(model, facts, target)
    return facts


def measure(name: str) -> dict[str, Any]:
    """Measures a shipped model again, and writes the figures into its card, which is returned."""
    facts = card(name) | {"data": recipe(name).DATA, "figures": rounded(recipe(name).measure(load(name)))}
    files.write(files.shipped("checkpoints", f"{name}.json"), json.dumps(facts, indent=2) + "\n")
    return facts


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures as a card holds them: four decimals."""
    return {name: round(value, 4) for name, value in figures.items()}


def keep_half(model: nn.Module) -> nn.Module:
    """Rounds weights to half precision and back, so that what is measured is what is shipped.

    Raises `ArithmeticError` for a weight that half precision cannot hold.
    """
    state = {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    if bad := not_finite(state):
        raise ArithmeticError(f"{bad} holds numbers beyond 65,504, which half precision cannot")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def write(model: nn.Module, facts: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes NAME.safetensors in half precision, then NAME.json with its hash: the card never precedes the weights."""
    path = folder / f"{facts['name']}.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    with files.writing(path) as temporary:
        save_file({k: v.contiguous() for k, v in state.items()}, temporary)
    facts["sha256"] = files.sha256(path)
    files.write(folder / f"{facts['name']}.json", json.dumps(facts, indent=2) + "\n")


def device_name() -> str:
    """The accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
