"""Layers in a closed form: their formulas in other words, what they refuse, and the runs that hold them."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import run_in_ranks
from runs import read_json, run, tiny_backbone, train_flags
from tolerances import assert_within, gamma

from core.errors import InputError
from engine import solved_layer
from losses import LOSSES
from models import Embedder, fast_model
from models.heads import HEADS
from solvers import Pca, Whitening
from solvers._affine import BLOCK

pytestmark = pytest.mark.usefixtures("tiny")
WIDTH = 6


def clusters(labels, size, seed=0):
    """Features (N, WIDTH) float32 and codes (N,): labels of `size` rows, noise being larger in some directions."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(labels), size)
    noise = rng.normal(size=(labels * size, WIDTH)) * np.linspace(0.1, 3, WIDTH)
    features = rng.normal(size=(labels, WIDTH))[codes] + noise
    return torch.tensor(features, dtype=torch.float32), torch.tensor(codes)


def error_of(covariance, rows):
    """How far a root of such a matrix may be off: sums of `rows` terms, an eigenvalue solver of some D sweeps, and both
    times how much the root enlarges a relative change, the ratio of its largest to its smallest number."""
    condition = torch.linalg.cond(covariance)
    return gamma(2 * rows + 64 * WIDTH * WIDTH) * condition


@pytest.mark.parametrize("epsilon, total_share", [(0.01, 0.0), (0.1, 0.0), (1.0, 0.0), (0.1, 0.2), (0.1, 1.0)])
def test_whitening_makes_the_noise_within_labels_round(epsilon, total_share):
    """By its definition: W S W' is one number times the identity, and the mean is 0; W is symmetric."""
    features, codes = clusters(20, 4)
    exact = features.double()
    means = torch.stack([exact[codes == code].mean(0) for code in range(20)])
    deviations = exact - means[codes]
    covariance = (1 - total_share) * deviations.T @ deviations / len(exact)
    covariance += total_share * torch.cov(exact.T, correction=0)
    covariance += epsilon * covariance.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
    affine = Whitening(epsilon, total_share).solve(features, codes)
    error = error_of(covariance, len(exact))
    white = affine.weight @ covariance @ affine.weight.T
    size = white.diagonal().mean()
    assert_within(white, size * torch.eye(WIDTH, dtype=torch.float64), size * error)
    assert_within(affine.weight, affine.weight.T, affine.weight.abs().max() * error)
    embeddings = exact @ affine.weight.T + affine.bias
    assert_within(embeddings.mean(0), torch.zeros(WIDTH), error)
    assert_within(embeddings.square().sum(1).mean(), torch.tensor(1.0), error)


def test_fewer_dimensions_are_the_principal_ones_of_the_whitened_features():
    features, codes = clusters(20, 4)
    full = Whitening(0.1).solve(features, codes)
    few = Whitening(0.1, dimensions=2).solve(features, codes)
    exact = features.double()
    all_numbers, two_numbers = (exact @ affine.weight.T + affine.bias for affine in (full, few))
    _, _, axes = torch.linalg.svd(all_numbers, full_matrices=False)
    projected = all_numbers @ axes[:2].T
    projected = projected / projected.square().sum(1).mean().sqrt()
    error = error_of(all_numbers.T @ all_numbers, len(exact))
    # Up to the signs of the two axes.
    assert_within(two_numbers.abs(), projected.abs(), error * WIDTH)


def test_fewer_dimensions_may_be_the_steadiest():
    """In axes along which the noise is known: those with the least of it are left, each by its own deviation."""
    rng = np.random.default_rng(0)
    deviations = np.array([4.0, 2.0, 1.0, 0.5])
    noise = deviations * np.linalg.qr(rng.normal(size=(40, 4)))[0].reshape(20, 2, 4)
    noise -= noise.mean(1, keepdims=True)
    features = torch.tensor((noise + 9 * rng.normal(size=(20, 1, 4))).reshape(40, 4), dtype=torch.float32)
    codes = torch.arange(20).repeat_interleave(2)
    full = Whitening(0.01).solve(features, codes)
    steady = Whitening(0.01, dimensions=2, directions="steady").solve(features, codes)
    # Of all vectors the kept rows stretch none more than the whole does, and its longest ones stay.
    whole, kept = torch.linalg.svdvals(full.weight), torch.linalg.svdvals(steady.weight)
    assert_within(kept[0] / kept[1], whole[0] / whole[1], gamma(10000) * 1000)
    with pytest.raises(InputError, match="unknown directions 'stedy'.*Did you mean 'steady'"):
        Whitening(directions="stedy")


