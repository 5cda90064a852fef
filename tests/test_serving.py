"""The server's routes, limits and refusals; hostile requests; changes that are acknowledged when they are there."""

import asyncio
import base64
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
from runs import run
from served import FINGERPRINT, ROOT, WIDTH, Process, StubEncoder, emoji_files, make_index
from starlette.testclient import TestClient

from core.errors import InputError
from data.image.files import read_image
from embeddings.feedback import open_feedback
from embeddings.index import settings_for_index
from models import ModelSettings
from retrieval.decision import Decision
from retrieval.index.folder import locked
from retrieval.index.index import Index
from serving import collection as collection_module
from serving.app import Server
from serving.collection import Collection
from serving.encoding import open_live_encoder
from serving.feedback import Feedback
from serving.gathering import Gatherer
from serving.generation import Query
from serving.guard import Rates
from serving.held import HeldRows
from serving.refusal import Refusal
from serving.remembered import Remembered
from serving.server import open_port
from serving.settings import ServeSettings

HOST = "http://127.0.0.1:8000"
HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE items; --",
    "../../etc/passwd",
    'a,"b"\nc\r\nd',
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "{{style}} ${7*7}",
    "name\twith\ttabs",
    "漢字 🍎",
)


@pytest.fixture
def folder(emoji_index, tmp_path):
    return shutil.copytree(emoji_index, tmp_path / "emoji.index")


@pytest.fixture
def serve(folder):
    """A function that starts a server of some settings in this process and gives a client of it."""
    clients = []

    def start(token=None, encoder=None, index=folder, open_encoder=None, **settings):
        settings = {"rate_limit": 0, **settings}
        server = Server(index, encoder or StubEncoder(), ServeSettings(**settings), token, open_encoder)
        client = TestClient(server.app, base_url=HOST, raise_server_exceptions=False)
        client.__enter__()
        client.server = server
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def picture(width=40, height=30, colour=(200, 30, 60), suffix=".png"):
    image = np.full((height, width, 3), 255, np.uint8)
    image[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = colour
    return cv2.imencode(suffix, image)[1].tobytes()


def post(client, path, content, kind="image/png", **headers):
    return client.post(path, content=content, headers={"content-type": kind, **headers})


def error_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()["error"]


def ask(client, **fields):
    response = client.post("/api/search", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def encoded(content):
    return base64.b64encode(content).decode()


# Search.


def test_an_image_finds_itself_and_what_the_index_finds(serve, folder):
    client = serve()
    path, label, category = emoji_files()[3]
    response = post(client, "/api/search?k=5", Path(path).read_bytes(), "image/webp")
    assert response.status_code == 200
    answer = response.json()
    [part] = answer["queries"]
    assert [hit["id"] for hit in part["hits"]][0] == 3
    best = part["hits"][0]
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert (best["label"], best["category"], best["name"]) == (label, category, Path(path).name)
    assert "path" not in best and str(Path(path).parent) not in response.text
    index = Index.open(folder)
    expected = index.search(index.rows.take(index.rows.ids[3:4])[0], 5)
    assert [hit["id"] for hit in part["hits"]] == expected.ids[0].tolist()
    assert answer["items"] == len(index) and answer["k"] == 5


def test_json_and_bytes_find_the_same(serve):
    client = serve()
    content = picture()
    plain = post(client, "/api/search?k=7&group=label&box=5,5,30,25", content).json()["queries"]
    by_json = ask(client, image=encoded(content), k=7, group="label", box=[5, 5, 30, 25])["queries"]
    assert plain == by_json
    groups = plain[0]["groups"]
    assert sorted(id_ for group in groups for id_ in group["items"]) == sorted(hit["id"] for hit in plain[0]["hits"])
    assert [group["score"] for group in groups] == sorted((group["score"] for group in groups), reverse=True)


def test_several_images_each_or_as_one(serve):
    client = serve()
    files = [Path(emoji_files()[row][0]).read_bytes() for row in (0, 9)]
    images = [encoded(content) for content in files]
    each = ask(client, images=images, k=3)["queries"]
    assert [part["hits"][0]["id"] for part in each] == [0, 9]
    [together] = ask(client, images=images, k=3, combine="mean")["queries"]
    assert len(together["query"]) == 2
    assert {hit["id"] for hit in together["hits"]} & {0, 9}
    cropped = ask(client, images=images, boxes=[[0, 0, 20, 20], None], k=1)["queries"]
    assert cropped[0]["query"][0]["box"] == [0, 0, 20, 20] and "box" not in cropped[1]["query"][0]


def test_texts_and_items_ask(serve):
    client = serve()
    assert len(ask(client, text="a red fruit", k=4)["queries"][0]["hits"]) == 4
    hits = ask(client, item=5, k=6)["queries"][0]["hits"]
    assert len(hits) == 6 and 5 not in [hit["id"] for hit in hits]
    assert "no item 999" in error_of(client.post("/api/search", json={"item": 999}), 404)


def test_filters(serve):
    client = serve()
    rows = emoji_files()
    for given, position in (({"labels": ["lemon"]}, 1), ({"categories": ["animal-bird"]}, 2)):
        hits = ask(client, item=0, k=100, **given)["queries"][0]["hits"]
        [wanted] = next(iter(given.values()))
        assert len(hits) == sum(row[position] == wanted for row in rows)
        assert {rows[hit["id"]][position] for hit in hits} == {wanted}
    # By what a label is called; the item that asks is not among the answers.
    assert len(ask(client, item=0, k=100, labels=["red apple"])["queries"][0]["hits"]) == 6
    assert "lemon" in error_of(client.post("/api/search", json={"item": 0, "labels": ["lemmon"]}), 422)
    assert post(client, "/api/search?label=lemon&label=owl&category=food-fruit", picture()).status_code == 200


def test_diverse_answers(serve, folder):
    """Against MMR as its paper has it, over all that is there; the item that asks is none of those that others are unlike."""
    client = serve()
    rows = Index.open(folder).rows
    units = rows.normalized(rows.ids).astype(np.float64)
    left = [id_ for id_ in rows.ids.tolist() if id_ != 5]
    chosen = []
    while len(chosen) < 6:
        likeness = {id_: max((units[id_] @ units[other] for other in chosen), default=0) for id_ in left}
        chosen.append(max(left, key=lambda id_: 0.4 * units[id_] @ units[5] - 0.6 * likeness[id_]))
        left.remove(chosen[-1])
    hits = ask(client, item=5, k=6, diversity=0.6)["queries"][0]["hits"]
    nearest = ask(client, item=5, k=6)["queries"][0]["hits"]
    assert [hit["id"] for hit in hits] == chosen != [hit["id"] for hit in nearest]
    assert hits[0] == nearest[0]
    by_words = post(client, "/api/search?k=4&diversity=0.6", picture()).json()["queries"][0]
    assert by_words["hits"] == ask(client, image=encoded(picture()), k=4, diversity=0.6)["queries"][0]["hits"]
    for wrong in (2, -1, True, "much", None, 10**400):
        assert "a number from 0 to 1" in error_of(client.post("/api/search", json={"item": 5, "diversity": wrong}), 422)


def test_a_form_finds_what_json_does(serve):
    client = serve()
    asks = {"X-Requested-With": "test"}
    files = [("image", ("a.png", picture(), "image/png")), ("image", ("b", picture(50, 50), "image/png"))]
    fields = {"k": "3", "category": "food-fruit", "combine": "mean"}
    by_form = client.post("/api/search", data=fields, files=files, headers=asks).json()["queries"]
    images = [encoded(picture()), encoded(picture(50, 50))]
    assert by_form == ask(client, images=images, k=3, categories=["food-fruit"], combine="mean")["queries"]
    text = client.post("/api/search", files={"text": (None, "a red fruit"), "k": (None, "2")}, headers=asks)
    assert text.json()["queries"] == ask(client, text="a red fruit", k=2)["queries"]


@pytest.mark.parametrize(
    "kind, body, status, sentence",
    [
        ("multipart/form-data", b"", 400, "names no boundary"),
        ("multipart/form-data; boundary=x", b"", 400, "its last boundary is missing"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nrest", 400, "its last boundary is missing"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nrest\r\n--x--", 400, "a part of the form has no name"),
        ("multipart/form-data; boundary=x", b"--x--", 422, "nothing is given"),
        ("multipart/form-data; boundary=\xff", b"--\xff--", 400, "names no boundary"),
    ],
)
def test_forms_that_are_none(serve, kind, body, status, sentence):
    headers = {"content-type": kind.encode("latin-1"), "X-Requested-With": "test"}
    assert sentence in error_of(serve().post("/api/search", content=body, headers=headers), status)
    piece = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    headers["content-type"] = "multipart/form-data; boundary=x"
    for name, value, told in ((b"imagee", b"", "Did you mean 'image'"), (b"text", b"\xff", "no text in UTF-8")):
        body = piece % (name, value) + b"--x--"
        assert told in error_of(serve().post("/api/search", content=body, headers=headers), 422)
    body = piece % (b"k", b"1") * 400 + b"--x--"
    assert "the form has 400 parts" in error_of(serve().post("/api/search", content=body, headers=headers), 422)


def test_decision(serve, folder):
    client = serve()
    part = ask(client, item=0, k=3)["queries"][0]
    assert part["unknown"] is None and part["hits"][0]["same"] is None
    Index.open(folder).decide(Decision(0.999, (0.0, 1.0), (0.0, 1.0)))
    part = ask(client, item=0, k=3)["queries"][0]
    hit = part["hits"][0]
    assert part["unknown"] is True and hit["is_same"] is False
    assert hit["same"] == pytest.approx(max(0, hit["score"]), abs=1e-4)
    assert client.get("/api/stats").json()["threshold"] == 0.999
    assert ask(client, image=encoded(Path(emoji_files()[0][0]).read_bytes()), k=1)["queries"][0]["unknown"] is False


@pytest.mark.parametrize(
    "fields, word",
    [
        ({}, "nothing"),
        ({"item": 1, "text": "x"}, "item"),
        ({"item": 1, "k": 0}, "k is 0"),
        ({"item": 1, "k": 10**9}, "1 to 200"),
        ({"item": 1, "k": True}, "k is True"),
        ({"item": 1.5}, "whole number"),
        ({"item": -1}, "item"),
        ({"item": 10**400}, "huge"),
        ({"item": 1, "kk": 3}, "Did you mean 'k'?"),
        ({"item": 1, "labels": []}, "labels"),
        ({"item": 1, "labels": [None]}, "labels"),
        ({"item": 1, "labels": "lemon"}, "a text"),
        ({"item": 1, "group": "category"}, "none, label"),
        ({"item": 1, "box": [0, 0, 1, 1]}, "one image"),
        ({"text": "  "}, "text"),
        ({"text": "a" * 1001}, "1000"),
        ({"text": "\ud800"}, "no character"),
        ({"text": "a\0b"}, "no character"),
        ({"text": ["a"]}, "a list"),
        ({"image": 7}, "base64"),
        ({"image": "#"}, "base64"),
        ({"images": []}, "images"),
        ({"images": ["aaaa"] * 17}, "17"),
        ({"images": [1]}, "images[0]"),
    ],
)
def test_wrong_fields(serve, fields, word):
    error = error_of(serve().post("/api/search", content=json.dumps(fields), headers=JSON), 422)
    assert word in error


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "box", [[0, 0, 0, 5], [5, 5, 1, 1], [-1, 0, 5, 5], [0, 0, 5], "0,0,5,5,", "a", [0, 0, 1e999, 5]]
)
def test_wrong_boxes(serve, box):
    content = json.dumps({"image": encoded(picture()), "box": box})
    response = serve().post("/api/search", content=content, headers=JSON)
    assert response.status_code in (400, 422) and "error" in response.json()


def test_a_box_beyond_the_image(serve):
    client = serve()
    assert "outside" in error_of(post(client, "/api/search?box=100,100,200,200", picture()), 422)
    assert post(client, "/api/search?box=10,10,2000,2000", picture()).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"NaN", b'{"k": NaN}', b"[" * 100_000, b"\xff\xfe", b'"' * 9]
)
def test_bodies_that_are_no_object(serve, body):
    response = serve().post("/api/search", content=body, headers=JSON)
    assert response.status_code in (400, 422) and response.json()["error"]


