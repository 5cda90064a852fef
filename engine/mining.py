"""Which pairs or triplets of a batch the loss looks at: a miner, in front of a loss that takes what it chose."""

from typing import Annotated

import torch

from core.errors import InputError
from core.text import class_name
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
        # What a miner chooses comes from the device, which one look waits for: at the first choice, and at no other.
        self.has_looked = False
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
        check_chosen(chosen, self.miner)
        mined = self.in_form(chosen)
        if self.adds_rows:
            embeddings, labels = self.miner.extended(embeddings, labels)
        if not self.has_looked and any(map(len, chosen)):
            check_numbers(chosen, self.miner, len(embeddings), 0 if reference is None else len(reference.labels))
            self.has_looked = True
        return embeddings, labels, mined


# Columns of what a miner gives that belong together, and are of one length.
TOGETHER = {Triplets: (Triplets._fields,), Pairs: (Pairs._fields[:2], Pairs._fields[2:])}


def check_chosen(chosen: object, miner: object) -> None:
    """Raise InputError, naming the miner, unless it gave Pairs or Triplets of int64 (n,), without a look at numbers."""
    place = class_name(type(miner))
    kind = type(chosen)
    if kind not in TOGETHER:
        raise InputError(f"{place} gave a {kind.__name__}; a miner gives losses._mined.Pairs or Triplets")
    for name, rows in chosen._asdict().items():
        found = type(rows).__name__
        if isinstance(rows, torch.Tensor):
            found = f"{str(rows.dtype).removeprefix('torch.')} {tuple(rows.shape)}"
            if rows.dtype == torch.int64 and rows.dim() == 1:
                continue
        # A mask would be taken for numbers 0 and 1.
        hint = "; mask.nonzero()[:, 0] makes numbers of a mask" if "bool" in found else ""
        raise InputError(f"{place} gave {name} as {found}; a miner gives numbers of rows, int64 (n,){hint}")
    for names in TOGETHER[kind]:
        lengths = [len(getattr(chosen, name)) for name in names]
        if len(set(lengths)) > 1:
            told = ", ".join(f"{length} {name}" for name, length in zip(names, lengths, strict=True))
            raise InputError(f"{place} gave {told}; a miner gives as many of one as of the other")


def check_numbers(chosen: Pairs | Triplets, miner: object, rows: int, of_memory: int) -> None:
    """Raise InputError, naming the miner, where it gave a number of no row: anchors are below `rows`, the others below
    that and the memory's rows together. It waits for the device."""
    for name, numbers in chosen._asdict().items():
        if not len(numbers):
            continue
        most = rows if name.endswith("anchors") else rows + of_memory
        low, high = (int(number) for number in numbers.aminmax())
        if low < 0 or high >= most:
            place = class_name(type(miner))
            raise InputError(f"{place} gave {name} from {low} to {high}; here they are numbers from 0 to {most - 1}")


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
