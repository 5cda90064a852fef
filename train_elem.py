"""Stage 1: train an embedding by classifying the train labels (softmax, arcmargin).

python train_elem.py --loss_name=arcmargin
python train_elem.py --loss_name=arcmargin --data_dir=data/Stanford_Online_Products --pretrained_model=imagenet
python train_elem.py --checkpoint=output
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from functools import partial

from config import options
from core.errors import InputError
from core.types import boolean, count, number
from data.cache import CACHE_KINDS
from data.image.augmentations import parse_augment
from data.image.decode import DECODERS
from data.samplers import ShuffledSampler
from engine.trainer import Training
from losses import LOSSES
from models import BACKBONES
from models.pooling import POOLINGS
from reporting import finish

DEFAULTS = {
    "train_batch_size": 256,
    "lr": 0.01,
    "lr_steps": (15000, 25000),
    "total_iter_num": 30000,
    "test_iter_step": 1000,
    "save_iter_step": 1000,
}


def parse(argv):
    """All flags of stage 1; the chosen loss brings its own."""
    loss_name = options.choose_loss(argv, LOSSES, "elem", default="softmax")
    parser = options.new_parser(__doc__)
    options.add_loss_flags(parser, LOSSES, loss_name, "elem")
    options.add_training_model_flags(parser, BACKBONES, POOLINGS)
    options.add_train_data_flags(parser, parse_augment, DECODERS, CACHE_KINDS)
    optimisation = options.add_optimiser_flags(parser)
    optimisation.add_argument(
        "--class_lr", type=number(0), help="learning rate of the loss's own weights (default: --lr)"
    )
    optimisation.add_argument(
        "--class_dim", type=count, help="checked against the number of train labels (default: no check)"
    )
    optimisation.add_argument(
        "--shard_classes", type=boolean, default=False, help="a part of the class weights on each rank (torchrun)"
    )
    options.add_device_flags(parser, precision="auto")
    options.add_run_flags(parser)
    parser.set_defaults(**DEFAULTS)
    return options.parse(parser, argv, LOSSES)


def main(argv):
    args = parse(argv)
    sampler = partial(ShuffledSampler, batch_size=args.train_batch_size, seed=args.seed)
    training = Training(args, "elem", sampler)
    if args.class_dim and args.class_dim != training.num_classes:
        raise InputError(f"class_dim is {args.class_dim}, but training uses {training.num_classes} labels")
    finish(training)


if __name__ == "__main__":
    options.run_script(main)
