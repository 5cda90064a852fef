"""Stage 1: train an embedding by classifying the train labels (softmax, arcmargin).

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
    from core.device import open_device
    from data.loader import open_train_loader
    from data.samplers import build_sampler
    from engine.checkpoint import resume
    from engine.learner import build_learner
    from engine.objective import build_loss
    from engine.run import open_run
    from engine.schedule import Schedule
    from engine.seeding import seed_everything
    from engine.testing import open_tester
    from engine.trainer import Trainer, TrainerSettings
    from models import ModelSettings, build_model
    from reader import open_training
    from report.board import embedding_sample, worst_queries_picture

    # What a run is, and what it learns from.
    settings = TrainerSettings(**args.trainer)
    run = open_run(*open_device(**args.device), **args.run)
    data = open_training(**args.data)
    run.describe_lists(data.train, data.test)

    # What learns: a network and a loss over the train labels, which is all that this stage differs in.
    model_settings = run.first_weights(ModelSettings(**args.model))
    seed_everything(settings.seed)
    model = build_model(model_settings, **args.build)
    labels = data.train.vocabulary
    loss = build_loss(args.options("loss_name"), model.embedding_size, len(labels), run.precision, **args.loss)
    learner = build_learner(model, loss, run, settings, model_settings, args["train_batch_size"], **args.optimiser)
    progress = resume(run, learner, len(labels), args["total_iter_num"])

    # Batches go on behind the last step.
    sampler = build_sampler("shuffled", labels, progress.start, settings.seed, **args.sampler)
    loader = open_train_loader(data.train, sampler, model_settings, run.device, progress.skip_image, **args.loading)
    tester = open_tester(data, model_settings, run, settings, worst_queries_picture, embedding_sample)
    run.begin(args.values, progress)
    trainer = Trainer(learner, Schedule(**args.schedule), data.train, loader, tester, run, progress, settings)
    print_kpis(trainer.fit(), **args.ancestor)


if __name__ == "__main__":
    run_script(main)
