"""A yaml of Open Metric Learning's pipelines as one of ours, for train_elem.py, train_pair.py, eval.py or infer.py.

python recipes/from_oml.py train_sop.yaml --output=ours.yaml
python recipes/from_oml.py train_cub.yaml --labels=100

What has no counterpart here is said, a line each, and stands at the top of what is written. Epochs become steps, for
which the train labels are counted: in the yaml's csv where it is there, else --labels says how many there are.
"""

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.files import open_output, replacing  # noqa: E402
from core.recipe import refuse_repeated_keys, yaml_errors  # noqa: E402
from core.sources import registered  # noqa: E402
from core.types import positive  # noqa: E402

# What needs no counterpart, and why.
NOT_NEEDED = {
    "find_unused_parameters": "of Lightning's DDP; nothing depends on it here",
    "show_dataset_warnings": "notes on lists are always shown",
    "hydra": "of Hydra",
    "hydra_dir": "of Hydra; --model_save_dir is the run's folder",
    "logs_folder": "--model_save_dir names the folder, without a time",
    "postfix": "of the logs' folder",
    "metric_args.metrics_to_exclude_from_visualization": "--report shows the worst queries by Recall@1",
    "metric_args.visualize_only_overall_category": "--report shows the worst queries of all categories",
    "metric_args.return_only_overall_category": "figures by category: eval.py, and --best=FIGURE/CATEGORY",
    "metric_args.verbose": "figures are always printed",
    "criterion.args.need_logs": "a loss's figures are always shown",
    "criterion.args.in_features": "the network says how wide its embeddings are",
    "criterion.args.num_classes": "the train list says how many labels there are",
    "criterion.args.miner.args.need_logs": "a loss's figures are always shown",
    "extractor.args.remove_fc": "the network's classifier is always removed",
}
PRECISIONS = {"32": "fp32", "16": "fp16", "bf16": "bf16"}
LOGGERS = ("tensorboard", "wandb", "mlflow", "clearml", "neptune")
SAMPLERS = ("balance", "category_balance", "distinct_category_balance")
OPTIMISERS = ("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs", "rmsprop", "rprop", "sgd")
# Networks of an architecture, by the weights that its row here is named after.
ARCHITECTURES = {
    "vits16": "vits16_dino",
    "vits8": "vits8_dino",
    "vitb16": "vitb16_dino",
    "vitb8": "vitb8_dino",
    "vits14": "vits14_dinov2",
    "vitb14": "vitb14_dinov2",
    "vitl14": "vitl14_dinov2",
    "vits14_reg": "vits14_reg_dinov2",
    "vitb14_reg": "vitb14_reg_dinov2",
    "vitl14_reg": "vitl14_reg_dinov2",
    "vitb16_224": "openai_vitb16_224",
    "vitb32_224": "openai_vitb32_224",
    "vitl14_224": "openai_vitl14_224",
    "vitl14_336": "openai_vitl14_336",
}


@dataclass
class Theirs:
    """Their settings as a tree; what is taken out of it has a counterpart, what is left has none."""

    tree: dict[str, object]

    def take(self, path: str, default: object = None) -> object:
        """The value at `a.b.c`, which is gone then; `default` where there is none."""
        *above, last = path.split(".")
        node: object = self.tree
        for name in above:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            return default
        return node.pop(last)

    def needed(self, path: str) -> object:
        """As `take`. Raises InputError where there is none."""
        value = self.take(path)
        if value is None:
            raise InputError(f"{path} is missing")
        return value

    def count(self, path: str, default: int | None = None, least: int = 1) -> int | None:
        """As `take`, a whole number of `least` or more. Raises InputError for what is none."""
        return whole_number(path, self.take(path, default), least)

    def number(self, path: str, default: float | None = None) -> float | None:
        """As `take`, a number. Raises InputError for what is none."""
        return any_number(path, self.take(path, default))

    def has(self, path: str) -> bool:
        """Whether there is a value at `a.b.c`, or anything below it."""
        node: object = self.tree
        for name in path.split("."):
            if not isinstance(node, dict) or name not in node:
                return False
            node = node[name]
        return True

    def leaves(self) -> dict[str, object]:
        """{a.b.c: value} of what is left."""
        return _leaves(self.tree, "")


