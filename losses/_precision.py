"""A loss is computed in float32 at least, whatever autocast and the embeddings' type are; if small, in one thread.

The one exception are the class head's products, which autocast's bfloat16 is for: see `product_type`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import nn

from losses._checks import check_embeddings, check_labels
from losses._mined import Reference
from losses._threads import one_thread_if_small

# What autocast multiplied in before a loss switched it off, None where it was off already.
_LEFT_TYPE: ContextVar[torch.dtype | None] = ContextVar("type of the autocast that was left", default=None)


def full_precision(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate `method(self, embeddings[, labels])`: check both, switch autocast off, lift half types to float32.

    A call whose tables are small is worked on by one thread. float64 stays float64; labels arrive as int64, further
    keywords as they are. Raises InputError for wrong types and shapes.
    """

    @functools.wraps(method)
    def in_full_precision(
        self, embeddings: torch.Tensor, labels: torch.Tensor | None = None, **further: object
    ) -> torch.Tensor:
        check_embeddings(embeddings)
        if embeddings.dtype.itemsize < 4:
            arguments = [embeddings.float()]
        else:
            arguments = [embeddings]
        if labels is not None:
            check_labels(labels, len(embeddings))
            arguments.append(labels.long())
        numbers = largest_table(self, embeddings, further.get("reference"))
        with autocast_left(embeddings.device.type), one_thread_if_small(embeddings.device, numbers):
            return method(self, *arguments, **further)

    return in_full_precision


@contextlib.contextmanager
def autocast_left(device_type: str) -> Iterator[None]:
    """A context without autocast, in which `product_type` knows of it."""
    known = torch.amp.is_autocast_available(device_type)  # not of torch's device `meta`
    if not known or not torch.is_autocast_enabled(device_type):
        yield
        return
    before = _LEFT_TYPE.set(torch.get_autocast_dtype(device_type))
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        _LEFT_TYPE.reset(before)


def product_type(numbers: torch.Tensor) -> torch.dtype:
    """The type in which large products of `numbers` are made inside a loss: bfloat16 for float32 under its autocast.

    Else their own. float16 is left out: gradients times a scaler's factor leave its range.
    """
    if numbers.dtype == torch.float32 and _LEFT_TYPE.get() == torch.bfloat16:
        return torch.bfloat16
    return numbers.dtype


def largest_table(loss: object, embeddings: torch.Tensor, reference: Reference | None) -> int:
    """Numbers of the largest table that a loss or a miner makes of embeddings (B, D), about: B x C of a batch and its C
    columns, or as many as its weights have."""
    columns = len(embeddings) + (0 if reference is None else len(reference.labels))
    weights = loss.parameters() if isinstance(loss, nn.Module) else ()
    return max(len(embeddings) * columns, *(weight.numel() for weight in weights), 0)
