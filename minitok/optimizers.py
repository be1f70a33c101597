"""torch's optimizers without what makes their first step dear: the import of torch's compiler (3 to 7 s of CPU)."""

import inspect
from typing import TypeVar, cast

import torch

__all__ = ["Adam", "AdamW", "light"]

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def light(kind: Kind) -> Kind:
    """An optimizer class of torch with the same steps, bit by bit, which loads no compiler.

    torch wraps some methods to hold its compiler off, and the wrappers import it even where nothing is compiled.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("Kind", type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "__module__": __name__} | plain))


Adam, AdamW = light(torch.optim.Adam), light(torch.optim.AdamW)
