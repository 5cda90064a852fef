"""retrieval/decision.py and what an index keeps of it: answers, files, old and damaged cards, changes beside it."""

import json

import numpy as np
import pytest

from core.errors import InputError
from retrieval.decision import Decision
from retrieval.index.folder import CARD, locked
from retrieval.index.index import Index

DECISION = Decision(0.5, (0.0, 0.5, 1.0), (0.1, 0.5, 0.9), {"list": "val.txt", "far": 1e-3})


@pytest.fixture
def index(tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    return Index.build(tmp_path / "index", embeddings, [f"/{row}.jpg" for row in range(6)], None, None)


def test_answers_between_and_beyond_the_knots():
    scores = np.array([[-1.0, 0.0, 0.25], [0.5, 0.75, 1.0]], np.float32)
    np.testing.assert_allclose(DECISION.probability(scores), [[0.1, 0.1, 0.3], [0.5, 0.7, 0.9]])
    assert DECISION.is_same(scores).tolist() == [[False, False, False], [True, True, True]]


def test_a_score_that_became_the_threshold_is_the_same():
    score = np.float32(0.1)
    assert Decision(float(score), (0.0,), (0.5,), {}).is_same(np.array([score])).all()
    assert not Decision(float(np.nextafter(score, np.float32(1))), (0.0,), (0.5,), {}).is_same([score]).any()


def test_json_brings_back_the_same():
    assert Decision.from_json(json.loads(json.dumps(DECISION.to_json())), "index.json") == DECISION


@pytest.mark.parametrize(
    "facts, sentence",
    [
        ({"threshold": 60.0}, "the threshold is 60.0, which is no cosine"),
        ({"threshold": float("nan")}, "the threshold is nan"),
        ({"threshold": True}, "the threshold is True"),
        ({"scores": []}, "0 scores, 3 probabilities; one a score"),
        ({"scores": [0.0, 0.0, 1.0]}, "scores do not rise"),
        ({"scores": [0.0, "x", 1.0]}, "scores hold what is no number"),
        ({"probabilities": [0.1, 0.9, 0.5]}, "probabilities fall"),
        ({"probabilities": [0.1, 0.5, 1.5]}, "outside 0 to 1"),
        ({"origin": None}, "decision.origin"),
        ({"scores": 3}, "decision.scores"),
    ],
)
def test_what_cannot_be_is_named(index, facts, sentence):
    content = {**DECISION.to_json(), **facts}
    with pytest.raises(InputError, match=f"'x.json' is damaged.*{sentence}"):
        Decision.from_json(content, "x.json")
    # The same in an index's card, which is looked at when it is opened.
    card = json.loads((index.folder / CARD).read_text())
    (index.folder / CARD).write_text(json.dumps({**card, "decision": content}))
    with pytest.raises(InputError, match=f"index.json' is damaged.*{sentence}"):
        Index.open(index.folder)


def test_an_index_keeps_it_through_changes(index):
    assert index.decision is None
    before = dict(index.card)
    index.decide(DECISION)
    assert index.decision == DECISION and {**index.card, "decision": None} == before
    again = Index.open(index.folder)
    assert again.decision == DECISION
    again.add(np.eye(4, dtype=np.float32), [f"/new{row}.jpg" for row in range(4)], None)
    again.delete("/0.jpg")
    assert len(again.search(np.eye(4, dtype=np.float32)).ids[0]) == 9
    assert Index.open(index.folder).decision == DECISION
    again.decide(None)
    assert Index.open(index.folder).decision is None


def test_an_index_built_in_its_place_has_none(index):
    index.decide(DECISION)
    built = Index.build(index.folder, np.eye(4, dtype=np.float32), list("abcd"), None, None, overwrite=True)
    assert built.decision is None


def test_an_older_card_has_none(index):
    card = json.loads((index.folder / CARD).read_text())
    del card["decision"]
    (index.folder / CARD).write_text(json.dumps(card))
    assert Index.open(index.folder).decision is None


def test_no_two_processes_change_it_at_a_time(index):
    with locked(index.folder), pytest.raises(InputError, match="another process is changing"):
        index.decide(DECISION)


def test_it_is_decided_for_what_others_have_made_of_the_index(index):
    other = Index.open(index.folder)
    other.add(np.eye(4, dtype=np.float32), list("abcd"), None)
    index.decide(DECISION)
    assert len(index) == len(Index.open(index.folder)) == 10


def test_a_full_disk_leaves_the_old_one(index, monkeypatch):
    index.decide(DECISION)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retrieval.index.index.replace_json", full)
    with pytest.raises(InputError, match="No space left"):
        index.decide(None)
    assert index.decision == Index.open(index.folder).decision == DECISION
