"""From image files to training crops beside the peers: images a second in one thread, and how alike the crops are.

    python benchmarks/images.py                       # 2 minutes on 2 cores
    python benchmarks/images.py --folder=DIR          # JPEGs of your own
    python benchmarks/images.py --images=20 --rounds=1

The JPEGs are made here, 500 to 800 pixels a side: A like dense photographs (quality 90 to 95), B like Stanford Online
Products, a thing on white (quality 70 to 80). All contenders cut the same crops; ours draw them within their time, too.
"bare: read, ..." is the limit of a decoder's route: the file read, what the crop needs of it decoded, that resized; the
header is read and the crop drawn before. A second table has the parts of that, and what they would be with a decoder
that transforms no pixel but the crop's own. Likeness is to --decode=exact, over all images and the least of one: edges
of a crop that is decoded at 1/2 are rounded to its pixels, and such a shift by half of one is what most of the
difference is.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import cv2
import numpy as np
import torch

from benchmarks._contest import contest, heading, machine, markdown, versions, write
from benchmarks._jpegs import dense, make_set, product
from core.device import choose_device
from data.image.decode import Crop, choose_decoder, open_image, scale_of_crop
from data.image.files import read_bytes, read_image
from data.image.modality import ImageModality
from data.image.resize import resize_fast
from data.image.transforms import TrainTransform
from data.inputs import open_inputs
from data.loader import open_loader
from data.records import Records
from data.samplers import Sample

SIDE, CROP_SCALE, BATCH = 224, (0.2, 1.0), 32
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "scikit-learn")
OURS = "ours, --decode="
BARE = "bare: read, decode what is needed, resize: "
ANCESTOR, TORCHVISION = "the ancestor's: OpenCV, Lanczos, float", "torchvision: decode_image, v2, antialias"


def list_of(paths: list[str]) -> Records:
    """Files as a list of images that all have the label 0."""
    everyone = np.ones(len(paths), dtype=bool)
    return Records("benchmark", np.array(paths), np.zeros(len(paths), np.int64), everyone, everyone)


def draws_of(paths: list[str], transform: TrainTransform) -> list[tuple[str, Crop, bool]]:
    """(path, crop, flip) of each image: what its seed draws, for peers who draw nothing."""
    draws = []
    for seed, path in enumerate(paths):
        height, width = read_image(path).shape[:2]
        generator = torch.Generator().manual_seed(seed)
        crop = transform.draw_crop(height, width, generator)
        flip = bool(torch.rand((), generator=generator) < 0.5)
        draws.append((path, crop, flip))
    return draws


def ancestor(path: str, crop: Crop, flip: bool) -> np.ndarray:
    left, top, width, height = crop
    image = cv2.imread(path)[top : top + height, left : left + width]
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LANCZOS4)
    if flip:
        image = image[:, ::-1]
    image = image[:, :, ::-1].astype(np.float32).transpose(2, 0, 1) / 255
    image -= MEAN[:, None, None]
    image /= STD[:, None, None]
    return image


def torchvision_v2(path: str, crop: Crop, flip: bool) -> torch.Tensor:
    from torchvision.io import decode_image
    from torchvision.transforms.v2 import functional

    left, top, width, height = crop
    image = functional.resized_crop(decode_image(path, mode="RGB"), top, left, height, width, [SIDE, SIDE])
    if flip:
        image = functional.horizontal_flip(image)
    return image


def pillow(path: str, crop: Crop, flip: bool) -> torch.Tensor:
    from PIL import Image
    from torchvision.transforms import functional

    left, top, width, height = crop
    image = functional.resized_crop(Image.open(path).convert("RGB"), top, left, height, width, [SIDE, SIDE])
    if flip:
        image = functional.hflip(image)
    return functional.normalize(functional.to_tensor(image), MEAN.tolist(), STD.tolist())


def bare(path: str, _crop: Crop, _flip: bool) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def ours(paths: list[str], transform: TrainTransform, decoder: str) -> Callable[[], Iterator[np.ndarray]]:
    """What yields the crops as training gets them, a batch of BATCH at a time: (SIDE, SIDE, 3) uint8.

    The loader is opened here, as training does once for all of its batches.
    """
    loader = open_loader(list_of(paths), ImageModality(transform, decoder), [])
    samples = [Sample(row, row) for row in range(len(paths))]

    def crops() -> Iterator[np.ndarray]:
        for start in range(0, len(paths), BATCH):
            for inputs, _, _ in loader.dataset.__getitems__(samples[start : start + BATCH]):
                yield inputs.numpy()

    return crops


def contenders(paths: list[str], transform: TrainTransform) -> dict[str, Callable[[], None]]:
    """{name: function()}, each over all images."""
    draws = draws_of(paths, transform)

    def run_peer(function):
        def run():
            for draw in draws:
                function(*draw)

        return run

    def run_bare(decoder):
        opened = [(path, open_image(decoder, read_bytes(path), path), crop) for path, crop, _ in draws]

        def run():
            for path, image, crop in opened:
                read_bytes(path)
                scale = scale_of_crop(crop, SIDE, SIDE)
                pixels = image.decode(scale, crop.top + crop.height)
                left, top, width, height = (number // scale for number in crop)
                resize_fast(pixels[top : top + height, left : left + width], SIDE, SIDE)

        return run

    def run_ours(decoder):
        crops = ours(paths, transform, decoder)

        def run():
            if decoder == "simplejpeg":
                import simplejpeg  # noqa: F401
            for _ in crops():
                pass

        return run

    return {
        "bare decode: OpenCV, whole": run_peer(bare),
        ANCESTOR: run_peer(ancestor),
        "Pillow, torchvision v1, float": run_peer(pillow),
        TORCHVISION: run_peer(torchvision_v2),
        f"{BARE}OpenCV": run_bare("opencv"),
        f"{BARE}simplejpeg": run_bare("simplejpeg"),
        f"{OURS}exact": run_ours("exact"),
        f"{OURS}opencv": run_ours("opencv"),
        f"{OURS}simplejpeg": run_ours("simplejpeg"),
    }


def likeness(crops: Iterator[np.ndarray], exact_crops: Iterator[np.ndarray]) -> dict[str, float]:
    """Mean and least peak signal-to-noise ratio in dB, mean absolute difference in grey levels."""
    ratios, differences = [], []
    for crop, exact in zip(crops, exact_crops, strict=True):
        difference = crop.astype(np.float32) - exact
        error = max(float((difference**2).mean()), 1e-2)  # the same: 68 dB
        ratios.append(10 * np.log10(255**2 / error))
        differences.append(float(np.abs(difference).mean()))
    return {"psnr": statistics.mean(ratios), "least_psnr": min(ratios), "difference": statistics.mean(differences)}


def set_table(figures: dict[str, dict[str, Any]], count: int) -> str:
    rows = []
    for name, contender in figures.items():
        seconds = contender["seconds"]
        times = [f"{figures[peer]['seconds'] / seconds:.2f}" for peer in (ANCESTOR, TORCHVISION)]
        fastest, slowest = contender["spread"]
        spread = f"{count / slowest:.0f}–{count / fastest:.0f}"
        psnr, difference = "", ""
        if "likeness" in contender:
            alike = contender["likeness"]
            psnr = f"{alike['psnr']:.1f} ({alike['least_psnr']:.1f})"
            difference = f"{alike['difference']:.2f}"
        rows.append([name, f"{count / seconds:.0f}", spread, *times, f"{contender['peak_mb']:.0f}", psnr, difference])
    columns = ["", "images/s", "least–most", "× ancestor", "× torchvision", "peak MB", "PSNR, dB (least)", "difference"]
    return markdown(columns, rows)


def measure(paths: list[str], transform: TrainTransform, rounds: int) -> dict[str, dict[str, Any]]:
    """One set: {contender: figures}, ours with their likeness to the exact route."""
    figures = contest(contenders(paths, transform), rounds)
    for name in figures:
        if name.startswith(OURS):
            decoder = name.removeprefix(OURS)
            exact_crops = ours(paths, transform, "exact")()
            figures[name]["likeness"] = likeness(ours(paths, transform, decoder)(), exact_crops)
    return figures


PARTS = {
    "read": "read the file",
    "codes": "Huffman codes, as far as it reads",
    "transform": "inverse DCT, colours",
    "own": "of it for the crop's own pixels",
    "resize": "resize",
    "bare": "sum: bare",
    "floor": "sum, if only the crop's own pixels were transformed",
    "ours": "all, also headers, draws, flips",
}
SUMS = ("bare", "floor", "ours")


def parts(paths: list[str], transform: TrainTransform, decoder: str, rounds: int) -> dict[str, float]:
    """{part: microseconds an image}: PARTS, each of them alone over all images, and the ancestor.

    Huffman codes stand one behind the other, so that a decoder has to read all of them from the top of an image to its
    crop's last row. They are timed by decoding at 1/8, where no more than the mean of a block is transformed.
    """
    draws = draws_of(paths, transform)
    whats, cuts, decoded = [], [], 0
    for path, crop, _ in draws:
        image, scale = open_image(decoder, read_bytes(path), path), scale_of_crop(crop, SIDE, SIDE)
        whats.append((image, scale, crop.top + crop.height))
        pixels = image.decode(*whats[-1][1:])
        left, top, width, height = (number // scale for number in crop)
        cuts.append(pixels[top : top + height, left : left + width].copy())
        decoded += pixels.size

    crops = ours(paths, transform, decoder)
    functions = {
        "read": lambda: [read_bytes(path).size for path in paths],
        "codes": lambda: [image.decode(8, rows).size for image, _, rows in whats],
        "decode": lambda: [image.decode(scale, rows).size for image, scale, rows in whats],
        "resize": lambda: [resize_fast(cut, SIDE, SIDE).size for cut in cuts],
        "ours": lambda: [crop.size for crop in crops()],
        "ancestor": lambda: [ancestor(*draw).size for draw in draws],
    }
    of = {name: 1e6 * run["seconds"] / len(paths) for name, run in contest(functions, rounds).items()}
    of["transform"] = of["decode"] - of["codes"]
    of["own"] = of["transform"] * sum(cut.size for cut in cuts) / decoded
    of["bare"] = of["read"] + of["decode"] + of["resize"]
    of["floor"] = of["read"] + of["codes"] + of["own"] + of["resize"]
    return of


def parts_table(of: dict[str, float], decoder: str) -> str:
    """The parts of one decoder; of their sums how far ours is from them, and their speed in the ancestor's."""
    rows = []
    for part, words in PARTS.items():
        ratios = ["", ""]
        if part in SUMS:
            ratios = [f"{of['ancestor'] / of[part]:.2f}", f"{of['ours'] / of[part]:.2f}"]
        rows.append([words, f"{of[part]:.0f}", *ratios])
    return markdown([f"--decode={decoder}", "µs an image", "× ancestor", "all / it"], rows)


