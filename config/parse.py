"""A command line to sections of keywords: typed words win over a replayed file, the file over the defaults.

Nothing here loads torch: flags are read from the sources of the functions that take them (config/signatures.py).
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from config import replay
from config.commands import COMMANDS, Choice, Command, Section
from config.listing import ListAction, ListModelsAction
from config.pml import PML_DISTANCE, PML_MINER, flags_of_pml
from config.signatures import Flag, flags_of
from core.assignments import refuse_other_sections, split_line
from core.console import log
from core.errors import InputError, near_match
from core.lists import split_lists
from core.pml import PREFIX, loss_class
from core.recipe import Recipe
from core.sources import elsewhere, registered
from core.types import MANY, SWITCH, plain
from core.types import folder as folder_name

# Folders whose classes bring flags of their own.
CHOSEN_BY_NAME = (
    "losses",
    "solvers",
    "miners",
    "data/samplers",
    "models/pair_scorer",
    "retrieval/rerank",
    "retrieval/index/backends",
)


class Args:
    """The flags of a command line: args.model is {keyword: value} of the section "model", args["lr"] one value.

    values: of all flags, {name: value}, as config.json holds them. typed: names of the flags that the line or a
    replayed file gives, and that are no defaults, therefore. with_words: makes the flags of the same line with more
    words before it.
    """

    def __init__(
        self,
        values: dict[str, object],
        sections: dict[str, dict[str, object]],
        options: dict[str, dict],
        typed: frozenset[str],
        again: Callable[[Sequence[str]], "Args"],
    ):
        self.with_words = again
        self.values = values
        self.typed = typed
        self._sections = sections
        self._options = options

    def __getattr__(self, name: str) -> dict[str, object]:
        sections = self.__dict__.get("_sections", {})
        if name not in sections:
            raise AttributeError(f"no section {name!r}; there are: {', '.join(sections)}")
        return sections[name]

    def __getitem__(self, name: str) -> object:
        return self.values[name]

    def options(self, flag: str) -> dict[str, object]:
        """{option: value} of all that a flag such as loss_name or postprocess names."""
        return self._options[flag]


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are InputErrors."""

    def error(self, message: str) -> None:
        raise InputError(f"{message} (see --help)")


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows each default as one would type it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = getattr(action, "shown_default", None)
        if default is None:
            return action.help
        return f"{action.help} (default: {plain(default)})"


def parse(argv: Sequence[str], command: Command, doc: str, name: str | None = None) -> Args:
    """The flags of `argv` for `command`; `doc` is the script's docstring, `name` that of a sub-command.

    Raises InputError for a flag that is unknown, or a value that cannot be, with what is allowed and the near match.
    """
    own_flags = {section.name: list(_own_flags(section)) for section in command.sections}
    line, assignments = split_line(argv, {flag.name: flag.words for flags in own_flags.values() for flag in flags})
    recipe, of_run = _replayed(line)
    earlier = recipe.values
    option_flags = {}
    for choice in command.choices:
        entries = choice.registered()
        own_flags[choice.section] = [_with_own_names(flag, choice) for flag in own_flags[choice.section]]
        names = _chosen(line, recipe, own_flags, choice)
        option_flags[choice.flag] = {
            entry: flags_of(entries[entry].home) if entry in entries else _pml_flags(entry, line, earlier, own_flags)
            for entry in names
        }
    known = _by_name(own_flags, option_flags)
    for assignment in assignments:
        if assignment.flag not in known:
            raise InputError(_unknown_flag(assignment.word, assignment.flag, known, command))
    refuse_other_sections(assignments, _titles(command, own_flags, option_flags), recipe.sections)
    parser = _build_parser(command, own_flags, option_flags, doc, name)

    replayed_words = _words_of(recipe, known, command, own_flags)
    typed = _read(parser, replayed_words + line, known, command)
    values = {flag.name: typed.get(flag.name, flag.default) for flag in known.values()}
    if values.get("checkpoint"):
        # Of the run itself, whatever a --config says beside it.
        words_of_run = _words_of(of_run, known, command, own_flags)
        before = _read(parser, words_of_run, known, command)
        run = {flag.name: before.get(flag.name, flag.default) for flag in known.values()}
        on_the_line = _read(parser, line, known, command)
        places = {flag: place for flag, place in recipe.places.items() if flag not in on_the_line}
        replay.refuse_contradictions(values, run, values["allow_changed"], places)
    values.update(replay.taken_over(values, frozenset(typed)))

    sections = {section: {flag.argument: values[flag.name] for flag in flags} for section, flags in own_flags.items()}
    options = {
        flag: {option.argument: values[option.name] for own in entries.values() for option in own}
        for flag, entries in option_flags.items()
    }

    def again(words: Sequence[str]) -> Args:
        return parse([*words, *argv], command, doc, name)

    return Args(values, sections, options, frozenset(typed), again)


