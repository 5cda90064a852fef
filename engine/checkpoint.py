"""Checkpoints of plain tensors and dicts: whole or absent on disk, complete for a resume."""

import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from core.console import log
from core.errors import InputError
from core.files import replacing_synced, sync
from data.provenance import refuse_other_lists
from data.records import Records
from distributed import sharded_classes
from engine.learner import Learner
from engine.run import Run
from engine.seeding import numpy_state, set_numpy_state
from models.weights import read_weights, weights_file


@dataclass
class Progress:
    """How far a run has come.

    step: the last that was made; start: the one that this process began behind; saved: the last that is on the disk.
    best: step, recall, `chosen_on`, figure and its value of the best test, None before the first. recall: of the last
    test, {k: value}.
    figures: those that were displayed last. untested: whether `step` is still to be tested. skipped: steps that were
    left out. bad_images: indices of train images that could not be read. neighbours: the table of labels that batches
    are made by (engine/neighbours.py), where they are. plateau: how often the rate was reduced
    (engine/schedule.py), where it is. seconds: those of this process.
    """

    start: int = 0
    step: int = 0
    saved: int = 0
    best: dict[str, object] | None = None
    recall: dict[int, float] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    untested: bool = False
    skipped: int = 0
    bad_images: set[int] = field(default_factory=set)
    neighbours: torch.Tensor | None = None
    plateau: dict[str, float | int | None] | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "test": 0.0})

    def skipper(self, records: Records, on_bad_image: str) -> Callable[[int, str], None] | None:
        """What is told of train images that cannot be read; None where one of them stops the run."""
        if on_bad_image == "stop":
            return None
        return partial(self.skip_image, records)

    def skip_image(self, records: Records, index: int, sentence: str) -> None:
        """Note an image of the train list that cannot be read, and say so once, on whichever rank."""
        if index in self.bad_images:
            return
        self.bad_images.add(index)
        log(f"{records.location(index)}: {sentence}; skipped", by_first=False)


def resume(
    run: Run,
    learner: Learner,
    num_classes: int,
    lists: dict[str, dict[str, object]],
    total_iter_num: int,
    begun: Progress,
) -> Progress:
    """Put the learner where the run's checkpoint is, in place; a run without one begins at step 0.

    num_classes: those of all ranks; lists: {split: list_facts} of this process. begun: what came before the first step,
    as the seconds of a layer that was solved. Raises InputError for a checkpoint of another model, loss, optimiser or
    list, and for a run that is done.
    """
    if run.checkpoint is None:
        return begun
    file = weights_file(run.checkpoint, "checkpoint")
    state = read_weights(file)
    if learner.objective.loss_is_sharded:
        state = sharded_classes.shard_state(state, num_classes)
    # First of all, so that a file that is no checkpoint of this run is refused in its own words.
    step, best = restore(state, learner, file)
    progress = Progress(
        start=step,
        step=step,
        saved=step,
        best=best,
        figures=state["figures"],
        untested=state["untested"],
        skipped=state["skipped"],
        bad_images=set(state["bad_images"]),
        neighbours=state.get("neighbours"),
        plateau=state.get("plateau"),
    )
    at_the_end = step == total_iter_num
    if step > total_iter_num or (at_the_end and run.is_finished):
        raise InputError(f"{file} is at step {step} already; --total_iter_num={total_iter_num} asks for no more")
    if at_the_end:
        # It was killed between its last step and its result.
        progress.untested = True
    refuse_other_lists(lists, state["config"]["lists"])
    return progress


def training_state(
    learner: Learner,
    step: int,
    best: dict[str, object] | None,
    classes: torch.Tensor | list[str],
    is_last: bool = False,
    **record: object,
) -> dict[str, object]:
    """Everything that the next step depends on; the data position is the step itself (data/samplers).

    classes: (C,) int64 or C strings, the label that each class of the loss stands for. is_last: the step is the run's
    last. record: plain values that go along. "model" and "loss" are what the run hands on; where that is an average,
    the weights that the next step moves stand under "averaging".
    """
    objective = learner.objective
    # Dropout on an accelerator draws from that one's generator.
    device_rng = None
    if torch.accelerator.is_available():
        device_rng = torch.get_device_module().get_rng_state()
    memory = None
    if objective.memory is not None:
        memory = objective.memory.state_dict()
    state = {
        **record,
        "model": objective.model.state_dict(),
        "facts": objective.model.facts,
        "loss": objective.loss.state_dict(),
        "optimiser": {"kind": type(learner.optimiser).__name__, **learner.optimiser.state_dict()},
        "scaler": learner.scaler.state_dict(),
        "memory": memory,
        "step": step,
        "best": best,
        "classes": classes,
        "rng": torch.get_rng_state(),
        "python_rng": random.getstate(),
        "numpy_rng": numpy_state(),
        "device_rng": device_rng,
    }
    if learner.averaging is not None:
        state = learner.averaging.into_state(state, is_last)
    return state


