"""Re-ranking by a network: learn from what a run of train_elem.py or train_pair.py finds which of its first items are
right (concat_siamese, linear_siamese, trivial_distance_siamese).

python train_reranker.py --pretrained_model=output/arc --model_save_dir=output/reranker
python train_reranker.py --scorer=linear_siamese --pretrained_model=output/arc --freeze_steps=1000 --top_n=10
python train_reranker.py --checkpoint=output/reranker
python eval.py --pretrained_model=output/arc --postprocess=pairwise --pairwise_model=output/reranker --top_n=5
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import time
from collections.abc import Sequence

from config.commands import TRAIN_RERANKER
from config.parse import parse
from config.script import run_script


def main(argv: Sequence[str]) -> None:
    args = parse(argv, TRAIN_RERANKER, __doc__)
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    from data.loader import open_train_loader
    from data.notes import list_notes, singleton_notes
    from data.provenance import describe_lists
    from engine.assembly import begin_run, build_first_model, build_learner, start_run
    from engine.averaging import build_averaging
    from engine.checkpoint import Progress, resume
    from engine.freezing import build_first_steps
    from engine.mined_pairs import MinedPairs, open_pair_batches, tell_neighbours
    from engine.pair_loss import build_pair_loss
    from engine.rerank_testing import open_rerank_tester
    from engine.retrieval_run import open_retrieval_run
    from engine.schedule import Schedule
    from engine.trainer import Trainer, TrainerSettings
    from miners import PairsMiner
    from models import ModelSettings
    from models.pair_scorer import build_pair_scorer
    from reader import open_training

    # What a run is, what it learns from, and whose results it puts in order.
    start = start_run(TrainerSettings(**args.trainer), args["sync_bn"], args.device, args.run)
    settings = ModelSettings(**args.model)
    retrieval = open_retrieval_run(start, settings.pretrained_model, args["num_workers"], **args.retrieval)
    data = open_training(**args.data)
    lists = describe_lists(data.train, data.test, data.more)

    # What learns: a network that sees two images, and a loss of its scores.
    model = build_first_model(start, settings, lists, args["train_batch_size"], **args.build)
    scorer = build_pair_scorer(model, settings, args.options("scorer"), **args.scorer)
    loss = build_pair_loss(**args.loss)
    learner = build_learner(start, scorer, loss, **args.optimiser)
    learner.first_steps = build_first_steps(scorer, loss, **args.first_steps)
    learner.averaging = build_averaging(learner.objective, None, **args.averaging)
    # What has nothing to learn is a run of no steps: it is tested, saved and exported as any other.
    steps = args["total_iter_num"] if scorer.learns else 0
    begun = Progress(untested=not scorer.learns)
    progress = resume(start.run, learner, len(data.train.vocabulary), lists, steps, begun)

    # Batches go on behind the last step. Their pairs are those that the earlier run takes for each other.
    batches = open_pair_batches(data.train, args.options("sampler"), args["seed"], progress.start, **args.sampler)
    on_bad = progress.skipper(data.train, args["on_bad_image"])
    loader = open_train_loader(data.train, batches, settings, start.device, on_bad, **args.loading)
    lists_to_test = [(data.title, data.test, data.tested_on)]
    lists_to_test += [(title, records, f"the test list {title}") for title, records in data.more.items()]
    tester = open_rerank_tester(start, lists_to_test, settings, args["num_workers"], **args.testing, **args.reranking)
    begin_run(start, progress, {**args.values, **settings.as_flags()}, lists)

    # What the earlier run makes of both lists takes a while, and comes when nothing can be wrong any more.
    began = time.perf_counter()
    tester.find(retrieval)
    pairs = ()
    if scorer.learns:
        embeddings = retrieval.embed(data.train, "embeddings_train.npz", on_bad)
        tell_neighbours(batches, embeddings, data.train)
        pairs = MinedPairs(loader, embeddings, PairsMiner(**args.mining))
    progress.seconds["retrieval"] = time.perf_counter() - began
    schedule = Schedule(**{**args.schedule, "total_iter_num": steps})
    trainer = Trainer(
        learner, schedule, data.train, pairs, batches.batch_size, tester, start.run, progress, start.settings
    )
    trainer.fit(list_notes(data.train, data.test) + singleton_notes(data.train, batches.singletons))


if __name__ == "__main__":
    run_script(main)
