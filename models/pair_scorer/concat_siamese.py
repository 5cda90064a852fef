"""Both images as one picture, seen by one network."""

import torch
from torch import nn

from core.errors import InputError
from core.types import Layers, ShareOfSome
from models.pair_scorer._scorer import PAIR_SCORERS, PairScorer


@PAIR_SCORERS.register("concat_siamese")
class ConcatSiamese(PairScorer):
    """The backbone sees both images at once, the second below the first, and an MLP scores what it makes of them.

    As Open Metric Learning's ConcatSiamese: between the layers of the MLP a sigmoid and dropout, the last without a
    bias; the distance is the sigmoid of the score. The weights of `head` have the same names there. Shaped after STIR,
    Shabanov et al., 2023, arXiv 2304.13393.

    Options:
        mlp_hidden: widths of the layers between the feature and the score, comma-separated; empty: none
        dropout: share, below 1, of what these layers give that is dropped in training
    """

    def __init__(self, embedder: nn.Module, mlp_hidden: Layers = (192,), dropout: ShareOfSome = 0.5) -> None:
        super().__init__(embedder)
        if getattr(embedder, "modality", "image") != "image":
            raise InputError(
                f"concat_siamese stacks images, and {embedder.facts['model']} takes {embedder.modality}s; "
                "take --scorer=linear_siamese"
            )
        layers: list[nn.Module] = []
        width = embedder.embedding_size
        for hidden in mlp_hidden:
            layers += [nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout)]
            width = hidden
        layers.append(nn.Linear(width, 1, bias=False))
        self.head = nn.Sequential(*layers)

    def score(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) twice -> scores (B,)."""
        # Dimension 2 is the height.
        return self.head(self.embedder(torch.cat([first, second], dim=2)))[:, 0]

    def as_distances(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.float().sigmoid()
