"""What all miners have in common: they look at embeddings, in float32 at least, and leave no graph."""

import functools
from collections.abc import Callable

import torch

from losses._mined import Pairs, Reference, Triplets
from losses._precision import full_precision


def mining(method: Callable[..., Pairs | Triplets]) -> Callable[..., Pairs | Triplets]:
    """Decorate `method(self, embeddings, labels, reference)`: check its input as losses do, and keep no graph.

    Raises InputError for wrong types and shapes.
    """
    in_full_precision = full_precision(method)

    @functools.wraps(method)
    def mine(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> Pairs | Triplets:
        with torch.no_grad():
            return in_full_precision(self, embeddings, labels, reference=reference)

    return mine
