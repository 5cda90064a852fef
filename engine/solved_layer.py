"""The last layer of a network, solved from the train list's features: a stage of its own, or where a loss starts."""

import time
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import nn

import distributed
from core.console import log
from core.errors import InputError
from core.types import AboveZero, Count, OneOf
from core.text import counted, plural
from data.loader import open_test_loader, open_train_loader
from data.records import Records
from data.samplers import EachOnce
from embeddings.embed import embed
from embeddings.features import FeatureData
from embeddings.feedback import Feedback, pair_counts
from engine.assembly import Start
from engine.checkpoint import Progress
from engine.trainer import union_over_ranks
from models import Embedder, ModelSettings
from solvers import SOLVERS, Clicks, Pca, Whitening

SOLVED_HEAD = "unit_linear"  # what a stage of its own puts behind a network
# Flags of what happens in or beside a step, of which a closed form has none, and their values that ask for nothing.
FOR_STEPS = {
    "miner": "none",
    "sampler": None,
    "keep_classes": 0,
    "memory_size": 0,
    "skip_lookalikes": 0,
    "ema": 0,
    "interpolate": 1,
}


def first_solver(
    model: Embedder,
    pretrained_model: str | None,
    *,
    init_embedding: Annotated[str, OneOf("solvers")] | None = None,
    init_epsilon: AboveZero = 0.1,
    views: Count = 0,
) -> Whitening | Pca | None:
    """What solves the new last layer that a loss starts with; None where that starts from random numbers.

    Options:
        init_embedding: put a layer behind --pretrained_model that starts from one of {solvers}, not at random
        init_epsilon: epsilon of that whitening
        views: augmented views of each train image that a closed form sees beside the plain one

    Raises InputError without first weights, for a last layer that is no matrix, and for one that widens.
    """
    if init_embedding is None:
        if views:
            raise InputError("--views go with --init_embedding, or with a --loss_name that is solved, as whitening")
        return None
    if not pretrained_model:
        raise InputError(
            f"--init_embedding={init_embedding} needs --pretrained_model: random features have no directions"
        )
    layer = model.last_layer
    if not hasattr(layer, "prepared"):
        head = model.facts["head"].split(",")[-1]
        raise InputError(f"--init_embedding starts linear or unit_linear layers, not --head={head}")
    options = {}
    if layer.out_features != layer.in_features:
        options["dimensions"] = layer.out_features
    if init_embedding == "whitening":
        options["epsilon"] = init_epsilon
    return SOLVERS[init_embedding](**options)


def refuse_unsolvable(flags: dict[str, object]) -> None:
    """Raise InputError for flags, {name: value}, that a stage in a closed form has no use for or lacks."""
    name = flags["loss_name"]
    if flags["checkpoint"]:
        raise InputError(
            f"{name} makes no steps that could go on; start it again by --config={flags['checkpoint']} --overwrite=True"
        )
    if not flags["pretrained_model"]:
        raise InputError(f"{name} needs --pretrained_model, the run whose embedding it reshapes")
    if flags["init_embedding"]:
        raise InputError(f"--init_embedding is where a loss starts that is learned; {name} is solved")
    for flag, nothing in FOR_STEPS.items():
        if flags[flag] != nothing:
            raise InputError(f"--{flag}={flags[flag]} belongs to the steps of a loss; {name} is solved and makes none")


def settings_to_solve(settings: ModelSettings, solver: Whitening | Pca, typed: Container[str]) -> ModelSettings:
    """The settings of a network with one more layer for a solver to fill; typed: flags that the user gave.

    Raises InputError for another head than can be solved.
    """
    head = SOLVED_HEAD
    if "head" in typed:
        head = settings.head
        if head.split(",")[-1] != SOLVED_HEAD:
            raise InputError(f"--head={head} is not what is solved, which is a layer {SOLVED_HEAD}; leave it out")
    width = solver.dimensions
    if "embedding_size" in typed and settings.embedding_size:
        width = settings.embedding_size
    return replace(settings, head=head, embedding_size=width)


