"""All that may be wrong with a list, as findings: one a row and kind, with what speaks for it and what to do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from care.boxes import box_doubts, doubt_of_text, same_boxes
from care.clicks import Click, with_clicks
from care.duplicates import Pairs, duplicates_across, duplicates_within
from care.labels import FEWEST, HALF, LabelDoubts, label_doubts
from care.looks import Look, look_at
from care.outliers import outliers
from care.subject import Subject
from core.items import content_of
from core.text import counted, plural
from data.fixes import KEEP, KINDS, LABEL, REMOVE, Finding, RawRow
from data.records import Records

TRUSTED = 0.7  # from which probability on, that it is right, a guessed label is proposed
COPY_TRUST = 0.95  # in the label of a row that shows the same
CLICK_TRUST = 0.8  # in that of a row that a person calls the same
LEAST_DOUBT = 0.005  # of a label that nothing is held against
SURE = 0.8  # which of two rows is wrong
MOST_OUTLYING = 10.0  # deviations at which an outlier is certain


@dataclass(frozen=True)
class Other:
    """Another list, in which to look for copies: its records, a Look at each, their embeddings (M, D), its name."""

    records: Records
    looks: list[Look]
    embeddings: np.ndarray
    name: str


@dataclass(frozen=True)
class Examination:
    """What was found: findings in the order of KINDS, the surest first; wrong_labels: their share, at most about."""

    findings: list[Finding]
    wrong_labels: float
    notes: list[str]

    def counts(self) -> dict[str, int]:
        """{kind: number of findings}, of every kind."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS}


def examine(
    subject: Subject,
    looks: list[Look],
    embeddings: np.ndarray,
    other: Other | None = None,
    clicks: Sequence[Click] = (),
) -> Examination:
    """The findings on a list. looks, embeddings (N, D) float32: of its records; clicks: on them."""
    return _Examiner(subject, looks, embeddings, other, clicks).examine()


