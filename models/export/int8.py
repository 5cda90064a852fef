"""An ONNX network with 8-bit weights and activations, whose ranges are those of images that it has seen."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.packages import needed
from models.export.onnx import IMAGES
from models.export.quiet import quietly

# With the activations behind them, which a range that ends where they do replaces.
LAYERS = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
HEAD = ("head", "behind")  # of an Embedder: the layers behind the pooled feature


def to_int8(network: bytes, batches: Iterable[np.ndarray], flag: str) -> bytes:
    """The file of `network_onnx` by onnxruntime's static quantisation: weights per channel, activations per layer.

    batches: uint8 crops (B, 3, height, width). The head stays float32: a whitening's weights differ by orders of
    magnitude. Raises InputError where a package is missing.
    """
    needed("onnx", flag, "export")
    quantisation = needed("onnxruntime.quantization", flag, "export")
    prepare = needed("onnxruntime.quantization.shape_inference", flag, "export").quant_pre_process
    import onnx

    with tempfile.TemporaryDirectory() as folder, quietly(), _unlogged():
        original, prepared, result = (Path(folder, name) for name in ("original", "prepared", "result"))
        original.write_bytes(network)
        # Its symbolic shapes know not every operation, and are of use to unfixed shapes alone.
        prepare(str(original), str(prepared), skip_symbolic_shape=True)
        quantisation.quantize_static(
            str(prepared),
            str(result),
            _Reader(batches),
            quant_format=quantisation.QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of eight: sums of pairs overflow where the CPU has no VNNI.
            reduce_range=True,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=_head_nodes(onnx.load(str(prepared))),
            activation_type=quantisation.QuantType.QUInt8,
            weight_type=quantisation.QuantType.QInt8,
        )
        return result.read_bytes()


class _Reader:
    """Batches as onnxruntime's calibration asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self.batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        return {IMAGES: batch}


def _head_nodes(model: "object") -> list[str]:
    """Names of the nodes that belong to the head: exporters name a node by the module that it comes from."""
    names = []
    for node in model.graph.node:
        scopes = node.name.replace(".", "/").split("/")
        if any(scope in HEAD for scope in scopes):
            names.append(node.name)
    return names


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without the advice that the package logs, which has been followed."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
