"""What a process finds that opens a list on the disk and draws batches of it; benchmarks/lists.py starts it.

It loads nothing else, neither torch nor what times contenders, so that its memory is that of the list.
"""

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from benchmarks._memory import memory
from data.lists import open_list
from data.records import Records
from data.samplers import PKSampler, ShuffledSampler

BATCH = 256


def probe(folder: str) -> dict[str, float]:
    """Seconds, and memory in MB, at each stage."""
    figures = {"before_mb": memory("VmRSS"), "before_anon_mb": memory("RssAnon")}
    began = time.perf_counter()
    records = open_list(folder, str(Path(folder).parent), "train")
    figures |= {"open_seconds": time.perf_counter() - began, "open_mb": memory("VmRSS"), "rows": len(records)}
    began = time.perf_counter()
    shuffled = iter(ShuffledSampler(records.vocabulary, BATCH).starting(0, len(records) // BATCH // 2))
    look_at(next(shuffled), records)
    figures["first_batch_seconds"] = time.perf_counter() - began
    drawn = {"shuffled": (1000, shuffled), "pk": (200, iter(PKSampler(records.vocabulary, BATCH, 4).starting(0, 100)))}
    for name, (count, sampler) in drawn.items():
        began = time.perf_counter()
        for _ in range(count):
            look_at(next(sampler), records)
        figures[f"{name}_seconds"] = (time.perf_counter() - began) / count
    figures |= {"after_anon_mb": memory("RssAnon"), "after_file_mb": memory("RssFile")}
    return figures


def look_at(batch: list, records: Records) -> list:
    """What loading asks of a list."""
    return [(records.paths[sample.index], records.vocabulary.codes[sample.index]) for sample in batch]


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
