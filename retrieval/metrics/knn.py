"""A vote of the nearest items on the query's label."""

import torch

from core.errors import InputError
from retrieval.metrics.ranking import Ranked, register_metric


@register_metric("knn@k", "{k}-NN accuracy", "Queries whose own label is the commonest among their {k} nearest.")
def knn_accuracy(ranked: Ranked, k: int, definition: str) -> torch.Tensor:
    """1 where most of the k nearest items bear the query's label; of equally many, the label with the nearest item.

    Raises InputError for results that do not hold labels.
    """
    if ranked.labels is None:
        raise InputError("knn accuracy needs the items' labels, which these results do not hold")
    labels = ranked.labels[:, :k]
    # Each item gets as many votes as items bear its label; padding gets none.
    votes = torch.zeros(labels.shape, dtype=torch.int64, device=labels.device)
    for column in labels.T:
        votes += labels == column[:, None]
    votes[labels < 0] = -1
    winner = votes.argmax(1, keepdim=True)  # the nearest of those with most votes
    return ranked.hits[:, :k].gather(1, winner)[:, 0].double()
