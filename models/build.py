"""A network by its settings: built to be trained, or opened to be used as it is, and tried before anything begins."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import nn

import distributed
from core.console import log
from core.errors import InputError, first_line
from core.text import class_name
from core.types import AboveZero, ChainOf, Count, Scales, Shape, Width
from distributed.sync_batchnorm import synchronise
from models.backbones import BACKBONES, OUTPUTS, AudioInput
from models.batchnorm import statistics_left_alone
from models.embedder import Embedder
from models.recompute import recompute_stages
from models.trained import trained_settings
from models.weights import is_published, load_pretrained, refuse_untrained

MODEL_FLAGS = (
    "model",
    "image_shape",
    "resize_short_size",
    "resize_filter",
    "resize_mode",
    "clip_seconds",
    "embedding_size",
    "pooling",
    "head",
    "lora",
    "test_scales",
)


UNTRAINED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What a network is, the images or sounds it takes, and where its first weights come from.

    Options:
        model: a backbone of those that --list_models prints, such as ResNet50; or timm:NAME, hf:NAME or hf:FOLDER,
            clip:NAME/WEIGHTS, with texts clip_text:NAME/WEIGHTS, hf_text:NAME
        image_shape: input as 3,height,width in pixels
        resize_short_size: short side before the test crop; 0: the crop size
        resize_filter: how test images come to it: one of area, bilinear, bicubic, linear
        resize_mode: crop: the centre of a test image; squash: all of it, whatever the ratio of its sides; pad: all of
            it, with white around it
        clip_seconds: sounds that are longer are cut
        embedding_size: width of the last layer of the head; 0: the pooled feature itself
        pooling: of maps or patch tokens one of avg, max, gem, avg+max, attention; of tokens also cls, mean; trained: by
            the layer or norm that the weights have for it
        head: layers behind the pooled feature, of {models/heads}, as layer_norm,linear:512,bnneck
        lora: rank of what learns beside each matrix of a transformer, which stays as it is; 0: the matrices learn
        test_scales: an image is embedded at each of these sizes, as shares of image_shape, when it is not trained on,
            and the pooled features' mean is taken, as 1,0.7071,0.5; a ViT's sides are rounded to its patches
        pretrained_model: a run folder, a weights file, a folder of HuggingFace, or published weights by name: imagenet,
            or published for those that belong to the model's name; empty: random weights
    """

    model: str = "ResNet50"
    image_shape: Shape = (3, 224, 224)
    resize_short_size: Count = 0
    resize_filter: Literal["area", "bilinear", "bicubic", "linear"] = "area"
    resize_mode: Literal["crop", "squash", "pad"] = "crop"
    clip_seconds: AboveZero = 3.0
    embedding_size: Width = 0
    pooling: Literal["avg", "max", "gem", "avg+max", "cls", "mean", "attention", "trained"] = "avg"
    head: Annotated[str, ChainOf("models/heads")] = "linear"
    lora: Count = 0
    test_scales: Scales = (1.0,)
    pretrained_model: str | None = None

    @property
    def modality(self) -> str:
        """image, text or audio: what the backbone takes."""
        return BACKBONES.fact(self.model, "modality")

    @property
    def towers(self) -> dict[str, "ModelSettings"]:
        """{modality: settings}: this network alone; of several, models/two_towers.py has the like."""
        return {self.modality: self}

    def open_tokenizer(self) -> Callable[[str], list[int]]:
        """The tokenizer of a network that takes texts, as data/text/ uses it."""
        return BACKBONES[self.model](self.model).preprocess.open_tokenizer()

    @property
    def audio_input(self) -> AudioInput:
        """How a network that takes sounds wants them, as data/audio/ uses it."""
        return BACKBONES[self.model](self.model).preprocess

    def as_flags(self) -> dict[str, object]:
        """{name: value} of what a network is, as config.json and result.json hold it: all but the weights."""
        return {name: getattr(self, name) for name in MODEL_FLAGS}

    def of_network(self, model: Embedder) -> "ModelSettings":
        """The settings with head and width of a network to which a layer was added."""
        facts = model.facts
        return replace(self, embedding_size=facts["embedding_size"], head=facts.get("head", "linear"))

    def of_source(self) -> "ModelSettings":
        """The settings with head and width of the run or weights of `pretrained_model` as they are."""
        trained = trained_settings(self.pretrained_model)
        return replace(self, embedding_size=trained.get("embedding_size", 0), head=trained.get("head", "linear"))


def build_model(
    settings: ModelSettings,
    first_weights: str | None,
    adds_layer: bool = False,
    *,
    freeze_bn: bool = False,
    sync_bn: bool = False,
    freeze_stages: Count = 0,
    recompute: bool = False,
    compile: bool = False,
) -> Embedder:
    """The network to train, on the CPU; it is drawn from torch's generator, which the caller has seeded.

    Options:
        freeze_bn: keep BatchNorm at its stored statistics
        sync_bn: BatchNorm over all ranks' images (torchrun)
        freeze_stages: so many first stages stay as they are
        recompute: make activations again in the backward pass instead of keeping them: less memory, more time
        compile: torch.compile the network

    first_weights: as settings.pretrained_model, which it stands for: None where the weights come from a checkpoint.
    adds_layer: whether the network of first_weights stays whole, and the last layer of the head is a new one behind it.
    Raises InputError for a network that cannot be, weights that do not fit it, and images too small for it.
    """
    frozen = {"freeze_bn": freeze_bn, "freeze_stages": freeze_stages}
    if adds_layer and first_weights:
        model = _with_one_more_layer(settings, first_weights, **frozen)
    else:
        model = _with_weights(settings, first_weights, is_final=False, **frozen)
    check_forward(model, settings, images=1, training=False)
    if sync_bn and distributed.world_size() > 1:
        synchronise(model)
    if recompute:
        recompute_stages(model)
    if compile:
        log("the network is compiled in the first steps, which takes minutes")
        model.compile()
    return model


