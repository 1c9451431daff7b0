"""Where the scores of a classifier stand: before the softmax, the label and the dictionary behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.contents import shown
from thetabox.models.onnx.file import ML, Model, OnnxNode

DECISIONS = {"ArgMax": 0, "TopK": 0, "ArrayFeatureExtractor": 1}
ML_DECISIONS = {"ZipMap": 0, "Normalizer": 0, "LabelEncoder": 0, "CategoryMapper": 0, "ArrayFeatureExtractor": 1}
SOFT = ("Softmax", "LogSoftmax")
MOVES = ("Cast", "Identity", "Reshape", "Squeeze", "Flatten")


@dataclass(frozen=True)
class Scores:
    """Where scores stand.

    Attributes:
        name: of the value.
        binary: it is one score, of the second of two classes.
        dropped: operators behind it.
    """

    name: str
    binary: bool
    dropped: tuple[str, ...]


def scores(model: Model, output: str | None) -> Scores:
    """The value that a network is certified by.

    Args:
        model: the file.
        output: name of any value of the graph, by which the user chose it.

    Raises:
        InputError: no such value; several outputs that cannot be told apart.
    """
    made = {name: node for node in model.nodes for name in node.outputs if name}
    if output is not None:
        if output not in made:
            raise InputError(
                f"{model.path}: has no value {output!r}; its outputs are {', '.join(model.outputs)}, and any value of "
                "its graph may be named"
            )
        return Scores(output, False, ())
    by_output = {name: _behind(model, made, name) for name in model.outputs}
    places = {(s.name, s.binary) for s in by_output.values()}
    if len(places) == 1:
        (name, binary), dropped = places.pop(), {op for s in by_output.values() for op in s.dropped}
        return Scores(name, binary, tuple(sorted(dropped)))
    raise InputError(
        f"{model.path}: has several outputs, {shown(model.outputs)}, and which are the scores cannot be told; name it "
        'with config={"output": NAME} (--set output=NAME)'
    )


def _behind(model: Model, made: Mapping[str, OnnxNode], name: str) -> Scores:
    """The scores that a value is made of, if only a decision or a softmax lies between."""
    walked, dropped, decided, whole = name, list[str](), False, False
    while walked in made:
        node = made[walked]
        if node.domain == ML and node.operator == "LinearClassifier":
            transform = str(node.attributes.get("post_transform", "NONE")).capitalize()
            return Scores(node.outputs[-1], False, (*dropped, *[transform] * (transform != "None")))
        places = ML_DECISIONS if node.domain == ML else DECISIONS if not node.domain else {}
        if node.operator in places and _keeps_order(node):
            walked, decided, whole = node.inputs[places[node.operator]], True, False
        elif not node.domain and node.operator in SOFT and _keeps_order(node) and not whole:
            return Scores(node.inputs[0], False, (*dropped, node.operator))
        elif not node.domain and node.operator == "Concat" and not whole and (score := _of_two(model, made, node)):
            return Scores(score, True, (*dropped, "Sigmoid"))
        elif not node.domain and _moves(node, dropped):
            whole = whole or not _keeps_numbers(node)
            walked = node.inputs[0]
            continue
        else:
            break
        dropped.append(node.operator)
    return Scores(walked if decided else name, False, tuple(dropped) if decided else ())


def _moves(node: OnnxNode, dropped: list[str]) -> bool:
    """Whether a value is another of the same order: in another shape only behind the decision."""
    return node.operator in MOVES if not dropped else node.operator in ("Cast", "Identity") and _keeps_numbers(node)


def _keeps_numbers(node: OnnxNode) -> bool:
    """Whether no two numbers become one, as those that a cast to whole ones cuts off."""
    return node.operator != "Cast" or node.attributes.get("to") in (torch.float32, torch.float64)


def _keeps_order(node: OnnxNode) -> bool:
    """Whether a decision, or what scales scores, goes by the largest score of each sample."""
    attributes = node.attributes
    if node.operator == "Normalizer":
        return attributes.get("norm", "MAX") in ("L1", "L2")  # a largest number may be negative
    # The axis of ArgMax is the batch where none is said, that of the others the last.
    axis = attributes.get("axis", 0 if node.operator == "ArgMax" else -1)
    return axis in (1, -1) and attributes.get("largest", 1) == 1 and attributes.get("select_last_index", 0) == 0


def _of_two(model: Model, made: Mapping[str, OnnxNode], node: OnnxNode) -> str | None:
    """The score s of [1 − σ(s), σ(s)]."""
    if len(node.inputs) != 2 or node.attributes.get("axis") not in (1, -1):
        return None
    first, second = (made.get(name) for name in node.inputs)
    if first is None or second is None or first.operator != "Sub" or second.operator != "Sigmoid":
        return None
    one = model.tensors.get(first.inputs[0])
    is_one = one is not None and one.numel() == 1 and one.item() == 1
    return second.inputs[0] if is_one and first.inputs[1] == node.inputs[1] else None


def linear_classifier(model: Model, node: OnnxNode) -> tuple[Tensor, Tensor]:
    """Coefficients ``[classes, features]`` and intercepts of a linear classifier of ONNX's own.

    Raises:
        InputError: a kind that is not read, or numbers that are not those of its classes.
    """
    attributes: dict[str, Any] = node.attributes
    labels = attributes.get("classlabels_ints") or attributes.get("classlabels_strings") or []
    flat, intercepts = attributes.get("coefficients") or [], attributes.get("intercepts") or [0.0] * len(labels)
    if attributes.get("post_transform", "NONE") not in ("NONE", "SOFTMAX", "LOGISTIC"):
        raise InputError(
            f"{model.path}: {node.describe()} transforms by {attributes['post_transform']}, which is not read"
        )
    rows = len(intercepts)
    if not labels or rows != len(labels) or not flat or len(flat) % rows:
        raise InputError(
            f"{model.path}: {node.describe()} has {len(flat)} coefficients and {rows} intercepts of {len(labels)} "
            "classes"
        )
    return torch.tensor(flat).reshape(rows, -1), torch.tensor(intercepts)
