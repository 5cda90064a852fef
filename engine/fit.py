"""The one training loop."""

import math
import time

import torch
from tqdm import tqdm

from engine import ranks
from engine.backward import backward
from engine.optim import set_rate
from errors import InputError


def fit(
    objective,
    loader,
    optimiser,
    scaler,
    rate,
    *,
    steps,
    device,
    precision,
    clip_norm,
    micro_batch,
    every,
    on_display,
    on_step,
):
    """Train from step steps[0] (done) to steps[1].

    loader: endless batches (images, labels, indices). rate: step (0-based) -> learning rate. clip_norm: largest norm of
    the gradient, 0 for no clipping. micro_batch: see engine/backward.py. every `every` steps and after
    the last one on_display(step, figures) gets lr, loss, the objective's figures and seconds per step; on_step(step) is
    called after each step.
    Raises InputError when a displayed loss is not finite.
    """
    start, total = steps
    objective.train()
    clock, counted = time.perf_counter(), 0
    bar = tqdm(total=total, initial=start, desc="training", unit="step", disable=None if ranks.first() else True)
    for step, (images, labels, _) in zip(range(start + 1, total + 1), loader):
        lr = rate(step - 1)
        set_rate(optimiser, lr)
        optimiser.zero_grad(set_to_none=True)
        loss = backward(objective, images, labels, scaler, device, precision, micro_batch)
        update(objective, optimiser, scaler, clip_norm)
        counted += 1
        bar.update()
        if step % every == 0 or step == total:
            figures = {"lr": lr, "loss": loss.item(), **objective.figures()}
            if not math.isfinite(figures["loss"]):
                raise InputError(f"the loss is {figures['loss']} at step {step} (lr {lr:g}); try a smaller --lr")
            on_display(step, {**figures, "time": (time.perf_counter() - clock) / counted})
            clock, counted = time.perf_counter(), 0
        pause = time.perf_counter()
        on_step(step)
        clock += time.perf_counter() - pause
    bar.close()


def update(objective, optimiser, scaler, clip_norm):
    """One step down the gradient that the parameters hold."""
    if clip_norm:
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(objective.parameters(), clip_norm)
    scaler.step(optimiser)
    scaler.update()
