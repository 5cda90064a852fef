"""The mel scale of HTK, of whatever arrays."""

from collections.abc import Callable
from typing import TypeVar

Array = TypeVar("Array")


def htk_mels(hertz: Array, log10: Callable[[Array], Array]) -> Array:
    """Frequencies to mels, 2595 log10(1 + f / 700) (O'Shaughnessy, Speech Communication, 1987).

    log10: of the library that the array is of.
    """
    return 2595 * log10(1 + hertz / 700)
