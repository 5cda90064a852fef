"""Keep images in an index, by their embeddings, and find them again. Each command has flags of its own: see its --help.

python search.py build photos/ --index=photos.index
python search.py sync photos/ --index=photos.index
python search.py build photos.index --pretrained_model=output --input photos/
python search.py build photos.index --pretrained_model=output --embeddings embeddings/
python search.py find photos.index --input cat.jpg --k=10 --output hits.json hits.png
python search.py add photos.index --input more/
python search.py delete photos.index --input photos/blurred.jpg
python search.py decide photos.index --input held_out.csv --far=0.001
python search.py serve photos.index
python search.py upgrade photos.index --pretrained_model=output
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.commands import COMMANDS
from config.parse import Args, parse
from config.script import run_script
from core.errors import InputError, near_match
from core.ranks import is_first, world_size
from core.text import counted, plural

# Imports stand in the functions: torch takes seconds to import, which no help and no mistyped flag has to wait for.

NEED_INPUT = ("add", "delete", "find", "decide")
ASKS = ("input", "text", "embeddings", "items")
# How usage lines call what stands behind a command, where it is not the index's folder.
WORDS = {"build": "FOLDER --index=INDEX, or build INDEX", "sync": "FOLDER --index=INDEX"}


def main(argv: Sequence[str]) -> None:
    command, folder, args = parse_command(argv)
    commands = {
        "build": build,
        "find": find,
        "add": add,
        "delete": delete,
        "decide": decide,
        "sync": sync,
        "serve": serve,
        "upgrade": upgrade,
    }
    if command in NEED_INPUT and not any(args.values.get(name) for name in ASKS):
        other = "" if command in ("delete", "decide") else " or --text"
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
    name = f"{command} {WORDS.get(command, 'INDEX')}"
    if not flags or flags[0].startswith("-"):
        # Of a command alone only its help can be had.
        parse(flags or ["--help"], COMMANDS[f"search {command}"], __doc__, name)
        raise InputError(f"{command} needs the index's folder before its flags: search.py {name} (see --help)")
    folder, *flags = flags
    return command, folder, parse(flags, COMMANDS[f"search {command}"], __doc__, name)


def build(word: str, args: Args) -> None:
    """Make an index of images: of the folder, list or file `word` in --index, or in `word` of --input or a list."""
    import distributed
    from embeddings.collection import label_sentence, labels_of, open_collection, refuse_taken, with_folder_columns
    from embeddings.index import build_index
    from embeddings.own_network import keep_network
    from embeddings.streaming import check_kept_files, open_kept_files
    from report.index_notes import built_notes, left_out_notes, next_notes
    from retrieval.index.backends import make_backend
    from retrieval.index.contents import keep_contents, states_of
    from retrieval.index.folder import check_free
    from retrieval.index.items import absolute_paths

    if args["embeddings"]:
        build_of_embeddings(word, args)
        return
    others = [name for name in ("input", "text") if args[name]]
    collection = open_collection(word, others, **args.collection)
    if collection.inputs is None:
        refuse_random_weights(args)
    check_kept_files(**args.outputs)
    backend_options = args.options("backend")
    make_backend(args["backend"], backend_options)[0].refuse_new()
    folder = collection.index
    refuse_taken(collection, args["overwrite"])
    check_free(folder, args["overwrite"])
    if collection.inputs is None:
        records, encoder = open_images(args)
    else:
        records, encoder, args = open_collected(collection, args)
    outputs = open_kept_files(**args.outputs)
    states = states_of(absolute_paths(records.paths))
    with embed_beside(folder, records, encoder, outputs, args, collection.inputs is not None) as table:
        if not distributed.is_first():
            return
        table = replace(table, records=with_folder_columns(table.records, collection))
        for path in outputs.paths:
            table.save(path)
        labels = labels_of(table.records, collection)
        facts = {"label_level": collection.label_level} if collection.root else None
        index = build_index(table, folder, args["pretrained_model"], backend_options, labels, facts, **args.index)
        keep_contents(index, states)
        keep_network(index, encoder.onnx)
        print_lines(built_notes(index, len(table)))
    if collection.inputs is not None:
        print(label_sentence(labels))
        print_lines(left_out_notes(records, table.records))
        print_lines(next_notes(index, collection.root))


def refuse_random_weights(args: Args) -> None:
    if not args["pretrained_model"]:
        raise InputError("build needs --pretrained_model: nothing can be found again with random weights")


def build_of_embeddings(folder: str, args: Args) -> None:
    """Make an index of what infer.py has embedded."""
    import distributed
    from embeddings.index import build_index, folder_on_its_disk
    from embeddings.own_network import keep_network
    from embeddings.ready import find_ready, open_ready, refuse_others
    from report.index_notes import built_notes
    from retrieval.index.backends import make_backend
    from retrieval.index.folder import check_free

    refuse_others(args.values)
    refuse_random_weights(args)
    files = find_ready(**args.ready)
    backend_options = args.options("backend")
    make_backend(args["backend"], backend_options)[0].refuse_new()
    check_free(folder, args["overwrite"])
    # What is looked for later is embedded by this model, so that its fingerprint has to be that of the files.
    encoder = open_network(args, *open_processes(args), None, None)
    if not distributed.is_first():
        return
    with open_ready(files, folder_on_its_disk(folder), typed_folder(args), encoder.fingerprint) as ready:
        source = args["pretrained_model"]
        index = build_index(ready.table, folder, source, backend_options, ready.labels, None, **args.index)
        keep_network(index, encoder.onnx)
        print_lines(built_notes(index, len(ready.table)))


def open_collected(collection, args: Args):
    """(Records, Encoder, flags) of a folder, a list or files; the flags with the network that is taken where none is
    named."""
    from core.console import log
    from models.defaults import default_model
    from reader import open_records

    device, precision = open_processes(args)
    records = open_records(args["data_dir"], None, input=collection.inputs)
    if not args["pretrained_model"] and "model" not in args.typed:
        chosen = default_model(records.modalities)
        log(
            f"the model is {chosen.model}, the first of those on this machine ({chosen.about}); another: "
            "--model=NAME --pretrained_model=published, or a run's folder (docs/search.md)"
        )
        args = args.with_words([f"--model={chosen.model}", f"--pretrained_model={chosen.weights}"])
    refuse_random_weights(args)
    return records, open_network(args, device, precision, None, records), args


def sync(word: str, args: Args) -> None:
    """Bring an index up to a folder: add what is new, replace what has changed, forget what is gone."""
    from embeddings.collection import open_collection
    from embeddings.sync import SyncSettings, apply, level_of, look, plan_lines, refuse_to_forget_most, watch
    from report.index_notes import synced_notes
    from retrieval.index.index import Index

    if args["index"] is None:
        raise InputError(f"sync needs --index: search.py sync {word} --index=INDEX")
    collection = open_collection(word, [], **args.collection)
    if collection.root is None:
        raise InputError(f"{word!r} is no folder; sync holds a folder against the index, add takes lists and files")
    index = Index.open(collection.index)
    level = level_of(index, args["label_level"])
    settings = SyncSettings(**args.sync)

    @functools.cache
    def encoder():
        return open_network(args, *open_processes(args), Index.open(collection.index), None)

    if settings.watch is not None:
        if settings.dry_run:
            raise InputError("--watch does what --dry_run only says; give one of them")
        with contextlib.suppress(KeyboardInterrupt):
            watch(
                collection.index,
                collection.root,
                level,
                settings.watch,
                encoder,
                lambda index, synced: print_lines(synced_notes(index, synced)),
                settings.forget_most,
            )
        return
    plan = look(index, collection.root, level)
    if settings.dry_run:
        print_lines(plan_lines(plan, index))
    if not settings.forget_most:
        refuse_to_forget_most(plan, index, collection.root)
    if not settings.dry_run:
        print_lines(synced_notes(index, apply(index, plan, encoder, collection.root, args["on_bad_image"] == "skip")))


def upgrade(folder: str, args: Args) -> None:
    """Take an index to another model while it is searched: over a bridge at once, then item by item."""
    from data.records import Records
    from embeddings.own_network import keep_network
    from embeddings.upgrade import UpgradeSettings, progress, run_upgrade
    from retrieval.index.index import NAMED, Index

    settings = UpgradeSettings(**args.upgrade)
    index = Index.open(folder)
    source = args["pretrained_model"]
    if progress(index) is None and not source:
        raise InputError("upgrade needs the new model: --pretrained_model, and where that does not say it --model")
    records = Records.of_columns(folder, {"paths": index.rows.paths(index.rows.ids[:NAMED]) or [""]})
    # An upgrade that goes on is to the index's own model; another one is refused.
    own = None if progress(index) is None else index
    encoder = open_network(args, *open_processes(args), own, records)
    run_upgrade(index, encoder, source, settings, print)
    keep_network(Index.open(folder), encoder.onnx)


def add(folder: str, args: Args) -> None:
    """Add images to an index."""
    import distributed
    from embeddings.index import add_to_index
    from embeddings.streaming import check_kept_files, open_kept_files
    from report.index_notes import added_notes
    from retrieval.index.contents import keep_contents, states_of
    from retrieval.index.index import Index
    from retrieval.index.items import absolute_paths

    if args["embeddings"]:
        add_embeddings(folder, args)
        return
    check_kept_files(**args.outputs)
    index = Index.open(folder)
    records, encoder = open_images(args, index)
    outputs = open_kept_files(**args.outputs)
    states = states_of(absolute_paths(records.paths))
    with embed_beside(folder, records, encoder, outputs, args) as table:
        if not distributed.is_first():
            return
        for path in outputs.paths:
            table.save(path)
        added = add_to_index(index, table)
        keep_contents(index, states)
        print_lines(added_notes(index, added))


def add_embeddings(folder: str, args: Args) -> None:
    """Add to an index what infer.py has embedded."""
    import distributed
    from embeddings.index import add_to_index, folder_on_its_disk
    from embeddings.ready import find_ready, open_ready, refuse_others
    from report.index_notes import added_notes
    from retrieval.index.index import Index

    refuse_others(args.values)
    files = find_ready(**args.ready)
    open_processes(args)
    if not distributed.is_first():
        return
    index = Index.open(folder)
    fingerprint = index.card["fingerprint"]
    with open_ready(files, folder_on_its_disk(folder), typed_folder(args), fingerprint) as ready:
        print_lines(added_notes(index, add_to_index(index, ready.table, ready.labels)))


def typed_folder(args: Args) -> str | None:
    """The --data_dir that was given; that of the model's run has nothing to do with embeddings."""
    return args["data_dir"] if "data_dir" in args.typed else None


