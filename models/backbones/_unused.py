"""Which parts of a network its features do not depend on: what pools them, or a tower of its own."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Networks are made without memory meanwhile, and slopes can be asked for, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        yield


def parts_without_use(net: nn.Module, features: Callable[[], torch.Tensor]) -> list[str]:
    """Names of the outermost modules none of whose weights `features()` depend on; both on the meta device."""
    parameters = dict(net.named_parameters())
    slopes = torch.autograd.grad(features().sum(), list(parameters.values()), allow_unused=True)
    used = {name for name, slope in zip(parameters, slopes, strict=True) if slope is not None}
    unused: list[str] = []

    def collect(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            inside = {f"{path}{name}.{own}" for own, _ in child.named_parameters()}
            if inside and not inside & used:
                unused.append(path + name)
            elif inside - used:
                collect(child, f"{path}{name}.")

    collect(net, "")
    return unused


def without_parts(net: nn.Module, names: list[str] | tuple[str, ...]) -> None:
    """Put nothing in the place of such parts, or they would be kept and trained by nothing."""
    for name in names:
        net.set_submodule(name, nn.Identity())
