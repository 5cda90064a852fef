"""One training run, from its flags to its result.json."""

import json
import time
from functools import partial
from pathlib import Path

import torch

import distributed
from config.replay import run_folder
from core.console import log
from core.device import choose_device, choose_precision
from core.errors import InputError
from core.versions import versions
from data.check import list_notes, lone_notes, place_of
from data.image.decode import choose_decoder
from data.lists import hold_out, open_lists, refuse_broken_images
from data.loader import open_test_loader
from data.samplers.shard import Shard
from distributed import sharded_classes
from embeddings.embed import embed
from embeddings.table import EmbeddingTable
from engine.checkpoint import Checkpoints, restore, training_state
from engine.loop import fit
from engine.nan_guard import FiniteGuard, NotFinite
from engine.optimiser import build_optimiser
from engine.run import Run, of_this_launch
from engine.schedule import learning_rate
from engine.stop import Stopped, StopRequest
from models.export.safetensors import export_model
from models.weights import read_weights, weights_file
from reporting import show_on_board
from session import (
    build_objective,
    data_flags,
    list_facts,
    model_flags,
    note_other_list,
    open_train_loader,
    recalls,
    refuse_other_lists,
    shares_classes,
)


def open_data(args, data_dir, train_list, test_list):
    """(train ImageList, test ImageList, what that is): two lists, or of the train list some labels held out to test on.

    Every image that a run will look at is looked at before it begins. Raises InputError for one that cannot be read.
    """
    if args.val_classes:
        (train,) = open_lists([(train_list, "train")], data_dir)
        train, test = hold_out(train, args.val_classes)
        tested_on = f"{args.val_classes} train labels held out"
    else:
        train, test = open_lists([(train_list, "train"), (test_list, "test")], data_dir)
        tested_on = f"the test list {Path(test.source).name}"
    refuse_broken_images([test] if args.on_bad_image == "skip" else [train, test])
    return train, test, tested_on


