"""A loader's images to one table of embeddings."""

import torch
from tqdm import tqdm

from engine.device import autocast


@torch.inference_mode()
def embed(model, loader, device, precision="fp32"):
    """Embeddings of all N images behind `loader`, (N, D) float32 on the CPU, row i being image i.

    The model is put into evaluation mode meanwhile and left as it was.
    """
    training = model.training
    model.eval()
    embeddings = torch.empty(len(loader.dataset), model.embedding_size)
    for images, _, indices in tqdm(loader, desc="embedding", unit="batch", leave=False, disable=None):
        with autocast(device, precision):
            embeddings[indices] = model(images.to(device, non_blocking=True)).float().cpu()
    model.train(training)
    return embeddings
