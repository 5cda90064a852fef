"""Cutting a long axis into slices of bounded size: the one place where memory is turned into a number of rows."""

CACHED_NUMBERS = 2**18  # rows are prepared in slices of so many numbers, which stay in a processor's cache
LAUNCHED_NUMBERS = 2**23  # on an accelerator, where each operation has its price, however few numbers it is of
MEMORY = 256 * 2**20  # bytes that a search takes beside the embeddings, unless it is told otherwise
DEVICE_MEMORY = 2**30  # likewise on an accelerator


def numbers_at_once(device_type: str, cached: int = CACHED_NUMBERS) -> int:
    """In slices of how many numbers rows are worked on: `cached` on a `cpu`, more on a device of another type."""
    return cached if device_type == "cpu" else LAUNCHED_NUMBERS


def search_memory(device_type: str, megabytes: int | None = None) -> int:
    """Bytes that a search takes beside the embeddings: those asked for, else what suits the type of device."""
    if megabytes is not None:
        return megabytes * 2**20
    return MEMORY if device_type == "cpu" else DEVICE_MEMORY


def slices_of(stop: int, step: int, start: int = 0) -> list[slice]:
    """Slices of `step` elements, the last may be shorter, that cover start to stop; none where there is nothing."""
    return [slice(left, min(left + step, stop)) for left in range(start, stop, step)]


def step_within(size: int, budget: int) -> int:
    """How many elements of `size` fit into a budget of the same unit (numbers or bytes): at least 1."""
    return max(1, budget // size)


def slices_within(count: int, size: int, budget: int) -> list[slice]:
    """Slices that cut `count` elements of `size` into portions that fit into a budget, or hold one element each."""
    return slices_of(count, step_within(size, budget))
