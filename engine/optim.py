"""Parameter groups and the learning rate as a pure function of the step."""

import math

import torch

from errors import InputError

STRATEGIES = ("piecewise_decay", "cosine", "constant")
OPTIMISERS = ("momentum", "adamw")
FUSED = ("cpu", "cuda", "mps", "xpu")  # there torch has one kernel; on a CPU it is 3 to 5 times as fast


def build_optimiser(name, model, loss, lr, class_lr=None, weight_decay=1e-4, momentum=0.9):
    """SGD with momentum or AdamW over two groups, the model's and the loss's own weights.

    class_lr: learning rate of the loss's weights (class centres), default `lr`. Weight decay is L2 under momentum (as
    the ancestor's regulariser) and decoupled under adamw. Each group carries `ratio`, its rate over the scheduled one.
    One kernel updates all weights in place where the device has it. Raises InputError when every weight is frozen.
    """
    groups = []
    for module, ratio in ((model, 1.0), (loss, 1.0 if class_lr is None else class_lr / lr)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        if parameters:
            groups.append({"params": parameters, "ratio": ratio})
    if not groups:
        raise InputError("there is nothing to train: every weight of model and loss is frozen")
    fused = groups[0]["params"][0].device.type in FUSED or None
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)


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


def set_rate(optimiser, rate):
    """Give every group `rate` times its own ratio."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["ratio"]
