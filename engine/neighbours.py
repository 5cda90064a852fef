"""Which labels lie close to each other while a network learns, for the sampler `neighbours`.

Loading processes are ahead of the training, so that a table of neighbours that changed beside them would be in force a
few batches earlier or later, as many as they happen to be ahead. Here it changes between two steps: every
`refresh_steps` steps the loader is stopped, the table made anew from the weights as they are, and the loader started
again behind the last step. A checkpoint keeps the table, so a run that goes on in between has the same batches.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import distributed
from core.console import log
from core.errors import InputError
from core.sources import is_weights_name
from core.text import counted
from data.collate import Batch
from data.loader import BatchLoader, OnBad, open_test_loader
from data.records import Records
from data.samplers import BatchSampler, NeighbourSampler, nearest_labels
from embeddings.classifier import classes_of
from embeddings.embed import embed_batches
from engine.assembly import Start
from engine.checkpoint import Progress
from engine.kept_classes import WithKeptClasses
from engine.learner import Learner
from losses._nested_widths import full_width_state
from models import ModelSettings
from models.weights import read_weights, weights_file

# Gives a point (C, D) for each label, as things are when it is called; all ranks call it, the first one's counts.
Points = Callable[[], torch.Tensor]


def follow_neighbours(
    start: Start,
    progress: Progress,
    learner: Learner,
    records: Records,
    sampler: BatchSampler,
    loader: BatchLoader,
    settings: ModelSettings,
    num_workers: int | str,
    on_bad: OnBad | None,
) -> Iterable[Batch]:
    """The loader of a training, whose sampler is told which labels are neighbours; any other sampler's as it is.

    records: the train list; loader: its batches, as `sampler` makes them. Raises InputError where class weights are
    asked for that are nowhere.
    """
    if not isinstance(sampler, NeighbourSampler):
        return loader
    if _is_table_of(progress.neighbours, sampler):
        sampler.neighbours = progress.neighbours.numpy()
    if sampler.closeness == "means":
        images = open_test_loader(records, settings, start.settings.test_batch_size, num_workers, start.device, on_bad)
        points = partial(_label_means, learner.objective.model, images, records, start.device)
    else:
        points = _class_weights(learner, records, sampler, settings.pretrained_model)
    return NeighbourBatches(loader, sampler, progress, points)


class NeighbourBatches:
    """Endless batches of a loader over a NeighbourSampler, from the step behind progress.start on.

    points: what closeness goes by. The table in use is in `progress.neighbours`, for checkpoints.
    """

    def __init__(self, loader: BatchLoader, sampler: NeighbourSampler, progress: Progress, points: Points):
        self.loader = loader
        self.sampler = sampler
        self.progress = progress
        self.points = points

    def __iter__(self) -> Iterator[Batch]:
        refresh_steps = self.sampler.refresh_steps
        step = self.progress.start
        while True:
            is_due = refresh_steps > 0 and step % refresh_steps == 0
            if is_due or self.sampler.neighbours is None:
                self._look_for_neighbours(step)
            count = None
            if refresh_steps:
                count = refresh_steps - step % refresh_steps
            self.sampler.start_step = step
            # Closed in time, so that loading processes end before the next ones start.
            with contextlib.closing(iter(self.loader)) as batches:
                yield from itertools.islice(batches, count)
            step += count

    def _look_for_neighbours(self, step: int) -> None:
        """Make the table anew: on the first rank, the others get a copy."""
        points = self.points()
        table = torch.empty(self.sampler.neighbours_shape, dtype=torch.int64)
        if distributed.is_first():
            count = self.sampler.neighbours_shape[1]
            table = torch.from_numpy(nearest_labels(points.numpy(), count, self.sampler.lookalike))
            log(f"behind step {step}: neighbours of {counted(len(table), 'label')} looked for")
        # The others may wait for long.
        distributed.barrier()
        distributed.broadcast_tensors([table])
        self.progress.neighbours = table
        self.sampler.neighbours = table.numpy()


def _is_table_of(table: object, sampler: NeighbourSampler) -> bool:
    """Whether a checkpoint's table is one for such batches, which flags that may change have changed perhaps."""
    if not torch.is_tensor(table) or table.shape != sampler.neighbours_shape or table.dtype != torch.int64:
        return False
    return bool(((table >= 0) & (table < len(table))).all())


def _label_means(model: nn.Module, loader: BatchLoader, records: Records, device: torch.device) -> torch.Tensor:
    """For each label the direction of the mean of its images' embeddings, which have unit length each, (C, D).

    An image that cannot be read does not count; a label of which none can is at the origin, close to nobody.
    """
    # Running statistics are a rank's own; the first one's are saved, so all embed by them.
    distributed.broadcast_tensors(model.buffers())
    codes = torch.from_numpy(records.vocabulary.codes)
    sums = torch.zeros(len(records.vocabulary), model.embedding_size, dtype=torch.float64)
    for indices, embeddings in embed_batches(model, loader, device):
        sums.index_add_(0, codes[indices], F.normalize(embeddings.double()))
    return F.normalize(sums).float()


def _class_weights(
    learner: Learner, records: Records, sampler: NeighbourSampler, pretrained_model: str | None
) -> Points:
    """Points: the class weights of the loss, or, where it has none, of the run that the network came from."""
    loss = learner.objective.loss
    if isinstance(loss, WithKeptClasses):
        loss = loss.classes
    labels = len(records.vocabulary)
    weight = getattr(loss, "weight", None)
    if weight is not None:
        if learner.objective.loss_is_sharded or len(weight) != labels:
            raise InputError(
                f"--closeness=weights takes one row of class weights for each of the {counted(labels, 'label')}, on "
                "every rank; take --closeness=means"
            )
        return lambda: _row_of_each_class(weight)
    if sampler.refresh_steps:
        raise InputError("--closeness=weights: those of an earlier run do not change; leave --refresh_steps out")
    weights = partial(_weights_of_run, pretrained_model, records)
    if sampler.neighbours is None:
        weights()  # so that what is wrong with them is said before anything begins
    return weights


def _weights_of_run(source: str | None, records: Records) -> torch.Tensor:
    """The class weights (C, D) of a stage 1 run on the same train list. Raises InputError where there are none."""
    state = {}
    if source and not is_weights_name(source):
        state = read_weights(weights_file(source))
    weight = full_width_state(state.get("loss", {})).get("weight")
    if weight is None:
        raise InputError(
            f"--closeness=weights needs a run of train_elem.py as --pretrained_model, got {source!r}; or take means"
        )
    labels = records.vocabulary.labels
    if classes_of(state).tolist() != labels.tolist() or len(weight) != len(labels):
        raise InputError(f"--closeness=weights: {source} was trained on other labels; take --closeness=means")
    return _row_of_each_class(weight)


def _row_of_each_class(weight: torch.Tensor) -> torch.Tensor:
    """Class weights as (C, D) float32 on the CPU: where a class has several centres (C, K, D), their mean direction."""
    weight = weight.detach().float().cpu()
    if weight.ndim == 2:
        return weight
    return F.normalize(weight, dim=2).mean(1)
