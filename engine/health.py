"""Where training goes wrong: a line that says so and what to try, from figures that are at hand.

Looked at when figures are displayed and tests are made, so that no step waits for it. Each is said once.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from core.errors import InputError
from core.files import read_json, run_folder
from losses import LOSSES
from retrieval.metrics.spread import COLLAPSED, collapse_notes, spread_of

ONE = 1e-5  # spread of a batch in which all embeddings are one, even where they were close from the first
SHRUNK = 0.01  # share of the first spread that is as good as none
SOLVED_DISPLAYS = 5  # displays in a row without an active pair
NEAR = 1e-3  # of eml's fixed point
SWITCHES = ("keep_classes", "freeze_bn", "miner", "sampler", "memory_size")  # advised where they are off
DEVIATIONS = 2  # of a share of that many queries, which a fall has to be more than


@dataclass(frozen=True)
class FirstRecall:
    """Recall@1 of the network that a run starts from, on the list that it is tested on."""

    source: str
    recall: float


class Health:
    """Says where a run of these `flags` goes wrong. first: Recall@1 of where it started, if that is known."""

    def __init__(self, flags: dict[str, object], first: FirstRecall | None = None):
        self.flags = flags
        self.first = first
        self.recall_before: float | None = None
        self.first_spread: float | None = None
        self.solved = 0
        self.said: set[str] = set()

    def after_display(self, figures: dict[str, float], embeddings: torch.Tensor) -> list[str]:
        """Sentences on displayed figures and the embeddings (B, D) of their batch, or scores (P,) of its pairs."""
        sentences = {"solved": self._solved(figures)}
        # One number a pair points nowhere.
        if embeddings.ndim == 2:
            sentences["collapse"] = self._collapse(figures, embeddings)
        return self._new(sentences)

    def after_test(self, recall: float, queries: int, embeddings: torch.Tensor) -> list[str]:
        """Sentences on Recall@1 of a test of so many queries, and its embeddings (N, D), or distances (P,) of pairs."""
        sentences = {"worse": self._worse(recall, queries)}
        self.recall_before = recall
        if embeddings.ndim == 2:
            sentences["collapse"] = next(iter(collapse_notes(embeddings)), None)
        return self._new(sentences)

    def _new(self, sentences: dict[str, str | None]) -> list[str]:
        """Of what is wrong now, {kind: sentence}, what was not said before."""
        new = [sentence for kind, sentence in sentences.items() if sentence and kind not in self.said]
        self.said |= {kind for kind, sentence in sentences.items() if sentence}
        return new

    def _worse(self, recall: float, queries: int) -> str | None:
        if self.first is not None:
            before = self.first.recall
            whose = f"of {self.first.source}, from which it started"
        elif self.recall_before is not None:
            before = self.recall_before
            whose = "of the test before"
        else:
            return None
        chance = DEVIATIONS * math.sqrt(before * (1 - before) / queries)
        if recall >= before - chance:
            return None
        advice = self._advice(
            {"lr": "a smaller --lr", "keep_classes": "--keep_classes=0.1", "freeze_bn": "--freeze_bn=True"}
        )
        return f"Recall@1 is {100 * recall:.2f} %, below the {100 * before:.2f} % {whose}; try {advice}"

    def _collapse(self, figures: dict[str, float], embeddings: torch.Tensor) -> str | None:
        spread = spread_of(embeddings)
        if self.first_spread is None:
            self.first_spread = spread
        pair_loss = figures.get("pair_loss", figures["loss"])
        distance = figures.get("negative_distance", math.inf)
        # All distances are 0 there, by themselves or beside the length of features as wide as a network's; a loss that
        # passes 1 on its way down has large ones.
        is_one = distance < 10 * NEAR or spread < COLLAPSED
        if self.flags.get("loss_name") == "eml" and abs(pair_loss - 1) < NEAR and is_one:
            return (
                f"eml stands at {pair_loss:.4f}: 1 is where all embeddings are one point; try a --feature_scale by "
                "which it starts near or below 1, or a smaller --lr"
            )
        if spread < ONE or spread < SHRUNK * self.first_spread:
            return (
                f"the embeddings of a batch are nearly one: they spread by {spread:.1e}, at first by "
                f"{self.first_spread:.1e}; try a smaller --lr, or --warmup_steps"
            )
        return None

    def _solved(self, figures: dict[str, float]) -> str | None:
        if figures.get("active_share", 1.0) > 0:
            self.solved = 0
            return None
        self.solved += 1
        if self.solved < SOLVED_DISPLAYS:
            return None
        advice = {"miner": "--miner=hard", "sampler": "--sampler=neighbours"}
        if LOSSES.fact(self.flags["loss_name"], "memory", False):
            advice["memory_size"] = "--memory_size"
        advice |= {"margin": "a larger --margin", "train_batch_size": "a larger --train_batch_size"}
        return (
            f"no pair was active in the last {SOLVED_DISPLAYS} displays, so that nothing is learned; try "
            f"{self._advice(advice)}"
        )

    def _advice(self, advice: dict[str, str]) -> str:
        """What can be tried, {flag: advice}, of the flags that the run has and has not switched on already."""
        known = [text for flag, text in advice.items() if flag in self.flags and not self._is_on(flag)]
        if len(known) == 1:
            return known[0]
        return f"{', '.join(known[:-1])} or {known[-1]}"

    def _is_on(self, flag: str) -> bool:
        return flag in SWITCHES and self.flags[flag] not in (None, 0, "none")


def first_recall(source: str | None, tested_on: str, facts: dict[str, object]) -> FirstRecall | None:
    """What the run `source` (--pretrained_model) had in its last test, if that was on the same list.

    facts: list_facts of the test list. None where a file says nothing of it, such as best.pt or a stranger's.
    """
    if not source or not (Path(source).is_dir() or Path(source).name in ("last.pt", "model.safetensors")):
        return None
    folder = run_folder(source)
    try:
        before = read_json(folder / "config.json")["lists"]["test"]
        result = read_json(folder / "result.json")
        same = all(before[name] == facts[name] for name in ("sha256", "images", "labels"))
        if same and result["tested_on"] == tested_on:
            return FirstRecall(source, float(result["recall"]["1"]))
    except (OSError, InputError, LookupError, TypeError, ValueError):
        return None
    return None
