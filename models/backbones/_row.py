"""What a backbone is, and the table of all by name.

A file of this folder is a source of networks. It enters functions from a name to its Backbone:

    @BACKBONES.register("ResNet18", "ResNet34", modality="image", output="maps", weights=("imagenet",))
    def resnet(name: str) -> Backbone:

modality: what goes in, one of MODALITIES.
output: what comes out, one of OUTPUTS.
weights: names of pre-trained weights that `Backbone.build` takes, besides None for random ones.

Names and facts are literals, so that flags can be explained without importing torch (config/).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from core.registry import Registry

BACKBONES = Registry("model")
# What a backbone may take: uint8 pixels (B, 3, h, w) of which its own mean and deviation are taken off before; numbers
# of tokens (B, N) int64, below 0 behind a text's end; waves (B, samples) float32, one channel from -1 to 1.
MODALITIES = ("image", "text", "audio")
# Shapes that a backbone may give. An Embedder pools maps and tokens, and takes a vector as it is.
OUTPUTS = {"maps": "(B, width, h, w)", "tokens": "(B, N, width)", "vector": "(B, width)"}


@dataclass(frozen=True)
class ImageInput:
    """The RGB images that a network's weights expect: scaled to 0 … 1, less `mean`, over `std`; of `size` pixels a side
    when they were trained."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = 224


IMAGENET = ImageInput(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = ImageInput(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True)
class TextInput:
    """The texts that a network's weights expect. open_tokenizer: makes the tokenizer that they were trained with: a
    picklable function from a text to numbers of tokens, with a `fingerprint` that tells it from all others."""

    open_tokenizer: Callable[[], Callable[[str], list[int]]]


@dataclass(frozen=True)
class Backbone:
    """One network without its classifier.

    build: from a name of weights, or None for random ones, to the module. Raises InputError for weights that cannot be
    had, or a package that is not installed.
    width: channels of its output.
    stages: the names of its modules by depth, first to last (what --freeze_stages counts); every weight is in one.
    preprocess: how its weights want their input.
    """

    build: Callable[[str | None], nn.Module]
    width: int
    stages: tuple[tuple[str, ...], ...]
    preprocess: ImageInput | TextInput
