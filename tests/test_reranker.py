"""Re-ranking by a network: pair scorers, their training, and the re-ranker `pairwise` beside a loop and its peer."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from processes import run_in_ranks
from runs import as_line, read_json, read_metrics, run, tiny_backbone, train_flags
from test_resume import assert_bit_equal
from tolerances import assert_within, gamma
from torch import nn

from core.errors import InputError
from core.pairs import InputPairs
from engine.mined_pairs import mined
from engine.pair_loss import PairLoss
from miners import PairsMiner
from models import ModelSettings, build_model
from models.pair_scorer import (
    ConcatSiamese,
    LinearSiamese,
    TrivialDistanceSiamese,
    build_pair_scorer,
    fast_scorer,
    open_pair_scorer,
)
from retrieval.query_gallery import QueryGallery
from retrieval.rerank import Pairwise, pairs_of
from retrieval.results import RetrievalResults

EPS = 1000 * torch.finfo(torch.float32).eps
SCORERS = ("concat_siamese", "linear_siamese")


# The re-ranker


def searched(count, k=8, sequences=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 6, generator=generator)
    codes = torch.randint(max(1, count // 4), (count,), generator=generator)
    query_gallery = QueryGallery.of(rows, codes, sequences=sequences)
    return query_gallery, RetrievalResults.from_query_gallery(query_gallery, k)


def table_of_distances(count, scale, seed=1):
    """Distances of all rows with all, none equal to another."""
    return torch.rand(count, count, generator=torch.Generator().manual_seed(seed)) * scale


def naive_pairwise(ids, distances, table, query, top_n):
    """The first items of one query in the order of `table`, new distances ending below the first that stays."""
    order = sorted(ids[:top_n], key=lambda item: table[query, item])
    new = [np.float32(table[query, item]) for item in order]
    rest = distances[top_n:]
    if rest and new and new[-1] > rest[0]:
        ratio = np.float32(rest[0]) / new[-1]
        new = [value * ratio - np.float32(EPS) for value in new]
    return order + ids[top_n:], new + rest


@pytest.mark.parametrize("top_n, scale", list(itertools.product((2, 3, 7, 8, 30), (0.01, 1.0, 50.0))))
def test_first_items_are_put_in_order_as_a_loop_does_it(top_n, scale):
    # Sequences of unequal length, so that some lists are shorter than others.
    sequences = torch.tensor([0] * 9 + list(range(1, 4)) * 2 + [7] * 5)
    query_gallery, results = searched(20, 14, sequences)
    table = table_of_distances(20, scale)
    found = Pairwise(lambda queries, items: table[queries, items], top_n=top_n).process(results, query_gallery)
    for query in range(20):
        ids, distances = results.retrieved_ids[query].tolist(), results.distances[query].tolist()
        expected_ids, expected = naive_pairwise(ids, distances, table, query, top_n)
        assert found.retrieved_ids[query].tolist() == expected_ids
        assert_within(found.distances[query], torch.tensor(expected), gamma(3, torch.float32) * (1 + scale))


@pytest.mark.parametrize("top_n, scale", list(itertools.product((2, 5, 12), (0.1, 1.0, 30.0))))
def test_pairwise_equals_omls(monkeypatch, top_n, scale):
    pairwise = pytest.importorskip("oml.retrieval.postprocessors.pairwise", reason="needs requirements/peers.txt")
    from oml.retrieval.retrieval_results import RetrievalResults as Theirs

    query_gallery, results = searched(30, 10, torch.arange(30) // 3)
    table = table_of_distances(30, scale)

    class Everyone:
        def get_query_ids(self):
            return torch.arange(30)

        get_gallery_ids = get_query_ids

    def distances_of(pair_ids, **_):
        queries, items = torch.tensor(pair_ids).T
        return table[queries, items]

    monkeypatch.setattr(pairwise, "pairwise_inference", distances_of)
    reranker = pairwise.PairwiseReranker(top_n, nn.Identity(), num_workers=0, batch_size=4)
    expected = reranker.process(Theirs(results.distances, results.retrieved_ids, results.gt_ids), Everyone())
    found = Pairwise(lambda queries, items: table[queries, items], top_n=top_n).process(results, query_gallery)
    for ours, theirs in zip(found.retrieved_ids, expected.retrieved_ids, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(found.distances, expected.distances, strict=True):
        assert torch.equal(ours, theirs)


def test_the_example_of_the_documentation():
    """New distances 1, 2, 5 in front of an old 0.5: multiplied by 0.1, less a gap."""
    results = RetrievalResults([[0.1, 0.2, 0.3, 0.5, 0.6]], [[1, 2, 3, 4, 5]])
    query_gallery = QueryGallery.apart(torch.randn(1, 2), torch.randn(6, 2))
    found = Pairwise(lambda queries, items: torch.tensor([1.0, 2.0, 5.0]), top_n=3).process(results, query_gallery)
    assert found.retrieved_ids[0].tolist() == [1, 2, 3, 4, 5]
    assert_within(found.distances[0], torch.tensor([0.1 - EPS, 0.2 - EPS, 0.5 - EPS, 0.5, 0.6]), 1e-6)
    # Where they fit already, they stay.
    found = Pairwise(lambda queries, items: torch.tensor([0.4, 0.2, 0.3]), top_n=3).process(results, query_gallery)
    assert found.retrieved_ids[0].tolist() == [2, 3, 1, 4, 5]
    assert_within(found.distances[0], torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6]), 1e-7)


@pytest.mark.parametrize("limit", [-1e-7, 0.0, 1e6])
def test_distances_rise_whatever_stands_behind_them(limit):
    """Of copies the old distances are 0, or a little below; of squares they may be so large that a gap is nothing."""
    results = RetrievalResults([[limit, limit, limit, limit]], [[1, 2, 3, 4]])
    query_gallery = QueryGallery.apart(torch.randn(1, 2), torch.randn(6, 2))
    for last in (1e-3, 1.0, 3e8):
        new = torch.tensor([last / 3, last / 3, last])
        found = Pairwise(lambda queries, items, new=new: new, top_n=3).process(results, query_gallery)
        assert found.retrieved_ids[0].tolist() == [1, 2, 3, 4]  # and equal ones keep their order


def test_pairs_are_asked_for_once_and_nan_is_named():
    query_gallery, results = searched(9, 4)
    queries, items = pairs_of(results, query_gallery, 3)
    assert queries.tolist() == [query for query in range(9) for _ in range(3)]
    assert items.tolist() == results.padded_ids[:, :3].flatten().tolist()
    with pytest.raises(InputError, match="the pair of rows 0 and .* has the distance nan"):
        Pairwise(lambda queries, items: torch.full(queries.shape, torch.nan)).process(results, query_gallery)
    with pytest.raises(InputError, match="top_n is 1; at least two items"):
        Pairwise(lambda queries, items: items, top_n=1)


# Scorers


class Flat(nn.Module):
    """Eight numbers of an image's pixels."""

    embedding_size = 8

    def __init__(self, height=4):
        super().__init__()
        self.layer = nn.Linear(3 * height * 4, 8)

    def forward(self, images):
        return self.layer(images.flatten(1).float() / 255)


