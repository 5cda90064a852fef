"""A network as OpenVINO's pair of files, made of its ONNX."""

from pathlib import Path

import torch
from torch import nn

from core.packages import needed
from models.export.quiet import quietly

FLAG = "--export=openvino"


class CompiledOpenVino(nn.Module):
    """A file of OpenVINO compiled for the CPU: uint8 images (B, 3, H, W) of any one size to embeddings (B, D)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        openvino = needed("openvino", FLAG, "openvino")
        self.compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.compiled(images.contiguous().numpy())[0].copy())


def write_openvino(onnx_file: Path, path: Path) -> None:
    """Write `path` (.xml) and the weights beside it (.bin), in float32. Raises InputError without the package."""
    openvino = needed("openvino", FLAG, "openvino")
    with quietly():
        openvino.save_model(openvino.convert_model(str(onnx_file)), str(path), compress_to_fp16=False)
