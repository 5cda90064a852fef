"""data/download_sop.sh on a made-up zip of six images: unpacks, resumes, checks, and leaves nothing half done."""

import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "data" / "download_sop.sh"
TOOLS = ("sh", "dirname", "wc", "tr", "cut", "awk", "rm", "mv", "tail", "sha256sum")


@pytest.fixture
def archive(tmp_path):
    """A zip in SOP's form: 4 train images of 2 labels, 2 test images of 1 label."""
    path = tmp_path / "elsewhere" / "sop.zip"
    path.parent.mkdir()
    image = cv2.imencode(".jpg", np.full((8, 8, 3), 120, np.uint8))[1].tobytes()
    with zipfile.ZipFile(path, "w") as sop:
        for name, labels in (("Ebay_train.txt", (1, 1, 2, 2)), ("Ebay_test.txt", (3, 3))):
            lines = ["image_id class_id super_class_id path"]
            for i, label in enumerate(labels, start=1):
                lines.append(f"{i} {label} 1 chair_final/{label}_{i}.JPG")
                sop.writestr(f"Stanford_Online_Products/chair_final/{label}_{i}.JPG", image)
            sop.writestr(f"Stanford_Online_Products/{name}", "\n".join(lines))
    return path


def run(archive, folder, **settings):
    """Run the script into `folder` with the size, checksum and counts of `archive`, changed by `settings`."""
    content = archive.read_bytes()
    facts = {
        "SOP_DIR": folder,
        "SOP_URL": "http://127.0.0.1:9/sop.zip",
        "SOP_SIZE": len(content),
        "SOP_SHA256": hashlib.sha256(content).hexdigest(),
        "SOP_TRAIN": "4 2",
        "SOP_TEST": "2 1",
        "PYTHON": sys.executable,
        "no_proxy": "127.0.0.1",
    }
    environment = {**os.environ, **{name: str(value) for name, value in {**facts, **settings}.items()}}
    return subprocess.run(["sh", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def served(content):
    """Serve `content` on 127.0.0.1, honouring Range; yield the address and the list of ranges asked for."""
    ranges = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            ranges.append(self.headers.get("Range"))
            start = int(ranges[-1].removeprefix("bytes=").rstrip("-")) if ranges[-1] else 0
            self.send_response(206 if ranges[-1] else 200)
            if ranges[-1]:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/sop.zip", ranges
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "my data"
    path.mkdir()
    return path


def assert_whole(folder):
    root = folder / "Stanford_Online_Products"
    assert len(list(root.glob("chair_final/*.JPG"))) == 6
    assert cv2.imread(str(root / "chair_final" / "3_2.JPG")).shape == (8, 8, 3)
    assert not (folder / "Stanford_Online_Products.unpacking").exists()


def test_zip_that_is_there(archive, folder):
    done = run(archive, folder, SOP_ZIP=archive)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
    again = run(archive, folder)
    assert again.returncode == 0 and "done already" in again.stdout


@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_download_goes_on_where_it_stopped(archive, folder, tmp_path, tool, record_property):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (*TOOLS, tool):
        (tools / name).symlink_to(shutil.which(name))
    content = archive.read_bytes()
    (folder / "Stanford_Online_Products.zip.part").write_bytes(content[:500])
    with served(content) as (url, ranges):
        done = run(archive, folder, SOP_URL=f"http://127.0.0.1:9/dead.zip {url}", PATH=tools)
    assert done.returncode == 0, done.stderr
    assert ranges == ["bytes=500-"]
    assert (folder / "Stanford_Online_Products.zip").read_bytes() == content
    record_property("asked for", ", ".join(ranges))
    assert_whole(folder)


def test_download_killed_before_its_renaming_asks_for_nothing(archive, folder):
    shutil.copy(archive, folder / "Stanford_Online_Products.zip.part")
    assert run(archive, folder).returncode == 0
    assert_whole(folder)


def test_dead_address(archive, folder):
    done = run(archive, folder)
    assert done.returncode == 1
    assert "http://127.0.0.1:9/sop.zip" in done.stderr
    assert f"put it at {folder}/Stanford_Online_Products.zip" in done.stderr
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"SOP_TRAIN": "5 2"}, "Ebay_train.txt has 4 2 images and labels, expected 5 2"),
        ({"SOP_TEST": "2 2"}, "Ebay_test.txt has 2 1 images and labels, expected 2 2"),
        ({"SOP_SIZE": 7}, "bytes, expected 7"),
        ({"SOP_SHA256": "0" * 64}, "SHA-256"),
        ({"SOP_DIR": "/nowhere"}, "SOP_DIR=/nowhere: there is no such folder"),
        ({"SOP_ZIP": "/nowhere.zip"}, "SOP_ZIP=/nowhere.zip: there is no such file"),
    ],
)
def test_what_does_not_fit_is_refused(archive, folder, settings, message):
    done = run(archive, folder, **{"SOP_ZIP": archive, **settings})
    assert done.returncode == 1
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(folder.iterdir())


def test_damaged_zip(archive, folder):
    archive.write_bytes(archive.read_bytes()[:-40])
    done = run(archive, folder, SOP_ZIP=archive)
    assert done.returncode == 1 and "cannot unpack" in done.stderr and "Traceback" not in done.stderr
    assert not list(folder.iterdir())


def test_missing_image_in_a_folder_that_is_there(archive, folder):
    run(archive, folder, SOP_ZIP=archive)
    (folder / "Stanford_Online_Products" / "chair_final" / "3_1.JPG").unlink()
    done = run(archive, folder)
    assert done.returncode == 1
    assert "Ebay_test.txt names chair_final/3_1.JPG, which is missing or empty" in done.stderr
