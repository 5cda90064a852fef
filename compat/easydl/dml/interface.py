"""What EasyDL asks of a model that makes vectors of images; those of pytorch_models.py and hf_models.py have it all."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from data.image.reading import Source


@runtime_checkable
class ImageTensorToEmbeddingTensorInterface(Protocol):
    """A model that has a transform of its own."""

    def get_embedding_dim(self) -> int:
        """The width of its embeddings."""

    def get_image_transform_function(self) -> Callable:
        """The function from an image to a tensor."""

    def embed_image(self, image: Source) -> np.ndarray:
        """The embedding (D,) of an image."""

    def embed_images(self, images: Sequence[Source]) -> np.ndarray:
        """Embeddings (N, D) of images."""
