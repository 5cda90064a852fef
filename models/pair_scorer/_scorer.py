"""The table of pair scorers, and what they have in common."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from core.pairs import InputPairs
from core.registry import Registry

# Options of a scorer are its keywords with a default; the embedder, which has none, is handed over.
PAIR_SCORERS = Registry("pair scorer")


class PairScorer(nn.Module):
    """Two images, or what else the backbone takes, to one number: the larger, the less they are alike.

    `scorer(first, second)`: inputs (B, ...) twice, or an InputPairs of B pairs in their place -> scores (B,). In
    training a score is the logit of "these two have different labels". `distances` makes of it what ranks.

    embedder: the network, with `embedding_size` numbers an input. learns: whether there is anything to train.
    is_symmetric: whether the order of the two makes no difference.
    """

    learns = True
    is_symmetric = False

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        # What the network is, for files that hold its weights; build.py adds the scorer's name and options.
        self.facts: dict[str, object] = dict(getattr(embedder, "facts", {}))

    def forward(self, first: torch.Tensor | InputPairs, second: torch.Tensor | None = None) -> torch.Tensor:
        if isinstance(first, InputPairs):
            return self.score_pairs(first)
        return self.score(first, second)

    def score(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Inputs (B, ...) twice -> scores (B,)."""
        raise TypeError(f"{type(self).__name__} has no score()")

    def score_pairs(self, pairs: InputPairs) -> torch.Tensor:
        """Scores (B,) of B pairs."""
        return self.score(pairs.inputs[pairs.first], pairs.inputs[pairs.second])

    def as_distances(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B,) as distances (B,), float32."""
        return scores.float()

    def distances(self, pairs: InputPairs, symmetric: bool = False) -> torch.Tensor:
        """Distances (B,) float32 of B pairs; symmetric: the mean of both orders of each pair."""
        distances = self.as_distances(self(pairs))
        if symmetric and not self.is_symmetric:
            distances = (distances + self.as_distances(self(pairs.swapped()))) / 2
        return distances

    # What training asks a network for, beside its weights (models/embedder.py).

    @property
    def stages(self) -> Sequence:
        return self.embedder.stages

    def depth_of(self, weight: str) -> int:
        """As of an Embedder; what compares is as deep as its head."""
        owner, _, name = weight.partition(".")
        if owner == "embedder":
            return self.embedder.depth_of(name)
        return len(self.stages)

    def hold_backbone(self) -> None:
        self.embedder.hold_backbone()

    def release_backbone(self) -> None:
        self.embedder.release_backbone()


class EmbeddingScorer(PairScorer):
    """A PairScorer that embeds both inputs by themselves, and compares the embeddings.

    unit_length: whether embeddings are scaled to length 1 first, as a search by cosine has them.
    """

    is_symmetric = True

    def __init__(self, embedder: nn.Module, unit_length: bool) -> None:
        super().__init__(embedder)
        self.unit_length = unit_length

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) twice, float32 -> scores (B,)."""
        raise TypeError(f"{type(self).__name__} has no compare()")

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (B, ...) -> embeddings (B, D) float32, as `compare` takes them."""
        embeddings = self.embedder(inputs).float()
        if self.unit_length:
            embeddings = functional.normalize(embeddings)
        return embeddings

    def score(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.compare(self.embed(first), self.embed(second))

    def score_pairs(self, pairs: InputPairs) -> torch.Tensor:
        # An input that stands in several pairs is embedded once.
        embeddings = self.embed(pairs.inputs)
        return self.compare(embeddings[pairs.first], embeddings[pairs.second])
