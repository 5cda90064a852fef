"""What eval.py evaluates: the list that a model embeds, or embeddings that a file holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.console import log
from core.errors import InputError
from data.hold_out import hold_out
from data.lists import open_list
from data.notes import one_label_notes
from data.provenance import list_facts, note_other_list
from data.records import Records
from data.soundness import refuse_broken_images
from embeddings.embed import embed_list
from embeddings.encoder import Encoder
from embeddings.files import load_table
from embeddings.table import EmbeddingTable
from retrieval.metrics.photos import check_photos

# Flags whose work needs all embeddings in one place.
NEED_ALL = (
    "embeddings",
    "pairs",
    "verification",
    "photos_curve",
    "fmr",
    "pcf",
    "clustering",
    "postprocess",
    "save_embeddings",
    "save_results",
    "picture",
    "attention",
    "report",
)


@dataclass(frozen=True)
class Sources:
    """What is tested, what to look for leaks in, what a threshold is chosen on: lists to embed, or tables from files.

    embeddings: the file that is tested; pretrained_model: the model, where it is a list.
    """

    tested: Records | EmbeddingTable
    leaks: Records | EmbeddingTable | None
    held_out: Records | EmbeddingTable | None
    embeddings: str | None
    pretrained_model: str | None

    @property
    def needs_model(self) -> bool:
        return self.embeddings is None

    @property
    def modalities(self) -> frozenset[str]:
        """Of what kinds the rows of its lists are."""
        sources = (self.tested, self.leaks, self.held_out)
        lists = [source for source in sources if isinstance(source, Records)]
        return frozenset().union(*(records.modalities for records in lists))


def open_sources(
    data_dir: str | None,
    test_list: str,
    pretrained_model: str | None,
    leaks_from: str | None,
    train_list: str = "",
    val_classes: int = 0,
    *,
    embeddings: str | None = None,
    threshold_on: str | None = None,
) -> Sources:
    """The test list, or the embeddings of a file in its place, what to look for leaks in, and what to choose on.

    Options:
        embeddings: evaluate those of this .npz (of infer.py, or your own) and no model
        threshold_on: with --verification choose thresholds on other labels and judge them here: val (train labels held
            out by --val_classes), a list, or an .npz

    Every image that is to be embedded is looked at. Raises InputError for what is wrong with lists, images and files,
    and for what does not go together.
    """
    if embeddings and pretrained_model:
        raise InputError("--embeddings are evaluated as they are; leave --pretrained_model out")
    if embeddings and leaks_from and not leaks_from.endswith(".npz"):
        raise InputError(f"--leaks_from={leaks_from} has to be embeddings (.npz), too, where --embeddings are")
    if embeddings and threshold_on and not threshold_on.endswith(".npz"):
        raise InputError(f"--threshold_on={threshold_on} has to be embeddings (.npz), too, where --embeddings are")
    if embeddings:
        tested = load_table(embeddings)
    else:
        tested = open_list(test_list, data_dir, "test")
    leaks = None
    if leaks_from and leaks_from.endswith(".npz"):
        leaks = load_table(leaks_from)
    elif leaks_from:
        leaks = open_list(leaks_from, data_dir, "train")
    held_out = _open_held_out(data_dir, train_list, val_classes, threshold_on)
    refuse_broken_images([source for source in (tested, leaks, held_out) if isinstance(source, Records)])
    return Sources(tested, leaks, held_out, embeddings, pretrained_model)


def _open_held_out(
    data_dir: str | None, train_list: str, val_classes: int, threshold_on: str | None
) -> Records | EmbeddingTable | None:
    """What --threshold_on names."""
    if threshold_on is None:
        return None
    if threshold_on.endswith(".npz"):
        return load_table(threshold_on)
    if threshold_on != "val":
        return open_list(threshold_on, data_dir, "test")
    if not val_classes:
        raise InputError("--threshold_on=val needs --val_classes, the number of train labels that are held out")
    return hold_out(open_list(train_list, data_dir, "train"), val_classes)[1]


def refuse_shards(flags: dict[str, object]) -> None:
    """Raise InputError for flags that need all embeddings in one place, where each rank is to keep its own."""
    given = [f"--{name}" for name in NEED_ALL if flags[name]]
    if given:
        raise InputError(f"--shard_gallery leaves no rank with all embeddings, as {', '.join(given)} would need")


def refuse_photos(sources: Sources, photos_curve: Sequence[int]) -> None:
    """Raise InputError where the list has too few images of a label for a curve over their number."""
    records = sources.tested
    if isinstance(records, EmbeddingTable):
        records = records.records
    is_apart = not (records.is_query & records.is_gallery).any()
    check_photos(records.vocabulary.codes[records.is_gallery], photos_curve, is_apart)


def describe_source(sources: Sources, encoder: Encoder | None) -> dict[str, object]:
    """What result.json says the figures are of; says what should be known of the list."""
    records = sources.tested
    if isinstance(records, EmbeddingTable):
        records = records.records
    for note in (*records.notes, *one_label_notes(records)):
        log(f"note: {note}")
    if encoder is None:
        return {"embeddings": sources.embeddings}
    facts = list_facts(records)
    note_other_list(sources.pretrained_model, "test", facts)
    return {
        "pretrained_model": sources.pretrained_model,
        "model": encoder.settings.as_flags(),
        "precision": encoder.precision,
        "runtime": encoder.runtime,
        "list": facts,
    }


def embed_source(
    source: Records | EmbeddingTable | None, encoder: Encoder | None, cache_file: Path, **embedding: bool
) -> EmbeddingTable | None:
    """The table of a file, or that which the model makes of a list; None of none.

    embedding: keywords of `embed_list`.
    """
    if source is None or isinstance(source, EmbeddingTable):
        return source
    return embed_list(source, encoder, cache_file, **embedding)
