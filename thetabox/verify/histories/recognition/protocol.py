"""Equations of a network that has the methods initial_state, step and readout."""

from __future__ import annotations

import math

import torch

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.evaluation import Evaluation
from thetabox.verify.histories.recognition.constants import Constants
from thetabox.verify.histories.recognition.equations import Equations, block_of, layout_at, one_row, rows, table
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.tensors import TensorAtoms
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem


def of_protocol(problem: Problem, network: RecurrentNetwork) -> Equations:
    """One step of the network, as its method says it.

    Raises:
        NotRecognised: a value of it is no table of numbers of a sample.
    """
    algebra = Algebra()
    tensors = TensorAtoms(algebra, problem)
    graph, initial, main = network.step, network.initial, network.main
    layouts = [layout_at(graph, i) for i in graph.inputs]
    entered = block_of(algebra, "x", layouts[0], "input")
    states = [block_of(algebra, f"state {n}", layout, "state") for n, layout in enumerate(layouts[1:])]
    values = [rows(block, layout) for block, layout in zip([entered, *states], layouts, strict=True)]
    results = Evaluation(algebra, graph, tensors.leaves(graph, values)).outputs()
    output, *after = (
        one_row(value, graph.layouts.get(i), "the result of a step")
        for value, i in zip(results, graph.outputs, strict=True)
    )
    begun = Evaluation(algebra, initial, tensors.leaves(initial, values[:1])).outputs()
    start = [
        one_row(value, initial.layouts.get(i), "the initial state")
        for value, i in zip(begun, initial.outputs, strict=True)
    ]
    layout = layout_at(main, main.inputs[0])
    read = block_of(algebra, "outputs", layout, "input")
    outputs = Evaluation(algebra, main, tensors.leaves(main, [rows(read, layout)])).outputs()
    if len(outputs) != 1:
        raise NotRecognised("its readout returns several tensors")
    count = math.prod(entered.shape)
    return Equations(
        algebra,
        Constants(algebra, tensors.by_first),
        {entered.first + n: n for n in range(entered.count)},
        torch.arange(network.steps * count).reshape(network.steps, count),
        states,
        table(states, after),
        table(states, start),
        output.reshape(-1).tolist(),
        one_row(outputs[0], main.layouts.get(main.outputs[0]), "the answer").reshape(-1).tolist(),
        {read.first + n: divmod(n, output.numel()) for n in range(read.count)},
    )
