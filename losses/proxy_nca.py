"""ProxyNCA with the own proxy in its sum, as ProxyNCA++ has it (Teh et al., 2020, arXiv 2004.01113, equation 6)."""

import torch

from losses._checks import check_classes, check_option
from losses._class_loss import ClassLoss, xavier
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("proxy_nca", stage="elem", batch="shuffled")
class ProxyNcaLoss(ClassLoss):
    """Cross-entropy over squared distances to one proxy a class, weights (C, D), all of length 1.

    The scores are -softmax_scale d^2; as d^2 = 2 - 2 cos, that is a softmax over 2 softmax_scale cos. The first
    ProxyNCA (Movshovitz-Attias et al., 2017, arXiv 1703.07464) leaves the own proxy out of the sum. ProxyNCA++'s
    temperature of 1/9 is a softmax_scale of 9.

    Options:
        softmax_scale: factor on the squared distances
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random
        label_smoothing: share of a label's target that is spread evenly over all labels
        smooth_within_category: spread it over the labels of its category only (lists that have categories)

    `logs` after a call: acc1 and acc5 of the batch, by cosines.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        softmax_scale: float = 1.0,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
    ) -> None:
        check_option("softmax_scale", softmax_scale, 0, above=True)
        super().__init__(
            num_classes,
            embedding_size,
            xavier(num_classes, embedding_size),
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
        )
        self.softmax_scale = softmax_scale

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): those of the loss but for a constant."""
        return self.cosine_scores(embeddings, 2 * self.softmax_scale)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        return self.cross_entropy(normalise(embeddings), labels, scale=2 * self.softmax_scale)
