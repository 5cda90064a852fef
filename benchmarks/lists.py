"""Lists that stay on the disk: opened, drawn from and packed; images in archives beside images in files.

    python benchmarks/lists.py                        # 100 million rows, some minutes, 5 GB on the disk meanwhile
    python benchmarks/lists.py --rows=1000000 --images=200

A list is opened by processes that do nothing else (_list_probe.py). Memory that holds pages of files (RssFile) the
system takes back when it needs it; what a process has for itself is anonymous (RssAnon).
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np

from benchmarks._contest import contest, heading, markdown, seconds_text, write
from core.slices import slices_of
from data.formats.archives import archives_of
from data.image.files import read_bytes
from data.lists import open_list
from data.pack import ListWriter, pack_list
from data.samplers._permutation import Permutation

BATCH = 256
PORTION = 2_000_000  # rows that are made up at a time
IMAGE_BYTES = 20_000
DIGITS = 10


def make_list(folder: Path, rows: int, labels: int) -> None:
    """Write a made-up list: paths `ab/0123456789.jpg`, labels in random order, each of at least one row."""
    order = Permutation(rows, 1)
    with ListWriter(folder) as writer:
        for block in slices_of(rows, PORTION):
            numbers = np.arange(block.start, block.stop)
            letters = np.empty((len(numbers), 3 + DIGITS + 4), np.uint8)
            letters[:, :2] = ord("a") + np.stack([numbers % 26, numbers // 26 % 26], axis=1)
            letters[:, 2] = ord("/")
            for digit in range(DIGITS):
                letters[:, 2 + DIGITS - digit] = ord("0") + numbers // 10**digit % 10
            letters[:, -4:] = np.frombuffer(b".jpg", np.uint8)
            lengths = np.full(len(numbers), letters.shape[1])
            writer.part("all").append_encoded(letters.reshape(-1), lengths, order(numbers) % labels)
        writer.finish("made up")


def order_contest(rows: int, rounds: int) -> dict:
    """The order of an epoch: computed for as many batches as are timed, or drawn whole."""
    order = Permutation(rows, 1)
    batches = min(1000, rows // BATCH)
    scale = rows / (batches * BATCH)

    def computed() -> None:
        for step in range(batches):
            order(slice(step * BATCH, (step + 1) * BATCH))

    computed.scale = scale
    return contest({"computed": computed, "drawn": lambda: int(np.random.default_rng(0).permutation(rows)[-1])}, rounds)


def pack_contest(folder: Path, rows: int) -> dict:
    """A csv of so many rows packed, and read into memory without a look at its files."""
    file = folder / "rows.csv"
    with open(file, "w") as stream:
        stream.write("label,path,split\n")
        for row in range(rows):
            stream.write(f"{row % 10_000},{row % 100:02d}/{row:010d}.jpg,train\n")

    def pack() -> int:
        return pack_list(str(file), folder / "csv.columns", str(folder), overwrite=True).size

    return contest({"packed": pack}, 1)


def read_contest(folder: Path, count: int, rounds: int) -> dict:
    """Images in random order: from files, from a tar, from a parquet file by groups of 100 rows."""
    rng = np.random.default_rng(0)
    contents = [rng.bytes(IMAGE_BYTES) for _ in range(count)]
    files = []
    with tarfile.open(folder / "images.tar", "w") as archive:
        for number, content in enumerate(contents):
            path = folder / f"{number}.jpg"
            path.write_bytes(content)
            files.append(str(path))
            for name, part in ((f"{number:06d}.jpg", content), (f"{number:06d}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    orders = {"files": files, "tar": open_list(str(folder / "images.tar"), folder, "train").paths.tolist()}
    try:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({"image": contents, "label": [1] * count})
        parquet.write_table(table, folder / "images.parquet", row_group_size=100)
        orders["parquet"] = open_list(str(folder / "images.parquet"), folder, "train").paths.tolist()
    except ImportError:
        print("left out: parquet, there is no pyarrow")
    order = rng.permutation(count)

    def reader(paths: list[str]) -> Callable[[], None]:
        def read() -> None:
            for row in order:
                read_bytes(paths[row])

        return read

    table = contest({name: reader(paths) for name, paths in orders.items()}, rounds)
    table["index of the tar"] = _index_seconds(folder / "images.tar")
    return table


def _index_seconds(tar: Path) -> dict:
    """A tar gone through once, and its index taken again."""
    for kept in tar.parent.glob("*.index.npz"):
        kept.unlink()
    assert archives_of(tar)
    found = []
    for _ in range(2):
        began = time.perf_counter()
        open_list(str(tar), tar.parent, "train")
        found.append(time.perf_counter() - began)
    return {"seconds": found[0], "spread": found, "again": found[1]}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--packed", type=int, default=1_000_000, help="rows of a csv that is packed")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the files are meanwhile (default: that of temporary files)")
    parser.add_argument("--output", default="output/benchmarks")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as room:
        folder = Path(room)
        began = time.perf_counter()
        make_list(folder / "rows.columns", args.rows, min(args.labels, args.rows))
        made = time.perf_counter() - began
        size = sum(file.stat().st_size for file in (folder / "rows.columns").rglob("*") if file.is_file())
        words = [sys.executable, str(Path(__file__).with_name("_list_probe.py")), str(folder / "rows.columns")]
        # The first process after the writing finds the files in memory; so do all others.
        probes = [
            json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            for _ in range(args.rounds)
        ]
        found = {name: float(np.median([figures[name] for figures in probes])) for name in probes[0]}
        order = order_contest(args.rows, args.rounds)
        packed = pack_contest(folder, args.packed)
        read = read_contest(folder, args.images, args.rounds)
    text = "\n\n".join(
        [
            heading(args.rounds),
            f"### {args.rows:,} rows of {args.labels:,} labels, {size / 1e9:.1f} GB on the disk, made in {made:.0f} s",
            markdown(
                ["", ""],
                [
                    ["opened, s", seconds_text(found["open_seconds"])],
                    ["memory of the process before, MB", f"{found['before_mb']:.0f}"],
                    ["and when it is open, MB", f"{found['open_mb']:.0f}"],
                    ["first batch of 256, in the middle of an epoch, s", seconds_text(found["first_batch_seconds"])],
                    ["a batch, shuffled, ms", f"{1e3 * found['shuffled_seconds']:.2f}"],
                    ["a batch, pk, ms", f"{1e3 * found['pk_seconds']:.2f}"],
                    [
                        "anonymous memory more after 1,200 batches, MB",
                        f"{found['after_anon_mb'] - found['before_anon_mb']:.0f}",
                    ],
                    ["pages of files in memory then, MB", f"{found['after_file_mb']:.0f}"],
                ],
            ),
            "### The order of an epoch",
            markdown(
                ["", "seconds an epoch", "peak MB"],
                [[name, seconds_text(row["seconds"]), f"{row['peak_mb']:.0f}"] for name, row in order.items()],
            ),
            f"### A csv of {args.packed:,} rows",
            markdown(
                ["", "seconds", "rows a second", "peak MB"],
                [
                    [
                        name,
                        seconds_text(row["seconds"]),
                        f"{args.packed / row['seconds']:,.0f}",
                        f"{row['peak_mb']:.0f}",
                    ]
                    for name, row in packed.items()
                ],
            ),
            f"### {args.images:,} images of {IMAGE_BYTES // 1000} kB in random order, on a warm disk",
            markdown(
                ["", "seconds", "images a second", "× files"],
                [
                    [
                        name,
                        seconds_text(row["seconds"]),
                        f"{args.images / row['seconds']:,.0f}",
                        f"{read['files']['seconds'] / row['seconds']:.2f}",
                    ]
                    for name, row in read.items()
                ],
            ),
            f"The tar's index is taken again in {seconds_text(read['index of the tar']['again'])} s.",
        ]
    )
    write(args.output, "lists", {"list": found, "bytes": size, "order": order, "pack": packed, "read": read}, text)


if __name__ == "__main__":
    main()
