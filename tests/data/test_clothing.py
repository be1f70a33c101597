"""The clothing photographs: made from a tiny archive served on this machine, and the real file if at hand."""

import errno
import functools
import hashlib
import http.server
import io
import os
import threading
import zipfile
from typing import Any

import numpy as np
import pooch
import pytest
from PIL import Image

from minitok import files
from minitok.data import clothing

TOP = "clothing-dataset-small-1196151"


def picture(width, height, colour):
    """A JPEG of one colour with white margins outside its central square."""
    image = Image.new("RGB", (width, height), "white")
    side = min(width, height)
    image.paste(colour, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=95)
    return packed.getvalue()


def save(path, arrays: dict[str, Any]):
    np.savez(path, **arrays)


CONTENT = {
    "test/hat/a.jpg": picture(96, 160, "blue"),
    "train/dress/a.jpg": picture(160, 96, "red"),
    "train/dress/b.jpg": picture(96, 96, "lime"),
    "train/hat/0.jpg": picture(64, 64, "blue"),
    "validation/dress/z.jpg": picture(100, 70, "red"),
}
SHA256 = hashlib.sha256(b"".join(name.encode() + CONTENT[name] for name in sorted(CONTENT))).hexdigest()


@pytest.fixture
def served(tmp_path, monkeypatch, cache):
    """An archive of five images at ARCHIVE, files in disorder, no file at hand; gives its path."""
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "small.zip", "w") as archive:
        for name in reversed(CONTENT):
            archive.writestr(f"{TOP}/{name}", CONTENT[name])
        archive.writestr(f"{TOP}/README.md", "words")
        archive.writestr(f"{TOP}/cover.jpg", b"no image of a split")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(clothing, "ARCHIVE", f"http://127.0.0.1:{server.server_port}/small.zip")
    monkeypatch.setattr(clothing, "CONTENT_SHA256", SHA256)
    monkeypatch.setattr(clothing, "COUNTS", {"train": 3, "validation": 1, "test": 1})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MINITOK_DATA", raising=False)
    yield folder / "small.zip"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_archive_is_brought_once_cropped_sorted_and_kept(served, cache):
    images, labels, classes = clothing.load("train")
    assert images.shape == (3, 3, 64, 64)
    assert classes == ("dress", "hat")
    assert labels.tolist() == [0, 0, 1]
    # the white margins are cropped away: each image has one colour
    assert (images.amax((2, 3)) - images.amin((2, 3))).max() < 0.2
    assert images.mean((2, 3)).round().int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    served.unlink()
    assert clothing.load("validation").labels.tolist() == [0]
    assert clothing.load("test").images.mean((2, 3)).round().int().tolist() == [[0, 0, 1]]
    assert os.listdir(cache) == ["clothing64.npz"]


def lanczos(row, size):
    """A row of numbers resized by the plain formula: weights sinc(x) sinc(x / 3) over 6 output pixels."""
    scale = len(row) / size
    places = np.arange(len(row)) + 0.5
    out = []
    for i in range(size):
        x = (places - (i + 0.5) * scale) / scale
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        out.append((weights * row).sum() / weights.sum())
    return np.clip(out, 0, 255)


def test_the_resize_is_lanczos_of_the_centred_square():
    row = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(row[None, :, None].repeat(101, 0).repeat(3, 2)).save(packed, "PNG")
    assert (clothing._square(packed.getvalue(), size=101) == row[None, 49:150, None]).all()
    small = clothing._square(packed.getvalue())
    assert np.abs(small - lanczos(row[49:150].astype(float), 64)[None, :, None]).max() < 1.01


def test_another_archive_is_refused_and_nothing_is_kept(served, cache, monkeypatch):
    monkeypatch.setattr(clothing, "CONTENT_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=f"SHA-256 {SHA256}, expected 0{{64}}: not those of commit 1196151"):
        clothing.load("train")
    assert os.listdir(cache) == []


def test_a_truncated_archive_is_refused_and_nothing_is_kept(served, cache):
    served.write_bytes(served.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a whole zip archive"):
        clothing.load("train")
    assert os.listdir(cache) == []


def test_without_network_the_message_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(clothing, "ARCHIVE", "http://127.0.0.1:9/small.zip")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MINITOK_DATA", raising=False)
    with pytest.raises(ConnectionError, match=r"Is there a network\? .* clothing64\.npz .* MINITOK_DATA"):
        clothing.load("train")
    assert os.listdir(cache) == []


def test_a_full_disk_is_not_taken_for_a_missing_network(served, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(PermissionError, match=r"No space left on device\): set MINITOK_CACHE"):
        clothing.load("train")
    assert os.listdir(cache) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("MINITOK_DATA", raising=False)
    with pytest.raises(PermissionError, match="set MINITOK_CACHE"):
        clothing.load("train")


def test_the_folder_named_by_the_user_comes_first(served, tmp_path, monkeypatch):
    arrays = clothing.build(served)
    arrays["train_x"] = arrays["train_x"] * 0
    save(tmp_path / "clothing64.npz", arrays)
    assert clothing.load("train").images.max() > 0.9
    monkeypatch.setenv("MINITOK_DATA", str(tmp_path))
    assert clothing.load("train").images.max() == 0


def test_a_damaged_file_is_named(served, tmp_path, monkeypatch):
    monkeypatch.setenv("MINITOK_DATA", str(tmp_path))
    path = tmp_path / "clothing64.npz"
    save(path, clothing.build(served))
    whole = path.read_bytes()
    for content in (whole[:-300], b"", b"not an archive", whole.replace(b"train_y", b"train_q")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"clothing64\.npz is damaged .* delete it"):
            clothing.load("train")
    arrays = clothing.build(served)
    save(path, arrays | {"train_x": arrays["train_x"][:2]})
    with pytest.raises(ValueError, match=r"holds uint8\(2, 64, 64, 3\) for train, expected uint8\(3, 64, 64, 3\)"):
        clothing.load("train")
    # an array of objects would have to be unpickled
    save(path, arrays | {"classes": np.array(["dress", None], dtype=object)})
    with pytest.raises(ValueError, match="is damaged"):
        clothing.load("train")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='valid' is not one of train, validation, test"):
        clothing.load("valid")


@pytest.fixture
def real():
    """The real file, in the folder named by MINITOK_DATA or in the cache; it is not downloaded."""
    for folder in (os.environ.get("MINITOK_DATA"), files.cache_folder()):
        if folder and os.path.exists(os.path.join(folder, clothing.FILE)):
            return
    pytest.skip("needs clothing64.npz in the folder named by MINITOK_DATA or in the cache")


def test_the_real_photographs_are_all_there(real):
    counts = {
        "train": [241, 123, 455, 184, 468, 290, 198, 202, 112, 795],
        "validation": [32, 14, 49, 24, 49, 29, 26, 25, 12, 81],
        "test": [15, 12, 72, 38, 42, 26, 73, 30, 12, 52],
    }
    for split, each in counts.items():
        images, labels, classes = clothing.load(split)
        assert images.shape == (sum(each), 3, 64, 64)
        assert labels.bincount().tolist() == each
        assert labels.tolist() == sorted(labels.tolist())
        assert 0.4 < images.mean() < 0.6
        assert classes[0] == "dress"
        assert classes[9] == "t-shirt"
