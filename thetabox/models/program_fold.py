"""Batch norms of a graph file folded into the convolutions before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from thetabox.errors import InputError
from thetabox.models.program import Program, Reference, Step

NORMS = ("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "BatchNormalization (")
CONVOLUTIONS = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.", "Conv (")


def folded_program(program: Program) -> Program:
    """A copy of the network without batch norms; weights keep the names of the convolutions.

    The weights are those that torch's own folding gives: w·γ/√(σ² + ε) and (b − µ)·γ/√(σ² + ε) + β, as stored numbers.

    Raises:
        InputError: a batch norm follows no convolution, or one of the two or their weights are used elsewhere too.
    """
    tensors = program.tensors()
    names = program.names()
    reads = Counter(name for step in program.steps for name in step.reads)
    made = {result: step for step in program.steps for result in step.results if result is not None}
    steps: dict[int, Step | None] = {}
    for norm in program.steps:
        if not norm.where.startswith(NORMS):
            continue
        conv = made.get(_name(norm, 0) or "")
        operands = [n for s in (conv, norm) if s is not None for n in s.reads[1:]]
        if conv is None or not conv.where.startswith(CONVOLUTIONS):
            raise InputError(f"cannot fold {norm.where}: no convolution stands before it")
        if any(reads[n or ""] > 1 for n in (conv.results[0], *operands)) or not all(n in tensors for n in operands):
            raise InputError(f"cannot fold {norm.where}: {conv.where} or their weights are used elsewhere too")
        w, b = _name(conv, 1) or "", _name(conv, 2)
        held = [None if n is None else tensors[n] for n in (b, *(_name(norm, i) for i in (3, 4, 1, 2)))]
        weight, bias = _fused(tensors[w], held, _epsilon(norm))
        b = b if b is not None else f"{w} bias"
        names.setdefault(b, _bias_of(names[w]))
        tensors[w], tensors[b] = weight, bias
        steps[id(conv)] = replace(conv, args=(*conv.args[:2], Reference(b), *conv.args[3:]), results=norm.results[:1])
        steps[id(norm)] = None
    changed = [steps.get(id(step), step) for step in program.steps]
    kept = [step for step in changed if step is not None]
    parameters = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter)}
    buffers = {n: t for n, t in tensors.items() if n not in parameters}
    return Program(program.source, parameters, buffers, kept, program.output, program.facts, names)


def _fused(weight: Tensor, held: list[Any], epsilon: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of both as one; ``held`` are the bias of the convolution, µ, σ², γ and β."""
    bias, mean, variance, scale, shift = held
    with torch.no_grad():
        return fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, shift)


def _name(step: Step, index: int) -> str | None:
    value = step.args[index] if index < len(step.args) else None
    return value.name if isinstance(value, Reference) else None


def _epsilon(norm: Step) -> float:
    if "epsilon" in norm.kwargs:
        return float(norm.kwargs["epsilon"])
    index = 7 if norm.where.startswith("aten.batch_norm") else 6
    return float(norm.args[index])


def _bias_of(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}_bias"
