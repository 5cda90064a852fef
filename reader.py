"""The one door to data: lists, folders and images are opened here, to train with, to test with and to embed.

python reader.py check data/emoji/emoji.csv
python reader.py check Ebay_train.txt Ebay_test.txt --data_dir=data/Stanford_Online_Products
python reader.py make photos --output=photos/list.csv --test_share=0.2
python reader.py doctor photos/list.csv --output_dir=output/doctor
python reader.py fix photos/list.csv --fixes=output/doctor/fixes.csv --output=photos/clean.csv
python reader.py convert cub downloads --download --output=downloads/cub.csv
python reader.py pack "shards/*.tar" --output=shards.columns
"""

if __name__ == "__main__":  # numpy and OpenCV bring OpenMP in some builds
    from core import openmp  # noqa: F401
import argparse
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config.script import run_script
from core.assignments import split_line
from core.console import log
from core.errors import InputError, near_match
from core.lists import list_titles, split_lists
from core.numerals import read_float, read_int
from core.recipe import Recipe, read_recipe, words_for
from core.text import counted, plural
from core.types import SWITCH, Count, Lists, Paths, positive
from data.benchmark_list import write_benchmark_list
from data.check import check_images
from data.convert import CONVERTERS
from data.fixes import BOX, LABEL, MOVED, REMOVE, mend_list
from data.formats.csv import NO_ROW, SPLITS
from data.hold_out import hold_out
from data.image.decode import check_opencv
from data.image.files import read_bytes
from data.inputs import open_inputs, open_texts
from data.lists import open_list, open_lists, read_list
from data.make_list import list_root, write_label_list
from data.notes import list_notes
from data.pack import pack_list
from data.pairs import as_pairs, as_questions
from data.records import Records
from data.soundness import refuse_broken_images
from data.stored import StoredRecords

__all__ = [
    "Records",
    "TrainingData",
    "open_inputs",
    "open_list",
    "open_lists",
    "open_records",
    "open_test",
    "open_training",
    "refuse_broken_images",
]

DONE = {
    REMOVE: ("row", "removed"),
    LABEL: ("label", "changed"),
    BOX: ("box", "changed"),
    MOVED: ("row", "moved to the split of its new label"),
}
ANCESTORS_BATCH = 256  # images in a training batch where the flag is left open


@dataclass(frozen=True)
class TrainingData:
    """What a run trains with and is tested on; tested_on: what `test` is, in words for the log and result.json.

    title: the file's name of the list `test`, "" of labels held out; more: {title: list} of further ones.
    """

    train: Records
    test: Records
    tested_on: str
    title: str = ""
    more: dict[str, Records] = field(default_factory=dict)


