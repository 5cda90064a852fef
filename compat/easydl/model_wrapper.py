"""EasyDL's wrapper of a network and a transform: an image in, a vector out."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from compat.easydl.image import smart_read_image
from data.image.reading import Source


class ImageModelWrapper:
    """A network that takes a batch of tensors, and the function that makes such a tensor of an image."""

    def __init__(self, image_tensor_model: nn.Module, image_preprocessing_function: Callable) -> None:
        self.image_tensor_model = image_tensor_model
        self.image_preprocessing_function = image_preprocessing_function

    def __call__(self, image: Source) -> np.ndarray:
        """The vector (D,) of one image, by the network in evaluation mode."""
        pixels = self.image_preprocessing_function(smart_read_image(image)).unsqueeze(0)
        self.image_tensor_model.eval()
        with torch.no_grad():
            return self.image_tensor_model(pixels).squeeze(0).cpu().numpy()
