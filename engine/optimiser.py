"""The optimiser by name, over the weights of the model and those of the loss: those of torch.optim."""

from collections import defaultdict
from typing import Literal, NamedTuple

import torch
from torch import nn

from core.console import log
from core.errors import InputError
from core.types import AboveZero, AtLeastZero, Share
from distributed.sharded_classes import is_of_layers
from models import Embedder

FUSED = ("cpu", "cuda", "mps", "xpu")  # there torch has one kernel; on a CPU it is 3 to 5 times as fast


class Kind(NamedTuple):
    """An optimiser by name. takes: which of the options it has, of momentum, weight_decay and fused."""

    made_by: type[torch.optim.Optimizer]
    takes: tuple[str, ...] = ("weight_decay",)


OPTIMISERS = {
    "momentum": Kind(torch.optim.SGD, ("momentum", "weight_decay", "fused")),
    "adam": Kind(torch.optim.Adam, ("weight_decay", "fused")),
    "adamw": Kind(torch.optim.AdamW, ("weight_decay", "fused")),
    "sgd": Kind(torch.optim.SGD, ("weight_decay", "fused")),
    "adadelta": Kind(torch.optim.Adadelta),
    "adagrad": Kind(torch.optim.Adagrad),
    "adamax": Kind(torch.optim.Adamax),
    "asgd": Kind(torch.optim.ASGD),
    "lbfgs": Kind(torch.optim.LBFGS, ()),
    "rmsprop": Kind(torch.optim.RMSprop),
    "rprop": Kind(torch.optim.Rprop, ()),
}


def build_optimiser(
    model: nn.Module,
    loss: nn.Module,
    *,
    optimiser: Literal[
        "momentum",
        "adam",
        "adamw",
        "sgd",
        "adadelta",
        "adagrad",
        "adamax",
        "asgd",
        "lbfgs",
        "rmsprop",
        "rprop",
    ] = "momentum",
    lr: AboveZero,
    head_lr: AtLeastZero | None = None,
    class_lr: AtLeastZero | None = None,
    layer_decay: Share = 1.0,
    momentum: AtLeastZero = 0.9,
    weight_decay: AtLeastZero = 1e-4,
) -> torch.optim.Optimizer:
    """An optimiser over groups: the model's weights, those of a loss's layers, and its own.

    Options:
        optimiser: one of momentum (SGD), adam, adamw; or sgd (without momentum), adadelta, adagrad, adamax, asgd,
            lbfgs, rmsprop, rprop, as torch has them
        lr: learning rate
        head_lr: learning rate of the head (default: --lr)
        class_lr: learning rate of the loss's own weights (default: --lr)
        layer_decay: rate of a stage of the backbone over that of the stage behind it, the head's being --lr; 1: all
            alike
        momentum: of the optimiser momentum
        weight_decay: decoupled (adamw) or L2 (all others but lbfgs and rprop, which have none)

    The loss's own weights are class centres; layers that it has in front of them learn at the model's rate. L2 is the
    ancestor's regulariser. Rates by depth: Bao et al., 2022, BEiT, arXiv 2106.08254, appendix. Each group carries
    `ratio`, its rate over the scheduled one. One kernel updates all weights in place where the device has it. Raises
    InputError when every weight is frozen.
    """
    class_ratio = 1.0
    if class_lr is not None:
        class_ratio = class_lr / lr
    layers = []
    own_weights = []
    for name, parameter in loss.named_parameters():
        if is_of_layers(name):
            layers.append(parameter)
        else:
            own_weights.append(parameter)
    # A frozen model, or a loss without weights, has no group; that of the class centres is the last.
    groups = []
    by_depth = [(model.parameters(), 1.0)]
    if layer_decay != 1 or head_lr is not None:
        head_ratio = 1.0 if head_lr is None else head_lr / lr
        by_depth = rates_by_depth(model, layer_decay, head_ratio)
    for parameters, ratio in (*by_depth, (layers, 1.0), (own_weights, class_ratio)):
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if trained:
            groups.append({"params": trained, "ratio": ratio})
    if not groups:
        raise InputError("there is nothing to train: every weight of model and loss is frozen")
    kind = OPTIMISERS[optimiser]
    # None and not False: torch chooses the next best itself.
    fused = groups[0]["params"][0].device.type in FUSED or None
    options = {"momentum": momentum, "weight_decay": weight_decay, "fused": fused}
    if kind.made_by is torch.optim.LBFGS:
        groups = [_one_group(groups)]
    if weight_decay and "weight_decay" not in kind.takes:
        log(f"note: {optimiser} has no weight decay; --weight_decay={weight_decay:g} does nothing")
    return kind.made_by(groups, lr=lr, **{name: options[name] for name in kind.takes})


def _one_group(groups: list[dict[str, object]]) -> dict[str, object]:
    """All weights as one group, since L-BFGS takes one step along one direction. Raises InputError for other rates."""
    if any(group["ratio"] != 1 for group in groups):
        raise InputError("lbfgs has one rate for all weights; leave --class_lr, --head_lr and --layer_decay out")
    return {"params": [parameter for group in groups for parameter in group["params"]], "ratio": 1.0}


def rates_by_depth(model: Embedder, decay: float, head_ratio: float) -> list[tuple[list[nn.Parameter], float]]:
    """(Parameters, their rate over the scheduled one) from the first stage of the backbone to the head.

    Of n stages, stage i (from 0) has decay^(n - i), and the head head_ratio. What stands in no stage, as a ViT's class
    token, is as deep as the first.
    """
    parameters = defaultdict(list)
    for name, parameter in model.named_parameters():
        parameters[model.depth_of(name)].append(parameter)
    behind_all = len(model.stages)
    groups = []
    for depth in sorted(parameters):
        ratio = head_ratio
        if depth < behind_all:
            ratio = decay ** (behind_all - depth)
        groups.append((parameters[depth], ratio))
    return groups


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own ratio."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["ratio"]
