"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from core.types import AboveZero, Count, Positive, Steps

STRATEGIES = ("piecewise_decay", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is, and how its learning rate goes meanwhile.

    Options:
        lr_strategy: piecewise_decay, cosine, constant
        lr_steps: steps at which piecewise_decay multiplies by --lr_factor
        lr_factor: what it multiplies by
        warmup_steps: steps of linear rise to --lr
        total_iter_num: steps of the whole run
    """

    lr_strategy: Literal["piecewise_decay", "cosine", "constant"] = "piecewise_decay"
    lr_steps: Steps
    lr_factor: AboveZero = 0.1
    warmup_steps: Count = 0
    total_iter_num: Positive

    def rate(self, step: int, lr: float) -> float:
        """The learning rate of step `step` (0-based), where `lr` is the one to start from."""
        return learning_rate(
            step, lr, self.lr_strategy, self.lr_steps, self.total_iter_num, self.warmup_steps, self.lr_factor
        )


def learning_rate(
    step: int,
    lr: float,
    strategy: str,
    lr_steps: tuple[int, ...],
    total: int,
    warmup: int = 0,
    factor: float = 0.1,
) -> float:
    """The rate of step `step` (0-based) of `total`.

    piecewise_decay: times `factor` from each boundary in `lr_steps` on; cosine: half a wave from `lr` to 0 over the
    steps after warm-up; constant. During the first `warmup` steps it rises linearly to what the strategy gives.
    """
    if strategy == "piecewise_decay":
        boundaries_passed = sum(step >= boundary for boundary in lr_steps)
        rate = lr * factor**boundaries_passed
    elif strategy == "cosine":
        progress = max(0, step - warmup) / max(1, total - warmup)
        rate = lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        rate = lr
    if warmup:
        return rate * min(1.0, (step + 1) / warmup)
    return rate
