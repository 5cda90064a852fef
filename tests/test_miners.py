"""What miners choose, by hand and by their own words; what they refuse; a miner in front of a loss, in a run, on ranks.

tests/test_peer_miners.py holds them against those of other packages.
"""

import math

import pytest
import torch
from runs import read_json, run, tiny_backbone, train_flags
from tolerances import assert_within, gamma, share_error

import miners
from benchmarks import ranks as bench
from core.errors import InputError
from core.types import Interval, Margin, Ranks
from engine.mining import build_miner
from engine.objective import Objective
from losses import LOSSES, TripletMarginLoss
from losses._mined import Pairs, Reference, Triplets
from miners import MINERS, as_pairs, as_triplets
from miners._forms import distinct_numbers

LABELS = torch.tensor([2, 9, 2, 9, 9, 2, 2, 9, 5, 5, 5, 5])
# On a line: the rows of label 0 at 0 and 1, of label 1 at 3 and 7.
LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
TWOS = torch.tensor([0, 0, 1, 1])


def random_rows(count, width=6, seed=0, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rows_of(*tensors):
    return sorted(zip(*(tensor.tolist() for tensor in tensors), strict=True))


def test_every_miner_is_imported_by_its_class():
    classes = {MINERS[name].__name__ for name in MINERS.names()}
    assert set(miners.__all__) == {"MINERS", "as_pairs", "as_triplets"} | classes
    assert all(MINERS.fact(name, "gives") in ("pairs", "triplets") for name in MINERS.names())
    assert all(option.help for name in MINERS.names() for option in MINERS.options(name))


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("hard", {}, [(0, 1, 2), (1, 0, 2), (2, 3, 1), (3, 2, 1)]),
        ("nhard", {"n_negative": (2, 2)}, [(0, 1, 3), (1, 0, 3), (2, 3, 0), (3, 2, 0)]),
        ("all", {}, [(a, a ^ 1, n) for a in range(4) for n in ((2, 3) if a < 2 else (0, 1))]),
        ("semihard", {"miner_margin": 1.0, "miner_normalise": False}, [(1, 0, 2)]),
        ("semihard", {"miner_margin": 2.0, "miner_normalise": False}, [(0, 1, 2), (1, 0, 2), (3, 2, 1)]),
    ],
)
def test_triplets_by_hand(name, options, expected):
    assert rows_of(*MINERS[name](**options)(LINE, TWOS)) == expected


def test_pairs_by_hand():
    assert [tensor.tolist() for tensor in MINERS["pairs"]()(LINE, TWOS)] == [[0, 2], [1, 3], [0, 1, 1], [2, 2, 3]]
    easy = MINERS["easy_positive"]("easy", "semihard", miner_normalise=False)(LINE, TWOS)
    # The row at 3 has its positive at a distance of 4 and no negative beyond.
    assert [tensor.tolist() for tensor in easy] == [[0, 1, 3], [1, 0, 2], [0, 1, 3], [2, 2, 1]]


def test_means_of_labels_by_hand():
    rows = torch.tensor([[0.0, 0], [2, 0], [10, 0], [14, 0]], requires_grad=True)
    mining = build_miner({}, "triplet_margin", {}, miner="hard_cluster")
    extended, labels, mined = mining(rows, TWOS)
    assert extended[4:].tolist() == [[1, 0], [12, 0]] and labels[4:].tolist() == [0, 1]
    assert [tensor.tolist() for tensor in mined] == [[4, 5], [0, 2], [5, 4]]
    # A mean hands its gradient on to all of its images; max(0, 1 - 11 + 12) and max(0, 2 - 11 + 12) are above zero.
    loss = Objective(torch.nn.Identity(), TripletMarginLoss(margin=12.0), miner=mining).compare(rows, TWOS)
    (slope,) = torch.autograd.grad(loss, rows)
    assert_within(loss, 2.5, gamma(40, torch.float32) * 40)
    assert slope[:, 0].abs().min() > 0


@pytest.mark.parametrize("name", MINERS.names())
def test_choices_are_integers_without_a_graph_in_every_type(name):
    rows = random_rows(len(LABELS), dtype=torch.bfloat16).requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mined = MINERS[name]()(rows, LABELS)
    torch.manual_seed(0)
    exact = MINERS[name]()(rows.double(), LABELS)
    assert isinstance(mined, {"pairs": Pairs, "triplets": Triplets}[MINERS.fact(name, "gives")])
    for found, expected in zip(mined, exact, strict=True):
        assert found.dtype == torch.int64 and torch.equal(found, expected)


@pytest.mark.parametrize("name", MINERS.names())
@pytest.mark.parametrize(
    "rows", [torch.zeros(12, 6), torch.ones(12, 6), 1e4 * random_rows(12), 1e-20 * random_rows(12)]
)
def test_extremes_choose_pairs_that_are_pairs(name, rows):
    mined = as_pairs(MINERS[name]()(rows, LABELS))
    if MINERS.fact(name, "adds_rows"):
        labels = torch.cat([LABELS, LABELS.unique()])
    else:
        labels = LABELS
    assert (labels[mined.positive_anchors] == labels[mined.positives]).all()
    assert (mined.positive_anchors != mined.positives).all()
    assert (labels[mined.negative_anchors] != labels[mined.negatives]).all()