def test_pca_rotates_or_makes_all_round():
    features, codes = clusters(20, 4)
    centred = features.double() - features.double().mean(0)
    covariance = centred.T @ centred / len(centred)
    error = error_of(covariance, len(centred)) * WIDTH
    rotated = Pca().solve(features, codes)
    cosines = torch.nn.functional.normalize(centred) @ torch.nn.functional.normalize(centred).T
    embeddings = torch.nn.functional.normalize(features.double() @ rotated.weight.T + rotated.bias)
    assert_within(embeddings @ embeddings.T, cosines, error)
    white = Pca(power=0.5).solve(features, codes)
    product = white.weight @ covariance @ white.weight.T
    assert_within(product, product.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64), error)
    assert Pca(dimensions=3).solve(features, codes).weight.shape == (3, WIDTH)


def test_a_label_of_one_image_says_nothing_but_where_the_mean_is():
    features, codes = clusters(20, 4)
    lone = torch.full((1, WIDTH), 50.0)
    more = Whitening(0.1).solve(torch.cat([features, lone]), torch.cat([codes, torch.tensor([20])]))
    affine = Whitening(0.1).solve(features, codes)
    ratio = affine.weight[0, 0] / more.weight[0, 0]
    error = gamma(10000) * affine.weight.abs().max()
    assert_within(more.weight * ratio, affine.weight, error)
    mean = torch.cat([features, lone]).double().mean(0)
    assert_within(more.bias, -more.weight @ mean, gamma(10000) * 100)


def test_rows_are_lifted_block_by_block_in_any_order():
    features, codes = clusters(BLOCK // 2, 3)
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    first = Whitening(0.1).solve(features, codes)
    second = Whitening(0.1).solve(features[order], codes[order])
    assert_within(first.weight, second.weight, gamma(20 * len(codes)) * first.weight.abs().max() * 100)


@pytest.mark.parametrize(
    "solver, features, codes, sentence",
    [
        (Whitening(), torch.rand(4, 3), torch.arange(4), "no two train images share a label"),
        (Whitening(), torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), "all the same, so that no direction"),
        (Pca(), torch.ones(4, 3), torch.arange(4), "all train features are the same"),
        (Whitening(dimensions=4), torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), "dimensions is 4, but"),
        (Pca(dimensions=4), torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), "the features have 3 numbers"),
    ],
)
def test_what_cannot_be_solved_is_a_sentence(solver, features, codes, sentence):
    with pytest.raises(InputError, match=sentence):
        solver.solve(features, codes)


@pytest.mark.parametrize(
    "head, width", [("linear", 5), ("unit_linear", 0), ("mlp", 5), ("residual", 0), ("residual", 5)]
)
def test_a_network_may_be_made_longer_and_keeps_its_weights_names(head, width):
    """add_layer makes what the settings of the result make; the shorter network's weights stand under their names."""
    short = Embedder("Tiny", 4)
    before = short.state_dict()
    short.add_layer(head, width or 4)
    again = Embedder("Tiny", short.facts["embedding_size"], "avg", short.facts.get("head", "linear"))
    assert again.facts == short.facts and again.embedding_size == short.embedding_size == (width or 4)
    assert again.state_dict().keys() == short.state_dict().keys() > before.keys()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    again.load_state_dict(short.state_dict())
    assert torch.equal(again.eval()(images), short.eval()(images))


def test_a_residual_head_begins_as_none():
    features = torch.randn(3, 8)
    assert torch.equal(HEADS["residual"](8, 8)(features), features)


def test_the_default_head_has_no_name_in_files():
    assert Embedder("Tiny", 4).facts == {"model": "Tiny", "embedding_size": 4, "pooling": "avg"}
    with pytest.raises(InputError, match="unknown head 'lienar'.*Did you mean 'linear'"):
        Embedder("Tiny", 4, head="lienar")


@pytest.fixture(scope="module")
def whitened(sop_tree, finished_run, tmp_path_factory):
    """The folder of a whitening behind a stage 1 run. Read only."""
    folder = tmp_path_factory.mktemp("whitened") / "run"
    run("train_pair", solve_flags(sop_tree, folder, finished_run))
    return folder


def solve_flags(data_dir, folder, source, /, **flags):
    left_open = {"model": None, "image_shape": None, "pretrained_model": source, "loss_name": "whitening"}
    return train_flags(data_dir, folder, **{**left_open, **flags})


