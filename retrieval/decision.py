"""From a score to an answer: from which cosine on two items are called the same, and how probable that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.text import counted

# A cosine lies between -1 and 1; a threshold above all of them, which nothing reaches, is the next number behind.
LARGEST_COSINE = 1.001


@dataclass(frozen=True)
class Decision:
    """When two items are called the same.

    threshold: the cosine from which on they are. scores, probabilities: the knots of the calibration, cosines that rise
    and P(same), which does not fall; it is linear between knots and constant outside. origin: plain JSON that tells of
    which list they are, what was wished for and what was measured.
    """

    threshold: float
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    origin: dict = field(default_factory=dict)

    def __post_init__(self):
        fault = self._fault()
        if fault:
            raise InputError(f"a decision that cannot be: {fault}")

    def _fault(self) -> str | None:
        """What is wrong with it, in words; None where nothing is."""
        if not _is_number(self.threshold) or abs(self.threshold) > LARGEST_COSINE:
            return f"the threshold is {self.threshold!r}, which is no cosine"
        for name in ("scores", "probabilities"):
            if not all(_is_number(number) for number in getattr(self, name)):
                return f"{name} hold what is no number"
        if not self.scores or len(self.scores) != len(self.probabilities):
            return (
                f"{counted(len(self.scores), 'score')}, {counted(len(self.probabilities), 'probability')}; one a "
                "score, and one at least"
            )
        if (np.diff(self.scores) <= 0).any():
            return "scores do not rise"
        if (np.diff(self.probabilities) < 0).any():
            return "probabilities fall"
        if not 0 <= self.probabilities[0] <= self.probabilities[-1] <= 1:
            return "probabilities lie outside 0 to 1"
        if not isinstance(self.origin, dict):
            return f"its origin is {type(self.origin).__name__}, no object"
        return None

    def probability(self, scores: npt.ArrayLike) -> np.ndarray:
        """P(same) of cosines of any shape, float64 of that shape."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities)

    def is_same(self, scores: npt.ArrayLike) -> np.ndarray:
        """Whether two items of such a cosine are called the same: bool of the shape of `scores`."""
        # Compared in float64: a float32 score is the same number there, and so is a threshold that was one.
        return np.asarray(scores, dtype=np.float64) >= self.threshold

    def to_json(self) -> dict:
        """It as plain JSON, which `from_json` reads."""
        return {
            "threshold": self.threshold,
            "scores": list(self.scores),
            "probabilities": list(self.probabilities),
            "origin": self.origin,
        }

    @classmethod
    def from_json(cls, content: object, file: str | Path) -> Decision:
        """What `to_json` gave. Raises InputError, naming the file, for what cannot be."""
        facts = {"threshold": float | int, "scores": list, "probabilities": list, "origin": dict}
        if not isinstance(content, dict):
            raise InputError(f"{str(file)!r} is damaged: its decision is {type(content).__name__}, no object")
        for name, kind in facts.items():
            if not isinstance(content.get(name), kind):
                raise InputError(f"{str(file)!r} is damaged: decision.{name}")
        try:
            return cls(
                content["threshold"],
                tuple(content["scores"]),
                tuple(content["probabilities"]),
                content["origin"],
            )
        except InputError as error:
            raise InputError(f"{str(file)!r} is damaged: {error}") from None


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
