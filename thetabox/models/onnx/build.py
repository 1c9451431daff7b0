"""From a parsed ONNX file to a module: each node a step, whole numbers computed beside the tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError, Notice
from thetabox.models.batch import check_batch, free_batch, shapes_of
from thetabox.models.onnx.defaults import defaults_of
from thetabox.models.onnx.file import ML, Model, OnnxNode, parse, unmapped
from thetabox.models.onnx.functions import CheckedScores, explained, scaled, two_logits
from thetabox.models.onnx.numbers import checked
from thetabox.models.onnx.start_rows import one_row, sizes_of_rows
from thetabox.models.onnx.table import OPERATORS, Operator
from thetabox.models.onnx.tails import Scores, linear_classifier, scores
from thetabox.models.onnx.weights import weights
from thetabox.models.program import Device, Program, Reference, Step, check_finite

# Larger tables of whole numbers are tensors, not sizes.
SIZES = 4096
# Attributes of a scaler, which are no weights, and their defaults.
SCALER = {"offset": [0.0], "scale": [1.0]}
FREE = "export it with a free batch (dynamic_shapes or dynamic_axes)"


def read(path: Path, config: Mapping[str, Any] | None = None) -> Program:
    """The network of an ONNX file, in evaluation mode; a batch size written into it becomes free.

    Args:
        path: of the file; data beside it is read from its folder alone.
        config: ``output``, the name of the value that is the logits.

    Raises:
        InputError: damaged; an operator, attribute or type that is not read; outputs that cannot be told apart.
    """
    config = dict(config or {})
    output = config.pop("output", None)
    if config or not isinstance(output, str | None):
        raise InputError(f"{path}: of an ONNX file its output can be chosen (output=NAME), nothing else")
    model = parse(path)
    chosen = scores(model, output)
    if chosen.dropped:
        binary = ", as the logits 0 and that score" if chosen.binary else ""
        behind = ", ".join(chosen.dropped)
        warnings.warn(
            f"{path}: read up to the scores {chosen.name!r}{binary}, without {behind} behind them, which leave their "
            "order as it is",
            Notice,
            stacklevel=4,
        )
    try:
        return _Builder(model, chosen).program()
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from error.__cause__


class _Builder:
    """Names become numbers that are known, or values of steps."""

    def __init__(self, model: Model, chosen: Scores) -> None:
        self.model, self.chosen = model, chosen
        self.nodes = _needed(model.nodes, chosen.name)
        made = {
            n.outputs[0]: n.attributes for n in self.nodes if n.operator == "Constant" and not n.domain and n.outputs
        }
        constants = {name: t for name, a in made.items() if isinstance(t := a.get("value"), Tensor)}
        self.weights = weights(self.nodes, model.tensors, constants)
        self.values: dict[str, Any] = {}
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.renamed: dict[str, str] = {}
        self.steps: list[Step] = []
        # By the first result of a step.
        self.operators: dict[str, str] = {}
        for name, tensor in model.tensors.items():
            self._hold(name, tensor)

    def _hold(self, name: str, value: Any) -> None:
        """Keep a constant: sizes and numbers for the arguments of steps, tensors for the module."""
        if isinstance(value, Tensor) and name in self.weights:
            check_finite(self.model.path, name, value)  # a mask or a bound of a Clip may be infinite
            self.parameters[name] = value
        elif isinstance(value, Tensor) and not value.is_floating_point() and value.numel() <= SIZES:
            self.values[name] = value.numpy()
        elif isinstance(value, Tensor) and value.dim():
            self.buffers[name] = value
        else:
            self.values[name] = value

    def program(self) -> Program:
        model = self.model
        for node in self.nodes:
            self._add(node)
        output = self.renamed.get(self.chosen.name, self.chosen.name)
        if self.chosen.binary:
            self.steps.append(Step(two_logits, (Reference(output),), {}, ("",), "the logits of two classes"))
            output = ""
        elif self.chosen.dropped:
            self.steps = [
                replace(s, function=CheckedScores(s.function)) if s.results == (output,) else s for s in self.steps
            ]
        if output in self.values or output in self.parameters or output in self.buffers:
            raise InputError(f"its answer {output!r} does not depend on its input")
        facts = {**model.facts, "output": self.chosen.name}
        program = Program(model.source, self._rows(), self.buffers, self.steps, output, facts)
        if model.shape and model.shape[0] is not None and None not in model.shape:
            sizes = [size for size in model.shape if size is not None]
            program = free_batch(model.path, self._with_one_row(program, sizes), sizes, model.dtype, FREE)
            program.facts["batch"] = f"exported with {sizes[0]}, made free"
        elif model.shape and None not in model.shape[1:]:
            program = self._of_any_batch(program, [size for size in model.shape[1:] if size is not None])
        elif model.shape and model.shape[0] is not None:
            raise InputError(f"its input has the batch {model.shape[0]}, but free sizes behind it; {FREE}")
        return program

    def _of_any_batch(self, program: Program, sizes: list[int]) -> Program:
        """The network of a file whose batch is free, also where a tensor of it has the samples of an example."""
        model = self.model
        wrong = "its graph does not run on a batch of any size"
        try:
            check_batch(model.path, program, sizes, model.dtype, wrong, FREE)
        except InputError:
            for size in sizes_of_rows(program):
                with suppress(InputError):
                    freed = self._with_one_row(program, [size, *sizes])
                    check_batch(model.path, freed, sizes, model.dtype, wrong, FREE)
                    freed.facts["batch"] = f"exported with {size}, made free"
                    return freed
            raise
        return program

    def _with_one_row(self, program: Program, sizes: list[int]) -> Program:
        """The program with one row of tensors that hold the same for each sample of an example of those sizes."""
        shapes = shapes_of(self.model.path, program, sizes, self.model.dtype)
        rows = one_row(program, {program.source: tuple(sizes), **shapes}, self.operators, sizes[0])
        if not rows:
            return program
        parameters = {**self._rows(), **{n: t for n, t in rows.items() if n in self.parameters}}
        buffers = {**self.buffers, **{n: t for n, t in rows.items() if n in self.buffers}}
        short = Program(program.source, parameters, buffers, self.steps, program.output, program.facts)
        return short if self._same_on(program, short, sizes) else program

    def _same_on(self, one: Program, other: Program, sizes: list[int]) -> bool:
        """Whether two programs return the same for some inputs of the example's sizes."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(sizes, generator=generator).to(self.model.dtype)
        try:
            with torch.no_grad():
                first, second = one(x), other(x)
        except Exception:  # torch raises whatever it likes where sizes do not fit
            return False
        return first.shape == second.shape and torch.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True)

    def _rows(self) -> dict[str, Tensor]:
        """Weights; biases ``[1, n]`` that are added to rows of a product as ``[n]``, which is the same sum."""
        products = {s.results[0] for s in self.steps if s.where.startswith(("MatMul", "Gemm"))}
        rows: dict[str, Tensor] = dict(self.parameters)
        for name, tensor in self.parameters.items():
            reads = [s for s in self.steps if name in s.reads]
            added = all(s.where.startswith("Add") and products.intersection(s.reads) for s in reads)
            if tensor.dim() == 2 and tensor.shape[0] == 1 and reads and added:
                rows[name] = tensor.reshape(-1)
        return rows

    def _add(self, node: OnnxNode) -> None:
        if node.domain == ML and node.operator == "LinearClassifier":
            return self._add_linear(node)
        if node.domain == ML and node.operator == "Scaler":
            return self._add_scaler(node)
        if node.operator == "Constant" and not node.domain:
            return self._add_constant(node)
        same = node.operator == "Identity" or (node.operator == "Dropout" and len(node.inputs) == 1)
        same |= (
            node.operator == "Cast"
            and node.inputs == [self.model.source]
            and node.attributes.get("to") is self.model.dtype
        )
        if same and not node.domain and len(node.outputs) == 1:
            self._rename(node.outputs[0], node.inputs[0])
            return None
        operator = OPERATORS.get((node.domain, node.operator))
        if operator is None or any(v is NotImplemented for v in node.attributes.values()):
            raise InputError(unmapped(node))
        if operator.inputs is not None and len(node.inputs) > operator.inputs:
            raise InputError(f"{node.describe()} has {len(node.inputs)} inputs, of which {operator.inputs} are read")
        kwargs = self._attributes(node, operator)
        inputs = [self.renamed.get(name, name) for name in node.inputs]
        known = all(not name or name in self.values for name in inputs) and operator.sized != "create"
        if known and self._fold(node, operator, inputs, kwargs):
            return None
        args = tuple(self._argument(operator, index, name) for index, name in enumerate(inputs))
        results = tuple(name or None for name in node.outputs)
        function = explained(operator.function, node)
        if results and results[0] is not None:
            self.operators[results[0]] = node.operator
        self.steps.append(Step(function, args, kwargs, results, node.describe(), operator.sized, operator.sizes))
        return None

    def _rename(self, new: str, old: str) -> None:
        old = self.renamed.get(old, old)
        if old in self.values:
            self.values[new] = self.values[old]
        else:
            self.renamed[new] = old

    def _argument(self, operator: Operator, index: int, name: str) -> Any:
        if not name:
            return None
        if index in operator.factors and name in self.buffers:
            return [float(v) for v in self.buffers[name].reshape(-1).tolist()]
        if name not in self.values:
            return Reference(name)
        value = self.values[name]
        if isinstance(value, Tensor):
            return value.item()
        sizes = operator.sized and index == operator.sizes and isinstance(value, np.ndarray)
        return [int(v) for v in value.reshape(-1).tolist()] if sizes else value

    def _attributes(self, node: OnnxNode, operator: Operator) -> dict[str, Any]:
        defaults = defaults_of(node, self.model.opset)
        unheard = operator.unheard(node.attributes, defaults)
        if unheard is not None:
            raise InputError(
                f"{node.describe()} has attribute {unheard}={node.attributes[unheard]!r}, which is not read"
            )
        attributes = {**defaults, **node.attributes}
        kwargs = {name: attributes[name] for name in operator.attributes if name in attributes}
        context = {"opset": self.model.opset, "outputs": len(node.outputs), "device": Device()}
        return {**kwargs, **{name: context[name] for name in operator.context}}

    def _fold(self, node: OnnxNode, operator: Operator, inputs: list[str], kwargs: dict[str, Any]) -> bool:
        """Whether a node of known numbers alone could be computed once and for all."""
        arguments = {k: None if isinstance(v, Device) else v for k, v in kwargs.items()}
        held = [self.values[name] if name else None for name in inputs]
        if operator.sized and any(isinstance(v, Tensor) for v in held):
            return False
        results = explained(operator.function, node)(*held, **arguments)
        for name, value in zip(node.outputs, results if len(node.outputs) > 1 else (results,), strict=True):
            self._hold(name, checked(value))
        return True

    def _add_constant(self, node: OnnxNode) -> None:
        ((kind, value),) = node.attributes.items() if len(node.attributes) == 1 else [("", None)]
        if kind in ("value_float", "value_floats"):
            value = torch.tensor(value)
        elif kind in ("value_int", "value_ints"):
            value = torch.tensor(value, dtype=torch.int64)
        if not isinstance(value, Tensor):
            raise InputError(f"{node.describe()} holds no tensor of numbers")
        self._hold(node.outputs[0], value)

    def _add_linear(self, node: OnnxNode) -> None:
        coefficients, intercepts = linear_classifier(self.model, node)
        named = {
            f"{node.name or node.operator}.{n}": t
            for n, t in (("coefficients", coefficients), ("intercepts", intercepts))
        }
        self.parameters |= named
        source = Reference(self.renamed.get(node.inputs[0], node.inputs[0]))
        self.steps.append(Step(F.linear, (source, *map(Reference, named)), {}, (self.chosen.name,), node.describe()))

    def _add_scaler(self, node: OnnxNode) -> None:
        named = {
            f"{node.name or node.operator}.{n}": torch.tensor(node.attributes.get(n) or [d]) for n, d in SCALER.items()
        }
        self.buffers |= named
        source = Reference(self.renamed.get(node.inputs[0], node.inputs[0]))
        self.steps.append(Step(scaled, (source, *map(Reference, named)), {}, (node.outputs[0],), node.describe()))


def _needed(nodes: list[OnnxNode], output: str) -> list[OnnxNode]:
    needed, kept = {output}, list[OnnxNode]()
    for node in reversed(nodes):
        if needed.intersection(name for name in node.outputs if name):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]
