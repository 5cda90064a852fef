"""report/scatter.py: each point is where its numbers say, in its label's colour; frames, legends and animations."""

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from report import scatter as module
from report.board import scatter_picture
from report.drawing import SCALE
from report.scatter import OTHERS, PALETTE, Colouring, Frame, animate, frame_of, scatter, scatter_strip

CORNERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def pixel_of(x, y, frame):
    """Where a point of the plane lies on a scatter's canvas, (row, column)."""
    left, top = module.MARGIN, module.MARGIN + module.HEAD
    column = left + module.SIDE * (x - frame.x + frame.half) / (2 * frame.half)
    row = top + module.SIDE * (frame.y + frame.half - y) / (2 * frame.half)
    return round(SCALE * row), round(SCALE * column)


def mixed(colour):
    """A colour at the opacity of points, on the panel."""
    return module.OPACITY * np.array(colour) + (1 - module.OPACITY) * np.array(module.PANEL)


def test_points_are_where_their_numbers_say_in_the_colour_of_their_label():
    frame = Frame(5, 5, 7)
    points = 1.3 + 0.84 * CORNERS  # not on a line of the grid
    picture = scatter(points, ["cats", "dogs", "cats", "owls"], frame=frame)
    for (x, y), code in zip(points, (0, 1, 0, 2)):
        assert np.abs(picture[pixel_of(x, y, frame)] - mixed(PALETTE[code])).max() <= 1
    empty = scatter(np.array([[100.0, 100.0]]), ["cats"], frame=frame)
    assert (empty[pixel_of(1.3, 1.3, frame)] == module.PANEL).all()


def test_short_names_stand_in_the_middle_of_their_points():
    frame = frame_of(CORNERS)
    named, unnamed = (scatter(CORNERS, [name] * 4, frame=frame) for name in ("7", "seven"))
    middle = pixel_of(5, 5, frame)
    ring = (middle[0] - SCALE * 9, middle[1])
    assert (named[ring] == PALETTE[0]).all() and not (unnamed[ring] == PALETTE[0]).all()


def test_a_frame_shows_all_points_of_all_pictures():
    frame = frame_of(CORNERS, CORNERS - 30)
    assert (frame.x, frame.y) == (-10, -10) and frame.half == pytest.approx(20 * 1.12)
    assert frame_of(np.full((3, 2), 4.0)) == (4, 4, 1)
    assert frame_of(np.array([[0.0, 0.0], [1e-30, 0.0]])).half > 0
    for points in (np.full((3, 2), 4.0), 1e-30 * CORNERS, 1e30 * CORNERS):
        scatter(points, ["a"] * len(points))


def test_the_commonest_labels_have_a_colour():
    few = Colouring.of(["b", "a", "b"])
    assert few.names == ["a", "b"] and few.codes.tolist() == [1, 0, 1] and few.colour(1) == PALETTE[1]
    labels = [f"{number:02}" for number in range(14) for _ in range(number + 1)]
    many = Colouring.of(labels)
    assert many.names == [*(f"{number:02}" for number in range(4, 14)), "4 more"]
    assert [many.colour(many.codes[labels.index(name)]) for name in ("03", "04", "13")] == [OTHERS, *PALETTE[::9]]


def test_a_strip_has_all_pictures_and_one_legend(tmp_path):
    pictures = [(CORNERS * size, f"step {size}") for size in (1, 2, 3, 4, 5)]
    strip = scatter_strip(pictures, ["0", "1", "2", "3"], tmp_path / "strip.png", columns=3)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "strip.png"))[..., ::-1], strip)
    panels = (strip == module.PANEL).all(axis=2)
    cell = SCALE * (module.STRIP_SIDE + module.STRIP_GAP)
    below = SCALE * (module.STRIP_SIDE + module.STRIP_GAP + module.STRIP_HEAD)
    corner = SCALE * (module.MARGIN + module.STRIP_HEAD) + 8, SCALE * module.MARGIN + 8
    shown = [panels[corner[0] + row * below, corner[1] + column * cell] for row in (0, 1) for column in (0, 1, 2)]
    assert shown == [True] * 5 + [False]


def test_an_animation_shows_every_picture(tmp_path):
    pictures = [scatter(CORNERS, ["0", "1", "2", "3"], frame=Frame(5, 5, half)) for half in (7, 8, 9)]
    animate(pictures, tmp_path / "a.gif")
    animation = Image.open(tmp_path / "a.gif")
    assert animation.n_frames == 3
    for number, picture in enumerate(pictures):
        animation.seek(number)
        shown = np.asarray(animation.convert("RGB")).astype(int)
        half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        # Of the edges of points and letters some shades are left out.
        assert shown.shape == half.shape and np.abs(shown - half).mean() < 1
        assert (shown[0] == 255).all()


@pytest.mark.parametrize(
    "points, sentence",
    [
        (np.zeros((3, 3)), r"shape \(3, 3\); a scatter takes \(N, 2\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        (np.array([[np.nan, 0]]), "not finite"),
    ],
)
def test_what_is_no_plane_is_refused(points, sentence):
    with pytest.raises(InputError, match=sentence):
        scatter(points, ["a"] * len(points))


def test_wide_embeddings_are_drawn_by_their_first_components(monkeypatch):
    import torch

    from data.records import Records
    from retrieval.query_gallery import QueryGallery

    labels = np.array([1, 1, 2, 2])
    records = Records.of_columns("x", {"paths": ["a", "b", "c", "d"], "labels": labels})
    drawn = []
    monkeypatch.setattr("report.board.scatter", lambda *arguments: drawn.append(arguments))
    for width in (1, 2, 5):
        table = torch.arange(4 * width).reshape(4, width).float() + 1
        scatter_picture(records, QueryGallery.of(table, labels), "step 3")
    for (points, names, title, caption), width in zip(drawn, (1, 2, 5), strict=True):
        assert points.shape == (4, 2) and names.tolist() == ["1", "1", "2", "2"] and caption == "step 3"
        assert title == ("Embeddings" if width == 2 else "Embeddings of unit length, by PCA")
    np.testing.assert_array_equal(drawn[1][0], [[1, 2], [3, 4], [5, 6], [7, 8]])