# Images that come in.


def png_of(width, height, data=b""):
    """A PNG that promises so many pixels."""

    def chunk(name, content):
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


HOSTILE_IMAGES = {
    "empty": (b"", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', 415),
    "html": (b"<html><script>alert(1)</script>", 415),
    "xml bomb": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><svg>&b;</svg>', 415),
    "zip": (b"PK\x03\x04" + b"\0" * 100, 415),
    "pdf": (b"%PDF-1.7", 415),
    "10,000 x 10,000": (png_of(10_000, 10_000, zlib.compress(b"\0" * 1000)), 413),
    "a billion pixels": (png_of(2**31 - 1, 2**31 - 1), 413),
    "no pixels": (png_of(0, 10), 415),
    "bomb": (png_of(6000, 6000, zlib.compress(b"\0" * (6000 * 18001), 9)), 200),
    "too much data": (png_of(4, 4, zlib.compress(b"\0" * 10**7, 9)), None),
    "cut": (picture(400, 400, suffix=".jpg")[:300], 415),
    "half a PNG": (picture(300, 300)[:200], 415),
    "only a start": (b"\xff\xd8\xff", 415),
    "RIFF": (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 30, 415),
    "GIF": (b"GIF89a\xff\xff\xff\xff\xf7\0\0", 413),
    "BMP": (b"BM" + b"\xff" * 60, None),
    "TIFF": (b"II*\0\xff\xff\xff\xff", 415),
}


@pytest.mark.parametrize("name", HOSTILE_IMAGES)
def test_hostile_images(serve, name):
    content, status = HOSTILE_IMAGES[name]
    client = serve()
    for path in ("/api/search", "/api/items"):
        response = post(client, path, content)
        if status is None:
            assert response.status_code in (200, 201, 413, 415)
        elif status == 200:
            assert response.status_code in (200, 201, 415)  # whether such a picture is whole is the decoder's business
        else:
            assert error_of(response, status)
    assert client.get("/api/health").json() == {"status": "ok"}


def test_large_images_are_refused_by_their_header(serve):
    client = serve(max_pixels=1000)
    start = time.perf_counter()
    assert "10000 x 10000 pixels" in error_of(post(client, "/api/search", png_of(10_000, 10_000)), 413)
    assert time.perf_counter() - start < 5
    assert post(client, "/api/search", picture(40, 25)).status_code == 200
    wide = cv2.imencode(".png", np.zeros((20, 10_000, 3), np.uint8))[1].tobytes()
    assert post(serve(), "/api/search", wide).status_code == 200


def test_large_bodies_are_refused(serve):
    client = serve(max_upload=5000)
    assert "5,000 bytes" in error_of(post(client, "/api/search", b"x" * 5001), 413)
    assert error_of(client.post("/api/search", json={"text": "x" * 6000}), 413)

    def stream():
        for _ in range(100):
            yield b"x" * 1000

    response = client.post("/api/search", content=stream(), headers={"content-type": "image/png"})
    assert error_of(response, 413)
    assert post(client, "/api/search", picture()).status_code == 200
    assert error_of(post(client, "/api/search", picture(), **{"content-encoding": "gzip"}), 415)


def test_other_types_of_content(serve):
    client = serve()
    for kind in ("text/html", "application/xml", "application/x-tar"):
        assert "Content-Type" in error_of(post(client, "/api/search", picture(), kind), 415)
        assert "Content-Type" in error_of(post(client, "/api/items", picture(), kind), 415)
        assert error_of(post(client, "/api/feedback", b"{}", kind), 415)


# Who may ask.


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_forms_of_other_sites_are_refused(serve, kind):
    client = serve()
    assert error_of(post(client, "/api/items", picture(), kind), 403)
    # With the header that another site cannot set, forms with files are read.
    status = 400 if kind.startswith("multipart") else 415
    assert error_of(post(client, "/api/search", b"k=1", kind, **{"x-requested-with": "search"}), status)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1"])
def test_pages_of_other_sites_are_refused(serve, origin):
    client = serve()
    assert error_of(client.get("/api/stats", headers={"origin": origin}), 403)
    assert "access-control-allow-origin" not in client.options("/api/search", headers={"origin": HOST}).headers
    assert client.get("/api/stats", headers={"origin": HOST}).status_code == 200


def test_hosts(serve):
    client = serve(hostnames=("search.example.org",))
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "search.example.org", "SEARCH.example.org:443"):
        assert client.get("/api/stats", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.", "[::2]"):
        assert client.get("/api/stats", headers={"host": host}).status_code == 400, host
    client = serve(host="0.0.0.0")
    for host in ("10.0.0.1:8000", socket.gethostname()):
        assert client.get("/api/health", headers={"host": host}).status_code == 200
    assert client.get("/api/health", headers={"host": "evil.example"}).status_code == 400


def test_token(serve):
    client = serve(token="secret-word")
    for path in ("/", "/api/health", "/openapi.json"):
        assert client.get(path).status_code == 200
    for given in (None, "Bearer", "Bearer wrong", "bearer secret-wor", "Basic secret-word", "Bearer sécret"):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for path in ("/api/stats", "/api/items/0/image", "/api/labels", "/api/items"):
            response = client.get(path, headers=headers)
            assert "token" in error_of(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert error_of(client.post("/api/search", json={"item": 1}, headers=headers), 401)
        assert error_of(client.delete("/api/items/1", headers=headers), 401)
    headers = {"authorization": "Bearer secret-word"}
    assert client.get("/api/stats", headers=headers).status_code == 200
    assert client.get("/openapi.json").json()["security"] == [{"token": []}]


def test_tokens_of_settings():
    assert ServeSettings().chosen_token() is None
    assert len(ServeSettings(host="0.0.0.0").chosen_token()) >= 20
    assert ServeSettings(host="0.0.0.0", token="none").chosen_token() is None
    assert ServeSettings(token="word").chosen_token() == "word"
    for host, is_local in (
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
    ):
        assert ServeSettings(host=host).is_local is is_local
    for token in ("", "two words", "é", "a\nb"):
        with pytest.raises(InputError, match="--token="):
            ServeSettings(token=token).chosen_token()


def test_rate_limit(serve):
    client = serve(rate_limit=5)
    statuses = [client.post("/api/search", json={"item": 1}).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    response = client.post("/api/search", json={"item": 1})
    assert "--rate_limit" in error_of(response, 429) and int(response.headers["retry-after"]) >= 1
    assert client.get("/api/health").status_code == 200


def test_rates(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rates = Rates(60)
    assert [rates.wait("a", 1) for _ in range(60)] == [0] * 60
    assert rates.wait("a", 1) == 2 and rates.wait("b", 1) == 0
    now[0] = 1.01
    assert rates.wait("a", 1) == 0 and rates.wait("a", 1) > 0
    assert Rates(0).wait("a", 1) == 0
    for number in range(20_000):
        rates.wait(str(number), 1)
    assert len(rates._clients) <= 10_000


def test_headers(serve):
    client = serve()
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "'unsafe" not in policy and "http" not in policy
    for path in ("/", "/api/stats", "/api/items/0/image", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "content-security-policy" in headers and "server" not in headers
    assert client.get("/api/stats").headers["cache-control"] == "no-store"
    for address in ("http://", "https://", "//"):
        outside = [part for part in page.text.split(address)[1:] if not part.startswith("www.w3.org/2000/svg")]
        if address != "//":
            assert not outside


def test_nothing_lies_elsewhere(serve):
    client = serve()
    for path in ("/etc/passwd", "/api", "/api/items/1/../../../etc/passwd", "/static/x", "/api/items/1/", "/docs"):
        assert client.get(path).status_code in (404, 405), path
    for id_ in ("-1", "x", "..", "%2e%2e", "1e3", "0x1", "99999999999999999999", "１", "1%00", "a/b", "4096"):
        for path in (f"/api/items/{id_}", f"/api/items/{id_}/image"):
            response = client.get(path)
            assert error_of(response, 404)
        assert client.delete(f"/api/items/{id_}").status_code in (404, 405)
    response = client.put("/api/search")
    assert error_of(response, 405) and "POST" in response.headers["allow"]


# What is shown.


def test_pictures_are_drawn_anew(serve, folder, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (900, 1800, 3), np.uint8)
    path = tmp_path / "gps.jpg"
    ok, content = cv2.imencode(".jpg", image)
    path.write_bytes(content.tobytes()[:2] + b"\xff\xfe\x00\x0ehome address" + content.tobytes()[2:])
    encoder = StubEncoder()
    Index.open(folder).add(
        encoder.embed("image", [encoder.prepare("image", image)] * 2),
        [path, path],
        ["x", "x"],
        FINGERPRINT,
        boxes=[[np.nan] * 4, [100, 100, 300, 200]],
    )
    client = serve()
    whole, boxed = Index.open(folder).rows.ids[-2:].tolist()
    for id_, size, shape in ((whole, "thumb", (160, 320)), (whole, "full", (800, 1600)), (boxed, "full", (100, 200))):
        response = client.get(f"/api/items/{id_}/image?size={size}")
        assert response.headers["content-type"] == "image/webp" and b"home address" not in response.content
        assert cv2.imdecode(np.frombuffer(response.content, np.uint8), 1).shape[:2] == shape
    mark = response.headers["etag"]
    assert client.get(f"/api/items/{boxed}/image?size=full", headers={"if-none-match": mark}).status_code == 304
    assert error_of(client.get(f"/api/items/{boxed}/image?size=huge"), 422)
    path.unlink()
    fresh = serve()
    error = error_of(fresh.get(f"/api/items/{whole}/image"), 404)
    assert str(tmp_path) not in error


def test_a_file_that_is_no_image_any_more_is_not_shown(serve, folder, tmp_path):
    path = tmp_path / "page.png"
    path.write_bytes(picture())
    Index.open(folder).add(np.ones((1, WIDTH), np.float32), [path], None, FINGERPRINT)
    path.write_text("<script>alert(1)</script>")
    client = serve()
    id_ = int(Index.open(folder).rows.ids[-1])
    assert error_of(client.get(f"/api/items/{id_}/image"), 404)


def test_stats_labels_and_samples(serve):
    client = serve()
    stats = client.get("/api/stats").json()
    rows = emoji_files()
    assert stats["items"] == len(rows) and stats["labels"] == 8 and stats["takes"] == ["image", "text"]
    counts = {one["category"]: one["items"] for one in stats["categories"]}
    assert counts["food-fruit"] == sum(row[2] == "food-fruit" for row in rows)
    labels = client.get("/api/labels?like=APPLE").json()["labels"]
    assert {one["label_name"] for one in labels} == {"red apple", "green-apple"}
    some = client.get("/api/items?count=5&seed=3").json()["items"]
    assert len({item["id"] for item in some}) == 5
    assert client.get("/api/items?count=5&seed=3").json()["items"] == some
    assert error_of(client.get("/api/items?count=0"), 422)
    assert error_of(client.get("/api/stats?x=1"), 422)
    assert client.get("/api/items/2").json()["id"] == 2


def test_hostile_names_are_text(serve, folder):
    encoder = StubEncoder()
    rng = np.random.default_rng(1)
    paths = [f"/nowhere/{name}/{number}\udcff.jpg" for number, name in enumerate(HOSTILE)]
    Index.open(folder).add(
        rng.standard_normal((len(HOSTILE), WIDTH)).astype(np.float32),
        paths,
        list(HOSTILE),
        FINGERPRINT,
        categories=list(HOSTILE),
        names={HOSTILE[0]: HOSTILE[1]},
    )
    client = serve(encoder=encoder)
    hits = ask(client, item=0, k=200)["queries"][0]["hits"]
    assert set(HOSTILE) <= {hit["label"] for hit in hits}
    for name in HOSTILE:
        assert ask(client, item=0, k=200, labels=[name])["queries"][0]["hits"]
        assert ask(client, item=0, k=200, categories=[name])["queries"][0]["hits"]
    assert client.get("/api/stats").status_code == 200
    assert client.get("/api/labels", params={"like": HOSTILE[3]}).json()["labels"]


# Changes.


def test_added_items_are_found_and_on_the_disk(serve, folder):
    client = serve()
    content = picture(colour=(10, 200, 90))
    response = post(client, "/api/items?label=lime&category=food-fruit", content)
    assert response.status_code == 201
    item = response.json()
    assert item["is_new"] and item["label"] == "lime" and item["category"] == "food-fruit"
    index = Index.open(folder)
    path = index.rows.paths(np.array([item["id"]]))[0]
    assert Path(path).parent == folder.resolve() / "uploads" and Path(path).read_bytes() == content
    assert post(client, "/api/search?k=1", content).json()["queries"][0]["hits"][0]["id"] == item["id"]
    # The same picture again is the same item.
    again = client.post("/api/items", json={"image": encoded(content), "label": "lime"})
    assert again.status_code == 200 and again.json()["id"] == item["id"] and not again.json()["is_new"]
    assert len(Index.open(folder)) == len(index)
    assert client.get(f"/api/items/{item['id']}/image").status_code == 200
    assert client.delete(f"/api/items/{item['id']}").json() == {"deleted": item["id"]}
    assert not Path(path).exists() and len(Index.open(folder)) == len(index) - 1
    assert error_of(client.delete(f"/api/items/{item['id']}"), 404)
    assert client.get(f"/api/items/{item['id']}/image").status_code == 404
    assert client.delete("/api/items/3").status_code == 200
    assert Path(emoji_files()[3][0]).exists()  # a file that nobody gave to this server


@pytest.mark.parametrize("label", [*HOSTILE, 7, -(2**63), None])
def test_labels_of_added_items(serve, label):
    client = serve()
    response = client.post("/api/items", json={"image": encoded(picture()), "label": label})
    assert response.status_code == 201 and response.json()["label"] == label


def test_labels_that_are_there(serve):
    client = serve()
    added = [
        client.post("/api/items", json={"image": encoded(picture(colour=(n, 0, 0))), "label": "red apple"})
        for n in (1,)
    ]
    assert added[0].json()["label"] == "red-apple"
    for label in (2**63, True, "", "  ", "a" * 201, ["x"], {"a": 1}, 1.5, "\0"):
        assert client.post("/api/items", json={"image": encoded(picture()), "label": label}).status_code == 422
    assert error_of(client.post("/api/items", json={"label": "x"}), 422)
    assert error_of(client.post("/api/items", json={"image": encoded(picture()), "name": "../../x"}), 422)


def test_many_changes_at_a_time(serve, folder):
    client = serve()
    before = len(Index.open(folder))

    def add(number):
        return post(client, f"/api/items?label=n{number % 5}", picture(colour=(number, 255 - number, 99))).json()

    with ThreadPoolExecutor(16) as pool:
        items = list(pool.map(add, range(40)))
    ids = {item["id"] for item in items}
    assert len(ids) == 40 and all(item["is_new"] for item in items)
    index = Index.open(folder)
    assert len(index) == before + 40 and ids <= set(index.rows.ids.tolist())
    assert index.card["generation"] < 41  # several were one change
    for item, number in zip(items, range(40)):
        assert item["label"] == f"n{number % 5}"
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda id_: client.delete(f"/api/items/{id_}").status_code, [*ids, *ids]))
    assert sorted(statuses) == [200] * 40 + [404] * 40
    assert len(Index.open(folder)) == before


def test_other_processes_change_the_index(serve, folder, monkeypatch):
    client = serve()
    encoder = StubEncoder()
    image = np.full((20, 20, 3), (1, 2, 250), np.uint8)
    index = Index.open(folder)
    index.add(encoder.embed("image", [encoder.prepare("image", image)]), ["/elsewhere.png"], ["blue"], FINGERPRINT)
    assert client.get("/api/stats").json()["items"] == len(index)
    hits = post(client, "/api/search?k=1", cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()).json()["queries"][0][
        "hits"
    ]
    assert hits[0]["label"] == "blue"
    # While another one holds the lock, changes wait and then give up; searches go on.
    monkeypatch.setattr(collection_module, "PATIENCE", 0.2)
    with locked(folder):
        response = post(client, "/api/items", picture())
        assert "another process" in error_of(response, 503) and response.headers["retry-after"]
        assert ask(client, item=1)
    assert not list((folder / "uploads").glob("*"))
    assert post(client, "/api/items", picture()).status_code == 201


def test_an_index_of_another_model(serve, folder):
    client = serve()
    before = client.get("/api/stats").json()
    rng = np.random.default_rng(0)
    Index.build(
        folder, rng.standard_normal((3, 5)).astype(np.float32), ["a", "b", "c"], None, {"model": "x"}, overwrite=True
    )
    assert ask(client, item=0)["items"] == before["items"]
    assert "another model" in client.get("/api/stats").json()["trouble"]
    assert "another model" in error_of(post(client, "/api/items", picture()), 409)
    with pytest.raises(InputError, match="another model"):
        Server(folder, StubEncoder(), ServeSettings())


class TurnedEncoder(StubEncoder):
    """Another model, of half the width."""

    fingerprint = {"model": "turned pixels of a stub"}
    matrix = np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, WIDTH)))[0][:, : WIDTH // 2]

    def embed(self, kind, inputs):
        return (super().embed(kind, inputs) @ self.matrix).astype(np.float32)


def go_over(folder):
    """Take the index to the other model, as an upgrade does."""
    index = Index.open(folder)
    encoder = TurnedEncoder()
    inputs = [encoder.prepare("image", read_image(path)) for path in index.rows.paths()]
    first = index.card["next_id"]
    index.rewrite(index.rows.ids, encoder.embed("image", inputs), encoder.fingerprint, {}, first)


def test_an_upgrade_while_it_serves(serve, folder):
    may_load = threading.Event()

    def open_encoder(index):
        assert index.card["fingerprint"] == TurnedEncoder.fingerprint
        assert may_load.wait(30)
        return TurnedEncoder()

    client = serve(open_encoder=open_encoder)
    path, label, _ = emoji_files()[7]
    content = Path(path).read_bytes()
    collection = client.server.collection
    before = post(client, "/api/search", content, "image/webp").json()
    old_query = Query(collection.now().embedding(7), 3, FINGERPRINT)

    # While the model is loaded the generation before answers, and says so; nothing is added to it.
    go_over(folder)
    meanwhile = post(client, "/api/search", content, "image/webp").json()
    assert meanwhile["queries"] == before["queries"] and meanwhile["generation"] == before["generation"]
    assert "that model is being loaded" in client.get("/api/stats").json()["trouble"]
    assert "another model" in error_of(post(client, "/api/items", picture()), 409)

    may_load.set()
    until = time.monotonic() + 30
    while client.get("/api/stats").json()["trouble"] and time.monotonic() < until:
        time.sleep(0.01)
    stats = client.get("/api/stats").json()
    assert stats["trouble"] is None and stats["width"] == WIDTH // 2
    hits = post(client, "/api/search", content, "image/webp").json()["queries"][0]["hits"]
    assert hits[0]["label"] == label and hits[0]["score"] == pytest.approx(1, abs=1e-6)
    assert hits[0]["id"] >= len(emoji_files())  # items have new ids
    assert post(client, "/api/items", picture()).status_code == 201

    # What the model before has embedded is searched among what it has embedded; what neither has is not answered.
    [(generation, found)] = collection.search([old_query])
    assert generation.number == before["generation"] and found.ids[0] == 7
    new_query = Query(collection.now().embedding(hits[0]["id"]), 3, TurnedEncoder.fingerprint)
    mixed = collection.search([old_query, new_query])
    assert mixed[0][1].ids[0] == 7 and mixed[1][1].ids[0] == hits[0]["id"]
    [refusal] = collection.search([Query(old_query.embedding, 3, {"model": "a third one"})])
    assert refusal.status == 503


def test_an_upgrade_whose_model_cannot_be_loaded(serve, folder):
    def open_encoder(index):
        raise InputError("its weights are gone")

    client = serve(open_encoder=open_encoder)
    go_over(folder)
    until = time.monotonic() + 30
    while "its weights are gone" not in (client.get("/api/stats").json()["trouble"] or "") and time.monotonic() < until:
        time.sleep(0.01)
    assert "its weights are gone" in client.get("/api/stats").json()["trouble"]
    assert ask(client, item=0)["items"] == len(emoji_files())


def test_damaged_indexes(serve, folder):
    client = serve()
    card = folder / "index.json"
    content = card.read_bytes()
    card.write_bytes(b"{")
    assert ask(client, item=0)
    assert client.get("/api/stats").json()["trouble"]
    assert error_of(client.delete("/api/items/0"), 409)
    card.write_bytes(content)
    assert client.get("/api/stats").json()["trouble"] is None
    assert client.delete("/api/items/0").status_code == 200
    with pytest.raises(InputError, match="is no index"):
        Server(folder / "nothing", StubEncoder(), ServeSettings())


def test_a_full_disk(serve, folder, monkeypatch):
    client = serve()
    before = Index.open(folder).card["generation"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in error_of(post(client, "/api/items", picture()), 507)
        assert "No space left" in error_of(client.delete("/api/items/0"), 507)
        body = {"items": [0, 1], "same": True}
        assert "No space left" in error_of(client.post("/api/feedback", json=body), 507)
    assert Index.open(folder).card["generation"] == before
    assert not list((folder / "uploads").glob("*.png"))
    assert client.post("/api/feedback", json=body).status_code == 201
    assert len(read_feedback(folder)) == 1
    assert post(client, "/api/items", picture()).status_code == 201


def test_read_only(serve, folder):
    client = serve(read_only=True)
    for response in (
        post(client, "/api/items", picture()),
        client.delete("/api/items/1"),
        client.post("/api/feedback", json={"items": [1, 2], "same": True}),
        client.delete("/api/feedback/x"),
    ):
        assert "read_only" in error_of(response, 403)
    assert ask(client, item=1)


# Feedback.


def read_feedback(folder):
    with open(folder / "feedback.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_feedback(serve, folder):
    client = serve()
    rows = emoji_files()
    content = picture()
    part = post(client, "/api/search?k=3&box=2,3,30,20", content).json()["queries"][0]
    ids = [hit["id"] for hit in part["hits"]]
    response = client.post("/api/feedback", json={"query": part["query"], "items": ids[:2], "same": True})
    assert response.status_code == 201 and response.json()["written"] == 2
    client.post("/api/feedback", json={"query": [{"item": 4}], "items": [ids[2]], "same": False})
    client.post("/api/feedback", json={"query": [{"text": 'a, "red"\nfruit'}], "items": [1], "same": True})
    client.post("/api/feedback", json={"items": [1, 2, 3], "same": True})
    written = read_feedback(folder)
    assert [tuple(row) for row in written[:1]] == [("query", "item", "same", "time")]
    query = written[0]["query"]
    path, _, box = query.rpartition("#")
    assert Path(path).parent == folder.resolve() / "feedback" and Path(path).read_bytes() == content
    assert box == "2,3,30,20"
    assert [row["item"] for row in written[:2]] == [rows[id_][0] for id_ in ids[:2]]
    assert [row["same"] for row in written] == ["1", "1", "0", "1", "1", "1"]
    assert written[2]["query"] == rows[4][0] and written[3]["query"] == 'text:a, "red"\nfruit'
    assert [(row["query"], row["item"]) for row in written[4:]] == [(rows[1][0], rows[2][0]), (rows[1][0], rows[3][0])]
    times = [row["time"] for row in written]
    assert times == sorted(set(times)) and all(time.endswith("Z") for time in times)
    # Undone.
    assert client.delete(f"/api/feedback/{times[3]}").json() == {"removed": 1}
    assert [row["time"] for row in read_feedback(folder)] == times[:3] + times[4:]
    assert error_of(client.delete(f"/api/feedback/{times[3]}"), 404)


def test_feedback_is_what_training_reads(serve, folder):
    client = serve()
    part = post(client, "/api/search?k=3&box=2,3,30,20", picture()).json()["queries"][0]
    ids = [hit["id"] for hit in part["hits"]]
    client.post("/api/feedback", json={"query": part["query"], "items": ids[:1], "same": True})
    client.post("/api/feedback", json={"query": [{"item": ids[1]}], "items": ids[2:], "same": False})
    pairs = open_feedback("whitening", feedback=str(folder / "feedback.csv"))
    assert pairs.same.tolist() == [True, False] and len(pairs.records) == 4
    # Which image of a pair comes first is up to their names, so to where the index lies.
    boxes = [pairs.records.box_of(row).tolist() for row in (pairs.first[0], pairs.second[0])]
    assert [2, 3, 30, 20] in boxes


def test_feedback_on_what_is_forgotten(serve, folder):
    client = serve()
    client.server._remembered = Remembered(10)
    first = post(client, "/api/search", picture()).json()["queries"][0]["query"]
    post(client, "/api/search", picture(colour=(1, 1, 1)))
    body = {"query": first, "items": [0], "same": True}
    assert "send it as content" in error_of(client.post("/api/feedback", json=body), 410)
    body["query"] = [{"content": encoded(picture()), "box": None}]
    assert client.post("/api/feedback", json=body).status_code == 201
    body["query"] = [{"content": encoded(b"<svg/>")}]
    assert error_of(client.post("/api/feedback", json=body), 415)
    body["query"] = [{"image": "../../etc/passwd"}]
    assert error_of(client.post("/api/feedback", json=body), 410)


@pytest.mark.parametrize(
    "body",
    [
        {"items": [1], "same": True},
        {"items": [], "same": True},
        {"items": [1, 2]},
        {"items": [1, 2], "same": 1},
        {"items": ["../x", 2], "same": True},
        {"items": [1, 2], "same": True, "path": "/etc/passwd"},
        {"query": [], "items": [1], "same": True},
        {"query": [{}], "items": [1], "same": True},
        {"query": [{"item": 1, "text": "x"}], "items": [1], "same": True},
        {"query": [{"path": "/etc/passwd"}], "items": [1], "same": True},
        {"query": ["x"], "items": [1], "same": True},
    ],
)
def test_wrong_feedback(serve, folder, body):
    assert error_of(serve().post("/api/feedback", json=body), 422)
    assert not (folder / "feedback.csv").exists()


def test_names_of_feedback_survive(tmp_path):
    feedback = Feedback(tmp_path)
    names = [*HOSTILE, "/a/\udcff.jpg", '"', "\n", ",", "\r", "x#1,2,3,4"]
    pairs = list(zip(names, reversed(names)))
    feedback.append(pairs, True)
    feedback.append(pairs, False)
    written = read_feedback(tmp_path)
    assert [(row["query"], row["item"]) for row in written] == pairs * 2
    # What a lost power supply has left of a line is cut off; all that was acknowledged stays.
    for torn in (b"/a.jpg,/b", b'"/a\n,', b'"', b"x,y,1,2026"):
        with open(feedback.path, "ab") as file:
            file.write(torn)
        again = Feedback(tmp_path)
        assert read_feedback(tmp_path) == written
    assert again.names() >= set(names)
    again.append([("a", "b")], True)
    assert len(read_feedback(tmp_path)) == len(written) + 1


def test_feedback_of_many_at_a_time(serve, folder):
    client = serve()
    with ThreadPoolExecutor(8) as pool:
        body = {"items": [1, 2], "same": True}
        answers = list(pool.map(lambda _: client.post("/api/feedback", json=body).json(), range(50)))
    times = [answer["times"][0] for answer in answers]
    assert len(set(times)) == 50 and {row["time"] for row in read_feedback(folder)} == set(times)


def test_a_file_that_feedback_names_stays(serve, folder):
    client = serve()
    item = post(client, "/api/items", picture()).json()["id"]
    client.post("/api/feedback", json={"items": [item, 1], "same": True})
    client.delete(f"/api/items/{item}")
    assert len(list((folder / "uploads").iterdir())) == 1


# Below the routes.


def test_held_rows_find_what_the_index_finds(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 24))
    rows = (centres[rng.integers(0, 40, 600)] + 0.05 * rng.standard_normal((600, 24))).astype(np.float32)
    rows[100:140] = rows[100]
    rows[140:150] = rows[100] * (1 + 2.0**-20)
    rows[5] = 0
    labels = [f"l{number % 7}" for number in range(600)]
    folder = tmp_path / "index"
    index = Index.build(folder, rows[:500], [f"/{n}" for n in range(500)], labels[:500], None)
    index.add(rows[500:], [f"/{n}" for n in range(500, 600)], labels[500:])
    index.delete(list(range(0, 300, 3)))
    held = HeldRows(index.rows)
    queries = np.concatenate(
        [rows[90:110], rng.standard_normal((10, 24)).astype(np.float32), np.zeros((1, 24), np.float32)]
    )
    for k in (1, 5, 60, len(index)):
        expected = index.search(queries, k)
        ids, scores = held.search(queries, k)
        assert np.array_equal(ids, expected.ids) and np.array_equal(scores, expected.scores)
    allowed = index.rows.labels() == "l3"
    expected = index.search(queries, 30, labels=["l3"])
    ids, scores = held.search(queries, 30, allowed)
    assert np.array_equal(ids, expected.ids) and np.array_equal(scores, expected.scores)
    # The next generation takes over what it can.
    again = HeldRows(Index.open(folder).rows, held)
    assert all(again._segments[name] is held._segments[name] for name in again._segments)


def test_a_collection_answers_each_query(folder):
    collection = Collection(folder, StubEncoder())
    embedding = collection.now().embedding(4)
    queries = [
        Query(embedding, 3, FINGERPRINT),
        Query(embedding, 8, FINGERPRINT),
        Query(embedding, 2, FINGERPRINT, ("lemon",)),
        Query(embedding, 2, FINGERPRINT, ("nothing",)),
        Query(embedding, 2, FINGERPRINT, ("lemon",), ("animal-bird",)),
    ]
    answers = collection.search(queries)
    assert [len(answers[n][1].ids) for n in range(3)] == [3, 8, 2]
    assert answers[0][1].ids.tolist() == answers[1][1].ids[:3].tolist()
    assert isinstance(answers[3], InputError) and isinstance(answers[4], InputError)
    for query, (_, hits) in zip(queries, answers[:3]):
        assert hits.scores.tolist() == collection.search([query])[0][1].scores.tolist()


def test_an_index_that_becomes_empty(serve, tmp_path):
    folder = tmp_path / "small.index"
    make_index(folder, emoji_files()[:2])
    client = serve(index=folder)
    for id_ in (0, 1):
        assert client.delete(f"/api/items/{id_}").status_code == 200
    assert post(client, "/api/search", picture()).json()["queries"][0]["hits"] == []
    assert client.get("/api/items").json()["items"] == []
    assert post(client, "/api/items?label=new", picture()).status_code == 201
    assert len(post(client, "/api/search", picture()).json()["queries"][0]["hits"]) == 1


def test_gatherer():
    batches = []
    gate = threading.Event()

    def work(jobs):
        gate.wait()
        batches.append(list(jobs))
        if "bad batch" in jobs:
            raise ValueError("all of it")
        return [ValueError("one") if job == "bad" else job * 2 for job in jobs]

    gatherer = Gatherer("test", work, 4, 6)
    first = gatherer.submit(1)
    time.sleep(0.1)
    others = [gatherer.submit(job) for job in (2, "bad", 3, 4, 5)]
    gone = gatherer.submit(6)
    gone.cancel()
    with pytest.raises(Refusal) as refused:
        gatherer.submit(7)
    assert refused.value.status == 503
    gate.set()
    assert first.result(5) == 2 and others[0].result(5) == 4 and others[4].result(5) == 10
    with pytest.raises(ValueError, match="one"):
        others[1].result(5)
    assert batches == [[1], [2, "bad", 3, 4], [5]]
    failing = gatherer.submit("bad batch")
    with pytest.raises(ValueError, match="all of it"):
        failing.result(5)
    last = gatherer.submit(9)
    gatherer.close()
    assert last.result(0) == 18
    with pytest.raises(Refusal):
        gatherer.submit(1)
    gatherer.close()


def test_requests_are_embedded_together(serve):
    sizes = []

    class Slow(StubEncoder):
        def embed(self, kind, inputs):
            sizes.append(len(inputs))
            time.sleep(0.05)
            return super().embed(kind, inputs)

    client = serve(encoder=Slow())
    with ThreadPoolExecutor(12) as pool:
        parts = list(pool.map(lambda n: post(client, "/api/search?k=2", picture(colour=(n, 0, 0))).json(), range(24)))
    assert len(parts) == 24 and sum(sizes) == 24 and max(sizes) > 1


def test_a_model_that_makes_no_numbers(serve):
    class Broken(StubEncoder):
        takes = frozenset({"image"})

        def embed(self, kind, inputs):
            return np.full((len(inputs), WIDTH), np.nan, np.float32)

    client = serve(encoder=Broken())
    assert error_of(post(client, "/api/search", picture()), 422)
    assert error_of(post(client, "/api/items", picture()), 422)
    assert "no words" in error_of(client.post("/api/search", json={"text": "x"}), 422)


def test_a_mistake_of_the_server_is_told_without_details(serve, capsys):
    class Failing(StubEncoder):
        def embed(self, kind, inputs):
            raise RuntimeError("secret details")

    client = serve(encoder=Failing())
    error = error_of(post(client, "/api/search", picture()), 500)
    assert "secret" not in error and "secret details" in capsys.readouterr().out


def test_description_is_true(serve):
    client = serve()
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    known = {
        (path, method) for path, methods in document["paths"].items() for method in methods if method != "parameters"
    }
    app = client.server.app._app
    served = set()
    for route in app.routes:
        for method in route.methods - {"HEAD"}:
            served.add((route.path, method.lower()))
    assert known == served


def test_ports(tmp_path):
    with open_port(ServeSettings(port=0)) as port:
        # What asyncio goes by where it turns off the waiting for more to send.
        assert port.proto == socket.IPPROTO_TCP
        number = port.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={number}.*take another one"):
            open_port(ServeSettings(port=number))
    with pytest.raises(InputError, match="--host=no.such.host.invalid"):
        open_port(ServeSettings(host="no.such.host.invalid", port=0))
    with pytest.raises(InputError, match="--host=203.0.113.9"):
        open_port(ServeSettings(host="203.0.113.9", port=0))


def test_the_network_of_an_index(finished_run, sop_tree, tmp_path):
    """What the server makes of an image is what `search.py build` made of it."""
    folder = tmp_path / "shapes.index"
    line = [
        folder,
        f"--pretrained_model={finished_run}",
        f"--data_dir={sop_tree}",
        "--use_gpu=False",
        "--num_workers=0",
    ]
    run("search", ["build", *line])
    settings = settings_for_index(ModelSettings(), (), Index.open(folder))
    encoder = open_live_encoder(settings, torch.device("cpu"), "fp32", "torch")
    server = Server(folder, encoder, ServeSettings())
    assert encoder.takes == {"image"}
    with TestClient(server.app, base_url=HOST) as client:
        for id_, path in enumerate(Index.open(folder).rows.paths()[:5]):
            answer = post(client, "/api/search?k=30", Path(path).read_bytes(), "image/jpeg").json()
            scores = {hit["id"]: hit["score"] for hit in answer["queries"][0]["hits"]}
            assert scores[id_] == pytest.approx(1, abs=1e-5)


def test_mistakes_of_the_command_line(emoji_index, tmp_path):
    with open_port(ServeSettings(port=0)) as port:
        number = port.getsockname()[1]
        with pytest.raises(InputError, match="take another one by --port"):
            run("search", ["serve", emoji_index, f"--port={number}"])
    with pytest.raises(InputError, match="is no index"):
        run("search", ["serve", tmp_path / "nothing", "--port=0"])
    with pytest.raises(InputError, match="names no model; give --pretrained_model"):
        run("search", ["serve", emoji_index, "--port=0"])
    for flag in ("--port=65536", "--port=-1", "--max_upload=x", "--rate_limit=-1", "--prot=1"):
        with pytest.raises((SystemExit, InputError)):
            run("search", ["serve", emoji_index, flag])
    with pytest.raises(InputError, match="--token="):
        run("search", ["serve", emoji_index, "--token=two words"])


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_packages_that_are_missing(emoji_index, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package {package}: pip install -r requirements/serve.txt"):
        run("search", ["serve", emoji_index])


@pytest.mark.slow
def test_a_signal_stops_it_in_order(folder):
    server = Process(folder)
    assert server.client.post("/api/search", json={"item": 1}).status_code == 200
    item = server.client.post("/api/items?label=kept", content=picture(), headers={"content-type": "image/png"}).json()
    status, printed = server.end(signal.SIGTERM)
    assert status == 0 and "all that was acknowledged is on the disk" in printed
    assert Index.open(folder).rows.has(np.array([item["id"]]))[0]


@pytest.mark.slow
def test_the_command_line(emoji_index, finished_run, sop_tree, tmp_path):
    """`search.py serve` as people start it: it says where it is, answers, and ends in order."""
    folder = tmp_path / "shapes.index"
    line = [f"--pretrained_model={finished_run}", f"--data_dir={sop_tree}", "--use_gpu=False", "--num_workers=0"]
    run("search", ["build", folder, *line])
    # A process of its own knows the models of the tests by a line in front.
    code = "import sys; from runs import tiny_backbone, run; tiny_backbone().__enter__(); import search; "
    code += "search.main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "serve", str(folder), "--port=0", "--use_gpu=False", "--token=word"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    printed = []
    for text in process.stdout:
        printed.append(text)
        if text.startswith("serving at "):
            break
    assert printed[-2] == "30 images\n", printed
    address = printed[-1].removeprefix("serving at ").strip()
    headers = {"authorization": "Bearer word"}
    assert "<!doctype html>" in httpx.get(address, timeout=60).text
    assert httpx.get(f"{address}api/stats", timeout=60).status_code == 401
    answer = httpx.post(f"{address}api/search", json={"item": 1, "k": 3}, headers=headers, timeout=60)
    assert len(answer.json()["queries"][0]["hits"]) == 3
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "all that was acknowledged is on the disk" in rest, rest


@pytest.mark.slow
def test_killed_and_started_again(folder):
    """What was acknowledged before a kill in the middle of changes is there when the server starts again."""
    acknowledged = {}
    deleted = set()
    feedback = []
    number = 0
    for attempt in range(4):
        server = Process(folder)
        stop = threading.Event()
        lock = threading.Lock()

        def change(worker, server=server, stop=stop, lock=lock, attempt=attempt):
            count = 0
            with httpx.Client(base_url=server.address, timeout=30) as client:
                while not stop.is_set():
                    count += 1
                    colour = (attempt * 60 + count % 60, worker * 60, (count * 7) % 250)
                    try:
                        item = post(client, f"/api/items?label=w{worker}", picture(colour=colour)).json()
                        with lock:
                            acknowledged[item["id"]] = f"w{worker}"
                        note = client.post("/api/feedback", json={"items": [item["id"], 1], "same": True}).json()
                        with lock:
                            feedback.extend(note["times"])
                        if count % 5 == 0:
                            with lock:
                                deleted.add(item["id"])  # asked for: it may be there or not
                            client.delete(f"/api/items/{item['id']}")
                    except (httpx.TransportError, ValueError, KeyError):
                        return

        threads = [threading.Thread(target=change, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(2.5)
        status, _ = server.end(signal.SIGKILL if attempt < 3 else signal.SIGTERM)
        stop.set()
        for thread in threads:
            thread.join()
        number = len(acknowledged)
        index = Index.open(folder)
        there = set(index.rows.ids.tolist())
        assert set(acknowledged) - deleted <= there
        assert set(feedback) <= {row["time"] for row in read_feedback(folder)}
        for path in index.rows.paths():
            assert Path(path).is_file()
    assert number > 20 and status == 0


@pytest.mark.slow
def test_load(folder):
    """Everything at a time (LOAD_SECONDS=60: for so long), without an error or a growth of memory."""
    seconds = float(os.environ.get("LOAD_SECONDS", "24"))
    server = Process(folder, rate_limit=0)
    errors = []
    counts = [0] * 12
    until = time.monotonic() + seconds

    def memory():
        text = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])

    def load(worker):
        import httpx

        with httpx.Client(base_url=server.address, timeout=60) as client:
            while time.monotonic() < until:
                number = counts[worker]
                counts[worker] += 1
                size = 40 + number % 50
                responses = [
                    post(client, "/api/search?k=10", picture(size, size, (number % 250, worker * 20, 3))),
                    client.post("/api/search", json={"text": f"words {number}", "k": 5}),
                    client.get(f"/api/items/{number % 40}/image"),
                    client.get("/api/stats"),
                ]
                if number % 10 == 0:
                    added = post(client, "/api/items", picture(size, size, (worker, number % 250, number // 250)))
                    responses.append(added)
                    if added.status_code == 201:
                        responses.append(client.delete(f"/api/items/{added.json()['id']}"))
                errors.extend(f"{r.status_code} {r.text[:80]}" for r in responses if r.status_code not in (200, 201))

    threads = [threading.Thread(target=load, args=(worker,)) for worker in range(len(counts))]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    early = memory()
    for thread in threads:
        thread.join()
    late = memory()
    status, _ = server.end(signal.SIGTERM)
    print(f"{sum(counts)} rounds, {early} kB after 20 s, {late} kB after 60 s")
    assert not errors, errors[:5]
    assert status == 0 and late < 1.1 * early + 20_000


@pytest.mark.slow
def test_its_description_is_kept(folder):
    """Requests that the description allows, and others, drawn by schemathesis, are answered as it says."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    server = Process(folder, rate_limit=0)
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    schema.config.update(base_url=server.address)
    checked = 0
    for operation in schema.get_all_operations():
        operation = operation.ok()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(case=operation.as_strategy())
        def check(case):
            # Whether base64 is that of an image, and a box lies within it, no schema says.
            case.call_and_validate(excluded_checks=[positive_data_acceptance] if case.method == "POST" else [])

        check()
        checked += 1
    server.end(signal.SIGTERM)
    assert checked >= 11


def test_slow_bodies(monkeypatch, folder):
    """A body that does not come is not waited for without end."""
    from serving import asking

    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    server = Server(folder, StubEncoder(), ServeSettings(rate_limit=0))
    sent = []

    async def receive():
        await asyncio.sleep(5)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/search",
        "raw_path": b"/api/search",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    asyncio.run(server.app(scope, receive, send))
    assert sent[0]["status"] == 408
    server.close()
