"""``cifar10``: small colour photographs, from the official batches or from a lossy JPEG copy."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import Dataset, balanced_order
from thetabox.data.files import download, first_file, missing, processed, search_folders
from thetabox.data.task import Task
from thetabox.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCE = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
SHA256 = {ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
JPEG = ("train-1000-per-class-jpeg.tar.xz", "test-jpeg.tar.xz")
FOLDERS = ("cifar10", "cifar-10", "cifar-10-binary")
VALIDATION_SHARE = 0.1
# Mean and standard deviation of the three colours over the official training set, of values in 0 … 1.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Pictures = tuple[UInt8[np.ndarray, "pictures 3 32 32"], Int64[np.ndarray, " pictures"]]


def read_batch(content: bytes, name: str) -> Pictures:
    """Pictures and labels of an official batch: records of one label byte and 3·32·32 bytes, colour by colour.

    Raises:
        InputError: not whole records, or a label above 9.
    """
    if not content or len(content) % 3073:
        raise InputError(f"{name} is damaged: {len(content)} bytes are no whole records of 3073")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise InputError(f"{name} is damaged: it holds label {records[:, 0].max()}")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def read_jpeg(content: bytes, name: str) -> UInt8[np.ndarray, "3 32 32"]:
    """One picture of the JPEG copy.

    Raises:
        InputError: not a picture of 32×32.
    """
    from PIL import Image

    try:
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise InputError(f"{name} is no picture ({error})") from error
    if picture.shape != (32, 32, 3):
        raise InputError(f"{name} has {picture.shape[1]}×{picture.shape[0]} pixels, not 32×32")
    return picture.transpose(2, 0, 1)


def _sources(data_dir: Path | None) -> list[Path]:
    """The official archive, else the two archives of the JPEG copy, else the download."""
    folders = search_folders(data_dir, FOLDERS)
    archive = first_file(folders, [ARCHIVE])
    if archive is not None:
        return [archive]
    copies = [first_file(folders, [name]) for name in JPEG]
    present = [path for path in copies if path is not None]
    if len(present) == len(JPEG):
        return present
    if data_dir is not None:
        raise missing(TASK.name, data_dir, f"{ARCHIVE} or {' and '.join(JPEG)}")
    return [download(TASK.name, SOURCE, SHA256)[ARCHIVE]]


def _members(path: Path) -> Iterator[tuple[Path, bytes]]:
    """Name and content of every file in an archive."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield Path(member.name), content.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path} is damaged ({error})") from error


def _official(path: Path) -> dict[str, Pictures]:
    batches = {
        member.name: read_batch(content, member.name) for member, content in _members(path) if member.suffix == ".bin"
    }
    trained = [name for name in sorted(batches) if name.startswith("data_batch")]
    if not trained or "test_batch.bin" not in batches:
        raise InputError(f"{path} holds no data_batch_1.bin and test_batch.bin")
    pictures, labels = (np.concatenate([batches[name][part] for name in trained]) for part in (0, 1))
    return {"train": (pictures, labels), "test": batches["test_batch.bin"]}


def _copied(path: Path) -> Pictures:
    files = [(member, content) for member, content in _members(path) if member.suffix == ".jpg"]
    files = sorted((file for file in files if file[0].parent.name in CLASSES), key=lambda file: file[0])
    if {member.parent.name for member, _ in files} != set(CLASSES):
        raise InputError(f"{path} holds no pictures of some of the classes {', '.join(CLASSES)}")
    labels = np.asarray([CLASSES.index(member.parent.name) for member, _ in files], dtype=np.int64)
    return np.stack([read_jpeg(content, str(member)) for member, content in files]), labels


def _make(sources: list[Path]) -> dict[str, np.ndarray]:
    if len(sources) == 1:
        parts = _official(sources[0])
    else:
        parts = dict(zip(("train", "test"), map(_copied, sources), strict=True))
    return {f"{kind}_{part}": array for part, pair in parts.items() for kind, array in zip("xy", pair, strict=True)}


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Pictures ``[N, 3, 32, 32]``, each colour normalised; a tenth of the training pictures of each class validates."""
    sources = _sources(data_dir)
    arrays = processed(TASK.name, "cifar10 1", sources, lambda: _make(sources))
    part = "test" if split == "test" else "train"
    pictures, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if split != "test":
        order, count = balanced_order(labels, seed=0), round(VALIDATION_SHARE * len(labels))
        index = np.sort(order[:count] if split == "validation" else order[count:])
        pictures, labels = pictures[index], labels[index]
    mean, deviation = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    x = (pictures.astype(np.float32) / np.float32(255) - mean) / deviation
    return from_arrays(x, labels, name=TASK.name, split=split, classes=list(TASK.classes))


TASK = Task(
    name="cifar10",
    title="CIFAR-10, photographs, 32×32 colour",
    shape=(3, 32, 32),
    classes=CLASSES,
    licence="none stated; the authors ask for citation",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009",
    description="Colours normalised by mean and standard deviation of the official training set. The official test "
    "images; of the training images a tenth of each class validates. Also read from a JPEG copy with 1,000 training "
    "images a class: lossy, so figures got on it do not compare with published ones.",
    embedded=False,
    read=read,
)
