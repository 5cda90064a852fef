"""Sub-centre ArcFace: several centres for each class, the nearest of which counts (Deng et al., ECCV 2020, eq. 2)."""

import torch

from losses._angular_margin import AngularMarginLoss
from losses._centres import NearestCentre
from losses._checks import check_classes
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("subcenter_arcmargin", stage="elem", batch="shuffled")
class SubCenterArcMarginLoss(AngularMarginLoss):
    """arcmargin with K centres for each class, weights (C, K, D): a class's cosine is that of its nearest centre.

    Images of a label that look unlike the others, or are mislabelled, gather at centres of their own.

    Options:
        arc_scale: factor s on the cosines
        arc_margin: angle m in radians, 0 to pi
        arc_easy_margin: apply the margin only where the cosine is positive, else keep the plain cosine
        sub_centers: K, centres of each class
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random
        label_smoothing: share of a label's target that is spread evenly over all labels
        smooth_within_category: spread it over the labels of its category only (lists that have categories)
        dynamic_margin: a margin by the label's frequency, 0.05 for the most frequent to 0.5 for the rarest

    `logs` after a call: acc1 and acc5 of the batch, by cosines without the margin.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        arc_scale: float = 80.0,
        arc_margin: float = 0.15,
        arc_easy_margin: bool = False,
        sub_centers: int = 3,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        dynamic_margin: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            embedding_size,
            arc_scale,
            arc_margin,
            arc_easy_margin,
            centres=sub_centers,
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
            dynamic_margin=dynamic_margin,
        )
        self.centres = NearestCentre()

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.cosine_scores(embeddings, self.arc_scale, self.centres)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[2], self.num_classes)
        return self.angular_cross_entropy(normalise(embeddings), labels, centres=self.centres)
