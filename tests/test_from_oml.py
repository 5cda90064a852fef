"""Yamls of Open Metric Learning's pipelines as ours; those here are made after their structure."""

import csv

import pytest
import yaml

from config.commands import COMMANDS
from config.parse import parse
from core.errors import InputError
from recipes.from_oml import main, translate

TRAIN = {
    "postfix": "mine",
    "seed": 7,
    "precision": 16,
    "accelerator": "cpu",
    "devices": 2,
    "find_unused_parameters": False,
    "dataframe_name": "frame.csv",
    "dataset_root": "data/things/",
    "logs_root": "logs/things",
    "logs_folder": "${now:%Y-%m-%d_%H-%M-%S}_${postfix}",
    "num_workers": 3,
    "cache_size": 0,
    "transforms_train": {"name": "augs_hypvit_torch", "args": {"im_size": 224}},
    "transforms_val": {"name": "norm_resize_hypvit_torch", "args": {"im_size": 256, "crop_size": 224}},
    "sampler": {
        "name": "category_balance",
        "args": {
            "n_labels": 10,
            "n_instances": 4,
            "n_categories": 2,
            "resample_labels": True,
            "weight_categories": True,
        },
    },
    "bs_val": 77,
    "max_epochs": 5,
    "valid_period": 2,
    "freeze_n_epochs": 1,
    "metric_args": {
        "metrics_to_exclude_from_visualization": ["cmc"],
        "cmc_top_k": [1],
        "map_top_k": [5],
        "fmr_vals": [0.01],
        "pcf_variance": [0.5],
        "return_only_overall_category": True,
    },
    "log_images": True,
    "metric_for_checkpointing": "OVERALL/cmc/1",
    "mode_for_checkpointing": "max",
    "extractor": {
        "name": "vit",
        "args": {"arch": "vits16", "weights": "vits16_dino", "normalise_features": True, "use_multi_scale": True},
    },
    "criterion": {
        "name": "triplet_with_miner",
        "args": {
            "margin": 0.15,
            "reduction": "mean",
            "need_logs": True,
            "miner": {"name": "hard_triplets", "args": {}},
        },
    },
    "optimizer": {"name": "adam", "args": {"lr": "1e-5"}},
    "scheduling": None,
    "logger": {"name": "wandb", "args": {"project": "things"}},
    "tags": ["${postfix}", "toys"],
    "hydra_dir": "${logs_root}/${logs_folder}/",
    "hydra": {"run": {"dir": "${hydra_dir}"}, "searchpath": ["pkg://somewhere"], "job": {"chdir": True}},
}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    """Nothing is taken over from published weights, whose packages need not be here."""
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})


def changed(**blocks):
    return {**TRAIN, **blocks}


@pytest.fixture
def through(tmp_path, capsys):
    """Writes their settings, has them translated, and opens the result with the script that it is for."""

    def call(tree, *words):
        theirs, ours = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
        theirs.write_text(yaml.safe_dump(tree))
        main([str(theirs), f"--output={ours}", *words])
        printed = capsys.readouterr().out
        script = printed.rpartition("python ")[2].partition(".py")[0]
        return script, parse([f"--config={ours}"], COMMANDS[script], ""), printed

    return call


def test_a_training_yaml(through):
    script, args, printed = through(TRAIN, "--labels=101")
    assert script == "train_pair"
    expected = {
        "loss_name": "triplet_margin",
        "margin": 0.15,
        "normalise": True,
        "miner": "hard",
        "miner_normalise": True,
        "model": "vits16_dino",
        "pretrained_model": "published",
        "test_scales": (1.0, 0.7071, 0.5),
        "image_shape": (3, 224, 224),
        "resize_short_size": 256,
        "resize_filter": "bicubic",
        "resize_mode": "crop",
        "augment": ("crop", "flip"),
        "crop_scale": (0.2, 1.0),
        "data_dir": "data/things/",
        "train_list": "frame.csv",
        "test_list": "frame.csv",
        "num_workers": 3,
        "sampler": "category_balance",
        "train_batch_size": 80,
        "samples_each_class": 4,
        "n_categories": 2,
        "resample_labels": True,
        "weight_categories": True,
        "test_batch_size": 77,
        "optimiser": "adam",
        "lr": 1e-5,
        "weight_decay": 0.0,
        "lr_strategy": "constant",
        # An epoch has 101 / 10 batches, rounded up.
        "total_iter_num": 55,
        "freeze_steps": 11,
        "test_iter_step": 22,
        "save_iter_step": 22,
        "test_metrics": ("cmc@1", "map@5", "fnmr@fmr=0.01", "pcf@0.5"),
        "test_distance": "cosine",
        "best": "cmc@1",
        "report": True,
        "loggers": ("jsonl", "wandb"),
        "project": "things",
        "tags": ("mine", "toys"),
        "model_save_dir": "logs/things/mine",
        "precision": "fp16",
        "use_gpu": False,
        "seed": 7,
    }
    assert {name: args[name] for name in expected} == expected
    assert "devices: 2: start it by torchrun --nproc_per_node=2" in printed
    assert "hydra.job.chdir: True: of Hydra" in printed
    # Nothing is left out in silence: what is not said is in the recipe.
    for word in ("extractor", "optimizer", "sampler", "transforms", "metric_for", "miner"):
        assert word not in printed


