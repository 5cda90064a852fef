"""What an image file's first bytes say, before a pixel is decoded: its format, its sides, and of a JPEG more."""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

# Of any one image; as many as Pillow decodes before it speaks of a decompression bomb, half a gigabyte in RGB. OpenCV's
# own limit (OPENCV_IO_MAX_IMAGE_PIXELS) is 2^30, six times as many.
MAX_PIXELS = 178_956_970
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

# JPEG (ITU T.81, table B.1): the markers of frame headers SOF0 to SOF15, of which the sequential ones have Huffman
# codes and run from top to bottom; markers that stand alone, without a length; others by name.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = frozenset({0xC0, 0xC1})
STANDALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
SCAN, APP1, FILL = 0xDA, 0xE1, 0xFF
END_OF_IMAGE = b"\xff\xd9"

# TIFF 6.0, in which Exif data are written, too: tags, and how the values of each type are read and how many bytes they
# take.
IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = 256, 257, 0x0112
SHORT = 3
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # types 1 to 12
RATIONALS = frozenset({0x011A, 0x011B, 0x013E, 0x013F, 0x0211, 0x0214})


def image_size(encoded: np.ndarray) -> tuple[int, int] | None:
    """(height, width) of an image file's bytes, (N,) uint8, before any turn; None for other formats and broken headers.

    A file of several pictures counts by its canvas, or by the first of them, which is the one that is decoded.
    """
    data = memoryview(encoded)
    read_size = _size_reader(bytes(data[:16]))
    if read_size is None:
        return None
    try:
        height, width = read_size(data)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error):  # cut off, or full of nonsense
        return None
    if height <= 0 or width <= 0:
        return None
    return height, width


