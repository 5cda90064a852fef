"""Open Metric Learning's names on this repository: each against a naive loop, a closed form, or the code behind it."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from compat.oml import datasets as d
from compat.oml.inference import inference, inference_cached
from compat.oml.interfaces.datasets import IQueryGalleryLabeledDataset
from compat.oml.interfaces.retrieval import IRetrievalPostprocessor
from compat.oml.losses import (
    ArcFaceLoss,
    ArcFaceLossWithMLP,
    SurrogatePrecision,
    TripletLoss,
    TripletLossPlain,
    TripletLossWithMiner,
)
from compat.oml.metrics import EmbeddingMetrics, calc_retrieval_metrics_rr
from compat.oml.miners import (
    AllTripletsMiner,
    HardClusterMiner,
    HardTripletsMiner,
    MinerWithBank,
    NHardTripletsMiner,
    PairsMiner,
    TripletMinerWithMemory,
)
from compat.oml.registry import (
    LOSSES_REGISTRY,
    MINERS_REGISTRY,
    OPTIMIZERS_REGISTRY,
    SAMPLERS_REGISTRY,
    SCHEDULERS_REGISTRY,
    TRANSFORMS_REGISTRY,
    get_criterion_by_cfg,
    get_miner,
    get_optimizer_by_cfg,
    get_sampler,
    get_scheduler_by_cfg,
    get_transforms,
    show_registry,
)
from compat.oml.retrieval import AdaptiveThresholding, ConstantThresholding, RetrievalResults
from compat.oml.samplers import BalanceSampler, CategoryBalanceSampler, DistinctCategoryBalanceSampler
from compat.oml.utils._drawn_shapes import draw_shapes
from core.errors import InputError


class Table(dict):
    """Columns by name, as a pandas.DataFrame has them, for where pandas is not installed."""

    @property
    def columns(self):
        return list(self)


class Points(IQueryGalleryLabeledDataset):
    """Embeddings that are their own inputs."""

    def __init__(self, points, labels, is_query=None, is_gallery=None, **extra_data):
        self.points = points
        self.labels = np.asarray(labels)
        everyone = np.arange(len(points))
        self.queries = torch.as_tensor(everyone if is_query is None else is_query)
        self.gallery = torch.as_tensor(everyone if is_gallery is None else is_gallery)
        self.extra_data = extra_data

    def __len__(self):
        return len(self.points)

    def __getitem__(self, item):
        return {"input_tensors": self.points[item], "idx": item, "labels": self.labels[item]}

    def get_labels(self):
        return self.labels

    def get_query_ids(self):
        return self.queries

    def get_gallery_ids(self):
        return self.gallery


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"))


def table_of(folder, name="df_with_category.csv", split="validation"):
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    rows = [row for row in lines[1:] if row[2] == split]
    columns = dict(zip(lines[0], map(list, zip(*rows))))
    columns["label"] = [int(label) for label in columns["label"]]
    for flag in ("is_query", "is_gallery"):
        columns[flag] = [value == "True" for value in columns[flag]]
    return Table(columns)


def test_items_of_images(shapes, record_property):
    table = table_of(shapes)
    dataset = d.ImageQueryGalleryLabeledDataset(table, dataset_root=shapes, extra_data={"number": np.arange(16)})
    item = dataset[3]
    assert item["input_tensors"].shape == (3, 64, 64) and item["input_tensors"].dtype == torch.float32
    assert (item["idx"], item["labels"], item["category"], item["number"]) == (3, table["label"][3], "round", 3)
    assert dataset.get_query_ids().tolist() == [0, 4, 8, 12]
    assert dataset.get_gallery_ids().tolist() == [row for row in range(16) if row not in (0, 8)]
    assert dataset.get_label2category() == {4: "round", 5: "round", 6: "straight", 7: "straight"}
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["input_tensors"].shape == (4, 3, 64, 64) and batch["labels"].tolist() == table["label"][:4]
    picture = dataset.visualize(3, color=(255, 0, 0))
    assert picture.shape == (64, 64, 3) and (picture[0] == (255, 0, 0)).all()
    record_property("items", len(dataset))


def test_boxes_crop_and_a_row_may_have_none(shapes, record_property):
    table = table_of(shapes, "df_with_bboxes.csv")
    boxes = {name: np.array(table[name], dtype=float) for name in ("x_1", "y_1", "x_2", "y_2")}
    for column in boxes.values():
        column[1] = np.nan
    dataset = d.ImageLabeledDataset(Table(table, **boxes), dataset_root=shapes)
    left, top, right, bottom = (int(boxes[name][0]) for name in ("x_1", "y_1", "x_2", "y_2"))
    whole = d.ImageLabeledDataset(table_of(shapes), dataset_root=shapes)[0]["input_tensors"]
    assert torch.equal(dataset[0]["input_tensors"], whole[:, top:bottom, left:right])
    record_property("numbers of a crop equal to the bit", dataset[0]["input_tensors"].numel())
    assert dataset[1]["input_tensors"].shape == (3, 64, 64)
    boxes["x_1"][2] = np.nan
    with pytest.raises(InputError, match="row 2: the box .* only some of its sides"):
        d.ImageLabeledDataset(Table(table, **boxes), dataset_root=shapes)
    del table["x_1"]
    with pytest.raises(ValueError, match="a box needs"):
        d.ImageLabeledDataset(table, dataset_root=shapes)


def test_a_table_without_a_column_and_columns_of_another_length(shapes):
    table = table_of(shapes)
    with pytest.raises(AssertionError, match="no column is_query"):
        d.ImageQueryGalleryDataset(Table(path=table["path"], is_gallery=table["is_gallery"]), dataset_root=shapes)
    with pytest.raises(AssertionError, match="'a' has 1 value for 16"):
        d.ImageBaseDataset(table["path"], shapes, extra_data={"a": [1]})
    with pytest.raises(ValueError, match="extra_data has the key 'idx'"):
        d.ImageBaseDataset(table["path"], shapes, extra_data={"idx": table["label"]})[0]


def test_texts_and_pairs(record_property):
    def tokenizer(text, max_length, **options):
        ids = torch.tensor([[ord(letter) for letter in text.ljust(max_length)[:max_length]]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    table = Table(text=["one", "two"], label=[0, 1], is_query=[True, True], is_gallery=[False, True])
    dataset = d.TextQueryGalleryLabeledDataset(table, tokenizer, max_length=5)
    assert dataset[1]["input_tensors"]["input_ids"].tolist() == [ord(letter) for letter in "two  "]
    assert dataset.get_gallery_ids().tolist() == [1]
    assert dataset.visualize(0).shape == (224, 224, 3)
    pairs = d.PairDataset(Points(torch.eye(3), [0, 1, 2]), [(0, 2)])
    assert pairs[0]["input_tensors_2"].tolist() == [0, 0, 1] and pairs[0]["idx"] == 0
    record_property("texts", len(dataset))


def naive_search(dataset, n_items):
    """[(distances, positions, right positions)] of each query, by a loop."""
    gallery = dataset.get_gallery_ids().tolist()
    sequences = dataset.extra_data.get("sequence")
    found = []
    for query in dataset.get_query_ids().tolist():
        candidates = []
        for position, item in enumerate(gallery):
            if item == query or (sequences is not None and sequences[item] == sequences[query]):
                continue
            distance = (dataset.points[query].double() - dataset.points[item].double()).norm().item()
            candidates.append((distance, position, dataset.labels[item] == dataset.labels[query]))
        nearest = sorted(candidates)[:n_items]
        right = sorted(position for _, position, is_right in candidates if is_right)
        found.append(([distance for distance, *_ in nearest], [position for _, position, _ in nearest], right))
    return found


@pytest.mark.parametrize("case", ["one against the rest", "sequences", "some", "in no order"])
def test_results_of_embeddings(case):
    rng = np.random.default_rng(3)
    points = torch.from_numpy(rng.normal(size=(40, 5)).astype(np.float32) * 3)
    labels = rng.integers(0, 6, 40)
    options = {}
    if case == "sequences":
        options = {"sequence": [f"s{number}" for number in rng.integers(0, 12, 40)]}
    if case == "some":
        options = {"is_query": np.arange(0, 25), "is_gallery": np.arange(15, 40)}
    if case == "in no order":
        options = {"is_query": rng.permutation(40)[:10], "is_gallery": rng.permutation(40)[:30]}
    dataset = Points(points, labels, **options)
    results = RetrievalResults.from_embeddings(points, dataset, n_items=7)
    for query, (distances, positions, right) in enumerate(naive_search(dataset, 7)):
        assert results.retrieved_ids[query].tolist() == positions
        assert results.gt_ids[query].tolist() == right
        torch.testing.assert_close(results.distances[query], torch.tensor(distances), rtol=1e-5, atol=1e-5)


def test_results_of_two_datasets_and_what_they_refuse():
    points = torch.tensor([[0.0], [1.0], [3.0]])
    results = RetrievalResults.from_embeddings_qg(
        points[:1], points[1:], Points(points[:1], [5]), Points(points[1:], [4, 5])
    )
    assert results.retrieved_ids[0].tolist() == [0, 1] and results.distances[0].tolist() == [1.0, 3.0]
    assert results.gt_ids[0].tolist() == [1]
    assert results.deepcopy().distances[0].tolist() == [1.0, 3.0]
    with pytest.raises(RuntimeError, match="not ascending"):
        RetrievalResults([torch.tensor([2.0, 1.0])], [torch.tensor([0, 1])])
    with pytest.raises(RuntimeError, match="found twice"):
        RetrievalResults([torch.tensor([1.0, 2.0])], [torch.tensor([1, 1])])
    # Distances whose order rounding has turned round are in order.
    assert RetrievalResults([torch.tensor([1 + 1e-7, 1.0])], [torch.tensor([0, 1])]).n_retrieved_items == 2
    with pytest.raises(AssertionError, match="2 embeddings of a dataset of 3 items"):
        RetrievalResults.from_embeddings(points[:2], Points(points, [0, 0, 0]))
    with pytest.raises(TypeError, match="Points is no IVisualizableDataset"):
        results.visualize([0], Points(points, [0, 0, 0]))


def test_a_single_query_and_a_single_item():
    points = torch.tensor([[0.0], [2.0]])
    dataset = Points(points, [0, 0], is_query=[0], is_gallery=[1])
    results = RetrievalResults.from_embeddings(points, dataset)
    assert results.distances[0].tolist() == [2.0]
    assert AdaptiveThresholding().process(results).retrieved_ids[0].tolist() == [0]
    assert calc_retrieval_metrics_rr(results, cmc_top_k=(1,))["cmc"][1] == 1


def test_thresholds_in_the_short_spelling_too():
    results = RetrievalResults(
        [torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.5])], [torch.arange(3), torch.tensor([2])]
    )
    near = ConstantThresholding(0.2).process(results)
    assert isinstance(near, RetrievalResults) and [len(ids) for ids in near.retrieved_ids] == [1, 0]
    cut = AdaptiveThresholding(n_std=1.5).process(results)
    assert [ids.tolist() for ids in cut.retrieved_ids] == [[0, 1], [2]]
    assert AdaptiveThresholding().process(results, object()).n_retrieved_items == 3


@pytest.mark.parametrize("categories", [False, True])
def test_embedding_metrics_are_those_of_all_items_whatever_the_order_of_batches(categories):
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    labels = np.arange(30) % 5
    extra = {"category": np.array(["even", "odd"])[labels % 2]} if categories else {}
    dataset = Points(points, labels, **extra)
    metrics = EmbeddingMetrics(dataset, cmc_top_k=(1, 3), fmr_vals=(0.2,), verbose=False)
    metrics.setup()
    with pytest.raises(ValueError, match="no embeddings of 30 items"):
        metrics.compute_metrics()
    order = torch.from_numpy(rng.permutation(30))
    # An item may come twice, as it does where ranks share a loader.
    for batch in (*order.split(7), order[:3]):
        metrics.update_data({"embeddings": points[batch]}, batch.tolist())
    found = metrics.compute_metrics()
    results = RetrievalResults.from_embeddings(points, dataset, n_items=30)
    expected = calc_retrieval_metrics_rr(results, extra.get("category"), cmc_top_k=(1, 3))
    expected = expected if categories else {"OVERALL": expected}
    assert found.keys() == expected.keys()
    for category, figures in expected.items():
        for name, by_k in figures.items():
            assert found[category][name] == by_k
    assert set(found["OVERALL"]) == {"cmc", "precision", "map", "pcf", "fnmr@fmr"}
    worst = metrics.get_worst_queries_ids("OVERALL/cmc/1", 2)
    assert all(metrics.metrics_unreduced["OVERALL"]["cmc"][1][query] == 0 for query in worst)


def test_embedding_metrics_behind_a_postprocessor_and_with_items_missing():
    class Halved(IRetrievalPostprocessor):
        def process(self, rr):
            return ConstantThresholding(1.0).process(rr)

    points = torch.tensor([[0.0], [0.5], [5.0], [5.1]])
    dataset = Points(points, [0, 0, 1, 1])
    metrics = EmbeddingMetrics(dataset, postprocessor=Halved(), verbose=False, return_only_overall_category=True)
    metrics.setup()
    metrics.update(points[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="3 of 4 items"):
        metrics.compute_metrics()
    metrics.update(points[3:], [3])
    assert metrics.compute_metrics()["OVERALL"]["cmc"][5] == 1
    assert metrics.retrieval_results.n_retrieved_items == 1


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.scale * x


def test_inference_keeps_order_and_mode_and_the_cache_is_of_weights_and_items(tmp_path, capsys, record_property):
    points = torch.randn(10, 3)
    dataset = Points(points, np.zeros(10))
    model = Doubled().train()
    assert torch.equal(inference(model, dataset, batch_size=4, num_workers=0), 2 * points)
    assert model.training and not any(model.modes)
    assert torch.equal(inference(model, dataset), 2 * points)
    cache = tmp_path / "cache.pth"
    calls = len(model.modes)
    first = inference_cached(model, dataset, batch_size=4, verbose=False, cache_path=cache)
    again = inference_cached(model, dataset, batch_size=5, verbose=False, cache_path=cache)
    assert torch.equal(first, again) and len(model.modes) == calls + 3
    record_property("batches of the first call", len(model.modes) - calls)
    record_property("batches of the one that was kept", "0")
    assert "taken from" in capsys.readouterr().out
    # Other weights and other items are no hits, and neither is a file of something else.
    model.scale.data.fill_(3.0)
    assert torch.equal(inference_cached(model, dataset, verbose=False, cache_path=cache), 3 * points)
    other = Points(points + 1, np.zeros(10))
    assert torch.equal(inference_cached(model, other, verbose=False, cache_path=cache), 3 * (points + 1))
    cache.write_bytes(b"no weights")
    assert torch.equal(inference_cached(model, dataset, verbose=False, cache_path=cache), 3 * points)


LABELS = [0, 0, 0, 1, 1, 2, 2, 2]


RESULTS = RetrievalResults([torch.zeros(2)] * 3, [torch.arange(2)] * 3, [[0]] * 3)


@pytest.mark.parametrize(
    "call, kind, sentence",
    [
        (lambda: calc_retrieval_metrics_rr(RESULTS, cmc_top_k=1), TypeError, r"top_k is 1; .* such as \(1, 5\)"),
        (
            lambda: RetrievalResults.from_embeddings(torch.zeros(3, 2), [1, 2, 3]),
            TypeError,
            "list does not say what asks",
        ),
        (lambda: RESULTS.visualize_with_functions(0, None, None), TypeError, "query_ids is 0; it is a list"),
        (lambda: RESULTS.visualize_with_functions([3], None, None), IndexError, "has 3; there are 3 queries, from 0"),
        (lambda: TripletLossWithMiner(0.1, "hard"), TypeError, "miner is 'hard'; it is one of compat.oml.miners"),
        (lambda: CategoryBalanceSampler([0, 0, 1, 1], None), TypeError, "label2category is None; it is a dictionary"),
        (lambda: DistinctCategoryBalanceSampler([0, 0], None), TypeError, "label2category is None; it is a dictionary"),
        (lambda: EmbeddingMetrics(None).update(torch.zeros(1, 2), [0]), InputError, r"not known; setup\(\) says it"),
    ],
)
def test_arguments_of_another_kind_are_said(call, kind, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert isinstance(caught.value, kind)


def all_triplets(labels):
    numbers = range(len(labels))
    for a, p, n in itertools.product(numbers, numbers, numbers):
        if a != p and labels[a] == labels[p] != labels[n]:
            yield a, p, n


def rows_of(chosen, features):
    """Triplets of numbers behind those of rows."""
    numbers = [[int((features == row).all(1).nonzero()[0]) for row in part] for part in chosen]
    return list(zip(*numbers))


def test_miners_in_a_batch(record_property):
    torch.manual_seed(0)
    features = torch.randn(8, 4)
    distances = torch.cdist(features, features)
    everything = set(all_triplets(LABELS))
    assert set(rows_of(AllTripletsMiner().sample(features, torch.tensor(LABELS)), features)) == everything
    assert len(AllTripletsMiner(max_output_triplets=5).sample(features, LABELS)[0]) == 5
    hard = rows_of(HardTripletsMiner().sample(features, LABELS), features)
    for a, p, n in hard:
        of_anchor = [triplet for triplet in everything if triplet[0] == a]
        assert distances[a, p] == max(distances[a, q] for _, q, _ in of_anchor)
        assert distances[a, n] == min(distances[a, m] for _, _, m in of_anchor)
    assert len(hard) == 8
    record_property("triplets of the loop", len(everything))
    record_property("hard ones of them", len(hard))
    assert set(rows_of(NHardTripletsMiner().sample(features, LABELS), features)) == set(hard)
    assert set(rows_of(NHardTripletsMiner(99, 99).sample(features, LABELS), features)) == everything
    second = rows_of(NHardTripletsMiner([1, 1], (2, 2)).sample(features, LABELS), features)
    assert len(second) == 8 and not set(second) & set(hard)
    first, other, is_negative = PairsMiner().sample(features, LABELS)
    pairs = {(a, p, False) for a, p, _ in hard} | {(a, n, True) for a, _, n in hard}
    assert set(zip(first.tolist(), other.tolist(), is_negative.tolist())) == {(*sorted(x[:2]), x[2]) for x in pairs}
    record_property("pairs", len(pairs))


def test_batches_that_miners_refuse():
    features = torch.randn(4, 2)
    for miner in (AllTripletsMiner(), HardTripletsMiner(), NHardTripletsMiner()):
        with pytest.raises(AssertionError, match="label"):
            miner.sample(features, [0, 0, 0, 0])
        with pytest.raises(AssertionError, match="occurs once"):
            miner.sample(features, [0, 0, 1, 1][:3] + [2])
    with pytest.raises(ValueError, match="same number"):
        HardClusterMiner().sample(features, [0, 0, 0, 1])
    with pytest.raises(AssertionError, match="n_positive"):
        NHardTripletsMiner(n_positive=(3, 2))
    with pytest.raises(TypeError, match="n_negative is 'x'"):
        NHardTripletsMiner(n_negative="x")
    with pytest.raises(AssertionError, match="NHardTripletsMiner"):
        MinerWithBank(2, AllTripletsMiner())


def test_hard_clusters_are_of_means():
    features = torch.tensor([[0.0, 0], [2, 0], [10, 0], [14, 0]])
    anchors, positives, negatives = HardClusterMiner().sample(features, [0, 0, 1, 1])
    assert anchors.tolist() == [[1, 0], [12, 0]]
    assert (positives - anchors).norm(dim=1).tolist() == [1, 2]
    assert negatives.tolist() == [[12, 0], [1, 0]]


def test_a_bank_is_used_once_it_is_full_and_anchors_are_of_the_batch(record_property):
    torch.manual_seed(1)
    miner = MinerWithBank(2, NHardTripletsMiner(99, 99))
    labels = torch.tensor([0, 0, 1, 1])
    counts = []
    for _ in range(4):
        features = torch.randn(4, 3, requires_grad=True)
        anchors, positives, negatives = miner.sample(features, labels)
        counts.append(len(anchors))
        assert set(rows_of([anchors], features.detach())) <= {(number,) for number in range(4)}
    record_property("triplets of each batch", ", ".join(map(str, counts)))
    # One positive and two negatives of the batch; four and four more of a bank of two batches.
    assert counts == [8, 8, 4 * 5 * 6, 4 * 5 * 6]
    expected = {
        "positives_from_bank": 4,
        "positives_from_batch": 1,
        "negatives_from_bank": 4,
        "negatives_from_batch": 2,
    }
    assert miner.last_logs == expected
    # A smaller batch is no trouble.
    miner.sample(torch.randn(3, 3), torch.tensor([0, 0, 1]))
    assert MinerWithBank().bank_size_in_batches == 5


def test_a_memory_gives_random_triplets_of_the_bank_beside_those_of_the_batch():
    torch.manual_seed(2)
    miner = TripletMinerWithMemory(bank_size_in_batches=1, tri_expand_k=3)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    points = {}
    for step in range(3):
        features = torch.randn(6, 2)
        points.update({tuple(row): int(label) for row, label in zip(features.tolist(), labels)})
        anchors, positives, negatives, is_original = miner.sample(features, labels)
        of_batch = 6 * 1 * 4
        assert is_original.sum() == of_batch and is_original[-of_batch:].all()
        for a, p, n in zip(anchors.tolist(), positives.tolist(), negatives.tolist()):
            assert points[tuple(a)] == points[tuple(p)] != points[tuple(n)]
        drawn = len(anchors) - of_batch
        # There is no bank at first; later two thirds of what is drawn fit, more or less.
        assert drawn == 0 if step == 0 else of_batch < drawn <= 2 * of_batch
    with pytest.raises(AssertionError, match="tri_expand_k"):
        TripletMinerWithMemory(1, 0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_triplet_losses(reduction):
    torch.manual_seed(0)
    anchor, positive, negative = torch.randn(3, 6, 4, requires_grad=True)
    expected = nn.TripletMarginLoss(0.3, eps=0, reduction=reduction)(anchor, positive, negative)
    criterion = TripletLoss(0.3, reduction, need_logs=True)
    torch.testing.assert_close(criterion(anchor, positive, negative), expected)
    assert criterion.last_logs["pos_dist"] == pytest.approx((anchor - positive).norm(dim=1).mean().item())
    plain = torch.stack([anchor, positive, negative], dim=1).flatten(0, 1)
    torch.testing.assert_close(TripletLossPlain(0.3, reduction)(plain), expected)
    soft = nn.functional.softplus((anchor - positive).norm(dim=1) - (anchor - negative).norm(dim=1))
    soft = {"mean": soft.mean(), "sum": soft.sum(), "none": soft}[reduction]
    torch.testing.assert_close(TripletLoss(None, reduction)(anchor, positive, negative), soft)
    for wrong in ({"margin": 0}, {"margin": -1}, {"margin": 1, "reduction": "max"}):
        with pytest.raises(AssertionError):
            TripletLoss(**wrong)


MINERS = {
    "all": lambda: AllTripletsMiner(),
    "some": lambda: NHardTripletsMiner((1, 2), 3),
    "hard": lambda: HardTripletsMiner(),
    "clusters": lambda: HardClusterMiner(),
}


@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("name", MINERS)
def test_a_triplet_loss_with_a_miner_is_that_of_its_rows(name, margin):
    torch.manual_seed(4)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    features = torch.randn(9, 4, requires_grad=True)
    of_rows = TripletLoss(margin, need_logs=True)
    expected = of_rows(*MINERS[name]().sample(features, labels))
    (slope,) = torch.autograd.grad(expected, features)
    criterion = TripletLossWithMiner(margin, MINERS[name](), need_logs=True)
    loss = criterion(features, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, features)[0], slope)
    assert criterion.last_logs == pytest.approx(of_rows.last_logs, rel=1e-5)
    summed = TripletLossWithMiner(margin, MINERS[name](), "sum")(features, labels.tolist())
    count = len(MINERS[name]().sample(features, labels)[0])
    torch.testing.assert_close(summed, expected * count)


def test_losses_with_banks_say_where_their_triplets_are_from():
    torch.manual_seed(0)
    criterion = TripletLossWithMiner(0.1, TripletMinerWithMemory(2, 3), need_logs=True)
    labels = torch.tensor(LABELS)
    for _ in range(2):
        criterion(torch.randn(8, 4), labels)
    logs = criterion.last_logs
    assert {"orig_active_tri", "bank_active_tri", "pos_dist_orig", "neg_dist_bank", "active_tri"} <= set(logs)
    criterion = TripletLossWithMiner(0.1, MinerWithBank(), need_logs=True)
    criterion(torch.randn(8, 4), labels)
    assert {"active_tri", "positives_from_bank"} <= set(criterion.last_logs)


def test_arcface():
    torch.manual_seed(0)
    features, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    criterion = ArcFaceLoss(4, 3, m=0.3, s=20, smoothing_epsilon=0.2)
    cosines = nn.functional.linear(nn.functional.normalize(features), nn.functional.normalize(criterion.weight))
    angles = cosines.clamp(-1, 1).arccos()
    own = nn.functional.one_hot(labels, 3).bool()
    scores = 20 * torch.where(own, (angles + 0.3).cos(), cosines)
    losses = nn.functional.cross_entropy(scores, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(criterion(features, labels), losses.mean(), rtol=1e-4, atol=1e-4)
    assert criterion.last_logs["accuracy"] == (cosines.argmax(1) == labels).float().mean()
    for reduction, expected in (("none", losses), ("sum", losses.sum())):
        other = ArcFaceLoss(4, 3, m=0.3, s=20, smoothing_epsilon=0.2, reduction=reduction)
        other.load_state_dict(criterion.state_dict())
        torch.testing.assert_close(other(features, labels), expected, rtol=1e-4, atol=1e-4)
        assert other.last_logs["accuracy"] == criterion.last_logs["accuracy"]
    within = ArcFaceLoss(4, 3, smoothing_epsilon=0.1, label2category={0: "a", 1: "b", 2: "b"})
    assert within(features, labels) > 0
    mlp = ArcFaceLossWithMLP(4, 3, [8, 2], label2category={0: "a", 1: "b", 2: "b"})
    assert mlp(features, labels) > 0 and "accuracy" in mlp.last_logs
    with pytest.raises(AssertionError, match="smoothing_epsilon"):
        ArcFaceLoss(4, 3, smoothing_epsilon=1)
    with pytest.raises(AssertionError, match="label 2 is outside"):
        ArcFaceLoss(4, 2)(features, labels)


def test_arcface_is_finite_where_an_embedding_is_parallel_to_its_class_weight():
    torch.manual_seed(0)
    criterion = ArcFaceLoss(4, 3)
    features = (3 * criterion.weight.detach()).requires_grad_()
    loss = criterion(features, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all() and criterion.weight.grad.isfinite().all()


def test_arcface_without_sizes_learns_labels_as_they_come():
    torch.manual_seed(0)
    criterion = ArcFaceLoss()
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.1)
    features = torch.randn(6, 4)
    losses = []
    for step in range(20):
        labels = torch.tensor([0, 0, 1, 1, 2, 2]) if step else torch.tensor([0, 0, 1, 1, 0, 0])
        loss = criterion(features, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert criterion.num_classes == 3 and losses[-1] < losses[1]
    with pytest.raises(InputError, match="room for 4096"):
        criterion(features, labels + 5000)


def test_surrogate_precision():
    torch.manual_seed(0)
    features = torch.randn(8, 3)
    labels = torch.tensor(LABELS)
    k = 2 + 1
    distances = torch.cdist(features, features)
    ranks = torch.sigmoid((distances[:, :, None] - distances[:, None, :]) / 0.01).sum(2)
    same = labels[:, None] == labels
    precisions = (torch.sigmoid(k - ranks) * same).sum(1) / same.sum(1).clamp_max(k)
    torch.testing.assert_close(SurrogatePrecision(k=2)(features, labels), 1 - precisions.mean(), rtol=1e-4, atol=1e-4)
    summed = SurrogatePrecision(2, reduction="sum")(features, labels)
    torch.testing.assert_close(summed, 1 - precisions.sum(), rtol=1e-4, atol=1e-4)
    assert SurrogatePrecision()(features, labels) > 0
    with pytest.raises(AssertionError):
        SurrogatePrecision(k=0)


def test_samplers_give_epochs_that_numpys_seed_decides(record_property):
    labels = np.repeat(np.arange(7), 3)
    sampler = BalanceSampler(labels, n_labels=3, n_instances=2)
    assert (len(sampler), sampler.batch_size, sampler.n_labels, sampler.n_instances) == (2, 6, 3, 2)
    np.random.seed(7)
    epochs = [list(sampler), list(sampler)]
    np.random.seed(7)
    assert list(sampler) == epochs[0] != epochs[1]
    seen = []
    for batch in epochs[0]:
        assert len(batch) == 6 and all(isinstance(item, int) for item in batch)
        counts = np.unique(labels[batch], return_counts=True)
        assert counts[1].tolist() == [2, 2, 2]
        seen += counts[0].tolist()
    assert len(set(seen)) == 6
    record_property("batches", len(epochs[0]))
    categories = {label: "ab"[label % 2] for label in range(7)}
    balanced = CategoryBalanceSampler(labels, categories, n_categories=2, n_labels=3, n_instances=2)
    assert len(balanced) == 3 and all(len(batch) == 12 for batch in balanced)
    distinct = DistinctCategoryBalanceSampler(labels, categories, 1, 3, 2, epoch_size=5)
    assert len(list(distinct)) == 5
    for short in (BalanceSampler(labels), CategoryBalanceSampler(labels, categories)):
        assert short.batch_size == 4
    assert DistinctCategoryBalanceSampler(labels, categories).batch_size == 4


def test_samplers_refuse_with_omls_exceptions():
    labels = [0, 0, 1, 1, 2]
    with pytest.raises(AssertionError, match="single image|has a single"):
        BalanceSampler(labels, 2, 2)
    for wrong in ((1, 2), (4, 2), (2, 1), (2.0, 2)):
        with pytest.raises(AssertionError, match="n_labels|n_instances"):
            BalanceSampler(labels[:4] * 2, *wrong)
    labels = [0, 0, 1, 1, 2, 2]
    categories = {0: "a", 1: "a", 2: "b"}
    for kind in (CategoryBalanceSampler, DistinctCategoryBalanceSampler):
        with pytest.raises(ValueError, match="n_categories"):
            kind(labels, categories, 3, 2, 2)
        with pytest.raises(ValueError, match="no category"):
            kind(labels, {0: "a"}, 1, 2, 2)
        with pytest.raises(ValueError, match="1 label that no item has"):
            kind(labels, {**categories, 9: "b"}, 1, 2, 2)
        with pytest.raises(ValueError, match="b has 1"):
            kind(labels, categories, 1, 2, 2)
        with pytest.raises(TypeError, match="n_labels"):
            kind(labels, categories, 1, 2.0, 2)
    assert len(CategoryBalanceSampler(labels, categories, 1, 2, 2, resample_labels=True)) == 2


def test_registries_make_by_name_and_by_section(capsys, record_property):
    loss = get_criterion_by_cfg(
        {
            "name": "triplet_with_miner",
            "args": {
                "margin": None,
                "need_logs": True,
                "miner": {"name": "miner_with_bank", "args": {"miner": {"name": "n_hard_triplets", "args": {}}}},
            },
        }
    )
    assert isinstance(loss.miner, MinerWithBank)
    sampler = get_sampler("balance", labels=[0, 0, 1, 1], label2category=None, n_labels=2, n_instances=2)
    assert isinstance(sampler, BalanceSampler)
    weight = nn.Parameter(torch.zeros(1))
    for name in OPTIMIZERS_REGISTRY:
        optimizer = get_optimizer_by_cfg({"name": name, "args": {"lr": 0.1}}, params=[weight])
    options = {
        "lambda": {"lr_lambda": float},
        "multiplicative": {"lr_lambda": float},
        "step": {"step_size": 1},
        "multi_step": {"milestones": [1]},
        "exponential": {"gamma": 0.5},
        "cosine_annealing": {"T_max": 2},
        "cyclic": {"base_lr": 0.1, "max_lr": 1, "cycle_momentum": False},
        "one_cycle": {"max_lr": 1, "total_steps": 3, "cycle_momentum": False},
        "reduce_on_plateau": {},
    }
    for name in SCHEDULERS_REGISTRY:
        schedule = get_scheduler_by_cfg({"name": name, "args": options[name]}, optimizer=optimizer)
        assert schedule.optimizer is optimizer
    for name in TRANSFORMS_REGISTRY:
        takes_size = name not in ("norm_albu", "norm_torch")
        assert callable(get_transforms(name, **({"im_size": 32} if takes_size else {})))
    with pytest.raises(KeyError, match="unknown miner 'hard_triplet'.* Did you mean 'hard_triplets'"):
        get_miner("hard_triplet")
    LOSSES_REGISTRY["mine"] = Doubled
    try:
        assert isinstance(get_criterion_by_cfg({"name": "mine"}), Doubled)
    finally:
        del LOSSES_REGISTRY["mine"]
    record_property("names made", len([*OPTIMIZERS_REGISTRY, *SCHEDULERS_REGISTRY, *TRANSFORMS_REGISTRY]))
    show_registry()
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*LOSSES_REGISTRY, *MINERS_REGISTRY, *SAMPLERS_REGISTRY))


def test_modules_for_lightning_are_asked_for_when_they_are_named(monkeypatch):
    stand_in = ModuleType("compat.lightning")
    stand_in.ExtractorModule = stand_in.MetricValCallback = Doubled
    monkeypatch.setitem(sys.modules, "compat.lightning", stand_in)
    from compat.oml.lightning import ExtractorModule
    from compat.oml.lightning.callbacks.metric import MetricValCallback

    assert ExtractorModule is MetricValCallback is Doubled
    with pytest.raises(ImportError):
        from compat.oml.lightning.modules.extractor import NoSuchModule  # noqa: F401


OF_TWO = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
import torch.distributed as dist
from test_compat_oml import Doubled, Points
from compat.oml.inference import inference
from compat.oml.metrics import EmbeddingMetrics

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{folder}/store", rank=rank, world_size=2)
points = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
data = Points(points, [0, 1, 2] * 3)
embeddings = inference(Doubled(), data, batch_size=2)
metrics = EmbeddingMetrics(data, verbose=False)
metrics.setup()
# Of nine items the ranks have five each, one of them both.
rows = torch.arange(9)[4 * rank : 4 * rank + 5]
metrics.update(embeddings[rows], rows)
torch.save((embeddings, metrics.compute_metrics()), f"{folder}/{{rank}}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_share_the_items_and_have_all_figures(tmp_path):
    tests = Path(__file__).resolve().parent
    script = tmp_path / "rank.py"
    script.write_text(OF_TWO.format(root=str(tests.parent), tests=str(tests), folder=str(tmp_path)))
    ranks = [subprocess.Popen([sys.executable, script, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    data = Points(points, [0, 1, 2] * 3)
    metrics = EmbeddingMetrics(data, verbose=False)
    metrics.setup()
    metrics.update(2 * points, torch.arange(9))
    expected = metrics.compute_metrics()
    for rank in (0, 1):
        embeddings, figures = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(embeddings, 2 * points) and figures == expected
