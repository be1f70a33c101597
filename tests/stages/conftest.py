from collections.abc import Iterator

import pytest
import torch

from minitok import house
from minitok.stages._common import photograph_features


@pytest.fixture(autouse=True)
def own_photographs():
    """Each test has the photographs that it loads itself, and leaves none to the next."""
    photograph_features.cache_clear()
    yield
    photograph_features.cache_clear()


@pytest.fixture(scope="module")
def untrained(request: pytest.FixtureRequest) -> Iterator[None]:
    """`house.load` gives the model that the test module calls HOST, with random weights, whatever is asked for."""
    torch.manual_seed(0)
    host = house.recipe(request.module.HOST).build().eval().requires_grad_(False)
    with torch.no_grad():
        for weight in host.lm.parameters():
            weight.mul_(4 if weight.dim() == 2 else 1)  # so that it matters who is looked at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", lambda name: host)
        yield
