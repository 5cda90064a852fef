"""configs/published: every recipe parses, builds what it says, and takes two steps on the embedded set."""

from pathlib import Path

import pytest
from runs import read_json, run

from data.embedded import embedded_data

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = sorted((ROOT / "configs" / "published").glob("*.yaml"))
# What a test of seconds has to be smaller in: the network, its input, the batch.
SMALL = {
    "train_list": "Ebay_train.txt",
    "val_classes": 20,
    "model": "Tiny",
    "image_shape": "3,32,32",
    "resize_short_size": 0,
    "train_batch_size": 16,
    "samples_each_class": 4,
    "micro_batch": 0,
    "total_iter_num": 2,
    "num_workers": 0,
    "test_batch_size": 256,
    "use_gpu": False,
}

pytestmark = pytest.mark.usefixtures("tiny")


def script_of(recipe):
    """The script of the command that a recipe opens with, the last one where there are several."""
    lines = recipe.read_text().splitlines()
    return [line for line in lines if line.startswith("#   python ")][-1].split()[2].removesuffix(".py")


def two_steps(recipe, folder, **flags):
    """The result.json of two steps of a recipe."""
    small = {**SMALL, "data_dir": embedded_data(), "memory_start": 1, **flags, "model_save_dir": folder}
    if "memory_size" not in recipe.read_text():
        del small["memory_start"]
    else:
        small["memory_size"] = 50
    if "n_categories" in recipe.read_text():
        small["train_batch_size"] = 24  # three categories of two labels
    if "freeze_bn" in recipe.read_text():
        small["freeze_bn"] = True
    run(script_of(recipe), [f"--config={recipe}", *[f"--{name}={value}" for name, value in small.items()]])
    return read_json(folder / "result.json")


@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda recipe: recipe.stem)
def test_two_steps(recipe, tmp_path, record_property):
    first = ""
    if recipe.stem == "sop_roadmap_plus":
        first = tmp_path / "first"
        two_steps(recipe.with_name("sop_norm_softmax.yaml"), first, pretrained_model="")
    result = two_steps(recipe, tmp_path / "run", pretrained_model=first)
    assert result["step"] == 2
    assert f"loss_name: {result['flags']['loss_name']}\n" in recipe.read_text()
    record_property("steps that recipes took", result["step"])


@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda recipe: recipe.stem)
def test_a_recipe_opens_with_its_own_command(recipe):
    command = f"python {script_of(recipe)}.py --config=configs/published/{recipe.name}"
    assert f"#   {command}\n" in recipe.read_text()
