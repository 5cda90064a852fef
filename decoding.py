"""Image files to pixels: whole and exact, or of a JPEG what a crop needs, decoded at the smallest scale that does."""

import importlib.util
import struct
from typing import NamedTuple

import cv2
import numpy as np

from errors import InputError
from headers import BARE, FORMATS, FRAMES, MAX_PIXELS, image_size

DECODERS = ("auto", "exact", "opencv", "simplejpeg")
FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2}
FLAGS |= {4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
SCAN, APP1 = b"\xff\xda", 0xE1
ORIENTATION, SHORT = 0x0112, 3  # of TIFF 6.0: a tag and the type of its value
RATIONALS = frozenset({0x011A, 0x011B, 0x013E, 0x013F, 0x0211, 0x0214})
UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # bytes of TIFF's types 1 to 12


def choose_decoder(name):
    """`auto` becomes simplejpeg where that is installed, else opencv. Raises InputError for simplejpeg without it."""
    installed = importlib.util.find_spec("simplejpeg") is not None
    if name == "simplejpeg" and not installed:
        raise InputError("--decode=simplejpeg needs the package simplejpeg: pip install -r requirements-speed.txt")
    return ("simplejpeg" if installed else "opencv") if name == "auto" else name


class Header(NamedTuple):
    """What a JPEG says of itself before its pixels; `height` and `width` are those before the turn."""

    height: int
    width: int
    components: int
    orientation: int  # 1 to 8 as in Exif; from 5 on the sides are exchanged

    @property
    def turned(self):
        """Height and width after the turn by the orientation."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def read_header(encoded):
    """The Header of a JPEG, (N,) uint8; None for anything else, and for a JPEG that is odd in any way."""
    data = memoryview(encoded)
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    try:
        segments = list(_segments(data))
        frame = next(content for marker, content in segments if marker in FRAMES)
        bits, *size_and_components = struct.unpack_from(">BHHB", frame)
        orientation = _orientation([bytes(content) for marker, content in segments if marker == APP1])
    except (ValueError, IndexError, StopIteration, struct.error):
        return None
    return Header(*size_and_components, orientation) if bits == 8 and all(size_and_components) else None


def _segments(data):
    """(marker, content) of each segment before the first scan. Raises ValueError or IndexError where one is broken."""
    at = 2
    while data[at : at + 2] != SCAN:
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise ValueError(f"byte {at} is no marker")
        if marker == 0xFF or marker in BARE:
            at += 1 if marker == 0xFF else 2  # 0xFF before a marker fills up
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, data[at + 4 : end]
            at = end


def _orientation(attached):
    """1 to 8 by the first APP1 segment, which OpenCV looks at alone. Raises ValueError or struct.error in doubt."""
    if any(segment.startswith(b"Exif\0\0") for segment in attached[1:]):
        raise ValueError("Exif data in a later segment: not every version of OpenCV looks there")
    name, tiff = (attached[0][:6], attached[0][6:]) if attached else (b"", b"")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if name != b"Exif\0\0" and order is None:
        return 1
    if name != b"Exif\0\0" or order is None:
        raise ValueError("half of an Exif segment's name: OpenCV 4 and 5 part here")
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count, offset = struct.unpack_from(order + "HHII", tiff, at)
        if tag == ORIENTATION and (kind, count) != (SHORT, 1):
            raise ValueError("an orientation that is not one number")
        if tag == ORIENTATION:
            (value,) = struct.unpack_from(order + "H", tiff, at + 8)
            return value if value in range(1, 9) else 1
        size = max(UNITS[kind] * count, 8 if tag in RATIONALS else 0)  # OpenCV follows those, whatever their type
        if size > 4 and offset + size > len(tiff):
            raise ValueError("an entry points out of the segment: OpenCV gives up there and sees none that follows")
    return 1


def decode_whole(encoded, path, box=None):
    """An image file's bytes as (H, W, 3) uint8 RGB, turned by its EXIF orientation, cropped to `box` if given.

    encoded: (N,) uint8. box: (4,) left, top, right, bottom in pixels, NaN for none. 16 bits become 8, grey three equal
    channels, CMYK RGB; alpha is dropped (of a TIFF: laid on black); of several pictures the first is taken. Raises
    InputError, naming `path`, for what is no image, for more than MAX_PIXELS and for a box outside of it.
    """
    _refuse_bombs(image_size(encoded), encoded, path)
    image = _opencv(encoded, path)
    left, top, right, bottom = _inside(box, *image.shape[:2], path)
    return cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2RGB)


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
        f"{str(path)!r} is not an image that OpenCV can decode ({encoded.size} bytes); it has to be a whole {FORMATS}"
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
    """As `resize`, but bilinear where both sides shrink to more than a third: 33 dB and more from it, 0.8 ms less."""
    if 1 <= image.shape[0] / height < 3 and 1 <= image.shape[1] / width < 3:
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

        Decoded at 1/2, 1/4 or 1/8 where the crop then still has the pixels that are asked for.
        """
        scale = next((s for s in (8, 4, 2) if width >= s * to_width and height >= s * to_height), 1)
        image = self.scaled(scale)
        left, top = (self.left + left) / scale, (self.top + top) / scale
        across, down = width / scale / to_width, height / scale / to_height  # its pixels for one of the crop's
        if scale > 1 and max(across, down) < 3:
            # The crop's edges fall between pixels here; rounded, they would cost 7 dB (0.2 ms less).
            matrix = np.array([[across, 0, left + (across - 1) / 2], [0, down, top + (down - 1) / 2]])
            flags = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
            crop = cv2.warpAffine(image, matrix, (to_width, to_height), **flags)
        else:
            right, bottom = left + width / scale, top + height / scale
            crop = resize_fast(image[round(top) : round(bottom), round(left) : round(right)], to_width, to_height)
        return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)

    def scaled(self, scale):
        """All of it at 1/`scale` of its sides, rounded up: (H, W, 3) uint8 BGR, turned."""
        image = None
        if self.decode == "simplejpeg" and self.header.orientation == 1 and self.header.components in (1, 3):
            image = self._simplejpeg(scale)
        image = _opencv(self.encoded, self.path, scale) if image is None else image
        if image.shape[:2] != tuple(-(-side // scale) for side in self.header.turned):
            raise InputError(f"{str(self.path)!r} is {image.shape[1]}x{image.shape[0]} at 1/{scale}, unlike its header")
        return image

    def _simplejpeg(self, scale):
        """By libjpeg-turbo; None for what only OpenCV may know to read.

        Colours are upsampled the fast way. The fast DCT would be 3 % faster and a grey level darker than evaluation's.
        """
        import simplejpeg

        least = {"min_height": -(-self.header.height // scale), "min_width": -(-self.header.width // scale)}
        try:
            return simplejpeg.decode_jpeg(self.encoded, "BGR", fastupsample=True, **least)
        except ValueError:
            return None
