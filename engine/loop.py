"""The one training loop."""

import time
from collections.abc import Callable, Iterable

import torch
from tqdm import tqdm

import distributed
from engine.learner import Learner
from engine.nan_guard import FiniteGuard
from engine.optimiser import set_rate
from engine.step import Closure, backward, clip_gradient, update


def fit(
    learner: Learner,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    rate: Callable[[int], float],
    *,
    start: int,
    total: int,
    guard: FiniteGuard,
    display_every: int,
    on_display: Callable[[int, dict[str, float]], None],
    on_step: Callable[[int], None],
) -> None:
    """Train from step `start`, which is done, to step `total`.

    loader: endless batches (images, labels, indices). rate: step (0-based) -> learning rate. Every `display_every`
    steps and after the last one on_display(step, figures) gets lr, loss, the objective's figures and seconds per step;
    on_step(step) is called after each step. Raises NotFinite as the guard does.
    """
    learner.objective.train()
    is_quiet = None if distributed.is_first() else True  # None: quiet where no terminal listens
    bar = tqdm(total=total, initial=start, desc="training", unit="step", disable=is_quiet)
    clock = time.perf_counter()
    steps_since_display = 0
    for step, (images, labels, indices) in zip(range(start + 1, total + 1), loader):
        lr = rate(step - 1)
        set_rate(learner.optimiser, lr)
        learner.optimiser.zero_grad(set_to_none=True)
        guard.begin()
        if learner.first_steps is not None:
            learner.first_steps.before(step)
        loss = backward(learner, images, labels, indices)
        norm = clip_gradient(learner)
        if guard.may_update(step, loss, norm, indices):
            update(learner, Closure(learner, (images, labels, indices), loss))

        steps_since_display += 1
        bar.update()
        if step % display_every == 0 or step == total:
            guard.check()
            # Reading figures waits for the device, which is part of the steps' time.
            figures = {"lr": lr, "loss": loss.item(), **learner.objective.figures()}
            figures["time"] = (time.perf_counter() - clock) / steps_since_display
            on_display(step, figures)
            clock = time.perf_counter()
            steps_since_display = 0

        # What tests and checkpoints take is no step's.
        pause = time.perf_counter()
        on_step(step)
        clock += time.perf_counter() - pause
    bar.close()
