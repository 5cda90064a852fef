"""Pictures of retrieval: queries with their nearest neighbours, framed by right and wrong. Arrays in, a PNG out."""

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError

SCALE = 2  # everything is drawn at twice its size, so that small text and thin lines stay clear
WHITE, INK, FAINT, NEUTRAL = (255, 255, 255), (31, 35, 40), (110, 118, 129), (190, 196, 203)
QUERY, RIGHT, WRONG = (47, 110, 220), (36, 154, 84), (214, 57, 57)
FRAME, PAD, RADIUS = 3, 3, 7  # pixels before scaling: frame, air between frame and image, rounding
GAP, QUERY_GAP, MARGIN, CAPTION = 12, 26, 22, 24  # between neighbours, after the query, around the sheet, for text
LABEL = 14  # a second line of text
TITLE_SIZE, TEXT_SIZE = 0.62, 0.42  # scales of OpenCV's plain font
# What OpenCV's font, which knows ASCII only, shows instead where taking accents off does not help.
INSTEAD = {"‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "−": "-", "×": "x", "⁄": "/"}
INSTEAD |= {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"}
LONGEST = 200  # characters of a text that may be shortened; none has room for more


def neighbour_sheet(rows, path=None, title="", captions=None, thumbnail=96, labels=None):
    """Draw each query (blue frame) with its neighbours (green where right, red where wrong), nearest first.

    rows: list of (query, neighbours); query is a uint8 image (H, W, 3) in RGB of any size, neighbours a list of
    (image, is_right, score), where is_right None means unknown: a grey frame, no sign. captions: one text a row,
    written below the query. labels: (text of the query, texts of its neighbours) a row, written below the captions and
    scores. thumbnail: pixels before the sheet's twofold scale. Returns the sheet as uint8 (H, W, 3) in RGB and, given
    `path`, writes it there as PNG. Raises InputError where there are no rows or the file cannot be written.
    """
    if not rows:
        raise InputError("a picture of neighbours needs at least one query")
    most = max(len(neighbours) for _, neighbours in rows)
    side = thumbnail + 2 * (FRAME + PAD)
    lefts = [MARGIN] + [MARGIN + side + QUERY_GAP + i * (side + GAP) for i in range(most)]
    head = MARGIN + (36 if title else 0) + 48
    width = max(lefts[-1] + side + MARGIN, 2 * MARGIN + 240)
    height = side + CAPTION + (LABEL if labels else 0) + GAP
    sheet = _blank(head + len(rows) * height - GAP + MARGIN, width)
    known = any(is_right is not None for _, neighbours in rows for _, is_right, _ in neighbours)
    _draw_head(sheet, title, [left + side / 2 for left in lefts], known)
    for i, (query, neighbours) in enumerate(rows):
        top = head + i * height
        _draw_tile(sheet, query, lefts[0], top, thumbnail, QUERY)
        if captions:
            _draw_centred(sheet, captions[i], lefts[0] + side / 2, top + side + 15, INK, side)
        for left, (image, is_right, score) in zip(lefts[1:], neighbours):
            colour = NEUTRAL if is_right is None else RIGHT if is_right else WRONG
            _draw_tile(sheet, image, left, top, thumbnail, colour)
            if is_right is not None:
                _draw_badge(sheet, left + side - 4, top + 4, is_right)
            _draw_centred(sheet, f"{score:.2f}", left + side / 2, top + side + 15, FAINT)
        for left, text in zip(lefts, (labels[i][0], *labels[i][1]) if labels else ()):
            _draw_centred(sheet, text, left + side / 2, top + side + 15 + LABEL, INK, side)
    if path is not None:
        write_png(sheet, path)
    return sheet


def side_by_side(sheets, titles, path=None):
    """Put sheets (arrays or paths) next to each other, each below its title. Returns and writes as neighbour_sheet."""
    sheets = [_read(sheet) if isinstance(sheet, (str, Path)) else sheet for sheet in sheets]
    height, head = max(len(sheet) for sheet in sheets), SCALE * 46
    columns = []
    for sheet, title in zip(sheets, titles, strict=True):
        column = np.full((head + height, sheet.shape[1], 3), 255, np.uint8)
        column[head : head + len(sheet)] = sheet
        _draw_text(column, title, MARGIN, 40, INK, TITLE_SIZE, bold=True)
        columns += [column, np.full((head + height, SCALE * 28, 3), 255, np.uint8)]
    joined = np.concatenate(columns[:-1], axis=1)
    if path is not None:
        write_png(joined, path)
    return joined


def write_png(image, path):
    """Write an RGB image (uint8, (H, W, 3)) as PNG, whole or not at all. Raises InputError where that cannot be."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _, content = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    try:
        temporary.write_bytes(content.tobytes())
        os.replace(temporary, path)
    except OSError as problem:
        if temporary.is_file():
            temporary.unlink()
        raise InputError(f"cannot write the picture {path}: {problem.strerror}") from None


def letterbox(image, side):
    """Fit an image (uint8, (H, W, 3)) into a white square of `side` pixels, keeping its proportions, centred."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    square = np.full((side, side, 3), 255, np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = resized
    return square


def _read(path):
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"cannot read the picture {path}")
    return image[..., ::-1]


def _blank(height, width):
    return np.full((SCALE * round(height), SCALE * round(width), 3), 255, np.uint8)


def _point(x, y):
    return round(SCALE * x), round(SCALE * y)


def _draw_head(sheet, title, centres, known):
    """The title, the legend (of right and wrong where any is known), and above each column what it holds."""
    y = MARGIN
    if title:
        _draw_text(sheet, title, MARGIN, y + 14, INK, TITLE_SIZE, bold=True)
        y += 36
    x = MARGIN
    legend = (("query", QUERY), ("right", RIGHT), ("wrong", WRONG))
    for word, colour in legend if known else legend[:1]:
        _draw_rounded(sheet, x, y, 12, 12, 3, colour)
        _draw_text(sheet, word, x + 18, y + 10, INK)
        x += 18 + _text_width(word) + 20
    for rank, centre in enumerate(centres):
        if rank:
            _draw_centred(sheet, str(rank), centre, y + 37, FAINT)


def _draw_tile(sheet, image, left, top, thumbnail, colour):
    """One letterboxed image in its rounded frame, whose outer top left corner is (left, top)."""
    inner = thumbnail + 2 * PAD
    _draw_rounded(sheet, left, top, inner + 2 * FRAME, inner + 2 * FRAME, RADIUS, colour)
    _draw_rounded(sheet, left + FRAME, top + FRAME, inner, inner, RADIUS - FRAME, WHITE)
    x, y = _point(left + FRAME + PAD, top + FRAME + PAD)
    side = SCALE * thumbnail
    sheet[y : y + side, x : x + side] = letterbox(image, side)


def _draw_badge(sheet, x, y, is_right):
    """A tick or a cross, so that right and wrong differ by more than red and green."""
    cv2.circle(sheet, _point(x, y), round(SCALE * 9.5), WHITE, -1, cv2.LINE_AA)
    cv2.circle(sheet, _point(x, y), SCALE * 8, RIGHT if is_right else WRONG, -1, cv2.LINE_AA)
    strokes = [[(-3.5, 0.3), (-1, 3), (3.8, -2.6)]] if is_right else [[(-3, -3), (3, 3)], [(-3, 3), (3, -3)]]
    for stroke in strokes:
        points = np.array([_point(x + dx, y + dy) for dx, dy in stroke], np.int32)
        cv2.polylines(sheet, [points], False, WHITE, round(SCALE * 1.6), cv2.LINE_AA)


def _draw_rounded(sheet, left, top, width, height, radius, colour):
    """A filled rectangle with rounded corners."""
    for dx, dy in ((radius, 0), (0, radius)):
        right, bottom = _point(left + width - dx, top + height - dy)
        cv2.rectangle(sheet, _point(left + dx, top + dy), (right - 1, bottom - 1), colour, -1)
    # Circles in 1/16 of a pixel: an arc that meets the edges has its centre between two pixels.
    for x in (left + radius, left + width - radius):
        for y in (top + radius, top + height - radius):
            centre = tuple(16 * c - 8 for c in _point(x, y))
            cv2.circle(sheet, centre, 16 * SCALE * radius - 8, colour, -1, cv2.LINE_AA, shift=4)


def plain_text(text: str) -> str:
    """A text in the printable ASCII that OpenCV can draw: accents are left out, what has no like is a question mark."""
    bare = [character for character in unicodedata.normalize("NFKD", text) if not unicodedata.combining(character)]
    alike = "".join(INSTEAD.get(character, character) for character in bare)
    return "".join(character if " " <= character <= "~" else "?" for character in alike)


def _text_width(text):
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, SCALE * TEXT_SIZE, 1)[0][0] / SCALE


def _draw_text(sheet, text, x, baseline, colour, size=TEXT_SIZE, bold=False):
    font = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(sheet, plain_text(text), _point(x, baseline), font, SCALE * size, colour, 1, cv2.LINE_AA)


def _draw_centred(sheet, text, centre, baseline, colour, room=None):
    """Text centred on `centre`; where it is wider than `room` pixels, its end gives way to dots."""
    text = plain_text(text[:LONGEST] if room else text)
    if room and _text_width(text) > room:
        while text and _text_width(f"{text}...") > room:
            text = text[:-1]
        text = f"{text.rstrip()}..."
    _draw_text(sheet, text, centre - _text_width(text) / 2, baseline, colour)
