"""What the data doctor is given beside the list: another list, embeddings, clicks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from care.clicks import Click, read_clicks
from care.examine import Other
from care.looks import Look, look_at_all
from care.subject import Subject, open_subject, rows_in_table
from core.console import log
from core.text import counted
from embeddings.embed import embed_list
from embeddings.encoder import Encoder
from embeddings.files import load_table
from embeddings.table import EmbeddingTable


@dataclass(frozen=True)
class Patient:
    """A list to examine and what goes with it.

    other: a list in which to look for copies, as it is to be embedded, or a table of embeddings; None: there is none.
    table: the embeddings of the list, None where a network makes them. clicks: on its rows.
    """

    subject: Subject
    other: Subject | EmbeddingTable | None
    other_name: str
    table: EmbeddingTable | None
    table_file: str
    feedback: str | None

    @property
    def needs_model(self) -> bool:
        return self.table is None or isinstance(self.other, Subject)

    @property
    def modalities(self) -> frozenset[str]:
        """Of what kinds the rows are that a network embeds."""
        lists = [self.subject.records] if self.table is None else []
        if isinstance(self.other, Subject):
            lists.append(self.other.records)
        return frozenset().union(*(records.modalities for records in lists))

    def look(self) -> tuple["Patient", list[Look]]:
        """(the list without rows that cannot be read, a Look at each row that is left)."""
        looks = look_at_all(self.subject.records)
        broken = {}
        for row, look in enumerate(looks):
            # A box that lies outside is a wrong box of a picture that can be read.
            if look.problem is not None:
                broken[row] = look.problem if look.size is None else f"box {look.problem.removeprefix('box ')}"
        subject = self.subject.without(broken)
        kept = [look for look in looks if look.problem is None]
        return Patient(subject, self.other, self.other_name, self.table, self.table_file, self.feedback), kept

    def embed(self, encoder: Encoder | None, folder: Path, cache: bool) -> np.ndarray:
        """The embeddings (N, D) float32 of the list; those that a network makes are kept in `folder`."""
        records = self.subject.records
        if self.table is not None:
            return _numbers(self.table)[rows_in_table(records, self.table, self.table_file)]
        return _numbers(embed_list(records, encoder, folder / "embeddings.npz", cache=cache))

    def look_at_other(self, encoder: Encoder | None, folder: Path, cache: bool) -> Other | None:
        """The other list with a Look at each of its rows, and their embeddings; None where there is none."""
        if self.other is None:
            return None
        if isinstance(self.other, EmbeddingTable):
            records = self.other.records
            return Other(records, look_at_all(records), _numbers(self.other), self.other_name)
        looks = look_at_all(self.other.records)
        subject = self.other.without({row: look.problem for row, look in enumerate(looks) if look.problem is not None})
        kept = [look for look in looks if look.problem is None]
        table = embed_list(subject.records, encoder, folder / "embeddings_against.npz", cache=cache)
        return Other(subject.records, kept, _numbers(table), self.other_name)

    def clicks(self) -> list[Click]:
        """The clicks on two rows of the list; says how many there are, and on others."""
        if self.feedback is None:
            return []
        clicks, elsewhere = read_clicks(self.feedback, self.subject.records)
        log(f"{self.feedback}: {counted(len(clicks), 'click')} on rows of the list, {elsewhere} on others")
        return clicks


def _numbers(table: EmbeddingTable) -> np.ndarray:
    return np.asarray(table.mapped(), dtype=np.float32)


def open_patient(
    path: str,
    data_dir: str | None,
    *,
    against: str | None = None,
    embeddings: str | None = None,
    feedback: str | None = None,
) -> Patient:
    """The list at `path` with all that it is held against.

    Options:
        against: a list (or .npz), such as the train list of a test list, in which to look for copies
        embeddings: take those of this .npz (of infer.py or eval.py) and no model
        feedback: a feedback.csv of clicks: what people said is the same and is not

    Raises InputError where something of it cannot be read, before any work.
    """
    subject = open_subject(path, data_dir)
    other = None
    if against is not None and against.endswith(".npz"):
        other = load_table(against, needs_roles=False)
    elif against is not None:
        other = open_subject(against, data_dir)
    table = None
    if embeddings is not None:
        table = load_table(embeddings, needs_roles=False)
    if feedback is not None:
        read_clicks(feedback, subject.records)
    return Patient(subject, other, Path(against or "").name, table, embeddings or "", feedback)
