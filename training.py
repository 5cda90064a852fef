"""One training run, from its flags to its result.json."""

import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import reader
from decoding import choose_decoder
from engine import class_parts, ranks
from engine.batchnorm import synchronise
from engine.checkpoint import restore, save, save_step, training_state
from engine.device import choose_device, choose_precision
from engine.embed import embed
from engine.fit import fit
from engine.objective import Objective
from engine.optim import build_optimiser, learning_rate
from engine.options import run_folder
from engine.run import Run, of_this_launch, say, versions
from errors import InputError
from loader import open_loader
from losses import LOSSES
from models.pretrained import read_weights, weights_file
from reporting import show_on_board
from samplers import Shard
from session import list_facts, model_flags, open_model, open_test_loader, recalls, task_of
from transforms import TrainTransform


class Training:
    """One run of either stage; `stage` and `make_sampler` (labels, start_step -> sampler) are what stages differ in."""

    def __init__(self, args, stage, make_sampler):
        self.args = args
        self.device = choose_device(args.use_gpu)
        self.precision = choose_precision(args.precision, self.device)
        several = ranks.count() > 1
        self.synced, self.in_parts = several and args.sync_bn, several and getattr(args, "shard_classes", False)
        if self.in_parts and (args.clip_norm or self.precision == "fp16"):
            raise InputError("--shard_classes goes with neither --clip_norm nor --precision=fp16")
        if self.synced and args.micro_batch:
            raise InputError("--sync_bn makes no sense with --micro_batch, of which BatchNorm sees one at a time")
        ranks.join(self.device)
        self.folder = Path(run_folder(args.checkpoint) if args.checkpoint else args.model_save_dir)
        self.restarted = ranks.first_says(of_this_launch(self.folder))
        saved = ranks.first_says(self.restarted and (self.folder / "last.pt").is_file())
        self.checkpoint = args.checkpoint or (self.folder if saved else None)
        self.train = reader.open_list(args.train_list, args.data_dir, "train")
        self.test = reader.open_list(args.test_list, args.data_dir, "test")
        self.tested_on = f"the test list {Path(self.test.source).name}"
        if args.val_classes:
            self.train, self.test = reader.hold_out(self.train, args.val_classes)
            self.tested_on = f"{args.val_classes} train labels held out"
        self.labels, self.num_classes = reader.class_codes(self.train)
        self.flags = model_flags(args)
        self.decode = choose_decoder(args.decode)
        self.objective = self._build_objective(stage)
        self.optimiser = build_optimiser(
            args.optimiser,
            self.objective.model,
            self.objective.loss,
            args.lr,
            getattr(args, "class_lr", None),
            args.weight_decay,
            args.momentum,
            fused=self.device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.start, self.best = self._resume() if self.checkpoint else (0, None)
        batches = Shard(make_sampler(self.labels, start_step=self.start), ranks.rank(), ranks.count())
        self.loader = self._open_train_loader(batches)
        self.test_loader = open_test_loader(self.test, self.flags, args.test_batch_size, args.num_workers, self.device)
        self.seconds = {"train": 0.0, "test": 0.0}

    def _build_objective(self, stage):
        args = self.args
        torch.manual_seed(args.seed)
        source = None if self.checkpoint else args.pretrained_model
        model = open_model(source, self.flags, freeze_bn=args.freeze_bn, freeze_stages=args.freeze_stages)
        facts = {"embedding_size": model.embedding_size, "num_classes": self.num_classes}
        facts = {name: facts[name] for name in LOSSES.requirements(args.loss_name)}
        options = {option.name: getattr(args, option.name) for option in LOSSES.options(args.loss_name)}
        loss = LOSSES[args.loss_name](**facts, **options)
        if self.in_parts:
            loss.take_part(ranks.share(self.num_classes), ranks.total, ranks.highest)
        if self.synced:
            synchronise(model)
        objective = Objective(model, loss, batch_recall=stage == "pair", part_of_loss=self.in_parts).to(self.device)
        objective = objective.to(memory_format=torch.channels_last)
        if args.compile:
            say("the network is compiled in the first steps, which takes minutes")
            objective.model.compile()
        return objective

    def _resume(self):
        file = weights_file(self.checkpoint)
        state = read_weights(file)
        state = class_parts.part(state, self.num_classes) if self.in_parts else state
        step, best = restore(state, self.objective, self.optimiser, self.scaler, file)
        if step >= self.args.total_iter_num:
            raise InputError(
                f"{file} is at step {step} already; --total_iter_num={self.args.total_iter_num} asks for no more"
            )
        return step, best

    def _open_train_loader(self, sampler):
        args = self.args
        height, width = self.flags["image_shape"][1:]
        transform = TrainTransform(height, width, self.flags["resize_short_size"], args.augment, args.crop_scale)
        pin = self.device.type == "cuda"
        decode = self.decode if "crop" in args.augment else "exact"  # only a crop can do with a coarser picture
        loading = {"decode": decode, "cache_bytes": args.cache_bytes}
        return open_loader(self.train, self.labels, transform, sampler, args.num_workers, pin, **loading)

    def _open_run(self):
        args = self.args
        config = {
            "flags": {**vars(args), **self.flags, "decode": self.decode},
            "versions": versions(),
            "device": str(self.device),
            "precision": self.precision,
            "ranks": ranks.count(),
            "launch": ranks.launch(),
            "lists": {"train": list_facts(self.train), "test": list_facts(self.test)},
        }
        overwrite = args.overwrite or self.restarted
        return Run(self.folder, config, self.start, resumed=bool(self.checkpoint), overwrite=overwrite)

    def fit(self):
        """Train to the last step, testing and saving on the way; the first rank returns what result.json holds."""
        args = self.args
        self.run = self._open_run() if ranks.first() else None
        ranks.meet()  # reading lists may take one much longer than another
        ranks.copy_first((self.objective.model if self.in_parts else self.objective).state_dict().values())
        say(
            f"{args.loss_name} on {len(self.train)} images of {self.num_classes} labels, tested on {self.tested_on}; "
            f"{self.device}, {self.precision}; writes to {self.folder}"
        )
        rate = partial(
            learning_rate,
            lr=args.lr,
            strategy=args.lr_strategy,
            lr_steps=args.lr_steps,
            total=args.total_iter_num,
            warmup=args.warmup_steps,
        )
        self.recall = None
        began = time.perf_counter()
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
            every=args.display_iter_step,
            on_display=self._display,
            on_step=self._after_step,
        )
        if self.run is None:
            return None
        self.seconds["train"] = time.perf_counter() - began - self.seconds["test"]
        result = self._result()
        self.run.finish(result)
        return result

    def _display(self, step, figures):
        if self.run is None:
            return
        words = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        images_per_second = self.args.train_batch_size / figures["time"]
        self.figures = figures
        self.run.log(
            f"trainbatch {step}, {words} sec", step, {**figures, "images_per_second": images_per_second}, "train"
        )

    def _after_step(self, step):
        last = step == self.args.total_iter_num
        test = last or step % self.args.test_iter_step == 0
        keep = last or step % self.args.save_iter_step == 0
        if test:
            self._test(step)
        state = self._state(step) if keep else None  # made by all ranks: they may have parts of it
        if keep and self.run is not None:
            save_step(state, self.run.folder)
        if test or keep:
            ranks.first_says(step)  # to the others, which have waited, to go on

    def _state(self, step):
        classes = torch.from_numpy(np.unique(self.train.labels))
        state = training_state(self.objective, self.optimiser, self.scaler, step, self.best, classes)
        return class_parts.whole(state, self.num_classes) if self.in_parts else state

    def _test(self, step):
        began = time.perf_counter()
        ranks.copy_first(self.objective.model.buffers())  # running statistics are a rank's own; the first's are saved
        embeddings = embed(self.objective.model, self.test_loader, self.device)
        improved = self.run is not None and self._judge(step, embeddings, began)
        if ranks.first_says(improved):
            state = self._state(step)
            if self.run is not None:
                save(state, self.run.folder / "best.pt")

    def _judge(self, step, embeddings, began):
        """Log the figures of a test that began at `began`; whether they are the best so far."""
        self.recall = recalls(embeddings, self.test, self.device)
        self.seconds["test"] += time.perf_counter() - began
        figures = {f"recall@{k}": value for k, value in self.recall.items()}
        line = f"test_img_num {len(self.test)}, trainbatch {step}, test_recall {self.recall[1]:.5f}"
        self.run.log(line, step, figures, "test")
        if self.args.report:
            show_on_board(self.run.board, step, task_of(embeddings, self.test, self.device), self.test)
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
            "train": self.figures,
            "seconds": self.seconds,
            "flags": {name: getattr(args, name) for name in ("loss_name", "seed", "pretrained_model")},
            "model": self.objective.model.facts,
            "versions": versions(),
        }


def finish(training):
    """Train, then say where everything is; `--enable_ce` adds the ancestor's machine-read lines."""
    result = training.fit()
    if result is None:
        return
    folder = training.run.folder
    say(f"Recall@1 {100 * result['recall']['1']:.2f} % on {result['tested_on']}")
    say(f"run: {folder}  (weights last.pt, figures result.json, curves: tensorboard --logdir {folder})")
    if training.args.enable_ce:
        for name, value in itertools.islice(result["train"].items(), 1, None):
            print(f"kpis\ttrain_{name}\t{value}")
        print(f"kpis\ttest_recall\t{result['recall']['1']}")
