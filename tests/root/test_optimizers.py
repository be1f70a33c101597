import inspect

import pytest
import torch
from torch import nn

from minitok import optimizers


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_its_steps_are_those_of_torch_bit_by_bit(name):
    weights = []
    for kind in (getattr(optimizers, name), getattr(torch.optim, name)):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        optimizer = kind([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}], lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()
        assert isinstance(optimizer, getattr(torch.optim, name))
        assert not optimizer.state[layer.weight]["exp_avg"].requires_grad
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("method", ["add_param_group", "zero_grad", "step"])
def test_no_method_of_a_step_is_wrapped_in_what_imports_the_compiler(method):
    function = getattr(optimizers.AdamW, method)
    while function is not None:
        assert "torch._dynamo" not in inspect.getsource(function.__code__)
        function = getattr(function, "__wrapped__", None)