def images_of(count, seed=0):
    return torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def scorers():
    torch.manual_seed(3)
    return {
        "concat": ConcatSiamese(Flat(8), mlp_hidden=(5, 4)),
        "linear": LinearSiamese(Flat(), identity_init=False, output_bias=0.5),
        "trivial": TrivialDistanceSiamese(Flat(), unit_length=False),
    }


@pytest.mark.parametrize("name", ["concat", "linear", "trivial"])
def test_pairs_are_scored_as_two_batches_are(name):
    scorer = scorers()[name].eval()
    images, first, second = images_of(5), torch.tensor([0, 3, 3, 1, 4, 2, 0]), torch.tensor([1, 0, 4, 1, 2, 0, 1])
    pairs = InputPairs(images, first, second)
    expected = scorer(images[first], images[second])
    error = gamma(200, torch.float32) * 10
    assert expected.shape == (7,)
    assert_within(scorer(pairs), expected, error)
    for size in (1, 3, 7, 100):
        parts = pairs.split(size)
        assert sum(map(len, parts)) == 7 and all(len(part.inputs) <= 2 * size for part in parts)
        assert_within(torch.cat([scorer(part) for part in parts]), expected, error)
    other_way = scorer.as_distances(scorer(images[second], images[first]))
    assert_within(scorer.distances(pairs, True), (scorer.as_distances(expected) + other_way) / 2, error)
    assert torch.equal(scorer.distances(pairs), scorer.as_distances(scorer(pairs)))
    assert scorer.is_symmetric == (name != "concat")


