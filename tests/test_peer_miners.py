"""Every miner beside the one of Open Metric Learning or pytorch-metric-learning that it equals, as sets."""

import itertools

import pytest
import torch
from tolerances import share_error

from losses._mined import Pairs, Reference, Triplets
from miners import MINERS, as_pairs, as_triplets

BATCHES = {
    "K=2": [4, 4, 1, 1, 0, 0, 9, 9],
    "K=4, any order": [2, 9, 2, 9, 9, 2, 2, 9, 5, 5, 5, 5],
    "uneven": [3, 3, 3, 8, 8, 1, 1, 1, 1, 1, 3],
}


@pytest.fixture(scope="module")
def oml():
    pytest.importorskip("oml", reason="parity with Open Metric Learning needs requirements/peers.txt")
    from oml import miners

    return miners


@pytest.fixture(scope="module")
def pml():
    return pytest.importorskip(
        "pytorch_metric_learning.miners", reason="parity with pytorch-metric-learning needs requirements/peers.txt"
    )


@pytest.fixture(scope="module")
def distances(pml):
    from pytorch_metric_learning import distances

    # Theirs of the same names as ours; cosine is a similarity there.
    return {
        ("euclidean", True): distances.LpDistance(),
        ("euclidean", False): distances.LpDistance(normalize_embeddings=False),
        ("squared", True): distances.LpDistance(power=2),
        ("cosine", True): distances.CosineSimilarity(),
    }


def random_rows(count, width=6, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=BATCHES)
def batch(request):
    labels = torch.tensor(BATCHES[request.param])
    return random_rows(len(labels), seed=len(labels)), labels


def rows_of(*tensors):
    """A list of rows: of pairs or of triplets."""
    return sorted(zip(*(tensor.tolist() for tensor in tensors), strict=True))


def assert_same_triplets(ours, theirs):
    assert isinstance(ours, Triplets)
    assert all(tensor.dtype == torch.int64 for tensor in ours)
    assert rows_of(*ours) == rows_of(*(torch.as_tensor(tensor) for tensor in theirs)) != []


def assert_same_pairs(ours, theirs):
    assert isinstance(ours, Pairs)
    assert rows_of(*ours[:2]) == rows_of(*theirs[:2]) and rows_of(*ours[2:]) == rows_of(*theirs[2:])


def test_all_equals_omls(oml, batch):
    rows, labels = batch
    assert_same_triplets(MINERS["all"]()(rows, labels), oml.AllTripletsMiner()._sample(rows, labels=labels.tolist()))


def test_hard_equals_omls(oml, batch):
    rows, labels = batch
    assert_same_triplets(MINERS["hard"]()(rows, labels), oml.HardTripletsMiner()._sample(rows, labels.tolist()))


@pytest.mark.parametrize("positive, negative", list(itertools.product([1, 2, 50, (1, 2), (2, 9)], [1, 3, 50, (2, 4)])))
def test_nhard_equals_omls(oml, positive, negative):
    labels = torch.tensor(BATCHES["K=4, any order"])
    rows = random_rows(len(labels))
    theirs = oml.NHardTripletsMiner(positive, negative)._sample(rows, labels.tolist())
    assert_same_triplets(MINERS["nhard"](positive, negative)(rows, labels), theirs)


@pytest.mark.parametrize("hard_mining", [True, False])
def test_pairs_equals_omls(oml, batch, hard_mining):
    rows, labels = batch
    left, right, is_negative = oml.PairsMiner(hard_mining).sample(rows, labels.tolist())
    theirs = left[~is_negative], right[~is_negative], left[is_negative], right[is_negative]
    assert_same_pairs(MINERS["pairs"](hard_mining)(rows, labels), theirs)


def test_hard_cluster_equals_omls(oml):
    labels = torch.tensor(BATCHES["K=4, any order"])
    rows = random_rows(len(labels))
    miner = MINERS["hard_cluster"]()
    extended, _ = miner.extended(rows, labels)
    theirs = oml.HardClusterMiner().sample(rows, labels)
    for numbers, expected in zip(miner(rows, labels), theirs, strict=True):
        assert torch.equal(extended[numbers], expected)


@pytest.mark.parametrize("distance, unit_length", [("euclidean", True), ("squared", True), ("cosine", True)])
@pytest.mark.parametrize("strategies", list(itertools.product(["easy", "semihard", "hard", "all"], repeat=2)))
def test_easy_positive_equals_pmls(pml, distances, batch, strategies, distance, unit_length):
    if set(strategies) in ({"semihard"}, {"semihard", "all"}):
        pytest.skip("refused by both")
    theirs = pml.BatchEasyHardMiner(*strategies, distance=distances[distance, unit_length])(*batch)
    assert_same_pairs(MINERS["easy_positive"](*strategies, miner_distance=distance)(*batch), theirs)


