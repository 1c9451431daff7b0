"""Checkpoints: what is saved comes back; whatever is not a checkpoint is refused in one line, and never executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from torch import nn

from thetabox.errors import InputError, Notice
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
    for key in ("name", "self"):
        meta = json.dumps({"architecture": "mlp", "config": {key: 1}})
        safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata={"thetabox": meta})
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


class Extra(nn.Linear):
    config: ClassVar[dict[str, int]] = {"in_features": 6, "out_features": 3}

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def test_state_that_is_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nn.Linear(6, 3).state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match="_extra_state of the Extra to fill is no tensor"):
        load(tmp_path / "m.pt", Extra(6, 3))
    monkeypatch.setitem(ARCHITECTURES, "extra", Extra)
    with pytest.raises(InputError, match="_extra_state of the Extra is no tensor"):
        save(Extra(6, 3), tmp_path / "m.safetensors")


# --- every number as it stands in the file


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def numbers() -> dict[str, torch.Tensor]:
    """Weights that float32 does not hold."""
    torch.manual_seed(0)
    return {name: value.double() * (1 + 1e-10) for name, value in two_layers().state_dict().items()}


def written(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def refused(path: Path, model: nn.Module, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        load(path, model)
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(path), *parts):
        assert part in text, text


MIXED = {
    "float64 and float32": {"0.weight": torch.float32},
    "float32 first, one float64": {"0.weight": torch.float32, "0.bias": torch.float32, "2.bias": torch.float32},
    "half and float64": {"2.weight": torch.float16},
    "bfloat16 and half": dict(
        zip(("0.weight", "0.bias", "2.weight", "2.bias"), [torch.bfloat16, torch.float16] * 2, strict=True)
    ),
    "half": dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), torch.float16),
    "bfloat16": dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), torch.bfloat16),
    "float8": dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), torch.float8_e4m3fn),
    "other float8": dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), torch.float8_e5m2),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_types_that_differ_are_held_exactly(name: str, own: torch.dtype, form: str, tmp_path: Path) -> None:
    state = {key: value.to(MIXED[name].get(key, value.dtype)) for key, value in numbers().items()}
    path = tmp_path / f"m.{form}"
    if form == "pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = load(path, two_layers().to(own)).state_dict()
    for key, value in state.items():
        assert torch.equal(found[key].double(), value.double())
    assert len({value.dtype for value in found.values()}) == 1


def test_a_module_that_holds_the_numbers_keeps_its_type(tmp_path: Path) -> None:
    state = {key: value.float() for key, value in numbers().items()}
    assert load(written(tmp_path / "m.pt", state), two_layers().double())[0].weight.dtype == torch.float64
    mixed = two_layers()
    mixed[0].half()
    halves = {key: value.half() if key.startswith("0") else value for key, value in state.items()}
    assert load(written(tmp_path / "n.pt", halves), mixed)[0].weight.dtype == torch.float16


def test_what_is_not_in_the_file_is_not_rounded(tmp_path: Path) -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2, dtype=torch.float16)
            self.register_buffer("gain", torch.tensor(1 / 3, dtype=torch.float64), persistent=False)

    path = written(tmp_path / "m.pt", nn.Linear(2, 2).state_dict())
    assert load(path, Scaled()).gain == torch.tensor(1 / 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.uint16], ids=str
)
def test_codes_are_no_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    codes = {key: (100 * value.abs()).round().to(dtype) for key, value in numbers().items()}
    refused(written(tmp_path / "m.pt", codes), two_layers(), "0.weight", str(dtype).removeprefix("torch."))
    one = {**numbers(), "2.bias": codes["2.bias"]}
    refused(written(tmp_path / "n.pt", one), two_layers(), "2.bias")


@pytest.mark.parametrize("imaginary", [5.0, 0.0])
def test_complex_numbers_are_no_weights(imaginary: float, tmp_path: Path) -> None:
    state = {**numbers(), "0.weight": numbers()["0.weight"] * (1 + 1j * imaginary)}
    refused(written(tmp_path / "m.pt", state), two_layers(), "0.weight", "complex")


def test_layouts_are_read_and_codes_of_quantised_tensors_refused(tmp_path: Path) -> None:
    state = numbers()
    for layout in (torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr):
        sparse = {**state, "0.weight": layout(state["0.weight"])}
        found = load(written(tmp_path / "m.pt", sparse), two_layers())
        assert torch.equal(found[0].weight, state["0.weight"])
    quantised = torch.quantize_per_tensor(state["0.weight"].float(), 0.01, 0, torch.qint8)
    refused(written(tmp_path / "q.pt", {**state, "0.weight": quantised}), two_layers(), "quantised")
    refused(written(tmp_path / "e.pt", {**state, "0.weight": state["0.weight"].to("meta")}), two_layers(), "0.weight")
    nan = torch.full((8, 4), float("nan")).to(torch.float8_e4m3fn)
    refused(written(tmp_path / "f.pt", {**state, "0.weight": nan}), two_layers(), "NaN")


def test_whole_numbers_that_the_module_would_cut(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(2)
    state = model.state_dict()
    path = written(tmp_path / "m.pt", {**state, "num_batches_tracked": torch.tensor(3.0)})
    assert load(path, nn.BatchNorm1d(2)).num_batches_tracked == 3
    refused(written(path, {**state, "num_batches_tracked": torch.tensor(3.5)}), model, "num_batches_tracked")
    model.register_buffer("few", torch.zeros(1, dtype=torch.int8))
    refused(written(path, {**state, "few": torch.tensor([300])}), model, "few")


def test_two_values_of_a_tensor_that_the_module_shares(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    apart = {f"{n}.{key}": value for n in "ab" for key, value in nn.Linear(2, 2).state_dict().items()}
    refused(written(tmp_path / "m.pt", apart), Tied(), "a.weight", "two names")
    load(written(tmp_path / "n.pt", Tied().state_dict()), Tied())


def test_modules_without_values(tmp_path: Path) -> None:
    path = written(tmp_path / "m.pt", nn.Linear(4, 3).state_dict())
    refused(path, nn.LazyLinear(3), "no shape")
    refused(path, nn.Linear(4, 3, device="meta"), "no memory")
    with pytest.raises(InputError, match="name of a network or a module"):
        load(path, nn.Linear)


# --- names and places


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


AROUND = {
    "DataParallel": lambda s: prefixed("module.", s),
    "compile": lambda s: prefixed("_orig_mod.", s),
    "both": lambda s: prefixed("module._orig_mod.", s),
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "Lightning of a compiled one": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "own names": lambda s: prefixed("net.body.", s),
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3, "loss": 0.5},
    "model": lambda s: {"model": s},
    "deep": lambda s: {"checkpoint": {"model": prefixed("module.", s)}, "args": {"lr": 1e-3}},
    "beside an optimiser": lambda s: {
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.full((2,), float("nan"))}},
            "param_groups": [{"lr": 0.1}],
        },
        "net": s,
    },
    "a part inside": lambda s: {key.replace("0.", "0._orig_mod."): value for key, value in s.items()},
    "beside an average": lambda s: {"ema": {k: v + 1 for k, v in s.items()}, "state_dict": s},
}


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_a_state_dict(name: str, tmp_path: Path) -> None:
    model = two_layers()
    path = written(tmp_path / "m.pt", AROUND[name](model.state_dict()))
    assert same_weights(load(path, two_layers()), model)
    if name != "a part inside":
        around = nn.DataParallel(two_layers())
        assert same_weights(load(path, around).module, model)


@pytest.mark.parametrize("name", [n for n in AROUND if n != "a part inside"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_stands_around_a_named_network(name: str, network: str, tmp_path: Path) -> None:
    model = NETWORKS[network]()
    path = written(tmp_path / "m.pt", AROUND[name](model.state_dict()))
    assert same_weights(load(path, architecture(model)), model)


TOLD = {
    "DataParallel": "read module.0.weight as 0.weight",
    "Lightning": "read the weights under 'state_dict', model.0.weight as 0.weight",
    "model_state_dict": "read the weights under 'model_state_dict'",
    "deep": "read the weights under 'checkpoint.model', module.0.weight as 0.weight",
}


@pytest.mark.parametrize("name", TOLD)
def test_what_was_seen_through_is_said(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.pt", AROUND[name](two_layers().state_dict()))
    with pytest.warns(Notice) as told:
        load(path, two_layers())
    assert [str(w.message) for w in told] == [f"{path}: {TOLD[name]}"]


def test_of_what_stands_there_nothing_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = two_layers()
    assert same_weights(load(written(tmp_path / "m.pt", model.state_dict()), two_layers()), model)
    save(MLP((4, 3, 2)), tmp_path / "m.safetensors")
    load(tmp_path / "m.safetensors")
    assert not [w for w in recwarn if issubclass(w.category, Notice)]


def test_a_batch_norm_of_an_old_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    with torch.no_grad():
        model[1].running_mean.fill_(2.0)
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    with pytest.warns(Notice, match=r"read without 1\.num_batches_tracked, which it does not hold"):
        found = load(written(tmp_path / "m.pt", state), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    x = torch.randn(5, 4)
    assert torch.equal(found(x), model(x))
    del state["1.running_var"]
    refused(written(tmp_path / "n.pt", state), model, "lacks 1.running_var")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight


@pytest.mark.parametrize("kept", ["first", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tied_weights_that_were_saved_once(kept: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = Tied().to(dtype)
    state = {name: v for name, v in model.state_dict().items() if "bias" in name or name.startswith(kept)}
    left = "last" if kept == "first" else "first"
    with pytest.warns(Notice, match=rf"read without {left}\.weight, which it does not hold"):
        found = load(written(tmp_path / "m.pt", state), Tied())
    assert found.first.weight is found.last.weight
    assert torch.equal(found.first.weight, model.first.weight)
    del state[f"{kept}.weight"]
    refused(written(tmp_path / "n.pt", state), Tied(), "lacks first.weight")


def test_state_dicts_of_which_none_or_several_fit(tmp_path: Path) -> None:
    state, other = two_layers().state_dict(), two_layers().state_dict()
    refused(written(tmp_path / "m.pt", {"model": state, "ema": other}), two_layers(), "several", "model", "ema")
    refused(written(tmp_path / "n.pt", {"model": {"a": torch.ones(1)}, "epoch": 1}), two_layers(), "lacks 0.weight")
    refused(written(tmp_path / "o.pt", {"epoch": 1, "config": {"lr": 0.1}}), two_layers(), "not a state_dict")
    refused(written(tmp_path / "p.pt", {**state, "epoch": 3}), two_layers(), "not a state_dict")
    part = {"state_dict": {**prefixed("model.", state), "criterion.weight": torch.ones(3)}}
    refused(written(tmp_path / "q.pt", part), two_layers(), "unknown")
    clash = {"0.weight": state["0.weight"], "module.0.weight": state["0.weight"]}
    refused(written(tmp_path / "r.pt", clash), two_layers(), "does not fit")


# --- neuron values


@pytest.mark.parametrize("name", ["tau", "tau_adapt"])
@pytest.mark.parametrize("value", [-2.0, 0.0, -0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("wrapper", [lambda m: m, nn.DataParallel], ids=["plain", "wrapped"])
def test_time_constants_of_a_file(name: str, value: float, wrapper: object, tmp_path: Path) -> None:
    state = LSNN(3, 6, 4).state_dict()
    state[name][2] = value
    refused(written(tmp_path / "m.pt", state), wrapper(LSNN(3, 6, 4)), name)
    if value == -2.0:
        path = tmp_path / "m.safetensors"
        model = LSNN(3, 6, 4)
        getattr(model, name)[2] = value
        save(model, path)
        with pytest.raises(InputError, match=name):
            load(path)


def test_time_constants_of_cells_of_ones_own(tmp_path: Path) -> None:
    class Own(LSNN):
        pass

    state = LSNN(3, 6, 4).state_dict()
    state["tau"].fill_(-1.0)
    refused(written(tmp_path / "m.pt", prefixed("0.", state)), nn.Sequential(Own(3, 6, 4)), "tau")
