"""What each script can be asked for: sections of flags, each the keywords of the functions that read them.

A default that differs from the function's own, or that it leaves to the stage, stands here.
"""

from dataclasses import dataclass, field


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

    kind: the word of messages, such as "loss"; section: where the flag stands.
    """

    flag: str
    kind: str
    section: str
    folder: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """One script, or one of its sub-commands.

    replays_others: whether it replays the config.json of a training run, as far as it has its flags. foreign: flags of
    its own that mean something else there.
    """

    sections: tuple[Section, ...]
    choices: tuple[Choice, ...] = ()
    replays_others: bool = False
    foreign: tuple[str, ...] = ()


MODEL = Section(
    "model",
    "model",
    ("models.build:ModelSettings",),
    note="what is left open comes from the --pretrained_model run, if it is one",
)
TRAIN_MODEL = Section("build", "model", ("models.build:build_model",))
DATA_NOTE = "where folder and lists are left open, they are those of the --pretrained_model run, if it is one"
TRAIN_DATA = Section("data", "data", ("reader:open_training",), note=DATA_NOTE)
LOADING = Section("loading", "data", ("data.loader:open_train_loader",))
SCHEDULE_NOTE = ""


def _training(stage: str, loss: str, defaults: dict[str, object], without: tuple[str, ...]) -> Command:
    """The flags of a training script; the stages differ in some defaults, and in flags that only one has a use for."""

    def section(name: str, title: str, *homes: str) -> Section:
        return Section(name, title, homes, defaults, without)

    return Command(
        sections=(
            Section("loss", "loss", ("losses:build_loss",), {"loss_name": loss, **defaults}, without),
            section("sampler", "batches", "data.samplers:build_sampler"),
            MODEL,
            TRAIN_MODEL,
            TRAIN_DATA,
            LOADING,
            section("optimiser", "optimisation", "engine.optimiser:build_optimiser"),
            section("schedule", "optimisation", "engine.schedule:Schedule"),
            section("device", "device", "core.device:open_device"),
            section("run", "run", "engine.run:open_run"),
            section("trainer", "run", "engine.trainer:TrainerSettings"),
            section("replay", "run", "config.replay:replayed", "config.ancestor:print_kpis"),
        ),
        choices=(Choice("loss_name", "loss", "loss", "losses", {"stage": stage}),),
    )
