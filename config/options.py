"""Flags: groups that scripts choose from, options read from the chosen loss's signature, replay of a config.json."""

import argparse
import sys
from pathlib import Path

import distributed
from config import replay
from core.device import PRECISIONS
from core.errors import InputError, near_match
from core.types import (
    boolean,
    byte_size,
    count,
    finite,
    folder,
    fractions,
    image_shape,
    in_argparse,
    integer,
    names,
    nan_policy,
    number,
    one_of,
    plain,
    positive,
    seed,
    steps,
    width,
    words,
    workers,
)
from data.workers import ignore_worker_deaths, loading_failure
from engine.optimiser import OPTIMISERS
from engine.schedule import STRATEGIES
from engine.stop import Stopped


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see --help)")


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        shown = action.default not in (None, argparse.SUPPRESS) and action.option_strings
        return f"{action.help} (default: {plain(action.default)})" if shown else action.help


def new_parser(doc):
    """An empty parser; `doc` is the script's docstring."""
    parser = _Parser(description=doc, formatter_class=_Help, usage="%(prog)s [--flag=value ...]", allow_abbrev=False)
    parser.add_argument("--config", help="replay the flags of a run's config.json; flags on the line win")
    return parser


def add_data_flags(parser):
    text = "where folder and lists are left open, they are those of the --pretrained_model run, if it is one"
    group = parser.add_argument_group("data", text)
    group.add_argument(
        "--data_dir",
        help="folder that the lists' paths start from (default: the embedded emoji set, else the list's own)",
    )
    group.add_argument(
        "--test_list", help="SOP list, csv, or folder per label of the test images (default: Ebay_test.txt)"
    )
    group.add_argument(
        "--num_workers", type=workers, default=2, help="processes that load images; 0: none beside this one; or auto"
    )
    return group


def add_train_data_flags(parser, parse_augment, decoders, cache_kinds):
    group = add_data_flags(parser)
    group.add_argument(
        "--train_list", help="SOP list, csv, or folder per label of the training images (default: Ebay_train.txt)"
    )
    group.add_argument(
        "--val_classes", type=count, default=0, help="hold out so many train labels and test on them instead"
    )
    group.add_argument(
        "--augment", type=in_argparse(parse_augment), default=("crop", "flip"), help="comma-separated, see README; none"
    )
    group.add_argument("--crop_scale", type=fractions, default=(0.08, 1.0), help="share of the area that crop keeps")
    group.add_argument("--decode", type=one_of(decoders), default="auto", help=f"JPEGs: one of {', '.join(decoders)}")
    group.add_argument("--cache_bytes", type=byte_size, default=0, help="memory that keeps train images, as 2GB")
    kinds = one_of(cache_kinds)
    group.add_argument("--cache_kind", type=kinds, default="encoded", help="how: encoded; or decoded, for small sets")
    bad = one_of(("stop", "skip"))
    group.add_argument("--on_bad_image", type=bad, default="stop", help="stop, or skip: another one takes its place")
    group.add_argument("--train_batch_size", type=positive, help="images in a training batch")
    group.add_argument("--micro_batch", type=count, default=0, help="images of it in the network at a time; 0: all")
    group.add_argument("--test_batch_size", type=positive, default=50, help="images in a test batch")


def add_model_flags(parser, models, poolings):
    group = parser.add_argument_group("model (what is left open comes from the --pretrained_model run, if it is one)")
    group.add_argument("--model", help=f"one of {', '.join(models)} (default: ResNet50)")
    group.add_argument("--image_shape", type=image_shape, help="input as 3,height,width in pixels (default: 3,224,224)")
    group.add_argument(
        "--resize_short_size", type=count, help="short side before the test crop (default 0: the crop size)"
    )
    group.add_argument(
        "--embedding_size", type=width, help="width of a linear layer (default 0: the pooled feature itself)"
    )
    group.add_argument("--pooling", type=one_of(poolings), help=f"one of {', '.join(poolings)} (default: avg)")
    group.add_argument("--pretrained_model", help="a run folder, a weights file, or imagenet; empty: random weights")
    return group


