"""A network as ONNX, and the session in which onnxruntime runs it."""

import io

import numpy as np
import torch
from torch import nn

from core.errors import InputError, first_line
from core.onnx_session import open_session
from core.packages import needed
from models.export.geometry import CropGeometry
from models.export.network import Crop, example_crops
from models.export.quiet import attention_in_parts, quietly

OPSET = 18  # that of onnxruntime 1.14, of the year 2023
IMAGES = "images"
EMBEDDINGS = "embeddings"


def network_onnx(network: nn.Module, image_shape: tuple[int, int, int], flag: str) -> bytes:
    """An ExportedNetwork as an ONNX file's bytes: uint8 crops (B, 3, height, width) to embeddings, B any number.

    flag: what asked for it. Raises InputError where a package is missing, and for a network that cannot be exported.
    """
    needed("onnx", flag, "export")
    example = example_crops(image_shape)
    try:
        return _traced(network, example, EMBEDDINGS, {0: "batch"})
    except Exception:  # a network is any Python, which a trace may not follow: see below
        return _captured(network, example, flag)


def with_geometry(network: bytes, crop: Crop) -> bytes:
    """An ONNX file that takes images (B, 3, H, W) of any one size: the test geometry before that of `network_onnx`."""
    import onnx

    geometry = CropGeometry(crop)
    # Sides that are none of the crop's, so that nothing of the example's becomes a constant unnoticed.
    example = example_crops((3, crop.height + 5, crop.width + 7))
    first = onnx.load_from_string(_traced(geometry, example, "crops", {0: "batch", 2: "height", 3: "width"}))
    second = onnx.load_from_string(network)
    newest = max(first.ir_version, second.ir_version)
    first.ir_version = newest
    second.ir_version = newest
    joined = onnx.compose.merge_models(
        onnx.compose.add_prefix(first, "geometry/", rename_inputs=False, rename_outputs=False),
        onnx.compose.add_prefix(second, "network/", rename_outputs=False),
        io_map=[("crops", f"network/{IMAGES}")],
    )
    return joined.SerializeToString()


class OnnxRuntime(nn.Module):
    """A session of ONNX Runtime in place of an Embedder: uint8 images (B, 3, H, W) to embeddings (B, D).

    content: the ONNX file's bytes, as of `network_onnx`. flag: what asked for it. It has as many threads as torch.
    Raises InputError where the package is missing.
    """

    def __init__(self, content: bytes, embedding_size: int, flag: str) -> None:
        super().__init__()
        self.content = content
        self.session = open_session(content, flag, torch.get_num_threads())
        self.embedding_size = embedding_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(self.session.run(None, {IMAGES: pixels})[0])


def _traced(network: nn.Module, example: torch.Tensor, output: str, free: dict[int, str]) -> bytes:
    """By tracing: a tenth of the time that torch.export takes, and the package onnx alone. free: {axis: its name}."""
    file = io.BytesIO()
    with quietly(), attention_in_parts(), torch.no_grad():
        torch.onnx.export(
            network,
            (example,),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=[output],
            dynamic_axes={IMAGES: free, output: {0: "batch"}},
        )
    return file.getvalue()


def _captured(network: nn.Module, example: torch.Tensor, flag: str) -> bytes:
    """By torch.export, for what a trace does not follow."""
    needed("onnxscript", flag, "export")
    try:
        with quietly(), attention_in_parts(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGES],
                output_names=[EMBEDDINGS],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        return program.model_proto.SerializeToString()
    except Exception as error:  # of a network that is any Python
        raise InputError(f"{flag}: the network cannot be exported: {first_line(error)}") from None
