"""Embed images, those of a list, of a folder, or single files; keep them in an index and find them again.

python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz
python infer.py --pretrained_model=output --input cat.jpg dog.jpg --scores
python infer.py --pretrained_model=output --input photos/ --build_index=photos.index
python infer.py --search=photos.index --input cat.jpg --output hits.json hits.png
python infer.py --add_to=photos.index --input more/
python infer.py --delete_from=photos.index --input photos/blurred.jpg
"""

if __name__ == "__main__":  # before torch is loaded
    import openmp  # noqa: F401
import contextlib
from functools import partial

import torch

import indexing
import reader
from embedding import embed_rows, fingerprint, list_digest, rows_on_disk, save_embeddings, save_json, unnamed_rows
from engine import options, ranks, replay
from engine.embed import embed
from engine.flag_types import boolean, positive
from engine.run import say
from errors import InputError
from losses import LOSSES
from models import BACKBONES, RUNTIMES, fast_model
from models.embedder import POOLINGS
from models.pretrained import read_weights, weights_file
from retrieval.backends import BACKENDS
from session import choose_place, open_model, open_output, open_test_loader

PRINTED = 1000  # images whose features are printed


def parse(argv):
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--input", nargs="+", help="a folder, image files, or a list (default: the --test_list)")
    group.add_argument("--batch_size", type=positive, default=1, help="images in a batch")
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


def open_classifier(source):
    """The loss of a stage 1 run as a classifier, and the labels of its classes. Raises InputError for anything else."""
    config = replay.run_folder(weights_file(source)) / "config.json" if source and source != "imagenet" else None
    flags = replay.read_flags(config) if config and config.is_file() else {}
    name = flags.get("loss_name")
    if name not in LOSSES.names(stage="elem"):
        raise InputError(f"--scores needs a run of train_elem.py as --pretrained_model, got {source!r}")
    state = read_weights(weights_file(source))
    classes, width = state["loss"]["weight"].shape
    chosen = {option.name: flags[option.name] for option in LOSSES.options(name)}
    loss = LOSSES[name](embedding_size=width, num_classes=classes, **chosen)
    loss.load_state_dict(state["loss"])
    return loss.eval(), state["classes"]


@torch.inference_mode()
def best_scores(classifier, labels, embeddings):
    """The five likeliest labels of each embedding: (labels (N, 5), probabilities (N, 5))."""
    values, codes = classifier.scores(embeddings).softmax(dim=1).topk(min(5, len(labels)), dim=1)
    return labels[codes], values


def report(count, embeddings, classifier, labels, outputs):
    """The first numbers of the first images, their likeliest labels if asked for, and where everything went."""
    for i, embedding in enumerate(embeddings):
        print(f"Test-{i}-feature: {[round(value, 6) for value in embedding[:5].tolist()]}")
    if classifier:
        for i, (names, values) in enumerate(zip(*best_scores(classifier, labels, embeddings))):
            print(f"Test-{i}-scores: {', '.join(f'{n} {v:.4f}' for n, v in zip(names.tolist(), values.tolist()))}")
    written = f", written: {', '.join(map(str, outputs))}" if outputs else ""
    print(f"{count} images, {embeddings.shape[1]} numbers each{written}")


def main(argv):
    args = parse(argv)
    mode, go_on = indexing.chosen_mode(args), getattr(args, "continue")
    if mode == "delete_from":
        if ranks.first():
            indexing.delete(args.delete_from, args.input)
        return
    if go_on and (mode == "search" or not args.output):
        raise InputError("--continue goes with --output of embeddings, beside which a stopped run keeps what it has")
    device, precision = choose_place(args)
    index = indexing.open_index(args, mode) if mode else None
    images = reader.open_inputs(args.input or [args.test_list], args.data_dir)
    source, flags = indexing.model_of(args, index)
    model = open_model(source, flags).to(device)
    card = fingerprint(model, flags)
    if index:
        index.refuse_others(card)
    classifier, labels = open_classifier(source) if args.scores else (None, None)
    size = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    open_images = partial(open_test_loader, flags=flags, **size, device=device)
    loader = open_images(images)  # a size that cannot be is refused before there is a folder to write to
    suffixes = (".json", ".png") if mode == "search" else (".npz", ".json")
    outputs = [open_output(path, suffixes) for path in args.output or ()]
    model = fast_model(model, precision, args.runtime, flags["image_shape"])
    if mode == "search":
        embeddings = embed(model, loader, device)
        if ranks.first():
            indexing.search(index, images, embeddings, card, args, outputs)
        return
    if not (mode or outputs) and len(images) > PRINTED:
        say(f"the first {PRINTED} of {len(images)} images are embedded and printed; --output keeps those of all")
        images = images.take(slice(PRINTED))
    if outputs:
        made = {**card, "precision": precision, "runtime": args.runtime, "list": list_digest(images)}
        place = rows_on_disk(f"{outputs[0]}.rows", made, model.embedding_size, go_on)
    else:
        place = unnamed_rows(indexing.folder_for_rows(args), model.embedding_size)
    with place if ranks.first() else contextlib.nullcontext() as rows:
        embed_rows(rows, images, open_images, model, device, args.batch_size)
        if not ranks.first():
            return
        for path in outputs:
            save_json(path, images, rows) if path.suffix == ".json" else save_embeddings(path, images, rows, card)
        if mode == "build_index":
            indexing.build(args, images, rows.mapped(), card)
        elif mode == "add_to":
            indexing.add(index, images, rows.mapped(), card)
        else:
            report(len(rows), torch.from_numpy(rows.head(PRINTED)), classifier, labels, outputs)


if __name__ == "__main__":
    options.run_script(main)
