"""From flags to objects: what the scripts share between parsing and their result."""

import argparse
import contextlib
import inspect
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import distributed
from config.replay import read_flags
from core.console import log
from core.device import search_device
from core.errors import InputError
from core.files import make_folder, run_folder
from core.types import count, image_shape, plain, width
from data.image.transforms import TestTransform, TrainTransform
from data.lists import hold_out, open_lists, refuse_broken_images
from data.loader import open_loader
from data.records import Records
from data.samplers.in_order import InOrder
from distributed.sync_batchnorm import synchronise
from models import Embedder, load_pretrained
from models.batchnorm import statistics_left_alone
from models.export.safetensors import CARD
from models.weights import read_card, refuse_untrained, weights_file
from retrieval import QueryGallery
from retrieval.sharded import Shard

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


def open_data(data_dir, train_list, test_list, val_classes, on_bad_image):
    """A run's TrainingData: two lists, or of the train list some labels held out to test on.

    Every image that a run will look at is looked at before it begins. Raises InputError for one that cannot be read.
    """
    if val_classes:
        (train,) = open_lists([(train_list, "train")], data_dir)
        train, test = hold_out(train, val_classes)
        tested_on = f"{val_classes} train labels held out"
    else:
        train, test = open_lists([(train_list, "train"), (test_list, "test")], data_dir)
        tested_on = f"the test list {Path(test.source).name}"
    refuse_broken_images([test] if on_bad_image == "skip" else [train, test])
    return TrainingData(train, test, tested_on)


class TrainingData(NamedTuple):
    """The list to train on, the list to test on, and what that is, in words."""

    train: Records
    test: Records
    tested_on: str


def build_model(source, flags, *, freeze_bn, sync_bn, freeze_stages, compile, single_images):
    """The Embedder that `flags` describe, on the CPU, ready to be trained.

    source: where its first weights come from, as --pretrained_model; None leaves them random. single_images: whether it
    is trained on one image at a time, which BatchNorm cannot do with, unless maps are large.
    """
    model = open_model(source, flags, freeze_bn=freeze_bn, freeze_stages=freeze_stages)
    if single_images:
        try_out(model, flags["image_shape"], 1, training=True)
    if sync_bn and distributed.world_size() > 1:
        synchronise(model)
    if compile:
        log("the network is compiled in the first steps, which takes minutes")
        model.compile()
    return model


def flags_of(args, function):
    """The flags that are keywords of `function`, {name: value}, as far as the script has them."""
    keywords = inspect.signature(function).parameters.values()
    names = [keyword.name for keyword in keywords if keyword.kind is keyword.KEYWORD_ONLY]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


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


def open_test_loader(images, flags, batch_size, num_workers, device, on_bad=None):
    """The images in order, in the test geometry; several ranks have the batches in turn.

    on_bad(index, sentence): None, or told of images that cannot be read, which are left out of their batches then.
    """
    shape = flags["image_shape"]
    transform = TestTransform(*shape[1:], flags["resize_short_size"])
    batches = InOrder(len(images), batch_size, distributed.rank(), distributed.world_size())
    codes = np.zeros(len(images), np.int64) if images.labels is None else images.vocabulary.codes
    loading = {"on_bad": on_bad, "drops": True, "batch_bytes": min(batch_size, len(images)) * math.prod(shape)}
    return open_loader(images, codes, transform, batches, num_workers, device.type == "cuda", **loading)


def open_train_loader(args, images, labels, flags, batches, decode, on_bad, device):
    """Endless batches of the train list; on_bad(index, sentence) is told of images that --on_bad_image=skip leaves."""
    height, width = flags["image_shape"][1:]
    transform = TrainTransform(height, width, flags["resize_short_size"], args.augment, args.crop_scale)
    loading = {"decode": decode if "crop" in args.augment else "exact"}  # only a crop can do with a coarser picture
    loading |= {"cache_bytes": args.cache_bytes, "cache_kind": args.cache_kind}
    loading |= {"on_bad": on_bad if args.on_bad_image == "skip" else None}
    loading |= {"batch_bytes": -(-args.train_batch_size // distributed.world_size()) * math.prod(flags["image_shape"])}
    return open_loader(images, labels, transform, batches, args.num_workers, device.type == "cuda", **loading)


def task_of(embeddings, images, device):
    """The list's queries against its gallery, as a retrieval Task; an image without a sequence is one of its own.

    embeddings: (N, D), or this rank's Shard of them, which the Task only stands around. device: the one in use; the
    search runs there if it can (core/device.py).
    """
    if isinstance(embeddings, Shard):
        table = embeddings.stand_in()
    else:
        table = embeddings.to(search_device(device, embeddings))
    sequences = images.sequences
    if sequences is not None:
        own = np.array([f"image {i}" for i in range(len(images))])
        sequences = np.where(sequences == "", own, np.char.add("sequence ", sequences.astype(str)))
    flags = {"is_query": images.is_query, "is_gallery": images.is_gallery}
    return QueryGallery.of(
        table, images.vocabulary.codes, **flags, sequences=sequences, categories=images.category_texts
    )


def open_output(path, suffixes):
    """A path to write a file to, its folder made; None for None. Raises InputError when that cannot be."""
    if path is None:
        return None
    suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes
    if Path(path).suffix not in suffixes:
        raise InputError(f"cannot write {str(path)!r}: it has to end in {' or '.join(suffixes)}")
    make_folder(Path(path).parent)
    return Path(path)
