"""A server of an index of sounds: what is uploaded, found, added, played, and refused; its page in headless Chromium."""

import io
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
from served import FINGERPRINT
from starlette.testclient import TestClient
from test_report_browser import CHROMIUM, DRIVER
from test_serving import HOST, StubEncoder, encoded, error_of, picture, post

from retrieval.index.index import Index
from serving.app import Server
from serving.settings import ServeSettings

RATE, BINS = 8000, 40
TONES = {"low": (200, 260), "middle": (700, 800, 760), "high": (1900, 2100)}


def tone(hertz, seconds=0.5, rate=RATE):
    """The bytes of a WAV."""
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return stream.getvalue()


class SoundEncoder:
    """How much of a sound lies in which band."""

    takes = frozenset({"audio"})
    fingerprint = FINGERPRINT

    def prepare(self, kind, sample):
        assert kind == "audio"
        with sample.sound as sound:
            samples = sound.read(0, min(sound.frames, RATE // 2))
        spectrum = np.abs(np.fft.rfft(samples, RATE // 2))[: RATE // 4]
        return torch.from_numpy(np.sqrt(spectrum.reshape(BINS, -1).sum(1)).astype(np.float32))

    def embed(self, kind, inputs):
        return torch.stack(list(inputs)).numpy()


@pytest.fixture
def folder(tmp_path):
    """An index of seven tones."""
    from serving.sounds import prepare_clip

    paths, labels, embeddings = [], [], []
    for label, several in TONES.items():
        for hertz in several:
            paths.append(str(tmp_path / f"{label}-{hertz}.wav"))
            Path(paths[-1]).write_bytes(tone(hertz))
            labels.append(label)
            embeddings.append(prepare_clip(SoundEncoder(), Path(paths[-1]).read_bytes()))
    Index.build(tmp_path / "tones.index", torch.stack(embeddings), paths, labels, FINGERPRINT)
    return tmp_path / "tones.index"


@pytest.fixture
def client(folder):
    server = Server(folder, SoundEncoder(), ServeSettings(rate_limit=0))
    with TestClient(server.app, base_url=HOST, raise_server_exceptions=False) as client:
        client.server = server
        yield client


def test_a_sound_finds_those_like_it(client):
    stats = client.get("/api/stats").json()
    assert stats["takes"] == ["audio"] and stats["noun"] == "clip"
    by_bytes = post(client, "/api/search?k=3&label=low&label=middle", tone(750), "audio/wav").json()["queries"][0]
    first, *others = by_bytes["hits"]
    assert (first["label"], first["kind"]) == ("middle", "audio")
    assert {hit["label"] for hit in others} <= {"low", "middle"}
    without_type = post(client, "/api/search?k=3&label=low&label=middle", tone(750), "application/octet-stream").json()[
        "queries"
    ][0]
    by_json = client.post(
        "/api/search", json={"sound": encoded(tone(750)), "k": 3, "labels": ["low", "middle"]}
    ).json()["queries"][0]
    assert by_json == without_type and by_json["hits"] == by_bytes["hits"]
    assert list(by_json["query"][0]) == ["sound"]


def test_opinions_keep_the_sound_that_asked(client, folder):
    part = post(client, "/api/search?k=2", tone(210), "audio/wav").json()["queries"][0]
    items = [hit["id"] for hit in part["hits"]]
    assert client.post("/api/feedback", json={"query": part["query"], "items": items, "same": True}).status_code == 201
    content = [{"content": encoded(tone(220))}]
    assert client.post("/api/feedback", json={"query": content, "items": items, "same": False}).status_code == 201
    kept = sorted((folder / "feedback").iterdir())
    assert [file.suffix for file in kept] == [".wav", ".wav"]
    assert {file.read_bytes() for file in kept} == {tone(210), tone(220)}
    lost = client.post("/api/feedback", json={"query": [{"sound": "x"}], "items": items, "same": True})
    assert "that sound is not remembered any more" in error_of(lost, 410)


def test_a_sound_is_added_shown_and_played(client, folder):
    added = post(client, "/api/items?label=low", tone(230), "audio/wav")
    assert added.status_code == 201
    item = added.json()
    assert (item["label"], item["kind"]) == ("low", "audio") and len(list((folder / "uploads").glob("*.wav"))) == 1
    again = client.post("/api/items", json={"sound": encoded(tone(230)), "label": "low"})
    assert again.status_code == 200 and again.json()["id"] == item["id"]
    assert client.get(f"/api/items/{item['id']}/image").headers["content-type"] == "image/webp"
    played = client.get(f"/api/items/{item['id']}/sound")
    assert played.headers["content-type"] in ("audio/mpeg", "audio/wav") and len(played.content) > 1000
    assert client.delete(f"/api/items/{item['id']}").status_code == 200
    assert not list((folder / "uploads").glob("*.wav"))
    error_of(client.get(f"/api/items/{item['id']}/sound"), 404)


def test_a_form_brings_files(client):
    asks = {"X-Requested-With": "test"}
    fields = {"k": "2", "label": ["low", "high"], "diversity": "0"}
    files = {"sound": ("any name.wav", tone(250), "audio/wav")}
    part = client.post("/api/search", data=fields, files=files, headers=asks).json()["queries"][0]
    plain = post(client, "/api/search?k=2&label=low&label=high", tone(250), "audio/wav").json()["queries"][0]
    assert part == plain
    added = client.post("/api/items", data={"label": "low", "category": "ü"}, files=files, headers=asks)
    assert added.status_code == 201 and added.json()["category"] == "ü"
    assert "one of image and sound is needed" in error_of(
        client.post("/api/items", files={"label": (None, "x")}, headers=asks), 422
    )
    # Another site can send a form, which is why it has to bear a header that only this one sets.
    assert client.post("/api/search", files=files).status_code == 403


def wav_header(rate, channels, frames=100):
    """A WAV of zeros of 16 bits."""
    data = b"\0" * (2 * channels * frames)
    fields = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "that is no sound; it has to be a whole WAV, FLAC or OGG"),
        (picture(), "that is no sound"),
        (tone(200)[:400], "that sound lost its end|that sound has lost its end|cut off"),
        (b"fLaC" + b"x" * 100, "that sound is no sound that can be read"),
        (wav_header(3, 1), "that sound has 3 samples a second of 1 channel; 1,000 to 384,000"),
        (wav_header(4_000_000, 1), "that sound has 4000000 samples a second"),
        (wav_header(8000, 40), "of 40 channels"),
    ],
)
def test_what_is_no_sound(client, folder, content, sentence):
    for path in ("/api/search", "/api/items"):
        response = post(client, path, content, "audio/wav")
        told = error_of(response, 415)
        assert any(words in told for words in sentence.split("|")), told
        assert "/tmp" not in told
    assert not (folder / "uploads").exists() or not list((folder / "uploads").iterdir())


def test_what_the_model_takes(client, emoji_index):
    assert "takes no images" in error_of(client.post("/api/search", json={"image": encoded(picture())}), 422)
    assert "takes no images" in error_of(client.post("/api/items", json={"image": encoded(picture())}), 422)
    both = {"image": encoded(picture()), "sound": encoded(tone(200))}
    assert "one of image and sound is needed" in error_of(client.post("/api/items", json=both), 422)
    server = Server(emoji_index, StubEncoder(), ServeSettings(rate_limit=0))
    with TestClient(server.app, base_url=HOST) as other:
        assert "takes no sounds" in error_of(post(other, "/api/search", tone(200), "audio/wav"), 422)
        assert "takes no sounds" in error_of(post(other, "/api/items", tone(200), "audio/wav"), 422)
        assert "item 0 is no sound" in error_of(other.get("/api/items/0/sound"), 404)


def test_a_network_embeds_as_it_does_a_list(tmp_path):
    from runs import run

    from models import ModelSettings
    from serving.encoding import open_live_encoder
    from serving.sounds import prepare_clip

    (tmp_path / "tone.wav").write_bytes(tone(440, 1.3))
    words = ["--model=LogMelConv", f"--output={tmp_path / 'x.npz'}", "--use_gpu=False", "--num_workers=0"]
    run("infer", [*words, "--input", tmp_path / "tone.wav"])
    encoder = open_live_encoder(ModelSettings(model="LogMelConv"), torch.device("cpu"), "fp32", "torch")
    assert encoder.takes == {"audio"}
    [embedding] = encoder.embed("audio", [prepare_clip(encoder, tone(440, 1.3))])
    np.testing.assert_allclose(embedding, np.load(tmp_path / "x.npz")["embeddings"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")
def test_the_page_of_sounds(folder, tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from test_report_browser import FLAGS, soon, webdriver
    from test_serving_browser import Running

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    server = Running(folder, encoder=SoundEncoder())
    try:
        driver.get(server.address)
        soon(driver, "return document.querySelectorAll('#samples .tile').length")
        assert driver.execute_script("return document.getElementById('start-title').innerText").endswith(" a sound")
        assert driver.execute_script("return document.getElementById('camera').hidden")
        (tmp_path / "asks.wav").write_bytes(tone(1950))
        driver.find_element("id", "files").send_keys(str(tmp_path / "asks.wav"))
        soon(driver, "return answer && document.querySelectorAll('#hits .tile[data-id]').length")
        assert driver.execute_script("return answer.queries[0].hits[0].label") == "high"
        assert driver.execute_script("return document.getElementById('quote').textContent") == "asks.wav"
        soon(driver, "return document.getElementById('listen').duration > 0.4")
        soon(driver, "return document.querySelector('#hits .tile img').naturalWidth > 0")
        driver.execute_script("openDetail(answer.queries[0].hits[0])")
        soon(driver, "return document.getElementById('detail-sound').duration > 0.4")
        driver.execute_script("document.getElementById('detail').close(); searchItem(0)")
        soon(driver, "return answer && answer.queries[0].query[0].item === 0")
        driver.back()
        soon(driver, "return query.kind === 'sound' && answer && answer.queries[0].hits[0].label === 'high'")
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        server.stop()
        driver.quit()
