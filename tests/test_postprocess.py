"""Post-processors beside loops over queries: thresholds, expansion, augmentation, and k-reciprocal on dense matrices."""

import numpy as np
import pytest
import torch
from tolerances import assert_within, gamma, likely_gamma, score_error

from core.errors import InputError
from retrieval.metrics.per_query import summary
from retrieval.metrics.ranking import Ranked, values
from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.results import RetrievalResults


def clusters(count, width=8, labels=20, seed=0, noise=0.8):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(labels, (count,), generator=generator)
    rows = torch.randn(labels, width, generator=generator)[codes] + noise * torch.randn(
        count, width, generator=generator
    )
    return rows, codes


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ragged():
    return RetrievalResults(
        [torch.tensor(d) for d in ([0.1, 0.2, 0.9], [0.3], [], [0.05, 0.5, 0.52], [0.6, 0.7])],
        [torch.tensor(i, dtype=torch.int64) for i in ([4, 1, 2], [0], [], [2, 4, 0], [1, 3])],
        [torch.tensor(i, dtype=torch.int64) for i in ([1, 4], [0, 2], [1], [2], [])],
    )


def lists(results):
    return [row.tolist() for row in results.retrieved_ids], [
        [round(d, 6) for d in row.tolist()] for row in results.distances
    ]


def test_constant_threshold_keeps_what_is_closer():
    ids, distances = lists(POSTPROCESSORS["constant_threshold"](0.5).process(ragged()))
    assert ids == [[4, 1], [0], [], [2], []] and distances == [[0.1, 0.2], [0.3], [], [0.05], []]


def test_adaptive_threshold_cuts_before_a_wide_gap():
    """Gaps 0.1, 0.7, 0.45, 0.02, 0.1: mean 0.274, so 0.7 alone is wider than two of them, and 0.45 than one and a half."""
    assert lists(POSTPROCESSORS["adaptive_threshold"](2.0).process(ragged()))[0] == [[4, 1], [0], [], [2, 4, 0], [1, 3]]
    assert lists(POSTPROCESSORS["adaptive_threshold"](1.5).process(ragged()))[0] == [[4, 1], [0], [], [2], [1, 3]]
    single = RetrievalResults([torch.tensor([0.5])], [torch.tensor([0])])
    assert lists(POSTPROCESSORS["adaptive_threshold"]().process(single))[0] == [[0]]  # OML divides by zero here


@pytest.mark.parametrize(
    "name, theirs", [("constant_threshold", "ConstantThresholding"), ("adaptive_threshold", "AdaptiveThresholding")]
)
@pytest.mark.parametrize("option", [0.0, 0.3, 0.55, 1.0, 2.0, 5.0])
def test_thresholds_equal_omls(name, theirs, option):
    algo = pytest.importorskip("oml.retrieval.postprocessors.algo", reason="parity needs requirements/peers.txt")
    from oml.retrieval.retrieval_results import RetrievalResults as Theirs

    rows, codes = clusters(60)
    ours = RetrievalResults.from_embeddings(rows, codes, k=9)
    for results in (ours, ragged()):
        expected = getattr(algo, theirs)(option).process(
            Theirs(results.distances, results.retrieved_ids, results.gt_ids)
        )
        found = POSTPROCESSORS[name](option).process(results)
        assert all(torch.equal(one, two) for one, two in zip(found.retrieved_ids, expected.retrieved_ids, strict=True))
        assert all(torch.equal(one, two) for one, two in zip(found.gt_ids, expected.gt_ids, strict=True))


def naive_neighbours(distance, k):
    """Each item first, then its k nearest others, ties by index."""
    return [
        [i] + sorted((j for j in range(len(distance)) if j != i), key=lambda j: (distance[i, j], j))[:k]
        for i in range(len(distance))
    ]


def naive_reciprocal(distance, queries, k1, k2, share):
    """Zhong et al. eq. 3 to 12 with dense matrices: new distances of `queries` to all."""
    count = len(distance)

    def reciprocal(k):
        near = naive_neighbours(distance, k)
        return [{j for j in near[i] if i in near[j]} for i in range(count)]

    wide, narrow = reciprocal(k1), reciprocal(round(k1 / 2))
    vectors = np.zeros((count, count))
    for i in range(count):
        members = set(wide[i])
        for j in wide[i]:
            if len(narrow[j] & wide[i]) > 2 / 3 * len(narrow[j]):
                members |= narrow[j]
        members = sorted(members)
        vectors[i, members] = np.exp(-distance[i, members])
        vectors[i] /= vectors[i].sum()
    vectors = np.stack([vectors[near].mean(0) for near in naive_neighbours(distance, k2 - 1)])
    jaccard = np.stack(
        [1 - np.minimum(vectors[q], vectors).sum(1) / np.maximum(vectors[q], vectors).sum(1) for q in queries]
    )
    return (1 - share) * jaccard + share * distance[queries]


