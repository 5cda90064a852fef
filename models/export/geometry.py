"""The test geometry (data/image/transforms.py) as a network, so that an exported file takes images as they are.

Neither torch nor ONNX has OpenCV's area-averaging. So the matrix of each axis, (pixels of the crop, pixels of the
image), is made and multiplied by: crop = rows @ image @ columns^T. Matrices are made in float64; a pixel is seldom
another than OpenCV 5's then, and by one grey level. (OpenCV 4 rounds its bicubic weights to 1/2048: one pixel in thirty
of an image that grows is another there.)
"""

from collections.abc import Callable

import torch
from torch import nn

from models.export.network import Crop

CUBIC = -0.75  # OpenCV's parameter of the bicubic kernel
Kernel = Callable[[torch.Tensor], torch.Tensor]
PADDING = 255  # white, as data/image/transforms.py pads
TIE = 2**-10  # less than any grey level's fraction in the mean of four pixels


class CropGeometry(nn.Module):
    """Images (B, 3, H, W) of any one size to crops (B, 3, height, width), all uint8: resized, then the centre.

    All that depends on the images' size is computed by tensors, so that a trace follows it.
    """

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.crop = crop

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.crop.resize_mode == "crop":
            images = self._without_ends(images)
        sides = torch._shape_as_tensor(images)[2:].double()
        crop = torch.tensor([self.crop.height, self.crop.width], dtype=torch.float64)
        # What the crop is cut from: the image itself, or a box that it fits into.
        if self.crop.resize_mode == "crop":
            box = resized = torch.maximum(crop, torch.round(sides * (self.crop.short_side / sides.amin())))
        else:
            box = resized = torch.round(crop * (self.crop.short_side / crop.amax()))
        if self.crop.resize_mode == "pad":
            resized = torch.round(sides * (box / sides).amin()).clamp(min=1)
        start = torch.floor((box - crop) / 2) - torch.floor((box - resized) / 2)
        step = sides / resized
        rows = start[0] + torch.arange(self.crop.height, dtype=torch.float64)
        columns = start[1] + torch.arange(self.crop.width, dtype=torch.float64)
        if self.crop.resize_mode == "pad":
            is_padding = ((rows < 0) | (rows >= resized[0]))[:, None] | (columns < 0) | (columns >= resized[1])
            # What lies there is painted over in the end.
            rows = rows.clamp(min=0).minimum(resized[0] - 1)
            columns = columns.clamp(min=0).minimum(resized[1] - 1)
        if self.crop.resize_filter == "linear":
            row_weights = linear_weights(sides[0], step[0], rows)
            column_weights = linear_weights(sides[1], step[1], columns)
            pixels = torch.floor(row_weights.float() @ (images.float() @ column_weights.float().T) + 0.5)
        elif self.crop.resize_filter == "area":
            # OpenCV averages where both sides shrink, and takes four pixels a side where one grows.
            grows = (resized > sides).any()
            row_weights = axis_matrix(sides[0], step[0], rows, grows)
            column_weights = axis_matrix(sides[1], step[1], columns, grows)
            pixels = row_weights.float() @ (images.float() @ column_weights.float().T)
            # Of two pixels by two OpenCV rounds the half up, else to the even level.
            pixels = torch.round(pixels + TIE * (step == 2).all().float())
        else:
            # Pillow has whole levels after each axis.
            kernel = KERNELS[self.crop.resize_filter]
            row_weights = pillow_weights(kernel, sides[0], step[0], rows)
            column_weights = pillow_weights(kernel, sides[1], step[1], columns)
            pixels = torch.floor(images.float() @ column_weights.float().T + 0.5).clamp(0, 255)
            pixels = torch.floor(row_weights.float() @ pixels + 0.5)
        pixels = pixels.clamp(0, 255)
        if self.crop.resize_mode == "pad":
            pixels = pixels.masked_fill(is_padding, PADDING)
        return pixels.to(torch.uint8)

    def _without_ends(self, images: torch.Tensor) -> torch.Tensor:
        """The middle of images that are very long."""
        sides = torch._shape_as_tensor(images)[2:].double()
        most = torch.ceil(self.crop.longest * sides.amin())
        first = torch.floor((sides - most).clamp(min=0) / 2).long()
        behind = first + most.long()
        return images[:, :, first[0] : behind[0], first[1] : behind[1]]


def axis_matrix(side: torch.Tensor, step: torch.Tensor, places: torch.Tensor, grows: torch.Tensor) -> torch.Tensor:
    """The weights (n, side) that n output pixels give the pixels of one axis, float64.

    side: pixels of the axis; step: of them an output pixel; places (n,): the output pixels, of those that the whole
    axis is resized to; grows: whether a side of the image grows.
    """
    pixels = torch.arange(side, dtype=torch.float64)
    return torch.where(grows, cubic_weights(side, step, places, pixels), area_weights(step, places, pixels))


def area_weights(step: torch.Tensor, places: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The share of each pixel in what an output pixel covers, (n, side)."""
    begin = (places * step)[:, None]
    end = torch.minimum(begin + step, pixels[-1] + 1)
    covered = torch.minimum(end, pixels + 1) - torch.maximum(begin, pixels)
    return covered.clamp(min=0) / (end - begin)


def cubic_weights(side: torch.Tensor, step: torch.Tensor, places: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The bicubic kernel at the four pixels around an output pixel's centre, (n, side); beyond the border lies the
    border's own pixel."""
    centre = ((places + 0.5) * step - 0.5)[:, None]
    floor = torch.floor(centre)
    weights = torch.zeros_like(centre - pixels)
    for offset in (-1, 0, 1, 2):
        place = floor + offset
        distance = torch.abs(centre - place)
        if offset in (0, 1):
            weight = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
        else:
            weight = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weights = weights + weight * (place.clamp(min=0).minimum(side - 1) == pixels)
    return weights


def linear_weights(side: torch.Tensor, step: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The share of the two pixels around an output pixel's centre, (n, side); beyond the border lies its own pixel."""
    pixels = torch.arange(side, dtype=torch.float64)
    centre = ((places + 0.5) * step - 0.5).clamp(min=0).minimum(side - 1)[:, None]
    return (1 - (pixels - centre).abs()).clamp(min=0)


def pillow_weights(kernel: Kernel, side: torch.Tensor, step: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """A kernel of Pillow's at the pixels around an output pixel's centre, (n, side); it widens as the axis shrinks."""
    pixels = torch.arange(side, dtype=torch.float64)
    centre = ((places + 0.5) * step)[:, None]
    weights = kernel((pixels + 0.5 - centre) / step.clamp(min=1))
    return weights / weights.sum(dim=1, keepdim=True)


def triangle(distance: torch.Tensor) -> torch.Tensor:
    """The bilinear kernel."""
    return (1 - distance.abs()).clamp(min=0)


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """The bicubic kernel with Pillow's parameter, -0.5."""
    distance = distance.abs()
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


KERNELS = {"bilinear": triangle, "bicubic": cubic}