def restore(state: dict[str, object], learner: Learner, file: str | Path) -> tuple[int, dict[str, object] | None]:
    """Put `state` back (in place). Returns (step, best). Raises InputError when it belongs to another model or loss."""
    model = learner.objective.model
    if "facts" in state and "config" not in state:
        raise InputError(f"{file} is of an older version, which did not save all that a run needs to go on")
    if state.get("facts") != model.facts:
        raise InputError(f"{file} holds the model {state.get('facts')}, but the flags ask for {model.facts}")
    # A stranger's file may hold anything under these names.
    try:
        weights = state.get("averaging") or state
        model.load_state_dict(weights["model"])
        learner.objective.loss.load_state_dict(weights["loss"])
        if learner.averaging is not None:
            learner.averaging.restore(state.get("averaging"))
        _restore_optimiser(learner.optimiser, _mapping(state, "optimiser"))
        if learner.objective.memory is not None and state.get("memory") is not None:
            learner.objective.memory.load_state_dict(_mapping(state, "memory"))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{file} belongs to another loss or optimiser: {reason}") from None
    try:
        learner.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        random.setstate(state["python_rng"])
        set_numpy_state(_mapping(state, "numpy_rng"))
        if state["device_rng"] is not None and torch.accelerator.is_available():
            torch.get_device_module().set_rng_state(state["device_rng"])
        return int(state["step"]), state["best"]
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} holds no random state to go on with: {type(error).__name__}: {error}") from None


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
    """The momenta come from `state`; rates and decays stay those of the flags."""
    asked = type(optimiser).__name__
    if state["kind"] != asked:
        raise ValueError(f"it trained by {state['kind']}, the flags ask for {asked}")
    settings = []
    for group in optimiser.param_groups:
        settings.append({name: value for name, value in group.items() if name != "params"})
    optimiser.load_state_dict(state)
    for group, asked_for in zip(optimiser.param_groups, settings):
        group.update(asked_for)
    # torch's fused optimisers go through weight, gradient and momenta as they lie in memory, and mix up those of a file
    # whose layout is another one.
    for parameter, momenta in optimiser.state.items():
        for name, value in momenta.items():
            if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape == parameter.shape:
                momenta[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _mapping(state: dict[str, object], name: str) -> Mapping:
    """The mapping that a checkpoint's state holds under this name; a tensor there would take a name as an index."""
    if not isinstance(state[name], Mapping):
        raise TypeError(f"{name!r} is a {type(state[name]).__name__}, where a mapping has to be")
    return state[name]


def save(state: dict[str, object], path: str | Path) -> None:
    """Write beside `path`, and rename when it is on the disk, so that `path` is always the old file or the new one.

    Raises OSError where the disk refuses; the old file is as it was then.
    """
    try:
        with replacing_synced(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a disk's refusal
        Path(f"{path}.tmp").unlink(missing_ok=True)
        raise OSError(f"cannot write {str(path)!r}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """What the disk said, also where torch's writer hid it behind an error of its own."""
    while error.__context__ is not None and not getattr(error, "strerror", None):
        error = error.__context__
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


class Checkpoints:
    """The checkpoints in a run's folder: each step_N.pt, last.pt, which is the newest of them, and best.pt.

    keep: how many of the newest step_N.pt stay, 0 for all. A disk that refuses leaves every file as it was.
    """

    def __init__(self, folder: str | Path, keep: int = 0):
        self.folder = Path(folder)
        self.keep = keep

    def save_step(self, state: dict[str, object], needed: bool = False) -> bool:
        """Save `step_N.pt` and make it `last.pt`; returns whether that went well.

        Where the disk refuses it is said; raises InputError if `needed`.
        """
        try:
            self._save_step(state)
            return True
        except OSError as error:
            sentence = f"step {state['step']} is not saved: {error}; what was saved before is whole"
            if needed:
                raise InputError(sentence) from None
            log(f"{sentence}, and the run goes on")
            return False

    def save_best(self, state: dict[str, object]) -> bool:
        """Save `best.pt`; returns whether that went well. Where the disk refuses it is said."""
        try:
            save(state, self.folder / "best.pt")
            return True
        except OSError as error:
            log(f"the best step so far, {state['step']}, is not saved: {error}; the run goes on")
            return False

    def _save_step(self, state: dict[str, object]) -> None:
        path = self.folder / f"step_{state['step']}.pt"
        last = self.folder / "last.pt"
        save(state, path)
        # Left by a crash, it may be a link to an older step, which must not be written into.
        temporary = Path(f"{last}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # no hard links here
            shutil.copyfile(path, temporary)
            sync(temporary)
        # In one move, so that last.pt is whole at any moment.
        os.replace(temporary, last)
        sync(self.folder)
        self._remove_old_steps()

    def _remove_old_steps(self) -> None:
        if not self.keep:
            return
        steps = sorted(self.folder.glob("step_*.pt"), key=lambda file: int(file.stem.removeprefix("step_")))
        for old in steps[: -self.keep]:
            old.unlink()
