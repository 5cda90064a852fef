"""A run's folder: config.json, result.json, what its loggers write, and the lines on the console."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import distributed
from core.console import log
from core.errors import InputError
from core.files import make_folder, replace_json, run_folder
from core.types import Folder, SomeOf, Words
from engine.loggers import USUAL, Background, Logger, has_curves, logger_files, open_loggers, refuse_unready
from engine.provenance import of_this_launch

OF_A_RUN = ("*.pt", "model.*", "result.json")  # without any of these a run has come to nothing
OF_TOWERS = ("towers.json", "image/model.*", "text/model.*")  # of one that trained two networks, beside these
# What loggers that keep weights are given once a run is done.
WEIGHTS = ("last.pt", "best.pt", "model.safetensors", "*/model.safetensors")


def open_run(
    *,
    model_save_dir: Folder = "output",
    overwrite: bool = False,
    checkpoint: str | None = None,
    loggers: Annotated[tuple[str, ...], SomeOf("engine/loggers")] = ("jsonl", "tensorboard"),
    project: str = "metric_learning",
    tags: Words = (),
) -> "Run":
    """Where a run is to be, or where it goes on; all ranks call it together. Nothing is written before `Run.begin`.

    Options:
        model_save_dir: the run's folder
        overwrite: replace a run that is in that folder
        checkpoint: go on with this run (its folder); its own flags are taken over
        loggers: comma-separated, where figures and pictures go: {engine/loggers} (docs/pipelines.md); or none. Pictures
            stand in the run's folder, too
        project: under which name wandb, mlflow and clearml keep it
        tags: comma-separated, for wandb, mlflow, clearml and neptune

    A run goes on in its own folder, whatever `model_save_dir` says. So does one that torchrun has restarted, from its
    last checkpoint; where it had none yet it begins anew in the same folder. Raises InputError for a logger whose
    package or key is missing.
    """
    if distributed.is_first():
        refuse_unready(loggers)
    if checkpoint:
        folder = run_folder(checkpoint)
    else:
        folder = Path(model_save_dir)
    # Ranks on other machines may not see the folder, so the first looks for all.
    restarted = bool(distributed.broadcast_value(of_this_launch(folder)))
    has_saved = bool(distributed.broadcast_value(restarted and (folder / "last.pt").is_file()))
    if not checkpoint and has_saved:
        checkpoint = str(folder)
    return Run(folder, checkpoint or None, overwrite or restarted, loggers, project, tags)


class Run:
    """One run: its folder, what it was started with, and its loggers.

    checkpoint: the run's folder or .pt file that it goes on from, None for a new run. overwrite: whether what is in the
    folder may go. logger_names: where figures go; project, tags: for those that are servers. Every rank has a Run; only
    the first one's writes and prints.
    """

    def __init__(
        self,
        folder: str | Path,
        checkpoint: str | None = None,
        overwrite: bool = False,
        logger_names: tuple[str, ...] = USUAL,
        project: str = "",
        tags: tuple[str, ...] = (),
    ):
        self.folder = Path(folder)
        self.checkpoint = checkpoint
        self.overwrite = overwrite
        self.logger_names = logger_names
        self.project = project
        self.tags = tags
        self.config: dict[str, object] = {}
        self.loggers: list[Logger] = []

    def first_weights(self, pretrained_model: str | None) -> str | None:
        """Where the network's first weights come from: a run that goes on takes all of them from its checkpoint."""
        if self.checkpoint:
            return None
        return pretrained_model

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return (self.folder / "result.json").exists()

    @property
    def going_on(self) -> str:
        """The flag that goes on with this run, as it can be pasted into a line."""
        return shlex.quote(f"--checkpoint={self.folder}")

    def begin(self, config: dict[str, object], start: int = 0, retested: bool = False) -> None:
        """Write config.json and open the loggers, when nothing that a user may have given wrongly is left to be found.

        A resumed run goes on after step `start`, or with the test of that step (`retested`). Raises InputError where
        the folder holds another run, unless that came to nothing.
        """
        # As it will be read again: tuples are lists in JSON.
        self.config = json.loads(json.dumps(config))
        if not distributed.is_first():
            return
        resumed = self.checkpoint is not None
        if not resumed:
            self._make_room()
        make_folder(self.folder)
        if resumed:
            # A killed run may have left files half written.
            self._remove(["*.tmp"])
        # Before the loggers write a line: a folder that has lines has a config.json that says whose.
        replace_json(self.folder / "config.json", config)
        self.loggers = open_loggers(self.folder, start, resumed, retested, self.logger_names, self.project, self.tags)
        for logger in self.loggers:
            logger.config(self.config)

    def _make_room(self) -> None:
        """Remove what an earlier run left in the folder. Raises InputError where it must stay."""
        if not (self.folder / "config.json").exists():
            return
        came_to_something = any(any(self.folder.glob(pattern)) for pattern in OF_A_RUN)
        if came_to_something and not self.overwrite:
            raise InputError(
                f"{str(self.folder)!r} already holds a run: go on with it by {self.going_on}, choose another "
                "--model_save_dir, or give --overwrite=True"
            )
        make_folder(self.folder)
        self._remove([*OF_A_RUN, *OF_TOWERS, "*.tmp", *logger_files()])

    def _remove(self, patterns: list[str]) -> None:
        for pattern in patterns:
            for file in self.folder.glob(pattern):
                file.unlink()

    def log(self, line: str, step: int, figures: dict[str, float], group: str) -> None:
        """Print `line`, and hand figures by name, of the group `train` or `test`, to the loggers."""
        log(line)
        for logger in self.loggers:
            logger.log(figures, step, group)

    def finish(self, result: dict[str, object]) -> None:
        """Write result.json, close the loggers, and say where everything is."""
        replace_json(self.folder / "result.json", result)
        self._hand_on_weights(result)
        self.close_loggers()
        log(f"Recall@1 {100 * result['recall']['1']:.2f} % on {result['tested_on']}")
        curves = ""
        if "tensorboard" in self.logger_names and has_curves(self.folder):
            curves = f", curves: tensorboard --logdir {shlex.quote(str(self.folder))}"
        log(f"run: {self.folder}  (weights last.pt, figures result.json{curves})")

    def _hand_on_weights(self, result: dict[str, object]) -> None:
        """Give the loggers the files of weights, each with the step that made it."""
        for pattern in WEIGHTS:
            for file in sorted(self.folder.glob(pattern)):
                step = result["step"]
                if file.name == "best.pt" and result.get("best"):
                    step = result["best"]["step"]
                for logger in self.loggers:
                    logger.checkpoint(file, step)

    def close_loggers(self) -> None:
        """Let them write what they still hold; nothing comes any more."""
        for logger in self.loggers:
            if isinstance(logger, Background):
                logger.end()
        for logger in self.loggers:
            logger.close()
        self.loggers = []
