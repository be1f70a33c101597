import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from skimage import data
from skimage.color import rgb2lab

from minitok import viz
from minitok.viz import live, palette


def photographs(n=4, size=64):
    pixels = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1) / 255
    crops = [pixels[:, 30 * i : 30 * i + 256, 30 * i : 30 * i + 256] for i in range(n)]
    return torch.nn.functional.interpolate(torch.stack(crops), (size, size), mode="area")


def pixels(image):
    return np.array(Image.open(io.BytesIO(image.data)).convert("RGB"))


def size(image) -> int:
    return len(image.data)


def axes_of(figure) -> Any:
    (axes,) = figure.axes
    return axes


CURVE = {"ours": ([1, 2, 4], [20.0, 24.0, 26.0]), "baseline": ([1, 2, 4], [18.0, 21.0, 22.0])}


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.1: the ratio of relative luminances, each raised by 0.05."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [*viz.PALETTE, viz.OURS, viz.BASELINE, viz.PAPER, viz.MUTED])
def test_every_colour_of_a_line_has_a_contrast_of_3_with_the_ground(colour):
    assert contrast(colour, viz.BACKGROUND) >= 3


def test_text_and_muted_text_have_a_contrast_of_4_and_a_half():
    assert contrast(viz.TEXT, viz.BACKGROUND) >= 7
    assert contrast(viz.MUTED, viz.BACKGROUND) >= 4.5


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_stay_apart_in_colour_blind_vision(vision):
    seen = np.clip(np.array([linear(c) for c in viz.PALETTE]) @ np.array(VISIONS[vision]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15


def test_colours_follow_roles_and_never_run_out_silently():
    given = palette.colours(["swift", "Ours (k=4)", "paper", "muted: chance"])
    assert given == {
        "swift": viz.BASELINE,
        "Ours (k=4)": viz.OURS,
        "paper": viz.PAPER,
        "muted: chance": viz.MUTED,
    }
    with pytest.raises(ValueError, match="7 names without a role for 6 free colours"):
        palette.colours(list("abcdefg"))


def test_the_style_ends_with_its_context_and_survives_a_dark_one():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "white", "xtick.color": "white"}):
        dark = pixels(viz.show(viz.lines(CURVE, "A title", "tokens", "dB")))
    assert dict(matplotlib.rcParams) == before
    np.testing.assert_array_equal(dark, pixels(viz.show(viz.lines(CURVE, "A title", "tokens", "dB"))))
    ground = [int(viz.BACKGROUND[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(dark[0, 0].astype(int) - ground).max() <= 2


def test_lines_have_title_labels_scales_levels_and_a_small_png():
    figure = viz.lines(CURVE, "More tokens help", "tokens", "PSNR (dB)", log="x", levels={"paper": 25.0})
    axes = axes_of(figure)
    assert (axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()) == (
        "More tokens help",
        "tokens",
        "PSNR (dB)",
    )
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [line.get_color() for line in axes.lines] == [viz.OURS, viz.BASELINE, viz.PAPER]
    assert list(axes.lines[2].get_ydata()) == [25, 25]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "baseline", "paper"]
    assert viz.lines(CURVE, "", "", "", log="xy").axes[0].get_yscale() == "log"
    image = viz.show(figure)
    assert image.format == "png"
    assert image.alt == "More tokens help"
    assert size(image) < 50_000
    assert pixels(image).shape == (350, 600, 3)


def test_many_lines_have_their_legend_beside_the_plot_and_one_has_none():
    series = {name: ([0, 1], [0, i]) for i, name in enumerate(["ours", "baseline", "a", "b"])}
    many = viz.lines(series, "t", "x", "y")
    assert len(many.legends) == 1
    one = viz.lines({"loss": (list(range(100)), list(range(100)))}, "t", "x", "y")
    assert one.axes[0].get_legend() is None
    assert one.axes[0].lines[0].get_marker() in ("", "None")


def test_a_role_before_a_name_colours_it_and_is_not_shown():
    series = {"muted: lots": ([1, 2], [3, 4]), "ours: whole: rows": ([1, 2], [4, 5]), "ours, twice": ([1], [2])}
    figure = viz.lines(series, "t", "x", "y", levels={"Baseline: all": 5, "layer: 3": 1})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["lots", "whole: rows", "ours, twice", "all", "layer: 3"]
    assert [line.get_color() for line in axes_of(figure).lines[:4]] == [viz.MUTED, viz.OURS, viz.OURS, viz.BASELINE]
    axes = axes_of(viz.bars({"ours: a": 1, "baseline: a": 2, "muted:": 3}, "t", "x"))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "a", "muted:"]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [viz.OURS, viz.BASELINE, viz.MUTED]


def ticks(xs, log="x"):
    axes = axes_of(viz.lines({"ours": (xs, list(range(1, 1 + len(xs))))}, "t", "x", "y", log=log))
    return [text.get_text() for text in axes.get_xticklabels()], len(axes.get_xticks(minor=True))


def test_a_log_axis_has_its_ticks_at_few_measured_points():
    assert ticks([192, 128, 64, 32, 16, 8]) == (["8", "16", "32", "64", "128", "192"], 0)
    assert ticks(torch.tensor([1e-4, 0.02, 0.1]), "xy")[0] == ["0.0001", "0.02", "0.1"]
    # Many points, points too near for their names, names with a power of ten, and one point leave it as it was.
    for xs in (list(range(1, 50)), [1, 100, 101], [1, 1_000_000], [5]):
        assert str(xs[-1]) not in ticks(xs)[0]
    assert ticks([1, 7], log="")[0] != ["1", "7"]


def test_log_names_axes():
    with pytest.raises(ValueError, match="log='both'"):
        viz.lines(CURVE, "t", "x", "y", log="both")


def test_bars_carry_their_values():
    figure = viz.bars({"ours": 0.91234, "baseline": 0.5}, "Ours is better", "accuracy")
    axes = axes_of(figure)
    assert [round(bar.get_width(), 5) for bar in axes.patches] == [0.91234, 0.5]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [viz.OURS, viz.BASELINE]
    many = axes_of(viz.bars({str(i): i for i in range(20)}, "Twenty methods", "rank")).patches
    assert {to_hex(bar.get_facecolor()) for bar in many} == {viz.MUTED}
    assert [text.get_text() for text in axes.texts] == ["0.912", "0.5"]
    assert (axes.figure.get_suptitle(), axes.get_xlabel()) == ("Ours is better", "accuracy")
    assert [t.get_text() for t in viz.bars({"ours": 0.91234}, "", "", digits=2).axes[0].texts] == ["0.91"]
    assert size(viz.show(figure)) < 20_000


def test_images_are_shown_pixel_by_pixel_at_a_whole_factor():
    batch = photographs()
    shown = pixels(viz.show(viz.images(batch, columns=4)))
    first = shown[6 : 6 + 128, 6 : 6 + 128]
    expected = (batch[0] * 255).byte().permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
    assert np.abs(first.astype(int) - expected).max() <= 1


def test_images_arguments_change_the_grid():
    batch = photographs()
    sizes = {name: viz.images(batch, **options).get_size_inches() for name, options in {
        "plain": {}, "columns": {"columns": 2}, "height": {"height": 2.0}, "titles": {"titles": list("abcd")},
        "title": {"title": "Four"}}.items()}  # fmt: skip
    assert len({tuple(size) for size in sizes.values()}) == 5
    assert sizes["columns"][1] > sizes["plain"][1]
    figure = viz.images(batch, list("abcd"), title="Four")
    assert figure.get_suptitle() == "Four"
    assert [axes.get_title() for axes in figure.axes] == list("abcd")


def test_images_of_one_channel_are_gray_and_large_ones_are_made_smaller():
    gray = pixels(viz.show(viz.images(torch.rand(1, 1, 8, 8), height=1)))
    assert (np.ptp(gray[6:-6, 6:-6].astype(int), axis=2) <= 1).all()
    assert viz.images(photographs(1, 256), height=1.0).get_size_inches().tolist() == [1.12, 1.12]


def test_photographs_are_kept_small_as_jpeg():
    figure = viz.images(photographs(8, 64).repeat(2, 1, 1, 1), title="Sixteen crops")
    photo = viz.show(figure, photo=True)
    assert photo.format == "jpeg"
    assert photo.alt == "Sixteen crops"
    assert viz.show(figure, alt="another text").alt == "another text"
    assert size(photo) < min(120_000, size(viz.show(figure)))


def test_patches_hold_the_image_cut_apart_and_fade_what_is_dropped():
    image = torch.zeros(1, 32, 32)
    whole = viz.patches(image, 8, "Sixteen patches")
    black = (pixels(viz.show(whole)) < 30).all(2).sum()
    # 320 // 32 = 10 screen pixels a pixel; all of them are there, between the gaps.
    title = (pixels(viz.show(whole))[:36] < 30).all(2).sum()
    assert abs(black - title - 256 * 256) < 100
    kept = viz.patches(image, 8, keep=torch.arange(16) < 4)
    assert abs((pixels(viz.show(kept)) < 30).all(2).sum() - 256 * 256 / 4) < 100
    assert whole.get_suptitle() == "Sixteen patches"


def test_a_panel_is_an_empty_figure_of_the_house_style_and_its_axes():
    figure, axes = viz.panel("Codes", "pixel", "neighbour", width=4, height=3)
    assert (axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()) == ("Codes", "pixel", "neighbour")
    assert figure.get_size_inches().tolist() == [4, 3]
    assert to_hex(figure.get_facecolor()).upper() == viz.BACKGROUND


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.images(torch.zeros(2, 2, 8, 8)), "2 images of 2 channels"),
        (lambda: viz.images(torch.zeros(0, 3, 8, 8)), "0 images"),
        (lambda: viz.images(torch.zeros(2, 3, 8, 8), ["one"]), "titles has 1 entries for the 2 images"),
        (lambda: viz.images(torch.zeros(2, 3, 8, 8), columns=0), "columns=0"),
        (lambda: viz.patches(torch.zeros(3, 30, 32), 8), "size=8 must divide"),
        (
            lambda: viz.patches(torch.zeros(3, 32, 32), 8, keep=torch.ones(9) > 0),
            "keep has 9 entries for 16 patches",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_palette_and_the_functions_are_found_in_one_place():
    assert viz.show is live.show
    assert all(hasattr(viz, name) for name in viz.__all__)