def feed(paths: list[str], transform: TrainTransform, num_workers: int, batches: int) -> float:
    """Images a second that `num_workers` processes feed, counted from the first batch on."""
    size = min(BATCH, len(paths))
    endless = ([Sample((step * size + i) % len(paths), step * size + i) for i in range(size)] for step in range(10**6))
    modality = ImageModality(transform, choose_decoder("auto"))
    stream = iter(open_loader(list_of(paths), modality, endless, num_workers))
    next(stream)
    began = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return batches * size / (time.perf_counter() - began)


def feed_threads(paths: list[str], transform: TrainTransform, count: int, batches: int) -> float:
    """As `feed`, by threads of this process: what decodes and resizes lets go of Python's lock."""

    def load(_thread: int) -> None:
        size = min(BATCH, len(paths))
        table = [[Sample(row, row) for row in range(size)]] * (batches // count)
        for _ in open_loader(list_of(paths), ImageModality(transform, choose_decoder("auto")), table):
            pass

    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        list(pool.map(load, range(count)))
        return batches // count * count * min(BATCH, len(paths)) / (time.perf_counter() - began)


def feed_table(
    paths: list[str], transform: TrainTransform, rounds: int, batches: int
) -> tuple[dict[str, list[float]], str]:
    """Throughput of loader processes and of threads in turn: its figures and a table."""
    ways = {
        "1 process": partial(feed, num_workers=1),
        "2 processes": partial(feed, num_workers=2),
        "2 threads of one process": partial(feed_threads, count=2),
    }
    rates = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(way(paths, transform, batches=batches))
    alone = statistics.median(rates["1 process"])
    rows = []
    for name, found in rates.items():
        median = statistics.median(found)
        rows.append([name, f"{median:.0f}", f"{min(found):.0f}–{max(found):.0f}", f"{median / alone:.2f}"])
    return rates, markdown(["fed by", "images/s", "least–most", "× one"], rows)


def make_sets(folder: Path, own_folder: str | None, count: int) -> dict[str, list[str]]:
    """{name of a set: paths of its JPEGs}: those of the user's own folder, or two sets made in `folder`."""
    if own_folder:
        paths = open_inputs([own_folder], None).paths.tolist()
        jpegs = [path for path in paths if path.lower().endswith((".jpg", ".jpeg"))]
        return {own_folder: jpegs[:count]}
    return {
        "A, dense": make_set(folder / "a", dense, (90, 95), count),
        "B, a thing on white": make_set(folder / "b", product, (70, 80), count),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="JPEGs of your own (default: two sets made here)")
    parser.add_argument("--images", type=int, default=200, help="images of a set (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default: 5)")
    parser.add_argument("--batches", type=int, default=24, help="of 32 images, that workers feed (default: 24)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)  # which sets malloc, for all contenders alike
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    transform = TrainTransform(SIDE, SIDE, 0, ("crop", "flip"), CROP_SCALE)
    with tempfile.TemporaryDirectory() as folder:
        sets = make_sets(Path(folder), args.folder, args.images)
        result = {"machine": machine(), "versions": versions(PACKAGES), "rounds": args.rounds, "sets": {}}
        sections = [heading(args.rounds, PACKAGES)]
        for name, paths in sets.items():
            size = statistics.mean(Path(path).stat().st_size for path in paths) / 1000
            figures = measure(paths, transform, args.rounds)
            sections.append(f"### Set {name}: {len(paths)} JPEGs of {size:.0f} kB\n\n{set_table(figures, len(paths))}")
            rates, table = feed_table(paths, transform, args.rounds, args.batches)
            limits = {decode: parts(paths, transform, decode, args.rounds) for decode in ("opencv", "simplejpeg")}
            tables = [parts_table(of, decode) for decode, of in limits.items()]
            sections.append("\n\n".join(["What bounds it, each part timed alone:", *tables]))
            sections.append(f"Fed to training, --decode={choose_decoder('auto')}:\n\n{table}")
            result["sets"][name] = {"kilobytes": size, "contenders": figures, "parts": limits, "workers": rates}
            print("\n\n".join(sections[-3:]), flush=True)
    write(args.output, "images", result, "\n\n".join(sections))


if __name__ == "__main__":
    main()
