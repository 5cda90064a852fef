"""One training run: steps, and when to display, test, save and stop."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch

import distributed
from core.console import log
from core.errors import InputError
from core.text import counted
from core.types import AtLeastZero, Count, NanPolicy, Positive, Seed
from core.versions import versions
from data.records import Records
from distributed import sharded_classes
from engine.best import USUAL, Best
from engine.checkpoint import Checkpoints, Progress, training_state
from engine.health import Health, first_recall
from engine.learner import Learner
from engine.loop import fit
from engine.nan_guard import FiniteGuard, NotFinite, allowed_skips
from engine.run import Run
from engine.schedule import Schedule
from engine.stop import Stopped, StopRequest
from engine.testing import Tester
from models import TwoTowers, export_towers
from models.export.safetensors import export_model

FLAGS_IN_RESULT = ("loss_name", "seed", "pretrained_model")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How a run is computed, and what it shows and keeps on the way.

    Options:
        micro_batch: images of a batch in the network at a time; 0: all
        test_batch_size: images in a test batch
        clip_norm: largest norm of the gradient; 0: no clipping
        nan: at a loss or gradient that is not finite: stop, or skip:N steps
        report: show worst queries and embeddings at each test, on TensorBoard and in the run's pictures/
        display_iter_step: steps between two lines
        test_iter_step: steps between two tests; the last is always tested
        save_iter_step: steps between checkpoints; the last is always saved
        keep_checkpoints: newest step_N.pt files to keep; 0: all
        seed: of weights, batches and augmentations
    """

    micro_batch: Count = 0
    test_batch_size: Positive = 50
    clip_norm: AtLeastZero = 0.0
    nan: NanPolicy = "stop"
    report: bool = False
    display_iter_step: Positive = 10
    test_iter_step: Positive
    save_iter_step: Positive
    keep_checkpoints: Count = 0
    seed: Seed = 0


