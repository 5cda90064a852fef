"""Distances of pairs of rows of a list, as a network that sees both gives them."""

import os
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from tqdm import tqdm

import distributed
from core.device import autocast
from core.errors import InputError
from core.items import file_of, is_text
from core.pairs import InputPairs
from core.slices import slices_of
from data.loader import open_loader, open_test_modality
from data.modality import refuse_other_modality
from data.records import Records
from data.samplers import InOrder, Sample
from data.soundness import refuse_broken_images
from embeddings.table import EmbeddingTable
from models import ModelSettings
from models.pair_scorer import EmbeddingScorer, PairScorer, fast_scorer, open_pair_scorer

COMPARED = 2**14  # pairs of embeddings that are compared at a time


class PairsInOrder:
    """Batches of P pairs of rows in order: of each the rows that it needs, which stand once in it, as Samples.

    first, second: (P,) int64 rows. Rank r of `world_size` ranks has every `world_size`-th batch, from the r-th on.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor, batch_size: int, rank: int = 0, world_size: int = 1):
        self.first = first.numpy()
        self.second = second.numpy()
        self.batch_size = batch_size
        self.starts = range(rank * batch_size, len(first), world_size * batch_size)

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Sample]]:
        for start in self.starts:
            yield [Sample(row, 0) for row in self._rows(start).tolist()]

    def places(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield of each batch (numbers of its pairs (B,), where their first rows stand in it (B,), and the second)."""
        for start in self.starts:
            rows = self._rows(start)
            pairs = slice(start, start + self.batch_size)
            first = np.searchsorted(rows, self.first[pairs])
            second = np.searchsorted(rows, self.second[pairs])
            numbers = torch.arange(start, start + len(first))
            yield numbers, torch.from_numpy(first), torch.from_numpy(second)

    def _rows(self, start: int) -> np.ndarray:
        pairs = slice(start, start + self.batch_size)
        return np.unique(np.concatenate([self.first[pairs], self.second[pairs]]))


class PairReader:
    """Asks a pair scorer for distances of pairs of rows of a list. Memory is that of one batch of pairs; of a scorer
    that compares embeddings, that of one batch and an embedding for each row.

    scorer: on `device`; settings: how its inputs are loaded. batch_size: pairs at a time. symmetric: the mean of both
    orders of each pair. alone: whether this rank reads by itself; else all ranks ask together, and have batches in
    turn. Raises InputError for a list of what the scorer does not take.
    """

    def __init__(
        self,
        scorer: PairScorer,
        settings: ModelSettings,
        records: Records,
        device: torch.device,
        precision: str,
        batch_size: int,
        num_workers: int | str,
        symmetric: bool,
        alone: bool = False,
    ):
        refuse_other_modality(records, settings.modality)
        self.scorer = scorer
        self.modality = open_test_modality(settings)
        self.records = records
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.symmetric = symmetric
        self.ranks = (0, 1) if alone else (distributed.rank(), distributed.world_size())

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor | None:
        """Rows (P,) with rows (P,), int64 on the CPU -> distances (P,) float32 on the CPU; None on ranks behind the
        first."""
        # Nearly all of the time goes to the network. A training changes its weights between two calls.
        scorer = fast_scorer(self.scorer)
        if isinstance(scorer, EmbeddingScorer):
            return self._by_embeddings(scorer, first, second)
        return self._by_pairs(scorer, first, second)

    def _by_pairs(self, scorer: PairScorer, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor | None:
        pairs = PairsInOrder(first, second, self.batch_size, *self.ranks)

        @torch.inference_mode()
        def own_batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            loaded = self._load(self.records, pairs, "comparing pairs")
            for (inputs, _), (numbers, left, right) in zip(loaded, pairs.places(), strict=True):
                batch = InputPairs(inputs, left, right).to(self.device, non_blocking=True)
                with autocast(self.device, self.precision):
                    distances = scorer.distances(batch, self.symmetric)
                yield numbers, distances.float().cpu()[:, None]

        distances = self._gathered(own_batches(), len(first), 1)
        return None if distances is None else distances[:, 0]

    def _by_embeddings(self, scorer: EmbeddingScorer, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor | None:
        """As `_by_pairs`, of a scorer that compares embeddings: each row is embedded once, whatever pairs it is in."""
        rows, places = torch.cat([first, second]).unique(return_inverse=True)
        in_order = InOrder(len(rows), self.batch_size, *self.ranks)

        @torch.inference_mode()
        def own_batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for inputs, numbers in self._load(self.records.take(rows.numpy()), in_order, "embedding"):
                with autocast(self.device, self.precision):
                    embeddings = scorer.embed(inputs.to(self.device, non_blocking=True))
                yield numbers, embeddings.cpu()

        table = self._gathered(own_batches(), len(rows), scorer.embedder.embedding_size)
        if table is None:
            return None
        left, right = places.split(len(first))
        distances = torch.empty(len(first))
        with torch.inference_mode():
            for part in slices_of(len(first), COMPARED):
                scores = scorer.compare(table[left[part]].to(self.device), table[right[part]].to(self.device))
                distances[part] = scorer.as_distances(scores).cpu()
        return distances

    def _load(
        self, records: Records, batches: PairsInOrder | InOrder, doing: str
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (inputs, their numbers in `records`) of each of this rank's batches."""
        pinned = self.device.type == "cuda"
        loader = open_loader(records, self.modality, batches, self.num_workers, pin_memory=pinned)
        hidden = None if distributed.is_first() else True  # None hides the bar where there is no terminal
        for inputs, _, numbers in tqdm(loader, desc=doing, unit="batch", leave=False, disable=hidden):
            yield inputs, numbers

    def _gathered(
        self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], count: int, width: int
    ) -> torch.Tensor | None:
        """(count, width) float32 of all ranks' (numbers (B,), rows (B, width)); None on ranks behind the first."""
        if self.ranks[1] > 1:
            batches = distributed.gather_batches(batches)
        table = torch.empty(count, width)
        for numbers, rows in batches:
            table[numbers] = rows
        if self.ranks[0] > 0:
            return None
        return table


def open_pair_distances(
    postprocess: Collection[str],
    options: Mapping[str, object],
    source: Records | EmbeddingTable,
    device: torch.device,
    precision: str,
    batch_size: int,
    num_workers: int | str,
) -> PairReader | None:
    """What the re-ranker `pairwise` asks about pairs of rows of what is evaluated; None where it is not asked for.

    options: of the re-rankers. Raises InputError for a run without a pair scorer, and for a table of embeddings whose
    rows name no files.
    """
    if "pairwise" not in postprocess:
        return None
    records = source
    if isinstance(source, EmbeddingTable):
        records = source.records
        _refuse_missing_files(records)
        refuse_broken_images([records])
    scorer, settings = open_pair_scorer(options["pairwise_model"])
    return PairReader(
        scorer.to(device),
        settings,
        records,
        device,
        precision,
        batch_size,
        num_workers,
        options["symmetric"],
        alone=True,
    )


def _refuse_missing_files(records: Records) -> None:
    """Raise InputError for the first row of a table that names no file: numbers stand where there were no paths."""
    for row, path in enumerate(records.paths.tolist()):
        if not is_text(path) and not os.path.isfile(file_of(path)):
            raise InputError(
                f"--postprocess=pairwise looks at images, and row {row} of {records.source!r} names none: no file "
                f"{path!r}; eval.py --save_embeddings and infer.py --output write paths along"
            )
