"""How much of what is wrong the data doctor finds: faults planted in the embedded set by a seed, and counted.

python recipes/doctor_proof.py output/doctor_proof --seed=0

A tenth of the train labels is spoiled: found at which precision, and Recall@1 on the test half of a short training on
features of the spoiled, the mended and the clean list. Then copies, wrong boxes, leaks, broken files and strangers are
planted among clean rows: how many are found, and how much else. Some minutes of one core.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from core.arrays import write_npz  # noqa: E402
from core.files import make_folder, replace_json, replacing  # noqa: E402
from core.numerals import read_float, read_int  # noqa: E402
from data.embedded import embedded_data  # noqa: E402
from data.fixes import LABEL  # noqa: E402
from data.image.files import read_image  # noqa: E402
from data.lists import open_list  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ("--model=EfficientNetLite0", "--pretrained_model=imagenet", "--image_shape=3,80,80")
LOADING = ("--num_workers=0", "--batch_size=64")
# As recipes/frozen_backbones.sh trains a head on features.
TRAINING = "--loss_name=arcmargin --arc_scale=30 --head=residual --optimiser=adamw --lr=0.001 --weight_decay=0.1"
TRAINING += " --lr_strategy=cosine --train_batch_size=256 --total_iter_num=300 --display_iter_step=100"
TRAINING += " --test_iter_step=100000 --save_iter_step=100000 --overwrite=True"
# How many of each kind are planted.
COPIES, TWINS, LEAKS, BROKEN, STRANGERS, BOXES = 40, 20, 40, 6, 4, 5


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to write to")
    parser.add_argument("--seed", type=read_int, default=0, help="of what is planted, and where (default 0)")
    parser.add_argument("--trainings", type=read_int, default=3, help="on each list, of other seeds (default 3)")
    parser.add_argument("--share", type=read_float, default=0.1, help="of the labels that are spoiled (default 0.1)")
    args = parser.parse_args(argv)
    folder = make_folder(args.folder)
    features = {split: embed(folder, split) for split in ("train", "test")}
    results = {
        "seed": args.seed,
        "share": args.share,
        "labels": prove_labels(folder, args.seed, args.share, features, args.trainings),
        "planted": prove_planted(folder, args.seed),
    }
    replace_json(folder / "proof.json", results)
    print(f"written: {folder / 'proof.json'}")


def run(*words: object) -> str:
    """Call a script of the repository; returns what it printed."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def embed(folder: Path, split: str) -> Path:
    """The features of one half of the embedded set, made once."""
    file = folder.absolute() / f"{split}.npz"
    if not file.is_file():
        run("infer.py", *NETWORK, *LOADING, "--input", f"Ebay_{split}.txt", f"--output={file}")
    return file


# ---- Labels


def prove_labels(folder: Path, seed: int, share: float, features: dict[str, Path], trainings: int) -> dict[str, object]:
    """Spoil a share of the train labels, have them found and mended, and train on all three lists some times."""
    lines = (embedded_data() / "Ebay_train.txt").read_text().splitlines()
    spoiled, truth = spoil(lines, seed, share)
    spoiled_list = folder.absolute() / "spoiled.txt"
    write(spoiled_list, "\n".join(spoiled) + "\n")
    data_dir = f"--data_dir={embedded_data()}"
    examined = folder.absolute() / "labels"
    print(
        run(
            "reader.py",
            "doctor",
            spoiled_list,
            data_dir,
            f"--embeddings={features['train']}",
            f"--output_dir={examined}",
        )
    )
    mended_list = folder.absolute() / "mended.txt"
    fixes = examined / "fixes.csv"
    print(run("reader.py", "fix", spoiled_list, data_dir, f"--fixes={fixes}", f"--output={mended_list}", "--overwrite"))

    found = [line for line in read_rows(fixes) if line["kind"] == "label"]
    wrong = {int(line["row"]) for line in found}
    relabelled = [line for line in found if line["action"].startswith(LABEL)]
    right = [line for line in relabelled if line["action"].removeprefix(LABEL) == truth.get(int(line["row"]))]
    sure = {int(line["row"]) for line in found if float(line["confidence"]) >= 0.8}
    figures = {
        "spoiled": len(truth),
        "found": len(wrong & truth.keys()),
        "reported": len(wrong),
        "recall": len(wrong & truth.keys()) / len(truth),
        "precision": len(wrong & truth.keys()) / max(1, len(wrong)),
        "sure": len(sure),
        "precision_of_sure": len(sure & truth.keys()) / max(1, len(sure)),
        "relabelled": len(relabelled),
        "relabelled_right": len(right),
    }
    lists = {"spoiled": spoiled_list, "mended": mended_list, "clean": Path("Ebay_train.txt")}
    figures["recall@1"] = {}
    for name, file in lists.items():
        recalls = [train(folder, name, file, features, seed + training) for training in range(trainings)]
        figures["recall@1"][name] = {"mean": float(np.mean(recalls)), "trainings": recalls}
    print(json.dumps(figures, indent=1))
    return figures


