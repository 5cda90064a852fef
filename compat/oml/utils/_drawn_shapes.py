"""The mock images: shapes of one kind in many colours, places and sizes, drawn into a folder with their tables."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.files import replacing

SIDE, BOX = 64, 44  # pixels of an image and of a box
SEED = 5  # of the random numbers
IMAGES = 4  # of each shape
# Shapes by category; of each category the first two are trained on, the others validated on.
SHAPES = {"round": ("circle", "ring", "ellipse", "lens"), "straight": ("square", "triangle", "cross", "star")}
COLUMNS = ("label", "path", "split", "is_query", "is_gallery")
TABLES = {
    "df.csv": (),
    "df_with_category.csv": ("category",),
    "df_with_sequence.csv": ("sequence",),
    "df_with_bboxes.csv": ("x_1", "y_1", "x_2", "y_2"),
}


def draw_shapes(folder: Path) -> Path:
    """Draw images and write tables where they are not there yet; returns the folder."""
    if all((folder / name).is_file() for name in TABLES):
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    rows = []
    # Labels to train on are 0 and up, as losses over classes count them.
    names = [name for shapes in SHAPES.values() for name in shapes[:2]]
    names += [name for shapes in SHAPES.values() for name in shapes[2:]]
    for category, shapes in SHAPES.items():
        for number, name in enumerate(shapes):
            label = names.index(name)
            is_train = number < 2
            for image in range(1, IMAGES + 1):
                path = f"images/{name}_{image}.jpg"
                picture, box = _drawn(name, rng)
                with replacing(folder / path) as file:
                    Image.fromarray(picture).save(file, "JPEG", quality=90)
                row = {"label": label, "path": path, "split": "train", "is_query": "", "is_gallery": ""}
                if not is_train:
                    # One of a label asks, of every other label it can be found, too, as all others can.
                    row |= {"split": "validation", "is_query": image == 1, "is_gallery": image > 1 or number == 3}
                # Images of a label that follow each other are one sequence, two by two.
                row |= {"category": category, "sequence": f"{name}_{(image - 1) // 2}"}
                row |= dict(zip(("x_1", "y_1", "x_2", "y_2"), box))
                rows.append(row)
    # Tables last: where they are, all is.
    for table, further in TABLES.items():
        _write(folder / table, rows, (*COLUMNS, *further))
    return folder


def _write(file: Path, rows: list[dict[str, object]], columns: tuple[str, ...]) -> None:
    lines = [columns] + [tuple(row[column] for column in columns) for row in rows]
    with replacing(file) as stream:
        text = "\n".join(",".join(str(cell) for cell in line) for line in lines)
        stream.write(f"{text}\n".encode())


def _drawn(name: str, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """(a picture (SIDE, SIDE, 3) uint8 of a shape on a light ground, the box around it)."""
    picture = np.full((SIDE, SIDE, 3), rng.integers(215, 256, 3), np.uint8)
    color = tuple(int(level) for level in rng.integers(20, 170, 3))
    radius = int(rng.integers(SIDE // 5, SIDE // 3))
    middle = tuple(int(place) for place in rng.integers(radius + 1, SIDE - radius - 1, 2))
    if name in ("circle", "ring"):
        cv2.circle(picture, middle, radius, color, -1 if name == "circle" else radius // 3, cv2.LINE_AA)
    elif name in ("ellipse", "lens"):
        flat = 2 if name == "ellipse" else 4
        cv2.ellipse(picture, middle, (radius, radius // flat), 0, 0, 360, color, -1, cv2.LINE_AA)
    else:
        corners = np.array(_corners(name)) * radius + middle
        cv2.fillPoly(picture, [np.int32(corners.round())], color, cv2.LINE_AA)
    # Boxes are of one size, so that crops are a batch as they are.
    left, top = (min(max(0, place - BOX // 2), SIDE - BOX) for place in middle)
    return picture, (left, top, left + BOX, top + BOX)


def _corners(name: str) -> list[tuple[float, float]]:
    """Corners of a shape around (0, 0), within 1 of it."""
    if name == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if name == "triangle":
        return [(0, -1), (0.87, 0.7), (-0.87, 0.7)]
    if name == "star":
        angles = np.pi / 5 * np.arange(10) - np.pi / 2
        lengths = np.where(np.arange(10) % 2, 0.4, 1.0)
        return list(zip(lengths * np.cos(angles), lengths * np.sin(angles)))
    arm = 0.3
    quarter = [(arm, -1), (arm, -arm), (1, -arm)]
    turned = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in quarter]
    return [corner[turn] for turn in range(4) for corner in turned]


__all__ = ["draw_shapes"]
