"""How waiting threads wait: a training step, the class head and a search, alone and beside a busy process.

    python benchmarks/threads.py                               # three minutes, 10 GB and 2 cores without other work
    python benchmarks/threads.py --policies=OMP_WAIT_POLICY=PASSIVE --rounds=1 --seconds=0.1

OpenMP reads its policy when it is loaded, so each has a process of its own; they take turns. The busy process runs an
empty loop. step: one of the embedded set's first stage, as configs/emoji_arcmargin.yaml has it. head: forward
and backward of arcmargin over 100,000 classes, 512 dimensions, batch 256. search: exact Recall@1, 10, 100 of 10,000
embeddings of 512 dimensions.

The fair share is what a scheduler gives that treats all threads that want to run alike: with t of ours and the busy one
on c cores min(1, c / (t + 1)) of a core each. Alone ours have min(t, c) cores, so it is fair if they take

    min(t, c) / (t min(1, c / (t + 1)))

times as long as alone under OpenMP's own policy: 1.5 times with 2 threads on 2 cores, the same time with 1 thread. That
is the strictest reading. One process against one would have a core each, which is 2 times; and threads that meet after
each loop cannot quite get to 1.5 either, as they wait for the one that has to share its core.
"""

import argparse
import datetime
import functools
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch
from tqdm import tqdm

from benchmarks.against_peers import BATCH, FROZEN, NETWORK, PIXELS
from benchmarks._contest import machine, markdown, seconds_text, versions, write
from benchmarks.head import BATCH as HEAD_BATCH
from benchmarks.head import MARGIN, SCALE
from benchmarks.head import step as head_step
from benchmarks.search_speed import clusters, ours_recall
from benchmarks.step import Bench
from losses import ArcMarginLoss

OWN = "OpenMP's own"
POLICIES = "OMP_WAIT_POLICY=PASSIVE,GOMP_SPINCOUNT=1000,GOMP_SPINCOUNT=10000,GOMP_SPINCOUNT=100000"
TRAIN_CLASSES, CLASSES, WIDTH, ROWS = 698, 100_000, 512, 10_000
WORKS = {
    "step": f"Training step: {NETWORK}, {PIXELS} px, batch {BATCH}",
    "head": f"Class head: {CLASSES:,} classes, D = {WIDTH}, batch {HEAD_BATCH}",
    "search": f"Search: Recall@1, 10, 100, N = {ROWS:,}, D = {WIDTH}",
}
MOST_OVER, MOST_SHARES = 3, 1.5  # what is asked of a policy: % that it adds alone, times the fair share beside another
MOST_TAKEN = 0.1  # cores that others may be at work on, on a machine that is called idle
BUSY = "print(flush=True)\nwhile True: pass"


def fair_share(cores: int, threads: int) -> float:
    """How many times their time alone `threads` threads may take beside one busy process, see above."""
    return min(threads, cores) / (threads * min(1, cores / (threads + 1)))


