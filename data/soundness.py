"""A quick look at every image file of a list before work begins: what cannot be read is found, for little time."""

import mmap
import os
import shlex
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.items import is_text, member_of, modality_of
from data.audio.files import check_clip
from data.fixes import fix_command, folder_words, read_raw_list
from data.formats.problems import SHOWN_FAULTS
from data.image.decode import decode_whole
from data.image.files import read_bytes
from data.image.header import MAX_PIXELS, image_size
from data.records import Records

# What a file of a format ends in, by what it begins with.
ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82", b"GIF8": b";"}
FIXES_FOLDER = "output/doctor"  # as the doctor has it by itself
QUIET = 2000  # images up to which no progress bar is shown


def refuse_broken_images(lists: Iterable[Records]) -> None:
    """Raise InputError where images of some lists cannot be read: found now, and not in the middle of the work."""
    sentences = []
    # Keys of a dict: in order, and each once, since one csv may hold the lists of both splits.
    advice = {}
    for records in lists:
        # One more than are shown, which tells that there are more.
        broken = first_broken(records, SHOWN_FAULTS + 1)
        sentences += [f"{records.location(row)}: {reason}" for row, reason in broken]
        if broken:
            advice[_way_out(records, broken[0][0])] = None
    if len(sentences) > SHOWN_FAULTS:
        sentences[SHOWN_FAULTS:] = ["and more of them; python reader.py check shows all"]
    if sentences:
        raise InputError("\n".join([*sentences, *advice]))


def _way_out(records: Records, row: int) -> str:
    """What goes on without the images of a list that cannot be read, of which `row` is one: commands, where a list can
    be mended, else what is left to do."""
    is_list = records.lines is not None or Path(records.source).is_dir()
    try:
        raw = read_raw_list(records.source, None) if is_list else None
    except InputError:  # tar or parquet files, or a list on the disk
        raw = None
    if raw is None:
        return "leave such out, or give --on_bad_image=skip, which passes over all but what is tested on"
    folder = raw.folder
    if raw.kind != "folder":
        # A list need not lie where its paths start from.
        written = next((one.path for one in raw.rows if one.number == records.lines[row]), "")
        path = str(records.paths[row])
        folder = Path(path[: path.rfind(written)] or ".") if written in path else Path(".")
    command = fix_command(raw.file, folder, raw.suffix, Path(FIXES_FOLDER, "fixes.csv"))
    examine = ["python", "reader.py", "doctor", str(raw.file), f"--output_dir={FIXES_FOLDER}"]
    examine += folder_words(raw.file, folder)
    if raw.kind == "folder":
        command += " (with --split=validation, if it is a list to test on)"
    return f"a list without such: {shlex.join(examine)}, and with what you leave in its fixes.csv: {command}"


def first_broken(records: Records, most: int) -> list[tuple[int, str]]:
    """The first images of a list that cannot be read, at most `most` of them: [(row, why), ...].

    Of a list that stays on the disk some rows alone are looked at. Of a file only its header and its end are looked at;
    where these are not as they should be, or its box might lie outside, it is decoded. Damage in the middle of a file
    can escape. On a warm disk 10,000 files take half a second, 10,000 sounds some seconds: of these the header is read
    by what will read them.
    """
    broken = []
    # With None tqdm shows a bar on a terminal only.
    rows = records.inspected
    hidden = len(rows) < QUIET or None
    bar = tqdm(rows, desc=f"looking at {records.noun}s", unit=records.noun, leave=False, disable=hidden)
    for row in bar:
        path, box = records.paths[row], records.box_of(row)
        if is_text(path):
            continue
        try:
            if modality_of(path) == "audio":
                check_clip(path)
            elif not is_sound(path, box):
                decode_whole(read_bytes(path), path, box)
        except OSError as error:
            broken.append((row, f"cannot read image {str(path)!r}: {error.strerror}"))
        except InputError as error:
            broken.append((row, str(error)))
        if len(broken) == most:
            break
    bar.close()
    return broken


def is_sound(path: str | Path, box: np.ndarray | None = None) -> bool:
    """Whether a file's header, its end and its box leave no doubt that it can be read. Raises OSError or InputError."""
    member = member_of(path)
    if member is not None and member.size is None:
        return _is_sound(read_bytes(path), box)
    archive, start = str(path), 0
    if member is not None:
        archive, start = member.archive, member.start
    bytes_of_file = os.path.getsize(archive)
    stop = bytes_of_file if member is None else start + member.size
    # An empty file cannot be mapped.
    if start == stop or stop > bytes_of_file:
        return False
    with open(archive, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)[start:stop]
        try:
            return _is_sound(view, box)
        finally:
            # A map cannot be closed while it is looked into.
            del view


def _is_sound(content: np.ndarray, box: np.ndarray | None) -> bool:
    """As `is_sound`, of a file's bytes (N,) uint8."""
    size = image_size(content)
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return False
    return _ends_well(content) and _fits(box, min(size))


def _ends_well(content: np.ndarray) -> bool:
    """Whether a file's last bytes are what its format ends in, or its length is what its header says."""
    start = content[:12].tobytes()
    for sign, end in ENDS.items():
        if start.startswith(sign):
            return content[-len(end) :].tobytes() == end
    # WebP: the length of what follows stands behind the sign.
    if start[:4] == b"RIFF":
        return struct.unpack_from("<I", start, 4)[0] + 8 == len(content)
    return False


def _fits(box: np.ndarray | None, shorter_side: int) -> bool:
    """Whether a box certainly holds a pixel of a picture, whichever way that is turned."""
    if box is None or np.isnan(box).any():
        return True
    return max(box[0], box[1]) + 1 <= shorter_side
