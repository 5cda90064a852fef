"""Embed images, those of a list, of a folder, or single files. (search.py keeps them in an index and finds them again.)

python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz
python infer.py --pretrained_model=output --input cat.jpg dog.jpg --scores
python infer.py --pretrained_model=output --input photos/ --output=embeddings.npz --continue

Or shards, tar or parquet files of images, each into a file of its own, by any number of processes (docs/scale.md).

torchrun --nproc_per_node=2 infer.py --pretrained_model=output --shards photos-*.tar --output=embeddings --batch_size=64
python infer.py --pretrained_model=output --shards photos-*.tar --output=embeddings --batch_size=64 --ray_workers=8

Or write the network for other programs (docs/export.md).

python infer.py --pretrained_model=output --export=onnx --output=exported
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import os
from collections.abc import Sequence

from config.commands import INFER
from config.parse import Args, parse
from config.script import run_script
from core.errors import InputError
from core.text import counted

PRINTED = 1000  # images whose features are printed


def main(argv: Sequence[str]) -> None:
    args = parse(argv, INFER, __doc__)
    if args["ray_workers"] and not args["shards"]:
        raise InputError("--ray_workers goes with --shards")
    if args["ray_workers"] and args["runtime"] == "auto":
        raise InputError("--runtime=auto is found where the images are; for --ray_workers name the runtime")
    if args["export"]:
        write_network(args)
    elif args["shards"]:
        embed_shards(args)
    else:
        embed_images(args)


def embed_images(args: Args) -> None:
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    import distributed
    from core.console import log
    from core.device import open_device
    from embeddings.classifier import open_classifier
    from embeddings.encoder import open_encoder
    from embeddings.export import open_export
    from embeddings.runtime import Job, way_of_rows
    from embeddings.streaming import check_kept_files, embed_stream, open_kept_files, stopped_rows
    from models import ModelSettings
    from reader import open_records, refuse_broken_images
    from report.embeddings import print_features, print_scores

    check_kept_files(**args.outputs)
    open_export(args["output"], args["continue"], args["pretrained_model"], **args.export)
    device, precision = open_device(**args.device)
    distributed.init(device)
    classifier = open_classifier(args["pretrained_model"], **args.classifier)
    records = open_records(args["data_dir"], args["test_list"], **args.input)
    if not args["output"] and len(records) > PRINTED:
        count = counted(len(records), records.noun)
        log(f"the first {PRINTED} of {count} are embedded and printed; --output keeps those of all")
        records = records.take(slice(PRINTED))
    skips = skips_unreadable(args)
    if not skips:
        refuse_broken_images([records])
    encoder = open_encoder(
        ModelSettings(**args.model),
        device,
        precision,
        args["runtime"],
        args["num_workers"],
        modalities=records.modalities,
        job=Job(records, len(records), way_of_rows(stopped_rows(**args.outputs))),
        **args.encoder,
    )
    outputs = open_kept_files(**args.outputs)

    with embed_stream(records, encoder, outputs.rows_file, None, outputs.goes_on, skips) as table:
        if table is None:  # the first rank has it
            return
        for path in outputs.paths:
            table.save(path)
        # Whoever has them in a file need not read them here, too.
        if not outputs.paths:
            print_features(table, PRINTED)
        if classifier is not None:
            print_scores(table, PRINTED, classifier)
        written = ""
        if outputs.paths:
            written = f", written: {', '.join(map(str, outputs.paths))}"
        print(f"{counted(len(table), records.noun)}, {counted(table.width, 'number')} each{written}")


def skips_unreadable(args: Args) -> bool:
    """Whether images that cannot be read are left out and counted. Left open, those of a folder are, as search.py build
    takes it: nobody named them one by one, as the rows of a list are."""
    is_folder = any(os.path.isdir(path) for path in args["input"] or ())
    if "on_bad_image" not in args.typed and is_folder:
        return True
    return args["on_bad_image"] == "skip"


def embed_shards(args: Args) -> None:
    import distributed
    from core.device import open_device
    from data.shards import find_shards
    from embeddings.encoder import open_encoder
    from embeddings.ray_shards import EncoderFlags, embed_by_ray
    from embeddings.shards import embed_shards, open_shard_encoder, open_shard_folder
    from models import ModelSettings

    for flag in ("input", "text", "scores"):
        if args.values.get(flag):
            raise InputError(f"--shards are embedded into files; --{flag} does not go with them")
    shards = find_shards(**args.shards)
    folder = open_shard_folder(args["output"])
    skips = args["on_bad_image"] == "skip"
    if args["ray_workers"]:
        flags = EncoderFlags(args.model, args.device, args.encoder, args["num_workers"])
        done = embed_by_ray(shards, folder, flags, skips, **args.ray)
        print(f"{counted(args['ray_workers'], 'worker')} of Ray: {done.as_text(folder)}")
        return
    # Each rank has shards of its own, so none waits for another, nor is lost with it.
    rank, world_size = distributed.stand_alone()
    device, precision = open_device(**args.device)

    def open_for(job):
        settings = ModelSettings(**args.model)
        return open_encoder(settings, device, precision, args["runtime"], args["num_workers"], job=job, **args.encoder)

    if args["runtime"] == "auto":
        encoder = open_shard_encoder(open_for, shards[rank::world_size], folder)
    else:
        encoder = open_for(None)
    done = embed_shards(shards, folder, encoder, rank, world_size, skips)
    print(f"rank {rank} of {world_size}: {done.as_text(folder)}")


def write_network(args: Args) -> None:
    from core.console import log
    from core.device import open_device
    from embeddings.encoder import open_encoder
    from embeddings.export import open_export, write_export
    from models import ModelSettings
    from reader import open_records

    source = args["pretrained_model"]
    plan = open_export(args["output"], args["continue"], source, **args.export)
    device, precision = open_device(**{**args.device, "use_gpu": False})
    try:
        records = open_records(args["data_dir"], args["test_list"], **args.input)
    except InputError as error:
        if args["input"] or plan.is_int8:
            raise
        log(f"note: golden images are made up alone: {error}")
        records = None
    encoder = open_encoder(
        ModelSettings(**args.model),
        device,
        precision,
        args["runtime"],
        args["num_workers"],
        keeps_exact=True,
        **args.encoder,
    )
    write_export(plan, encoder, records, source)


if __name__ == "__main__":
    run_script(main)
