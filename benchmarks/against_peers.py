"""End to end: the same seconds, images, network, batch and ArcFace formula; how far do we and the peers get?

    python benchmarks/against_peers.py                         # twenty minutes on 2 cores
    python benchmarks/against_peers.py --seconds=5 --seeds=1

Trained on the embedded set's train list, tested on its test list (labels never trained on) with our own evaluation. The
peers' loop is what their READMEs show: PIL, torchvision transforms, float32, contiguous; only the rate of all falls as
half a cosine over the seconds. Each peer's loss also runs in our loop, so that losses alone are compared.

Margin, crops and rates were chosen among 16 settings by 200 steps of our loop on 200 train labels held out. PML's class
weights begin ten times as long as ours and OML's, and their best rate is ten times as high.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
from PIL import Image
from torchvision import transforms as plain

from benchmarks._contest import heading, markdown, write
from benchmarks.head import SCALE, oml_loss, pml_loss
from core.device import choose_device, choose_precision
from data.image.modality import ImageModality
from data.image.transforms import TestTransform, TrainTransform
from data.lists import open_list
from data.loader import open_loader
from data.samplers import InOrder, ShuffledSampler
from embeddings.embed import embed
from engine.learner import Learner
from engine.objective import Objective
from engine.optimiser import build_optimiser, set_rate
from engine.step import backward, update
from losses import ArcMarginLoss
from models import BACKBONES, Embedder
from retrieval import QueryGallery
from retrieval.best_positive import positive_ranks

NETWORK, FROZEN, PIXELS, BATCH = "EfficientNetLite0", 5, 80, 64
MARGIN, CROP_SCALE, LR = 0.15, (0.5, 1.0), 0.003


def our_loss(classes, width, margin):
    return ArcMarginLoss(width, classes, SCALE, margin)


def default_optimiser(objective, class_lr):
    """AdamW as torch has it by default, over the groups of build_optimiser."""
    modules = (objective.model, 1.0), (objective.loss, class_lr / LR)
    groups = [{"params": [p for p in module.parameters() if p.requires_grad], "ratio": r} for module, r in modules]
    return torch.optim.AdamW(groups, lr=LR, weight_decay=1e-4)


# Loss, whether our loop trains it, learning rate of the class weights.
CONTENDERS = {
    "ours": (our_loss, True, 0.03),
    "PML's loop and ArcFaceLoss": (pml_loss, False, 0.3),
    "OML's loop and ArcFaceLoss": (oml_loss, False, 0.03),
    "our loop, PML's ArcFaceLoss": (pml_loss, True, 0.3),
    "our loop, OML's ArcFaceLoss": (oml_loss, True, 0.03),
}


class PlainImages(torch.utils.data.Dataset):
    """A list as torchvision's examples read it: PIL, RandomResizedCrop, flip, ToTensor, Normalize."""

    def __init__(self, images, codes):
        pixels = BACKBONES[NETWORK](NETWORK).preprocess
        steps = [plain.RandomResizedCrop(PIXELS, CROP_SCALE), plain.RandomHorizontalFlip(), plain.ToTensor()]
        self.images, self.codes = images, codes
        self.transform = plain.Compose([*steps, plain.Normalize(pixels.mean, pixels.std)])

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, index):
        return self.transform(Image.open(self.images.paths[index]).convert("RGB")), int(self.codes[index])


class Contest:
    """The lists, and one training of so many seconds for each contender."""

    def __init__(self, seconds):
        self.seconds, self.device = seconds, choose_device(use_gpu=False)
        self.train = open_list("Ebay_train.txt", None, "train")
        self.test = open_list("Ebay_test.txt", None, "test")
        self.codes, self.classes = self.train.vocabulary.codes, len(self.train.vocabulary)

    def run(self, build_loss, ours, class_lr, seed):
        """Train; returns {steps, images_per_second, recall@1}."""
        torch.manual_seed(seed)
        model = Embedder(NETWORK, freeze_stages=FROZEN, weights="imagenet")
        objective = Objective(model, build_loss(self.classes, model.embedding_size, MARGIN))
        if ours:
            objective.to(memory_format=torch.channels_last)
        if ours:
            optimiser = build_optimiser(model, objective.loss, optimiser="adamw", lr=LR, class_lr=class_lr)
        else:
            optimiser = default_optimiser(objective, class_lr)
        objective.train()
        steps = self.our_steps(objective, optimiser, seed) if ours else self.plain_steps(objective, optimiser)
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

    def our_steps(self, objective, optimiser, seed):
        sampler = ShuffledSampler(self.codes, batch_size=BATCH).starting(seed)
        transform = TrainTransform(PIXELS, PIXELS, 0, ("crop", "flip"), CROP_SCALE)
        loader = open_loader(self.train, ImageModality(transform), sampler, num_workers=1)
        learner = Learner(objective, optimiser, self.device, choose_precision("auto", self.device))
        for images, labels, _ in loader:
            optimiser.zero_grad(set_to_none=True)
            yield backward(learner, images, labels)
            update(learner)

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
        loader = open_loader(self.test, ImageModality(TestTransform(PIXELS, PIXELS)), batches, num_workers=1)
        ranks = positive_ranks(
            QueryGallery.of(embed(model, loader, self.device), torch.from_numpy(self.test.labels)), (1,)
        )
        return (ranks < 1).double().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of training for each (default: 60)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    contest, figures = Contest(args.seconds), {name: [] for name in CONTENDERS}
    for seed in range(args.seeds):
        for name in list(figures):
            try:
                figures[name].append(contest.run(*CONTENDERS[name], seed))
            except ImportError as error:
                print(f"left out: {name} ({error})", flush=True)
                del figures[name]
                continue
            print(name, figures[name][-1], flush=True)
    rows = []
    own_rate = None  # ours comes first
    for name, runs in figures.items():
        steps, rate, recall = (statistics.mean(run[key] for run in runs) for key in runs[0])
        own_rate = own_rate or rate
        found = ", ".join(f"{100 * run['recall@1']:.2f}" for run in runs)
        rows.append([name, f"{steps:.0f}", f"{rate:.0f}", f"{own_rate / rate:.2f}", f"{100 * recall:.2f}", found])
    columns = [f"{args.seconds:g} s of training", "steps", "images/s", "peer / ours", "Recall@1, %", "of each seed"]
    table = markdown(columns, rows)
    title = f"{NETWORK}, {PIXELS} px, batch {BATCH}, {contest.classes} labels; means over the seeds"
    text = f"{heading(args.seeds)}\n\n### {title}\n\n{table}"
    write(args.output, "against_peers", {"seconds": args.seconds, "contenders": figures}, text)


if __name__ == "__main__":
    main()