def whole_number(path: str, value: object, least: int = 1) -> int | None:
    """The value at `path`, if it is a whole number of `least` or more, or None. Raises InputError where not."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise InputError(f"{path}: {value!r} is not a whole number from {least} on")
    return value


def any_number(path: str, value: object) -> float | None:
    """The value at `path`, if it is a number, also one that yaml takes for a text, as 1e-5, or None."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}: {value!r} is not a number")
    return number


def _leaves(tree: dict[str, object], prefix: str) -> dict[str, object]:
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + str(name)] = value
    return found


@dataclass
class Ours:
    """A recipe of ours: for which script, its flags by section, and what of theirs is not in it.

    is_normalised: whether their network makes embeddings of length 1, for which here loss and distance are responsible.
    """

    script: str
    sections: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_normalised: bool = False

    def put(self, section: str, **flags: object) -> None:
        """Set flags; None leaves one open."""
        for name, value in flags.items():
            if value is not None:
                self.sections.setdefault(section, {})[name] = value

    def note(self, path: str, value: object, why: str) -> None:
        """Say what has no counterpart."""
        self.notes.append(f"{path}: {_plain(value)}: {why}")

    def as_text(self, source: str) -> str:
        """The file."""
        lines = [f"# {Path(source).name} of Open Metric Learning."]
        lines += [f"#   python {self.script}.py --config=THIS_FILE", "#"]
        lines += [f"# not here: {note}" for note in self.notes]
        for section, flags in self.sections.items():
            lines += ["", f"{section}:"]
            lines += [f"  {name}: {_yaml(value)}" for name, value in flags.items()]
        return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return "null" if value is None else str(value)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_yaml(element) for element in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./@=+-]+", value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@dataclass(frozen=True)
class Epochs:
    """How many steps an epoch of theirs has; None where that is not known."""

    steps: int | None

    def times(self, epochs: float) -> int | None:
        """Steps of so many epochs, one at least."""
        return None if self.steps is None else max(1, round(epochs * self.steps))


def translate(tree: dict[str, object], labels: int | None = None, images: int | None = None) -> Ours:
    """Our recipe of their settings. labels, images: of the train list, where its csv is not there.

    Raises InputError for settings that are none of theirs, and for a value that cannot be.
    """
    resolved, named = _resolved(tree)
    _refuse_other_shapes(resolved)
    theirs = Theirs(resolved)
    counts = _counted(theirs, labels, images)
    if theirs.has("criterion"):
        stage = "train_elem" if theirs.tree["criterion"].get("name") in ("arcface", "mlp_arcface") else "train_pair"
        ours = Ours(stage)
        _read_criterion(theirs, ours)
        _read_model(theirs, ours)
        _read_lists(theirs, ours)
        batch, epochs = _read_batches(theirs, ours, *counts)
        _read_memory(theirs, ours, batch)
        _read_optimisation(theirs, ours, epochs)
        _read_testing(theirs, ours)
        _read_loggers(theirs, ours)
    elif theirs.has("transforms_predict"):
        ours = Ours("infer")
        _read_model(theirs, ours)
        ours.put("data", input=theirs.take("data_dir"), batch_size=theirs.count("bs"))
        folder = theirs.take("save_dir", ".")
        ours.put("results", output=str(Path(folder) / "predictions.json"))
    elif theirs.has("postprocessor") or theirs.has("pairwise_model"):
        raise InputError(
            "a post-processor's yaml has no counterpart here; train_reranker.py trains one, and eval.py "
            "--postprocess=pairwise takes it (see --help)"
        )
    else:
        ours = Ours("eval")
        _read_model(theirs, ours)
        _read_lists(theirs, ours)
        ours.put("data", batch_size=theirs.count("bs_val"))
        _read_figures(theirs, ours)
    _read_machine(theirs, ours)
    for path, value in theirs.leaves().items():
        # What stands at the top only to be named elsewhere has gone there.
        if path in named and path not in NOT_NEEDED:
            continue
        name = path if path in NOT_NEEDED else path.split(".")[0]
        ours.note(path, value, NOT_NEEDED.get(name, "no counterpart"))
    return ours


