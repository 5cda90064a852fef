"""Small modules of OML's: images and boxes in other sizes, hashes and files of addresses, columns of batches."""

import hashlib

import numpy as np
import pytest
import torch

from compat.oml.functional.label_smoothing import label_smoothing
from compat.oml.functional.losses import surrogate_precision
from compat.oml.losses import SurrogatePrecision
from compat.oml.metrics.accumulation import Accumulator
from compat.oml.utils import io
from compat.oml.utils.images.images import square_pad
from compat.oml.utils.images.images_resize import (
    inverse_karesize_bboxes,
    inverse_karesize_image,
    karesize_bboxes,
    karesize_image,
)
from core.errors import InputError


@pytest.mark.parametrize("kind", ["array", "grey array", "mask", "tensor", "batch"])
def test_images_keep_their_sides_ratio_and_come_back(kind):
    rows, columns = np.mgrid[:20, :60]
    image = (2 * rows + columns).astype(np.float32)
    made = {"array": np.stack([image] * 3, 2), "grey array": image, "mask": torch.from_numpy(image > 40)}
    made |= {"tensor": torch.from_numpy(image)[None], "batch": torch.from_numpy(image).expand(2, 3, 20, 60)}
    source = made[kind]
    resized = karesize_image(source, (40, 60))
    again = inverse_karesize_image(resized, (20, 60))
    height = 0 if isinstance(source, np.ndarray) else -2
    assert resized.shape[height] == 40 and again.shape == source.shape and again.dtype == source.dtype
    # Of the same width it is the image itself between black.
    assert abs(np.asarray(again, np.float32) - np.asarray(source, np.float32)).max() == 0
    wide = karesize_image(source, (40, 120))
    assert abs(np.asarray(inverse_karesize_image(wide, (20, 60)), float) - np.asarray(source, float)).max() < 2.5


def test_boxes_go_with_their_image():
    boxes = np.array([[0.0, 0, 60, 20], [6, 2, 12, 4]])
    moved = karesize_bboxes(boxes, (20, 60), (100, 120))
    assert moved.tolist() == [[0, 30, 120, 70], [12, 34, 24, 38]]
    for found in (moved, torch.from_numpy(moved)):
        assert np.allclose(inverse_karesize_bboxes(found, (100, 120), (20, 60)), boxes)
    assert square_pad(np.zeros((2, 6, 3), np.uint8)).shape == (6, 6, 3)
    with pytest.raises(AssertionError, match=r"boxes are \(N, 4\)"):
        karesize_bboxes(boxes[:, :3], (20, 60), (100, 120))


def test_hashes_and_files_of_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    file = tmp_path / "folder" / "weights.ckpt"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    md5 = hashlib.md5(b"weights").hexdigest()
    assert io.calc_hash(file) == io.calc_hash(b"weights") == md5
    folder = hashlib.md5(b"weights.ckpt" + md5.encode()).hexdigest()
    assert io.check_exists_and_validate_md5(file.parent, folder) and not io.check_exists_and_validate_md5(
        file, "0" * 32
    )
    assert io.download_file_from_url(file.as_uri()) == b"weights"
    kept = io.download_checkpoint_one_of(["nowhere", file.as_uri()], md5[:6])
    assert kept == str(tmp_path / "home" / "hub" / "checkpoints" / "weights.ckpt") and io.calc_hash(kept) == md5
    with pytest.raises(InputError, match="Google Drive"):
        io.download_checkpoint("1plPnwyIkzg51", md5)


def test_columns_of_batches_come_in_the_order_of_their_items():
    accumulator = Accumulator(("tensors", "arrays", "lists"))
    accumulator.refresh(5)
    for rows in ([4, 0], [2, 4, 1]):
        batch = {"tensors": torch.tensor(rows) * 10, "arrays": np.array(rows), "lists": [str(row) for row in rows]}
        accumulator.update_data(batch, indices=rows)
    synced = accumulator.sync()
    assert synced.storage["tensors"].tolist() == [0, 10, 20, 40] and synced.storage["lists"] == ["0", "1", "2", "4"]
    assert synced.collected_samples == 4 and synced.storage["arrays"].tolist() == [0, 1, 2, 4]
    accumulator.refresh(3)
    accumulator.update_data({"tensors": torch.ones(2), "arrays": np.ones(2), "lists": [1, 2]})
    with pytest.raises(ValueError, match="2 of 3 items"):
        accumulator.sync()
    with pytest.raises(RuntimeError, match="has indices"):
        accumulator.update_data({"tensors": torch.ones(1), "arrays": np.ones(1), "lists": [1]}, indices=[2])
    with pytest.raises(AssertionError, match="one length"):
        accumulator.update_data({"tensors": torch.ones(1), "arrays": np.ones(2), "lists": [1]})


def test_what_losses_are_made_of():
    torch.manual_seed(0)
    features, labels = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    distances = torch.cdist(features, features)
    # The loss counts each row among its positives, and itself among k.
    precision = surrogate_precision(distances, (labels[:, None] == labels).double(), k=3 + 1, t1=1.0, t2=0.1)
    loss = SurrogatePrecision(k=3, temperature1=1.0, temperature2=0.1)(features, labels)
    assert float(1 - precision) == pytest.approx(float(loss), abs=1e-5)
    shares = label_smoothing(torch.tensor([0, 3]), 4, 0.2, torch.tensor([5, 5, 7, 7]))
    assert torch.allclose(shares, torch.tensor([[0.9, 0.1, 0, 0], [0, 0, 0.1, 0.9]]))
