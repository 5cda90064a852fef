"""An Embedder as it embeds fastest, for where nothing is learned: BatchNorm folded, half types, OpenVINO."""

import contextlib
import copy

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.errors import InputError

RUNTIMES = ("torch", "openvino")
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fast_model(model, precision, runtime, image_shape):
    """What embeds uint8 images (B, 3, H, W) in place of an Embedder, which stays as it is; they differ by rounding.

    precision: fp32, bf16 or fp16; runtime: one of RUNTIMES; image_shape: (3, H, W) of all images. Half types pay where
    the device has matrix units for them (AMX, a GPU). Raises InputError where the package openvino is missing.
    """
    if runtime == "openvino":
        return OpenVino(model, precision, image_shape)
    model = copy.deepcopy(model).eval()
    model.backbone = folded(model.backbone)
    if precision in HALF_TYPES:
        model.backbone = HalfType(model.backbone, HALF_TYPES[precision])
    return model.to(memory_format=torch.channels_last)


def folded(net):
    """A copy of a network, in evaluation mode, in which convolutions do the work of the BatchNorms behind them.

    What does not follow a convolution, or follows one that others read too, stays as it is. So does everything where
    torch.fx cannot follow the network.
    """
    net = copy.deepcopy(net).eval()
    for conv, norm in _pairs(net):
        layer = net.get_submodule(norm)
        net.set_submodule(conv, fuse_conv_bn_eval(net.get_submodule(conv), layer))
        net.set_submodule(norm, getattr(layer, "act", nn.Identity()))  # timm's BatchNorm brings its activation along
    return net


class HalfType(nn.Module):
    """A backbone that computes in a half type: pixels are scaled before it and maps pooled after it in float32."""

    def __init__(self, net, dtype):
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, pixels):
        return self.net(pixels.to(self.dtype)).to(pixels.dtype)


class OpenVino(nn.Module):
    """An Embedder compiled by OpenVINO for the CPU, for images of one shape and batches of any size."""

    def __init__(self, model, precision, image_shape):
        super().__init__()
        try:
            import openvino
        except ImportError:
            raise InputError(
                "--runtime=openvino needs the package openvino: pip install -r requirements-openvino.txt"
            ) from None
        self.embedding_size = model.embedding_size
        example = torch.zeros(2, *image_shape, dtype=torch.uint8)
        net = copy.deepcopy(model).cpu().eval()
        shape = openvino.PartialShape([-1, *image_shape])
        with contextlib.redirect_stderr(None):  # it traces the network, of which newer torch warns; errors are raised
            net = openvino.convert_model(net, example_input=example, input=shape)
        hint = {"fp32": "f32"}.get(precision, precision)
        self.compiled = openvino.compile_model(net, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def forward(self, images):
        return torch.from_numpy(self.compiled(np.ascontiguousarray(images.numpy()))[0])


class _Tracer(fx.Tracer):
    """Follows a network down to its convolutions and BatchNorms, also those that are subclasses of torch's."""

    def is_leaf_module(self, module, name):
        return isinstance(module, (nn.Conv2d, _BatchNorm)) or super().is_leaf_module(module, name)


def _pairs(net):
    """Names (convolution, BatchNorm) of those that can be folded."""
    try:
        nodes = [node for node in _Tracer().trace(net).nodes if node.op != "get_attr"]
    except Exception:  # a network is any Python, and so is what it raises when it is run without numbers
        return []
    layers = {node: net.get_submodule(node.target) for node in nodes if node.op == "call_module"}
    used = [node.target for node in layers]
    found = []
    for node, layer in layers.items():
        before = next(iter(node.all_input_nodes), None)
        is_norm = isinstance(layer, _BatchNorm) and layer.running_var is not None
        if not is_norm or not isinstance(layers.get(before), nn.Conv2d):
            continue
        if len(before.users) == used.count(before.target) == used.count(node.target) == 1:
            found.append((before.target, node.target))
    return found
