"""One training loop for all recipes: progress, seed, schedule, EMA, clipping, bf16, checkpoints, several GPUs."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitok import files
from minitok.checkpoints import NAME, Run, held_back, seconds_spent
from minitok.checks import check_finite, whole
from minitok.devices import faster, launch, pick_device, stopped
from minitok.optimizers import AdamW

__all__ = ["Plan", "fit", "pick_device", "seconds_spent"]

SAVE_SECONDS = 30.0


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
        for name, low in (("steps", 1), ("save_every", 1), ("warmup", 0), ("seed", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        for name in ("lr", "clip", "weight_decay"):
            check_finite(name, getattr(self, name))
        if self.lr <= 0 or self.clip <= 0 or self.weight_decay < 0:
            given = f"lr={self.lr}, clip={self.clip} and weight_decay={self.weight_decay}"
            raise ValueError(f"{given} came, expected more than 0, more than 0 and at least 0")
        for name, share in (("ema", self.ema), ("betas[0]", self.betas[0]), ("betas[1]", self.betas[1])):
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share} is not in [0, 1)")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def fingerprint(self) -> str:
        """What must agree between the run that wrote a checkpoint and the one that goes on with it."""
        return json.dumps({k: v for k, v in vars(self).items() if k not in ("save_every", "compile")})


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    plan: Plan,
    folder: str | pathlib.Path | None = None,
    *,
    device: str = "auto",
    devices: int = 1,
    progress: bool = True,
) -> nn.Module:
    """Trains `model` in place for `plan.steps` steps and returns it holding the moving average of its weights.

    `loss(model, step)` draws its batch with torch's global random numbers and returns a scalar. These are seeded anew
    at each step from `plan.seed`, the step and the process, and once more at the end, so that a run resumed from
    `folder` goes on as if nothing had happened: on a CPU the weights come out bit-equal. The state is saved every
    `plan.save_every` steps, every half minute, on Ctrl-C and on SIGTERM. A finished `folder` is loaded; one that is
    damaged, of another plan or cannot be written is a `ValueError`. A loss or gradient that is not finite is an
    `ArithmeticError` before its step. A GPU runs forward in bfloat16; of several each draws a batch of its own.
    """
    fabric = launch(device, devices) if devices != 1 else None
    where, rank = (fabric.device, fabric.global_rank) if fabric else (pick_device(device), 0)
    model.to(where).train()
    optimizer = AdamW(groups(model, plan), lr=plan.lr, betas=plan.betas, fused=where.type == "cuda")
    runner, stepper = fabric.setup(model, optimizer) if fabric else (model, optimizer)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}  # after set-up: the first one's, for all
    run = Run(plan.fingerprint(), model, optimizer, average, files.expanded(folder) if folder else None)
    run.start(writes=rank == 0)
    if run.folder and run.step < plan.steps:
        files.check_target(run.folder / NAME)
    runner, precision = faster(runner, where, plan.compile)
    bar = tqdm(range(run.step, plan.steps), initial=run.step, total=plan.steps, disable=not progress or rank > 0)
    with held_back(folder is not None) as came:
        for step in bar:
            torch.manual_seed(plan.seed * 1_000_003 + step * 1009 + rank)
            with run.unharmed():
                with precision:
                    value = loss(runner, step)
                fabric.backward(value) if fabric else value.backward()
                number = check_step(value.detach(), nn.utils.clip_grad_norm_(model.parameters(), plan.clip), step)
            advance(run, stepper, plan)
            if saved := due(run, plan):
                run.save()
            if saved or step % 50 == 0:
                bar.set_postfix_str(f"loss {number:.4g}")
            if stopped(fabric, came):
                stop(run, plan, fabric)
                break
    model.load_state_dict(fabric.broadcast(average) if fabric else average)  # running statistics differ among them
    torch.manual_seed(plan.seed)
    return model.eval()


def check_step(value: Tensor, norm: Tensor, step: int) -> float:
    """The loss as a number. Raises `ArithmeticError` when it or the gradient's norm is NaN or infinite."""
    number, length = float(value), float(norm)
    if not math.isfinite(number):
        raise ArithmeticError(f"the loss is {number} at step {step}: lower the learning rate or look at the data")
    if not math.isfinite(length):
        raise ArithmeticError(
            f"the gradient's norm is {length} at step {step}, where the loss is {number:.4g}: "
            "look for a root or a logarithm of 0 in the loss, or lower the learning rate"
        )
    return number


def advance(run: Run, optimizer: Any, plan: Plan) -> None:
    """One step of the optimizer along the clipped gradients, at the step's learning rate; the average follows."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(run.step)
    optimizer.step()
    optimizer.zero_grad()
    follow(run.average, run.model, min(plan.ema, (run.step + 1) / (run.step + 10)))
    run.step += 1


def due(run: Run, plan: Plan) -> bool:
    """Whether it is time to save: by steps, by the clock, or at the end."""
    by_steps = run.step % plan.save_every == 0 or run.step == plan.steps
    return by_steps or time.perf_counter() - run.saved >= SAVE_SECONDS


def stop(run: Run, plan: Plan, fabric: Any) -> None:
    """Keeps what there is of a run that was told to end, and says how to go on."""
    run.save()
    if run.folder:
        where = run.folder / NAME
        tqdm.write(f"stopped after {run.step} of {plan.steps} steps; the same call goes on from {where}", sys.stderr)
    if fabric:
        fabric.barrier()  # the end of one process would take the first down while it still writes


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
