"""SoftTriple: several centres for each class, mixed by how near they are (Qian et al., 2019, arXiv 1909.05235)."""

import torch
from torch.autograd.function import once_differentiable

from losses._centres import SoftCentres
from losses._checks import check_classes, check_option
from losses._class_loss import ClassLoss
from losses._class_scores import classes_at_once
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import lengths, normalise


@LOSSES.register("soft_triple", stage="elem", batch="shuffled")
class SoftTripleLoss(ClassLoss):
    """Cross-entropy over similarities to classes of K centres each, weights (C, K, D), of length 1 (equations 6 and 7).

    A row's similarity to a class is the mean of its cosines s to the K centres, weighted by softmax(s / gamma); the
    scores are la times it, the own class's being lessened by the margin first. The regulariser (equation 8) pulls the
    centres of a class together: tau times the sum of their distances, over C K (K - 1), as in the authors' code.

    Options:
        centers_per_class: K, centres of each class
        la: factor on the similarities
        gamma: temperature of the softmax over a class's centres
        margin: what is taken from the similarity to the own class
        tau: weight of the regulariser, over all classes (the paper: 0.2)
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
        centers_per_class: int = 10,
        la: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.0,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
        label_smoothing: float = 0.0,
        smooth_within_category: bool = False,
    ) -> None:
        check_option("centers_per_class", centers_per_class, 1)
        check_option("la", la, 0, above=True)
        check_option("gamma", gamma, 0, above=True)
        check_option("margin", margin, 0, 2)
        check_option("tau", tau, 0)
        super().__init__(
            num_classes,
            embedding_size,
            (num_classes * centers_per_class) ** -0.5,
            centres=centers_per_class,
            chunk_classes=chunk_classes,
            class_sample_rate=class_sample_rate,
            label_smoothing=label_smoothing,
            smooth_within_category=smooth_within_category,
        )
        self.centers_per_class = centers_per_class
        self.la = la
        self.gamma = gamma
        self.margin = margin
        self.tau = tau
        # Of scores, which are `la` times the cosines.
        self.centres = SoftCentres(la * gamma)

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled similarities, no margin."""
        return self.cosine_scores(embeddings, self.la, self.centres)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[2], self.num_classes)
        loss = self.cross_entropy(
            normalise(embeddings),
            labels,
            scale=self.la,
            centres=self.centres,
            add_margin=lambda similarity: similarity - self.margin,
        )
        if self.tau:
            loss = loss + self.tau * self.spread_of_centres()
        return loss

    def spread_of_centres(self) -> torch.Tensor:
        """The sum of the distances between two centres of a class, over C K (K - 1), scalar; of all ranks' classes."""
        pairs = self.num_classes * self.centers_per_class * (self.centers_per_class - 1)
        spread = _CentreDistances.apply(self.weight) / max(pairs, 1)
        if self.shard is not None:
            # Each rank has the gradient of its own classes.
            spread = spread + (self.shard.all_reduce_sum(spread.detach()) - spread.detach())
        return spread


class _CentreDistances(torch.autograd.Function):
    """The sum of sqrt(2 - 2 cos + 1e-5) over all pairs of centres of one class, some classes at a time."""

    @staticmethod
    def forward(ctx, weight: torch.Tensor) -> torch.Tensor:
        total = weight.new_zeros(())
        to_weight = torch.empty_like(weight)
        step = classes_at_once(weight.device.type, weight[:1].numel())
        for centres, slopes in zip(weight.split(step), to_weight.split(step)):
            with torch.enable_grad():
                centres = centres.detach().requires_grad_()
                directions = centres / lengths(centres.flatten(0, 1)).view(*centres.shape[:2], 1)
                upper = torch.triu_indices(centres.shape[1], centres.shape[1], 1, device=weight.device)
                cosines = (directions @ directions.mT)[:, upper[0], upper[1]]
                distances = ((2 - 2 * cosines).clamp_min(0) + 1e-5).sqrt().sum()
                slopes.copy_(torch.autograd.grad(distances, centres)[0])
            total += distances.detach()
        ctx.save_for_backward(to_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: torch.Tensor) -> torch.Tensor:
        (to_weight,) = ctx.saved_tensors
        return upstream * to_weight
