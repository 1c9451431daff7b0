"""``fashion-mnist``: 70,000 pictures of clothes, 28×28 grey (Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import Dataset, balanced_order
from thetabox.data.files import download, first_file, missing, search_folders
from thetabox.data.task import Task
from thetabox.errors import InputError

VALIDATION = 5000
SOURCE = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
# torchvision unpacks into FashionMNIST/raw; the others are the project's own name and Debian's.
FOLDERS = ("fashion-mnist", "FashionMNIST/raw", "dataset-fashion-mnist", "fashion")


def read_idx(path: Path) -> UInt8[np.ndarray, " ..."]:
    """Reads an idx file of unsigned bytes, gzip'd or not.

    Layout: two zero bytes, type 8, number of dimensions, each dimension as a big-endian 32-bit integer, the data.

    Raises:
        InputError: not such a file, or truncated.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InputError(f"{path} is no idx file of bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise InputError(f"{path} is truncated")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    data = np.frombuffer(content, dtype=np.uint8, offset=start)
    if data.size != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path} is damaged: {data.size} bytes of data for shape {list(shape)}")
    return data.reshape(shape)


def _files(part: str, data_dir: Path | None) -> tuple[Path, Path]:
    names = [name for name in SHA256 if name.startswith(part)]
    folders = search_folders(data_dir, FOLDERS)
    paths = [first_file(folders, (name, name.removesuffix(".gz"))) for name in names]
    if paths[0] is not None and paths[1] is not None:
        return paths[0], paths[1]
    if data_dir is not None:
        raise missing(TASK.name, data_dir, names[0] if paths[0] is None else names[1])
    fetched = download(TASK.name, SOURCE, {name: SHA256[name] for name in names})
    return fetched[names[0]], fetched[names[1]]


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Pictures ``[N, 1, 28, 28]`` as (p/255 − 0.5)/0.25; 55,000 to train, 5,000 (500 a class) validate, 10,000 test."""
    image_file, label_file = _files("t10k" if split == "test" else "train", data_dir)
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise InputError(f"{image_file} and {label_file.name} do not belong together: {images.shape}, {labels.shape}")
    y = labels.astype(np.int64)
    if split != "test":
        order = balanced_order(y, seed=0)
        index = np.sort(order[:VALIDATION] if split == "validation" else order[VALIDATION:])
        images, y = images[index], y[index]
    x = (images[:, None].astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    return from_arrays(x, y, name=TASK.name, split=split, classes=list(TASK.classes))


TASK = Task(
    name="fashion-mnist",
    title="Fashion-MNIST, clothes, 28×28 grey",
    shape=(1, 28, 28),
    classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    licence="MIT",
    source="https://github.com/zalandoresearch/fashion-mnist",
    citation="Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv 1708.07747, 2017",
    description="Grey levels p/255 normalised as (x − 0.5)/0.25. The official 10,000 test images; of the official "
    "training images 500 a class validate, 55,000 train.",
    embedded=False,
    read=read,
)
