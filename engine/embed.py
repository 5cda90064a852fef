"""A loader's images to embeddings: as one table, or batch by batch."""

import torch
from tqdm import tqdm


def embed(model, loader, device):
    """Embeddings of all N images behind `loader`, (N, D) float32 on the CPU, row i being image i.

    The model is put into evaluation mode meanwhile and left as it was.
    """
    embeddings = torch.empty(len(loader.dataset), model.embedding_size)
    for indices, batch in embed_batches(model, loader, device):
        embeddings[indices] = batch
    return embeddings


@torch.inference_mode()
def embed_batches(model, loader, device):
    """Yield (indices (B,), embeddings (B, D) float32 on the CPU) of one batch after the other, as `embed`."""
    training = model.training
    model.eval()
    try:
        for images, _, indices in tqdm(loader, desc="embedding", unit="batch", leave=False, disable=None):
            yield indices, model(images.to(device, non_blocking=True)).float().cpu()
    finally:
        model.train(training)
