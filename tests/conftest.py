"""Every test starts from one seed, on one thread; Triton is interpreted where there is no GPU."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import jaxtyping
import numpy as np
import pytest
import torch

from minitok.course import costs

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
torch.set_num_threads(1)
collect_ignore = ["contracts/compiled.py"]  # a script, which finds its neighbours only where it is run as one


def pytest_addoption(parser: pytest.Parser) -> None:
    costs.offer(parser)


def pytest_configure(config: pytest.Config) -> None:
    costs.use(config)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - scikit-image and scikit-learn draw from the old global generator
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the checks of annotations away: bad input meets the errors that users see, and long loops are quick."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
