"""Write benchmarks/README.md out of the tables that the benchmarks left in output/benchmarks.

python benchmarks/collect.py
"""

import argparse
from pathlib import Path

PAGE = Path(__file__).with_name("README.md")
INTRODUCTION = """# How fast

Each file here is one lane, runs alone, prints one table and leaves it in `output/benchmarks/`, with every figure as
JSON. Contenders take turns in one process; a table gives the median, the least and the most seconds, and the limit
measured in the same minutes. `make bench` runs all lanes and writes this page (`benchmarks/collect.py`); a lane that
was run by itself, longer, stands as that printed it. A peer that is not installed (`requirements/peers.txt`) is left
out by name.
"""
LANES = {
    "search_speed": "Exact evaluation",
    "codes": "Search by codes",
    "backends": "Backends of an index",
    "images": "Images",
    "formats": "Other images than JPEGs",
    "step": "Training step",
    "head": "Class head",
    "head_losses": "Class losses",
    "pairs": "Pair losses",
    "features": "Feature lane",
    "inference": "Inference",
    "against_peers": "End to end",
    "ranks": "Several ranks",
    "threads": "Waiting threads",
    "serve": "Search server",
    "lists": "Lists on the disk",
    "waiting": "What a user waits for",
}
# Lanes that are another one's file with other flags.
FILES = {"head_losses": "head"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default="output/benchmarks", help="folder of the tables")
    args = parser.parse_args(argv)
    parts = [INTRODUCTION]
    for lane, title in LANES.items():
        table = Path(args.input) / f"{lane}.md"
        if table.is_file():
            parts.append(f"## {title} (`{FILES.get(lane, lane)}.py`)\n\n{table.read_text()}")
        else:
            print(f"left out: {lane}, there is no {table}")
    PAGE.write_text("\n".join(parts))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
