"""A loss is computed in float32 at least, whatever autocast and the embeddings' type are; if small, in one thread."""

import functools
from collections.abc import Callable

import torch
from torch import nn

from losses._checks import check_embeddings, check_labels
from losses._mined import Reference
from losses._threads import one_thread_if_small


def full_precision(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate `method(self, embeddings[, labels])`: check both, switch autocast off, lift half types to float32.

    A call whose tables are small is worked on by one thread. float64 stays float64; labels arrive as int64, further
    keywords as they are. Raises InputError for wrong types and shapes.
    """

    @functools.wraps(method)
    def in_full_precision(
        self, embeddings: torch.Tensor, labels: torch.Tensor | None = None, **further: object
    ) -> torch.Tensor:
        check_embeddings(embeddings)
        if embeddings.dtype.itemsize < 4:
            arguments = [embeddings.float()]
        else:
            arguments = [embeddings]
        if labels is not None:
            check_labels(labels, len(embeddings))
            arguments.append(labels.long())
        numbers = largest_table(self, embeddings, further.get("reference"))
        with torch.autocast(embeddings.device.type, enabled=False), one_thread_if_small(embeddings.device, numbers):
            return method(self, *arguments, **further)

    return in_full_precision


def largest_table(loss: object, embeddings: torch.Tensor, reference: Reference | None) -> int:
    """Numbers of the largest table that a loss or a miner makes of embeddings (B, D), about: B x C of a batch and its C
    columns, or as many as its weights have."""
    columns = len(embeddings) + (0 if reference is None else len(reference.labels))
    weights = loss.parameters() if isinstance(loss, nn.Module) else ()
    return max(len(embeddings) * columns, *(weight.numel() for weight in weights), 0)
