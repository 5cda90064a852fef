"""Keep images in an index, by their embeddings, and find them again. Each command has flags of its own: see its --help.

python search.py build photos.index --pretrained_model=output --input photos/
python search.py find photos.index --input cat.jpg --k=10 --output hits.json hits.png
python search.py add photos.index --input more/
python search.py delete photos.index --input photos/blurred.jpg
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import argparse
from contextlib import AbstractContextManager
from pathlib import Path

import torch

import distributed
from config import options
from core.console import log
from core.errors import InputError, near_match
from core.types import boolean, one_of, positive, workers
from data.lists import open_inputs, open_list, refuse_broken_images
from data.records import Records
from embeddings.encoder import Encoder, open_encoder
from embeddings.index import (
    add_to_index,
    build_index,
    delete_from_index,
    find_in_index,
    folder_on_its_disk,
    model_of_index,
)
from embeddings.streaming import embed_stream
from embeddings.table import EmbeddingTable
from models import BACKBONES, RUNTIMES
from models.pooling import POOLINGS
from report.hits import DRAWN, Answers, print_tables, save_answers
from report.index_notes import added_notes, built_notes, deleted_notes, fitness_notes
from report.text import shown_path
from retrieval.index.backends import BACKENDS, make_backend
from retrieval.index.folder import CARD, check_free
from retrieval.index.index import Index
from session import MODEL_DEFAULTS, choose_place, data_flags, model_flags, open_model, open_output, read_model_flags


def main(argv: list[str]) -> None:
    command, args = parse(argv)
    COMMANDS[command](args)


def build(args: argparse.Namespace) -> None:
    """Make an index of images."""
    if not args.pretrained_model:
        raise InputError("build needs --pretrained_model: nothing can be found again with random weights")
    backend_options = {option.name: getattr(args, option.name) for option in BACKENDS.options(args.backend)}
    make_backend(args.backend, backend_options)
    check_free(args.index, args.overwrite)
    device, precision = choose_place(args)
    records = open_records(args)
    encoder = encoder_of(args, device, precision, args.pretrained_model, model_flags(args))
    outputs = prepare(args, records, (".npz", ".json"))
    with embed_beside_index(args, records, encoder, outputs) as table:
        if table is None:  # the first rank has it
            return
        for path in outputs:
            table.save(path)
        source = args.pretrained_model
        index = build_index(table, args.index, source, backend_options, backend=args.backend, overwrite=args.overwrite)
        print_lines(built_notes(index, len(table)))


def add(args: argparse.Namespace) -> None:
    """Add images to an index."""
    index = Index.open(args.index)
    device, precision = choose_place(args)
    records = open_records(args)
    encoder = encoder_of(args, device, precision, *model_for_index(args, index))
    index.refuse_others(encoder.fingerprint)
    outputs = prepare(args, records, (".npz", ".json"))
    with embed_beside_index(args, records, encoder, outputs) as table:
        if table is None:
            return
        for path in outputs:
            table.save(path)
        added = add_to_index(index, table)
        print_lines(added_notes(index, added))


def delete(args: argparse.Namespace) -> None:
    """Delete images from an index, which need not exist any more."""
    if distributed.is_first():
        index = Index.open(args.index)
        count = delete_from_index(index, args.input, args.data_dir)
        print_lines(deleted_notes(index, count))


def find(args: argparse.Namespace) -> None:
    """Print the nearest items of each image; files first, so that they are there whatever becomes of the tables."""
    index = Index.open(args.index)
    index.refuse_empty()
    device, precision = choose_place(args)
    records = open_records(args)
    encoder = encoder_of(args, device, precision, *model_for_index(args, index))
    index.refuse_others(encoder.fingerprint)
    outputs = prepare(args, records, (".json", ".png"))
    with embed_stream(records, encoder, skips_unreadable=args.on_bad_image == "skip") as table:
        if table is None:
            return
        hits = find_in_index(index, table, k=args.k, search_memory_mb=args.search_memory_mb)
        answers = Answers(table.records, hits, index.names)
    written, failure = save_answers(answers, outputs)
    if args.k > len(index):
        log(f"--k={args.k}: {index.folder} holds {len(index)} images, and all of them are shown")
    print_tables(answers)
    if len(answers.records) > DRAWN and any(path.suffix == ".png" for path in outputs):
        print(f"the picture shows {DRAWN} of {len(answers.records)} queries")
    print_lines(fitness_notes(index))
    if written:
        print(f"written: {', '.join(str(path) for path in outputs if path in written)}")
    if failure:
        raise failure


COMMANDS = {"build": build, "add": add, "delete": delete, "find": find}


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


def encoder_of(args: argparse.Namespace, device: torch.device, precision: str, source: str, settings: dict) -> Encoder:
    """The model `source` (--pretrained_model), ready to embed."""
    model = open_model(source, settings)
    return open_encoder(model, settings, device, precision, args.runtime, args.num_workers, batch_size=args.batch_size)


def model_for_index(args: argparse.Namespace, index: Index) -> tuple[str, dict]:
    """--pretrained_model and the model flags; where they are left open, those of the index's card."""
    if args.pretrained_model:
        return args.pretrained_model, model_flags(args)
    source, facts = model_of_index(index)
    log(f"--pretrained_model={shown_path(source)} taken from {index.folder}")
    settings = {**MODEL_DEFAULTS, **read_model_flags(facts, index.folder / CARD)}
    for name in MODEL_DEFAULTS:
        given = getattr(args, name)
        if given is not None:
            settings[name] = given
    return source, settings


