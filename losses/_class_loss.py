"""What losses over class weights have in common: the weights, their shards, and what is known of the labels."""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InputError
from losses._checks import check_option
from losses._class_cross_entropy import class_cross_entropy
from losses._class_scores import CHUNK, Centres, ClassShard, check_chunk
from losses._proxy_synthesis import synthesise
from losses._unit_vectors import lengths, normalise

MARGINS = (0.05, 0.5)  # of the most frequent label and of the rarest, where a margin goes by frequency


class ClassLoss(nn.Module):
    """A loss over `weight`, (C, D) or with `centres` for each class (C, K, D).

    Each parameter has a row for each class, except those of `layers`, which a loss may have in front of its weights.
    `shard` is None where the rows are those of all classes, else it says which classes they are of. The weight is drawn
    from U(-bound, bound). label_smoothing, chunk_classes, class_sample_rate: see class_cross_entropy; smoothing within
    the category, and a margin by frequency, need `set_labels`. proxy_synthesis, synthesis_alpha: share and alpha of
    `synthesise`. Raises InputError for other values.
    """

    shard: ClassShard | None = None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        bound: float,
        *,
        chunk_classes: str | int,
        class_sample_rate: float,
        centres: int | None = None,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        dynamic_margin: bool = False,
        proxy_synthesis: float = 0.0,
        synthesis_alpha: float = 0.4,
    ) -> None:
        super().__init__()
        check_chunk(chunk_classes)
        check_option("class_sample_rate", class_sample_rate, 0, 1)
        check_option("label_smoothing", label_smoothing, 0, 1)
        if smooth_within_category and not label_smoothing:
            raise InputError("smooth_within_category has no effect while label_smoothing is 0; give it, such as 0.1")
        check_option("proxy_synthesis", proxy_synthesis, 0, 1)
        check_option("synthesis_alpha", synthesis_alpha, 0, above=True)
        if proxy_synthesis and (smooth_within_category or dynamic_margin):
            raise InputError(
                "proxy_synthesis makes classes without a category and a frequency; it goes with neither "
                "smooth_within_category nor dynamic_margin"
            )
        self.num_classes = num_classes
        self.bound = bound
        self.chunk_classes = chunk_classes
        self.class_sample_rate = class_sample_rate
        self.label_smoothing = label_smoothing
        self.smooth_within_category = smooth_within_category
        self.dynamic_margin = dynamic_margin
        self.proxy_synthesis = proxy_synthesis
        self.synthesis_alpha = synthesis_alpha
        self.knows_labels = False
        self.logs: dict[str, torch.Tensor] = {}
        self.layers: nn.Sequential | None = None
        shape = (num_classes, embedding_size)
        if centres is not None:
            check_option("centres of a class", centres, 1)
            shape = (num_classes, centres, embedding_size)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        # Facts of the list, which a checkpoint does not hold.
        self.register_buffer("label_margins", None, persistent=False)
        self.register_buffer("label_categories", None, persistent=False)

    def set_labels(self, counts: torch.Tensor, categories: torch.Tensor | None = None) -> None:
        """Tell the loss how many images each label has (C,), and of which category it is (C,) int64 from 0.

        Raises InputError where labels are smoothed within categories and there are none.
        """
        if self.smooth_within_category and categories is None:
            raise InputError("smooth_within_category needs the labels' categories, which the train list does not have")
        self.knows_labels = True
        if self.smooth_within_category:
            self.label_categories = categories.to(self.weight.device)
        if self.dynamic_margin:
            self.label_margins = margins_by_frequency(counts, self.weight)

    def margin_of(self, labels: torch.Tensor, margin: float) -> float | torch.Tensor:
        """The margin of each label (B,) by its frequency if that is asked for, else `margin`."""
        if not self.dynamic_margin:
            return margin
        if not self.knows_labels:
            raise InputError("dynamic_margin needs how many images each label has; set_labels tells the loss")
        if self.label_margins is None:
            return margin
        return self.label_margins[labels]

    def cross_entropy(self, rows: torch.Tensor, labels: torch.Tensor, **scoring) -> torch.Tensor:
        """class_cross_entropy of rows (B, D) and labels (B,) with this loss's weight and options; fills `logs`."""
        if self.smooth_within_category and not self.knows_labels:
            raise InputError("smooth_within_category needs the labels' categories; set_labels tells the loss")
        weight = self.weight
        images = len(rows)
        if self.proxy_synthesis:
            rows, weight, labels = synthesise(rows, weight, labels, self.proxy_synthesis, self.synthesis_alpha)
        loss, self.logs = class_cross_entropy(
            rows,
            weight,
            labels,
            **scoring,
            images=images,
            label_smoothing=self.label_smoothing,
            categories=self.label_categories,
            chunk_classes=self.chunk_classes,
            class_sample_rate=self.class_sample_rate,
            shard=self.shard,
        )
        return loss

    @classmethod
    def sharded(cls, rows: slice, all_reduce_sum: Callable, all_reduce_max: Callable, **settings) -> Self:
        """The loss of `settings` with `rows` of its class tables alone, the other ranks having the rest.

        all_reduce_sum, all_reduce_max: see ClassShard. These are the rows that the whole loss would have, and random
        numbers go on as after it, but it never is in memory. Tables other than the weight begin at 0; layers are whole.
        """
        with torch.device("meta"):
            loss = cls(**settings)
        if loss.proxy_synthesis:
            raise InputError("--shard_classes does not go with --proxy_synthesis, which mixes weights of all ranks")
        for name, parameter in list(loss.named_parameters(recurse=False)):
            values = torch.zeros(rows.stop - rows.start, *parameter.shape[1:])
            setattr(loss, name, nn.Parameter(values))
        _draw_rows(loss.weight.data, loss.bound, loss.num_classes, rows.start)
        if loss.layers is not None:
            loss.layers.to_empty(device="cpu")
            for layer in loss.layers:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
        loss.shard = ClassShard(rows.start, loss.num_classes, all_reduce_sum, all_reduce_max)
        return loss

    def cosine_scores(self, rows: torch.Tensor, scale: float, centres: Centres | None = None) -> torch.Tensor:
        """`scale` times the cosines (B, C) of rows (B, D) and class weights, no margin."""
        weight = self.weight.flatten(0, -2)
        scores = scale * (F.linear(normalise(rows), weight) / lengths(weight))
        if centres is None:
            return scores
        return centres.combine(scores.T.reshape(self.num_classes, -1, len(rows))).T

    @staticmethod
    def sizes(state: dict[str, torch.Tensor]) -> tuple[int, int]:
        """(embedding_size, num_classes) of the loss that has this state_dict."""
        embedding_size = state["weight"].shape[-1]
        if "layers.0.weight" in state:
            embedding_size = state["layers.0.weight"].shape[1]
        return embedding_size, len(state["weight"])


