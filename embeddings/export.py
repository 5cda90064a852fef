"""A network to files that other programs run: written aside, held against torch, and put in place when they agree."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from core.console import log
from core.errors import InputError
from core.files import make_folder, run_folder
from core.packages import needed
from core.types import Paths, Switch
from core.versions import versions
from data.image.transforms import TestTransform
from data.records import Records
from embeddings.encoder import EXACT, Encoder
from embeddings.golden import LEAST_COSINE, MOST_LEVELS, GoldenImages, golden_images
from embeddings.quantise import Recalls, calibration_batches, recalls
from models import BACKBONES, Embedder
from models.export import card as model_card
from models.export import hub, script
from models.export.exported import CARD
from models.export.int8 import to_int8
from models.export.network import Crop, ExportedNetwork
from models.export.onnx import OnnxRuntime, network_onnx, with_geometry
from models.export.openvino import CompiledOpenVino, write_openvino
from models.export.safetensors import export_model, licence_of
from models.export.torchscript import write_torchscript

# The name of each kind's file where --output is a folder; a name of one's own ends alike.
FILES = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript",
    "openvino": "model.xml",
    "safetensors": "model.safetensors",
}
# OpenVINO sums the resizing in an order of its own, so that halves are rounded to other grey levels.
LEAST_COSINE_OPENVINO = 0.999
# What a run's card says of its figures, which that of an export repeats.
OF_RUN = ("flags", "data", "recall", "step", "tested_on", "licence")
INPUTS = {
    "onnx": "images: uint8 RGB (B, 3, H, W), any B, H and W",
    "openvino": "images: uint8 RGB (B, 3, H, W), any B, H and W",
    "torchscript": "uint8 RGB (B, 3, {height}, {width}), any B, in the geometry",
    "safetensors": "uint8 RGB (B, 3, {height}, {width}), any B, in the geometry",
}


@dataclass(frozen=True)
class ExportPlan:
    """What is to be exported, and where to.

    file: the network's own name in `folder`. hub: the hub's model that it is pushed to, None for none.
    """

    kind: str
    folder: Path
    file: str
    is_int8: bool
    normalises: bool
    hub: str | None

    @property
    def flag(self) -> str:
        """The flag that asks for it."""
        return f"--export={self.kind}"


@dataclass
class Exported:
    """What an export wrote, aside, and how near it comes to torch.

    files: names in the folder. proof: figures for the card. sentences: what is printed of them.
    """

    files: list[str]
    proof: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def open_export(
    output: Paths | None,
    continue_: bool,
    pretrained_model: str | None,
    *,
    export: Literal["onnx", "torchscript", "openvino", "safetensors"] | None = None,
    export_precision: Literal["fp32", "int8"] = "fp32",
    export_normalise: Switch = False,
    push_to_hub: str | None = None,
) -> ExportPlan | None:
    """What is to be exported; None where nothing is.

    Options:
        export: write the network for other programs: one of onnx, torchscript, openvino, safetensors
            (--output: a folder, or the file; default: a folder of that name in the run's)
        export_precision: fp32, or int8 for onnx, calibrated on images of the list
        export_normalise: the exported embeddings have length 1
        push_to_hub: upload what is exported to this model of the hub, USER/NAME

    output, continue_, pretrained_model: the flags. Raises InputError for what does not go together, for packages that
    are missing, for a hub that does not answer, and for files that cannot be written or that no export wrote.
    """
    if export is None:
        return _refuse_lone(export_precision, export_normalise, push_to_hub)
    if continue_:
        raise InputError("--continue goes with --output of embeddings; leave it out of an --export")
    if export_precision == "int8" and export != "onnx":
        raise InputError(f"--export_precision=int8 is made of --export=onnx alone, not of {export}")
    if export_normalise and export == "safetensors":
        raise InputError("--export=safetensors holds weights, which nothing normalises; leave --export_normalise out")
    folder, file = _destination(output, export, pretrained_model)
    plan = ExportPlan(export, folder, file, export_precision == "int8", export_normalise, push_to_hub)
    _check_packages(plan)
    if push_to_hub:
        hub.check_hub(push_to_hub)
    _refuse_unwritable(plan.folder)
    _refuse_foreign_files(plan)
    return plan


def write_export(plan: ExportPlan, encoder: Encoder, records: Records | None, pretrained_model: str | None) -> None:
    """Export the network of an Encoder (on the CPU, exact), prove it, and say so.

    records: the list that its golden images are of, that it is calibrated and tested on; None for made-up ones. Raises
    InputError where the file does not do what torch does, or cannot be written: nothing is left behind then.
    """
    if (encoder.precision, encoder.runtime) != EXACT:
        raise InputError("--export writes the network itself; leave --precision and --runtime out (--export_precision)")
    if plan.is_int8 and records is None:
        raise InputError("--export_precision=int8 is calibrated on images: give a --test_list or --input")
    modality = BACKBONES.fact(encoder.settings.model, "modality")
    if modality != "image":
        raise InputError(f"--export writes networks for images, and {encoder.settings.model} is one for {modality}")
    embedder = encoder.network.cpu().eval()
    settings = encoder.settings
    height, width = settings.image_shape[1:]
    transform = TestTransform.of(settings)
    crop = Crop(height, width, transform.short_side, transform.longest, settings.resize_filter, settings.resize_mode)
    began = time.perf_counter()
    golden = golden_images(embedder, transform, records, plan.normalises)
    with _staged(plan.folder) as stage:
        exported = WRITERS[plan.kind](plan, stage, embedder, crop, golden)
        if plan.is_int8:
            _make_int8(plan, stage, crop, encoder, embedder, records, golden, exported)
        card = _card(plan, encoder, crop, exported, golden, pretrained_model)
        _write_beside(plan, stage, embedder, card, exported)
    for sentence in exported.sentences:
        log(sentence)
    if plan.hub:
        log(f"pushed: {hub.push(plan.folder, exported.files, plan.hub)}")
    seconds = time.perf_counter() - began
    print(f"written: {', '.join(str(plan.folder / file) for file in exported.files)} ({seconds:.1f} sec)")


# What must be there, before any work.


def _refuse_lone(export_precision: str, export_normalise: bool, push_to_hub: str | None) -> None:
    """Raise InputError for flags of an export where there is none."""
    given = {
        "export_precision": export_precision != "fp32",
        "export_normalise": export_normalise,
        "push_to_hub": push_to_hub,
    }
    for name, is_given in given.items():
        if is_given:
            raise InputError(f"--{name} goes with --export={'|'.join(FILES)}")


def _destination(output: Paths | None, kind: str, pretrained_model: str | None) -> tuple[Path, str]:
    """(folder, the network's file in it)."""
    default = FILES[kind]
    if not output:
        if not pretrained_model or not os.path.exists(pretrained_model):
            raise InputError(f"--export={kind} needs an --output: the folder or the file to write")
        return run_folder(pretrained_model) / kind, default
    if len(output) > 1:
        raise InputError(f"--export writes one --output, a folder or a file; {len(output)} are given")
    path = Path(output[0])
    suffix = Path(default).suffix
    if path.is_dir() or not path.suffix:
        return path, default
    if path.suffix != suffix or kind == "safetensors" and path.name != default:
        raise InputError(f"cannot write {str(path)!r}: --export={kind} writes a folder, or a file that is a {default}")
    return path.parent, path.name


def _check_packages(plan: ExportPlan) -> None:
    modules = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "onnx", "onnxruntime")}
    for module in modules.get(plan.kind, ()):
        needed(module, plan.flag, "openvino" if module == "openvino" else "export")


