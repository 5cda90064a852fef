"""Softmax cross-entropy over a linear layer of class weights: the plain classification baseline of stage 1."""

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_classes
from losses._class_loss import ClassLoss
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("softmax", stage="elem", batch="shuffled")
class SoftmaxLoss(ClassLoss):
    """Mean cross-entropy of x W^T + b, with W (C, D) drawn from U(-1/sqrt(D), 1/sqrt(D)) and b (C,) zero.

    Options:
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random
        label_smoothing: share of a label's target that is spread evenly over all labels
        smooth_within_category: spread it over the labels of its category only (lists that have categories)

    `logs` after a call: acc1 and acc5 of the batch.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            embedding_size,
            embedding_size**-0.5,
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
        )
        self.bias = nn.Parameter(torch.zeros(num_classes))

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D)."""
        return F.linear(embeddings, self.weight, self.bias)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        return self.cross_entropy(embeddings, labels, bias=self.bias)
