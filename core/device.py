"""Which device, which precision."""

import ctypes
import os
import sys
from typing import Literal

import torch

from core.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def open_device(
    *,
    use_gpu: bool | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    runtime: Literal["auto", "torch", "openvino", "onnx"] = "torch",
) -> tuple[torch.device, str]:
    """(device, precision) that the network runs on and in.

    Options:
        use_gpu: True insists on an accelerator, False avoids it (default: if any)
        precision: one of auto, fp32, bf16, fp16
        runtime: torch, openvino, onnx; auto: the fastest, measured for long jobs on a CPU

    A precision `auto` stays so beside a runtime `auto` on a CPU: both are measured together (embeddings/runtime.py).
    Raises InputError for what this machine lacks, and for what a runtime has not: accelerators, and
    half types with onnx.
    """
    if runtime not in ("auto", "torch"):
        if use_gpu:
            raise InputError(f"--runtime={runtime} embeds on the CPU; leave --use_gpu out, or take --runtime=torch")
        use_gpu = False  # whatever accelerator there is
    if runtime == "onnx":
        if precision not in ("auto", "fp32"):
            raise InputError(
                f"--runtime=onnx computes in fp32; leave --precision={precision} out, or take another --runtime"
            )
        precision = "fp32"
    device = choose_device(use_gpu)
    if (precision, runtime, device.type) == ("auto", "auto", "cpu"):
        return device, precision
    return device, choose_precision(precision, device)


def choose_device(use_gpu: bool | None = None) -> torch.device:
    """The accelerator there is, else the CPU; `use_gpu` False keeps to the CPU, True insists. Raises InputError.

    Where torchrun starts several processes on a machine, each has an accelerator of its own. On the CPU it also sets
    glibc's malloc, see keep_freed_memory.
    """
    # current_accelerator() names one that was compiled in, be it there or not.
    accelerator = None
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
    if use_gpu and accelerator is None:
        raise InputError("use_gpu is True, but torch sees no accelerator here; leave the flag out to use the CPU")
    if use_gpu is False or accelerator is None:
        keep_freed_memory()
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.accelerator.device_count():
        raise InputError(
            f"process {local} of this machine has no accelerator of its own, there are "
            f"{torch.accelerator.device_count()}; start fewer by --nproc_per_node, or give --use_gpu=False"
        )
    torch.accelerator.set_device_index(local)
    torch.backends.cudnn.benchmark = True  # images are all of one size, so the fastest convolutions are looked for once
    return accelerator


def search_device(device: torch.device, embeddings: torch.Tensor) -> torch.device:
    """Where embeddings (N, D) are searched: a CUDA `device` on which they take less than half of the free memory.

    Elsewhere the CPU: other accelerators lack the float64 in which close scores are settled.
    """
    if device.type == "cuda" and 2 * embeddings.nbytes < torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")


def choose_precision(precision: str, device: torch.device) -> str:
    """`auto` becomes bf16 where that is faster, else fp32. Raises InputError for fp16 on a CPU.

    That is on CUDA from Ampere and on CPUs with AMX. AVX512-bf16 alone is left to whoever asks for bf16: a step of a
    dense network takes 0.4 to 0.6 of the time on AMD's (benchmarks/step.py), and 1.3 times as long on Intel's.
    """
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs an accelerator; on a CPU there are fp32 and bf16")
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bfloat16(device) else "fp32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively: CUDA from Ampere, CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # newer torch only
        return False
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, of matrices (AMX) or of vectors (AVX512, ARM)."""
    if not hasattr(torch.cpu, "get_capabilities"):  # newer torch only
        return False
    return any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the network runs; parameters stay float32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next step: mapping them anew costs a CPU run a fifth of its time."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in musl
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 2**28)
