"""A small network for small grey images, to begin with (docs/hello_mnist.md)."""

import torch
from torch import nn

from core.errors import InputError
from models.backbones._row import BACKBONES, Backbone, ImageInput

SIDE = 28  # pixels of the images that it takes
MNIST = ImageInput(mean=(0.1307,) * 3, std=(0.3081,) * 3, size=SIDE)
STAGES = (("convnet.0", "convnet.1"), ("convnet.3", "convnet.4"), ("fc",))


@BACKBONES.register(
    "ConvBackbone",
    modality="image",
    output="vector",
    weights=(),
    width=2,
    size=28,
    parameters=380_806,
    licence="that of this repository",
    origin="none",
)
def conv_backbone(name: str) -> Backbone:
    """Two convolutions and three linear layers, from a digit to a point of the plane."""
    return Backbone(lambda weights: ConvBackbone(), 2, STAGES, MNIST)


class ConvBackbone(nn.Module):
    """Images (B, 3, 28, 28), of which the mean of the channels is looked at, to points (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.Sequential(
            nn.Conv2d(1, 32, 5),
            nn.PReLU(),
            nn.MaxPool2d(2, stride=2),
            nn.Conv2d(32, 64, 5),
            nn.PReLU(),
            nn.MaxPool2d(2, stride=2),
        )
        self.fc = nn.Sequential(
            nn.Linear(64 * 4 * 4, 256),
            nn.PReLU(),
            nn.Linear(256, 256),
            nn.PReLU(),
            nn.Linear(256, 2),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[2:]
        if (height, width) != (SIDE, SIDE):
            raise InputError(f"it takes {SIDE}x{SIDE} pixels alone, --image_shape=3,{SIDE},{SIDE}")
        grey = pixels.mean(dim=1, keepdim=True)
        return self.fc(self.convnet(grey).flatten(1))
