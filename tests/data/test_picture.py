"""The picture of the tour: every mode and format that Pillow opens, and every way in which a file can be wrong."""

import io
import pathlib
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

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


RAMP = np.arange(16) / 15  # sixteen grays from black to white, one a column


def gray(white: int, kind: str) -> np.ndarray:
    return np.tile(np.rint(RAMP * white), (16, 1)).astype(kind)


def png(bits: int, kind: int, clear: int | None = None) -> bytes:
    """A PNG of the ramp at any depth (kind 0: gray, 2: RGB, 4: gray with full alpha), one level of it clear."""
    levels = np.rint(RAMP * (2**bits - 1)).astype(int)
    channels = {0: 1, 2: 3, 4: 2}[kind]
    values = np.repeat(levels, channels)
    values[1::2] = 2**bits - 1 if kind == 4 else values[1::2]
    row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(len(values) * bits // 8, "big")
    key = b"" if clear is None else struct.pack(">H", clear) * channels
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0)), *([(b"tRNS", key)] if key else [])]
    chunks += [(b"IDAT", zlib.compress((b"\0" + row) * 16)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: np.ndarray, *tags: tuple[int, int]) -> bytes:
    """A TIFF of gray values of any type, by hand: Pillow writes fewer kinds than it reads."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    entries = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 277: 1, 278: height, 339: kind}
    entries |= dict(tags)
    data = b"".join(row.tobytes() for row in values) if entries[258] != 12 else packed12(values)
    entries |= {273: 8 + 2 + 12 * (len(entries) + 2) + 4, 279: len(data)}
    rows = b"".join(struct.pack("<HHII", tag, 4 if tag > 270 else 3, 1, entries[tag]) for tag in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + data


def packed12(values: np.ndarray) -> bytes:
    return b"".join(int("".join(f"{v:012b}" for v in row), 2).to_bytes(len(row) * 3 // 2, "big") for row in values)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def shown(path: pathlib.Path, content: bytes, size: int = 16) -> torch.Tensor:
    path.write_bytes(content)
    return picture.load(path, size)


# Every way in which Pillow opens sixteen grays; the smallest of them have only the two or four that they can hold.
GRAYS = {
    "PNG of 1 bit": (png(1, 0), 1),
    "PNG of 2 bits": (png(2, 0), 3),
    "PNG of 4 bits": (png(4, 0), 15),
    "PNG of 8 bits": (png(8, 0), 255),
    "PNG of 16 bits": (png(16, 0), 65535),
    "PNG of 16 bits, RGB": (png(16, 2), 65535),
    "PNG of 16 bits with alpha": (png(16, 4), 65535),
    "PGM of 16 bits": (b"P5 16 16 65535\n" + gray(65535, ">u2").tobytes(), 65535),
    "PGM of 10 bits": (b"P5 16 16 1023\n" + gray(1023, ">u2").tobytes(), 1023),
    "PFM": (b"Pf\n16 16\n-1.0\n" + gray(255, "<f4").tobytes(), 255),
    "TIFF of 8 bits": (tiff(gray(255, "u1")), 255),
    "TIFF of 12 bits": (tiff(gray(4095, "<u2"), (258, 12)), 4095),
    "TIFF of 16 bits": (tiff(gray(65535, "<u2")), 65535),
    "TIFF of 16 bits, white first": (tiff(gray(65535, "<u2")[:, ::-1], (262, 0)), 65535),
    "TIFF of 32 bits to 255": (tiff(gray(255, "<i4")), 255),
    "TIFF of 32 bits to 65535": (tiff(gray(65535, "<u4")), 65535),
    "TIFF of 32 bits": (tiff(gray(2**31 - 1, "<i4")), 2**31 - 1),
    "TIFF of floats to 1": (tiff(np.tile(RAMP, (16, 1)).astype("<f4")), 2**24),
    "TIFF of floats to 65535": (tiff(gray(65535, "<f4")), 65535),
    **{f"{kind} of 8 bits": (saved(Image.fromarray(gray(255, "u1")), kind), 255) for kind in ("BMP", "GIF", "TGA")},
    "JPEG 2000 of 16 bits": (saved(Image.fromarray(gray(65535, "u2")), "JPEG2000", irreversible=False), 65535),
    "WebP": (saved(Image.fromarray(gray(255, "u1")), "WEBP", lossless=True), 255),
}


@pytest.mark.parametrize("name", GRAYS)
def test_grays_of_every_depth_stay_what_they_are(name: str, tmp_path: pathlib.Path):
    content, white = GRAYS[name]
    expected = torch.tensor(np.rint(RAMP * white) / white).float().expand(3, 16, 16)
    torch.testing.assert_close(shown(tmp_path / "gray", content), expected, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize(
    ("content", "clear"),
    [(png(bits, kind, clear), clear / (2**bits - 1)) for bits, kind, clear in
     [(1, 0, 0), (2, 0, 1), (4, 0, 3), (8, 0, 51), (16, 0, 0x1111 * 7), (8, 2, 0), (16, 2, 0x1111 * 7)]],
)  # fmt: skip
def test_a_clear_level_of_a_png_is_white(content: bytes, clear: float, tmp_path: pathlib.Path):
    bits = content[24]
    levels = np.rint(RAMP * (2**bits - 1)) / (2**bits - 1)
    expected = torch.tensor(np.where(levels == clear, 1, levels)).float().expand(3, 16, 16)
    torch.testing.assert_close(shown(tmp_path / "clear", content), expected, atol=0.5 / 255 + 1e-6, rtol=0)


RED, CLEAR = (255, 0, 0), (0, 0, 0, 0)
MODES = {  # a mode, a colour in it, a format that keeps it, and what is seen: red, green and blue in bytes
    "1": (1, "PNG", (255, 255, 255)),
    "L": (51, "PNG", (51, 51, 51)),
    "P": (5, "GIF", (0, 0, 0)),
    "LA": ((0, 51), "PNG", (204, 204, 204)),
    "PA": ((0, 0), "TIFF", (255, 255, 255)),
    "RGB": (RED, "PNG", RED),
    "RGBA": ((255, 0, 0, 51), "PNG", (255, 204, 204)),
    "RGBX": ((*RED, 0), "TIFF", RED),
    "CMYK": ((0, 255, 255, 0), "TIFF", RED),
    "YCbCr": ((76, 85, 255), "TIFF", (254, 0, 0)),
    "LAB": ((128, 128, 128), "TIFF", (119, 119, 119)),
    "I;16": (0x3333, "PNG", (51, 51, 51)),
    "I;16B": (0x3333, "TIFF", (51, 51, 51)),
    "I": (0x3333, "TIFF", (51, 51, 51)),
    "F": (0.2, "TIFF", (51, 51, 51)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_seen_as_it_is_meant(mode: str, tmp_path: pathlib.Path):
    colour, kind, seen = MODES[mode]
    found = shown(tmp_path / "mode", saved(Image.new(mode, (20, 16), colour), kind))
    torch.testing.assert_close(found, torch.tensor(seen).view(3, 1, 1).expand(3, 16, 16) / 255)


def test_modes_that_no_file_has_are_seen_too(tmp_path: pathlib.Path):
    for mode, colour in {"HSV": (0, 255, 255), "La": (0, 0), "RGBa": CLEAR}.items():
        seen = picture._on_white(Image.new(mode, (1, 1), colour)).getpixel((0, 0))
        assert seen == (RED if mode == "HSV" else (255, 255, 255))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "AVIF", "ICO"])
def test_transparency_is_laid_on_white(kind: str, tmp_path: pathlib.Path):
    image = Image.new("RGBA", (16, 16), CLEAR)
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    found = shown(tmp_path / "clear", saved(image, kind))
    assert found[:, :, :7].max() < 0.05
    assert found[:, :, 9:].min() > 0.95


def test_a_palette_with_clear_colours_is_laid_on_white(tmp_path: pathlib.Path):
    image = Image.new("P", (16, 16))
    image.putpalette([0, 0, 0, 255, 0, 0])
    for clear in (0, bytes([51, 255])):
        found = shown(tmp_path / "palette", saved(image, "PNG", transparency=clear))
        assert found.unique().tolist() == pytest.approx([1.0 if clear == 0 else 0.8])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_a_film_the_first_picture_is_seen(kind: str, tmp_path: pathlib.Path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 255, 0))]
    content = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": 1} if kind == "WEBP" else {})
    )
    torch.testing.assert_close(shown(tmp_path / "film", content).mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]))


BAD_ENTRIES = [  # (tag, type, count, value): each made Pillow raise something else when the whole EXIF was kept
    (0x010F, 5, 1, 0),
    (0x010F, 11, 1, 0),
    (0x011A, 1, 1, 0),
    (0x011A, 9, 1, 0xFFFFFFFF),
    (0x011A, 11, 1, 0xFFFFFFFF),
    (0x0128, 1, 1, 0),
    (0x0128, 4, 1, 0xFFFFFFFF),
    (0x8769, 9, 1, 0xFFFFFFFF),
    (0x02BC, 2, 1, 0),
    (0x02BC, 3, 1, 0xFFFFFFFF),
]


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=str)
def test_a_picture_is_turned_though_the_rest_of_its_exif_is_damaged(
    bad: tuple[int, int, int, int], tmp_path: pathlib.Path
):
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))
    found = shown(tmp_path / "held", saved(image, "JPEG", exif=exif((0x0112, 3, 1, 3), bad)))
    assert found[:, :7].max() < 0.1
    assert found[:, 9:].min() > 0.9


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0", b"Exif\0\0II", exif((0x0112, 2, 9, 999)), exif((0x0112, 3, 1, 99))]
)
def test_without_an_orientation_a_picture_stays_as_it_is(content: bytes, tmp_path: pathlib.Path):
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))
    assert shown(tmp_path / "held", saved(image, "JPEG", exif=content))[:, :7].min() > 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_ways_to_hold_a_camera(orientation: int, tmp_path: pathlib.Path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    content = saved(Image.fromarray(pixels), "PNG", exif=exif((0x0112, 3, 1, orientation)))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    (tmp_path / "plain.png").write_bytes(saved(expected, "PNG"))
    assert torch.equal(shown(tmp_path / "held", content, 12), picture.load(tmp_path / "plain.png", 12))


WHOLE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG")
WRONG = {
    "nothing in it": b"",
    "words": b"words",
    "half a PNG": WHOLE[: len(WHOLE) // 2],
    "a PNG whose sum is wrong": WHOLE[:200] + b"\0\0\0\0" + WHOLE[204:],
    "half a JPEG": saved(Image.new("RGB", (64, 64)), "JPEG")[:-200],
    "half a WebP": saved(Image.new("RGB", (64, 64), RED), "WEBP")[:-20],
    "half a GIF": saved(Image.new("RGB", (64, 64), RED), "GIF")[:40],
    "a TIFF without its rows": tiff(gray(255, "u1"))[:100],
    "a bomb": png(8, 0)[:16] + struct.pack(">II", 60_000, 60_000) + png(8, 0)[24:29] + b"\0\0\0\0" + png(8, 0)[33:],
    "numbers below 0": tiff(-gray(255, "<i4")),
    "no numbers": tiff(np.full((16, 16), np.nan, "<f4")),
    "numbers without a white": tiff(gray(70_000, "<f4")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(name: str, tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=r"wrong\.png cannot be read as a picture: \w"):
        shown(tmp_path / "wrong.png", WRONG[name], 1)


@pytest.mark.parametrize(
    "error", [struct.error("x"), TypeError("x"), AttributeError("x"), NotImplementedError(), MemoryError()]
)
def test_whatever_pillow_raises_names_the_file(
    error: Exception, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def raising(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", raising)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture: (x|\w+Error)$"):
        shown(tmp_path / "a.png", png(8, 0))


def test_one_pixel_and_very_many_are_seen_without_a_warning(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # above it Pillow warns, above twice that it refuses
    assert shown(tmp_path / "one.png", saved(Image.new("RGB", (1, 1), RED), "PNG"), 1).flatten().tolist() == [1, 0, 0]
    assert shown(tmp_path / "many.png", saved(Image.new("L", (16, 16), 255), "PNG")).min() == 1
    with pytest.raises(ValueError, match=r"more\.png cannot be read as a picture: Image size \(1024 pixels\)"):
        shown(tmp_path / "more.png", saved(Image.new("L", (32, 32), 255), "PNG"))


def test_names_that_are_no_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~pic.png").write_bytes(png(8, 0))
    assert picture.find("~pic.png") == tmp_path / "~pic.png"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert picture.find("~/~pic.png") == tmp_path / "~pic.png"
    (tmp_path / "circle").symlink_to("circle")
    for name, told in {"x" * 400: "x can be no picture", "circle": "can be no picture", ".": "is a folder"}.items():
        with pytest.raises(ValueError, match=told):
            picture.load(name)
    for name in ("nothing.png", "~nobody.png"):
        with pytest.raises(FileNotFoundError, match=f"there is no picture .*{name}"):
            picture.load(name)


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