def test_scorers_are_omls():
    siamese = pytest.importorskip("oml.models.meta.siamese", reason="parity needs requirements/peers.txt")
    ours = scorers()
    first, second = images_of(6), images_of(6, 1)
    error = gamma(200, torch.float32) * 10

    class Extractor(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.feat_dim = net, 8

        def forward(self, images):
            return self.net(images)

    theirs = siamese.ConcatSiamese(Extractor(ours["concat"].embedder), mlp_hidden_dims=[5, 4], use_tta=True)
    theirs.head.load_state_dict(ours["concat"].head.state_dict())
    pairs = InputPairs(torch.cat([first, second]), torch.arange(6), torch.arange(6, 12))
    assert_within(ours["concat"].eval().distances(pairs, True), theirs.eval().predict(first, second), error)
    theirs = siamese.TrivialDistanceSiamese(Extractor(ours["trivial"].embedder))
    assert_within(ours["trivial"](first, second), theirs(first, second), error)
    theirs = siamese.LinearTrivialDistanceSiamese(8, identity_init=False, output_bias=0.5)
    theirs.proj.load_state_dict(ours["linear"].proj.state_dict())
    embedded = (ours["linear"].embed(first), ours["linear"].embed(second))
    assert_within(ours["linear"](first, second), theirs(*embedded), error)


def test_a_matrix_begins_with_the_distance():
    plain, learned = TrivialDistanceSiamese(Flat()), LinearSiamese(Flat())
    learned.embedder = plain.embedder
    first, second = images_of(6), images_of(6, 1)
    assert_within(learned(first, second), plain(first, second), gamma(60, torch.float32))


def test_the_loss_is_the_logarithm_of_what_was_right():
    scores, targets = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0])
    right = torch.sigmoid(torch.tensor([2.0, 1.0, -0.5]).double())
    loss = PairLoss()
    assert_within(loss(scores, targets), -right.log().mean().float(), gamma(20, torch.float32))
    assert float(loss.logs["pair_accuracy"]) == pytest.approx(2 / 3) and float(loss.logs["pairs"]) == 3


def test_mined_pairs_are_the_hard_ones():
    generator = torch.Generator().manual_seed(0)
    rows = nn.functional.normalize(torch.randn(12, 5, generator=generator))
    codes = torch.arange(12) // 3
    first, second, targets = mined(PairsMiner(), rows, codes)
    distances = torch.cdist(rows.double(), rows.double())
    expected = set()
    for anchor in range(12):
        same = [i for i in range(12) if codes[i] == codes[anchor] and i != anchor]
        others = [i for i in range(12) if codes[i] != codes[anchor]]
        expected.add((*sorted((anchor, max(same, key=lambda i: distances[anchor, i]))), 0))
        expected.add((*sorted((anchor, min(others, key=lambda i: distances[anchor, i]))), 1))
    found = list(zip(first.tolist(), second.tolist(), targets.tolist(), strict=True))
    assert set(found) == expected and len(found) == len(expected)
    assert found == sorted(found)  # so that any part has pairs of both kinds


@pytest.mark.parametrize("name", ["concat_siamese", "linear_siamese"])
def test_a_copy_that_scores_faster_scores_the_same(name):
    """Its BatchNorms are folded; the scorer itself stays as it is, in the middle of a training."""
    torch.manual_seed(1)
    settings = ModelSettings(model="Tiny", image_shape=(3, 32, 32))
    with tiny_backbone():
        scorer = build_pair_scorer(build_model(settings, None), settings, {}, scorer=name).train()
    norm = scorer.embedder.backbone.bn1
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        values.uniform_(0.5, 2)
    before = {key: value.clone() for key, value in scorer.state_dict().items()}
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    pairs = InputPairs(images, torch.tensor([0, 2, 4, 5]), torch.tensor([1, 3, 0, 2]))

    with torch.no_grad():
        fast = fast_scorer(scorer)
        assert scorer.training and not fast.training
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())
        found = fast.distances(pairs)
        assert_within(found, scorer.eval().distances(pairs), gamma(2000, torch.float32) * 10)
    assert all(torch.equal(value, before[key]) for key, value in scorer.state_dict().items())


# Runs