def open_training(
    of_pairs: bool = False,
    *,
    data_dir: str | None = None,
    train_list: str = "Ebay_train.txt",
    test_list: Lists = "Ebay_test.txt",
    val_classes: Count = 0,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> TrainingData:
    """Two lists, or of the train list some labels held out to test on.

    Every image that a run will look at is looked at before it begins.

    Options:
        data_dir: folder that the lists' paths start from (default: the embedded emoji set, else the list's own)
        train_list: SOP list, csv, folder per label, tar or parquet files, or a packed list of the training images
        test_list: SOP list, csv, folder per label, tar or parquet files, or a packed list of the test images; a
            training run may have several, comma-separated
        val_classes: hold out so many train labels and test on them instead
        on_bad_image: at one that cannot be read: stop, or skip it; in training another one takes its place

    of_pairs: whether rows of the train list are pairs of an image and a text; those to test on are texts that ask then,
    and images that are found. Raises InputError for what is wrong with the lists, and for images that cannot be read.
    """
    title = ""
    more: dict[str, Records] = {}
    if val_classes:
        train = open_list(train_list, data_dir, "train")
        if isinstance(train, StoredRecords):
            raise InputError(
                f"--val_classes takes rows out of a list, but {train.source} stays on the disk; give a --test_list, "
                "which may be some rows of such a list (LIST.columns#rows=0:10000)"
            )
        train, test = hold_out(train, val_classes)
        tested_on = f"{counted(val_classes, 'train label')} held out"
    else:
        lists = split_lists(test_list, data_dir)
        if len(set(lists)) < len(lists):
            raise InputError(f"--test_list={test_list} names a list twice")
        title, *titles = list_titles(lists)
        train, test, *others = open_lists([(train_list, "train"), *((path, "test") for path in lists)], data_dir)
        more = dict(zip(titles, others, strict=True))
        tested_on = f"the test list {title if more else Path(test.source).name}"
    if of_pairs:
        if isinstance(train, StoredRecords):
            raise InputError(f"pairs of images and texts are read from a list in memory; {train.source} is none")
        train, test = as_pairs(train), as_questions(test)
        more = {name: as_questions(records) for name, records in more.items()}
    # Only train images may be skipped: a test is on the same images for everyone.
    tested = [test, *more.values()]
    looked_at = tested if on_bad_image == "skip" else [train, *tested]
    refuse_broken_images(looked_at)
    return TrainingData(train, test, tested_on, title, more)


def open_records(
    data_dir: str | None, test_list: str | None, *, input: Paths | None = None, text: Paths | None = None
) -> Records:
    """What to embed: `input`, or `text`, else the test list; says what should be known of it.

    Options:
        input: a folder, files, or a list (left open, where there is a --test_list: that)
        text: texts, each in quotes

    Raises InputError for what does not exist, holds no image, or is wrong with a list.
    """
    if input and text:
        raise InputError("--input names files and --text brings texts; give one of them, or a csv with a column text")
    if text:
        records = open_texts(text)
    elif input:
        records = open_inputs(input, data_dir)
    else:
        records = open_test(data_dir=data_dir, test_list=test_list)
    for note in records.notes:
        log(f"note: {note}")
    return records


def open_test(*, data_dir: str | None, test_list: str) -> Records:
    """The list to test on; data_dir and test_list are the same flags as of `open_training`.

    Its images are not looked at: `refuse_broken_images` does so, once all lists of a script are open. Raises InputError
    for what is wrong with the list.
    """
    return open_list(test_list, data_dir, "test")


def check(paths: list[str], data_dir: str | None) -> int:
    """Print what is in a list, or in a train and a test list, and all that is wrong; returns the number of faults."""
    check_opencv()
    is_table = len(paths) == 1 and paths[0].lower().endswith(".csv")
    if is_table:
        # One csv may hold both splits.
        paths = paths * 2
    splits = ("train", "test") if len(paths) == 2 else ("list",)
    lists = {}
    # Keys of a dict: in order, and each once, since a csv says some things twice.
    faults = {}
    for split, path in zip(splits, paths):
        records, sentences = read_list(path, data_dir, split)
        if records is not None:
            lists[split] = records
        faults.update(dict.fromkeys(sentences))
    faults = list(faults)
    # A csv may well hold one split alone; that it holds neither is said where nothing else is wrong.
    other_faults = [fault for fault in faults if NO_ROW not in fault]
    if is_table and (lists or other_faults):
        faults = other_faults
    faults += check_images(lists, read_bytes)

    for note in _all_notes(lists):
        print(f"note: {note}")
    for fault in faults:
        print(fault)
    print(counted(len(faults), "fault"))
    return len(faults)


def _all_notes(lists: dict[str, Records]) -> list[str]:
    """The notes of one or two lists, by split."""
    if len(lists) == 2:
        return list_notes(lists["train"], lists["test"])
    return [note for records in lists.values() for note in records.notes]


def make(folder: str, output: str, test_share: float, label_level: int, seed: int, overwrite: bool) -> None:
    """Write the list of a folder per label and say what is in it and how it is used."""
    written, counts, note = write_label_list(folder, output, test_share, label_level, seed, overwrite)
    if note is not None:
        print(f"note: {note}")
    images = plural(counts["train"], "image")
    print(f"written: {written}, {counts['train']} {images} to train with, {counts['validation']} to test with")

    command = ["python", "train_elem.py", f"--train_list={written}"]
    if counts["validation"]:
        command.append(f"--test_list={written}")
    else:
        command.append("--val_classes=...")
    # The ancestor's batch is made for long lists.
    if counts["train"] < ANCESTORS_BATCH:
        command.append(f"--train_batch_size={max(2, counts['train'] // 4)}")
    # Where the paths of the list start from its own folder, nothing has to be said.
    if list_root(folder, written) != Path(os.path.abspath(written)).parent:
        command.append(f"--data_dir={folder}")
    print(shlex.join(command))


def fix(list_file: str, data_dir: str | None, fixes: str, output: str, split: str, overwrite: bool) -> None:
    """Write the list that the actions in a fixes.csv make of another one, and say what was done and how it is used."""
    raw, counts = mend_list(list_file, data_dir, fixes, output, split, overwrite)
    clauses = []
    for action, count in sorted(counts.items()):
        noun, verb = DONE[action]
        clauses.append(f"{counted(count, noun)} {verb}")
    done = ", ".join(clauses)
    print(f"written: {output}; {done or 'nothing was to be done'}")
    # A list that stands elsewhere than the old one still has its paths.
    if os.path.abspath(Path(output).parent) != os.path.abspath(raw.folder):
        print(f"its paths start from --data_dir={raw.folder}")


def convert(**flags: object) -> None:
    """Write the list of a benchmark and say what is in it and how it is used."""
    done = write_benchmark_list(**flags)
    published = "the published set"
    if flags["partial"]:
        published = "not checked to be the published set"
    train, test = done.counts.train, done.counts.test
    line = (
        f"{counted(train[0], 'image', ',')} of {counted(train[1], 'label', ',')} to train with, {test[0]:,} of "
        f"{test[1]:,} to test with"
    )
    if done.counts.queries != test[0]:
        line += f" ({counted(done.counts.queries, 'query', ',')}, {done.counts.gallery:,} in the gallery)"
    print(f"written: {done.file}, {done.facts.title}, {published}: {line}")
    if done.names is not None:
        print(f"written: {done.names}, what its labels are called")
    if done.dropped:
        images = "image to train with is" if done.dropped == 1 else "images to train with are"
        print(f"note: {done.dropped} {images} the only one of their label, and left out")
    _print_training(done.file, str(done.file), done.root)


def pack(list_file: str, data_dir: str | None, output: str, overwrite: bool) -> None:
    """Write a list as columns that stay on the disk, and say what is in it and how it is used."""
    done = pack_list(list_file, output, data_dir, overwrite)
    parts = [
        f"{rows:,} {plural(rows, 'row')} of {labels:,} {plural(labels, 'label')} ({name})"
        for name, (rows, labels) in done.parts.items()
    ]
    print(f"written: {done.file}, {', '.join(parts)}, {counted(done.size, 'byte', ',')}")
    # A list without splits is to train with, or to test with.
    test_list = str(done.file) if len(done.parts) > 1 else "..."
    _print_training(done.file, test_list, done.root)


def _print_training(file: Path, test_list: str, root: Path) -> None:
    """The command that trains with a list; root: the folder that its paths start from."""
    command = ["python", "train_elem.py", f"--train_list={file}", f"--test_list={test_list}"]
    # Where they start from its own folder, nothing has to be said.
    if root != Path(os.path.abspath(file)).parent:
        command.append(f"--data_dir={root}")
    print(shlex.join(command))


def _share(text: str) -> float:
    """A number from 0 to below 1, as a flag's text."""
    try:
        share = read_float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return share


# What writes a list.
WRITERS = {"make": make, "fix": fix, "convert": convert, "pack": pack}


def _new_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The flags of all sub-commands, and {sub-command: its flags}; those of `doctor` are its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)

    checking = tasks.add_parser("check", help="read lists and all their images, and tell what is wrong")
    checking.add_argument(
        "lists", nargs="+", metavar="LIST", help="a csv, an SOP list or a folder per label; or a train and a test list"
    )
    checking.add_argument(
        "--data_dir", help="folder that the lists' paths start from (default: the embedded emoji set, else the list's)"
    )

    making = tasks.add_parser("make", help="write a csv list of a folder that has a folder per label")
    making.add_argument("folder", metavar="FOLDER", help="searched throughout; FOLDER/LABEL/image.jpg, or deeper")
    making.add_argument("--output", required=True, metavar="LIST.csv", help="the list to write")
    making.add_argument(
        "--test_share", type=_share, default=0.0, help="share of the labels to test on and not to train on (default 0)"
    )
    making.add_argument(
        "--label_level", type=positive, default=1, help="2: FOLDER/CATEGORY/LABEL/image.jpg (default 1)"
    )
    making.add_argument("--seed", type=read_int, default=0, help="of the choice of the labels to test on (default 0)")
    making.add_argument("--overwrite", action="store_true", help="replace a list that is there")

    converting = tasks.add_parser("convert", help="write the csv list of a benchmark, as its makers hand it out")
    converting.add_argument("name", metavar="NAME", help=f"one of {', '.join(CONVERTERS)}")
    converting.add_argument(
        "source", metavar="ARCHIVE", help="an archive, or the folder that archives, or what they hold, are in"
    )
    converting.add_argument("--output", required=True, metavar="LIST.csv", help="the list to write")
    converting.add_argument("--protocol", help="which images to train with (docs/datasets.md): standard (default), oml")
    converting.add_argument("--boxes", action="store_true", help="cut images to their boxes")
    converting.add_argument(
        "--download", action="store_true", help="fetch archives that are not there, into the folder ARCHIVE"
    )
    converting.add_argument(
        "--partial", action="store_true", help="take what is not the published set: no count or checksum is looked at"
    )
    converting.add_argument("--overwrite", action="store_true", help="replace a list that is there")

    packing = tasks.add_parser("pack", help="write a list of any length as columns that stay on the disk")
    packing.add_argument("list_file", metavar="LIST", help="a csv, an SOP list, or tar or parquet files")
    packing.add_argument("--output", required=True, metavar="LIST.columns", help="the list to write")
    packing.add_argument("--data_dir", help="as for check")
    packing.add_argument("--overwrite", action="store_true", help="replace a list that is there")

    help_text = "copies, wrong labels and boxes, outliers, leaks: a csv to edit and a page (doctor --help)"
    examining = tasks.add_parser("doctor", help=help_text)
    examining.add_argument("words", nargs=argparse.REMAINDER)

    fixing = tasks.add_parser("fix", help="write the list that the actions in a doctor's fixes.csv make of another")
    fixing.add_argument("list_file", metavar="LIST", help="the list that was examined")
    fixing.add_argument(
        "--fixes", required=True, metavar="FIXES.csv", help="of the doctor, its actions as you want them"
    )
    fixing.add_argument("--output", required=True, metavar="LIST", help="the list to write, of the same kind")
    fixing.add_argument("--data_dir", help="as for check")
    fixing.add_argument(
        "--split", choices=tuple(SPLITS.values()), default="train", help="of the rows of a folder (default train)"
    )
    fixing.add_argument("--overwrite", action="store_true", help="replace a list that is there")
    for task in (checking, making, converting, packing, fixing):
        task.add_argument("--config", metavar="FILE.yaml", help="flags of a .yaml; those on the line win")
    return parser, tasks.choices


