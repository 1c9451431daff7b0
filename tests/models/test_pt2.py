"""``.pt2`` archives: margins are those of the module that was exported; a hostile archive runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import thetabox as tb
from thetabox.cli import thetabox
from thetabox.data import load as load_data
from thetabox.errors import InputError
from thetabox.models import LSNN, MLP, ConvNet, ResNet32, load
from thetabox.models.program import Program


class Layers(nn.Module):
    """What a graph file may hold beside plain layers: buffers, ties, a batch in sizes, work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.layer, self.tied = nn.Linear(144, 16), nn.Linear(16, 16)
        self.back = nn.Linear(16, 16, bias=False)
        self.back.weight = self.tied.weight
        self.register_buffer("mask", torch.linspace(0, 1, 16), persistent=False)
        self.register_buffer("start", torch.ones(1, 16))
        self.factor = torch.tensor(0.5)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        y = self.drop(torch.relu_(self.norm(self.conv(x)))).view(x.size(0), -1)
        h = torch.zeros(x.size(0), 16) + self.start.expand(x.size(0), 16)
        for _ in range(2):
            h = torch.tanh(self.layer(y) * self.mask + self.back(h) * self.factor)
        return (self.tied(h).reshape(x.size(0) * 2, 8).view(x.size(0), 16),)


class Answer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP((4, 8, 3)), (4,)),
    "cnn": (lambda: ConvNet.small(), (1, 8, 8)),
    "lsnn": (lambda: LSNN(3, 6, 4), (3, 3)),
    "layers": (Layers, (1, 8, 8)),
}
KINDS = ("free", "static", "one", "auto of one")


def export(model: nn.Module, x: Tensor, path: Path, kind: str = "free") -> Path:
    dims: Any = {"free": ({0: torch.export.Dim.DYNAMIC},), "auto of one": ({0: torch.export.Dim.AUTO},)}.get(kind)
    example = x[: {"free": 3, "static": 4}.get(kind, 1)]
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=dims), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[1:])])
@pytest.mark.parametrize("name", NETS)
def test_round_trip(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    model, x = make().eval(), torch.rand(4, *shape)
    own = Answer(model) if name == "layers" else model
    network = load(export(model, x, tmp_path / "m.pt2", kind))
    assert isinstance(network, Program)
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(x), own(x), rtol=0, atol=1e-6)
    names = {n: p for n, p in model.named_parameters() if n != "back.weight"}
    assert {n for n, _ in network.named_parameters()} == names.keys()
    assert all(torch.equal(p, names[n]) for n, p in network.named_parameters())
    y = network(x).argmax(1)
    found, expected = (tb.certify(m, x, y, [0.0, 1e-4], domain="interval") for m in (network, own))
    torch.testing.assert_close(found.margin, expected.margin, rtol=0, atol=1e-12)
    assert found.model_info["file"]["batch_norm"] == ("kept" if name == "layers" else "none in the file")
    check_inside(network, x)


def check_inside(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        logits = network(x)
    bounds = tb.logit_bounds(network, x, 0.0, arithmetic="float32")
    low, high = (end.reshape(logits.shape) for end in (bounds.lower, bounds.upper))
    assert bool(((low <= logits) & (logits <= high)).all())


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_resnet32(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ResNet32(width=4).eval(), torch.rand(4, 3, 8, 8)
    network = load(export(model, x, tmp_path / "m.pt2", kind))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-6)
    found, expected = (tb.certify(m, x, model(x).argmax(1), [0.0], domain="interval") for m in (network, model))
    torch.testing.assert_close(found.margin, expected.margin, rtol=1e-12, atol=1e-12)
    assert found.model_info["file"]["batch_norm"] == "kept"


def test_resnet32_in_short(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ResNet32(width=2).eval(), torch.rand(3, 3, 8, 8)
    network = load(export(model, x, tmp_path / "m.pt2", "one"))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-6)
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_a_decomposed_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ConvNet.small().eval(), torch.rand(3, 1, 8, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program.run_decompositions(), tmp_path / "m.pt2")
    network = load(tmp_path / "m.pt2")
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-6)


