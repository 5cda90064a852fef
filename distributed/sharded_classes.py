"""Where each rank has a shard of the class weights: losses, and checkpoints that are whole, for any number of ranks."""

from collections.abc import Callable

import torch
from torch import nn

import distributed

# A loss may have layers in front of its class weights; their parameters are whole on every rank, and named so.
LAYERS = "layers"


def is_of_layers(name: str) -> bool:
    """Whether a parameter of that name belongs to layers in front of class weights, of a loss or of one inside it."""
    return LAYERS in name.split(".")


def build_loss(kind: type[nn.Module], sharded: bool, **settings: object) -> nn.Module:
    """The loss of class `kind` and these keywords, or if `sharded` this rank's shard of its class weights."""
    if not sharded:
        return kind(**settings)
    loss = kind.sharded(
        distributed.own_slice(settings["num_classes"]),
        distributed.all_reduce_sum,
        distributed.all_reduce_max,
        **settings,
    )
    loss.is_sharded = True
    return loss


def is_sharded(loss: nn.Module) -> bool:
    """Whether this rank has some rows of the loss's weights only."""
    return getattr(loss, "is_sharded", False)


def whole_parameters(loss: nn.Module) -> list[nn.Parameter]:
    """Those parameters of a sharded loss that every rank has whole: of the layers in front of its class weights."""
    return [parameter for name, parameter in loss.named_parameters() if is_of_layers(name)]


def sharded_parameters(loss: nn.Module) -> list[nn.Parameter]:
    """Those parameters of a sharded loss of which every rank has some rows."""
    return [parameter for name, parameter in loss.named_parameters() if not is_of_layers(name)]


def unshard_state(state: dict[str, object], num_classes: int) -> dict[str, object] | None:
    """`state` (training_state) with every class table of the loss, of `num_classes` rows, whole on the first rank.

    All ranks have to call it; the others get None. Tables are on the CPU then.
    """
    whole = _map_tables(state, lambda table: _gather_rows(table, num_classes))
    if not distributed.is_first():
        return None
    return whole


def shard_state(state: dict[str, object], num_classes: int) -> dict[str, object]:
    """`state` with those rows of every class table of the loss, of `num_classes` rows, that this rank has."""
    if "optimiser" not in state:
        return state  # no checkpoint of a run, as `restore` will say
    rows = distributed.own_slice(num_classes)
    return _map_tables(state, lambda table: table[rows].clone())


def _map_tables(state: dict[str, object], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, object]:
    """A copy of `state` in which the loss's class tables, and what the optimiser keeps of each, are changed."""
    optimiser = state["optimiser"]
    # build_optimiser gives the class tables the last group.
    of_the_loss = optimiser["param_groups"][-1]["params"]
    optimiser_state = {}
    for number, values in optimiser["state"].items():
        if number in of_the_loss:
            # Numbers without a dimension, such as AdamW's count of steps, are no tables.
            values = {name: change(value) if value.ndim else value for name, value in values.items()}
        optimiser_state[number] = values
    loss = {name: value if is_of_layers(name) else change(value) for name, value in state["loss"].items()}
    return {**state, "loss": loss, "optimiser": {**optimiser, "state": optimiser_state}}


def _gather_rows(table: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The rows (num_classes, ...) of all ranks, of which `table` has this one's; only the first gets all of them."""
    rows = distributed.own_slice(num_classes)
    numbers = torch.arange(rows.start, rows.stop)
    # Rows of one number each are a column, so that all of them can be sent as matrices.
    matrix = table.reshape(len(table), -1).cpu()
    whole = torch.empty(num_classes, *table.shape[1:], dtype=table.dtype)
    for numbers_sent, rows_sent in distributed.gather_batches([(numbers, matrix)]):
        whole[numbers_sent] = rows_sent.view(-1, *table.shape[1:])
    return whole
