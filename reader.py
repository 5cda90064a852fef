"""Lists and images: SOP lists, csv files and folders to ImageList, image files to arrays. Nothing else opens either.

python reader.py check data/emoji/emoji.csv
python reader.py check Ebay_train.txt Ebay_test.txt --data_dir=data/Stanford_Online_Products
python reader.py make photos --output=photos/list.csv --test_share=0.2
"""

if __name__ == "__main__":  # numpy and OpenCV bring OpenMP in some builds
    from core import openmp  # noqa: F401
import argparse
import os
import sys
from pathlib import Path

from core.errors import InputError
from core.numerals import read_float, read_int
from data.check import check_images, list_notes
from data.formats.folders import list_root, write_label_list
from data.formats.problems import NO_ROW
from data.image.decode import check_opencv
from data.image.files import read_bytes
from data.lists import read_list


def check(paths, data_dir):
    """Print what is in a list, or in a train and a test list, and all that is wrong; returns the number of faults."""
    check_opencv()
    is_table = len(paths) == 1 and paths[0].lower().endswith(".csv")
    paths = paths * 2 if is_table else paths
    splits = ("train", "test") if len(paths) == 2 else ("list",)
    found = {split: read_list(path, data_dir, split) for split, path in zip(splits, paths)}
    lists = {split: images for split, (images, _) in found.items() if images is not None}
    faults = list(dict.fromkeys(fault for _, told in found.values() for fault in told))  # a csv says some things twice
    of_rows = [fault for fault in faults if NO_ROW not in fault]
    if is_table and (lists or of_rows):
        faults = of_rows  # it may well hold one split alone
    told = faults + check_images(lists, read_bytes)
    for note in _all_notes(lists):
        print(f"note: {note}")
    print("".join(f"{fault}\n" for fault in told) + f"{len(told)} fault{'s' * (len(told) != 1)}")
    return len(told)


def _all_notes(lists):
    """The notes of one or two lists, {split: ImageList}, each once."""
    if len(lists) == 2:
        return list_notes(**lists)
    return [note for images in lists.values() for note in images.notes]


def make(flags):
    """Write the list of a folder per label and say what is in it and how it is used."""
    output, counts, note = write_label_list(
        flags.folder, flags.output, flags.test_share, flags.label_level, flags.seed, flags.overwrite
    )
    for line in [f"note: {note}"] if note else []:
        print(line)
    print(f"written: {output}, {counts['train']} images to train with, {counts['validation']} to test with")
    root = list_root(flags.folder, output)
    needs_root = root != Path(os.path.abspath(output)).parent
    test = f" --test_list={output}" if counts["validation"] else " --val_classes=..."
    print(f"python train_elem.py --train_list={output}{test}{f' --data_dir={flags.folder}' * needs_root}")


def _share(text):
    try:
        share = read_float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return share


def _level(text):
    try:
        level = read_int(text)
    except ValueError:
        level = 0
    if level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folders, 1 or more")
    return level


def main(argv):
    """The command line of this file; `check` ends with the status 1 where there are faults."""
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
    making.add_argument("--label_level", type=_level, default=1, help="2: FOLDER/CATEGORY/LABEL/image.jpg (default 1)")
    making.add_argument("--seed", type=read_int, default=0, help="of the choice of the labels to test on (default 0)")
    making.add_argument("--overwrite", action="store_true", help="replace a list that is there")
    flags = parser.parse_args(argv)
    try:
        if flags.task == "make":
            make(flags)
            return
        if len(flags.lists) > 2:
            parser.error(f"{len(flags.lists)} lists are given; one, or a train and a test list can be checked")
        sys.exit(1 if check(flags.lists, flags.data_dir) else 0)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