def xavier(num_classes: int, embedding_size: int) -> float:
    """The bound b of U(-b, b) of Glorot and Bengio (2010, equation 16) for a table of this shape."""
    return math.sqrt(3.0) * math.sqrt(2.0 / (num_classes + embedding_size))


def margins_by_frequency(counts: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
    """A margin for each label (C,), 0.05 for the most frequent to 0.5 for the rarest; None where all are as frequent.

    0.45 (t - min t) / (max t - min t) + 0.05 with t = count^(-1/4) (Ha et al., 2020, arXiv 2010.05350).
    """
    rarity = counts.to(like.device, torch.float64).clamp_min(1).pow(-0.25)
    low, high = rarity.amin(), rarity.amax()
    if low == high:
        return None
    least, most = MARGINS
    return ((most - least) * (rarity - low) / (high - low) + least).to(like.dtype)


def _draw_rows(table: torch.Tensor, bound: float, classes: int, start: int) -> None:
    """Fill `table` (n, ...) with the rows from `start` on of one of `classes` rows, which is drawn chunk by chunk."""
    scratch = torch.empty(min(CHUNK, classes), *table.shape[1:])
    for first in range(0, classes, CHUNK):
        # Every chunk is drawn, also one that is not wanted: that keeps the generator where the whole table leaves it.
        drawn = scratch[: classes - first].uniform_(-bound, bound)
        begin = max(first, start)
        end = min(first + len(drawn), start + len(table))
        if begin < end:
            table[begin - start : end - start] = drawn[begin - first : end - first]