def is_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes, sixteen or more, is of one of FORMATS."""
    return _size_reader(start) is not None


def _size_reader(start: bytes) -> Callable[[memoryview], tuple[int, int]] | None:
    """The function that reads (height, width) from a file that begins so; None for no known format."""
    if start[:3] == b"\xff\xd8\xff":
        return _jpeg_size
    if start[:8] == b"\x89PNG\r\n\x1a\n" and start[12:] == b"IHDR":
        return _png_size
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp_size
    if start[:2] == b"BM":
        return _bmp_size
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_size
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return _gif_size
    return None


def _png_size(data: memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif_size(data: memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _bmp_size(data: memoryview) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    sides = "<HH" if header_bytes == 12 else "<ii"
    width, height = struct.unpack_from(sides, data, 18)
    return abs(height), abs(width)  # negative: from the top down


def _webp_size(data: memoryview) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        # Sides less one, of 24 bits each.
        width, width_high, height, height_high = struct.unpack_from("<HBHB", data, 24)
        return 1 + (height | height_high << 16), 1 + (width | width_high << 16)
    if kind == b"VP8L":
        # Sides less one, of 14 bits each.
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError(f"a WebP of kind {kind!r}")


class TiffLayout(NamedTuple):
    """Where things stand in a TIFF, in bytes, and the formats of struct that read them."""

    directory_at: int
    offset: str
    count: str
    entry: str
    entry_bytes: int
    value_at: int


CLASSIC_TIFF = TiffLayout(directory_at=4, offset="I", count="H", entry="HHI", entry_bytes=12, value_at=8)
BIG_TIFF = TiffLayout(directory_at=8, offset="Q", count="Q", entry="HHQ", entry_bytes=20, value_at=12)


def _tiff_size(data: memoryview) -> tuple[int, int]:
    """Of the first directory; of a tag that comes twice the larger value, whichever a decoder would take."""
    order = {0x49: "<", 0x4D: ">"}[data[0]]
    layout = BIG_TIFF if 43 in data[2:4] else CLASSIC_TIFF
    (directory,) = struct.unpack_from(order + layout.offset, data, layout.directory_at)
    (entries,) = struct.unpack_from(order + layout.count, data, directory)
    position = directory + struct.calcsize(order + layout.count)
    sides = {IMAGE_WIDTH: 0, IMAGE_LENGTH: 0}
    for _ in range(entries):
        tag, value_type, _ = struct.unpack_from(order + layout.entry, data, position)
        if tag in sides:
            (value,) = struct.unpack_from(order + INTEGERS[value_type], data, position + layout.value_at)
            sides[tag] = max(sides[tag], value)
        position += layout.entry_bytes
    return sides[IMAGE_LENGTH], sides[IMAGE_WIDTH]


class Segment(NamedTuple):
    """One segment of a JPEG file: its marker, the byte of the file where its content begins, the content."""

    marker: int
    start: int
    content: memoryview


def _jpeg_segments(data: memoryview, skip_junk: bool) -> Iterator[Segment]:
    """Yield a JPEG's segments, one after the other; raises IndexError where the file ends.

    skip_junk: pass over bytes between two segments, which should not be there, as libjpeg does; without it they raise
    ValueError.
    """
    position = 2
    searchable = None
    read_length = struct.Struct(">H").unpack_from
    while True:
        if data[position] != FILL:
            if not skip_junk:
                raise ValueError(f"byte {position} is no marker")
            if searchable is None:
                searchable = bytes(data)
            position = searchable.index(b"\xff", position)
        marker = data[position + 1]
        if marker == FILL:
            position += 1
        elif marker in STANDALONE or (skip_junk and marker == 0):
            position += 2
        else:
            # A length counts its own two bytes. Where it is less, the next turn finds one of them and no marker.
            (length,) = read_length(data, position + 2)
            if skip_junk:
                length = max(2, length)
            end = position + 2 + length
            yield Segment(marker, position + 4, data[position + 4 : end])
            position = end


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    """Of the first frame header."""
    segments = _jpeg_segments(data, skip_junk=True)
    frame = next(segment for segment in segments if segment.marker in FRAMES)
    height, width = struct.unpack_from(">HH", data, frame.start + 1)
    return height, width


class JpegHeader(NamedTuple):
    """What a JPEG says of itself before its pixels; `height` and `width` are those before the turn.

    orientation: 1 to 8 as in Exif; from 5 on the sides are exchanged. height_at: the byte of the file where the height
    stands, if its lower rows need not be decoded; else None.
    """

    height: int
    width: int
    components: int
    orientation: int
    height_at: int | None

    @property
    def turned(self) -> tuple[int, int]:
        """Height and width after the turn by the orientation."""
        if self.orientation > 4:
            return self.width, self.height
        return self.height, self.width


def read_jpeg_header(encoded: np.ndarray) -> JpegHeader | None:
    """The header of a JPEG, (N,) uint8; None for anything else, and for a JPEG that is odd in any way."""
    data = memoryview(encoded)
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    try:
        segments = []
        for segment in _jpeg_segments(data, skip_junk=False):
            segments.append(segment)
            if segment.marker == SCAN:
                break
        frame = next(segment for segment in segments if segment.marker in FRAMES)
        bits, height, width, components = struct.unpack_from(">BHHB", frame.content)
        orientation = _orientation([bytes(segment.content) for segment in segments if segment.marker == APP1])
        # One scan of all components, from top to bottom: what lies below a row can be left out.
        scan = segments[-1].content
        is_one_scan = frame.marker in SEQUENTIAL and scan[0] == components and bytes(data[-2:]) == END_OF_IMAGE
    except (ValueError, IndexError, StopIteration, struct.error):
        return None
    if bits != 8 or not height or not width or not components:
        return None
    height_at = None
    if is_one_scan:
        height_at = frame.start + 1
    return JpegHeader(height, width, components, orientation, height_at)


def _orientation(app1_segments: list[bytes]) -> int:
    """1 to 8 by the first APP1 segment, which OpenCV looks at alone. Raises ValueError or struct.error in doubt."""
    if any(segment.startswith(b"Exif\0\0") for segment in app1_segments[1:]):
        raise ValueError("Exif data in a later segment: not every version of OpenCV looks there")
    if not app1_segments:
        return 1
    name, tiff = app1_segments[0][:6], app1_segments[0][6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if name != b"Exif\0\0" and order is None:
        return 1
    if name != b"Exif\0\0" or order is None:
        raise ValueError("half of an Exif segment's name: OpenCV 4 and 5 part here")

    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    first = start + 2
    for position in range(first, first + 12 * entries, 12):
        tag, value_type, count, offset = struct.unpack_from(order + "HHII", tiff, position)
        if tag == ORIENTATION:
            if (value_type, count) != (SHORT, 1):
                raise ValueError("an orientation that is not one number")
            (value,) = struct.unpack_from(order + "H", tiff, position + 8)
            return value if 1 <= value <= 8 else 1
        size = TYPE_BYTES[value_type] * count
        if tag in RATIONALS:
            size = max(size, 8)  # OpenCV follows those, whatever their type
        if size > 4 and offset + size > len(tiff):
            raise ValueError("an entry points out of the segment: OpenCV gives up there and sees none that follows")
    return 1
