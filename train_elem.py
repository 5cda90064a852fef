"""Stage 1: train an embedding by classifying the train labels (softmax, arcmargin and their kin).

python train_elem.py --loss_name=arcmargin
python train_elem.py --loss_name=arcmargin --data_dir=data/Stanford_Online_Products --pretrained_model=imagenet
python train_elem.py --checkpoint=output
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from collections.abc import Sequence

from config.ancestor import print_kpis
from config.commands import TRAIN_ELEM
from config.parse import parse
from config.script import run_script


def main(argv: Sequence[str]) -> None:
    args = parse(argv, TRAIN_ELEM, __doc__)
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    from data.loader import open_train_loader
    from data.notes import list_notes, singleton_notes
    from data.provenance import describe_lists
    from embeddings.features import open_features
    from engine.assembly import begin_run, build_learner, start_run
    from engine.averaging import build_averaging
    from engine.batches import open_batches
    from engine.checkpoint import Progress, resume
    from engine.class_vectors import fix_class_vectors
    from engine.feature_lane import build_network, open_feature_loader
    from engine.freezing import build_first_steps
    from engine.neighbours import follow_neighbours
    from engine.objective import build_loss, tell_labels
    from engine.schedule import Schedule
    from engine.solved_layer import LayerInputs, first_solver, solve_last_layer
    from engine.tested_lists import open_tester
    from engine.testing import Pictures
    from engine.trainer import Trainer, TrainerSettings
    from models import ModelSettings
    from reader import open_training
    from report.board import embedding_sample, scatter_picture, worst_queries_picture

    # What a run is, what it learns from, and what it is tested on.
    start = start_run(TrainerSettings(**args.trainer), args["sync_bn"], args.device, args.run)
    features = open_features(args["val_classes"], **args.features)
    data = features or open_training(**args.data)
    lists = describe_lists(data.train, data.test, data.more)
    labels = data.train.vocabulary

    # What learns: a network, and a loss that classifies the train labels.
    settings = ModelSettings(**args.model)
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
    fix_class_vectors(loss, data.train, **args.class_vectors)
    learner = build_learner(start, model, loss, **args.optimiser)
    learner.first_steps = build_first_steps(model, loss, **args.first_steps)
    learner.averaging = build_averaging(learner.objective, settings.pretrained_model, **args.averaging)
    progress = resume(start.run, learner, len(labels), lists, args["total_iter_num"], begun)

    # Batches go on behind the last step.
    sampler = open_batches(
        data.train, args["loss_name"], args.options("sampler"), args["seed"], progress.start, **args.sampler
    )
    if features:
        batches = open_feature_loader(features, sampler)
    else:
        on_bad = progress.skipper(data.train, args["on_bad_image"])
        loader = open_train_loader(data.train, sampler, settings, start.device, on_bad, **args.loading)
        batches = follow_neighbours(
            start, progress, learner, data.train, sampler, loader, settings, args["num_workers"], on_bad
        )
    pictures = Pictures(worst_queries_picture, scatter_picture, embedding_sample)
    tester = open_tester(start, data, settings, args["num_workers"], pictures, **args.testing)
    begin_run(start, progress, {**args.values, **settings.as_flags()}, lists)
    schedule = Schedule(**args.schedule)
    trainer = Trainer(
        learner, schedule, data.train, batches, sampler.batch_size, tester, start.run, progress, start.settings
    )
    notes = list_notes(data.train, data.test) + singleton_notes(data.train, sampler.singletons)
    print_kpis(trainer.fit(notes), **args.ancestor)


if __name__ == "__main__":
    run_script(main)