@pytest.mark.parametrize("name", [name for name in MINERS.names() if name != "hard_cluster"])
def test_a_row_of_a_memory_that_shows_the_same_image_is_no_pair(name):
    rows = random_rows(len(LABELS), seed=4)
    images = torch.arange(len(LABELS))
    memory = Reference(rows + 0.3 * random_rows(len(LABELS), seed=5), LABELS, images, images)
    options = {"easy_positive": {"pos_strategy": "hard"}, "pairs": {"hard_mining": False}}.get(name, {})
    mined = as_pairs(MINERS[name](**options)(rows, LABELS, memory))
    assert len(mined.positives) and len(mined.negatives)
    assert (mined.positive_anchors < len(LABELS)).all() and mined.positives.max() >= len(LABELS)
    assert (mined.positives != mined.positive_anchors + len(LABELS)).all()
    everyone = LABELS.repeat(2)
    assert (everyone[mined.positives] == everyone[mined.positive_anchors]).all()


@pytest.mark.parametrize("name", ["all", "hard", "nhard"])
@pytest.mark.parametrize(
    "labels, sentence",
    [
        ([1, 1, 1, 1], "all 4 rows have label 1; the miner NAME needs two labels in a batch"),
        ([1, 1, 7, 2, 2], "label 7 occurs once among the 5 rows; the miner NAME needs two images of each label"),
    ],
)
def test_batches_without_two_of_each_are_refused(name, labels, sentence):
    rows, labels = random_rows(len(labels)), torch.tensor(labels)
    with pytest.raises(InputError, match=sentence.replace("NAME", name)):
        MINERS[name]()(rows, labels)
    if len(labels) == 5:  # what a batch lacks, a memory may have
        memory = Reference(rows, labels, torch.arange(5) + 9, torch.arange(5))
        assert len(MINERS[name]()(rows, labels, memory)[0])


