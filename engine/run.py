"""A run's folder: config.json, metrics.jsonl, result.json, TensorBoard files, and the lines on the console."""

import json
from pathlib import Path

import distributed
from core.console import log
from core.errors import InputError
from core.files import make_folder, replace_json, replacing_synced


def of_this_launch(folder):
    """Whether this launch of torchrun began the run in `folder`, and so must have restarted since."""
    try:
        begun_by = json.loads(Path(folder, "config.json").read_text())["launch"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return begun_by is not None and begun_by == distributed.launch_id()


class Run:
    """One run's folder. A new run refuses a folder that holds one, unless that came to nothing; a resumed one goes on
    after step `start`, or with the test of that step (`retested`).
    """

    def __init__(self, folder, config, start=0, resumed=False, overwrite=False, retested=False):
        holder = Path(folder) / "config.json"
        kept = any(any(Path(folder).glob(pattern)) for pattern in ("*.pt", "model.*", "result.json"))
        if holder.exists() and kept and not (resumed or overwrite):
            raise InputError(
                f"{str(folder)!r} already holds a run: go on with it by --checkpoint={folder}, choose another "
                "--model_save_dir, or give --overwrite=True"
            )
        self.folder = make_folder(folder)
        if resumed:
            self._forget_after(start, retested)
        elif holder.exists():
            self._clear()
        replace_json(holder, config)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, so not for --help

        self.board = SummaryWriter(self.folder, purge_step=start + 1 if resumed else None)
        self.metrics = open(self.folder / "metrics.jsonl", "a", buffering=1)

    def _forget_after(self, start, retested):
        """Drop the figures of steps that the interrupted run made after its last checkpoint, and what it half wrote."""
        for torn in self.folder.glob("*.tmp"):
            torn.unlink()
        file = self.folder / "metrics.jsonl"
        if file.exists():
            lines = file.read_text().splitlines()
            whole = [line for line in lines if line.endswith("}")]  # a killed run may have torn its last line
            places = [(line, json.loads(line)) for line in whole]
            kept = [line for line, at in places if at["step"] < start + (at["group"] == "train" or not retested)]
            with replacing_synced(file) as new:
                new.write("".join(f"{line}\n" for line in kept).encode())

    def _clear(self):
        stale = ("*.pt", "*.tmp", "model.*", "metrics.jsonl", "result.json", "events.out.tfevents.*")
        for file in (file for pattern in stale for file in self.folder.glob(pattern)):
            file.unlink()

    def log(self, line, step, figures, group):
        """Print `line`; append `figures` (name -> float) to metrics.jsonl and to TensorBoard under `group`/name."""
        log(line)
        try:
            self.metrics.write(json.dumps({"step": step, "group": group, **figures}) + "\n")
            for name, value in figures.items():
                self.board.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:
            log(f"the figures of step {step} could not be written: {error.strerror}; the run goes on")

    def finish(self, result):
        """Write result.json, close the logs, and return the result."""
        replace_json(self.folder / "result.json", result)
        self.board.close()
        self.metrics.close()
        return result
