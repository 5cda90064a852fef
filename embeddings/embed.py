"""A loader's images to embeddings: as one table, or batch by batch."""

import torch
from tqdm import tqdm

import distributed


def embed(model, loader, device):
    """Embeddings of all N images behind `loader`, (N, D) float32 on the CPU, row i being image i.

    The model is put into evaluation mode meanwhile and left as it was. Several ranks embed the batches in turn; the
    first gets all embeddings, the others None.
    """
    embeddings = torch.empty(len(loader.dataset), model.embedding_size) if distributed.is_first() else None
    for indices, batch in embed_batches(model, loader, device):
        embeddings[indices] = batch
    return embeddings


def embed_batches(model, loader, device):
    """Yield (indices (B,), embeddings (B, D) float32 on the CPU) of one batch after the other, as `embed`.

    On the first rank those of all ranks, on others none, but these have to run through it, too.
    """
    return distributed.gather_batches(_own_batches(model, loader, device))


def embed_own(model, loader, device):
    """As `embed`, but every rank gets the embeddings (n, D) of the images behind its own batches, and no others.

    They are in the order of `loader.batch_sampler.rows()`.
    """
    embeddings, done = torch.empty(len(loader.batch_sampler.rows()), model.embedding_size), 0
    for _, batch in _own_batches(model, loader, device):
        embeddings[done : done + len(batch)] = batch
        done += len(batch)
    return embeddings


@torch.inference_mode()
def _own_batches(model, loader, device):
    training = model.training
    model.eval()
    try:
        for images, _, indices in tqdm(
            loader, desc="embedding", unit="batch", leave=False, disable=None if distributed.is_first() else True
        ):
            yield indices, model(images.to(device, non_blocking=True)).float().cpu()
    finally:
        model.train(training)
