"""CIFAR-10: official batches and the JPEG copy on made-up pictures, the real copy where it is at hand."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from thetabox.data import cifar10, load
from thetabox.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path / "cache"))


def _tar(path, files: dict[str, bytes], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _records(count: int, seed: int) -> bytes:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(count) % 10
    return records.tobytes()


def _jpeg(color: tuple[int, int, int], size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _copy(part: str, each: int) -> dict[str, bytes]:
    return {
        f"{part}/{name}/{n:04d}.jpg": _jpeg((20 * label, 128, 255 - 20 * label))
        for label, name in enumerate(cifar10.CLASSES)
        for n in range(each)
    }


def test_official_batches(tmp_path):
    files = {f"cifar-10-batches-bin/data_batch_{n}.bin": _records(20, n) for n in range(1, 6)}
    files |= {"cifar-10-batches-bin/test_batch.bin": _records(30, 9), "cifar-10-batches-bin/readme.html": b"text"}
    _tar(tmp_path / "data" / cifar10.ARCHIVE, files, "w:gz")
    train, validation, test = (load("cifar10", split, tmp_path / "data") for split in ("train", "validation", "test"))
    assert [part.class_counts for part in (train, validation, test)] == [[9] * 10, [1] * 10, [3] * 10]
    # Record: label, then all reds, greens and blues, row by row.
    first = np.frombuffer(files["cifar-10-batches-bin/test_batch.bin"], dtype=np.uint8)[:3073]
    assert int(test.y[0]) == first[0]
    value = (first[1 + 1024 + 32 * 5 + 7] / 255 - 0.4822) / 0.2435  # green, row 5, column 7
    assert float(test.x[0, 1, 5, 7]) == pytest.approx(value, abs=1e-5)


def test_the_jpeg_copy(tmp_path):
    for name, part, each in zip(cifar10.JPEG, ("train", "test"), (10, 2), strict=True):
        _tar(tmp_path / "data" / "cifar10" / name, _copy(part, each), "w:xz")
    train, test = (load("cifar10", split, tmp_path / "data") for split in ("train", "test"))
    assert [part.class_counts for part in (train, test)] == [[9] * 10, [2] * 10]
    ship = test.x[test.y == cifar10.CLASSES.index("ship")][0]
    for channel, level in enumerate((160, 128, 95)):
        grey = ship[channel] * cifar10.DEVIATION[channel] + cifar10.MEAN[channel]
        assert float((grey * 255 - level).abs().max()) < 4  # JPEG is lossy


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data_batch_1.bin": _records(3, 0)}, "holds no data_batch_1.bin and test_batch.bin"),
        ({"data_batch_1.bin": b"\0" * 100, "test_batch.bin": _records(3, 0)}, "no whole records"),
        ({"data_batch_1.bin": b"\x0b" * 3073, "test_batch.bin": _records(3, 0)}, "label 11"),
    ],
)
def test_bad_batches(tmp_path, files, message):
    _tar(tmp_path / "data" / cifar10.ARCHIVE, files, "w:gz")
    with pytest.raises(InputError, match=message):
        load("cifar10", "test", tmp_path / "data")


def test_bad_copies(tmp_path):
    folder = tmp_path / "data"
    _tar(folder / cifar10.JPEG[1], _copy("test", 1), "w:xz")
    with pytest.raises(InputError, match="does not hold the files of task cifar10"):
        load("cifar10", "test", folder)
    _tar(folder / cifar10.JPEG[0], {"train/cat/0.jpg": _jpeg((0, 0, 0))}, "w:xz")
    with pytest.raises(InputError, match="no pictures of some of the classes"):
        load("cifar10", "train", folder)
    for content, message in ((b"text", "no picture"), (_jpeg((0, 0, 0), 16), "16×16 pixels")):
        _tar(folder / cifar10.JPEG[0], _copy("train", 1) | {"train/cat/0000.jpg": content}, "w:xz")
        with pytest.raises(InputError, match=message):
            load("cifar10", "train", folder)
    (folder / cifar10.JPEG[0]).write_bytes(b"\xfd7zXZ\x00 broken")
    with pytest.raises(InputError, match="damaged"):
        load("cifar10", "train", folder)


@pytest.mark.long
def test_the_real_copy(shared_data):
    parts = {split: load("cifar10", split, shared_data) for split in ("train", "validation", "test")}
    assert [part.class_counts for part in parts.values()] == [[900] * 10, [100] * 10, [1000] * 10]
    # The official mean and deviation normalise the copy too, within the noise of its 9,000 pictures.
    assert float(parts["train"].x.mean((0, 2, 3)).abs().max()) < 0.05
    assert float((parts["train"].x.std((0, 2, 3)) - 1).abs().max()) < 0.05
