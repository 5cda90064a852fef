"""The routes of a server: search, add, delete, pictures, feedback, and what it says of itself."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from core.console import log
from core.errors import InputError
from core.items import text_item
from data.image.header import FORMATS
from retrieval.index.folder import DiskRefuses
from retrieval.index.index import Index
from retrieval.index.items import item_name
from retrieval.templates import mean_embeddings
from serving import asking
from serving.answers import shown_answers, wanted_hits
from serving.asked import Asked, read_item, read_search
from serving.collection import Collection, Deleted, NewItem, Stored
from serving.encoding import MOST_EMBEDDED, LiveEncoder
from serving.feedback import FOLDER as QUERIES
from serving.feedback import Feedback
from serving.gathering import Gatherer
from serving.generation import Generation, Query
from serving.guard import Guard
from serving.openapi import description
from serving.page import page
from serving.pictures import SHOWN_AS, SIDES, Album, check_size, decode
from serving.refusal import Refusal
from serving.remembered import Remembered
from serving.settings import ServeSettings
from serving.sounds import open_clip, played, prepare_clip, sound_suffix
from serving.uploads import Uploads, suffix_of

DECODERS = 2  # images decoded at a time: each may take 4 bytes a pixel and more
MOST_SEARCHED, MOST_CHANGED = 64, 256  # of a batch
MOST_WAITING = 512
MOST_BODIES = 32  # requests whose bodies are in memory at a time; others wait unread
MOST_REMEMBERED = 2**26  # bytes of images that asked, for those who say whether the answers are right
SHOWN_LABELS = 20
SHOWN_CATEGORIES = 500


class Answer(Response):
    """JSON in ASCII: a name may hold halves of characters, which no UTF-8 has."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Server:
    """An index, an encoder and the threads between them; `app` is what uvicorn runs.

    encoder: a LiveEncoder of the index's model. token: the word that requests have to bear, None for none.
    open_encoder: opens that of another Index, which this one may become. Raises InputError as Collection.
    """

    def __init__(
        self,
        folder: str,
        encoder: LiveEncoder,
        settings: ServeSettings,
        token: str | None = None,
        open_encoder: Callable[[Index], LiveEncoder] | None = None,
    ):
        self.settings = settings
        self._feedback = Feedback(folder)
        self.collection = Collection(folder, encoder, self._feedback.names, open_encoder)
        self._queries = Uploads(self.collection.folder, QUERIES)
        self._remembered = Remembered(MOST_REMEMBERED)
        self._album = Album()
        self._decoding = ThreadPoolExecutor(DECODERS, "decode")
        self._bodies = asyncio.Semaphore(MOST_BODIES)
        self._embedding = Gatherer("embed", self._embed, MOST_EMBEDDED, MOST_WAITING)
        self._searching = Gatherer("search", self.collection.search, MOST_SEARCHED, MOST_WAITING)
        self._changing = Gatherer("change", self.collection.change, MOST_CHANGED, MOST_WAITING)
        self._page, self._policy = page()
        self._description = description(settings, token is not None)
        self.app = self._make_app(token)

    def _make_app(self, token: str | None) -> ASGIApp:
        routes = [
            Route("/", self.show_page),
            Route("/openapi.json", self.describe),
            Route("/api/health", self.health),
            Route("/api/stats", self.stats),
            Route("/api/labels", self.labels),
            Route("/api/search", self._with_body(self.search), methods=["POST"]),
            Route("/api/items", self._with_body(self.add), methods=["POST"]),
            Route("/api/items", self.some_items),
            Route("/api/items/{id}", self.delete, methods=["DELETE"]),
            Route("/api/items/{id}", self.show_item),
            Route("/api/items/{id}/image", self.show_picture),
            Route("/api/items/{id}/sound", self.play_sound),
            Route("/api/feedback", self._with_body(self.give_feedback), methods=["POST"]),
            Route("/api/feedback/{time}", self.take_feedback_back, methods=["DELETE"]),
        ]
        handlers = {
            Refusal: _refuse,
            InputError: _refuse_input,
            HTTPException: _refuse_http,
            Exception: _fail,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return Guard(app, self.settings, token)

    def _with_body(self, answer: Callable) -> Callable:
        """A route that reads a body when it is its turn."""

        async def in_turn(request: Request) -> Response:
            async with self._bodies:
                return await answer(request)

        return in_turn

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Return when all that was begun is done."""
        for gatherer in (self._embedding, self._searching, self._changing):
            gatherer.close()
        self._decoding.shutdown()

    async def show_page(self, request: Request) -> Response:
        return Response(self._page, media_type="text/html", headers={"content-security-policy": self._policy})

    async def describe(self, request: Request) -> Response:
        return Answer(self._description)

    async def health(self, request: Request) -> Response:
        return Answer({"status": "ok"})

    async def stats(self, request: Request) -> Response:
        asking.refuse_unknown(request.query_params, ())
        return Answer(await asyncio.to_thread(self._stats))

    def _stats(self) -> dict[str, Any]:
        generation = self.collection.now()
        card = generation.index.card
        threshold = None
        if generation.index.decision is not None:
            threshold = generation.index.decision.threshold
        return {
            "name": self.collection.folder.resolve().name,
            "items": len(generation),
            "labels": len(generation.label_counts),
            "noun": generation.noun,
            "width": card["width"],
            "backend": card["backend"],
            "generation": generation.number,
            "takes": sorted(self.collection.encoder.takes),
            "formats": FORMATS,
            "read_only": self.settings.read_only,
            "max_upload": self.settings.max_upload,
            "max_pixels": self.settings.max_pixels,
            "categories": [
                {"category": category, "items": count}
                for category, count in generation.category_counts[:SHOWN_CATEGORIES]
            ],
            "threshold": threshold,
            "trouble": self.collection.trouble,
        }

    async def labels(self, request: Request) -> Response:
        """Labels whose names hold some words, the most frequent first."""
        asking.refuse_unknown(request.query_params, ("like",))
        like = request.query_params.get("like", "")[: asking.LONGEST_LABEL].lower()
        return Answer({"labels": await asyncio.to_thread(self._labels, like)})

    def _labels(self, like: str) -> list[dict[str, Any]]:
        shown = []
        for label, name, count in self.collection.now().label_counts:
            if like in name.lower() or like == str(label).lower():
                shown.append({"label": label, "label_name": name, "items": count})
                if len(shown) == SHOWN_LABELS:
                    break
        return shown

    async def some_items(self, request: Request) -> Response:
        """Some items to begin with, drawn at random."""
        words = request.query_params
        asking.refuse_unknown(words, ("count", "seed"))
        count = asking.whole_number(words.get("count", "24"), "count", 1, asking.MOST_HITS)
        seed = asking.whole_number(words.get("seed", "0"), "seed", 0, asking.LARGEST_ID)
        return Answer({"items": await asyncio.to_thread(self._some_items, count, seed)})

    def _some_items(self, count: int, seed: int) -> list[dict[str, Any]]:
        generation = self.collection.now()
        ids = generation.rows.ids
        chosen = np.random.default_rng(seed).choice(ids, min(count, len(ids)), replace=False)
        return generation.facts(chosen.tolist())

    async def show_item(self, request: Request) -> Response:
        asking.refuse_unknown(request.query_params, ())
        id_ = _id_of(request)
        generation = await asyncio.to_thread(self.collection.now)
        generation.path_and_box(id_)
        return Answer(generation.facts([id_])[0])

    async def show_picture(self, request: Request) -> Response:
        asking.refuse_unknown(request.query_params, ("size",))
        id_ = _id_of(request)
        size = asking.choice(request.query_params.get("size", "thumb"), "size", tuple(SIDES))
        generation = await asyncio.to_thread(self.collection.now)
        picture = await self._decoded(self._album.picture, generation, id_, size)
        mark = f'"{picture.mark}"'
        headers = {"etag": mark, "cache-control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == mark:
            return Response(status_code=304, headers=headers)
        return Response(picture.content, media_type=SHOWN_AS, headers=headers)

    async def play_sound(self, request: Request) -> Response:
        """The beginning of an item that is a sound, encoded anew as its picture is drawn anew."""
        asking.refuse_unknown(request.query_params, ())
        generation = await asyncio.to_thread(self.collection.now)
        content, kind = await self._decoded(played, generation, _id_of(request))
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    async def search(self, request: Request) -> Response:
        start = time.perf_counter()
        # One and the same to the end, whatever becomes of the index meanwhile.
        encoder = self.collection.encoder
        asked = await read_search(request, encoder.takes, self.settings.max_upload)
        came = time.perf_counter()
        embeddings, model = await self._embeddings_of(asked, encoder)
        embedded = time.perf_counter()
        queries = [
            Query(embedding, wanted_hits(asked), model, asked.labels, asked.categories) for embedding in embeddings
        ]
        answers = await asyncio.gather(*(_wait(self._searching.submit(query)) for query in queries))
        found = time.perf_counter()
        sources = await asyncio.to_thread(self._sources_of, asked)
        answer = {
            "generation": answers[0][0].number,
            "items": len(answers[0][0]),
            "k": asked.k,
            "queries": await asyncio.to_thread(shown_answers, answers, asked, sources),
            "milliseconds": {
                "read": round(1000 * (came - start), 2),
                "embed": round(1000 * (embedded - came), 2),
                "search": round(1000 * (found - embedded), 2),
            },
        }
        return Answer(answer)

    async def _embeddings_of(self, asked: Asked, encoder: LiveEncoder) -> tuple[list[np.ndarray], dict | None]:
        """(the embedding (D,) of each query, of several images that are one query the mean of their directions; the
        fingerprint of the model that they are of)."""
        if asked.item is not None:
            generation = await asyncio.to_thread(self.collection.now)
            return [generation.embedding(asked.item)], generation.model
        if asked.text is not None:
            return [await self._embed_text(encoder, asked.text)], encoder.fingerprint
        if asked.sound is not None:
            return [await self._embed_sound(encoder, asked.sound)], encoder.fingerprint
        images = zip(asked.images, asked.boxes, strict=True)
        embeddings = await asyncio.gather(*(self._embed_image(encoder, image, box) for image, box in images))
        if asked.combine == "mean":
            together = np.zeros(len(embeddings), dtype=np.int64)
            embeddings = [mean_embeddings(np.stack(embeddings), together)[0]]
        return list(embeddings), encoder.fingerprint

    async def _embed_image(self, encoder: LiveEncoder, content: bytes, box: tuple | None) -> np.ndarray:
        check_size(content, self.settings.max_pixels)
        inputs = await self._decoded(self._prepare_image, encoder, content, box)
        return await _wait(self._embedding.submit((encoder, "image", inputs)))

    def _prepare_image(self, encoder: LiveEncoder, content: bytes, box: tuple | None) -> Any:
        return encoder.prepare("image", decode(content, self.settings.max_pixels, box))

    async def _embed_sound(self, encoder: LiveEncoder, content: bytes) -> np.ndarray:
        inputs = await self._decoded(prepare_clip, encoder, content)
        return await _wait(self._embedding.submit((encoder, "audio", inputs)))

    async def _embed_text(self, encoder: LiveEncoder, text: str) -> np.ndarray:
        inputs = await asyncio.to_thread(encoder.prepare, "text", text)
        return await _wait(self._embedding.submit((encoder, "text", inputs)))

    def _embed(self, jobs: Sequence[tuple[LiveEncoder, str, Any]]) -> list[np.ndarray | Exception]:
        """Embeddings (D,) of what waits, one batch a kind. Called by one thread."""
        results: list = [None] * len(jobs)
        for encoder, kind in dict.fromkeys((encoder, kind) for encoder, kind, _ in jobs):
            numbers = [number for number, job in enumerate(jobs) if job[:2] == (encoder, kind)]
            embeddings = encoder.embed(kind, [jobs[number][2] for number in numbers])
            for number, embedding in zip(numbers, embeddings):
                results[number] = embedding
                if not np.isfinite(embedding).all():
                    results[number] = Refusal(422, "the model makes no numbers of that")
        return results

    def _sources_of(self, asked: Asked) -> list[list[dict[str, Any]]]:
        """What each query was, by which feedback names it; images and sounds are remembered."""
        if asked.item is not None:
            return [[{"item": asked.item}]]
        if asked.text is not None:
            return [[{"text": asked.text}]]
        if asked.sound is not None:
            return [[{"sound": self._remembered.keep(asked.sound)}]]
        sources = []
        for image, box in zip(asked.images, asked.boxes):
            source: dict[str, Any] = {"image": self._remembered.keep(image)}
            if box is not None:
                source["box"] = list(box)
            sources.append(source)
        if asked.combine == "mean":
            return [sources]
        return [[source] for source in sources]

    async def add(self, request: Request) -> Response:
        self._refuse_if_read_only()
        encoder = self.collection.encoder
        given = await read_item(request, encoder.takes, self.settings.max_upload)
        if given.is_sound:
            embedding = await self._embed_sound(encoder, given.content)
        else:
            embedding = await self._embed_image(encoder, given.content, None)
        suffix = _suffix_of(given.content)
        item = NewItem(given.content, suffix, embedding, encoder.fingerprint, given.label, given.category)
        stored = await self._change(item)
        generation = await asyncio.to_thread(self.collection.now)
        # Somebody may have deleted it by now.
        facts = {"id": stored.id}
        if generation.has(stored.id):
            [facts] = generation.facts([stored.id])
        status = 200
        if stored.is_new:
            status = 201
        return Answer({**facts, "is_new": stored.is_new}, status_code=status)

    async def delete(self, request: Request) -> Response:
        self._refuse_if_read_only()
        asking.refuse_unknown(request.query_params, ())
        id_ = _id_of(request)
        await self._change(Deleted(id_))
        return Answer({"deleted": id_})

    async def _change(self, job: NewItem | Deleted) -> Stored | bool:
        # Shielded: whoever goes away takes back nothing that was begun.
        return await asyncio.shield(_wait(self._changing.submit(job)))

    def _refuse_if_read_only(self) -> None:
        if self.settings.read_only:
            raise Refusal(403, "this server changes nothing (--read_only)")

    async def give_feedback(self, request: Request) -> Response:
        self._refuse_if_read_only()
        asking.refuse_unknown(request.query_params, ())
        if asking.content_type(request) != "application/json":
            raise Refusal(415, "send JSON (application/json)")
        fields = asking.read_object(await asking.read_body(request, self.settings.max_upload))
        asking.refuse_unknown(fields, ("query", "items", "same"))
        for name in ("items", "same"):
            if name not in fields:
                raise Refusal(422, f"{name} is missing")
        same = asking.switch(fields["same"], "same")
        items = []
        for value in asking.several(fields["items"], "items", asking.MOST_ITEMS_OF_FEEDBACK):
            items.append(asking.whole_number(value, "items", 0, asking.LARGEST_ID))
        sources = []
        if fields.get("query") is not None:
            sources = asking.several(fields["query"], "query", asking.MOST_QUERIES)
        times = await self._decoded(self._note_down, sources, items, same)
        return Answer({"written": len(times), "times": times}, status_code=201)

    def _note_down(self, sources: list, items: list[int], same: bool) -> list[str]:
        """Append pairs: each query with each item; or without a query the first item with each other one."""
        generation = self.collection.now()
        names = [item_name(*generation.path_and_box(id_)) for id_ in items]
        if sources:
            queries = [self._query_name(generation, source) for source in sources]
        else:
            if len(names) < 2:
                raise Refusal(422, "two items or more are needed where there is no query")
            queries, names = names[:1], names[1:]
        return self._feedback.append([(query, name) for query in queries for name in names], same)

    def _query_name(self, generation: Generation, source: Any) -> str:
        """The name of what asked, its image kept beside feedback.csv."""
        if not isinstance(source, dict):
            raise Refusal(422, "query has to be a list of objects, as an answer has them")
        asking.refuse_unknown(source, ("image", "sound", "content", "text", "item", "box"))
        named = [name for name in ("image", "sound", "content", "text", "item") if name in source]
        if len(named) != 1:
            raise Refusal(422, "each query has one of image, sound, content, text, item")
        if "item" in source:
            id_ = asking.whole_number(source["item"], "item", 0, asking.LARGEST_ID)
            return item_name(*generation.path_and_box(id_))
        if "text" in source:
            return text_item(asking.plain_text(source["text"], "text", asking.LONGEST_TEXT))
        if "content" in source:
            content = asking.file_bytes(source["content"], "content")
            if sound_suffix(content) is None:
                decode(content, self.settings.max_pixels)
            else:
                open_clip(content).sound.close()
        else:
            content = self._remembered.find(asking.plain_text(source[named[0]], named[0], 64))
            if content is None:
                raise Refusal(410, f"that {named[0]} is not remembered any more; send it as content, in base64")
        box = None
        if source.get("box") is not None:
            box = np.array(asking.box_value(source["box"], "box"))
        path, _ = self._queries.keep(content, _suffix_of(content))
        return item_name(path, box)

    async def take_feedback_back(self, request: Request) -> Response:
        self._refuse_if_read_only()
        asking.refuse_unknown(request.query_params, ())
        time_text = request.path_params["time"]
        count = await asyncio.to_thread(self._feedback.take_back, [time_text])
        if not count:
            raise Refusal(404, "there is no feedback of that time")
        return Answer({"removed": count})

    async def _decoded(self, function: Callable, *words: Any) -> Any:
        """What a function gives that decodes an image: few do so at a time, since each may take much memory."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function, *words)


async def _wait(future: Future) -> Any:
    return await asyncio.wrap_future(future)


def _suffix_of(content: bytes) -> str:
    """What the file of an image or a sound is to end in."""
    return sound_suffix(content) or suffix_of(content)


def _id_of(request: Request) -> int:
    """The id in an address. Raises Refusal (404) for what is none: no such item is there."""
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refusal(404, "an item is named by its number")
    return int(text)


async def _refuse(request: Request, refusal: Refusal) -> Response:
    headers = {}
    if refusal.after is not None:
        headers["retry-after"] = str(refusal.after)
    return Answer({"error": refusal.sentence}, status_code=refusal.status, headers=headers)


async def _refuse_input(request: Request, error: InputError) -> Response:
    status = 422
    if isinstance(error, DiskRefuses):
        status = 507
    return await _refuse(request, Refusal(status, str(error)))


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    sentences = {404: "there is nothing of that name", 405: f"{request.method} is not for this address"}
    sentence = sentences.get(error.status_code, error.detail)
    return Answer({"error": sentence}, status_code=error.status_code, headers=error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    log(f"{request.method} {request.url.path!r} failed: {type(error).__name__}: {error}")
    return Answer({"error": "something went wrong here; the server's log tells of it"}, status_code=500)
