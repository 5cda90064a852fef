"""Weights & Biases, the package wandb."""

import netrc
import os
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from core.errors import InputError
from core.packages import needed
from engine.loggers._names import revision
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS

OFFLINE = ("offline", "dryrun", "disabled")


@LOGGERS.register("wandb", remote=True)
class WandbLogger(Logger):
    """Weights & Biases: figures, pictures, checkpoints as artifacts; WANDB_MODE=offline keeps all of it in the run's
    folder.

    run: what wandb.init gave. Figures stand there as GROUP/NAME over `step`.
    """

    files = ("wandb.id",)

    def __init__(self, package: Any, run: Any):
        self.package = package
        self.run = run

    @staticmethod
    def refuse_unready() -> None:
        needed("wandb", "--loggers=wandb", "loggers")
        if os.environ.get("WANDB_MODE") in OFFLINE or os.environ.get("WANDB_API_KEY"):
            return
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
        try:
            has_login = netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
        except (OSError, netrc.NetrcParseError):
            has_login = False
        if not has_login:
            raise InputError(
                "--loggers=wandb has no key: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"
            )

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        package = needed("wandb", "--loggers=wandb", "loggers")
        identity = facts.kept_id("wandb")
        run = package.init(
            project=facts.project,
            name=facts.folder.name,
            dir=str(facts.folder),
            tags=list(facts.tags),
            id=identity,
            resume="allow" if identity else None,
            settings=package.Settings(console="off", silent=True),
        )
        facts.keep_id("wandb", run.id)
        run.define_metric("*", step_metric="step")
        return cls(package, run)

    def config(self, sections: dict[str, object]) -> None:
        self.run.config.update({**sections, "revision": revision(sections)}, allow_val_change=True)

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        self.run.log({"step": step, **{f"{group}/{name}": value for name, value in figures.items()}})

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.run.log({"step": step, name: self.package.Image(picture)})

    def checkpoint(self, path: Path, step: int) -> None:
        artifact = self.package.Artifact(f"{self.run.id}-{path.stem}", type="model", metadata={"step": step})
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def close(self) -> None:
        try:
            self.run.finish()
        except Exception:
            # Its service is gone, and with it all runs. Left to the end of Python, it would say so by a traceback.
            self.package.teardown()
            raise
