"""From image files to training crops beside the peers: images a second in one thread, and how alike the crops are.

    python benchmarks/images.py                       # 2 minutes on 2 cores
    python benchmarks/images.py --folder=DIR          # JPEGs of your own
    python benchmarks/images.py --images=20 --rounds=1

The JPEGs are made here, 500 to 800 pixels a side: A like dense photographs (quality 90 to 95), B like Stanford Online
Products, a thing on white (quality 70 to 80). All contenders cut the same crops; ours draw them within their time, too.
Likeness is to --decode=exact, over all images and the least of one: edges of a crop that is decoded at 1/2 are rounded
to its pixels, and such a shift by half of one is what most of the difference is.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import cv2
import numpy as np
import torch

from benchmarks.contest import contest, heading, machine, markdown, versions, write
from benchmarks.jpegs import dense, make_set, product
from core.device import choose_device
from data.image.decode import choose_decoder
from data.image.files import read_image
from data.image.transforms import TrainTransform
from data.inputs import open_inputs
from data.loader import open_loader
from data.records import Records
from data.samplers import Sample

SIDE, CROP_SCALE = 224, (0.2, 1.0)
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "scikit-learn")
OURS = "ours, --decode="
ANCESTOR, TORCHVISION = "the ancestor's: OpenCV, Lanczos, float", "torchvision: decode_image, v2, antialias"


def list_of(paths):
    """Files as a list of images that all have the label 0."""
    everyone = np.ones(len(paths), dtype=bool)
    return Records("benchmark", np.array(paths), np.zeros(len(paths), np.int64), everyone, everyone)


def draws_of(paths, transform):
    """(path, (left, top, width, height), flip) of each image: what its seed draws, for peers who draw nothing."""
    draws = []
    for seed, path in enumerate(paths):
        height, width = read_image(path).shape[:2]
        torch.manual_seed(seed)
        draws.append((path, transform.draw_crop(height, width), bool(torch.rand(()) < 0.5)))
    return draws


def ancestor(path, crop, flip):
    left, top, width, height = crop
    image = cv2.imread(path)[top : top + height, left : left + width]
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LANCZOS4)
    image = image[:, ::-1] if flip else image
    image = image[:, :, ::-1].astype(np.float32).transpose(2, 0, 1) / 255
    image -= MEAN[:, None, None]
    image /= STD[:, None, None]
    return image


def torchvision_v2(path, crop, flip):
    from torchvision.io import decode_image
    from torchvision.transforms.v2 import functional

    left, top, width, height = crop
    image = functional.resized_crop(decode_image(path, mode="RGB"), top, left, height, width, [SIDE, SIDE])
    return functional.horizontal_flip(image) if flip else image


def pillow(path, crop, flip):
    from PIL import Image
    from torchvision.transforms import functional

    left, top, width, height = crop
    image = functional.resized_crop(Image.open(path).convert("RGB"), top, left, height, width, [SIDE, SIDE])
    image = functional.to_tensor(functional.hflip(image) if flip else image)
    return functional.normalize(image, MEAN.tolist(), STD.tolist())


def bare(path, crop, flip):
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def ours(paths, transform, decode):
    """The crops as training gets them, one by one: (SIDE, SIDE, 3) uint8."""
    loader = open_loader(list_of(paths), [0] * len(paths), transform, [], decode=decode)
    for row in range(len(paths)):
        yield loader.dataset[Sample(row, row)][0].numpy()


def contenders(paths, transform):
    """{name: function()}, each over all images."""
    draws = draws_of(paths, transform)

    def each(function):
        def run():
            for draw in draws:
                function(*draw)

        return run

    def own(decode):
        def run():
            if decode == "simplejpeg":
                import simplejpeg  # noqa: F401
            for _ in ours(paths, transform, decode):
                pass

        return run

    return {
        "bare decode: OpenCV, whole": each(bare),
        ANCESTOR: each(ancestor),
        "Pillow, torchvision v1, float": each(pillow),
        TORCHVISION: each(torchvision_v2),
        **{f"{OURS}{decode}": own(decode) for decode in ("exact", "opencv", "simplejpeg")},
    }


def likeness(crops, exact):
    """Mean and least peak signal-to-noise ratio in dB, mean absolute difference in grey levels."""
    differences = [crop.astype(np.float32) - other for crop, other in zip(crops, exact, strict=True)]
    errors = [max(float((difference**2).mean()), 1e-2) for difference in differences]  # the same: 68 dB
    ratios = [10 * np.log10(255**2 / error) for error in errors]
    return {
        "psnr": statistics.mean(ratios),
        "least_psnr": min(ratios),
        "difference": statistics.mean(float(np.abs(difference).mean()) for difference in differences),
    }


def set_table(figures, count):
    rows = []
    for name, own in figures.items():
        times = [f"{figures[peer]['seconds'] / own['seconds']:.2f}" for peer in (ANCESTOR, TORCHVISION)]
        spread = "–".join(f"{count / seconds:.0f}" for seconds in reversed(own["spread"]))
        words = ["", ""]
        if alike := own.get("likeness"):
            words = [f"{alike['psnr']:.1f} ({alike['least_psnr']:.1f})", f"{alike['difference']:.2f}"]
        rows.append([name, f"{count / own['seconds']:.0f}", spread, *times, f"{own['peak_mb']:.0f}", *words])
    columns = ["", "images/s", "least–most", "× ancestor", "× torchvision", "peak MB", "PSNR, dB (least)", "difference"]
    return markdown(columns, rows)


def measure(paths, transform, rounds):
    """One set: {contender: figures}, ours with their likeness to the exact route."""
    figures = contest(contenders(paths, transform), rounds)
    for name in figures:
        if name.startswith(OURS):
            crops, exact = (ours(paths, transform, decode) for decode in (name.removeprefix(OURS), "exact"))
            figures[name]["likeness"] = likeness(crops, exact)
    return figures


STAGES = {
    "read the file": ["fromfile"],
    "decode": ["<imdecode>", "_simplejpeg"],
    "resize": ["<resize>"],
    "flip, exchange colours": ["<cvtColor>", "<flip>"],
}


def stage_table(paths, transform, decode):
    """Where one pass by `decode` spends its time, by the profiler, which itself adds to the rest."""
    profile = cProfile.Profile()
    profile.runcall(lambda: list(ours(paths, transform, decode)))
    found = {name: 0.0 for name in (*STAGES, "rest: header, draws, Python")}
    for (_, _, function), (_, _, seconds, _, _) in pstats.Stats(profile).stats.items():
        stage = next((name for name, words in STAGES.items() if any(word in function for word in words)), None)
        found[stage or list(found)[-1]] += seconds
    total = sum(found.values())
    rows = [[name, f"{1e6 * own / len(paths):.0f}", f"{100 * own / total:.0f}"] for name, own in found.items()]
    return markdown([f"--decode={decode}", "µs an image", "%"], rows)


def feed(paths, transform, num_workers, batches):
    """Images a second that `num_workers` processes feed, counted from the first batch on."""
    size = min(32, len(paths))
    endless = ([Sample((step * size + i) % len(paths), step * size + i) for i in range(size)] for step in range(10**6))
    decode = choose_decoder("auto")
    loader = open_loader(list_of(paths), [0] * len(paths), transform, endless, num_workers, decode=decode)
    stream = iter(loader)
    next(stream)
    began = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return batches * size / (time.perf_counter() - began)


def feed_table(paths, transform, rounds, batches):
    """DataLoader throughput of 1 and 2 workers in turn: its figures and a table."""
    rates = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in rates.items():
            found.append(feed(paths, transform, workers, batches))
    middle = {workers: statistics.median(found) for workers, found in rates.items()}
    rows = [
        [workers, f"{middle[workers]:.0f}", f"{min(found):.0f}–{max(found):.0f}", f"{middle[workers] / middle[1]:.2f}"]
        for workers, found in rates.items()
    ]
    return rates, markdown(["workers", "images/s", "least–most", "× one"], rows)


def main(argv=None):
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
    transform = TrainTransform(SIDE, SIDE, crop_scale=CROP_SCALE)
    with tempfile.TemporaryDirectory() as folder:
        if args.folder:
            found = open_inputs([args.folder], None).paths.tolist()
            sets = {args.folder: [path for path in found if path.lower().endswith((".jpg", ".jpeg"))][: args.images]}
        else:
            sets = {
                "A, dense": make_set(Path(folder) / "a", dense, (90, 95), args.images),
                "B, a thing on white": make_set(Path(folder) / "b", product, (70, 80), args.images),
            }
        result = {"machine": machine(), "versions": versions(PACKAGES), "rounds": args.rounds, "sets": {}}
        parts = [heading(args.rounds, PACKAGES)]
        for name, paths in sets.items():
            size = statistics.mean(Path(path).stat().st_size for path in paths) / 1000
            figures = measure(paths, transform, args.rounds)
            parts.append(f"### Set {name}: {len(paths)} JPEGs of {size:.0f} kB\n\n{set_table(figures, len(paths))}")
            rates, table = feed_table(paths, transform, args.rounds, args.batches)
            stages = [stage_table(paths, transform, decode) for decode in ("opencv", "simplejpeg")]
            parts.append("\n\n".join(["Where the time goes, by the profiler:", *stages]))
            parts.append(f"Fed by worker processes, --decode={choose_decoder('auto')}:\n\n{table}")
            result["sets"][name] = {"kilobytes": size, "contenders": figures, "workers": rates}
            print("\n\n".join(parts[-3:]), flush=True)
    write(args.output, "images", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
