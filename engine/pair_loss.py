"""What a pair scorer learns by."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn


class PairLoss(nn.Module):
    """Binary cross entropy of scores (P,), logits of "these two have different labels", and targets (P,), 1 for that.

    `logs`: of the last batch the share of pairs on the right side of 0 (`pair_accuracy`), and of how many (`pairs`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, torch.Tensor] = {}

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        is_right = (scores > 0) == (targets > 0)
        self.logs = {"pair_accuracy": is_right.float().mean().detach(), "pairs": torch.tensor(float(len(scores)))}
        return F.binary_cross_entropy_with_logits(scores, targets.float())


def build_pair_loss(*, loss_name: Literal["bce"] = "bce") -> PairLoss:
    """The loss of a pair scorer.

    Options:
        loss_name: bce: binary cross entropy of the score as the logit of "of different labels"
    """
    return PairLoss()
