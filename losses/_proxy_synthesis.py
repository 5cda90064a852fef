"""Classes that lie between those of a batch (Proxy Synthesis: Gu et al., 2021, AAAI, arXiv 2103.15454, section 3.2)."""

import torch

from losses._unit_vectors import normalise


def synthesise(
    rows: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, share: float, alpha: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (B + n, D) of length 1, weights (C + n, D) and labels (B + n,) with n = share x B classes more.

    rows (B, D) of length 1, weights (C, D), labels (B,). Each new class is a mixture of the directions of two classes,
    those of a row and of the one before it, and has one row, the same mixture of these two rows. The mixture is one for
    the batch, from Beta(alpha, alpha), drawn from the CPU's generator, in which all ranks have to agree.
    """
    mixture = torch.distributions.Beta(alpha, alpha).sample().item()
    count = round(share * len(rows))

    def mixed(table: torch.Tensor) -> torch.Tensor:
        return mixture * table[:count] + (1 - mixture) * table.roll(1, 0)[:count]

    new_rows = normalise(mixed(rows))
    new_weight = mixed(normalise(weight[labels]))
    new_labels = torch.arange(len(weight), len(weight) + count, device=labels.device)
    return torch.cat([rows, new_rows]), torch.cat([weight, new_weight]), torch.cat([labels, new_labels])