def test_easy_positive_keeps_to_ranges_as_pmls(pml, batch):
    ranges = {"allowed_pos_range": (0.8, 1.5), "allowed_neg_range": (1.0, 1.7)}
    theirs = pml.BatchEasyHardMiner(**ranges)(*batch)
    assert_same_pairs(MINERS["easy_positive"](**ranges)(*batch), theirs)


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("distance, unit_length", [("euclidean", True), ("euclidean", False), ("cosine", True)])
def test_semihard_equals_pmls(pml, distances, batch, distance, unit_length, margin):
    theirs = pml.TripletMarginMiner(margin, "semihard", distance=distances[distance, unit_length])(*batch)
    assert_same_triplets(MINERS["semihard"](margin, distance, unit_length)(*batch), theirs)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("distance, unit_length", [("cosine", True), ("euclidean", True), ("euclidean", False)])
def test_multi_similarity_equals_pmls(pml, distances, batch, distance, unit_length, epsilon):
    theirs = pml.MultiSimilarityMiner(epsilon, distance=distances[distance, unit_length])(*batch)
    assert_same_pairs(MINERS["multi_similarity"](epsilon, distance, unit_length)(*batch), theirs)


def test_distance_weighted_draws_as_pmls(pml):
    """As many triplets of each anchor, and negatives with the same chances: counted over many draws of both."""
    labels = torch.tensor([2, 9, 2, 9, 9, 2, 2, 9, 5, 5, 5, 5])
    rows = random_rows(len(labels), width=4, seed=3)
    times, counts = 2000, {}
    for name, miner in {"ours": MINERS["distance_weighted"](), "theirs": pml.DistanceWeightedMiner()}.items():
        torch.manual_seed(1)
        table = torch.zeros(2, len(labels), len(labels))
        for _ in range(times):
            anchors, positives, negatives = miner(rows, labels)
            table[0].index_put_((anchors, positives), torch.ones(()), accumulate=True)
            table[1].index_put_((anchors, negatives), torch.ones(()), accumulate=True)
        assert (table.sum(2) == 4 * times).all()
        counts[name] = (table / (4 * times)).flatten().tolist()
    for ours, theirs in zip(counts["ours"], counts["theirs"], strict=True):
        assert (ours == 0) == (theirs == 0)
        assert abs(ours - theirs) <= 2 * share_error(max(ours, theirs), 4 * times)


def reference_of(rows, labels, count=9):
    """Rows of a memory, the first three of which show the last images of the batch."""
    images = torch.arange(count) + len(labels) - 3
    return Reference(random_rows(count, seed=7), labels.roll(3).repeat(2)[:count], images, torch.arange(len(labels)))


@pytest.mark.parametrize("name, peer", [("multi_similarity", "MultiSimilarityMiner"), ("hard", "BatchHardMiner")])
def test_a_reference_equals_pmls_less_rows_of_the_same_image(pml, batch, name, peer):
    """PML has no word for the same image: there the columns of each row are handed over without it."""
    rows, labels = batch
    reference = reference_of(rows, labels)
    others = reference._replace(images=reference.images + 1000)
    columns, everyone = torch.cat([rows, reference.embeddings]), torch.cat([labels, reference.labels])
    options = {"miner_normalise": True} if name == "hard" else {}
    miner = MINERS[name](**options)
    for memory in (reference, others):
        # Rows one by one, so that "the row itself" and "the same image" can be left out of the columns.
        expected = [[], []]
        for row in range(len(rows)):
            keep = torch.ones(len(columns), dtype=torch.bool)
            keep[row] = False
            keep[len(rows) :] = memory.images != row
            theirs = as_pairs_of_theirs(getattr(pml, peer)()(rows[[row]], labels[[row]], columns[keep], everyone[keep]))
            for number, partners in enumerate(theirs):
                expected[number] += [(row, column) for column in keep.nonzero()[:, 0][partners].tolist()]
        ours = as_pairs(miner(rows, labels, memory))
        assert [rows_of(*ours[:2]), rows_of(*ours[2:])] == [sorted(one) for one in expected]


def as_pairs_of_theirs(mined):
    return (mined[1], mined[2]) if len(mined) == 3 else (mined[1], mined[3])


def test_conversions_equal_pmls(pml, batch):
    from pytorch_metric_learning.utils import loss_and_miner_utils as theirs

    pairs = MINERS["multi_similarity"]()(*batch)
    triplets = MINERS["semihard"]()(*batch)
    assert_same_triplets(as_triplets(pairs), theirs.convert_to_triplets(tuple(pairs), batch[1]))
    assert_same_pairs(as_pairs(triplets), theirs.convert_to_pairs(tuple(triplets), batch[1]))
    assert as_pairs(pairs) is pairs and as_triplets(triplets) is triplets
