"""Parameter groups and the learning rate as a pure function of the step."""

import torch

from core.errors import InputError

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


def set_rate(optimiser, rate):
    """Give every group `rate` times its own ratio."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["ratio"]