@functools.cache
def works():
    """{name of WORKS: function without arguments}, made once in a process."""
    bench = Bench(NETWORK, TRAIN_CLASSES, optimiser="adamw", freeze_stages=FROZEN)
    pictures = torch.randint(256, (BATCH, PIXELS, PIXELS, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    codes = torch.randint(TRAIN_CLASSES, (BATCH,))
    loss = ArcMarginLoss(WIDTH, CLASSES, SCALE, MARGIN)
    rows, labels = torch.randn(HEAD_BATCH, WIDTH, requires_grad=True), torch.randint(CLASSES, (HEAD_BATCH,))
    table, names = clusters(ROWS, WIDTH)
    return {
        "step": lambda: bench.step(pictures, codes, "fp32"),
        "head": lambda: head_step(loss, rows, labels),
        "search": lambda: ours_recall(table, names, None),
    }


def turn(work: str, seconds: float) -> float:
    """Seconds of one run of `work`, the mean of as many as fill `seconds`, one at least."""
    run, runs, spent = works()[work], 0, 0.0
    began = time.perf_counter()
    while not runs or spent < seconds:
        run()
        runs, spent = runs + 1, time.perf_counter() - began
    return spent / runs


def start(policy: str, threads: int) -> ProcessPoolExecutor:
    """A pool of one process, in which OpenMP has so many threads, and of `policy`, as NAME=VALUE, knows no other."""
    from core.openmp import NAMES

    others = {name: value for name, value in os.environ.items() if name not in NAMES}
    settings = {} if policy == OWN else dict([policy.split("=")])
    # The process has its environment from its beginning, since it loads torch as soon as it begins.
    with mock.patch.dict(os.environ, {**others, **settings, "OMP_NUM_THREADS": str(threads)}, clear=True):
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(os.getpid)
    return pool


@contextmanager
def busy_process():
    """A process that takes a core, or as much of it as it is given, for as long as the context."""
    process = subprocess.Popen([sys.executable, "-S", "-c", BUSY], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()  # so it runs
        yield
    finally:
        process.kill()
        process.communicate()


def cores_taken(seconds: float) -> float:
    """How many cores are at work while this process sleeps so long, by Linux's count of all processes."""

    def ticks():
        counts = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(counts) - counts[3] - counts[4]  # neither idle nor waiting for a disk

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def measure(entrants, rounds, seconds):
    """{work: {(policy, threads): {"idle": [seconds of each round], "busy": the same}}}, and the most cores that other
    processes took before any round."""
    found = {work: {entrant: {"idle": [], "busy": []} for entrant in entrants} for work in WORKS}
    with ExitStack() as stack:
        pools = {entrant: stack.enter_context(start(*entrant)) for entrant in entrants}
        for pool in tqdm(pools.values(), desc="warm up", leave=False, disable=None):
            for work in WORKS:
                pool.submit(turn, work, 0).result()
        turns, taken = list(itertools.product(("idle", "busy"), WORKS, entrants)), []
        for number, (place, work, entrant) in enumerate(tqdm(turns * rounds, desc="turns", leave=False, disable=None)):
            if number % len(turns) == 0:
                taken.append(cores_taken(0.5))
            with busy_process() if place == "busy" else ExitStack():
                found[work][entrant][place].append(pools[entrant].submit(turn, work, seconds).result())
    return found, max(taken)


def compared(runs, cores):
    """Of one work, {(policy, threads): {idle, busy: {seconds, spread}, over, shares}}.

    over: % that the policy adds alone to OpenMP's own with as many threads. shares: its seconds beside the busy process
    in times of the fair share.
    """
    table = {}
    for (policy, threads), seconds in runs.items():
        own = {
            place: {"seconds": statistics.median(found), "spread": [min(found), max(found)]}
            for place, found in seconds.items()
        }
        alone = statistics.median(runs[OWN, threads]["idle"])
        over, shares = own["idle"]["seconds"] / alone, own["busy"]["seconds"] / (alone * fair_share(cores, threads))
        table[policy, threads] = {**own, "over": 100 * over - 100, "shares": shares}
    return table


def is_good(own):
    """Whether a policy costs so little alone, and loses so little beside a busy process, as is asked of it."""
    return own["over"] <= MOST_OVER and own["shares"] <= MOST_SHARES


def work_table(table):
    rows = []
    for (policy, threads), own in table.items():
        alone, beside = own["idle"], own["busy"]
        spreads = ["–".join(map(seconds_text, place["spread"])) for place in (alone, beside)]
        cells = [seconds_text(alone["seconds"]), spreads[0], f"{own['over']:+.1f}".replace("-", "−")]
        cells += [seconds_text(beside["seconds"]), spreads[1], f"{own['shares']:.2f}"]
        rows.append([f"{policy}, {threads} thread{'s' * (threads > 1)}", *cells])
    columns = ["", "alone, s", "least–most", "% over OpenMP's own", "beside a busy process, s", "least–most"]
    return markdown([*columns, "× fair share"], rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=POLICIES, help="NAME=VALUE, comma-separated, beside OpenMP's own")
    parser.add_argument(
        "--threads", type=int, default=2, help="of OpenMP (default: 2); its own policy is tried with 1, too"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each policy (default: 3), after one to warm up")
    parser.add_argument("--seconds", type=float, default=0.7, help="least seconds of a turn (default: 0.7)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    cores, threads = len(os.sched_getaffinity(0)), args.threads
    policies = [OWN, *(policy for policy in args.policies.split(",") if policy)]
    entrants = [*((policy, threads) for policy in policies), *([(OWN, 1)] if threads > 1 else [])]
    found, taken = measure(entrants, args.rounds, args.seconds)
    tables = {work: compared(runs, cores) for work, runs in found.items()}
    named = ", ".join(f"{name} {version}" for name, version in versions(("torch", "numpy")).items())
    parts = [
        f"{machine()}; {named}; {datetime.date.today()}; medians of {args.rounds} rounds. "
        f"Other processes took {taken:.2f} cores. In times of the seconds alone under OpenMP's own policy the fair "
        f"share beside one busy process, on {cores} cores, is {fair_share(cores, threads):.2f} with {threads} "
        f"thread(s) and {fair_share(cores, 1):.2f} with one."
    ]
    parts += [f"### {WORKS[work]}\n\n{work_table(table)}" for work, table in tables.items()]
    good = [policy for policy in policies if all(is_good(table[policy, threads]) for table in tables.values())]
    asked = f"At most {MOST_OVER} % over alone and {MOST_SHARES} × the fair share beside a busy process, in all three"
    answer = f"{asked}: {', '.join(good) or 'none'}."
    parts.append(answer if taken <= MOST_TAKEN else "The machine was not idle, so nothing follows from these figures.")
    rows = [
        {"work": work, "policy": policy, "threads": threads, **own}
        for work, table in tables.items()
        for (policy, threads), own in table.items()
    ]
    result = {"machine": machine(), "cores": cores, "taken": taken, "rounds": args.rounds, "rows": rows, "good": good}
    write(args.output, "threads", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
