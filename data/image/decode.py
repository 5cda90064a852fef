"""Image files to pixels: whole and exact, or of a JPEG what a crop needs, decoded at the smallest scale that does."""

import importlib.util
import re

import cv2
import numpy as np

from core.errors import InputError
from data.image.header import FORMATS, MAX_PIXELS, image_size, read_header

OLDEST_OPENCV = (4, 13)
DECODERS = ("auto", "exact", "opencv", "simplejpeg")
FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2}
FLAGS |= {4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
SCALES = {8: 8, 4: 4, 2: 1.6}  # a JPEG is decoded at 1/scale where both sides of a crop shrink at least so much
MARGIN = 32  # rows below a crop that may have a say in its last ones, by how colours are upsampled


def choose_decoder(name, cache_kind="encoded"):
    """`auto` becomes simplejpeg where that is installed, else opencv; exact where decoded images are kept.

    Raises InputError for simplejpeg where it is not installed, and for a decoder that makes nothing to be kept.
    """
    if cache_kind == "decoded":
        if name not in ("auto", "exact"):
            text = f"--cache_kind=decoded keeps whole images, but --decode={name} makes crops"
            raise InputError(f"{text}; it has to be exact")
        return "exact"
    installed = importlib.util.find_spec("simplejpeg") is not None
    if name == "simplejpeg" and not installed:
        raise InputError("--decode=simplejpeg needs the package simplejpeg: pip install -r requirements-speed.txt")
    return ("simplejpeg" if installed else "opencv") if name == "auto" else name


def decode_whole(encoded, path, box=None):
    """An image file's bytes as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` if given.

    encoded: (N,) uint8. box: (4,) left, top, right, bottom in pixels, NaN for none. 16 bits become 8, grey three equal
    channels, CMYK RGB; alpha is dropped (of a TIFF: laid on black); of several pictures the first is taken. Raises
    InputError, naming `path`, for what is no image, for more than MAX_PIXELS and for a box outside of it.
    """
    _refuse_bombs(image_size(encoded), encoded, path)
    return cv2.cvtColor(cut(_opencv(encoded, path), path, box), cv2.COLOR_BGR2RGB)


def check_opencv():
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


def box_overhang(box, height, width):
    """Pixels by which a box, (4,) or None, reaches out of a picture, at the edge where it does so the farthest."""
    if box is None or np.isnan(box).any():
        return 0.0
    left, top, right, bottom = box
    return float(max(0, -left, -top, right - width, bottom - height))


def cut(image, path, box=None):
    """The part of (H, W, 3) that lies in `box`, a view; see `decode_whole`."""
    left, top, right, bottom = _inside(box, *image.shape[:2], path)
    return image[top:bottom, left:right]


def _refuse_bombs(size, encoded, path):
    """Raise InputError where the header, of (height, width) or None, is none or promises more than MAX_PIXELS."""
    if size is None:
        raise _no_image(encoded, path)
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"{str(path)!r} has {size[1]}x{size[0]} pixels by its header; no more than {MAX_PIXELS:,} are decoded"
        )


def _no_image(encoded, path):
    return InputError(
        f"{str(path)!r} is not an image that OpenCV can decode ({encoded.size} bytes); it has to be a whole {FORMATS} "
        "of 8 or 16 bits a channel"
    )


def _opencv(encoded, path, scale=1):
    """BGR, turned; JPEGs only at scales other than 1."""
    try:
        image = cv2.imdecode(encoded, FLAGS[scale])
    except cv2.error:  # a header that lies
        image = None
    if image is None:
        raise _no_image(encoded, path)
    return image


def _inside(box, height, width, path):
    """`box` as integers within a picture: left, top, right, bottom."""
    if box is None or np.isnan(box).any():
        return 0, 0, width, height
    left, top, right, bottom = (int(min(max(0, side), end)) for side, end in zip(box, (width, height) * 2))
    if left >= right or top >= bottom:
        raise InputError(f"box {box.tolist()} lies outside of image {str(path)!r}")
    return left, top, right, bottom