def add_training_model_flags(parser, models, poolings):
    group = add_model_flags(parser, models, poolings)
    group.add_argument("--freeze_bn", type=boolean, default=False, help="keep BatchNorm at its stored statistics")
    group.add_argument("--sync_bn", type=boolean, default=False, help="BatchNorm over all ranks' images (torchrun)")
    group.add_argument("--freeze_stages", type=count, default=0, help="so many first stages stay as they are")
    group.add_argument("--compile", type=boolean, default=False, help="torch.compile the network")


def add_device_flags(parser, precision, runtimes=()):
    group = parser.add_argument_group("device")
    group.add_argument(
        "--use_gpu", type=boolean, help="True insists on an accelerator, False avoids it (default: if any)"
    )
    group.add_argument(
        "--precision", type=one_of(PRECISIONS), default=precision, help=f"one of {', '.join(PRECISIONS)}"
    )
    if runtimes:
        group.add_argument("--runtime", type=one_of(runtimes), default=runtimes[0], help=", ".join(runtimes))
    return group


def add_optimiser_flags(parser):
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--optimiser", type=one_of(OPTIMISERS), default="momentum", help=f"one of {', '.join(OPTIMISERS)}"
    )
    group.add_argument("--lr", type=number(0, above=True), help="learning rate")
    group.add_argument("--lr_strategy", type=one_of(STRATEGIES), default="piecewise_decay", help=", ".join(STRATEGIES))
    group.add_argument("--lr_steps", type=steps, help="steps at which piecewise_decay multiplies by 0.1")
    group.add_argument("--warmup_steps", type=count, default=0, help="steps of linear rise to --lr")
    group.add_argument("--weight_decay", type=number(0), default=1e-4, help="L2 (momentum) or decoupled (adamw)")
    group.add_argument("--momentum", type=number(0), default=0.9, help="of SGD")
    group.add_argument("--clip_norm", type=number(0), default=0.0, help="largest norm of the gradient; 0: no clipping")
    group.add_argument("--total_iter_num", type=positive, help="steps of the whole run")
    return group