class Trainer:
    """Takes a run from where it is to its last step; every rank has one.

    learner: network, loss and optimiser, as far as `progress` says they are. schedule: of the optimiser's rate.
    records: the train list; loader: endless batches of it, from the next step on; batch_size: images in a batch, on all
    ranks together. tester: the list to test on. run: is to have begun (Run.begin) before `fit` is called.
    """

    def __init__(
        self,
        learner: Learner,
        schedule: Schedule,
        records: Records,
        loader: Iterable,
        batch_size: int,
        tester: Tester,
        run: Run,
        progress: Progress,
        settings: TrainerSettings,
    ):
        self.learner = learner
        self.schedule = schedule
        self.records = records
        self.loader = loader
        self.batch_size = batch_size
        self.tester = tester
        self.run = run
        self.progress = progress
        self.settings = settings
        self.health: Health | None = None  # where it begins, known in `fit`
        self.plateau = schedule.plateau(tester.best.smaller_is_better)
        if self.plateau is not None and progress.plateau is not None:
            self.plateau.restore(progress.plateau)
        self.guard = FiniteGuard(
            learner.objective,
            learner.device,
            skips=allowed_skips(settings.nan),
            skipped=progress.skipped,
            scaled=learner.scaler.is_enabled(),
        )
        # Where others wait for this rank's part of a test it may not leave in the middle.
        self.stop = StopRequest(may_interrupt=distributed.world_size() == 1)

    def fit(self, notes: Iterable[str] = ()) -> dict[str, object] | None:
        """Train to the last step, testing and saving on the way; the first rank returns what result.json holds.

        notes: sentences on the lists, which are printed.
        """
        # Reading lists may take one rank much longer than another.
        distributed.barrier()
        self._share_weights()
        self._say_what_begins(notes)
        self.health = self._open_health()
        try:
            self._run_all_steps()
        except BaseException:
            # What was told so far goes out to whoever keeps it.
            self.run.close_loggers()
            raise
        if not distributed.is_first():
            return None
        result = self._result()
        self._export(result)
        self.run.finish(result)
        return result

    def _run_all_steps(self) -> None:
        """To the last step, as far as signals, losses and images let it; what is done is saved."""
        with self.stop:
            try:
                self._run_steps()
            except NotFinite as error:
                raise error.with_images(self.records.paths, self.run.folder) from None
            except InputError as error:  # such as an image that cannot be read any more
                raise self._save_what_is_done(error) from None

    def _share_weights(self) -> None:
        """Every rank begins with the first one's weights; shards of the loss's are each rank's own."""
        objective = self.learner.objective
        shared = objective.state_dict().values()
        if objective.loss_is_sharded:
            shared = [*objective.model.state_dict().values(), *sharded_classes.whole_parameters(objective.loss)]
        distributed.broadcast_tensors(shared)

    def _say_what_begins(self, notes: Iterable[str]) -> None:
        loss_name = self.run.config["flags"]["loss_name"]
        labels = len(self.records.vocabulary)
        lists = [tester.tested_on for tester in (self.tester, *self.tester.others)]
        steps = "no further step"
        if self.progress.start < self.schedule.total_iter_num:
            steps = f"steps {self.progress.start + 1} to {self.schedule.total_iter_num}"
        images = len(self.records)
        log(
            f"{loss_name} on {counted(images, self.records.noun)} of {counted(labels, 'label')}, "
            f"tested on {', '.join(lists)}; "
            f"{self.learner.device}, {self.learner.precision}; {steps}; writes to {self.run.folder}"
        )
        for note in notes:
            log(f"note: {note}")

    def _open_health(self) -> Health:
        config = self.run.config
        source = config["flags"]["pretrained_model"]
        return Health(config["flags"], first_recall(source, self.tester.tested_on, config["lists"]["test"]))

    def _run_steps(self) -> None:
        progress = self.progress
        # The rate that the optimiser was made with; that of its groups changes from step to step.
        lr = self.learner.optimiser.defaults["lr"]
        began = time.perf_counter()
        # Interrupted between a step and its test, a run begins with that test.
        if progress.untested:
            self._after_step(progress.start)
        fit(
            self.learner,
            self.loader,
            partial(self._rate, lr=lr),
            start=progress.start,
            total=self.schedule.total_iter_num,
            guard=self.guard,
            display_every=self.settings.display_iter_step,
            on_display=self._display,
            on_step=self._after_step,
        )
        progress.seconds["train"] += time.perf_counter() - began - progress.seconds["test"]

    def _rate(self, step: int, lr: float) -> float:
        """The rate of a step (from 0), as far as tests have reduced it."""
        reductions = 0 if self.plateau is None else self.plateau.reductions
        return self.schedule.rate(step, lr, reductions)

    def _display(self, step: int, figures: dict[str, float]) -> None:
        if not distributed.is_first():
            return
        self.progress.figures = figures
        words = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        images_per_second = self.batch_size / figures["time"]
        self.run.log(
            f"trainbatch {step}, {words} sec", step, {**figures, "images_per_second": images_per_second}, "train"
        )
        for sentence in self.health.after_display(figures, self.learner.objective.last_batch.embeddings):
            log(f"note: {sentence}")

    def _after_step(self, step: int) -> None:
        """Save and test where that is due: saved first, so that whatever a test meets, the steps are not lost."""
        is_last = self._is_last(step)
        test_due = is_last or step % self.settings.test_iter_step == 0
        save_due = is_last or step % self.settings.save_iter_step == 0
        # A signal to any rank stops all of them behind the same step.
        signal = int(distributed.all_reduce_max(torch.tensor(self.stop.signal or 0)))
        self.progress.step = step
        # What is saved now is not tested yet, and says so.
        self.progress.untested = test_due
        if save_due or signal:
            self._save(step, needed=bool(is_last or signal))
        if not (test_due or signal):
            return
        embeddings = self._embed_test_lists(step, signal)
        is_best = distributed.broadcast_value(distributed.is_first() and self._judge(step, embeddings))
        if self.plateau is not None:
            self.plateau.reductions = distributed.broadcast_value(self.plateau.reductions)
        self.progress.untested = False
        if is_best:
            self._save_best(step)
        # Once more, with what the test says.
        if save_due:
            self._save(step, needed=is_last)

    def _is_last(self, step: int) -> bool:
        return step == self.schedule.total_iter_num

    def _embed_test_lists(self, step: int, signal: int) -> list[torch.Tensor | None]:
        """Embeddings of each list, on the first rank. Raises Stopped, with all steps saved, where a signal came."""
        try:
            with self.stop.interruptible(signal):
                self.guard.check()
                began = time.perf_counter()
                network = self.learner.network(self._is_last(step))
                embeddings = [tester.embed(network) for tester in (self.tester, *self.tester.others)]
                self.progress.seconds["test"] += time.perf_counter() - began
                return embeddings
        except Stopped as stopped:
            if self.progress.saved != step:
                self._save(step, needed=True)
            sentence = f"after step {step}, which is saved; go on by {self.run.going_on}"
            raise Stopped(stopped.signal, sentence) from None

    def _judge(self, step: int, embeddings: list[torch.Tensor]) -> bool:
        """Log the figures of a test, of each list; whether they are the best so far."""
        progress = self.progress
        tester = self.tester
        began = time.perf_counter()
        query_gallery = tester.query_gallery(embeddings[0])
        progress.recall = tester.recalls(query_gallery)
        further = tester.further_figures(query_gallery, self.learner.objective.loss)
        figures = {**{f"recall@{k}": value for k, value in progress.recall.items()}, **further}
        queries = [query_gallery]
        by_list = [figures]
        for other, embedded in zip(tester.others, embeddings[1:], strict=True):
            queries.append(other.query_gallery(embedded))
            by_list.append(other.all_figures(queries[-1], self.learner.objective.loss))
            further |= {f"{other.title}/{name}": value for name, value in by_list[-1].items()}
        value = tester.choosing_figure(queries, by_list)
        if tester.best.category is not None and value is not None:
            further[tester.best.text] = value
        progress.seconds["test"] += time.perf_counter() - began

        recall_at_1 = progress.recall[1]
        words = [f"test_img_num {len(tester.records)}, trainbatch {step}, test_recall {recall_at_1:.5f}"]
        words += [f"{name} {value:.5f}" for name, value in further.items()]
        self.run.log(", ".join(words), step, {**figures, **further}, "test")
        for sentence in self.health.after_test(recall_at_1, int(tester.records.is_query.sum()), embeddings[0]):
            log(f"note: {sentence}")
        if self.settings.report:
            caption = ", ".join([f"step {step}", *words[1:]])
            for shown, asked in zip((tester, *tester.others), queries, strict=True):
                shown.show(asked, self.run, step, caption)
        if self.plateau is not None and value is not None:
            self.plateau.after_test(value)
        return self._is_best(step, value)

    def _is_best(self, step: int, value: float | None) -> bool:
        """Whether a test with this choosing figure is the best so far, which is remembered."""
        progress = self.progress
        best = self.tester.best
        before = progress.best
        # A run of before, or one that chose by something else, has no such value.
        value_before = None
        if before is not None and before.get("figure", USUAL) == best.text:
            value_before = before.get("value", before["recall"]["1"])
        if not best.beats(value, value_before):
            return False
        progress.best = {
            "step": step,
            "recall": _as_json(progress.recall),
            "chosen_on": self._chosen_on(best),
            "figure": best.text,
            "value": value,
        }
        return True

    def _chosen_on(self, best: Best) -> str:
        """The list that chooses, in words."""
        return (self.tester, *self.tester.others)[best.list_number].tested_on

    def _save(self, step: int, needed: bool = False) -> None:
        """All ranks make what is saved, since they may have parts of it; the first writes it, and they wait for it."""
        state = self._state(step)
        written = True
        if distributed.is_first():
            written = self._checkpoints().save_step(state, needed)
        if written:
            self.progress.saved = step
        distributed.broadcast_value(step)

    def _save_best(self, step: int) -> None:
        """As `_save`, of the best step so far, which does not count as saved: runs do not go on from it."""
        state = self._state(step)
        if distributed.is_first():
            self._checkpoints().save_best(state)
        distributed.broadcast_value(step)

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.run.folder, self.settings.keep_checkpoints)

    def _state(self, step: int) -> dict[str, object] | None:
        """What a checkpoint holds, on the first rank; where class weights are sharded the others have None."""
        self.guard.check()
        progress = self.progress
        progress.bad_images = union_over_ranks(progress.bad_images)
        # Which label each class stands for, and what it is called: whoever scores classes later has no train list.
        labels = self.records.vocabulary.labels
        if labels.dtype.kind == "U":
            classes = labels.tolist()
        else:
            classes = torch.from_numpy(labels)
        names = self.records.names.label
        state = training_state(
            self.learner,
            step,
            progress.best,
            classes,
            is_last=self._is_last(step),
            figures=progress.figures,
            untested=progress.untested,
            skipped=self.guard.skipped,
            config=self.run.config,
            bad_images=sorted(progress.bad_images),
            neighbours=progress.neighbours,
            plateau=None if self.plateau is None else self.plateau.state(),
            names={str(label): names[str(label)] for label in labels.tolist() if str(label) in names},
        )
        if self.learner.objective.loss_is_sharded:
            return sharded_classes.unshard_state(state, len(labels))
        return state

    def _save_what_is_done(self, error: InputError) -> InputError:
        """What ended a run in the middle, once the steps so far are saved; several ranks cannot be brought together."""
        progress = self.progress
        # None was made, or the last is on the disk.
        nothing_to_save = progress.step in (progress.start, progress.saved)
        if distributed.world_size() > 1 or nothing_to_save:
            return error
        self._save(progress.step)
        if progress.saved != progress.step:
            return error
        return InputError(f"{error}\nstep {progress.step} is saved; go on by {self.run.going_on}")

    def _result(self) -> dict[str, object]:
        progress = self.progress
        flags = self.run.config["flags"]
        return {
            "recall": _as_json(progress.recall),
            "step": self.schedule.total_iter_num,
            "tested_on": self.tester.tested_on,
            "images": len(self.tester.records),
            "best": progress.best,
            "skipped": self.guard.skipped,
            "train": progress.figures,
            "bad_images": len(progress.bad_images),
            "seconds": progress.seconds,
            "flags": {name: flags[name] for name in FLAGS_IN_RESULT},
            "model": self.learner.objective.model.facts,
            "versions": versions(),
        }

    def _export(self, result: dict[str, object]) -> None:
        """The model alone, with its origin and its figures."""
        card = {"flags": self.run.config["flags"], "data": self.run.config["lists"]}
        for name in ("recall", "step", "tested_on", "versions"):
            card[name] = result[name]
        network = self.learner.network(is_last=True)
        if isinstance(network, TwoTowers):
            export_towers(network, self.run.folder, card)
        else:
            export_model(network, self.run.folder, card)


def _as_json(recall: dict[int, float]) -> dict[str, float]:
    """Keys as JSON will have them, so that what is read back is what was written."""
    return {str(k): value for k, value in recall.items()}


def union_over_ranks(numbers: set[int]) -> set[int]:
    """The numbers, 0 or more each, that any rank has."""
    # -1 goes along, since an empty tensor cannot be sent.
    gathered = distributed.all_gather(torch.tensor([-1, *numbers])).tolist()
    return set(gathered) - {-1}
