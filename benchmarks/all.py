"""All lanes of this folder, one after the other, and then the page: what `make bench` runs.

    python benchmarks/all.py                      # 20 minutes on 2 idle cores
    python benchmarks/all.py --lanes=wide,growth  # some of them

Each is shortened to a minute or so, and none left out but backends, which need servers; longer runs of a lane, at the
sizes of its docstring: --help of its file. Printed at the end is which took how long. One that fails does not keep the
others from running, but from an exit status of 0.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# {lane: the words behind its file's name}; a lane that is another one's file with other flags begins with the file.
LANES = {
    "search_speed": "search_speed.py --sizes=60502x512 --curve=15000",
    "product_types": "product_types.py --sizes=5000x512,15000x512 --kinds=sphere,tight,hard,features,duplicates",
    "wide": "wide.py",
    "codes": "codes.py --rows=100000 --data=clustered --rounds=1",
    "images": "images.py --images=100 --rounds=2",
    "formats": "formats.py --images=10 --rounds=2",
    "step": "step.py --rounds=1 --operations",
    "head": "head.py --rounds=3 --sizes=11318x2048,100000x512",
    "head_losses": "head.py --losses=all --sizes=11318x512 --rounds=2",
    "pairs": "pairs.py --sizes=160,1024 --rounds=1",
    "features": "features.py --steps=200",
    "inference": "inference.py --model ResNet50 timm:vit_small_patch16_224 --images=16 --batch=8 --rounds=1",
    "against_peers": "against_peers.py --seeds=1 --seconds=6",
    "ranks": "ranks.py --tables=weights,gallery --ranks=2",
    "threads": "threads.py --rounds=1 --seconds=0.4",
    "serve": "serve.py --seconds=10",
    "lists": "lists.py --rows=5000000 --labels=100000 --packed=200000",
    "waiting": "waiting.py",
    "growth": "growth.py --rounds=2",
}


def lanes_named(text: str) -> list[str]:
    """Names of lanes, in the order of LANES."""
    names = set(text.split(","))
    unknown = sorted(names - set(LANES))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown lane {unknown[0]!r}; there are: {', '.join(LANES)}")
    return [lane for lane in LANES if lane in names]


def run(words: list[str]) -> tuple[bool, float]:
    """(whether a file of this folder ended well, its seconds)."""
    began = time.perf_counter()
    print(f"\n$ python benchmarks/{' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, str(FOLDER / words[0]), *words[1:]], cwd=FOLDER.parent).returncode
    return status == 0, time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=lanes_named, default=list(LANES), help="some of them (default: all)")
    args = parser.parse_args(argv)
    taken = {lane: run(LANES[lane].split()) for lane in args.lanes}
    taken["collect"] = run(["collect.py"])
    print("\nseconds  lane")
    for lane, (ended_well, seconds) in taken.items():
        print(f"{seconds:7.0f}  {lane}{'' if ended_well else ': FAILED'}")
    print(f"{sum(seconds for _, seconds in taken.values()):7.0f}  together")
    return 0 if all(ended_well for ended_well, _ in taken.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