@dataclass(frozen=True)
class LayerInputs:
    """The train list, to be seen as the last layer sees it.

    settings: of the images. features: where they are made already. loading: keywords of `open_train_loader`, for views.
    progress: is told of images that cannot be read, and of the seconds it took.
    """

    start: Start
    settings: ModelSettings
    records: Records
    features: FeatureData | None
    on_bad_image: str
    loading: dict[str, object]
    progress: Progress

    def embed(self, model: Embedder, views: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the last layer takes of every image, (M, D) on the CPU, and label codes (M,): as in a test, and behind
        that `views` times augmented.

        On the first rank, None on others; all call it together. Images that cannot be read are left out where
        on_bad_image is `skip`. Moves the model to the device.
        """
        if self.features is not None:
            return self.features.features, torch.from_numpy(self.records.vocabulary.codes)
        start, records, progress = self.start, self.records, self.progress
        on_bad = progress.skipper(records, self.on_bad_image)
        batch_size = start.settings.test_batch_size
        network = _BeforeLastLayer(model.to(start.device))
        workers = self.loading["num_workers"]
        plain = open_test_loader(records, self.settings, batch_size, workers, start.device, on_bad)
        tables = [embed(network, plain, start.device)]
        for view in range(views):
            batches = EachOnce(len(records), batch_size, start.settings.seed, view)
            loader = open_train_loader(records, batches, self.settings, start.device, on_bad, **self.loading)
            tables.append(embed(network, loader, start.device))
        progress.bad_images = union_over_ranks(progress.bad_images)
        if not distributed.is_first():
            return None
        is_read = np.ones(len(records), dtype=bool)
        is_read[sorted(progress.bad_images)] = False
        kept = torch.from_numpy(np.tile(is_read, 1 + views))
        codes = torch.from_numpy(np.tile(records.vocabulary.codes, 1 + views))
        return torch.cat(tables)[kept], codes[kept]

    def embed_clicks(self, model: Embedder, feedback: Feedback) -> Clicks | None:
        """Differences of what the last layer takes of pairs; None on other ranks than the first. All call it."""
        start = self.start
        network = _BeforeLastLayer(model.to(start.device))
        loading = (start.settings.test_batch_size, self.loading["num_workers"], start.device)
        features = embed(network, open_test_loader(feedback.records, self.settings, *loading), start.device)
        if features is None:
            return None
        features = model.last_layer.prepared(features)
        differences = features[feedback.first] - features[feedback.second]
        return Clicks(differences[feedback.same], differences[~feedback.same])


class _BeforeLastLayer(nn.Module):
    """Images to what the last layer of an Embedder takes."""

    def __init__(self, embedder: Embedder):
        super().__init__()
        self.embedder = embedder
        self.embedding_size = embedder.last_layer.in_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedder.features(images)


@torch.no_grad()
def solve_last_layer(
    model: Embedder, solver: Whitening | Pca, inputs: LayerInputs, views: int, feedback: Feedback | None = None
) -> None:
    """Fill the last layer on the first rank; a Trainer shares its weights before the first step.

    Raises InputError, before anything is embedded, for a width that cannot be, and for a whitening without any pair.
    """
    began = time.perf_counter()
    layer = model.last_layer
    _check(solver, layer, inputs, views)
    seen = inputs.embed(model, views)
    clicks = None
    if feedback is not None:
        clicks = inputs.embed_clicks(model, feedback)
    if seen is None:
        return
    features, codes = seen
    if not torch.isfinite(features).all():
        raise InputError("some train features are not finite, so that no layer can be solved from them")
    if clicks is None:
        affine = solver.solve(layer.prepared(features), codes)
    else:
        affine = solver.solve(layer.prepared(features), codes, clicks)
        log(f"beside the train list {pair_counts(feedback.same)}, of {feedback.records.source}")
    layer.weight.copy_(affine.weight)
    layer.bias.copy_(affine.bias)
    seconds = time.perf_counter() - began
    inputs.progress.seconds["train"] += seconds
    counts = codes.bincount()
    note = ""
    alone = int((counts == 1).sum())
    if alone and isinstance(solver, Whitening):
        note = (
            f"; {counted(alone, 'label')} of a single one {plural(alone, 'tells', 'tell')} nothing of what images of "
            "a label share"
        )
    log(
        f"{type(solver).__name__.lower()} of {counted(len(features), 'feature')} of "
        f"{counted(int((counts > 0).sum()), 'label')}, from "
        f"{counted(layer.in_features, 'number')} to {layer.out_features}; {seconds:.1f} sec{note}"
    )


def _check(solver: Whitening | Pca, layer: nn.Module, inputs: LayerInputs, views: int) -> None:
    name = type(solver).__name__.lower()
    width = layer.in_features
    made = solver.dimensions or width
    if made > width:
        raise InputError(f"{name} to {counted(made, 'dimension')}: the features have {counted(width, 'number')} only")
    if layer.out_features != made:
        raise InputError(
            f"--embedding_size is {layer.out_features}, but {name} gives {counted(made, 'number')}: leave it out, or "
            "ask by --dimensions"
        )
    if views and inputs.features is not None:
        raise InputError("--views augment images, and --features are none; leave one of them out")
    if isinstance(solver, Whitening) and not views and inputs.records.vocabulary.counts.max() < 2:
        raise InputError("no two train images share a label, so that there is no pair to learn from")
