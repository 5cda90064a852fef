"""ArcFace, the additive angular margin softmax (Deng et al., 2018, arXiv 1801.07698, equation 3)."""

import torch

from losses._angular_margin import AngularMarginLoss
from losses._checks import check_classes
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("arcmargin", stage="elem", batch="shuffled")
class ArcMarginLoss(AngularMarginLoss):
    """Cross-entropy over scaled cosines to the class weights (C, D), an angle being added to that of the own class.

    The own class scores s cos(theta + m) in place of s cos(theta) as long as theta + m stays below pi, and
    s (cos(theta) - m sin m) beyond, so that the score still falls with the angle.

    Options:
        arc_scale: factor s on the cosines
        arc_margin: angle m in radians, 0 to pi
        arc_easy_margin: apply the margin only where the cosine is positive, else keep the plain cosine
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random
        label_smoothing: share of a label's target that is spread evenly over all labels
        smooth_within_category: spread it over the labels of its category only (lists that have categories)
        dynamic_margin: a margin by the label's frequency, 0.05 for the most frequent to 0.5 for the rarest
        proxy_synthesis: classes mixed of two of the batch's, as a share of its images
        synthesis_alpha: alpha of Beta(alpha, alpha), from which the mixture is drawn

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
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        dynamic_margin: bool = False,
        proxy_synthesis: float = 0.0,
        synthesis_alpha: float = 0.4,
    ) -> None:
        super().__init__(
            num_classes,
            embedding_size,
            arc_scale,
            arc_margin,
            arc_easy_margin,
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
            dynamic_margin=dynamic_margin,
            proxy_synthesis=proxy_synthesis,
            synthesis_alpha=synthesis_alpha,
        )

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.cosine_scores(embeddings, self.arc_scale)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        return self.angular_cross_entropy(normalise(embeddings), labels)
