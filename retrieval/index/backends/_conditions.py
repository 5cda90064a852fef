"""What an item's facts have to be, in Qdrant's words: the same for its server and for Qdrant Edge."""

from collections.abc import Callable
from types import ModuleType

from retrieval.index.selection import Selection, Value

MOST_VALUES = 10_000  # labels that a filter names; of more the database looks among all items


def conditions_of(models: ModuleType, selection: Selection, key_of: Callable[[Value], int | str]):
    """A Filter for items of a selection, of the package's own classes; None where too many values would be named.

    key_of: what stands for a label or category in an item's payload.
    """
    conditions = []
    for key, values in (("label", selection.labels), ("category", selection.categories)):
        if values is not None and len(values) <= MOST_VALUES:
            conditions.append(models.Filter(should=_any_of(models, key, values, key_of)))
    if not conditions:
        return None
    return models.Filter(must=conditions)


def _any_of(models: ModuleType, key: str, values: list[Value], key_of: Callable[[Value], int | str]) -> list:
    """Conditions, of which one has to hold; integers and texts are asked for apart."""
    keys = [key_of(value) for value in values if value is not None]
    conditions = []
    for kind in (int, str):
        of_kind = [key for key in keys if isinstance(key, kind)]
        if of_kind:
            conditions.append(models.FieldCondition(key=key, match=models.MatchAny(any=of_kind)))
    if None in values:
        conditions.append(models.FieldCondition(key=key, is_empty=True))
    return conditions
