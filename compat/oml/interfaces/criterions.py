"""What a triplet loss with a miner is asked for."""

import torch
from torch import nn


class ITripletLossWithMiner(nn.Module):
    """A loss of embeddings and labels that chooses its triplets itself."""

    def forward(self, features: torch.Tensor, labels: torch.Tensor | list[int]) -> torch.Tensor:
        """The loss of features (B, D) and labels (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")


__all__ = ["ITripletLossWithMiner"]
