"""Networks of open_clip, which is an extra package: `clip:ARCHITECTURE/WEIGHTS`, the tower of images, and
`clip_text:ARCHITECTURE/WEIGHTS`, that of texts, whose embeddings lie in the same space.
"""

import functools
import hashlib
import json
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from core.errors import InputError, first_line, near_match
from core.packages import needed
from models.backbones._download import BY_OTHER_MEANS, download
from models.backbones._hub import hub_file
from models.backbones._row import BACKBONES, CLIP, PUBLISHED, Backbone, ImageInput, TextInput, Wrapped
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones._unused import on_meta
from models.backbones.torchvision import resized_positions
from models.plain_weights import read_weights

PREFIX = "clip:"
TEXT_PREFIX = "clip_text:"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
FILTERS = ("bilinear", "bicubic")


@BACKBONES.register_source(PREFIX, modality="image", output="vector")
@functools.cache
def clip_backbone(name: str) -> Backbone:
    """The image tower of any network of open_clip: a vector in the space that it shares with texts."""
    architecture, weights = _parsed(name)
    cfg = _weights_cfg(architecture, weights)
    with on_meta():
        net = _create(architecture, cfg).visual
    size = net.image_size if isinstance(net.image_size, int) else net.image_size[-1]
    resize_filter = cfg.get("interpolation", "bicubic")
    preprocess = ImageInput(
        tuple(cfg.get("mean") or CLIP.mean),
        tuple(cfg.get("std") or CLIP.std),
        size,
        resize_filter=resize_filter if resize_filter in FILTERS else "bicubic",
        resize_mode="squash" if cfg.get("resize_mode") == "squash" else "crop",
    )
    return Backbone(
        functools.partial(build_image_tower, name),
        _open_clip().get_model_config(architecture)["embed_dim"],
        stages_by_depth(net, _depths_of_images(net), ImageTower.inner),
        preprocess,
        output="vector",
        weights=(PUBLISHED, weights) if weights else (),
        texts=TEXT_PREFIX + name.removeprefix(PREFIX),
    )


@BACKBONES.register_source(TEXT_PREFIX, modality="text", output="vector")
@functools.cache
def clip_text_backbone(name: str) -> Backbone:
    """The text tower of any network of open_clip: a vector in the space that it shares with images."""
    architecture, weights = _parsed(name)
    with on_meta():
        net = TextTower(_create(architecture, _weights_cfg(architecture, weights))).net
    return Backbone(
        functools.partial(build_text_tower, name),
        _open_clip().get_model_config(architecture)["embed_dim"],
        stages_by_depth(net, _depths_of_texts(net), TextTower.inner),
        TextInput(functools.partial(ClipTokenizer, name)),
        modality="text",
        output="vector",
        weights=(PUBLISHED, weights) if weights else (),
    )


def build_image_tower(name: str, weights: str | None) -> nn.Module:
    """The tower of images of `clip:ARCHITECTURE/WEIGHTS`, random or with the weights of its name."""
    return ImageTower(_both_towers(name, weights).visual)


def build_text_tower(name: str, weights: str | None) -> nn.Module:
    """The tower of texts of `clip_text:ARCHITECTURE/WEIGHTS`, random or with the weights of its name."""
    return TextTower(_both_towers(name, weights))


class ImageTower(Wrapped):
    """Pixels to embeddings in the space of images and texts."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        positions = getattr(self.net, "positional_embedding", None)
        if positions is None or not hasattr(self.net, "conv1"):
            return self.net(pixels)
        height, width = self.net.conv1.kernel_size
        if pixels.shape[2] % height or pixels.shape[3] % width:
            raise InputError(f"its patches are {height}x{width} pixels, of which height and width have to be multiples")
        resized = resized_positions(positions.unsqueeze(0), pixels.shape[2] // height, pixels.shape[3] // width)
        if resized.shape[1:] == positions.shape:
            return self.net(pixels)
        return functional_call(self.net, {"positional_embedding": resized.squeeze(0)}, (pixels,))


class TextTower(Wrapped):
    """Numbers of tokens (B, N), as ClipTokenizer makes them, to embeddings in the space of images and texts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        # Neither images nor what only the loss of both towers takes.
        net.visual = nn.Identity()
        net.logit_scale = net.logit_bias = None

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        # It takes texts of one length alone, which its tokenizer gives them; others are of no tokenizer of its own.
        numbers = F.pad(numbers.clamp(min=0), (0, self.net.context_length - numbers.shape[1]))
        return self.net.encode_text(numbers)


