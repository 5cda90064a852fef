"""An embedding layer that sees directions alone, such as a whitening."""

import torch
import torch.nn.functional as F
from torch import nn

from models.heads._registry import HEADS


@HEADS.register("unit_linear")
class UnitLinear(nn.Linear):
    """x / |x| W^T + b."""

    def prepared(self, features: torch.Tensor) -> torch.Tensor:
        """What the matrix is multiplied by: features (B, in_features) at length 1; one of zeros stays zeros."""
        return F.normalize(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # A whitening's weights differ by orders of magnitude, and products nearly cancel: no half type holds them.
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(self.prepared(features.to(self.weight.dtype)))