def _refuse_other_shapes(tree: dict[str, object]) -> None:
    """Raise InputError where no block of theirs is in the file, and where a block is no mapping."""
    if not any(name in tree for name in ("criterion", "extractor", "transforms_predict", "postprocessor")):
        raise InputError(
            "no yaml of Open Metric Learning: it has neither criterion nor extractor nor transforms_predict"
        )
    for name in ("criterion", "extractor", "optimizer", "metric_args", "scheduling"):
        block = tree.get(name)
        if block is not None and not isinstance(block, dict):
            raise InputError(f"{name}: {block!r} is no block of `name: value` lines")
        if isinstance(block, dict) and not isinstance(block.get("args") or {}, dict):
            raise InputError(f"{name}.args: {block['args']!r} is no block of `name: value` lines")


def _resolved(tree: dict[str, object]) -> tuple[dict[str, object], set[str]]:
    """The settings with ${name} replaced by what stands there, and these names; the time of ${now:...} is left out."""
    named: set[str] = set()

    def look_up(path: str) -> object:
        named.add(path)
        node: object = tree
        for name in path.split("."):
            if not isinstance(node, dict) or name not in node:
                raise InputError(f"${{{path}}} names nothing that is in the file")
            node = node[name]
        return node

    def resolve(value: object, depth: int = 0) -> object:
        if depth > 20:
            raise InputError("names in ${...} lead in a circle, or blocks lie in each other more than 20 deep")
        if isinstance(value, dict):
            return {name: resolve(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, depth + 1) for inner in value]
        if not isinstance(value, str):
            return value
        whole = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if whole:
            return resolve(look_up(whole[1]), depth + 1)
        text = re.sub(r"\$\{now:[^}]*\}_?", "", value)
        return re.sub(r"\$\{([\w.]+)\}", lambda match: str(resolve(look_up(match[1]), depth + 1)), text)

    return resolve(tree), named


def _counted(theirs: Theirs, labels: int | None, images: int | None) -> tuple[int | None, int | None]:
    """(labels, images) of the train list: as given, or counted in the csv."""
    file = Path(str(theirs.tree.get("dataset_root", "")), str(theirs.tree.get("dataframe_name", "")))
    if (labels is not None and images is not None) or not file.is_file():
        return labels, images
    with open(file, newline="", encoding="utf-8") as stream:
        train = [row.get("label") for row in csv.DictReader(stream) if row.get("split", "train") == "train"]
    return labels or len(set(train)) or None, images or len(train) or None


def _read_criterion(theirs: Theirs, ours: Ours) -> None:
    name = theirs.take("criterion.name")
    arguments = "criterion.args"
    reduction = theirs.take(f"{arguments}.reduction", "mean")
    if reduction != "mean":
        ours.note(f"{arguments}.reduction", reduction, "a batch's loss is always the mean")
    if name in ("arcface", "mlp_arcface"):
        smoothing = theirs.number(f"{arguments}.smoothing_epsilon", 0)
        ours.put(
            "loss",
            loss_name="arcmargin" if name == "arcface" else "mlp_arcmargin",
            arc_scale=theirs.take(f"{arguments}.s", 64),
            arc_margin=theirs.take(f"{arguments}.m", 0.5),
            label_smoothing=smoothing or None,
        )
        ours.put("loss", mlp_features=theirs.take(f"{arguments}.mlp_features"))
        if smoothing:
            why = "where the list has categories, theirs smooths within them: --smooth_within_category=True"
            ours.note(f"{arguments}.smoothing_epsilon", smoothing, why)
        return
    if name == "surrogate_precision":
        ours.put("loss", loss_name="surrogate_precision", k=theirs.take(f"{arguments}.k", 5))
        for option in ("temperature1", "temperature2"):
            ours.put("loss", **{option: theirs.take(f"{arguments}.{option}")})
        return
    if name != "triplet_with_miner":
        known = ("triplet_with_miner", "arcface", "mlp_arcface", "surrogate_precision")
        raise InputError(f"criterion {name!r} has no counterpart; there are: {', '.join(known)}")
    margin = theirs.take(f"{arguments}.margin", 0.1)
    ours.put("loss", loss_name="triplet_margin", margin="soft" if margin is None else margin)
    _read_miner(theirs, ours, f"{arguments}.miner")