def load(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def embeddings_of(folder, sop_tree, out, **flags):
    line = {"pretrained_model": folder, "use_gpu": False, "num_workers": 0, "cache": False, "save_embeddings": out}
    line = {**line, "output_dir": out.parent / "eval", **flags}
    run("eval", [f"--{name}={value}" for name, value in line.items()])
    return np.load(out)


def test_a_whitening_is_a_run_like_any_other(whitened, finished_run, sop_tree, tmp_path):
    """Its layer whitens the embeddings of the run before, of which nothing changes; figures are those of eval.py."""
    state = load(whitened)
    assert state["facts"]["head"] == "unit_linear" and state["facts"]["embedding_size"] == 8
    for name, value in load(finished_run)["model"].items():
        assert torch.equal(state["model"][name], value)
    train = embeddings_of(finished_run, sop_tree, tmp_path / "a.npz", data_dir=sop_tree, test_list="Ebay_train.txt")
    features = torch.nn.functional.normalize(torch.tensor(train["embeddings"]))
    affine = Whitening(0.1).solve(features, torch.tensor(np.unique(train["labels"], return_inverse=True)[1]))
    assert_within(state["model"]["head.weight"], affine.weight, affine.weight.abs().max() * gamma(4096, torch.float32))
    embeddings_of(whitened, sop_tree, tmp_path / "b.npz")
    result = read_json(whitened / "result.json")
    assert result["step"] == 0 and result["recall"]["1"] == read_json(tmp_path / "eval/result.json")["recall"]["1"]
    flags = read_json(whitened / "config.json")["flags"]
    assert flags["head"] == "unit_linear" and flags["embedding_size"] == 8
    assert {path.name for path in whitened.iterdir()} >= {"last.pt", "model.safetensors", "model.json", "metrics.jsonl"}
    again = embeddings_of(whitened / "model.safetensors", sop_tree, tmp_path / "c.npz", data_dir=sop_tree)
    assert np.array_equal(again["embeddings"], np.load(tmp_path / "b.npz")["embeddings"])


def test_a_whitening_is_made_again_by_its_config(whitened, finished_run, sop_tree, tmp_path):
    run("train_pair", [f"--config={whitened}", f"--model_save_dir={tmp_path / 'again'}"])
    states = [load(folder)["model"] for folder in (whitened, tmp_path / "again")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("loss", [LOSSES.names(stage="pair")[0], "whitening"])
def test_another_stage_goes_on_from_a_whitening(loss, whitened, sop_tree, tmp_path):
    run("train_pair", solve_flags(sop_tree, tmp_path / "next", whitened, loss_name=loss))
    facts = load(tmp_path / "next")["facts"]
    assert facts["head"] == ("unit_linear:8,unit_linear" if loss == "whitening" else "unit_linear")


def test_an_embedding_layer_stays_below_a_whitening_and_dimensions_are_cut(sop_tree, tmp_path):
    run("train_elem", train_flags(sop_tree, tmp_path / "a", embedding_size=5))
    run("train_pair", solve_flags(sop_tree, tmp_path / "b", tmp_path / "a", dimensions=3))
    assert load(tmp_path / "b")["facts"]["head"] == "linear:5,unit_linear"
    assert embeddings_of(tmp_path / "b", sop_tree, tmp_path / "x.npz")["embeddings"].shape[1] == 3
    run("train_pair", [f"--config={tmp_path / 'b'}", f"--model_save_dir={tmp_path / 'again'}"])
    assert torch.equal(
        load(tmp_path / "again")["model"]["behind.0.weight"], load(tmp_path / "b")["model"]["behind.0.weight"]
    )


def test_views_are_seen_beside_the_plain_images(finished_run, whitened, sop_tree, tmp_path):
    printed = run("train_pair", solve_flags(sop_tree, tmp_path / "views", finished_run, views=2, test_batch_size=7))
    assert "whitening of 90 features of 10 labels" in printed
    assert not torch.equal(load(tmp_path / "views")["model"]["head.weight"], load(whitened)["model"]["head.weight"])


def test_an_image_that_cannot_be_read_is_left_out(finished_run, sop_copy, tmp_path):
    first = (sop_copy / "Ebay_train.txt").read_text().split()[7]
    (sop_copy / first).write_bytes(b"no image")
    for views in (0, 1):
        flags = {"on_bad_image": "skip", "views": views, "overwrite": True}
        printed = run("train_pair", solve_flags(sop_copy, tmp_path / "skips", finished_run, **flags))
        assert f"whitening of {29 * (1 + views)} features" in printed
    assert read_json(tmp_path / "skips/result.json")["bad_images"] == 1


@pytest.mark.slow
def test_several_ranks_solve_the_layer_of_one(whitened, finished_run, sop_tree, tmp_path):
    run_in_ranks(2, "train_pair", *solve_flags(sop_tree, tmp_path / "ranks", finished_run))
    assert torch.equal(load(tmp_path / "ranks")["model"]["head.weight"], load(whitened)["model"]["head.weight"])


@pytest.mark.parametrize("script", ["train_elem", "train_pair"])
def test_a_loss_may_start_from_a_solved_layer(script, finished_run, whitened, sop_tree, tmp_path):
    """With a rate that changes nothing the layer is that of the closed form, of the plain features."""
    flags = {"init_embedding": "whitening", "init_epsilon": 0.1, "head": "unit_linear", "lr": 1e-30, "weight_decay": 0}
    line = solve_flags(sop_tree, tmp_path / "a", finished_run, loss_name=None, freeze_bn=True, **flags)
    run(script, line)
    assert torch.equal(load(tmp_path / "a")["model"]["head.weight"], load(whitened)["model"]["head.weight"])
    line = solve_flags(sop_tree, tmp_path / "b", finished_run, loss_name=None, init_embedding="pca", embedding_size=3)
    run(script, line)
    assert load(tmp_path / "b")["model"]["head.weight"].shape == (3, 8)
    run(script, [f"--checkpoint={tmp_path / 'b'}", "--total_iter_num=4", "--allow_changed=total_iter_num"])
    assert read_json(tmp_path / "b/result.json")["step"] == 4


def test_the_seconds_of_a_solved_layer_are_the_runs(finished_run, sop_tree, tmp_path, monkeypatch):
    hours = itertools.count(0, 3600)  # each look at the clock comes an hour after the last one
    monkeypatch.setattr(solved_layer, "time", SimpleNamespace(perf_counter=lambda: next(hours)))
    flags = {"init_embedding": "whitening", "head": "unit_linear"}
    run("train_pair", solve_flags(sop_tree, tmp_path, finished_run, loss_name=None, overwrite=True, **flags))
    assert 3600 < read_json(tmp_path / "result.json")["seconds"]["train"] < 7200


REFUSED = [
    ({"pretrained_model": None, "model": "Tiny", "image_shape": "3,32,32"}, "whitening needs --pretrained_model"),
    ({"dimensions": 9}, "whitening to 9 dimensions: the features have 8 numbers only"),
    (
        {"embedding_size": 4},
        "--embedding_size is 4, but whitening gives 8 numbers: leave it out, or ask by --dimensions",
    ),
    ({"head": "mlp"}, "--head=mlp is not what is solved"),
    ({"init_embedding": "pca"}, "--init_embedding is where a loss starts that is learned; whitening is solved"),
    *(
        ({flag: value}, f"--{flag}={value} belongs to the steps of a loss; whitening is solved and makes none")
        for flag, value in [
            ("miner", "hard"),
            ("sampler", "pk"),
            ("keep_classes", 0.1),
            ("memory_size", 64),
            ("skip_lookalikes", 0.9),
            ("ema", 0.9),
            ("interpolate", 0.5),
        ]
    ),
    ({"epsilon": 0}, "epsilon=0.0 is not above 0|'0' is not a number above 0"),
    ({"loss_name": "whitenin"}, "Did you mean 'whitening'"),
    ({"loss_name": "eml", "epsilon": 1}, "It is an option of whitening"),
    ({"loss_name": "eml", "views": 1}, "--views go with --init_embedding"),
    (
        {"loss_name": "eml", "init_embedding": "whitening", "head": "mlp"},
        "linear or unit_linear layers, not --head=mlp",
    ),
    ({"loss_name": "eml", "init_embedding": "whitening", "embedding_size": 9}, "to 9 dimensions: the features have 8"),
    (
        {"loss_name": "eml", "head": "linear:4,mpl"},
        "'mpl' is not one of bnneck, first, layer_norm, linear, mlp, residual, unit_linear",
    ),
    ({"loss_name": "eml", "head": "linear,mlp"}, "needs its width, as linear:512"),
]


@pytest.mark.parametrize("flags, sentence", REFUSED)
def test_bad_flags_are_sentences_before_anything_is_written(flags, sentence, finished_run, sop_tree, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run("train_pair", solve_flags(sop_tree, tmp_path / "x", finished_run, **flags))
    assert not (tmp_path / "x").exists()


def test_a_list_without_a_pair_is_a_sentence(finished_run, sop_copy, tmp_path):
    lines = (sop_copy / "Ebay_train.txt").read_text().splitlines()
    (sop_copy / "Ebay_train.txt").write_text("\n".join([lines[0], *lines[1::3]]) + "\n")
    with pytest.raises(InputError, match="no two train images share a label"):
        run("train_pair", solve_flags(sop_copy, tmp_path / "x", finished_run))
    # Two views of one image are a pair, too.
    run("train_pair", solve_flags(sop_copy, tmp_path / "y", finished_run, views=1))


def test_a_stage_in_a_closed_form_does_not_go_on(whitened):
    with pytest.raises(InputError, match="makes no steps that could go on"):
        run("train_pair", [f"--checkpoint={whitened}"])


def test_openvino_embeds_behind_a_whitening():
    pytest.importorskip("openvino")
    with tiny_backbone():
        model = Embedder("Tiny", head="unit_linear").eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    fast = fast_model(model, "fp32", "openvino", (3, 32, 32))
    assert_within(fast(images), model(images).detach(), gamma(4096, torch.float32))
