"""Where each rank has a part of the class weights: losses, and checkpoints that are whole, for any number of ranks."""

import torch

import distributed


def build_loss(kind, in_parts, **settings):
    """The loss of class `kind` and these keywords, or with `in_parts` this rank's part of its class weights."""
    if not in_parts:
        return kind(**settings)
    return kind.sharded(
        distributed.own_slice(settings["num_classes"]),
        distributed.all_reduce_sum,
        distributed.all_reduce_max,
        **settings,
    )


def unshard_state(state, classes):
    """`state` (training_state) with every table of the loss, of `classes` rows, put together on the CPU of rank 0.

    All ranks have to call it; the others get None.
    """
    found = _mapped(state, lambda table: _put_together(table, classes))
    return found if distributed.is_first() else None


def shard_state(state, classes):
    """`state` with those rows of every table of the loss, of `classes` rows, that this rank has."""
    if "optimiser" not in state:
        return state  # no checkpoint of a run, as `restore` will say
    rows = distributed.own_slice(classes)
    return _mapped(state, lambda table: table[rows].clone())


def _mapped(state, change):
    """A copy of `state` in which the loss's parameters, and what the optimiser keeps of each, are changed."""
    optimiser = state["optimiser"]
    own = optimiser["param_groups"][-1]["params"]  # the loss has the last group (engine/optim.py)
    kept = {
        number: {name: change(value) if value.ndim else value for name, value in values.items()}
        if number in own
        else values
        for number, values in optimiser["state"].items()
    }
    loss = {name: change(value) for name, value in state["loss"].items()}
    return {**state, "loss": loss, "optimiser": {**optimiser, "state": kept}}


def _put_together(table, classes):
    rows = distributed.own_slice(classes)
    found = torch.empty(classes, *table.shape[1:], dtype=table.dtype)
    for numbers, values in distributed.gather_batches(
        [(torch.arange(rows.start, rows.stop), table.reshape(len(table), -1).cpu())]
    ):
        found[numbers] = values.view(-1, *table.shape[1:])
    return found
