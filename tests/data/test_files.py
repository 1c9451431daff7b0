"""Folders, downloads and the cache of processed arrays, all without a network."""

import hashlib

import numpy as np
import pooch
import pytest
import requests

from thetabox.data.files import cache_folder, download, processed, search_folders
from thetabox.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.dat"
    path.write_bytes(b"raw")
    return path


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("THETABOX_CACHE")
    assert cache_folder().name == "thetabox"


def test_search_folders(monkeypatch, tmp_path):
    (tmp_path / "b").mkdir()
    monkeypatch.delenv("THETABOX_DATA", raising=False)
    assert search_folders(None, ["b"]) == []
    assert search_folders(tmp_path, ["a", "b"]) == [tmp_path / "b", tmp_path]
    monkeypatch.setenv("THETABOX_DATA", str(tmp_path))
    assert search_folders(None, ["b"]) == [tmp_path / "b", tmp_path]
    assert search_folders(tmp_path / "b", ["b"]) == [tmp_path / "b"]
    monkeypatch.setenv("THETABOX_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"THETABOX_DATA .* is not a folder"):
        search_folders(None, ["b"])
    with pytest.raises(InputError, match="is not a folder"):
        search_folders(tmp_path / "gone", ["b"])


def test_processed_arrays_are_computed_once(cache, source):
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert processed("demo", "v1", [source], make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    processed("demo", "v2", [source], make)
    source.write_bytes(b"other raw")
    processed("demo", "v2", [source], make)
    assert len(calls) == 3


def test_a_damaged_cache_is_repaired(cache, source):
    def make():
        return {"x": np.arange(3)}

    processed("demo", "v1", [source], make)
    (stored,) = (cache / "processed").iterdir()
    stored.write_bytes(stored.read_bytes()[:50])
    assert processed("demo", "v1", [source], make)["x"].tolist() == [0, 1, 2]
    with np.load(stored) as again:
        assert again["x"].tolist() == [0, 1, 2]


def test_a_cache_that_cannot_be_written_is_no_error(cache, source):
    cache.write_text("a file where the folder should be")
    assert processed("demo", "v1", [source], lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]


def test_download_from_the_cache(cache):
    folder = cache / "downloads" / "demo"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert download("demo", "https://example.invalid/", {"a.bin": digest}) == {"a.bin": folder / "a.bin"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (requests.exceptions.ConnectionError("no route"), r"could not be downloaded .* --data-dir or THETABOX_DATA"),
        (ValueError("SHA256 hash of downloaded file does not match"), "not the expected file"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_download_that_fails(cache, monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(InputError, match=message):
        download("demo", "https://example.invalid/", {"a.bin": "0" * 64})
