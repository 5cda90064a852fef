"""An image by whatever names it: a path, an address, base64, PIL's image, an array; for programs that use the library.

Lists know paths alone (data/image/files.py). Pixels come the same way here: decoded by decode.py, turned by their EXIF
orientation, alpha dropped.
"""

import base64
import binascii
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from core.errors import InputError, first_line
from data.image.decode import decode_whole
from data.image.files import read_image

TIMEOUT = 30  # seconds that a server has to answer
LARGEST = 2**28  # bytes of an encoded image that comes from elsewhere
SHOWN = 60  # characters of a source in messages


@runtime_checkable
class PillowImage(Protocol):
    """PIL's image, as far as it is used: PIL is imported where one comes."""

    mode: str

    def convert(self, mode: str) -> "PillowImage":
        """The image in another mode, such as RGB."""

    def getexif(self) -> Any:
        """Its EXIF data."""


Source = str | Path | bytes | np.ndarray | PillowImage


def smart_read_image(source: Source) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB.

    source: a path; text that begins with http://, https://, file://, base64:// or data:; s3:// and others of fsspec; an
    encoded image's bytes; PIL's image; an array (H, W), (H, W, 3) or (H, W, 4) uint8, RGB. Raises InputError for what
    cannot be had or is no image.
    """
    if isinstance(source, np.ndarray):
        return _rgb(source)
    if isinstance(source, bytes | bytearray):
        return decode_whole(np.frombuffer(source, np.uint8), "the bytes given")
    if isinstance(source, PillowImage):
        return _from_pil(source)
    if isinstance(source, Path):
        return read_image(source)
    if not isinstance(source, str):
        raise InputError(
            f"an image is a path, an address, bytes, PIL's image or an array, not a {type(source).__name__}"
        )
    scheme, separator, _ = source.partition("://")
    if source.startswith("data:"):
        return _decoded(_from_base64(source.partition(",")[2], source), source)
    if not separator:
        return read_image(source)
    if scheme.lower() == "file":
        return read_image(urllib.request.url2pathname(urllib.parse.urlsplit(source).path))
    read = READERS.get(scheme.lower(), _from_filesystem)
    return _decoded(read(source), source)


def _decoded(content: bytes, source: str) -> np.ndarray:
    return decode_whole(np.frombuffer(content, np.uint8), _short(source))


def _short(source: str) -> str:
    if len(source) <= SHOWN:
        return source
    return f"{source[:SHOWN]}..."


def _rgb(array: np.ndarray) -> np.ndarray:
    """An array of one, three or four channels with three."""
    if array.dtype != np.uint8:
        raise InputError(f"an image's array has to be uint8, 0 to 255, not {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None].repeat(3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or 0 in array.shape:
        raise InputError(f"an image's array has to be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    return np.ascontiguousarray(array[:, :, :3])


def _from_pil(image: PillowImage) -> np.ndarray:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # PIL would cut off what is above 255.
        return _rgb((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert("RGB"))


def _from_base64(text: str, source: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{_short(source)!r} is not base64: {first_line(error)}") from None


def _from_base64_address(source: str) -> bytes:
    return _from_base64(source.partition("://")[2], source)


def _from_web(source: str) -> bytes:
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT) as answer:
            return _within_limit(answer.read(LARGEST + 1), source)
    except (OSError, ValueError) as error:  # no network, no such host or page, an address that is none
        reason = getattr(error, "reason", None) or error
        raise InputError(f"cannot fetch image {_short(source)!r}: {reason}") from None


def _from_filesystem(source: str) -> bytes:
    """By fsspec, which asks for a further package where an address is of its kind (s3fs for s3://)."""
    try:
        import fsspec

        with fsspec.open(source, "rb") as file:
            return _within_limit(file.read(LARGEST + 1), source)
    except ImportError as error:
        raise InputError(f"{_short(source)!r} needs a package: pip install fsspec s3fs ({first_line(error)})") from None
    except Exception as error:  # of whichever package stands behind the address
        raise InputError(f"cannot read image {_short(source)!r}: {first_line(error)}") from None


def _within_limit(content: bytes, source: str) -> bytes:
    if len(content) > LARGEST:
        raise InputError(f"{_short(source)!r} has more than {LARGEST} bytes")
    return content


READERS: dict[str, Callable[[str], Any]] = {
    "http": _from_web,
    "https": _from_web,
    "base64": _from_base64_address,
}