def _refuse_unwritable(folder: Path) -> None:
    """Raise InputError where the folder could not be made or written to; it is not made yet."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "permission denied" if nearest.is_dir() else f"{str(nearest)!r} is no folder"
        raise InputError(f"cannot write to folder {str(folder)!r}: {reason}")


def _refuse_foreign_files(plan: ExportPlan) -> None:
    """Raise InputError where the folder holds files under names of ours that no export wrote, such as a run's card."""
    ours = {CARD: '"exports"', script.SCRIPT: script.MARK, model_card.README: model_card.MARK}
    for name, mark in ours.items():
        file = plan.folder / name
        try:
            text = file.read_text(errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from None
        if mark not in text:
            raise InputError(f"{str(file)!r} was written by no export: give another folder as --output")


# How each kind is written.


def _write_onnx(plan: ExportPlan, stage: Path, embedder: Embedder, crop: Crop, golden: GoldenImages) -> Exported:
    network = network_onnx(ExportedNetwork(embedder, plan.normalises), crop.shape, plan.flag)
    exported = Exported([plan.file])
    _prove(exported, "crops", golden.cosine_of_crops(_onnx(network, embedder, plan.flag)))
    whole = with_geometry(network, crop)
    (stage / plan.file).write_bytes(whole)
    _prove_geometry(exported, golden, crop, _onnx(whole, embedder, plan.flag))
    return exported


def _write_openvino(plan: ExportPlan, stage: Path, embedder: Embedder, crop: Crop, golden: GoldenImages) -> Exported:
    network = network_onnx(ExportedNetwork(embedder, plan.normalises), crop.shape, plan.flag)
    original = stage / "network.onnx"
    original.write_bytes(with_geometry(network, crop))
    write_openvino(original, stage / plan.file)
    original.unlink()
    exported = Exported([plan.file, Path(plan.file).with_suffix(".bin").name])
    # Of the file the resizing alone can be told from torch's: the network behind it is proven by itself.
    alone = stage / "network.onnx"
    alone.write_bytes(network)
    _prove(exported, "crops", golden.cosine_of_crops(CompiledOpenVino(alone)))
    alone.unlink()
    _prove_geometry(exported, golden, crop, CompiledOpenVino(stage / plan.file), LEAST_COSINE_OPENVINO)
    return exported


def _write_torchscript(plan: ExportPlan, stage: Path, embedder: Embedder, crop: Crop, golden: GoldenImages) -> Exported:
    network = write_torchscript(ExportedNetwork(embedder, plan.normalises), crop.shape, stage / plan.file)
    exported = Exported([plan.file])
    _prove(exported, "crops", golden.cosine_of_crops(network))
    return exported


def _write_safetensors(plan: ExportPlan, stage: Path, embedder: Embedder, crop: Crop, golden: GoldenImages) -> Exported:
    export_model(embedder, stage, {"flags": {}})
    exported = Exported([plan.file])
    _prove(exported, "crops", golden.cosine_of_crops(Embedder.from_pretrained(stage)))
    return exported


WRITERS = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torchscript": _write_torchscript,
    "safetensors": _write_safetensors,
}


