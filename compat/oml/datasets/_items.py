"""What datasets of every modality do alike: further columns of an item."""

from collections.abc import Mapping
from typing import Any

from compat.oml._errors import require
from core.errors import InputError
from core.text import counted


def checked_extra(extra_data: Mapping[str, Any] | None, size: int) -> dict[str, Any]:
    """Further columns of so many items. Raises RefusedAssertion for one of another length."""
    extra_data = dict(extra_data or {})
    for key, column in extra_data.items():
        require(
            len(column) == size, f"extra_data {key!r} has {counted(len(column), 'value')} for {counted(size, 'item')}"
        )
    return extra_data


def with_extra(data: dict[str, Any], extra_data: Mapping[str, Any], item: int) -> dict[str, Any]:
    """The item's dict with its values of the further columns. Raises InputError where a key is taken."""
    for key, column in extra_data.items():
        if key in data:
            raise InputError(f"extra_data has the key {key!r}, which an item has already")
        data[key] = column[item]
    return data
