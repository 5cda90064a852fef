"""What a search is asked for: a request's body and words, as one value."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.requests import Request

from serving import asking
from serving.refusal import Refusal
from serving.sounds import SOUND_TYPES
from core.text import counted, plural

IMAGE_TYPES = ("image/", "application/octet-stream")
WANTED = (
    "send an image or a sound (Content-Type: image/jpeg, audio/wav and their like), JSON (application/json) or a form "
    "(multipart/form-data)"
)
ASKS = ("image", "images", "sound", "text", "item")  # of which a request has one
SEARCH_FIELDS = (*ASKS, "k", "labels", "categories", "group", "diversity", "box", "boxes", "combine")
SEARCH_WORDS = ("k", "label", "category", "group", "diversity", "box")
FORM = "multipart/form-data"
FORM_FIELDS = ("image", "sound", "text", "item", "combine", *SEARCH_WORDS)
ITEM_WORDS = ("label", "category")
ITEM_FIELDS = ("image", "sound", *ITEM_WORDS)
LISTS = {"label": "labels", "category": "categories"}
GROUPS = ("none", "label")
COMBINES = ("each", "mean")


@dataclass(frozen=True)
class Asked:
    """What is looked for, of one request: images, a sound, a text or an item, how many hits, and of which labels.

    boxes: of each image, None for all of it. diversity: how unlike each other hits are to be, 0 (not at all) to 1.
    """

    images: tuple[bytes, ...] = ()
    boxes: tuple[tuple[float, float, float, float] | None, ...] = ()
    sound: bytes | None = None
    text: str | None = None
    item: int | None = None
    k: int = 24
    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    group: str = "none"
    diversity: float = 0.0
    combine: str = "each"


class GivenItem(NamedTuple):
    """What is to be added: the bytes of a file, whether it is a sound, else an image, and what is known of it."""

    content: bytes
    is_sound: bool
    label: int | str | None
    category: int | str | None


async def read_search(request: Request, takes: Container[str], max_upload: int) -> Asked:
    """What a request looks for: the bytes of an image or a sound with words behind the address, JSON, or a form.

    takes: of image, text and audio, what the index's model embeds. Raises Refusal for what cannot be looked for.
    """
    kind = asking.content_type(request)
    if kind.startswith((*IMAGE_TYPES, *SOUND_TYPES)):
        words = request.query_params
        asking.refuse_unknown(words, SEARCH_WORDS)
        fields: dict[str, Any] = {name: words[name] for name in ("k", "group", "diversity", "box") if name in words}
        for word, field in LISTS.items():
            if word in words:
                fields[field] = words.getlist(word)
        content = await asking.read_body(request, max_upload)
        if is_sound(kind, takes):
            return _asked({**fields, "sound": None}, (), takes, content)
        return _asked(fields, (content,), takes)
    asking.refuse_unknown(request.query_params, ())
    if kind not in ("application/json", FORM):
        raise Refusal(415, WANTED)
    body = await asking.read_body(request, max_upload)
    if kind == FORM:
        parts = asking.read_form(body, request.headers["content-type"], FORM_FIELDS)
        return await asyncio.to_thread(_asked_of_form, parts, takes)
    return await asyncio.to_thread(_asked_of_json, body, takes)


async def read_item(request: Request, takes: Container[str], max_upload: int) -> GivenItem:
    """What a request adds: a file's bytes with words behind the address, a JSON object, or a form.

    takes: as of `read_search`. Raises Refusal for what cannot be added.
    """
    kind = asking.content_type(request)
    if kind.startswith((*IMAGE_TYPES, *SOUND_TYPES)):
        asking.refuse_unknown(request.query_params, ITEM_WORDS)
        fields: dict[str, Any] = dict(request.query_params)
        content = await asking.read_body(request, max_upload)
        plays = is_sound(kind, takes)
    elif kind in ("application/json", FORM):
        asking.refuse_unknown(request.query_params, ())
        body = await asking.read_body(request, max_upload)
        if kind == FORM:
            parts = asking.read_form(body, request.headers["content-type"], ITEM_FIELDS)
            fields = {part.name: part.as_text() if part.name in ITEM_WORDS else part.content for part in parts}
        else:
            fields = asking.read_object(body)
            asking.refuse_unknown(fields, ITEM_FIELDS)
        plays = "sound" in fields
        if plays == ("image" in fields):
            raise Refusal(422, "one of image and sound is needed: its file, in JSON in base64")
        name = "sound" if plays else "image"
        content = fields[name] if kind == FORM else asking.file_bytes(fields[name], name)
    else:
        raise Refusal(415, WANTED)
    if ("audio" if plays else "image") not in takes:
        raise Refusal(422, f"this index's model takes no {'sounds' if plays else 'images'}")
    values: dict[str, int | str | None] = dict.fromkeys(ITEM_WORDS)
    for name in ITEM_WORDS:
        if fields.get(name) is not None:
            values[name] = asking.label_value(fields[name], name)
    return GivenItem(content, plays, **values)


def _asked_of_json(body: bytes, takes: Container[str]) -> Asked:
    fields = asking.read_object(body)
    asking.refuse_unknown(fields, SEARCH_FIELDS)
    images = []
    if "image" in fields:
        images.append(asking.file_bytes(fields["image"], "image"))
    if "images" in fields:
        for number, image in enumerate(asking.several(fields["images"], "images", asking.MOST_QUERIES)):
            images.append(asking.file_bytes(image, f"images[{number}]"))
    sound = None
    if "sound" in fields:
        sound = asking.file_bytes(fields["sound"], "sound")
    return _asked(fields, tuple(images), takes, sound)


def _asked_of_form(parts: Sequence[asking.FormPart], takes: Container[str]) -> Asked:
    """Fields as of the words behind an address, beside files: several images, a sound."""
    fields: dict[str, Any] = {}
    images = []
    sound = None
    for part in parts:
        if part.name == "image":
            images.append(part.content)
        elif part.name == "sound":
            sound = part.content
            fields["sound"] = None
        elif part.name in LISTS:
            fields.setdefault(LISTS[part.name], []).append(part.as_text())
        else:
            fields[part.name] = part.as_text()
    if images:
        fields["images"] = None
    if len(images) > asking.MOST_QUERIES:
        raise Refusal(422, f"there are {counted(len(images), 'image')}; {asking.MOST_QUERIES} are the most")
    return _asked(fields, tuple(images), takes, sound)


def _asked(
    fields: dict[str, Any], images: tuple[bytes, ...], takes: Container[str], sound: bytes | None = None
) -> Asked:
    """Fields as an Asked. Raises Refusal (422) for what they may not be."""
    named = [name for name in ASKS if name in fields]
    if images and not named:
        named = ["image"]
    if len(named) != 1:
        given = " and ".join(named) or "nothing"
        raise Refusal(422, f"look for one of {', '.join(ASKS)}; {given} is given")
    if named[0] in ("image", "images") and "image" not in takes:
        raise Refusal(422, "this index's model takes no images")
    if named[0] == "sound" and "audio" not in takes:
        raise Refusal(422, "this index's model takes no sounds")
    facts: dict[str, Any] = {"images": images, "boxes": _boxes(fields, len(images)), "sound": sound}
    if "text" in fields:
        if "text" not in takes:
            raise Refusal(422, "this index's model takes no words; look for an image")
        facts["text"] = asking.plain_text(fields["text"], "text", asking.LONGEST_TEXT)
    if "item" in fields:
        facts["item"] = asking.whole_number(fields["item"], "item", 0, asking.LARGEST_ID)
    if "k" in fields:
        facts["k"] = asking.whole_number(fields["k"], "k", 1, asking.MOST_HITS)
    for name in ("labels", "categories"):
        if name in fields:
            values = asking.several(fields[name], name, asking.MOST_FILTERS)
            facts[name] = tuple(str(asking.label_value(value, name)) for value in values)
    if "group" in fields:
        facts["group"] = asking.choice(fields["group"], "group", GROUPS)
    if "diversity" in fields:
        facts["diversity"] = asking.share(fields["diversity"], "diversity")
    if "combine" in fields:
        facts["combine"] = asking.choice(fields["combine"], "combine", COMBINES)
    return Asked(**facts)


def is_sound(kind: str, takes: Container[str]) -> bool:
    """Whether a body of some type is a sound: it says so, or says nothing, and the model takes nothing else."""
    return kind.startswith(SOUND_TYPES) or ("audio" in takes and "image" not in takes)


def _boxes(fields: dict[str, Any], count: int) -> tuple:
    if "box" in fields and "boxes" in fields:
        raise Refusal(422, "give box or boxes, not both")
    if "box" in fields:
        if count != 1:
            raise Refusal(422, "box goes with one image; give boxes, one (or null) an image")
        return (asking.box_value(fields["box"], "box"),)
    if "boxes" in fields:
        boxes = asking.several(fields["boxes"], "boxes", asking.MOST_QUERIES)
        if len(boxes) != count:
            raise Refusal(
                422,
                f"there {plural(len(boxes), 'is', 'are')} {counted(len(boxes), 'box')} for {counted(count, 'image')}",
            )
        return tuple(box if box is None else asking.box_value(box, "boxes") for box in boxes)
    return (None,) * count


SEARCH_FIELDS = (*ASKS, "k", "labels", "categories", "group", "diversity", "box", "boxes", "combine")
SEARCH_WORDS = ("k", "label", "category", "group", "diversity", "box")
