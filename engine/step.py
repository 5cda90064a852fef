"""One training step: the gradient of a batch, in one piece or in micro-batches, its norm, and the update."""

from collections.abc import Iterable

import torch
from torch import nn

import distributed
from core.device import autocast
from core.pairs import ImageTextBatch
from distributed import sharded_classes
from engine.learner import Learner
from engine.seeding import device_state, set_device_state
from models.batchnorm import statistics_left_alone


def backward(
    learner: Learner,
    images: torch.Tensor | ImageTextBatch,
    labels: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add the loss's gradient to the parameters'; images (B, 3, H, W) uint8 and labels (B,) are on the host. Of pairs
    with a text, images[i] has labels[2 i] and its text labels[2 i + 1], as their embeddings.

    rows (B,): which of the train list they are, for objectives with a memory.

    Returns the loss, detached. Several ranks take parts of one batch, of which loss and gradient are: every rank
    compares the embeddings of all, its own images carry their share into the network, and the shares are summed. The
    gradient of the loss's own weights is whole on each rank, and averaged only to be the same to the last bit.

    Where the learner has a `micro_batch` that is smaller than the batch, embeddings of all are made first without a
    graph, the loss is differentiated by them, and every micro-batch runs again to carry its share into the weights
    (Gao et al., 2021, arXiv 2101.06983). The gradient is the one of the whole batch, for losses that compare all its
    images, too, at the price of a second forward pass. Only BatchNorm that is being trained sees a difference: its
    statistics are those of a micro-batch. They enter the running ones once.
    """
    objective = learner.objective
    labels = distributed.all_gather(labels)
    if objective.memory is not None:
        rows = distributed.all_gather(rows).to(learner.device, non_blocking=True)
    if 0 < learner.micro_batch < len(images):
        loss = _backward_in_micro_batches(learner, images, labels, rows)
    else:
        with autocast(learner.device, learner.precision):
            loss = objective(images.to(learner.device, non_blocking=True), labels, rows)
        learner.scaler.scale(loss).backward()
    distributed.all_reduce_gradients(objective.model.parameters())
    whole = objective.loss.parameters()
    if objective.loss_is_sharded:
        whole = sharded_classes.whole_parameters(objective.loss)
    distributed.all_reduce_gradients(whole, over=distributed.world_size())
    return loss.detach()


def _backward_in_micro_batches(
    learner: Learner, images: torch.Tensor | ImageTextBatch, labels: torch.Tensor, rows: torch.Tensor | None
) -> torch.Tensor:
    """As `backward`, the loss with its graph; labels and rows are those of all ranks."""
    model = learner.objective.model
    device = learner.device
    micro_batches = images.split(learner.micro_batch)

    # First pass: embeddings alone. Nothing is kept of the activations.
    states = []
    embeddings = []
    with torch.no_grad(), statistics_left_alone(model), autocast(device, learner.precision):
        for micro_batch in micro_batches:
            states.append(device_state(device))
            embeddings.append(model(micro_batch.to(device, non_blocking=True)))

    # The loss compares all of them, and its slope ends at the embeddings.
    counts = [len(some) for some in embeddings]
    embeddings = torch.cat(embeddings).requires_grad_()
    with autocast(device, learner.precision):
        loss = learner.objective.compare(embeddings, labels, rows)
    learner.scaler.scale(loss).backward()

    # Second pass: the slope goes on into the weights.
    after = device_state(device)
    for micro_batch, state, slope in zip(micro_batches, states, embeddings.grad.split(counts)):
        # What was dropped in the first pass is dropped in the second.
        set_device_state(device, state)
        with autocast(device, learner.precision):
            again = model(micro_batch.to(device, non_blocking=True))
        # Where all of the network is left as it is, the loss's own weights are what learns.
        if again.requires_grad:
            again.backward(slope)
    set_device_state(device, after)
    return loss


def clip_gradient(learner: Learner) -> torch.Tensor:
    """The total norm of all gradients, over all ranks, a scalar tensor; clips to the learner's clip_norm if > 0."""
    objective = learner.objective
    learner.scaler.unscale_(learner.optimiser)
    if objective.loss_is_sharded:
        # That of the class weights is spread over the ranks, the others' gradient is the same on every rank.
        classes_norm = distributed.all_reduce_sum(_norm(sharded_classes.sharded_parameters(objective.loss)) ** 2).sqrt()
        whole = [*objective.model.parameters(), *sharded_classes.whole_parameters(objective.loss)]
        norm = torch.hypot(_norm(whole), classes_norm)
    else:
        norm = _norm(objective.parameters())
    if learner.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(objective.parameters(), learner.clip_norm, norm)
    return norm


def _norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


class Closure:
    """Loss and gradient of a batch, for an optimiser that asks for them several times a step (L-BFGS).

    At first they are those that are there: `loss`, and what the parameters hold. batch: as `backward` takes it.
    """

    def __init__(self, learner: Learner, batch: tuple, loss: torch.Tensor):
        self.learner = learner
        self.batch = batch
        self.loss: torch.Tensor | None = loss

    def __call__(self) -> torch.Tensor:
        if self.loss is not None:
            loss = self.loss
            self.loss = None
        else:
            self.learner.optimiser.zero_grad(set_to_none=True)
            loss = backward(self.learner, *self.batch)
            clip_gradient(self.learner)
        # L-BFGS makes one vector of all gradients, and takes them as they lie in memory.
        for parameter in self.learner.objective.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.contiguous()
        return loss


def update(learner: Learner, closure: Closure | None = None) -> None:
    """One step down the gradient that the parameters hold; averages and the memory take in what it made.

    closure: for an optimiser that needs one.
    """
    if learner.needs_closure:
        learner.scaler.step(learner.optimiser, closure)
    else:
        learner.scaler.step(learner.optimiser)
    learner.scaler.update()
    learner.objective.remember()
    if learner.averaging is not None:
        learner.averaging.update()
