"""Images that take the place of broken ones, or nobody does."""

import numpy as np

from core.errors import InputError
from data.dataset import ImageDataset
from data.samplers import RankBatch, Sample


class ForgivingDataset(ImageDataset):
    """As ImageDataset, but for an image that cannot be read another one is loaded.

    It is one of the same label, in an order that follows from the draw's seed; where none of these can be read, one of
    a label that is not in the batch, the same label for all of its draws. So a batch keeps its size, what belonged
    together still does, and all of it follows from the draws and the files, whoever loads it and on how many ranks.
    """

    def __init__(self, *settings):
        super().__init__(*settings)
        self.names, counts = np.unique(self.labels, return_counts=True)
        self.by_label = np.split(np.argsort(self.labels, kind="stable"), np.cumsum(counts)[:-1])

    def __getitems__(self, draws):
        """(samples, {index: sentence} of what could not be read) of a batch, or of a RankBatch.

        Raises InputError if nothing is left.
        """
        broken = {}
        samples = [self._of_label(draw, broken) for draw in draws]
        if not all(samples):
            batch, start = (draws.batch, draws.start) if isinstance(draws, RankBatch) else (draws, 0)
            samples = self._of_others(batch, dict(enumerate(samples, start)), broken)[start : start + len(draws)]
        return samples, broken

    def _of_others(self, batch, loaded, broken):
        """Samples of a whole batch, in which labels that have no image at all are replaced.

        loaded: what was tried already, by its place. All ranks have to look at all of it to agree on the labels.
        """
        instead, samples = {}, []
        taken = {self.labels[draw.index] for draw in batch}
        for place, draw in enumerate(batch):
            label = self.labels[draw.index]
            sample = loaded[place] if place in loaded else self._of_label(draw, broken)
            for other in [] if sample else instead.get(label) or self._others(label, taken):
                sample = self._one_of(other, draw.seed, broken)
                if sample:
                    instead[label] = [other]
                    taken.add(other)
                    break
            if not sample:
                raise InputError(
                    f"{broken[draw.index]}; nor can another be taken, of its label or from outside the batch"
                )
            samples.append(sample)
        return samples

    def _of_label(self, draw, broken):
        """The sample of a draw, or of another image of its label; None where that has none."""
        return self._try(draw, broken) or self._one_of(self.labels[draw.index], draw.seed, broken)

    def _try(self, draw, broken):
        """The sample of a draw; None, and `broken` told, where its image cannot be read."""
        if draw.index in broken:
            return None
        try:
            return self[draw]
        except InputError as error:
            broken[draw.index] = str(error)
            return None

    def _one_of(self, label, seed, broken):
        rows = self.by_label[np.searchsorted(self.names, label)]
        draws = (Sample(int(row), seed) for row in np.random.default_rng(seed).permutation(rows))
        return next((sample for sample in (self._try(draw, broken) for draw in draws) if sample), None)

    def _others(self, label, taken):
        """The labels after `label`, round to those before it, that are not `taken`."""
        place = np.searchsorted(self.names, label)
        return [other for other in np.roll(self.names, -place - 1)[:-1] if other not in taken]


class DroppingDataset(ImageDataset):
    """As ImageDataset, but an image that cannot be read is missing from its batch."""

    def __getitems__(self, draws):
        """(samples of what can be read, {index: sentence} of the rest)."""
        samples, broken = [], {}
        for draw in draws:
            try:
                samples.append(self[draw])
            except InputError as error:
                broken[draw.index] = str(error)
        return samples, broken
