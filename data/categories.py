"""Which category each label of a list belongs to."""

import numpy as np

from core.errors import InputError
from data.records import Records
from data.vocabulary import Vocabulary


def label_categories(records: Records, use: str) -> Vocabulary:
    """The categories of a list's C labels, as a vocabulary of these: its codes (C,) are in the order of the labels'.

    use: what they are for, the subject of a sentence. Raises InputError for a list that has none, an image that has
    none, and a label that has several.
    """
    if records.categories is None:
        raise InputError(f"{use} goes by categories, but {records.source} has no column category")
    empty = np.flatnonzero(np.char.strip(records.categories) == "")
    if len(empty):
        raise InputError(f"{records.location(empty[0])}: the category is empty, but {use} goes by categories")
    vocabulary = records.vocabulary
    firsts = vocabulary.rows[vocabulary.starts]
    # As they are called, since messages name some.
    texts = records.category_texts
    categories = texts[firsts]
    differs = np.flatnonzero(texts != categories[vocabulary.codes])
    if len(differs):
        row = differs[0]
        first = firsts[vocabulary.codes[row]]
        raise InputError(
            f"{records.location(row)}: the label {records.label_text(row)} has the category "
            f"'{texts[row]}' here and '{texts[first]}' in {records.location(first)}, but {use} needs one for each label"
        )
    return Vocabulary.of(categories)
