"""Our sentences as exceptions of the kinds that OML raises, so that who catches those catches these."""

import contextlib
from collections.abc import Iterable, Iterator

from core.errors import InputError, unknown


class RefusedAssertion(InputError, AssertionError):
    """What OML asserts."""


class RefusedResults(InputError, RuntimeError):
    """What OML's RetrievalResults refuses."""


class RefusedIndex(InputError, IndexError):
    """A number of an item that is not there."""


class RefusedType(InputError, TypeError):
    """An argument of a type that OML refuses."""


class UnknownName(InputError, KeyError):
    """A name that no registry has."""

    # That of KeyError puts the sentence into quotation marks.
    __str__ = Exception.__str__


@contextlib.contextmanager
def raised_as(kind: type[InputError]) -> Iterator[None]:
    """Turn an InputError into one of `kind`, with the same sentence."""
    try:
        yield
    except InputError as error:
        # One that has a kind of its own keeps it.
        if type(error) is not InputError:
            raise
        raise kind(str(error)) from None


def require(condition: bool, sentence: str) -> None:
    """Raise RefusedAssertion with a sentence unless the condition holds."""
    if not condition:
        raise RefusedAssertion(sentence)


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> UnknownName:
    """The error of a name that is none of `allowed`."""
    return UnknownName(str(unknown(kind, name, allowed)))
