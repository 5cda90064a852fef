"""From flags to objects: what the scripts share between parsing and their result."""

import argparse
import contextlib
import hashlib
import math
import os
from pathlib import Path

import torch

import distributed
from config.replay import read_flags, run_folder
from core.console import log
from core.device import choose_device, choose_precision
from core.errors import InputError
from core.files import checksum, make_folder
from core.types import count, image_shape, plain, width
from data.image.transforms import TrainTransform
from data.loader import open_loader
from distributed import sharded_classes
from distributed.sync_batchnorm import synchronise
from embeddings.table import EmbeddingTable
from engine.objective import Objective
from engine.seeding import seed_everything
from engine.step import statistics_left_alone
from losses import LOSSES
from models import Embedder, load_pretrained
from models.export.safetensors import CARD
from models.weights import read_card, refuse_untrained, weights_file
from retrieval.best_positive import positive_ranks

RECALLS = (1, 5, 10)
MODEL_DEFAULTS = {
    "model": "ResNet50",
    "image_shape": (3, 224, 224),
    "resize_short_size": 0,
    "embedding_size": 0,
    "pooling": "avg",
}
DATA_DEFAULTS = {"data_dir": None, "train_list": "Ebay_train.txt", "test_list": "Ebay_test.txt"}
MODEL_TYPES = {
    "model": str,
    "image_shape": image_shape,
    "resize_short_size": count,
    "embedding_size": width,
    "pooling": str,
}


def read_model_flags(flags, file):
    """Those of MODEL_DEFAULTS in `flags`, which come from `file`, as if they had been typed; raises InputError."""
    read = {name: flags[name] for name in MODEL_DEFAULTS if flags.get(name) is not None}
    for name, value in read.items():
        try:
            read[name] = MODEL_TYPES[name](plain(value))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{str(file)!r}: {name} {error}") from None
    return read


def model_flags(args):
    """The MODEL_DEFAULTS flags of `args`; what is None there comes from --pretrained_model, as far as that says it."""
    trained = trained_flags(args.pretrained_model)
    flags = {}
    for name, default in MODEL_DEFAULTS.items():
        given = getattr(args, name)
        if given is None and name in trained:
            log(f"--{name}={plain(trained[name])} taken from {args.pretrained_model}")
        flags[name] = given if given is not None else trained.get(name, default)
    shapes = ("image_shape", "resize_short_size")
    for name in [name for name in shapes if name in trained and flags[name] != trained[name]]:
        log(f"note: --{name}={plain(flags[name])}, but {args.pretrained_model} was trained with {plain(trained[name])}")
    return flags


def trained_flags(source):
    """Those of MODEL_DEFAULTS that `source` (--pretrained_model) was trained with; none for ImageNet and foreign files.

    A run's folder says so in its config.json, a model's in its model.json. A weights file that is named itself says so
    by what is in it, since it may have been copied alone, and if there is nothing by the run that it lies in.
    """
    if not source or source == "imagenet":
        return {}
    file = weights_file(source)
    cards = [file.parent / name for name in ("config.json", CARD) if (file.parent / name).is_file()]
    if Path(source).is_dir() and cards:
        return read_model_flags(read_flags(cards[0]), cards[0])
    own = read_card(file)
    if own or not cards:
        return read_model_flags(own, file)
    with contextlib.suppress(InputError):  # a config.json beside a stranger's weights is a stranger's
        return read_model_flags(read_flags(cards[0]), cards[0])
    return {}


def data_flags(args):
    """--data_dir, --train_list and --test_list, {name: value}, as far as a script has them.

    Where all of them are left open they are those of the --pretrained_model run, if it is one, else DATA_DEFAULTS.
    """
    names = [name for name in DATA_DEFAULTS if hasattr(args, name)]
    given = {name: getattr(args, name) for name in names}
    source = args.pretrained_model
    config = run_folder(source) / "config.json" if source and source != "imagenet" else None
    if config and config.is_file() and not any(given.values()):
        with contextlib.suppress(InputError):  # a stranger's config.json tells of no data
            run = read_flags(config)
            given = {name: run.get(name) for name in names}
            taken = [f"--{name}={value}" for name, value in given.items() if value not in (None, DATA_DEFAULTS[name])]
            if taken:
                log(f"{' '.join(taken)} taken from {source}")
    return {name: DATA_DEFAULTS[name] if value is None else value for name, value in given.items()}


def open_model(source, flags, **training_flags):
    """The Embedder that `flags` describe, on the CPU, with the weights of `source` (--pretrained_model).

    Without training flags it is to be used as it is: raises InputError where its embedding layer is nobody's.
    """
    imagenet, is_final = source == "imagenet", not training_flags
    facts = {name: flags[name] for name in ("model", "embedding_size", "pooling")}
    model = Embedder(**facts, **training_flags, imagenet=imagenet)
    if source and not imagenet:
        for note in load_pretrained(model, source, is_final):
            log(f"{source}: {note}")
    if imagenet and is_final:
        refuse_untrained(model, list(model.state_dict()), "ImageNet's weights have none")
    if is_final and not source:
        log("note: the weights are random, since there is no --pretrained_model")
    try_out(model, flags["image_shape"], 1, training=False)
    return model


def shares_classes(args, precision):
    """Whether each rank has a share of the class weights. Raises InputError for flags that ranks cannot do together."""
    several = distributed.world_size() > 1
    in_parts = several and getattr(args, "shard_classes", False)
    if in_parts and precision == "fp16":
        raise InputError("--shard_classes does not go with --precision=fp16; take bf16 or fp32")
    if several and args.sync_bn and args.micro_batch:
        raise InputError("--sync_bn makes no sense with --micro_batch, of which BatchNorm sees one at a time")
    return in_parts


