"""Crops of JPEGs decoded at a smaller scale: headers held against OpenCV's decoder, crops against the exact route."""

import io
import math
import pickle
import struct
import sys

import cv2
import numpy as np
import pytest
import torch
from pictures import train_transform
from PIL import Image
from runs import read_json, run, tiny_backbone, train_flags
from tolerances import assert_within

from core.errors import InputError
from data import loader, workers
from data.cache import CACHE_KINDS, Cache
from data.image import decode
from data.image.decode import SCALES, Crop, EncodedJpeg, choose_decoder, decode_whole, open_image
from data.image.files import read_bytes, read_image
from data.image.header import JpegHeader, read_jpeg_header
from data.image.modality import ImageModality
from data.image.resize import resize
from data.image.transforms import TrainTransform
from data.lists import open_list
from data.samplers import Sample

try:
    import simplejpeg
except ImportError:
    simplejpeg = None
NEEDS_SIMPLEJPEG = pytest.mark.skipif(simplejpeg is None, reason="needs requirements/speed.txt")
FAST = ["opencv", pytest.param("simplejpeg", marks=NEEDS_SIMPLEJPEG)]


def smooth(height, width, seed=0):
    """A picture without hard edges: coarse noise enlarged, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image, **options):
    """A JPEG by Pillow, (N,) uint8; `options` are those of its save()."""
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, "JPEG", **{"quality": 92, **options})
    return np.frombuffer(stream.getvalue(), np.uint8)


def exif(orientation, order="<", make=b"maker\0", offset=None):
    """An APP1 segment: the camera's make, then the orientation. `offset`: where it says that the make stands."""
    start = 8 + 2 + 2 * 12 + 4
    entries = struct.pack(order + "HHII", 0x010F, 2, len(make), start if offset is None else offset)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    tiff += struct.pack(order + "H", 2) + entries + struct.pack(order + "I", 0) + make
    return segment(0xE1, b"Exif\0\0" + tiff)


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def attach(encoded, *segments):
    """The JPEG with segments put in after its first two bytes."""
    data = encoded.tobytes()
    return np.frombuffer(data[:2] + b"".join(segments) + data[2:], np.uint8)


def whole(image):
    return cv2.imdecode(image, cv2.IMREAD_COLOR)


