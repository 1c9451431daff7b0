"""Which tensors of an ONNX file are weights: a file does not say, and a box covers every weight and bias.

A tensor is a weight where an operator takes it in a place in which layers keep theirs: both factors of a product,
kernels and biases of convolutions and recurrent layers, scale and shift of normalisations, slopes of PRelu, tables of
an embedding, and whatever is added, subtracted, multiplied or divided by. On its way there it may be moved, and
whatever is computed of it before the input comes in is followed back to it: a weight that a network first clips is one.

1. A number by itself is a literal where it stands in a ``Constant``, or under a name that an exporter made up
   (``val_3``, ``onnx::Mul_7``); with a name of its own it is a weight. A few more of a file's ``Constant`` nodes are no
   weights, see :mod:`.literals`.
2. Statistics of a batch norm are none, nor is anything else: those are buffers.
3. Where this takes a constant for a weight, the box covers more than the weights, which is sound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from thetabox.models.onnx.file import OnnxNode
from thetabox.models.onnx.literals import literal_tensors
from thetabox.models.onnx.table import OPERATORS

MADE_UP = re.compile(
    r"(_?val|const(ant)?|onnx::\w+?|_?to_copy|tmp)_?\d+|_\w+_const|.*Constant(_\d+)?(_output_\d+)?|.*_cast(_\d+)?"
    r"|scalar_tensor(_default)?(_\d+)?"
)
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Expand", "Slice", "Concat", "Flatten")


def weights(nodes: list[OnnxNode], tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that are weights.

    Args:
        nodes: that the output needs.
        tensors: initializers.
        constants: tensors of ``Constant`` nodes.
    """
    places: dict[str, bool] = {}
    fixed = _without_input(nodes, {*tensors, *constants})
    for node in reversed(nodes):
        operator = OPERATORS.get((node.domain, node.operator))
        taken = operator.weights if operator is not None else ()
        follows = (node.operator in MOVES and not node.domain) or fixed.issuperset(node.outputs)
        moves = follows and any(places.get(name) for name in node.outputs)
        for place, name in enumerate(node.inputs):
            bound = node.operator == "Clip" and place > 0
            places[name] = places.get(name, False) or place in taken or (moves and not bound)
    literals = literal_tensors(nodes, tensors, constants, fixed)
    names = set()
    for held, literal in ((tensors, False), (constants, True)):
        for name, tensor in held.items():
            number = tensor.dim() == 0 and (literal or MADE_UP.fullmatch(name) is not None)
            if places.get(name) and tensor.is_floating_point() and not number and name not in literals:
                names.add(name)
    return names


def _without_input(nodes: list[OnnxNode], held: set[str]) -> set[str]:
    """Names of values that are the same for every input."""
    fixed = {*held, ""}
    for node in nodes:
        if fixed.issuperset(node.inputs):
            fixed.update(node.outputs)
    return fixed
