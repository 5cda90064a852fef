"""End to end: the same seconds, images, network, batch and ArcFace formula; how far do we and the peers get?

    python benchmarks/against_peers.py                         # seven minutes on 2 cores
    python benchmarks/against_peers.py --seconds=5

Trained on the embedded set's train list, tested on its test list (labels never trained on) with our own evaluation. The
peers' loop is what their READMEs show: PIL, torchvision transforms, float32, contiguous; only the rate of all falls as
half a cosine over the seconds. Each peer's loss also runs in our loop, so that losses alone are compared.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms as plain

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import reader
from benchmarks.contest import heading, markdown, write
from benchmarks.head import oml_loss, pml_loss
from engine.backward import backward
from engine.device import choose_device, choose_precision
from engine.embed import embed
from engine.fit import update
from engine.objective import Objective
from engine.optim import build_optimiser, set_rate
from loader import open_loader
from losses import ArcMarginLoss
from models import BACKBONES, Embedder
from retrieval import Task
from retrieval.ranks import positive_ranks
from samplers import InOrder, ShuffledSampler
from transforms import TestTransform, TrainTransform

NETWORK, FROZEN, PIXELS, BATCH, LR, CLASS_LR = "EfficientNetLite0", 5, 80, 64, 0.003, 0.03


class PlainImages(torch.utils.data.Dataset):
    """A list as torchvision's examples read it: PIL, RandomResizedCrop, flip, ToTensor, Normalize."""

    def __init__(self, images, codes):
        row = BACKBONES[NETWORK]
        steps = [plain.RandomResizedCrop(PIXELS), plain.RandomHorizontalFlip(), plain.ToTensor()]
        self.images, self.codes = images, codes
        self.transform = plain.Compose([*steps, plain.Normalize(row.mean, row.std)])

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, index):
        return self.transform(Image.open(self.images.paths[index]).convert("RGB")), int(self.codes[index])


class Contest:
    """The lists, and one training of so many seconds for each contender."""

    def __init__(self, seconds):
        self.seconds, self.device = seconds, choose_device(use_gpu=False)
        self.train = reader.open_list("Ebay_train.txt", None, "train")
        self.test = reader.open_list("Ebay_test.txt", None, "test")
        self.codes, self.classes = reader.class_codes(self.train)

    def our_loss(self, classes, width):
        return ArcMarginLoss(width, classes, 30.0, 0.5)

    def run(self, build_loss, ours):
        """Train; returns {steps, images/s, recall@1}."""
        torch.manual_seed(0)
        model = Embedder(NETWORK, freeze_stages=FROZEN, imagenet=True)
        objective = Objective(model, build_loss(self.classes, model.embedding_size))
        if ours:
            objective.to(memory_format=torch.channels_last)
        optimiser = build_optimiser("adamw", model, objective.loss, LR, CLASS_LR)
        objective.train()
        steps = (self.our_steps if ours else self.plain_steps)(objective, optimiser)
        began, done = time.perf_counter(), 0
        for _ in steps:
            done += 1
            share = (time.perf_counter() - began) / self.seconds
            if share >= 1:
                break
            set_rate(optimiser, LR * 0.5 * (1 + math.cos(math.pi * share)))
        seconds = time.perf_counter() - began
        steps.close()
        return {"steps": done, "images_per_second": done * BATCH / seconds, "recall@1": self.recall(model)}

    def our_steps(self, objective, optimiser):
        sampler = ShuffledSampler(self.codes, batch_size=BATCH, seed=0)
        loader = open_loader(self.train, self.codes, TrainTransform(PIXELS, PIXELS), sampler, num_workers=1)
        scaler, precision = torch.amp.GradScaler("cpu", enabled=False), choose_precision("auto", self.device)
        for images, labels, _ in loader:
            optimiser.zero_grad(set_to_none=True)
            yield backward(objective, images, labels, scaler, self.device, precision)
            update(optimiser, scaler)

    def plain_steps(self, objective, optimiser):
        model = torch.nn.Sequential(objective.model.backbone, objective.model.pooling, objective.model.head)
        loader = torch.utils.data.DataLoader(
            PlainImages(self.train, self.codes), BATCH, shuffle=True, num_workers=1, drop_last=True
        )
        while True:
            for images, labels in loader:
                optimiser.zero_grad()
                loss = objective.loss(model(images), labels)
                loss.backward()
                optimiser.step()
                yield loss

    def recall(self, model):
        batches = InOrder(len(self.test), 64)
        loader = open_loader(self.test, self.test.labels, TestTransform(PIXELS, PIXELS), batches, num_workers=1)
        ranks = positive_ranks(Task.of(embed(model, loader, self.device), torch.from_numpy(self.test.labels)), (1,))
        return (ranks < 1).double().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of training for each (default: 60)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    contest, figures = Contest(args.seconds), {}
    for name, build, ours in (
        ("ours", contest.our_loss, True),
        ("PML's loop and ArcFaceLoss", pml_loss, False),
        ("OML's loop and ArcFaceLoss", oml_loss, False),
        ("our loop, PML's ArcFaceLoss", pml_loss, True),
        ("our loop, OML's ArcFaceLoss", oml_loss, True),
    ):
        try:
            figures[name] = contest.run(build, ours)
        except ImportError as error:
            print(f"left out: {name} ({error})", flush=True)
            continue
        print(name, figures[name], flush=True)
    rows = [
        [name, own["steps"], f"{own['images_per_second']:.0f}", f"{100 * own['recall@1']:.2f}"]
        for name, own in figures.items()
    ]
    table = markdown([f"{args.seconds:g} s of training", "steps", "images/s", "Recall@1, %"], rows)
    text = (
        f"{heading(1)}\n\n### {NETWORK}, {PIXELS} px, batch {BATCH}, {contest.classes} labels, one run each\n\n{table}"
    )
    write(args.output, "against_peers", {"seconds": args.seconds, "contenders": figures}, text)


if __name__ == "__main__":
    main()