def _with_recipe(argv: list[str], tasks: dict[str, argparse.ArgumentParser]) -> list[str]:
    """The line with `flag=value` as flags, and with those of its --config in front of what is typed.

    Raises InputError as `words_for`.
    """
    if not argv or argv[0] not in tasks:
        return argv
    flags = {}
    for action in tasks[argv[0]]._actions:
        for option in action.option_strings:
            flags[option.removeprefix("--")] = SWITCH if action.nargs == 0 else None
    line, assignments = split_line(argv[1:], flags)
    for word in argv[1:]:
        name = word.removeprefix("--").partition("=")[0]
        # The beginning of a flag stands for the flag.
        if word.startswith("--") and not any(flag.startswith(name) for flag in flags):
            raise InputError(f"unknown flag {word!r}.{near_match(name, flags)}")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    config = finder.parse_known_args(line)[0].config
    recipe = Recipe({}) if config is None else read_recipe(config)
    for assignment in assignments:
        if assignment.flag not in flags:
            raise InputError(f"unknown flag {assignment.word!r}.{near_match(assignment.flag, flags)}")
        if assignment.section not in (None, recipe.sections.get(assignment.flag)):
            raise InputError(f"{assignment.word!r}: {assignment.flag} stands in no section {assignment.section}")
        if flags[assignment.flag] == SWITCH:
            raise InputError(f"{assignment.word!r}: --{assignment.flag} takes no value; leave it out, or give it alone")
    return [argv[0], *words_for(tasks[argv[0]], recipe), *line]


def main(argv: list[str]) -> None:
    """The command line of this file; `check` ends with the status 1 where there are faults."""
    if argv[:1] == ["doctor"]:
        # A script of its own, with a network's flags: it stands above this file, which scripts import.
        os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("doctor.py")), *argv[1:]])
    parser, tasks = _new_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in tasks:
        parser.error(f"the command is {argv[0]!r}; it is one of {', '.join(tasks)}.{near_match(argv[0], tasks)}")
    try:
        flags = vars(parser.parse_args(_with_recipe(argv, tasks)))
        task = flags.pop("task")
        flags.pop("config", None)
        if task in WRITERS:
            WRITERS[task](**flags)
            return
        lists = flags["lists"]
        if len(lists) > 2:
            parser.error(f"{counted(len(lists), 'list')} are given; one, or a train and a test list can be checked")
        sys.exit(1 if check(lists, flags["data_dir"]) else 0)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    run_script(main)
