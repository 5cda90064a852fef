"""Which pairs or triplets of a batch the loss looks at: a miner, in front of a loss that takes what it chose."""

from typing import Annotated

import torch

from core.errors import InputError
from core.types import OneOf
from losses import LOSSES
from losses._mined import Pairs, Reference, TripletRule, Triplets
from miners import MINERS, as_pairs, as_triplets


class Mining:
    """A miner whose choice has the form that the loss takes: "pairs", "triplets", or "either".

    takes_rule: the loss takes a TripletRule in place of triplets, where the miner has one, too.
    """

    def __init__(self, name: str, form: str, options: dict[str, object], takes_rule: bool = False) -> None:
        self.miner = MINERS[name](**options)
        self.rule = getattr(self.miner, "rule", None) if takes_rule else None
        self.adds_rows = MINERS.fact(name, "adds_rows", False)
        self.in_form = {"pairs": as_pairs, "triplets": as_triplets, "either": lambda mined: mined}[form]

    def __call__(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None = None,
        *,
        listed: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, Pairs | Triplets | TripletRule]:
        """(rows, labels, mined) for the loss: embeddings (B, D) and labels (B,) of all ranks, and what was chosen.

        Rows are the embeddings, with those behind them that the miner adds. listed=False: a rule will do. Raises
        InputError for a miner that gives something else.
        """
        if self.rule is not None and not listed:
            return embeddings, labels, self.rule
        chosen = self.miner(embeddings, labels, reference)
        if not isinstance(chosen, (Pairs, Triplets)):
            place = f"{type(self.miner).__module__}.{type(self.miner).__name__}"
            raise InputError(f"{place} gave a {type(chosen).__name__}; a miner gives losses._mined.Pairs or Triplets")
        mined = self.in_form(chosen)
        if self.adds_rows:
            embeddings, labels = self.miner.extended(embeddings, labels)
        return embeddings, labels, mined


def build_miner(
    options: dict[str, object],
    loss_name: str,
    options_of_loss: dict[str, object],
    *,
    miner: Annotated[str, OneOf("miners", or_none=True)] = "none",
) -> Mining | None:
    """The miner of that name for the loss of that name; None for `none`.

    Options:
        miner: which pairs or triplets the loss looks at, one of {miners}, or none for all; its own flags:
            --miner=NAME --help

    options: those of the miner's own keywords, {name: value}; options_of_loss: those of the loss. Raises InputError for
    a loss that has no use for a miner, or has one.
    """
    if miner == "none":
        return None
    if options_of_loss.get("pml_miner", "none") != "none":
        raise InputError(f"--miner={miner} and --pml_miner={options_of_loss['pml_miner']} both choose pairs; take one")
    form = LOSSES.fact(loss_name, "mined")
    if form is None:
        takers = [name for name in LOSSES.names(stage="pair") if LOSSES.fact(name, "mined")]
        raise InputError(
            f"--miner={miner}: the loss {loss_name} chooses what it compares itself; losses that take a miner: "
            f"{', '.join(takers)}"
        )
    return Mining(miner, form, options, LOSSES.fact(loss_name, "rule", False))
