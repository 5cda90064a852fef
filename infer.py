"""Embed images, those of a list, of a folder, or single files. (search.py keeps them in an index and finds them again.)

python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz
python infer.py --pretrained_model=output --input cat.jpg dog.jpg --scores
python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz --continue
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import argparse

from config import options
from core.console import log
from core.errors import InputError
from core.types import boolean, one_of, positive
from data.lists import open_inputs, open_list, refuse_broken_images
from data.records import Records
from embeddings.classifier import Classifier
from embeddings.encoder import open_encoder
from embeddings.streaming import embed_stream
from embeddings.table import EmbeddingTable
from models import BACKBONES, RUNTIMES
from models.pooling import POOLINGS
from session import choose_place, data_flags, model_flags, open_model, open_output

PRINTED = 1000  # images whose features are printed


def main(argv: list[str]) -> None:
    args = parse(argv)
    goes_on = getattr(args, "continue")
    if goes_on and not args.output:
        raise InputError("--continue goes with --output of embeddings, beside which a stopped run keeps what it has")
    device, precision = choose_place(args)
    records = open_records(args)
    settings = model_flags(args)
    model = open_model(args.pretrained_model, settings)
    encoder = open_encoder(
        model, settings, device, precision, args.runtime, args.num_workers, batch_size=args.batch_size
    )
    classifier = Classifier(args.pretrained_model) if args.scores else None

    if not args.output and len(records) > PRINTED:
        log(f"the first {PRINTED} of {len(records)} images are embedded and printed; --output keeps those of all")
        records = records.take(slice(PRINTED))
    if args.on_bad_image == "stop":
        refuse_broken_images([records])
    outputs = [open_output(path, (".npz", ".json")) for path in args.output or ()]
    rows_file = f"{outputs[0]}.rows" if outputs else None

    with embed_stream(records, encoder, rows_file, None, goes_on, args.on_bad_image == "skip") as table:
        if table is None:  # the first rank has it
            return
        for path in outputs:
            table.save(path)
        print_embeddings(table, classifier)
        written = f", written: {', '.join(map(str, outputs))}" if outputs else ""
        print(f"{len(table)} images, {table.width} numbers each{written}")


def open_records(args: argparse.Namespace) -> Records:
    """The images that the flags name, with what should be known of them said."""
    if args.input:
        records = open_inputs(args.input, args.data_dir)
    else:
        data = data_flags(args)
        records = open_list(data["test_list"], data["data_dir"], "test")
    for note in records.notes:
        log(f"note: {note}")
    return records


def print_embeddings(table: EmbeddingTable, classifier: Classifier | None) -> None:
    """The first numbers of the first images, and their likeliest labels if there is a classifier."""
    embeddings = table.head(PRINTED)
    for row, numbers in enumerate(embeddings[:, :5].tolist()):
        print(f"Test-{row}-feature: {[round(number, 6) for number in numbers]}")
    if classifier is None:
        return
    for row, likeliest in enumerate(classifier.likeliest(embeddings)):
        scores = ", ".join(f"{label} {probability:.4f}" for label, probability in likeliest)
        print(f"Test-{row}-scores: {scores} ({table.records.paths[row]})")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--input", nargs="+", help="a folder, image files, or a list (default: the --test_list)")
    group.add_argument("--batch_size", type=positive, default=1, help="images in a batch")
    stop_or_skip = one_of(("stop", "skip"))
    group.add_argument(
        "--on_bad_image", type=stop_or_skip, default="stop", help="at one that cannot be read: stop, or skip it"
    )
    options.add_device_flags(parser, precision="fp32", runtimes=RUNTIMES)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output",
        nargs="+",
        help="files to write: embeddings with their list and model as .npz, {path: embedding} as .json",
    )
    switch = {"type": boolean, "nargs": "?", "const": True, "default": False}
    group.add_argument("--continue", **switch, help="go on with the --output of a run that was stopped")
    group.add_argument("--scores", **switch, help="print the five likeliest train labels (stage 1 runs)")
    return options.parse(parser, argv, foreign=())


if __name__ == "__main__":
    options.run_script(main)
