"""Items of an index among which is searched: those of some labels and categories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from core.errors import InputError, near_match
from retrieval.index.items import UNKNOWN, LabelColumn
from retrieval.index.segments import Rows

Value = int | str | None  # of a label or a category; None: of items without one
OFFERED = 10_000  # labels up to which a near match is looked for: more take seconds


@dataclass(frozen=True)
class Selection:
    """The items with ids (n,) int64, rising.

    labels, categories: which of them they have, as the index holds them (None among them: no label); None where any do.
    """

    ids: np.ndarray
    labels: list[Value] | None
    categories: list[Value] | None


def select(
    rows: Rows, labels: Value | Iterable[Value] = None, categories: Value | Iterable[Value] = None
) -> Selection | None:
    """The items of some labels and some categories; None where both are left open (None), which means all items.

    A label stands for those that read the same, 7 for "7", or else for those that are called so; None within a list for
    items that have none. Raises InputError for a label or a category that no item has, and where no item has both.
    """
    if labels is None and categories is None:
        return None
    is_wanted = np.ones(len(rows), dtype=bool)
    label_values = category_values = None
    if labels is not None:
        codes = _codes(rows.label_column, labels, "label", rows.label_names)
        label_values = _values(rows.label_column, codes)
        is_wanted &= np.isin(rows.label_column.codes, codes)
    if categories is not None:
        codes = _codes(rows.category_column, categories, "category", {})
        category_values = _values(rows.category_column, codes)
        is_wanted &= np.isin(rows.category_column.codes, codes)
    if not is_wanted.any():
        raise InputError(
            f"no item has the label {_shown(labels)} and the category {_shown(categories)}: there is nothing to find"
        )
    return Selection(rows.ids[is_wanted], label_values, category_values)


def _codes(column: LabelColumn, wanted: Value | Iterable[Value], noun: str, names: dict[str, str]) -> list[int]:
    """The codes of the values that are wanted, rising."""
    values = _as_list(wanted)
    if not values:
        raise InputError(f"not one {noun} is given of the items to look among")
    by_name = None
    codes = set()
    for value in values:
        if value is None:
            if not (column.codes == UNKNOWN).any():
                raise InputError(f"no item is without a {noun}")
            codes.add(UNKNOWN)
            continue
        text = str(value)
        known = column.codes_by_text.get(text)
        if known is None:
            if by_name is None:
                by_name = _codes_by_name(column, names)
            known = by_name.get(text)
        if known is None:
            offered = [*column.codes_by_text, *by_name]
            if len(offered) > OFFERED:
                offered = []
            raise InputError(f"no item has the {noun} {text!r}.{near_match(text, offered)}")
        codes.update(known)
    return sorted(codes)


def _as_list(wanted: Value | Iterable[Value]) -> list[Value]:
    if wanted is None or isinstance(wanted, int | str | np.generic):
        return [wanted]
    return list(wanted)


def _codes_by_name(column: LabelColumn, names: dict[str, str]) -> dict[str, list[int]]:
    """{what labels are called: their codes}."""
    codes: dict[str, list[int]] = {}
    for text, name in names.items():
        codes.setdefault(name, []).extend(column.codes_by_text.get(text, []))
    return {name: of_name for name, of_name in codes.items() if of_name}


def _values(column: LabelColumn, codes: list[int]) -> list[Value]:
    return column.value_table[codes].tolist()


def _shown(wanted: Value | Iterable[Value]) -> str:
    return " or ".join(repr(str(value)) if value is not None else "none" for value in _as_list(wanted)[:5])
