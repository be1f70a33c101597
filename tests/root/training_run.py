"""A training run in a process of its own: `python training_run.py FOLDER END DEVICES`; test_train.py starts it.

END is `loss` (the process kills itself in the middle of a step), `write` (while it writes a checkpoint) or `none`.
"""

import os
import pathlib
import signal
import sys
from dataclasses import replace

import torch
from torch import nn

from minitok import files
from minitok.train import Plan, fit

PLAN = Plan(steps=60, lr=0.01, warmup=5, ema=0.9, seed=3, save_every=7)
KILL_AT = 25


def build(seed=0):
    """A model with all that a checkpoint must hold: matrices, vectors, running statistics, dropout."""
    torch.manual_seed(seed)
    # No bias before the norm: it would have no gradient but noise, which Adam makes large.
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))


def loss(model, step):
    """The squared error of a sum, on a random batch."""
    x = torch.randn(16, 4)
    return (model(x)[:, 0] - x.sum(-1)).square().mean()


def kill(*_):
    """Ends this process as an operating system does: nothing is cleaned up."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def main(folder, end, devices):
    """Trains; prints the first step and whether Lightning was loaded, and leaves the weights of each process."""
    rank = int(os.environ.get("LOCAL_RANK", 0))

    def watched(model, step):
        if not watched.begun:
            print(f"first step {step}", flush=True)
            watched.begun = True
        if end == "loss" and step == KILL_AT:
            kill()
        return loss(model, step)

    watched.begun = False
    if end == "write":
        files.os.replace = kill
    if devices == 1:
        fit(build(), watched, PLAN, folder, device="cpu", progress=False)
    else:
        # Each process starts from other weights, so that a set-up which does not share them is seen.
        model = fit(build(rank), watched, replace(PLAN, steps=5), folder, device="cpu", devices=devices, progress=False)
        torch.save(model.state_dict(), folder / f"rank{rank}.pt")
    print(f"lightning {'lightning' in sys.modules}", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
