"""From flags to objects: what the scripts share between parsing and their result."""

import contextlib
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import torch

import distributed
from config.replay import run_folder
from core.console import log
from core.device import choose_device, choose_precision
from core.errors import InputError
from core.files import checksum, make_folder, read_flags
from core.types import plain
from data.image.transforms import TestTransform, TrainTransform
from data.loader import open_loader
from data.samplers import InOrder
from core.files import checksum, open_output  # noqa: F401
from core.types import count, image_shape, plain, width
from data import loader
from distributed import sharded_classes
from engine.objective import Objective
from engine.seeding import seed_everything
from losses import LOSSES
from models import ModelSettings, build_model, check_forward, trained_settings
from models import build as models_build
from models.trained import read_settings
from retrieval import QueryGallery
from retrieval.best_positive import positive_ranks
from retrieval.sharded import GalleryShard

RECALLS = (1, 5, 10)
MODEL_DEFAULTS = {
    "model": ModelSettings.model,
    "image_shape": ModelSettings.image_shape,
    "resize_short_size": ModelSettings.resize_short_size,
    "embedding_size": ModelSettings.embedding_size,
    "pooling": ModelSettings.pooling,
}
DATA_DEFAULTS = {"data_dir": None, "train_list": "Ebay_train.txt", "test_list": "Ebay_test.txt"}
read_model_flags = read_settings


def model_flags(args):
    """The MODEL_DEFAULTS flags of `args`; what is None there comes from --pretrained_model, as far as that says it."""
    trained = trained_settings(args.pretrained_model)
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


def open_model(source, flags):
    """models.open_model for model flags {name: value} and --pretrained_model."""
    return models_build.open_model(ModelSettings(**flags, pretrained_model=source))


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
    model = build_model(
        ModelSettings(**flags, pretrained_model=source),
        freeze_bn=args.freeze_bn,
        sync_bn=args.sync_bn,
        freeze_stages=args.freeze_stages,
        compile=args.compile,
    )
    at_a_time = args.micro_batch or args.train_batch_size
    if 1 in (at_a_time, args.train_batch_size % at_a_time):  # which BatchNorm cannot do with, unless maps are large
        check_forward(model, flags["image_shape"], 1, training=True)
    facts = {"embedding_size": model.embedding_size, "num_classes": num_classes}
    facts = {name: facts[name] for name in LOSSES.requirements(args.loss_name)}
    options = {option.name: getattr(args, option.name) for option in LOSSES.options(args.loss_name)}
    loss = sharded_classes.build_loss(LOSSES[args.loss_name], in_parts, **facts, **options)
    objective = Objective(model, loss, batch_recall=stage == "pair", part_of_loss=in_parts)
    return objective.to(memory_format=torch.channels_last)


def choose_place(args):
    """(device, precision) that images are embedded on and in, where the ranks have met.

    Raises InputError for an accelerator with openvino.
    """
    if args.runtime == "openvino" and args.use_gpu:
        raise InputError("--runtime=openvino embeds on the CPU; leave --use_gpu out, or take --runtime=torch")
    device = choose_device(False if args.runtime == "openvino" else args.use_gpu)
    distributed.init(device)
    return device, choose_precision(args.precision, device)


def open_test_loader(images, flags, batch_size, num_workers, device, on_bad=None):
    """As data.loader's, with the model's flags."""
    return loader.open_test_loader(images, SimpleNamespace(**flags), batch_size, num_workers, device, on_bad)


def open_train_loader(args, images, flags, batches, decode, on_bad, device):
    """As data.loader's, with the flags; on_bad is told where --on_bad_image is skip."""
    return loader.open_train_loader(
        images,
        batches,
        SimpleNamespace(**flags),
        args.train_batch_size,
        args.num_workers,
        device,
        on_bad if args.on_bad_image == "skip" else None,
        augment=args.augment,
        crop_scale=args.crop_scale,
        decode=decode,
        cache_bytes=args.cache_bytes,
        cache_kind=args.cache_kind,
    )


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


def task_of(embeddings, images, device):
    """The list's queries against its gallery, as a QueryGallery; an image without a sequence is one of its own.

    embeddings: (N, D), or this rank's GalleryShard of them, for which a placeholder stands. device: the one in use; the
    search runs there if it can (core/device.py).
    """
    if isinstance(embeddings, GalleryShard):
        table = embeddings.placeholder()
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


def recalls(embeddings, images, device):
    """Recall@1, 5, 10 of embedded images, {k: float}: the list's queries against its gallery."""
    ranks = positive_ranks(EmbeddingTable(images, embeddings).query_gallery(device), RECALLS)
    return {k: (ranks < k).double().mean().item() for k in RECALLS}
