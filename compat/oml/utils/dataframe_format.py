"""Whether a table is one that OML's datasets take."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compat.oml._errors import RefusedAssertion
from compat.oml.const import (
    CATEGORIES_COLUMN,
    IS_GALLERY_COLUMN,
    IS_QUERY_COLUMN,
    LABELS_COLUMN,
    OBLIGATORY_COLUMNS,
    PATHS_COLUMN,
    SPLIT_COLUMN,
)
from core.console import log
from core.packages import needed
from core.text import counted, plural
from data.formats.problems import first_faults
from data.lists import read_list

FILE = "table.csv"  # what sentences call the table; line 2 of it is row 0


def check_retrieval_dataframe_format(
    df: Any, dataset_root: str | Path | None = None, sep: str = ",", verbose: bool = True
) -> None:
    """Raise RefusedAssertion with all that is wrong with a table, a line each, by row.

    df: a DataFrame, or a csv's path. dataset_root: the folder that paths are of; None: whole paths. verbose: say which
    labels are of several categories.
    """
    pandas = needed("pandas", "check_retrieval_dataframe_format()", "oml")
    if isinstance(df, (str, Path)):
        df = pandas.read_csv(df, sep=sep)
    missing = [name for name in OBLIGATORY_COLUMNS if name not in df.columns]
    if missing:
        raise RefusedAssertion(f"the table has no column {', '.join(missing)}")
    problems = [*_of_roles(df), *_of_list(df, Path(dataset_root or ""))]
    if problems:
        raise RefusedAssertion("\n".join(first_faults(problems)))
    if verbose and CATEGORIES_COLUMN in df.columns:
        counts = df.groupby(LABELS_COLUMN)[CATEGORIES_COLUMN].nunique()
        several = counts.index[counts > 1].tolist()
        if several:
            log(
                f"note: {counted(len(several), 'label')} {plural(len(several), 'is', 'are')} of several categories "
                f"({several[0]}, for one); the last one counts"
            )


def _of_list(df: Any, root: Path) -> list[str]:
    """What is wrong with the table as a list of this repository: splits, flags, boxes, files."""
    if PATHS_COLUMN in df.columns:
        df = df.assign(**{PATHS_COLUMN: [os.path.abspath(root / str(path)) for path in df[PATHS_COLUMN]]})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, FILE)
        df.to_csv(file, index=False)
        _, problems = read_list(file, os.sep, None)
        return [problem.replace(str(file), FILE) for problem in problems]


def _of_roles(df: Any) -> Iterator[str]:
    """What is wrong with labels and roles by OML's rules, which are stricter than those of a list."""
    labels = np.asarray(df[LABELS_COLUMN])
    if labels.dtype.kind not in "iu":
        yield f"{FILE}: labels are {labels.dtype}; they are whole numbers"
    is_train = np.asarray(df[SPLIT_COLUMN]) == "train"
    is_open = np.ones(len(df), dtype=bool)
    for flag in (IS_QUERY_COLUMN, IS_GALLERY_COLUMN):
        is_open &= np.asarray(df[flag].isna())
        given = np.flatnonzero(is_train & ~np.asarray(df[flag].isna()))
        if len(given):
            value = df[flag].iloc[given[0]]
            yield f"{FILE}:{given[0] + 2}: {flag} is {value!r} in a row to train with, where it is empty"
    is_query = np.asarray(df[IS_QUERY_COLUMN]) == 1
    is_gallery = np.asarray(df[IS_GALLERY_COLUMN]) == 1
    idle = np.flatnonzero(~is_train & ~is_open & ~is_query & ~is_gallery)
    if len(idle):
        yield f"{FILE}:{idle[0] + 2}: a row to validate with is neither a query nor in the gallery"
    lost = np.flatnonzero(is_query & ~np.isin(labels, labels[is_gallery]))
    if len(lost):
        yield f"{FILE}:{lost[0] + 2}: the gallery has no item of the query's label {labels[lost[0]]}"


__all__ = ["check_retrieval_dataframe_format"]