def _with_own_names(flag: Flag, choice: Choice) -> Flag:
    """The flag of a choice, whose help names what this command can choose: the losses of its own stage."""
    if flag.name != choice.flag:
        return flag
    everything = ", ".join(registered(choice.folder))
    return replace(flag, help=flag.help.replace(everything, ", ".join(choice.names())))


def _by_name(own_flags: dict[str, list[Flag]], option_flags: dict[str, dict[str, list[Flag]]]) -> dict[str, Flag]:
    """{name: Flag} of all. Two functions whose keywords have one name would be one flag: the program's error."""
    everything = [flag for flags in own_flags.values() for flag in flags]
    for entries in option_flags.values():
        everything += [flag for flags in entries.values() for flag in flags]
    known: dict[str, Flag] = {}
    for flag in everything:
        if flag.name in known:
            raise RuntimeError(f"--{flag.name} is a keyword of {known[flag.name].home} and of {flag.home}")
        known[flag.name] = flag
    return known


def _own_flags(section: Section) -> Iterator[Flag]:
    for home in section.homes:
        for flag in flags_of(home):
            if flag.name not in section.without:
                yield flag.with_default(section.defaults.get(flag.name, flag.default))


def _chosen(argv: Sequence[str], recipe: Recipe, own_flags: dict[str, list[Flag]], choice: Choice) -> tuple[str, ...]:
    """The names that a choice's flag has on the line, in the replayed file, or by default."""
    flag = next(flag for flags in own_flags.values() for flag in flags if flag.name == choice.flag)
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{choice.flag}")
    text = getattr(parser.parse_known_args(list(argv))[0], choice.flag)
    place = ""
    if text is None:
        default = recipe.values.get(choice.flag, flag.default)
        text = None if default is None else plain(default)
        if choice.flag in recipe.places:
            place = f"{recipe.places[choice.flag]}: "
    if text is None or (choice.or_none and text == "none"):
        return ()
    if isinstance(flag.default, tuple):
        try:
            return flag.read(text)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{place}argument --{choice.flag}: {error} (see --help)") from None
    if choice.or_pml and text.startswith(PREFIX):
        loss_class(text, choice.facts["stage"])
        return (text,)
    allowed = choice.names()
    if text not in allowed:
        raise InputError(place + _why_not(text, choice, allowed))
    return (text,)


def _titles(
    command: Command, own_flags: dict[str, list[Flag]], option_flags: dict[str, dict[str, list[Flag]]]
) -> dict[str, str]:
    """{flag: the title above it in --help}; an option of a loss and the like stands where it is named."""
    titles = {}
    for section in command.sections:
        titles |= {flag.name: section.title for flag in own_flags[section.name]}
        for choice in command.choices:
            if choice.section == section.name:
                for flags in option_flags[choice.flag].values():
                    titles |= {flag.name: section.title for flag in flags}
    return titles


