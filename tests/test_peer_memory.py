"""The memory beside pytorch-metric-learning's CrossBatchMemory: the same values, while it fills and when it wraps.

Theirs takes the batch in first and compares with what it holds then, ours compares with the batch and what was held
before: so theirs is as many rows larger. Its columns of the batch take no gradient, ours do: values are compared.
"""

import pytest
import torch
from tolerances import assert_within, gamma

from engine.memory import Memory
from engine.objective import Objective
from losses import LOSSES

peer = pytest.importorskip("pytorch_metric_learning.losses")
from pytorch_metric_learning.losses import CrossBatchMemory  # noqa: E402

# {ours: (theirs, options of ours, options of theirs, the largest number that a term of a row adds up to)}
LOSSES_OF_BOTH = {
    "circle": (peer.CircleLoss, {}, {"m": 0.4, "gamma": 80}, 80 * 2.4 * 1.4),
    "multi_similarity": (peer.MultiSimilarityLoss, {}, {"alpha": 2, "beta": 50, "base": 0.5}, 75),
    "supcon": (peer.SupConLoss, {}, {"temperature": 0.1}, 10),
}
BATCH, WIDTH, SIZE, STEPS = 6, 5, 15, 6


@pytest.mark.parametrize("name", [name for name in LOSSES_OF_BOTH if name in LOSSES.names(memory=True)])
def test_values_are_those_of_cross_batch_memory(name):
    theirs, options, their_options, size = LOSSES_OF_BOTH[name]
    objective = Objective(torch.nn.Identity(), LOSSES[name](**options), memory=Memory(SIZE, WIDTH))
    other = CrossBatchMemory(theirs(**their_options), WIDTH, memory_size=SIZE + BATCH)
    draw = torch.Generator().manual_seed(0)
    values = []
    for step in range(STEPS):
        # Numbers that float32, in which ours is kept, has exactly.
        rows = torch.randn(BATCH, WIDTH, generator=draw).double()
        labels = torch.randint(0, 3, (BATCH,), generator=draw)
        value = objective.compare(rows, labels, torch.arange(BATCH) + BATCH * step)
        objective.remember()
        values.append(value)
        assert_within(value, other(rows, labels), 2 * gamma(WIDTH + SIZE + 2 * BATCH + 40) * size)
    assert objective.memory.count == SIZE and len({value.item() for value in values}) == STEPS
