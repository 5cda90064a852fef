"""An Embedder as it embeds fastest, for where nothing is learned: BatchNorm folded, half types, other runtimes."""

import contextlib
import copy

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.errors import InputError
from core.packages import needed
from models.embedder import Embedder
from models.export.network import ExportedNetwork
from models.export.onnx import OnnxRuntime, network_onnx
from models.export.quiet import attention_in_parts
from models.low_rank import merged

RUNTIMES = ("torch", "openvino", "onnx")
ONNX_FLAG = "--runtime=onnx"
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fast_model(model: Embedder, precision: str, runtime: str, image_shape: tuple[int, int, int]) -> nn.Module:
    """What embeds uint8 images (B, 3, H, W) in place of an Embedder, which stays as it is; they differ by rounding.

    An Embedder of another modality takes its own inputs. precision: fp32, bf16 or fp16; runtime: one of RUNTIMES;
    image_shape: (3, H, W) of all images. Half types pay where the device has matrix units for them (AMX, a GPU); onnx
    has fp32 alone. Raises InputError where the package of a runtime is missing, or cannot take what the network does.
    """
    if runtime != "torch" and model.modality != "image":
        name = model.facts["model"]
        raise InputError(f"--runtime={runtime} takes networks for images, and {name} is for {model.modality}s")
    if runtime == "onnx":
        network = network_onnx(ExportedNetwork(model), image_shape, ONNX_FLAG)
        return OnnxRuntime(network, model.embedding_size, ONNX_FLAG)
    if runtime == "openvino":
        return OpenVino(model, precision, image_shape)
    model = copy.deepcopy(model).eval()
    model.backbone = folded(merged(model.backbone))
    if precision in HALF_TYPES:
        model.backbone = HalfType(model.backbone, HALF_TYPES[precision])
    return model.to(memory_format=torch.channels_last)


def folded(net: nn.Module) -> nn.Module:
    """A copy of a network, in evaluation mode, in which convolutions do the work of the BatchNorms behind them.

    What does not follow a convolution, or follows one that others read too, stays as it is. So does everything where
    torch.fx cannot follow the network.
    """
    net = copy.deepcopy(net).eval()
    for conv_name, norm_name in _foldable(net):
        norm = net.get_submodule(norm_name)
        net.set_submodule(conv_name, fuse_conv_bn_eval(net.get_submodule(conv_name), norm))
        # timm's BatchNorm brings its activation along, which stays in its place.
        net.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return net


class HalfType(nn.Module):
    """A backbone that computes in a half type: pixels are scaled before it and maps pooled after it in float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net.to(dtype)
        self.dtype = dtype

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # Numbers of tokens stay what they are.
        if not inputs.is_floating_point():
            return self.net(inputs).float()
        return self.net(inputs.to(self.dtype)).to(inputs.dtype)

    def is_token(self, inputs: torch.Tensor) -> torch.Tensor:
        """As the network says it of sounds."""
        return self.net.is_token(inputs)


class OpenVino(nn.Module):
    """An Embedder compiled by OpenVINO for the CPU, for images of one shape and batches of any size."""

    def __init__(self, model: Embedder, precision: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        openvino = needed("openvino", "--runtime=openvino", "openvino")
        self.embedding_size = model.embedding_size
        example = torch.zeros(2, *image_shape, dtype=torch.uint8)
        net = merged(copy.deepcopy(model).cpu().eval())
        shape = openvino.PartialShape([-1, *image_shape])
        # It traces the network, of which newer torch warns; errors are raised.
        with contextlib.redirect_stderr(None), attention_in_parts():
            net = openvino.convert_model(net, example_input=example, input=shape)
        hint = "f32" if precision == "fp32" else precision
        self.compiled = openvino.compile_model(net, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.compiled(np.ascontiguousarray(images.numpy()))[0])


class _Tracer(fx.Tracer):
    """Follows a network down to its convolutions and BatchNorms, also those that are subclasses of torch's."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, _BatchNorm)) or super().is_leaf_module(module, name)


def _foldable(net: nn.Module) -> list[tuple[str, str]]:
    """Names (convolution, BatchNorm) of those that can be folded: each is used once, and nothing reads between them."""
    try:
        nodes = [node for node in _Tracer().trace(net).nodes if node.op != "get_attr"]
    except Exception:  # a network is any Python, and so is what it raises when it is run without numbers
        return []
    layers = {node: net.get_submodule(node.target) for node in nodes if node.op == "call_module"}
    calls = [node.target for node in layers]
    pairs = []
    for node, layer in layers.items():
        if not isinstance(layer, _BatchNorm) or layer.running_var is None:
            continue
        before = next(iter(node.all_input_nodes), None)
        if not isinstance(layers.get(before), nn.Conv2d):
            continue
        if len(before.users) == calls.count(before.target) == calls.count(node.target) == 1:
            pairs.append((before.target, node.target))
    return pairs
