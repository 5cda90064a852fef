"""The one training loop."""

import time

import torch
from tqdm import tqdm

import distributed
from engine.optimiser import set_rate
from engine.step import backward


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
    guard,
    every,
    on_display,
    on_step,
):
    """Train from step steps[0] (done) to steps[1].

    loader: endless batches (images, labels, indices). rate: step (0-based) -> learning rate. clip_norm: largest norm of
    the gradient, 0 for no clipping. micro_batch: see engine/backward.py. guard: a FiniteGuard. Every `every` steps and
    after the last one on_display(step, figures) gets lr, loss, the objective's figures and seconds per step;
    on_step(step) is called after each step. Raises NotFinite as the guard does.
    """
    start, total = steps
    objective.train()
    clock, counted = time.perf_counter(), 0
    bar = tqdm(
        total=total, initial=start, desc="training", unit="step", disable=None if distributed.is_first() else True
    )
    for step, (images, labels, indices) in zip(range(start + 1, total + 1), loader):
        lr = rate(step - 1)
        set_rate(optimiser, lr)
        optimiser.zero_grad(set_to_none=True)
        guard.begin()
        loss = backward(objective, images, labels, scaler, device, precision, micro_batch)
        norm = clipped_norm(objective, optimiser, scaler, clip_norm)
        if guard.may_update(step, loss, norm, indices):
            update(optimiser, scaler)
        counted += 1
        bar.update()
        if step % every == 0 or step == total:
            guard.check()
            figures = {"lr": lr, "loss": loss.item(), **objective.figures()}
            on_display(step, {**figures, "time": (time.perf_counter() - clock) / counted})
            clock, counted = time.perf_counter(), 0
        pause = time.perf_counter()
        on_step(step)
        clock += time.perf_counter() - pause
    bar.close()


def clipped_norm(objective, optimiser, scaler, clip_norm):
    """The norm of all gradients, of all ranks' parts, too, a scalar tensor; they are scaled down to `clip_norm` if that
    is less and not 0."""
    scaler.unscale_(optimiser)
    if objective.part_of_loss:
        of_classes = distributed.all_reduce_sum(_norm(objective.loss.parameters()) ** 2).sqrt()
        norm = torch.hypot(_norm(objective.model.parameters()), of_classes)
    else:
        norm = _norm(objective.parameters())
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(objective.parameters(), clip_norm, norm)
    return norm


def _norm(parameters):
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def update(optimiser, scaler):
    """One step down the gradient that the parameters hold."""
    scaler.step(optimiser)
    scaler.update()
