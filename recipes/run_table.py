"""All runs of a set's table, several at a time, then the table: stage-1 losses across, stage-2 losses down.

python recipes/run_table.py emoji --seeds=0,1,2 --processes=2 --longer --differences
python recipes/run_table.py sop --reference=ancestor
python recipes/run_table.py emoji --only=arcmargin --root=output/precision/bf16 --flags=--precision=bf16

Each run is a recipe, configs/SET_STAGE1[_STAGE2].yaml, of yours, too. One that has its result.json is skipped, one that
was stopped goes on from its last checkpoint. Each process has one thread unless OMP_NUM_THREADS says otherwise.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError, unknown  # noqa: E402
from core.sources import registered  # noqa: E402
from core.types import words  # noqa: E402
from recipes import table  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recipe:
    """One configs/SET_STAGE1[_STAGE2].yaml: `first` is the loss of stage 1, `second` that of stage 2, longer, or ""."""

    file: Path
    first: str
    second: str

    @property
    def name(self) -> str:
        """What its run's folder is called: arcmargin, arcmargin+whitening, arcmargin+longer."""
        return f"{self.first}+{self.second}" if self.second else self.first

    @property
    def script(self) -> str:
        return "train_elem.py" if self.second in ("", "longer") else "train_pair.py"


def find_recipes(set_name: str) -> list[Recipe]:
    """All recipes of a set, stage 1 first. Raises InputError where there is none."""
    recipes = []
    for file in sorted((ROOT / "configs").glob(f"{set_name}_*.yaml")):
        first, second = split_stages(file.stem.removeprefix(f"{set_name}_"))
        if first == "reranker":  # of what a run finds, and no run of its own
            continue
        recipes.append(Recipe(file, first, second))
    if not recipes:
        raise InputError(f"no recipe configs/{set_name}_*.yaml")
    return sorted(recipes, key=lambda recipe: recipe.script)


def split_stages(name: str) -> tuple[str, str]:
    """Stage 1 and stage 2 of STAGE1[_STAGE2]: the longest loss of stage 1 that it begins with, else its first word."""
    losses = [loss for loss, entry in registered("losses").items() if entry.facts.get("stage") == "elem"]
    begins = [loss for loss in losses if f"{name}_".startswith(f"{loss}_")]
    first = max(begins, key=len, default=name.partition("_")[0])
    return first, name.removeprefix(first).removeprefix("_")


def make_run(recipe: Recipe, seed: str, root: Path, flags: list[str], evaluates: bool) -> None:
    """Train one run to its end, unless that is done, and evaluate it if asked; InputError where a script fails."""
    folder = root / f"seed{seed}" / recipe.name
    if (folder / "result.json").is_file():
        print(f"done already: {folder}", flush=True)
        return
    if (folder / "last.pt").is_file():
        line = [f"--checkpoint={folder}"]
    else:
        line = [f"--config={recipe.file}", f"--seed={seed}", f"--model_save_dir={folder}", "--overwrite=True", *flags]
        if recipe.script == "train_pair.py":
            line.append(f"--pretrained_model={root / f'seed{seed}' / recipe.first}")
    call(recipe.script, *line)
    if evaluates:
        picture = folder / "eval" / "neighbours.png"
        call("eval.py", f"--pretrained_model={folder}", "--batch_size=64", f"--picture={picture}")


def call(script: str, *line: str) -> None:
    """Run a script of the repository. Raises InputError, with its command, where it fails."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [os.environ.get("PYTHON", sys.executable), str(ROOT / script), *line]
    if subprocess.run(command, env=environment).returncode:
        raise InputError(f"failed: {' '.join(command)}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="emoji, sop, or what your own recipes begin with: configs/SET_*.yaml")
    parser.add_argument("--seeds", type=words, default=("0",), help="comma-separated (default: 0)")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--root", type=Path, help="folder of the runs (default: output/SET)")
    parser.add_argument(
        "--only", type=words, default=(), help="names of runs, as arcmargin,arcmargin+whitening (default: all)"
    )
    parser.add_argument("--longer", action="store_true", help="stage 1 alone for as long as both stages, too")
    parser.add_argument("--evaluate", action="store_true", help="evaluate each run by eval.py, with a picture")
    parser.add_argument(
        "--flags", action="append", default=[], help="a further flag of every run; may come several times"
    )
    parser.add_argument("--metric", help="of --evaluate another figure in the table, as map@r (default: Recall@1)")
    parser.add_argument("--reference", choices=["ancestor"], help="add PaddlePaddle's Recall@1 on SOP")
    parser.add_argument("--differences", action="store_true", help="add what each second stage gains, seed by seed")
    options = parser.parse_args(argv)
    root = options.root or Path("output") / options.set
    recipes = [recipe for recipe in find_recipes(options.set) if options.longer or recipe.second != "longer"]
    names = [recipe.name for recipe in recipes]
    for name in options.only:
        if name not in names:
            raise unknown("run", name, names)
    if options.only:
        recipes = [recipe for recipe in recipes if recipe.name in options.only]

    # Stage 2 starts from the runs of stage 1, so these come first.
    for script in ("train_elem.py", "train_pair.py"):
        with ThreadPoolExecutor(options.processes) as pool:
            jobs = [
                pool.submit(make_run, recipe, seed, root, options.flags, options.evaluate)
                for seed in options.seeds
                for recipe in recipes
                if recipe.script == script
            ]
        for job in jobs:
            job.result()

    line = [str(root)]
    line += [f"--metric={options.metric}"] if options.metric else []
    line += [f"--reference={options.reference}"] if options.reference else []
    line += ["--differences"] if options.differences else []
    table.main(line)


if __name__ == "__main__":
    run_script(main)
