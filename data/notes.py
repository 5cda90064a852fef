"""Sentences on what a train and a test list can do with but should be known of them before a training."""

import numpy as np

from core.text import counted, plural
from data.records import Records
from data.vocabulary import of_one_kind


def list_notes(train: Records, test: Records) -> list[str]:
    """The notes of both lists, and sentences on labels and images that they share and on queries that find nothing."""
    # One csv for both says some things twice.
    notes = list(dict.fromkeys((*train.notes, *test.notes)))
    # Labels that are not new to the model.
    labels, train_labels = of_one_kind(test.vocabulary.labels, train.vocabulary.labels)
    shared = labels[np.isin(labels, train_labels)]
    if len(shared):
        are = plural(len(shared), "is a train label", "are train labels")
        notes.append(
            f"{len(shared)} of {counted(len(labels), 'test label')} {are}, too ({test.names.of_label(shared[0])}, for "
            f"one): figures on them do not tell how {test.noun}s of unseen labels are found"
        )
    # Images of a list that stays on the disk are known by nobody.
    if not train.vocabulary.is_stored:
        test_files, train_files = _file_codes(test, train)
        images = np.isin(test_files, train_files).sum()
        if images:
            are = plural(images, f"is a train {test.noun}", f"are train {test.noun}s")
            notes.append(f"{images} of {len(test)} test {test.noun}s {are}, too")
    return notes + query_notes(test) + one_label_notes(test)


def one_label_notes(test: Records) -> list[str]:
    """A sentence on a test list all of whose images are of one label, among which any answer is right."""
    if len(test.vocabulary) != 1 or len(test) == 1:
        return []
    return [
        f"all {len(test)} test {test.noun}s are of one label ({test.label_text(0)}): whatever is found is right, and "
        "figures say nothing"
    ]


def _file_codes(*lists: Records) -> list[np.ndarray]:
    """For each list (N,) int64 that tell the files of all of them apart; by path where the files are not known."""
    if any(records.files is None for records in lists):
        paths = np.concatenate([records.paths for records in lists])
        _, codes = np.unique(paths, return_inverse=True)
    else:
        files = np.concatenate([records.files for records in lists])
        _, codes = np.unique(files, axis=0, return_inverse=True)
    ends = np.cumsum([len(records) for records in lists])
    return np.split(codes.reshape(-1), ends[:-1])


def query_notes(test: Records) -> list[str]:
    """A sentence on the queries of a test list that nothing in its gallery is right for; none where there are none."""
    queries = np.flatnonzero(test.is_query & ~has_positive(test))
    if not len(queries):
        return []
    first = queries[0]
    more, others = len(queries) - 1, int(test.is_query.sum()) - 1
    which = f", and of {more} of {counted(others, 'other')}," if more else ""
    return [
        f"{test.location(first)}: the label {test.label_text(first)} of this query{which} has no other {test.noun} in "
        f"the gallery: {plural(len(queries), 'it counts as a miss', 'they count as misses')}"
    ]


def has_positive(records: Records) -> np.ndarray:
    """Which images have another one of their label in the gallery, (N,) bool."""
    codes = records.vocabulary.codes
    # Images of each label in the gallery; a query that is one of them does not count for itself.
    in_gallery = np.bincount(codes[records.is_gallery], minlength=len(records.vocabulary))
    return in_gallery[codes] > records.is_gallery


def singleton_notes(train: Records, use: str | None) -> list[str]:
    """A sentence on the labels of a train list that have one image only; none where there are none.

    use: what a sampler makes of them (`BatchSampler.singletons`); None where it makes nothing special, nor a sentence.
    """
    vocabulary = train.vocabulary
    singletons = np.flatnonzero(vocabulary.counts == 1)
    if use is None or not len(singletons):
        return []
    example = train.location(vocabulary.rows_of(singletons[0])[0])
    count = f"{len(singletons)} of {counted(len(vocabulary), 'train label')} {plural(len(singletons), 'has', 'have')}"
    return [f"{count} a single {train.noun} ({example}, for one): {use}"]
