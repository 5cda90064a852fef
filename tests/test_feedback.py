"""train_pair.py --feedback: pairs of a feedback.csv beside the train list, and files that cannot be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import run, train_flags

from core.errors import InputError
from embeddings.feedback import open_feedback
from serving.feedback import Feedback as Written
from solvers import Clicks, Whitening

pytestmark = pytest.mark.usefixtures("tiny")
HEAD = "query,item,same,time"


@pytest.fixture
def clicked(sop_tree, tmp_path):
    """A feedback.csv as a server writes it: of each of 5 test labels a right and a wrong pair."""
    written = Written(tmp_path)
    for label in range(11, 16):
        [first], [second], [other] = (
            list(sop_tree.glob(f"*/{name}.jpg")) for name in (f"{label}_0", f"{label}_1", f"{label + 1}_0")
        )
        written.append([(str(first), str(second))], True)
        written.append([(str(first), str(other))], False)
    return tmp_path / "feedback.csv"


def test_pairs_of_a_file(clicked, sop_tree, tmp_path):
    feedback = open_feedback("whitening", feedback=str(clicked))
    assert len(feedback) == 10 and feedback.same.sum() == 5 and len(feedback.records) == 11
    paths = feedback.records.paths
    for first, second, same in zip(feedback.first, feedback.second, feedback.same, strict=True):
        assert (Path(paths[first]).stem[:2] == Path(paths[second]).stem[:2]) == same
    assert open_feedback("triplet") is None


def test_the_last_word_counts_and_texts_are_left_out(sop_tree, tmp_path):
    one, two = sorted(map(str, sop_tree.glob("*/11_*.jpg")))[:2]
    boxed = f"{one}#0,0,20,20"
    file = tmp_path / "f.csv"
    lines = [
        f"{one},{two},0,a",
        f"{two},{one},1,b",
        f"text:a disc,{one},1,c",
        f"{one},{one},1,d",
        f'"{boxed}",{two},0,e',
    ]
    file.write_text("\n".join([HEAD, *lines]))
    feedback = open_feedback("whitening", feedback=str(file))
    assert sorted(feedback.same.tolist()) == [False, True] and len(feedback.records) == 3
    assert np.nansum(feedback.records.boxes) == 40
    # What was uploaded lies beside the file, and may be named from there.
    (tmp_path / "feedback").mkdir()
    (tmp_path / "feedback" / "query.jpg").write_bytes(Path(one).read_bytes())
    file.write_text(f"{HEAD}\nfeedback/query.jpg,{two},1,a\n")
    paths = open_feedback("whitening", feedback=str(file)).records.paths.tolist()
    assert sorted(paths) == sorted([two, str(tmp_path / "feedback" / "query.jpg")])


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "cannot read feedback"),
        ("", "has no column query, item, same; it has none"),
        ("a,b\n1,2\n", "has no column query, item, same; it has a, b"),
        (f"{HEAD}\n", "has no pair of images to learn from"),
        (f"{HEAD}\ntext:a,text:b,1,t\n", "has no pair of images to learn from"),
        (f"{HEAD}\na.jpg,b.jpg,yes,t\n", "f.csv:2: same is 'yes'; it has to be 1 or 0"),
        (f"{HEAD}\na.jpg\n", "f.csv:2: same is ''; it has to be 1 or 0"),
        (f"{HEAD}\n/other/a.jpg,/other/b.jpg,1,t\n", "names 2 images that are not there: '/other/"),
    ],
    ids=str,
)
def test_files_that_cannot_be(tmp_path, content, said):
    file = tmp_path / "f.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError) as caught:
        open_feedback("whitening", feedback=str(file))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_losses_that_take_labels_refuse_it(clicked):
    for name in ("triplet", "pca"):
        with pytest.raises(InputError, match=f"--feedback goes with --loss_name=whitening, .* {name} takes labels"):
            open_feedback(name, feedback=str(clicked))


def test_a_run_learns_from_it(finished_run, sop_tree, clicked, tmp_path):
    flags = {"loss_name": "whitening", "pretrained_model": finished_run, "total_iter_num": None}
    printed = run("train_pair", train_flags(sop_tree, tmp_path / "with", feedback=clicked, **flags))
    assert "beside the train list 5 pairs that are the same and 5 that are not" in printed
    assert "11 of 11 images of the feedback are tested on, too, which flatters the test" in printed
    run("train_pair", train_flags(sop_tree, tmp_path / "without", **flags))
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("with", "without"))
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert differing and all("behind" in name or "head" in name for name in differing)


def spread(seed=0, count=60, width=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator), torch.arange(count) // 3


def test_what_clicks_do_to_a_whitening():
    """A direction in which right pairs differ counts less, one in which wrong ones do more; alone the train list's."""
    features, codes = spread()
    axis = torch.eye(6)[0]
    plain = Whitening(0.1).solve(features, codes)
    none = Whitening(0.1).solve(features, codes, Clicks(torch.zeros(0, 6), torch.zeros(0, 6)))
    assert torch.equal(plain.weight, none.weight)
    lengths = {}
    for name, clicks in {
        "plain": None,
        "right": Clicks(axis.repeat(9, 1), torch.zeros(0, 6)),
        "wrong": Clicks(torch.zeros(0, 6), axis.repeat(9, 1)),
        "same picture": Clicks(torch.zeros(3, 6), torch.zeros(3, 6)),
    }.items():
        weight = Whitening(0.1, right_weight=1.0, wrong_weight=1.0).solve(features, codes, clicks).weight
        # Against the mean of all directions, since a whitening has a scale of its own.
        lengths[name] = (weight @ axis.double()).norm() / weight.norm()
    assert lengths["right"] < lengths["plain"] < lengths["wrong"]
    torch.testing.assert_close(lengths["same picture"], lengths["plain"])


def test_right_pairs_against_the_formula():
    features, codes = spread(1)
    right = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    found = Whitening(0.1, 0.2, right_weight=0.5).solve(features, codes, Clicks(right, right[:0])).weight
    means = torch.stack([features[codes == code].double().mean(0) for code in range(20)])
    deviations = features.double() - means[codes]
    centred = features.double() - features.double().mean(0)
    covariance = 0.8 * deviations.T @ deviations / 60 + 0.2 * centred.T @ centred / 60
    noise = covariance + 0.1 * covariance.diagonal().mean() * torch.eye(6)
    scatter = right.double().T @ right.double()
    noise = noise + 0.5 * 6 * scatter / torch.linalg.solve(noise, scatter).trace()
    values, vectors = torch.linalg.eigh(noise)
    expected = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    torch.testing.assert_close(found / found.norm(), expected / expected.norm())
