"""PNG, WebP, BMP and TIFF to pixels by each decoder: milliseconds an image, and whether the pixels are OpenCV's.

    python benchmarks/formats.py               # half a minute on one core
    python benchmarks/formats.py --images=5 --rounds=1

The pictures are made here, 500 to 800 pixels a side, half of them dense and half a thing on white. All decoders give
8 bits RGB; what they have to drop for it (alpha, the lower 8 of 16 bits) is dropped in their time. `--decode` is about
JPEGs alone, since no other format is decoded at a smaller scale by any of these packages (benchmarks/images.py).
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
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
from data.image.decode import decode_whole
from data.image.files import read_image

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow")
OURS = "ours (OpenCV)"


def ramp_of_alpha(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR with an alpha that rises from the top to the bottom, (H, W, 4)."""
    height, width = image.shape[:2]
    alpha = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, axis=1)
    return np.dstack([image, alpha])


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def sixteen_bits(image: np.ndarray) -> np.ndarray:
    """The same picture, its lower bits used too."""
    return image.astype(np.uint16) * 257


def by_opencv(suffix: str, picture: Callable[[np.ndarray], np.ndarray], *flags: int) -> Callable[[np.ndarray], bytes]:
    """What writes an image (H, W, 3) BGR as a file of that kind."""
    return lambda image: cv2.imencode(suffix, picture(image), flags)[1].tobytes()


def palette_png(image: np.ndarray) -> bytes:
    """Of 200 colours: OpenCV writes none."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[:, :, ::-1]).quantize(200).save(file, "png")
    return file.getvalue()


def same(image: np.ndarray) -> np.ndarray:
    return image


def file_kinds() -> dict[str, Callable[[np.ndarray], bytes]]:
    """{name: what writes an image (H, W, 3) BGR as such a file}."""
    return {
        "PNG, RGB": by_opencv(".png", same),
        "PNG, RGBA": by_opencv(".png", ramp_of_alpha),
        "PNG, grey": by_opencv(".png", grey),
        "PNG, 16 bits RGB": by_opencv(".png", sixteen_bits),
        "PNG, 16 bits grey": by_opencv(".png", lambda image: sixteen_bits(grey(image))),
        "PNG, palette": palette_png,
        "WebP, quality 80": by_opencv(".webp", same, cv2.IMWRITE_WEBP_QUALITY, 80),
        "WebP, quality 80, alpha": by_opencv(".webp", ramp_of_alpha, cv2.IMWRITE_WEBP_QUALITY, 80),
        "WebP, lossless": by_opencv(".webp", same, cv2.IMWRITE_WEBP_QUALITY, 101),
        "BMP": by_opencv(".bmp", same),
        "TIFF": by_opencv(".tiff", same),
    }


def by_pillow(encoded: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encoded.tobytes())).convert("RGB"))


def by_torchvision(encoded: np.ndarray) -> np.ndarray:
    from torchvision.io import decode_image

    return decode_image(torch.from_numpy(encoded), mode="RGB").permute(1, 2, 0).numpy()


def by_ours(encoded: np.ndarray) -> np.ndarray:
    return decode_whole(encoded, "benchmark")


DECODERS = {OURS: by_ours, "Pillow": by_pillow, "torchvision": by_torchvision}


def answers(decode: Callable[[np.ndarray], np.ndarray], files: list[np.ndarray]) -> list[np.ndarray] | None:
    """The pixels of all files; None of a kind that the decoder does not know."""
    try:
        return [decode(encoded) for encoded in files]
    except (RuntimeError, OSError):
        return None


def row_of(files: list[np.ndarray], rounds: int) -> dict[str, dict[str, Any]]:
    """One kind of file: {decoder: milliseconds an image, the largest difference to our pixels}."""
    expected = answers(DECODERS[OURS], files)
    found = {name: answers(decode, files) for name, decode in DECODERS.items()}

    def run(decode: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
        return lambda: [decode(encoded).shape for encoded in files] and None

    figures = contest({name: run(DECODERS[name]) for name in found if found[name] is not None}, rounds)
    for name, figure in figures.items():
        pairs = zip(found[name], expected, strict=True)
        figure["difference"] = max(int(np.abs(pixels.astype(int) - ours).max()) for pixels, ours in pairs)
        figure["milliseconds"] = 1000 * figure["seconds"] / len(files)
    return figures


def table_of(figures: dict[str, dict[str, dict[str, Any]]], kilobytes: dict[str, float]) -> str:
    rows = []
    for kind, of_kind in figures.items():
        cells = []
        for name in DECODERS:
            if name not in of_kind:
                cells.append("")
                continue
            text = f"{of_kind[name]['milliseconds']:.2f}"
            if of_kind[name]["difference"]:
                text += " (other pixels)"
            cells.append(text)
        others = [of_kind[name]["milliseconds"] for name in DECODERS if name != OURS and name in of_kind]
        best = f"{min(others) / of_kind[OURS]['milliseconds']:.2f}" if others else ""
        rows.append([kind, f"{kilobytes[kind]:.0f}", *cells, best])
    return markdown(["ms an image", "kB", *DECODERS, "peer / ours"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each decoder (default: 3)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)  # which sets malloc, for all decoders alike
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        half = (args.images + 1) // 2
        paths = make_set(Path(folder) / "a", dense, (95, 95), half)
        paths += make_set(Path(folder) / "b", product, (95, 95), half)
        pictures = [np.ascontiguousarray(read_image(path)[:, :, ::-1]) for path in paths[: args.images]]
        figures, kilobytes = {}, {}
        for kind, encode in file_kinds().items():
            files = [np.frombuffer(bytearray(encode(picture)), np.uint8) for picture in pictures]
            kilobytes[kind] = sum(encoded.nbytes for encoded in files) / len(files) / 1000
            figures[kind] = row_of(files, args.rounds)
    content = {"machine": machine(), "versions": versions(PACKAGES), "rounds": args.rounds, "kinds": figures}
    write(args.output, "formats", content, f"{heading(args.rounds, PACKAGES)}\n\n{table_of(figures, kilobytes)}")


if __name__ == "__main__":
    main()
