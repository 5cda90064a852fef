"""A loss over the first numbers of an embedding as well: one that is cut off behind them is an embedding, too."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from losses._mined import Reference

FULL = "full."


class NestedWidths(nn.Module):
    """The mean of a loss of the whole embedding and of the same loss of its first numbers, for each of some widths.

    Kusupati et al., 2022, Matryoshka Representation Learning, arXiv 2205.13147, eq. 1, with all c_m equal; a class loss
    has weights of its own for each width. `logs` after a call: those of the whole, and loss_64 and so on.

    build: a width -> the loss of embeddings so wide. embedding_size: of the whole; widths: below it.
    """

    def __init__(self, build: Callable[[int], nn.Module], embedding_size: int, widths: Sequence[int]):
        super().__init__()
        # The whole first, so that what it draws is what it would draw alone.
        self.full = build(embedding_size)
        self.widths = tuple(widths)
        self.nested = nn.ModuleList(build(width) for width in widths)
        self.logs: dict[str, torch.Tensor] = {}

    @property
    def weight(self) -> torch.Tensor | None:
        """The class weights of the whole; None where the loss has none."""
        return getattr(self.full, "weight", None)

    @property
    def reads_labels(self) -> bool:
        """Whether the losses take labels on the host."""
        return getattr(self.full, "reads_labels", False)

    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None, **further: object
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and label codes (B,); further: what the loss takes beside."""
        losses = [self._of_width(self.full, embeddings.shape[1], embeddings, labels, reference, further)]
        self.logs = dict(self.full.logs)
        for width, loss in zip(self.widths, self.nested):
            losses.append(self._of_width(loss, width, embeddings, labels, reference, further))
            self.logs[f"loss_{width}"] = losses[-1].detach()
        return torch.stack(losses).mean()

    def _of_width(
        self,
        loss: nn.Module,
        width: int,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None,
        further: dict[str, object],
    ) -> torch.Tensor:
        if reference is not None:
            further = {**further, "reference": reference._replace(embeddings=reference.embeddings[:, :width])}
        return loss(embeddings[:, :width], labels, **further)


def full_width_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of the loss of whole embeddings, out of that of a loss or of a NestedWidths."""
    if not any(name.startswith(FULL) for name in state):
        return dict(state)
    return {name.removeprefix(FULL): value for name, value in state.items() if name.startswith(FULL)}
