import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from minitok import viz
from minitok.data import photographs


def gif(image) -> Any:
    return Image.open(io.BytesIO(image.data))


def rows_filling(t=32):
    frames = torch.zeros(t, 3, 64, 64)
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    for i in range(t):
        frames[i, :, : 2 * i + 2] = picture[:, : 2 * i + 2]
    return frames


def test_an_animation_is_a_looping_gif_of_all_frames_that_lasts_as_told():
    image: Any = viz.animation(rows_filling(), seconds=3.2, alt="rows appear")
    with gif(image) as frames:
        assert frames.format == "GIF"
        assert frames.n_frames == 32
        assert frames.info["loop"] == 0
        durations = []
        for i in range(32):
            frames.seek(i)
            durations.append(frames.info["duration"])
    assert durations == [100] * 32
    assert image.alt == "rows appear"
    assert len(image.data) < 60_000


def test_an_animation_shows_the_frames_in_order():
    frames = torch.stack([torch.full((3, 8, 8), i / 4) for i in range(5)])
    with gif(viz.animation(frames)) as shown:
        for i in range(5):
            shown.seek(i)
            assert np.abs(np.array(shown.convert("RGB")).astype(int) - 255 * i / 4).max() <= 2


def test_the_browser_enlarges_an_animation_without_blur():
    image: Any = viz.animation(rows_filling(4), scale=3, alt='a "quoted" text')
    (source,) = image._repr_mimebundle_().values()
    assert 'width="192"' in source
    assert "image-rendering: pixelated" in source
    assert "&quot;quoted&quot;" in source
    assert base64.b64decode(source.split("base64,")[1].split('"')[0]) == image.data


def test_figures_are_animated_in_their_own_size():
    figures = [viz.bars({"ours": 0.2 * i}, f"step {i}", "share") for i in range(4)]
    image = viz.animation(figures, scale=4)
    with gif(image) as shown:
        assert shown.n_frames == 4
        assert (image.width, *shown.size) == (600, 600, round(100 * figures[0].get_size_inches()[1]))


def test_more_kilobytes_buy_more_colours():
    frames = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small: Any = viz.animation(frames, kilobytes=6)
    large: Any = viz.animation(frames, kilobytes=60)
    assert len(small.data) <= 6000 < len(large.data)
    with gif(small) as few, gif(large) as many:
        assert len(few.convert("RGB").getcolors()) < len(many.convert("RGB").getcolors())
    with pytest.raises(ValueError, match=r"kilobytes=1, but the frames take \d+"):
        viz.animation(frames, kilobytes=1)


def test_an_animation_refuses_no_frames_unequal_frames_and_too_short_a_time():
    with pytest.raises(ValueError, match="0 frames"):
        viz.animation([])
    with pytest.raises(ValueError, match="2 frames of 2 sizes"):
        viz.animation([viz.bars({"ours": 1.0}, "", ""), viz.bars({"ours": 1.0, "paper": 2.0}, "", "")])
    with pytest.raises(ValueError, match=r"seconds=0.1 is too short"):
        viz.animation(rows_filling(32), seconds=0.1)


def draw(k=3, share=0.5, method="vq"):
    return viz.bars({"k": k, "share": share}, method, "value")


def test_moving_a_slider_changes_the_picture():
    box = viz.slider(draw, k=(1, 9), share=(0.0, 1.0, 0.25), method=["vq", "fsq", "lfq"])
    *controls, picture, message = box.children
    assert [type(c).__name__ for c in controls] == ["IntSlider", "FloatSlider", "SelectionSlider"]
    assert [c.value for c in controls] == [3, 0.5, "vq"]
    assert not any(c.continuous_update for c in controls)
    seen = {bytes(picture.value)}
    for control, value in zip(controls, (8, 0.75, "lfq"), strict=True):
        control.value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 4
    assert all(value.startswith(b"\x89PNG") for value in seen)
    assert message.value == ""
    # The last picture is the one that a direct call gives.
    assert picture.value == viz.show(draw(8, 0.75, "lfq")).data


def test_a_slider_without_a_default_starts_in_the_middle():
    box = viz.slider(lambda a, b, c: draw(a, b, c), a=(0, 10), b=(0.0, 1.0), c=["x", "y", "z"])
    assert [c.value for c in box.children[:-2]] == [5, 0.5, "y"]
    assert viz.slider(lambda a: draw(a), a=(1, 9, 4)).children[0].value == 5


def test_a_photograph_is_shown_as_jpeg():
    photograph = photographs.load("astronaut")[None, :, ::2, ::2]
    box = viz.slider(lambda k: viz.show(viz.images(photograph / k), photo=True), k=(1, 9))
    assert box.children[-2].format == "jpeg"
    assert bytes(box.children[-2].value).startswith(b"\xff\xd8")
    assert viz.show(viz.images(torch.zeros(1, 3, 64, 64)), photo=True).format == "png"  # where that is smaller


def test_ends_visits_both_ends_of_each_control_and_returns():
    calls = []

    def record(k=3, share=0.5, method="b"):
        calls.append((k, share, method))
        return Figure(figsize=(1, 1))

    box = viz.slider(record, k=(1, 9), share=(0.0, 1.0), method=["a", "b", "c"])
    viz.ends(box)
    assert {k for k, _, _ in calls} == {1, 3, 9}
    assert {share for _, share, _ in calls} == {0.0, 0.5, 1.0}
    assert {method for _, _, method in calls} == {"a", "b", "c"}
    assert calls[-1] == calls[0] == (3, 0.5, "b")


def test_an_error_of_the_callback_is_raised_and_shown_until_it_is_gone():
    def fragile(k=3):
        if k == 9:
            raise KeyError("no <code> 9")
        return draw(k)

    box = viz.slider(fragile, k=(1, 9))
    before = box.children[-2].value
    with pytest.raises(KeyError, match="no <code> 9"):
        viz.ends(box)
    assert "KeyError" in box.children[-1].value
    assert "no &lt;code&gt; 9" in box.children[-1].value
    assert box.children[-2].value != before
    box.children[0].value = 4
    assert box.children[-1].value == ""
    with pytest.raises(KeyError, match="9"):
        viz.slider(lambda k=9: fragile(k), k=(1, 9))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((9, 1), r"k=\(9, 1\), expected"),
        ((1, 2, 3, 4), "expected"),
        ([], r"k=\[\], expected"),
        ("abc", "expected"),
        ((4, 9), "k starts at 3, expected 4 to 9"),
        (["a"], "k starts at 3, expected one of"),
    ],
)
def test_bad_ranges_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        viz.slider(draw, k=spec)


def test_a_slider_needs_something_to_move():
    with pytest.raises(ValueError, match="at least one"):
        viz.slider(draw)
