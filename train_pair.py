"""Stage 2: fine-tune an embedding by comparing images within a batch (triplet, quadruplet, eml, npairs).

python train_pair.py --loss_name=eml --train_batch_size=160 --samples_each_class=2 --pretrained_model=output/arc
python train_pair.py --checkpoint=output/arc+eml
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from collections.abc import Sequence

from config.ancestor import print_kpis
from config.commands import TRAIN_PAIR
from config.parse import parse
from config.script import run_script


def main(argv: Sequence[str]) -> None:
    args = parse(argv, TRAIN_PAIR, __doc__)
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    import distributed
    from core.device import open_device
    from data.image.decode import choose_decoder
    from data.loader import open_test_loader, open_train_loader
    from data.notes import list_notes, singleton_notes
    from data.provenance import describe_lists, note_other_list
    from data.samplers import build_sampler
    from distributed.sync_batchnorm import refuse_micro_batches
    from engine.checkpoint import resume
    from engine.learner import Learner, check_batches
    from engine.objective import build_loss, build_objective
    from engine.optimiser import build_optimiser
    from engine.provenance import describe_run
    from engine.run import open_run
    from engine.schedule import Schedule
    from engine.seeding import seed_everything
    from engine.testing import Tester
    from engine.trainer import Trainer, TrainerSettings
    from losses import LOSSES
    from models import ModelSettings, build_model
    from reader import open_training
    from report.board import embedding_sample, worst_queries_picture

    # What a run is, what it learns from, and what it is tested on.
    settings = TrainerSettings(**args.trainer)
    refuse_micro_batches(args["sync_bn"], settings.micro_batch)
    device, precision = open_device(**args.device)
    distributed.init(device)
    run = open_run(**args.run)
    data = open_training(**args.data)
    labels = data.train.vocabulary
    lists = describe_lists(data.train, data.test)

    # What learns: a network, and a loss that compares the images of a batch.
    model_settings = ModelSettings(**args.model)
    first_weights = run.first_weights(model_settings.pretrained_model)
    note_other_list(first_weights, "train", lists["train"])
    seed_everything(settings.seed)
    model = build_model(model_settings, first_weights, **args.build)
    check_batches(model, model_settings.image_shape, args["train_batch_size"], settings.micro_batch)
    loss = build_loss(args.options("loss_name"), model.embedding_size, len(labels), precision, **args.loss)
    objective = build_objective(model, loss, device, batch_recall=True)
    optimiser = build_optimiser(model, loss, **args.optimiser)
    learner = Learner(objective, optimiser, device, precision, settings.micro_batch, settings.clip_norm)
    progress = resume(run, learner, len(labels), lists, args["total_iter_num"])

    # Batches go on behind the last step.
    sampler = build_sampler(
        LOSSES.fact(args["loss_name"], "batch"), labels, progress.start, settings.seed, **args.sampler
    )
    on_bad = progress.skipper(data.train, args["on_bad_image"])
    loader = open_train_loader(data.train, sampler, model_settings, device, on_bad, **args.loading)
    test_loader = open_test_loader(data.test, model_settings, settings.test_batch_size, args["num_workers"], device)
    tester = Tester(data.test, test_loader, device, data.tested_on, worst_queries_picture, embedding_sample)
    flags = {**args.values, "decode": choose_decoder(args["decode"], args["cache_kind"])}
    run.begin(describe_run(flags, device, precision, lists), progress.start, progress.untested)
    schedule = Schedule(**args.schedule)
    trainer = Trainer(learner, schedule, data.train, loader, sampler.batch_size, tester, run, progress, settings)
    notes = list_notes(data.train, data.test) + singleton_notes(data.train, sampler.singletons)
    result = trainer.fit(notes)
    print_kpis(result, **args.ancestor)


if __name__ == "__main__":
    run_script(main)
