"""Which ``Constant`` nodes of an ONNX file say what a network does, not what it has learnt.

An exporter writes a start value of a time loop, a factor of ``torch.addcmul`` and a mask as a ``Constant``, and weights
as initializers. Another tool may write everything as ``Constant`` nodes, so one is a literal only if nothing speaks for
a weight: the file has a layer whose matrix is an initializer, the constant is read by arithmetic alone, and each time
it is

1. a factor of zeros; zeros that are added, but to the result of a layer, where they are a bias;
2. a factor that is one number, or 1 everywhere, of a value that depends on the input;
3. of a value that does not, and which an initializer gives its full shape, a factor that is one number or of nothing
   but −1, 0 and 1 (a mask), or a 1 by itself that is added or subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from torch import Tensor

from thetabox.models.onnx.file import OnnxNode

FACTORS, SUMS = ("Mul", "Div"), ("Add", "Sub")
LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN")
# Of fixed values, entry by entry.
ELEMENTWISE = (*FACTORS, *SUMS, "Abs", "Cast", "Exp", "Identity", "Neg", "Reciprocal", "Sigmoid", "Sqrt", "Tanh")


def literal_tensors(
    nodes: Sequence[OnnxNode], tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor], fixed: Set[str]
) -> set[str]:
    """Names of the constants that are literals though they are no number by itself.

    Args:
        nodes: that the output needs, in order.
        tensors: initializers.
        constants: tensors of ``Constant`` nodes.
        fixed: values that are the same for every input.
    """
    learnt = _learnt(nodes, tensors, constants)
    layers = {name for node in nodes if node.operator in LAYERS and not node.domain for name in node.outputs}
    # A layer's matrix is an initializer, or computed of one.
    matrices = [n for node in nodes if node.operator in LAYERS for n in node.inputs if n in fixed]
    if not any(len(learnt.get(name) or ()) > 1 for name in matrices):
        return set()
    readers: dict[str, list[OnnxNode]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return {
        name
        for name, tensor in constants.items()
        if name in readers and all(_is_literal(name, tensor, node, learnt, fixed, layers) for node in readers[name])
    }


def _is_literal(
    name: str,
    tensor: Tensor,
    node: OnnxNode,
    learnt: Mapping[str, tuple[int, ...] | None],
    fixed: Set[str],
    layers: Set[str],
) -> bool:
    if node.domain or node.operator not in (*FACTORS, *SUMS) or list(node.inputs).count(name) != 1:
        return False
    (partner,) = (n for n in node.inputs if n != name)
    factor, zeros = node.operator in FACTORS, not bool(tensor.any())
    if zeros:
        return factor or partner not in layers
    one_number, ones = tensor.numel() == 1, bool((tensor == 1).all())
    if partner not in fixed:
        return factor and (one_number or ones)
    shape = learnt.get(partner)
    if not shape or _broadcast(shape, tuple(tensor.shape)) != shape:
        return False
    signs = bool(((tensor == 0) | (tensor.abs() == 1)).all())
    return (one_number or signs) if factor else (one_number and signs)


def _learnt(
    nodes: Sequence[OnnxNode], tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...] | None]:
    """Shapes that initializers give to fixed values, without what constants add; ``None`` where that is not known."""
    shapes: dict[str, tuple[int, ...] | None] = {
        **dict.fromkeys(constants, ()),
        **{name: tuple(t.shape) for name, t in tensors.items()},
    }
    for node in nodes:
        parts = [shapes.get(name) for name in node.inputs]
        known = node.operator in ELEMENTWISE and not node.domain and len(node.outputs) == 1
        for name in node.outputs:
            if name not in constants:
                shapes[name] = _broadcast(*parts) if known else None
    return shapes


def _broadcast(*shapes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    try:
        return np.broadcast_shapes(*known)
    except ValueError:
        return None
