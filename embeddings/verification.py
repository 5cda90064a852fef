"""Same or not of a list's embeddings: which pairs, which threshold, and what was found, in words and in result.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.console import log
from core.errors import InputError
from core.files import read_flags
from core.numerals import read_float
from core.types import Count, Rates, Seed
from core.text import counted, plural
from data.pair_files import PairFile, RowsByPath, Templates, read_pairs, read_templates
from data.records import Records
from embeddings.table import EmbeddingTable
from retrieval.exact import ExactScores
from retrieval.metrics.calibration import Reliability, calibrate, check_package, reliability
from retrieval.metrics.folds import Folds, check_folds, fold_accuracies
from retrieval.metrics.open_set import OpenSet, draw_unknown, open_set
from retrieval.metrics.verification import (
    FARS,
    Verification,
    check_fars,
    verify_all_pairs,
    verify_listed_pairs,
)
from retrieval.query_gallery import QueryGallery
from retrieval.templates import mean_embeddings


@dataclass(frozen=True)
class Verifier:
    """What is to be measured of a list, everything that can be wrong with it looked at.

    pairs, rows: a file of pairs with the (2, P) rows, or numbers of templates, that it means; None: all pairs. fars:
    the wished ones; is_wished: whether the user named them. unknown: codes of labels that an open set leaves out of the
    gallery, or None. held_out: what the threshold is chosen on, in words, or None.
    """

    records: Records
    pairs: PairFile | None
    rows: np.ndarray | None
    templates: Templates | None
    fars: tuple[float, ...]
    is_wished: bool
    unknown: torch.Tensor | None
    fpir: tuple[float, ...]
    held_out: str | None
    resamples: int
    seed: int

    def measure(
        self, table: EmbeddingTable, held: EmbeddingTable | None, device: torch.device, distance: str, memory: int
    ) -> "SameOrNot":
        """The figures of embeddings; held: those of the list that the threshold is chosen on, or None."""
        query_gallery = table.query_gallery(device)
        held_figures = None
        thresholds = ()
        if held is not None:
            held_gallery = held.query_gallery(device)
            held_figures = verify_all_pairs(held_gallery, self.fars, (), 0, self.seed, distance, memory)
            if self.is_wished:
                check_fars(self.fars, held_figures.negatives)
            thresholds = tuple(point.threshold for point in held_figures.points)
        folds = None
        options = (self.fars, thresholds, self.resamples, self.seed)
        if self.pairs is not None:
            scores, labels = self._listed(table, distance)
            figures = verify_listed_pairs(scores, self.pairs.is_same, *labels, *options)
            if self.pairs.folds is not None:
                folds = fold_accuracies(scores, self.pairs.is_same, self.pairs.folds)
        elif self.templates is not None:
            embeddings, labels = self._template_table(table)
            figures = verify_all_pairs(QueryGallery.of(embeddings, labels), *options, distance, memory)
        else:
            figures = verify_all_pairs(query_gallery, *options, distance, memory)
        if self.is_wished:
            check_fars(self.fars, figures.negatives)
        unknown = None
        if self.unknown is not None:
            unknown = open_set(query_gallery, self.unknown, self.fpir, self.resamples, self.seed, distance, memory)
        fit = None
        if held_figures is not None:
            calibration = calibrate(held_figures.histogram, held_figures.directions)
            calibration = calibration.with_odds(figures.positives / figures.negatives)
            fit = reliability(figures.histogram, calibration, figures.directions)
        return SameOrNot(figures, held_figures, self.held_out, folds, unknown, fit, distance, self.seed, self._pairs_of)

    @property
    def _pairs_of(self) -> str:
        """Of which pairs the figures are, in words."""
        if self.pairs is not None:
            kind = "templates" if self.pairs.of_templates else f"{self.records.noun}s"
            return f"the pairs of {kind} in {Path(self.pairs.source).name}"
        if self.templates is not None:
            return "all pairs of templates"
        return "all pairs"

    def _template_table(self, table: EmbeddingTable) -> tuple[np.ndarray, np.ndarray]:
        """(embeddings (T, D) of the templates, their labels (T,))."""
        templates = self.templates
        embeddings = table.head(len(table)).numpy()[templates.rows]
        labels = np.zeros(len(templates.names), dtype=np.int64)
        labels[templates.numbers] = self.records.vocabulary.codes[templates.rows]
        return mean_embeddings(embeddings, templates.numbers, templates.media), labels

    def _listed(self, table: EmbeddingTable, distance: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """(scores (P,) of the file's pairs, the labels of both sides)."""
        if self.pairs.of_templates:
            embeddings, labels = self._template_table(table)
        else:
            embeddings, labels = table.head(len(table)), self.records.vocabulary.codes
        left, right = torch.from_numpy(self.rows)
        scores = ExactScores(QueryGallery.of(embeddings), distance).exact_pairs(left, right)
        return scores.numpy(), (labels[self.rows[0]], labels[self.rows[1]])


def open_verification(
    tested: Records | EmbeddingTable,
    held: Records | EmbeddingTable | None,
    pretrained_model: str | None,
    val_classes: int,
    threshold_on: str | None,
    *,
    verification: bool = False,
    far: Rates = (),
    pairs_file: str | None = None,
    templates: str | None = None,
    open_set: str | None = None,
    fpir: Rates = (0.1, 0.01),
    resamples: Count = 1000,
    draw_seed: Seed = 0,
) -> Verifier | None:
    """What is to be measured; None where nobody asks for it.

    Options:
        verification: same or not: TAR at FAR, EER and their thresholds, over all pairs or those of a file
        far: false accept rates to tell the TAR of (default: 0.1, 0.01 ... 0.000001, as far as the pairs allow)
        pairs_file: the pairs to verify, a pairs.txt of LFW or a csv with path1,path2,same and perhaps fold
        templates: images that stand for one thing together, a csv with path,template and perhaps media
        open_set: FNIR at FPIR with these labels left out of the gallery: a share of them such as 0.5, drawn at random,
            or a file with one a line
        fpir: false positive identification rates to tell the FNIR of
        resamples: times that labels are drawn for intervals; 0: no intervals
        draw_seed: of these drawings, and of the unknown labels

    tested: what is evaluated; held: what the threshold is chosen on, or None, in the flags' words threshold_on with
    val_classes. Raises InputError for what is wrong with files, for pairs that are not of the list, and for rates and
    folds that cannot be.
    """
    given = {
        "far": far,
        "pairs_file": pairs_file,
        "templates": templates,
        "open_set": open_set,
        "threshold_on": threshold_on,
    }
    if not verification:
        names = [f"--{name}" for name, value in given.items() if value]
        if names:
            raise InputError(f"{', '.join(names)} goes with --verification=True")
        return None
    records = _records_of(tested)
    refuse_one_label(records, "the list that is evaluated")
    pairs = rows = groups = unknown = None
    if templates:
        groups = read_templates(templates, records)
    if pairs_file:
        pairs, rows = _open_pairs(pairs_file, records, groups)
        check_fars(far, int((~pairs.is_same).sum()))
    else:
        check_fars(far, 0 if templates else most_negatives(records))
    if open_set:
        unknown = _unknown_codes(open_set, records, draw_seed)
    held_out = None
    if held is not None:
        check_package()
        held_out = _note_held_out(_records_of(held), records, pretrained_model, val_classes, threshold_on)
        check_fars(far, most_negatives(_records_of(held)))
    return Verifier(
        records=records,
        pairs=pairs,
        rows=rows,
        templates=groups,
        fars=tuple(sorted(far, reverse=True)) or FARS,
        is_wished=bool(far),
        unknown=unknown,
        fpir=fpir,
        held_out=held_out,
        resamples=resamples,
        seed=draw_seed,
    )


def _records_of(source: Records | EmbeddingTable) -> Records:
    if isinstance(source, EmbeddingTable):
        return source.records
    return source


def refuse_one_label(records: Records, what: str) -> None:
    """Raise InputError for a list of which no two rows are the same, or none are not; `what` it is, in words."""
    if records.labels is None:
        raise InputError(f"{what}, {records.source}, has no labels, so nothing is the same or not")
    if len(records.vocabulary) < 2:
        raise InputError(f"{what}, {records.source}, has one label only; same or not takes two or more")
    if not (np.bincount(records.vocabulary.codes) > 1).any():
        raise InputError(f"{what}, {records.source}, has no label with two {records.noun}s, so no two are the same")


def most_negatives(records: Records) -> int:
    """How many pairs of different labels a list has at the most: each of a query and a gallery item, once."""
    codes = records.vocabulary.codes
    queries = np.bincount(codes[records.is_query], minlength=len(records.vocabulary))
    gallery = np.bincount(codes[records.is_gallery], minlength=len(records.vocabulary))
    pairs = int(queries.sum()) * int(gallery.sum()) - int((queries * gallery).sum())
    if np.array_equal(records.is_query, records.is_gallery):
        return pairs // 2
    return pairs


def _open_pairs(path: str, records: Records, templates: Templates | None) -> tuple[PairFile, np.ndarray]:
    """The pairs of a file, and their rows as of `_rows_of_pairs`. Raises InputError for what they cannot be."""
    pairs = read_pairs(path)
    rows = _rows_of_pairs(pairs, records, templates)
    _refuse_contradiction(pairs, rows, records, templates)
    if pairs.folds is not None:
        check_folds(pairs.is_same, pairs.folds)
    if pairs.is_same.all() or not pairs.is_same.any():
        kind = "same" if pairs.is_same.all() else "different"
        raise InputError(
            f"{pairs.source}: all {counted(len(rows[0]), 'pair')} {plural(len(rows[0]), 'is', 'are')} {kind}; it "
            "takes pairs of both kinds"
        )
    return pairs, rows


def _rows_of_pairs(pairs: PairFile, records: Records, templates: Templates | None) -> np.ndarray:
    """(2, P): the rows, or numbers of templates, of both sides."""
    if not pairs.of_templates:
        finder = RowsByPath(records)
        return np.stack([finder.rows(names, pairs.lines, pairs.source) for names in (pairs.left, pairs.right)])
    if templates is None:
        raise InputError(f"{pairs.source} has pairs of templates; --templates has to say which images they are of")
    sides = []
    for names in (pairs.left, pairs.right):
        for name, line in zip(names, pairs.lines):
            if name not in templates.names:
                raise InputError(f"{pairs.source}:{line}: no template {name!r} in the file of --templates")
        sides.append([templates.names[name] for name in names])
    return np.array(sides)


def _refuse_contradiction(pairs: PairFile, rows: np.ndarray, records: Records, templates: Templates | None) -> None:
    """Raise InputError where a pair is called the same and its labels differ, or the other way round."""
    labels = records.vocabulary.codes
    if pairs.of_templates:
        labels = np.zeros(len(templates.names), dtype=np.int64)
        labels[templates.numbers] = records.vocabulary.codes[templates.rows]
    wrong = np.flatnonzero((labels[rows[0]] == labels[rows[1]]) != pairs.is_same)
    if len(wrong):
        first = int(wrong[0])
        says = "the same" if pairs.is_same[first] else "not the same"
        raise InputError(
            f"{pairs.source}:{pairs.lines[first]}: {pairs.left[first]!r} and {pairs.right[first]!r} are called {says}, "
            f"which by the labels of {records.source} they are not ({len(wrong)} of "
            f"{counted(len(pairs.lines), 'pair')})"
        )


def _unknown_codes(text: str, records: Records, seed: int) -> torch.Tensor:
    """Codes of the labels that --open_set names, or draws."""
    names = [str(label) for label in records.vocabulary.labels.tolist()]
    try:
        share = read_float(text)
    except ValueError:
        share = None
    if share is None:
        try:
            wanted = [line.strip() for line in Path(text).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, ValueError):
            raise InputError(f"--open_set={text} is neither a share between 0 and 1 nor a file of labels") from None
        missing = [name for name in wanted if name not in set(names)]
        if missing:
            raise InputError(f"{text}: no label {missing[0]!r} in {records.source} ({len(missing)} of {len(wanted)})")
        if len(set(wanted)) >= len(names) or not wanted:
            raise InputError(
                f"{text}: {len(set(wanted))} of {counted(len(names), 'label')} are unknown; some have to be, not all"
            )
        chosen = set(wanted)
    elif 0 < share < 1:
        chosen = set(draw_unknown(names, share, seed))
    else:
        raise InputError(f"--open_set={text} is neither a share between 0 and 1 nor a file of labels")
    return torch.tensor([code for code, name in enumerate(names) if name in chosen])


def _note_held_out(
    held: Records, tested: Records, pretrained_model: str | None, val_classes: int, threshold_on: str
) -> str:
    """What the threshold is chosen on, in words; says so where its labels are no held-out ones."""
    refuse_one_label(held, "the list of --threshold_on")
    shared = set(map(str, held.vocabulary.labels.tolist())) & set(map(str, tested.vocabulary.labels.tolist()))
    if shared and held.source == tested.source:
        log(f"note: the threshold is chosen on {counted(len(shared), 'label')} that it is then judged on")
    if threshold_on != "val":
        return Path(held.source).name
    config = Path(pretrained_model or "") / "config.json"
    if config.is_file():
        trained = read_flags(config).get("val_classes", 0)
        if trained != val_classes:
            log(
                f"note: the run held out {trained or 'no'} train labels, not {val_classes}: it was trained on some "
                "that the threshold is chosen on, which score better than others will"
            )
    return f"{counted(val_classes, 'train label')} held out"


@dataclass(frozen=True)
class SameOrNot:
    """What was found; held: on the list that the threshold was chosen on, held_out in words.

    fit: how the calibration of the held-out pairs fits these. pairs_of: of which pairs the figures are, in words.
    """

    figures: Verification
    held: Verification | None
    held_out: str | None
    folds: Folds | None
    unknown: OpenSet | None
    fit: Reliability | None
    distance: str
    seed: int
    pairs_of: str

    def as_result(self) -> dict:
        """What result.json holds of it."""
        figures = self.figures
        points = []
        for point in figures.points:
            points.append(
                {
                    "far": point.wished,
                    **self._threshold_facts(point.threshold),
                    "threshold_interval": self._threshold_interval(point.threshold_interval),
                    "measured_far": point.far,
                    "false_accepts": point.false_accepts,
                    "tar": point.tar.as_result(),
                }
            )
        result = {
            "pairs": {
                "of": self.pairs_of,
                "positive": figures.positives,
                "negative": figures.negatives,
                "labels": figures.labels,
            },
            "tar_at_far": points,
            "fars_left_out": list(figures.left_out),
            "eer": {**figures.eer.as_result(), **self._threshold_facts(figures.eer_threshold)},
            "intervals": {"coverage": 0.95, "over": "labels", "resamples": figures.resamples, "seed": self.seed},
        }
        if self.held is not None:
            rows = []
            for point, at in zip(self.held.points, figures.at):
                rows.append(
                    {
                        "far": point.wished,
                        **self._threshold_facts(point.threshold),
                        "chosen": {"far": point.far, "tar": point.tar.value},
                        "measured": {"far": at.far.as_result(), "tar": at.tar.as_result()},
                    }
                )
            result["threshold_on"] = {"list": self.held_out, "thresholds": rows}
            result["calibration"] = vars(self.fit)
        if self.folds is not None:
            result["folds"] = {
                "accuracy": self.folds.mean,
                "standard_error": self.folds.standard_error,
                "of_folds": dict(zip(self.folds.names, self.folds.accuracies)),
                "thresholds": [self._threshold_facts(threshold) for threshold in self.folds.thresholds],
            }
        if self.unknown is not None:
            result["open_set"] = {
                "queries_with_mate": self.unknown.mated,
                "queries_without_mate": self.unknown.unmated,
                "gallery": self.unknown.gallery,
                "unknown_labels": self.unknown.unknown_labels,
                "fnir_at_fpir": [
                    {
                        "fpir": point.wished,
                        **self._threshold_facts(point.threshold),
                        "measured_fpir": point.fpir,
                        "fnir": point.fnir.as_result(),
                    }
                    for point in self.unknown.points
                ],
                "fpirs_left_out": list(self.unknown.left_out),
            }
        return result

    def as_text(self) -> str:
        """Tables, in %."""
        figures = self.figures
        title = f"same or not, over {self.pairs_of}: {figures.positives:,} of one label, {figures.negatives:,} of two"
        rows = [("FAR", self._score_name, "false accepts", "TAR")]
        for point in figures.points:
            score = self._score_text(point.threshold)
            rows.append((f"{point.wished:g}", score, f"{point.false_accepts:,}", point.tar.as_text()))
        lines = [title, *_aligned(rows)]
        if figures.left_out:
            left_out = ", ".join(f"{far:g}" for far in figures.left_out)
            lines.append(f"FAR {left_out}: left out, since so few negative pairs hold no such share")
        lines.append(f"EER {figures.eer.as_text()} at {self._score_name} {self._score_text(figures.eer_threshold)}")
        if figures.resamples:
            lines.append(
                f"[95 % intervals over {counted(figures.labels, 'label')}, drawn {counted(figures.resamples, 'time')}]"
            )
        if self.held is not None:
            lines.append(f"threshold chosen on {self.held_out}, and what it gives on these pairs:")
            rows = [("FAR", self._score_name, "TAR there", "FAR here", "TAR here")]
            for point, at in zip(self.held.points, figures.at):
                rows.append(
                    (
                        f"{point.wished:g}",
                        self._score_text(point.threshold),
                        f"{100 * point.tar.value:.2f}",
                        _small_rate(at.far),
                        at.tar.as_text(),
                    )
                )
            lines += _aligned(rows)
            lines.append(
                f"P(same), calibrated there: Brier {self.fit.brier:.3g} ({self.fit.brier_of_share:.3g} for saying the "
                f"share of pairs of one label), ECE {self.fit.ece:.3g}"
            )
        if self.folds is not None:
            lines.append(
                f"{counted(len(self.folds.names), 'fold')}: accuracy {100 * self.folds.mean:.2f} ± "
                f"{100 * self.folds.standard_error:.2f} % (standard error), the threshold of each from the others"
            )
            accuracies = ", ".join(f"{100 * accuracy:.2f}" for accuracy in self.folds.accuracies)
            lines.append(f"fold by fold: {accuracies}")
        if self.unknown is not None:
            unknown = self.unknown
            lines.append(
                f"open set, {counted(unknown.unknown_labels, 'label')} unknown: "
                f"{counted(unknown.mated, 'query', ',')} with a mate among "
                f"{counted(unknown.gallery, 'item', ',')}, {unknown.unmated:,} without"
            )
            rows = [("FPIR", self._score_name, "FNIR")]
            for point in unknown.points:
                rows.append((f"{point.wished:g}", self._score_text(point.threshold), point.fnir.as_text()))
            lines += _aligned(rows)
            if unknown.left_out:
                left_out = ", ".join(f"{rate:g}" for rate in unknown.left_out)
                lines.append(f"FPIR {left_out}: left out, since so few queries without a mate hold no such share")
        return "\n".join(lines)

    @property
    def _score_name(self) -> str:
        return "cosine" if self.distance == "cosine" else "squared distance"

    def _score_text(self, score: float) -> str:
        return f"{score:.4f}" if self.distance == "cosine" else f"{-score:.4g}"

    def _threshold_facts(self, score: float) -> dict[str, float]:
        """A threshold under the name of what it is: from a cosine on, or up to a squared distance."""
        if self.distance == "cosine":
            return {"cosine": score}
        return {"squared_distance": -score}

    def _threshold_interval(self, interval: Sequence[float] | None) -> list[float] | None:
        if interval is None:
            return None
        if self.distance == "cosine":
            return list(interval)
        return [-interval[1], -interval[0]]


def _small_rate(rate) -> str:
    """A rate that may be far below 1 %, as a number."""
    if rate.interval is None:
        return f"{rate.value:.3g}"
    return f"{rate.value:.3g} [{rate.interval[0]:.3g}, {rate.interval[1]:.3g}]"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of words as lines with columns that end below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{word:>{width}}" for word, width in zip(row, widths)) for row in rows]
