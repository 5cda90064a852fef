"""The parts of a network by depth, where its package does not say them as names of modules."""

import re
from collections.abc import Mapping

from torch import nn

# The beginning of a parameter's name that is the block it is in: `encoder.layer.3.`, or `stages.2.blocks.5.` where
# blocks lie in stages.
BLOCK = re.compile(
    r"^(?:|.*?\.)(?:layers?|blocks?|resblocks|stages|features|h)\.(?:encoder_layer_)?\d+\."
    r"(?:(?:layers?|blocks?)\.\d+\.)?"
)


def depths_by_blocks(net: nn.Module) -> dict[str, int]:
    """{name of a parameter: depth}: 0 of what stands before the blocks, 1 and so on of these, the most behind them."""
    order: dict[str, int] = {}
    depths = {}
    for name, _ in net.named_parameters():
        match = BLOCK.match(name)
        if match:
            order.setdefault(match[0], len(order) + 1)
            depths[name] = order[match[0]]
        elif order:
            depths[name] = -1
        else:
            depths[name] = 0
    return {name: len(order) + 1 if depth < 0 else depth for name, depth in depths.items()}


def stages_by_depth(net: nn.Module, depths: Mapping[str, int], prefix: str = "") -> tuple[tuple[str, ...], ...]:
    """The names of modules, and of parameters beside them, at each depth of a network, first to last.

    depths: {name of a parameter: depth} of all of them. prefix: what stands before each name in the result.
    """
    stages: dict[int, list[str]] = {depth: [] for depth in sorted(set(depths.values()))}

    def collect(module: nn.Module, path: str) -> None:
        for name, _ in module.named_parameters(recurse=False):
            stages[depths[path + name]].append(prefix + path + name)
        for name, child in module.named_children():
            inside = {depths[f"{path}{name}.{own}"] for own, _ in child.named_parameters()}
            if len(inside) == 1:
                stages[inside.pop()].append(prefix + path + name)
            elif inside:
                collect(child, f"{path}{name}.")

    collect(net, "")
    return tuple(tuple(names) for names in stages.values())
