"""What tells the items of a dataset from others."""

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset


def dataset_facts(dataset: Dataset) -> Iterator[bytes]:
    """Facts that decide what a network is given of a dataset.

    They are those of its `fingerprint()` where it, or the dataset of items within it, has that method; else the items
    themselves, which are all read.
    """
    items = getattr(dataset, "_dataset", dataset)
    if hasattr(items, "fingerprint"):
        yield from items.fingerprint()
        return
    for number in range(len(dataset)):
        yield from _bytes_of(dataset[number][dataset.input_tensors_key])


def _bytes_of(inputs: object) -> Iterator[bytes]:
    if torch.is_tensor(inputs):
        yield inputs.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif hasattr(inputs, "items"):
        for name, value in inputs.items():
            yield str(name).encode()
            yield from _bytes_of(value)
    else:
        yield repr(inputs).encode()