def open_model(settings: ModelSettings) -> Embedder:
    """The network to be used as it is, on the CPU, in training mode.

    Raises InputError as build_model does, and where nobody has trained its embedding layer.
    """
    # Random weights are the same in every call, so that a figure of an untrained network comes out again.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(UNTRAINED_SEED)
        model = _with_weights(settings, settings.pretrained_model, is_final=True)
    if is_published(settings.pretrained_model, settings.model):
        refuse_untrained(model, list(model.state_dict()), "published weights have none")
    if not settings.pretrained_model:
        log("note: the weights are random, since there is no --pretrained_model")
    check_forward(model, settings, images=1, training=False)
    return model


def _with_weights(settings: ModelSettings, source: str | None, is_final: bool, **frozen: bool | int) -> Embedder:
    """An Embedder with the weights of `source`; says what of them was not used and what starts afresh."""
    published = source if is_published(source, settings.model) else None
    lora = settings.lora
    if source and not published:
        lora = trained_settings(source).get("lora", 0)
        if lora not in (0, settings.lora):
            raise InputError(f"lora is {settings.lora}, but {source} was trained with {lora}; leave it out")
    model = Embedder(
        settings.model,
        settings.embedding_size,
        settings.pooling,
        settings.head,
        weights=published,
        lora=lora,
        test_scales=settings.test_scales,
        **frozen,
    )
    if source and not published:
        for note in load_pretrained(model, source, is_final):
            log(f"{source}: {note}")
    # Weights that were trained without it have none, and begin with one that changes nothing.
    if settings.lora and not lora:
        model.add_low_rank(settings.lora)
    return model


def _with_one_more_layer(settings: ModelSettings, source: str, **frozen: bool | int) -> Embedder:
    """The network of `source` as it is, with the last layer of the settings' head behind it."""
    model = _with_weights(settings.of_source(), source, is_final=True, **frozen)
    add_last_layer(model, settings)
    return model


def add_last_layer(model: Embedder, settings: ModelSettings) -> None:
    """Put the last layer of the settings' head behind a network, drawn from torch's generator.

    Where that head has several layers, the others have to be those of `model`, as in a run that is made again; else it
    is an InputError.
    """
    *inner, last = settings.head.split(",")
    model.add_layer(last, settings.embedding_size or model.embedding_size)
    head = model.facts.get("head", "linear")
    if inner and head != settings.head:
        raise InputError(
            f"--head={settings.head} does not go on from {settings.pretrained_model}, behind which it would be {head}"
        )


def check_forward(model: Embedder, settings: ModelSettings, images: int, training: bool) -> None:
    """Raise InputError unless `model`, on the CPU, takes a batch of so many images; leaves it and all draws as is.

    That is of the settings' size, and where it is not trained on them at each of its scales.
    """
    mode_before = model.training
    model.train(training)
    verb = "train on" if training else "embed"
    try:
        for scale in dict.fromkeys((1.0, *model.test_scales)):
            with torch.no_grad(), torch.random.fork_rng(devices=[]), statistics_left_alone(model):
                reason = _refusal(model, settings, images, scale)
            if reason is not None:
                _, height, width = settings.image_shape
                size = ""
                if model.modality == "image":
                    scaled_height, scaled_width = model.sides_at(scale, height, width)
                    size = f" of {scaled_height}x{scaled_width} pixels"
                if scale != 1:
                    size += f", which --test_scales={scale:g} makes of {height}x{width}"
                raise InputError(f"{model.facts['model']} cannot {verb} {images} at a time{size}: {reason}")
            if training:
                return
    finally:
        model.train(mode_before)


def _refusal(model: Embedder, settings: ModelSettings, images: int, scale: float) -> str | None:
    """Why a network does not take so many images at a scale; None where it does."""
    looking = model.backbone.register_forward_hook(partial(_refuse_other_output, model))
    try:
        with model.at_scales(scale):
            # Not by a call, which would compile a network that is to be compiled.
            model.forward(example_input(settings, images))
    except (RuntimeError, ValueError, AssertionError) as error:
        return first_line(error)
    finally:
        looking.remove()
    return None


def _refuse_other_output(model: Embedder, backbone: nn.Module, _inputs: tuple, output: object) -> None:
    """Raise InputError unless a backbone gives what its row says, by output and width: a pooling takes anything."""
    name = model.facts["model"]
    width = BACKBONES[name](name).width
    form = "vector" if model.facts["pooling"] == "trained" else BACKBONES.fact(name, "output")
    asked = OUTPUTS[form].replace("width", str(width))
    sizes = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
    place = {"maps": 1, "tokens": 2, "vector": 1}[form]
    if len(sizes) != len(asked.split(",")) or sizes[place] != width:
        found = sizes or f"a {type(output).__name__}"
        raise InputError(
            f"{class_name(type(backbone))} gives {found}, but its row says width={width} and "
            f"output={form!r}, which is {asked}"
        )


def example_input(settings: ModelSettings, count: int) -> torch.Tensor:
    """So many inputs of a network, as its loader would give them: black images, texts of two equal tokens, silence."""
    if settings.modality == "text":
        return torch.zeros(count, 2, dtype=torch.int64)
    if settings.modality == "audio":
        return torch.zeros(count, max(1, round(settings.audio_input.rate * settings.clip_seconds)))
    return torch.zeros(count, *settings.image_shape, dtype=torch.uint8)
