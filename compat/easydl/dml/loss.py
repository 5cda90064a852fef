"""EasyDL's losses: ArcFace and Proxy-Anchor of losses/ under its names and argument orders.

Its own Proxy-Anchor sums over the proxies of each row; this is the paper's (arXiv 2003.13911, equation 4).
"""

import torch
import torch.nn.functional as F
from torch import nn

from losses import LOSSES


class ArcFaceLoss(nn.Module):
    """Cross-entropy of `ArcFace`: embeddings (B, embedding_dim) and labels (B,) in 0..C-1 to a scalar."""

    def __init__(self, embedding_dim: int, num_classes: int, s: float = 64.0, m: float = 0.50) -> None:
        super().__init__()
        self.arcface = LOSSES["arcmargin"](embedding_dim, num_classes, arc_scale=s, arc_margin=m)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.arcface(embeddings, labels)


class ArcFace(nn.Module):
    """Scores (B, C) of embeddings (B, D): s times the cosine to each class, the own one's behind the margin m."""

    def __init__(self, in_features: int, out_features: int, s: float = 64.0, m: float = 0.50) -> None:
        super().__init__()
        self.arcface = LOSSES["arcmargin"](in_features, out_features, arc_scale=s, arc_margin=m)

    @property
    def weight(self) -> nn.Parameter:
        """The class vectors (C, D)."""
        return self.arcface.weight

    def forward(self, embedding: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(embedding), F.normalize(self.weight))
        own = cosines.gather(1, label.view(-1, 1).long())
        return self.arcface.arc_scale * cosines.scatter(1, label.view(-1, 1).long(), self.arcface.add_margin(own))


class ProxyAnchorLoss(nn.Module):
    """Proxy-Anchor of embeddings (B, embedding_dim) and labels (B,) in 0..C-1."""

    def __init__(self, num_classes: int, embedding_dim: int, margin: float = 0.1, alpha: float = 32) -> None:
        super().__init__()
        self.loss = LOSSES["proxy_anchor"](embedding_dim, num_classes, alpha=float(alpha), margin=margin)

    @property
    def proxies(self) -> nn.Parameter:
        """The proxies (C, D)."""
        return self.loss.weight

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.loss(embeddings, labels)
