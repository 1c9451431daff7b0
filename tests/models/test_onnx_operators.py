"""Each ONNX operator beside onnxruntime, on a graph of that operator alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the other implementation, is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # after what may skip this file

from thetabox.errors import InputError, Notice  # noqa: E402  # after what may skip this file
from thetabox.models import load  # noqa: E402  # after what may skip this file
from thetabox.models.onnx import OPERATORS  # noqa: E402  # after what may skip this file

IMAGE, ROWS = (2, 3, 6, 6), (2, 6)
F = np.float32
generator = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(F)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# operator, shape of x, other inputs, attributes, opset.
Case = tuple[str, tuple[int, ...], list[Any], dict[str, Any], int]


def case(operator: str, shape: tuple[int, ...] = ROWS, *others: Any, opset: int = 20, **attributes: Any) -> Case:
    return operator, shape, list(others), attributes, opset


CASES: dict[str, Case] = {
    **{
        name.lower(): case(name)
        for name in (
            "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "HardSwish", "Mish", "LeakyRelu", "Elu",
            "Celu", "Selu", "HardSigmoid", "Gelu", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Identity", "Sin",
            "Cos", "Atan", "Softmax", "LogSoftmax", "Flatten", "Reciprocal", "Dropout",
        )
    },
    "leaky slope": case("LeakyRelu", alpha=0.3),
    "elu alpha": case("Elu", alpha=0.7),
    "celu alpha": case("Celu", alpha=0.7),
    "hard sigmoid": case("HardSigmoid", alpha=0.3, beta=0.4),
    "gelu tanh": case("Gelu", approximate="tanh"),
    "gemm": case("Gemm", ROWS, weight(6, 4), weight(4)),
    "gemm transposed": case("Gemm", ROWS, weight(4, 6), weight(4), transB=1),
    "gemm factors": case("Gemm", ROWS, weight(4, 6), weight(4), transB=1, alpha=0.5, beta=2.0),
    "gemm matrix": case("Gemm", ROWS, weight(6, 4), weight(1, 4)),
    "matmul": case("MatMul", (2, 3, 6), weight(6, 4)),
    "einsum": case("Einsum", ROWS, weight(4, 6), equation="bi,oi->bo"),
    "conv": case("Conv", IMAGE, weight(4, 3, 3, 3), weight(4), strides=[2, 1], pads=[1, 1, 1, 1]),
    "conv uneven": case("Conv", IMAGE, weight(4, 3, 3, 3), pads=[0, 1, 2, 1]),
    "conv same": case("Conv", IMAGE, weight(4, 3, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": case("Conv", IMAGE, weight(4, 3, 2, 2), auto_pad="SAME_LOWER"),
    "conv groups": case("Conv", IMAGE, weight(3, 1, 3, 3), weight(3), group=3, dilations=[2, 1]),
    "conv 1d": case("Conv", (2, 3, 8), weight(4, 3, 3)),
    "conv 3d": case("Conv", (2, 2, 4, 4, 4), weight(3, 2, 2, 2, 2)),
    "conv transpose": case("ConvTranspose", IMAGE, weight(3, 4, 3, 3), weight(4), strides=[2, 2], pads=[1, 1, 1, 1],
                           output_padding=[1, 1]),
    "conv transpose groups": case("ConvTranspose", IMAGE, weight(3, 2, 2, 2), group=3),
    "batch norm": case("BatchNormalization", IMAGE, weight(3), weight(3), weight(3), np.abs(weight(3)) + F(0.5)),
    "batch norm 9": case("BatchNormalization", IMAGE, weight(3), weight(3), weight(3), np.abs(weight(3)) + F(0.5),
                         opset=9, epsilon=1e-3),
    "instance norm": case("InstanceNormalization", IMAGE, weight(3), weight(3)),
    "layer norm": case("LayerNormalization", (2, 3, 6), weight(6), weight(6)),
    "layer norm axis": case("LayerNormalization", (2, 3, 6), weight(3, 6), weight(3, 6), axis=1, epsilon=1e-2),
    "group norm": case("GroupNormalization", (2, 4, 5, 5), weight(4), weight(4), num_groups=2, opset=21),
    "prelu": case("PRelu", IMAGE, np.abs(weight(3, 1, 1))),
    "prelu one": case("PRelu", IMAGE, np.abs(weight(1))),
    "prelu each": case("PRelu", ROWS, weight(6)),
    "clip": case("Clip", ROWS, np.array(-0.5, F), np.array(0.25, F)),
    "clip above": case("Clip", ROWS, None, np.array(0.25, F)),
    "clip 6": case("Clip", min=-0.5, max=0.5, opset=10),
    "add": case("Add", ROWS, weight(6)),
    "sub": case("Sub", ROWS, weight(6)),
    "mul": case("Mul", ROWS, weight(1, 6)),
    "mul number": case("Mul", ROWS, np.array(0.3, F)),
    "div": case("Div", ROWS, np.abs(weight(6)) + F(1)),
    "mod": case("Mod", ROWS, np.array(0.7, F), fmod=1),
    "pow": case("Pow", ROWS, np.array(2.0, F)),
    "pow whole": case("Pow", ROWS, np.array(3, np.int64)),
    "sum": case("Sum", ROWS, weight(6), weight(6)),
    "mean of": case("Mean", ROWS, weight(2, 6), opset=13),
    "max": case("Max", ROWS, weight(6)),
    "min": case("Min", ROWS, weight(6), np.array(0.1, F)),
    "max number": case("Max", ROWS, np.array(0.1, F)),
    "max pool": case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    "max pool ceil": case("MaxPool", IMAGE, kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1),
    "max pool uneven": case("MaxPool", IMAGE, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    "max pool dilated": case("MaxPool", (2, 3, 9), kernel_shape=[3], dilations=[2]),
    "average pool": case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool padded": case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average pool counted": case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=1),
    "global average": case("GlobalAveragePool", IMAGE),
    "global max": case("GlobalMaxPool", IMAGE),
    "flatten 2": case("Flatten", IMAGE, axis=2),
    "reshape": case("Reshape", IMAGE, ints(0, -1)),
    "reshape one": case("Reshape", IMAGE, ints(-1, 9)),
    "transpose": case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "squeeze": case("Squeeze", (2, 1, 6), ints(1)),
    "squeeze 11": case("Squeeze", (2, 1, 6), axes=[1], opset=11),
    "unsqueeze": case("Unsqueeze", ROWS, ints(1, -1)),
    "unsqueeze 11": case("Unsqueeze", ROWS, axes=[1], opset=11),
    "concat": case("Concat", ROWS, weight(2, 3), axis=1),
    "split": case("Split", ROWS, ints(2, 4), axis=1),
    "split 11": case("Split", ROWS, axis=1, split=[1, 5], opset=11),
    "split even": case("Split", ROWS, axis=1, num_outputs=2),
    "slice": case("Slice", IMAGE, ints(1, -3), ints(5, 2**62), ints(2, 3), ints(2, 1)),
    "slice 9": case("Slice", IMAGE, starts=[1], ends=[-1], axes=[3], opset=9),
    "slice backwards": case("Slice", IMAGE, ints(-1), ints(-(2**62)), ints(3), ints(-1)),
    "gather": case("Gather", ROWS, ints(3, -1, 0), axis=1),
    "gather one": case("Gather", ROWS, np.array(-2, np.int64), axis=1),
    "gather grid": case("Gather", ROWS, ints(3, 1, 0, 2).reshape(2, 2), axis=1),
    "pad": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1), np.array(0.5, F)),
    "pad reflect": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "pad edge": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="edge"),
    "pad 10": case("Pad", IMAGE, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=1.5, opset=10),
    "pad axes": case("Pad", IMAGE, ints(1, 1), None, ints(3)),
    "expand": case("Expand", (2, 1, 6), ints(2, 4, 1)),
    "tile": case("Tile", ROWS, ints(1, 2)),
    "cast": case("Cast", to=TensorProto.DOUBLE),
    "reduce mean": case("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    "reduce mean 13": case("ReduceMean", IMAGE, axes=[2, -1], opset=13),
    "reduce sum": case("ReduceSum", IMAGE, ints(1)),
    "reduce sum 11": case("ReduceSum", IMAGE, axes=[1], keepdims=0, opset=11),
    "reduce nothing": case("ReduceSum", IMAGE, ints(), noop_with_empty_axes=1),
    "reduce max": case("ReduceMax", IMAGE, ints(-1)),
    "reduce min": case("ReduceMin", IMAGE, ints(1, 2)),
    "reduce prod": case("ReduceProd", IMAGE, ints(1, 3)),
    "reduce l1": case("ReduceL1", IMAGE, ints(1)),
    "reduce l2": case("ReduceL2", IMAGE, ints(1)),
    "reduce squares": case("ReduceSumSquare", IMAGE, ints(1)),
    "reduce logsumexp": case("ReduceLogSumExp", IMAGE, ints(1)),
    "softmax axis": case("Softmax", IMAGE, axis=1),
    "softmax 11": case("Softmax", (2, 3, 4), opset=11),
    "log softmax 11": case("LogSoftmax", (2, 3, 4), axis=1, opset=11),
    "resize nearest": case("Resize", IMAGE, None, np.array([1, 1, 2, 3], F), mode="nearest",
                           coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "resize nearest half": case("Resize", IMAGE, None, np.array([1, 1, 2, 3], F), mode="nearest"),
    "resize sizes": case("Resize", IMAGE, None, None, ints(2, 3, 12, 18), mode="nearest"),
    "resize linear": case("Resize", IMAGE, None, np.array([1, 1, 2, 2], F), mode="linear"),
    "resize aligned": case("Resize", IMAGE, None, np.array([1, 1, 2, 2], F), mode="linear",
                           coordinate_transformation_mode="align_corners"),
    "upsample": case("Upsample", IMAGE, np.array([1, 1, 2, 3], F), opset=9, mode="nearest"),
    "depth to space": case("DepthToSpace", (2, 8, 3, 3), blocksize=2),
    "depth to space crd": case("DepthToSpace", (2, 8, 3, 3), blocksize=2, mode="CRD"),
    "space to depth": case("SpaceToDepth", (2, 3, 6, 6), blocksize=2),
    "lp norm": case("LpNormalization", ROWS, axis=1, p=2),
    "lstm": case("LSTM", (4, 2, 3), weight(1, 20, 3), weight(1, 20, 5), weight(1, 40), hidden_size=5),
    "lstm both": case("LSTM", (4, 2, 3), weight(2, 20, 3), weight(2, 20, 5), weight(2, 40), hidden_size=5,
                      direction="bidirectional"),
    "lstm start": case("LSTM", (4, 2, 3), weight(1, 20, 3), weight(1, 20, 5), None, None, weight(1, 2, 5),
                       weight(1, 2, 5), hidden_size=5, direction="reverse"),
    "gru": case("GRU", (4, 2, 3), weight(1, 15, 3), weight(1, 15, 5), weight(1, 30), hidden_size=5),
    "gru before": case("GRU", (4, 2, 3), weight(2, 15, 3), weight(2, 15, 5), weight(2, 30), hidden_size=5,
                       linear_before_reset=1, direction="bidirectional"),
    "rnn": case("RNN", (4, 2, 3), weight(1, 5, 3), weight(1, 5, 5), weight(1, 10), hidden_size=5),
}  # a case a line  # fmt: skip
POSITIVE = {"log": case("Log"), "sqrt": case("Sqrt")}


def model_of(case: Case, outputs: int = 1) -> Any:
    operator, shape, others, attributes, opset = case
    names = ["x", *("" if other is None else f"w{i}" for i, other in enumerate(others))]
    held = [numpy_helper.from_array(o, f"w{i}") for i, o in enumerate(others) if o is not None]
    outs = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(operator, names, outs, name="it", **attributes)
    # No size is said, so that an operator may do what it likes with the batch.
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"d{i}" for i in range(len(shape))])],
        [helper.make_empty_tensor_value_info(name) for name in outs], held,
    )  # a graph, a part a line  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def other(model: Any, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x})


def read(model: Any, folder: Path, output: str | None = None) -> Any:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # of what was renamed or left out in reading
        return load(folder / "m.onnx", config={} if output is None else {"output": output})


@pytest.mark.parametrize("name", [*CASES, *POSITIVE])
def test_answers_as_onnxruntime_does(name: str, tmp_path: Path) -> None:
    found = (CASES | POSITIVE)[name]
    outputs = 2 if found[0] == "Split" else 1
    model = model_of(found, outputs)
    x = generator.standard_normal(found[1]).astype(F) * 2
    x = np.abs(x) + F(0.1) if name in POSITIVE else x
    for place, expected in enumerate(other(model, x)):
        answer = read(model, tmp_path, "y" if place == 0 else f"y{place}")(torch.from_numpy(x))
        assert tuple(answer.shape) == expected.shape
        assert answer.dtype == torch.from_numpy(expected).dtype
        torch.testing.assert_close(answer, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_every_operator_is_compared() -> None:
    # Those of whole numbers and truth values stand in graphs of several operators, below and in test_onnx.py.
    beside = {
        "Shape", "Size", "Range", "ConstantOfShape", "CastLike", "Where", "Equal", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "And", "Or", "Not",
    }  # words, several to a line  # fmt: skip
    assert {name for _, name in OPERATORS} - {c[0] for c in (CASES | POSITIVE).values()} == beside


@pytest.mark.parametrize("operator", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"])
def test_comparisons(operator: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(operator, ["x", "w"], ["a"]),
        helper.make_node("Greater", ["x", "zero"], ["b"]),
        helper.make_node("Not", ["a"], ["not_a"]),
        helper.make_node("And", ["not_a", "b"], ["both"]),
        helper.make_node("Or", ["both", "a"], ["any"]),
        helper.make_node("Where", ["any", "x", "zero"], ["c"]),
        helper.make_node("CastLike", ["zero", "x"], ["z"]),
        helper.make_node("Where", ["a", "z", "x"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    w = weight(6)
    model = graph_of(nodes, ROWS, {"w": w, "zero": np.array(0.0, F)})
    x = generator.standard_normal(ROWS).astype(F)
    x[0, 0] = w[0]
    torch.testing.assert_close(read(model, tmp_path)(torch.from_numpy(x)), torch.from_numpy(other(model, x)[0]))


def graph_of(nodes: list[Any], shape: tuple[Any, ...], tensors: dict[str, np.ndarray], opset: int = 20) -> Any:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])],
        [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(t, n) for n, t in tensors.items()],
    )  # a graph, a part a line  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def test_sizes_are_computed_beside_the_tensors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Gather", ["all", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "first"], ["row"]),
        helper.make_node("Div", ["size", "batch"], ["each"]),
        helper.make_node("Mul", ["each", "one"], ["same"]),
        helper.make_node("Reshape", ["same", "minus"], ["column"]),
        helper.make_node("Concat", ["row", "column"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=numpy_helper.from_array(np.array([1.0], F))),
        helper.make_node("Range", ["zero", "each", "one"], ["places"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["flat", "ones"], ["more"]),
        helper.make_node("Mul", ["more", "numbers"], ["y"]),
    ]
    whole = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64), "first": ints(0), "minus": ints(-1)}
    model = graph_of(nodes, IMAGE, whole)
    network = read(model, tmp_path)
    for samples in (2, 5):
        x = generator.standard_normal((samples, *IMAGE[1:])).astype(F)
        torch.testing.assert_close(network(torch.from_numpy(x)), torch.from_numpy(other(model, x)[0]))


REFUSED = {
    "clipped gates": (case("LSTM", (4, 2, 3), weight(1, 20, 3), weight(1, 20, 5), hidden_size=5, clip=1.0), "clipped"),
    "activations": (
        case("RNN", (4, 2, 3), weight(1, 5, 3), weight(1, 5, 5), hidden_size=5, activations=["Relu"]), "activations",
    ),
    "cubic": (case("Resize", IMAGE, None, np.array([1, 1, 2, 2], F), mode="cubic"), "cubic"),
    "outside": (case("Resize", IMAGE, None, np.array([1, 1, 2, 2], F), mode="linear", antialias=1), "antialias"),
    "part of a factor": (case("Resize", IMAGE, None, np.array([1, 1, 1.5, 2], F), mode="nearest"), "factors"),
    "training": (
        case("BatchNormalization", IMAGE, weight(3), weight(3), weight(3), np.abs(weight(3)), training_mode=1), "eval",
    ),
    "ceil": (case("AveragePool", IMAGE, kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1), "over the edge"),
    "output shape": (case("ConvTranspose", IMAGE, weight(3, 4, 3, 3), output_shape=[9, 9]), "output_shape"),
    "hardmax": (case("Hardmax"), "onnx_operator"),
    "quantised": (case("QuantizeLinear", ROWS, np.array(0.1, F), np.array(0, np.int8)), "quantised"),
    "squeeze": (case("Squeeze", (2, 1, 6)), "without axes"),
    "kernel": (case("Conv", IMAGE, weight(4, 3, 3, 3), kernel_shape=[2, 2]), "kernel_shape"),
    "index from data": (case("Reshape", ROWS, weight(2)), "it"),
}  # a case a line  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_by_name(name: str, tmp_path: Path) -> None:
    found, said = REFUSED[name]
    model = model_of(found)
    with pytest.raises(InputError, match=said) as caught:
        read(model, tmp_path, "y")(torch.zeros(found[1]))
    assert "\n" not in str(caught.value)
    assert found[0] in str(caught.value)
