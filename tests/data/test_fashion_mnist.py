"""Fashion-MNIST: the idx reader on small files, the set itself where it is at hand."""

import gzip
import struct

import numpy as np
import pytest

from thetabox.data import fashion_mnist, load
from thetabox.errors import InputError


def _idx(array: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _folder(tmp_path, *, packed: bool, sub: str = "fashion-mnist"):
    folder = tmp_path / sub
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 5100), ("t10k", 20)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            content = _idx(array)
            name = f"{part}-{kind}-ubyte"
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content, 1) if packed else content)
    return tmp_path


@pytest.mark.parametrize(("packed", "sub"), [(True, "fashion-mnist"), (False, "FashionMNIST/raw"), (True, ".")])
def test_forms_of_the_files(tmp_path, packed, sub):
    root = _folder(tmp_path / "data", packed=packed, sub=sub)
    test = load("fashion-mnist", "test", root)
    assert tuple(test.x.shape) == (20, 1, 28, 28)
    assert (test.x.min(), test.x.max()) == (-2, 2)
    train, validation = load("fashion-mnist", "train", root), load("fashion-mnist", "validation", root)
    assert (len(train), len(validation)) == (100, 5000)
    assert validation.class_counts == [500] * 10


def test_bad_files(tmp_path):
    root = _folder(tmp_path / "data", packed=False)
    labels = root / "fashion-mnist" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-3])
    with pytest.raises(InputError, match="17 bytes of data"):
        load("fashion-mnist", "test", root)
    labels.write_bytes(_idx(np.zeros(7, dtype=np.uint8)))
    with pytest.raises(InputError, match="do not belong together"):
        load("fashion-mnist", "test", root)
    labels.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="damaged"):
        load("fashion-mnist", "test", root)
    labels.write_bytes(b"text")
    with pytest.raises(InputError, match="no idx file"):
        load("fashion-mnist", "test", root)
    labels.unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz not found"):
        load("fashion-mnist", "test", root)


@pytest.mark.long
def test_the_real_set(shared_data):
    parts = {split: load("fashion-mnist", split, shared_data) for split in ("train", "validation", "test")}
    assert [part.class_counts for part in parts.values()] == [[5500] * 10, [500] * 10, [1000] * 10]
    assert fashion_mnist.TASK.shape == tuple(parts["test"].x.shape[1:])
    # First test image: an ankle boot (Xiao et al., README of the set).
    assert parts["test"].classes[parts["test"].y[0]] == "ankle boot"
