"""The symmetric contrastive loss of images and texts (Radford et al., 2021, CLIP, arXiv 2103.00020, figure 3)."""

import math
from typing import Literal

import torch
from torch import nn

from core.errors import InputError, unknown
from core.text import counted, plural
from losses._checks import check_option
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._slopes import softmax_and_log_sums, wants_gradient, with_gradient
from losses._unit_vectors import lengths, through_scaling

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
            raise InputError(
                f"{counted(len(labels), 'row')} {plural(len(labels), 'is no pair', 'are no pairs')}; the clip loss "
                "takes rows image, text, image, …"
            )
        learns = self.log_change is not None and wants_gradient(self.log_change)
        loss, gradient, steepness = self._with_slopes(embeddings.detach(), labels, wants_gradient(embeddings) or learns)
        loss = with_gradient(loss, embeddings, gradient)
        return with_gradient(loss, self.log_change, steepness) if learns else loss

    @torch.no_grad()
    def _with_slopes(
        self, embeddings: torch.Tensor, labels: torch.Tensor, wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The loss, and where they are wanted its gradients to the embeddings and to `log_change`."""
        sizes = lengths(embeddings)[:, None]
        units = embeddings / sizes
        cosines = units[0::2] @ units[1::2].T
        scale, is_free = self._scale(cosines)
        scores = scale * cosines

        # Who belongs to whom: rows are images, columns texts.
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        same = (labels[0::2, None] == labels[None, 1::2]) | own
        positive = same if self.same_label == "positive" else own
        if self.same_label == "left_out":
            scores.masked_fill_(same & ~own, -math.inf)
        of_images, to_texts = _cross_entropies(scores, positive, 1)
        of_texts, to_images = _cross_entropies(scores, positive, 0)
        losses = torch.cat([of_images, of_texts])
        self._log(losses, cosines, scores, positive, same)
        if not wanted:
            return losses.mean(), None, None

        slopes = to_texts.add_(to_images).mul_(scale / len(losses))  # by the cosines
        steepness = ((slopes * cosines).sum() * is_free)[None]
        gradient = torch.empty_like(embeddings)
        gradient[0::2] = slopes @ units[1::2]
        gradient[1::2] = slopes.T @ units[0::2]
        return losses.mean(), through_scaling(gradient, units, sizes), steepness

    def _scale(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What cosines are multiplied by, a number of their type, and 1 where that follows `log_change`, else 0."""
        if self.log_change is None:
            return cosines.new_full((), 1 / self.temperature), cosines.new_zeros(())
        largest = max(LARGEST_SCALE, 1 / self.temperature)
        scale = (self.log_change[0].exp() / self.temperature).to(cosines)
        return scale.clamp(max=largest), (scale <= largest).to(cosines)

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
            "temperature": 1 / self._scale(cosines)[0],
            "text_to_image": positive[scores.argmax(0), rows].float().mean(),
            "image_to_text": positive[rows, scores.argmax(1)].float().mean(),
            "positive_similarity": cosines.diagonal().mean(),
            "negative_similarity": cosines.masked_fill(same, 0).sum() / others,
        }


def _cross_entropies(scores: torch.Tensor, positive: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row, or with dim 0 of each column, the cross-entropy of a target that is spread evenly over what is
    positive; its slopes by the scores, of their shape."""
    shares = positive.to(scores.dtype)
    shares /= shares.sum(dim, keepdim=True)
    # What is no target may be -infinity, of which no share is taken.
    targets = scores.masked_fill(~positive, 0).mul_(shares).sum(dim)
    slopes, sums = softmax_and_log_sums(scores, dim)
    return sums - targets, slopes.sub_(shares)
