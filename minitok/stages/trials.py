"""What is trained in chapter 7, by its name in the league: each method for its budgets, and the controls."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from minitok.project import LLaVA
from minitok.stages.fitting import Budgets, More
from minitok.stages.projectors import Pooling, Resampler, Shuffle


@dataclass(frozen=True)
class Trial:
    """One row of the league for each of `budgets`, on scenes, crops or clips.

    `build(k)` makes the module for a budget. With `elastic`, which says with how many tokens a step is made, one
    module, built for the largest, is trained for all budgets. `more` is a loss of the method's own.
    """

    build: Callable[[int], nn.Module]
    budgets: tuple[int, ...]
    of: str = "scenes"
    elastic: Budgets | None = None
    more: More | None = None

    def drawn(self, k: int) -> Budgets:
        """With how many tokens each step of the training for the budget k is made."""
        return self.elastic or (lambda: (k,))

    def weights(self, k: int) -> int:
        """For which budget the module was trained that serves the budget k."""
        return max(self.budgets) if self.elastic else k


TRIALS: dict[str, Trial] = {
    "llava": Trial(lambda k: LLaVA(), (256,)),
    "llava, one layer": Trial(lambda k: LLaVA(depth=1), (256,)),
    "pooling": Trial(Pooling, (64, 16, 4, 1)),
    "pixel shuffle": Trial(Shuffle, (64, 16)),
    "resampler": Trial(Resampler, (256, 64, 16, 4, 1)),
}
