"""One training loop for all recipes: progress, seed, schedule, EMA, clipping, bf16, checkpoints, several GPUs."""

import json
import math
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from minitok import files
from minitok.devices import faster, launch, pick_device

__all__ = ["Plan", "fit", "pick_device", "seconds_spent"]


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train: AdamW, a linear warm-up, then a cosine down to a hundredth of `lr`."""

    steps: int
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    save_every: int = 1000
    compile: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.save_every < 1:
            raise ValueError(f"steps={self.steps}, lr={self.lr} and save_every={self.save_every} must be positive")
        if self.warmup < 0 or self.clip <= 0:
            raise ValueError(f"warmup={self.warmup} came, expected at least 0, and clip={self.clip}, expected more")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} is not in [0, 1)")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    plan: Plan,
    folder: pathlib.Path | None = None,
    *,
    device: str = "auto",
    devices: int = 1,
    progress: bool = True,
) -> nn.Module:
    """Trains `model` in place for `plan.steps` steps and returns it holding the moving average of its weights.

    `loss(model, step)` draws its batch with torch's global random numbers and returns a scalar. These are seeded anew
    at each step from `plan.seed`, the step and the process, so that a run resumed from `folder` (after an
    interruption or a kill) goes on as if nothing had happened: on a CPU the weights come out bit-equal. A finished
    `folder` is loaded, not trained again; one of another plan is a `ValueError`. The forward pass runs in bfloat16 on
    a GPU. `devices > 1` shares each step among GPUs by Lightning Fabric: each draws a batch of its own.
    """
    fabric = launch(device, devices) if devices != 1 else None
    where, rank = (fabric.device, fabric.global_rank) if fabric else (pick_device(device), 0)
    model.to(where).train()
    optimizer = torch.optim.AdamW(groups(model, plan), lr=plan.lr, betas=plan.betas, fused=where.type == "cuda")
    runner, stepper = fabric.setup(model, optimizer) if fabric else (model, optimizer)
    # Taken after the set-up, which gives all processes the weights of the first.
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    first, seconds = resume(folder, plan, model, average, optimizer) if folder else (0, 0.0)
    began = time.perf_counter() - seconds
    runner, precision = faster(runner, where, plan.compile)
    bar = tqdm(range(first, plan.steps), initial=first, total=plan.steps, disable=not progress or rank > 0)
    for step in bar:
        torch.manual_seed(plan.seed * 1_000_003 + step * 1009 + rank)
        with precision:
            value = loss(runner, step)
        fabric.backward(value) if fabric else value.backward()
        update(model, stepper, plan, step)
        follow(average, model, min(plan.ema, (step + 1) / (step + 10)))
        due = (step + 1) % plan.save_every == 0 or step + 1 == plan.steps
        if due or step % 50 == 0:
            bar.set_postfix_str(f"loss {check_finite(value.detach(), step):.4g}")
        if due and folder and rank == 0:
            facts = {"step": step + 1, "seconds": time.perf_counter() - began, "plan": fingerprint(plan)}
            save(folder, facts, model, average, optimizer)
    # Running statistics differ among processes: the first one's are those that were saved.
    model.load_state_dict(fabric.broadcast(average) if fabric else average)
    return model.eval()


def update(model: nn.Module, optimizer: Any, plan: Plan, step: int) -> None:
    """One step of the optimizer along the clipped gradients, at the step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    optimizer.step()
    optimizer.zero_grad()


def groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Matrices and filters decay; norms, biases and learnt vectors do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    free = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]


@torch.no_grad()
def follow(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Moves the average a little towards the model; buffers of whole numbers are copied."""
    state = model.state_dict()
    floating = [k for k, v in state.items() if v.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floating], [state[k] for k in floating], 1 - decay)
    for k in state.keys() - floating:
        average[k].copy_(state[k])


def check_finite(value: Tensor, step: int) -> float:
    """The loss as a number. Raises `ArithmeticError` when it is NaN or infinite: training has gone wrong."""
    number = float(value)
    if not math.isfinite(number):
        raise ArithmeticError(f"the loss is {number} at step {step}: lower the learning rate or look at the data")
    return number


def save(
    folder: pathlib.Path,
    facts: dict[str, Any],
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes `state.safetensors` whole or not at all: weights, their average, Adam's moments, the facts."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"adam.{name}.{k}": v for k, v in optimizer.state.get(parameter, {}).items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with files.writing(folder / "state.safetensors") as path:
        save_file(tensors, path, metadata={k: str(v) for k, v in facts.items()})


def resume(
    folder: pathlib.Path,
    plan: Plan,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float]:
    """Loads what `save` wrote into all three; returns the step to go on with and the seconds spent before it."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        facts, state = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    if facts["plan"] != fingerprint(plan):
        raise ValueError(f"{path} was trained by another plan ({facts['plan']}): give another folder, or delete it")
    model.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("model.")})
    for k, v in average.items():
        v.copy_(state[f"average.{k}"])
    for name, parameter in model.named_parameters():
        start = f"adam.{name}."
        moments = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
        if moments:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in moments.items()}
    return int(facts["step"]), float(facts["seconds"])


def seconds_spent(folder: pathlib.Path) -> float:
    """The training time of all runs below a folder, interrupted ones included."""
    total = 0.0
    for path in folder.rglob("state.safetensors"):
        with safe_open(path, "pt") as file:
            total += float(file.metadata()["seconds"])
    return total


def fingerprint(plan: Plan) -> str:
    """What must agree between the run that wrote a checkpoint and the one that goes on with it."""
    return json.dumps({k: v for k, v in vars(plan).items() if k not in ("save_every", "compile")})
