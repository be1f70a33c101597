"""The state of a training run in one file: written whole or not at all, never with NaN in it, and read back."""

import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minitok import files

NAME = "state.safetensors"
ANEW = "delete it, and the run begins anew"


@dataclass
class Run:
    """A training run between two steps. `plan` says what must agree for another run to go on from its folder."""

    plan: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    folder: pathlib.Path | None
    step: int = 0
    began: float = 0.0
    saved: float = 0.0

    def start(self, writes: bool) -> None:
        """Goes on from what `save` wrote into the folder, where there is something, and starts the clock.

        Of several processes one `writes`. Raises `ValueError`, naming the file and the way out, where it is damaged or
        of another plan or model.
        """
        self.began = self.saved = time.perf_counter()
        path = self.folder / NAME if self.folder else None
        self.folder = self.folder if writes else None
        if path is None or not path.exists():
            return
        facts, state = read(path, ANEW)
        if facts.get("plan") != self.plan:
            raise ValueError(
                f"{path} was trained by another plan ({facts.get('plan')}): give another folder, or delete it"
            )
        if bad := not_finite(state):
            raise ValueError(f"{path} holds NaN or infinity in {bad}: {ANEW}")
        try:
            self.take(state)
        except (KeyError, RuntimeError) as error:
            told = " ".join(str(error).split())
            raise ValueError(f"{path} holds another model ({told}): give another folder, or delete it") from error
        self.step, self.began = int(facts["step"]), self.began - float(facts["seconds"])

    def take(self, state: dict[str, Tensor]) -> None:
        """Loads weights, their average and Adam's moments."""
        self.model.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("model.")})
        for k, v in self.average.items():
            v.copy_(state[f"average.{k}"])
        for name, parameter in self.model.named_parameters():
            start = f"adam.{name}."
            moments = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
            if moments:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in moments.items()}

    def state(self) -> dict[str, Tensor]:
        """Weights, their average and Adam's moments, under the names that the file gives them."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"adam.{name}.{k}": v for k, v in self.optimizer.state.get(parameter, {}).items()}
        return tensors

    def check(self) -> None:
        """Raises `ArithmeticError`, naming tensor and step, when the state holds NaN or infinity."""
        if bad := not_finite(self.state()):
            raise ArithmeticError(
                f"{bad} holds NaN or infinity after step {self.step - 1}: lower the learning rate, look at the data"
            )

    def save(self) -> None:
        """Writes the state, if there is a folder for it. Raises `ArithmeticError` rather than write NaN."""
        self.check()
        if self.folder is None:
            return
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.state().items()}
        self.saved = time.perf_counter()
        facts = {"step": self.step, "seconds": self.saved - self.began, "plan": self.plan}
        with files.writing(self.folder / NAME) as path:
            save_file(tensors, path, metadata={k: str(v) for k, v in facts.items()})

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Where a step cannot be made: puts running statistics back as they were before it, and saves that state."""
        before = [buffer.clone() for buffer in self.model.buffers()]
        try:
            yield
        except (ArithmeticError, KeyboardInterrupt):
            for buffer, old in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(old)
            self.optimizer.zero_grad()
            if not not_finite(self.state()):
                self.save()
            raise


def not_finite(state: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    return next((k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()), None)


def read(path: pathlib.Path, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The facts and the tensors of a safetensors file. Raises `ValueError` with the remedy where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error


def seconds_spent(folder: str | pathlib.Path) -> float:
    """The training time of all runs below a folder, interrupted ones included."""
    return sum(float(read(path, ANEW)[0]["seconds"]) for path in pathlib.Path(folder).rglob(NAME))


@contextmanager
def held_back(active: bool) -> Iterator[list[int]]:
    """Lists the interruptions (Ctrl-C, SIGTERM) that come meanwhile, and lets the first through at the end.

    A second one comes through at once. Only the main thread can do so; elsewhere nothing is held back.
    """
    came: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield came
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def let_through() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: Any) -> None:
        came.append(number)
        if len(came) > 1:
            let_through()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        let_through()
    if came:
        signal.raise_signal(came[0])
        raise KeyboardInterrupt