KINDS = {
    "colour": lambda image: jpeg(image),
    "4:4:4": lambda image: jpeg(image, subsampling=0),
    "progressive": lambda image: jpeg(image, progressive=True),
    "grey": lambda image: jpeg(Image.fromarray(image).convert("L")),
    "CMYK": lambda image: jpeg(Image.fromarray(image).convert("CMYK")),
    "comment, fill bytes": lambda image: attach(jpeg(image), segment(0xFE, b"\xff\xd9 hello"), b"\xff\xff"),
}
SIZES = [(1, 1), (7, 16), (33, 20), (250, 131)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", SIZES)
def test_headers_say_what_opencv_decodes(kind, height, width):
    plain = KINDS[kind](smooth(height, width))
    for orientation in range(1, 9):
        for order in "<>":
            encoded = attach(plain, exif(orientation, order))
            header = read_jpeg_header(encoded)
            assert header[:4] == (height, width, {"grey": 1, "CMYK": 4}.get(kind, 3), orientation)
            assert header.turned == whole(encoded).shape[:2]
    for scale, flag in decode.SCALE_FLAGS.items():
        assert cv2.imdecode(plain, flag).shape[:2] == (-(-height // scale), -(-width // scale))
    assert read_jpeg_header(plain)[:4] == (height, width, header.components, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("decode", FAST)
def test_turned_pictures_are_cropped_as_they_are_shown(decode, orientation):
    encoded = attach(jpeg(smooth(120, 200)), exif(orientation))
    shown = decode_whole(encoded, "a.jpg")
    opened = open_image(decode, encoded, "a.jpg")
    assert opened.shape == shown.shape
    crop = opened.resized_crop(Crop(30, 50, 60, 40), 60, 40).astype(int)
    # Upright pictures take the fast upsampling, which repeats a colour of 2 x 2 pixels where the other takes a part of
    # its neighbours: a quarter of the difference each way. Blue has 1.772 of it; two conversions round.
    colours = cv2.cvtColor(shown[50:90, 30:90], cv2.COLOR_RGB2YCrCb)[..., 1:].astype(int)
    each_way = np.abs(colours[:, 2:] - colours[:, :-2]).max() + np.abs(colours[2:] - colours[:-2]).max()
    assert_within(crop, shown[50:90, 30:90], 0 if decode == "opencv" or orientation != 1 else 1.772 / 4 * each_way + 2)


def test_a_truncated_header_is_odd():
    encoded = attach(jpeg(smooth(20, 30)), exif(6))
    scan = encoded.tobytes().index(b"\xff\xda")
    assert read_jpeg_header(encoded[: scan + 5]) == (20, 30, 3, 6, None)
    assert all(read_jpeg_header(encoded[:length]) is None for length in range(scan + 4))


XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
PLAIN = jpeg(smooth(40, 60))
FRAME = PLAIN.tobytes().index(b"\xff\xc0")
ODD = {
    "empty": np.empty(0, np.uint8),
    "text": np.frombuffer(b"not an image at all", np.uint8),
    "png": cv2.imencode(".png", smooth(40, 60))[1],
    "webp": cv2.imencode(".webp", smooth(40, 60))[1],
    "Exif second": attach(PLAIN, XMP, exif(6)),
    "Exif, no TIFF": attach(PLAIN, segment(0xE1, b"Exif\0\0?!")),
    "make out of the segment": attach(PLAIN, exif(6, offset=9999)),
    "12 bits": np.r_[PLAIN[: FRAME + 4], np.uint8(12), PLAIN[FRAME + 5 :]],
    "no height": np.r_[PLAIN[: FRAME + 5], np.uint8([0, 0]), PLAIN[FRAME + 7 :]],
    "no frame": np.r_[PLAIN[:FRAME], PLAIN[PLAIN.tobytes().index(b"\xff\xda") :]],
    "no marker": attach(PLAIN, b"\x00\x00"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("decode", FAST)
def test_what_is_odd_takes_the_exact_route(decode, name):
    assert read_jpeg_header(ODD[name]) is None
    try:
        expected = decode_whole(ODD[name], name)
    except InputError as error:
        with pytest.raises(InputError) as refused:
            open_image(decode, ODD[name], name)
        assert str(refused.value) == str(error)
    else:
        assert np.array_equal(open_image(decode, ODD[name], name), expected)


@pytest.mark.parametrize(
    "segments, orientation",
    [((XMP,), 1), ((exif(6), XMP), 6), ((exif(0),), 1), ((exif(9),), 1)],
    ids=["XMP", "Exif, XMP", "0", "9"],
)
def test_orientations_that_are_none(segments, orientation):
    encoded = attach(PLAIN, *segments)
    assert read_jpeg_header(encoded).orientation == orientation
    assert read_jpeg_header(encoded).turned == whole(encoded).shape[:2]


def test_a_damaged_header_is_odd_or_right():
    """Any byte of it changed: what is read from it then is what OpenCV makes of it, if that makes anything."""
    rng, read = np.random.default_rng(0), 0
    intact = attach(PLAIN, exif(6))
    for place in range(2, intact.tobytes().index(b"\xff\xda") + 2):
        for value in rng.integers(0, 256, 3, dtype=np.uint8):
            damaged = intact.copy()
            damaged[place] = value
            header, image = read_jpeg_header(damaged), None
            if header and max(header.height, header.width) < 2000:
                image = whole(damaged)
            if image is not None:
                assert header.turned == image.shape[:2], f"byte {place} = {value}"
                read += 1
    assert read > 500


def test_the_scale_is_the_smallest_that_leaves_the_crop_its_pixels(monkeypatch):
    asked = []

    def scaled(self, scale, rows):
        asked.append(scale)
        return np.zeros((-(-2000 // scale), -(-2000 // scale), 3), np.uint8)

    monkeypatch.setattr(EncodedJpeg, "decode", scaled)
    image = EncodedJpeg("opencv", None, JpegHeader(2000, 2000, 3, 1, None), "a.jpg")
    crops = {(358, 900): 1, (359, 359): 2, (895, 2000): 2, (896, 896): 4, (1792, 1800): 8, (1791, 1800): 4, (9, 9): 1}
    for (width, height), scale in crops.items():
        assert image.resized_crop(Crop(3, 5, width, height), 224, 224).shape == (224, 224, 3)
        assert asked.pop() == scale, (width, height)
    image.resized_crop(Crop(0, 0, 200, 400), 100, 50)
    assert asked == [2]


@pytest.mark.parametrize("decode", FAST)
@pytest.mark.parametrize("shrink, scale", [(1.3, 1), (1.6, 2), (1.9, 2), (2.7, 2), (3.7, 2), (4, 4), (4.5, 4), (9, 8)])
def test_crops_are_close_to_the_exact_ones(decode, shrink, scale):
    """To those whose edges are pixels of what is decoded; the others are as much as half of one apart.

    Closer than exact ones would be that are moved by a quarter of such a pixel, or by a whole one of the image.
    """
    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.normal(scale=30, size=(300, 333, 3)), (1000, 900), interpolation=cv2.INTER_CUBIC)
    encoded, side = jpeg(np.clip(smooth(900, 1000) + grain, 0, 255).astype(np.uint8)), 96
    opened, exact = open_image(decode, encoded, "a.jpg"), decode_whole(encoded, "a.jpg")
    for left, top in ((0, 0), (1, 2), (5, 9), (33, 31)):
        size = int(side * shrink) + 1
        crop = opened.resized_crop(Crop(left, top, size, size), side, side)
        (left, right), (top, bottom) = (
            (math.floor(start / scale + 0.5) * scale, math.floor((start + size) / scale + 0.5) * scale)
            for start in (left, top)
        )
        expected, move = resize(exact[top:bottom, left:right], side, side).astype(float), max(1, scale // 4)
        moved = resize(exact[top:bottom, left + move : right + move], side, side)
        error, allowed = (((one - expected) ** 2).mean() ** 0.5 for one in (crop, moved))
        assert_within(error, 0, allowed)


@NEEDS_SIMPLEJPEG
@pytest.mark.parametrize(
    "options", [{"subsampling": s} for s in range(3)] + [{"restart_marker_rows": 2}, {"grey": True}]
)
def test_rows_below_a_crop_are_not_decoded(options):
    """And the crop is the same as if they had been."""
    image = Image.fromarray(smooth(610, 470))
    encoded = jpeg(image.convert("L") if options.pop("grey", False) else image, **options)
    torn = encoded.copy()
    torn[-len(torn) // 5 : -2] = 0
    uncut = attach(encoded, segment(0xFE, b"")).tobytes() + b"x"  # no end at the end, so all is decoded
    for bottom in (17, 32, 96, 200, 333):
        for side in (16, 33, 50, 180):
            crop = Crop(11, 0, 450, bottom), 2 * side, side
            crops = [
                open_image("simplejpeg", e, "a.jpg").resized_crop(*crop)
                for e in (encoded, torn, np.frombuffer(uncut, np.uint8))
            ]
            assert np.array_equal(crops[0], crops[1]) and np.array_equal(crops[0], crops[2]), (bottom, side)


@pytest.mark.parametrize("decode", FAST)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_crops_of_few_pixels(decode, side):
    opened = open_image(decode, jpeg(smooth(40, 60)), "a.jpg")
    for left in range(24):
        for width in range(1, 36):
            assert opened.resized_crop(Crop(left, 39 - left, width, left + 1), side, 1).shape == (1, side, 3)


@pytest.mark.parametrize("decode", FAST)
@pytest.mark.parametrize("width", [100, 170, 195, 201, 250, 400, 700])
def test_crops_sit_where_they_were_drawn(decode, width):
    """A pixel of the crop is as bright as its place is far to the right, and half as bright as it is far down."""
    height = width - 9
    rows, columns = np.mgrid[:800, :800]
    ramp = np.stack([columns * 0.3, rows * 0.3, 0 * rows], axis=2)
    opened = open_image(decode, jpeg(np.round(ramp).astype(np.uint8), quality=95, subsampling=0), "a.jpg")
    for left, top in ((0, 0), (1, 6), (34, 51), (97, 99)):
        crop = opened.resized_crop(Crop(left, top, width, height), 96, 80)
        across = 0.3 * (left + (np.arange(96) + 0.5) * width / 96 - 0.5)
        down = 0.3 * (top + (np.arange(80) + 0.5) * height / 80 - 0.5)
        half = 0.15 * next((scale for scale, least in SCALES.items() if height / 80 >= least), 1)  # pixel
        # Grey levels are rounded, in integers that are the same on every processor.
        assert abs(crop[:, 2:-2, 0].mean(axis=0) - across[2:-2]).max() < half + 0.45
        assert abs(np.mean(crop[:, :, 0].mean(axis=0) - across)) <= half + 0.04
        assert abs(np.mean(crop[:, :, 1].mean(axis=1) - down)) <= half + 0.04


def write_set(folder):
    """A list of six images: JPEGs large and small, one turned, one progressive, one grey; a webp; half with a box."""
    big = smooth(400, 500)
    files = {
        "big.jpg": jpeg(big),
        "turned.jpg": attach(jpeg(smooth(390, 310, 1)), exif(6)),
        "progressive.jpg": jpeg(smooth(300, 450, 2), progressive=True),
        "grey.jpg": jpeg(Image.fromarray(smooth(280, 320, 3)).convert("L")),
        "small.jpg": jpeg(smooth(30, 40, 4)),
        "drawing.webp": cv2.imencode(".webp", big)[1],
    }
    lines = ["label,path,split,x_1,y_1,x_2,y_2"]
    for number, (name, encoded) in enumerate(files.items()):
        (folder / name).write_bytes(encoded.tobytes())
        lines.append(f"{number % 2},{name},train," + ("10,5,300,280" if number % 2 else ",,,"))
    (folder / "list.csv").write_text("\n".join(lines))
    return open_list("list.csv", folder, "train")


def batches(images, draws=24, num_workers=0, decode="exact", cache_bytes=0, cache_kind="encoded"):
    """The batches of `draws` images in turn, seeded 0, 1, …: crops of 64 x 56 pixels."""
    cache = Cache(cache_kind, images.paths, cache_bytes)
    modality = ImageModality(TrainTransform(56, 64, 0, ("crop", "flip"), (0.3, 1.0)), decode, cache)
    table = [[Sample(i % len(images), i) for i in range(s, s + 4)] for s in range(0, draws, 4)]
    return list(loader.open_loader(images, modality, table, num_workers))


@pytest.mark.parametrize("decode", FAST)
def test_the_same_numbers_are_drawn_whatever_the_decoder(tmp_path, monkeypatch, decode):
    images, drawn = write_set(tmp_path), []
    draw_crop = TrainTransform.draw_crop

    def record(self, height, width, generator):
        drawn.append(((height, width), draw_crop(self, height, width, generator)))
        return drawn[-1][1]

    monkeypatch.setattr(TrainTransform, "draw_crop", record)
    exact = batches(images)
    expected = drawn.copy()
    drawn.clear()
    crops = batches(images, decode=decode)
    assert drawn == expected and len({size for size, _ in drawn}) == 4
    for crop, other in zip(torch.cat([b[0] for b in crops]), torch.cat([b[0] for b in exact]), strict=True):
        apart, flipped = ((crop.float() - picture.float()).abs().mean() for picture in (other, other.flip(2)))
        assert apart < flipped / 4


@pytest.mark.parametrize("decode", FAST)
def test_formats_without_scales_are_left_alone(tmp_path, decode):
    images = write_set(tmp_path).take([5])
    for ours, exact in zip(batches(images, decode=decode), batches(images), strict=True):
        assert torch.equal(ours[0], exact[0])


@pytest.mark.parametrize("decode", ["exact", *FAST])
def test_boxes_are_cropped_first(tmp_path, decode):
    quarters = np.zeros((300, 400, 3), np.uint8)
    quarters[:150, :200], quarters[:150, 200:], quarters[150:, :200] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    encoded, transform = jpeg(quarters, subsampling=0), train_transform(32, 32)
    for box, colour in (([200, 0, 400, 150], 1), ([208, 8, 999, 142], 1), ([0, 158, 192, 300], 2)):
        opened = open_image(decode, encoded, "a.jpg", np.array(box, dtype=float))
        for _ in range(20):
            means = transform(opened).float().mean(dim=(0, 1))
            assert means[colour] > 235 and means.sum() - means[colour] < 20
    with pytest.raises(InputError, match=r"box \[400.0, 0.0, 500.0, 10.0\] lies outside of image 'a.jpg'"):
        open_image(decode, encoded, "a.jpg", np.array([400.0, 0, 500, 10]))


@pytest.mark.parametrize("decode", FAST)
@pytest.mark.parametrize("size", [400, 40])
def test_a_jpeg_that_ends_too_early_is_refused(decode, size):
    encoded = jpeg(smooth(450, 450))
    opened = open_image(decode, encoded[: len(encoded) * 2 // 3], "half.jpg")
    with pytest.raises(InputError, match="'half.jpg' is not an image that OpenCV can decode"):
        opened.resized_crop(Crop(0, 0, size, size), 40, 40)


@NEEDS_SIMPLEJPEG
@pytest.mark.parametrize("kind, orientation", [("CMYK", 1), ("colour", 6), ("grey", 3)])
def test_simplejpeg_leaves_to_opencv_what_it_cannot_do(kind, orientation):
    encoded = attach(KINDS[kind](smooth(200, 230)), exif(orientation))
    crops = [
        open_image(name, encoded, "a.jpg").resized_crop(Crop(3, 5, 180, 170), 64, 64)
        for name in ("opencv", "simplejpeg")
    ]
    assert np.array_equal(*crops)


@pytest.mark.parametrize("kind, load", [("encoded", read_bytes), ("decoded", read_image)])
def test_images_are_kept_within_the_limit(tmp_path, kind, load):
    images = write_set(tmp_path)
    expected = [load(path) for path in images.paths]
    everything = sum(array.nbytes + 4 for array in expected)
    for limit in (0, 1, expected[0].nbytes, expected[0].nbytes + 4, everything - 1, everything, 10**9):
        cache = Cache(kind, images.paths, limit)
        assert cache.nbytes <= limit
        for _ in range(2):
            for path, array in zip(images.paths, expected, strict=True):
                assert np.array_equal(cache.read(path), array)
    assert cache.nbytes == everything
    (tmp_path / "big.jpg").unlink()
    assert np.array_equal(cache.read(images.paths[0]), expected[0])
    with pytest.raises(InputError, match="cannot read image '.*big.jpg'"):
        Cache(kind, images.paths[1:], 10**9).read(images.paths[0])
    assert Cache(kind, [images.paths[1]] * 3, 10**9).nbytes == expected[1].nbytes + 4


def test_a_file_that_has_changed_is_not_kept(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"first")
    cache = Cache("encoded", [path], 100)
    for content in (b"longer", b"short", b"longer"):
        path.write_bytes(content)
        assert cache.read(path).tobytes() == (content if content != b"longer" or not cache.lengths[0] else b"short")


def test_what_is_no_image_is_not_kept_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no image")
    cache = Cache("decoded", [path], 10**6)
    assert cache.nbytes == 0
    with pytest.raises(InputError, match="is not an image that OpenCV can decode"):
        cache.read(path)


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_forked_workers_share_what_is_kept_and_others_keep_nothing(tmp_path, kind):
    images = write_set(tmp_path)
    modality = ImageModality(train_transform(8, 8), cache=Cache(kind, images.paths, 10**7))
    draws = [[Sample(i, i)] for i in range(6)]
    feed = loader.open_loader(images, modality, draws, 2)
    if feed.multiprocessing_context is None and torch.multiprocessing.get_start_method() == "fork":
        list(feed)
        assert len(feed.dataset.modality.cache.lengths) == 6 and feed.dataset.modality.cache.lengths.all()
    spawned = pickle.loads(pickle.dumps(feed.dataset.modality.cache))
    assert (spawned.kind, spawned.nbytes) == (kind, 0)


@pytest.mark.parametrize("decode, kind", [("exact", "decoded"), *((name, "encoded") for name in ("exact", *FAST))])
def test_workers_and_cache_leave_the_batches_alone(tmp_path, decode, kind):
    images = write_set(tmp_path)
    alone = batches(images, decode=decode)
    half = sum(array.nbytes for array in map(CACHE_KINDS[kind][0], images.paths)) // 2
    for num_workers, cache_bytes in ((0, half), (0, 10**9), (2, 0), (2, half), (2, 10**9)):
        loading = {"num_workers": num_workers, "cache_bytes": cache_bytes, "cache_kind": kind}
        helped = batches(images, decode=decode, **loading)
        for mine, theirs in zip(alone, helped, strict=True):
            assert all(torch.equal(*columns) for columns in zip(mine, theirs, strict=True))
            assert theirs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cores, counts", [(1, (0, 1)), (2, (0, 1)), (6, (0, 5)), (64, (0, 8))])
def test_automatic_workers(monkeypatch, cores, counts):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    assert tuple(workers.worker_count("auto", images) for images in (60, 60000)) == counts
    assert workers.worker_count(3, 60) == 3


def test_a_missing_package_is_named(monkeypatch, sop_tree, tmp_path):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert [choose_decoder(name) for name in ("auto", "opencv", "exact")] == ["opencv", "opencv", "exact"]
    with tiny_backbone(), pytest.raises(InputError, match="simplejpeg: pip install -r requirements/speed.txt$"):
        run("train_elem", train_flags(sop_tree, tmp_path / "run", decode="simplejpeg"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind, decoder", [("encoded", choose_decoder("auto")), ("decoded", "exact")])
def test_a_run_remembers_its_decoder(sop_tree, tmp_path, kind, decoder):
    with tiny_backbone():
        run("train_elem", train_flags(sop_tree, tmp_path / "run", cache_bytes="1MB", cache_kind=kind))
    flags = read_json(tmp_path / "run" / "config.json")["flags"]
    assert (flags["decode"], flags["cache_bytes"], flags["cache_kind"]) == (decoder, 10**6, kind)