def resize(image, width, height):
    """Resize (H, W, 3) uint8: area-averaged when it shrinks, so that nothing aliases, else bicubic."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_fast(image, width, height):
    """As `resize`, but bilinear unless a side shrinks to a third or less or grows by more than a quarter.

    It takes 0.8 ms less and stays within 33 dB.
    """
    if all(0.8 <= ratio < 3 for ratio in (image.shape[0] / height, image.shape[1] / width)):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resize(image, width, height)


def open_image(decode, encoded, path, box=None):
    """An image of which a crop is wanted: a Jpeg, still encoded; or its pixels, by the exact route.

    decode: exact, opencv or simplejpeg; the rest as for `decode_whole`.
    """
    header = None if decode == "exact" else read_header(encoded)
    if header is None:
        return decode_whole(encoded, path, box)
    _refuse_bombs(header[:2], encoded, path)
    return Jpeg(decode, encoded, header, path, box)


class Jpeg:
    """A JPEG of which nothing is decoded yet; `shape` (H, W, 3), turned and within its box, is its header's."""

    def __init__(self, decode, encoded, header, path, box=None):
        self.decode, self.encoded, self.header, self.path = decode, encoded, header, path
        self.left, self.top, right, bottom = _inside(box, *header.turned, path)
        self.shape = (bottom - self.top, right - self.left, 3)

    def resized(self, left, top, width, height, to_width, to_height):
        """The crop of `width` x `height` pixels at (left, top), resized: (to_height, to_width, 3) uint8 RGB.

        Decoded at 1/2, 1/4 or 1/8 by SCALES; its edges are then rounded to pixels of what is decoded.
        """
        shrink = min(width / to_width, height / to_height)
        scale = next((scale for scale, least in SCALES.items() if shrink >= least), 1)
        left, top = self.left + left, self.top + top
        crop = self.scaled(scale, top + height)[_reduced(top, height, scale), _reduced(left, width, scale)]
        return cv2.cvtColor(resize_fast(crop, to_width, to_height), cv2.COLOR_BGR2RGB)

    def scaled(self, scale, rows):
        """Its first `rows` rows, or more, at 1/`scale` of the sides, rounded up: (H, W, 3) uint8 BGR, turned."""
        image = None
        if self.decode == "simplejpeg" and self.header.orientation == 1 and self.header.components in (1, 3):
            image = self._simplejpeg(scale, rows)
        if image is not None:
            return image
        image = _opencv(self.encoded, self.path, scale)
        if image.shape[:2] != tuple(-(-side // scale) for side in self.header.turned):
            raise InputError(f"{str(self.path)!r} is {image.shape[1]}x{image.shape[0]} at 1/{scale}, unlike its header")
        return image

    def _simplejpeg(self, scale, rows):
        """By libjpeg-turbo; None for what only OpenCV may know to read.

        It is made to believe that the picture ends soon below `rows`, and does not decode the rest. Colours are
        upsampled the fast way. The fast DCT would be 3 % faster and a grey level darker than evaluation's.
        """
        import simplejpeg

        encoded, (height, width), at = self.encoded, self.header[:2], self.header.height_at
        is_cut = at is not None and rows + MARGIN < height
        if is_cut:
            height, encoded = rows + MARGIN, encoded.copy()
            encoded[at : at + 2] = divmod(height, 256)
        size = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        try:  # strict: what follows the last row is a mistake otherwise
            image = simplejpeg.decode_jpeg(encoded, "BGR", fastupsample=True, strict=not is_cut, **size)
        except ValueError:
            return None
        return image if image.shape[:2] == tuple(size.values()) else None


def _reduced(start, length, scale):
    """Rows or columns of a whole picture as a slice of it at 1/`scale`, not empty."""
    first, stop = (start + scale // 2) // scale, (start + length + scale // 2) // scale
    return slice(first, max(first + 1, stop))
