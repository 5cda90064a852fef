"""A session of ONNX Runtime on the CPU, opened without torch."""

import os
from pathlib import Path
from typing import Any

from core.errors import InputError, first_line
from core.packages import needed


def open_session(model: bytes | str | Path, flag: str, threads: int) -> Any:
    """A session of an ONNX file, or of its bytes. flag: what asked for it.

    Raises InputError where the package is missing, and for what is no ONNX file.
    """
    runtime = needed("onnxruntime", flag, "export")
    options = runtime.SessionOptions()
    # By itself it would take every core, whatever OMP_NUM_THREADS says.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise InputError(f"onnxruntime does not open the network: {first_line(error)}") from None


def usual_threads() -> int:
    """As many as OMP_NUM_THREADS says, else one for each core that this process may use."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
