"""Stage 2: fine-tune an embedding by comparing images within a batch (triplet, quadruplet, eml, npairs), or images with
texts (clip).

python train_pair.py --loss_name=eml --train_batch_size=160 --samples_each_class=2 --pretrained_model=output/arc
python train_pair.py --loss_name=whitening --pretrained_model=output/arc
python train_pair.py --loss_name=whitening --pretrained_model=output/arc --feedback=feedback.csv
python train_pair.py --loss_name=clip --model=clip:ViT-B-32/openai --pretrained_model=published --train_list=pairs.csv
python train_pair.py --checkpoint=output/arc+eml
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from collections.abc import Sequence
from functools import partial

from config.ancestor import print_kpis
from config.commands import TRAIN_PAIR
from config.parse import Args, parse
from config.script import run_script
from core.sources import registered


def main(argv: Sequence[str]) -> None:
    args = parse(argv, TRAIN_PAIR, __doc__)
    if args["loss_name"] in registered("solvers"):
        solve(args)
    else:
        train(args)


def train(args: Args) -> None:
    """Down the gradient of a loss."""
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    from data.loader import open_train_loader
    from data.notes import list_notes, singleton_notes
    from data.provenance import describe_lists
    from embeddings.features import open_features
    from embeddings.feedback import open_feedback
    from engine.assembly import begin_run, build_learner, start_run
    from engine.averaging import build_averaging
    from engine.batches import open_batches
    from engine.checkpoint import Progress, resume
    from engine.feature_lane import build_network, open_feature_loader
    from engine.freezing import build_first_steps
    from engine.kept_classes import with_kept_classes
    from engine.lookalikes import build_lookalikes
    from engine.memory import build_memory, fill_memory, refuse_filling
    from engine.mining import build_miner
    from engine.neighbours import follow_neighbours
    from engine.objective import build_loss, tell_labels
    from engine.schedule import Schedule
    from engine.solved_layer import LayerInputs, first_solver, solve_last_layer
    from engine.tested_lists import open_tester
    from engine.testing import FIXED_SEED, Pictures
    from engine.towers import keep_towers, learns_from_pairs, open_towers
    from engine.trainer import Trainer, TrainerSettings
    from models import ModelSettings
    from reader import open_training
    from report.board import embedding_sample, scatter_picture, worst_queries_picture

    # Refused before anything is opened, where the loss has no use for it.
    open_feedback(args["loss_name"], **args.feedback)
    of_pairs = learns_from_pairs(args["loss_name"], args.values)
    miner = build_miner(args.options("miner"), args["loss_name"], args.options("loss_name"), **args.mining)

    # What a run is, what it learns from, and what it is tested on.
    start = start_run(TrainerSettings(**args.trainer), args["sync_bn"], args.device, args.run)
    features = open_features(args["val_classes"], **args.features)
    data = features or open_training(of_pairs, **args.data)
    lists = describe_lists(data.train, data.test, data.more)
    labels = data.train.vocabulary

    # What learns: a network, or two for pairs, and a loss that compares what a batch holds.
    settings = ModelSettings(**args.model)
    if of_pairs:
        settings = open_towers(start, settings, args.typed, **args.towers)
    adds_layer = args["init_embedding"] is not None
    model, settings = build_network(
        start, features, settings, args.typed, lists, args["train_batch_size"], adds_layer, **args.build
    )
    solver = first_solver(model, settings.pretrained_model, **args.first_layer)
    begun = Progress()
    if solver and not start.run.checkpoint:
        seen = LayerInputs(start, settings, data.train, features, args["on_bad_image"], args.loading, begun)
        solve_last_layer(model, solver, seen, args["views"])
    loss = build_loss(args.options("loss_name"), model.embedding_size, len(labels), start.precision, **args.loss)
    tell_labels(loss, data.train)
    loss = with_kept_classes(
        loss, settings.pretrained_model, model.embedding_size, data.train, solver is not None, miner, **args.kept
    )
    memory = build_memory(args["loss_name"], len(data.train), model.embedding_size, start.device, **args.memory)
    lookalikes = build_lookalikes(args["loss_name"], miner, **args.lookalikes)
    learner = build_learner(
        start,
        model,
        loss,
        batch_recall=True,
        miner=miner,
        memory=memory,
        lookalikes=lookalikes,
        **args.optimiser,
    )
    learner.first_steps = build_first_steps(model, loss, **args.first_steps)
    learner.averaging = build_averaging(learner.objective, settings.pretrained_model, **args.averaging)
    progress = resume(start.run, learner, len(labels), lists, args["total_iter_num"], begun)

    # Batches go on behind the last step.
    sampler = open_batches(
        data.train, args["loss_name"], args.options("sampler"), args["seed"], progress.start, **args.sampler
    )
    if features:
        refuse_filling(memory)
        batches = open_feature_loader(features, sampler)
    else:
        on_bad = progress.skipper(data.train, args["on_bad_image"])
        loader = open_train_loader(data.train, sampler, settings, start.device, on_bad, **args.loading)
        batches = follow_neighbours(
            start, progress, learner, data.train, sampler, loader, settings, args["num_workers"], on_bad
        )
    pictures = Pictures(worst_queries_picture, scatter_picture, embedding_sample)
    draw_batches = partial(
        open_batches, data.test, args["loss_name"], args.options("sampler"), FIXED_SEED, 0, **args.sampler
    )
    tester = open_tester(start, data, settings, args["num_workers"], pictures, draw_batches, **args.testing)
    if of_pairs:
        begin_run(start, progress, args.values, lists)
        keep_towers(start, settings)
    else:
        begin_run(start, progress, {**args.values, **settings.as_flags()}, lists)
    if progress.step == 0 and not features:
        loading = (args["test_batch_size"], args["num_workers"])
        fill_memory(memory, model, data.train, settings, *loading, args["seed"], on_bad)
    schedule = Schedule(**args.schedule)
    trainer = Trainer(
        learner, schedule, data.train, batches, sampler.batch_size, tester, start.run, progress, start.settings
    )
    notes = list_notes(data.train, data.test) + singleton_notes(data.train, sampler.singletons)
    print_kpis(trainer.fit(notes), **args.ancestor)


def solve(args: Args) -> None:
    """In a closed form: the train list is embedded once, and one more layer is solved."""
    from torch import nn

    from data.notes import list_notes
    from data.provenance import describe_lists
    from embeddings.features import open_features
    from embeddings.feedback import open_feedback
    from engine.assembly import begin_run, build_learner, start_run
    from engine.checkpoint import Progress
    from engine.feature_lane import build_network
    from engine.schedule import Schedule
    from engine.solved_layer import LayerInputs, refuse_unsolvable, settings_to_solve, solve_last_layer
    from engine.tested_lists import open_tester
    from engine.testing import Pictures
    from engine.trainer import Trainer, TrainerSettings
    from models import ModelSettings
    from reader import open_training
    from report.board import embedding_sample, scatter_picture, worst_queries_picture
    from solvers import SOLVERS

    # As in `train`, up to the network, behind which there is one more layer.
    refuse_unsolvable(args.values)
    solver = SOLVERS[args["loss_name"]](**args.options("loss_name"))
    start = start_run(TrainerSettings(**args.trainer), args["sync_bn"], args.device, args.run)
    start.run.checkpoint = None  # where torchrun has restarted it: it begins anew
    features = open_features(args["val_classes"], **args.features)
    data = features or open_training(**args.data)
    lists = describe_lists(data.train, data.test, data.more)
    settings = settings_to_solve(ModelSettings(**args.model), solver, args.typed)
    model, settings = build_network(
        start, features, settings, args.typed, lists, args["train_batch_size"], adds_layer=True, **args.build
    )
    progress = Progress(untested=True)
    inputs = LayerInputs(start, settings, data.train, features, args["on_bad_image"], args.loading, progress)
    clicked = open_feedback(args["loss_name"], data.test, **args.feedback)
    solve_last_layer(model, solver, inputs, args["views"], clicked)

    # A run of no steps: it is tested, saved and exported as any other.
    learner = build_learner(start, model, nn.Module(), **args.optimiser)
    pictures = Pictures(worst_queries_picture, scatter_picture, embedding_sample)
    tester = open_tester(start, data, settings, args["num_workers"], pictures, **args.testing)
    begin_run(start, progress, {**args.values, **settings.as_flags()}, lists)
    schedule = Schedule(**{**args.schedule, "total_iter_num": 0})
    trainer = Trainer(learner, schedule, data.train, (), 0, tester, start.run, progress, start.settings)
    print_kpis(trainer.fit(list_notes(data.train, data.test)), **args.ancestor)


if __name__ == "__main__":
    run_script(main)
