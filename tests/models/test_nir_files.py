"""Hostile and damaged NIR files: one line, nothing executed, nothing read from elsewhere, no memory for mere names."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="the package nir, which brings h5py, is not installed")
nir = pytest.importorskip("nir", reason="the package nir is not installed")

import thetabox as tb  # noqa: E402  # after what may skip this file
from thetabox.errors import InputError  # noqa: E402  # after what may skip this file
from thetabox.models.nir import file as nir_file  # noqa: E402  # after what may skip this file
from thetabox.models.nir import reader  # noqa: E402  # after what may skip this file

FILES = Path(__file__).resolve().parents[1] / "data" / "nir"


def content() -> bytes:
    """A network of one neuron layer."""
    three = np.ones(3, np.float32)
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Affine(np.eye(3, dtype=np.float32), three),
        "lif": nir.LIF(tau=three * np.float32(2e-5), r=three, v_leak=0 * three, v_threshold=three),
        "output": nir.Output(np.array([3])),
    }
    held = io.BytesIO()
    nir.write(held, nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False), compression=None)
    return held.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "net.nir").write_bytes(content())
    return tmp_path / "net.nir"


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        tb.load(path, dynamics="norse")
    text = str(error.value)
    assert text.isprintable()
    assert text.startswith(str(path))
    assert len(text) < 500
    return text


def test_it_is_read_as_it_stands(path: Path) -> None:
    assert tb.load(path, dynamics="norse").facts["format"] == "nir"


def changed(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return apply


def replaced(name: str, value: Any, **how: Any) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file[name]
        file.create_dataset(name, data=value, **how)

    return changed(change)


def removed(name: str) -> Callable[[Path], None]:
    return changed(lambda file: file.__delitem__(name))


def linked(name: str, link: Any) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file[name]
        file[name] = link

    return changed(change)


def huge(file: Any) -> None:
    # Nothing is stored of it: HDF5 would fill in zeros, 16 TiB of them.
    del file["node/nodes/fc/weight"]
    file.create_dataset("node/nodes/fc/weight", shape=(2**21, 2**21), dtype="f4", chunks=(1, 2**21))


def elsewhere(file: Any) -> None:
    del file["node/nodes/fc/weight"]
    file.create_dataset("node/nodes/fc/weight", (3, 3), "f4", external=[("/etc/passwd", 0, 36)])


def virtual(file: Any) -> None:
    del file["node/nodes/fc/weight"]
    layout = h5py.VirtualLayout(shape=(3, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("other.nir", "x", shape=(3, 3))
    file.create_virtual_dataset("node/nodes/fc/weight", layout)


def around(file: Any) -> None:
    file["node/metadata/again"] = file["node"]


def reference(file: Any) -> None:
    file.create_dataset("node/metadata/r", data=file["node"].ref, dtype=h5py.ref_dtype)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (removed("node"), "without the graph of a NIR file"),
        (replaced("node/type", "LIF"), "without the graph of a NIR file"),
        (removed("node/nodes"), "the graph has no nodes or no edges"),
        (removed("node/edges"), "the graph has no nodes or no edges"),
        (replaced("node/edges", 3.0), "the graph has no nodes or no edges"),
        (replaced("node/edges", np.array([b"a", b"b"])), "an edge of the graph joins"),
        (replaced("node/edges", np.array([[b"input", b"fc", b"lif"]])), "an edge of the graph joins"),
        (replaced("node/nodes/fc/type", "Attention"), "node 'fc' is of type 'Attention'; known are Affine,"),
        (replaced("node/nodes/fc/type", 3), "node 'fc' is of type ''"),
        (replaced("node/nodes/fc/type", "str2NIRNode"), "is of type 'str2NIRNode'"),
        (replaced("node/nodes/fc", 3.0), "node 'fc' is of type ''"),
        (changed(lambda f: f["node"].create_dataset("code", data="x")), "the graph holds code, which no graph does"),
        (changed(lambda f: f["node/nodes/fc"].create_dataset("code", data="x")), "node 'fc' (Affine) is damaged"),
        (removed("node/nodes/fc/bias"), "node 'fc' (Affine) is damaged"),
        (removed("node/nodes/input/shape"), "node 'input' (Input) is damaged"),
        (replaced("node/nodes/fc/weight", "text"), "node 'fc' (Affine) is damaged"),
        (replaced("node/nodes/fc/bias", "text"), "bias holds 1 numbers of type <U4, not weights"),
        (replaced("node/nodes/fc/weight", np.ones((3, 3), complex)), "holds neither numbers nor text (complex128)"),
        (replaced("node/nodes/fc/weight", h5py.Empty("f4")), "weight is empty"),
        (replaced("node/nodes/fc/bias", np.zeros(0, np.float32)), "bias holds 0 numbers"),
        (replaced("node/nodes/lif/tau", np.ones(4, np.float32)), "node 'lif' (LIF) is damaged"),
        (replaced("node/nodes/input/shape", np.array([3.0])), "node 'input' (Input) is said to be of shape"),
        (replaced("node/nodes/input/shape", np.array([[3]])), "node 'input' (Input) is said to be of shape"),
        (replaced("node/nodes/input/shape", np.array([-3])), "node 'input' (Input) is said to be of shape"),
        (replaced("node/nodes/input/shape", np.array([2**40, 3])), "more than 67108864 values"),
        (replaced("node/nodes/input/shape", "three"), "node 'input' (Input) is said to be of shape three"),
        (replaced("node/nodes/output/shape", np.array([4])), "(Output) is said to be of shape [4], but [3] comes"),
        (linked("node/nodes/fc/weight", h5py.SoftLink("/node/nodes/lif/tau")), "/node/nodes/fc/weight is a link"),
        (linked("node/nodes/fc", h5py.ExternalLink("other.nir", "/node")), "/node/nodes/fc is a link"),
        (changed(huge), "its numbers take more than 4 GiB"),
        (changed(elsewhere), "lie in another file"),
        (changed(virtual), "lie in another file"),
        (changed(around), "nested deeper than 16, or in a circle"),
        (changed(reference), "neither numbers nor text"),
        (changed(lambda f: f["node"].__setitem__("t", np.dtype("f4"))), "is neither a group nor a set of numbers"),
        (replaced("node/nodes/fc/type", b"\xff\xfe"), "not a NIR file, or damaged"),
        (replaced("version", np.ones(2)), None),
    ],
)
def test_one_line(path: Path, change: Callable[[Path], None], line: str | None) -> None:
    with h5py.File(path, "a") as file:
        file.create_group("node/metadata")
    change(path)
    if line is None:
        assert tb.load(path, dynamics="norse").facts["producer"] == "nir unknown"
    else:
        assert line in refused(path)


def test_sizes_that_a_node_names_take_no_memory(tmp_path: Path) -> None:
    # 2²⁰ channels of 8 × 8 values, or windows that reach far beyond the edge: terabytes if they were computed.
    conv = nir.Conv2d((8192, 8192), np.ones((2**10, 1, 1, 1), np.float32), 1, 2**16, 1, 1, np.ones(2**10, np.float32))
    nodes = {"input": nir.Input(np.array([1, 8192, 8192])), "conv": conv, "output": nir.Output(np.array([1]))}
    nir.write(tmp_path / "net.nir", nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False))
    assert "node 'conv' (Conv2d) makes values of shape [1024, 139264, 139264]" in refused(tmp_path / "net.nir")


def test_many_entries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "ENTRIES", 12)
    assert b"it holds more than 12 entries" in reader.encoded(path.read_bytes())


def test_a_library_that_loops_or_crashes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.py"
    monkeypatch.setattr(reader, "__file__", str(other))
    other.write_text("while True: pass")
    monkeypatch.setattr(nir_file, "SECONDS", 0.5)
    assert "did not come to an end with it in" in refused(path)
    other.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert "failed with it (exit status -11)" in refused(path)


def test_names_that_move_the_cursor(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.move("node/nodes/fc", "node/nodes/\x1b[2Jfc\n")
        edges = [
            (a.replace(b"fc", b"\x1b[2Jfc\n"), b.replace(b"fc", b"\x1b[2Jfc\n")) for a, b in file["node/edges"][()]
        ]
        del file["node/edges"]
        file["node/edges"] = edges
        del file["node/nodes/\x1b[2Jfc\n/bias"]
    assert "node '[2Jfc' (Affine) is damaged" in refused(path)


@pytest.mark.parametrize("start", [0, 8, 100, 1000])
def test_truncated(path: Path, start: int) -> None:
    path.write_bytes(content()[:start])
    refused(path)


@pytest.mark.long
def test_random_damage_is_a_line_or_a_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them one that HDF5 reads for ever."""
    monkeypatch.setattr(nir_file, "SECONDS", 2.0)
    draw, good = random.Random(0), content()
    lines: list[str] = []
    for _ in range(30):
        held = bytearray(good)
        for _ in range(draw.randint(1, 20)):
            held[draw.randrange(len(held))] = draw.randrange(256)
        path.write_bytes(bytes(held))
        try:
            tb.load(path, dynamics="norse")
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 5
    assert all(line.isprintable() for line in lines)


def test_other_files_under_this_suffix(tmp_path: Path) -> None:
    for text in (b"", b"PK\x03\x04", b"\x80\x04cposix\nsystem\n"):
        (tmp_path / "net.nir").write_bytes(text)
        assert "not a NIR file (HDF5), or truncated" in refused(tmp_path / "net.nir")
    with h5py.File(tmp_path / "net.nir", "w") as file:
        file["weights"] = np.ones(3)
    assert "without the graph" in refused(tmp_path / "net.nir")


def test_the_package_is_named_where_it_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    assert "pip install 'thetabox[nir]'" in refused(path)


def test_the_hash_is_of_the_bytes(path: Path) -> None:
    before = tb.models.sha256(path)
    with h5py.File(path, "a") as file:
        file["node/nodes/fc/bias"][0] = 2.0
    assert tb.models.sha256(path) != before
    assert tb.models.is_graph(path)
    assert tb.models.checkpoint_info(path) == {}
