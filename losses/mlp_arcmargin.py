"""ArcFace behind layers of its own, which are not part of the network (ArcFaceLossWithMLP of Open Metric Learning)."""

import torch
from torch import nn

from core.errors import InputError
from core.types import Steps
from losses._angular_margin import AngularMarginLoss
from losses._checks import check_classes, check_option
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("mlp_arcmargin", stage="elem", batch="shuffled")
class MlpArcMarginLoss(AngularMarginLoss):
    """arcmargin of what a few linear layers make of the embeddings, with ReLU between the layers.

    The layers take what is peculiar to the train labels; embeddings are what comes before them.

    Options:
        arc_scale: factor s on the cosines
        arc_margin: angle m in radians, 0 to pi
        arc_easy_margin: apply the margin only where the cosine is positive, else keep the plain cosine
        mlp_features: widths of the layers, such as 512,128; default: two as wide as the embedding
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
        mlp_features: Steps | None = None,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
        dynamic_margin: bool = False,
    ) -> None:
        if mlp_features is None:
            mlp_features = (embedding_size, embedding_size)
        for width in mlp_features:
            check_option("mlp_features", width, 1)
        if not mlp_features:
            raise InputError("mlp_features names no layer; arcmargin is the loss without layers")
        super().__init__(
            num_classes,
            mlp_features[-1],
            arc_scale,
            arc_margin,
            arc_easy_margin,
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
            dynamic_margin=dynamic_margin,
        )
        # Drawn behind the class weights, as ClassLoss.sharded does.
        self.layers = nn.Sequential()
        for before, width in zip((embedding_size, *mlp_features), mlp_features):
            if self.layers:
                self.layers.append(nn.ReLU())
            self.layers.append(nn.Linear(before, width))

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.cosine_scores(self.layers(embeddings), self.arc_scale)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.layers[0].in_features, self.num_classes)
        return self.angular_cross_entropy(normalise(self.layers(embeddings)), labels)
