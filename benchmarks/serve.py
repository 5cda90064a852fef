"""A server over 100,000 items: from a request to its answer, with 1 and 16 clients at a time, and what memory it takes.

    python benchmarks/serve.py                             # two minutes on 2 cores
    python benchmarks/serve.py --rows=10000 --seconds=5
    python benchmarks/serve.py --seconds=60 --clients=1,16,64

The network in it is one that takes no time (a picture's pixels times a fixed matrix), so that what is measured is all
the rest: a JPEG of 320 x 240 comes in over HTTP, is looked at, decoded and resized; the 24 nearest of all items are
found exactly; their facts go out as JSON. Clients are processes of their own, which share the machine with the server.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import cv2
import httpx
import numpy as np
import torch

from benchmarks._contest import heading, markdown, write
from benchmarks.search_speed import clusters
from data.image.transforms import TestTransform
from retrieval.index.index import Index

PACKAGES = ("torch", "numpy", "starlette", "uvicorn")
FINGERPRINT = {"model": "a fixed matrix"}
SIDE = 16  # pixels that the stand-in of a network sees


class FixedMatrix:
    """A LiveEncoder that takes no time."""

    takes = frozenset({"image"})
    fingerprint = FINGERPRINT

    def __init__(self, width: int):
        generator = torch.Generator().manual_seed(1)
        self._matrix = torch.randn(SIDE * SIDE * 3, width, generator=generator)
        self._transform = TestTransform(SIDE, SIDE)

    def prepare(self, kind: str, sample: np.ndarray) -> torch.Tensor:
        return self._transform(sample).flatten().float() - 127.5

    def embed(self, kind: str, inputs: list[torch.Tensor]) -> np.ndarray:
        return (torch.stack(inputs) @ self._matrix).numpy()


def serve(folder: str, width: int) -> None:
    """The server's process: says its port in the first line of its output."""
    from serving.app import Server
    from serving.server import open_port, run
    from serving.settings import ServeSettings

    settings = ServeSettings(port=0, rate_limit=0)
    with open_port(settings) as port:
        server = Server(folder, FixedMatrix(width), settings)
        print(port.getsockname()[1], flush=True)
        run(server.app, port)


def pictures(count: int) -> list[bytes]:
    """JPEGs of 320 x 240, each another one."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), np.uint8)
        image = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
        files.append(cv2.imencode(".jpg", image)[1].tobytes())
    return files


def ask(address: str, clients: int, seconds: float) -> tuple[list[float], dict[str, list[float]], int]:
    """(seconds of each answer, milliseconds that the server says each part took, failures) of so many clients."""
    with multiprocessing.get_context("spawn").Pool(min(clients, 4)) as pool:
        per_process = [clients // min(clients, 4)] * min(clients, 4)
        results = pool.starmap(_client, [(address, count, seconds) for count in per_process])
    times = [one for result in results for one in result[0]]
    parts = {name: [one for result in results for one in result[1][name]] for name in results[0][1]}
    return times, parts, sum(result[2] for result in results)


def _client(address: str, threads: int, seconds: float) -> tuple[list[float], dict[str, list[float]], int]:
    from concurrent.futures import ThreadPoolExecutor

    files = pictures(32)

    def one(number: int) -> tuple[list[float], dict[str, list[float]], int]:
        times = []
        parts: dict[str, list[float]] = {"read": [], "embed": [], "search": []}
        failures = 0
        until = time.perf_counter() + seconds
        with httpx.Client(base_url=address, timeout=60) as client:
            while time.perf_counter() < until:
                number += 1
                began = time.perf_counter()
                answer = client.post(
                    "/api/search?k=24", content=files[number % len(files)], headers={"content-type": "image/jpeg"}
                )
                times.append(time.perf_counter() - began)
                if answer.status_code != 200:
                    failures += 1
                    continue
                for name, value in answer.json()["milliseconds"].items():
                    parts[name].append(value)
        return times, parts, failures

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(one, range(threads)))
    times = [value for result in results for value in result[0]]
    parts = {name: [value for result in results for value in result[1][name]] for name in results[0][1]}
    return times, parts, sum(result[2] for result in results)


def memory_of(process: int) -> float:
    """The resident memory of a process in MB, without files that are mapped."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, 100 * share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=30, help="of each number of clients")
    parser.add_argument("--clients", default="1,16")
    parser.add_argument("--output", default="output/benchmarks")
    parser.add_argument("--serve", help="internal: be the server of an index")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.width)
        return

    with tempfile.TemporaryDirectory() as folder:
        index = str(Path(folder) / "items.index")
        rows, labels = clusters(args.rows, args.width)
        Index.build(index, rows, [f"/{row}.jpg" for row in range(args.rows)], labels.numpy(), FINGERPRINT)
        line = [sys.executable, __file__, f"--serve={index}", f"--width={args.width}"]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ)
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        ask(address, 1, 2)  # warm
        table = []
        content = {}
        for clients in map(int, args.clients.split(",")):
            before = memory_of(server.pid)
            times, parts, failures = ask(address, clients, args.seconds)
            after = memory_of(server.pid)
            searches = statistics.median(parts["search"])
            content[clients] = {
                "requests": len(times),
                "failures": failures,
                "p50_ms": 1000 * percentile(times, 0.5),
                "p99_ms": 1000 * percentile(times, 0.99),
                "search_p50_ms": searches,
                "read_and_embed_p50_ms": statistics.median(parts["read"]) + statistics.median(parts["embed"]),
                "memory_mb": [before, after],
            }
            figures = content[clients]
            table.append(
                [
                    f"ours, {clients} at once",
                    f"{len(times) / args.seconds:.0f}",
                    f"{figures['p50_ms']:.1f}",
                    f"{figures['p99_ms']:.1f}",
                    f"{searches:.1f}",
                    f"{figures['p50_ms'] / searches:.2f}",
                    failures,
                    f"{before:.0f}",
                    f"{after:.0f}",
                ]
            )
        server.send_signal(signal.SIGTERM)
        server.wait()
    columns = ["clients", "answers a second", "p50 ms", "p99 ms", "of p50, search", "× its search", "failures"]
    columns += ["MB before", "MB after"]
    text = f"{heading(1, PACKAGES)}\n\n### {args.rows:,} x {args.width}, 24 nearest\n\n{markdown(columns, table)}"
    write(args.output, "serve", json.loads(json.dumps(content)), text)


if __name__ == "__main__":
    main()