def _pml_flags(
    loss_name: str, argv: Sequence[str], earlier: dict[str, object], own_flags: dict[str, list[Flag]]
) -> list[Flag]:
    """The flags of a loss pml:NAME, with a miner and a distance that stand on the line or in the replayed file."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in (PML_MINER, PML_DISTANCE):
        parser.add_argument(f"--{flag}", default=earlier.get(flag, "none"))
    typed = parser.parse_known_args(list(argv))[0]
    taken = {flag.name for flags in own_flags.values() for flag in flags}
    return flags_of_pml(loss_name, typed.pml_miner, typed.pml_distance, taken)


def _why_not(text: str, choice: Choice, allowed: tuple[str, ...]) -> str:
    found = choice.registered()
    if text in found:
        # It is there, but belongs elsewhere: a loss of the other stage.
        stage, other = choice.facts["stage"], found[text].facts["stage"]
        return f"{text} is a {choice.kind} of train_{other}.py; train_{stage}.py has {', '.join(allowed)}"
    hint = near_match(text, found) + elsewhere(text, choice.folder)
    return f"unknown {choice.kind} {text!r}; there are: {', '.join(found)}.{hint}"


def _build_parser(
    command: Command,
    own_flags: dict[str, list[Flag]],
    option_flags: dict[str, dict[str, list[Flag]]],
    doc: str,
    name: str | None,
) -> Parser:
    usage = f"%(prog)s {name} [--flag=value ...]" if name else "%(prog)s [--flag=value ...]"
    parser = Parser(description=doc, formatter_class=Help, usage=usage, allow_abbrev=False)
    if command.choices:
        parser.add_argument(
            "--list", action=ListAction, command=command, help="all losses and the like by name, and exit"
        )
    if any(flag.name == "model" for flags in own_flags.values() for flag in flags):
        parser.add_argument(
            "--list_models",
            action=ListModelsAction,
            metavar="WORD",
            help="backbones, with WORD in their name; and exit",
        )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for section in command.sections:
        # Several sections may stand under one title.
        if section.title not in groups:
            groups[section.title] = parser.add_argument_group(section.title, section.note or None)
        for flag in own_flags[section.name]:
            _add(groups[section.title], flag)
        for choice in command.choices:
            if choice.section == section.name:
                for entry, flags in option_flags[choice.flag].items():
                    group = parser.add_argument_group(f"{choice.kind}: {entry}") if flags else None
                    for flag in flags:
                        _add(group, flag)
    return parser


def _add(group: argparse._ArgumentGroup, flag: Flag) -> None:
    how = {"type": flag.read, "default": argparse.SUPPRESS, "help": flag.help.replace("%", "%%")}
    if flag.words == MANY:
        how["nargs"] = "+"
    elif flag.words == SWITCH:
        how |= {"nargs": "?", "const": True}
    action = group.add_argument(f"--{flag.name}", **how)
    action.shown_default = flag.default


def _replayed(argv: Sequence[str]) -> tuple[Recipe, Recipe]:
    """(the flags that `argv` replays, those of the run of its --checkpoint alone); those of a --config win."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--checkpoint")
    first = parser.parse_known_args(list(argv))[0]
    of_run = replay.replayed(first.checkpoint)
    given = replay.replayed(None, config=first.config)
    return replace(given, values={**of_run.values, **given.values}), of_run


def _words_of(recipe: Recipe, known: dict[str, Flag], command: Command, own_flags: dict[str, list[Flag]]) -> list[str]:
    """Replayed flags as one would type them, less those that this command has no use for.

    An option of another loss, or of a re-ranker that is not asked for, is left out, so that a run can be replayed with
    another one. A script that trains nothing replays a training run's flags as far as it has them. Of a .yaml, which
    somebody wrote, every flag is one of some script, and has a value that it can have. Raises InputError, by file:line,
    where not.
    """
    earlier = recipe.values
    # To know what other losses and the like have, their files are parsed, which most lines and recipes do without.
    owners: set[str] = set()
    if earlier.keys() - known.keys():
        owners = set(_owners())
    before = str(earlier.get("loss_name"))
    if before.startswith(PREFIX):
        owners |= {flag.name for flag in _pml_flags(before, (), earlier, own_flags)}
    words = []
    for name, value in earlier.items():
        place = recipe.places.get(name)
        # A section all of whose flags are comments, or one that is given a flag's value.
        is_section = name not in known and name not in owners and name in _titles_of_all_commands()
        if place is not None and is_section and name not in recipe.sections:
            if value is None:
                continue
            hint = near_match(f"--{name}", [f"--{other}" for other in known])
            raise InputError(f"{place}: {name} is a section, whose flags stand below it, not {value!r}.{hint}")
        is_other = name not in known and (name in owners or command.replays_others)
        if is_other and place is not None and name not in owners and name not in _flags_of_all_commands():
            names = known.keys() | owners | _flags_of_all_commands()
            hint = near_match(f"--{name}", [f"--{other}" for other in sorted(names)])
            raise InputError(f"{place}: unknown flag '--{name}'.{hint} (see --help)")
        # A switch of that name is another command's; a text, in a .yaml, is meant for this one.
        is_foreign = name in command.foreign and (place is None or isinstance(value, bool))
        if is_other or is_foreign:
            continue
        if place is not None:
            if name not in known:
                raise InputError(f"{place}: {_unknown_flag(f'--{name}', name, known, command)}")
            if value is None and known[name].default is None:
                continue
            _refuse_misfit(known[name], value, place)
        if command.replays_others and name == "test_list":
            value = _first_list(plain(value), earlier.get("data_dir"))
        if name in known and known[name].words == MANY and isinstance(value, (list, tuple)):
            words += [f"--{name}", *(str(element) for element in value)]
        else:
            words.append(f"--{name}={plain(value)}")
    return words