def reciprocal_error(rows):
    """Of the new distances: a sum over up to N shares that make 1, each exp(cosine) over such a sum, a mean of few.

    They have one sign, so that errors are relative; hundreds of terms are unlikely to err alike. The distance
    1 - S / (2 - S) moves twice as much as the sum S.
    """
    return 2 * (likely_gamma(2 * len(rows) + 60) + 2 * score_error("cosine", rows))


@pytest.mark.parametrize("k1, k2, share", [(20, 6, 0.3), (7, 1, 0.0), (4, 3, 0.9), (400, 2, 0.3)])
def test_k_reciprocal_equals_dense_matrices(k1, k2, share):
    count = 150
    rows, codes = clusters(count)
    query_gallery = QueryGallery.of(rows, codes)
    results = RetrievalResults.from_query_gallery(query_gallery, 25)
    found = POSTPROCESSORS["k_reciprocal"](k1, k2, share).process(results, query_gallery)
    expected = naive_reciprocal(1 - unit(rows) @ unit(rows).T, range(count), k1, k2, share)
    orders = []
    for query in range(count):
        orders.append(sorted(results.retrieved_ids[query].tolist(), key=lambda item: (expected[query, item], item)))
    distances = np.stack([found.distances[query].numpy() for query in range(count)])
    found_ids = np.stack([found.retrieved_ids[query].numpy() for query in range(count)])
    assert_within(distances, np.take_along_axis(expected, found_ids, 1), reciprocal_error(rows))
    assert_within(distances, np.take_along_axis(expected, np.array(orders), 1), reciprocal_error(rows))


@pytest.mark.parametrize("apart", [False, True])
def test_k_reciprocal_of_queries_against_a_gallery(apart):
    rows, codes = clusters(90)
    is_query = torch.arange(90) % 3 == 0
    if apart:
        query_gallery = QueryGallery.apart(rows[is_query], rows[~is_query], codes[is_query], codes[~is_query])
        number = torch.cat([(~is_query).nonzero(), is_query.nonzero()]).flatten()
        gallery_row = (~is_query).nonzero().flatten()
    else:
        query_gallery = QueryGallery.of(rows, codes, is_query, ~is_query)
        number = gallery_row = torch.arange(90)
    results = RetrievalResults.from_query_gallery(query_gallery, 10)
    found = POSTPROCESSORS["k_reciprocal"](8, 3).process(results, query_gallery)
    ordered = unit(rows)[number.numpy()]
    expected = naive_reciprocal(1 - ordered @ ordered.T, range(90), 8, 3, 0.3)
    place = torch.empty(90, dtype=torch.int64)
    place[number] = torch.arange(90)
    for query, row in enumerate(is_query.nonzero().flatten().tolist()):
        items = place[gallery_row[found.retrieved_ids[query]]].numpy()
        assert_within(found.distances[query], expected[place[row], items], reciprocal_error(rows))


def naive_sum(query, items, rows, alpha):
    total = query.copy()
    for item in items:
        total += max(0, query @ rows[item]) ** alpha * rows[item]
    return total


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_query_expansion_is_a_search_with_weighted_sums(alpha):
    rows, codes = clusters(60)
    query_gallery, plain = QueryGallery.of(rows, codes), unit(rows)
    results = RetrievalResults.from_query_gallery(query_gallery, 10)
    found = POSTPROCESSORS["query_expansion"](4, alpha).process(results, query_gallery)
    for query in range(60):
        total = naive_sum(plain[query], results.retrieved_ids[query][:4].tolist(), plain, alpha)
        scores = plain @ total / np.linalg.norm(total)
        order = sorted((i for i in range(60) if i != query), key=lambda i: -scores[i])[:10]
        assert found.retrieved_ids[query].tolist() == order
        # Weights are cosines to the power alpha; a sum of five unit vectors that is off by a share turns by no more.
        turn = gamma(8 + 3 + 5 + 4, torch.float32) + max(1, alpha) * score_error("cosine", rows)
        assert_within(found.distances[query], 1 - scores[order], turn + score_error("cosine", rows) + 2.0**-24)


