"""Embed images, those of a list, of a folder, or single files; keep them in an index and find them again.

python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz
python infer.py --pretrained_model=output --input cat.jpg dog.jpg --scores
python infer.py --pretrained_model=output --input photos/ --build_index=photos.index
python infer.py --search=photos.index --input cat.jpg --output hits.json hits.png
python infer.py --add_to=photos.index --input more/
python infer.py --delete_from=photos.index --input photos/blurred.jpg
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import contextlib
from functools import partial

import numpy as np
import torch

import distributed
import indexing
from config import options
from core.console import log
from core.device import open_device
from core.errors import InputError
from core.types import boolean, one_of, positive
from core.versions import package_versions
from data.lists import open_inputs, open_list, refuse_broken_images
from data.names import Names
from embeddings.files import save_embeddings, save_json
from embeddings.fingerprint import fingerprint
from embeddings.streaming import KeyedRows, Ordered, embed_rows, rows_on_disk, unnamed_rows
from losses import LOSSES
from models import BACKBONES, RUNTIMES, fast_model
from models.pooling import POOLINGS
from models.weights import read_weights, weights_file
from retrieval.index.backends import BACKENDS
from session import data_flags, open_model, open_output, open_test_loader

PRINTED = 1000  # images whose features are printed


def parse(argv):
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--input", nargs="+", help="a folder, image files, or a list (default: the --test_list)")
    group.add_argument("--batch_size", type=positive, default=1, help="images in a batch")
    bad = one_of(("stop", "skip"))
    group.add_argument("--on_bad_image", type=bad, default="stop", help="at one that cannot be read: stop, or skip it")
    options.add_device_flags(parser, precision="fp32", runtimes=RUNTIMES)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output",
        nargs="+",
        help="files to write: embeddings with their list and model as .npz, {path: embedding} as .json; of a --search "
        "its hits as .json, a picture of them as .png",
    )
    switch = {"type": boolean, "nargs": "?", "const": True, "default": False}
    group.add_argument("--continue", **switch, help="go on with the --output of a run that was stopped")
    group.add_argument("--scores", **switch, help="print the five likeliest train labels (stage 1 runs)")
    indexing.add_flags(parser, argv)
    return options.parse(parser, argv, BACKENDS, foreign=())


class Classifier:
    """The loss of a stage 1 run as a classifier of embeddings.

    source: --pretrained_model, a run of train_elem.py or a checkpoint of one. Raises InputError for anything else.
    """

    def __init__(self, source):
        state = read_weights(weights_file(source)) if source and source != "imagenet" else {}
        flags = state["config"]["flags"] if "config" in state else {}
        name = flags.get("loss_name")
        if name not in LOSSES.names(stage="elem"):
            raise InputError(f"--scores needs a run of train_elem.py as --pretrained_model, got {source!r}")
        classes, width = state["loss"]["weight"].shape
        chosen = {option.name: flags[option.name] for option in LOSSES.options(name)}
        self.loss = LOSSES[name](embedding_size=width, num_classes=classes, **chosen)
        self.loss.load_state_dict(state["loss"])
        self.loss.eval()
        labels, names = state["classes"], Names(state.get("names", {}), {})
        labels = labels.numpy() if torch.is_tensor(labels) else np.array(labels, dtype=np.str_)
        self.labels = names.of_labels(labels)

    @torch.inference_mode()
    def best(self, embeddings):
        """The five likeliest labels of each embedding, with their probabilities: a list of (name, float) each."""
        values, codes = self.loss.scores(embeddings).softmax(dim=1).topk(min(5, len(self.labels)), dim=1)
        return [list(zip(self.labels[row], own)) for row, own in zip(codes.numpy(), values.tolist())]


def report(images, embeddings, classifier, outputs):
    """The first numbers of the first images, their likeliest labels if asked for, and where everything went."""
    for i, embedding in enumerate(embeddings):
        print(f"Test-{i}-feature: {[round(value, 6) for value in embedding[:5].tolist()]}")
    for i, likeliest in enumerate(classifier.best(embeddings) if classifier else ()):
        print(f"Test-{i}-scores: {', '.join(f'{name} {value:.4f}' for name, value in likeliest)} ({images.paths[i]})")
    written = f", written: {', '.join(map(str, outputs))}" if outputs else ""
    print(f"{len(images)} images, {embeddings.shape[1]} numbers each{written}")


def open_images(args):
    """The ImageList that the flags name, with what should be known of it said."""
    if args.input:
        images = open_inputs(args.input, args.data_dir)
    else:
        data = data_flags(args)
        images = open_list(data["test_list"], data["data_dir"], "test")
    for note in images.notes:
        log(f"note: {note}")
    return images


def main(argv):
    args = parse(argv)
    mode, go_on = indexing.chosen_mode(args), getattr(args, "continue")
    if mode == "delete_from":
        if distributed.is_first():
            indexing.delete(args.delete_from, args.input, args.data_dir)
        return
    if go_on and (mode == "search" or not args.output):
        raise InputError("--continue goes with --output of embeddings, beside which a stopped run keeps what it has")
    device, precision = open_device(use_gpu=args.use_gpu, precision=args.precision, runtime=args.runtime)
    distributed.init(device)
    index = indexing.open_index(args, mode) if mode else None
    images = open_images(args)
    source, flags = indexing.model_of(args, index)
    model = open_model(source, flags).to(device)
    card = fingerprint(model, flags)
    if index:
        index.refuse_others(card)
    classifier = Classifier(source) if args.scores else None
    suffixes = (".json", ".png") if mode == "search" else (".npz", ".json")
    if not (mode or args.output) and len(images) > PRINTED:
        log(f"the first {PRINTED} of {len(images)} images are embedded and printed; --output keeps those of all")
        images = images.take(slice(PRINTED))
    skips = args.on_bad_image == "skip"
    if not skips:
        refuse_broken_images([images])
    size = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    open_batches = partial(open_test_loader, flags=flags, **size, device=device, on_bad=say_skipped if skips else None)
    open_batches(images)  # a size that cannot be is refused before there is a folder to write to
    outputs = [open_output(path, suffixes) for path in args.output or ()]
    model = fast_model(model, precision, args.runtime, flags["image_shape"])
    if outputs and mode != "search":
        made = {**card, "precision": precision, "runtime": args.runtime, **package_versions()}
        place = rows_on_disk(f"{outputs[0]}.rows", made, model.embedding_size, go_on)
    else:
        place = unnamed_rows(indexing.folder_for_rows(args), model.embedding_size)
    with place if distributed.is_first() else contextlib.nullcontext() as rows:
        order = embed_rows(rows, images, open_batches, model, device, args.batch_size)
        if not distributed.is_first():
            return
        images, rows = what_was_read(images, rows, order)
        if mode == "search":
            indexing.search(index, images, torch.from_numpy(rows.head(len(rows))), card, args, outputs)
            return
        for path in outputs:
            save_json(path, images, rows) if path.suffix == ".json" else save_embeddings(path, images, rows, card)
        if mode == "build_index":
            indexing.build(args, images, rows.mapped(), card)
        elif mode == "add_to":
            indexing.add(index, images, rows.mapped(), card)
        else:
            report(images, torch.from_numpy(rows.head(PRINTED)), classifier, outputs)


def say_skipped(_, sentence):
    log(f"{sentence}; skipped", by_first=False)


def what_was_read(images, rows, order):
    """(the images that could be read, their embeddings in the same order). order (N,): the row of each, -1 for none."""
    read = order >= 0
    if not read.any():
        raise InputError(f"not one of {len(images)} images could be read")
    if not read.all():
        log(f"{len(images) - read.sum()} of {len(images)} images could not be read and are left out")
        images, order = images.take(read), order[read]
    table = rows.rows if isinstance(rows, KeyedRows) else rows
    in_order = len(order) == len(table) and np.array_equal(order, np.arange(len(table)))
    return images, table if in_order else Ordered(table, order)


if __name__ == "__main__":
    options.run_script(main)