def find(folder: str, args: Args) -> None:
    """Print the nearest items of each image; files first, so that they are there whatever becomes of the tables."""
    from core.console import log
    from embeddings.answers import find_answers, query_rows
    from embeddings.queries import open_queries
    from reader import open_records
    from report.hits import (
        DRAWN,
        Answers,
        check_answer_files,
        open_answer_files,
        print_tables,
        save_answers,
        unknown_notes,
    )
    from report.index_fitness import fitness_notes
    from retrieval.index.index import Index

    check_answer_files(**args.outputs)
    index = Index.open(folder)
    index.refuse_empty()
    queries = open_queries(index, args["input"] or args["text"], **args.asked)
    if queries is None:
        records = open_records(args["data_dir"], args.data.get("test_list"), **args.input)
    else:
        records = queries.records
    # That labels are there which it goes by is known before anything is embedded.
    query_rows(records, args["query_by"])
    outputs = open_answer_files(**args.outputs)
    if queries is None:
        queries = embed_queries(index, records, args)
    if queries is None or not is_first():
        return
    found = find_answers(index, queries, **args.index)
    answers = Answers.of(queries.records, found, index.names, index.decision)
    written, failure = save_answers(answers, outputs)
    shown = found.hits.ids.shape[1]
    if args["k"] > shown:
        which = ""
        if args["group"] == "label":
            which = ", one of each label"
        elif shown < len(index):
            which = " of these labels and categories"
        shown_all = plural(shown, "which is shown", "and all of them are shown")
        log(f"--k={args['k']}: {index.folder} holds {counted(shown, index.noun)}{which}, {shown_all}")
    print_tables(answers, written)
    print_lines(unknown_notes(answers))
    if len(answers.records) > DRAWN and any(path.suffix == ".png" for path in outputs):
        print(f"the picture shows {DRAWN} of {counted(len(answers.records), 'query')}")
    print_lines(fitness_notes(index))
    if written:
        print(f"written: {', '.join(str(path) for path in outputs if path in written)}")
    if failure:
        raise failure


