"""Images and boxes brought to another size with their ratio of sides, in the middle of black, and back again."""

import cv2
import numpy as np
import torch
from torch.nn import functional

from compat.oml._errors import RefusedType, require
from core.text import counted

SizeHW = tuple[int, int]  # height, width in pixels
ImageType = torch.Tensor | np.ndarray  # arrays (H, W) or (H, W, C), tensors (H, W), (C, H, W) or (B, C, H, W)
BboxesType = torch.Tensor | np.ndarray  # (N, 4): left, top, right, bottom


def karesize_image(image: ImageType, new_hw: SizeHW) -> ImageType:
    """An image as large as new_hw allows, in its middle."""
    source = get_image_hw(image)
    if source == tuple(new_hw):
        return image
    _, resized, (left, right, top, bottom) = get_karesize_param(source, new_hw)
    if isinstance(image, torch.Tensor):
        return functional.pad(resize_tensor(image, resized), (left, right, top, bottom))
    return np.pad(resize_ndarray(image, resized), [(top, bottom), (left, right), (0, 0)][: image.ndim])


def inverse_karesize_image(image: ImageType, src_hw: SizeHW) -> ImageType:
    """What karesize_image made of an image of src_hw, in that size again."""
    size = get_image_hw(image)
    if size == tuple(src_hw):
        return image
    _, (height, width), (left, _, top, _) = get_karesize_param(src_hw, size)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if isinstance(image, torch.Tensor):
        return resize_tensor(image[..., rows, columns], src_hw)
    return resize_ndarray(image[rows, columns], src_hw)


def karesize_bboxes(src_bboxes: BboxesType, src_hw: SizeHW, new_hw: SizeHW) -> BboxesType:
    """Boxes of an image of src_hw, where karesize_image puts them."""
    _require_boxes(src_bboxes)
    scale, _, (left, _, top, _) = get_karesize_param(src_hw, new_hw)
    return src_bboxes * scale + _alike([left, top, left, top], src_bboxes)


def inverse_karesize_bboxes(cur_bboxes: BboxesType, curr_hw: SizeHW, src_hw: SizeHW) -> BboxesType:
    """Boxes of what karesize_image made, where they are in the image of src_hw."""
    _require_boxes(cur_bboxes)
    scale, _, (left, _, top, _) = get_karesize_param(src_hw, curr_hw)
    return (cur_bboxes - _alike([left, top, left, top], cur_bboxes)) / scale


def get_image_hw(image: ImageType) -> SizeHW:
    """(height, width) of an image."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    if isinstance(image, torch.Tensor):
        return image.shape[-2], image.shape[-1]
    raise RefusedType(f"an image is an array or a tensor, not {type(image).__name__}")


def get_karesize_param(src_hw: SizeHW, new_hw: SizeHW) -> tuple[float, SizeHW, list[int]]:
    """(scale, size of the image within the new size, pixels on its left, right, top and bottom)."""
    scale = min(new_hw[0] / src_hw[0], new_hw[1] / src_hw[1])
    height, width = (int(scale * side) for side in src_hw)
    left, top = (new_hw[1] - width) // 2, (new_hw[0] - height) // 2
    return scale, (height, width), [left, new_hw[1] - width - left, top, new_hw[0] - height - top]


def resize_tensor(tensor: torch.Tensor, new_size_hw: SizeHW) -> torch.Tensor:
    """A tensor in another size, bicubic from corner to corner, within its own range of values; masks stay masks."""
    require(isinstance(tensor, torch.Tensor), f"a tensor is resized here, not {type(tensor).__name__}")
    require(2 <= tensor.ndim <= 4, f"a tensor of {counted(tensor.ndim, 'dimension')} is no image")
    images = tensor[(None,) * (4 - tensor.ndim)].float()
    least, largest = float(images.min()), float(images.max())
    resized = functional.interpolate(images, tuple(new_size_hw), mode="bicubic", align_corners=True)
    resized = resized.clamp(least, largest)[(0,) * (4 - tensor.ndim)]
    if tensor.dtype == torch.bool:
        return resized >= (largest - least) / 2
    return resized.to(tensor.dtype)


def resize_ndarray(array: np.ndarray, new_size_hw: SizeHW) -> np.ndarray:
    """An array in another size, bicubic by OpenCV."""
    require(isinstance(array, np.ndarray), f"an array is resized here, not {type(array).__name__}")
    require(2 <= array.ndim <= 3, f"an array of {counted(array.ndim, 'dimension')} is no image")
    pixels = array.astype(np.uint8) if array.dtype == bool else array
    resized = cv2.resize(pixels, tuple(new_size_hw[::-1]), interpolation=cv2.INTER_CUBIC)
    # OpenCV drops a channel that is the only one.
    return resized.astype(array.dtype).reshape(*new_size_hw, *array.shape[2:])


def _require_boxes(boxes: BboxesType) -> None:
    require(
        isinstance(boxes, (np.ndarray, torch.Tensor)), f"boxes are an array or a tensor, not {type(boxes).__name__}"
    )
    require(boxes.ndim == 2 and boxes.shape[1] == 4, f"boxes are (N, 4), not {tuple(boxes.shape)}")


def _alike(numbers: list[int], boxes: BboxesType) -> BboxesType:
    return np.array(numbers) if isinstance(boxes, np.ndarray) else torch.tensor(numbers, device=boxes.device)


__all__ = [
    "get_image_hw",
    "get_karesize_param",
    "inverse_karesize_bboxes",
    "inverse_karesize_image",
    "karesize_bboxes",
    "karesize_image",
    "resize_ndarray",
    "resize_tensor",
]
