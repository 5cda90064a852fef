"""Examine a list: copies, wrong labels and boxes, outliers, leaks; write what is found as a csv to edit, and as a page.

python reader.py doctor photos/list.csv --output_dir=output/doctor
python reader.py doctor Ebay_train.txt --against=Ebay_test.txt --pretrained_model=output --feedback=feedback.csv
python reader.py fix photos/list.csv --fixes=output/doctor/fixes.csv --output=photos/clean.csv
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
from collections.abc import Sequence

from config.commands import DOCTOR
from config.parse import Args, parse
from config.script import run_script
from core.errors import InputError

USAGE = "LIST"


def main(argv: Sequence[str]) -> None:
    path, args = parse_line(argv)
    # Here and not above: torch takes seconds to import, which neither --help nor a mistyped flag has to wait for.
    import distributed
    from care.examine import examine
    from care.patient import open_patient
    from report.doctor import Diagnosis, DoctorOutputs

    outputs = DoctorOutputs(**args.outputs)
    patient = open_patient(path, args["data_dir"], **args.doctor)
    encoder = None
    if patient.needs_model:
        encoder, args = open_network(patient.modalities, argv, args)
    if distributed.world_size() > 1:
        raise InputError("the doctor is one process; run it without torchrun")
    folder = outputs.open_folder()

    # Files first: what cannot be read is not embedded.
    patient, looks = patient.look()
    cache = args["cache"]
    embeddings = patient.embed(encoder, folder, cache)
    other = patient.look_at_other(encoder, folder, cache)
    examination = examine(patient.subject, looks, embeddings, other, patient.clicks())
    model = args["embeddings"] or f"{args['model']}, {args['pretrained_model']}"
    subject = patient.subject
    diagnosis = Diagnosis(
        subject.raw.file,
        subject.raw.folder,
        subject.raw.suffix,
        subject.records,
        examination.findings,
        examination.wrong_labels,
        [*subject.records.notes, *examination.notes],
        model,
        None if other is None else other.records,
        patient.other_name,
    )
    written = outputs.write(diagnosis)
    for line in diagnosis.lines():
        print(line)
    print(f"written: {', '.join(map(str, written))}")


def parse_line(argv: Sequence[str]) -> tuple[str, Args]:
    """(the list, the flags behind it). Raises InputError where there is none."""
    if not argv or argv[0].startswith("-"):
        # Of the command alone only its help can be had.
        parse(list(argv) or ["--help"], DOCTOR, __doc__, USAGE)
        raise InputError("the doctor needs a list before its flags: reader.py doctor LIST (see --help)")
    return argv[0], parse(argv[1:], DOCTOR, __doc__, USAGE)


def open_network(modalities: frozenset[str], argv: Sequence[str], args: Args):
    """(Encoder, flags): of the network that is named, or of the usual one for such rows, which is said."""
    import distributed
    from core.console import log
    from core.device import open_device
    from embeddings.encoder import open_encoder
    from models import ModelSettings
    from models.defaults import default_model

    if not args["pretrained_model"] and "model" not in args.typed:
        chosen = default_model(modalities)
        log(f"the model is {chosen.model} ({chosen.about}); another: --pretrained_model=RUN, or --model=NAME with it")
        words = [f"--model={chosen.model}", f"--pretrained_model={chosen.weights}"]
        args = parse([*argv[1:], *words], DOCTOR, __doc__, USAGE)
    if not args["pretrained_model"]:
        raise InputError("the doctor needs --pretrained_model: random weights tell nothing of a list")
    device, precision = open_device(**args.device)
    distributed.init(device)
    settings = ModelSettings(**args.model)
    kinds = {"modalities": modalities}
    encoder = open_encoder(settings, device, precision, args["runtime"], args["num_workers"], **kinds, **args.encoder)
    return encoder, args


if __name__ == "__main__":
    run_script(main)
