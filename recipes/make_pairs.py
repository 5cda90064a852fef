"""A file of pairs that are the same or not, in folds of labels of their own, out of a labelled list.

python recipes/make_pairs.py --output=pairs.csv
python eval.py --pretrained_model=RUN --verification=True --pairs_file=pairs.csv
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.files import open_output  # noqa: E402
from core.types import positive, seed  # noqa: E402
from core.text import counted
from data.lists import find_list, open_list  # noqa: E402
from data.make_pairs import draw_pairs, write_pairs  # noqa: E402


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="PAIRS.csv", help="the file to write")
    parser.add_argument("--list", default="Ebay_test.txt", help="a list to test on (default: that of the emoji set)")
    parser.add_argument("--data_dir", help="folder that the list's paths start from")
    parser.add_argument("--folds", type=positive, default=10, help="default 10")
    parser.add_argument("--pairs", type=positive, default=300, help="of one label, and of two, a fold (default 300)")
    parser.add_argument("--seed", type=seed, default=0, help="of the drawing (default 0)")
    flags = parser.parse_args(argv)
    try:
        path = open_output(flags.output, ".csv")
        records = open_list(flags.list, flags.data_dir, "test")
        drawn = draw_pairs(records, flags.folds, flags.pairs, flags.seed)
        _, folder = find_list(flags.list, flags.data_dir)
        write_pairs(records, folder, drawn, path)
    except InputError as error:
        parser.error(str(error))
    print(
        f"written: {path}, {counted(len(drawn), 'pair', ',')} in {counted(flags.folds, 'fold')}, of "
        f"{counted(len(records.vocabulary), 'label')}"
    )


if __name__ == "__main__":
    run_script(main)