@pytest.fixture
def train(finished_run, sop_tree, tmp_path):
    """Train a re-ranker of the stage 1 run to `steps` in the folder `name`; returns the folder and what was printed."""

    def call(name, steps=3, **flags):
        usual = {"model": None, "image_shape": None, "pretrained_model": finished_run, "lr": 0.05}
        usual |= {"lr_strategy": "constant", "test_iter_step": 1, "save_iter_step": 3, "total_iter_num": steps}
        printed = run("train_reranker", train_flags(sop_tree, tmp_path / name, **{**usual, **flags}))
        return tmp_path / name, printed

    return call


def evaluate(folder, sop_tree, *words, **flags):
    usual = {"data_dir": sop_tree, "num_workers": 0, "use_gpu": False, "output_dir": folder, "cache": False}
    usual |= {"postprocess": "pairwise"}
    run("eval", [*as_line({**usual, **flags}), *words])
    return read_json(folder / "result.json")


def weights(file):
    """Everything in a checkpoint that the next step depends on."""
    state = torch.load(file, weights_only=True)
    return {name: state.get(name) for name in ("model", "averaging", "optimiser", "step", "best", "rng", "numpy_rng")}


def untimed(folder):
    clocked = ("time", "images_per_second")
    return [{name: value for name, value in line.items() if name not in clocked} for line in read_metrics(folder)]


CASES = [
    pytest.param({"scorer": "concat_siamese", "augment": "crop,flip,affine"}, id="concat_siamese"),
    pytest.param({"scorer": "linear_siamese", "optimiser": "adamw", "freeze_steps": 4}, id="linear_siamese, frozen"),
    pytest.param({"sampler": "neighbours", "nearest": 3, "ema": 0.9}, id="neighbours, an average"),
    pytest.param({"num_workers": 2}, id="two workers", marks=pytest.mark.slow),
    pytest.param({"val_classes": 3, "hard_mining": False, "micro_batch": 4}, id="held-out labels, micro-batches"),
]


