"""The server's description of itself (OpenAPI 3.1): what each address takes, and all that it may answer."""

from typing import Any

from data.image.header import FORMATS
from serving.asked import ASKS, FORM
from serving.asking import (
    LARGEST_ID,
    LONGEST_LABEL,
    LONGEST_TEXT,
    MOST_FILTERS,
    MOST_HITS,
    MOST_ITEMS_OF_FEEDBACK,
    MOST_QUERIES,
)
from serving.pictures import SHOWN_AS, SIDES
from serving.settings import ServeSettings
from serving.sounds import FORMATS as SOUNDS
from core.text import counted

Schema = dict[str, Any]

TEXT_PATTERN = r"^[^\u0000]*\S[^\u0000]*$"
BASE64 = {"type": "string", "contentEncoding": "base64", "description": f"an image's file in base64: {FORMATS}"}
SOUND = {"type": "string", "contentEncoding": "base64", "description": f"a sound's file in base64: {SOUNDS}"}
ID = {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}
LABEL = {
    "description": "a text, or an integer of 64 bits",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": LONGEST_LABEL, "pattern": TEXT_PATTERN},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ],
}
LABEL_OR_NULL = {"anyOf": [*LABEL["anyOf"], {"type": "null"}]}
# Of what is there, however it came there.
ANY_LABEL = {"type": ["string", "integer", "null"]}
TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT, "pattern": TEXT_PATTERN}
BOX = {
    "type": "array",
    "items": {"type": "number", "minimum": 0},
    "minItems": 4,
    "maxItems": 4,
    "description": "left, top, right, bottom in pixels of the image as it is shown, left < right, top < bottom",
}
K = {"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 24, "description": "hits of each query"}
GROUP = {"type": "string", "enum": ["none", "label"], "default": "none", "description": "hits by label, too"}
DIVERSITY = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "default": 0,
    "description": "above 0: hits that are unlike each other come first, up to 1, where the query hardly counts",
}
FILTER = {"type": "array", "items": LABEL, "minItems": 1, "maxItems": MOST_FILTERS}
FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
LABEL_TEXT = LABEL["anyOf"][0]
ITEM = {
    "type": "object",
    "required": ["id", "kind", "name", "label", "label_name", "category", "box"],
    "properties": {
        "id": ID,
        "kind": {"enum": ["image", "text", "audio"]},
        "name": {"type": "string", "description": "its file's name without the folders, or its text"},
        "label": ANY_LABEL,
        "label_name": {"type": ["string", "null"]},
        "category": ANY_LABEL,
        "box": {"anyOf": [{**BOX}, {"type": "null"}]},
    },
}
HIT = {
    "type": "object",
    "required": [*ITEM["required"], "score"],
    "properties": {
        **ITEM["properties"],
        "score": {"type": "number", "description": "cosine, 1 is the same direction"},
        "same": {"type": ["number", "null"], "description": "P(same), where the index has a decision"},
        "is_same": {"type": ["boolean", "null"], "description": "whether it is called the same, in the same way"},
    },
}
SOURCE = {
    "type": "object",
    "description": "what asked: an image or a sound by the name that an answer gave it, or its content; text; item",
    "oneOf": [{"required": [name]} for name in ("image", "sound", "content", "text", "item")],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": TEXT_PATTERN},
        "sound": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": TEXT_PATTERN},
        "content": BASE64,
        "text": TEXT,
        "item": ID,
        "box": {"anyOf": [BOX, {"type": "null"}]},
    },
}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
REFUSALS = {
    400: "no JSON, or a Host that is not this server's",
    401: "no token, or a wrong one",
    403: "a page of another site, a form, or a change of a server that is read-only",
    404: "there is no such item",
    408: "the request did not come whole in time",
    409: "the index cannot be changed",
    410: "the image that asked is forgotten",
    413: "more bytes or pixels than are taken",
    415: "no image of a known format, or another type of content",
    422: "a field that is missing, unknown or not what it has to be",
    429: "too many requests a minute",
    500: "a mistake of the server",
    503: "the server is busy or stopping",
    507: "the disk takes no more",
}
ALWAYS = (400, 401, 403, 429, 500, 503)


