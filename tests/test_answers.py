"""find and decide: answers by label, diverse ones, of several photos, and what is said to be unknown."""

import json

import numpy as np
import pytest
from runs import read_json, run

from core.errors import InputError
from data.records import Records
from embeddings.answers import find_answers, query_rows
from embeddings.decide import check_list, decide_index, index_odds
from embeddings.table import EmbeddingTable
from report.hits import Answers, print_tables, unknown_notes, write_json
from retrieval.answers import diverse_order, first_of_each, greatest_scores
from retrieval.decision import Decision
from retrieval.index.index import Index
from retrieval.metrics.verification import verify_all_pairs
from retrieval.query_gallery import QueryGallery

ITEMS, QUERIES, LABELS, WIDTH = 90, 8, 12, 6
CPU = ["--use_gpu=False", "--num_workers=0", "--batch_size=8"]


def clouds(count, seed, labels=LABELS, noise=0.6):
    """(embeddings, labels as str) around centres that all seeds share."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, labels, count)
    centres = np.random.default_rng(99).standard_normal((labels, WIDTH))
    return (centres[codes] + noise * rng.standard_normal((count, WIDTH))).astype(np.float32), codes.astype(str)


def table_of(embeddings, labels, name="queries"):
    import torch

    paths = np.array([f"/{name}/{row}.jpg" for row in range(len(embeddings))])
    records = Records("list.csv", paths, labels, *np.ones((2, len(paths)), bool))
    return EmbeddingTable(records, torch.from_numpy(embeddings), {"model": "m"})


@pytest.fixture
def index(tmp_path):
    """Every ninth item has no label."""
    embeddings, labels = clouds(ITEMS, 0)
    labels = [None if row % 9 == 8 else label for row, label in enumerate(labels.tolist())]
    paths = [f"/items/{row}.jpg" for row in range(ITEMS)]
    return Index.build(tmp_path / "index", embeddings, paths, labels, {"model": "m"})


@pytest.fixture
def table():
    return table_of(*clouds(QUERIES, 1))


def units(embeddings):
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def all_scores(index, queries):
    """(Q, N) by a product in float64."""
    return units(queries) @ units(index.rows.take(index.rows.ids)[0]).T


def test_each_image_asks_as_before(index, table):
    hits = find_answers(index, table.as_queries()).hits
    expected = index.search(table.head(QUERIES), 10)
    assert hits.ids.tolist() == expected.ids.tolist() and hits.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("template", ["none", "max"])
@pytest.mark.parametrize("k", [3, 10, 200])
def test_the_best_item_of_each_label(index, table, k, template):
    hits = find_answers(index, table.as_queries(), k=k, group="label", template=template).hits
    scores, labels = all_scores(index, table.head(QUERIES).numpy()), index.rows.labels()
    for query in range(QUERIES):
        best, seen = [], set()
        for item in np.argsort(-scores[query], kind="stable").tolist():
            group = labels[item] if labels[item] is not None else item
            if group not in seen:
                seen.add(group)
                best.append(item)
        assert hits.ids[query].tolist() == best[:k]
    assert hits.ids.shape[1] == min(k, LABELS + 10)


def test_labels_by_the_mean_of_their_items(index, table):
    hits = find_answers(index, table.as_queries(), k=5, group="label", template="mean").hits
    scores, labels = all_scores(index, table.head(QUERIES).numpy()), index.rows.labels()
    items = units(index.rows.take(index.rows.ids)[0])
    groups = {}
    for item, label in enumerate(labels.tolist()):
        groups.setdefault(item if label is None else f"label {label}", []).append(item)
    members = list(groups.values())
    means = units([items[rows].mean(0) for rows in members])
    of_labels = units(table.head(QUERIES).numpy()) @ means.T
    for query in range(QUERIES):
        order = np.argsort(-of_labels[query])[:5]
        np.testing.assert_allclose(hits.scores[query], of_labels[query, order], rtol=0, atol=1e-6)
        best = [members[place][int(scores[query, members[place]].argmax())] for place in order]
        assert hits.ids[query].tolist() == best


def test_answers_among_some_labels(index, table):
    for template in ("none", "mean"):
        hits = find_answers(index, table.as_queries(), labels=("1", "2"), group="label", template=template).hits
        assert {tuple(sorted(row)) for row in hits.labels.tolist()} == {("1", "2")}


def plain_mmr(scores, items, k, diversity):
    chosen = []
    while len(chosen) < k:
        gains = []
        for item in range(len(scores)):
            likeness = max([items[item] @ items[other] for other in chosen], default=0.0)
            gain = (1 - diversity) * scores[item] - diversity * likeness
            gains.append(-np.inf if item in chosen else gain)
        chosen.append(int(np.argmax(gains)))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_diverse_orders_are_those_of_the_formula(diversity):
    items = units(np.random.default_rng(0).standard_normal((30, 4)))
    scores = np.sort(items @ items[7])[::-1]
    assert diverse_order(scores, items, 12, diversity).tolist() == plain_mmr(scores, items, 12, diversity)
    assert len(diverse_order(scores, items, 99, diversity)) == 30


def test_diverse_answers_are_less_alike(index, table):
    plain, diverse = (find_answers(index, table.as_queries(), k=6, diversity=share).hits for share in (0.0, 0.5))
    assert plain.ids[:, 0].tolist() == diverse.ids[:, 0].tolist()

    def likeness(ids):
        items = index.rows.normalized(ids)
        return (items @ items.T)[np.triu_indices(6, 1)].mean()

    assert np.mean([likeness(row) for row in diverse.ids]) < np.mean([likeness(row) for row in plain.ids])
    scores = all_scores(index, table.head(QUERIES).numpy())
    for query, row in enumerate(diverse.ids.tolist()):
        np.testing.assert_allclose(diverse.scores[query], scores[query, row], atol=1e-6)


@pytest.mark.parametrize("query_by", ["label", "all"])
def test_several_photos_ask_together(index, query_by):
    table = table_of(*clouds(20, 3, labels=4))
    rows = query_rows(table.records, query_by)
    assert sorted(np.concatenate(rows).tolist()) == list(range(20)) and len(rows) == (1 if query_by == "all" else 4)
    scores, queries = all_scores(index, table.head(20).numpy()), units(table.head(20).numpy())
    items = units(index.rows.take(index.rows.ids)[0])
    mean = find_answers(index, table.as_queries(), query_by=query_by).hits
    greatest = find_answers(index, table.as_queries(), query_by=query_by, fuse="max").hits
    for query, together in enumerate(rows):
        expected = items @ units(queries[together].mean(0, keepdims=True))[0]
        assert mean.ids[query].tolist() == np.argsort(-expected)[:10].tolist()
        expected = scores[together].max(0)
        assert greatest.ids[query].tolist() == np.argsort(-expected)[:10].tolist()
        np.testing.assert_allclose(greatest.scores[query], np.sort(expected)[::-1][:10], atol=1e-6)
    for template in ("none", "mean"):
        grouped = find_answers(
            index, table.as_queries(), query_by=query_by, fuse="max", group="label", template=template
        )
        known = [label for label in grouped.hits.labels[0].tolist() if label is not None]
        assert len(set(known)) == len(known) > 3


def test_the_pieces_by_hand():
    assert [row.tolist() for row in first_of_each(np.array([[5, 5, 3, 5, 1], [1, 2, 3, 4, 5]]), 2)] == [[0, 2], [0, 1]]
    ids, scores = greatest_scores(np.array([[4, 1], [1, 2]]), np.array([[0.9, 0.5], [0.8, 0.9]]), 2)
    assert ids.tolist() == [2, 4] and scores.tolist() == [0.9, 0.9]


def test_answers_that_cannot_be(index, table):
    with pytest.raises(InputError, match="--template=mean goes with --group=label"):
        find_answers(index, table.as_queries(), template="mean")
    unlabelled = Records("photos", np.array(["a.jpg"]), None, *np.ones((2, 1), bool))
    with pytest.raises(InputError, match="--query_by=label needs labels, which photos does not have"):
        query_rows(unlabelled, "label")


# Decisions.


def test_a_decision_is_that_of_its_list(index):
    pytest.importorskip("sklearn")
    table = table_of(*clouds(60, 5), name="held")
    decision = decide_index(index, table, far=0.01, resamples=30)
    assert Index.open(index.folder).decision == decision
    codes = table.records.vocabulary.codes
    figures = verify_all_pairs(QueryGallery.of(table.head(60), codes), (0.01,), (), 0)
    assert decision.threshold == figures.points[0].threshold
    assert decision.origin["far"]["value"] == figures.points[0].far <= 0.01
    assert decision.origin["tar"]["value"] == figures.points[0].tar.value
    low, high = decision.origin["far"]["interval"]
    assert low <= decision.origin["far"]["value"] <= high
    assert decision.origin["wished"] == {"far": 0.01} and decision.origin["labels"] == LABELS


def test_the_default_far_is_a_thousandth(index):
    pytest.importorskip("sklearn")
    assert decide_index(index, table_of(*clouds(100, 5))).origin["wished"] == {"far": 1e-3}


def test_strangers_choose_the_threshold(index):
    pytest.importorskip("sklearn")
    embeddings, labels = clouds(60, 5)
    labels = np.array([f"new {label}" if int(label) > 5 else label for label in labels])
    decision = decide_index(index, table_of(embeddings, labels), fpir=0.1, resamples=0)
    is_new = np.char.startswith(labels, "new")
    best = index.search(embeddings[is_new], 1).scores[:, 0]
    assert (best >= decision.threshold).sum() == int(0.1 * is_new.sum()) and decision.origin["wished"] == {"fpir": 0.1}


def test_p_same_is_of_as_many_items_as_the_index_has(index):
    """Twice the items of other labels halve the odds."""
    pytest.importorskip("sklearn")
    table = table_of(*clouds(60, 5))
    figures = verify_all_pairs(QueryGallery.of(table.head(60), table.records.vocabulary.codes), (), (), 0)
    counts = np.unique([label for label in index.rows.labels().tolist() if label is not None], return_counts=True)[1]
    mates = (counts**2).sum() / counts.sum()
    assert index_odds(index, figures, 60) == pytest.approx(mates / (ITEMS - mates))
    before = decide_index(index, table, far=0.01, resamples=0).probability([0.6])[0]
    strangers = np.random.default_rng(8).standard_normal((9 * ITEMS, WIDTH))
    index.add(strangers.astype(np.float32), [f"/x/{row}" for row in range(9 * ITEMS)], None)
    after = decide_index(index, table, far=0.01, resamples=0).probability([0.6])[0]
    ratio = (mates / (ITEMS - mates)) / (mates / (10 * ITEMS - mates))
    assert before / (1 - before) == pytest.approx(ratio * after / (1 - after), rel=1e-6)


def test_decisions_that_cannot_be(index, table, tmp_path):
    pytest.importorskip("sklearn")
    held = table_of(*clouds(60, 5))
    for refused, sentence in [
        ({"far": 1e-9}, "a FAR of 1e-09 of .* negative pairs is less than one pair"),
        ({"far": 1.5}, "a FAR of 1.5 is none"),
        ({"far": 0.1, "fpir": 0.1}, "--far and --fpir each choose the threshold"),
        ({"fpir": 0.1}, "all labels of list.csv are in index"),
    ]:
        with pytest.raises(InputError, match=sentence):
            decide_index(index, held, **refused)
    for labels, sentence in [
        (None, "has no labels, so nothing is the same or not"),
        (np.array(["a"] * 60), "has one label only"),
        (np.arange(60), "has no label with two images"),
    ]:
        with pytest.raises(InputError, match=sentence):
            check_list(table_of(clouds(60, 5)[0], labels).records)
    other = EmbeddingTable(held.records, held.matrix, {"model": "other"})
    with pytest.raises(InputError, match="made by another model"):
        decide_index(index, other)
    bare = Index.build(tmp_path / "bare", *clouds(9, 0)[:1], [f"/{row}" for row in range(9)], None, {"model": "m"})
    with pytest.raises(InputError, match="has no labels, so nobody knows what it does not have"):
        decide_index(bare, held, fpir=0.1)
    assert index.decision is None and bare.decision is None


DECISION = Decision(0.7, (0.0, 1.0), (0.0, 1.0), {})


def test_what_is_unknown_is_said(index, table, tmp_path, capsys):
    found = find_answers(index, table.as_queries(), k=3)
    answers = Answers.of(table.records, found, {}, DECISION)
    is_same = found.hits.scores >= 0.7
    assert 0 < is_same.any(1).sum() < QUERIES or is_same.any()
    print_tables(answers)
    printed = capsys.readouterr().out
    assert printed.count("P(same)") == QUERIES and printed.count("unknown (") == (~is_same).sum()
    unknown = (~is_same.any(1)).sum()
    assert printed.count(": unknown\n") == unknown
    assert f"{unknown} of {QUERIES} queries" in unknown_notes(answers)[0]
    write_json(answers, tmp_path / "hits.json")
    for query, object_ in enumerate(json.loads((tmp_path / "hits.json").read_text())):
        assert object_["unknown"] == (not is_same[query].any()) and "together" not in object_
        assert [hit["is_same"] for hit in object_["hits"]] == is_same[query].tolist()
        assert [hit["same"] for hit in object_["hits"]] == pytest.approx(found.hits.scores[query].tolist())


def test_an_index_that_nobody_decided_for_answers_as_before(index, table, tmp_path, capsys):
    answers = Answers.of(table.records, find_answers(index, table.as_queries(), k=2), {}, None)
    print_tables(answers)
    printed = capsys.readouterr().out
    assert "P(same)" not in printed and "unknown" not in printed and unknown_notes(answers) == []
    write_json(answers, tmp_path / "hits.json")
    first = json.loads((tmp_path / "hits.json").read_text())[0]
    assert first.keys() == {"query", "label", "box", "hits"}
    assert first["hits"][0].keys() == {"rank", "id", "score", "label", "path", "box"}


def test_where_the_tables_that_are_not_shown_stand(index, table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("report.hits.TABLES", QUERIES - 1)
    answers = Answers.of(table.records, find_answers(index, table.as_queries(), k=2), {}, None)
    print_tables(answers, [tmp_path / "hits.png"])
    assert "tables of 1 more query are left out; --output=hits.json takes them all" in capsys.readouterr().out
    print_tables(answers, [tmp_path / "hits.png", tmp_path / "answers.json"])
    assert f"are left out; {tmp_path / 'answers.json'} has them all" in capsys.readouterr().out


def test_photos_that_ask_together_are_named(index, tmp_path, capsys):
    table = table_of(*clouds(20, 3, labels=4))
    answers = Answers.of(table.records, find_answers(index, table.as_queries(), query_by="label"), {}, None)
    print_tables(answers)
    rows = query_rows(table.records, "label")
    assert f"/queries/0.jpg and {len(rows[0]) - 1} more\n" in capsys.readouterr().out
    write_json(answers, tmp_path / "hits.json")
    objects = json.loads((tmp_path / "hits.json").read_text())
    assert [len(one["together"]) for one in objects] == [len(one) for one in rows]


def test_the_commands(tiny, sop_tree, finished_run, tmp_path):
    """build, decide and find as users run them."""
    pytest.importorskip("sklearn")
    folder, lists = tmp_path / "index", [f"--data_dir={sop_tree}"]
    run("search", ["build", folder, f"--pretrained_model={finished_run}", *lists, *CPU])
    flags = [*lists, *CPU, "--input", sop_tree / "Ebay_train.txt"]
    printed = run("search", ["decide", folder, "--far=0.1", "--resamples=20", *flags])
    decision = Index.open(folder).decision
    assert f"from cosine {decision.threshold:.4f} on, images are called the same" in printed
    assert "Ebay_train.txt, 10 labels: FAR" in printed and "is called the same as" in printed
    output = ["--output", tmp_path / "hits.json", tmp_path / "hits.png"]
    found = ["find", folder, "--k=3", *flags, *output]
    printed = run("search", [*found, "--group=label", "--query_by=label", "--diversity=0.2"])
    assert "P(same)" in printed and "and 2 more" in printed and "queries" in printed
    objects = read_json(tmp_path / "hits.json")
    assert len(objects) == 10 and len(objects[0]["together"]) == 3 and "unknown" in objects[0]
    assert (tmp_path / "hits.png").stat().st_size > 1000
    with pytest.raises(InputError, match="decide needs --input"):
        run("search", ["decide", folder, *lists, *CPU])
    pictures = sorted(sop_tree.glob("*_final/*.jpg"))[:2]
    with pytest.raises(InputError, match="has no labels, so nothing is the same or not"):
        run("search", ["decide", folder, *lists, *CPU, "--input", *pictures])
    with pytest.raises(InputError, match="--query_by=label needs labels"):
        run("search", ["find", folder, *lists, *CPU, "--query_by=label", "--input", *pictures])
    with pytest.raises(InputError, match="FAR of 1e-05"):
        run("search", ["decide", folder, "--far=1e-5", *flags])
