"""The protocol linter: a result as papers have it is comparable, and every way to differ is told, each by itself."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import torch
from reports import data_of, records_of
from runs import read_json, run, train_flags

from care import protocol
from care.protocol import BENCHMARKS, Benchmark, Geometry, Linter, Search, Stage, open_linter
from data.convert import Counts

TINY = Benchmark("Tiny", "nobody", Counts((30, 10), (30, 10)), (1, 5))
APART = Benchmark("Apart", "nobody", Counts((30, 10), (30, 10), queries=12, gallery=18), (1,))
GEOMETRY = Geometry((224, 224), 256)
SEARCH = Search(("recall@1", "recall@5"))
LISTS = {
    "train": {"file": "a.txt", "sha256": "a", "images": 30, "labels": 10},
    "test": {"file": "b.txt", "sha256": "b"},
}
FACTS = {"sha256": "b"}


@pytest.fixture(autouse=True)
def benchmarks():
    with mock.patch.dict(BENCHMARKS, tiny=TINY, apart=APART):
        yield


def listed(first=100, count=30, each=3, **columns):
    records = records_of("b.txt", [f"{row}.jpg" for row in range(count)], first + np.arange(count) // each)
    return dataclasses.replace(records, **columns)


def stage(tmp_path, file="last.pt", lists=LISTS, result=None, **flags):
    return Stage(tmp_path / "run", file, {"loss_name": "softmax", "val_classes": 0, **flags}, lists, result or {})


def judged(
    stages, name="tiny", records=None, geometry=GEOMETRY, search=SEARCH, train=None, embeddings=None, source="run"
):
    records = listed() if records is None else records
    train = listed(0) if train is None else train
    return Linter(name, source, tuple(stages), train).judge(records, embeddings, geometry, search, FACTS)


def test_what_papers_do_is_comparable(tmp_path):
    found = judged([stage(tmp_path, val_classes=2, lists={**LISTS, "test": {"sha256": "c"}})])
    assert found.reasons == () and found.cautions == ()
    assert found.lines() == ["protocol tiny (Tiny): comparable"]
    result = json.loads(json.dumps(found.as_result()))
    assert result["comparable"] is True and result["self_match"] == "by row"
    assert result["found"]["test"] == {"images": 30, "labels": 10, "queries": 30, "gallery": 30, "sha256": "b"}
    assert result["found"]["train"] == {"images": 30, "labels": 10, "sha256": "a"}
    assert result["expected"]["test"] == {"images": 30, "labels": 10}


BOXES = np.tile([0.0, 0, 5, 5], (30, 1))
HALF = np.arange(30) < 15


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"records": listed(count=29)}, "the test list has 29 images of 10 labels, the protocol 30 of 10"),
        ({"records": listed(each=2)}, "the test list has 30 images of 15 labels"),
        ({"records": listed(is_query=HALF)}, "15 of 30 images ask and 30 can be found, in the protocol all of them"),
        ({"name": "apart"}, "30 images ask and 30 can be found, in the protocol 12 and 18"),
        ({"geometry": Geometry((256, 256), 0)}, "pictures are 256 x 256, in the protocol 224 x 224"),
        ({"geometry": Geometry((224, 224), 320)}, "the short side is 320 before the crop, in the protocol 224 or 256"),
        ({"geometry": Geometry((224, 224), 256, (1.0, 0.7))}, r"pictures are embedded at several scales \(1, 0.7\)"),
        ({"geometry": None}, "the embeddings come from a file"),
        ({"search": dataclasses.replace(SEARCH, postprocess=("k_reciprocal",))}, "k_reciprocal ranks .* anew"),
        ({"search": dataclasses.replace(SEARCH, postprocess=("query_expansion",))}, "query_expansion ranks"),
        ({"search": dataclasses.replace(SEARCH, lone_skipped=4)}, "4 queries without a right answer were left out"),
        ({"search": dataclasses.replace(SEARCH, definition="pml")}, "figures are by the definitions of pml"),
        ({"train": listed(108)}, "2 of 10 test labels were trained with"),
    ],
)
def test_each_difference_is_a_reason(tmp_path, changes, reason):
    found = judged([stage(tmp_path, val_classes=2)], **changes)
    assert len(found.reasons) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.line)
    assert found.line.startswith("protocol") and ": not comparable, because " in found.line


def test_boxes_count_where_the_protocol_has_none(tmp_path):
    stages = [stage(tmp_path, val_classes=2)]
    assert judged(stages, records=listed(boxes=BOXES)).reasons == ()
    with mock.patch.dict(BENCHMARKS, tiny=dataclasses.replace(TINY, refuses_boxes=True)):
        assert "cut to their boxes" in judged(stages, records=listed(boxes=BOXES)).line
        assert judged(stages, records=listed(boxes=BOXES * np.nan)).reasons == ()


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"file": "best.pt", "result": {"best": {"step": 40}}}, "step 40 was chosen by its figures on the test half"),
        ({"file": "best.pt"}, "the step was chosen by its figures on the test half"),
        ({"file": "step_20.pt"}, "step_20.pt of .* is one of several that were tested on the test half"),
        (
            {"loss_name": "whitening", "lists": {"train": {"sha256": "b"}, "test": {"sha256": "c"}}},
            "whitening was fitted on",
        ),
        ({"lists": {"train": {"sha256": "b"}, "test": {"sha256": "c"}}}, "it was trained on the test list"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_the_test_half_is_not_to_train_with(tmp_path, changes, reason, earlier):
    """Of any of the runs that a network comes from."""
    clean = stage(tmp_path, val_classes=2)
    stages = [stage(tmp_path, **changes)]
    found = judged([clean, *stages] if earlier else stages)
    assert len(found.reasons) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.line)


def test_what_should_be_said_beside_it(tmp_path):
    few = {**LISTS, "train": {"sha256": "a", "images": 20, "labels": 8}}
    search = Search(("recall@1",), (), 0, "squared_euclidean", has_threshold=True, precision="bf16")
    embeddings = torch.eye(30)
    embeddings[1] = embeddings[0]
    found = judged([stage(tmp_path, lists=few)], search=search, embeddings=embeddings)
    assert found.reasons == ()
    words = ("threshold was chosen on the test half", "papers give recall@5", "squared_euclidean", "bf16")
    words += (
        "2 of 30 images have the very embedding",
        "was tested on the test half while it trained",
        "20 images of 8",
    )
    assert len(found.cautions) == len(words)
    assert all(any(word in caution for caution in found.cautions) for word in words)
    unread = Linter("tiny", "run", (stage(tmp_path, val_classes=2),), None).judge(
        listed(), None, GEOMETRY, SEARCH, FACTS
    )
    assert unread.cautions == ("the train list cannot be read any more: whether it shares labels is not known",)


def test_one_csv_of_both_splits_is_no_training_on_the_test_half(tmp_path):
    both = {split: {"file": "x.csv", "sha256": "b", "images": count} for split, count in (("train", 30), ("test", 31))}
    assert "trained on the test list" not in judged([stage(tmp_path, lists=both)]).line


def test_unknown_networks():
    assert judged([], source=None).reasons == ("nothing is known of the network",)
    assert judged([], source="weights.pt").reasons == ("weights.pt does not tell how it was trained",)
    assert judged([], source="imagenet").reasons == ()


def test_counts_of_benchmarks_agree_with_what_is_known_of_the_whole_sets():
    totals = {name: benchmark.split.train[0] + benchmark.split.test[0] for name, benchmark in BENCHMARKS.items()}
    labels = {name: benchmark.split.train[1] + benchmark.split.test[1] for name, benchmark in BENCHMARKS.items()}
    assert (totals["sop"], labels["sop"]) == (120_053, 22_634)
    assert (totals["cub"], labels["cub"]) == (11_788, 200)
    assert (totals["cars"], labels["cars"]) == (16_185, 196)
    assert (totals["inshop"], labels["inshop"]) == (52_712, 7_982)
    assert (totals["inat"], labels["inat"]) == (437_513 + 24_426, 8_142)
    inshop = BENCHMARKS["inshop"].split
    assert inshop.queries + inshop.gallery == inshop.test[0]


def test_a_run_is_judged_by_eval(finished_run, sop_tree, tmp_path):
    """A run on a list of other counts, its best step by the test list: told in the report and in result.json."""
    flags = ["--num_workers=0", "--use_gpu=False", f"--output_dir={tmp_path}", "--batch_size=10"]
    report = tmp_path / "report.html"
    printed = run(
        "eval", [f"--pretrained_model={finished_run / 'best.pt'}", "--protocol=sop", f"--report={report}", *flags]
    )
    line = next(line for line in printed.splitlines() if line.startswith("protocol sop"))
    assert line.startswith(
        "protocol sop (Stanford Online Products): not comparable, because the test list has 30 images"
    )
    assert "pictures are 32 x 32" in line and "was chosen by its figures on the test half" in line
    assert "trained with" not in line
    result = read_json(tmp_path / "result.json")["protocol"]
    assert result["verdict"] == line and not result["comparable"] and len(result["reasons"]) == 3
    assert data_of(report)["notices"][0] == line
    again = run("eval", [f"--pretrained_model={finished_run}", *flags])
    assert "protocol" not in again and "protocol" not in read_json(tmp_path / "result.json")


def test_the_chain_of_runs_is_followed(finished_run, sop_tree, tmp_path):
    run("train_pair", train_flags(sop_tree, tmp_path / "pair", pretrained_model=finished_run, samples_each_class=2))
    linter = open_linter(str(tmp_path / "pair"), protocol="sop")
    assert [stage.folder for stage in linter.stages] == [tmp_path / "pair", finished_run]
    assert len(linter.train) == 30
    assert open_linter(str(tmp_path / "pair")) is None
    assert protocol.open_linter("imagenet", protocol="cub").stages == ()
