import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from minitok.data import clothing, picture


def test_without_a_path_it_is_the_portrait_of_matplotlib():
    import matplotlib.cbook

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    assert portrait.size == (512, 600)
    expected = portrait.crop((0, 44, 512, 556)).resize((64, 64), Image.Resampling.LANCZOS)
    found = picture.load()
    assert found.shape == (3, 64, 64)
    torch.testing.assert_close(found, torch.tensor(np.array(expected)).permute(2, 0, 1) / 255)


def test_the_centred_square_is_taken_at_the_size_asked_for(tmp_path: pathlib.Path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (255, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    for size in (10, 20):
        shown = picture.load(tmp_path / "wide.png", size)
        assert shown.shape == (3, size, size)
        torch.testing.assert_close(shown.mean((1, 2)), torch.tensor([1.0, 0.0, 0.2]))


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path: pathlib.Path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "held.png", exif=exif)
    shown = picture.load(tmp_path / "held.png", 16)
    assert shown[:, :8].max() == 0
    assert shown[:, 8:].min() == 1


def test_one_channel_and_transparency_become_three_channels(tmp_path: pathlib.Path):
    for mode in ("L", "RGBA"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
        assert picture.load(tmp_path / f"{mode}.png", 8).shape == (3, 8, 8)


def test_what_is_too_small_for_the_size_is_refused(tmp_path: pathlib.Path):
    Image.new("RGB", (9, 20)).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match="9x20 pixels; the tour needs 10 or more a side"):
        picture.load(tmp_path / "thin.png", 10)


def test_clothes_are_looked_for_at_home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINITOK_DATA", "~/data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / clothing.FILE).touch()
    assert clothing.at_hand()


def test_clothes_are_at_hand_where_a_file_lies(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINITOK_DATA", str(tmp_path / "data"))
    assert not clothing.at_hand()
    for folder in ("cache", "data"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / clothing.FILE).touch()
        assert clothing.at_hand()
        (tmp_path / folder / clothing.FILE).unlink()