def description(settings: ServeSettings, has_token: bool) -> Schema:
    """The description of a server with such settings."""
    search = {
        "type": "object",
        "additionalProperties": False,
        "description": "exactly one of image, images, sound, text and item is what is looked for",
        "oneOf": [{"required": [name]} for name in ASKS],
        "properties": {
            "image": BASE64,
            "images": {"type": "array", "items": BASE64, "minItems": 1, "maxItems": MOST_QUERIES},
            "sound": {**SOUND, "description": f"{SOUND['description']}, where the index's model takes them"},
            "text": {**TEXT, "description": "words, where the index's model takes them (stats: takes)"},
            "item": {**ID, "description": "what is like this item"},
            "k": K,
            "labels": {**FILTER, "description": "only items of these labels, by label or name"},
            "categories": {**FILTER, "description": "only items of these categories, by category or name"},
            "group": GROUP,
            "diversity": DIVERSITY,
            "box": {**BOX, "description": "only this part of the one image"},
            "boxes": {
                "type": "array",
                "items": {"anyOf": [BOX, {"type": "null"}]},
                "minItems": 1,
                "maxItems": MOST_QUERIES,
                "description": "of each image, null for all of it",
            },
            "combine": {
                "enum": ["each", "mean"],
                "default": "each",
                "description": "several images: each asks for itself, or all of them together",
            },
        },
    }
    answer = {
        "type": "object",
        "required": ["generation", "items", "k", "queries", "milliseconds"],
        "properties": {
            "generation": {"type": "integer", "description": "of the index that was searched"},
            "items": {"type": "integer"},
            "k": {"type": "integer"},
            "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
            "queries": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["query", "hits"],
                    "properties": {
                        "query": {"type": "array", "items": SOURCE, "description": "for /api/feedback"},
                        "hits": {"type": "array", "items": HIT, "description": "nearest first"},
                        "unknown": {"type": ["boolean", "null"], "description": "no hit is called the same"},
                        "groups": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["label", "label_name", "score", "items"],
                                "properties": {
                                    "label": ANY_LABEL,
                                    "label_name": {"type": ["string", "null"]},
                                    "score": {"type": "number"},
                                    "items": {"type": "array", "items": ID},
                                },
                            },
                        },
                    },
                },
            },
        },
    }
    paths: Schema = {
        "/": {"get": _operation("the page", {200: _content("text/html", {"type": "string"})}, open_to_all=True)},
        "/openapi.json": {"get": _operation("this description", {200: _json({"type": "object"})}, open_to_all=True)},
        "/api/health": {
            "get": _operation(
                "whether the server answers",
                {200: _json({"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}})},
                open_to_all=True,
            )
        },
        "/api/stats": {"get": _operation("what the index holds", {200: _json(_stats())}, refusals=(422,))},
        "/api/labels": {
            "get": _operation(
                "labels whose names hold some letters, the most frequent first",
                {200: _json(_labels())},
                parameters=[_query("like", {"type": "string", "maxLength": LONGEST_LABEL})],
                refusals=(422,),
            )
        },
        "/api/search": {
            "post": _operation(
                "find what is like an image, several images, a sound, a text or an item",
                {200: _json(answer)},
                parameters=[],
                body={"application/json": search, **_files(), **_form(_search_form(search["properties"]))},
                refusals=(404, 408, 413, 415, 422),
                more="The bytes of an image or a sound as the body take k, label, category, group, diversity and box "
                "(left,top,right,bottom) behind the address.",
            )
        },
        "/api/items": {
            "get": _operation(
                "some items, drawn at random",
                {200: _json({"type": "object", "properties": {"items": {"type": "array", "items": ITEM}}})},
                parameters=[
                    _query("count", {"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 24}),
                    _query("seed", {"type": "integer", "minimum": 0, "maximum": LARGEST_ID, "default": 0}),
                ],
                refusals=(422,),
            ),
            "post": _operation(
                "add an image or a sound; it is on the disk when the answer comes",
                {201: _json(_added()), 200: _json(_added(), "it was there already")},
                body={
                    "application/json": {
                        "type": "object",
                        "additionalProperties": False,
                        "oneOf": [{"required": ["image"]}, {"required": ["sound"]}],
                        "properties": {
                            "image": BASE64,
                            "sound": SOUND,
                            "label": LABEL_OR_NULL,
                            "category": LABEL_OR_NULL,
                        },
                    },
                    **_files(),
                    **_form({"image": FILE, "sound": FILE, "label": LABEL_TEXT, "category": LABEL_TEXT}),
                },
                refusals=(408, 409, 413, 415, 422, 507),
                more="The bytes of an image or a sound as the body take label and category behind the address.",
            ),
        },
        "/api/items/{id}": {
            "parameters": [_id()],
            "get": _operation("what is known of an item", {200: _json(ITEM)}, refusals=(404, 422)),
            "delete": _operation(
                "delete an item; it is gone from the disk's index when the answer comes",
                {200: _json({"type": "object", "required": ["deleted"], "properties": {"deleted": ID}})},
                refusals=(404, 409, 422, 507),
            ),
        },
        "/api/items/{id}/image": {
            "parameters": [_id()],
            "get": _operation(
                "the picture of an item, drawn anew",
                {
                    200: _content(SHOWN_AS, {"type": "string", "contentMediaType": SHOWN_AS}),
                    304: {"description": "it is the one that If-None-Match names"},
                },
                parameters=[_query("size", {"type": "string", "enum": list(SIDES), "default": "thumb"})],
                refusals=(404, 422),
            ),
        },
        "/api/items/{id}/sound": {
            "parameters": [_id()],
            "get": _operation(
                "the beginning of an item that is a sound, encoded anew",
                {200: {"description": "MP3, or WAV", **_content("audio/*", {"type": "string"})}},
                refusals=(404, 422),
            ),
        },
        "/api/feedback": {
            "post": _operation(
                "note down that items are what was looked for, or are not; without a query: that they are the same",
                {
                    201: _json(
                        {
                            "type": "object",
                            "required": ["written", "times"],
                            "properties": {
                                "written": {"type": "integer"},
                                "times": {"type": "array", "items": {"type": "string"}},
                            },
                        }
                    )
                },
                body={
                    "application/json": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["items", "same"],
                        "properties": {
                            "query": {
                                "anyOf": [
                                    {"type": "array", "items": SOURCE, "minItems": 1, "maxItems": MOST_QUERIES},
                                    {"type": "null"},
                                ]
                            },
                            "items": {
                                "type": "array",
                                "items": ID,
                                "minItems": 1,
                                "maxItems": MOST_ITEMS_OF_FEEDBACK,
                            },
                            "same": {"type": "boolean"},
                        },
                    }
                },
                refusals=(404, 408, 410, 413, 415, 422, 507),
            )
        },
        "/api/feedback/{time}": {
            "parameters": [{"name": "time", "in": "path", "required": True, "schema": {"type": "string"}}],
            "delete": _operation(
                "take a line of feedback back",
                {
                    200: _json(
                        {"type": "object", "required": ["removed"], "properties": {"removed": {"type": "integer"}}}
                    )
                },
                refusals=(404, 422, 507),
            ),
        },
    }
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Search by image",
            "version": "1",
            "description": f"At most {counted(settings.max_upload, 'byte', ',')} a request and {settings.max_pixels:,} "
            'pixels an image. Whatever is refused is told in a sentence, {"error": ...}.',
        },
        "paths": paths,
    }
    if has_token:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document


def _operation(
    summary: str,
    answers: dict[int, Schema],
    parameters: list[Schema] | None = None,
    body: dict[str, Schema] | None = None,
    refusals: tuple[int, ...] = (),
    more: str = "",
    open_to_all: bool = False,
) -> Schema:
    """One method of one address; open_to_all: it asks for no token."""
    responses = {str(status): {"description": "what was asked for", **answer} for status, answer in answers.items()}
    for status in sorted({*ALWAYS, *refusals}):
        responses[str(status)] = {"description": REFUSALS[status], "content": {"application/json": {"schema": ERROR}}}
    operation: Schema = {"summary": summary, "responses": responses}
    if more:
        operation["description"] = more
    if parameters:
        operation["parameters"] = parameters
    if body:
        content = {kind: {"schema": schema} for kind, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if open_to_all:
        operation["security"] = []
    return operation


def _files() -> dict[str, Schema]:
    """Bodies that are the bytes of a file."""
    return {kind: {"type": "string", "contentMediaType": kind} for kind in ("image/*", "audio/*")}


def _search_form(fields: dict[str, Schema]) -> dict[str, Schema]:
    """The fields of a search as those of a form, in which all are texts or files."""
    same = {name: fields[name] for name in ("text", "item", "k", "group", "diversity", "combine")}
    several = {name: {"type": "array", "items": LABEL_TEXT} for name in ("label", "category")}
    return {"image": {"type": "array", "items": FILE}, "sound": FILE, **same, **several, "box": {"type": "string"}}


def _form(properties: dict[str, Schema]) -> dict[str, Schema]:
    """A body that is a form of some fields, files among them."""
    return {FORM: {"type": "object", "additionalProperties": False, "properties": properties}}


def _json(schema: Schema, text: str = "what was asked for") -> Schema:
    return {"description": text, **_content("application/json", schema)}


def _content(kind: str, schema: Schema) -> Schema:
    return {"content": {kind: {"schema": schema}}}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _id() -> Schema:
    return {"name": "id", "in": "path", "required": True, "schema": ID}


def _added() -> Schema:
    properties = {**ITEM["properties"], "is_new": {"type": "boolean"}}
    return {"type": "object", "required": ["id", "is_new"], "properties": properties}


def _labels() -> Schema:
    properties = {"label": ANY_LABEL, "label_name": {"type": "string"}, "items": {"type": "integer"}}
    label = {"type": "object", "required": list(properties), "properties": properties}
    return {"type": "object", "required": ["labels"], "properties": {"labels": {"type": "array", "items": label}}}


def _stats() -> Schema:
    properties = {
        "name": {"type": "string"},
        "items": {"type": "integer"},
        "labels": {"type": "integer"},
        "noun": {"type": "string"},
        "width": {"type": "integer"},
        "backend": {"type": "string"},
        "generation": {"type": "integer"},
        "takes": {"type": "array", "items": {"enum": ["image", "text", "audio"]}},
        "formats": {"type": "string"},
        "read_only": {"type": "boolean"},
        "max_upload": {"type": "integer"},
        "max_pixels": {"type": "integer"},
        "categories": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["category", "items"],
                "properties": {"category": ANY_LABEL, "items": {"type": "integer"}},
            },
        },
        "threshold": {"type": ["number", "null"], "description": "the cosine from which on two are called the same"},
        "trouble": {"type": ["string", "null"]},
    }
    return {"type": "object", "required": list(properties), "properties": properties}
