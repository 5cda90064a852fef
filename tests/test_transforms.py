"""The test geometry by hand-made pictures, the random crop's statistics, every augmentation by its formula."""

import math

import numpy as np
import pytest
import torch
from pictures import train_transform
from tolerances import assert_within, fixed_point, share_error

from core.errors import InputError
from data.image import augmentations, decode, transforms
from data.image.augmentations import AUGMENTATIONS, draw_affine, draw_colour, uniform

NOISE = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
SQUARE = NOISE[:, :45]
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
ROUNDING = fixed_point(bits=10, taps=3) + 2.0**-11  # cv2.transform's matrix and its offset have 10 bits


def seeded(seed, transform, image):
    torch.manual_seed(seed)
    return transform(image)


def coordinates(height, width):
    """A picture whose pixel at (y, x) is (y, x, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "image, crop, short_side, top, left",
    [
        ((10, 20), (10, 10), 0, 0, 5),
        ((20, 10), (10, 10), 0, 5, 0),
        ((10, 21), (6, 10), 0, 2, 5),
        ((12, 30), (6, 10), 12, 3, 10),
        ((11, 16), (10, 4), 11, 0, 6),
        ((10, 10), (10, 10), 10, 0, 0),
    ],
)
def test_the_centre_crop_sits_exactly(image, crop, short_side, top, left):
    """The short side is as asked for already, so that every pixel can be followed."""
    picture = coordinates(*image)
    cropped = transforms.TestTransform(*crop, short_side)(picture)
    assert cropped.dtype == torch.uint8 and cropped.is_contiguous()
    assert np.array_equal(cropped.numpy(), picture[top : top + crop[0], left : left + crop[1]])


def test_shrinking_averages_blocks():
    blocks = NOISE[:40, :60].astype(float).reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    shrunk = transforms.TestTransform(8, 8, 10)(NOISE[:40, :60]).numpy()
    assert_within(shrunk, blocks[1:9, 3:11], 0.5)  # a mean of 16 integers is exact, and is rounded once


@pytest.mark.parametrize("height, width", [(1, 90), (90, 1), (3, 4), (64, 64), (199, 200)])
def test_any_picture_fills_the_crop(height, width):
    picture = np.full((height, width, 3), (10, 130, 250), np.uint8)
    for transform in (transforms.TestTransform(16, 24), train_transform(16, 24), train_transform(16, 24, augment=())):
        filled = seeded(0, transform, picture)
        assert filled.shape == (16, 24, 3) and (filled == torch.tensor([10, 130, 250])).all()


def test_the_short_side_holds_the_crop():
    with pytest.raises(InputError, match="resize_short_size is 20, smaller than the crop 16x24"):
        transforms.TestTransform(16, 24, 20)


@pytest.mark.parametrize("low, high", [(0.08, 1.0), (0.5, 0.6)])
def test_crops_have_the_promised_area_aspect_and_place(monkeypatch, low, high, record_property):
    """`resize` hands back the crop, whose first and last pixel tell where it was."""
    monkeypatch.setattr(decode, "resize", lambda image, width, height: image)
    picture, transform = coordinates(200, 250), train_transform(8, 8, augment=("crop",), crop_scale=(low, high))
    torch.manual_seed(0)
    crops = [transform(picture).numpy().astype(int) for _ in range(300)]
    heights, widths = np.array([crop.shape[:2] for crop in crops]).T
    tops, lefts = np.array([crop[0, 0, :2] for crop in crops]).T
    areas = heights * widths / (200 * 250)
    # Both sides are rounded to pixels: what was drawn is half a pixel more or less.
    assert np.all((heights + 0.5) * (widths + 0.5) >= low * 200 * 250)
    assert np.all((heights - 0.5) * (widths - 0.5) <= high * 200 * 250)
    assert areas.min() < low + 0.1 * (high - low) and areas.max() > low + 0.8 * (high - low)
    record_property("crops", len(crops))
    record_property("least area", areas.min())
    record_property("largest area", areas.max())
    aspects = np.log(widths / heights) / math.log(4 / 3)
    for one, other in ((heights, widths), (widths, heights)):
        assert ((one - 0.5) / (other + 0.5)).max() <= 4 / 3
    assert aspects.min() < -0.8 and aspects.max() > 0.8
    small = areas < 0.6  # those that have room to move
    for place, room in ((tops, 200 - heights), (lefts, 250 - widths)):
        share = (place / np.maximum(room, 1))[small & (room > 20)]
        assert_within(share.mean(), 0.5, 5 * (12 * len(share)) ** -0.5)  # five deviations of a mean of uniform draws
        assert share.min() < 0.05 and share.max() > 0.95


def test_a_picture_that_no_crop_fits_gives_its_middle(monkeypatch):
    monkeypatch.setattr(decode, "resize", lambda image, width, height: image)
    transform = train_transform(8, 8, augment=("crop",), crop_scale=(1.0, 1.0))
    for height, width in ((12, 200), (200, 12)):
        crop = seeded(0, transform, coordinates(height, width)).numpy()
        assert crop.shape[:2] == (min(height, 16), min(width, 16))
        assert crop[0, 0, :2].tolist() == [(height - min(height, 16)) // 2, (width - min(width, 16)) // 2]


@pytest.mark.parametrize("augment", [*((name,) for name in AUGMENTATIONS), tuple(AUGMENTATIONS)], ids=",".join)
def test_every_augmentation_keeps_the_form_changes_the_picture_and_repeats(augment):
    transform = train_transform(32, 40, augment=augment)
    plain = train_transform(32, 40, augment=())(NOISE)
    results = [seeded(seed, transform, NOISE) for seed in range(12)]
    for seed, result in enumerate(results):
        assert result.shape == (32, 40, 3) and result.dtype == torch.uint8 and result.is_contiguous()
        assert torch.equal(result, seeded(seed, transform, NOISE))
    assert any(not torch.equal(result, plain) for result in results)
    assert any(not torch.equal(result, results[0]) for result in results)


def test_no_augmentation_is_the_test_geometry():
    plain = train_transform(32, 40, short_side=44, augment=())(NOISE)
    assert torch.equal(plain, transforms.TestTransform(32, 40, 44)(NOISE))


def shares(name, *expected):
    """How often, of 300 times, the augmentation `name` gives each of the pictures; and those that are none of them."""
    transform = train_transform(45, 45, augment=(name,))
    torch.manual_seed(1)
    results = [transform(SQUARE).numpy() for _ in range(300)]
    times = [sum(np.array_equal(result, picture) for result in results) / 300 for picture in expected]
    return times, [result for result in results if not any(np.array_equal(result, picture) for picture in expected)]


def test_flip_mirrors_half_of_the_time():
    (same, mirrored), others = shares("flip", SQUARE, SQUARE[:, ::-1])
    assert not others
    assert_within([same, mirrored], 0.5, share_error(0.5, 300))


def test_grey_is_the_luma_one_time_in_five():
    (same,), greys = shares("grey", SQUARE)
    assert_within(same, 0.8, share_error(0.8, 300))
    for grey in greys:
        assert (grey == grey[:, :, :1]).all()
        assert_within(grey[:, :, 0], SQUARE @ LUMA, ROUNDING)


def test_erasing_sets_one_rectangle_to_grey_one_time_in_four():
    (same,), erased = shares("erasing", SQUARE)
    assert_within(same, 0.75, share_error(0.75, 300))
    for picture in erased:
        rows, columns = np.nonzero((picture != SQUARE).any(axis=2))
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert (picture[box] == 128).all() and 0.01 < picture[box].size / SQUARE.size < 0.4


def fixed(monkeypatch, *values):
    monkeypatch.setattr(augmentations, "uniform", lambda low, high, generator: np.array(values, dtype=float))


@pytest.mark.parametrize(
    "hue, saturation, contrast, brightness, formula",
    [
        (0, 1, 1, 1, lambda image: image),
        (0, 1, 1, 1.3, lambda image: 1.3 * image),
        (0, 1, 0.7, 1, lambda image: 128 + 0.7 * (image - 128.0)),
        (0, 1, 0.7, 1.3, lambda image: 1.3 * (128 + 0.7 * (image - 128.0))),
        (0.5, 0, 1, 1, lambda image: (image @ LUMA)[..., None].repeat(3, axis=2)),
    ],
    ids=["neutral", "brightness", "contrast", "both", "no saturation"],
)
def test_colour_formulas(monkeypatch, hue, saturation, contrast, brightness, formula):
    fixed(monkeypatch, hue, saturation, contrast, brightness)
    expected = np.clip(formula(NOISE), 0, 255)
    changed = draw_colour(torch.default_generator)(NOISE)
    assert_within(changed, expected, ROUNDING)
    assert changed.dtype == np.uint8
    if (hue, saturation, contrast, brightness) == (0, 1, 1, 1):
        assert np.array_equal(changed, NOISE)


def test_hue_and_saturation_leave_greys_and_the_luma_alone(monkeypatch):
    fixed(monkeypatch, 0.5, 1.5, 1, 1)
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(draw_colour(torch.default_generator)(greys), greys)
    soft = NOISE // 8 + 112  # stays clear of the clipping at 0 and 255
    turned = draw_colour(torch.default_generator)(soft)
    assert_within(turned @ LUMA, soft @ LUMA, ROUNDING)
    assert np.abs(turned.astype(int) - soft).max() > 5


def test_hue_turns_the_chroma_plane(monkeypatch):
    """A turn by pi gives every colour its complement of the same luma."""
    fixed(monkeypatch, math.pi, 1, 1, 1)
    soft = NOISE // 8 + 112
    luma = (soft @ LUMA)[..., None]
    assert_within(draw_colour(torch.default_generator)(soft), 2 * luma - soft, ROUNDING)


@pytest.mark.parametrize(
    "angle, log_scale, right, down, expected",
    [
        (0, 0, 0, 0, lambda image: image),
        (90, 0, 0, 0, np.rot90),
        (-90, 0, 0, 0, lambda image: np.rot90(image, -1)),
        (0, 0, 0.25, 0, lambda image: np.pad(image, ((0, 0), (5, 0), (0, 0)), constant_values=255)[:, :20]),
        (0, 0, 0, -0.1, lambda image: np.pad(image, ((0, 2), (0, 0), (0, 0)), constant_values=255)[2:]),
    ],
    ids=["neutral", "quarter turn", "quarter turn back", "to the right", "upwards"],
)
def test_affine_by_hand(monkeypatch, angle, log_scale, right, down, expected):
    fixed(monkeypatch, angle, log_scale, right, down)
    image = NOISE[:20, :20]
    assert np.array_equal(draw_affine(torch.default_generator)(image), expected(image))


def test_affine_scales_about_the_centre(monkeypatch):
    fixed(monkeypatch, 0, math.log(0.5), 0, 0)
    image = np.zeros((20, 20, 3), np.uint8)
    dark = draw_affine(torch.default_generator)(image)[:, :, 0] < 128
    assert dark[5:15, 5:15].all() and dark.sum() == 100


def test_uniform_stays_in_its_bounds():
    torch.manual_seed(0)
    draws = np.array([uniform([-15, 0.5], [15, 1.5], torch.default_generator) for _ in range(500)])
    near = 14 / 500 * np.array([30, 1])  # none of 500 draws in such a part of the range: a chance of exp(-14)
    assert (draws.min(axis=0) < [-15, 0.5] + near).all() and (draws.max(axis=0) > [15, 1.5] - near).all()
    assert (draws >= [-15, 0.5]).all() and (draws < [15, 1.5]).all()
