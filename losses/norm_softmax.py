"""Normalised softmax: cosines over a temperature (Zhai and Wu, 2019, arXiv 1811.12649, equation 2)."""

import torch

from losses._checks import check_classes, check_option
from losses._class_loss import ClassLoss, xavier
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("norm_softmax", stage="elem", batch="shuffled")
class NormSoftmaxLoss(ClassLoss):
    """Cross-entropy over the cosines to the class weights (C, D), divided by a temperature.

    Options:
        temperature: what the cosines are divided by
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random
        label_smoothing: share of a label's target that is spread evenly over all labels
        smooth_within_category: spread it over the labels of its category only (lists that have categories)
        proxy_synthesis: classes mixed of two of the batch's, as a share of its images
        synthesis_alpha: alpha of Beta(alpha, alpha), from which the mixture is drawn

    `logs` after a call: acc1 and acc5 of the batch, by cosines.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        temperature: float = 0.05,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        proxy_synthesis: float = 0.0,
        synthesis_alpha: float = 0.4,
    ) -> None:
        check_option("temperature", temperature, 0, above=True)
        super().__init__(
            num_classes,
            embedding_size,
            xavier(num_classes, embedding_size),
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
            proxy_synthesis=proxy_synthesis,
            synthesis_alpha=synthesis_alpha,
        )
        self.temperature = temperature

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): cosines over the temperature."""
        return self.cosine_scores(embeddings, 1 / self.temperature)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        return self.cross_entropy(normalise(embeddings), labels, scale=1 / self.temperature)
