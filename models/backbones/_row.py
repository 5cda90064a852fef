"""What a backbone is, and the table of all by name.

A file of this folder is a source of networks. It enters a function from a name to its Backbone, under names of its own,
as a table of them, or for all names behind a prefix, of which a package knows more than would be listed here:

    @BACKBONES.register("ResNet18", "ResNet34", modality="image", output="maps", weights=("imagenet",))
    @BACKBONES.register_table(ROWS, modality="image", output="tokens")
    @BACKBONES.register_source("timm:")
    def resnet(name: str) -> Backbone:

modality: what goes in, one of MODALITIES.
output: what comes out, one of OUTPUTS.
weights: names of pre-trained weights that `Backbone.build` takes, besides None for random ones.
follows: whether size, filter and pooling of images are those of the weights, where they are left open; of a source they
are.
width, size, parameters, licence, origin: for `--list_models`: channels of the output, pixels a side that the weights
were trained with, weights of the network without its classifier, and whose the weights are and where from.

Names, tables and facts are literals, so that flags can be explained without importing torch (config/). What a source
does not say of all its names is a field of the Backbone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from core.errors import InputError, near_match, unknown
from core.registry import Entry, Registry
from core.sources import elsewhere

# What a backbone may take: uint8 pixels (B, 3, h, w) of which its own mean and deviation are taken off before; numbers
# of tokens (B, N) int64, below 0 behind a text's end; waves (B, N) float32, or what a front makes of them, NaN behind a
# clip's end.
MODALITIES = ("image", "text", "audio")
# Shapes that a backbone may give. An Embedder pools maps and tokens, and takes a vector as it is.
OUTPUTS = {"maps": "(B, width, h, w)", "tokens": "(B, N, width)", "vector": "(B, width)"}
# Facts that the rest of the code goes by, with what each may be.
FACTS = {"modality": MODALITIES, "output": tuple(OUTPUTS)}
# The name of weights that every row of a source understands: those that are published under its name.
PUBLISHED = "published"


class Backbones(Registry):
    """A Registry in which a source, such as `timm:`, stands for all names behind it."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.sources: dict[str, Entry] = {}

    def register(self, *names: str, **facts: object) -> Callable:
        """As Registry.register. Raises InputError for a modality or an output that there is not."""
        for fact, allowed in FACTS.items():
            if facts.get(fact) not in allowed:
                raise unknown(f"{fact} of the {self.kind} {', '.join(names)}:", facts.get(fact), allowed)
        return super().register(*names, **facts)

    def register_source(self, prefix: str, **facts: object) -> Callable:
        """Decorate a function that makes the row of any name behind `prefix`, which ends with a colon.

        Raises InputError as `register`, but for facts that are left to the rows.
        """
        for fact, allowed in FACTS.items():
            if fact in facts and facts[fact] not in allowed:
                raise unknown(f"{fact} of the {self.kind}s {prefix}NAME:", facts[fact], allowed)

        def enter(registered):
            self.sources[prefix] = Entry(registered, facts)
            return registered

        return enter

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or source_of(name) in self.sources

    def fact(self, name: str, key: str, default: Any = None) -> Any:
        """As Registry.fact; what a source does not say of all its names is asked of the row."""
        facts = self._entry(name).facts
        if key in facts or source_of(name) is None:
            return facts.get(key, default)
        return getattr(self[name](name), key, default)

    def _entry(self, name: str) -> Entry:
        if name in self._entries:
            return self._entries[name]
        source = source_of(name)
        if source in self.sources:
            return self.sources[source]
        forgotten = self._never_imported(name)
        if forgotten is not None:
            raise InputError(f"the {self.kind} {name!r} of {forgotten}.py: nothing imports that file")
        everything = [*self.names(), *(f"{prefix}NAME" for prefix in self.sources)]
        text = f"unknown {self.kind} {name!r}; there are: {', '.join(everything)}."
        if source is not None:
            raise InputError(text + near_match(source, self.sources))
        raise InputError(text + near_match(name, self.names()) + elsewhere(name, "models/backbones"))