@pytest.mark.parametrize("flags", CASES)
def test_three_and_three_are_six(train, flags):
    whole, _ = train("whole", 6, **flags)
    parts, _ = train("parts", 3, **flags)
    run("train_reranker", [f"--checkpoint={parts}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    assert_bit_equal(weights(whole / "last.pt"), weights(parts / "last.pt"))
    assert untimed(whole) == untimed(parts)
    result, other = read_json(whole / "result.json"), read_json(parts / "result.json")
    assert result["recall"] == other["recall"] and result["best"] == other["best"]


def test_evaluation_is_the_test_of_the_training(train, finished_run, sop_tree, tmp_path):
    folder, printed = train("concat", top_n=3, test_metrics="map@r,mrr", precision="fp32")
    test = [line for line in read_metrics(folder) if line["group"] == "test"][-1]
    common = {"pretrained_model": finished_run, "pairwise_model": folder}
    result = evaluate(tmp_path / "eval", sop_tree, top_n=3, **common)
    after, before = (result["postprocess"]["metrics"][name] for name in ("pairwise", "top 100"))
    assert after["recall@1"] == test["recall@1"] and after["map@r"] == pytest.approx(test["map@r"], abs=1e-12)
    assert after["mrr"] == pytest.approx(test["mrr"], abs=1e-12)
    assert before["recall@1"] == result["metrics"]["recall@1"] == test["recall_as_found"]
    assert f"{finished_run} finds Recall@1 {100 * before['recall@1']:.2f} %" in printed
    assert result["postprocess"]["options"] == {"pairwise_model": str(folder), "top_n": 3, "symmetric": False}
    # What stands behind the first three is as it was.
    assert after["recall@5"] == before["recall@5"]
    # Batches of another size, and both orders of a pair.
    again = evaluate(tmp_path / "eval", sop_tree, top_n=3, batch_size=1, **common)
    assert again["postprocess"]["metrics"]["pairwise"] == pytest.approx(after, abs=0.1)
    evaluate(tmp_path / "eval", sop_tree, top_n=3, symmetric=True, **common)


def test_the_distance_itself_changes_nothing(train, finished_run, sop_tree, tmp_path):
    """The network's own distance keeps the order of its own results; nothing is trained."""
    folder, printed = train("trivial", scorer="trivial_distance_siamese")
    result = read_json(folder / "result.json")
    assert "no further step" in printed and result["step"] == 0
    found = evaluate(tmp_path / "eval", sop_tree, pretrained_model=finished_run, pairwise_model=folder, top_n=8)
    assert found["postprocess"]["metrics"]["pairwise"] == found["postprocess"]["metrics"]["top 100"]
    assert result["recall"]["1"] == found["metrics"]["recall@1"]


def test_categories_roles_sequences_boxes_and_files_of_embeddings(train, finished_run, sop_tree, sop_copy, tmp_path):
    folder, _ = train("linear", scorer="linear_siamese")
    rows = list(csv.DictReader((sop_copy / "shapes.csv").read_text().splitlines()))
    for number, row in enumerate(rows):
        row |= {"sequence": number // 2, "x_1": 2, "y_1": 2, "x_2": 30, "y_2": 30}
        if row["split"] == "validation":
            row |= {"is_query": number % 3 == 0, "is_gallery": number % 3 != 0}
    with open(sop_copy / "boxes.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    common = {"pairwise_model": folder, "top_n": 4, "top": 10}
    lists = {"data_dir": sop_copy, "test_list": "boxes.csv", "train_list": None, "pretrained_model": finished_run}
    saved = tmp_path / "saved.npz"
    listed = evaluate(tmp_path / "list", sop_copy, **common, **lists, save_embeddings=saved)
    assert set(listed["categories"]) == {"disc", "square", "triangle", "cross"} and listed["queries"] == 10
    # The same rows out of a file, which names the images.
    out_of_file = evaluate(tmp_path / "file", None, **common, embeddings=saved)
    assert out_of_file["postprocess"]["metrics"] == listed["postprocess"]["metrics"]
    # In a chain, and by another distance.
    flags = {"distance": "squared_euclidean", "postprocess": "pairwise,adaptive_threshold"}
    chained = evaluate(tmp_path / "chain", sop_tree, **common, pretrained_model=finished_run, **flags)
    assert list(chained["postprocess"]["metrics"]) == ["top 10", "pairwise", "adaptive_threshold"]

    arrays = dict(np.load(saved))
    del arrays["paths"]
    np.savez(tmp_path / "bare.npz", **arrays)
    with pytest.raises(InputError, match="looks at images, and row 0 of .*bare.npz' names none: no file '0'"):
        evaluate(tmp_path / "file", None, **common, embeddings=tmp_path / "bare.npz")


def test_another_backbone_than_the_runs(train, finished_run):
    """The run whose results are put in order, and the network that does so, may be different ones."""
    flags = {
        "retrieval_model": finished_run,
        "pretrained_model": None,
        "model": "ConvBackbone",
        "image_shape": "3,28,28",
    }
    folder, printed = train("other", 1, scorer="linear_siamese", **flags)
    scorer, settings = open_pair_scorer(str(folder))
    assert settings.model == "ConvBackbone" and settings.image_shape == (3, 28, 28)
    assert scorer.facts["pair_scorer"] == "linear_siamese" and "finds Recall@1" in printed
    # It takes images of one size alone, which no two of them below each other have.
    with pytest.raises(InputError, match="ConvBackbone cannot compare two images by concat_siamese: it takes 28x28"):
        train("stacked", 1, **flags)


def test_a_whole_batch_and_micro_batches_have_one_gradient(train):
    """BatchNorm is left as it is, so that pairs have nothing to do with each other."""
    flags = {"freeze_bn": True, "dropout": 0.0, "augment": "none", "lr": 0.01}
    whole, _ = train("whole", 3, **flags)
    parts, _ = train("parts", 3, micro_batch=2, **flags)
    ours, theirs = (weights(folder / "last.pt")["model"] for folder in (whole, parts))
    for name, value in ours.items():
        assert torch.allclose(value.double(), theirs[name].double(), rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
def test_two_ranks_are_one(train, finished_run, sop_tree, tmp_path):
    flags = {"freeze_bn": True, "dropout": 0.0, "precision": "fp32", "lr": 0.01}
    one, _ = train("one", 3, **flags)
    line = train_flags(
        sop_tree,
        tmp_path / "two",
        **{"model": None, "image_shape": None, "pretrained_model": finished_run, "lr_strategy": "constant"},
        **{"test_iter_step": 1, "save_iter_step": 3, **flags},
    )
    run_in_ranks(2, "train_reranker", *line)
    ours, theirs = (weights(folder / "last.pt")["model"] for folder in (one, tmp_path / "two"))
    for name, value in ours.items():
        assert torch.allclose(value.double(), theirs[name].double(), rtol=1e-4, atol=1e-5), name
    assert read_json(one / "result.json")["recall"] == read_json(tmp_path / "two" / "result.json")["recall"]


def test_several_lists_and_the_figure_that_chooses(train, sop_copy, finished_run, tmp_path):
    """Each list is searched and put in order by itself; what chooses may be of the second one, or of a category."""
    lists = {"data_dir": sop_copy, "test_list": "shapes.csv,Ebay_test.txt", "train_list": "shapes.csv"}
    folder, printed = train("several", **lists, best="Ebay_test.txt/map@r", scorer="linear_siamese")
    test = [line for line in read_metrics(folder) if line["group"] == "test"][-1]
    assert test["Ebay_test.txt/recall@1"] == test["recall@1"] and "Ebay_test.txt/map@r" in test
    assert printed.count("pairs are to be put in order") == 2
    best = read_json(folder / "result.json")["best"]
    assert best["figure"] == "Ebay_test.txt/map@r" and best["chosen_on"] == "the test list Ebay_test.txt"
    folder, _ = train("category", **lists, best="recall@1/disc", scorer="linear_siamese")
    test = [line for line in read_metrics(folder) if line["group"] == "test"][-1]
    assert 0 <= test["recall@1/disc"] <= 1
    assert read_json(folder / "result.json")["best"]["figure"] == "recall@1/disc"


def test_embeddings_of_the_earlier_run_are_kept(train, finished_run, sop_tree, tmp_path):
    """In its own folder, for the next training, and for eval.py; the same to the bit. What is not a run's has none."""
    own = shutil.copytree(finished_run, tmp_path / "own", ignore=shutil.ignore_patterns("eval"))
    common = {"pretrained_model": own, "scorer": "linear_siamese"}
    first, printed = train("first", **common)
    assert "embeddings taken from" not in printed
    assert {file.name for file in (own / "eval").iterdir()} == {"embeddings.npz", "embeddings_train.npz"}
    again, printed = train("again", **common)
    assert printed.count("embeddings taken from") == 2
    without, printed = train("without", **common, cache=False)
    assert "embeddings taken from" not in printed
    for folder in (again, without):
        assert_bit_equal(weights(first / "last.pt"), weights(folder / "last.pt"))
        assert untimed(first) == untimed(folder)
    flags = {"data_dir": sop_tree, "pretrained_model": own, "num_workers": 0, "use_gpu": False}
    assert f"embeddings taken from {own / 'eval' / 'embeddings.npz'}" in run("eval", as_line(flags))
    _, printed = train("of a file", pretrained_model=own / "last.pt")
    assert "embeddings taken from" not in printed


def test_more_items_than_there_are(train, finished_run, sop_tree, tmp_path):
    """All of a small gallery are put in order; what was not found cannot be, and that is said before any work."""
    folder, printed = train("all", 1, scorer="linear_siamese", top_n=1000)
    assert f"{30 * 29} pairs are to be put in order" in printed
    with pytest.raises(
        InputError, match=r"--top_n=200 is to put more .* than the --top=100 .*; --top=200 finds as many"
    ):
        evaluate(tmp_path / "eval", sop_tree, pretrained_model=finished_run, pairwise_model=folder, top_n=200)
    evaluate(tmp_path / "eval", sop_tree, pretrained_model=finished_run, pairwise_model=folder, top_n=200, top=200)


# Bad input


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"pretrained_model": None, "model": "Tiny", "image_shape": "3,32,32"}, r"learns from what a run finds.*None"),
        ({"pretrained_model": "imagenet", "model": "ResNet18"}, r"give the run as --pretrained_model.*'imagenet'"),
        ({"retrieval_model": "nowhere"}, "no file 'nowhere"),
        ({"scorer": "concat_siames"}, r"unknown pair scorer 'concat_siames'.*Did you mean 'concat_siamese'\?"),
        ({"scorer": "linear_siamese", "mlp_hidden": 4}, "unknown flag '--mlp_hidden=4'. It is an option of concat"),
        ({"mlp_hidden": "4,0"}, "'4,0' is not a list of widths from 1 on"),
        ({"dropout": 1}, "--dropout: '1' is not a number of at least 0 and below 1"),
        ({"top_n": 1}, "top_n is 1; at least two items"),
        ({"test_metrics": "knn@3"}, "--test_metrics=knn@3 asks for embeddings"),
        ({"best": "fnmr@fmr=0.1"}, "--best=fnmr@fmr=0.1 asks for embeddings"),
        ({"best": "recal@3"}, "--best=recal@3: unknown metric"),
        ({"best": "loss"}, "--best=loss needs --test_loss=True"),
        ({"test_metrics": "recal@3"}, "unknown metric 'recal@3'"),
        ({"sampler": "shuffled"}, "--sampler=shuffled makes batches that may have no two images of a label"),
        ({"sampler": "neighbours", "nearest": 3, "refresh_steps": 2}, "leave --refresh_steps out"),
        ({"sampler": "neighbours", "nearest": 3, "closeness": "weights"}, "take --closeness=means"),
        ({"loss_name": "arcmargin"}, "'arcmargin' is not one of bce"),
        ({"pretrained_model": "RERANKER"}, "holds a pair scorer of train_reranker.py, which compares two images"),
    ],
)
def test_what_cannot_be_trained_is_said(train, reranker, flags, sentence, tmp_path):
    if flags.get("pretrained_model") == "RERANKER":
        flags = {**flags, "pretrained_model": reranker}
    with pytest.raises(InputError, match=sentence):
        train("bad", **flags)
    assert not (tmp_path / "bad").exists()


@pytest.fixture(scope="module")
def reranker(finished_run, sop_tree, tmp_path_factory):
    """The folder of a re-ranker of one step. Read only."""
    folder = tmp_path_factory.mktemp("reranker") / "linear"
    flags = {"model": None, "image_shape": None, "pretrained_model": finished_run, "total_iter_num": 1}
    run("train_reranker", train_flags(sop_tree, folder, scorer="linear_siamese", **flags))
    return folder


def test_what_cannot_be_evaluated_is_said(reranker, finished_run, sop_tree, tmp_path):
    def refused(sentence, **flags):
        with pytest.raises(InputError, match=sentence):
            evaluate(tmp_path / "eval", sop_tree, **{"pretrained_model": finished_run, **flags})

    refused("--postprocess=pairwise needs --pairwise_model, a run of train_reranker.py")
    refused("pairwise_model 'nowhere': no file 'nowhere'", pairwise_model="nowhere")
    refused("holds no pair scorer; python train_reranker.py", pairwise_model=finished_run)
    refused("top_n is 1; at least two items", pairwise_model=reranker, top_n=1)
    refused("holds a pair scorer of train_reranker.py, which", pretrained_model=reranker, postprocess="none")
    broken = shutil.copytree(reranker, tmp_path / "broken")
    state = torch.load(broken / "last.pt", weights_only=True)
    del state["model"]["proj.weight"]
    torch.save(state, broken / "last.pt")
    refused("is no whole pair scorer: .*proj.weight", pairwise_model=broken)


def test_texts_are_compared_and_not_stacked(tmp_path):
    words = ("red apple", "green apple", "blue sky", "grey sky", "old house", "new house")
    lines = ["label,text,split,is_query,is_gallery"]
    for split, flag in (("train", ""), ("validation", "True")):
        lines += [
            f"{label},{word} {number},{split},{flag},{flag}" for label, word in enumerate(words) for number in range(3)
        ]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n")
    lists = {"train_list": tmp_path / "texts.csv", "test_list": tmp_path / "texts.csv", "data_dir": None}
    common = {"image_shape": None, "model": "HashedNgrams", "loss_name": "supcon", "total_iter_num": 1, **lists}
    run("train_pair", train_flags(None, tmp_path / "base", **common))
    common |= {"loss_name": None, "pretrained_model": tmp_path / "base", "model": None}
    run("train_reranker", train_flags(None, tmp_path / "linear", scorer="linear_siamese", **common))
    result = evaluate(tmp_path / "eval", None, pretrained_model=tmp_path / "base", pairwise_model=tmp_path / "linear")
    assert "pairwise" in result["postprocess"]["metrics"]
    with pytest.raises(InputError, match="concat_siamese stacks images, and HashedNgrams takes texts"):
        run("train_reranker", train_flags(None, tmp_path / "bad", **common))


def test_the_export_says_what_it_is(reranker):
    card = json.loads((reranker / "model.json").read_text())
    assert card["model"]["pair_scorer"] == "linear_siamese"
    assert card["model"]["pair_scorer_options"] == {"identity_init": True, "output_bias": 0.0, "unit_length": True}
    with tiny_backbone():
        scorer, settings = open_pair_scorer(str(reranker / "last.pt"))
    assert settings.model == "Tiny" and not scorer.training