def _read_miner(theirs: Theirs, ours: Ours, path: str) -> None:
    """The miner; what it remembers of earlier batches is read once the size of a batch is known."""
    name = theirs.take(f"{path}.name", "all_triplets")
    if name == "miner_with_bank":
        name = theirs.take(f"{path}.args.miner.name", "n_hard_triplets")
        _read_ranks(theirs, ours, f"{path}.args.miner.args")
    if name == "hard_triplets":
        ours.put("loss", miner="hard")
    elif name == "hard_cluster":
        ours.put("loss", miner="hard_cluster")
    elif name == "n_hard_triplets":
        ours.put("loss", miner="nhard")
        _read_ranks(theirs, ours, f"{path}.args")
    elif name not in ("all_triplets", "triplets_with_memory"):
        ours.note(f"{path}.name", name, "no counterpart; the loss looks at all triplets")


def _read_ranks(theirs: Theirs, ours: Ours, path: str) -> None:
    for name in ("n_positive", "n_negative"):
        ranks = theirs.take(f"{path}.{name}")
        if isinstance(ranks, list):
            ranks = f"{ranks[0]}-{ranks[1]}"
        ours.put("loss", **{name: ranks})


def _read_memory(theirs: Theirs, ours: Ours, batch: int | None) -> None:
    """The embeddings of earlier batches, whose number follows from the size of a batch."""
    path = "criterion.args.miner.args"
    batches = theirs.count(f"{path}.bank_size_in_batches")
    if batches is None:
        return
    is_bank = not theirs.has(f"{path}.tri_expand_k")
    expansion = theirs.take(f"{path}.tri_expand_k")
    if batch is None:
        ours.note(f"{path}.bank_size_in_batches", batches, "the size of a batch is not known; set --memory_size")
        return
    # A bank is used once it is full, a memory of triplets at once.
    ours.put("what a batch is compared with", memory_size=batches * batch, memory_start=batches if is_bank else None)
    if expansion is not None:
        ours.note(f"{path}.tri_expand_k", expansion, "of a memory, all triplets with the batch's anchors are looked at")


def _read_model(theirs: Theirs, ours: Ours) -> None:
    """The network, and how it sees an image."""
    name = theirs.take("extractor.name")
    path = "extractor.args"
    if name == "extractor_with_mlp":
        _read_layers(theirs, ours)
        name = theirs.take("extractor.args.extractor.name")
        path = "extractor.args.extractor.args"
    if theirs.take(f"{path}.normalise_features", False):
        _put_normalised(ours)
    architecture = theirs.take(f"{path}.arch")
    weights = theirs.take(f"{path}.weights")
    rows = registered("models/backbones")
    if weights in rows:
        ours.put("model", model=weights, pretrained_model="published")
    else:
        row = _row_of(str(architecture), rows)
        if row is None:
            ours.note(f"{path}.arch", architecture, "no network of that name; --list_models shows those that there are")
        ours.put("model", model=row, pretrained_model=weights)
        if weights is not None and not Path(str(weights)).suffix:
            ours.note(f"{path}.weights", weights, "no weights of that name are known; it is taken for a file")
    if theirs.take(f"{path}.use_multi_scale", False):
        ours.put("model", test_scales=[1, 0.7071, 0.5])
    power = theirs.number(f"{path}.gem_p")
    if power is not None and power != 1:
        ours.put("model", pooling="gem")
        ours.note(f"{path}.gem_p", power, "gem pooling learns its power, from 3 on")
    _read_sizes(theirs, ours)


def _row_of(architecture: str, rows: dict) -> str | None:
    for name in (ARCHITECTURES.get(architecture), architecture, f"{architecture}_imagenet1k_v1"):
        if name in rows:
            return name
    return None


