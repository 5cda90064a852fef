"""One training run, from its flags to its result.json."""

import itertools
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import reader
from checking import list_notes, lone_notes, place_of
from decoding import choose_decoder
from engine.checkpoint import Checkpoints, restore, training_state
from engine.device import choose_device, choose_precision
from engine.embed import embed
from engine.finite import FiniteGuard, NotFinite
from engine.fit import fit
from engine.optim import build_optimiser, learning_rate
from engine.replay import run_folder
from engine.run import Run, say, versions
from engine.stop import Stopped, StopRequest
from errors import InputError
from loader import open_loader
from models.export import export_model
from models.pretrained import read_weights, weights_file
from reporting import show_on_board
from session import build_objective, list_facts, model_flags, open_test_loader, recalls, refuse_other_lists, task_of
from transforms import TrainTransform


class Training:
    """One run of either stage; `stage` and `make_sampler` (labels, start_step -> sampler) are what stages differ in."""

    def __init__(self, args, stage, make_sampler):
        self.args = args
        if args.micro_batch > args.train_batch_size:
            batch = f"train_batch_size, {args.train_batch_size}"
            raise InputError(f"micro_batch is {args.micro_batch}, more than {batch}; 0 is all of it")
        self.device = choose_device(args.use_gpu)
        self.precision = choose_precision(args.precision, self.device)
        lists = [(args.train_list, "train"), (args.test_list, "test")]
        self.train, self.test = reader.open_lists(lists, args.data_dir)
        self.tested_on = f"the test list {Path(self.test.source).name}"
        if args.val_classes:
            self.train, self.test = reader.hold_out(self.train, args.val_classes)
            self.tested_on = f"{args.val_classes} train labels held out"
        self.lists = {"train": list_facts(self.train), "test": list_facts(self.test)}
        self.labels, self.num_classes = reader.class_codes(self.train)
        self.flags = model_flags(args)
        self.decode = choose_decoder(args.decode)
        self.objective = build_objective(args, self.flags, self.num_classes, stage).to(self.device)
        rates = {"lr": args.lr, "class_lr": getattr(args, "class_lr", None), "momentum": args.momentum}
        rates |= {"weight_decay": args.weight_decay, "fused": self.device.type == "cuda"}
        self.optimiser = build_optimiser(args.optimiser, self.objective.model, self.objective.loss, **rates)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.bad_images = set()  # indices of train images that could not be read
        self.start, self.best, self.record = 0, None, {"figures": {}, "untested": False, "skipped": 0}
        if args.checkpoint:
            self._resume()
        sampler = make_sampler(self.labels, start_step=self.start)
        self.notes = list_notes(self.train, self.test) + (lone_notes(self.train, sampler.lone) if sampler.lone else [])
        self.loader = self._open_train_loader(sampler)
        self.test_loader = open_test_loader(self.test, self.flags, args.test_batch_size, args.num_workers, self.device)
        self.seconds = {"train": 0.0, "test": 0.0}

    def _resume(self):
        file = weights_file(self.args.checkpoint)
        state = read_weights(file)
        self.start, self.best = restore(state, self.objective, self.optimiser, self.scaler, file)
        self.record = {name: state[name] for name in self.record}
        self.bad_images.update(state["bad_images"])
        total, is_whole = self.args.total_iter_num, (run_folder(self.args.checkpoint) / "result.json").exists()
        if self.start > total or (self.start == total and is_whole):
            raise InputError(f"{file} is at step {self.start} already; --total_iter_num={total} asks for no more")
        self.record["untested"] |= self.start == total  # it was killed between its last step and its result
        refuse_other_lists(self.lists, state["config"]["lists"])

    def _open_train_loader(self, sampler):
        args = self.args
        height, width = self.flags["image_shape"][1:]
        transform = TrainTransform(height, width, self.flags["resize_short_size"], args.augment, args.crop_scale)
        pin = self.device.type == "cuda"
        decode = self.decode if "crop" in args.augment else "exact"  # only a crop can do with a coarser picture
        loading = {"decode": decode, "cache_bytes": args.cache_bytes}
        loading["on_bad"] = self._skip if args.on_bad_image == "skip" else None
        return open_loader(self.train, self.labels, transform, sampler, args.num_workers, pin, **loading)

    def _skip(self, index, sentence):
        if index not in self.bad_images:
            self.bad_images.add(index)
            say(f"{place_of(self.train, index)}: {sentence}; skipped")

    def _open_run(self):
        args = self.args
        config = {
            "flags": {**vars(args), **self.flags, "decode": self.decode},
            "versions": versions(),
            "device": str(self.device),
            "precision": self.precision,
            "lists": self.lists,
        }
        folder = run_folder(args.checkpoint) if args.checkpoint else args.model_save_dir
        self.config = json.loads(json.dumps(config))
        resumed = {"resumed": bool(args.checkpoint), "retested": self.record["untested"]}
        return Run(folder, config, self.start, overwrite=args.overwrite, **resumed)

    def fit(self):
        """Train to the last step, testing and saving on the way; returns what result.json holds."""
        args = self.args
        self.run = self._open_run()
        say(
            f"{args.loss_name} on {len(self.train)} images of {self.num_classes} labels, tested on {self.tested_on}; "
            f"{self.device}, {self.precision}; writes to {self.run.folder}"
        )
        for note in self.notes:
            say(f"note: {note}")
        schedule = {"strategy": args.lr_strategy, "lr_steps": args.lr_steps, "warmup": args.warmup_steps}
        rate = partial(learning_rate, lr=args.lr, total=args.total_iter_num, **schedule)
        self.recall = None
        skips = 0 if args.nan == "stop" else int(args.nan.removeprefix("skip:"))
        scaled = self.precision == "fp16"
        self.files = Checkpoints(self.run.folder, args.keep_checkpoints)
        self.guard = FiniteGuard(self.objective, self.device, skips, self.record["skipped"], scaled)
        with StopRequest() as self.stop:
            try:
                self._run_steps(rate)
            except NotFinite as fault:
                raise fault.with_images(self.train.paths, self.run.folder) from None
        result = self._result()
        self._export(result)
        self.run.finish(result)
        return result

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
        words = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        images_per_second = self.args.train_batch_size / figures["time"]
        self.record["figures"] = figures
        self.run.log(
            f"trainbatch {step}, {words} sec", step, {**figures, "images_per_second": images_per_second}, "train"
        )

    def _after_step(self, step):
        args = self.args
        last = step == args.total_iter_num
        due = last or step % args.test_iter_step == 0
        try:
            with self.stop.breakable():
                embeddings = self._embed(step) if due else None
        except Stopped as stopped:
            self.record["untested"] = due
            self.files.save_step(self._state(step), needed=True)
            sentence = f"after step {step}, which is saved; go on by --checkpoint={self.run.folder}"
            raise Stopped(stopped.signal, sentence) from None
        self.record["untested"] = False
        if due:
            self._test(step, embeddings)
        if last or step % args.save_iter_step == 0:
            self.guard.check()
            self.files.save_step(self._state(step), needed=last)

    def _embed(self, step):
        self.guard.check()
        began = time.perf_counter()
        embeddings = embed(self.objective.model, self.test_loader, self.device)
        self.seconds["test"] += time.perf_counter() - began
        return embeddings

    def _state(self, step):
        classes = torch.from_numpy(np.unique(self.train.labels))
        record = {**self.record, "skipped": self.guard.skipped, "config": self.config}
        record["bad_images"] = sorted(self.bad_images)
        return training_state(self.objective, self.optimiser, self.scaler, step, self.best, classes, **record)

    def _export(self, result):
        figures = {name: result[name] for name in ("recall", "step", "tested_on", "versions")}
        card = {"flags": self.config["flags"], "data": self.config["lists"], **figures}
        export_model(self.objective.model, self.run.folder, card)

    def _test(self, step, embeddings):
        began = time.perf_counter()
        self.recall = recalls(embeddings, self.test, self.device)
        self.seconds["test"] += time.perf_counter() - began
        figures = {f"recall@{k}": value for k, value in self.recall.items()}
        line = f"test_img_num {len(self.test)}, trainbatch {step}, test_recall {self.recall[1]:.5f}"
        self.run.log(line, step, figures, "test")
        if self.args.report:
            show_on_board(self.run.board, step, task_of(embeddings, self.test, self.device), self.test)
        if self.best is None or self.recall[1] > self.best["recall"]["1"]:
            self.best = {
                "step": step,
                "recall": {str(k): v for k, v in self.recall.items()},
                "chosen_on": self.tested_on,
            }
            self.files.save_best(self._state(step))

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


def finish(training):
    """Train, then say where everything is; `--enable_ce` adds the ancestor's machine-read lines."""
    result = training.fit()
    folder = training.run.folder
    say(f"Recall@1 {100 * result['recall']['1']:.2f} % on {result['tested_on']}")
    say(f"run: {folder}  (weights last.pt, figures result.json, curves: tensorboard --logdir {folder})")
    if training.args.enable_ce:
        for name, value in itertools.islice(result["train"].items(), 1, None):
            print(f"kpis\ttrain_{name}\t{value}")
        print(f"kpis\ttest_recall\t{result['recall']['1']}")
