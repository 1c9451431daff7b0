"""An ONNX file, parsed and looked through before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import first_line, one_line, shown
from thetabox.models.onnx.table import OPERATORS
from thetabox.models.onnx.tensors import DTYPES, EXTERNAL, data_file, dtype_of, tensor_of

OLDEST, ML = 7, "ai.onnx.ml"
OWN = ("", "ai.onnx")
TENSOR, GRAPHS = 4, (5, 10, 11, 12, 13, 14)
QUANTISED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
)
FLOW = ("If", "Loop", "Scan", "SequenceMap", "Optional")


@dataclass
class OnnxNode:
    """One operation of a graph.

    Attributes:
        operator, domain, name: as in the file.
        inputs, outputs: names; ``""`` where one is left out.
        attributes: numbers, text, lists of them, tensors, types.
    """

    operator: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """For messages: the operator and its node."""
        named = self.name or (self.outputs[0] if self.outputs else "")
        return f"{self.domain + '.' if self.domain else ''}{self.operator} (node {named!r})"


@dataclass
class Model:
    """What a file holds.

    Attributes:
        path: for messages, and for data beside the file.
        nodes: in the order of the file, in which each reads what is known before it.
        tensors: initializers.
        source, shape, dtype: of the one input; ``None`` for sizes that are free.
        outputs: names.
        opset: version of ONNX's own operators.
        facts: of the file, for the certificate.
    """

    path: Path
    nodes: list[OnnxNode]
    tensors: dict[str, Tensor]
    source: str
    shape: list[int | None]
    dtype: torch.dtype
    outputs: list[str]
    opset: int
    facts: dict[str, Any]


def parse(path: Path) -> Model:
    """The file, looked through.

    Raises:
        InputError: the package ``onnx`` is missing; not an ONNX file, or damaged; what is not read.
    """
    proto = _proto(path)
    graph = proto.graph
    opset = _opset(path, proto)
    _check_functions(path, proto)
    if proto.training_info or graph.sparse_initializer:
        raise InputError(f"{path}: sparse weights and training graphs are not read; export the network for inference")
    tensors: dict[str, Tensor] = {}
    texts = set()
    for one in graph.initializer:
        if not one.name or one.name in tensors or one.name in texts:
            raise InputError(f"{path}: two of its tensors are named {one.name!r}")
        if one.data_type == 8:  # labels of classes, which a network's scores do not need
            texts.add(one.name)
        else:
            tensors[one.name] = tensor_of(path, one, one.name)
    source, shape, dtype = _input(path, graph, {*tensors, *texts})
    nodes = [_node(path, node) for node in graph.node]
    _check_names(path, nodes, {source, *tensors, *texts})
    outputs = [output.name for output in graph.output]
    known = {name for node in nodes for name in node.outputs} | {source, *tensors}
    missing = [name for name in outputs if name not in known]
    if not outputs or missing or not nodes:
        raise InputError(f"{path}: its graph returns {shown(missing) or 'nothing'}, which nothing computes")
    kept = any(node.operator == "BatchNormalization" for node in nodes)
    facts = {
        "format": "onnx",
        "producer": one_line(f"{proto.producer_name} {proto.producer_version}")[:80] or "unknown",
        "ir_version": int(proto.ir_version),
        "opset": opset,
        "batch_norm": "kept" if kept else "none in the file (an exporter may have folded it)",
    }
    return Model(path, nodes, tensors, source, shape, dtype, outputs, opset, facts)


def data_files(path: Path) -> list[Path]:
    """Files beside a model in which its weights lie.

    Raises:
        InputError: as :func:`parse`.
    """
    files = {}
    for one in _proto(path).graph.initializer:
        for entry in one.external_data if one.data_location == EXTERNAL else ():
            if entry.key == "location" and entry.value not in files:
                try:
                    files[entry.value] = data_file(path, entry.value, one.name)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from None
    return [files[name] for name in sorted(files)]


def _proto(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise InputError(f"{path}: reading ONNX needs the package onnx; pip install 'thetabox[onnx]'") from None
    content = bytes_of(path)
    proto = onnx.ModelProto()
    try:
        read = proto.ParseFromString(content)
    except Exception as error:  # protobuf's own, which its versions name differently
        raise InputError(f"{path}: not an ONNX file, or truncated ({first_line(error)})") from None
    if read not in (None, len(content)) or not proto.ir_version or not proto.HasField("graph"):
        raise InputError(f"{path}: not an ONNX file, or truncated")
    _check_text(path, proto)
    return proto


def _check_text(path: Path, proto: Any) -> None:
    """Raise InputError for names that are no text, which protobuf hands over as bytes."""
    graph = proto.graph
    names = [one.name for part in (graph.input, graph.output, graph.initializer) for one in part]
    names += [one.domain for one in proto.opset_import]
    for node in graph.node:
        names += [node.op_type, node.domain, node.name, *node.input, *node.output]
        names += [text for one in node.attribute for text in (one.name, one.ref_attr_name)]
    for one in graph.initializer:
        names += [text for entry in one.external_data for text in (entry.key, entry.value)]
    if not all(isinstance(name, str) for name in [*names, proto.producer_name, proto.producer_version]):
        raise InputError(f"{path}: damaged, a name in it is no text")


def _check_functions(path: Path, proto: Any) -> None:
    """Raise InputError where a file says for itself what an operator is that has a function here."""
    functions = {("" if one.domain in OWN else one.domain, one.name) for one in proto.functions}
    for node in proto.graph.node:
        key = ("" if node.domain in OWN else node.domain, node.op_type)
        overload: str = getattr(node, "overload", "")
        if key in functions or overload:
            raise InputError(
                f"{path}: it holds a function of its own for operator {node.op_type} (node {node.name!r}), which is "
                "not read; inline its functions before (onnx.inliner)"
            )


def _opset(path: Path, proto: Any) -> int:
    versions = {one.version for one in proto.opset_import if one.domain in OWN}
    only_ml = not versions and any(one.domain == ML for one in proto.opset_import)
    if len(versions) != 1 and not only_ml:
        raise InputError(f"{path}: names {len(versions)} versions of ONNX's operators")
    opset = versions.pop() if versions else OLDEST
    newest = _newest()
    if not OLDEST <= opset <= newest:
        raise InputError(f"{path}: opset {opset} is not read, only {OLDEST} to {newest}; export it with one of these")
    return int(opset)


def _newest() -> int:
    from onnx.defs import onnx_opset_version

    return int(onnx_opset_version())


def _input(path: Path, graph: Any, held: set[str]) -> tuple[str, list[int | None], torch.dtype]:
    names = [one.name for one in graph.input]
    if len(set(names)) != len(names):
        raise InputError(f"{path}: two of its inputs have one name")
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) != 1:
        raise InputError(
            f"{path}: its network has {len(inputs)} inputs ({shown(one.name for one in inputs)}); one is read"
        )
    (one,) = inputs
    if not one.type.HasField("tensor_type"):
        raise InputError(f"{path}: its input {one.name} is no tensor")
    shape: list[int | None] = []
    for dim in one.type.tensor_type.shape.dim:
        size = int(dim.dim_value) if dim.HasField("dim_value") else None
        if size is not None and not 0 < size < 2**31:
            raise InputError(f"{path}: its input {one.name} is said to have a size of {size}")
        shape.append(size)
    try:
        return one.name, shape, dtype_of(one.type.tensor_type.elem_type, f"its input {one.name}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _node(path: Path, proto: Any) -> OnnxNode:
    domain = "" if proto.domain in OWN else proto.domain
    node = OnnxNode(proto.op_type, domain, proto.name, list(proto.input), list(proto.output))
    while node.outputs and not node.outputs[-1]:
        node.outputs.pop()
    while node.inputs and not node.inputs[-1]:
        node.inputs.pop()
    for attribute in proto.attribute:
        if attribute.name in node.attributes or attribute.ref_attr_name:
            raise InputError(f"{path}: {node.describe()} has attribute {attribute.name!r} twice, or by reference")
        node.attributes[attribute.name] = _attribute(path, node, attribute)
    return node


def _attribute(path: Path, node: OnnxNode, proto: Any) -> Any:
    if proto.type == TENSOR:
        if proto.t.data_type == 8:
            return None
        if proto.t.data_location == EXTERNAL:
            raise InputError(f"{path}: {node.describe()} has an attribute beside the file, which is not read")
        return tensor_of(path, proto.t, f"{proto.name} of {node.describe()}")
    if proto.type in GRAPHS:
        return NotImplemented  # a part of the file that the node's operator would need
    values: dict[int, Any] = {
        1: lambda: float(proto.f), 2: lambda: int(proto.i), 3: lambda: proto.s.decode("utf-8", "replace"),
        6: lambda: [float(v) for v in proto.floats], 7: lambda: [int(v) for v in proto.ints],
        8: lambda: [v.decode("utf-8", "replace") for v in proto.strings], 9: lambda: NotImplemented,
    }  # a table, several to a line  # fmt: skip
    if proto.type not in values:
        raise InputError(f"{path}: {node.describe()} has an attribute {proto.name!r} of an unknown kind")
    value = values[proto.type]()
    if proto.name == "to" and node.operator == "Cast":
        return DTYPES[value][0] if value in DTYPES else NotImplemented
    return value


def _check_names(path: Path, nodes: list[OnnxNode], known: set[str]) -> None:
    """Each value is computed once, before it is read: no circles."""
    known = {*known, ""}
    for node in nodes:
        early = [name for name in node.inputs if name not in known]
        if early:
            raise InputError(f"{path}: {node.describe()} reads {early[0]!r} before anything computes it")
        twice = [name for name in node.outputs if name and name in known]
        if twice:
            raise InputError(f"{path}: two values of its graph are named {twice[0]!r}")
        known.update(node.outputs)


def unmapped(node: OnnxNode) -> str:
    """Why an operator is not read, and what to do about it."""
    what = node.describe()
    if node.operator in QUANTISED:
        return f"{what} is of a quantised network, which is not read; export it before it is quantised"
    if node.operator in FLOW:
        return f"{what} branches or loops, which is not read; a certificate speaks of one function"
    if any(value is NotImplemented for value in node.attributes.values()):
        return f"{what} has a graph, a sparse tensor or a type among its attributes, which is not read"
    domain = f", domain={node.domain!r}" if node.domain else ""
    return (
        f"no function for ONNX operator {what}; add one with "
        f"@thetabox.models.onnx.onnx_operator({node.operator!r}{domain})"
        if (node.domain, node.operator) not in OPERATORS
        else f"{what} cannot be read"
    )
