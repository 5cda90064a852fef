"""Where the time of a training step goes, by kinds of operations."""

import time
from collections import defaultdict
from collections.abc import Callable

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks._contest import markdown

STEPS = 3  # that are looked at, after two that warm up
# Kinds by how torch names an operation, without "aten::"; what an operation calls in its turn belongs to it.
KINDS = {
    "convolutions": ("convolution", "convolution_backward"),
    "products": ("linear", "addmm", "addmm_", "mm", "bmm", "baddbmm"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "BatchNorm": ("native_batch_norm", "native_batch_norm_backward"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "ReLU and GELU": ("relu", "relu_", "threshold_backward", "gelu", "gelu_backward"),
    "max-pool": ("max_pool2d", "max_pool2d_with_indices", "max_pool2d_with_indices_backward"),
    "sums": ("add", "add_", "sum"),
    "optimiser": ("_fused_sgd_",),
}
OTHERS, BETWEEN = "all other operations", "between operations: Python, autograd, dispatch"


def operation_table(step: Callable[[], object]) -> str:
    """Milliseconds of each kind of operation in step(), and their share, as Markdown; the longest first."""
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = (time.perf_counter() - began) / STEPS
    taken, calls = defaultdict(float), defaultdict(int)
    for event in profiler.events():
        kind, is_first = _kind(event)
        if event.name.startswith("aten::"):
            taken[kind] += event.self_cpu_time_total / 1e6 / STEPS
            calls[kind] += is_first
    taken[BETWEEN] = seconds - sum(taken.values())
    rows = []
    for kind in sorted(taken, key=taken.get, reverse=True):
        count = round(calls[kind] / STEPS) or ""
        rows.append([kind, count, f"{1000 * taken[kind]:.1f}", f"{100 * taken[kind] / seconds:.1f}"])
    rows.append(["together", "", f"{1000 * seconds:.1f}", "100.0"])
    return markdown(["a float32 step", "calls", "ms", "%"], rows)


def _kind(event: FunctionEvent) -> tuple[str, bool]:
    """(the kind that an operation belongs to, whether it is called by none of that kind): the outermost one's."""
    kind, is_first = OTHERS, event.cpu_parent is None
    own = event
    while event is not None:
        for name, operations in KINDS.items():
            if event.name.removeprefix("aten::") in operations:
                kind, is_first = name, event is own
        event = event.cpu_parent
    return kind, is_first
