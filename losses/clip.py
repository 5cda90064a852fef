"""The symmetric contrastive loss of images and texts (Radford et al., 2021, CLIP, arXiv 2103.00020, figure 3)."""

import math
from typing import Literal

import torch
from torch import nn

from core.errors import InputError, unknown
from losses._checks import check_option
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise

SAME_LABEL = ("left_out", "positive", "negative")
LARGEST_SCALE = 100.0  # of a learned temperature, as CLIP has it


@LOSSES.register("clip", stage="pair", batch="shuffled", pairs="image,text")
class ClipLoss(nn.Module):
    """Mean of two cross-entropies over cosines divided by a temperature: of each image among the texts of the batch,
    and of each text among its images.

    Rows are image, text, image, text, …; of row 2i the text is row 2i + 1, whatever the labels. Where pairs share a
    label, the text of one is as right for the image of the other: it is left out of the sum, or shares the target
    evenly (Yang et al., 2022, UniCL, arXiv 2204.03610), or counts as wrong as any other (CLIP).

    Options:
        temperature: what cosines are divided by, at first
        learn_temperature: it is learned, down to 0.01
        same_label: what an image and a text of two pairs with one label are to each other: one of left_out, positive,
            negative

    `logs` after a call: active_share (rows that give what is theirs less than half on a geometric mean), the
    temperature, text_to_image and image_to_text (share of rows whose nearest is right), mean positive_similarity of
    pairs, and negative_similarity of what does not belong together.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        same_label: Literal["left_out", "positive", "negative"] = "left_out",
    ) -> None:
        super().__init__()
        check_option("temperature", temperature, 0, above=True)
        if same_label not in SAME_LABEL:
            raise unknown("same_label", same_label, SAME_LABEL)
        self.temperature = temperature
        self.same_label = same_label
        # The logarithm of what the scale has become over what it was, so that weight decay leads back to that.
        self.log_change = nn.Parameter(torch.zeros(1)) if learn_temperature else None
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (2 P, D) and labels (2 P,) of P pairs. Raises InputError for an odd number."""
        if len(labels) % 2:
            raise InputError(f"{len(labels)} rows are no pairs; the clip loss takes rows image, text, image, …")
        cosines = normalise(embeddings[0::2]) @ normalise(embeddings[1::2]).T
        scores = self._scale(cosines) * cosines

        # Who belongs to whom: rows are images, columns texts.
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        same = (labels[0::2, None] == labels[None, 1::2]) | own
        positive = same if self.same_label == "positive" else own
        if self.same_label == "left_out":
            scores = scores.masked_fill(same & ~own, -math.inf)
        losses = torch.cat([_cross_entropies(scores, positive), _cross_entropies(scores.T, positive.T)])
        self._log(losses.detach(), cosines.detach(), scores.detach(), positive, same)
        return losses.mean()

    def _scale(self, cosines: torch.Tensor) -> torch.Tensor:
        """What cosines are multiplied by, a number of their type."""
        if self.log_change is None:
            return cosines.new_full((), 1 / self.temperature)
        largest = max(LARGEST_SCALE, 1 / self.temperature)
        return (self.log_change[0].exp() / self.temperature).clamp(max=largest)

    def _log(
        self,
        losses: torch.Tensor,
        cosines: torch.Tensor,
        scores: torch.Tensor,
        positive: torch.Tensor,
        same: torch.Tensor,
    ) -> None:
        rows = torch.arange(len(scores), device=scores.device)
        others = (~same).sum().clamp(min=1)
        self.logs = {
            "active_share": (losses > math.log(2)).float().mean(),
            "temperature": 1 / self._scale(cosines).detach(),
            "text_to_image": positive[scores.argmax(0), rows].float().mean(),
            "image_to_text": positive[rows, scores.argmax(1)].float().mean(),
            "positive_similarity": cosines.diagonal().mean(),
            "negative_similarity": cosines.masked_fill(same, 0).sum() / others,
        }


def _cross_entropies(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Of each row the cross-entropy of a target that is spread evenly over the positive columns."""
    targets = scores.masked_fill(~positive, 0).sum(1) / positive.sum(1)
    return scores.logsumexp(1) - targets
