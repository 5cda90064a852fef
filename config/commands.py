"""What each script can be asked for: sections of flags, each the keywords of the functions that read them.

A default that differs from the function's own, or that it leaves to the stage, stands here.
"""

from dataclasses import dataclass, field

from core.sources import Registered, registered


@dataclass(frozen=True)
class Section:
    """Flags under one title of the help text.

    homes: functions and classes whose keywords they are. defaults: of this script. without: keywords that it has no use
    for. note: a sentence below the title.
    """

    name: str
    title: str
    homes: tuple[str, ...]
    defaults: dict[str, object] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """A flag that names what brings further flags: those of the named classes of `folder`, of the given facts.

    more: another folder whose classes it may name. kind: the word of messages, such as "loss"; section: where the flag
    stands. or_none: whether `none` names nothing. or_pml: whether pml:NAME names a class of pytorch-metric-learning.
    """

    flag: str
    kind: str
    section: str
    folder: str
    facts: dict[str, object] = field(default_factory=dict)
    more: str | None = None
    or_none: bool = False
    or_pml: bool = False

    def registered(self) -> dict[str, Registered]:
        """{name: Registered} of all that the folders have, whatever their facts."""
        found = dict(registered(self.folder))
        if self.more is not None:
            found |= registered(self.more)
        return found

    def names(self) -> tuple[str, ...]:
        """Those of them that the flag can name: the ones of its facts."""
        found = self.registered()
        return tuple(name for name, entry in found.items() if self.facts.items() <= entry.facts.items())


@dataclass(frozen=True)
class Command:
    """One script, or one of its sub-commands.

    replays_others: whether it replays the config.json of a training run, as far as it has its flags. foreign: flags of
    its own that mean something else there. moved: {flag that it had once: the command that does so now}.
    """

    sections: tuple[Section, ...]
    choices: tuple[Choice, ...] = ()
    replays_others: bool = False
    foreign: tuple[str, ...] = ()
    moved: dict[str, str] = field(default_factory=dict)


OPEN = "what is left open comes from the --pretrained_model run, if it is one"
MODEL = Section("model", "model", ("models.build:ModelSettings",), note=OPEN)
LISTS = Section(
    "data",
    "data",
    ("reader:open_training",),
    without=("train_list", "val_classes", "on_bad_image"),
    note="where folder and lists are left open, they are those of the --pretrained_model run, if it is one",
)
# Only what loads without changing images: nothing is augmented that is not trained on.
WORKERS = Section(
    "loading",
    "data",
    ("data.loader:open_train_loader",),
    without=("augment", "crop_scale", "decode", "cache_bytes", "cache_kind", "augment_sounds"),
)
UNREADABLE = Section(
    "unreadable", "data", ("reader:open_training",), without=("data_dir", "train_list", "test_list", "val_classes")
)
SKIPPED = Section(
    "unreadable",
    "data",
    ("reader:open_training",),
    {"on_bad_image": "skip"},
    without=("data_dir", "train_list", "test_list", "val_classes"),
)
FAITHFUL = Section("device", "device", ("core.device:open_device",), {"precision": "fp32"})
REPLAY = Section("replay", "config", ("config.replay:replayed",), without=("allow_changed",))


def _training(
    stage: str,
    defaults: dict[str, object],
    without: tuple[str, ...],
    own_sections: tuple[Section, ...] = (),
    own_choices: tuple[Choice, ...] = (),
) -> Command:
    """The flags of a training script; the stages differ in some defaults, and in flags that only one has a use for.

    own_sections, own_choices: those that the other stage has not.
    """

    def section(name: str, title: str, *homes: str) -> Section:
        return Section(name, title, homes, defaults, without)

    return Command(
        sections=(
            section("loss", "loss", "engine.objective:build_loss"),
            *own_sections,
            section("sampler", "batches", "data.samplers:build_sampler"),
            MODEL,
            section("build", "model", "models.build:build_model"),
            Section("data", "data", ("reader:open_training",), note=LISTS.note),
            section("loading", "data", "data.loader:open_train_loader"),
            section("features", "data", "embeddings.features:open_features"),
            section("first_layer", "model", "engine.solved_layer:first_solver"),
            section("optimiser", "optimisation", "engine.optimiser:build_optimiser"),
            section("schedule", "optimisation", "engine.schedule:Schedule"),
            section("first_steps", "optimisation", "engine.freezing:build_first_steps"),
            section("averaging", "optimisation", "engine.averaging:build_averaging"),
            Section("device", "device", ("core.device:open_device",), {"precision": "auto"}, ("runtime",)),
            section("run", "run", "engine.run:open_run"),
            section("trainer", "run", "engine.trainer:TrainerSettings"),
            section("testing", "run", "engine.tested_lists:open_tester"),
            section("replay", "config", "config.replay:replayed"),
            section("ancestor", "the ancestor's", "config.ancestor:print_kpis"),
        ),
        choices=(
            Choice("loss_name", "loss", "loss", "losses", {"stage": stage}, more="solvers", or_pml=True),
            Choice("sampler", "sampler", "sampler", "data/samplers"),
            Choice("loggers", "logger", "run", "engine/loggers"),
            *own_choices,
        ),
    )