def _read_layers(theirs: Theirs, ours: Ours) -> None:
    widths = theirs.take("extractor.args.mlp_features", [])
    if widths:
        ours.put("model", embedding_size=widths[-1], head="linear" if len(widths) == 1 else "mlp")
    if len(widths) > 1:
        ours.note("extractor.args.mlp_features", widths, "the head mlp has one hidden layer, as wide as the features")
    weights = theirs.take("extractor.args.weights")
    if weights is not None:
        ours.note("extractor.args.weights", weights, "weights of network and layers in one file; give a run of ours")


def _put_normalised(ours: Ours) -> None:
    """Embeddings of length 1, which here the loss makes."""
    ours.is_normalised = True
    loss = ours.sections.get("loss", {})
    if loss.get("loss_name") in ("triplet_margin", "surrogate_precision"):
        ours.put("loss", normalise=True)
    if "miner" in loss:
        ours.put("loss", miner_normalise=True)


def _read_sizes(theirs: Theirs, ours: Ours) -> None:
    """The size of images, and what is done to them."""
    key = "transforms_predict" if theirs.has("transforms_predict") else "transforms_val"
    name = theirs.take(f"{key}.name")
    size = theirs.take(f"{key}.args.im_size", 224)
    if name == "norm_resize_hypvit_torch":
        crop = theirs.take(f"{key}.args.crop_size", 224)
        ours.put("model", image_shape=[3, crop, crop], resize_short_size=size)
        ours.put("model", resize_filter="bicubic", resize_mode="crop")
    elif name == "norm_resize_torch":
        ours.put("model", image_shape=[3, size, size], resize_filter="bilinear", resize_mode="squash")
    elif name is not None:
        ours.put("model", image_shape=[3, size, size])
        why = "images are cropped here; --resize_mode=squash shows all of them"
        if name not in ("norm_resize_albu", "norm_resize_albu_clip"):
            why = "no counterpart; images are brought to their short side and cropped"
        ours.note(f"{key}.name", name, why)
    name = theirs.take("transforms_train.name")
    if name is None:
        return
    train_size = theirs.take("transforms_train.args.im_size", 224)
    shape = ours.sections["model"].get("image_shape", [3, train_size, train_size])
    if train_size != shape[-1]:
        ours.note("transforms_train.args.im_size", train_size, f"trained and tested at one size, {shape[-1]}")
    if name == "augs_hypvit_torch":
        least = theirs.take("transforms_train.args.min_scale", 0.2)
        ours.put("data", augment=["crop", "flip"], crop_scale=[least, 1.0])
    elif name == "augs_torch":
        ours.put("data", augment=["flip"])
        ours.note("transforms_train.name", name, "images are flipped, and cropped where theirs are squashed")
    else:
        ours.note("transforms_train.name", name, "no counterpart; crop and flip are taken")


def _read_lists(theirs: Theirs, ours: Ours) -> None:
    ours.put("data", data_dir=theirs.take("dataset_root"))
    table = theirs.take("dataframe_name")
    if ours.script.startswith("train"):
        ours.put("data", train_list=table)
    ours.put("data", test_list=table)
    cached = theirs.take("cache_size", 0)
    if cached:
        ours.note("cache_size", cached, "a number of images; --cache_bytes is memory, as 2GB")


