"""EasyDL's data sets: items as dictionaries, made by functions of an index or out of a data frame."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from core.errors import InputError
from data.vocabulary import Vocabulary

Loader = Callable[[int], Any]


class GenericPytorchDataset(Dataset):
    """The rows of a data frame, {column: value}, each behind its column's function in `transforms`, as tensors."""

    def __init__(self, df: Any, transforms: dict[str, Callable] | None = None) -> None:
        if not hasattr(df, "iloc"):
            raise TypeError(f"df is a {type(df).__name__}; it has to be a data frame of pandas")
        self.df = df
        self.transforms = transforms or {}
        self.columns = df.columns

    def __len__(self) -> int:
        return len(self.df)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.df.iloc[index]
        item = {}
        for column in self.columns:
            value = row[column]
            if column in self.transforms:
                value = _made(self.transforms[column], value, column, index)
            item[column] = torch.as_tensor(value)
        return item


class GenericLambdaDataset(Dataset):
    """`length` items {key: function(index)}."""

    def __init__(self, lambda_dict: dict[str, Loader], length: int) -> None:
        if not isinstance(lambda_dict, dict):
            raise TypeError(f"lambda_dict is a {type(lambda_dict).__name__}; it has to be a dict of functions")
        if not isinstance(length, int) or length < 0:
            raise InputError(f"length is {length!r}; it is an integer, 0 or more")
        self.lambda_dict = dict(lambda_dict)
        self.length = length

    @staticmethod
    def list_to_lambda_loader(list: Sequence) -> Loader:
        """The function from an index to an item of a list."""
        return list.__getitem__

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of a data set of {self.length}")
        return {key: _made(load, index, key, index) for key, load in self.lambda_dict.items()}

    def get_value_from_key_and_index(self, key: str, index: int) -> Any:
        """One value of an item."""
        return self.lambda_dict[key](index)

    def extend_lambda_dict(self, lambda_dict: dict[str, Callable]) -> "GenericLambdaDataset":
        """Put a function behind that of each key."""
        for key, function in lambda_dict.items():
            self.lambda_dict[key] = _Chain(self.lambda_dict[key], function)
        return self


class _Chain:
    """One function behind another; an object, so that each key keeps its own and workers can take it."""

    def __init__(self, first: Callable, second: Callable) -> None:
        self.first = first
        self.second = second

    def __call__(self, index: int) -> Any:
        return self.second(self.first(index))


class GenericXYLambdaAutoLabelEncoderDataset(GenericLambdaDataset):
    """Items {"x": of x_loader_lambda, "y": the code of a label, 0 to C - 1, by their order}."""

    @staticmethod
    def from_df(df: Any, x_column: str = "x", y_column: str = "y") -> "GenericXYLambdaAutoLabelEncoderDataset":
        """The rows of a data frame."""
        x = df[x_column].tolist()
        y = df[y_column].tolist()
        return GenericXYLambdaAutoLabelEncoderDataset(x.__getitem__, y.__getitem__, len(df))

    def __init__(self, x_loader_lambda: Loader, y_loader_lambda: Loader, length: int) -> None:
        self.original_y_list = [y_loader_lambda(index) for index in range(length)]
        self.vocabulary = Vocabulary.of(np.array(self.original_y_list))
        super().__init__({"x": x_loader_lambda, "y": self.vocabulary.codes.tolist().__getitem__}, length)

    def get_number_of_classes(self) -> int:
        """How many labels there are."""
        return len(self.vocabulary)

    def get_y_list_with_encoded_labels(self) -> list[int]:
        """The code of every item's label."""
        return self.vocabulary.codes.tolist()

    def get_original_y_list(self) -> list:
        """Every item's label as it was given."""
        return list(self.original_y_list)

    def get_original_y_from_index(self, index: int) -> Any:
        """An item's label as it was given."""
        return self.original_y_list[index]


def _made(function: Callable, value: Any, key: str, index: int) -> Any:
    """function(value), or the sentence which value it was."""
    try:
        return function(value)
    except Exception as error:  # of whoever wrote the function
        raise RuntimeError(f"item {index}, {key!r}: {error}") from error
