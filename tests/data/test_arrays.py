"""Own data: what a ``.npz`` may hold, and one clear line for everything else."""

import contextlib

import numpy as np
import pytest
import torch

from thetabox.data import from_arrays, load, load_arrays
from thetabox.errors import InputError

X, Y = np.arange(24, dtype=np.float64).reshape(6, 4), np.asarray([0, 1, 2, 0, 1, 2])


def _npz(folder, **arrays):
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def test_a_good_file(tmp_path):
    data = load(_npz(tmp_path, x=X, y=Y))
    assert data.x.dtype == torch.float32
    assert data.y.dtype == torch.int64
    assert torch.equal(data.x, torch.from_numpy(X).float())
    assert data.y.tolist() == Y.tolist()
    assert data.classes == ["0", "1", "2"]
    assert (data.name, data.split) == ("own.npz", "test")


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (X / 7, torch.float64),
        (X * 1e300, torch.float64),
        (X.astype(np.int64) + 2**24, torch.float64),
        (X.astype(np.uint32) + 2**31, torch.float64),
        (X / 8, torch.float32),
        (X.astype(np.int64) * 2 + 2**24, torch.float32),
        ((X / 7).astype(np.float16), torch.float32),
        (X.astype(np.uint8), torch.float32),
        (X.astype(np.longdouble) / 8, torch.float32),
        (X > 3, torch.float32),
    ],
    ids=str,
)
def test_every_number_is_held_as_it_stands(tmp_path, x, dtype):
    for data in (load(_npz(tmp_path, x=x, y=Y)), from_arrays(x, Y)):
        assert data.x.dtype == dtype
        assert data.x.tolist() == x.tolist()


def test_the_hash_tells_numbers_that_float32_does_not():
    exact = from_arrays(X / 7, Y)
    assert exact.sha256 != from_arrays((X / 7).astype(np.float32), Y).sha256
    # Of what float32 holds it is the same whatever the file's own type.
    assert len({from_arrays(X.astype(kind), Y).sha256 for kind in ("f8", "f4", "f2", "u1", "i8", ">f8")}) == 1
    assert from_arrays(X, Y).sha256 == "d96e53243412d6f86621a0131fc85e6b66aa2b080533c26efcd6c1979ce9652c"


def test_masked_values_are_none():
    with pytest.raises(InputError, match="x of mine has masked values"):
        from_arrays(np.ma.masked_greater(X, 5), Y, name="mine")
    with pytest.raises(InputError, match="y of mine has masked values"):
        from_arrays(X, np.ma.masked_greater(Y, 1), name="mine")


def test_class_names_and_groups(tmp_path):
    data = load_arrays(_npz(tmp_path, x=X, y=Y, classes=["a", "b", "c"], groups=list("ppqqrr")))
    assert data.classes == ["a", "b", "c"]
    assert data.groups == list("ppqqrr")


def test_training_and_validation_divide_the_file(tmp_path):
    path = _npz(tmp_path, x=np.arange(50.0)[:, None], y=np.arange(50) % 3)
    parts = {split: set(load(path, split).x[:, 0].tolist()) for split in ("train", "validation", "test")}
    assert not parts["train"] & parts["validation"]
    assert parts["train"] | parts["validation"] == parts["test"]
    assert len(parts["validation"]) == 10


def test_training_and_validation_share_no_group(tmp_path):
    groups = [f"patient {index // 5}" for index in range(50)]
    path = _npz(tmp_path, x=np.arange(50.0)[:, None], y=np.arange(50) % 3, groups=groups)
    train, validation = load(path, "train"), load(path, "validation")
    assert not set(train.groups) & set(validation.groups)
    assert len(set(validation.groups)) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no array y"),
        ({"a": X}, "no array x and no y"),
        ({"x": X, "y": Y[:4]}, "6 samples, y has 4"),
        ({"x": X[:0], "y": Y[:0]}, "empty"),
        ({"x": X[:, :0], "y": Y}, "empty"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, r"NaN or infinity \(first in sample 1\)"),
        ({"x": np.where(X == 9, np.inf, X), "y": Y}, "NaN or infinity"),
        ({"x": X.astype(np.int64) + 2**53, "y": Y}, "whole numbers beyond"),
        ({"x": X.astype(np.uint64) + 2**63, "y": Y}, "whole numbers beyond"),
        ({"x": X.astype(np.longdouble) / 3, "y": Y}, "more digits"),
        ({"x": X, "y": Y.astype(np.float32)}, "integer labels"),
        ({"x": X, "y": Y > 0}, "integer labels"),
        ({"x": X, "y": Y - 1}, "count from 0"),
        ({"x": X, "y": Y + 10**12}, "class numbers from 0"),
        ({"x": X, "y": Y[:, None]}, r"shape \[samples\]"),
        ({"x": X[:, 0], "y": Y}, r"shape \[samples, ...\]"),
        ({"x": X + 1j, "y": Y}, "must hold numbers"),
        ({"x": X.astype(str), "y": Y}, "must hold numbers"),
        ({"x": X, "y": Y, "classes": ["a", "b"]}, "only 2 classes"),
        ({"x": X, "y": Y, "classes": [["a"], ["b"], ["c"]]}, "plain list"),
        ({"x": X, "y": Y, "groups": ["a"]}, "1 entries for 6"),
        ({"x": np.asarray([{}] * 6, dtype=object), "y": Y}, "pickled objects"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        load(_npz(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(InputError, match="no such data file"):
        load(tmp_path / "missing.npz")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)
    single = tmp_path / "single.npy"
    np.save(single, X)
    with pytest.raises(InputError, match="single array"):
        load(single)
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(InputError, match=r"no \.npz file"):
        load(text)
    (tmp_path / "nothing.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"not a complete \.npz file"):
        load(tmp_path / "nothing.npz")


@pytest.mark.parametrize("kept", [10, 200, -40])
def test_truncated_npz(tmp_path, kept):
    path = _npz(tmp_path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="npz"):
        load(path)


def test_damaged_npz(tmp_path):
    path = _npz(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"not a complete \.npz file"):
        load(path)


def test_arrays_in_memory():
    data = from_arrays(torch.ones(3, 2, requires_grad=True), [2, 1, 0], name="mine")
    assert not data.x.requires_grad
    assert data.y.tolist() == [2, 1, 0]
    with pytest.raises(InputError, match="y of mine"):
        from_arrays(torch.ones(3, 2), [0.5, 1, 0], name="mine")


@pytest.mark.parametrize("compressed", [False, True])
def test_any_damaged_byte_is_an_input_error_or_harmless(tmp_path, compressed):
    path = tmp_path / "own.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, y=Y)
    good = path.read_bytes()
    for position in range(0, len(good), 2):
        for change in (0xFF, 0x01):
            content = bytearray(good)
            content[position] ^= change
            path.write_bytes(bytes(content))
            with contextlib.suppress(InputError):
                assert torch.isfinite(load(path).x).all()
