"""A page in one file that needs nothing else: page.html with its style, script and data put in.

Whatever a list may hold reaches the page as data only. It stands in a block that is not executed, and the script makes
text of it, never markup. Were there a mistake in that, the page's policy still runs no script but ours, known by its
checksum, and fetches nothing.
"""

import base64
import hashlib
import json
import os
import re
from pathlib import Path

from core.errors import InputError

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "map.js")  # one script, in this order


def write_page(path, data):
    """Write the page that shows `data` (plain JSON), whole or not at all. Raises InputError where that cannot be."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(_page(data), encoding="utf-8", newline="\n")  # line ends enter the checksums
        os.replace(temporary, path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise InputError(f"cannot write the report {str(path)!r}: {error.strerror}") from None


def _page(data):
    style, script = _text("page.css"), "".join(map(_text, SCRIPTS))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_checksum(style)}; script-src {_checksum(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": _json(data)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("page.html"))


def _text(name):
    return (HERE / name).read_text(encoding="utf-8")


def _checksum(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data):
    """JSON in ASCII that cannot end the block it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
