"""Networks of HuggingFace's transformers, which is an extra package: `hf:NAME` of its hub, or `hf:FOLDER`.

Code that comes with a network is never executed.
"""

import functools
import inspect
from typing import Any

import torch
from torch import nn

from core.console import log
from core.errors import InputError
from core.packages import needed
from models.backbones._row import BACKBONES, IMAGENET, PUBLISHED, Backbone, ImageInput, Wrapped
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones._transformers import asked, be_quiet, vector_of
from models.backbones._unused import on_meta, parts_without_use, without_parts
from models.backbones.hf_audio import audio_backbone, takes_sounds
from models.backbones.hf_text import TOWER_PREFIX, has_text_tower, takes_texts, text_backbone

PREFIX = "hf:"
# Pillow's numbers of filters, as image processors have them.
FILTERS = {2: "bilinear", 3: "bicubic"}


@BACKBONES.register_source(PREFIX)
@functools.cache
def hf_backbone(name: str) -> Backbone:
    """Any network for images that AutoModel makes, or the image tower of one that has two: maps, tokens or a vector; or
    any for texts (hf_text.py) or sounds (hf_audio.py). Raises InputError for one that takes none of them."""
    source = name.removeprefix(PREFIX)
    config = asked(source, _transformers().AutoConfig.from_pretrained, "configuration")
    with on_meta():
        net = _transformers().AutoModel.from_config(config, trust_remote_code=False).eval()
    if not _takes_images(net):
        if takes_texts(net):
            return text_backbone(source)
        if takes_sounds(net):
            return audio_backbone(source)
        raise InputError(f"{name} is a {type(net).__name__}, which takes neither images, texts nor sounds")
    texts = f"{TOWER_PREFIX}{source}" if has_text_tower(net) else None
    with on_meta():
        preprocess = _image_input(source, config)
        pixels = torch.zeros(1, 3, preprocess.size, preprocess.size)
        _image_tower(net)
        features = _features(net, pixels, False)
        head = parts_without_use(net, features)
        shape = features.shape
        pools = bool(head) and not _is_tanh_layer(net, head)
    output = {2: "vector", 3: "tokens", 4: "maps"}[len(shape)]
    patch = getattr(_vision_config(config), "patch_size", None)
    prefix_tokens = _prefix_tokens(shape, preprocess.size, patch) if output == "tokens" else 0
    own_pooling = "avg"
    if output != "vector" and pools:
        own_pooling = "trained"
    elif prefix_tokens:
        own_pooling = "cls"
    return Backbone(
        functools.partial(build_hf, source, tuple(head)),
        shape[1] if output != "tokens" else shape[2],
        stages_by_depth(net, depths_by_blocks(net), HfFeatures.inner),
        preprocess,
        output=output,
        weights=(PUBLISHED,),
        prefix_tokens=prefix_tokens,
        pooling=own_pooling,
        texts=texts,
    )


def build_hf(source: str, head: tuple[str, ...], weights: str | None) -> nn.Module:
    """The network of a name or a folder with random weights, or with those that come with it.

    head: names of its modules that only pooling uses.
    """
    models = _transformers().AutoModel
    if weights is None:
        config = asked(source, _transformers().AutoConfig.from_pretrained, "configuration")
        net = models.from_config(config, trust_remote_code=False, dtype=torch.float32)
    else:
        net = asked(source, functools.partial(models.from_pretrained, dtype=torch.float32), "network")
    _image_tower(net)
    return HfFeatures(net, head)


class HfFeatures(Wrapped):
    """Pixels to maps or tokens of the last layer; or, pooled as it was trained, a vector, as a two-tower network has it
    for the space that it shares with texts.

    head: names of modules that only pooling uses.
    """

    def __init__(self, net: nn.Module, head: tuple[str, ...]) -> None:
        super().__init__(net)
        self.head = head
        self.pools = False
        self.patch = getattr(_vision_config(net.config), "patch_size", None)

    def pool_as_trained(self, pools: bool) -> None:
        if pools and not self.head:
            super().pool_as_trained(pools)
        self.pools = pools
        if not pools:
            without_parts(self.net, self.head)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[2:]
        if isinstance(self.patch, int) and (height % self.patch or width % self.patch):
            raise InputError(
                f"its patches are {self.patch}x{self.patch} pixels, of which height and width have to be multiples"
            )
        return _features(self.net, pixels, self.pools)


def _features(net: nn.Module, pixels: torch.Tensor, pools: bool) -> torch.Tensor:
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(net.forward).parameters:
        options["interpolate_pos_encoding"] = list(pixels.shape[2:]) != [_image_size(net.config)] * 2
    if hasattr(net, "get_image_features"):
        return vector_of(net.get_image_features(pixel_values=pixels, **options))
    output = net(pixel_values=pixels, **options)
    if pools:
        return output.pooler_output.flatten(1)
    return output.last_hidden_state


def _transformers() -> Any:
    transformers = needed("transformers", f"{PREFIX}NAME", "models")
    be_quiet()
    return transformers


def _takes_images(net: nn.Module) -> bool:
    return hasattr(net, "get_image_features") or "pixel_values" in inspect.signature(net.forward).parameters


def _image_tower(net: nn.Module) -> None:
    """Take from a network of two towers what is not for images."""
    if not hasattr(net, "get_image_features"):
        return
    for name, _ in list(net.named_children()):
        if name.startswith("text"):
            setattr(net, name, nn.Identity())
    for name, _ in list(net.named_parameters(recurse=False)):
        delattr(net, name)


def _is_tanh_layer(net: nn.Module, head: list[str]) -> bool:
    """Whether a network's pooler is the layer that was trained for sentences, of which images' weights have none."""
    return "pooler" in head and any(parameter.ndim > 1 for parameter in net.get_submodule("pooler").parameters())


def _vision_config(config: Any) -> Any:
    return getattr(config, "vision_config", config)


def _image_size(config: Any) -> int:
    size = getattr(_vision_config(config), "image_size", None) or 224
    return size if isinstance(size, int) else size[-1]


def _prefix_tokens(shape: torch.Size, size: int, patch: Any) -> int:
    """How many tokens are no patches; those of a network that merges patches are fewer than these."""
    if not isinstance(patch, int):
        return 0
    return max(0, shape[1] - (size // patch) ** 2)


def _image_input(source: str, config: Any) -> ImageInput:
    """What the image processor of a name or a folder does to images."""
    from transformers.image_processing_base import ImageProcessingMixin

    size = _image_size(config)
    try:
        known, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except Exception:  # it came without one, or there is no network
        log(f"note: {PREFIX}{source} tells nothing of its images' mean and deviation; those of ImageNet are taken")
        return ImageInput(IMAGENET.mean, IMAGENET.std, size)
    mean, std = known.get("image_mean") or IMAGENET.mean, known.get("image_std") or IMAGENET.std
    if known.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    short_side = 0
    wanted = known.get("size")
    if isinstance(wanted, dict) and wanted.get("shortest_edge") and known.get("do_center_crop", True):
        short_side = int(wanted["shortest_edge"] / (known.get("crop_pct") or 1))
    if short_side < size:
        short_side = 0
    # Both sides of what images are resized to, and nothing is cut from that.
    resize_mode = "crop"
    if isinstance(wanted, dict) and wanted.get("height") and wanted.get("width") and not known.get("do_center_crop"):
        resize_mode = "squash"
    resize_filter = FILTERS.get(known.get("resample"), "bilinear")
    return ImageInput(tuple(mean), tuple(std), size, short_side, resize_filter, resize_mode)
