"""What a run's batches are made by: the sampler of the flags, or the loss's own."""

from core.errors import InputError
from core.text import counted
from data.records import Records
from data.samplers import BatchSampler, build_sampler
from losses import LOSSES

# Samplers whose batches have an order that a loss goes by, and what that is an order of.
IN_ORDER = {"triplet": "triplets", "siamese_pairs": "pairs"}


def open_batches(
    records: Records,
    loss_name: str,
    options: dict[str, object],
    seed: int,
    start_step: int,
    *,
    sampler: str | None,
    **sizes: int,
) -> BatchSampler:
    """The batches of a train list from step `start_step` on.

    options: of the sampler's own; sampler, sizes: keywords of `build_sampler`. Raises InputError as that does, and for
    batches that the loss has no value for.
    """
    usual = LOSSES.fact(loss_name, "batch")
    name = sampler or usual
    if usual in IN_ORDER and name != usual:
        rows = IN_ORDER[usual]
        raise InputError(f"--loss_name={loss_name} takes {rows} in order, which --sampler={name} does not make")
    batches = build_sampler(records, usual, options, sampler=sampler, **sizes)
    if not batches.has_pairs and name != usual and LOSSES.fact(loss_name, "stage") == "pair":
        raise InputError(
            f"--sampler={name}: {counted(batches.batch_size, 'image')} of {counted(len(records.vocabulary), 'label')} "
            "may be all of "
            f"different labels, or of one, and --loss_name={loss_name} has to compare both kinds of pairs; take "
            f"--sampler={usual}"
        )
    return batches.starting(seed, start_step)
