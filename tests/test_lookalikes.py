"""Negatives that look like positives are left out, by the definition, of what a miner chose and of all pairs."""

import math

import pytest
import torch
from test_losses import random_rows

from core.errors import InputError
from engine import lookalikes
from engine.lookalikes import Lookalikes, build_lookalikes
from engine.mining import Mining
from engine.objective import Objective
from losses import LOSSES
from losses._mined import Pairs, Reference, Triplets

LABELS = torch.tensor([0, 0, 1, 1, 2, 5])
REFERENCE = Reference(
    random_rows(5, seed=3),
    torch.tensor([0, 2, 1, 7, 0]),
    torch.tensor([10, 20, 21, 22, 23]),
    torch.tensor([10, 11, 12, 13, 14, 15]),
)


def by_pairs(rows, labels, share, reference=None):
    """({positive pairs}, {negative pairs that are no look-alikes}), pair by pair."""
    columns = rows.tolist()
    everyone = labels.tolist()
    images = [-1] * len(everyone)
    if reference is not None:
        columns += reference.embeddings.tolist()
        everyone += reference.labels.tolist()
        images += reference.images.tolist()
    positives, negatives = set(), set()
    for anchor in range(len(rows)):
        cosines = [
            sum(x * y for x, y in zip(columns[anchor], other)) / math.hypot(*columns[anchor]) / math.hypot(*other)
            for other in columns
        ]
        own_image = -2 if reference is None else reference.batch_images[anchor]
        same = [
            column
            for column, label in enumerate(everyone)
            if label == everyone[anchor] and column != anchor and images[column] != own_image
        ]
        positives |= {(anchor, column) for column in same}
        limit = share * max((cosines[column] for column in same), default=0)
        for column, label in enumerate(everyone):
            if label != everyone[anchor] and (limit <= 0 or cosines[column] <= limit):
                negatives.add((anchor, column))
    return positives, negatives


def pairs_of(anchors, partners):
    return list(zip(anchors.tolist(), partners.tolist()))


@pytest.mark.parametrize("reference", [None, REFERENCE], ids=["batch", "memory"])
@pytest.mark.parametrize("share", [0.3, 0.95])
@pytest.mark.parametrize("block", [2**20, 1])
def test_all_pairs_without_lookalikes_are_the_definition(share, reference, block, monkeypatch):
    monkeypatch.setattr(lookalikes, "BLOCK", block)
    kept = 0
    for seed in range(4):
        rows = random_rows(6, seed=seed)
        rows[1] = rows[0] + 0.5 * rows[1]  # a positive that is near
        rows[3] = -rows[2]  # and one that says nothing
        positives, negatives = by_pairs(rows, LABELS, share, reference)
        found = Lookalikes(share)(rows, LABELS, reference)
        assert pairs_of(found.positive_anchors, found.positives) == sorted(positives)
        assert pairs_of(found.negative_anchors, found.negatives) == sorted(negatives)
        kept += len(negatives)
    columns = 6 if reference is None else 11
    assert 0 < kept < 4 * (6 * columns - 6 - 4)  # some were left out


def test_of_what_was_mined_the_rest_stays_in_order():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 0.1], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 2])
    left_out = Lookalikes(0.95)  # 0 and 1 have a cosine of 0.894, 0 and 2 of 0.995, 1 and 2 of 0.934
    pairs = Pairs(*map(torch.tensor, ([1, 0], [0, 1], [0, 1, 0, 2, 0], [3, 2, 2, 0, 3])))
    found = left_out(rows, labels, mined=pairs)
    assert pairs_of(found.positive_anchors, found.positives) == [(1, 0), (0, 1)]
    assert pairs_of(found.negative_anchors, found.negatives) == [(0, 3), (2, 0), (0, 3)]
    triplets = Triplets(*map(torch.tensor, ([0, 1, 0, 1], [1, 0, 1, 0], [3, 2, 2, 3])))
    found = left_out(rows, labels, mined=triplets)
    assert [column.tolist() for column in found] == [[0, 1], [1, 0], [3, 3]]


def test_a_loss_gets_the_pairs_that_are_left(monkeypatch):
    seen = {}

    class Loss(torch.nn.Module):
        def forward(self, embeddings, labels, **beside):
            seen.update(beside)
            return embeddings.sum()

    rows = random_rows(6)
    Objective(torch.nn.Identity(), Loss(), lookalikes=Lookalikes(0.95)).compare(rows, LABELS)
    expected = Lookalikes(0.95)(rows, LABELS)
    assert seen.keys() == {"mined"} and all(map(torch.equal, seen["mined"], expected))


def test_losses_that_have_no_use_for_it_are_refused(monkeypatch):
    assert build_lookalikes("npairs", None) is None
    with pytest.raises(InputError, match="skip_lookalikes is 0.95, but npairs makes its pairs itself; able are: "):
        build_lookalikes("npairs", None, skip_lookalikes=0.95)
    with pytest.raises(InputError, match="does not go with a miner that compares means of labels"):
        build_lookalikes("triplet_margin", Mining("hard_cluster", "triplets", {}), skip_lookalikes=0.95)
    for form in ("pairs", "triplets"):
        entry = LOSSES._entries["npairs"]
        monkeypatch.setitem(LOSSES._entries, "npairs", entry._replace(facts={**entry.facts, "mined": form}))
        assert build_lookalikes("npairs", Mining("all", form, {}), skip_lookalikes=0.95).share == 0.95
        if form == "triplets":
            with pytest.raises(InputError, match="leaves triplets out that a miner chose; give --miner=all"):
                build_lookalikes("npairs", None, skip_lookalikes=0.95)
        else:
            assert build_lookalikes("npairs", None, skip_lookalikes=0.95).share == 0.95
