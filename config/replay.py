"""The flags of an earlier run: read from its folder, typed again, and held against what is typed now."""

import os
from pathlib import Path

from core.errors import InputError
from core.files import run_folder
from core.types import plain

NEVER_REPLAYED = ("config", "checkpoint", "overwrite", "allow_changed")
PLACES = ("data_dir", "train_list", "test_list", "pretrained_model")  # flags that name files and folders
# What may differ from the run that is gone on with: none of it is seen in the weights.
MAY_DIFFER = ("model_save_dir", "num_workers", "cache_bytes", "test_batch_size", "display_iter_step", "test_iter_step")
MAY_DIFFER += ("save_iter_step", "keep_checkpoints", "report", "with_mem_opt", "enable_ce")


def read_flags(file, part="flags"):
    """The flags in a run's config.json, {name: value}, or another part of it. Raises InputError when it is none."""
    try:
        return dict(json.loads(Path(file).read_text())[part])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {part} from {str(file)!r}: {type(error).__name__}: {error}") from None


def replayed(config, checkpoint):
    """The flags of a config.json, or of the run of a checkpoint, {name: value}; none without either."""
    if not (config or checkpoint):
        return {}
    path = Path(config or checkpoint)
    if not path.exists():
        raise InputError(f"--{'config' if config else 'checkpoint'}: {str(path)!r} is no run, nor a file of one")
    flags = read_flags(path if config and path.is_file() else run_folder(path) / "config.json")
    return {name: value for name, value in flags.items() if value is not None and name not in NEVER_REPLAYED}


def _is_same(name, value, other):
    """Whether two values of a flag mean the same: `./photos` and `photos` are one folder."""
    if name in PLACES and value is not None and other is not None:
        return os.path.abspath(value) == os.path.abspath(other)
    return value == other


def refuse_contradictions(now, run, allowed):
    """Raise InputError where flags now, {name: value}, differ from those of the run that is gone on with."""
    unknown = [name for name in allowed if name not in run]
    if unknown:
        raise InputError(f"allow_changed names {unknown[0]!r}, which is no flag of the run")
    for name, value in now.items():
        if (
            name in run
            and not _is_same(name, value, run[name])
            and name not in (*NEVER_REPLAYED, *MAY_DIFFER, *allowed)
        ):
            raise InputError(
                f"--{name} is {plain(value)}, but the run that goes on has {plain(run[name])}; leave it out, or give "
                f"--allow_changed={name}"
            )