class ClipTokenizer:
    """The tokenizer of `clip_text:ARCHITECTURE/WEIGHTS`, opened where it is first used, which may be a loader process.

    Every text becomes as many numbers as the network takes, padded as it was trained.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tokenizer = None

    def __call__(self, text: str) -> list[int]:
        return self._opened()([text])[0].tolist()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the numbers of a text, hexadecimal."""
        tokenizer = self._opened()
        # Of HuggingFace's it is a wrapper.
        inner = getattr(tokenizer, "tokenizer", None)
        vocabulary = tokenizer.encoder if inner is None else inner.get_vocab()
        clean = getattr(tokenizer.clean_fn, "__name__", "")
        facts = json.dumps([type(tokenizer).__name__, clean, tokenizer.context_length, sorted(vocabulary.items())])
        return hashlib.sha256(facts.encode(errors="surrogatepass")).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}

    def _opened(self) -> Any:
        if self._tokenizer is None:
            architecture, _ = _parsed(self.name)
            try:
                self._tokenizer = _open_clip().get_tokenizer(architecture)
            except Exception as error:  # it may be on the hub
                raise InputError(f"the tokenizer of {self.name} cannot be had: {first_line(error)}") from None
        return self._tokenizer


def _depths_of_images(net: nn.Module) -> dict[str, int]:
    """As depths_by_blocks; the projection of a ViT is declared before its blocks, and lies behind them."""
    depths = depths_by_blocks(net)
    if "proj" in depths:
        depths["proj"] = max(depths.values())
    return depths


def _depths_of_texts(net: nn.Module) -> dict[str, int]:
    """As depths_by_blocks; what stands beside the blocks has names that tell whether it comes before or behind them."""
    depths = depths_by_blocks(net)
    behind_all = max(depths.values())
    for name in depths:
        if "embedding" in name or "cls_emb" in name:
            depths[name] = 0
        elif "text_projection" in name:
            depths[name] = behind_all
    return depths


def _open_clip() -> Any:
    return needed("open_clip", f"{PREFIX}NAME", "models")


def _parsed(name: str) -> tuple[str, str | None]:
    """Architecture and name of the weights; raises InputError with the nearest where there are none of that name."""
    architecture, _, weights = name.partition(":")[2].partition("/")
    open_clip = _open_clip()
    known = open_clip.list_models()
    if architecture not in known:
        raise InputError(
            f"unknown model {name!r}; open_clip has {len(known)} architectures, --list_models=clip: prints them."
            f"{near_match(architecture, known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights and weights not in tags:
        raise InputError(
            f"unknown model {name!r}; open_clip has {architecture} with the weights {', '.join(tags)}."
            f"{near_match(weights, tags)}"
        )
    return architecture, weights or None


def _weights_cfg(architecture: str, weights: str | None) -> dict[str, Any]:
    if weights is None:
        return {}
    return _open_clip().get_pretrained_cfg(architecture, weights)


def _create(architecture: str, cfg: dict[str, Any]) -> nn.Module:
    """Both towers with random weights, on the default device."""
    open_clip = _open_clip()
    logging.disable(logging.WARNING)  # that they are random
    try:
        return open_clip.create_model(
            architecture,
            load_weights=False,
            pretrained_text=False,
            device=torch.get_default_device(),
            force_quick_gelu=bool(cfg.get("quick_gelu")),
        )
    finally:
        logging.disable(logging.NOTSET)


def _both_towers(name: str, weights: str | None) -> nn.Module:
    architecture, tag = _parsed(name)
    cfg = _weights_cfg(architecture, tag)
    net = _create(architecture, cfg)
    if weights is None:
        return net
    file = _file_of(cfg, name)
    read_weights(file)  # refuses what only running its code would open
    try:
        _open_clip().load_checkpoint(net, str(file), weights_only=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"the published weights do not fit {name}: {first_line(error)}") from None
    return net


def _file_of(cfg: dict[str, Any], name: str) -> Any:
    """The file of weights that open_clip's table tells of. Raises InputError."""
    if cfg.get("file"):
        return cfg["file"]
    if cfg.get("hf_hub"):
        repository, _, file = cfg["hf_hub"].rpartition("/")
        return hub_file(repository, (file,) if file else HUB_FILES, name)
    if cfg.get("url"):
        return download(cfg["url"])
    raise InputError(f"{name} has no weights that can be read here; {BY_OTHER_MEANS}")
