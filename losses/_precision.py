"""A loss is computed in float32 at least, whatever autocast and the embeddings' type are."""

import functools
from collections.abc import Callable

import torch

from losses._checks import check_embeddings, check_labels


def full_precision(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate `method(self, embeddings[, labels])`: check both, switch autocast off, lift half types to float32.

    float64 stays float64; labels arrive as int64, further keywords as they are. Raises InputError for wrong types and
    shapes.
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
        with torch.autocast(embeddings.device.type, enabled=False):
            return method(self, *arguments, **further)

    return in_full_precision
