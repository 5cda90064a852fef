"""The distance of embeddings, to hold other scorers against."""

import torch
from torch import nn

from models.pair_scorer._scorer import PAIR_SCORERS, EmbeddingScorer


@PAIR_SCORERS.register("trivial_distance_siamese")
class TrivialDistanceSiamese(EmbeddingScorer):
    """The Euclidean distance of both embeddings; nothing is trained (Open Metric Learning's TrivialDistanceSiamese).

    At length 1, what the same network finds by cosine stays in its order.

    Options:
        output_bias: what is added
        unit_length: scale embeddings to length 1 first
    """

    learns = False

    def __init__(self, embedder: nn.Module, output_bias: float = 0.0, unit_length: bool = True) -> None:
        super().__init__(embedder, unit_length)
        self.output_bias = output_bias

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(first - second, dim=1) + self.output_bias
