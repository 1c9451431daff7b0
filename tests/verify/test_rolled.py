import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.verify.unrolled import (
    CHANGES,
    INPUTS,
    STYLES,
    Changed,
    CurrentsFirst,
    DirectCoding,
    Layers,
    LinearBetweenLoops,
    OneStepLate,
    ResetFromMembrane,
    Slices,
    StepOf,
)
from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.evaluation import Evaluation
from thetabox.verify.network import network
from thetabox.verify.network.graph import Graph, Ref, map_arg_refs
from thetabox.verify.network.rolled import NotRolled, ReadoutInput, Rolled, StepRead, rolled
from thetabox.verify.network.rolling.trees import refs


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    return network(model, x).with_ending.main


@cache
def traced(style: type[nn.Module], steps: int) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = style()
    return model, graph_of(model, torch.zeros(2, *shape_of(style, steps)))


def run(graph: Graph, inputs: list[Tensor], tensors: dict[str, Tensor]) -> list[Tensor]:
    """Results of a graph, and that its layouts and types are those of its values."""
    values: dict[int, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    for index, name in graph.tensors.items():
        values[index] = graph.views[index].of(tensors[name]) if index in graph.views else tensors[name]
    values |= graph.constants
    for operation in graph.operations:
        args, kwargs = map_arg_refs((operation.args, operation.kwargs), lambda ref: values[ref.index])
        values[operation.index] = operation.target(*args, **kwargs)
        assert set(operation.inputs) <= values.keys()
    for index, layout in graph.layouts.items():
        if isinstance(values[index], Tensor):
            shape = [given if size is None else size for size, given in zip(layout.shape, values[index].shape)]  # noqa: B905  # as long as each other, which the next line sees
            assert list(values[index].shape) == shape
            assert values[index].dtype == graph.dtypes[index]
    return [values[ref.index] for ref in graph.output]


def run_rolled(r: Rolled, x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    def read(t: int) -> list[Tensor]:
        return [how.at(drive[how.source], t) for how in r.reads]

    drive, constant = run(r.drive, [x], tensors), run(r.constant, [x], tensors)
    outputs: list[list[Tensor]] = []
    if r.first is None:
        assert r.initial is not None
        states = run(r.initial, [x], tensors)
    else:
        results = run(r.first, [x, *read(0), *constant], tensors)
        joined = sum(o.join != "last" for o in r.outputs)
        outputs, states = [results[:joined]], results[joined:]
    for t in range(len(outputs), r.steps):
        results = run(r.step, [*read(t), *constant, *states], tensors)
        count = len(r.outputs)
        outputs.append(results[:count])
        states = results[count:]
    joins = {"stack": torch.stack, "cat": torch.cat}
    read_out = [
        outputs[-1][i] if o.join == "last" else joins[o.join]([step[i] for step in outputs], o.dim)
        for i, o in enumerate(r.outputs)
    ]
    (answer,) = run(r.readout, [*read_out, *constant], tensors)
    return answer


def assert_same(model: nn.Module, r: Rolled, shape: tuple[int, ...]) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for scale in (0.5, 1.0, 3.0):
            x = torch.randn(4, *shape) * scale
            assert torch.equal(run_rolled(r, x, tensors), model(x))


def shape_of(style: type[nn.Module], steps: int) -> tuple[int, ...]:
    return (steps, 1, 6, 6) if style.__name__.startswith("Conv") else (steps, INPUTS)


@pytest.mark.slow
@pytest.mark.thin(4)
@pytest.mark.parametrize("steps", [4, pytest.param(3, marks=pytest.mark.long), pytest.param(6, marks=pytest.mark.long)])
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_a_loop_and_its_steps_are_the_same_function(style, steps):
    # Of three steps of this one, only the first has all operations.
    steps += style is OneStepLate and steps == 3
    model, graph = traced(style, steps)
    r = rolled(graph)
    assert r.steps == (7 if style.__name__.startswith("Direct") else steps)
    assert (r.initial is None) == (r.first is not None) == (STYLES[style] == "first")
    assert len(r.step.inputs) == len(r.reads) + len(r.constant.output) + r.states
    assert len(r.readout.inputs) == len(r.outputs) + len(r.constant.output)
    assert_same(model, r, shape_of(style, steps))


def evaluated(graph: Graph, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Results on polynomials, every entry of every input and parameter an atom."""
    algebra = Algebra()
    leaves: dict[int, Callable[[], Tensor]] = {}
    evaluation = Evaluation(algebra, graph, leaves)

    def entries(name: str, shape: list[int], kind: str) -> Callable[[], Tensor]:
        block = algebra.block(name, torch.Size(shape), kind)
        return lambda: evaluation.entries(block)

    for index in graph.inputs:
        leaves[index] = entries(f"input {index}", graph.layouts[index].sizes(2), "neuron")
    for index, name in graph.tensors.items():
        leaves[index] = entries(name, list(tensors[name].shape), "weight")
    for index, constant in graph.constants.items():
        leaves[index] = lambda constant=constant: evaluation.literals(constant)
    return evaluation.outputs()


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_graphs_can_be_evaluated_on_polynomials(style):
    model, graph = traced(style, 4)
    r = rolled(graph)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for graph in (r.drive, r.constant, r.initial or r.first, r.step, r.readout):
        for ref, value in zip(graph.output, evaluated(graph, tensors), strict=True):
            assert list(value.shape) == graph.layouts[ref.index].sizes(2)


def test_a_step_holds_the_equations_of_one_step():
    r = rolled(traced(ResetFromMembrane, 4)[1])
    assert r.reads == (StepRead(0, 1, None),)
    assert r.drive.output == [Ref(r.drive.inputs[0])]
    assert r.constant.output == []
    assert r.outputs == (ReadoutInput("stack", 0), ReadoutInput("stack", 0))
    assert r.states == 2
    assert [o.operator for o in r.initial.operations if o.operator.startswith("aten.zeros")] == [
        "aten.zeros_like.default"
    ] * 2
    assert sum(o.operator == "aten.linear.default" for o in r.step.operations) == 2
    # The membrane is both read out and a state.
    assert r.step.output[1] == r.step.output[-1]


def test_what_is_read_in_front_of_a_loop_is_named():
    r = rolled(traced(CurrentsFirst, 4)[1])
    assert r.reads == (StepRead(0, 0, None),)
    assert [o.operator for o in r.drive.operations] == ["aten.linear.default", "aten.transpose.int"]
    assert r.outputs == (ReadoutInput("cat", 1),)
    assert rolled(traced(Slices, 4)[1]).reads == (StepRead(0, 1, 1),)


def test_direct_coding_has_a_constant_input_and_reads_nothing():
    r = rolled(traced(DirectCoding, 4)[1])
    assert r.reads == ()
    assert [o.operator for o in r.constant.operations] == ["aten.select.int"]
    assert sum(o.operator == "aten.linear.default" for o in r.step.operations) == 2


def test_the_loop_that_is_changed_below_is_one():
    model = Changed("")
    assert_same(model, rolled(graph_of(model, torch.zeros(2, 9, INPUTS))), (9, INPUTS))


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("change", CHANGES)
def test_a_loop_that_is_not_the_same_in_every_step_is_none(change):
    with pytest.raises(NotRolled) as raised:
        rolled(graph_of(Changed(change), torch.zeros(2, 9, INPUTS)))
    assert raised.value.reason == str(raised.value) != ""
    assert "\n" not in raised.value.reason


class _Dense(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.recurrent(torch.relu(self.fc1(x[:, 0])))))


class _ShortAxis(Layers):
    """A loop that leaves out the last entry."""

    def forward(self, x: Tensor) -> Tensor:
        mem, out = self.zeros(x), []
        for t in range(x.shape[1] - 1):
            mem = torch.tanh(mem + self.fc1(x[:, t]))
            out.append(mem)
        return self.fc2(torch.stack(out).mean(0))


class _Draws(Layers):
    def forward(self, x: Tensor) -> Tensor:
        mem = self.zeros(x)
        for t in range(x.shape[1]):
            mem = torch.tanh(mem + self.fc1(x[:, t]) + torch.rand_like(mem))
        return self.fc2(mem)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("model", "steps", "reason"),
    [
        (_Dense(), 4, "no operations repeat"),
        (ResetFromMembrane(), 2, "no operations repeat"),
        (ResetFromMembrane(), 1, "no operations repeat"),
        (_ShortAxis(), 6, "aten.stack"),
        (LinearBetweenLoops(), 5, "several loops"),
        (_Draws(), 4, "draws at random"),
        (
            Changed("a weight"),
            9,
            "not all of 9 time steps are alike; they first differ at aten.linear.default at other",
        ),
    ],
)
def test_the_reason_is_said(model, steps, reason):
    with pytest.raises(NotRolled, match=reason):
        rolled(graph_of(model, torch.zeros(2, steps, INPUTS)))


@pytest.mark.slow
def test_no_single_change_of_the_graph_goes_unseen():
    """Every literal and operand of a middle step, changed by itself, is either refused or still the same function."""
    torch.manual_seed(1)
    model = OneStepLate()
    graph = graph_of(model, torch.zeros(2, 6, INPUTS))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    x = torch.randn(3, 6, INPUTS)
    seen = 0
    for i, operation in enumerate(graph.operations):
        for at, argument in enumerate(operation.args):
            for other in _others(graph, i, argument):
                args = (*operation.args[:at], other, *operation.args[at + 1 :])
                inputs = tuple(dict.fromkeys(refs((args, operation.kwargs))))
                operations = list(graph.operations)
                operations[i] = replace(operation, args=args, inputs=inputs)
                changed = replace(graph, operations=operations, last_use={}, readers=type(graph.readers)())
                try:
                    (answer,) = run(replace(changed, output=list(changed.output)), [x], tensors)
                except (RuntimeError, IndexError, TypeError, AssertionError):
                    continue
                seen += 1
                try:
                    r = rolled(changed)
                except NotRolled:
                    continue
                assert torch.equal(run_rolled(r, x, tensors), answer), (operation.describe(), at, other)
    assert seen > 100


def _others(graph: Graph, i: int, argument: object) -> list[object]:
    """What may stand in an argument's place: earlier values of its shape and type, another number."""
    if isinstance(argument, Ref):
        alike = (graph.layouts.get(argument.index), graph.dtypes.get(argument.index))
        earlier = [o.index for o in graph.operations[:i] if o.index != argument.index]
        return [Ref(j) for j in earlier[-12:] if (graph.layouts.get(j), graph.dtypes.get(j)) == alike]
    if isinstance(argument, list):
        places = range(len(argument))
        return [[*argument[:k], v, *argument[k + 1 :]] for k in places for v in _others(graph, i, argument[k])]
    return [argument + 1] if isinstance(argument, int | float) and not isinstance(argument, bool) else []


UNARY = (torch.tanh, torch.sigmoid, torch.relu, lambda v: 0.5 * v, lambda v: (v > 0.2).float())
BINARY = (torch.add, torch.sub, torch.mul, torch.maximum, lambda a, b: torch.where(a > b, a, b * 0.3))


@st.composite
def steps(draw):
    """A step of up to a dozen operations on what is read, states and earlier results; where states are from."""
    states = draw(st.integers(1, 3))
    calls = []
    for count in range(draw(st.integers(2, 10))):
        kind = draw(st.sampled_from(("unary", "binary", "binary", "layer", "rate")))
        table = UNARY if kind == "unary" else BINARY
        which = draw(st.integers(0, len(table) - 1))
        available = 1 + states + count
        calls.append((kind, which, draw(st.integers(0, available - 1)), draw(st.integers(0, available - 1))))
    available = 1 + states + len(calls)
    results = [draw(st.integers(0, available - 1)) for _ in range(states)] + [available - 1]
    return states, calls, results


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(), st.sampled_from(("mean", "sum", "last")), st.integers(3, 5))
def test_random_steps_are_found_or_refused(made, readout, count):
    states, calls, results = made

    def step(self: StepOf, x_t: Tensor, given_states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        values = [x_t, *given_states]
        for kind, which, a, b in calls:
            if kind == "unary":
                values.append(UNARY[which](values[a]))
            elif kind == "binary":
                values.append(BINARY[which](values[a], values[b]))
            elif kind == "layer":
                values.append((self.layer if which % 2 else self.mix)(values[a]))
            else:
                values.append(torch.exp(-self.rate) * values[a])
        return values[results[-1]], [values[i] for i in results[:-1]]

    torch.manual_seed(0)
    model = StepOf(step, states, readout)
    graph = graph_of(model, torch.zeros(2, count, INPUTS))
    try:
        r = rolled(graph)
    except NotRolled:
        return
    assert_same(model, r, (count, INPUTS))


@pytest.mark.slow
def test_the_time_it_takes_grows_as_the_graph_does():
    graph = graph_of(ResetFromMembrane(), torch.zeros(2, 20, INPUTS))
    start = time.process_time()
    rolled(graph)
    assert time.process_time() - start < 0.002 * len(graph.operations)