def spoil(lines: list[str], seed: int, share: float) -> tuple[list[str], dict[int, str]]:
    """(the lines of an SOP list with a share of their labels replaced by another of them; {line: the right label})."""
    rng = np.random.default_rng(seed)
    rows = [number for number, line in enumerate(lines) if line.split()[0] != "image_id"]
    labels = sorted({lines[row].split()[1] for row in rows})
    spoiled = list(lines)
    truth = {}
    for row in rng.choice(rows, round(share * len(rows)), replace=False).tolist():
        words = lines[row].split(maxsplit=3)
        truth[row + 1] = words[1]
        others = [label for label in labels if label != words[1]]
        words[1] = others[rng.integers(len(others))]
        spoiled[row] = " ".join(words)
    return spoiled, truth


def train(folder: Path, name: str, file: Path, features: dict[str, Path], seed: int) -> float:
    """Recall@1 on the test half of a head that was trained on the features of the rows of a list, with its labels."""
    with np.load(features["train"]) as arrays:
        columns = dict(arrays)
    stands = {path: row for row, path in enumerate(columns["paths"].tolist())}
    records = open_list(file, embedded_data(), "train")
    rows = [stands[path] for path in records.paths.tolist()]
    count = len(columns["paths"])
    taken = {key: column[rows] if column.shape[:1] == (count,) else column for key, column in columns.items()}
    own = folder.absolute() / f"{name}.npz"
    write_npz(own, {**taken, "labels": records.labels})
    run_folder = folder.absolute() / f"run_{name}"
    files = (f"--features={own}", f"--test_features={features['test']}", f"--model_save_dir={run_folder}")
    run("train_elem.py", *files, *NETWORK, *TRAINING.split(), f"--seed={seed}")
    return json.loads((run_folder / "result.json").read_text())["recall"]["1"]


# ---- What is planted


def prove_planted(folder: Path, seed: int) -> dict[str, object]:
    """Plant faults among rows of the train half, each known by its row, and count which are found as what."""
    rng = np.random.default_rng([seed, 1])
    planted = make_folder(folder.absolute() / "planted")
    emoji = planted / "emoji"
    if not emoji.exists():
        os.symlink(embedded_data().resolve(), emoji)
    rows, kinds = plant(planted, rng)
    text = "label,path,split,x_1,y_1,x_2,y_2\n" + "".join(",".join(row) + "\n" for row in rows)
    write(planted / "list.csv", text)
    examined = folder.absolute() / "planted_doctor"
    test_list = planted / "against.txt"
    lines = (embedded_data() / "Ebay_test.txt").read_text().splitlines()
    moved = [
        lines[0],
        *(" ".join([*line.split(maxsplit=3)[:3], f"emoji/{line.split(maxsplit=3)[3]}"]) for line in lines[1:]),
    ]
    write(test_list, "\n".join(moved) + "\n")
    flags = (f"--data_dir={planted}", f"--against={test_list}", f"--output_dir={examined}")
    print(run("reader.py", "doctor", planted / "list.csv", *flags, *NETWORK, *LOADING))

    found: dict[str, set[int]] = {}
    for line in read_rows(examined / "fixes.csv"):
        found.setdefault(line["kind"], set()).add(int(line["row"]))
    figures = {}
    for kind, numbers in kinds.items():
        reported = found.get(kind, set())
        others = reported - set().union(*kinds.values())
        figures[kind] = {"planted": len(numbers), "found": len(numbers & reported), "on_clean_rows": len(others)}
    print(json.dumps(figures, indent=1))
    return figures


