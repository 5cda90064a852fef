"""The feature lane: a head that learns from features in a file, to convergence; seconds of its parts.

    python benchmarks/features.py                       # about two minutes on 2 cores
    python benchmarks/features.py --steps=200 --labels=2000

As many rows and labels as Stanford Online Products has to train with (59,551 and 11,318), of 768 numbers, which stand
for those of a network. Labels are clusters: they differ in some directions, and images of one label in others and more,
as by pose and light. 500 labels are held out to test on. `closed form` is the whitening of the same file.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np
import torch
from torch import nn

from benchmarks._contest import machine, markdown, write
from core.files import read_json
from core.registry import Entry
from data.records import Records
from embeddings.fingerprint import fingerprint
from embeddings.table import EmbeddingTable
from models import ModelSettings, open_model
from models.backbones import BACKBONES, IMAGENET, Backbone

ROWS, LABELS, WIDTH = 59551, 11318, 768
HELD_OUT = 500
LATENT = 64  # directions in which labels differ, and as many in which images of a label differ most
OWN_NOISE, OTHER_NOISE = 1.1, 2.0  # of an image: in the first ones, which no layer can take away, and in the others


def clusters(rows: int, labels: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (rows, width) float32 and labels (rows,): centres in one random subspace, noise there, more of it in
    another subspace, and a little everywhere."""
    rng = np.random.default_rng(seed)
    codes = np.sort(np.concatenate([np.arange(labels), rng.integers(0, labels, rows - labels)]))
    of_labels, of_images = rng.normal(size=(2, LATENT, width)).astype(np.float32) / np.sqrt(width)
    centres = rng.normal(size=(labels, LATENT)).astype(np.float32)
    own, other = rng.normal(size=(2, rows, LATENT)).astype(np.float32)
    features = (centres[codes] + OWN_NOISE * own) @ of_labels + OTHER_NOISE * other @ of_images
    features += 0.03 * rng.normal(size=features.shape).astype(np.float32)
    return features, codes


def write_features(folder: Path, features: np.ndarray, labels: np.ndarray) -> None:
    """features.npz, as if the network in weights.pt had made it."""
    settings = ModelSettings(model="Stand-in", image_shape=(3, 32, 32))
    model = open_model(settings)
    torch.save(model.state_dict(), folder / "weights.pt")
    columns = {"paths": [f"{row}.jpg" for row in range(len(labels))], "labels": labels}
    records = Records.of_columns("features", columns)
    EmbeddingTable(records, torch.from_numpy(features), fingerprint(model, settings)).save(folder / "features.npz")


def train(script: str, folder: Path, name: str, **flags: object) -> tuple[dict, tuple[float, float]]:
    """(result.json, (wall, CPU) seconds) of a run of a script on the features."""
    common = {"features": folder / "features.npz", "pretrained_model": folder / "weights.pt", "val_classes": HELD_OUT}
    common |= {"model_save_dir": folder / name, "use_gpu": False, "precision": "fp32"}
    began, cpu_began = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(script).main([f"--{flag}={value}" for flag, value in {**common, **flags}.items()])
    seconds = (time.perf_counter() - began, time.process_time() - cpu_began)
    return read_json(folder / name / "result.json"), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--steps", type=int, default=450, help="of arcmargin, batches of 1,024")
    parser.add_argument("--test_every", type=int, default=0, help="steps between tests on the way (0: the last alone)")
    parser.add_argument("--longer", action="store_true", help="twice the steps, too, which shows whether they suffice")
    parser.add_argument("--output", default="output/benchmarks")
    parser.add_argument("--lr", default="0.003")
    parser.add_argument("--class_lr", default="0.03")
    parser.add_argument("--rate", default="0.1", help="share of the classes in a step")
    options = parser.parse_args()

    stand_in = Backbone(lambda weights: nn.Conv2d(3, WIDTH, 32), WIDTH, (("weight", "bias"),), IMAGENET)
    facts = {"modality": "image", "output": "maps", "weights": ()}
    entry = Entry(lambda name: stand_in, facts)
    with mock.patch.dict(BACKBONES._entries, {"Stand-in": entry}), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_features(folder, *clusters(options.rows, options.labels, WIDTH))
        model = {"model": "Stand-in", "image_shape": "3,32,32"}
        # Any direction is as good as another here: what the features are before anything learned.
        before, _ = train("train_pair", folder, "pca", loss_name="pca", **model)
        solved, solved_seconds = train("train_pair", folder, "whitening", loss_name="whitening", **model)
        arcmargin = {
            "loss_name": "arcmargin",
            "arc_scale": 30,
            "class_sample_rate": options.rate,
            "embedding_size": 512,
            "train_batch_size": 1024,
            "optimiser": "adamw",
            "lr": options.lr,
            "class_lr": options.class_lr,
            "weight_decay": 0.01,
            "lr_strategy": "cosine",
            "total_iter_num": options.steps,
            "test_iter_step": options.test_every or options.steps,
            "save_iter_step": options.steps,
            "display_iter_step": 50,
        }
        learned, seconds = train("train_elem", folder, "arcmargin", **arcmargin, **model)
        runs = {
            "as they are": (before, None),
            "closed form": (solved, solved_seconds),
            f"arcmargin, {options.steps} steps": (learned, seconds),
        }
        if options.longer:
            twice = {**arcmargin, "total_iter_num": 2 * options.steps, "test_iter_step": 2 * options.steps}
            runs[f"arcmargin, {2 * options.steps} steps"] = train("train_elem", folder, "longer", **twice, **model)

    rows = []
    for label, (result, taken) in runs.items():
        row = [label, f"{100 * result['recall']['1']:.2f}", "", "", "", ""]
        if taken is not None:
            training = result["seconds"]["train"]
            row[2:] = [*(f"{seconds:.1f}" for seconds in (*taken, training)), f"{taken[0] / training:.2f}"]
        rows.append(row)
    columns = ["features", "Recall@1", "seconds, all", "of a CPU", "of the training", "× the training"]
    text = f"{machine()}\n\n{markdown(columns, rows)}"
    write(options.output, "features", {label: result for label, (result, _) in runs.items()}, text)


if __name__ == "__main__":
    main()