class Steps(nn.Module):
    """Layers that flatten time and samples, and take them apart again, in the same order or not."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(4, 6), end

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(0, 1)
        rows = torch.relu(self.layer(frames.flatten(0, 1)) * 0.5)
        if self.end == "shuffled":
            apart = rows.view(5, x.size(0), 6, 2)
        elif self.end == "read":
            apart = rows.unflatten(0, (5, x.size(0))) + rows.sum()
        elif self.end == "samples":
            apart = rows.view(x.size(0), 5, 2, 6).transpose(0, 1)
        else:
            apart = rows.unflatten(0, (5, x.size(0)))
        return apart[2].flatten(1)


@pytest.mark.parametrize("end", ["same", "shuffled", "read", "samples"])
@pytest.mark.parametrize("kind", ["free", "static"])
def test_time_and_samples_in_one_dimension(end: str, kind: str, tmp_path: Path) -> None:
    model, x = Steps(end).eval(), torch.rand(4, 5, 2, 4)
    network = load(export(model, x, tmp_path / "m.pt2", kind))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-6)
    merges = [step for step in network.steps if "flatten" in step.where or "view" in step.where]
    assert (len(merges) == 1) == (end == "same")


class Normed(nn.Module):
    """Batch norms behind convolutions with a bias and without, learned and not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, affine=False, eps=1e-2), nn.Flatten(), nn.Linear(64, 3),
        )  # layers, several to a line  # fmt: skip
        for norm in (self.layers[1], self.layers[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.slow
@pytest.mark.parametrize("decomposed", [False, True])
def test_batch_norms_are_folded_as_those_of_the_module(decomposed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Normed().eval(), torch.rand(3, 1, 8, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    if decomposed:
        table = torch.export.default_decompositions()
        kept = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
        program = program.run_decompositions({op: f for op, f in table.items() if op not in kept})
    torch.export.save(program, tmp_path / "m.pt2")
    network, box = load(tmp_path / "m.pt2"), tb.Box(fold=True)
    found, expected = (tb.certify(m, x, model(x).argmax(1), [0.0, 1e-3], box=box) for m in (network, model))
    torch.testing.assert_close(found.margin, expected.margin, rtol=0, atol=1e-12)
    assert found.model_info["perturbed"] == expected.model_info["perturbed"]
    assert "layers.1.weight" in dict(network.named_parameters())


def test_a_batch_norm_without_convolution_is_not_folded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    network = load(export(model, torch.rand(3, 4), tmp_path / "m.pt2"))
    with pytest.raises(InputError, match="no convolution"):
        tb.certify(network, torch.rand(3, 4), torch.zeros(3, dtype=torch.long), [0.0], box=tb.Box(fold=True))


def test_tied_weights_move_as_one(tmp_path: Path) -> None:
    network = load(export(Layers().eval(), torch.rand(3, 1, 8, 8), tmp_path / "m.pt2"))
    assert network.get_parameter("tied.weight") is network.get_parameter("back.weight")


def test_by_its_content(tmp_path: Path) -> None:
    path = export(MLP((4, 3)).eval(), torch.rand(3, 4), tmp_path / "m.pt2")
    path.rename(tmp_path / "m.zip")
    assert isinstance(load(tmp_path / "m.zip"), Program)
    with pytest.raises(InputError, match="whole network"):
        load(tmp_path / "m.zip", "mlp")
    with pytest.raises(InputError, match="nothing can be set"):
        load(tmp_path / "m.zip", config={"units": 3})


class TrainingMode(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.AlphaDropout(0.5)])
@pytest.mark.parametrize("decomposed", [False, True])
def test_training_mode_is_one_line(layer: nn.Module, decomposed: bool, tmp_path: Path) -> None:
    program = torch.export.export(TrainingMode(layer).train(), (torch.rand(3, 4),))
    torch.export.save(program.run_decompositions() if decomposed else program, tmp_path / "m.pt2")
    with pytest.raises(InputError, match=r"eval\(\)|random") as caught:
        load(tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TwoResults(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class Rows(nn.Module):
    """Its batch stands in a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [(TwoInputs(), 2, "2 inputs"), (TwoResults(), 1, "2 results"), (Rows(), 1, "batch of 3")],
)
def test_what_is_not_read(model: nn.Module, inputs: int, said: str, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(model, (torch.rand(3, 4),) * inputs), tmp_path / "m.pt2")
    with pytest.raises(InputError, match=said) as caught:
        load(tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)


def test_mixing_samples_is_seen_by_the_certificate(tmp_path: Path) -> None:
    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.t().reshape(x.size(0), 4) + x

    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Mixes(), (torch.rand(3, 4),)), path)
    with pytest.raises(InputError):
        tb.certify(load(path), torch.rand(3, 4), torch.zeros(3, dtype=torch.long), [0.0])


# Hostile and damaged archives.


class RunsCode:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


Members = dict[str, bytes]
GRAPH, WEIGHTS = "archive/models/model.json", "archive/data/weights/model_weights_config.json"
CONSTANTS, SAMPLES = "archive/data/constants/model_constants_config.json", "archive/data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = export(Layers().eval(), torch.rand(3, 1, 8, 8), tmp_path_factory.mktemp("pt2") / "m.pt2")
    with zipfile.ZipFile(path) as file:
        return {f"archive/{name.partition('/')[2]}": file.read(name) for name in file.namelist()}


def pack(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def edited(members: Members, name: str, change: Callable[[Any], Any]) -> Members:
    content = json.loads(members[name])
    change(content)
    return {**members, name: json.dumps(content).encode()}


def node(content: Any, target: str) -> None:
    content["graph_module"]["graph"]["nodes"][0]["target"] = target


def weight(content: Any, **changes: Any) -> None:
    next(iter(content["config"].values())).update(changes)


def meta(content: Any, **changes: Any) -> None:
    next(iter(content["config"].values()))["tensor_meta"].update(changes)


def sizes(*values: int) -> list[dict[str, int]]:
    return [{"as_int": v} for v in values]


def expression(text: str) -> Callable[[Any], None]:
    """An expression of a size, which torch's reader evaluates as Python, in every place that has one."""

    def change(content: Any) -> None:
        for value in content["graph_module"]["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = text
        for value in content["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text
        content["guards_code"] = [text]
        content["range_constraints"] = {text: {"min_val": 0, "max_val": None}}
        for entry in content["graph_module"]["module_call_graph"]:
            if entry["signature"]:
                entry["signature"]["in_spec"] = json.dumps([1, {"type": "collections.defaultdict", "context": text}])

    return change


def attacks(trace: str) -> dict[str, tuple[Callable[[Members], Members], str]]:
    payload = RunsCode(trace)
    bare = pickle.dumps(payload)
    call = f"__import__('os').mkdir({trace!r})"
    custom = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    opaque = {**custom, "path_name": "opaque_obj_0"}

    def calls(target: str) -> Callable[[Members], Members]:
        return lambda m: edited(m, GRAPH, lambda c: node(c, target))

    def tensor(**changes: Any) -> Callable[[Members], Members]:
        return lambda m: edited(m, WEIGHTS, lambda c: meta(c, **changes))

    def constant(entry: dict[str, Any]) -> Callable[[Members], Members]:
        return lambda m: {
            **edited(m, CONSTANTS, lambda c: c["config"].update(x=entry)),
            f"archive/data/constants/{entry['path_name']}": bare,
        }

    return {
        "sample inputs": (lambda m: {**m, SAMPLES: saved(payload)}, "could run code"),
        "bare sample inputs": (lambda m: {**m, SAMPLES: bare}, "could run code"),
        "newer pickle": (lambda m: {**m, SAMPLES: pickle.dumps(payload, 5)}, "could run code"),
        "old weights": (lambda m: {**m, "archive/data/weights/model.pt": saved(payload)}, "could run code"),
        "old constants": (lambda m: {**m, "archive/data/constants/model.pt": saved(payload)}, "could run code"),
        "weight": (lambda m: {**edited(m, WEIGHTS, lambda c: weight(c, use_pickle=True)),
                              "archive/data/weights/weight_0": saved(payload)}, "could run code"),
        "weight without meta": (lambda m: edited(m, WEIGHTS, lambda c: weight(c, tensor_meta=None)), "could run code"),
        "custom object": (constant(custom), "could run code"),
        "opaque object": (constant(opaque), "could run code"),
        "compiled": (lambda m: {**m, "archive/data/aotinductor/model/a.so": b"\x7fELF"}, "compiled or other code"),
        "library": (lambda m: {**m, "archive/extra/a.so": b"\x7fELF"}, "compiled or other code"),
        "file operator": (calls("torch.ops.aten.from_file.default"), "from_file"),
        "other operator": (calls("torch.ops.mine.op.default"), "only operators of"),
        "branch": (calls("torch.ops.higher_order.cond"), "only operators of aten"),
        "python": (calls("os.system"), "only operators of aten"),
        "dunder": (calls("torch.ops.aten.__class__.mro"), ""),
        "inner": (calls("torch.ops.aten._empty_affine_quantized.default"), "refused"),
        "unknown": (calls("torch.ops.aten.nothing.default"), "does not have"),
        "no overload": (calls("torch.ops.aten.relu.op"), "does not have"),
        "overloads": (calls("torch.ops.aten.relu.overloads"), "does not have"),
        "random": (calls("torch.ops.aten.bernoulli.default"), "random"),
        "above": (lambda m: {**m, "archive/../../up": b"x"}, "no name inside"),
        "absolute": (lambda m: {"/archive/x": b"x", **m}, "no name inside"),
        "weight above": (lambda m: edited(m, WEIGHTS, lambda c: weight(c, path_name="../../../etc/passwd")), "refused"),
        "huge sizes": (tensor(sizes=sizes(10**6, 10**6), strides=sizes(10**6, 1)), "not what its"),
        "huge repeat": (tensor(sizes=sizes(10**12), strides=sizes(0)), "not what"),
        "negative": (tensor(sizes=sizes(-4), strides=sizes(1)), "damaged"),
        "offset": (tensor(storage_offset={"as_int": 999}), "not what its"),
        "huge offset": (tensor(storage_offset={"as_int": 2**70}), "damaged"),
        "complex": (tensor(dtype=10), "not read"),
        "other version": (lambda m: edited(m, GRAPH, lambda c: c["schema_version"].update(major=9)), "version 9"),
        "not JSON": (lambda m: {**m, GRAPH: b"{"}, "not JSON"),
        "deep": (lambda m: {**m, GRAPH: b"[" * 200000}, "not JSON"),
        "list": (lambda m: {**m, GRAPH: b"[1]"}, "damaged"),
        "no weights": (lambda m: {k: v for k, v in m.items() if "weight_0" not in k}, "lacks"),
        "two programs": (lambda m: {**m, "archive/models/b.json": m[GRAPH]}, "2 programs"),
        "no program": (lambda m: {k: v for k, v in m.items() if k != GRAPH}, "not an archive"),
        "two roots": (lambda m: {**m, "other/x": b""}, "not an archive"),
        "old format": (lambda m: {"version": b"1", "serialized_exported_program.json": b"{}"}, "torch before 2.8"),
        "called": (lambda m: edited(m, GRAPH, expression(call)), ""),
    }  # a case a line  # fmt: skip


@pytest.mark.parametrize("name", attacks(""))
def test_hostile_archives_run_nothing(name: str, members: Members, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    change, said = attacks(str(trace))[name]
    (tmp_path / "in").mkdir()
    path = pack(tmp_path / "in" / "m.pt2", change(members))
    if name == "called":  # what torch evaluates is not even looked at
        assert load(path)(torch.rand(2, 1, 8, 8)).shape == (2, 16)
    else:
        with pytest.raises(InputError, match=said) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert not trace.exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "m.pt2"]


def test_packed_members_are_refused(members: Members, tmp_path: Path) -> None:
    bomb = {**members, "archive/data/weights/weight_0": bytes(1 << 24)}
    path = pack(tmp_path / "m.pt2", bomb, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="packed"):
        load(path)


def test_members_twice_are_refused(members: Members, tmp_path: Path) -> None:
    path = pack(tmp_path / "m.pt2", members)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(GRAPH, members[GRAPH])
    with pytest.raises(InputError, match="no name inside"):
        load(path)


def test_cut_anywhere(members: Members, tmp_path: Path) -> None:
    content = pack(tmp_path / "m.pt2", members).read_bytes()
    for end in range(0, len(content), len(content) // 20):
        (tmp_path / "m.pt2").write_bytes(content[:end])
        with pytest.raises(InputError, match=r"m\.pt2: ") as caught:
            load(tmp_path / "m.pt2")
        assert "\n" not in str(caught.value)


def refusal(path: Path) -> str:
    """What is said of a file; nothing of one that can be read."""
    try:
        load(path)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_graph_is_one_line_or_another_network(seed: int, members: Members, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    content = bytearray(members[GRAPH])
    start = content.index(b'"nodes"')
    for _ in range(3):
        content[draw.integers(start, len(content))] = draw.integers(32, 127)
    assert "\n" not in refusal(pack(tmp_path / "m.pt2", {**members, GRAPH: bytes(content)}))


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export(ConvNet.small().eval(), load_data("digits").x[:3], tmp_path / "m.pt2", "one")
    options = ["--data", "digits", "--samples", "6", "--epsilon", "0,1e-4", "--domain", "interval"]
    found = CliRunner().invoke(thetabox, ["certify", "m.pt2", *options, "--out", "out"])
    assert found.exit_code == 0, found.output
    stored = json.loads((tmp_path / "out" / "certificate.json").read_text())["model"]
    assert stored["file"]["batch"] == "exported with 1, made free"
    found = CliRunner().invoke(thetabox, ["inspect", "m.pt2", "--data", "digits"])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(thetabox, ["gate", "m.pt2", *options[:4], "--epsilon", "0", "--min-verified", "0"])
    assert found.exit_code == 0, found.output
    assert CliRunner().invoke(thetabox, ["gate", "out", "--epsilon", "0", "--min-verified", "0"]).exit_code == 0
