"""What an image file's first bytes say: its size, before its pixels are given memory, and of a JPEG more."""

import struct
from typing import NamedTuple

# Of any one image; as many as Pillow decodes before it speaks of a decompression bomb, half a gigabyte in RGB. OpenCV's
# own limit (OPENCV_IO_MAX_IMAGE_PIXELS) is 2^30, six times as many.
MAX_PIXELS = 178_956_970
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers SOF0 … SOF15 (ITU T.81, table B.1)
BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a length
SEQUENTIAL = frozenset({0xC0, 0xC1})  # of these: Huffman codes, from top to bottom
SCAN, APP1, END = 0xDA, 0xE1, b"\xff\xd9"
ORIENTATION, SHORT = 0x0112, 3  # of TIFF 6.0: a tag and the type of its value
RATIONALS = frozenset({0x011A, 0x011B, 0x013E, 0x013F, 0x0211, 0x0214})
UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # bytes of TIFF's types 1 to 12
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257  # of TIFF 6.0: tags, and below how their types are written
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}


def image_size(encoded):
    """(height, width) of an image file's bytes, (N,) uint8, before any turn; None for other formats and broken headers.

    A file of several pictures counts by its canvas, or by the first of them, which is the one that is decoded.
    """
    data = memoryview(encoded)
    start = bytes(data[:16])
    try:
        height, width = _reader_of(start)(data)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, struct.error):  # TypeError: there is no reader
        return None
    return (height, width) if height > 0 and width > 0 else None


def is_image(start):
    """Whether a file that begins with these bytes, sixteen or more, is of one of FORMATS."""
    return _reader_of(start) is not None


def _reader_of(start):
    if start[:3] == b"\xff\xd8\xff":
        return _jpeg
    if start[:8] == b"\x89PNG\r\n\x1a\n" and start[12:] == b"IHDR":
        return _png
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp
    if start[:2] == b"BM":
        return _bmp
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff
    return _gif if start[:6] in (b"GIF87a", b"GIF89a") else None


def _jpeg(data):
    """Of the first frame header, looked for as libjpeg does: over bytes between two segments, which should not be."""
    at, whole = 2, None
    while True:
        if data[at] != 0xFF:
            whole = bytes(data) if whole is None else whole
            at = whole.index(b"\xff", at)
        marker = data[at + 1]
        if marker == 0xFF:  # fills up
            at += 1
        elif marker in BARE or marker == 0:
            at += 2
        elif marker in FRAMES:
            return struct.unpack_from(">HH", data, at + 5)
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _png(data):
    return struct.unpack_from(">II", data, 16)[::-1]


def _gif(data):
    return struct.unpack_from("<HH", data, 6)[::-1]


def _bmp(data):
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return abs(height), abs(width)  # negative: from the top down


def _webp(data):
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        width, more, height, higher = struct.unpack_from("<HBHB", data, 24)
        return 1 + (height | higher << 16), 1 + (width | more << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = {b"VP8 ": struct.unpack_from("<HH", data, 26)}[kind]
    return height & 0x3FFF, width & 0x3FFF


def _tiff(data):
    """Of the first directory; of a tag that comes twice the larger value, whichever a decoder would take."""
    order = {0x49: "<", 0x4D: ">"}[data[0]]
    is_big = 43 in data[2:4]
    start, count, entry, value = ("Q", "Q", "HHQ", 12) if is_big else ("I", "H", "HHI", 8)
    (at,) = struct.unpack_from(order + start, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    sides, at = {IMAGE_WIDTH: 0, IMAGE_LENGTH: 0}, at + struct.calcsize(order + count)
    for _ in range(entries):
        tag, kind, _ = struct.unpack_from(order + entry, data, at)
        if tag in sides:
            sides[tag] = max(sides[tag], struct.unpack_from(order + INTEGERS[kind], data, at + value)[0])
        at += 20 if is_big else 12
    return sides[IMAGE_LENGTH], sides[IMAGE_WIDTH]


class Header(NamedTuple):
    """What a JPEG says of itself before its pixels; `height` and `width` are those before the turn."""

    height: int
    width: int
    components: int
    orientation: int  # 1 to 8 as in Exif; from 5 on the sides are exchanged
    height_at: int | None  # the byte of the file where the height stands, if its lower rows need not be decoded

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
        *segments, (_, _, scan) = _segments(data)
        kind, at, frame = next(segment for segment in segments if segment[0] in FRAMES)
        bits, height, width, components = struct.unpack_from(">BHHB", frame)
        orientation = _orientation([bytes(content) for marker, _, content in segments if marker == APP1])
        one_pass = kind in SEQUENTIAL and scan[0] == components and bytes(data[-2:]) == END
    except (ValueError, IndexError, StopIteration, struct.error):
        return None
    is_plain = bits == 8 and height and width and components
    return Header(height, width, components, orientation, at + 1 if one_pass else None) if is_plain else None


def _segments(data):
    """(marker, where its content begins, content) of each segment up to the first scan's.

    Raises ValueError or IndexError where one is broken.
    """
    at, marker = 2, None
    while marker != SCAN:
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise ValueError(f"byte {at} is no marker")
        if marker == 0xFF or marker in BARE:
            at += 1 if marker == 0xFF else 2  # 0xFF before a marker fills up
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, at + 4, data[at + 4 : end]
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
