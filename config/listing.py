"""What `--list` prints: everything that the choices of a script can name, each with a line on what it is."""

import argparse
from collections.abc import Sequence

from config.commands import Choice, Command
from core.sources import summary_of


class ListAction(argparse.Action):
    """Prints all that `command` can choose by name, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, command: Command, **settings: object):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **settings)
        self.command = command

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(listing(self.command)).rstrip())
        parser.exit()


def listing(command: Command) -> list[str]:
    """Lines of text: a paragraph for each choice, a line for each name."""
    lines = []
    for choice in command.choices:
        lines += [f"{_title(choice)}:", *_names_with_summaries(choice), ""]
    return lines


def _title(choice: Choice) -> str:
    count = len(choice.names())
    return f"{count} values of --{choice.flag}, each a {choice.kind}"


def _names_with_summaries(choice: Choice) -> list[str]:
    found = choice.registered()
    names = choice.names()
    width = max(len(name) for name in names)
    return [f"  {name:{width}}  {summary_of(found[name].home)}" for name in names]
