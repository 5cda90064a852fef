"""Image files to pixels: grey, alpha and turned pictures, boxes, files that are none, and those that are too large."""

import gc
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import torch
from pictures import train_transform
from PIL import Image

from core.errors import InputError
from data import loader
from data.image import header, transforms
from data.image.decode import decode_whole, open_image
from data.image.files import load, read_image
from data.image.modality import ImageModality
from data.lists import open_list
from data.samplers import InOrder

COLOURS = np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 0]]])  # RGB: red, green; blue, olive
PICTURE = COLOURS.repeat(16, axis=0).repeat(24, axis=1)  # 32 x 48


def write(path, image):
    cv2.imwrite(str(path), image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.ndim == 3 else image)
    return path


def test_colours_are_rgb(tmp_path):
    assert np.array_equal(read_image(write(tmp_path / "a.png", PICTURE)), PICTURE)
    loaded = read_image(write(tmp_path / "a.jpg", PICTURE))
    assert loaded.dtype == np.uint8 and loaded.shape == (32, 48, 3)
    assert np.abs(loaded[4:12, 4:20].astype(int) - [255, 0, 0]).max() < 16  # it is lossy; BGR would be 255 off


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    assert np.array_equal(read_image(write(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=2))


def test_alpha_and_depth_are_dropped(tmp_path):
    alpha = np.full((32, 48, 1), 255, np.uint8)
    assert np.array_equal(read_image(write(tmp_path / "a.png", np.concatenate([PICTURE, alpha], 2))), PICTURE)
    deep = read_image(write(tmp_path / "b.png", PICTURE.astype(np.uint16) * 257))
    assert deep.dtype == np.uint8 and np.array_equal(deep, PICTURE)


@pytest.mark.parametrize("orientation, quarters", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, orientation, quarters):
    """Orientation 6 asks for a quarter turn clockwise, 8 for one counter-clockwise (Exif 2.3, tag 0x0112)."""
    plain = cv2.imencode(".jpg", PICTURE[:, :, ::-1])[1].tobytes()
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + tag + b"\0\0\0\0"
    path = tmp_path / "turned.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    (tmp_path / "plain.jpg").write_bytes(plain)
    expected = np.rot90(read_image(tmp_path / "plain.jpg"), quarters)
    assert np.array_equal(read_image(path), expected)


def test_boxes_crop_the_right_pixels(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = write(tmp_path / "a.png", picture)
    assert np.array_equal(read_image(path, np.array([3.0, 5.0, 10.0, 9.0])), picture[5:9, 3:10])
    assert np.array_equal(read_image(path, np.array([25.0, 15.0, 99.0, 99.0])), picture[15:, 25:])
    assert np.array_equal(read_image(path, np.full(4, np.nan)), picture)
    with pytest.raises(InputError, match=r"box \[30.0, 0.0, 40.0, 10.0\] lies outside of image '.*a.png'"):
        read_image(path, np.array([30.0, 0.0, 40.0, 10.0]))


def test_a_list_gives_each_image_its_box(tmp_path):
    write(tmp_path / "a.png", PICTURE)
    header, rows = "label,path,split,x_1,y_1,x_2,y_2", ["1,a.png,train,24,0,48,16", "1,a.png,train,,,,"]
    (tmp_path / "l.csv").write_text("\n".join([header, *rows]))
    images = open_list("l.csv", tmp_path, "train")
    assert (load(images, 0) == [0, 255, 0]).all() and load(images, 0).shape == (16, 24, 3)
    assert np.array_equal(load(images, 1), PICTURE)


def pil(image, form, **options):
    """An image encoded by Pillow, as bytes."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def frames(form):
    """A file of a red, a green and a blue picture of 30 x 20 pixels."""
    first, *rest = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    return pil(first, form, save_all=True, append_images=rest, **({"lossless": True} if form == "WEBP" else {}))


def decode(encoded):
    return decode_whole(np.frombuffer(encoded, np.uint8), "a.jpg")


def test_cmyk_becomes_rgb():
    red = pil(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG")
    assert np.abs(decode(red).astype(int) - [255, 0, 0]).max() < 4  # lossy, of one colour


def test_sixteen_bits_become_eight():
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    for suffix in (".png", ".tiff"):
        grey = decode(cv2.imencode(suffix, deep)[1].tobytes())
        assert grey.dtype == np.uint8 and np.abs(grey[..., 0].astype(int) - deep / 257).max() <= 1  # the upper 8 bits


@pytest.mark.parametrize("form, shown", [("PNG", (10, 200, 30)), ("WEBP", (10, 200, 30)), ("TIFF", (0, 0, 0))])
def test_what_is_transparent(form, shown):
    """Alpha is dropped, and what colour the file has there is seen; in a TIFF, libtiff lays it on black."""
    clear = Image.new("RGBA", (30, 20), (10, 200, 30, 0))
    lossless = {"lossless": True, "exact": True} if form == "WEBP" else {}
    assert (decode(pil(clear, form, **lossless)) == shown).all()


def test_one_pixel_is_enough():
    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        pixel = decode(pil(Image.new("RGB", (1, 1), "white"), form))
        assert pixel.shape == (1, 1, 3) and pixel.min() > 250
        for transform in (transforms.TestTransform(8, 8), train_transform(8, 8)):
            assert transform(pixel).shape == (8, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_taken(form):
    try:
        image = decode(frames(form))
    except InputError as error:
        assert form == "GIF" and "is not an image" in str(error)  # OpenCV reads GIF from 4.12 on
    else:
        assert image.shape == (20, 30, 3) and (image == [255, 0, 0]).all()


SIDES = (30000, 30000)


def png_of(width, height):
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return png


def patched(form, place, packing, width, height, **options):
    """A small file whose header is made to promise other sides."""
    encoded = bytearray(pil(Image.new("RGB", (30, 20)), form, **options))
    struct.pack_into(packing, encoded, place, width, height)
    return bytes(encoded)


def jpeg_of(width, height, before=b""):
    """A JPEG; before: bytes between two of its segments."""
    encoded = pil(Image.new("RGB", (30, 20)), "JPEG")
    at = encoded.index(b"\xff\xc0")
    frame = bytearray(encoded[at:])
    struct.pack_into(">HH", frame, 5, height, width)
    return encoded[:at] + before + bytes(frame)


def tiff_of(width, height, order="<", is_big=False):
    start, count, entry, wide = ("Q", "Q", "HHQI4x", 16) if is_big else ("I", "H", "HHII", 8)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if is_big else 42)
    head += struct.pack(order + "HH", 8, 0) if is_big else b""
    rows = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8)]
    table = b"".join(struct.pack(order + entry, *row) for row in rows)
    return head + struct.pack(order + start, wide) + struct.pack(order + count, len(rows)) + table + b"\0" * 64


def webp_canvas(width, height):
    chunk = b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_lossless(width, height):
    chunk = b"VP8L" + struct.pack("<IBI", 5, 0x2F, width - 1 | height - 1 << 14)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


LARGE = {
    "JPEG": jpeg_of,
    "JPEG with bytes between its segments": lambda *sides: jpeg_of(*sides, before=b"\0odd\xff\0\xff"),
    "PNG": png_of,
    "BMP": lambda *sides: patched("BMP", 18, "<ii", *sides),
    "BMP from the top": lambda width, height: patched("BMP", 18, "<ii", width, -height),
    "GIF": lambda *sides: patched("GIF", 6, "<HH", *sides),
    "TIFF": tiff_of,
    "TIFF of Motorola's order": lambda *sides: tiff_of(*sides, order=">"),
    "BigTIFF": lambda *sides: tiff_of(*sides, is_big=True),
    "WebP": webp_canvas,
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("decoder", ["exact", "opencv"])
def test_a_bomb_is_refused_by_its_header(kind, decoder):
    """30,000 x 30,000 pixels would be 2.7 GB; nothing is decoded, and nothing of that size is asked for."""
    encoded = np.frombuffer(LARGE[kind](*SIDES), np.uint8)
    tracemalloc.start()
    with pytest.raises(InputError, match="'a.jpg' has 30000x30000 pixels by its header; no more than 178,956,970 are"):
        open_image(decoder, encoded, "a.jpg")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_sides_are_those_of_the_header():
    sizes = {"PNG": {}, "JPEG": {}, "WEBP": {}, "BMP": {}, "TIFF": {}, "GIF": {}}
    for form, options in [*sizes.items(), ("WEBP", {"lossless": True}), ("JPEG", {"progressive": True})]:
        encoded = pil(Image.new("RGB", (301, 17), "teal"), form, **options)
        assert header.image_size(np.frombuffer(encoded, np.uint8)) == (17, 301)
    assert header.image_size(np.frombuffer(webp_lossless(16384, 16000), np.uint8)) == (16000, 16384)
    for form in ("GIF", "WEBP", "TIFF", "PNG"):
        assert header.image_size(np.frombuffer(frames(form), np.uint8)) == (20, 30)


@pytest.mark.parametrize("kind", LARGE)
def test_a_header_without_sides_is_none(kind):
    whole = np.frombuffer(LARGE[kind](*SIDES), np.uint8)
    assert header.image_size(np.frombuffer(LARGE[kind](1, 1), np.uint8)) == (1, 1)
    sizes = {header.image_size(whole[:length]) for length in range(len(whole))}
    assert sizes <= {None, SIDES} and None in sizes


def test_a_directory_beyond_all_bytes_is_none():
    for offset in (2**63, 2**64 - 1, 10**6):
        encoded = b"MM\0+" + struct.pack(">HHQ", 8, 0, offset)
        assert header.image_size(np.frombuffer(encoded, np.uint8)) is None


@pytest.mark.parametrize("sides", [(1, 10**6), (10**6, 1), (3, 4000)])
def test_a_very_long_picture_loses_its_ends(sides):
    """Resized whole it would take 157 GB; of what is left nothing but the middle is seen anyway."""
    image = np.zeros((*sides, 3), np.uint8)
    image[sides[0] // 2, sides[1] // 2] = 255
    seen = transforms.TestTransform(224, 224)(image)
    assert seen.shape == (224, 224, 3) and seen.max() > 200


def test_pictures_that_are_not_that_long_keep_their_ends():
    image = np.random.default_rng(0).integers(0, 256, (20, 320, 3), dtype=np.uint8)
    wide = cv2.resize(image, (512, 32), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(transforms.TestTransform(32, 32)(image).numpy(), wide[:, 240:272])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=f"half{suffix}' is not an image"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        png_of(0, 9),
    ],
    ids=["empty", "text", "GIF header", "JPEG header", "PDF", "SVG", "no width"],
)
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match="a.jpg' is not an image"):
        read_image(tmp_path / "a.jpg")


def test_what_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone.jpg"):
        with pytest.raises(InputError, match=f"cannot read image '{path}'"):
            read_image(path)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_loader_names_a_broken_image(sop_copy, num_workers):
    images = open_list("Ebay_train.txt", sop_copy, "train").take(range(4))
    (sop_copy / images.paths[2]).write_bytes(b"broken")
    batches = loader.open_loader(images, ImageModality(train_transform(8, 8)), InOrder(4, 2), num_workers)
    with pytest.raises(InputError, match="1_2.jpg' is not an image"):
        list(batches)
    gc.collect()  # ends the workers here, not somewhere in a later test


def test_batches_hold_pixels_labels_and_places(sop_tree):
    images = open_list("Ebay_train.txt", sop_tree, "train")
    transform = train_transform(40, 48, augment=())
    batches = list(loader.open_loader(images, ImageModality(transform), InOrder(30, 16)))
    assert [len(batch[0]) for batch in batches] == [16, 14]
    pixels, labels, places = (torch.cat(column) for column in zip(*batches))
    assert pixels.dtype == torch.uint8 and batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == images.vocabulary.codes.tolist() and places.tolist() == list(range(30))
    for i in (0, 17, 29):
        assert np.array_equal(pixels[i].permute(1, 2, 0).numpy(), transform(load(images, i)).numpy())
