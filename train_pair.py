"""Stage 2: fine-tune an embedding by comparing images within a batch (triplet, quadruplet, eml, npairs).

python train_pair.py --loss_name=eml --train_batch_size=160 --samples_each_class=2 --pretrained_model=output/arc
python train_pair.py --checkpoint=output/arc+eml
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from functools import partial

from config import options
from core.types import integer
from data.cache import CACHE_KINDS
from data.image.augmentations import parse_augment
from data.image.decode import DECODERS
from data.samplers import SAMPLERS
from engine.trainer import Training
from losses import LOSSES
from models import BACKBONES
from models.pooling import POOLINGS
from reporting import finish

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
    batch = LOSSES.fact(args.loss_name, "batch")
    samples = {"samples_each_class": args.samples_each_class} if batch == "pk" else {}
    sampler = partial(SAMPLERS[batch], batch_size=args.train_batch_size, seed=args.seed, **samples)
    finish(Training(args, "pair", sampler))


if __name__ == "__main__":
    options.run_script(main)
