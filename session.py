"""From flags to objects: what the scripts share between parsing and their result."""

from pathlib import Path

import numpy as np

from engine import ranks
from engine.device import choose_device, choose_precision, search_device
from engine.options import plain, read_flags, run_folder
from engine.run import checksum, make_folder, say
from errors import InputError
from loader import open_loader
from models import Embedder, load_pretrained
from models.pretrained import weights_file
from retrieval import Task
from retrieval.ranks import positive_ranks
from samplers import InOrder
from transforms import TestTransform

RECALLS = (1, 5, 10)
MODEL_DEFAULTS = {
    "model": "ResNet50",
    "image_shape": (3, 224, 224),
    "resize_short_size": 0,
    "embedding_size": 0,
    "pooling": "avg",
}


def model_flags(args):
    """The MODEL_DEFAULTS flags of `args`; what is None there comes from the --pretrained_model run, if it is one."""
    run = {}
    open_flags = any(getattr(args, name) is None for name in MODEL_DEFAULTS)
    if open_flags and args.pretrained_model and args.pretrained_model != "imagenet":
        config = run_folder(weights_file(args.pretrained_model)) / "config.json"
        run = read_flags(config) if config.is_file() else {}
    flags = {}
    for name, default in MODEL_DEFAULTS.items():
        given = getattr(args, name)
        if given is None and name in run:
            say(f"--{name}={plain(run[name])} taken from {args.pretrained_model}")
        flags[name] = given if given is not None else run.get(name, default)
    return flags


def open_model(source, flags, **training_flags):
    """The Embedder that `flags` describe, on the CPU, with the weights of `source` (--pretrained_model)."""
    imagenet = source == "imagenet"
    facts = {name: flags[name] for name in ("model", "embedding_size", "pooling")}
    model = Embedder(**facts, **training_flags, imagenet=imagenet)
    if source and not imagenet:
        for note in load_pretrained(model, source):
            say(f"{source}: {note}")
    return model


def choose_place(args):
    """(device, precision) that images are embedded on and in, where the ranks have met.

    Raises InputError for an accelerator with openvino.
    """
    if args.runtime == "openvino" and args.use_gpu:
        raise InputError("--runtime=openvino embeds on the CPU; leave --use_gpu out, or take --runtime=torch")
    device = choose_device(False if args.runtime == "openvino" else args.use_gpu)
    ranks.join(device)
    return device, choose_precision(args.precision, device)


def open_test_loader(images, flags, batch_size, num_workers, device):
    """The images in order, in the test geometry; several ranks have the batches in turn."""
    transform = TestTransform(*flags["image_shape"][1:], flags["resize_short_size"])
    batches = InOrder(len(images), batch_size, ranks.rank(), ranks.count())
    return open_loader(images, images.labels, transform, batches, num_workers, device.type == "cuda")


def list_facts(images):
    """What config.json remembers of a list."""
    return {
        "file": images.source,
        "sha256": checksum(images.source),
        "images": len(images),
        "labels": len(set(images.labels.tolist())),
    }


def task_of(embeddings, images, device):
    """The list's queries against its gallery, as a retrieval Task; an image without a sequence is one of its own.

    device: the one in use; the search runs there if it can (engine/device.py).
    """
    sequences = images.sequences
    if sequences is not None:
        own = np.array([f"image {i}" for i in range(len(images))])
        sequences = np.where(sequences == "", own, np.char.add("sequence ", sequences.astype(str)))
    flags = {"is_query": images.is_query, "is_gallery": images.is_gallery}
    embeddings = embeddings.to(search_device(device, embeddings))
    return Task.of(embeddings, images.labels, **flags, sequences=sequences, categories=images.categories)


def recalls(embeddings, images, device):
    """Recall@1, 5, 10 of embedded images, {k: float}: the list's queries against its gallery."""
    ranks = positive_ranks(task_of(embeddings, images, device), RECALLS)
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
