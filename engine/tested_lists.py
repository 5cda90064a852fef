"""The lists that a training run is tested on."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from core.console import log
from core.errors import InputError
from core.types import Words
from data.loader import BatchLoader, open_test_loader
from data.records import Records
from data.samplers import BatchSampler
from embeddings.features import FeatureData
from engine.assembly import Start
from engine.best import open_best
from engine.feature_lane import open_feature_test_loader
from engine.figures import check_figure
from engine.testing import Pictures, Tester
from models import ModelSettings, TowerSettings


class TestedLists(Protocol):
    """What a run's data tell of the lists to test on: reader.TrainingData, or FeatureData.

    tested_on: what `test` is, in words; title: its name beside others; more: {title: list} of these.
    """

    test: Records
    tested_on: str
    title: str
    more: Mapping[str, Records]


def open_tester(
    start: Start,
    data: TestedLists,
    settings: ModelSettings | TowerSettings,
    num_workers: int | str,
    pictures: Pictures,
    draw_batches: Callable[[], BatchSampler] | None = None,
    *,
    test_metrics: Words = (),
    test_distance: Literal["cosine", "squared_euclidean"] = "cosine",
    test_loss: bool = False,
    best: str | None = None,
) -> Tester:
    """The lists that the run is tested on: images as `settings` loads them, or features.

    Options:
        test_metrics: further figures of each test, comma-separated, such as map@r,knn@5 (docs/metrics.md), also
            fnmr@fmr=0.1 and pcf@0.5
        test_distance: of the tests: one of cosine, squared_euclidean
        test_loss: at each test the loss, too, of batches of the test list that are always the same
        best: the figure that chooses best.pt, as map@r, b.csv/recall@1, or recall@1/CATEGORY; the most of it, of loss
            and fnmr the least (default: recall@1)

    draw_batches: opens the sampler of those batches. Raises InputError for a figure that there is not, and for a test
    list that fills no batch.
    """

    def in_order(records: Records) -> BatchLoader:
        return open_test_loader(records, settings, start.settings.test_batch_size, num_workers, start.device)

    for name in test_metrics:
        check_figure(name)
    chosen = open_best(best, [(data.title, data.test), *data.more.items()], test_loss)
    if best is not None and data.title:
        log(
            f"note: best.pt is chosen by {best} on a test list, so that figures there promise too much; --val_classes "
            "holds out train labels to choose on"
        )
    fixed_batches = None
    if test_loss:
        try:
            fixed_batches = draw_batches().epoch(0)
        except InputError as error:
            raise InputError(f"--test_loss fills batches from the test list: {error}") from None
    others = []
    for number, (title, records) in enumerate(data.more.items(), start=1):
        metrics = chosen.measured(test_metrics, number)
        what = f"the test list {title}"
        loader = in_order(records)
        others.append(Tester(records, loader, start.device, what, pictures, metrics, test_distance, title=title))
    if isinstance(data, FeatureData):
        loader = open_feature_test_loader(data)
    else:
        loader = in_order(data.test)
    return Tester(
        data.test,
        loader,
        start.device,
        data.tested_on,
        pictures,
        chosen.measured(test_metrics, 0),
        test_distance,
        fixed_batches,
        others=others,
        best=chosen,
    )
