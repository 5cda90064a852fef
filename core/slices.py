"""Long tables cut into slices that fit into memory."""


def row_slices(rows: int, row_size: int, memory: int) -> list[slice]:
    """Slices over all of `rows`, of so many that they take `memory` or less, but one row at least.

    row_size: of one row, in the unit of `memory`: bytes, or numbers.
    """
    step = max(1, memory // row_size)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
