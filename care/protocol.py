"""Whether a figure may stand beside published ones: a benchmark's split, pictures, training and search.

Published figures differ in what their papers do not say. What can be seen of this one is held against the protocol that
most papers name; where something differs, the figure is of something else, however good it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from core.errors import InputError
from core.files import read_flags, read_json, run_folder
from core.sources import is_weights_name
from core.text import counted, plural
from data.convert import Counts
from data.convert.cars import FACTS as CARS
from data.convert.cub import FACTS as CUB
from data.convert.inat2018 import FACTS as INAT
from data.convert.inshop import FACTS as INSHOP
from data.convert.sop import FACTS as SOP
from data.lists import open_list
from data.records import Records
from data.vocabulary import of_one_kind
from models import ModelSettings, TowerSettings
from retrieval.metrics.evaluation import Evaluation

CROP = 224  # pixels a side
SHORT_SIDES = (CROP, 256)  # of the picture before the crop
MOST_STAGES = 20  # runs that one may come from another


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as papers use it.

    title: its name; source: whose split it is; split: its counts. recalls: at which k figures are given. refuses_boxes:
    whether pictures are taken whole, though there are boxes.
    """

    title: str
    source: str
    split: Counts
    recalls: tuple[int, ...]
    refuses_boxes: bool = False


