"""EasyDL's images: PIL's, read from whatever names them, and the two transforms that its models take them by."""

import base64
import io
import time
from collections.abc import Callable

import torch
from PIL import Image
from torchvision import transforms

from core.errors import InputError
from core.text import counted
from data.image import reading
from data.image.reading import Source
from models.backbones import IMAGENET

IMAGE_NET_NORMALIZATION_MEAN = IMAGENET.mean
IMAGE_NET_NORMALIZATION_STD = IMAGENET.std

COMMON_IMAGE_PREPROCESSING_FOR_TRAINING = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.RandomCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(IMAGE_NET_NORMALIZATION_MEAN, IMAGE_NET_NORMALIZATION_STD),
    ]
)

COMMON_IMAGE_PREPROCESSING_FOR_TESTING = transforms.Compose(
    [
        transforms.ToTensor(),
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.Normalize(IMAGE_NET_NORMALIZATION_MEAN, IMAGE_NET_NORMALIZATION_STD),
    ]
)


class ImageLoadError(InputError):
    """An image that cannot be had."""


class NetworkImageError(ImageLoadError):
    """An image of the web that cannot be had."""


class FileImageError(ImageLoadError):
    """A file that is not there, or is no image."""


class Base64ImageError(ImageLoadError):
    """Text that is no base64, or no image."""


class S3ImageError(ImageLoadError):
    """An object of a store that cannot be had."""


# By how a source begins: the error, and the words that it begins with.
ERRORS = {
    "http": (NetworkImageError, "Failed to fetch image from URL"),
    "https": (NetworkImageError, "Failed to fetch image from URL"),
    "base64": (Base64ImageError, "Invalid base64 encoding"),
    "s3": (S3ImageError, "Error accessing S3 object"),
}
OF_FILES = (FileImageError, "Failed to access file")


def smart_read_image(image_str: Source, auto_retry: int = 0, exif_transpose: bool = True) -> Image.Image:
    """An RGB image of PIL from a path, http(s)://, file://, base64://, s3://, PIL's own, or an array.

    auto_retry: how often it is tried, 0 for once. exif_transpose is taken and has no effect: an image is always turned
    as its camera says, as in training. Raises an ImageLoadError of its source's kind, and InputError for what names no
    image.
    """
    for attempt in range(1, auto_retry):
        try:
            return _read(image_str)
        except ImageLoadError:
            time.sleep(0.1 * attempt)
    try:
        return _read(image_str)
    except ImageLoadError as error:
        if auto_retry <= 0:
            raise
        raise ImageLoadError(f"Failed after {counted(auto_retry, 'attempt')}. Last error: {error}") from None


def _read(source: Source) -> Image.Image:
    if not isinstance(source, str):
        return Image.fromarray(reading.smart_read_image(source))
    scheme, separator, rest = source.partition("://")
    kind, words = OF_FILES
    if separator:
        kind, words = ERRORS.get(scheme.lower(), OF_FILES)
    if kind is S3ImageError and "/" not in rest:
        raise S3ImageError(f"Invalid S3 path format: {source}; it is s3://bucket/key")
    try:
        return Image.fromarray(reading.smart_read_image(source))
    except InputError as error:
        raise kind(f"{words}: {error}") from None


def smart_read_image_v2(image_str: Source, auto_retry: int = 0) -> Image.Image:
    """As `smart_read_image`."""
    return smart_read_image(image_str, auto_retry)


def smart_read_and_crop_image_by_box(image_str: Source, box: tuple, auto_retry: int = 0) -> Image.Image:
    """The part of an image within box, (left, upper, right, lower) in pixels; without a pixel where its sides cross."""
    image = smart_read_image(image_str, auto_retry)
    left, upper, right, lower = box
    if right <= left or lower <= upper:
        width = right - left if right > left else 0
        height = lower - upper if lower > upper else 0
        return Image.new("RGB", (width, height))
    return image.crop(box)


def smart_image_to_base64(image: Source, format: str = "png") -> str:
    """Base64 text of an image as a file of that format."""
    content = io.BytesIO()
    smart_read_image(image).save(content, format=format)
    return base64.b64encode(content.getvalue()).decode()


class SmartImageReader:
    """`smart_read_image` as a transform, to stand first in a Compose."""

    def __init__(self, auto_retry: int = 0, exif_transpose: bool = True) -> None:
        self.auto_retry = auto_retry
        self.exif_transpose = exif_transpose

    def __call__(self, image_input: Source) -> Image.Image:
        return smart_read_image(image_input, self.auto_retry, self.exif_transpose)


class ImageToDlTensor:
    """`smart_read_image`, then a transform."""

    def __init__(self, image_preprocessing_function: Callable) -> None:
        self.image_preprocessing_function = image_preprocessing_function

    def __call__(self, image: Source) -> torch.Tensor:
        return self.image_preprocessing_function(smart_read_image(image))


class CommonImageToDlTensorForTraining(ImageToDlTensor):
    """Any image to a float tensor (3, 224, 224), a random crop of it."""

    def __init__(self) -> None:
        super().__init__(COMMON_IMAGE_PREPROCESSING_FOR_TRAINING)


class CommonImageToDlTensorForTesting(ImageToDlTensor):
    """Any image to a float tensor (3, 224, 224), its middle."""

    def __init__(self) -> None:
        super().__init__(COMMON_IMAGE_PREPROCESSING_FOR_TESTING)


COMMON_IMAGE_TRANSFORM_FOR_TRAINING_V2 = transforms.Compose(
    [SmartImageReader(auto_retry=3), COMMON_IMAGE_PREPROCESSING_FOR_TRAINING]
)
COMMON_IMAGE_TRANSFORM_FOR_TESTING_V2 = transforms.Compose(
    [SmartImageReader(auto_retry=3), COMMON_IMAGE_PREPROCESSING_FOR_TESTING]
)
