"""A page in one file that needs nothing else: frame.html with a body, its style, script and data put in.

Whatever a list may hold reaches the page as data only. It stands in a block that is not executed, and the script makes
text of it, never markup. Were there a mistake in that, the page's policy still runs no script but ours, known by its
checksum, and fetches nothing.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from core.files import replacing

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Template:
    """A kind of page: its title, its body, and the files that make its style and its script, each in this order."""

    title: str
    body: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]


EVALUATION = Template("Retrieval report", "page.html", ("page.css",), ("elements.js", "page.js", "map.js"))
DOCTOR = Template("Data doctor", "doctor.html", ("page.css", "doctor.css"), ("elements.js", "doctor.js"))


def write_html(path: str | Path, data: dict, template: Template = EVALUATION) -> None:
    """Write the page that shows `data` (plain JSON), whole or not at all. Raises InputError where that cannot be."""
    page = _fill_template(data, template)
    with replacing(path) as file:
        file.write(page.encode())  # as bytes, since line ends enter the checksums


def _fill_template(data: dict, template: Template) -> str:
    style = "".join(map(_read, template.styles))
    script = "".join(map(_read, template.scripts))
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {checksum(style)}; "
        f"script-src {checksum(script)}; base-uri 'none'; form-action 'none'"
    )
    contents = {
        "policy": policy,
        "title": template.title,
        "style": style,
        "body": _read(template.body),
        "data": _json(data),
        "script": script,
    }
    return fill(_read("frame.html"), contents)


def fill(template: str, contents: dict[str, str]) -> str:
    """A page with what belongs in place of each {{name}}."""
    # All at once, so that a {{name}} within the contents stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: contents[match[1]], template)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def checksum(text: str) -> str:
    """By which a page's policy knows a script or style that stands in it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(data: dict) -> str:
    """JSON in ASCII that cannot end the block it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
