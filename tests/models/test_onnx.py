"""ONNX files of several exporters: as onnxruntime answers, inside the bounds, certified; hostile ones are refused."""

from __future__ import annotations

import json
import os
import re
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

from onnx import TensorProto, external_data_helper, helper, numpy_helper  # noqa: E402  # after what may skip this file

import thetabox as tb  # noqa: E402  # after what may skip this file
from thetabox.errors import InputError, Notice  # noqa: E402  # after what may skip this file
from thetabox.models import load, sha256  # noqa: E402  # after what may skip this file
from thetabox.models.onnx import OPERATORS, onnx_operator  # noqa: E402  # after what may skip this file
from thetabox.models.program import Program  # noqa: E402  # after what may skip this file

FILES = Path(__file__).parent / "onnx_files"
OF_TORCH = [
    pytest.param(p.stem, marks=[pytest.mark.long] * p.stem.startswith(("gru", "lstm_old")))
    for p in sorted(FILES.glob("*_*.onnx"))
    if not p.stem.startswith("sk_")
]
OF_SKLEARN = sorted(p.stem for p in FILES.glob("sk_*.onnx"))
F = np.float32


def digits(*, flat: bool = False) -> torch.Tensor:
    x = torch.from_numpy(load_digits().images[:8].astype(F) / 16)
    return x.flatten(1) if flat else x[:, None]


def quietly(path: Path, **config: Any) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # of what was renamed or left out in reading
        made = load(path, config=config)
    assert isinstance(made, Program)
    return made


# Their exporter wrote down a start value for each sample of its example, though it says that the batch is free.
OF_AN_EXAMPLE = {"spiking_old_free": 3}


