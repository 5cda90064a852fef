"""An image file's bytes to pixels: whole and exact, or of a JPEG no more than a crop needs.

A training crop is drawn from an image's sides alone, which a JPEG's header says. So a JPEG is opened without being
decoded (EncodedJpeg), the transform draws a crop by its sides (transforms.py), and `resized_crop` decodes the crop: at
the smallest scale that keeps its pixels, and no row below it.
"""

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from core.errors import InputError
from core.text import counted
from data.image.header import FORMATS, MAX_PIXELS, JpegHeader, image_size, read_jpeg_header
from data.image.resize import resize, resize_fast

OLDEST_OPENCV = (4, 13)
DECODERS = ("auto", "exact", "opencv", "simplejpeg")
# OpenCV's flags that decode a JPEG at 1/1, 1/2, 1/4 or 1/8 of its sides, to RGB: there is none of that name for the
# smaller ones, but the bits add up.
SCALE_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# A JPEG is decoded at 1/scale where both sides of a crop shrink at least so much: {scale: least shrink}.
SCALES = {8: 8, 4: 4, 2: 1.6}


class Crop(NamedTuple):
    """A rectangle of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def choose_decoder(name: str, cache_kind: str = "encoded") -> str:
    """`auto` becomes simplejpeg where that is installed, else opencv; exact where decoded images are kept.

    Raises InputError for simplejpeg where it is not installed, and for a decoder that makes nothing to be kept.
    """
    if cache_kind == "decoded":
        if name not in ("auto", "exact"):
            raise InputError(
                f"--cache_kind=decoded keeps whole images, but --decode={name} makes crops; it has to be exact"
            )
        return "exact"
    is_installed = importlib.util.find_spec("simplejpeg") is not None
    if name == "auto":
        return "simplejpeg" if is_installed else "opencv"
    if name == "simplejpeg" and not is_installed:
        raise InputError("--decode=simplejpeg needs the package simplejpeg: pip install -r requirements/speed.txt")
    return name


def check_opencv() -> None:
    """Raise InputError where the OpenCV that is installed reads images wrongly, and silence its own warnings.

    The warnings come beside our sentences on the same files. Before 4.13 it takes WebPs as they lie, whatever their
    Exif data say, and makes float TIFFs white; before 4.11 it fills up what is missing of a JPEG in grey.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", cv2.__version__)[:2])
    if version < OLDEST_OPENCV:
        needed = ".".join(map(str, OLDEST_OPENCV))
        raise InputError(
            f"OpenCV {cv2.__version__} reads some images wrongly without a word; {needed} or newer is needed: "
            f"pip install 'opencv-python-headless>={needed}'"
        )
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def open_image(
    decoder: str, encoded: np.ndarray, path: str | Path, box: np.ndarray | None = None
) -> "np.ndarray | EncodedJpeg":
    """An image of which a crop is wanted: a JPEG that is still encoded; or its pixels, by the exact route.

    decoder: exact, opencv or simplejpeg; the rest as for `decode_whole`.
    """
    header = None
    if decoder != "exact":
        header = read_jpeg_header(encoded)
    if header is None:
        return decode_whole(encoded, path, box)
    _refuse_bombs((header.height, header.width), encoded, path)
    return EncodedJpeg(decoder, encoded, header, path, box)


def decode_whole(encoded: np.ndarray, path: str | Path, box: np.ndarray | None = None) -> np.ndarray:
    """An image file's bytes as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` if given.

    encoded: (N,) uint8. box: (4,) left, top, right, bottom in pixels, NaN for none. 16 bits become 8, grey three equal
    channels, CMYK RGB; alpha is dropped (of a TIFF: laid on black); of several pictures the first is taken. Raises
    InputError, naming `path`, for what is no image, for more than MAX_PIXELS and for a box outside of it.
    """
    _refuse_bombs(image_size(encoded), encoded, path)
    image = _decode_opencv(encoded, path)
    return np.ascontiguousarray(crop_to_box(image, path, box))


def resized_crop(image: "np.ndarray | EncodedJpeg", crop: Crop, width: int, height: int) -> np.ndarray:
    """The crop of an opened image at another size: (height, width, 3) uint8 RGB.

    Of a JPEG that is still encoded, it is decoded now.
    """
    if isinstance(image, EncodedJpeg):
        return image.resized_crop(crop, width, height)
    left, top = crop.left, crop.top
    return resize(image[top : top + crop.height, left : left + crop.width], width, height)