# No checksums of lists: SOP's come with its archive, the others' are made by whoever uses them, in any order.
BENCHMARKS = {
    "sop": Benchmark(
        "Stanford Online Products",
        "Song et al., CVPR 2016",
        SOP.protocols["standard"],
        (1, 10, 100, 1000),
    ),
    "cub": Benchmark(
        "CUB-200-2011",
        "Wah et al., 2011; the first 100 classes to train with, the others to test with (Song et al., CVPR 2016)",
        CUB.protocols["standard"],
        (1, 2, 4, 8),
        refuses_boxes=True,
    ),
    "cars": Benchmark(
        "Cars196",
        "Krause et al., 2013; the first 98 classes to train with, the others to test with (Song et al., CVPR 2016)",
        CARS.protocols["standard"],
        (1, 2, 4, 8),
        refuses_boxes=True,
    ),
    "inshop": Benchmark(
        "In-Shop Clothes Retrieval",
        "Liu et al., DeepFashion, CVPR 2016",
        INSHOP.protocols["standard"],
        (1, 10, 20, 30),
    ),
    "inat": Benchmark(
        "iNaturalist 2018",
        "Van Horn et al., CVPR 2018; the split of Brown et al., Smooth-AP, ECCV 2020",
        INAT.protocols["standard"],
        (1, 4, 16, 32),
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What a figure is held to be. reasons: why it is not comparable; cautions: what should be said beside it; facts:
    what was looked at, plain JSON."""

    protocol: str
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]
    facts: dict[str, object]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        title = BENCHMARKS[self.protocol].title
        if self.reasons:
            return f"protocol {self.protocol} ({title}): not comparable, because {'; '.join(self.reasons)}"
        return f"protocol {self.protocol} ({title}): comparable"

    def lines(self) -> list[str]:
        """What is printed: the verdict, and a line for each caution."""
        return [self.line, *(f"note: {caution}" for caution in self.cautions)]

    def as_result(self) -> dict[str, object]:
        """What result.json holds of it."""
        return {
            "name": self.protocol,
            "comparable": not self.reasons,
            "verdict": self.line,
            "reasons": list(self.reasons),
            "cautions": list(self.cautions),
            "expected": _split_facts(BENCHMARKS[self.protocol]),
            **self.facts,
        }


def _split_facts(benchmark: Benchmark) -> dict[str, object]:
    split = benchmark.split
    expected = {
        "source": benchmark.source,
        "train": {"images": split.train[0], "labels": split.train[1]},
        "test": {"images": split.test[0], "labels": split.test[1]},
    }
    if split.queries is not None:
        expected["test"] |= {"queries": split.queries, "gallery": split.gallery}
    return expected


@dataclass(frozen=True)
class Stage:
    """One training run that the network comes from, as its folder tells: its flags, lists and result; empty: unknown.

    file: what of it was taken.
    """

    folder: Path
    file: str
    flags: Mapping[str, object]
    lists: Mapping[str, Mapping[str, object]]
    result: Mapping[str, object]


@dataclass(frozen=True)
class Search:
    """How it was searched and what the figures are: of eval.py's flags and of its figures.

    postprocess: what ranks anew. lone_skipped: queries without a right answer that were left out. distance, definition,
    metrics: of the figures. threshold_on: what a threshold was chosen on, if there is one. precision: of the network.
    """

    metrics: Sequence[str]
    postprocess: Sequence[str] = ()
    lone_skipped: int = 0
    distance: str = "cosine"
    definition: str = "standard"
    threshold_on: str | None = None
    has_threshold: bool = False
    precision: str = "fp32"

    @classmethod
    def of(cls, evaluation: Evaluation, threshold_on: str | None, has_threshold: bool, precision: str) -> "Search":
        """That of an evaluation."""
        skipped = evaluation.lone if evaluation.skip_lone else 0
        return cls(
            evaluation.metrics,
            evaluation.postprocess,
            skipped,
            evaluation.distance,
            evaluation.definition,
            threshold_on,
            has_threshold,
            precision,
        )


@dataclass(frozen=True)
class Geometry:
    """How pictures come to the network: the crop's (height, width), the short side before it (0: that of the crop)."""

    crop: tuple[int, int]
    short_side: int
    scales: Sequence[float] = (1.0,)


def geometry_of(settings: ModelSettings | TowerSettings) -> Geometry | None:
    """The Geometry of a network's settings, of towers that for images; None where no picture comes to it."""
    if isinstance(settings, TowerSettings):
        if "image" not in settings.towers:
            return None
        settings = settings.towers["image"]
    return Geometry(settings.image_shape[1:], settings.resize_short_size, settings.test_scales)


@dataclass(frozen=True)
class Linter:
    """The protocol that a result is to be of, with what is known of the network before any work.

    source: --pretrained_model. stages: the runs that it comes from, the last one first. train: the list of the last one
    where it can still be read.
    """

    protocol: str
    source: str | None
    stages: tuple[Stage, ...] = ()
    train: Records | None = None

    def judge(
        self,
        records: Records,
        embeddings: object,
        geometry: Geometry | None,
        search: Search,
        list_facts: Mapping[str, object],
    ) -> Verdict:
        """The verdict on a result.

        records: the list that it is of. embeddings: (N, D) as a tensor; anything else where no rank has all. geometry:
        None for saved embeddings. list_facts: of the list, as result.json has them; empty for saved embeddings.
        """
        notes = _Notes()
        benchmark = BENCHMARKS[self.protocol]
        _judge_test_list(notes, benchmark, records)
        _judge_pictures(notes, benchmark, records, geometry)
        _judge_search(notes, benchmark, search)
        _judge_copies(notes, records, embeddings)
        self._judge_training(notes, benchmark, records, list_facts)
        facts = {
            "found": {
                "test": {
                    "images": len(records),
                    "labels": len(records.vocabulary),
                    "queries": int(records.is_query.sum()),
                    "gallery": int(records.is_gallery.sum()),
                    "sha256": list_facts.get("sha256"),
                },
                "train": self._train_facts(),
            },
            "self_match": "by row",
        }
        return Verdict(self.protocol, tuple(notes.reasons), tuple(notes.cautions), facts)

    def _train_facts(self) -> dict[str, object] | None:
        if not self.stages or "train" not in self.stages[0].lists:
            return None
        train = self.stages[0].lists["train"]
        return {name: train.get(name) for name in ("images", "labels", "sha256")}

    def _judge_training(
        self, notes: "_Notes", benchmark: Benchmark, records: Records, list_facts: Mapping[str, object]
    ) -> None:
        if not self.stages:
            if self.source is None:
                notes.reasons.append("nothing is known of the network")
            elif is_weights_name(self.source):
                notes.cautions.append(f"the weights {self.source!r} were not trained on this benchmark")
            else:
                notes.reasons.append(f"{self.source} does not tell how it was trained")
            return
        sha256 = list_facts.get("sha256")
        for stage in self.stages:
            _judge_stage(notes, stage, sha256)
        train = self.stages[0].lists.get("train", {})
        counts = (train.get("images"), train.get("labels"))
        if None not in counts and counts != benchmark.split.train:
            images, labels = benchmark.split.train
            notes.cautions.append(
                f"it was trained on {counted(counts[0], 'image', ',')} of {counted(counts[1], 'label', ',')}, the "
                f"protocol has {images:,} of {labels:,}"
            )
        if self.train is None:
            notes.cautions.append("the train list cannot be read any more: whether it shares labels is not known")
            return
        labels, train_labels = of_one_kind(records.vocabulary.labels, self.train.vocabulary.labels)
        shared = int(np.isin(labels, train_labels).sum())
        if shared:
            notes.reasons.append(
                f"{shared:,} of {counted(len(labels), 'test label', ',')} {plural(shared, 'was', 'were')} trained with"
            )


class _Notes:
    """Reasons and cautions as they come up."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.cautions: list[str] = []


def _judge_test_list(notes: _Notes, benchmark: Benchmark, records: Records) -> None:
    images, labels = benchmark.split.test
    found = (len(records), len(records.vocabulary))
    if found != (images, labels):
        notes.reasons.append(
            f"the test list has {counted(found[0], 'image', ',')} of {counted(found[1], 'label', ',')}, the protocol "
            f"{images:,} of {labels:,}"
        )
    queries, gallery = int(records.is_query.sum()), int(records.is_gallery.sum())
    if benchmark.split.queries is not None:
        if (queries, gallery) != (benchmark.split.queries, benchmark.split.gallery):
            notes.reasons.append(
                f"{counted(queries, 'image', ',')} ask and {gallery:,} can be found, in the protocol "
                f"{benchmark.split.queries:,} and {benchmark.split.gallery:,}"
            )
    elif (queries, gallery) != (len(records), len(records)):
        notes.reasons.append(
            f"{queries:,} of {counted(len(records), 'image', ',')} ask and {gallery:,} can be found, in the protocol "
            "all of them"
        )


def _judge_pictures(notes: _Notes, benchmark: Benchmark, records: Records, geometry: Geometry | None) -> None:
    if benchmark.refuses_boxes and records.boxes is not None and not np.isnan(records.boxes).all():
        notes.reasons.append("pictures are cut to their boxes, which the protocol does not use")
    if geometry is None:
        notes.reasons.append("the embeddings come from a file, which does not tell how pictures were cut and resized")
        return
    height, width = geometry.crop
    if (height, width) != (CROP, CROP):
        notes.reasons.append(f"pictures are {height} x {width}, in the protocol {CROP} x {CROP}")
    elif (geometry.short_side or CROP) not in SHORT_SIDES:
        sides = " or ".join(map(str, SHORT_SIDES))
        notes.reasons.append(f"the short side is {geometry.short_side} before the crop, in the protocol {sides}")
    if tuple(geometry.scales) != (1.0,):
        scales = ", ".join(f"{scale:g}" for scale in geometry.scales)
        notes.reasons.append(f"pictures are embedded at several scales ({scales})")


def _judge_search(notes: _Notes, benchmark: Benchmark, search: Search) -> None:
    if search.postprocess:
        names = ", ".join(search.postprocess)
        notes.reasons.append(f"{names} ranks what was found anew (the figures before it are not of it)")
    if search.lone_skipped:
        notes.reasons.append(
            f"{counted(search.lone_skipped, 'query', ',')} without a right answer "
            f"{plural(search.lone_skipped, 'was', 'were')} left out"
        )
    if search.definition != "standard":
        notes.reasons.append(f"figures are by the definitions of {search.definition}")
    if search.has_threshold and search.threshold_on is None:
        notes.cautions.append("the threshold was chosen on the test half itself: its figures are the best there are")
    missing = [f"recall@{k}" for k in benchmark.recalls if f"recall@{k}" not in search.metrics]
    if missing:
        notes.cautions.append(f"papers give {', '.join(missing)}, too (--metrics)")
    if search.distance != "cosine":
        notes.cautions.append(f"it was searched by {search.distance}, where most papers take the cosine")
    if search.precision != "fp32":
        notes.cautions.append(f"embeddings were made in {search.precision}")


def _judge_copies(notes: _Notes, records: Records, embeddings: object) -> None:
    """Say how many rows have the very embedding of another row of their label: copies, which find each other."""
    if not isinstance(embeddings, torch.Tensor):
        return
    seen: dict[tuple[int, bytes], int] = {}
    keys = []
    for code, row in zip(records.vocabulary.codes.tolist(), embeddings.numpy()):
        key = (code, row.tobytes())
        keys.append(key)
        seen[key] = seen.get(key, 0) + 1
    copies = sum(seen[key] > 1 for key in keys)
    if copies:
        notes.cautions.append(
            f"{copies:,} of {counted(len(records), 'image', ',')} {plural(copies, 'has', 'have')} the very embedding "
            "of another one of their label: copies, which find each other"
        )


def _judge_stage(notes: _Notes, stage: Stage, sha256: object) -> None:
    """What a training run did with the test half; sha256: of the list that is tested."""
    name = str(stage.folder)
    train, tested = stage.lists.get("train", {}), stage.lists.get("test", {})
    if sha256 is not None and train.get("sha256") == sha256 and not _is_one_table(train, tested):
        loss = stage.flags.get("loss_name")
        verb = f"{loss} was fitted" if loss in ("whitening", "pca") else "it was trained"
        notes.reasons.append(f"{verb} on the test list ({name})")
    is_on_test = sha256 is not None and tested.get("sha256") == sha256 and not stage.flags.get("val_classes")
    if not is_on_test:
        return
    if stage.file == "best.pt":
        best = stage.result.get("best") or {}
        step = f"step {best['step']}" if "step" in best else "the step"
        notes.reasons.append(f"{step} was chosen by its figures on the test half ({name}/best.pt)")
    elif stage.file.startswith("step_"):
        notes.reasons.append(f"{stage.file} of {name} is one of several that were tested on the test half")
    else:
        notes.cautions.append(
            f"{name} was tested on the test half while it trained; what is evaluated is its last step"
        )


def _is_one_table(train: Mapping[str, object], tested: Mapping[str, object]) -> bool:
    """Whether both lists are one csv, of which each split takes its own rows."""
    file = str(train.get("file", ""))
    return file == tested.get("file") and file.endswith(".csv") and train.get("images") != tested.get("images")


def open_linter(
    pretrained_model: str | None,
    *,
    protocol: Literal["sop", "cub", "cars", "inshop", "inat"] | None = None,
) -> Linter | None:
    """The protocol that a result is held against, with what the network's run says of itself; None without one.

    Options:
        protocol: say whether the result is comparable to published ones of: sop, cub, cars, inshop, inat
    """
    if protocol is None:
        return None
    stages = _stages(pretrained_model)
    return Linter(protocol, pretrained_model, stages, _train_list(stages))


def _stages(source: str | None) -> tuple[Stage, ...]:
    """The runs that weights come from, the last one first; none where they are no run's."""
    stages = []
    while source and not is_weights_name(source) and len(stages) < MOST_STAGES:
        folder = run_folder(source)
        try:
            flags = read_flags(folder / "config.json")
            lists = read_flags(folder / "config.json", "lists")
        except InputError:
            break
        result = {}
        # A run that was broken off has none.
        if (folder / "result.json").is_file():
            result = read_json(folder / "result.json")
        file = "last.pt" if Path(source).is_dir() else Path(source).name
        stages.append(Stage(folder, file, flags, lists, result))
        source = flags.get("pretrained_model")
    return tuple(stages)


def _train_list(stages: Sequence[Stage]) -> Records | None:
    """The train list of the last run, None where it is not there any more."""
    if not stages or not stages[0].flags.get("train_list"):
        return None
    flags = stages[0].flags
    try:
        return open_list(flags["train_list"], flags.get("data_dir"), "train")
    except InputError:
        return None
