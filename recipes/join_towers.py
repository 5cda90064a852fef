"""Join networks of which each takes another modality, and whose embeddings lie in one space, to one folder.

python recipes/join_towers.py output/words/towers output/words/images MiniLM

The folder is a --pretrained_model of eval.py, infer.py and search.py, which then take texts and images in one list.
A tower is a run's folder, a model's, or the name of a model whose published weights are taken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.files import make_folder  # noqa: E402
from core.text import counted


def settings_of(tower: str):
    """The ModelSettings of a run's folder, or of the published weights of a model's name."""
    from models import ModelSettings, trained_settings
    from models.backbones import BACKBONES, PUBLISHED

    if Path(tower).exists():
        return ModelSettings(**trained_settings(tower), pretrained_model=tower)
    if tower not in BACKBONES:
        raise InputError(f"{tower!r} is neither a folder of a model nor the name of one")
    return ModelSettings(model=tower, pretrained_model=PUBLISHED)


def join(folder: Path, names: Sequence[str]) -> None:
    """Write the folder's towers.json, once all towers can be opened and have embeddings of one width."""
    from models import TwoTowers, open_model, write_towers

    towers = {}
    for name in names:
        settings = settings_of(name)
        if settings.modality in towers:
            raise InputError(f"two towers take {settings.modality}s; each has to take another modality")
        towers[settings.modality] = settings
    if len(towers) < 2:
        raise InputError("one tower alone makes no space of several; name two")
    network = TwoTowers({modality: open_model(settings) for modality, settings in towers.items()})
    make_folder(folder)
    write_towers(folder, towers)
    print(f"written: {folder}, {' and '.join(towers)} in one space of {counted(network.embedding_size, 'number')}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("towers", nargs="+", help="a run's or a model's folder, or a model's name")
    args = parser.parse_args(argv)
    try:
        join(args.folder, args.towers)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    run_script(main)