def embed_queries(index, records, args: Args):
    """Records that ask an index, as Queries; None on other ranks than the first.

    By the network that the index keeps, where that can be asked: torch takes longer to import than an index of usual
    size takes to be searched.
    """
    from reader import refuse_broken_images

    if leaves_network_open(args):
        from embeddings.own_network import embed_by_own_network

        refuse_broken_images([records])
        queries = embed_by_own_network(index, records, args["batch_size"])
        if queries is not None:
            return queries

    import distributed
    from embeddings.streaming import embed_stream

    device, precision = open_processes(args)
    encoder = open_network(args, device, precision, index, records)
    with embed_stream(records, encoder, skips_unreadable=args["on_bad_image"] == "skip") as table:
        return table.as_queries() if distributed.is_first() else None


def leaves_network_open(args: Args) -> bool:
    """Whether nothing was typed that asks for another network than the index's own, or for another way to run it."""
    is_typed = any(name in args.typed for name in args.model) or ("runtime" in args.typed and args["runtime"] != "onnx")
    is_alone = world_size() == 1
    is_plain = not args["use_gpu"] and args["precision"] in ("auto", "fp32") and args["on_bad_image"] == "stop"
    return is_plain and is_alone and not is_typed


def decide(folder: str, args: Args) -> None:
    """Choose on a labelled list from which cosine on items of an index are the same as what asks, and keep it there."""
    import distributed
    from embeddings.decide import check_list, decide_index
    from embeddings.streaming import embed_stream
    from report.index_notes import decided_notes
    from retrieval.index.index import Index

    index = Index.open(folder)
    index.refuse_empty()
    records, encoder = open_images(args, index, check_list)
    with embed_stream(records, encoder, skips_unreadable=args["on_bad_image"] == "skip") as table:
        if not distributed.is_first():
            return
        decide_index(index, table, **args.decision)
    print_lines(decided_notes(index))


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
        device = open_device(**args.device)
        encoder = open_live_encoder(model_settings, *device, args["runtime"])

        def open_encoder(index: Index):
            """That of the model which the index has gone over to."""
            return open_live_encoder(settings_for_index(ModelSettings(), (), index), *device, args["runtime"])

        server = Server(folder, encoder, settings, token, open_encoder)
        print_lines([counted(len(index), index.noun), *greeting(port, settings, token)])
        run(server.app, port)


