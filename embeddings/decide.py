"""A Decision for an index, made on a labelled list that its model was not trained on."""

from core.errors import InputError
from core.text import shown_path
from core.types import AboveZero, Count, Positive, Seed
from data.records import Records
from embeddings.table import EmbeddingTable
from embeddings.verification import refuse_one_label
from retrieval.decision import Decision
from retrieval.index.index import Index
from retrieval.metrics.calibration import calibrate, check_package
from retrieval.metrics.open_set import answer_threshold
from retrieval.metrics.verification import AtThreshold, Verification, check_fars, verify_all_pairs
from retrieval.query_gallery import QueryGallery

MOST_KNOTS = 1000  # of a calibration, as the index's card keeps it


def check_list(records: Records) -> None:
    """Raise InputError, before anything is embedded, for a list on which nothing can be decided."""
    refuse_one_label(records, "the list of --input")
    check_package()


def decide_index(
    index: Index,
    table: EmbeddingTable,
    *,
    far: AboveZero | None = None,
    fpir: AboveZero | None = None,
    resamples: Count = 1000,
    draw_seed: Seed = 0,
    search_memory_mb: Positive = 256,
) -> Decision:
    """Choose the threshold and P(same) of an index on a table, and keep them in it.

    Options:
        far: share of the list's pairs of two labels that may be called the same (default: 0.001)
        fpir: in its place, share of the list's images of labels which the index does not have that may be called the
            same as one of its items
        resamples: times that labels are drawn for intervals; 0: no intervals
        draw_seed: of these drawings
        search_memory_mb: memory that a search may take, in MB

    All rows of the table are compared with all others, whatever their split. P(same) is turned to the number of items
    that the index has for each one that is right (retrieval/metrics/calibration.py). Raises InputError for rates that
    cannot be, and as `check_list` and Index.decide; then the index stays as it is.
    """
    records = table.records
    check_list(records)
    index.refuse_others(table.fingerprint)
    if far is not None and fpir is not None:
        raise InputError("--far and --fpir each choose the threshold; give one of them")
    memory = search_memory_mb * 2**20
    embeddings = table.head(len(table))
    pairs = QueryGallery.of(embeddings, records.vocabulary.codes, sequences=records.sequences)
    if fpir is None:
        wished = {"far": far or 1e-3}
        # Of this list the FAR is the wished one, whatever the labels: the second look tells how far it would move.
        found = verify_all_pairs(pairs, (wished["far"],), (), 0, memory=memory)
        check_fars((wished["far"],), found.negatives)
        threshold = found.point(wished["far"]).threshold
    else:
        wished = {"fpir": fpir}
        threshold = _threshold_of_strangers(index, table, fpir, memory)
    figures = verify_all_pairs(pairs, (), (threshold,), resamples, draw_seed, memory=memory)
    calibration = calibrate(figures.histogram, figures.directions).with_odds(index_odds(index, figures, len(records)))
    knots = slice(None, None, -(-len(calibration.scores) // MOST_KNOTS))
    decision = Decision(
        threshold,
        tuple(calibration.scores[knots].tolist()),
        tuple(calibration.probabilities[knots].tolist()),
        _origin(records, wished, figures, len(index)),
    )
    index.decide(decision)
    return decision


def _threshold_of_strangers(index: Index, table: EmbeddingTable, fpir: float, memory: int) -> float:
    """The cosine that no more than a share of those rows reach in the index whose labels it does not have."""
    known = {str(label) for label in index.rows.label_column.table}
    if not known:
        raise InputError(f"--fpir: index {str(index.folder)!r} has no labels, so nobody knows what it does not have")
    rows = [row for row, label in enumerate(table.records.labels.tolist()) if str(label) not in known]
    if not rows:
        raise InputError(
            f"--fpir: all labels of {table.records.source} are in index {str(index.folder)!r}, so none of its images "
            "is unknown there; give another list, or --far"
        )
    scores = index.search(table.head(len(table))[rows], 1, table.fingerprint, memory).scores[:, 0]
    return answer_threshold(scores, fpir)


def index_odds(index: Index, figures: Verification, rows: int) -> float:
    """Items of an index that are the same as a query per item that is not, for a query whose label it has.

    Of an index without labels: with as many that are the same as the list of `figures`, of so many rows, has.
    """
    items = len(index)
    codes = index.rows.label_column.codes
    counts = {}
    for code in codes[codes >= 0].tolist():
        counts[code] = counts.get(code, 0) + 1
    labelled = sum(counts.values())
    if labelled:
        mates = sum(count * count for count in counts.values()) / labelled
    else:
        mates = 2 * figures.positives / rows
    return mates / max(1.0, items - mates)


def _origin(records: Records, wished: dict[str, float], figures: Verification, items: int) -> dict:
    """Plain JSON that tells how a decision was made, and what it gave."""
    at: AtThreshold = figures.at[0]
    return {
        "list": shown_path(records.source),
        f"{records.noun}s": len(records),
        "labels": figures.labels,
        "wished": wished,
        "pairs": {"positive": figures.positives, "negative": figures.negatives},
        "far": at.far.as_result(),
        "tar": at.tar.as_result(),
        "eer": figures.eer.as_result(),
        "intervals": {"coverage": 0.95, "over": "labels", "resamples": figures.resamples},
        "items": items,
    }