def plant(folder: Path, rng: np.random.Generator) -> tuple[list[list[str]], dict[str, set[int]]]:
    """(rows of a csv without its header, {kind: numbers of the rows that are wrong}); pictures go into the folder."""
    train, test = open_list("Ebay_train.txt", None, "train"), open_list("Ebay_test.txt", None, "test")
    root = embedded_data()
    rows = []
    for path, label in zip(train.paths.tolist(), train.labels.tolist()):
        rows.append([str(label), f"emoji/{os.path.relpath(path, root)}", "train", "", "", "", ""])
    kinds: dict[str, set[int]] = {
        kind: set() for kind in ("duplicate", "leak", "unreadable", "outlier", "box", "label")
    }

    def add(kind: str, label: object, path: str, box: Sequence[object] = ("", "", "", "")) -> None:
        rows.append([str(label), path, "train", *map(str, box)])
        kinds[kind].add(len(rows) + 1)  # the header is line 1

    chosen = rng.permutation(len(train))
    for number, row in enumerate(chosen[:COPIES].tolist()):
        add("duplicate", train.labels[row], copy(folder, f"copy_{number}", train.paths[row], number, rng))
    for number, row in enumerate(chosen[COPIES : COPIES + TWINS].tolist()):
        # The same picture with another label: that one is wrong.
        label = rng.choice(train.labels[train.labels != train.labels[row]])
        add("label", label, copy(folder, f"twin_{number}", train.paths[row], number, rng))
    for number, row in enumerate(rng.choice(len(test), LEAKS, replace=False).tolist()):
        label = train.labels[rng.integers(len(train))]
        add("leak", label, copy(folder, f"leak_{number}", test.paths[row], number, rng))
    for number in range(BROKEN):
        content = read_image_bytes(train.paths[chosen[-1 - number]])
        name = f"broken_{number}.webp"
        (folder / name).write_bytes(content[: len(content) // 2] if number % 2 else b"")
        add("unreadable", train.labels[0], name)
    strangers = (noise, colours, words, stripes)
    for number, draw in enumerate(strangers[:STRANGERS]):
        write_picture(folder / f"stranger_{number}.png", draw(rng))
        add("outlier", train.labels[rng.integers(len(train))], f"stranger_{number}.png")
    boxes = ((200, 200, 300, 300), (10, 10, 150, 150), (60, 10, 20, 80), (0.1, 0.1, 0.8, 0.9), (5, 5, 7, 90))
    for number, (row, box) in enumerate(zip(chosen[100 : 100 + BOXES].tolist(), boxes)):
        add("box", train.labels[row], copy(folder, f"box_{number}", train.paths[row], 1, rng), box)
    return rows, kinds


def copy(folder: Path, name: str, path: str, number: int, rng: np.random.Generator) -> str:
    """A copy of a picture as copies come: the file itself, saved anew, smaller, darker, or its border cut off."""
    picture = read_image(path)
    way = number % 5
    if way == 0:
        (folder / f"{name}.webp").write_bytes(read_image_bytes(path))
        return f"{name}.webp"
    if way == 1:
        cv2.imwrite(str(folder / f"{name}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
        return f"{name}.jpg"
    if way == 2:
        picture = cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    elif way == 3:
        picture = np.clip(picture * rng.uniform(0.8, 0.95), 0, 255).astype(np.uint8)
    else:
        picture = picture[3:-3, 3:-3]
    write_picture(folder / f"{name}.png", picture)
    return f"{name}.png"


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)


def colours(rng: np.random.Generator) -> np.ndarray:
    return cv2.resize(noise(rng)[:4, :4], (96, 96), interpolation=cv2.INTER_CUBIC)


def words(rng: np.random.Generator) -> np.ndarray:
    picture = np.full((96, 96, 3), 255, np.uint8)
    for line in range(6):
        text = f"lorem {rng.integers(1_000_000)}"
        cv2.putText(picture, text, (2, 14 + 15 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    return picture


def stripes(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(noise(rng)[:, :1], 96, axis=1)


def read_image_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def write_picture(file: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(file), picture[..., ::-1])


def write(file: Path, text: str) -> None:
    with replacing(file) as output:
        output.write(text.encode())


def read_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    run_script(main)
