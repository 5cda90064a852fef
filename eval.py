"""Evaluate a run, a weights file, an untrained model or saved embeddings on labels never trained on.

python eval.py --pretrained_model=output --picture=neighbours.png
python eval.py --embeddings=embeddings.npz --metrics=recall@1,map@r --postprocess=k_reciprocal --k1=7
python eval.py --pretrained_model=output --postprocess=pairwise --pairwise_model=output/reranker --top_n=5
python eval.py --model=ResNet50 --pretrained_model=imagenet --data_dir=data/Stanford_Online_Products
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import time
from collections.abc import Sequence
from pathlib import Path

from config.commands import EVAL
from config.parse import Args, parse
from config.script import run_script


def main(argv: Sequence[str]) -> None:
    args = parse(argv, EVAL, __doc__)
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    import distributed
    from care.protocol import Search, geometry_of, open_linter
    from core.device import choose_precision, open_device
    from core.files import make_folder, replace_json
    from core.slices import search_memory
    from core.versions import versions
    from embeddings.attention import open_attention
    from embeddings.pair_distances import open_pair_distances
    from embeddings.source import describe_source, embed_source, open_sources, refuse_photos, refuse_shards
    from embeddings.verification import open_verification
    from report.outputs import EvalOutputs, write_outputs
    from retrieval.metrics.evaluation import check_figures, evaluate

    # What is evaluated, and that all that is asked for can be done, before any work begins.
    outputs = EvalOutputs(**args.outputs)
    outputs.check(args["pretrained_model"], args["runtime"])
    options = args.options("postprocess")
    check_figures(args["metrics"], args["postprocess"], args["distance"], options, args["top"])
    is_sharded = args["shard_gallery"] and distributed.world_size() > 1
    if is_sharded:
        refuse_shards(args.values)
    model, data = args["pretrained_model"], args.data
    held_out = args.held_out
    sources = open_sources(data["data_dir"], data["test_list"], model, outputs.leaks_from, **held_out, **args.source)
    refuse_photos(sources, args["photos_curve"])
    verifier = open_verification(
        sources.tested,
        sources.held_out,
        model,
        held_out["val_classes"],
        args["threshold_on"],
        **args.verification,
    )
    linter = open_linter(model, **args.protocol)
    device, precision = open_device(**args.device)
    distributed.init(device)
    encoder = None
    folder = outputs.result_folder(model)
    if sources.needs_model:
        encoder = open_network(args, sources, device, precision, folder, in_torch=bool(outputs.attention))
    attention = None
    if outputs.attention:
        attention = open_attention(encoder)
    precision = choose_precision(precision, device) if encoder is None else encoder.precision
    loading = (args["batch_size"], args["num_workers"])
    pair_distances = open_pair_distances(args["postprocess"], options, sources.tested, device, precision, *loading)
    facts = describe_source(sources, encoder)
    files = outputs.open_files()
    make_folder(folder)

    # Every rank embeds its share. Of a gallery that stays in shards all make the figures, of a whole one the first.
    began = time.perf_counter()
    table = embed_source(sources.tested, encoder, folder / "embeddings.npz", **args.embedding)
    leaks = None
    if outputs.report:
        leaks = embed_source(sources.leaks, encoder, folder / "embeddings_leaks.npz", **args.embedding)
    held = embed_source(sources.held_out, encoder, folder / "embeddings_held_out.npz", **args.embedding)
    if not (is_sharded or distributed.is_first()):
        return
    embedded = time.perf_counter()
    evaluation = evaluate(
        table.query_gallery(device),
        table.matrix,
        table.records,
        needs_results=bool(outputs.save_results or outputs.report),
        needs_histogram=bool(outputs.report),
        postprocess_options=options,
        pair_distances=pair_distances,
        **args.figures,
    )
    if not distributed.is_first():
        return
    same_or_not = None
    if verifier is not None:
        memory = search_memory(evaluation.query_gallery.device.type, args["search_memory_mb"])
        same_or_not = verifier.measure(table, held, device, args["distance"], memory)

    # What was found: result.json, the files that are asked for, the table.
    seconds = {"embed": embedded - began, "search": time.perf_counter() - embedded}
    files["result"] = folder / "result.json"
    result = evaluation.as_result()
    verification = None
    if same_or_not is not None:
        verification = same_or_not.as_result()
        result["verification"] = verification
    verdict = None
    if linter is not None:
        has_threshold = args["pairs"] or verification is not None
        search = Search.of(evaluation, args["threshold_on"], has_threshold, precision)
        geometry = None if encoder is None else geometry_of(encoder.settings)
        verdict = linter.judge(table.records, table.matrix, geometry, search, facts.get("list", {}))
        result["protocol"] = verdict.as_result()
    replace_json(files["result"], {**result, **facts, "seconds": seconds, "versions": versions()})
    notices = [f"note: {note}" for note in evaluation.notes]
    if verdict is not None:
        notices += verdict.lines()
    write_outputs(files, outputs, table, evaluation, model, leaks, attention, verification, notices)
    print(evaluation.as_text())
    if same_or_not is not None:
        print(same_or_not.as_text())
    for line in notices:
        print(line)
    print(f"written: {', '.join(str(path) for path in files.values())}")
    print(f"End test {len(table.records)}, test_recall {evaluation.figures['recall@1']:.5f}")


def open_network(args: Args, sources, device, precision: str, folder: Path, in_torch: bool):
    """The Encoder of what is evaluated.

    folder: where results are kept, and what the network was. in_torch: whether it is looked into, which other runtimes
    hide.
    """
    from embeddings.encoder import open_encoder
    from embeddings.runtime import Job
    from models import ModelSettings

    job = None if in_torch else Job(sources.tested, len(sources.tested))
    return open_encoder(
        ModelSettings(**args.model),
        device,
        precision,
        args["runtime"],
        args["num_workers"],
        keeps_exact=True,
        modalities=sources.modalities,
        job=job,
        known_in=folder,
        **args.encoder,
    )


if __name__ == "__main__":
    run_script(main)
