"""The learning rate as a pure function of the step, and of how often tests got no better."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

from core.errors import InputError
from core.formula import Formula
from core.types import AboveZero, AtLeastZero, Count, Positive, RateFormula, Steps

OF_FORMULA = ("lambda", "multiplicative")
CYCLIC_PERIOD = 2000  # steps from the lowest rate to the highest, as torch has it
# Of one cycle: the share of the steps that rise, the first rate below the highest one, the last below the first.
RISING, FIRST_BELOW, LAST_BELOW = 0.3, 25.0, 1e4
TANH_FROM, TANH_TO = -7.0, 3.0  # as timm has them
PLATEAU_THRESHOLD = 1e-4  # by so much of itself a figure has to be better
CHECKED_STEPS = 1000  # at which a formula is tried before the run begins


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is, and how its learning rate goes meanwhile.

    Options:
        lr_strategy: piecewise_decay (also: multi_step), cosine, constant, step, exponential, cosine_annealing, cyclic,
            one_cycle, reduce_on_plateau (of the --best figure), lambda, multiplicative, tanh (docs/pipelines.md)
        lr_steps: steps at which piecewise_decay multiplies by --lr_factor
        lr_factor: what it multiplies by; so do step, exponential and reduce_on_plateau
        lr_period: steps between two multiplications (step, exponential), of half a wave (cosine_annealing, cyclic)
        lr_min: lowest rate of cosine_annealing, cyclic, tanh, reduce_on_plateau
        lr_patience: tests without a better figure that reduce_on_plateau bears
        lr_formula: of step and total, as 0.5 ** (step // 30): --lr times that (lambda), or times that at each step
            from 1 on (multiplicative)
        warmup_steps: steps of linear rise to --lr
        total_iter_num: steps of the whole run
    """

    lr_strategy: Literal[
        "piecewise_decay",
        "cosine",
        "constant",
        "multi_step",
        "step",
        "exponential",
        "cosine_annealing",
        "cyclic",
        "one_cycle",
        "reduce_on_plateau",
        "lambda",
        "multiplicative",
        "tanh",
    ] = "piecewise_decay"
    lr_steps: Steps
    lr_factor: AboveZero = 0.1
    lr_period: Positive | None = None
    lr_min: AtLeastZero = 0.0
    lr_patience: Count = 10
    lr_formula: RateFormula | None = None
    warmup_steps: Count = 0
    total_iter_num: Positive

    def __post_init__(self):
        if self.lr_strategy == "step" and self.lr_period is None:
            raise InputError("--lr_strategy=step needs --lr_period, the steps between two multiplications")
        if self.lr_strategy == "reduce_on_plateau" and self.lr_factor >= 1:
            raise InputError(f"lr_factor is {self.lr_factor:g}; reduce_on_plateau reduces by one below 1")
        if (self.lr_strategy in OF_FORMULA) != (self.lr_formula is not None):
            raise InputError(f"--lr_formula and --lr_strategy={' or '.join(OF_FORMULA)} go together")
        if self.lr_formula is not None:
            self._try_formula()

    def _try_formula(self) -> None:
        """Raise InputError where the formula gives no rate, before anything begins."""
        last = max(0, self.total_iter_num - 1)
        for step in (*range(0, last, max(1, last // CHECKED_STEPS)), last):
            try:
                factor = Formula(self.lr_formula, ("step", "total"))(step=step, total=max(1, self.total_iter_num))
            except (ArithmeticError, ValueError) as error:
                raise InputError(f"--lr_formula={self.lr_formula} has no value at step {step}: {error}") from None
            if not 0 <= factor < math.inf:
                raise InputError(f"--lr_formula={self.lr_formula} is {factor:g} at step {step}; a rate is 0 or more")

    def rate(self, step: int, lr: float, reductions: int = 0) -> float:
        """The learning rate of step `step` (0-based), where `lr` is the one to start from.

        reductions: how often reduce_on_plateau has reduced it so far.
        """
        return learning_rate(
            step,
            lr,
            self.lr_strategy,
            self.lr_steps,
            self.total_iter_num,
            self.warmup_steps,
            self.lr_factor,
            self.lr_period,
            self.lr_min,
            self.lr_formula,
            reductions,
        )

    def plateau(self, smaller_is_better: bool) -> "Plateau | None":
        """What counts the tests that got no better; None where nobody asks."""
        if self.lr_strategy != "reduce_on_plateau":
            return None
        return Plateau(self.lr_patience, smaller_is_better)


def learning_rate(
    step: int,
    lr: float,
    strategy: str,
    lr_steps: tuple[int, ...],
    total: int,
    warmup: int = 0,
    factor: float = 0.1,
    period: int | None = None,
    least: float = 0.0,
    formula: str | None = None,
    reductions: int = 0,
) -> float:
    """The rate of step `step` (0-based) of `total`.

    piecewise_decay, multi_step: times `factor` from each boundary in `lr_steps` on; cosine: half a wave from `lr` to 0
    over the steps after warm-up; constant. step, exponential: times `factor` every `period` steps (exponential: every
    one without a period). cosine_annealing: waves from `lr` to `least`, `period` steps of each half (without one, all
    steps of the run). cyclic: straight up from `least` to `lr` and down again. one_cycle: up and down once (Smith and
    Topin, 2017, arXiv 1708.07120). reduce_on_plateau: times `factor` for each of the `reductions`, down to `least`.
    lambda, multiplicative: by the `formula`. tanh: half a hyperbolic tangent to `least` (Hsueh et al., 2018, arXiv
    1806.01593). During the first `warmup` steps it rises linearly to what the strategy gives. Those of torch mean what
    they mean in torch.optim.lr_scheduler, cyclic and one_cycle without their cycle of the momentum; tanh what timm's
    TanhLRScheduler does.
    """
    if strategy in ("piecewise_decay", "multi_step"):
        boundaries_passed = sum(step >= boundary for boundary in lr_steps)
        rate = lr * factor**boundaries_passed
    elif strategy == "cosine":
        progress = max(0, step - warmup) / max(1, total - warmup)
        rate = lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    elif strategy in ("step", "exponential"):
        rate = lr * factor ** (step // (period or 1))
    elif strategy == "cosine_annealing":
        rate = least + (lr - least) * (1 + math.cos(math.pi * step / (period or total))) / 2
    elif strategy == "cyclic":
        rate = least + (lr - least) * _triangle(step, period or CYCLIC_PERIOD)
    elif strategy == "one_cycle":
        rate = _one_cycle(step, lr, total)
    elif strategy == "reduce_on_plateau":
        rate = lr if not reductions else max(lr * factor**reductions, min(least, lr))
    elif strategy == "lambda":
        rate = lr * Formula(formula, ("step", "total"))(step=step, total=total)
    elif strategy == "multiplicative":
        rate = lr * _product(formula, step, total)
    elif strategy == "tanh":
        progress = step / total
        bend = math.tanh(TANH_FROM * (1 - progress) + TANH_TO * progress)
        rate = least + 0.5 * (lr - least) * (1 - bend)
    else:
        rate = lr
    if warmup:
        return rate * min(1.0, (step + 1) / warmup)
    return rate


def _triangle(step: int, period: int) -> float:
    """From 0 at step 0 to 1 at step `period`, back to 0 at twice that, and so on."""
    position = step % (2 * period)
    return min(position, 2 * period - position) / period


def _one_cycle(step: int, highest: float, total: int) -> float:
    """Half a wave up from a 25th of the highest rate, then half a wave down to a 10,000th of where it began."""
    first = highest / FIRST_BELOW
    top = RISING * total - 1
    if step <= top:
        return _half_wave(first, highest, step / top)
    return _half_wave(highest, first / LAST_BELOW, (step - top) / (total - 1 - top))


def _half_wave(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * progress) + 1)


@functools.cache
def _products(formula: str, total: int) -> list[float]:
    """The products of the first steps, as far as they were asked for: each step has one factor more."""
    return [1.0]


def _product(formula: str, step: int, total: int) -> float:
    """The product of the formula's values at steps 1 to `step`, always multiplied in this order."""
    products = _products(formula, total)
    factor = Formula(formula, ("step", "total"))
    while len(products) <= step:
        products.append(products[-1] * factor(step=len(products), total=total))
    return products[step]


class Plateau:
    """How often the rate is to be reduced, since the figure of the tests got no better (torch's ReduceLROnPlateau).

    patience: so many tests in a row may be no better than the best so far; with one more the rate is reduced, and they
    are counted anew.
    """

    def __init__(self, patience: int, smaller_is_better: bool):
        self.patience = patience
        self.smaller_is_better = smaller_is_better
        self.best: float | None = None
        self.waited = 0
        self.reductions = 0

    def after_test(self, figure: float) -> None:
        """Take in the figure of a test."""
        if self._is_better(figure):
            self.best = figure
            self.waited = 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.reductions += 1
            self.waited = 0

    def _is_better(self, figure: float) -> bool:
        if self.best is None:
            return True
        if self.smaller_is_better:
            return figure < self.best * (1 - PLATEAU_THRESHOLD)
        return figure > self.best * (1 + PLATEAU_THRESHOLD)

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint holds of it."""
        return {"best": self.best, "waited": self.waited, "reductions": self.reductions}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Put back what `state` gave."""
        self.best, self.waited, self.reductions = state["best"], int(state["waited"]), int(state["reductions"])
