"""What decides an embedding, as plain JSON."""

import hashlib

import torch


def fingerprint(model, flags):
    """What decides an image's embedding: architecture, weights (SHA-256), and the transform; plain JSON.

    model: an Embedder; flags: the model flags (session.MODEL_DEFAULTS) it was opened with.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.state_dict().items(), ("mean", model.mean), ("std", model.std)]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    transform = {"image_shape": list(flags["image_shape"]), "resize_short_size": flags["resize_short_size"]}
    return {**model.facts, "weights": digest.hexdigest(), **transform}