def prepare(args: argparse.Namespace, records: Records, suffixes: tuple[str, ...]) -> list[Path]:
    """The --output files, once all images are known to be whole."""
    if args.on_bad_image == "stop":
        refuse_broken_images([records])
    return [open_output(path, suffixes) for path in args.output or ()]


def embed_beside_index(
    args: argparse.Namespace, records: Records, encoder: Encoder, outputs: list[Path]
) -> AbstractContextManager[EmbeddingTable | None]:
    """The table of images for an index, in a context: beside the first --output, or nameless on the index's disk."""
    rows_file = f"{outputs[0]}.rows" if outputs else None
    folder = folder_on_its_disk(args.index)
    return embed_stream(records, encoder, rows_file, folder, getattr(args, "continue"), args.on_bad_image == "skip")


def print_lines(lines: list[str]) -> None:
    for line in lines:
        print(line)


def parse(argv: list[str]) -> tuple[str, argparse.Namespace]:
    """The command and its flags, the index's folder among them."""
    parser = options.new_parser(__doc__)
    parser.usage = f"%(prog)s {{{','.join(COMMANDS)}}} INDEX [--flag=value ...]"
    if argv[:1] in (["--help"], ["-h"]):
        parser.parse_args(argv)
    command = argv[0] if argv else None
    if command not in COMMANDS:
        hint = near_match(command, COMMANDS)
        raise InputError(f"the command is {command!r}; it is one of {', '.join(COMMANDS)}.{hint} (see --help)")
    parser.usage = f"%(prog)s {command} INDEX [--flag=value ...]"
    parser.add_argument("index", help="the index's folder")
    if command == "delete":
        add_delete_flags(parser)
    else:
        add_embedding_flags(parser, command)
    if command == "build":
        add_build_flags(parser, argv)
    if command == "find":
        add_find_flags(parser)
    args = options.parse(parser, argv[1:], BACKENDS, foreign=())
    if command != "build" and not args.input:
        raise InputError(f"{command} needs --input")
    if getattr(args, "continue", False) and not args.output:
        raise InputError("--continue goes with --output of embeddings, beside which a stopped run keeps what it has")
    return command, args


def add_delete_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", help="folder that a list's paths start from")
    group.add_argument(
        "--input",
        nargs="+",
        help="images (with all of their boxes), IMAGE#L,T,R,B (one box, as tables show it), folders, or a list "
        "(exactly its rows)",
    )


def add_embedding_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """What build, add and find need to embed images."""
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    if command == "build":
        group = options.add_data_flags(parser)
        group.add_argument("--input", nargs="+", help="a folder, image files, or a list (default: the --test_list)")
    else:
        group = parser.add_argument_group("data")
        group.add_argument("--data_dir", help="folder that a list's paths start from (default: the list's own)")
        group.add_argument(
            "--num_workers", type=workers, default=2, help="processes that load images; 0: none; or auto"
        )
        group.add_argument("--input", nargs="+", help="a folder, image files, or a list")
    group.add_argument("--batch_size", type=positive, default=1, help="images in a batch")
    stop_or_skip = one_of(("stop", "skip"))
    group.add_argument(
        "--on_bad_image", type=stop_or_skip, default="stop", help="at one that cannot be read: stop, or skip it"
    )
    options.add_device_flags(parser, precision="fp32", runtimes=RUNTIMES)
    group = parser.add_argument_group("results")
    if command == "find":
        group.add_argument("--output", nargs="+", help="files to write: hits as .json, a picture of them as .png")
        return
    group.add_argument(
        "--output",
        nargs="+",
        help="files to write beside: embeddings with their list and model as .npz, {path: embedding} as .json",
    )
    switch = {"type": boolean, "nargs": "?", "const": True, "default": False}
    group.add_argument("--continue", **switch, help="go on with the --output of a run that was stopped")


def add_build_flags(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Those of a new index, and the options of the backend that `argv` names."""
    group = parser.add_argument_group("index (cosine)")
    group.add_argument("--overwrite", type=boolean, default=False, help="replace an index that is in that folder")
    group.add_argument("--backend", default="exact", help=f"one of {', '.join(BACKENDS.names())}")
    backend = options.first_pass(argv, backend={"default": "exact"}).backend
    options.add_option_flags(parser.add_argument_group(f"backend: {backend}"), BACKENDS, backend)


def add_find_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search (cosine)")
    group.add_argument("--k", type=positive, default=10, help="items to find")
    group.add_argument("--search_memory_mb", type=positive, default=256, help="memory that a search may take, in MB")


if __name__ == "__main__":
    options.run_script(main)
