"""EasyDL's models: torchvision's networks with an embedding layer, whose embeddings have length 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from compat.easydl.image import COMMON_IMAGE_PREPROCESSING_FOR_TESTING, smart_read_image
from compat.easydl.model_wrapper import ImageModelWrapper
from core.errors import InputError, unknown
from data.image.reading import Source
from embeddings.image_embedder import ImageEmbedder
from models import BACKBONES

# The weights that networks of torchvision have here; it calls them IMAGENET1K_V1, but for ViT-H-14.
IMAGENET = "imagenet"
FAMILIES = ("ResNet", "ViT-", "EfficientNetB")
OTHER_NAMES = {"ViT-H-14": "IMAGENET1K_SWAG_LINEAR_V1"}
# EasyDL's names of weights in files, by how they begin, and ours.
RENAMED = (
    ("backbone.heads.head.", "head."),
    ("backbone.classifier.", "head."),
    ("embedding.", "head."),
)


class MetricModel(ImageEmbedder):
    """A network of the house as EasyDL has it: embeddings of length 1, of uint8 images or of normalised float ones.

    network: a name of BACKBONES. embedding_dim: width of the embedding; None for the pooled feature itself. weights:
    IMAGENET1K_V1 or imagenet (the same), None for random ones. pooling: one of POOLINGS, None for that of the weights.
    `embed_image`, `embed_images` and `get_features` are ImageEmbedder's.
    """

    def __init__(
        self,
        network: str,
        embedding_dim: int | None = 128,
        weights: str | None = IMAGENET,
        pooling: str | None = None,
    ) -> None:
        row = BACKBONES[network](network)
        wanted = row.preprocess
        short_side, resize_filter = wanted.short_side, wanted.resize_filter
        if network.startswith("ResNet"):
            # As torchvision's weights were tested, and as the transform for testing has it.
            short_side, resize_filter = 256, "bilinear"
        super().__init__(
            network,
            embedding_dim or 0,
            pooling or row.pooling,
            weights=_weights(network, weights),
            image_shape=(3, wanted.size, wanted.size),
            resize_short_size=short_side,
            resize_filter=resize_filter,
            resize_mode=wanted.resize_mode,
        )
        self.register_load_state_dict_pre_hook(_take_other_names)

    @property
    def embedding(self) -> nn.Module:
        """The embedding layer."""
        return self.head

    @property
    def image_transform(self) -> Callable[[Source], torch.Tensor]:
        """The function from an image to what `forward` takes of it: a normalised float tensor (3, height, width)."""
        return self.to_tensor

    def get_image_transform_function(self) -> Callable[[Source], torch.Tensor]:
        """`image_transform`."""
        return self.image_transform

    def get_embedding_dim(self) -> int:
        """The width of the embedding."""
        return self.embedding_size

    def to_tensor(self, image: Source) -> torch.Tensor:
        """An image in the geometry of the network's weights, normalised."""
        pixels = self.transform(np.asarray(smart_read_image(image))).permute(2, 0, 1)
        return self.prepare(pixels.to(self.mean.device)).cpu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w), normalised float ones or uint8, to embeddings (B, D) of length 1.

        Raises InputError for a tensor of another form.
        """
        if x.ndim != 4:
            raise InputError(
                f"images have shape {tuple(x.shape)}; a batch is (B, 3, h, w), of one image x.unsqueeze(0)"
            )
        return F.normalize(super().forward(x))

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float images are normalised by whoever made them."""
        if inputs.is_floating_point():
            return inputs
        return super().prepare(inputs)

    def get_features(self, x: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """As ImageEmbedder; `post_pooling` is (B, C, 1, 1) where `pre_pooling` are maps, as torchvision pools them."""
        features = super().get_features(x)
        if features["pre_pooling"].ndim == 4:
            features["post_pooling"] = features["post_pooling"][:, :, None, None]
        return features

    def get_features_from_image(self, image: Source) -> dict[str, torch.Tensor]:
        """`get_features` of one image, by the transform for testing."""
        return self.get_features(COMMON_IMAGE_PREPROCESSING_FOR_TESTING(smart_read_image(image)).unsqueeze(0))

    def load_weights(self, path: str | Path) -> None:
        """Those of a file that torch.save has made of a state_dict, EasyDL's too."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    @classmethod
    def create_image2vector_wrapper(
        cls, *words: Any, model_param_path: str | Path | None = None, **options: Any
    ) -> ImageModelWrapper:
        """A model of these arguments that takes images and gives vectors."""
        model = cls(*words, **options)
        if model_param_path is not None:
            model.load_weights(model_param_path)
        return ImageModelWrapper(model, model.image_transform)


class Resnet18MetricModel(MetricModel):
    """ResNet18: `Resnet18MetricModel(embedding_dim=128)`."""

    def __init__(
        self, embedding_dim: int, model_param_path: str | Path | None = None, *, weights: str | None = IMAGENET
    ) -> None:
        super().__init__("ResNet18", embedding_dim, weights)
        if model_param_path is not None:
            self.load_weights(model_param_path)


class Resnet50MetricModel(MetricModel):
    """ResNet50: `Resnet50MetricModel(embedding_dim=128)`."""

    def __init__(
        self, embedding_dim: int, weights_suffix: str | None = IMAGENET, *, weights: str | None = IMAGENET
    ) -> None:
        super().__init__("ResNet50", embedding_dim, _first_given(weights, weights_suffix))


class EfficientNetMetricModel(MetricModel):
    """EfficientNet: `EfficientNetMetricModel(embedding_dim=128, efficient_model_name="efficientnet_b0")`, b0 to b7.

    model_name and weights_suffix are other words for efficient_model_name and weights.
    """

    def __init__(
        self,
        model_name: str = "efficientnet_b4",
        embedding_dim: int | None = 128,
        weights_suffix: str | None = IMAGENET,
        *,
        efficient_model_name: str | None = None,
        weights: str | None = IMAGENET,
    ) -> None:
        network = self.try_get_valid_model_name(efficient_model_name or model_name)
        super().__init__(network, embedding_dim, _first_given(weights, weights_suffix))
        self.model_name = network

    @staticmethod
    def try_get_valid_model_name(model_name: str) -> str:
        """The name of BACKBONES that is meant, whatever its case. Raises InputError where none is."""
        return network_name(model_name, ("EfficientNetB",))


class VitMetricModel(MetricModel):
    """A vision transformer: `VitMetricModel(embedding_dim=128, vit_model_name="vit_b_16", weights="IMAGENET1K_V1")`.

    vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14. model_name and weights_suffix are other words for
    vit_model_name and weights.
    """

    def __init__(
        self,
        model_name: str = "vit_b_16",
        embedding_dim: int | None = 128,
        weights_suffix: str | None = IMAGENET,
        *,
        vit_model_name: str | None = None,
        weights: str | None = IMAGENET,
    ) -> None:
        network = self.try_get_valid_model_name(vit_model_name or model_name)
        super().__init__(network, embedding_dim, _first_given(weights, weights_suffix))
        self.model_name = network

    @staticmethod
    def try_get_valid_model_name(model_name: str) -> str:
        """The name of BACKBONES that is meant, whatever its case. Raises InputError where none is."""
        return network_name(model_name, ("ViT-",))


class DMLModelManager:
    """Models by name, whatever its case: `DMLModelManager.get_model("vit_b_16", embedding_dim=128)`."""

    @staticmethod
    def get_model(model_name: str, embedding_dim: int = 128, weights: str | None = IMAGENET) -> MetricModel:
        """One of resnet18 to resnet152, vit_b_16 to vit_h_14, efficientnet_b0 to efficientnet_b7.

        weights: imagenet, or None for random ones. Raises InputError for another name.
        """
        network = network_name(model_name)
        if network == "ResNet18":
            return Resnet18MetricModel(embedding_dim, weights=weights)
        if network == "ResNet50":
            return Resnet50MetricModel(embedding_dim, weights=weights)
        if network.startswith("ViT-"):
            return VitMetricModel(network, embedding_dim, weights=weights)
        if network.startswith("EfficientNetB"):
            return EfficientNetMetricModel(network, embedding_dim, weights=weights)
        return MetricModel(network, embedding_dim, weights)


def network_name(name: str, families: tuple[str, ...] = FAMILIES) -> str:
    """The name of BACKBONES for one of EasyDL's: `vit_b_16` is ViT-B-16. Raises InputError for one of no family."""
    names = {_plain(network): network for network in BACKBONES.names() if network.startswith(families)}
    if _plain(name) not in names:
        raise unknown("model", name, [_spelling(network) for network in names.values()])
    return names[_plain(name)]


def create_resnet18_image2vector_wrapper(
    embedding_dim: int, model_param_path: str | Path | None = None
) -> ImageModelWrapper:
    """ResNet18 behind the transform for testing, as a function from an image to a vector."""
    return ImageModelWrapper(
        Resnet18MetricModel(embedding_dim, model_param_path), COMMON_IMAGE_PREPROCESSING_FOR_TESTING
    )


def create_efficientnet_image2vector_wrapper(
    model_name: str,
    embedding_dim: int,
    model_param_path: str | Path | None = None,
    weights_suffix: str | None = IMAGENET,
) -> ImageModelWrapper:
    """An EfficientNet as a function from an image to a vector."""
    model = EfficientNetMetricModel(model_name, embedding_dim, weights_suffix)
    if model_param_path is not None:
        model.load_weights(model_param_path)
    return ImageModelWrapper(model, model.image_transform)


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return name.lower().replace("_", "").replace("-", "")


def _spelling(network: str) -> str:
    """EasyDL's spelling of a name of BACKBONES: vit_b_16, efficientnet_b0, resnet18."""
    return network.replace("EfficientNetB", "efficientnet_b").replace("-", "_").lower()


def _first_given(weights: str | None, weights_suffix: str | None) -> str | None:
    """Of two words for the same the one that is not as it is by default."""
    if weights != IMAGENET:
        return weights
    return weights_suffix


def _weights(network: str, name: str | None) -> str | None:
    """The house's word for the weights of that name. Raises InputError for weights that it does not have."""
    if name is None or name in BACKBONES.fact(network, "weights"):
        return name
    published = OTHER_NAMES.get(network, "IMAGENET1K_V1")
    if name == published:
        return IMAGENET
    raise InputError(
        f"weights is {name!r}; {network} has {published} (or {IMAGENET}, the same), and None for random ones"
    )


def _take_other_names(module: MetricModel, state: dict[str, torch.Tensor], prefix: str, *further: object) -> None:
    """Give tensors of a file of EasyDL, or of several processes, the names that they have here."""
    inner = "net." if hasattr(module.backbone, "inner") else ""
    own = module.state_dict().keys()
    for name in list(state):
        new = name.removeprefix("module.")
        for theirs, ours in RENAMED:
            if new.startswith(theirs):
                new = ours + new.removeprefix(theirs)
        if new not in own and new.startswith("backbone."):
            new = f"backbone.{inner}{new.removeprefix('backbone.')}"
        if new != name:
            state[new] = state.pop(name)