TRAIN_ELEM = _training(
    "elem",
    defaults={
        "loss_name": "softmax",
        "train_batch_size": 256,
        "lr": 0.01,
        "lr_steps": (15000, 25000),
        "total_iter_num": 30000,
        "test_iter_step": 1000,
        "save_iter_step": 1000,
    },
    without=("test_loss",),
    own_sections=(Section("class_vectors", "loss", ("engine.class_vectors:fix_class_vectors",)),),
)
TRAIN_PAIR = _training(
    "pair",
    defaults={
        "loss_name": "triplet",
        "train_batch_size": 120,
        "lr": 0.0001,
        "lr_steps": (100000,),
        "total_iter_num": 100000,
        "test_iter_step": 5000,
        "save_iter_step": 5000,
    },
    without=("class_dim", "shard_classes"),
    own_sections=(
        Section("mining", "loss", ("engine.mining:build_miner",)),
        Section("towers", "model", ("models.two_towers:settings_to_train",)),
        Section("kept", "loss", ("engine.kept_classes:with_kept_classes",)),
        Section("feedback", "data", ("embeddings.feedback:open_feedback",)),
        Section("memory", "what a batch is compared with", ("engine.memory:build_memory",)),
        Section("lookalikes", "what a batch is compared with", ("engine.lookalikes:build_lookalikes",)),
    ),
    own_choices=(Choice("miner", "miner", "mining", "miners", or_none=True),),
)
# As of the other training scripts, less what has no use where pairs are compared and no embedding is made.
TRAIN_RERANKER = Command(
    sections=(
        Section("scorer", "pair scorer", ("models.pair_scorer.build:build_pair_scorer",)),
        Section("loss", "loss", ("engine.pair_loss:build_pair_loss",)),
        Section("retrieval", "pairs", ("engine.retrieval_run:open_retrieval_run",)),
        Section("mining", "pairs", ("miners.pairs:PairsMiner",)),
        Section("sampler", "batches", ("data.samplers:build_sampler",), {"train_batch_size": 64}),
        MODEL,
        Section("build", "model", ("models.build:build_model",)),
        Section("data", "data", ("reader:open_training",), note=LISTS.note),
        Section("loading", "data", ("data.loader:open_train_loader",)),
        Section("optimiser", "optimisation", ("engine.optimiser:build_optimiser",), {"lr": 0.0001}, ("class_lr",)),
        Section(
            "schedule",
            "optimisation",
            ("engine.schedule:Schedule",),
            {"lr_steps": (8000,), "total_iter_num": 10000},
        ),
        Section("first_steps", "optimisation", ("engine.freezing:build_first_steps",)),
        Section("averaging", "optimisation", ("engine.averaging:build_averaging",), without=("interpolate",)),
        Section("device", "device", ("core.device:open_device",), {"precision": "auto"}, ("runtime",)),
        Section("run", "run", ("engine.run:open_run",)),
        Section(
            "trainer",
            "run",
            ("engine.trainer:TrainerSettings",),
            {"test_iter_step": 1000, "save_iter_step": 1000},
            ("report",),
        ),
        Section("testing", "run", ("engine.tested_lists:open_tester",), without=("test_loss",)),
        Section("reranking", "run", ("engine.rerank_testing:open_rerank_tester",)),
        Section("replay", "config", ("config.replay:replayed",)),
    ),
    choices=(
        Choice("scorer", "pair scorer", "scorer", "models/pair_scorer"),
        Choice("sampler", "sampler", "sampler", "data/samplers"),
        Choice("loggers", "logger", "run", "engine/loggers"),
    ),
)
EVAL = Command(
    sections=(
        MODEL,
        LISTS,
        WORKERS,
        Section("source", "data", ("embeddings.source:open_sources",)),
        Section("encoder", "data", ("embeddings.encoder:open_encoder",), {"batch_size": 50}),
        Section("embedding", "data", ("embeddings.embed:embed_list",)),
        FAITHFUL,
        Section("figures", "figures (docs/metrics.md)", ("retrieval.metrics.evaluation:evaluate",)),
        Section("verification", "same or not (docs/verification.md)", ("embeddings.verification:open_verification",)),
        Section(
            "held_out",
            "same or not (docs/verification.md)",
            LISTS.homes,
            without=("data_dir", "test_list", "on_bad_image"),
        ),
        Section("protocol", "figures (docs/metrics.md)", ("care.protocol:open_linter",)),
        Section("outputs", "results", ("report.outputs:EvalOutputs",)),
        REPLAY,
    ),
    choices=(Choice("postprocess", "post-processor", "figures", "retrieval/rerank"),),
    replays_others=True,
    # A training run's --report is a switch, that of an evaluation a file.
    foreign=("report",),
)
INFER = Command(
    sections=(
        MODEL,
        LISTS,
        Section("input", "data", ("reader:open_records",)),
        WORKERS,
        UNREADABLE,
        Section("encoder", "data", ("embeddings.encoder:open_encoder",), {"batch_size": 1}),
        FAITHFUL,
        Section("shards", "data", ("data.shards:find_shards",)),
        Section("ray", "data", ("embeddings.ray_shards:embed_by_ray",)),
        Section("outputs", "results", ("embeddings.streaming:open_kept_files",)),
        Section("classifier", "results", ("embeddings.classifier:open_classifier",)),
        Section("export", "export", ("embeddings.export:open_export",)),
        REPLAY,
    ),
    replays_others=True,
    moved={
        "build_index": "python search.py build INDEX",
        "add_to": "python search.py add INDEX",
        "search": "python search.py find INDEX",
        "delete_from": "python search.py delete INDEX",
    },
)


