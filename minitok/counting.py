"""What work costs: floating-point operations, parameters, bytes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode


def flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of `function(*args)` in matrix products, convolutions and attention.

    >>> flops(torch.matmul, torch.zeros(2, 3), torch.zeros(3, 5))
    60

    A multiply-add counts 2; elementwise operations, norms and look-ups count nothing. A backward pass inside
    `function` is counted too.
    """
    from torch.utils.flop_counter import flop_registry

    # The formulas know no fused attention of the CPU; of plain attention they see both products.
    with Counter(flop_registry) as counter, sdpa_kernel(SDPBackend.MATH):
        function(*args)
    return counter.total


class Counter(TorchDispatchMode):
    """Adds up torch's own formulas; torch's `FlopCounterMode` does too, and imports its compiler for it (5 s)."""

    def __init__(self, formulas: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()
        self.formulas, self.total = formulas, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        formula = self.formulas.get(getattr(func, "_overloadpacket", func))
        if formula is None and hasattr(func, "decompose"):
            with self:  # what is made of products, as a linear layer in inference mode is, is counted by its parts
                parts = func.decompose(*args, **kwargs or {})
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs or {})
        self.total += formula(*args, **kwargs or {}, out_val=out) if formula else 0
        return out


def parameters(module: nn.Module) -> int:
    """The number of trainable and frozen parameters; a parameter that two layers share counts once.

    >>> parameters(nn.Linear(3, 5))
    20
    """
    return sum(p.numel() for p in module.parameters())


def bytes_held(*tensors: torch.Tensor) -> int:
    """The bytes that the elements of the tensors take, each in its own dtype.

    >>> bytes_held(torch.zeros(2, 3), torch.zeros(4, dtype=torch.float16))
    32
    """
    return sum(t.numel() * t.element_size() for t in tensors)
