"""Pairs out of triplets and triplets out of pairs, so that any miner serves any loss."""

import torch

from losses._mined import Pairs, Triplets
from miners._draws import shared_generator


def as_pairs(mined: Pairs | Triplets) -> Pairs:
    """A triplet's two pairs; a pair that stands in several triplets comes several times."""
    if isinstance(mined, Pairs):
        return mined
    return Pairs(mined.anchors, mined.positives, mined.anchors, mined.negatives)


def as_triplets(mined: Pairs | Triplets, most: int = 0) -> Triplets:
    """Each positive pair with each negative pair of its anchor; where there are more than `most` > 0, that many of them
    at random."""
    if isinstance(mined, Triplets):
        return mined
    anchors, order = mined.negative_anchors.sort(stable=True)
    negatives = mined.negatives[order]
    first = torch.searchsorted(anchors, mined.positive_anchors)
    counts = torch.searchsorted(anchors, mined.positive_anchors, right=True) - first
    # Triplets are numbered through, positive pair by positive pair: ends[i] is the number after the last one of i.
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if 0 < most < total:
        numbers = distinct_numbers(most, total, ends.device)
        pairs = torch.searchsorted(ends, numbers, right=True)
    else:
        numbers = torch.arange(total, device=ends.device)
        pairs = torch.arange(len(ends), device=ends.device).repeat_interleave(counts)
    places = first[pairs] + numbers - (ends - counts)[pairs]
    return Triplets(mined.positive_anchors[pairs], mined.positives[pairs], negatives[places])


def distinct_numbers(count: int, below: int, device: torch.device) -> torch.Tensor:
    """So many different numbers (count,) of 0 to below - 1, every choice as likely as any other; count <= below."""
    generator = shared_generator(device)
    if 2 * count > below:
        return torch.randperm(below, generator=generator, device=device)[:count]
    numbers = torch.empty(0, dtype=torch.int64, device=device)
    while len(numbers) < count:
        drawn = torch.randint(below, (count,), generator=generator, device=device)
        numbers = torch.cat([numbers, drawn]).unique()
    return numbers[torch.randperm(len(numbers), generator=generator, device=device)[:count]]