def _onnx(model: bytes, embedder: Embedder, flag: str) -> OnnxRuntime:
    return OnnxRuntime(model, embedder.embedding_size, flag)


def _prove(exported: Exported, of_what: str, cosine: float, least: float = LEAST_COSINE) -> None:
    """Keep a figure of the proof. Raises InputError where it is too low."""
    if cosine < least:
        raise InputError(
            f"the exported network does not do what torch does: the least cosine of the {of_what} is {cosine:.6f}, "
            f"below {least}; nothing is written"
        )
    exported.proof[f"least_cosine_{of_what}"] = cosine
    exported.sentences.append(f"least cosine to torch, {of_what}: {cosine:.8f}")


def _prove_geometry(
    exported: Exported, golden: GoldenImages, crop: Crop, network: nn.Module, least: float = LEAST_COSINE
) -> None:
    """The same for a file that resizes by itself, and how its pixels differ from those of the lists' own loader.

    Where a mean is a half, OpenCV rounds up or down by what its float32 sums come to: that alone refuses nothing.
    """
    cosine, resized = golden.cosine_of_images(network, crop)
    _prove(exported, "images", cosine, least)
    if resized.grey_levels > MOST_LEVELS:
        raise InputError(
            f"the exported resizing is another than OpenCV's, by {resized.grey_levels} grey levels; nothing is written"
        )
    exported.proof["resize"] = {
        "pixels_that_differ": resized.share,
        "grey_levels": resized.grey_levels,
        "least_cosine": resized.least_cosine,
    }
    exported.sentences.append(
        f"resize inside against OpenCV's: {100 * resized.share:.2f} % of the values differ, by {resized.grey_levels} "
        f"at most; least cosine {resized.least_cosine:.6f}"
    )


def _make_int8(
    plan: ExportPlan,
    stage: Path,
    crop: Crop,
    encoder: Encoder,
    embedder: Embedder,
    records: Records,
    golden: GoldenImages,
    exported: Exported,
) -> None:
    """Put the 8-bit network in the place of the one that was proven, with what it costs."""
    flag = "--export_precision=int8"
    network = network_onnx(ExportedNetwork(embedder, plan.normalises), crop.shape, flag)
    quantised = to_int8(network, calibration_batches(records, encoder), flag)
    (stage / plan.file).write_bytes(with_geometry(quantised, crop))
    small = _onnx(quantised, embedder, flag)
    figures: Recalls = recalls(records, encoder, _onnx(network, embedder, flag), small)
    cosine = golden.cosine_of_crops(small)
    exported.proof["int8"] = {"least_cosine_crops": cosine, **figures.as_facts()}
    exported.sentences.append(f"int8: least cosine to torch {cosine:.6f}; {figures.as_text()}")