class EncodedJpeg:
    """A JPEG of which nothing is decoded yet; `shape` (H, W, 3), turned and within its box, is its header's."""

    def __init__(
        self,
        decoder: str,
        encoded: np.ndarray,
        header: JpegHeader,
        path: str | Path,
        box: np.ndarray | None = None,
    ):
        self.decoder = decoder
        self.encoded = encoded
        self.header = header
        self.path = path
        self.left, self.top, right, bottom = _clip_box(box, *header.turned, path)
        self.shape = (bottom - self.top, right - self.left, 3)

    def resized_crop(self, crop: Crop, width: int, height: int) -> np.ndarray:
        """As the function of that name.

        Decoded at 1/2, 1/4 or 1/8 by SCALES; the crop's edges are then rounded to pixels of what is decoded.
        """
        scale = scale_of_crop(crop, width, height)
        left = self.left + crop.left
        top = self.top + crop.top
        image = self.decode(scale, top + crop.height)
        image = image[_scaled_slice(top, crop.height, scale), _scaled_slice(left, crop.width, scale)]
        return resize_fast(image, width, height)

    def decode(self, scale: int, rows: int) -> np.ndarray:
        """Its first `rows` rows, or more, at 1/`scale` of the sides, rounded up: (H, W, 3) uint8 RGB, turned.

        Raises InputError for what cannot be decoded, and where the header told of other sides.
        """
        image = None
        if self.decoder == "simplejpeg" and self.header.orientation == 1 and self.header.components in (1, 3):
            image = self._decode_simplejpeg(scale, rows)
        if image is not None:
            return image
        image = _decode_opencv(self.encoded, self.path, scale)
        height, width = self.header.turned
        if image.shape[:2] != (-(-height // scale), -(-width // scale)):
            raise InputError(f"{str(self.path)!r} is {image.shape[1]}x{image.shape[0]} at 1/{scale}, unlike its header")
        return image

    def _decode_simplejpeg(self, scale: int, rows: int) -> np.ndarray | None:
        """By libjpeg-turbo; None for what only OpenCV may know to read.

        It is made to believe that the picture ends below `rows`, and does not decode the rest. (OpenCV would, and print
        a warning for each.) Colours are upsampled the fast way, by which no row has a say in the one above. The fast
        DCT would be 1 to 5 % faster and a grey level darker than evaluation's.
        """
        import simplejpeg

        encoded = self.encoded
        height, width, height_at = self.header.height, self.header.width, self.header.height_at
        is_cut = height_at is not None and rows < height
        if is_cut:
            height = rows
            encoded = encoded.copy()
            encoded[height_at : height_at + 2] = divmod(height, 256)
        scaled_height = -(-height // scale)
        scaled_width = -(-width // scale)
        try:
            image = simplejpeg.decode_jpeg(
                encoded,
                "RGB",
                fastupsample=True,
                strict=not is_cut,  # what follows the last row is a mistake otherwise
                min_height=scaled_height,
                min_width=scaled_width,
            )
        except ValueError:
            return None
        if image.shape[:2] != (scaled_height, scaled_width):
            return None
        return image


def crop_to_box(image: np.ndarray, path: str | Path, box: np.ndarray | None) -> np.ndarray:
    """What of (H, W, 3) lies in `box`, a view; see `decode_whole`."""
    left, top, right, bottom = _clip_box(box, *image.shape[:2], path)
    return image[top:bottom, left:right]


def box_overhang(box: np.ndarray | None, height: int, width: int) -> float:
    """Pixels by which a box, (4,) or None, reaches out of an image, at the edge where it does so the farthest."""
    if box is None or np.isnan(box).any():
        return 0.0
    left, top, right, bottom = box
    return float(max(0, -left, -top, right - width, bottom - height))


def _clip_box(box: np.ndarray | None, height: int, width: int, path: str | Path) -> tuple[int, int, int, int]:
    """`box` as integers within an image: left, top, right, bottom."""
    if box is None or np.isnan(box).any():
        return 0, 0, width, height
    left = int(min(max(0, box[0]), width))
    top = int(min(max(0, box[1]), height))
    right = int(min(max(0, box[2]), width))
    bottom = int(min(max(0, box[3]), height))
    if left >= right or top >= bottom:
        raise InputError(f"box {box.tolist()} lies outside of image {str(path)!r}")
    return left, top, right, bottom


def _refuse_bombs(size: tuple[int, int] | None, encoded: np.ndarray, path: str | Path) -> None:
    """Raise InputError where the header, of (height, width) or None, is none or promises more than MAX_PIXELS."""
    if size is None:
        raise _no_image(encoded, path)
    height, width = size
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{str(path)!r} has {width}x{height} pixels by its header; no more than {MAX_PIXELS:,} are decoded"
        )


def _no_image(encoded: np.ndarray, path: str | Path) -> InputError:
    return InputError(
        f"{str(path)!r} is not an image that OpenCV can decode ({counted(encoded.size, 'byte')}); it has to be a "
        f"whole {FORMATS} of 8 or 16 bits a channel"
    )


def _decode_opencv(encoded: np.ndarray, path: str | Path, scale: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned; at scales other than 1 of JPEGs only."""
    try:
        image = cv2.imdecode(encoded, SCALE_FLAGS[scale])
    except cv2.error:  # a header that lies
        image = None
    if image is None:
        raise _no_image(encoded, path)
    return image


def scale_of_crop(crop: Crop, width: int, height: int) -> int:
    """1, 2, 4 or 8: the largest scale at which a crop that is brought to these sides keeps its pixels."""
    shrink = min(crop.width / width, crop.height / height)
    for scale, least_shrink in SCALES.items():
        if shrink >= least_shrink:
            return scale
    return 1


def _scaled_slice(start: int, length: int, scale: int) -> slice:
    """Rows or columns of a whole image as a slice of it at 1/`scale`, not empty."""
    first = (start + scale // 2) // scale
    stop = (start + length + scale // 2) // scale
    return slice(first, max(first + 1, stop))
