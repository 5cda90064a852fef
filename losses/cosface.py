"""CosFace, the additive cosine margin softmax (Wang et al., 2018, arXiv 1801.09414, equation 4)."""

import torch

from losses._checks import check_classes, check_option
from losses._class_loss import ClassLoss, xavier
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("cosface", stage="elem", batch="shuffled")
class CosFaceLoss(ClassLoss):
    """Cross-entropy over scaled cosines to the class weights (C, D), of which the own class's is lessened by a margin.

    Options:
        margin: what is taken from the cosine of the own class
        scale: factor on the cosines
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
        margin: float = 0.35,
        scale: float = 64.0,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        dynamic_margin: bool = False,
    ) -> None:
        check_option("margin", margin, 0, 2)
        check_option("scale", scale, 0, above=True)
        super().__init__(
            num_classes,
            embedding_size,
            xavier(num_classes, embedding_size),
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
            dynamic_margin=dynamic_margin,
        )
        self.margin = margin
        self.scale = scale

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.cosine_scores(embeddings, self.scale)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        margin = self.margin_of(labels, self.margin)
        return self.cross_entropy(
            normalise(embeddings), labels, scale=self.scale, add_margin=lambda cosine: cosine - margin
        )
