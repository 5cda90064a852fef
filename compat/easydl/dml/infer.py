"""EasyDL's embeddings of a list of images, one after another."""

from collections.abc import Callable, Iterable

import numpy as np

from compat.easydl.image import smart_read_image


def images_to_embeddings(images: Iterable, model: Callable, image_reader: Callable = smart_read_image) -> np.ndarray:
    """What `model` makes of each image behind `image_reader`, (N, D). MetricModel.embed_images takes batches."""
    return np.array([model(image_reader(image)) for image in images])


def images_to_embeddings_one_by_one(images: Iterable, model: Callable) -> np.ndarray:
    """What `model` makes of each image, (N, D)."""
    return np.array([model(image) for image in images])
