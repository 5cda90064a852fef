"""Stage 2: fine-tune an embedding by comparing images within a batch (triplet, quadruplet, eml, npairs).

python train_pair.py --loss_name=eml --train_batch_size=160 --samples_each_class=2 --pretrained_model=output/arc
python train_pair.py --checkpoint=output/arc+eml
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from functools import partial

from data.samplers.shard import Shard

import distributed
import session
from config import options
from core.device import open_device
from core.types import integer
from data.cache import CACHE_KINDS
from data.check import list_notes, lone_notes
from data.image.augmentations import parse_augment
from data.image.decode import DECODERS, choose_decoder
from data.samplers._batches import SAMPLERS
from distributed import sync_batchnorm
from engine.checkpoint import resume
from engine.learner import Learner
from engine.objective import build_loss, build_objective
from engine.optimiser import build_optimiser
from engine.provenance import describe_run, list_facts, note_other_list
from engine.run import open_run, print_kpis
from engine.schedule import Schedule
from engine.seeding import seed_everything
from engine.step import has_single_images
from engine.testing import Tester
from engine.trainer import Trainer, TrainerSettings
from losses import LOSSES
from models import BACKBONES
from models.pooling import POOLINGS
from reporting import embedding_sample, worst_queries_picture

DEFAULTS = {
    "train_batch_size": 120,
    "lr": 0.0001,
    "lr_steps": (100000,),
    "total_iter_num": 100000,
    "test_iter_step": 5000,
    "save_iter_step": 5000,
}


def parse(argv):
    """All flags of stage 2; the chosen loss brings its own."""
    loss_name = options.choose_loss(argv, LOSSES, "pair", default="triplet")
    parser = options.new_parser(__doc__)
    group = options.add_loss_flags(parser, LOSSES, loss_name, "pair")
    group.add_argument(
        "--samples_each_class", type=integer, default=2, help="images of each label in a batch (not triplet)"
    )
    options.add_training_model_flags(parser, BACKBONES, POOLINGS)
    options.add_train_data_flags(parser, parse_augment, DECODERS, CACHE_KINDS)
    options.add_optimiser_flags(parser)
    options.add_device_flags(parser, precision="auto")
    options.add_run_flags(parser)
    parser.set_defaults(**DEFAULTS)
    return options.parse(parser, argv, LOSSES)


def main(argv):
    args = parse(argv)
    flags = partial(session.flags_of, args)
    settings = TrainerSettings(**flags(TrainerSettings))
    schedule = Schedule(**flags(Schedule))
    device, precision = open_device(**flags(open_device))
    sync_batchnorm.refuse_micro_batches(args.sync_bn, settings.micro_batch)
    distributed.init(device)
    run = open_run(**flags(open_run))

    # What is learned from, and what is tested on.
    data_flags = session.data_flags(args)
    data = session.open_data(**data_flags, val_classes=args.val_classes, on_bad_image=args.on_bad_image)
    lists = {"train": list_facts(data.train), "test": list_facts(data.test)}
    labels = data.train.vocabulary.codes
    num_classes = len(data.train.vocabulary)

    # What learns. A run that goes on takes its weights from its checkpoint.
    model_flags = session.model_flags(args)
    decode = choose_decoder(args.decode, args.cache_kind)
    source = None if run.checkpoint else args.pretrained_model
    note_other_list(source, "train", lists["train"])
    single_images = has_single_images(args.train_batch_size, settings.micro_batch)
    seed_everything(settings.seed)
    model = session.build_model(source, model_flags, single_images=single_images, **flags(session.build_model))
    loss_options = {option.name: getattr(args, option.name) for option in LOSSES.options(args.loss_name)}
    loss = build_loss(args.loss_name, loss_options, model.embedding_size, num_classes, precision, **flags(build_loss))
    objective = build_objective(model, loss, device, batch_recall=True)
    optimiser = build_optimiser(model, loss, **flags(build_optimiser))
    learner = Learner(objective, optimiser, device, precision, settings.micro_batch, settings.clip_norm)
    progress = resume(run, learner, num_classes, lists, schedule.total_iter_num)

    # Batches go on behind the last step.
    kind = LOSSES.fact(args.loss_name, "batch")
    samples = {}
    if kind == "pk":
        samples["samples_each_class"] = args.samples_each_class
    sampler = SAMPLERS[kind](
        labels, batch_size=args.train_batch_size, seed=settings.seed, start_step=progress.start, **samples
    )
    notes = list_notes(data.train, data.test)
    if sampler.lone:
        notes += lone_notes(data.train, sampler.lone)
    batches = Shard(sampler, distributed.rank(), distributed.world_size())
    on_bad = partial(progress.skip_image, data.train)
    loader = session.open_train_loader(args, data.train, labels, model_flags, batches, decode, on_bad, device)
    test_loader = session.open_test_loader(
        data.test, model_flags, settings.test_batch_size, settings.num_workers, device
    )
    tester = Tester(
        data.test,
        test_loader,
        device,
        data.tested_on,
        make_task=lambda embeddings: session.task_of(embeddings, data.test, device),
        draw_worst=worst_queries_picture,
        draw_sample=embedding_sample,
    )

    all_flags = {**vars(args), **model_flags, **data_flags, "decode": decode}
    run.begin(describe_run(all_flags, device, precision, lists), progress.start, progress.untested)
    trainer = Trainer(learner, schedule, data.train, loader, args.train_batch_size, tester, run, progress, settings)
    result = trainer.fit(notes)
    if result and args.enable_ce:
        print_kpis(result)


if __name__ == "__main__":
    options.run_script(main)
