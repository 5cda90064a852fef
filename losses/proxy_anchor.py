"""Proxy-Anchor: each class's proxy pulls its rows and pushes all others (Kim et al., 2020, arXiv 2003.13911, eq. 4)."""

import torch
from torch.autograd.function import once_differentiable

from losses._checks import check_classes, check_option
from losses._class_loss import ClassLoss
from losses._class_scores import ChunkedScores, Scoring, classes_taking_part, plan_scores, shares
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("proxy_anchor", stage="elem", batch="shuffled")
class ProxyAnchorLoss(ClassLoss):
    """One proxy a class, weights (C, D), compared with the rows of the batch by the cosine s.

    mean over the classes of the batch of log(1 + sum over their rows of exp(-alpha (s - margin)))
    + mean over all classes of log(1 + sum over rows of other classes of exp(alpha (s + margin))).

    Options:
        alpha: factor on the cosines
        margin: how far beyond 0 cosines are wanted, above it for a class's own rows and below for others
        chunk_classes: classes whose scores exist at a time; auto: all while they are 100 MiB or less
        class_sample_rate: share of the classes that take part in a step, the batch's own and others at random

    `logs` after a call: acc1 and acc5 of the batch, by cosines.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        alpha: float = 32.0,
        margin: float = 0.1,
        chunk_classes: str = "auto",
        class_sample_rate: float = 1.0,
    ) -> None:
        # The deviation of the authors' weights, Kaiming's by the number of classes.
        bound = (6 / num_classes) ** 0.5
        super().__init__(
            num_classes, embedding_size, bound, chunk_classes=chunk_classes, class_sample_rate=class_sample_rate
        )
        check_option("alpha", alpha, 0, above=True)
        check_option("margin", margin, 0, 2)
        self.alpha = alpha
        self.margin = margin

    @full_precision
    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores (B, C) of embeddings (B, D): scaled cosines, no margin."""
        return self.cosine_scores(embeddings, self.alpha)

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,) in 0..C-1. Raises InputError for labels outside (CPU)."""
        check_classes(embeddings, labels, self.weight.shape[1], self.num_classes)
        rows = normalise(embeddings)
        part = classes_taking_part([self.weight], labels, self.class_sample_rate, self.shard)
        (weight,) = part.tables
        scoring = plan_scores(rows, weight, self.alpha, None, self.chunk_classes, self.shard)
        offset = self.alpha * self.margin
        loss, better = _ProxyAnchor.apply(rows, weight, part.positions, offset, part.count, scoring)
        self.logs = shares(better)
        return loss


class _ProxyAnchor(torch.autograd.Function):
    """(loss, how many classes score at least as high as each row's own one (B,)); offset: alpha times the margin.

    Both of a class's terms are log(1 + sum exp(x)), computed as m + log(exp(-m) + sum exp(x - m)) with m = max(0, x).
    """

    @staticmethod
    def forward(
        ctx,
        rows: torch.Tensor,
        weight: torch.Tensor,
        positions: torch.Tensor,
        offset: float,
        classes: int,
        scoring: Scoring,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = ChunkedScores(scoring, rows, weight, None, positions)
        own = scoring.scale * scores.own()
        table = scores.table()
        spare = scores.scratch()

        # Own rows, gathered by class: one number a class and one a row.
        inside = (positions >= 0) & (positions < len(weight))
        index = torch.where(inside, positions, 0)
        pulls = torch.where(inside, offset - own, -torch.inf)
        by_class = rows.new_zeros(max(1, len(weight)))
        largest = by_class.scatter_reduce(0, index, pulls, "amax")
        exp_sum = (-largest).exp().index_add_(0, index, (pulls - largest[index]).exp())
        pull_terms = largest + exp_sum.log()
        present = by_class.index_add(0, index, inside.to(by_class.dtype)).clamp_max(1).sum()

        # Rows of other classes, a chunk of classes at a time.
        better = torch.zeros_like(own)
        push_terms = rows.new_empty(len(weight))
        for chunk in scores.chunks:
            of_classes = scores.of_centres(chunk, table)
            scratch = spare[: len(of_classes)]
            own_rows, at_own = scores.own_rows(chunk)
            own_scores = of_classes.gather(0, own_rows)
            own_counted = (at_own & (own_scores >= own))[0]
            better += torch.ge(of_classes, own, out=scratch).sum(0) - own_counted.to(own.dtype)
            of_classes.scatter_(0, own_rows, torch.where(at_own, -torch.inf, own_scores))
            largest = (of_classes.amax(1) + offset).clamp_min(0)
            exp_sum = torch.sub(of_classes, (largest - offset)[:, None], out=scratch).exp_().sum(1)
            push_terms[chunk] = largest + ((-largest).exp() + exp_sum).log()

        sums = torch.stack([pull_terms.sum(), push_terms.sum(), present])
        if scoring.shard is not None:
            sums = scoring.shard.all_reduce_sum(sums)
            better = scoring.shard.all_reduce_sum(better)
        pull_sum, push_sum, present = sums.unbind()

        ctx.scoring = scoring
        ctx.offset = offset
        ctx.classes = classes
        ctx.kept = table if scoring.keeps_scores else None
        # The slope of the first term by each row's own score.
        ctx.own_slopes = -(pulls - pull_terms[index]).exp() / present
        ctx.save_for_backward(rows, weight, positions, push_terms)
        ctx.mark_non_differentiable(better)
        return pull_sum / present + push_sum / classes, better

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: torch.Tensor, _) -> tuple[torch.Tensor | None, ...]:
        rows, weight, positions, push_terms = ctx.saved_tensors
        scores = ChunkedScores(ctx.scoring, rows, weight, None, positions)
        # The kept scores are written over here: should there be a second pass, it makes them again.
        kept = ctx.kept
        ctx.kept = None
        table = scores.table() if kept is None else kept

        scores.begin_gradients()
        for chunk in scores.chunks:
            of_classes = scores.of_centres(chunk, table, made=kept is not None)
            slopes = of_classes.sub_((push_terms[chunk] - ctx.offset)[:, None]).exp_().div_(ctx.classes)
            own_rows, at_own = scores.own_rows(chunk)
            slopes.scatter_(0, own_rows, torch.where(at_own, ctx.own_slopes, slopes.gather(0, own_rows)))
            slopes.mul_(upstream)
            scores.add_gradients(chunk, of_classes, slopes)
        to_rows, to_weight, _ = scores.gradients()
        return to_rows, to_weight, None, None, None, None
