"""Image files to pixels: grey, alpha and turned pictures, boxes, and files that are none."""

import gc
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

import loader
import reader
from errors import InputError
from samplers import InOrder
from transforms import TrainTransform

COLOURS = np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 0]]])  # RGB: red, green; blue, olive
PICTURE = COLOURS.repeat(16, axis=0).repeat(24, axis=1)  # 32 x 48


def write(path, image):
    cv2.imwrite(str(path), image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.ndim == 3 else image)
    return path


def test_colours_are_rgb(tmp_path):
    assert np.array_equal(reader.read_image(write(tmp_path / "a.png", PICTURE)), PICTURE)
    loaded = reader.read_image(write(tmp_path / "a.jpg", PICTURE))
    assert loaded.dtype == np.uint8 and loaded.shape == (32, 48, 3)
    assert np.abs(loaded[4:12, 4:20].astype(int) - [255, 0, 0]).max() < 16


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    assert np.array_equal(reader.read_image(write(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=2))


def test_alpha_and_depth_are_dropped(tmp_path):
    alpha = np.full((32, 48, 1), 255, np.uint8)
    assert np.array_equal(reader.read_image(write(tmp_path / "a.png", np.concatenate([PICTURE, alpha], 2))), PICTURE)
    deep = reader.read_image(write(tmp_path / "b.png", PICTURE.astype(np.uint16) * 257))
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
    expected = np.rot90(reader.read_image(tmp_path / "plain.jpg"), quarters)
    assert np.array_equal(reader.read_image(path), expected)


def test_boxes_crop_the_right_pixels(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = write(tmp_path / "a.png", picture)
    assert np.array_equal(reader.read_image(path, np.array([3.0, 5.0, 10.0, 9.0])), picture[5:9, 3:10])
    assert np.array_equal(reader.read_image(path, np.array([25.0, 15.0, 99.0, 99.0])), picture[15:, 25:])
    assert np.array_equal(reader.read_image(path, np.full(4, np.nan)), picture)
    with pytest.raises(InputError, match=r"box \[30.0, 0.0, 40.0, 10.0\] lies outside of image '.*a.png'"):
        reader.read_image(path, np.array([30.0, 0.0, 40.0, 10.0]))


def test_a_list_gives_each_image_its_box(tmp_path):
    write(tmp_path / "a.png", PICTURE)
    header, rows = "label,path,split,x_1,y_1,x_2,y_2", ["1,a.png,train,24,0,48,16", "1,a.png,train,,,,"]
    (tmp_path / "l.csv").write_text("\n".join([header, *rows]))
    images = reader.open_list("l.csv", tmp_path, "train")
    assert (reader.load(images, 0) == [0, 255, 0]).all() and reader.load(images, 0).shape == (16, 24, 3)
    assert np.array_equal(reader.load(images, 1), PICTURE)


def bomb():
    """A png whose header promises 200000 x 200000 pixels."""
    header = struct.pack(">IIBBBBB", 200000, 200000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return png


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=f"half{suffix}' is not an image"):
        reader.read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a", bomb()], ids=["empty", "text", "header", "bomb"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match="a.jpg' is not an image"):
        reader.read_image(tmp_path / "a.jpg")


def test_what_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone.jpg"):
        with pytest.raises(InputError, match=f"cannot read image '{path}'"):
            reader.read_image(path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_names_a_broken_image(sop_copy, num_workers):
    images = reader.open_list("Ebay_train.txt", sop_copy, "train").take(range(4))
    (sop_copy / images.paths[2]).write_bytes(b"broken")
    batches = loader.open_loader(images, images.labels, TrainTransform(8, 8), InOrder(4, 2), num_workers)
    with pytest.raises(InputError, match="1_2.jpg' is not an image"):
        list(batches)
    gc.collect()  # ends the workers here, not somewhere in a later test


def test_batches_hold_pixels_labels_and_places(sop_tree):
    images = reader.open_list("Ebay_train.txt", sop_tree, "train")
    transform = TrainTransform(40, 48, augment=())
    batches = list(loader.open_loader(images, images.labels, transform, InOrder(30, 16)))
    assert [len(batch[0]) for batch in batches] == [16, 14]
    pixels, labels, places = (torch.cat(column) for column in zip(*batches))
    assert pixels.dtype == torch.uint8 and batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == images.labels.tolist() and places.tolist() == list(range(30))
    for i in (0, 17, 29):
        assert np.array_equal(pixels[i].permute(1, 2, 0).numpy(), transform(reader.load(images, i)).numpy())
