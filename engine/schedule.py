"""The learning rate of a step."""

import math

STRATEGIES = ("piecewise_decay", "cosine", "constant")


def learning_rate(step, lr, strategy, lr_steps, total, warmup=0):
    """The rate of step `step` (0-based) of `total`.

    piecewise_decay: times 0.1 from each boundary in `lr_steps` on; cosine: half a wave from `lr` to 0 over the steps
    after warm-up; constant. During the first `warmup` steps it rises linearly to what the strategy gives.
    """
    if strategy == "piecewise_decay":
        rate = lr * 0.1 ** sum(step >= boundary for boundary in lr_steps)
    elif strategy == "cosine":
        progress = max(0, step - warmup) / max(1, total - warmup)
        rate = lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        rate = lr
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