def source_of(name: object) -> str | None:
    """The prefix of a name, `timm:` of `timm:vit_base_patch16_224`; None without one."""
    prefix, colon, rest = str(name).partition(":")
    if not colon or not rest:
        return None
    return prefix + colon


BACKBONES = Backbones("model")


@dataclass(frozen=True)
class ImageInput:
    """The RGB images that a network's weights expect: scaled to 0 … 1, less `mean`, over `std`; of `size` pixels a side
    when they were trained.

    short_side: to which images come before the crop of `size`, in pixels; 0: the size. resize_filter, resize_mode: how,
    as the flags of these names have it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = 224
    short_side: int = 0
    resize_filter: str = "area"
    resize_mode: str = "crop"


IMAGENET = ImageInput(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = ImageInput(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLIP = ImageInput(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), resize_filter="bicubic"
)


@dataclass(frozen=True)
class TextInput:
    """The texts that a network's weights expect. open_tokenizer: makes the tokenizer that they were trained with: a
    picklable function from a text to numbers of tokens, with a `fingerprint` that tells it from all others."""

    open_tokenizer: Callable[[], Callable[[str], list[int]]]


@dataclass(frozen=True)
class AudioInput:
    """The sounds that a network's weights expect: waves of one channel, `rate` samples a second, of `seconds` at most.

    open_front: makes the module between waves and the network, such as mel spectrograms; None: it takes the waves.
    fills: whether all clips are padded to `--clip_seconds`, since the network becomes another by how long its input is.
    facts: plain JSON on all else that decides what it makes of a clip.
    """

    rate: int = 16_000
    seconds: float = 3.0
    open_front: Callable[[], nn.Module] | None = None
    fills: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Backbone:
    """One network without its classifier.

    build: from a name of weights, or None for random ones, to the module. Raises InputError for weights that cannot be
    had, or a package that is not installed.
    width: channels of its output.
    stages: the names of its modules, or of parameters beside them, by depth, first to last (what --freeze_stages
    counts); every weight is in one.
    preprocess: how its weights want their input.
    modality, output, weights: as at the registration, where a source does not say them of all its names.
    prefix_tokens: of tokens, so many first ones are no patches of the image: the class token and registers.
    pooling: the one that its weights were trained with.
    gem_power: where the exponent of the pooling `gem` starts.
    texts: of one for images, the name of the network for texts whose embeddings lie in the same space.
    """

    build: Callable[[str | None], nn.Module]
    width: int
    stages: tuple[tuple[str, ...], ...]
    preprocess: ImageInput | TextInput | AudioInput
    modality: str = "image"
    output: str | None = None
    weights: tuple[str, ...] = field(default=())
    prefix_tokens: int = 0
    pooling: str = "avg"
    gem_power: float = 3.0
    texts: str | None = None


class Wrapped(nn.Module):
    """A network of a package whose own `forward` ends in a classifier, and what of it is a backbone.

    In files its weights have their own names, without the `net.` before them. A network that pools by a module of its
    own, with weights or a norm in it, is asked by `pool_as_trained` to do so: then it gives a vector.
    """

    inner = "net."

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def pool_as_trained(self, pools: bool) -> None:
        """Whether to pool, once and before anything is computed; InputError where the network has no own pooling."""
        if pools:
            raise InputError("this network has no pooling of its own; choose another than trained")

    def convert(self, state: dict) -> dict:
        """Tensors of a file, {name: tensor}, under the names of the network, where its package knows older ones."""
        return state


def submodules_or_parameters(net: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module | nn.Parameter]:
    """What the names of a stage stand for in the network that a Backbone has built."""
    for name in names:
        parent, _, last = name.rpartition(".")
        yield getattr(net.get_submodule(parent), last)
