"""Small data sets to try something with, in OML's format; nothing is downloaded."""

from pathlib import Path
from typing import Any

from compat.oml.const import MOCK_DATASET_DEFAULT_CSV, PATHS_COLUMN, SPLIT_COLUMN, get_cache_folder
from compat.oml.utils._drawn_shapes import draw_shapes
from compat.oml.utils._played_tones import play_tones
from compat.oml.utils._texts import TEXTS
from core.errors import InputError, near_match
from core.packages import needed

DataFrame = Any  # pandas', which is an extra package


def get_mock_images_dataset(
    dataset_root: str | Path | None = None,
    df_name: str = MOCK_DATASET_DEFAULT_CSV,
    check_md5: bool = True,
    global_paths: bool = False,
) -> tuple[DataFrame, DataFrame]:
    """(train, validation): drawn shapes, of which those to train on are others than those to validate on.

    dataset_root: where they are drawn; None: in a cache. df_name: df.csv, or df_with_category.csv,
    df_with_sequence.csv, df_with_bboxes.csv with further columns. check_md5 is taken and has no effect. global_paths:
    whole paths, instead of paths within dataset_root.
    """
    return _read(draw_shapes(Path(dataset_root or get_cache_folder() / "mock_dataset")), df_name, global_paths)


def get_mock_audios_dataset(
    dataset_root: str | Path | None = None,
    df_name: str = MOCK_DATASET_DEFAULT_CSV,
    check_md5: bool = True,
    global_paths: bool = False,
) -> tuple[DataFrame, DataFrame]:
    """(train, validation) as get_mock_images_dataset, of tones. df_name: df.csv, or
    df_with_start_times.csv."""
    return _read(play_tones(Path(dataset_root or get_cache_folder() / "mock_audio_dataset")), df_name, global_paths)


def _read(folder: Path, df_name: str, global_paths: bool) -> tuple[DataFrame, DataFrame]:
    pandas = needed("pandas", "a mock data set", "oml")
    file = folder / df_name
    if not file.is_file():
        names = sorted(table.name for table in folder.glob("*.csv"))
        raise InputError(f"df_name is {df_name!r}; there are: {', '.join(names)}.{near_match(df_name, names)}")
    table = pandas.read_csv(file)
    if global_paths:
        table[PATHS_COLUMN] = [str(folder / path) for path in table[PATHS_COLUMN]]
    return _split(table)


def download_mock_dataset(
    dataset_root: str | Path | None = None,
    check_md5: bool = True,
    df_name: str = MOCK_DATASET_DEFAULT_CSV,
    global_paths: bool = False,
) -> tuple[DataFrame, DataFrame]:
    """get_mock_images_dataset under its old name."""
    return get_mock_images_dataset(dataset_root, df_name, check_md5, global_paths)


def get_mock_texts_dataset() -> tuple[DataFrame, DataFrame]:
    """(train, validation): 35 short texts on things to buy, of 7 labels in 3 categories."""
    pandas = needed("pandas", "get_mock_texts_dataset()", "oml")
    rows = []
    for label, (category, split, texts) in enumerate(TEXTS):
        flag = True if split == "validation" else None
        for text in texts:
            rows.append((text, label, category, split, flag, flag))
    columns = ["text", "label", "category", SPLIT_COLUMN, "is_query", "is_gallery"]
    return _split(pandas.DataFrame(rows, columns=columns))


def _split(table: DataFrame) -> tuple[DataFrame, DataFrame]:
    train = table[table[SPLIT_COLUMN] == "train"].reset_index(drop=True)
    validation = table[table[SPLIT_COLUMN] == "validation"].reset_index(drop=True)
    return train, validation.astype({"is_query": bool, "is_gallery": bool})


__all__ = ["download_mock_dataset", "get_mock_audios_dataset", "get_mock_images_dataset", "get_mock_texts_dataset"]
