"""How large an image is by its file's first bytes: what has to be known before its pixels are given memory."""

import struct

# Of any one image; as many as Pillow decodes before it speaks of a decompression bomb, half a gigabyte in RGB. OpenCV's
# own limit (OPENCV_IO_MAX_IMAGE_PIXELS) is 2^30, six times as many.
MAX_PIXELS = 178_956_970
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers SOF0 … SOF15 (ITU T.81, table B.1)
BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a length
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
