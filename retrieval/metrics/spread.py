"""How far embeddings spread over the sphere, and what is said where they do not: a network that has collapsed."""

import torch
import torch.nn.functional as F

from core.slices import numbers_at_once, slices_within
from retrieval.sharded import GalleryShard

# Spread below which embeddings are nearly one vector: the mean cosine is above 0.999 then, and most scores print as
# 1.000. ReLU features find well with all cosines above 0.5, a spread in the tenths. On the embedded set ImageNet's
# weights have 0.66, both stages 0.998, and even random weights of ResNet18 0.02, of ResNet50 0.003.
COLLAPSED = 1e-3


@torch.no_grad()
def spread_of(embeddings: torch.Tensor | GalleryShard) -> float:
    """1 less the mean cosine of all pairs of rows (N, D), each with itself among them: 0 where all point one way.

    That mean is the squared length of the mean of the rows at length 1, so it takes one pass and no pair. A row of
    zeros points nowhere; 0 where all rows do. Of shards the ranks have to ask together.
    """
    rows = embeddings.embeddings if isinstance(embeddings, GalleryShard) else torch.as_tensor(embeddings)
    # The sum of directions, and behind it how many rows point anywhere and how many there are.
    sums = torch.zeros(rows.shape[1] + 2, dtype=torch.float64, device=rows.device)
    for part in slices_within(*rows.shape, numbers_at_once(rows.device.type)):
        # The least length is far below that of any float32 number.
        directions = F.normalize(rows[part].double(), dim=1, eps=1e-300)
        sums[:-2] += directions.sum(0)
        sums[-2] += directions.any(1).sum()
        sums[-1] += len(directions)
    if isinstance(embeddings, GalleryShard):
        sums = embeddings.all_reduce_sum(sums)
    if not sums[-2]:
        return 0.0
    return max(0.0, 1 - (sums[:-2] / sums[-1]).square().sum().item())


def collapse_notes(embeddings: torch.Tensor | GalleryShard) -> list[str]:
    """A sentence where embeddings (N, D) are nearly one vector, by their cosines; none otherwise, and of one row."""
    count = embeddings.list_size if isinstance(embeddings, GalleryShard) else len(embeddings)
    spread = spread_of(embeddings)
    if count < 2 or spread >= COLLAPSED:
        return []
    return [
        f"the embeddings are nearly one vector, their mean cosine is {1 - spread:.5f}: the training has collapsed (try "
        "a smaller --lr, or --warmup_steps), or the weights are random"
    ]