class _Examiner:
    def __init__(
        self,
        subject: Subject,
        looks: list[Look],
        embeddings: np.ndarray,
        other: Other | None,
        clicks: Sequence[Click],
    ):
        self.subject = subject
        self.records = subject.records
        self.codes = subject.records.vocabulary.codes
        self.looks = looks
        self.other = other
        self.clicks = clicks
        self.middle = embeddings.mean(0)
        self.lengthened = _of_length_1(embeddings)
        self.centred = _of_length_1(embeddings - self.middle)
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def examine(self) -> Examination:
        self._unusable()
        self._boxes()
        pairs = duplicates_within(self.centred, self.looks)
        doubts = label_doubts(self.centred, self.codes)
        self._labels(pairs, doubts)
        self._copies(pairs)
        self._leaks()
        far, deviations = outliers(self.lengthened, doubts.score)
        for row in far.tolist():
            evidence = (
                f"its nearest rows are {deviations[row]:.1f} deviations farther than is usual, and those of its label "
                "are no nearer"
            )
            self._add(row, "outlier", evidence, KEEP, deviations[row] / MOST_OUTLYING)
        counts = self.records.vocabulary.counts
        for row in np.flatnonzero(counts[self.codes] == 1).tolist():
            evidence = f"no other {self.records.noun} has its label: nothing can be learned or found of it"
            self._add(row, "single", evidence, KEEP, 1.0)
        ordered = sorted(self.findings, key=lambda finding: (KINDS.index(finding.kind), -finding.confidence))
        return Examination(ordered, doubts.share, self.notes)

    def _add(
        self, row: int, kind: str, evidence: str, action: str, confidence: float, **beside: int | bool | None
    ) -> None:
        """A finding on a row of the records; beside: other, others and peer, as Finding has them."""
        self._add_raw(self.subject.rows[row], kind, evidence, action, confidence, index=row, **beside)

    def _add_raw(
        self, raw: RawRow, kind: str, evidence: str, action: str, confidence: float, **beside: int | bool | None
    ) -> None:
        label = raw.cells.get("label", "")
        confidence = float(np.clip(confidence, 0, 1))
        self.findings.append(Finding(raw.number, raw.path, label, kind, evidence, action, confidence, **beside))

    def _name(self, row: int) -> str:
        """A row of the list as evidence names it."""
        return f"row {self.subject.rows[row].number}, {self.subject.rows[row].path!r}"

    def _unusable(self) -> None:
        for raw, reason in self.subject.faults:
            if reason.startswith("box "):
                doubt = doubt_of_text(raw, self._size_of(raw), reason)
                self._add_raw(raw, "box", doubt.evidence, doubt.action, doubt.confidence)
            else:
                self._add_raw(raw, "unreadable", reason, REMOVE, 1.0)

    def _size_of(self, raw: RawRow) -> tuple[int, int] | None:
        """(height, width) of the picture of a row that cannot be used because of its box."""
        return look_at(str(self.subject.raw.folder / raw.path), None).size

    def _boxes(self) -> None:
        boxes = self.records.boxes
        if boxes is None:
            return
        for row, doubt in box_doubts(boxes, self.looks).items():
            self._add(row, "box", doubt.evidence, doubt.action, doubt.confidence)
        files = [content_of(path) for path in self.records.paths.tolist()]
        for left, right in same_boxes(boxes, files, self.codes):
            for row, twin in ((left, right), (right, left)):
                label = self.records.label_text(twin)
                evidence = f"its box is nearly that of {self._name(twin)}, which has the label {label!r}"
                self._add(row, "box", evidence, KEEP, 0.9, other=twin)

    def _labels(self, pairs: Pairs, doubts: LabelDoubts) -> None:
        """Findings on labels: by the rows of the label, by copies that have another one, and by clicks."""
        probability, contradicted = with_clicks(doubts.probability, self.codes, self.clicks)
        guess, trust = doubts.guess.copy(), doubts.trust.copy()
        twins: dict[int, int] = {}
        for left, right, certainty in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.certainty.tolist()):
            if self.codes[left] == self.codes[right]:
                continue
            # One of the two is wrong; which, is told by what else speaks for either.
            p, q = np.maximum(probability[[left, right]], LEAST_DOUBT)
            left_wrong = p * (1 - q) / (p * (1 - q) + q * (1 - p))
            wrong, twin = (left, right) if left_wrong >= 0.5 else (right, left)
            sureness = certainty * max(left_wrong, 1 - left_wrong)
            if sureness >= SURE:
                probability[wrong] = max(probability[wrong], sureness)
                guess[wrong], trust[wrong] = self.codes[twin], COPY_TRUST
                twins[wrong] = twin
                continue
            for row, copy in ((left, right), (right, left)):
                label = self.records.label_text(copy)
                evidence = (
                    f"it shows what {self._name(copy)} shows, which has the label {label!r}: one of them is wrong"
                )
                self._add(row, "duplicate", evidence, KEEP, certainty, other=copy)

        for row in np.flatnonzero(probability > HALF).tolist():
            clauses = []
            if doubts.probability[row] > HALF or row in twins:
                clauses.append(self._label_evidence(row, doubts, twins.get(row)))
            if row in contradicted:
                clauses.append(self._click_evidence(contradicted[row], row))
                # Who calls two things the same says what the row is.
                same = [click for click in contradicted[row] if click.same]
                if same and guess[row] < 0:
                    guess[row], trust[row] = self.codes[_partner(same[0], row)], CLICK_TRUST
            action = REMOVE
            # The guess is right only where the label is wrong.
            if guess[row] >= 0 and probability[row] * trust[row] >= TRUSTED:
                action = self._label_action(guess[row])
            other = twins.get(row, self._example(guess[row], row))
            peer = self._peer(row, doubts)
            self._add(row, "label", "; ".join(clauses), action, probability[row], other=other, peer=peer)
        for row, clicks in contradicted.items():
            if probability[row] <= HALF:
                evidence = self._click_evidence(clicks, row)
                self._add(row, "label", evidence, KEEP, probability[row], other=_partner(clicks[0], row))
        judged = int(np.isfinite(doubts.score).sum())
        if judged < FEWEST:
            self.notes.append(
                f"labels are not judged by their rows: {counted(judged, 'row')} {plural(judged, 'is', 'are')} too few "
                "to say what is usual"
            )

    def _label_evidence(self, row: int, doubts: LabelDoubts, twin: int | None) -> str:
        if twin is not None:
            label = self.records.label_text(twin)
            return f"it shows what {self._name(twin)} shows, which has the label {label!r}, and fits that one better"
        text = (
            f"it is as far from the rows of its label as a wrong row (mean cosine {doubts.score[row]:.2f}, usual "
            f"{doubts.usual:.2f})"
        )
        if doubts.guess[row] >= 0:
            label = self._label_of(doubts.guess[row])
            text += f"; nearest is {label!r}, right with {100 * doubts.trust[row]:.0f} %"
        return text

    def _click_evidence(self, clicks: Sequence[Click], row: int) -> str:
        click = clicks[0]
        partner = _partner(click, row)
        verb = "is the same as" if click.same else "is not the same as"
        number = f" ({len(clicks)} clicks)" if len(clicks) > 1 else ""
        return f"a person said it {verb} {self._name(partner)}, label {self.records.label_text(partner)!r}{number}"

    def _label_of(self, code: int) -> str:
        return self.records.names.of_label(self.records.vocabulary.labels[code])

    def _label_action(self, code: int) -> str:
        row = int(self.records.vocabulary.rows_of(code)[0])
        return f"{LABEL}{self.subject.rows[row].cells['label'].strip()}"

    def _example(self, code: int, row: int) -> int | None:
        """The row of a label that is closest to another row; None for no label."""
        if code < 0:
            return None
        rows = self.records.vocabulary.rows_of(code)
        return int(rows[np.argmax(self.centred[rows] @ self.centred[row])])

    def _peer(self, row: int, doubts: LabelDoubts) -> int | None:
        """The row of its label that fits the label best; None where it is the only one."""
        rows = self.records.vocabulary.rows_of(self.codes[row])
        rows = rows[rows != row]
        return int(rows[np.argmax(doubts.score[rows])]) if len(rows) else None

    def _copies(self, pairs: Pairs) -> None:
        """Findings on copies of one label: within a split all but the first are too many, between splits they leak."""
        is_test = self.subject.is_test
        first: dict[int, int] = {}
        for left, right, certainty in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.certainty.tolist()):
            if is_test is not None and is_test[left] != is_test[right]:
                trained, tested = (right, left) if is_test[left] else (left, right)
                evidence = f"{_shows(certainty)} {self._name(tested)}, which is tested with"
                self._add(trained, "leak", evidence, REMOVE, certainty, other=tested)
            elif self.codes[left] == self.codes[right] and right not in first:
                # Of three copies the second and the third go, whichever of them are pairs.
                kept = first.get(left, left)
                first[right] = kept
                evidence = f"{_shows(certainty)} {self._name(kept)}"
                self._add(right, "duplicate", evidence, REMOVE, certainty, other=kept)

    def _leaks(self) -> None:
        other = self.other
        if other is None:
            return
        centred = _of_length_1(other.embeddings - self.middle)
        pairs = duplicates_across(self.centred, self.looks, centred, other.looks)
        seen = set()
        for row, leaked, certainty in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.certainty.tolist()):
            if row in seen:
                continue
            seen.add(row)
            path, label = str(other.records.paths[leaked]), other.records.label_text(leaked)
            evidence = f"{_shows(certainty)} {other.records.location(leaked)}, {path!r}, label {label!r}"
            self._add(row, "leak", evidence, REMOVE, certainty, other=leaked, others=True)
        shared = set(map(str, self.records.vocabulary.labels)) & set(map(str, other.records.vocabulary.labels))
        if shared:
            count = len(self.records.vocabulary)
            self.notes.append(
                f"{len(shared)} of {counted(count, 'label')} {plural(len(shared), 'is', 'are')} in {other.name}, too "
                f"({min(shared)}, for one): figures on "
                "one after training on the other do not tell how unseen labels are found"
            )


def _shows(certainty: float) -> str:
    return "its file is that of" if certainty == 1 else "it shows what is shown by"


def _partner(click: Click, row: int) -> int:
    return click.item if row == click.query else click.query


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)
