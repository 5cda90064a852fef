"""ArcFace, the additive angular margin softmax (Deng et al., 2018, arXiv 1801.07698, equation 3)."""

import math

import torch
import torch.nn.functional as F

from losses._checks import check_classes, check_option
from losses._class_scores import ClassLoss
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import lengths, normalise


@LOSSES.register("arcmargin", stage="elem", batch="shuffled")
class ArcMarginLoss(ClassLoss):
    """Cross-entropy over scaled cosines to the class weights (C, D), an angle being added to that of the own class.

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
        embedding_size: int,
        num_classes: int,
        arc_scale: float = 80.0,
        arc_margin: float = 0.15,
        arc_easy_margin: bool = False,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
    ) -> None:
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (num_classes + embedding_size))  # Xavier's
        super().__init__(num_classes, embedding_size, bound, chunk_classes, class_sample_rate)
        check_option("arc_scale", arc_scale, 0, above=True)
        check_option("arc_margin", arc_margin, 0, math.pi)
        self.arc_scale = arc_scale
        self.arc_margin = arc_margin
        self.arc_easy_margin = arc_easy_margin

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.arc_scale * (F.linear(normalise(embeddings), self.weight) / lengths(self.weight))

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        return self.cross_entropy(normalise(embeddings), labels, scale=self.arc_scale, add_margin=self.add_margin)

    def add_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        """The cosine after the margin was added to its angle; the small term keeps the root's slope finite."""
        sine = ((1 - cosine.square()).clamp_min(0) + 1e-6).sqrt()
        with_margin = cosine * math.cos(self.arc_margin) - sine * math.sin(self.arc_margin)
        if self.arc_easy_margin:
            return torch.where(cosine > 0, with_margin, cosine)
        beyond = cosine - self.arc_margin * math.sin(self.arc_margin)
        return torch.where(cosine > -math.cos(self.arc_margin), with_margin, beyond)
