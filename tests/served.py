"""A server for tests: an index of some emoji by an encoder that takes no network."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import torch

from data.embedded import embedded_data
from data.image.files import read_image
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
SIDE = 6  # pixels that an image is embedded by
WIDTH = SIDE * SIDE * 3
FINGERPRINT = {"model": "pixels of a stub"}
LABELS = (
    ("food-fruit", "red-apple"),
    ("food-fruit", "green-apple"),
    ("food-fruit", "lemon"),
    ("food-fruit", "peach"),
    ("animal-bird", "owl"),
    ("animal-bird", "penguin"),
    ("musical-instrument", "trumpet"),
    ("heart", "broken-heart"),
)


class StubEncoder:
    """A few pixels of an image, or numbers that a text's hash draws, less their mean."""

    takes = frozenset({"image", "text"})
    fingerprint = FINGERPRINT

    def prepare(self, kind, sample):
        if kind == "text":
            seed = int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "little")
            return torch.from_numpy(np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32))
        pixels = cv2.resize(sample, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        return torch.from_numpy(pixels / 255 - pixels.mean() / 255 + 1e-3)

    def embed(self, kind, inputs):
        return torch.stack(list(inputs)).numpy()


def emoji_files():
    """(path, label, category) of some emoji."""
    folder = embedded_data()
    rows = []
    for category, label in LABELS:
        for path in sorted((folder / category / label).glob("*.webp")):
            rows.append((str(path), label, category))
    return rows


def make_index(folder, rows=None, embeddings=None):
    """An index of emoji_files(), or of other rows."""
    rows = emoji_files() if rows is None else rows
    encoder = StubEncoder()
    if embeddings is None:
        embeddings = encoder.embed("image", [encoder.prepare("image", read_image(path)) for path, _, _ in rows])
    labels = [label for _, label, _ in rows]
    names = {"red-apple": "red apple"}
    return Index.build(
        folder,
        embeddings,
        [path for path, _, _ in rows],
        labels,
        FINGERPRINT,
        categories=[category for _, _, category in rows],
        names=names,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server of its own process, on a port of its own."""

    def __init__(self, folder, **flags):
        self.port = free_port()
        line = [sys.executable, __file__, str(folder), str(self.port)]
        line += [f"{name}={value}" for name, value in flags.items()]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.address, timeout=60)
        for _ in range(600):
            if self.process.poll() is not None:
                raise AssertionError(self.process.stdout.read())
            try:
                self.client.get("/api/health")
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server did not begin")

    def end(self, number):
        """Send a signal; the exit status and all that was printed."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=60)
        self.client.close()
        return self.process.returncode, printed


def main(folder, port, *flags):
    from serving.app import Server
    from serving.server import open_port, run
    from serving.settings import ServeSettings

    values = dict(flag.split("=", 1) for flag in flags)
    numbers = {name: int(value) for name, value in values.items() if name != "token"}
    token = values.get("token")
    settings = ServeSettings(port=int(port), **numbers)
    with open_port(settings) as listener:
        run(Server(folder, StubEncoder(), settings, token).app, listener)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
