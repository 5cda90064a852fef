"""What a flag's text may be: functions from text to value, the types that annotations are made of, and back to text.

A function from text to value raises argparse.ArgumentTypeError, whose sentence argparse puts behind the flag's name.
"""

import ast
import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from typing import Annotated

from core import pml
from core.errors import InputError, near_match
from core.formula import Formula
from core.numerals import read_float, read_int
from core.sources import elsewhere, registered, table_keys

BYTES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def boolean(text: str) -> bool:
    """True/False/1/0 as the ancestor's recipes spell them."""
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ArgumentTypeError(f"{text!r} is not one of True, False, 1, 0")
    return values[text.lower()]


def integers(text: str) -> tuple[int, ...]:
    """A comma-separated tuple of integers."""
    try:
        return tuple(read_int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of integers such as 15000,25000") from None


def image_shape(text: str) -> tuple[int, ...]:
    """`3,height,width` in pixels."""
    shape = integers(text)
    if len(shape) != 3 or shape[0] != 3 or min(shape) < 1:
        raise ArgumentTypeError(f"{text!r} is not 3,height,width such as 3,224,224")
    return shape


def fractions(text: str) -> tuple[float, float]:
    """Two comma-separated numbers 0 < low <= high <= 1."""
    refusal = ArgumentTypeError(f"{text!r} is not low,high with 0 < low <= high <= 1")
    try:
        low, high = (read_float(word) for word in text.split(","))
    except ValueError:
        raise refusal from None
    if not 0 < low <= high <= 1:
        raise refusal
    return low, high


def rates(text: str) -> tuple[float, ...]:
    """A comma-separated tuple of numbers from 0 to 1."""
    refusal = ArgumentTypeError(f"{text!r} is not a list of numbers from 0 to 1 such as 0.1,0.01")
    try:
        values = tuple(read_float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise refusal from None
    if not all(0 <= value <= 1 for value in values):
        raise refusal
    return values


def number(
    least: float, kind: type = float, above: bool = False, most: float = math.inf, below: float = math.inf
) -> Callable[[str], float | int]:
    """A flag's type: a finite `kind` of at least `least`, or above it, of at most `most` and below `below`."""
    read = read_int if kind is int else read_float
    word = "an integer" if kind is int else "a number"
    if math.isfinite(most):
        bounds = f"from {least} to {most}"
    elif math.isfinite(below):
        bounds = f"of at least {least} and below {below}"
    elif above:
        bounds = f"above {least}"
    else:
        bounds = f"of at least {least}"

    def check(text: str) -> float | int:
        try:
            value = read(text)
        except ValueError:
            value = math.nan
        is_high_enough = value > least if above else value >= least
        # NaN is neither, and infinity is below no bound.
        if not is_high_enough or value > most or not value < below:
            raise ArgumentTypeError(f"{text!r} is not {word} {bounds}")
        return value

    return check


def margin(text: str) -> float | str:
    """A number of at least 0, or `soft`."""
    if text == "soft":
        return text
    try:
        return number(0)(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}, or soft") from None


def ranks(text: str) -> int | tuple[int, int]:
    """n, a number of at least 1; or a-b (also a,b), ranks from the a-th to the b-th, the first being 1."""
    refusal = ArgumentTypeError(f"{text!r} is neither a number of at least 1 nor a range such as 2-5")
    try:
        numbers = tuple(read_int(word) for word in text.replace("-", ",").split(","))
    except ValueError:
        raise refusal from None
    if len(numbers) > 2 or not 1 <= numbers[0] <= numbers[-1]:
        raise refusal
    return numbers[0] if len(numbers) == 1 else numbers


def interval(text: str) -> tuple[float, float]:
    """Two comma-separated numbers low <= high."""
    refusal = ArgumentTypeError(f"{text!r} is not low,high with low <= high")
    try:
        low, high = (read_float(word) for word in text.split(","))
    except ValueError:
        raise refusal from None
    if not low <= high:
        raise refusal
    return low, high


positive = number(0, int, above=True)
count = number(0, int)
processes = number(0, int, most=1024)
width = number(0, int, most=10**6)
seed = number(0, int, most=2**63 - 1)  # as torch takes it


def integer(text: str) -> int:
    """A whole number."""
    try:
        return read_int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not an integer") from None


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        value = read_float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def folder(text: str) -> str:
    """A folder's name, which an empty text is not: it would be where one stands, as when a shell variable is unset."""
    if not text.strip():
        raise ArgumentTypeError("it is empty; give a folder, or . for this one")
    return text


def steps(text: str) -> tuple[int, ...]:
    """A comma-separated tuple of steps, 0 or more each."""
    values = integers(text)
    if min(values, default=0) < 0:
        raise ArgumentTypeError(f"{text!r} is not a list of steps from 0 on such as 15000,25000")
    return values


def widths(text: str) -> tuple[int, ...]:
    """A comma-separated tuple of widths, 1 or more each and none twice."""
    values = integers(text)
    if min(values, default=1) < 1 or len(set(values)) < len(values):
        raise ArgumentTypeError(f"{text!r} is not a list of different widths from 1 on such as 64,128,256")
    return values


def layers(text: str) -> tuple[int, ...]:
    """A comma-separated tuple of widths of layers, 1 or more each; empty for no layer."""
    values = integers(text)
    if min(values, default=1) < 1:
        raise ArgumentTypeError(f"{text!r} is not a list of widths from 1 on such as 192 or 512,192")
    return values


def scales(text: str) -> tuple[float, ...]:
    """A comma-separated tuple of different numbers above 0 and of at most 4, one at least."""
    refusal = ArgumentTypeError(f"{text!r} is not a list of different numbers above 0, up to 4, such as 1,0.7071,0.5")
    try:
        values = tuple(read_float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise refusal from None
    if not values or len(set(values)) < len(values) or not all(0 < value <= 4 for value in values):
        raise refusal
    return values


def workers(text: str) -> int | str:
    """A number of processes, or `auto`."""
    if text == "auto":
        return text
    try:
        return processes(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}, or auto") from None


def byte_size(text: str) -> int:
    """Bytes as 500MB or 2GB (powers of ten), or a bare number."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(KB|MB|GB|)", text.upper())
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a size such as 500MB or 2GB")
    return int(float(match[1]) * BYTES[match[2]])


def one_of(allowed: Iterable[str]) -> Callable[[str], str]:
    """A flag's type that takes one of `allowed` and offers the near match."""
    allowed = tuple(allowed)

    def check(text: str) -> str:
        if text not in allowed:
            raise ArgumentTypeError(f"{text!r} is not one of {', '.join(allowed)}.{near_match(text, allowed)}")
        return text

    return check


def names(allowed: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A flag's type: a comma-separated tuple of some of `allowed`, in the order given."""
    check = one_of(allowed)

    def distinct(text: str) -> tuple[str, ...]:
        chosen = tuple(check(word) for word in text.split(",") if word)
        if len(set(chosen)) < len(chosen):
            raise ArgumentTypeError(f"{text!r} names one of them twice")
        return chosen

    return distinct


def words(text: str) -> tuple[str, ...]:
    """A comma-separated tuple of names."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def nan_policy(text: str) -> str:
    """`stop`, or `skip:N` with N steps of at least 1."""
    if not re.fullmatch(r"stop|skip:0*[1-9][0-9]*", text):
        raise ArgumentTypeError(f"{text!r} is neither stop nor skip:N, as skip:10")
    return text


def rate_formula(text: str) -> str:
    """A formula of `step` and `total`."""
    try:
        Formula(text, ("step", "total"))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def lists(text: str) -> str:
    """A list, or several, comma-separated: core.lists.split_lists tells which, once their folder is known."""
    return text


def plain(value: object) -> str:
    """A flag's value as one would type it."""
    if isinstance(value, (tuple, list)):
        return ",".join(str(element) for element in value)
    return str(value)


# Names for annotations of flags: Annotated[the value's type, function from text to value]. A further fact says how many
# words of the command line a flag takes.
MANY, SWITCH = "several words", "a switch"
Positive = Annotated[int, positive]
Count = Annotated[int, count]
Width = Annotated[int, width]
Seed = Annotated[int, seed]
AtLeastZero = Annotated[float, number(0)]
Share = Annotated[float, number(0, most=1)]
ShareOfSome = Annotated[float, number(0, below=1)]
Port = Annotated[int, number(0, int, most=65535)]
AboveZero = Annotated[float, number(0, above=True)]
Ranks = Annotated[int | tuple[int, int], ranks]
Interval = Annotated[tuple[float, float], interval]
Margin = Annotated[float | str, margin]
Cosine = Annotated[float, number(-1, most=1)]
Steps = Annotated[tuple[int, ...], steps]
Widths = Annotated[tuple[int, ...], widths]
Layers = Annotated[tuple[int, ...], layers]
Scales = Annotated[tuple[float, ...], scales]
Shape = Annotated[tuple[int, int, int], image_shape]
Fractions = Annotated[tuple[float, float], fractions]
Rates = Annotated[tuple[float, ...], rates]
ByteSize = Annotated[int, byte_size]
Words = Annotated[tuple[str, ...], words]
Folder = Annotated[str, folder]
Lists = Annotated[str, lists]
RateFormula = Annotated[str, rate_formula]
NanPolicy = Annotated[str, nan_policy]
WorkerCount = Annotated[int | str, workers]
Paths = Annotated[tuple[str, ...], str, MANY]
Texts = Annotated[tuple[str, ...], str, MANY]
Switch = Annotated[bool, boolean, SWITCH]


def loss_name(text: str) -> str:
    """A name of ours, or pml:NAME of pytorch-metric-learning."""
    if not text.startswith(pml.PREFIX):
        return OneOf("losses", "solvers")(text)
    try:
        pml.loss_class(text)
    except InputError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def literal(text: str) -> object:
    """A number, True, False, None, or several of them with commas."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ArgumentTypeError(f"{text!r} is no number, True, False or None") from None


def literal_or_text(text: str) -> object:
    """A number, True, False or None, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


LossName = Annotated[str, loss_name]


class OneOf:
    """Annotated[str, OneOf("losses")]: the type of a flag that takes one name which files of a folder register.

    Several folders may have such names. or_none: also `none`, for a flag that may name nothing.
    """

    def __init__(self, *folders: str, or_none: bool = False):
        self.folders = folders
        self.or_none = or_none

    def __call__(self, text: str) -> str:
        names = [name for folder in self.folders for name in registered(folder)]
        if self.or_none:
            names.append("none")
        try:
            return one_of(names)(text)
        except ArgumentTypeError as error:
            raise ArgumentTypeError(f"{error}{elsewhere(text, *self.folders)}") from None


class ChainOf:
    """Annotated[str, ChainOf("models/heads")]: such names, comma-separated, as `layer_norm,linear:512,unit_linear`.

    Each but the last has a width, unless it is registered as one that keeps its input's.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, text: str) -> str:
        entries = registered(self.folder)
        check = one_of(entries)
        *inner, last = text.split(",")
        for word in inner:
            name, colon, size = word.partition(":")
            check(name)
            if entries[name].facts.get("keeps_width"):
                if colon:
                    raise ArgumentTypeError(f"{word!r} in {text!r}: {name} is as wide as its input; leave {size} out")
                continue
            if not colon:
                raise ArgumentTypeError(f"{word!r} in {text!r} needs its width, as {name}:512: only the last is open")
            positive(size)
        check(last)
        return text


class SomeOf:
    """Annotated[tuple[str, ...], SomeOf("retrieval/rerank")]: several such names, comma-separated, in the order given.

    SomeOf("data.image.augmentations:AUGMENTATIONS"): keys of that table, in the table's order. `none` is none.
    """

    def __init__(self, home: str):
        self.home = home

    def __call__(self, text: str) -> tuple[str, ...]:
        if text == "none":
            return ()
        if ":" not in self.home:
            try:
                return names(registered(self.home))(text)
            except ArgumentTypeError as error:
                raise ArgumentTypeError(f"{error}{elsewhere(text, self.home)}") from None
        allowed = table_keys(self.home)
        try:
            chosen = names(allowed)(text)
        except ArgumentTypeError as error:
            module, _, table = self.home.partition(":")
            raise ArgumentTypeError(f"{error} They are the rows of {table} in {module.replace('.', '/')}.py.") from None
        return tuple(name for name in allowed if name in chosen)