class Training:
    """One run of either stage; `stage` and `make_sampler` (labels, start_step -> sampler) are what stages differ in."""

    def __init__(self, args, stage, make_sampler):
        self.args = args
        self.device = choose_device(args.use_gpu)
        self.precision = choose_precision(args.precision, self.device)
        self.in_parts = shares_classes(args, self.precision)
        distributed.init(self.device)
        self.folder = Path(run_folder(args.checkpoint) if args.checkpoint else args.model_save_dir)
        self.restarted = distributed.broadcast_value(of_this_launch(self.folder))
        saved = distributed.broadcast_value(self.restarted and (self.folder / "last.pt").is_file())
        self.checkpoint = args.checkpoint or (self.folder if saved else None)
        self.data = data_flags(args)
        self.train, self.test, self.tested_on = open_data(args, **self.data)
        self.lists = {"train": list_facts(self.train), "test": list_facts(self.test)}
        self.labels, self.num_classes = self.train.vocabulary.codes, len(self.train.vocabulary)
        self.flags = model_flags(args)
        self.decode = choose_decoder(args.decode, args.cache_kind)
        source = None if self.checkpoint else args.pretrained_model
        note_other_list(source, "train", self.lists["train"])
        objective = build_objective(args, self.flags, self.num_classes, stage, source, self.in_parts)
        self.objective = objective.to(self.device)
        rates = {"lr": args.lr, "class_lr": getattr(args, "class_lr", None), "momentum": args.momentum}
        rates["weight_decay"] = args.weight_decay
        self.optimiser = build_optimiser(args.optimiser, self.objective.model, self.objective.loss, **rates)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.bad_images = set()  # indices of train images that could not be read
        self.start, self.best, self.record = 0, None, {"figures": {}, "untested": False, "skipped": 0}
        if self.checkpoint:
            self._resume()
        sampler = make_sampler(self.labels, start_step=self.start)
        self.notes = list_notes(self.train, self.test) + (lone_notes(self.train, sampler.lone) if sampler.lone else [])
        batches, how = (
            Shard(sampler, distributed.rank(), distributed.world_size()),
            (self.decode, self._skip, self.device),
        )
        self.loader = open_train_loader(args, self.train, self.labels, self.flags, batches, *how)
        self.test_loader = open_test_loader(self.test, self.flags, args.test_batch_size, args.num_workers, self.device)
        self.seconds = {"train": 0.0, "test": 0.0}
        self.step = self.saved = self.start  # the last step that was made, and the last that is on the disk

    def _resume(self):
        file = weights_file(self.checkpoint, "checkpoint")
        state = read_weights(file)
        state = sharded_classes.shard_state(state, self.num_classes) if self.in_parts else state
        self.start, self.best = restore(state, self.objective, self.optimiser, self.scaler, file)
        self.record = {name: state[name] for name in self.record}
        self.bad_images.update(state["bad_images"])
        total, is_whole = self.args.total_iter_num, (self.folder / "result.json").exists()
        if self.start > total or (self.start == total and is_whole):
            raise InputError(f"{file} is at step {self.start} already; --total_iter_num={total} asks for no more")
        self.record["untested"] |= self.start == total  # it was killed between its last step and its result
        refuse_other_lists(self.lists, state["config"]["lists"])

    def _skip(self, index, sentence):
        if index not in self.bad_images:
            self.bad_images.add(index)
            log(f"{place_of(self.train, index)}: {sentence}; skipped", by_first=False)

    def _open_run(self):
        args = self.args
        config = {
            "flags": {**vars(args), **self.flags, **self.data, "decode": self.decode},
            "versions": versions(),
            "device": str(self.device),
            "precision": self.precision,
            "ranks": distributed.world_size(),
            "launch": distributed.launch_id(),
            "lists": self.lists,
        }
        self.config = json.loads(json.dumps(config))
        if not distributed.is_first():
            return None
        overwrite = args.overwrite or self.restarted
        resumed = {"resumed": bool(self.checkpoint), "retested": self.record["untested"]}
        return Run(self.folder, config, self.start, overwrite=overwrite, **resumed)

    def fit(self):
        """Train to the last step, testing and saving on the way; the first rank returns what result.json holds."""
        args = self.args
        self.run, self.recall = self._open_run(), None
        distributed.barrier()  # reading lists may take one much longer than another
        distributed.broadcast_tensors((self.objective.model if self.in_parts else self.objective).state_dict().values())
        log(
            f"{args.loss_name} on {len(self.train)} images of {self.num_classes} labels, tested on {self.tested_on}; "
            f"{self.device}, {self.precision}; steps {self.start + 1} to {args.total_iter_num}; writes to {self.folder}"
        )
        for note in self.notes:
            log(f"note: {note}")
        schedule = {"strategy": args.lr_strategy, "lr_steps": args.lr_steps, "warmup": args.warmup_steps}
        rate = partial(learning_rate, lr=args.lr, total=args.total_iter_num, **schedule)
        skips = 0 if args.nan == "stop" else int(args.nan.removeprefix("skip:"))
        self.files = Checkpoints(self.folder, args.keep_checkpoints)
        self.guard = FiniteGuard(self.objective, self.device, skips, self.record["skipped"], self.scaler.is_enabled())
        with StopRequest(breaks=distributed.world_size() == 1) as self.stop:
            try:
                self._run_steps(rate)
            except NotFinite as fault:
                raise fault.with_images(self.train.paths, self.folder) from None
            except InputError as error:  # such as an image that cannot be read any more
                raise self._save_what_is_done(error) from None
        if self.run is None:
            return None
        result = self._result()
        self._export(result)
        return self.run.finish(result)

    def _run_steps(self, rate):
        args = self.args
        began = time.perf_counter()
        if self.record["untested"]:
            self._after_step(self.start)
        fit(
            self.objective,
            self.loader,
            self.optimiser,
            self.scaler,
            rate,
            steps=(self.start, args.total_iter_num),
            device=self.device,
            precision=self.precision,
            clip_norm=args.clip_norm,
            micro_batch=args.micro_batch,
            guard=self.guard,
            every=args.display_iter_step,
            on_display=self._display,
            on_step=self._after_step,
        )
        self.seconds["train"] = time.perf_counter() - began - self.seconds["test"]

    def _display(self, step, figures):
        if self.run is None:
            return
        words = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        images_per_second = self.args.train_batch_size / figures["time"]
        self.record["figures"] = figures
        self.run.log(
            f"trainbatch {step}, {words} sec", step, {**figures, "images_per_second": images_per_second}, "train"
        )

    def _after_step(self, step):
        """Save and test where that is due: saved first, so that whatever a test meets, the steps are not lost."""
        args = self.args
        last = step == args.total_iter_num
        test_due = last or step % args.test_iter_step == 0
        save_due = last or step % args.save_iter_step == 0
        signal = distributed.all_reduce_max(torch.tensor(self.stop.signal or 0)).item()
        self.step, self.record["untested"] = step, test_due
        if save_due or signal:
            self._save(step, needed=last or signal)
        if not (test_due or signal):
            return
        try:
            with self.stop.breakable(signal):
                embeddings = self._embed() if test_due else None
        except Stopped as stopped:
            if self.saved != step:
                self._save(step, needed=True)
            sentence = f"after step {step}, which is saved; go on by --checkpoint={self.folder}"
            raise Stopped(stopped.signal, sentence) from None
        best = distributed.broadcast_value(self.run is not None and self._judge(step, embeddings))
        self.record["untested"] = False
        if best:
            self._save(step, best=True)
        if save_due:  # once more, with what the test found
            self._save(step, needed=last)

    def _save_what_is_done(self, error):
        """What ended a run in the middle, once the steps so far are saved; several ranks cannot be brought together."""
        if distributed.world_size() > 1 or self.step == self.start or self.saved == self.step:
            return error
        self._save(self.step)
        if self.saved != self.step:
            return error
        return InputError(f"{error}\nstep {self.step} is saved; go on by --checkpoint={self.folder}")

    def _embed(self):
        self.guard.check()
        began = time.perf_counter()
        distributed.broadcast_tensors(
            self.objective.model.buffers()
        )  # running statistics are a rank's own; the first's are saved
        embeddings = embed(self.objective.model, self.test_loader, self.device)
        self.seconds["test"] += time.perf_counter() - began
        return embeddings

    def _save(self, step, needed=False, best=False):
        """All ranks make what is saved, since they may have parts of it; the first writes it, and they wait for it."""
        self.guard.check()
        state = self._state(step)
        written = True
        if self.run is not None:
            written = self.files.save_best(state) if best else self.files.save_step(state, needed)
        if not best and written:
            self.saved = step
        distributed.broadcast_value(step)

    def _state(self, step):
        labels = self.train.vocabulary.labels
        classes = labels.tolist() if labels.dtype.kind == "U" else torch.from_numpy(labels)
        self.bad_images = {*distributed.all_gather(torch.tensor([-1, *self.bad_images])).tolist()} - {
            -1
        }  # never an empty tensor
        record = {**self.record, "skipped": self.guard.skipped, "config": self.config}
        record["bad_images"] = sorted(self.bad_images)
        names = self.train.names.label
        record["names"] = {str(label): names[str(label)] for label in labels.tolist() if str(label) in names}
        state = training_state(self.objective, self.optimiser, self.scaler, step, self.best, classes, **record)
        return sharded_classes.unshard_state(state, self.num_classes) if self.in_parts else state

    def _export(self, result):
        figures = {name: result[name] for name in ("recall", "step", "tested_on", "versions")}
        card = {"flags": self.config["flags"], "data": self.config["lists"], **figures}
        export_model(self.objective.model, self.run.folder, card)

    def _judge(self, step, embeddings):
        """Log the figures of a test; whether they are the best so far."""
        began = time.perf_counter()
        self.recall = recalls(embeddings, self.test, self.device)
        self.seconds["test"] += time.perf_counter() - began
        figures = {f"recall@{k}": value for k, value in self.recall.items()}
        line = f"test_img_num {len(self.test)}, trainbatch {step}, test_recall {self.recall[1]:.5f}"
        self.run.log(line, step, figures, "test")
        if self.args.report:
            table = EmbeddingTable(self.test, embeddings)
            show_on_board(self.run.board, step, table.query_gallery(self.device), self.test)
        if self.best is not None and self.recall[1] <= self.best["recall"]["1"]:
            return False
        recall = {str(k): v for k, v in self.recall.items()}
        self.best = {"step": step, "recall": recall, "chosen_on": self.tested_on}
        return True

    def _result(self):
        args = self.args
        return {
            "recall": {str(k): value for k, value in self.recall.items()},
            "step": args.total_iter_num,
            "tested_on": self.tested_on,
            "images": len(self.test),
            "best": self.best,
            "skipped": self.guard.skipped,
            "train": self.record["figures"],
            "bad_images": len(self.bad_images),
            "seconds": self.seconds,
            "flags": {name: getattr(args, name) for name in ("loss_name", "seed", "pretrained_model")},
            "model": self.objective.model.facts,
            "versions": versions(),
        }
