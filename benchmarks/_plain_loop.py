"""The plain training step that benchmarks/step.py compares with.

What a user writes who knows torch and none of this repository's settings: glibc's malloc and OpenMP's threads as they
come, float32, images (B, 3, H, W) that lie channel by channel, torch.optim.SGD by its defaults. Of the repository it
takes the network and the loss, so that the work is the same. A process of its own, since malloc's settings are those of
a process. Each line that comes in asks for two steps; the seconds of the second and the process's peak memory go out,
as JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks._memory import memory
from losses import ArcMarginLoss
from models import Embedder


def main():
    """Of the words of the command line: a network, pixels, images of a batch, classes."""
    network, (pixels, batch, classes) = sys.argv[1], map(int, sys.argv[2:])
    torch.manual_seed(0)
    model = Embedder(network).train()
    loss_of = ArcMarginLoss(model.embedding_size, classes)
    weights = [*model.parameters(), *loss_of.parameters()]
    optimiser = torch.optim.SGD(weights, 1e-4, momentum=0.9, weight_decay=1e-4)
    images = torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8)
    labels = torch.randint(classes, (batch,))
    before = memory("VmRSS")
    for _ in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the greatest size so far
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            optimiser.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimiser.step()
            loss.item()
            seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak_mb": memory("VmHWM") - before}), flush=True)
