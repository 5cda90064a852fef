"""Batches of images to batches of pairs: the hard ones, by the embeddings of an earlier run."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F

import distributed
from core.errors import InputError
from core.pairs import InputPairs
from data.collate import Batch
from data.records import Records
from data.samplers import BatchSampler, NeighbourSampler, build_sampler, nearest_labels
from miners import PairsMiner


class MinedPairs:
    """Endless batches (InputPairs, targets, rows) out of endless batches (inputs (B, ...), codes (B,), rows (B,)).

    A target is 1 for a pair of different labels, else 0. embeddings: (N, D) of the train list, by whose cosine a pair
    is hard. Which pairs a batch has follows from its rows alone, so that a run which goes on has the same ones. On
    several ranks the batch of all is mined, and each has every so many-th pair.
    """

    def __init__(self, loader: Iterable[Batch], embeddings: torch.Tensor, miner: PairsMiner):
        self.loader = loader
        self.embeddings = F.normalize(embeddings)
        self.miner = miner

    def __iter__(self) -> Iterator[tuple[InputPairs, torch.Tensor, torch.Tensor]]:
        own = slice(distributed.rank(), None, distributed.world_size())
        for inputs, codes, rows in self.loader:
            everyone = distributed.all_gather(rows)
            first, second, targets = mined(self.miner, self.embeddings[everyone], distributed.all_gather(codes))
            yield InputPairs(distributed.all_gather(inputs), first[own], second[own]), targets[own], rows


def mined(
    miner: PairsMiner, embeddings: torch.Tensor, codes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(first (P,), second (P,), targets (P,)) int64: positions of pairs in a batch, and whether their labels differ."""
    pairs = miner(embeddings, codes)
    first = torch.cat([pairs.positive_anchors, pairs.negative_anchors])
    second = torch.cat([pairs.positives, pairs.negatives])
    targets = torch.zeros_like(first)
    targets[len(pairs.positives) :] = 1
    # In order of the images, so that any part of a batch has pairs of both kinds.
    order = (first * len(codes) + second).argsort(stable=True)
    return first[order], second[order], targets[order]


def open_pair_batches(
    records: Records, options: dict[str, object], seed: int, start_step: int, **sizes: object
) -> BatchSampler:
    """The batches of a train list in which pairs are mined, from step `start_step` on.

    options: of the sampler's own; sizes: keywords of `build_sampler`. Raises InputError as that does, for batches that
    may hold pairs of one kind only, and for neighbours that something else than the earlier run decides on.
    """
    sampler = build_sampler(records, "pk", options, **sizes)
    if not sampler.has_pairs:
        raise InputError(
            f"--sampler={sizes['sampler']} makes batches that may have no two images of a label, or no two labels; a "
            "re-ranker has to see both kinds of pairs: take --sampler=pk"
        )
    if isinstance(sampler, NeighbourSampler) and (sampler.closeness != "means" or sampler.refresh_steps):
        raise InputError(
            "a re-ranker's neighbours are those of the run whose results it puts in order: take --closeness=means, "
            "and leave --refresh_steps out"
        )
    return sampler.starting(seed, start_step)


def tell_neighbours(sampler: BatchSampler, embeddings: torch.Tensor, records: Records) -> None:
    """Tell the sampler `neighbours` which labels are close: those whose mean embeddings are; others have no use for it.

    embeddings: (N, D) of the train list.
    """
    if not isinstance(sampler, NeighbourSampler):
        return
    codes = torch.from_numpy(records.vocabulary.codes)
    sums = torch.zeros(len(records.vocabulary), embeddings.shape[1], dtype=torch.float64)
    sums.index_add_(0, codes, F.normalize(embeddings.double()))
    count = sampler.neighbours_shape[1]
    sampler.neighbours = nearest_labels(F.normalize(sums).float().numpy(), count, sampler.lookalike)
