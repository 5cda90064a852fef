"""Keep images in an index, by their embeddings, and find them again. Each command has flags of its own: see its --help.

python search.py build photos.index --pretrained_model=output --input photos/
python search.py find photos.index --input cat.jpg --k=10 --output hits.json hits.png
python search.py add photos.index --input more/
python search.py delete photos.index --input photos/blurred.jpg
python search.py serve photos.index
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from collections.abc import Sequence

from config.commands import COMMANDS
from config.parse import Args, parse
from config.script import run_script
from core.errors import InputError, near_match

# Imports stand in the functions: torch takes seconds to import, which no help and no mistyped flag has to wait for.


def main(argv: Sequence[str]) -> None:
    command, folder, args = parse_command(argv)
    commands = {"build": build, "find": find, "add": add, "delete": delete, "serve": serve}
    if command in ("find", "add", "delete") and not (args["input"] or args.values.get("text")):
        other = "" if command == "delete" else " or --text"
        raise InputError(f"{command} needs --input{other}")
    commands[command](folder, args)


def parse_command(argv: Sequence[str]) -> tuple[str, str, Args]:
    """(command, the index's folder, its flags). Raises InputError for what is no command, and without a folder."""
    names = [name.removeprefix("search ") for name in COMMANDS if name.startswith("search ")]
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: search.py {{{','.join(names)}}} INDEX [--flag=value ...]\n\n{__doc__}")
        raise SystemExit(0)
    if not argv:
        raise InputError(f"a command is missing; it is one of {', '.join(names)} (see --help)")
    command, *flags = argv
    if command not in names:
        hint = near_match(command, names)
        raise InputError(f"the command is {command!r}; it is one of {', '.join(names)}.{hint} (see --help)")
    if not flags or flags[0].startswith("-"):
        # Of a command alone only its help can be had.
        parse(flags or ["--help"], COMMANDS[f"search {command}"], __doc__, f"{command} INDEX")
        raise InputError(f"{command} needs the index's folder before its flags: search.py {command} INDEX (see --help)")
    folder, *flags = flags
    return command, folder, parse(flags, COMMANDS[f"search {command}"], __doc__, f"{command} INDEX")


def build(folder: str, args: Args) -> None:
    """Make an index of images."""
    import distributed
    from embeddings.index import build_index
    from embeddings.streaming import open_kept_files, refuse_lone_continue
    from report.index_notes import built_notes
    from retrieval.index.backends import make_backend
    from retrieval.index.folder import check_free

    if not args["pretrained_model"]:
        raise InputError("build needs --pretrained_model: nothing can be found again with random weights")
    refuse_lone_continue(**args.outputs)
    backend_options = args.options("backend")
    make_backend(args["backend"], backend_options)[0].refuse_new()
    check_free(folder, args["overwrite"])
    records, encoder = open_images(args)
    outputs = open_kept_files(**args.outputs)
    with embed_beside(folder, records, encoder, outputs, args) as table:
        if not distributed.is_first():
            return
        for path in outputs.paths:
            table.save(path)
        index = build_index(table, folder, args["pretrained_model"], backend_options, **args.index)
        print_lines(built_notes(index, len(table)))


def add(folder: str, args: Args) -> None:
    """Add images to an index."""
    import distributed
    from embeddings.index import add_to_index
    from embeddings.streaming import open_kept_files, refuse_lone_continue
    from report.index_notes import added_notes
    from retrieval.index.index import Index

    refuse_lone_continue(**args.outputs)
    index = Index.open(folder)
    records, encoder = open_images(args, index)
    outputs = open_kept_files(**args.outputs)
    with embed_beside(folder, records, encoder, outputs, args) as table:
        if not distributed.is_first():
            return
        for path in outputs.paths:
            table.save(path)
        print_lines(added_notes(index, add_to_index(index, table)))


def find(folder: str, args: Args) -> None:
    """Print the nearest items of each image; files first, so that they are there whatever becomes of the tables."""
    import distributed
    from core.console import log
    from embeddings.index import find_in_index
    from embeddings.streaming import embed_stream
    from report.hits import DRAWN, Answers, open_answer_files, print_tables, save_answers
    from report.index_notes import fitness_notes
    from retrieval.index.index import Index

    index = Index.open(folder)
    index.refuse_empty()
    records, encoder = open_images(args, index)
    outputs = open_answer_files(**args.outputs)
    with embed_stream(records, encoder, skips_unreadable=args["on_bad_image"] == "skip") as table:
        if not distributed.is_first():
            return
        hits = find_in_index(index, table, **args.index)
        answers = Answers(table.records, hits, index.names)
    written, failure = save_answers(answers, outputs)
    shown = hits.ids.shape[1]
    if args["k"] > shown:
        which = ""
        if shown < len(index):
            which = " of these labels and categories"
        log(f"--k={args['k']}: {index.folder} holds {shown} {index.noun}s{which}, and all of them are shown")
    print_tables(answers)
    if len(answers.records) > DRAWN and any(path.suffix == ".png" for path in outputs):
        print(f"the picture shows {DRAWN} of {len(answers.records)} queries")
    print_lines(fitness_notes(index))
    if written:
        print(f"written: {', '.join(str(path) for path in outputs if path in written)}")
    if failure:
        raise failure


def delete(folder: str, args: Args) -> None:
    """Delete images from an index, which need not exist any more."""
    import distributed
    from embeddings.index import delete_from_index
    from report.index_notes import deleted_notes
    from retrieval.index.index import Index

    if distributed.is_first():
        index = Index.open(folder)
        print_lines(deleted_notes(index, delete_from_index(index, **args.data, **args.items)))


def serve(folder: str, args: Args) -> None:
    """A page and a REST interface in front of an index, until a signal ends it."""
    from core.device import open_device
    from core.packages import needed
    from serving.settings import ServeSettings

    for package in ("starlette", "uvicorn"):
        needed(package, "search.py serve", "serve")
    settings = ServeSettings(**args.serving)
    token = settings.chosen_token()

    # Before the network is loaded, so that a port which is taken is known at once.
    from serving.server import greeting, open_port, run

    with open_port(settings) as port:
        from embeddings.index import settings_for_index
        from models import ModelSettings
        from retrieval.index.index import Index
        from serving.app import Server
        from serving.encoding import open_live_encoder

        index = Index.open(folder)
        model_settings = ModelSettings(**args.model)
        if not model_settings.pretrained_model:
            model_settings = settings_for_index(model_settings, args.typed, index)
        encoder = open_live_encoder(model_settings, *open_device(**args.device), args["runtime"])
        server = Server(folder, encoder, settings, token)
        print_lines([f"{len(index)} {index.noun}s", *greeting(port, settings, token)])
        run(server.app, port)


def open_images(args: Args, index=None):
    """(Records, Encoder) of the images that the flags name, and of the model: the index's own where it is left open."""
    import distributed
    from core.device import open_device
    from embeddings.encoder import open_encoder
    from embeddings.index import settings_for_index
    from models import ModelSettings
    from reader import open_records, refuse_broken_images

    device, precision = open_device(**args.device)
    distributed.init(device)
    records = open_records(args["data_dir"], args.data.get("test_list"), **args.input)
    settings = ModelSettings(**args.model)
    if index is not None and not settings.pretrained_model:
        settings = settings_for_index(settings, args.typed, index)
    encoder = open_encoder(
        settings,
        device,
        precision,
        args["runtime"],
        args["num_workers"],
        modalities=records.modalities,
        **args.encoder,
    )
    if index is not None:
        index.refuse_others(encoder.fingerprint)
    if args["on_bad_image"] == "stop":
        refuse_broken_images([records])
    return records, encoder


def embed_beside(folder: str, records, encoder, outputs, args: Args):
    """The table of images for an index, a context: beside the first --output, or on the index's disk."""
    from embeddings.index import folder_on_its_disk
    from embeddings.streaming import embed_stream

    skips = args["on_bad_image"] == "skip"
    return embed_stream(records, encoder, outputs.rows_file, folder_on_its_disk(folder), outputs.goes_on, skips)


def print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    run_script(main)
