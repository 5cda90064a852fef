"""What `--list` and `--list_models` print: what can be named on a script's line, each with what it is."""

import argparse
from collections.abc import Sequence

from config.commands import Choice, Command
from core.console import log
from core.errors import InputError, near_match
from core.sources import registered, summary_of
from core.text import counted

BACKBONES = "models/backbones"
# Prefixes of sources, whose names a package knows: {prefix: what stands behind it}.
SOURCES = {
    "timm:": "timm:NAME, any model of timm: --list_models=timm:WORD prints those with a word in their name",
    "clip:": "clip:NAME/WEIGHTS, any network of open_clip: --list_models=clip:WORD prints those with a word in it",
    "clip_text:": "clip_text:NAME/WEIGHTS, the network for texts that belongs to one of clip:",
    "hf:": "hf:NAME of HuggingFace's hub, or hf:FOLDER that transformers wrote",
    "hf_text:": "hf_text:NAME, the network for texts of one of hf: that has two, such as CLIP or SigLIP",
}
COLUMNS = ("name", "takes", "width", "size", "parameters", "licence", "weights")


class ListAction(argparse.Action):
    """Prints all that `command` can choose by name, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, command: Command, **settings: object):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **settings)
        self.command = command

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(listing(self.command)).rstrip())
        parser.exit()


class ListModelsAction(argparse.Action):
    """Prints the backbones that --model can name, or those with a word in their name, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: object):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, _: object, word: str | None, *__: object) -> None:
        try:
            print("\n".join(models_listing(word)).rstrip())
        except InputError as error:
            parser.error(str(error))
        parser.exit()


def listing(command: Command) -> list[str]:
    """Lines of text: a paragraph for each choice, a line for each name."""
    lines = []
    for choice in command.choices:
        lines += [f"{_title(choice)}:", *_names_with_summaries(choice), ""]
    return lines


def models_listing(word: str | None = None) -> list[str]:
    """Lines of a table of backbones: ours, and where there is a word those of packages that have it in their name.

    Without a word nothing of a package is imported. Raises InputError where no name has the word.
    """
    word = (word or "").lower()
    rows = registered(BACKBONES)
    shown = [_cells(name, entry.facts) for name, entry in rows.items() if word in name.lower()]
    notes = list(SOURCES.values())
    if word:
        shown += [_cells(name, facts) for name, facts in _of_packages(word)]
        notes = []
    if not shown:
        raise InputError(f"no model has {word!r} in its name.{near_match(word, rows)}")
    return [*_table(shown), "", *_counts(shown), *notes]


def _cells(name: str, facts: dict[str, object]) -> tuple[str, ...]:
    parameters = facts.get("parameters")
    return (
        name,
        str(facts.get("modality", "image")),
        str(facts.get("width", "")),
        str(facts.get("size", "")),
        f"{parameters / 1e6:.1f} M" if parameters else "",
        str(facts.get("licence", "")),
        str(facts.get("origin", "")),
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns below each other, numbers to the right."""
    rows = [COLUMNS, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = []
        for title, width, text in zip(COLUMNS, widths, row, strict=True):
            is_number = title in ("width", "size", "parameters")
            cells.append(text.rjust(width) if is_number else text.ljust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


def _counts(rows: list[tuple[str, ...]]) -> list[str]:
    """How many of the rows each source has."""
    files = {name: entry.home.split(":")[0].rpartition(".")[2] for name, entry in registered(BACKBONES).items()}
    counts: dict[str, int] = {}
    for name, *_ in rows:
        source = files.get(name, name.partition(":")[0])
        counts[source] = counts.get(source, 0) + 1
    by_source = ", ".join(f"{count} of {source}" for source, count in counts.items())
    return [f"{counted(len(rows), 'model')}: {by_source}"]


def _of_packages(word: str) -> list[tuple[str, dict[str, object]]]:
    """(name, facts) of the models of timm and open_clip that have the word; one that is not installed has none."""
    found = []
    source, colon, rest = word.partition(":")
    for prefix, read in (("timm:", _of_timm), ("clip:", _of_open_clip)):
        if colon and f"{source}:" != prefix:
            continue
        try:
            found += read(rest if colon else word)
        except ImportError as error:
            log(f"note: {prefix}NAME needs the package {error.name}: pip install -r requirements/models.txt")
    return found


def _of_timm(word: str) -> list[tuple[str, dict[str, object]]]:
    import timm

    found = []
    for name in timm.list_pretrained():
        if word not in name.lower():
            continue
        cfg = timm.get_pretrained_cfg(name)
        origin = f"hub {cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
        found.append((f"timm:{name}", {"size": cfg.input_size[-1], "licence": cfg.license or "", "origin": origin}))
    return found


def _of_open_clip(word: str) -> list[tuple[str, dict[str, object]]]:
    import open_clip

    found = []
    for architecture, weights in open_clip.list_pretrained():
        name = f"{architecture}/{weights}"
        if word not in name.lower():
            continue
        config = open_clip.get_model_config(architecture)
        cfg = open_clip.get_pretrained_cfg(architecture, weights)
        origin = f"hub {cfg['hf_hub'].rstrip('/')}" if cfg.get("hf_hub") else cfg.get("url", "")
        facts = {"width": config["embed_dim"], "size": config["vision_cfg"].get("image_size", ""), "origin": origin}
        found.append((f"clip:{name}", facts))
    return found


def _title(choice: Choice) -> str:
    count = len(choice.names())
    return f"{counted(count, 'value')} of --{choice.flag}, each a {choice.kind}"


def _names_with_summaries(choice: Choice) -> list[str]:
    found = choice.registered()
    names = choice.names()
    width = max(len(name) for name in names)
    return [f"  {name:{width}}  {summary_of(found[name].home)}" for name in names]
