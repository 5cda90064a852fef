"""Datasets of images under their old names."""

from compat.oml.datasets.images import ImageLabeledDataset as DatasetWithLabels
from compat.oml.datasets.images import ImageQueryGalleryLabeledDataset as DatasetQueryGallery

__all__ = ["DatasetQueryGallery", "DatasetWithLabels"]