def test_database_augmentation_is_a_search_among_weighted_sums():
    rows, codes = clusters(60)
    is_query = torch.arange(60) % 4 == 0
    query_gallery, plain = QueryGallery.of(rows, codes, is_query, ~is_query), unit(rows)
    results = RetrievalResults.from_query_gallery(query_gallery, 10)
    found = POSTPROCESSORS["database_augmentation"](3, 3.0).process(results, query_gallery)
    gallery = (~is_query).nonzero().flatten().tolist()
    new = {}
    for item in gallery:
        others = sorted((i for i in gallery if i != item), key=lambda i: -plain[item] @ plain[i])[:3]
        total = naive_sum(plain[item], others, plain, 3.0)
        new[item] = total / np.linalg.norm(total)
    for query, row in enumerate(is_query.nonzero().flatten().tolist()):
        order = sorted(gallery, key=lambda i: -plain[row] @ new[i])[:10]
        assert found.retrieved_ids[query].tolist() == order


def opened(name):
    """With its defaults; what looks at pairs is given distances that have nothing to do with the old ones."""
    if POSTPROCESSORS.fact(name, "of_pairs"):
        return POSTPROCESSORS[name](lambda queries, items: (queries * 7 + items * 3) % 11 / 8)
    return POSTPROCESSORS[name]()


@pytest.mark.parametrize("name", POSTPROCESSORS.names())
def test_processors_make_chains_and_change_nothing(name):
    """Every one takes what every one gives, keeps labels and lengths, and leaves its input as it was."""
    rows, codes = clusters(40)
    query_gallery = QueryGallery.of(rows, codes, sequences=torch.arange(40) // 2)
    results = RetrievalResults.from_query_gallery(query_gallery, 8)
    before = results.padded_ids.clone(), results.padded_distances.clone()
    processed = opened(name).process(results, query_gallery)
    assert torch.equal(before[0], results.padded_ids) and torch.equal(before[1], results.padded_distances)
    for other in POSTPROCESSORS.names():
        chained = opened(other).process(processed, query_gallery)
        assert len(chained) == 40 and chained.n_retrieved_items <= 8
        own = (chained.padded_ids == torch.arange(40)[:, None]).any()
        together = (chained.padded_ids // 2 == torch.arange(40)[:, None] // 2) & (chained.padded_ids >= 0)
        assert not own and not together.any()
        figures = summary(values(Ranked.of(chained)), chained.positives)["overall"]
        assert all(0 <= value <= 1 for key, value in figures.items() if key not in ("queries", "lone_queries"))


@pytest.mark.parametrize("name", POSTPROCESSORS.names())
def test_processors_take_empty_lists_and_single_items(name):
    for count in (1, 2, 3):
        rows, codes = clusters(count)
        query_gallery = QueryGallery.of(rows, codes)
        results = RetrievalResults.from_query_gallery(query_gallery, 5)
        assert len(opened(name).process(results, query_gallery)) == count
    nothing = POSTPROCESSORS["constant_threshold"](-1.0).process(results, query_gallery)
    assert nothing.is_empty() and len(opened(name).process(nothing, query_gallery)) == 3


def test_re_ranking_helps_where_neighbourhoods_tell():
    """On clusters with noise the mean precision at R rises, which is what these are for."""
    rows, codes = clusters(400, 16, 20, noise=1.6)
    query_gallery = QueryGallery.of(rows, codes)
    results = RetrievalResults.from_query_gallery(query_gallery, 100)

    def score(results):
        return values(Ranked.of(results), ("map@r",))["map@r"].mean().item()

    for name in ("k_reciprocal", "query_expansion", "database_augmentation"):
        assert score(POSTPROCESSORS[name]().process(results, query_gallery)) > score(results) + 0.01, name


def test_mistakes_are_named():
    for name, options, sentence in (
        ("k_reciprocal", {"k1": 0}, "k1=0"),
        ("k_reciprocal", {"reciprocal_lambda": 2.0}, "reciprocal_lambda=2.0"),
        ("query_expansion", {"qe_items": 0}, "qe_items is 0"),
        ("database_augmentation", {"dba_items": -1}, "dba_items is -1"),
    ):
        with pytest.raises(InputError, match=sentence):
            POSTPROCESSORS[name](**options)
    with pytest.raises(InputError, match=r"unknown post-processor 'k_reciprocl'.*Did you mean 'k_reciprocal'\?"):
        POSTPROCESSORS["k_reciprocl"]
