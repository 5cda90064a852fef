"""What a search is asked for: a request's body and words, as one value."""

import asyncio
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from serving import asking
from serving.refusal import Refusal

IMAGE_TYPES = ("image/", "application/octet-stream")
SEARCH_FIELDS = ("image", "images", "text", "item", "k", "labels", "categories", "group", "box", "boxes", "combine")
SEARCH_WORDS = ("k", "label", "category", "group", "box")
GROUPS = ("none", "label")
COMBINES = ("each", "mean")


@dataclass(frozen=True)
class Asked:
    """What is looked for, of one request: images or a text or an item, how many hits, and of which labels.

    boxes: of each image, None for all of it.
    """

    images: tuple[bytes, ...] = ()
    boxes: tuple[tuple[float, float, float, float] | None, ...] = ()
    text: str | None = None
    item: int | None = None
    k: int = 24
    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    group: str = "none"
    combine: str = "each"


async def read_search(request: Request, takes: Container[str], max_upload: int) -> Asked:
    """What a request looks for: an image's bytes with words behind the address, or a JSON object.

    takes: of image and text, what the index's model embeds. Raises Refusal for what cannot be looked for.
    """
    kind = asking.content_type(request)
    if kind.startswith(IMAGE_TYPES):
        words = request.query_params
        asking.refuse_unknown(words, SEARCH_WORDS)
        fields: dict[str, Any] = {name: words[name] for name in ("k", "group", "box") if name in words}
        for field, word in (("labels", "label"), ("categories", "category")):
            if word in words:
                fields[field] = words.getlist(word)
        image = await asking.read_body(request, max_upload)
        return _asked(fields, (image,), takes)
    asking.refuse_unknown(request.query_params, ())
    if kind != "application/json":
        raise Refusal(415, "send an image (Content-Type: image/jpeg and its like) or JSON (application/json)")
    body = await asking.read_body(request, max_upload)
    return await asyncio.to_thread(_asked_of_json, body, takes)


def _asked_of_json(body: bytes, takes: Container[str]) -> Asked:
    fields = asking.read_object(body)
    asking.refuse_unknown(fields, SEARCH_FIELDS)
    images = []
    if "image" in fields:
        images.append(asking.image_bytes(fields["image"], "image"))
    if "images" in fields:
        for number, image in enumerate(asking.several(fields["images"], "images", asking.MOST_QUERIES)):
            images.append(asking.image_bytes(image, f"images[{number}]"))
    return _asked(fields, tuple(images), takes)


def _asked(fields: dict[str, Any], images: tuple[bytes, ...], takes: Container[str]) -> Asked:
    """Fields as an Asked. Raises Refusal (422) for what they may not be."""
    named = [name for name in ("image", "images", "text", "item") if name in fields]
    if images and not named:
        named = ["image"]
    if len(named) != 1:
        given = " and ".join(named) or "nothing"
        raise Refusal(422, f"look for one of image, images, text, item; {given} is given")
    if named[0] in ("image", "images") and "image" not in takes:
        raise Refusal(422, "this index's model takes no images")
    facts: dict[str, Any] = {"images": images, "boxes": _boxes(fields, len(images))}
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
    if "combine" in fields:
        facts["combine"] = asking.choice(fields["combine"], "combine", COMBINES)
    return Asked(**facts)


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
            raise Refusal(422, f"there are {len(boxes)} boxes for {count} images")
        return tuple(box if box is None else asking.box_value(box, "boxes") for box in boxes)
    return (None,) * count
