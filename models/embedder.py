"""The network: images, or what else its backbone takes, in, embeddings out (backbone, pooling, optional layers)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import InputError, unknown
from core.text import counted
from models.backbones import BACKBONES, Wrapped, source_of, submodules_or_parameters
from models.export.exported import CARD, exported_folder, fill_from, read_exported_card
from models.heads import build_head, build_layer, head_width, longer_head
from models.low_rank import add_low_rank
from models.pooling import PaddedPooling, build_pooling

# Of what `facts` say, those that make a network.
ARGUMENTS = ("model", "embedding_size", "pooling", "head", "lora", "test_scales")


class Embedder(nn.Module):
    """Images, texts or sounds to embeddings, not normalised: losses and retrieval do that where their formulas say so.

    model: a name of BACKBONES.
    embedding_size: 0 for the pooled feature itself, else the width of the last layer behind it.
    pooling: one of POOLINGS; a backbone that gives a vector has nothing to pool, and takes "avg" only; `trained` is
    that of its weights, where these have a layer or a norm for it.
    head: the layers behind it (models/heads): without a width `linear` is none, and others are as wide as their input.
    weights: a name of pre-trained weights that the backbone has, such as imagenet; None for random ones.
    freeze_bn: keep every BatchNorm at its stored statistics, weight and bias.
    freeze_stages: so many of the backbone's first stages are left as they are.
    lora: rank of what learns beside the backbone's matrices, which stay as they are (models/low_rank.py); 0 for none.
    test_scales: in evaluation mode images are embedded at each of these shares of their sides, and the mean of the
    pooled features is what the head takes; in training mode as they are.

    `facts` says what the network is, for files that hold its weights. Raises InputError for an unknown name or more
    stages than the backbone has.
    """

    def __init__(
        self,
        model: str,
        embedding_size: int = 0,
        pooling: str = "avg",
        head: str = "linear",
        *,
        weights: str | None = None,
        freeze_bn: bool = False,
        freeze_stages: int = 0,
        lora: int = 0,
        test_scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        row = BACKBONES[model](model)
        modality = BACKBONES.fact(model, "modality")
        output = BACKBONES.fact(model, "output")
        pools = build_pooling(pooling, output, model, row.prefix_tokens, row.gem_power, row.width, modality)
        if embedding_size < 0:
            raise InputError(f"embedding_size is {embedding_size}; it is 0 (the pooled feature) or a width")
        if not 0 <= freeze_stages <= len(row.stages):
            raise InputError(f"freeze_stages is {freeze_stages}; {model} has {counted(len(row.stages), 'stage')}")
        if tuple(test_scales) != (1.0,) and modality != "image":
            raise InputError(f"test_scales are of images, and {model} takes {modality}s; leave them out")
        if weights is not None and weights not in BACKBONES.fact(model, "weights"):
            raise unknown(f"weights of {model}", weights, BACKBONES.fact(model, "weights"))

        self.facts = {"model": model, "embedding_size": embedding_size, "pooling": pooling}
        # Files from before there were others are of this one.
        if head != "linear":
            self.facts["head"] = head
        # Whose name says it all is not asked again; what a package says today it may say otherwise tomorrow.
        if source_of(model) is not None and modality == "image":
            self.facts["pixels"] = {"mean": list(row.preprocess.mean), "std": list(row.preprocess.std)}
        if tuple(test_scales) != (1.0,):
            self.facts["test_scales"] = list(test_scales)
        self.test_scales = tuple(test_scales)
        self.embedding_size = head_width(head, row.width, embedding_size)
        self.takes_features = False
        self.stages = row.stages
        self.backbone = row.build(weights)
        if isinstance(self.backbone, Wrapped):
            self.backbone.pool_as_trained(pooling == "trained")
        elif pooling == "trained":
            raise InputError(
                f"pooling is trained, but {model} has no layer of its own that pools; its own is {row.pooling}"
            )
        self.patch = patch_side(self.backbone, output)
        if lora:
            self.add_low_rank(lora)
        self.pooling = pools
        # The first layer and those behind it: a longer network has the weights of a shorter one under the same names.
        layers = build_head(head, row.width, embedding_size) or [nn.Identity()]
        self.head = layers[0]
        self.behind = nn.Sequential(*layers[1:])
        self.modality = modality
        if modality == "image":
            # For pixels of 0 to 255. Not among the weights: they belong to the backbone's name.
            self.register_buffer("mean", 255 * torch.tensor(row.preprocess.mean).view(3, 1, 1), persistent=False)
            self.register_buffer("std", 255 * torch.tensor(row.preprocess.std).view(3, 1, 1), persistent=False)
        self.front: nn.Module | None = None
        if modality == "audio" and row.preprocess.open_front is not None:
            self.front = row.preprocess.open_front()

        self.frozen = self._freeze(row.stages[:freeze_stages], freeze_bn)
        self._held: list[nn.Parameter] = []

    def _freeze(self, stages: Sequence[Sequence[str]], freeze_bn: bool) -> list[nn.Module]:
        """Leave these stages of the backbone, and with freeze_bn every BatchNorm, as they are; the modules of them."""
        frozen = [part for stage in stages for part in submodules_or_parameters(self.backbone, stage)]
        if freeze_bn:
            frozen += [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        for part in frozen:
            part.requires_grad_(False)
        return [part for part in frozen if isinstance(part, nn.Module)]

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """The network of an exported folder, of a finished run, or of the hub's model of this name, in evaluation mode.

        options: further arguments of the class. Raises InputError where there is none, or its weights do not fit it.
        """
        folder = exported_folder(source)
        card = read_exported_card(folder)
        facts = card["model"]
        options = {**cls.options_of_card(card, folder / CARD), **options}
        try:
            embedder = cls(**{name: facts[name] for name in ARGUMENTS if name in facts}, **options)
        except TypeError as error:
            raise InputError(f"{str(folder)!r} holds no network of this repository: {error}") from None
        if embedder.facts != facts:
            raise InputError(f"{str(folder)!r} holds another network, {facts}, than its name means here")
        fill_from(folder, embedder)
        return embedder.eval()

    @classmethod
    def options_of_card(cls, card: dict[str, Any], file: Path) -> dict[str, Any]:
        """Further arguments of the class that the card of an exported network, read from `file`, tells of."""
        return {}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, 3, H, W), RGB, or what else the backbone takes -> embeddings (B, embedding_size).

        inputs: of texts (B, N) int64 numbers of tokens, below 0 for padding; of sounds (B, N) float32 waves, NaN for
        padding. Behind `take_features` the last layer's
        input in their place.
        """
        if self.takes_features:
            return self.last_layer(inputs)
        return self.last_layer(self.features(inputs))

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as `forward` takes them -> what the last layer takes; without a layer that is the embedding."""
        if self.training or self.test_scales == (1.0,):
            features = self.pooled(self.prepare(inputs))
        else:
            features = self.pooled_at_scales(self.prepare(inputs))
        if len(self.behind):
            features = self.behind[:-1](self.head(features))
        return features

    def pooled(self, prepared: torch.Tensor) -> torch.Tensor:
        """Inputs as the backbone takes them -> features (B, C), which the head takes."""
        outputs = self.backbone(prepared)
        if isinstance(self.pooling, PaddedPooling):
            is_token = prepared >= 0 if self.modality == "text" else self.backbone.is_token(prepared)
            return self.pooling(outputs, is_token)
        return self.pooling(outputs)

    def pooled_at_scales(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, H, W) -> the mean (B, C) of their features at each of the `test_scales`.

        As DINO's authors do it at 1, 1/sqrt(2) and 1/2: pixels are interpolated, bilinear and without a filter, and
        features are averaged before anything is normalised.
        """
        features = []
        for scale in self.test_scales:
            sides = self.sides_at(scale, *pixels.shape[2:])
            scaled = pixels
            if sides != tuple(pixels.shape[2:]):
                scaled = functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)
            features.append(self.pooled(scaled))
        return torch.stack(features).mean(0)

    def sides_at(self, scale: float, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of images at a scale: whole patches, where the network has any."""
        if scale == 1:
            return height, width
        sides = []
        for side in (height, width):
            if self.patch == 1:
                sides.append(max(1, int(side * scale)))
            else:
                sides.append(self.patch * max(1, round(side * scale / self.patch)))
        return sides[0], sides[1]

    @contextmanager
    def at_scales(self, *scales: float) -> Iterator[None]:
        """Other scales than its own meanwhile."""
        before = self.test_scales
        self.test_scales = scales
        try:
            yield
        finally:
            self.test_scales = before

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the backbone takes them: pixels normalised, of waves what its front makes, tokens as they are."""
        if self.modality == "image":
            return (inputs.to(self.mean.dtype) - self.mean) / self.std
        if self.front is not None:
            return self.front(inputs)
        return inputs

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of the head; an identity without one."""
        return self.behind[-1] if len(self.behind) else self.head

    def add_layer(self, name: str, width: int) -> None:
        """Put one more layer of HEADS behind the embedding, drawn anew, and say so in `facts`."""
        has_layer = not isinstance(self.head, nn.Identity)
        layer = build_layer(name, self.embedding_size, width)
        head = longer_head(self.facts.get("head", "linear"), has_layer, self.embedding_size, name)
        self.facts = {**self.facts, "embedding_size": width}
        if head != "linear":
            self.facts["head"] = head
        if has_layer:
            self.behind.append(layer)
        else:
            self.head = layer
        self.embedding_size = width

    def add_low_rank(self, rank: int) -> None:
        """Freeze the backbone but for low-rank updates of its matrices, which change nothing yet; `facts` say so."""
        add_low_rank(self.backbone, rank, self.facts["model"])
        self.facts["lora"] = rank

    def take_features(self) -> None:
        """From now on `forward` takes what the last layer takes, and that layer alone learns."""
        self.requires_grad_(False)
        self.last_layer.requires_grad_(True)
        self.takes_features = True

    def hold_backbone(self) -> None:
        """Leave the backbone as it is until `release_backbone`, BatchNorm's statistics included."""
        if not self._held:
            self._held = [weight for weight in self.backbone.parameters() if weight.requires_grad]
            self.backbone.requires_grad_(False)
            self.backbone.eval()

    def release_backbone(self) -> None:
        """Let what was trained before `hold_backbone` be trained again; frozen stages stay frozen."""
        for weight in self._held:
            weight.requires_grad_(True)
        if self._held:
            self._held = []
            self.train(self.training)

    def depth_of(self, weight: str) -> int:
        """The stage, from 0, that a weight of this name is in; behind all stages for what is not the backbone's."""
        owner, _, name = weight.partition(".")
        if owner != "backbone":
            return len(self.stages)
        for depth, parts in enumerate(self.stages):
            # A part is a module, or a parameter that stands beside them.
            if any(f"{name}.".startswith(f"{part}.") for part in parts):
                return depth
        return 0

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # A frozen module stays in evaluation mode, or BatchNorm's statistics would move.
        for module in self.frozen:
            module.eval()
        if self._held:
            self.backbone.eval()
        return self


def patch_side(backbone: nn.Module, output: str) -> int:
    """The side of a transformer's patches, of which images are multiples, in pixels; 1 for what makes maps.

    output: the row's. Patches are what a first convolution makes whose kernels lie side by side.
    """
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if output == "maps" or first is None or first.kernel_size != first.stride:
        return 1
    return first.kernel_size[0]