OF_INDEX = Section("model", "model", MODEL.homes, note="what is left open is the index's own")


def _search(
    model: Section,
    lists: Section,
    *sections: Section,
    choices: tuple[Choice, ...] = (),
    unreadable: Section = UNREADABLE,
    batch_size: int = 1,
) -> Command:
    """A sub-command of search.py that embeds images. batch_size: the default of that flag."""
    return Command(
        sections=(
            model,
            lists,
            Section("input", "data", ("reader:open_records",)),
            WORKERS,
            unreadable,
            Section("encoder", "data", ("embeddings.encoder:open_encoder",), {"batch_size": batch_size}),
            FAITHFUL,
            *sections,
            REPLAY,
        ),
        choices=choices,
        replays_others=True,
    )


READY = Section("ready", "data", ("embeddings.ready:find_ready",))
KEPT = Section("outputs", "results", ("embeddings.streaming:open_kept_files",))
FOLDER = Section("data", "data", LISTS.homes, without=(*LISTS.without, "test_list"))
BUILD = _search(
    MODEL,
    LISTS,
    Section("collection", "index", ("embeddings.collection:open_collection",)),
    READY,
    Section("index", "index", ("embeddings.index:build_index",)),
    KEPT,
    unreadable=SKIPPED,
    batch_size=32,
    choices=(Choice("backend", "backend", "index", "retrieval/index/backends"),),
)
ADD = _search(OF_INDEX, FOLDER, READY, KEPT)
FIND = _search(
    OF_INDEX,
    FOLDER,
    Section("asked", "data", ("embeddings.queries:open_queries",)),
    Section("index", "index", ("embeddings.answers:find_answers",)),
    Section("outputs", "results", ("report.hits:open_answer_files",)),
)
DECIDE = _search(OF_INDEX, FOLDER, Section("decision", "same or not", ("embeddings.decide:decide_index",)))
# Of commands that embed what an index holds, or is to hold.
EMBEDS = (
    WORKERS,
    SKIPPED,
    Section("encoder", "data", ("embeddings.encoder:open_encoder",), {"batch_size": 32}),
    FAITHFUL,
    REPLAY,
)
SYNC = Command(
    sections=(
        Section("sync", "index", ("embeddings.sync:SyncSettings",)),
        Section("collection", "index", ("embeddings.collection:open_collection",)),
        OF_INDEX,
        *EMBEDS,
    ),
    replays_others=True,
)
UPGRADE = Command(
    sections=(
        Section("upgrade", "index", ("embeddings.upgrade:UpgradeSettings",)),
        Section("model", "model", MODEL.homes, note="the new one; left open, where an upgrade goes on, the index's"),
        *EMBEDS,
    ),
    replays_others=True,
)
DELETE = Command(
    sections=(FOLDER, Section("items", "data", ("embeddings.index:delete_from_index",)), REPLAY), replays_others=True
)
DOCTOR = Command(
    sections=(
        Section("model", "model", MODEL.homes, note="left open: the best network whose weights are here"),
        FOLDER,
        Section("doctor", "data", ("care.patient:open_patient",)),
        WORKERS,
        Section("encoder", "data", ("embeddings.encoder:open_encoder",), {"batch_size": 50}),
        Section("embedding", "data", ("embeddings.embed:embed_list",), without=("shard_gallery",)),
        FAITHFUL,
        Section("outputs", "results", ("report.doctor:DoctorOutputs",)),
        REPLAY,
    ),
    replays_others=True,
)
SERVE = Command(
    sections=(OF_INDEX, FAITHFUL, Section("serving", "server", ("serving.settings:ServeSettings",)), REPLAY),
    replays_others=True,
)
COMMANDS = {
    "train_elem": TRAIN_ELEM,
    "train_pair": TRAIN_PAIR,
    "train_reranker": TRAIN_RERANKER,
    "eval": EVAL,
    "infer": INFER,
    "search build": BUILD,
    "search add": ADD,
    "search delete": DELETE,
    "search find": FIND,
    "search decide": DECIDE,
    "doctor": DOCTOR,
    "search sync": SYNC,
    "search upgrade": UPGRADE,
    "search serve": SERVE,
}
