"""What tests of several reductions need."""

import pytest
import torch

from minitok.nn import Shape, Transformer


@pytest.fixture
def network():
    """A small causal language model, not trained, whose attention is far from even."""
    torch.manual_seed(0)
    made = Transformer(Shape(width=16, layers=3, heads=4, kv_heads=2)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(8 if weight.dim() == 2 else 1)
    return made.requires_grad_(False)