def _read_batches(theirs: Theirs, ours: Ours, labels: int | None, images: int | None) -> tuple[int | None, Epochs]:
    """(Images of a batch, steps of an epoch)."""
    _fill_in_defaults(theirs, ours)
    name = theirs.take("sampler.name") if isinstance(theirs.tree.get("sampler"), dict) else theirs.take("sampler")
    ours.put("run", test_batch_size=theirs.count("bs_val"))
    if name is None:
        batch = theirs.count("bs_train")
        ours.put("batches", sampler="shuffled", train_batch_size=batch)
        steps = images // batch if images and batch else None
        return batch, Epochs(steps)
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} has no counterpart; there are: {', '.join(SAMPLERS)}")
    sizes = ("sampler.args.n_labels", "sampler.args.n_instances")
    labels_in_batch, samples = (whole_number(path, theirs.needed(path)) for path in sizes)
    categories = 1
    ours.put("batches", sampler=name)
    if name != "balance":
        categories = theirs.count("sampler.args.n_categories", 1)
        ours.put("batches", n_categories=categories)
    batch = categories * labels_in_batch * samples
    ours.put("batches", train_batch_size=batch, samples_each_class=samples)
    for option in ("resample_labels", "weight_categories"):
        ours.put("batches", **{option: theirs.take(f"sampler.args.{option}")})
    if name == "distinct_category_balance":
        steps = theirs.count("sampler.args.epoch_size")
        ours.put("batches", epoch_size=steps)
        return batch, Epochs(steps)
    if labels is None:
        return batch, Epochs(None)
    steps = labels // labels_in_batch if name == "balance" else math.ceil(labels / labels_in_batch)
    return batch, Epochs(steps)


def _fill_in_defaults(theirs: Theirs, ours: Ours) -> None:
    """What the list `defaults` takes from the blocks that come with OML: an optimiser, a sampler."""
    for entry in theirs.take("defaults", []):
        if not isinstance(entry, dict):
            continue
        for block, name in entry.items():
            if block == "optimizer":
                theirs.tree.setdefault(block, {"name": name, "args": {"lr": 1e-5}})
            elif block == "sampler":
                theirs.tree.setdefault(block, {"name": name, "args": {"n_labels": 2, "n_instances": 2}})
            else:
                ours.note(f"defaults.{block}", name, "that block comes with OML; write it into the yaml")


def _read_optimisation(theirs: Theirs, ours: Ours, epochs: Epochs) -> None:
    name = theirs.take("optimizer.name")
    rate = theirs.number("optimizer.args.lr", 1e-3)
    momentum = theirs.number("optimizer.args.momentum", 0)
    if name not in OPTIMISERS:
        raise InputError(f"optimizer {name!r} has no counterpart; there are: {', '.join(OPTIMISERS)}")
    if name == "sgd" and momentum:
        ours.put("optimisation", optimiser="momentum", momentum=momentum)
    else:
        ours.put("optimisation", optimiser=name)
    decay = theirs.number("optimizer.args.weight_decay", 0.01 if name == "adamw" else 0)
    ours.put("optimisation", lr=rate, weight_decay=decay)
    ours.put("optimisation", lr_strategy="constant")
    _read_schedule(theirs, ours, epochs)

    frozen = theirs.count("freeze_n_epochs", 0, least=0)
    all_epochs = theirs.count("max_epochs")
    period = theirs.count("valid_period", 1)
    if epochs.steps is None:
        why = "an epoch's steps follow from the train list, which is not here; give --labels or --images"
        for path, value in (("max_epochs", all_epochs), ("valid_period", period), ("freeze_n_epochs", frozen)):
            if value:
                ours.note(path, value, why)
        return
    ours.put("optimisation", freeze_steps=epochs.times(frozen) if frozen else None)
    if all_epochs is not None and "total_iter_num" not in ours.sections["optimisation"]:
        ours.put("optimisation", total_iter_num=epochs.times(all_epochs))
    ours.put("run", test_iter_step=epochs.times(period), save_iter_step=epochs.times(period))


