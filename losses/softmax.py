"""Softmax cross-entropy over a linear layer of class weights: the plain classification baseline of stage 1."""

import torch
import torch.nn.functional as F
from torch import nn

from losses import LOSSES
from losses._classes import ClassLoss, check_chunk, class_cross_entropy
from losses._shared import check_classes, check_option, full_precision


@LOSSES.register("softmax", stage="elem", batch="shuffled")
class SoftmaxLoss(ClassLoss):
    """Mean cross-entropy of x W^T + b, with W (C, D) drawn from U(-1/sqrt(D), 1/sqrt(D)) and b (C,) zero.

    Options:
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random

    `logs` after a call: acc1 and acc5 of the batch.
    """

    def __init__(self, embedding_size, num_classes, chunk_classes="auto", class_sample_rate=1.0):
        super().__init__()
        check_chunk(chunk_classes)
        check_option("class_sample_rate", class_sample_rate, 0, 1)
        self.chunk_classes, self.class_sample_rate = chunk_classes, class_sample_rate
        bound = embedding_size**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.logs = {}

    @full_precision
    def scores(self, embeddings):
        """Class scores (B, C) of embeddings (B, D)."""
        return F.linear(embeddings, self.weight, self.bias)

    @full_precision
    def forward(self, embeddings, labels):
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight, self.part)
        loss, self.logs = class_cross_entropy(
            embeddings,
            self.weight,
            labels,
            bias=self.bias,
            chunk_classes=self.chunk_classes,
            share=self.class_sample_rate,
            part=self.part,
        )
        return loss