def runtime(path: Path, x: torch.Tensor, *outputs: str) -> list[Any]:
    """What onnxruntime answers, a sample at a time where the file has a batch of one."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the other implementation, is not installed")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    size = 1 if source.shape[0] == 1 else OF_AN_EXAMPLE.get(path.stem, len(x))
    parts = [session.run(list(outputs) or None, {source.name: rows.numpy()}) for rows in x.split(size)]
    return [np.concatenate(p) if isinstance(p[0], np.ndarray) else p[0] for p in zip(*parts, strict=True)]


def check_inside(network: Program, x: torch.Tensor, logits: torch.Tensor) -> None:
    bounds = tb.logit_bounds(network, x, 0.0, arithmetic="float32")
    low, high = (end.reshape(logits.shape) for end in (bounds.lower, bounds.upper))
    assert bool(((low <= logits) & (logits <= high)).all())
    assert float((high - low).max()) < 1e-3


@pytest.mark.thin(3, quick=11)
@pytest.mark.parametrize("name", OF_TORCH)
def test_files_of_torch(name: str) -> None:
    network, x = quietly(FILES / f"{name}.onnx"), digits()
    x = x[: len(x) - len(x) % OF_AN_EXAMPLE.get(name, 1)]
    with torch.no_grad():
        logits = network(x)
    (expected,) = runtime(FILES / f"{name}.onnx", x)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-5)
    check_inside(network, x, logits)
    certificate = tb.certify(network, x, logits.argmax(1), [0.0, 1e-4], domain="interval")
    assert bool(certificate.verified[0].all())
    facts = certificate.model_info["file"]
    assert facts["format"] == "onnx"
    assert facts["batch_norm"].startswith("kept" if name.endswith("_kept") else "none in the file")
    assert ("batch" in facts) == (name.endswith("_one") or name in OF_AN_EXAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["old_free", "old_one"])
def test_a_spiking_network_is_the_module_that_was_exported(kind: str) -> None:
    """Its start values, masks and factors of 1 are no weights, and all of its time steps are one product."""
    module, x = runpy.run_path(str(FILES / "make.py"))["network"]("spiking"), digits()
    network = quietly(FILES / f"spiking_{kind}.onnx")
    named = {**dict(module.named_parameters()), **{f"net.{n}": b for n, b in module.net.named_buffers()}}
    assert dict(network.named_parameters()).keys() == named.keys() - {"net.off_diagonal"}
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x), rtol=0, atol=1e-6)
    box = tb.Box(exclude="net.tau,net.tau_adapt,net.threshold,net.beta")
    found, expected = (
        tb.certify(m, x, module(x).argmax(1), [0.0, 1e-4, 1e-3], domain="interval", box=box) for m in (network, module)
    )
    assert found.verified.tolist() == expected.verified.tolist()
    torch.testing.assert_close(found.margin[:2], expected.margin[:2], rtol=0, atol=1e-9)


def test_one_row_of_a_start_value_that_is_broadcast(tmp_path: Path) -> None:
    """Where it is not one row of the samples that a constant holds, it stays what it is."""
    state = np.full((4, 2), 0.5, F)
    weight = np.arange(4, dtype=F).reshape(2, 2)
    start = [
        helper.make_node("Tanh", ["state"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    x = torch.rand(6, 2)
    network = quietly(written(start, {"state": state, "w": weight}, tmp_path))
    assert network.facts["batch"] == "exported with 4, made free"
    with torch.no_grad():
        expected = x + torch.tanh(torch.tensor([0.5, 0.5])) @ torch.from_numpy(weight)
        torch.testing.assert_close(network(x), expected)
    for node in (
        helper.make_node("MatMul", ["x", "state"], ["y"]),  # a layer whose rows are the same
        helper.make_node("Concat", ["x", "state"], ["y"], axis=1),
        helper.make_node("Gemm", ["state", "x"], ["y"], transA=1),
    ):
        shape = [None, 4] if node.op_type == "MatMul" else [None, 2]
        path = written([node], {"state": state}, tmp_path, shape=shape, name=f"{node.op_type}.onnx")
        if node.op_type == "MatMul":
            assert dict(quietly(path).named_parameters())["state"].shape == (4, 2)
        else:
            with pytest.raises(InputError, match="free batch"):
                quietly(path)


def a_constant(name: str, value: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, F)))


MATRIX = np.array([[1.0, -2.0], [0.5, 3.0]], F)
SIGNS = [[1.0, -1.0], [1.0, 1.0]]
# Nodes, initializers, and the names that are weights.
LITERALS: dict[str, tuple[list[Any], dict[str, np.ndarray], set[str]]] = {
    "a factor of 1": ([a_constant("one", [1.0]), ("MatMul", "x w h"), ("Mul", "h one y")], {"w": MATRIX}, {"w"}),
    "a factor of a value": ([a_constant("c", [-0.5]), ("MatMul", "x w h"), ("Mul", "c h y")], {"w": MATRIX}, {"w"}),
    "a mask": ([a_constant("m", [[0.0, 1], [1, 1]]), ("Mul", "w m v"), ("MatMul", "x v y")], {"w": MATRIX}, {"w"}),
    "zeros that are added": (
        [a_constant("z", [[0.0, 0.0]]), ("MatMul", "x w h"), ("Tanh", "h t"), ("Add", "t z y")], {"w": MATRIX}, {"w"}),
    "no layer's matrix is an initializer": (
        [a_constant("w", MATRIX), a_constant("one", [1.0]), ("MatMul", "x w h"), ("Mul", "h one s"), ("Add", "s b y")],
        {"b": np.array([0.5, 0.25], F)}, {"w", "one", "b"}),
    "binary matrix": (
        [a_constant("q", SIGNS), ("Mul", "q scale v"), ("MatMul", "x v h"), ("MatMul", "h w y")],
        {"scale": np.array([0.5, 2.0], F), "w": MATRIX}, {"q", "scale", "w"}),
    "masked matrix": (
        [a_constant("q", MATRIX), a_constant("m", [[0.0, 1], [1, 1]]), ("Mul", "q m v"), ("MatMul", "x v h"),
         ("MatMul", "h w y")], {"w": MATRIX}, {"q", "m", "w"}),
    "bias of one number": ([a_constant("b", [0.7]), ("MatMul", "x w h"), ("Add", "h b y")], {"w": MATRIX}, {"w", "b"}),
    "bias of zeros": ([a_constant("b", [0.0, 0.0]), ("MatMul", "x w h"), ("Add", "h b y")], {"w": MATRIX}, {"w", "b"}),
    "scaled bias": (
        [a_constant("one", [1.0]), a_constant("b", [0.7]), ("MatMul", "x w h"), ("Mul", "h one s"), ("Add", "s b y")],
        {"w": MATRIX}, {"w", "b"}),
    "signs of values": (
        [a_constant("g", [-1.0, 1.0]), ("MatMul", "x w h"), ("Mul", "h g y")], {"w": MATRIX}, {"w", "g"}),
    "read by a layer as well": (
        [a_constant("q", SIGNS), ("Mul", "w q v"), ("MatMul", "x v h"), ("MatMul", "h q y")],
        {"w": MATRIX}, {"w", "q"}),
}  # a case, one to three lines  # fmt: skip


@pytest.mark.parametrize("case", LITERALS)
def test_constants_that_are_weights(case: str, tmp_path: Path) -> None:
    """A literal has nothing that speaks for a weight; what is not sure is in the box."""
    nodes, tensors, names = LITERALS[case]
    made = [
        helper.make_node(node[0], node[1].split()[:-1], node[1].split()[-1:]) if isinstance(node, tuple) else node
        for node in nodes
    ]
    network = quietly(written(made, tensors, tmp_path))
    assert {name for name, _ in network.named_parameters()} == names


ROWS = np.repeat(np.array([[0.3, -0.7]], F), 4, 0)
SEVERAL: dict[str, list[tuple[str, str]]] = {
    "positions behind the samples": [("Unsqueeze", "x a1 u"), ("Add", "u c k"), ("ReduceSum", "k a1 y")],
    "positions behind the samples, a factor": [
        ("Unsqueeze", "x a1 u"), ("Mul", "u c k"), ("Relu", "k r"), ("ReduceSum", "r a1 y")],
    "rows of a product, summed": [("MatMul", "e d k"), ("ReduceSum", "k a0 r"), ("Add", "x r y")],
    "rows of samples and of positions": [
        ("Add", "x c h"), ("Unsqueeze", "h a1 u"), ("Add", "u c k"), ("ReduceSum", "k a1 y")],
    "rows, and an addend with rows of its own": [("Gemm", "c w d r"), ("Add", "x r y")],
}  # a case a line or two  # fmt: skip


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.parametrize("case", SEVERAL)
def test_rows_that_are_not_those_of_samples(case: str, size: int | None, tmp_path: Path) -> None:
    """What a file computes for its own batch is what is read, or it is refused."""
    held = {"a0": np.array([0]), "a1": np.array([1]), "c": ROWS, "w": MATRIX,
            "e": np.repeat(np.array([[0.5, -1.0, 2.0, 0.25]], F), 4, 0),
            "d": np.arange(8, dtype=F).reshape(4, 2)}  # a table  # fmt: skip
    nodes = [
        helper.make_node(
            kind, names.split()[:-1], names.split()[-1:], **({"keepdims": "a0" in names} if kind == "ReduceSum" else {})
        )
        for kind, names in SEVERAL[case]
    ]
    path = written(nodes, held, tmp_path, shape=[size, 2])
    x = torch.randn(4, 2)
    try:
        network = quietly(path)
    except InputError:
        return
    with torch.no_grad():
        np.testing.assert_allclose(network(x).numpy(), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_a_box_of_kept_batch_norm_is_another() -> None:
    kept, folded = (quietly(FILES / f"residual_old_free{end}.onnx") for end in ("_kept", ""))
    names = dict(kept.named_parameters())
    assert {"first.1.weight", "first.1.bias"} <= names.keys()
    assert not {name for name in names if "running" in name}
    assert sum(t.numel() for t in names.values()) > sum(t.numel() for t in folded.parameters())
    x = digits()
    with torch.no_grad():
        torch.testing.assert_close(kept(x), folded(x), rtol=1e-4, atol=1e-5)
    y = folded(x).argmax(1)
    boxes = [tb.certify(m, x, y, [0.0, 1e-4], box=tb.Box(fold=f)) for m, f in ((kept, True), (folded, False))]
    torch.testing.assert_close(boxes[0].margin, boxes[1].margin, rtol=1e-3, atol=1e-4)
    assert boxes[0].model_info["perturbed"] == boxes[1].model_info["perturbed"]


@pytest.mark.parametrize("name", OF_SKLEARN)
def test_classifiers_of_scikit_learn(name: str) -> None:
    path, x = FILES / f"{name}.onnx", digits(flat=True)
    with pytest.warns(Notice, match="order"):
        network = load(path)
    with torch.no_grad():
        logits = network(x)
    answers = runtime(path, x)
    chances = answers[1] if isinstance(answers[1], np.ndarray) else np.array([list(row.values()) for row in answers[1]])
    link = torch.sigmoid if name.startswith("sk_logistic_binary") else lambda t: t.softmax(1)
    np.testing.assert_allclose(link(logits).numpy(), chances, atol=1e-5)
    check_inside(network, x, logits)
    assert bool(tb.certify(network, x, logits.argmax(1), [0.0]).verified.all())
    # The last layer is one that a margin takes as one row: the difference of two logits, not of two intervals.
    if "mlp" in name and "binary" not in name:
        assert dict(network.named_parameters())["intercepts"].shape == (8,)


def test_scaler_before_a_linear_classifier(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[0.5, 4.0]),
        helper.make_node(
            "LinearClassifier", ["s"], ["label", "chances"], domain="ai.onnx.ml", coefficients=[1.0, 2, 3, 4, 5, 6],
            intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="SOFTMAX",
        ),
    ]  # a node, several settings to a line  # fmt: skip
    path = written(nodes, {}, tmp_path, outputs=["label", "chances"], shape=[None, 2])
    x = torch.tensor([[1.0, 1.5], [2.0, -1.0]])
    with torch.no_grad():
        answer = quietly(path)(x)
    np.testing.assert_allclose(answer.softmax(1).numpy(), runtime(path, x)[1], atol=1e-6)
    assert [n for n, _ in quietly(path).named_buffers()] == ["Scaler.offset", "Scaler.scale"]


def written(
    nodes: list[Any], tensors: dict[str, np.ndarray], folder: Path, *, outputs: list[str] | None = None,
    shape: list[int | None] | None = None, opset: int = 20, kind: int = TensorProto.FLOAT, name: str = "m.onnx",
) -> Path:  # a signature, several arguments to a line  # fmt: skip
    dims = ["batch" if d is None else d for d in (shape or [None, 2])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_empty_tensor_value_info(o) for o in outputs or ["y"]],
        [numpy_helper.from_array(t, n) for n, t in tensors.items()],
    )  # a graph, a part a line  # fmt: skip
    ids = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("mine", 1)]
    path = folder / name
    path.write_bytes(helper.make_model(graph, opset_imports=ids, ir_version=9).SerializeToString())
    return path


W, B = np.array([[1, 2], [3, -4]], F), np.array([0.5, -0.5], F)
GEMM = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer", transB=1)


def test_statistics_behind_identity_are_no_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["m"], ["mean"]),
        helper.make_node("Identity", ["scale"], ["same scale"]),
        helper.make_node("BatchNormalization", ["x", "same scale", "b", "mean", "v"], ["y"]),
    ]
    held = {"m": B, "v": np.array([1, 2], F), "scale": B, "b": B}
    path = written(nodes, held, tmp_path)
    network, x = quietly(path), torch.rand(3, 2)
    assert [n for n, _ in network.named_parameters()] == ["scale", "b"]
    assert [n for n, _ in network.named_buffers()] == ["m", "v"]
    np.testing.assert_allclose(network(x).detach().numpy(), runtime(path, x)[0], rtol=1e-5)


def test_which_tensors_are_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["x", "wt"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["again"]),
        helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, F))),
        helper.make_node("Mul", ["again", "half"], ["c"]),
        helper.make_node("Mul", ["c", "temperature"], ["d"]),
        helper.make_node("Add", ["d", "val_7"], ["e"]),
        helper.make_node("Add", ["e", "b"], ["f"]),
        helper.make_node("Greater", ["f", "limit"], ["g"]),
        helper.make_node("Where", ["g", "f", "limit"], ["y"]),
    ]
    one = np.array(1.5, F)
    held = {"w": W, "temperature": one, "val_7": one, "b": B, "limit": B - 9, "unread": B}
    network = quietly(written(nodes, held, tmp_path))
    # One tensor that two nodes read is one parameter, and moves as one.
    assert [n for n, _ in network.named_parameters()] == ["w", "temperature", "b"]
    assert [n for n, _ in network.named_buffers()] == ["limit"]
    certificate = tb.certify(network, torch.ones(1, 2), torch.tensor([1]), [0.0])
    assert certificate.model_info["perturbed"] == 7


def test_weights_that_are_computed_of_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["w"], ["soft"]),
        helper.make_node("Clip", ["soft", "low", "high"], ["cut"]),
        helper.make_node("Exp", ["log"], ["scale"]),
        helper.make_node("MatMul", ["x", "cut"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Greater", ["b", "limit"], ["c"]),
        helper.make_node("Where", ["c", "b", "mask"], ["y"]),
    ]
    held = {"w": W, "log": B, "limit": B, "mask": np.array([-1, -np.inf], F)}
    held |= {"low": np.array(-1.0, F), "high": np.array(0.9, F)}
    path, x = written(nodes, held, tmp_path), torch.rand(3, 2)
    network = quietly(path)
    assert [n for n, _ in network.named_parameters()] == ["w", "log"]
    np.testing.assert_allclose(network(x).detach().numpy(), runtime(path, x)[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_numbers_stay_as_they_are(dtype: Any, tmp_path: Path) -> None:
    kind = {np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}[dtype]
    path = written([GEMM], {"w": (W / 3).astype(dtype), "b": B.astype(dtype)}, tmp_path, kind=kind)
    network = quietly(path)
    assert np.array_equal(network.get_parameter("w").detach().numpy(), (W / 3).astype(dtype))
    assert network.get_parameter("w").dtype == torch.from_numpy(np.zeros(1, dtype)).dtype


def test_bfloat16_by_its_bits(tmp_path: Path) -> None:
    bits = torch.tensor([1.5, -2.25, 3e38, 1e-40]).bfloat16()
    tensor = TensorProto(name="w", dims=[2, 2], data_type=TensorProto.BFLOAT16)
    tensor.int32_data.extend(int(b) & 0xFFFF for b in bits.view(torch.int16))
    path = written([helper.make_node("MatMul", ["x", "w"], ["y"])], {}, tmp_path, kind=TensorProto.BFLOAT16)
    changed(path, lambda m: m.graph.initializer.append(tensor))
    assert torch.equal(quietly(path).get_parameter("w").detach().reshape(-1), bits)


def test_names_that_no_module_can_have(tmp_path: Path) -> None:
    names = {"forward": W, "a": W, "a.b": W, "..": W, "x y/é:0": W, "training.weight": W}
    nodes, last = [], "x"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [last, name], [f"v{i}"]))
        last = f"v{i}"
    path = written(nodes, names, tmp_path, outputs=[last])
    network, x = quietly(path), torch.rand(3, 2)
    assert len(list(network.parameters())) == 6
    np.testing.assert_allclose(network(x).detach().numpy(), runtime(path, x)[0], rtol=1e-4)


@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_written_into_the_graph(size: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("ConstantOfShape", ["state"], ["h"]),
        helper.make_node("Expand", ["start", "state"], ["s"]),
        helper.make_node("Concat", ["f", "h", "s"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["y"]),
    ]
    held = {
        "flat": np.array([size, 4]), "state": np.array([size, 3]), "start": np.ones((1, 3), F),
        "w": np.arange(30, dtype=F).reshape(10, 3),
    }  # a table  # fmt: skip
    path = written(nodes, held, tmp_path, shape=[size, 2, 2])
    network, x = quietly(path), torch.rand(7, 2, 2)
    assert network.facts["batch"] == f"exported with {size}, made free"
    for rows in x.split(size)[:1]:
        np.testing.assert_allclose(network(rows).detach().numpy(), runtime(path, rows)[0], rtol=1e-5)
    assert network(x).shape == (7, 3)
    tb.certify(network, x, torch.zeros(7, dtype=torch.long), [0.0])


def test_a_batch_that_cannot_be_told(tmp_path: Path) -> None:
    held = {"mask": np.arange(8, dtype=F).reshape(4, 2)}
    path = written([helper.make_node("Mul", ["x", "mask"], ["y"])], held, tmp_path, shape=[4, 2])
    with pytest.raises(InputError, match="batch of 4") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_own_operator(tmp_path: Path) -> None:
    path = written([helper.make_node("Twice", ["x"], ["y"], name="n", domain="mine", factor=3.0)], {}, tmp_path)
    with pytest.raises(InputError, match=r"mine\.Twice .node 'n'.*onnx_operator\('Twice', domain='mine'\)"):
        load(path)
    before = dict(OPERATORS)
    try:
        onnx_operator("Twice", domain="mine")(lambda x: 2 * x)
        with pytest.raises(InputError, match="factor"):
            load(path)

        def twice(x: torch.Tensor, *, factor: float = 2.0) -> torch.Tensor:
            return factor * x

        onnx_operator("Twice", domain="mine")(twice)
        assert torch.equal(load(path)(torch.ones(1, 2)), torch.full((1, 2), 3.0))
    finally:
        OPERATORS.clear()
        OPERATORS.update(before)


def test_outputs_that_cannot_be_told_apart(tmp_path: Path) -> None:
    nodes = [GEMM, helper.make_node("Relu", ["y"], ["z"])]
    path = written(nodes, {"w": W, "b": B}, tmp_path, outputs=["y", "z"])
    with pytest.raises(InputError, match="several outputs, y, z"):
        load(path)
    assert load(path, config={"output": "z"}).facts["output"] == "z"
    with pytest.raises(InputError, match="has no value 'no'"):
        load(path, config={"output": "no"})
    with pytest.raises(InputError, match="output=NAME"):
        load(path, config={"units": 3})
    with pytest.raises(InputError, match="whole network"):
        load(path, "mlp")


# Hostile and damaged files.


def changed(path: Path, change: Callable[[Any], Any]) -> Path:
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def plain(folder: Path) -> Path:
    return written([GEMM], {"w": W, "b": B}, folder)


def external(path: Path, **entries: str) -> Path:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return changed(path, change)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    path = plain(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"0000" + W.tobytes())
    external(path, location="data/w.bin", offset="4", length="16")
    assert np.array_equal(quietly(path).get_parameter("w").detach().numpy(), W)
    before = sha256(path)
    (tmp_path / "data" / "w.bin").write_bytes(b"0000" + (W + 1).tobytes())
    assert sha256(path) != before
    model = onnx.load(path)
    external_data_helper.convert_model_to_external_data(model, location="all.data", size_threshold=0)
    onnx.save(model, tmp_path / "again.onnx")
    assert np.array_equal(quietly(tmp_path / "again.onnx").get_parameter("w").detach().numpy(), W + 1)


OUTSIDE = {
    "above": {"location": "../secret"},
    "inside and above": {"location": "data/../../secret"},
    "absolute": {"location": "ABSOLUTE"},
    "link": {"location": "link"},
    "linked folder": {"location": "up/secret"},
    "folder": {"location": "data"},
    "empty": {"location": ""},
    "backslash": {"location": "..\\secret"},
}
WRONG = {
    "missing": {"location": "nothing.bin"},
    "long": {"location": "short", "length": "16"},
    "far": {"location": "short", "offset": "9999999999999"},
    "negative": {"location": "short", "offset": "-8"},
    "other length": {"location": "short", "length": "8"},
    "no number": {"location": "short", "offset": "x"},
    "null": {"location": "a\0b"},
    "endless": {"location": "a" * 5000},
}


@pytest.mark.parametrize("name", [*OUTSIDE, *WRONG])
def test_data_outside_of_the_folder_is_not_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(W.tobytes())
    (folder / "short").write_bytes(b"12345678")
    os.symlink("../secret", folder / "link")
    os.symlink("..", folder / "up")
    entries = {k: v.replace("ABSOLUTE", str(tmp_path / "secret")) for k, v in (OUTSIDE | WRONG)[name].items()}
    path = external(plain(folder), **entries)
    listed = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="refused" if name in OUTSIDE else "w") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == listed


def dims(values: list[int]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(values)

    return change


def node(*args: Any, **kwargs: Any) -> Callable[[Any], None]:
    return lambda m: m.graph.node.append(helper.make_node(*args, **kwargs))


def circle(model: Any) -> None:
    model.graph.node[0].input[0] = "z"
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))


def branch(model: Any) -> None:
    part = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["o"])], "p", [], [helper.make_empty_tensor_value_info("o")]
    )
    model.graph.node[0].CopyFrom(helper.make_node("If", ["x"], ["y"], name="n", then_branch=part, else_branch=part))


def complex_weights(model: Any) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((2, 2), np.complex64), "w"))


def not_a_number(model: Any) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((2, 2), np.nan, F), "w"))


def huge(model: Any) -> None:
    size = numpy_helper.from_array(np.array([10**6, 10**6, 10**6]), "size")
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["big"]))
    model.graph.node[1].input[0] = "x"
    model.graph.node.append(helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["y", "sum"], ["z"]))
    model.graph.output[0].name = "z"


def huge_numbers(model: Any) -> None:
    size = numpy_helper.from_array(np.array([10**6, 10**6]), "size")
    model.graph.initializer.append(size)
    value = numpy_helper.from_array(np.array([1]))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["big"], value=value))
    model.graph.node.append(helper.make_node("Reshape", ["y", "big"], ["z"]))
    model.graph.output[0].name = "z"


def doubled(model: Any) -> None:
    last = "one"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    for i in range(60):
        model.graph.node.append(helper.make_node("Concat", [last, last], [f"d{i}"], axis=0))
        last = f"d{i}"
    model.graph.node.append(helper.make_node("Reshape", ["y", last], ["z"]))
    model.graph.output[0].name = "z"


HOSTILE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "huge sizes": (dims([10**6, 10**6, 10**6]), "not what its 16 bytes"),
    "negative sizes": (dims([-2, -2]), "sizes"),
    "one number less": (dims([3]), "not what"),
    "circle": (circle, "before anything computes it"),
    "twice": (node("Relu", ["x"], ["y"]), "named 'y'"),
    "two tensors": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "named 'w'"),
    "two inputs": (lambda m: m.graph.input.append(helper.make_tensor_value_info("u", 1, [2])), "2 inputs"),
    "same inputs": (lambda m: m.graph.input.append(m.graph.input[0]), "one name"),
    "input size": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3), "size of -3"),
    "nothing": (lambda m: m.graph.ClearField("node"), "nothing computes"),
    "no output": (lambda m: m.graph.ClearField("output"), "returns nothing"),
    "old": (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6"),
    "new": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999"),
    "attribute twice": (lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]), "twice"),
    "unknown attribute": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("shift", 3)), "attribute shift=3",
    ),
    "branch": (branch, "branches"),
    "complex": (complex_weights, "complex64"),
    "not a number": (not_a_number, "NaN"),
    "training": (lambda m: m.training_info.add(), "training"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "segment": (lambda m: setattr(m.graph.initializer[0].segment, "begin", 1), "segments"),
    "function": (lambda m: setattr(m.graph.node[0], "domain", "local"), "local.Gemm"),
    "huge value": (huge, "no memory holds"),
    "huge numbers": (huge_numbers, "too many"),
    "doubled": (doubled, "too many"),
}  # a case a line  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line(name: str, tmp_path: Path) -> None:
    change, said = HOSTILE[name]
    path = changed(plain(tmp_path), change)
    with pytest.raises(InputError, match=said) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_file_cut_anywhere_is_one_line_or_another_network(tmp_path: Path) -> None:
    content = plain(tmp_path).read_bytes()
    path = tmp_path / "cut.onnx"
    said = []
    for end in range(0, len(content), 3):
        path.write_bytes(content[:end])
        said.append(refusal(path))
    assert "\n" not in "".join(said)
    assert sum(map(bool, said)) > 0.9 * len(said)


def refusal(path: Path) -> str:
    """What is said of a file; nothing of one that can be read."""
    try:
        quietly(path)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(60))
def test_a_changed_byte_is_one_line_or_another_network(seed: int, tmp_path: Path) -> None:
    content = bytearray((FILES / "views_old_one.onnx").read_bytes())
    draw = np.random.default_rng(seed)
    for _ in range(3):
        content[draw.integers(len(content))] = draw.integers(256)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "\n" not in refusal(path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"thetabox\[onnx\]"):
        load(plain(tmp_path))


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from thetabox.cli import thetabox

    monkeypatch.chdir(tmp_path)
    np.savez("flat.npz", x=digits(flat=True).numpy(), y=load_digits().target[:8])
    options = ["--epsilon", "0,1e-4", "--out", "out"]
    found = CliRunner().invoke(thetabox, ["certify", str(FILES / "sk_mlp.onnx"), "--data", "flat.npz", *options])
    assert found.exit_code == 0, found.output
    assert "scores 'add_result1'" in found.output
    stored = json.loads((tmp_path / "out" / "certificate.json").read_text())["model"]
    assert stored["file"]["output"] == "add_result1"
    assert "folded" in (tmp_path / "out" / "report.html").read_text()
    chosen = ["--set", "output=next_activations", "--data", "flat.npz", "--epsilon", "0", "--out", "other"]
    found = CliRunner().invoke(thetabox, ["certify", str(FILES / "sk_mlp.onnx"), *chosen])
    stored = json.loads((tmp_path / "other" / "certificate.json").read_text())["model"]
    assert stored["set"] == {"output": "next_activations"}
    found = CliRunner().invoke(thetabox, ["certify", str(FILES / "sk_mlp.onnx"), "--set", "units=3", *chosen[2:]])
    assert found.exit_code == 2
    found = CliRunner().invoke(thetabox, ["gate", "other", "--epsilon", "0", "--min-verified", "0"])
    assert found.exit_code == 0, found.output


def test_the_page_is_current() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
    written = runpy.run_path(str(page.with_suffix(".py")))["page"]()
    assert page.read_text(encoding="utf-8") == written, "run: python docs/checkpoints.py"


def test_the_operator_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnx_operator" in block]
    nodes = [helper.make_node("Snake", ["x", "f"], ["y"], domain="my.domain", sharpness=2.0)]
    path = written(nodes, {"f": np.array([0.5, -1], F)}, tmp_path)
    changed(path, lambda m: m.opset_import.add(domain="my.domain", version=1))
    before = dict(OPERATORS)
    try:
        exec(code, {})
        network = quietly(path)
        assert torch.equal(network(torch.tensor([[1.0, -2.0]])), torch.tensor([[2.0, 2.0]]))
        assert [n for n, _ in network.named_parameters()] == ["f"]
    finally:
        OPERATORS.clear()
        OPERATORS.update(before)


def softmax_over(axis: int) -> list[Any]:
    return [GEMM, helper.make_node("Softmax", ["y"], ["z"], axis=axis)]


KEPT: dict[str, list[Any]] = {
    "softmax over the batch": softmax_over(0),
    "label over the batch": [GEMM, helper.make_node("ArgMax", ["y"], ["z"])],
    "smallest": [GEMM, helper.make_node("TopK", ["y", "one"], ["z", "place"], largest=0)],
    "largest may be negative": [GEMM, helper.make_node("Normalizer", ["y"], ["z"], domain="ai.onnx.ml", norm="MAX")],
    "of two, not from one": [
        GEMM,
        helper.make_node("Sigmoid", ["y"], ["p"]),
        helper.make_node("Sub", ["two", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["z"], axis=1),
    ],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_changes_the_order_of_scores_is_not_left_out(name: str, tmp_path: Path) -> None:
    held = {"w": W, "b": B, "one": np.array([1]), "two": np.array([2.0], F)}
    path = written(KEPT[name], held, tmp_path, outputs=["z"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        try:
            assert load(path).output == "z"
        except InputError as error:  # no function of ours, or no batch
            assert name.split()[0] in ("label", "smallest", "largest"), error  # noqa: PT017  # most changed files are refused, some are read


def test_what_keeps_the_order_is_left_out(tmp_path: Path) -> None:
    path = written(softmax_over(1), {"w": W, "b": B}, tmp_path, outputs=["z"])
    with pytest.warns(Notice, match="Softmax"):
        assert load(path).output == "y"


def test_names_of_a_file_move_no_cursor(tmp_path: Path) -> None:
    path = plain(tmp_path)
    changed(path, lambda m: setattr(m.graph.node[0], "op_type", "No\nsuch\x1b[2J\u2028one"))
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).isprintable()