def build_objective(args, flags, num_classes, stage, source, in_parts):
    """Network and loss of a training run as one module, on the CPU.

    source: where the network's first weights come from, as --pretrained_model; None leaves them random. in_parts: of
    the class weights each rank has its share.
    """
    if args.micro_batch > args.train_batch_size:
        batch = f"train_batch_size, {args.train_batch_size}"
        raise InputError(f"micro_batch is {args.micro_batch}, more than {batch}; 0 is all of it")
    seed_everything(args.seed)
    model = open_model(source, flags, freeze_bn=args.freeze_bn, freeze_stages=args.freeze_stages)
    at_a_time = args.micro_batch or args.train_batch_size
    if 1 in (at_a_time, args.train_batch_size % at_a_time):  # which BatchNorm cannot do with, unless maps are large
        try_out(model, flags["image_shape"], 1, training=True)
    facts = {"embedding_size": model.embedding_size, "num_classes": num_classes}
    facts = {name: facts[name] for name in LOSSES.requirements(args.loss_name)}
    options = {option.name: getattr(args, option.name) for option in LOSSES.options(args.loss_name)}
    loss = sharded_classes.build_loss(LOSSES[args.loss_name], in_parts, **facts, **options)
    if args.sync_bn and distributed.world_size() > 1:
        synchronise(model)
    objective = Objective(model, loss, batch_recall=stage == "pair", part_of_loss=in_parts)
    if args.compile:
        log("the network is compiled in the first steps, which takes minutes")
        objective.model.compile()
    return objective.to(memory_format=torch.channels_last)


def try_out(model, image_shape, images, training):
    """Raise InputError unless `model`, on the CPU, takes a batch of so many images; leaves it and all draws as is."""
    before = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), statistics_left_alone(model.train(training)):
            model(torch.zeros(images, *image_shape, dtype=torch.uint8))
    except (RuntimeError, ValueError) as error:
        name, (_, height, width) = model.facts["model"], image_shape
        text = f"{name} cannot {'train on' if training else 'embed'} {images} at a time of {height}x{width} pixels"
        raise InputError(f"{text}: {str(error).splitlines()[0]}") from None
    finally:
        model.train(before)


def choose_place(args):
    """(device, precision) that images are embedded on and in, where the ranks have met.

    Raises InputError for an accelerator with openvino.
    """
    if args.runtime == "openvino" and args.use_gpu:
        raise InputError("--runtime=openvino embeds on the CPU; leave --use_gpu out, or take --runtime=torch")
    device = choose_device(False if args.runtime == "openvino" else args.use_gpu)
    distributed.init(device)
    return device, choose_precision(args.precision, device)


def open_train_loader(args, images, labels, flags, batches, decode, on_bad, device):
    """Endless batches of the train list; on_bad(index, sentence) is told of images that --on_bad_image=skip leaves."""
    height, width = flags["image_shape"][1:]
    transform = TrainTransform(height, width, flags["resize_short_size"], args.augment, args.crop_scale)
    loading = {"decode": decode if "crop" in args.augment else "exact"}  # only a crop can do with a coarser picture
    loading |= {"cache_bytes": args.cache_bytes, "cache_kind": args.cache_kind}
    loading |= {"on_bad": on_bad if args.on_bad_image == "skip" else None}
    loading |= {"batch_bytes": -(-args.train_batch_size // distributed.world_size()) * math.prod(flags["image_shape"])}
    return open_loader(images, labels, transform, batches, args.num_workers, device.type == "cuda", **loading)


def list_facts(images):
    """What config.json remembers of a list; a folder is known by the files and labels that are in it."""
    source = Path(images.source)
    return {
        "file": images.source,
        "sha256": folder_checksum(images, source) if source.is_dir() else checksum(source),
        "images": len(images),
        "labels": len(images.vocabulary),
    }


def folder_checksum(images, folder):
    """SHA-256 over the paths below `folder` and the labels of an ImageList, hexadecimal."""
    digest = hashlib.sha256()
    for path, label in zip(images.paths.tolist(), images.labels.tolist()):
        digest.update(os.fsencode(os.path.relpath(path, folder)) + f"\0{label}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def note_other_list(source, split, facts):
    """Say where the run `source` (--pretrained_model), if it is one, had another train or test list.

    facts: list_facts of this one. A folder that does not tell of its lists, such as a stranger's, had none.
    """
    config = run_folder(source) / "config.json" if source and source != "imagenet" else None
    if config and config.is_file():
        with contextlib.suppress(InputError, KeyError, TypeError):
            before = read_flags(config, "lists")[split]
            if before["sha256"] != facts["sha256"]:
                log(f"note: the {split} list is {facts['file']}, that of {source} was {before['file']}")


def refuse_other_lists(now, before):
    """Raise InputError where a list is not the one that an earlier run read; both {split: list_facts}."""
    for split, facts in now.items():
        if facts["sha256"] != before[split]["sha256"]:
            raise InputError(f"the {split} list {facts['file']} is not what it was when the run began")


def recalls(embeddings, images, device):
    """Recall@1, 5, 10 of embedded images, {k: float}: the list's queries against its gallery."""
    ranks = positive_ranks(EmbeddingTable(images, embeddings).query_gallery(device), RECALLS)
    return {k: (ranks < k).double().mean().item() for k in RECALLS}


def open_output(path, suffixes):
    """A path to write a file to, its folder made; None for None. Raises InputError when that cannot be."""
    if path is None:
        return None
    suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes
    if Path(path).suffix not in suffixes:
        raise InputError(f"cannot write {str(path)!r}: it has to end in {' or '.join(suffixes)}")
    make_folder(Path(path).parent)
    return Path(path)
