"""Checkpoints: what is saved comes back; whatever is not a checkpoint is refused in one line, and never executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models import (
    ARCHITECTURES,
    LSNN,
    MLP,
    ConvNet,
    ResNet32,
    architecture,
    build,
    checkpoint_info,
    load,
    save,
    sha256,
)

NETWORKS = {
    "lsnn": lambda: LSNN(3, 6, 4, tau=[5.0, 6, 7, 8, 9, 10], refractory=3),
    "feed-forward lsnn": lambda: LSNN(3, 6, 4, recurrent=False),
    "convnet": lambda: ConvNet(),
    "small convnet": lambda: ConvNet.small(classes=7),
    "mlp": lambda: MLP((4, 3, 2)),
    "resnet32": lambda: ResNet32(width=4),
}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = NETWORKS[name]().to(dtype)
    path = tmp_path / "model.safetensors"
    save(model, path, {"task": "t", "seed": 3})
    back = load(path)
    assert type(back) is type(model)
    assert back.config == model.config
    assert not back.training
    assert same_weights(back, model)
    info = checkpoint_info(path)
    assert info["architecture"] == architecture(model)
    assert info["info"] == {"task": "t", "seed": 3}
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_state_dict_beside_a_name(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    back = load(path, architecture(model))
    assert same_weights(back, model)
    with pytest.raises(InputError, match="--model"):
        load(path)


def test_state_dict_into_a_module_of_ones_own(tmp_path: Path) -> None:
    model, fresh = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", fresh) is fresh
    assert same_weights(fresh, model)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    assert same_weights(load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(2, 3))), model)
    with pytest.raises(InputError, match="--model"):
        load(tmp_path / "m.safetensors")


def test_own_class_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        def __init__(self, size: int) -> None:
            super().__init__(size, size)
            self.config = {"size": size}

    with pytest.raises(InputError, match="ARCHITECTURES"):
        save(Own(2), tmp_path / "m.safetensors")
    monkeypatch.setitem(ARCHITECTURES, "own", Own)
    model = Own(2)
    save(model, tmp_path / "m.safetensors")
    assert same_weights(load(tmp_path / "m.safetensors"), model)


class RunsCode:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_code_is_refused_and_not_run(writer: str, suffix: str, tmp_path: Path) -> None:
    path, trace = tmp_path / f"m{suffix}", tmp_path / "trace"
    if writer == "torch":
        torch.save({"w": RunsCode(str(trace))}, path)
    else:
        path.write_bytes(pickle.dumps(RunsCode(str(trace))))
    with pytest.raises(InputError) as caught:
        load(path, "mlp")
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    assert "could run code" in str(caught.value)


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(InputError, match="could run code"):
        load(tmp_path / "m.pt", nn.Linear(2, 2))


@pytest.mark.parametrize("keep", [0, 1, 7, 60, 400, -1])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_truncated(keep: int, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{form}"
    if form == "pt":
        torch.save(MLP((4, 3, 2)).state_dict(), path)
    else:
        save(MLP((4, 3, 2)), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        load(path, "mlp")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"hello, this is no checkpoint", b"\x00" * 100, b"PK\x03\x04zip?", b"\x80\x04N."],
    ids=["text", "zeros", "zip", "pickle"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_not_a_checkpoint(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a"):
        load(path, "mlp")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for read in (load, checkpoint_info, sha256):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    model = MLP((4, 3, 2))
    with torch.no_grad():
        model.dense1.weight[0, 0] = value
    save(model, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"dense1\.weight holds NaN or infinite"):
        load(tmp_path / "m.safetensors")


def test_shapes_and_names_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(MLP((4, 3, 2)), path)
    with pytest.raises(InputError, match=r"dense1\.weight has shape \[3, 4\]"):
        load(path, MLP((5, 3, 2)))
    with pytest.raises(InputError, match=r"lacks dense3"):
        load(path, MLP((4, 3, 2, 2)))
    with pytest.raises(InputError, match=r"unknown dense2"):
        load(path, MLP((4, 3)))
    with pytest.raises(InputError, match="are not those of model 'lsnn'"):
        load(path, "lsnn")
    with pytest.raises(InputError, match="unknown model 'nope'"):
        load(path, "nope")


def test_metadata_of_an_unknown_or_damaged_kind(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for meta, word in [("{", "damaged"), ("[]", "damaged"), ('{"architecture": "x", "config": {}}', "unknown model")]:
        safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata={"thetabox": meta})
        with pytest.raises(InputError, match=word):
            load(path)
    safetensors.torch.save_file(
        {"w": torch.zeros(2)}, path, metadata={"thetabox": '{"architecture": "mlp", "config": {"nonsense": 1}}'}
    )
    with pytest.raises(InputError, match="cannot be built"):
        load(path)


@pytest.mark.parametrize("length", [128, 640])
def test_header_that_looks_like_a_pickle(length: int, tmp_path: Path) -> None:
    """The header's length is the first byte of the file: 128 is also the first byte of every pickle."""
    path = tmp_path / "m.pt"
    model = nn.Linear(2, 1, bias=False)
    for filler in range(length):
        path.write_bytes(safetensors.torch.save(model.state_dict(), metadata={"a": "x" * filler}))
        if path.read_bytes()[:2] == bytes([length % 256, length // 256]):
            break
    assert path.read_bytes()[0] == 0x80
    assert same_weights(load(path, nn.Linear(2, 1, bias=False)), model)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save(MLP((4, 3, 2)), path)
    before = sha256(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save(MLP((4, 3, 2)), path)
    assert sha256(path) == before
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(InputError, match="cannot write"):
        save(MLP((4, 3, 2)), tmp_path / "no" / "folder.safetensors")


def test_build_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match="choose one of convnet, lsnn, mlp, resnet32"):
        build("nope")
    with pytest.raises(InputError, match="cannot be built"):
        build("mlp", width=3)
