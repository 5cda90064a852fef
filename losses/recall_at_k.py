"""Recall@k surrogate loss with similarity mixup (Patel et al., CVPR 2022, arXiv 2108.11179)."""

import torch
from torch import nn

from core.errors import InputError
from core.types import Steps
from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows, matches, of_ranks
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("recall_at_k", stage="pair", batch="pk", memory=True)
class RecallAtKLoss(nn.Module):
    """1 - mean over anchors and over ks of min(k, hits within k) / min(k, number of positives).

    The hits within k are the sum over the anchor's positives of sigmoid((k - rank) / tau_k), and a positive's rank is
    1 + the sum over all other columns of sigmoid((the column's cosine - the positive's) / tau_rank). In two things this
    is not the authors' code: the anchor is no part of its own ranking, and one tau_k serves as many ks as there are.

    simix adds a virtual embedding for each pair of images of a label: mixed from their unit vectors by a share drawn
    from U(0, 1), it is an anchor and a column like the others. Shares come from the CPU's generator.

    Options:
        ks: how many columns count as retrieved, as 1,2,4,8,16
        tau_rank: width of the sigmoid that compares two columns, in cosine
        tau_k: width of the sigmoid that compares a rank with k, in ranks
        simix: add virtual images, mixed from the images of a label

    `logs` after a call: active_share (anchors with a negative at least as near as one of their positives).
    """

    reads_labels = True

    def __init__(
        self, ks: Steps = (1, 2, 4, 8, 16), tau_rank: float = 0.01, tau_k: float = 1.0, simix: bool = False
    ) -> None:
        super().__init__()
        if not ks or min(ks) < 1:
            raise InputError(f"ks={','.join(map(str, ks))} is no list of numbers of columns, 1 or more each")
        check_option("tau_rank", tau_rank, 0, above=True)
        check_option("tau_k", tau_k, 0, above=True)
        self.ks = tuple(ks)
        self.tau_rank = tau_rank
        self.tau_k = tau_k
        self.simix = simix
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        if self.simix:
            embeddings, labels, reference = with_virtual_rows(embeddings, labels, reference)
        rankings = RankedRows(embeddings, labels, reference, with_self=False, unit=not self.simix)
        total, _, active = rankings.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / rankings.paired}
        return total / rankings.paired

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: 1 - mean recall (m,), slopes (m, C), and which are active (m,)."""
        scores = block.scores.div_(self.tau_rank)
        own = block.own(scores)
        values, slopes = of_ranks(block, scores, own, self.missing_recall)
        return values, slopes.div_(self.tau_rank), block.is_active(scores, own)

    def missing_recall(self, own: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        """1 - mean recall (m,) of positives with ranks (m, P) that have sigmoid(0) in place of 1 for themselves.

        Scores make no difference; slopes by ranks.
        """
        ks = torch.tensor(self.ks, dtype=ranks.dtype).to(ranks.device, non_blocking=True)
        within = ((ks - 0.5 - ranks[:, :, None]) / self.tau_k).sigmoid_()
        hits = within.sum(1)
        shares = 1 / (len(self.ks) * ks.clamp_max(own.shape[1]))
        values = 1 - hits.minimum(ks) @ shares
        # No more than k hits count, so that further ones have no slope.
        counted = shares / self.tau_k * (hits <= ks)
        slopes = within.addcmul_(within, within, value=-1).mul_(counted[:, None]).sum(2)
        return values, None, slopes


def with_virtual_rows(
    embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None
) -> tuple[torch.Tensor, torch.Tensor, Reference | None]:
    """Unit vectors of embeddings (B, D) and behind them a mixture of each two of a label, the labels of all, and their
    reference of unit vectors."""
    rows = normalise(embeddings)
    host_labels = labels.cpu()
    first, second = matches(host_labels.numpy(), host_labels.numpy())
    once = first < second
    first, second = torch.from_numpy(first[once]), torch.from_numpy(second[once])
    labels = torch.cat([host_labels, host_labels[first]])
    first, second = (numbers.to(rows.device, non_blocking=True) for numbers in (first, second))
    # Drawn on the CPU, where all ranks draw the same and a checkpoint keeps the generator.
    shares = torch.rand(len(first), 1, dtype=torch.float32).to(rows, non_blocking=True)
    mixed = shares * rows[first] + (1 - shares) * rows[second]
    if reference is not None:  # a mixture shows no image of the list
        images = torch.cat([reference.batch_images, reference.batch_images.new_full((len(first),), -1)])
        reference = reference._replace(embeddings=normalise(reference.embeddings.to(rows)), batch_images=images)
    return torch.cat([rows, mixed]), labels, reference
