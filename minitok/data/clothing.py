"""Photographs of clothes in 10 classes, centre-cropped and resized to 64x64: the larger set, for training.

What: 3,781 colour photographs: dress, hat, longsleeve, outwear, pants, shirt, shoes, shorts, skirt, t-shirt.
Splits, the archive's own folders: train 3,068, validation 341, test 372, each sorted by class, then by file.
Licence: CC0, so that models trained on it may be published. Attribution: Alexey Grigorev, Kenes Shangereyev
(Tagias) and 32 contributors.
URL: https://github.com/alexeygrigorev/clothing-dataset-small at commit 1196151 (106 MB)

`load` reads `clothing64.npz` from the folder named by MINITOK_DATA, else from the cache, else makes it there
from the archive. What is hashed is the archive's content (the images' paths and bytes), as its packing may
change.
"""

import hashlib
import io
import os
import pathlib
import re
import tempfile
import zipfile
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from minitok import files
from minitok.data import Labelled, check_split, pixels, square

ARCHIVE = (
    "https://github.com/alexeygrigorev/clothing-dataset-small/archive/11961516512414bf9f6c150a832cfd21b54a6b54.zip"
)
CONTENT_SHA256 = "66d712aad3cb10799ce005129056402b4be15be733731b0919b9c8d4b0e57078"
FILE = "clothing64.npz"
CLASSES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")
COUNTS = {"train": 3068, "validation": 341, "test": 372}


def load(split: str) -> Labelled:
    """The photographs of `split` ("train", "validation" or "test"), (n, 3, 64, 64) in [0, 1].

    Raises `ValueError` for an unknown split or a damaged file, `ConnectionError` when the archive cannot be
    had, `PermissionError` when the cache cannot be written.
    """
    check_split(split, tuple(COUNTS))
    path = _path()
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, y, classes = (arrays[key] for key in (f"{split}_x", f"{split}_y", "classes"))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, or put a whole one in its place") from error
    n = COUNTS[split]
    if x.shape != (n, 64, 64, 3) or x.dtype != np.uint8 or y.shape != (n,):
        raise ValueError(f"{path} holds {x.dtype}{x.shape} for {split}, expected uint8{(n, 64, 64, 3)}: delete it")
    return Labelled(pixels(x), torch.from_numpy(y.astype(np.int64)), tuple(classes.tolist()))


def at_hand() -> bool:
    """Whether the photographs can be loaded without a download of 106 MB."""
    return any(path.is_file() for path in _places())


def _places() -> list[pathlib.Path]:
    """Where the npz file may lie: in the folder named by MINITOK_DATA, and in the cache."""
    given = files.named("MINITOK_DATA")
    return [*([given / FILE] if given else []), files.cache_folder() / FILE]


def _path() -> pathlib.Path:
    """The first npz file that is there, else a new one in the cache."""
    path = next((place for place in _places() if place.is_file()), files.cache_folder() / FILE)
    if not path.exists():
        with files.filling_cache() as cache:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
                arrays: dict[str, Any] = build(_download(pathlib.Path(folder, "clothing.zip")))
            with files.writing(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)
    return path


def _download(target: pathlib.Path) -> pathlib.Path:
    import pooch

    try:
        pooch.HTTPDownloader(progressbar=True)(ARCHIVE, str(target), None)
    except OSError as error:
        if error.errno in files.FULL:
            raise
        raise ConnectionError(
            f"{ARCHIVE} could not be downloaded ({error}). Is there a network? "
            f"You can also put {FILE} into a folder and name that folder in MINITOK_DATA"
        ) from error
    return target


def build(archive: str | os.PathLike[str], sha256: str | None = None) -> dict[str, np.ndarray]:
    """The npz file's arrays, made from the zip archive: `train_x` (n, 64, 64, 3), `train_y`, ..., `classes`.

    Raises `ValueError` when the file is no zip archive, or when the SHA-256 of its images' paths and bytes is
    not `sha256` (default: that of the commit named above).
    """
    try:
        with zipfile.ZipFile(archive) as source:
            names = _members(source)
            found, expected = _digest(source, names), sha256 or CONTENT_SHA256
            if found != expected:
                raise ValueError(
                    f"the images of {archive} have SHA-256 {found}, expected {expected}: not those of commit 1196151"
                )
            squares = {name: _square(source.read(name)) for name in tqdm(names, desc="clothing", unit="image")}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is not a whole zip archive ({error})") from error
    places = [(name, *name.split("/")[-3:-1]) for name in names]
    classes = sorted({label for _, _, label in places})
    made = {"classes": np.array(classes)}
    for split in COUNTS:
        made[f"{split}_x"] = np.stack([squares[name] for name, of, _ in places if of == split])
        made[f"{split}_y"] = np.array([classes.index(label) for _, of, label in places if of == split], np.uint8)
    return made


def _members(source: zipfile.ZipFile) -> list[str]:
    """The images of all splits, sorted by split, class and file name."""
    place = re.compile(rf"(.*/)?({'|'.join(COUNTS)})/[^/]+/[^/]+\.jpg")
    return sorted(name for name in source.namelist() if place.fullmatch(name))


def _digest(source: zipfile.ZipFile, names: list[str]) -> str:
    """The SHA-256 of all images' paths (split/class/file) and bytes, whatever the packing and top folder."""
    digest = hashlib.sha256()
    for name in names:
        digest.update("/".join(name.split("/")[-3:]).encode() + source.read(name))
    return digest.hexdigest()


def _square(content: bytes, size: int = 64) -> np.ndarray:
    """The largest centred square of an image file, resized with Lanczos' filter."""
    with Image.open(io.BytesIO(content)) as image:
        return square(image.convert("RGB"), size)