def _read_schedule(theirs: Theirs, ours: Ours, epochs: Epochs) -> None:
    if not isinstance(theirs.tree.get("scheduling"), dict):
        theirs.take("scheduling")
        return
    name = theirs.take("scheduling.scheduler.name")
    path = "scheduling.scheduler.args"
    interval = theirs.take("scheduling.scheduler_interval", "epoch")
    tick = theirs.count("scheduling.scheduler_frequency", 1)
    if interval == "epoch" and epochs.steps is None:
        why = "counted in epochs, whose steps follow from the train list; give --labels or --images"
        ours.note("scheduling.scheduler.name", name, why)
        return
    if interval == "epoch":
        tick *= epochs.steps
    factor = theirs.number(f"{path}.gamma", 0.1)
    if name == "multi_step":
        steps = theirs.take(f"{path}.milestones", [])
        if not isinstance(steps, list):
            raise InputError(f"{path}.milestones: {steps!r} is not a list")
        steps = [whole_number(f"{path}.milestones", step) * tick for step in steps]
        ours.put("optimisation", lr_strategy="multi_step", lr_steps=steps, lr_factor=factor)
    elif name == "step":
        period = whole_number(f"{path}.step_size", theirs.needed(f"{path}.step_size")) * tick
        ours.put("optimisation", lr_strategy="step", lr_period=period, lr_factor=factor)
    elif name == "exponential":
        ours.put("optimisation", lr_strategy="exponential", lr_period=tick, lr_factor=factor)
    elif name == "cosine_annealing":
        period = whole_number(f"{path}.T_max", theirs.needed(f"{path}.T_max")) * tick
        least = theirs.number(f"{path}.eta_min", 0)
        ours.put("optimisation", lr_strategy="cosine_annealing", lr_period=period, lr_min=least)
        if tick > 1:
            ours.note(f"{path}.T_max", period // tick, "the rate falls from step to step, not from epoch to epoch")
    elif name == "cyclic":
        period = theirs.count(f"{path}.step_size_up", 2000) * tick
        rates = {"lr": theirs.needed(f"{path}.max_lr"), "lr_min": theirs.needed(f"{path}.base_lr")}
        rates = {name: any_number(f"{path}: {name}", rate) for name, rate in rates.items()}
        ours.put("optimisation", lr_strategy="cyclic", lr_period=period, **rates)
    elif name == "one_cycle":
        total = theirs.count(f"{path}.total_steps")
        rate = any_number(f"{path}.max_lr", theirs.needed(f"{path}.max_lr"))
        ours.put("optimisation", lr_strategy="one_cycle", lr=rate)
        if total is not None:
            ours.put("optimisation", total_iter_num=total * tick)
    elif name == "reduce_on_plateau":
        factor = theirs.number(f"{path}.factor", 0.1)
        patience = theirs.take(f"{path}.patience", 10)
        least = theirs.number(f"{path}.min_lr", 0)
        ours.put("optimisation", lr_strategy="reduce_on_plateau", lr_factor=factor, lr_patience=patience, lr_min=least)
        ours.note("scheduling.monitor_metric", theirs.take("scheduling.monitor_metric"), "it watches the --best figure")
    else:
        ours.note("scheduling.scheduler.name", name, "its function is code; --lr_strategy=lambda takes a formula")
    if name in ("cyclic", "one_cycle"):
        ours.note("scheduling.scheduler.name", name, "the rate alone cycles, not the momentum")


def _figure_names(theirs: Theirs) -> dict[str, list[str]]:
    """{their argument: our names} of the figures that are asked for."""
    forms = {"cmc_top_k": "cmc@{}", "precision_top_k": "precision@{}", "map_top_k": "map@{}"}
    forms |= {"fmr_vals": "fnmr@fmr={}", "pcf_variance": "pcf@{}"}
    names = {}
    for argument, form in forms.items():
        names[argument] = [form.format(value) for value in theirs.take(f"metric_args.{argument}") or []]
    return names


def _read_testing(theirs: Theirs, ours: Ours) -> None:
    names = _figure_names(theirs)
    ours.put("run", test_metrics=[name for some in names.values() for name in some] or None)
    ours.put("run", test_distance=None if ours.is_normalised else "squared_euclidean")
    ours.put("run", report=True if theirs.take("log_images", False) else None)
    chosen = theirs.take("metric_for_checkpointing")
    mode = theirs.take("mode_for_checkpointing", "max")
    if chosen is None:
        return
    category, _, rest = str(chosen).partition("/")
    name, _, value = rest.rpartition("/")
    if name == "fnmr@fmr":
        figure = f"fnmr@fmr={value}"
    else:
        figure = f"{name}@{value}"
    ours.put("run", best=figure if category == "OVERALL" else f"{figure}/{category}")
    least = name == "fnmr@fmr"
    if (mode == "min") != least:
        ours.note("mode_for_checkpointing", mode, f"{figure} is chosen by its {'least' if least else 'greatest'} value")


def _read_figures(theirs: Theirs, ours: Ours) -> None:
    names = _figure_names(theirs)
    metrics = [*names["cmc_top_k"], *names["precision_top_k"], *names["map_top_k"]]
    ours.put("figures", metrics=metrics or None, definition="oml")
    ours.put("figures", fmr=[name.partition("=")[2] for name in names["fmr_vals"]] or None)
    ours.put("figures", pcf=[name.partition("@")[2] for name in names["pcf_variance"]] or None)
    if not ours.is_normalised:
        ours.put("figures", distance="squared_euclidean")


def _read_loggers(theirs: Theirs, ours: Ours) -> None:
    name = theirs.take("logger.name") if isinstance(theirs.tree.get("logger"), dict) else theirs.take("logger")
    if name in LOGGERS:
        ours.put("run", loggers=["jsonl", name])
    elif name is not None:
        ours.note("logger.name", name, f"no counterpart; there are: {', '.join(LOGGERS)}")
    for option in ("project", "project_name", "experiment_name"):
        ours.put("run", project=theirs.take(f"logger.args.{option}"))
    if theirs.take("logger.args.offline_mode", False):
        ours.note("logger.args.offline_mode", True, "set CLEARML_OFFLINE_MODE=1")
    uri = theirs.take("logger.args.tracking_uri")
    if uri is not None:
        ours.note("logger.args.tracking_uri", uri, "set MLFLOW_TRACKING_URI")
    ours.put("run", tags=theirs.take("tags"))
    root, folder = theirs.take("logs_root"), str(theirs.take("logs_folder", ""))
    if root is not None:
        ours.put("run", model_save_dir=str(Path(root) / folder))


def _read_machine(theirs: Theirs, ours: Ours) -> None:
    if ours.script.startswith("train"):
        ours.put("run", seed=theirs.take("seed"))
    ours.put("data", num_workers=theirs.take("num_workers"))
    precision = str(theirs.take("precision", 32))
    known = PRECISIONS.get(precision.partition("-")[0])
    ours.put("device", precision=known)
    if known is None:
        ours.note("precision", precision, "no counterpart; --precision has those that there are")
    if theirs.take("accelerator") == "cpu":
        ours.put("device", use_gpu=False)
    devices = theirs.take("devices", 1)
    count = len(devices) if isinstance(devices, list) else devices
    if not isinstance(count, int) or count < 0:
        ours.note("devices", devices, "start it by torchrun --nproc_per_node=...; a batch is that of all of them")
    elif count > 1:
        ours.note("devices", devices, f"start it by torchrun --nproc_per_node={count}; a batch is that of all of them")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="their yaml")
    parser.add_argument("--output", metavar="OURS.yaml", help="the file to write (default: it is printed)")
    parser.add_argument("--labels", type=positive, help="labels in the train list, where its csv is not there")
    parser.add_argument("--images", type=positive, help="images in the train list, where its csv is not there")
    args = parser.parse_args(argv)
    try:
        output = open_output(args.output, (".yaml", ".yml"))
        ours = translate(read_tree(args.config), args.labels, args.images)
        text = ours.as_text(args.config)
        if output is None:
            print(text, end="")
            return
        with replacing(output) as file:
            file.write(text.encode())
    except InputError as error:
        parser.error(str(error))
    for note in ours.notes:
        print(f"not here: {note}")
    print(f"written: {output}; python {ours.script}.py --config={output}")


def read_tree(file: str) -> dict[str, object]:
    """A yaml as plain values. Raises InputError where it is none, by file:line."""
    import yaml

    with yaml_errors(file):
        text = Path(file).read_text(encoding="utf-8")
        refuse_repeated_keys(file, yaml.compose(text, yaml.SafeLoader))
        tree = yaml.safe_load(text)
    if not isinstance(tree, dict):
        raise InputError(f"{file}: settings are `name: value` lines")
    return tree


if __name__ == "__main__":
    run_script(main)
