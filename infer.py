"""Embed images: those of a list, of a folder, or single files.

python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz
python infer.py --pretrained_model=output --input cat.jpg dog.jpg --scores
"""

import json

import numpy as np
import torch

import reader
from engine import options
from engine.device import choose_device, choose_precision
from engine.embed import embed
from engine.flag_types import boolean, positive
from errors import InputError
from losses import LOSSES
from models import BACKBONES
from models.embedder import POOLINGS
from models.pretrained import read_weights, weights_file
from session import model_flags, open_model, open_output, open_test_loader


def parse(argv):
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--input", nargs="+", help="a folder, image files, or a list (default: the --test_list)")
    group.add_argument("--batch_size", type=positive, default=1, help="images in a batch")
    options.add_device_flags(parser, precision="fp32")
    group = parser.add_argument_group("results")
    group.add_argument("--output", help="write paths and embeddings to this .npz, or {path: embedding} to this .json")
    group.add_argument(
        "--scores",
        type=boolean,
        nargs="?",
        const=True,
        default=False,
        help="print the five likeliest train labels (stage 1 runs)",
    )
    return options.parse(parser, argv, foreign=())


def open_classifier(source):
    """The loss of a stage 1 run as a classifier, and the labels of its classes. Raises InputError for anything else."""
    config = options.run_folder(weights_file(source)) / "config.json" if source and source != "imagenet" else None
    flags = options.read_flags(config) if config and config.is_file() else {}
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


def write(path, images, embeddings):
    """Save as .npz (paths, labels, embeddings) or as .json ({path: embedding})."""
    if path.suffix == ".json":
        path.write_text(json.dumps(dict(zip(images.paths.tolist(), embeddings.tolist()))))
    else:
        np.savez(path, paths=images.paths, labels=images.labels, embeddings=embeddings.numpy())


def main(argv):
    args = parse(argv)
    device = choose_device(args.use_gpu)
    precision = choose_precision(args.precision, device)
    images = reader.open_inputs(args.input or [args.test_list], args.data_dir)
    flags = model_flags(args)
    model = open_model(args.pretrained_model, flags).to(device)
    classifier, labels = open_classifier(args.pretrained_model) if args.scores else (None, None)
    loader = open_test_loader(images, flags, args.batch_size, args.num_workers, device)
    output = open_output(args.output, (".npz", ".json"))
    embeddings = embed(model, loader, device, precision)
    if output:
        write(output, images, embeddings)
    for i, embedding in enumerate(embeddings):
        print(f"Test-{i}-feature: {[round(value, 6) for value in embedding[:5].tolist()]}")
    if args.scores:
        for i, (names, values) in enumerate(zip(*best_scores(classifier, labels, embeddings))):
            print(f"Test-{i}-scores: {', '.join(f'{n} {v:.4f}' for n, v in zip(names.tolist(), values.tolist()))}")
    print(f"{len(images)} images, {embeddings.shape[1]} numbers each{f', written: {output}' if output else ''}")


if __name__ == "__main__":
    options.run_script(main)