def add_run_flags(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--model_save_dir", type=folder, default="output", help="the run's folder")
    group.add_argument("--overwrite", type=boolean, default=False, help="replace a run that is in that folder")
    group.add_argument("--checkpoint", help="go on with this run (its folder); its own flags are taken over")
    group.add_argument(
        "--allow_changed", type=words, default=(), help="flags, comma-separated, that may differ from that run's"
    )
    group.add_argument("--keep_checkpoints", type=count, default=0, help="newest step_N.pt files to keep; 0: all")
    group.add_argument(
        "--nan", type=nan_policy, default="stop", help="at a loss or gradient that is not finite: stop, or skip:N steps"
    )
    group.add_argument(
        "--report", type=boolean, default=False, help="show worst queries and embeddings on TensorBoard at each test"
    )
    group.add_argument("--seed", type=seed, default=0, help="of weights, batches and augmentations")
    group.add_argument("--display_iter_step", type=positive, default=10, help="steps between two lines")
    group.add_argument("--test_iter_step", type=positive, help="steps between two tests; the last is always tested")
    group.add_argument("--save_iter_step", type=positive, help="steps between checkpoints; the last is always saved")
    group.add_argument("--with_mem_opt", type=boolean, default=True, help="of the ancestor's recipes; no effect")
    group.add_argument("--enable_ce", type=boolean, default=False, help="print the ancestor's `kpis` lines at the end")


def add_search_flags(parser, distances):
    group = parser.add_argument_group("search")
    group.add_argument("--distance", type=one_of(distances), default="cosine", help=f"one of {', '.join(distances)}")
    group.add_argument(
        "--search_memory_mb", type=number(1, int), default=256, help="memory of a search beside the embeddings, in MB"
    )
    return group


def add_loss_flags(parser, losses, name, stage):
    """--loss_name and the options of the chosen loss; returns their group."""
    group = parser.add_argument_group(f"loss: {name}")
    group.add_argument("--loss_name", default=name, help=f"one of {', '.join(losses.names(stage=stage))}")
    add_option_flags(group, losses, name)
    return group


def add_option_flags(group, registry, name):
    """The options of a registered class, straight from its signature."""
    for option in registry.options(name):
        kind = type(option.default)
        kind = {bool: boolean, float: finite, int: integer}.get(kind, kind)
        group.add_argument(f"--{option.name}", type=kind, default=option.default, help=option.help)


def add_postprocess_flags(parser, registry, argv):
    """--postprocess and the options of the post-processors that `argv` names."""
    group = parser.add_argument_group("post-processing")
    kind = {"type": names(registry.names()), "default": ()}
    help = f"comma-separated, one after the other: {', '.join(registry.names())}"
    group.add_argument("--postprocess", **kind, help=help)
    for name in dict.fromkeys(first_pass(argv, postprocess=kind).postprocess):
        add_option_flags(group, registry, name)


def first_pass(argv, **flags):
    """A few flags of `argv`, {name: settings of add_argument}, before the parser that knows them all can be made."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name, settings in flags.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_known_args(argv)[0]


def choose_loss(argv, losses, stage, default):
    """Which loss `argv` names. Raises InputError for an unknown one or one of the other stage."""
    name = first_pass(argv, loss_name={"default": replayed(argv).get("loss_name", default)}).loss_name
    if name not in losses.names(stage=stage):
        own = losses.fact(name, "stage")
        raise InputError(
            f"{name} is a loss of train_{own}.py; train_{stage}.py has {', '.join(losses.names(stage=stage))}"
        )
    return name


def parse(parser, argv, registry=None, foreign=None):
    """Parse `argv` on top of the flags that it replays.

    Replayed flags that the parser lacks are left out if they are options of a class in `registry`, so that a run can be
    replayed with another loss. `foreign`: flags of the parser's own that mean something else in a training run; where
    it is given all flags that the parser lacks are left out, and these, so that eval.py can replay a training run.
    Raises InputError for an unknown flag, with its near match or the classes whose option it is.
    """
    known = parser._option_string_actions
    owners = {}
    for name in registry.names() if registry else ():
        for option in registry.options(name):
            owners.setdefault(f"--{option.name}", []).append(name)
    earlier = {f"--{name}": value for name, value in replayed(argv).items()}
    if foreign is None:
        earlier = {flag: value for flag, value in earlier.items() if flag in known or flag not in owners}
    else:
        own = known.keys() - {f"--{name}" for name in foreign}
        earlier = {flag: value for flag, value in earlier.items() if flag in own}
    typed = [f"{flag}={plain(value)}" for flag, value in earlier.items()]
    args, unknown = parser.parse_known_args(typed + list(argv))
    if unknown:
        word = unknown[0].split("=")[0]
        if not word.startswith("-"):
            raise InputError(
                f"{word!r} stands behind no flag that takes it; several values follow a flag with blanks, as in "
                "--input a.jpg b.jpg (see --help)"
            )
        hint = f" It is an option of {', '.join(owners[word])}." if word in owners else near_match(word, known)
        raise InputError(f"unknown flag {unknown[0]!r}.{hint} (see --help)")
    if getattr(args, "checkpoint", None):
        run = parser.parse_known_args(typed)[0]
        replay.refuse_contradictions(vars(args), vars(run), args.allow_changed)
    return args


def replayed(argv):
    """The flags that `argv` replays, {name: value}."""
    chosen = first_pass(argv, config={}, checkpoint={})
    return replay.replayed(chosen.config, chosen.checkpoint)


def run_script(main):
    """Call main(argv); a user's mistake ends in sentences and exit status 2, a signal in 128 plus its number."""
    name = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
        distributed.close()
    except Stopped as stopped:
        if distributed.is_first():
            print(f"{name}: stopped by {stopped.signal.name} {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print(f"{name}: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    except InputError as error:
        _end_in_sentences(name, error)
    except RuntimeError as error:
        # torch reports a loading process's death wherever this one happens to be.
        failure = loading_failure(error)
        if failure is None:
            raise
        _end_in_sentences(name, failure)


def _end_in_sentences(name, error):
    ignore_worker_deaths()
    # A loader's worker wraps its error into a traceback, which ends with the sentence.
    sentences = str(error).strip().rpartition("errors.InputError: ")[2]
    name += f", rank {distributed.rank()}" * (distributed.world_size() > 1)
    print(f"{name}: {sentences}", file=sys.stderr, flush=True)
    sys.exit(2)