@pytest.mark.parametrize(
    "labels, sentence",
    [
        ([1, 1, 2, 2, 2], "labels have from 2 to 3 images in the batch; the miner hard_cluster needs the same number"),
        ([1, 1, 1], "all 3 rows have label 1; the miner hard_cluster needs two labels"),
        ([1, 2, 3], "no label occurs twice among the 3 rows; the miner hard_cluster needs two of each"),
    ],
)
def test_hard_cluster_refuses_uneven_batches(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        MINERS["hard_cluster"]()(random_rows(len(labels)), torch.tensor(labels))


def test_hard_cluster_has_no_use_for_a_memory():
    images = torch.arange(len(LABELS))
    rows = random_rows(len(LABELS))
    with pytest.raises(InputError, match="hard_cluster .* has no use for a memory"):
        MINERS["hard_cluster"]()(rows, LABELS, Reference(rows, LABELS, images, images))


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("nhard", {"n_positive": 0}, "n_positive=0 is neither a number"),
        ("nhard", {"n_negative": (3, 2)}, r"n_negative=\(3, 2\) is neither a number of at least 1 nor a range"),
        ("easy_positive", {"pos_strategy": "semihard"}, "both semihard, but each needs the other's choice first"),
        ("easy_positive", {"pos_strategy": "all"}, "semihard does not go with all"),
        ("distance_weighted", {"cutoff": 1.5}, "cutoff=1.5 is not between 0 and nonzero_loss_cutoff=1.4"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        MINERS[name](**options)


def test_wrong_shapes_are_refused_as_by_losses():
    with pytest.raises(InputError, match="6 rows of embeddings need"):
        MINERS["hard"]()(random_rows(6), LABELS)


@pytest.mark.parametrize("width, dtype", [(5, torch.float64), (512, torch.float32)])
def test_negatives_are_drawn_by_the_inverse_density_of_their_distance(width, dtype):
    """At 512 dimensions densities differ by more than float32 can hold."""
    times = 3000
    rows = torch.nn.functional.normalize(random_rows(len(LABELS), width, seed=3, dtype=dtype)).double()
    # All have some in common, so that each row has a negative that is near enough.
    rows = torch.nn.functional.normalize(rows + 0.02)
    distances = torch.cdist(rows, rows).clamp_min(0.5)
    logs = (width - 2) * distances.log() + (width - 3) / 2 * (1 - distances.square() / 4).log()
    is_possible = (LABELS[:, None] != LABELS) & (distances < 1.4)
    chances = torch.where(is_possible, -logs, -torch.inf).softmax(1)
    rows = rows.to(dtype)
    torch.manual_seed(0)
    counts = torch.zeros(2, len(LABELS), len(LABELS))
    for _ in range(times):
        anchors, positives, negatives = MINERS["distance_weighted"]()(rows, LABELS)
        counts[0].index_put_((anchors, positives), torch.ones(()), accumulate=True)
        counts[1].index_put_((anchors, negatives), torch.ones(()), accumulate=True)
    even = ((LABELS[:, None] == LABELS) & ~torch.eye(len(LABELS), dtype=torch.bool)) / 3
    for found, expected in zip(counts / (4 * times), (even, chances), strict=True):
        for share, chance in zip(found.flatten().tolist(), expected.flatten().tolist(), strict=True):
            assert abs(share - chance) <= share_error(chance, 4 * times)


def test_some_of_all_triplets_are_distinct_and_evenly_drawn():
    rows = random_rows(len(TWOS))
    torch.manual_seed(0)
    miner, times = MINERS["all"](max_output_triplets=3), 2000
    counts: dict[tuple, int] = {}
    for _ in range(times):
        chosen = set(rows_of(*miner(rows, TWOS)))
        assert len(chosen) == 3
        for triplet in chosen:
            counts[triplet] = counts.get(triplet, 0) + 1
    assert counts.keys() == set(rows_of(*MINERS["all"]()(rows, TWOS)))
    assert all(abs(count / times - 3 / 8) <= share_error(3 / 8, times) for count in counts.values())


@pytest.mark.parametrize("count, below", [(3, 4), (4, 4), (5, 1000), (0, 7)])
def test_distinct_numbers(count, below):
    numbers = distinct_numbers(count, below, torch.device("cpu"))
    assert len(numbers) == count == len(numbers.unique()) and (0 <= numbers).all() and (numbers < below).all()


def test_pairs_that_share_no_anchor_make_no_triplet():
    nothing = torch.empty(0, dtype=torch.int64)
    one, two = torch.tensor([0]), torch.tensor([1])
    for pairs in (Pairs(one, two, two, one), Pairs(one, two, nothing, nothing), Pairs(nothing, nothing, one, two)):
        assert [len(tensor) for tensor in as_triplets(pairs)] == [0, 0, 0]


def test_nothing_of_all_triplets_size_is_made_for_semihard():
    """600 rows of two labels have 54 million triplets; few of them lie within so small a margin."""
    rows, labels = random_rows(600, 3, seed=1), torch.arange(600) % 2
    mined = MINERS["semihard"](miner_margin=1e-6)(rows, labels)
    unit = torch.nn.functional.normalize(rows.double())
    gaps = (unit[mined.anchors] - unit[mined.negatives]).norm(dim=1)
    gaps -= (unit[mined.anchors] - unit[mined.positives]).norm(dim=1)
    assert 0 < len(gaps) < 10_000 and gaps.abs().max() < 1e-6 + math.sqrt(gamma(30, torch.float32) * 4)


@pytest.mark.parametrize("name", LOSSES.names(stage="pair"))
def test_a_loss_takes_a_miner_or_says_that_it_has_no_use_for_one(name):
    form = LOSSES.fact(name, "mined")
    if form is None:
        with pytest.raises(InputError, match=f"--miner=hard: the loss {name} chooses .*triplet_margin"):
            build_miner({}, name, {}, miner="hard")
        return
    assert build_miner({}, name, {}) is None
    rows = random_rows(len(LABELS), 4).requires_grad_()
    for miner in MINERS.names():
        mining = build_miner({}, name, {}, miner=miner)
        value = Objective(torch.nn.Identity(), LOSSES[name](), miner=mining).compare(rows, LABELS)
        (slope,) = torch.autograd.grad(value, rows)
        assert value.isfinite() and slope.isfinite().all()


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (Ranks, "3", 3),
        (Ranks, "2-5", (2, 5)),
        (Ranks, "2,5", (2, 5)),
        (Interval, "0.1,2", (0.1, 2.0)),
        (Margin, "0.3", 0.3),
        (Margin, "soft", "soft"),
    ],
)
def test_texts_of_options(kind, text, value):
    assert kind.__metadata__[0](text) == value


def draws(_):
    """What distance_weighted draws on a rank whose generator stands where no other's does."""
    torch.manual_seed(bench.distributed.rank())
    return torch.stack(MINERS["distance_weighted"]()(random_rows(len(LABELS)), LABELS))


@pytest.mark.slow
def test_ranks_draw_the_same():
    left, right = bench.in_ranks(2, draws, None)
    assert torch.equal(left, right)


@pytest.mark.parametrize("miner, options", [("nhard", {"n_negative": "2-3"}), ("distance_weighted", {})])
def test_a_run_with_a_miner_goes_on_as_if_it_had_not_stopped(sop_tree, tmp_path, miner, options):
    flags = {"loss_name": "triplet_margin", "miner": miner, "train_batch_size": 8, "samples_each_class": 2}
    flags |= {"total_iter_num": 4, "test_iter_step": 4, "save_iter_step": 2, "lr": 0.05, **options}
    with tiny_backbone():
        run("train_pair", train_flags(sop_tree, tmp_path / "whole", **flags))
        run("train_pair", train_flags(sop_tree, tmp_path / "parts", **{**flags, "total_iter_num": 2}))
        parts = ["--checkpoint", tmp_path / "parts", "--total_iter_num=4", "--allow_changed=total_iter_num"]
        run("train_pair", [str(word) for word in parts])
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_json(tmp_path / "whole" / "config.json")["flags"]["miner"] == miner
