"""Networks of torchvision, with the weights that it publishes."""

from collections import OrderedDict
from functools import partial
from http.client import HTTPException
from typing import Any

from torch import nn

from core.errors import InputError
from models.backbones._row import BACKBONES, IMAGENET, Backbone

WIDTHS = {"ResNet18": 512, "ResNet34": 512, "ResNet50": 2048, "ResNet101": 2048, "ResNet152": 2048}
RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


@BACKBONES.register(
    "ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", modality="image", output="maps", weights=("imagenet",)
)
def resnet(name: str) -> Backbone:
    """A ResNet (arXiv 1512.03385)."""
    return Backbone(partial(build_resnet, name), WIDTHS[name], RESNET_STAGES, IMAGENET)


def build_resnet(name: str, weights: str | None) -> nn.Module:
    """A torchvision ResNet without pooling and classifier; its state-dict names are kept."""
    import torchvision  # its import takes a while, and other sources do without it

    net = torchvision.models.get_model(name.lower())
    if weights == "imagenet":
        net.load_state_dict(download(torchvision.models.get_model_weights(name.lower()).IMAGENET1K_V1))
    return nn.Sequential(OrderedDict(list(net.named_children())[:-2]))


def download(weights: Any) -> dict[str, Any]:
    """The state dict of a torchvision weights entry. Raises InputError with its address when it cannot be had."""
    try:
        return weights.get_state_dict(check_hash=True)
    except (OSError, HTTPException, RuntimeError) as error:  # no network, a cut answer, a wrong checksum
        raise InputError(
            f"the ImageNet weights could not be downloaded from {weights.url} ({error}); fetch the file by other means "
            "and give it as --pretrained_model=FILE, or leave --pretrained_model empty to start from random weights"
        ) from None
