"""ONNX files whose network could have been taken for another: beside onnxruntime, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the other implementation, is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # after what may skip this file

from thetabox.errors import InputError  # noqa: E402  # after what may skip this file
from thetabox.models import load  # noqa: E402  # after what may skip this file

pytestmark = pytest.mark.usefixtures("without_notices")

F = np.float32
generator = np.random.default_rng(3)


def weight(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(F)


def saved(path: Path, nodes: list[Any], tensors: dict[str, np.ndarray], shape: tuple[int, ...], opset: int) -> Path:
    """A file of these nodes from x to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file = path / "network.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def both(file: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answers of onnxruntime and of the network that is read."""
    expected = ort.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with torch.no_grad():
        return expected, load(file)(torch.from_numpy(x)).numpy()


NOOP = {"noop_with_empty_axes": 1}
SINGLE: dict[str, tuple[str, tuple[int, ...], dict[str, Any], int]] = {
    **{
        f"{name} of no axes": (name, (2, 3, 4), NOOP, 18)
        for name in (
            "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
            "ReduceProd", "ReduceLogSumExp",
        )
    },
    "a window begins behind the end": (
        "MaxPool", (2, 2, 7), {"kernel_shape": [3], "strides": [3], "pads": [2, 2], "ceil_mode": 1}, 19,
    ),
    "uneven and over the edge": (
        "MaxPool",
        (2, 2, 4, 5),
        {"kernel_shape": [3, 2], "strides": [3, 2], "pads": [2, 1, 0, 1], "dilations": [2, 1], "ceil_mode": 1},
        12,
    ),
    "wide padding over the edge": (
        "MaxPool", (2, 2, 8, 6), {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [2, 2, 2, 1], "ceil_mode": 1}, 12,
    ),
}  # a case a line  # fmt: skip


@pytest.mark.parametrize(("operator", "shape", "attributes", "opset"), SINGLE.values(), ids=SINGLE.keys())
def test_one_operator(tmp_path: Path, operator: str, shape: tuple[int, ...], attributes: Any, opset: int) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    expected, got = both(saved(tmp_path, [node], {}, shape, opset), weight(*shape))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest_numbers_are_those_of_the_runtime_or_refused(tmp_path: Path, coordinates: str, rounding: str) -> None:
    read = 0
    for factors in ((2, 2), (3, 1), (4, 5)):
        node = helper.make_node(
            "Resize",
            ["x", "", "scales"],
            ["y"],
            mode="nearest",
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )
        file = saved(tmp_path, [node], {"scales": np.array([1, 1, *factors], F)}, (2, 2, 4, 5), 19)
        try:
            expected, got = both(file, weight(2, 2, 4, 5))
        except InputError:
            continue
        read += 1
        np.testing.assert_array_equal(got, expected)
    usual = coordinates != "align_corners" and rounding.startswith("round") == (coordinates != "asymmetric")
    assert read == (0 if not usual or rounding == "ceil" else 3)


SAME = {
    "dilated": ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "dilations": [2, 1]}),
    "numbers left out": ("AveragePool", {"kernel_shape": [2, 1], "auto_pad": "SAME_UPPER", "strides": [3, 3]}),
}


@pytest.mark.parametrize(("operator", "attributes"), SAME.values(), ids=SAME.keys())
def test_padding_of_two_meanings_is_refused(tmp_path: Path, operator: str, attributes: dict[str, Any]) -> None:
    file = saved(tmp_path, [helper.make_node(operator, ["x"], ["y"], **attributes)], {}, (2, 2, 5, 6), 20)
    with pytest.raises(InputError, match="that are dilated or leave numbers out"):
        load(file)


def test_sigmoids_of_several_scores_are_no_two_classes(tmp_path: Path) -> None:
    """Of scores 2, -1, -3 the largest of 1 - p and p is the third; of the logits 0 and the scores the fourth."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["y"], axis=1),
    ]
    for classes in (1, 3):
        file = saved(tmp_path, nodes, {"w": weight(4, classes), "one": np.array([1], F)}, (2, 4), 17)
        if classes == 1:
            expected, got = both(file, weight(20, 4))
            np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
        else:
            with pytest.raises(InputError, match="not of one for two classes"):
                both(file, weight(20, 4))


def test_a_decision_of_what_was_cut_off(tmp_path: Path) -> None:
    """Whole numbers may tie where the logits do not, and a tie is the first class."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["whole"], to=TensorProto.INT32),
        helper.make_node("ArgMax", ["whole"], ["y"], axis=1, keepdims=0),
    ]
    file = saved(tmp_path, nodes, {"w": weight(4, 3)}, (2, 4), 17)
    try:
        expected, got = both(file, weight(20, 4))
    except InputError:
        return
    np.testing.assert_array_equal(got.astype(np.int64).argmax(1), expected)


def test_a_decision_over_another_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Reshape", ["z", "sizes"], ["pairs"]),
        helper.make_node("ArgMax", ["pairs"], ["y"], axis=1, keepdims=0),
    ]
    file = saved(tmp_path, nodes, {"w": weight(4, 6), "sizes": np.array([-1, 3, 2])}, (2, 4), 17)
    with pytest.raises(InputError, match="not \\[classes\\]"):
        load(file)


def test_a_softmax_of_one_number_alone(tmp_path: Path) -> None:
    """It is 1 for each class, whatever the logits are."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Unsqueeze", ["z", "last"], ["column"]),
        helper.make_node("Softmax", ["column"], ["ones"], axis=-1),
        helper.make_node("Flatten", ["ones"], ["y"]),
    ]
    file = saved(tmp_path, nodes, {"w": weight(4, 3), "last": np.array([2])}, (2, 4), 17)
    with pytest.raises(InputError, match="not \\[classes\\]"):
        load(file)


def _functions(model: Any) -> None:
    own = helper.make_function(
        "", "Relu", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(own)


def _named_by_bytes(content: bytes) -> bytes:
    return content.replace(b"result", b"r\xffsult")


DAMAGED: dict[str, tuple[Any, Any, str]] = {
    "a function for a known operator": (_functions, bytes, "a function of its own for operator Relu"),
    "an overload": (lambda m: setattr(m.graph.node[1], "overload", "other"), bytes, "a function of its own"),
    "numbers kept twice": (lambda m: m.graph.initializer[0].float_data.extend([1.0] * 12), bytes, "is kept twice"),
    "a name that is no text": (lambda m: None, _named_by_bytes, "a name in it is no text"),
}


@pytest.mark.parametrize(("change", "written", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_open_in_a_file_is_refused(tmp_path: Path, change: Any, written: Any, message: str) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["result"]), helper.make_node("Relu", ["result"], ["y"])]
    file = saved(tmp_path, nodes, {"w": weight(4, 3)}, (2, 4), 17)
    load(file)
    model = onnx.load(file)
    change(model)
    file.write_bytes(written(model.SerializeToString()))
    with pytest.raises(InputError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)
