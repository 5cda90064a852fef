"""A distance in a space that a matrix makes of the embeddings'."""

import torch
from torch import nn

from models.pair_scorer._scorer import PAIR_SCORERS, EmbeddingScorer


@PAIR_SCORERS.register("linear_siamese")
class LinearSiamese(EmbeddingScorer):
    """The Euclidean length of a matrix times the difference of both embeddings, plus a number that is learned, too.

    As Open Metric Learning's LinearTrivialDistanceSiamese, where that number stays what it is; it moves no rank, but
    without it no distance is the logit of "of one label".

    Options:
        identity_init: begin with the identity, that is, with the distance of the embeddings; else with chance
        output_bias: what is added at first
        unit_length: scale embeddings to length 1 first
    """

    def __init__(
        self,
        embedder: nn.Module,
        identity_init: bool = True,
        output_bias: float = 0.0,
        unit_length: bool = True,
    ) -> None:
        super().__init__(embedder, unit_length)
        self.proj = nn.Linear(embedder.embedding_size, embedder.embedding_size, bias=False)
        if identity_init:
            nn.init.eye_(self.proj.weight)
        self.output_bias = nn.Parameter(torch.tensor(float(output_bias)))

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(self.proj(first - second).float(), dim=1) + self.output_bias