def _refuse_misfit(flag: Flag, value: object, place: str) -> None:
    """Raise InputError for a value of a .yaml that the flag cannot have."""
    if value is None:
        raise InputError(f"{place}: {flag.name} has no value; its default is {plain(flag.default)}")
    elements = [value]
    if isinstance(value, list) and flag.words == MANY:
        elements = value
    # What any text is good for, yaml's own words are not.
    if flag.read in (str, folder_name) and any(isinstance(element, (bool, list)) for element in elements):
        what = "one text, not a list" if isinstance(value, list) else f"a text; put {value} in quotes if it is one"
        raise InputError(f"{place}: {flag.name} takes {what}")
    for element in elements:
        try:
            flag.read(plain(element))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{place}: {flag.name}: {error}") from None


@functools.cache
def _flags_of_all_commands() -> frozenset[str]:
    """Names of what any script has."""
    commands = COMMANDS.values()
    return frozenset(flag.name for command in commands for section in command.sections for flag in _own_flags(section))


@functools.cache
def _titles_of_all_commands() -> frozenset[str]:
    """What sections are called in any script's --help."""
    return frozenset(section.title for command in COMMANDS.values() for section in command.sections)


def _first_list(text: str, data_dir: object) -> str:
    """Of the lists that a training run is tested on, the one that a script takes which tests on one."""
    lists = split_lists(text, data_dir)
    if len(lists) > 1:
        log(f"--test_list={lists[0]}, the first of {text}")
    return lists[0]


def _owners() -> dict[str, list[str]]:
    """{option: names of the classes that have it} over all that is chosen by name."""
    found: dict[str, list[str]] = {}
    for folder in CHOSEN_BY_NAME:
        for name, entry in registered(folder).items():
            for flag in flags_of(entry.home):
                found.setdefault(flag.name, []).append(name)
    return found


def _read(parser: Parser, words: list[str], known: dict[str, Flag], command: Command) -> dict[str, object]:
    """The flags that `words` give, {name: value}. Raises InputError for one that is unknown."""
    args, unknown = parser.parse_known_args(words)
    if unknown:
        raise InputError(_unknown_word(unknown[0], known, command))
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items() if name in known
    }


def _unknown_word(word: str, known: dict[str, Flag], command: Command) -> str:
    if not word.startswith("-"):
        return (
            f"{word!r} stands behind no flag that takes it; several values follow a flag with blanks, as in "
            "--input a.jpg b.jpg (see --help)"
        )
    return _unknown_flag(word, word.split("=")[0].removeprefix("--"), known, command)


def _unknown_flag(word: str, name: str, known: dict[str, Flag], command: Command) -> str:
    """Why there is no flag `name`, which stands in `word` as it was given."""
    owners = _owners().get(name)
    if name in command.moved:
        hint = f" That is {command.moved[name]} now."
    elif owners:
        hint = f" It is an option of {', '.join(owners)}."
    else:
        hint = near_match(f"--{name}", [f"--{other}" for other in known])
    return f"unknown flag {word!r}.{hint} (see --help)"