def open_images(args: Args, index=None, check=None):
    """(Records, Encoder) of the images that the flags name, and of the model: the index's own where it is left open.

    check: a function that raises InputError for Records that will not do, before anything is loaded.
    """
    from reader import open_records

    device, precision = open_processes(args)
    records = open_records(args["data_dir"], args.data.get("test_list"), **args.input)
    if check is not None:
        check(records)
    return records, open_network(args, device, precision, index, records)


def open_processes(args: Args):
    """(device, precision) of the flags; the other processes of torchrun are met."""
    import distributed
    from core.device import open_device

    device, precision = open_device(**args.device)
    distributed.init(device)
    return device, precision


def open_network(args: Args, device, precision: str, index, records):
    """The Encoder of the model, the index's own where it is left open, for records that are looked at, or for any."""
    from embeddings.encoder import open_encoder
    from embeddings.index import settings_for_index
    from embeddings.runtime import Job
    from models import ModelSettings
    from reader import refuse_broken_images

    settings = ModelSettings(**args.model)
    if index is not None and not settings.pretrained_model:
        settings = settings_for_index(settings, args.typed, index)
    encoder = open_encoder(
        settings,
        device,
        precision,
        args["runtime"],
        args["num_workers"],
        modalities=records.modalities if records is not None else (),
        job=Job(records, len(records)) if records is not None else None,
        **args.encoder,
    )
    if index is not None:
        index.refuse_others(encoder.fingerprint)
    if records is not None and args["on_bad_image"] == "stop":
        refuse_broken_images([records])
    return encoder


def embed_beside(folder: str, records, encoder, outputs, args: Args, resumes: bool = False):
    """The table of images for an index, a context: beside the first --output, or on the index's disk.

    resumes: without --output it stands beside the index, and stays if the process is stopped, for the next to go on.
    """
    from core.files import make_folder
    from embeddings.index import folder_on_its_disk
    from embeddings.streaming import embed_stream
    from embeddings.sync import rows_file

    skips = args["on_bad_image"] == "skip"
    if resumes and outputs.rows_file is None:
        make_folder(Path(rows_file(folder)).parent)
        return embed_stream(records, encoder, rows_file(folder), None, True, skips, True)
    return embed_stream(records, encoder, outputs.rows_file, folder_on_its_disk(folder), outputs.goes_on, skips)


def print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    run_script(main)
