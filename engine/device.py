"""Which device, which precision."""

import torch

from errors import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(use_gpu=None):
    """The accelerator there is, else the CPU; `use_gpu` False keeps to the CPU, True insists. Raises InputError."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if use_gpu and accelerator is None:
        raise InputError("use_gpu is True, but torch sees no accelerator here; leave the flag out to use the CPU")
    return torch.device("cpu") if use_gpu is False or accelerator is None else accelerator


def choose_precision(precision, device):
    """`auto` becomes bf16 where the device multiplies it natively, else fp32. Raises InputError for fp16 on a CPU."""
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs an accelerator; on a CPU there are fp32 and bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer torch only
        native = device.type == "cpu" and capabilities.get("avx512_bf16", False)
    return "bf16" if native else "fp32"


def autocast(device, precision):
    """The context in which the network runs; parameters stay float32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
