"""The figure that chooses a run's best checkpoint: --best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InputError, near_match
from core.types import Words
from data.records import Records
from engine.figures import FNMR, LOSS, PCF, check_figure, smaller_is_better

USUAL = "recall@1"
RECALLS = ("recall@1", "recall@5", "recall@10")  # of every test


@dataclass(frozen=True)
class Best:
    """A figure of one list, over all its queries or those of a category.

    text: as it was given. list_number: of the lists that a run is tested on, from 0. category: None for all queries.
    """

    text: str = USUAL
    list_number: int = 0
    figure: str = USUAL
    category: str | None = None

    @property
    def smaller_is_better(self) -> bool:
        """In which sense of the figure it chooses."""
        return smaller_is_better(self.figure)

    def measured(self, metrics: Words, list_number: int) -> Words:
        """The further figures of a list: those that are asked for, and this one, where nothing measures it."""
        is_asked_for = self.figure in (*metrics, *RECALLS, LOSS)
        if is_asked_for or self.category is not None or self.list_number != list_number:
            return metrics
        return (*metrics, self.figure)

    def beats(self, value: float | None, before: float | None) -> bool:
        """Whether a step of this value takes the place of one with `before`; of equal ones the first stays."""
        if value is None or math.isnan(value):
            return False
        if before is None:
            return True
        if self.smaller_is_better:
            return value < before
        return value > before


def open_best(text: str | None, lists: Sequence[tuple[str, Records]], has_loss: bool) -> Best:
    """The figure that `text` names, as FIGURE, FIGURE/CATEGORY, LIST/FIGURE or LIST/FIGURE/CATEGORY.

    lists: (title, Records) of those that the run is tested on; has_loss: whether the first is tested by its loss, too.
    Raises InputError for a figure, a list or a category that there is not.
    """
    if text is None:
        return Best()
    list_number = 0
    rest = text
    for number, (title, _) in enumerate(lists):
        if title and text.startswith(f"{title}/"):
            list_number, rest = number, text.removeprefix(f"{title}/")
    figure, slash, category = rest.partition("/")
    if slash and "@" in category and "@" not in figure:
        titles = [title for title, _ in lists]
        hint = near_match(figure, titles)
        raise InputError(f"--best={text}: no list {figure!r}; there are: {', '.join(titles)}.{hint}")
    if figure == LOSS:
        _refuse_loss(text, list_number, slash, has_loss)
    else:
        try:
            check_figure(figure)
        except InputError as error:
            raise InputError(f"--best={text}: {error}") from None
    if not slash:
        return Best(text, list_number, figure)
    if figure.startswith((FNMR, PCF)):
        raise InputError(f"--best={text}: {figure} is of all pairs of a list; a category has none of its own")
    _refuse_other_category(text, category, lists[list_number][1])
    return Best(text, list_number, figure, category)


def _refuse_loss(text: str, list_number: int, slash: str, has_loss: bool) -> None:
    if list_number or slash:
        raise InputError(f"--best={text}: the loss is of the first list, over all its categories")
    if not has_loss:
        raise InputError(f"--best={text} needs --test_loss=True")


def _refuse_other_category(text: str, category: str, records: Records) -> None:
    """Raise InputError for a category of which nobody asks."""
    texts = records.category_texts
    if texts is None:
        raise InputError(f"--best={text}: {records.source} has no categories")
    there_are = sorted(set(texts[records.is_query].tolist()))
    if category not in there_are:
        shown = ", ".join(there_are[:12])
        raise InputError(
            f"--best={text}: {records.source} has no category {category!r}; there are: {shown}."
            f"{near_match(category, there_are)}"
        )
