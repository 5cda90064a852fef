"""What of a training step no code around it can save: its convolutions, products and attention, each called alone."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
HEAVY = {
    aten.convolution,
    aten.convolution_backward,
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
}


class TensorForm(NamedTuple):
    """All that a call's time depends on of a tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        """One of this form, filled, so that its pages are there."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).normal_()


class HeavyCalls(TorchDispatchMode):
    """Within it, calls of HEAVY are kept: the function, and its arguments with forms in place of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict[str, Any]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket in HEAVY:
            self.calls.append((function, tree_map(_form, args), tree_map(_form, kwargs)))
        return function(*args, **kwargs)


def _form(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorForm(value.shape, value.stride(), value.dtype)
    return value


def seconds_alone(calls: list[tuple[Callable, tuple, dict[str, Any]]]) -> float:
    """Of all calls together, each by itself with arguments of the same forms; the second of two in a row counts."""
    seconds = 0.0
    for function, args, kwargs in calls:
        args, kwargs = (
            tree_map(lambda value: value.make() if isinstance(value, TensorForm) else value, given, is_leaf=_is_form)
            for given in (args, kwargs)
        )
        function(*args, **kwargs)
        began = time.perf_counter()
        function(*args, **kwargs)
        seconds += time.perf_counter() - began
    return seconds


def _is_form(value: Any) -> bool:
    return isinstance(value, TensorForm)
