"""ArcFace, the additive angular margin softmax (Deng et al., 2018, arXiv 1801.07698, equation 3)."""

import math

import torch
import torch.nn.functional as F

from losses import LOSSES
from losses._classes import ClassLoss
from losses._shared import check_classes, check_option, full_precision, lengths, unit


@LOSSES.register("arcmargin", stage="elem", batch="shuffled")
class ArcMarginLoss(ClassLoss):
    """Cross-entropy over scaled cosines to the class weights (C, D), the own class being put off by an angle.

    The own class scores s cos(theta + m) in place of s cos(theta) as long as theta + m stays below pi, and
    s (cos(theta) - m sin m) beyond, so that the score still falls with the angle.

    Options:
        arc_scale: factor s on the cosines
        arc_margin: angle m in radians, 0 to pi
        arc_easy_margin: apply the margin only where the cosine is positive, else keep the plain cosine
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random

    `logs` after a call: acc1 and acc5 of the batch, by cosines without the margin.
    """

    def __init__(
        self,
        embedding_size,
        num_classes,
        arc_scale=80.0,
        arc_margin=0.15,
        arc_easy_margin=False,
        chunk_classes="auto",
        class_sample_rate=1.0,
    ):
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (num_classes + embedding_size))  # Xavier's
        super().__init__(num_classes, embedding_size, bound, chunk_classes, class_sample_rate)
        check_option("arc_scale", arc_scale, 0, above=True)
        check_option("arc_margin", arc_margin, 0, math.pi)
        self.arc_scale, self.arc_margin, self.arc_easy_margin = arc_scale, arc_margin, arc_easy_margin

    @full_precision
    def scores(self, embeddings):
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.arc_scale * (F.linear(unit(embeddings), self.weight) / lengths(self.weight))

    @full_precision
    def forward(self, embeddings, labels):
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight, self.part)
        return self.cross_entropy(unit(embeddings), labels, scale=self.arc_scale, put_off=self.put_off)

    def put_off(self, cosine):
        """The cosine after the margin was added to its angle; the small term keeps the root's slope finite."""
        sine = ((1 - cosine.square()).clamp_min(0) + 1e-6).sqrt()
        turned = cosine * math.cos(self.arc_margin) - sine * math.sin(self.arc_margin)
        if self.arc_easy_margin:
            return torch.where(cosine > 0, turned, cosine)
        beyond = cosine - self.arc_margin * math.sin(self.arc_margin)
        return torch.where(cosine > -math.cos(self.arc_margin), turned, beyond)