# What stands beside it.


def _card(
    plan: ExportPlan,
    encoder: Encoder,
    crop: Crop,
    exported: Exported,
    golden: GoldenImages,
    pretrained_model: str | None,
) -> dict[str, Any]:
    """What model.json says: the network, its run's figures, and each kind that is exported into this folder."""
    embedder = encoder.network
    file = plan.file
    shape = {"height": crop.height, "width": crop.width}
    entry = {
        "file": file,
        "input": INPUTS[plan.kind].format(**shape),
        "output": f"embeddings: float32 (B, {embedder.embedding_size})",
        "width": embedder.embedding_size,
        "normalised": plan.normalises,
        "precision": "int8" if plan.is_int8 else "fp32",
        "geometry": {
            "short_side": crop.short_side,
            **shape,
            "resize_filter": crop.resize_filter,
            "resize_mode": crop.resize_mode,
        },
        "mean": [round(value / 255, 6) for value in embedder.mean.flatten().tolist()],
        "std": [round(value / 255, 6) for value in embedder.std.flatten().tolist()],
        "golden_images": golden.source,
        **exported.proof,
        "versions": {**versions(), **_versions_of_exporters()},
    }
    run = _card_of_run(pretrained_model)
    earlier = _json_or_nothing(plan.folder / CARD)
    kinds = {plan.kind: entry}
    if earlier.get("fingerprint") == encoder.fingerprint:
        kinds = {**earlier["exports"], **kinds}
    return {
        "model": embedder.facts,
        "licence": licence_of(embedder.facts["model"]),
        **run,
        # Last, since it is what the weights are, whatever was typed then.
        "flags": {**run.get("flags", {}), **encoder.settings.as_flags(), **embedder.facts},
        "fingerprint": encoder.fingerprint,
        "exports": kinds,
    }


def _write_beside(plan: ExportPlan, stage: Path, embedder: Embedder, card: dict[str, Any], exported: Exported) -> None:
    """The card, and what the kind has beside it: a script, weights with their card, a page for the hub."""
    if plan.kind == "safetensors":
        export_model(embedder, stage, card)
    else:
        (stage / CARD).write_text(json.dumps(card, indent=2) + "\n")
    exported.files.append(CARD)
    text = script.script_for(plan.kind, plan.file)
    if text is not None:
        (stage / script.SCRIPT).write_text(text)
        exported.files.append(script.SCRIPT)
    if plan.kind == "safetensors" or plan.hub:
        page = model_card.readme(card, plan.kind, plan.hub or plan.folder.resolve().name)
        (stage / model_card.README).write_text(page)
        exported.files.append(model_card.README)


def _card_of_run(pretrained_model: str | None) -> dict[str, Any]:
    """What the run that the weights come from says of itself; nothing where they come from none."""
    if not pretrained_model:
        return {}
    card = _json_or_nothing(run_folder(pretrained_model) / CARD)
    return {name: card[name] for name in OF_RUN if name in card}


def _json_or_nothing(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):  # none, or not ours: it only adds to what is known
        return {}
    return content if isinstance(content, dict) else {}


def _versions_of_exporters() -> dict[str, str]:
    import importlib.metadata

    known = {}
    for name in ("onnx", "onnxruntime", "openvino", "safetensors"):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder aside, of which all files go to `folder` when the context ends well; else nothing is left of it.

    Raises InputError where the disk refuses.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    stage = make_folder(folder) / f".export.{os.getpid()}"
    try:
        stage.mkdir()
        yield stage
        for file in sorted(stage.iterdir()):
            os.replace(file, folder / file.name)
        stage.rmdir()
    except OSError as error:
        _remove(stage, made)
        raise InputError(f"cannot write to folder {str(folder)!r}: {error.strerror or error}") from None
    except BaseException:
        _remove(stage, made)
        raise


def _remove(stage: Path, made: list[Path]) -> None:
    """Take a stage away, and those folders around it that it was made in and that hold nothing else."""
    shutil.rmtree(stage, ignore_errors=True)
    for folder in made:
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return
