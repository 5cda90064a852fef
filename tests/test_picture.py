"""report/neighbours.py: frames, places and proportions are looked up in the pixels; files are whole or absent."""

import cv2
import numpy as np
import pytest

from core.errors import InputError
from report import neighbours
from report.drawing import SCALE, WHITE, letterbox, plain_text
from report.neighbours import QUERY, RIGHT, WRONG, neighbour_sheet, side_by_side
from report.png import write_png

PURPLE, ORANGE = (120, 40, 160), (240, 140, 20)


def plain(colour, height=20, width=20):
    return np.full((height, width, 3), colour, np.uint8)


def tile(sheet, row, column, thumbnail=32):
    """Left edge's colour and middle's colour of a tile, from the layout's own constants."""
    side = thumbnail + 2 * (neighbours.FRAME + neighbours.PAD)
    left = neighbours.MARGIN
    if column:
        left += side + neighbours.QUERY_GAP + (column - 1) * (side + neighbours.GAP)
    top = neighbours.MARGIN + 48 + row * (side + neighbours.CAPTION + neighbours.GAP)
    y = SCALE * (top + side // 2)
    return tuple(sheet[y, SCALE * left + 2]), tuple(sheet[y, SCALE * (left + side // 2)])


@pytest.fixture
def rows():
    return [
        (plain(PURPLE), [(plain(PURPLE, 50, 10), True, 0.91), (plain(ORANGE), False, 0.5)]),
        (plain(ORANGE), [(plain(PURPLE, 7, 90), False, 0.8)]),
    ]


def test_frames_tell_query_right_and_wrong(rows):
    sheet = neighbour_sheet(rows, thumbnail=32)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert tile(sheet, 0, 0) == (QUERY, PURPLE)
    assert tile(sheet, 0, 1) == (RIGHT, PURPLE)
    assert tile(sheet, 0, 2) == (WRONG, ORANGE)
    assert tile(sheet, 1, 0) == (QUERY, ORANGE)
    assert tile(sheet, 1, 1) == (WRONG, PURPLE)
    assert tile(sheet, 1, 2) == (WHITE, WHITE)  # this query has one neighbour only


def test_the_same_picture_is_on_disk(rows, tmp_path):
    path = tmp_path / "neighbours.png"
    sheet = neighbour_sheet(rows, path, title="Neighbours", captions=["one", "a name far too long for its tile"])
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], sheet)
    assert [found.name for found in tmp_path.iterdir()] == ["neighbours.png"]


def test_captions_and_scores_stay_on_their_side(rows):
    without = neighbour_sheet(rows, thumbnail=32)
    captioned = neighbour_sheet(rows, thumbnail=32, captions=["a name far too long for its tile", ""])
    changed = np.nonzero((without != captioned).any(axis=(0, 2)))[0]
    side = 32 + 2 * (neighbours.FRAME + neighbours.PAD)
    assert len(changed) > 0
    assert changed.min() >= SCALE * neighbours.MARGIN - 2 and changed.max() <= SCALE * (neighbours.MARGIN + side) + 2


def test_labels_stand_below_the_scores(rows):
    """Below each tile a line of its own, of which the sheet grows; the tiles stay what they were."""
    without = neighbour_sheet(rows, thumbnail=32)
    texts = [("own", ["first", "a label far too long for its tile"]), ("", ["x" * 100_000])]
    sheet = neighbour_sheet(rows, thumbnail=32, labels=texts)
    assert len(sheet) == len(without) + 2 * SCALE * neighbours.LABEL
    side = 32 + 2 * (neighbours.FRAME + neighbours.PAD)
    bottom = neighbours.MARGIN + 48 + side
    assert (sheet[: SCALE * (bottom + 17)] == without[: SCALE * (bottom + 17)]).all()
    assert tile(sheet, 0, 1) == (RIGHT, PURPLE) and tile(sheet, 0, 2) == (WRONG, ORANGE)
    line = sheet[SCALE * (bottom + 18) : SCALE * (bottom + neighbours.CAPTION + neighbours.LABEL)] != 255
    inked = np.flatnonzero(line.any(axis=(0, 2)))
    tiles = [(left, left + side) for left in (22, 22 + side + 26, 22 + side + 26 + side + 12)]
    for left, right in tiles:
        assert ((inked >= SCALE * left) & (inked <= SCALE * right)).any()
    assert all(any(SCALE * left - 2 <= x <= SCALE * right + 2 for left, right in tiles) for x in inked)


@pytest.mark.parametrize(
    "text, drawn",
    [
        ("nine o’clock", "nine o'clock"),
        ("“Façade” – crème…", '"Facade" - creme...'),
        ("Straße Łódź Ærø", "Strasse Lodz AEro"),
        ("猫 九", "? ?"),
        ("caf\udce9\n\x1b[1m", "caf???[1m"),
        ("ﬁne\u00a0½", "fine 1/2"),
        ("", ""),
    ],
)
def test_only_ascii_can_be_drawn(text, drawn):
    assert plain_text(text) == drawn


def test_any_text_can_be_drawn(rows):
    odd = "caf\udce9 猫 “x”"
    sheet = neighbour_sheet(rows, title=odd, captions=[odd, ""], labels=[(odd, [odd, "y"]), (odd, [odd])])
    plain = plain_text(odd)
    same = neighbour_sheet(rows, title=plain, captions=[plain, ""], labels=[(plain, [plain, "y"]), (plain, [plain])])
    assert (sheet == same).all()


@pytest.mark.parametrize("height, width", [(40, 20), (20, 40), (300, 100), (1, 200), (31, 31)])
def test_letterbox_keeps_proportions(height, width):
    inside = (letterbox(plain(PURPLE, height, width), 30) != 255).any(axis=2)
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    longest = max(height, width)
    assert rows.sum() == max(1, round(30 * height / longest))
    assert columns.sum() == max(1, round(30 * width / longest))
    for filled in (rows, columns):  # centred, up to the odd pixel
        first, last = np.nonzero(filled)[0][[0, -1]]
        assert abs(first - (29 - last)) <= 1


def test_side_by_side_keeps_both_sheets(rows, tmp_path):
    first, second = neighbour_sheet(rows, thumbnail=32), neighbour_sheet(rows[:1], tmp_path / "b.png", thumbnail=32)
    joined = side_by_side([first, tmp_path / "b.png"], ["before", "after"], tmp_path / "both.png")
    head = len(joined) - len(first)
    np.testing.assert_array_equal(joined[head:, : first.shape[1]], first)
    np.testing.assert_array_equal(joined[head : head + len(second), -second.shape[1] :], second)
    assert (joined[:head, : first.shape[1]] != 255).any() and (joined[:head, -second.shape[1] :] != 255).any()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "both.png"))[..., ::-1], joined)


def test_what_cannot_be_is_refused(rows, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "nowhere" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match=f"cannot write '{path}'"):
            write_png(plain(PURPLE), path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder.png"]
    with pytest.raises(InputError, match="cannot read the picture .*nothing.png"):
        side_by_side([tmp_path / "nothing.png"], ["x"])
    with pytest.raises(InputError, match="at least one query"):
        neighbour_sheet([])