def test_without_labels_epochs_stay_epochs(through):
    _, args, printed = through(TRAIN)
    assert (
        "total_iter_num" not in args.typed and "max_epochs: 5: an epoch's steps follow from the train list" in printed
    )


def test_labels_are_counted_in_the_csv(through, tmp_path):
    with open(tmp_path / "frame.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["label", "path", "split"])
        table.writerows([label, f"{label}_{k}.jpg", "train"] for label in range(25) for k in range(2))
        table.writerow([99, "x.jpg", "validation"])
    _, args, _ = through(changed(dataset_root=str(tmp_path)))
    assert args["total_iter_num"] == 15
    sampler = {"sampler": None, "bs_train": 8, "scheduling": None}
    _, args, _ = through(changed(dataset_root=str(tmp_path), **sampler))
    assert args["total_iter_num"] == 5 * (50 // 8) and args["sampler"] == "shuffled"


@pytest.mark.parametrize(
    "sampler, expected, steps",
    [
        ({"name": "balance", "args": {"n_labels": 6, "n_instances": 3}}, {"train_batch_size": 18}, 101 // 6),
        (
            {
                "name": "distinct_category_balance",
                "args": {"n_labels": 2, "n_instances": 2, "n_categories": 3, "epoch_size": 9},
            },
            {"train_batch_size": 12, "n_categories": 3, "epoch_size": 9},
            9,
        ),
    ],
)
def test_samplers(sampler, expected, steps, through):
    _, args, _ = through(changed(sampler=sampler), "--labels=101")
    assert {name: args[name] for name in expected} == expected
    assert args["sampler"] == sampler["name"] and args["total_iter_num"] == 5 * steps


@pytest.mark.parametrize(
    "miner, expected",
    [
        ({"name": "all_triplets", "args": {}}, {"miner": "none"}),
        (
            {"name": "n_hard_triplets", "args": {"n_positive": [2, 5], "n_negative": 3}},
            {"miner": "nhard", "n_positive": (2, 5), "n_negative": 3},
        ),
        ({"name": "hard_cluster", "args": {}}, {"miner": "hard_cluster"}),
        (
            {"name": "triplets_with_memory", "args": {"bank_size_in_batches": 5, "tri_expand_k": 3}},
            {"miner": "none", "memory_size": 400, "memory_start": 0},
        ),
        (
            {
                "name": "miner_with_bank",
                "args": {
                    "bank_size_in_batches": 3,
                    "need_logs": True,
                    "miner": {"name": "n_hard_triplets", "args": {"n_positive": 1, "n_negative": 2}},
                },
            },
            {"miner": "nhard", "n_negative": 2, "memory_size": 240, "memory_start": 3},
        ),
    ],
)
def test_miners(miner, expected, through):
    criterion = {"name": "triplet_with_miner", "args": {"margin": None, "reduction": "mean", "miner": miner}}
    extractor = {"name": "vit", "args": {"arch": "vits16", "weights": None, "normalise_features": False}}
    _, args, printed = through(changed(criterion=criterion, extractor=extractor), "--labels=101")
    assert {name: args[name] for name in expected} == expected
    assert args["margin"] == "soft" and args["normalise"] is False and args["test_distance"] == "squared_euclidean"
    assert args["model"] == "vits16_dino" and args["pretrained_model"] is None
    assert ("tri_expand_k: 3: of a memory" in printed) == (miner["name"] == "triplets_with_memory")


@pytest.mark.parametrize(
    "criterion, script, expected",
    [
        (
            {
                "name": "arcface",
                "args": {"m": 0.4, "s": 64, "in_features": 512, "num_classes": 3, "smoothing_epsilon": 0.1},
            },
            "train_elem",
            {"loss_name": "arcmargin", "arc_margin": 0.4, "arc_scale": 64.0, "label_smoothing": 0.1},
        ),
        (
            {"name": "mlp_arcface", "args": {"m": 0.4, "s": 64, "mlp_features": [512, 256]}},
            "train_elem",
            {"loss_name": "mlp_arcmargin", "mlp_features": (512, 256)},
        ),
        (
            {"name": "surrogate_precision", "args": {"k": 5, "temperature1": 1, "temperature2": 0.01}},
            "train_pair",
            {"loss_name": "surrogate_precision", "k": 5, "temperature2": 0.01, "normalise": True},
        ),
    ],
)
def test_criteria(criterion, script, expected, through):
    found, args, _ = through(changed(criterion=criterion), "--labels=101")
    assert found == script and {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    "scheduler, expected",
    [
        (
            ("multi_step", {"milestones": [1, 3], "gamma": 0.5}),
            {"lr_strategy": "multi_step", "lr_steps": (11, 33), "lr_factor": 0.5},
        ),
        (("step", {"step_size": 2}), {"lr_strategy": "step", "lr_period": 22, "lr_factor": 0.1}),
        (("exponential", {"gamma": 0.5}), {"lr_strategy": "exponential", "lr_period": 11, "lr_factor": 0.5}),
        (
            ("cosine_annealing", {"T_max": 4, "eta_min": "1e-6"}),
            {"lr_strategy": "cosine_annealing", "lr_period": 44, "lr_min": 1e-6},
        ),
        (
            ("cyclic", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3}),
            {"lr_strategy": "cyclic", "lr": 0.5, "lr_min": 0.1, "lr_period": 33},
        ),
        (
            ("one_cycle", {"max_lr": 0.1, "total_steps": 10}),
            {"lr_strategy": "one_cycle", "lr": 0.1, "total_iter_num": 110},
        ),
        (
            ("reduce_on_plateau", {"factor": 0.75, "patience": 1}),
            {"lr_strategy": "reduce_on_plateau", "lr_factor": 0.75, "lr_patience": 1},
        ),
    ],
)
def test_schedulers(scheduler, expected, through):
    name, arguments = scheduler
    scheduling = {
        "scheduler_interval": "epoch",
        "scheduler_frequency": 1,
        "scheduler": {"name": name, "args": arguments},
    }
    _, args, _ = through(changed(scheduling=scheduling), "--labels=101")
    assert {flag: args[flag] for flag in expected} == expected


def test_a_function_of_code_is_said(through):
    scheduling = {"scheduler_interval": "step", "scheduler_frequency": 1, "scheduler": {"name": "lambda", "args": {}}}
    _, args, printed = through(changed(scheduling=scheduling), "--labels=101")
    assert args["lr_strategy"] == "constant" and "--lr_strategy=lambda takes a formula" in printed


@pytest.mark.parametrize(
    "name, expected", [("sgd", "sgd"), ("adamw", "adamw"), ("rmsprop", "rmsprop"), ("lbfgs", "lbfgs")]
)
def test_optimisers(name, expected, through):
    _, args, _ = through(changed(optimizer={"name": name, "args": {"lr": 0.1}}), "--labels=101")
    assert args["optimiser"] == expected and args["lr"] == 0.1
    assert args["weight_decay"] == (0.01 if name == "adamw" else 0)


def test_momentum_is_an_optimiser_of_its_own(through):
    optimizer = {"name": "sgd", "args": {"lr": 0.1, "momentum": 0.8}}
    _, args, _ = through(changed(optimizer=optimizer), "--labels=101")
    assert args["optimiser"] == "momentum" and args["momentum"] == 0.8


def test_layers_behind_the_network(through):
    inner = {"name": "vit", "args": {"arch": "vits16", "weights": "vits16_dino", "normalise_features": False}}
    extractor = {"name": "extractor_with_mlp", "args": {"mlp_features": [384], "extractor": inner}}
    _, args, _ = through(changed(extractor=extractor), "--labels=101")
    assert args["embedding_size"] == 384 and args["head"] == "linear" and args["model"] == "vits16_dino"


def test_blocks_that_come_with_it(through):
    tree = {name: value for name, value in TRAIN.items() if name not in ("optimizer", "sampler")}
    tree["defaults"] = [{"optimizer": "sgd"}, {"sampler": "balance"}, {"extractor": "vit"}]
    _, args, printed = through(tree, "--labels=101")
    assert args["optimiser"] == "sgd" and args["lr"] == 1e-5 and args["train_batch_size"] == 4
    assert "defaults.extractor: vit: that block comes with OML" in printed


VALIDATE = {
    "accelerator": "gpu",
    "devices": 1,
    "precision": 32,
    "dataset_root": "data/things",
    "dataframe_name": "frame.csv",
    "bs_val": 64,
    "num_workers": 2,
    "transforms_val": {"name": "norm_resize_torch", "args": {"im_size": 192}},
    "extractor": {"name": "vit", "args": {"arch": "vits16", "weights": "vits16_cub", "normalise_features": False}},
    "metric_args": {
        "cmc_top_k": [1, 5],
        "precision_top_k": [5],
        "map_top_k": [5],
        "fmr_vals": [0.01],
        "pcf_variance": [0.5],
    },
}


def test_a_validation_yaml(through):
    script, args, printed = through(VALIDATE)
    assert script == "eval"
    expected = {
        "metrics": ("cmc@1", "cmc@5", "precision@5", "map@5"),
        "definition": "oml",
        "fmr": (0.01,),
        "pcf": (0.5,),
        "distance": "squared_euclidean",
        "model": "vits16_cub",
        "image_shape": (3, 192, 192),
        "resize_mode": "squash",
        "resize_filter": "bilinear",
        "batch_size": 64,
        "precision": "fp32",
        "test_list": "frame.csv",
    }
    assert {name: args[name] for name in expected} == expected
    assert "accelerator" not in printed


def test_a_prediction_yaml(through):
    tree = {
        "precision": 32,
        "accelerator": "gpu",
        "devices": 1,
        "data_dir": "photos/",
        "save_dir": "out",
        "bs": 16,
        "num_workers": 1,
        "transforms_predict": {"name": "norm_resize_albu", "args": {"im_size": 224}},
        "extractor": VALIDATE["extractor"],
        "hydra": {"run": {"dir": "${save_dir}"}},
    }
    script, args, printed = through(tree)
    assert script == "infer" and args["input"] == ("photos/",) and args["output"] == ("out/predictions.json",)
    assert args["batch_size"] == 16 and "transforms_predict.name: norm_resize_albu: images are cropped here" in printed


def test_without_output_it_is_printed(tmp_path, capsys):
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(VALIDATE))
    main([str(tmp_path / "theirs.yaml")])
    printed = capsys.readouterr().out
    assert printed.startswith("# theirs.yaml of Open Metric Learning.") and yaml.safe_load(printed)["model"]["model"]


@pytest.mark.parametrize(
    "tree, sentence",
    [
        (changed(criterion={"name": "trplet", "args": {}}), "criterion 'trplet' has no counterpart"),
        (changed(sampler={"name": "mine", "args": {}}), "sampler 'mine' has no counterpart"),
        (changed(optimizer={"name": "lion", "args": {}}), "optimizer 'lion' has no counterpart"),
        (changed(tags=["${nothing}"]), "${nothing} names nothing"),
        (changed(tags="${postfix}", postfix="${tags}"), "lead in a circle"),
        ({"a": 1}, "no yaml of Open Metric Learning: it has neither criterion nor extractor"),
        (changed(criterion=3), "criterion: 3 is no block"),
        (changed(optimizer="adam"), "optimizer: 'adam' is no block"),
        (changed(optimizer={"name": "adam", "args": [1]}), "optimizer.args: [1] is no block"),
        (changed(optimizer={"name": "adam", "args": {"lr": "fast"}}), "optimizer.args.lr: 'fast' is not a number"),
        (changed(sampler={"name": "balance", "args": {"n_labels": 0, "n_instances": 2}}), "n_labels: 0 is not a whole"),
        (changed(sampler={"name": "balance"}), "sampler.args.n_labels is missing"),
        (changed(max_epochs=2.5), "max_epochs: 2.5 is not a whole number from 1 on"),
        (changed(valid_period=0), "valid_period: 0 is not a whole number"),
        (changed(bs_val="many"), "bs_val: 'many' is not a whole number"),
        (
            changed(scheduling={"scheduler_interval": "step", "scheduler": {"name": "step", "args": {}}}),
            "scheduling.scheduler.args.step_size is missing",
        ),
        ({**VALIDATE, "postprocessor": {"name": "x"}}, "a post-processor's yaml has no counterpart"),
    ],
)
def test_what_cannot_be_translated(tree, sentence):
    with pytest.raises(InputError) as caught:
        translate(tree)
    assert sentence in str(caught.value)


TEXTS = [
    ("a: [", "theirs.yaml:"),
    ("- a\n", "settings are `name: value` lines"),
    ("a: 1\nb: {c: 1,\n  c: 2}\n", "theirs.yaml:3: c is given twice, first in line 2"),
    ("a: 2020-13-45\n", "month must be in 1..12"),
    ("extractor: &a [*a]\n", "more than 20 deep"),
]


@pytest.mark.parametrize("text, sentence", TEXTS)
def test_what_is_no_yaml(text, sentence, tmp_path, capsys):
    (tmp_path / "theirs.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "theirs.yaml")])
    assert sentence in capsys.readouterr().err
