"""What decides an embedding, as plain JSON."""

import hashlib
from collections.abc import Iterable

import torch

from models import Embedder, ModelSettings


def fingerprint(model: Embedder, settings: ModelSettings) -> dict:
    """What decides an image's embedding: architecture, weights (SHA-256), and the transform; plain JSON.

    settings: what `model` was opened with, of which the transform's part counts.
    """
    tensors = list(model.state_dict().items())
    if model.modality == "image":
        tensors += [("mean", model.mean), ("std", model.std)]
    digest = tensors_digest(tensors)
    if model.modality == "text":
        tokenizer = settings.open_tokenizer().fingerprint
        return {**model.facts, "weights": digest.hexdigest(), "tokenizer": tokenizer}
    if model.modality == "audio":
        sound = {"rate": settings.audio_input.rate, **settings.audio_input.facts}
        return {**model.facts, "weights": digest.hexdigest(), "clip_seconds": settings.clip_seconds, "sound": sound}
    facts = {
        **model.facts,
        "weights": digest.hexdigest(),
        "image_shape": list(settings.image_shape),
        "resize_short_size": settings.resize_short_size,
    }
    # Files from before there were others are of this one.
    if settings.resize_filter != "area":
        facts["resize_filter"] = settings.resize_filter
    if settings.resize_mode != "crop":
        facts["resize_mode"] = settings.resize_mode
    return facts


def tensors_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> "hashlib._Hash":
    """SHA-256 of tensors by name, whatever their order, to which more can be added."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, whatever the type: NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest
