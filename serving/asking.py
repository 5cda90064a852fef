"""What a request says, read with distrust: bodies within a limit, fields of the right types, nothing unknown."""

import asyncio
import base64
import binascii
import json
import math
import unicodedata
from collections.abc import Mapping
from email.message import Message
from email.parser import HeaderParser
from typing import Any, NamedTuple

from starlette.requests import Request

from core.errors import near_match
from core.text import counted
from serving.refusal import Refusal

PATIENCE = 60.0  # seconds that a body may take to come
MOST_HITS = 200
MOST_QUERIES = 16
MOST_FILTERS = 100
LONGEST_TEXT = 1000  # characters of words that are looked for
LONGEST_LABEL = 200
MOST_ITEMS_OF_FEEDBACK = 100
LARGEST_ID = 2**62
MOST_PARTS = 300  # of a form


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request. Raises Refusal for more than `most` bytes (413), as soon as that is known, for one that
    is packed (415), and for one that takes too long (408)."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "a packed body is not taken; leave Content-Encoding out")
    too_large = Refusal(413, f"the request is larger than {counted(most, 'byte', ',')}, which is all that is taken")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the request did not come whole within {PATIENCE:.0f} seconds") from None
    return bytes(content)


def content_type(request: Request) -> str:
    """The type of a body, in small letters and without what follows it."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refusal for anything else (400)."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise Refusal(422, f"the body has to be a JSON object, not {_kind(value)}")
    return value


class FormPart(NamedTuple):
    """A part of a form: the name of its field, and its content."""

    name: str
    content: bytes

    def as_text(self) -> str:
        """Its content as a text. Raises Refusal (422) for what is none."""
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            raise Refusal(422, f"{self.name[:40]!r} of the form is no text in UTF-8") from None


def read_form(content: bytes, header: str, known: tuple[str, ...]) -> list[FormPart]:
    """The parts of a body of multipart/form-data (RFC 7578); header: its Content-Type.

    Raises Refusal for what is none (400), and for a field that nobody reads (422).
    """
    described = Message()
    described["content-type"] = header
    boundary = described.get_param("boundary")
    if not isinstance(boundary, str) or not boundary or not boundary.isascii():
        raise Refusal(400, "the form's Content-Type names no boundary")
    pieces = (b"\r\n" + content).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Refusal(400, "the form is not whole: its last boundary is missing")
    if len(pieces) > MOST_PARTS + 2:
        raise Refusal(422, f"the form has {counted(len(pieces) - 2, 'part')}; {MOST_PARTS} are the most")
    parts = []
    for piece in pieces[1:-1]:
        head, blank, inside = piece.partition(b"\r\n\r\n")
        headers = HeaderParser().parsestr(head.decode("latin-1").strip())
        name = headers.get_param("name", header="content-disposition")
        if not blank or not isinstance(name, str):
            raise Refusal(400, "a part of the form has no name")
        parts.append(FormPart(name, inside))
    refuse_unknown({part.name: None for part in parts}, known)
    return parts


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise Refusal (422) for a field that nobody reads, with the one that may be meant."""
    for name in given:
        if name not in known:
            shown = str(name)[:40]
            raise Refusal(422, f"unknown field {shown!r}; there are: {', '.join(known)}.{near_match(shown, known)}")


def whole_number(value: Any, name: str, least: int, most: int) -> int:
    """An integer, or its text, within bounds. Raises Refusal (422)."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    # JSON knows one kind of numbers: 10.0 is 10.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refusal(422, f"{name} is {_shown(value)}; it has to be a whole number from {least} to {most}")
    return value


def share(value: Any, name: str) -> float:
    """A number from 0 to 1, or its text. Raises Refusal (422)."""
    if isinstance(value, str) and len(value) < 20:
        try:
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise Refusal(422, f"{name} is {_shown(value)}; it has to be a number from 0 to 1")
    return float(value)


def plain_text(value: Any, name: str, longest: int) -> str:
    """A text of one character or more. Raises Refusal (422) for others, and for characters that no text has."""
    if not isinstance(value, str):
        raise Refusal(422, f"{name} has to be a text, not {_kind(value)}")
    if not value.strip() or len(value) > longest:
        raise Refusal(
            422, f"{name} has {counted(len(value), 'character')}; it has to have 1 to {longest} that are no spaces"
        )
    for character in value:
        # Halves of characters, and what ends a text in C.
        if unicodedata.category(character) == "Cs" or character == "\0":
            raise Refusal(422, f"{name} holds {character!r}, which is no character")
    return value


def label_value(value: Any, name: str) -> int | str:
    """A label or category: a text, or an integer of 64 bits. Raises Refusal (422)."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise Refusal(422, f"{name} is an integer beyond 64 bits")
        return value
    return plain_text(value, name, LONGEST_LABEL)


def several(value: Any, name: str, most: int) -> list:
    """A list of 1 to `most` values. Raises Refusal (422)."""
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        shown = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        raise Refusal(422, f"{name} has to be a list of 1 to {most}, not {shown}")
    return value


def box_value(value: Any, name: str) -> tuple[float, float, float, float]:
    """left, top, right, bottom in pixels, as a list or as a text with commas. Raises Refusal (422)."""
    wrong = Refusal(
        422,
        f"{name} is {_shown(value)}; it has to be left,top,right,bottom in pixels, left < right, "
        "top < bottom, 0 or more",
    )
    if isinstance(value, str):
        try:
            value = [float(side) for side in value.split(",")]
        except ValueError:
            raise wrong from None
    is_box = isinstance(value, list) and len(value) == 4
    if not is_box or not all(isinstance(side, int | float) and not isinstance(side, bool) for side in value):
        raise wrong
    try:
        left, top, right, bottom = (float(side) for side in value)
    except OverflowError:
        raise wrong from None
    if not (0 <= left < right < math.inf and 0 <= top < bottom < math.inf):
        raise wrong
    return left, top, right, bottom


def switch(value: Any, name: str) -> bool:
    """True or False. Raises Refusal (422)."""
    if not isinstance(value, bool):
        raise Refusal(422, f"{name} has to be true or false, not {_kind(value)}")
    return value


def choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """One of some words. Raises Refusal (422)."""
    if value not in allowed:
        raise Refusal(422, f"{name} is {_shown(value)}; it has to be one of {', '.join(allowed)}")
    return value


def file_bytes(value: Any, name: str) -> bytes:
    """The bytes of a file in base64. Raises Refusal (422)."""
    if not isinstance(value, str):
        raise Refusal(422, f"{name} has to be base64 of a file, not {_kind(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, f"{name} is no base64") from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    # The text of a huge integer would not be made.
    if isinstance(value, int) and not -(10**20) < value < 10**20:
        return "a huge number"
    return repr(value)[:60]
