"""The gradient of one batch, in one piece or in micro-batches."""

import torch

import distributed
from core.device import autocast
from models.batchnorm import statistics_left_alone


def backward(objective, images, labels, scaler, device, precision, micro_batch=0):
    """Add the loss's gradient to the parameters'; images (B, 3, H, W) uint8 and labels (B,) are on the host.

    Returns the loss, detached. Several ranks take parts of one batch, of which loss and gradient are: every rank
    compares the embeddings of all, its own images carry their share into the network, and the shares are summed. The
    gradient of the loss's own weights is whole on each rank, and averaged only to be the same to the last bit.

    micro_batch: images of which activations are held at a time, 0 for all. Embeddings of all are made first without a
    graph, the loss is differentiated by them, and every micro-batch runs again to carry its share into the weights
    (Gao et al., 2021, arXiv 2101.06983). The gradient is the one of the whole batch, for losses that compare all its
    images, too, at the price of a second forward pass. Only BatchNorm that is being trained sees a difference: its
    statistics are those of a micro-batch. They enter the running ones once.
    """
    labels = distributed.all_gather(labels).to(device, non_blocking=True)
    if not micro_batch or micro_batch >= len(images):
        with autocast(device, precision):
            loss = objective(images.to(device, non_blocking=True), labels)
        scaler.scale(loss).backward()
    else:
        loss = _in_parts(objective, images, labels, scaler, device, precision, micro_batch)
    distributed.all_reduce_gradients(objective.model.parameters())
    if not objective.part_of_loss:
        distributed.all_reduce_gradients(objective.loss.parameters(), over=distributed.world_size())
    return loss.detach()


def _in_parts(objective, images, labels, scaler, device, precision, micro_batch):
    model, parts, states, embeddings = objective.model, images.split(micro_batch), [], []
    with torch.no_grad(), statistics_left_alone(model), autocast(device, precision):
        for part in parts:
            states.append(random_state(device))
            embeddings.append(model(part.to(device, non_blocking=True)))
    embeddings = torch.cat(embeddings).requires_grad_()
    with autocast(device, precision):
        loss = objective.compare(embeddings, labels)
    scaler.scale(loss).backward()
    after = random_state(device)
    for part, state, slope in zip(parts, states, embeddings.grad.split(micro_batch)):
        set_random_state(device, state)  # what was dropped in the first pass is dropped in the second
        with autocast(device, precision):
            again = model(part.to(device, non_blocking=True))
        again.backward(slope)
    set_random_state(device, after)
    return loss


def random_state(device):
    """The state of the generator that a network on `device` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device, state):
    """Undo what was drawn since `state` was taken."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
