"""The margin of ArcFace on an angle, which arcmargin and its kin share (Deng et al., 2018, arXiv 1801.07698, eq. 3)."""

import functools
import math

import torch

from losses._checks import check_option
from losses._class_loss import ClassLoss, xavier


class AngularMarginLoss(ClassLoss):
    """Cross-entropy over scaled cosines to class weights, an angle being added to that of the own class.

    arc_scale, arc_margin, arc_easy_margin: as ArcMarginLoss has them; further: keywords of ClassLoss.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        arc_scale: float,
        arc_margin: float,
        arc_easy_margin: bool,
        **further: object,
    ) -> None:
        super().__init__(num_classes, embedding_size, xavier(num_classes, embedding_size), **further)
        check_option("arc_scale", arc_scale, 0, above=True)
        check_option("arc_margin", arc_margin, 0, math.pi)
        self.arc_scale = arc_scale
        self.arc_margin = arc_margin
        self.arc_easy_margin = arc_easy_margin

    def angular_cross_entropy(self, rows: torch.Tensor, labels: torch.Tensor, **further: object) -> torch.Tensor:
        """Scalar loss of rows (B, D) of length 1 and labels (B,); further: keywords of class_cross_entropy."""
        margin = self.margin_of(labels, self.arc_margin)
        add_margin = functools.partial(self.add_margin, margin=margin)
        return self.cross_entropy(rows, labels, scale=self.arc_scale, add_margin=add_margin, **further)

    def add_margin(self, cosine: torch.Tensor, margin: float | torch.Tensor | None = None) -> torch.Tensor:
        """The cosine after a margin (default: arc_margin), one or each cosine's own, was added to its angle.

        The small term keeps the root's slope finite.
        """
        if margin is None:
            margin = self.arc_margin
        if isinstance(margin, torch.Tensor):
            cosine_of_margin, sine_of_margin = margin.cos(), margin.sin()
        else:
            cosine_of_margin, sine_of_margin = math.cos(margin), math.sin(margin)
        sine = ((1 - cosine.square()).clamp_min(0) + 1e-6).sqrt()
        with_margin = cosine * cosine_of_margin - sine * sine_of_margin
        if self.arc_easy_margin:
            return torch.where(cosine > 0, with_margin, cosine)
        beyond = cosine - margin * sine_of_margin
        return torch.where(cosine > -cosine_of_margin, with_margin, beyond)
