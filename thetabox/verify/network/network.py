"""A model as the interpreter sees it: one graph, or the three graphs of a recurrent network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.memory import identity, named_tensors
from thetabox.models.recurrent import RecurrentModule, is_recurrent
from thetabox.models.twins import RUNNING, untouched
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter, stored
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.margin import class_margins, logit_margins, row_margins
from thetabox.verify.interpreter.walk import Value, check_rules, dependants, evaluate
from thetabox.verify.interval.outputs import Outputs, averaging
from thetabox.verify.interval.saturation import Saturation, saturates, taken
from thetabox.verify.network.graph import Graph, Operation, Ref, trace
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.reorder import pooled_first

# Called with the time step (0 without time), the operation, its operands and its result.
StepObserver = Callable[[int, Operation, tuple[Any, ...], Any], None]

# Bytes of the input's drive that are computed at once.
DRIVE_BYTES = 4 << 20

# After this many steps a state's magnitude is measured instead of propagated.
MEASURE_EVERY = 8
# Up to so many layers with weights are few.
FEW_LAYERS = 6


class Tensors:
    """Parameters, buffers and constants of a model in the dtype and on the device of the bounds.

    Args:
        model, box, rounding, device: whose, which of them move, and how they are held.
        instead: values by name that stand in for the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        box: Box,
        rounding: Rounding,
        device: torch.device,
        instead: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.box, self.rounding, self.device = model, box, rounding, device
        with RUNNING:
            self.values: dict[str, Tensor] = {**named_tensors(model), **(instead or {})}
            factors = box.factors(model)
        # Two tensors on one memory are one, in the box under all its names.
        first: dict[Hashable, Tensor] = {}
        self.values = {name: first.setdefault(identity(t), t) for name, t in self.values.items()}
        self.factors = {id(self.values[name]): factor for name, factor in factors.items()}
        self.known: dict[int, Parameter] = {}

    @property
    def boxed(self) -> list[str]:
        """Names of the tensors that move, each under all its names."""
        return [name for name, value in self.values.items() if id(value) in self.factors]

    def of(self, graph: Graph) -> dict[int, Value]:
        """Position → parameter, for every tensor of the graph."""
        found: dict[int, Value] = {i: self.parameter(name) for i, name in graph.tensors.items()}
        for i, view in graph.views.items():
            found[i] = self.parameter(view.name).moved(view.of)
        for i, constant in graph.constants.items():
            found[i] = stored("a constant of the graph", constant.detach().to(self.device), self.rounding)
        return found

    def parameter(self, name: str) -> Parameter:
        """A tensor of the model by name, with its box."""
        value = self.values[name]
        if id(value) not in self.known:
            factor = self.factors.get(id(value), 0.0)
            held = value.to(self.device)
            if not torch.is_grad_enabled():
                held = held.detach()
            unit = None
            if factor and self.box.kind != "relative":
                unit = self.box.unit_radius(held.to(torch.float64))
                unit = torch.nextafter(unit, torch.full_like(unit, torch.inf)) if self.box.kind == "range" else unit
                if self.rounding.dtype == torch.float32:
                    unit = torch.nextafter(unit.float(), torch.full_like(unit.float(), torch.inf))
            self.known[id(value)] = stored(name, held, self.rounding, factor, unit)
        return self.known[id(value)]

    def check_reach(self, epsilon: Tensor) -> None:
        """Refuse boxes so narrow that float32 has fewer digits for their ends than the bounds allow for.

        Raises:
            InputError: a float64 tensor moves by less than the normal numbers of float32.
        """
        least = float(epsilon[epsilon > 0].amin()) if bool((epsilon > 0).any()) else 0.0
        if not self.rounding.network or self.box.kind == "relative" or not least:
            return
        for name, value in self.values.items():
            factor = self.factors.get(id(value), 0.0)
            if factor and value.dtype == torch.float64:
                unit = self.box.unit_radius(value.detach())
                radius = unit[unit > 0] * (factor * least)
                if radius.numel() and float(radius.amin()) < torch.finfo(torch.float32).smallest_normal:
                    raise InputError(
                        f"at ε = {least:g} {name} moves by less than float32 can tell; use real arithmetic"
                    )


@dataclass
class Final:
    """Values in front of the last layer, and what is needed to go on from there."""

    context: Context
    graph: Graph
    values: dict[int, Value]
    head: Head | None

    def margins(self, labels: Tensor, criterion: str = "margin") -> Tensor:
        """Proven lower bounds ``[E, N]`` of the margin."""
        if criterion == "margin" and self.head is not None:
            hidden, weight, bias = self.head.read(self.values)
            if hidden is not None and isinstance(weight, Parameter) and isinstance(bias, Parameter | None):
                return row_margins(self.context, hidden, weight, bias, labels)
        return logit_margins(self.context, self.logits(), labels)

    def class_margins(self, labels: Tensor) -> Tensor:
        """Lower bounds ``[E N, K]`` of the margin against each class, differentiable; the own column says nothing."""
        if self.head is not None:
            hidden, weight, bias = self.head.read(self.values)
            if hidden is not None and isinstance(weight, Parameter) and isinstance(bias, Parameter | None):
                return class_margins(self.context, hidden, weight, bias, labels)[0]
        logits = self.logits().settled(self.context.rounding.own)
        own = labels.repeat(len(logits.lower) // len(labels))[:, None]
        return logits.lower.gather(1, own) - logits.upper

    def logits(self) -> Interval:
        """Bounds of the logits, ``[E N, K]``."""
        output = _only_output(self.graph)
        if output not in self.values:
            assert self.head is not None
            evaluate(self.context, self.graph, self.values, self.head.operations, keep=True)
        value = self.values[output]
        if not isinstance(value, Interval) or value.lower.dim() != 2 or (value.batch, value.merged) != (0, 1):
            raise InputError("the network must answer logits of shape [samples, classes]")
        return self.context.expanded(value)


@dataclass(frozen=True)
class Head:
    """The operations that make the last dense layer."""

    operations: list[Operation]
    hidden: int
    weight: int
    bias: int | None
    transposed: bool

    def read(self, values: dict[int, Value]) -> tuple[Interval | None, Value, Value]:
        """Hidden interval ``[rows, features]``, weight ``[classes, features]``, bias."""
        hidden, weight = values[self.hidden], values[self.weight]
        bias = None if self.bias is None else values[self.bias]
        if isinstance(weight, Parameter) and self.transposed:
            weight = weight.moved(lambda t: t.T)
        if not isinstance(hidden, Interval) or hidden.lower.dim() != 2 or (hidden.batch, hidden.merged) != (0, 1):
            return None, weight, bias
        return hidden, weight, bias


def find_head(graph: Graph) -> Head | None:
    """The last layer, where it is ``linear``, ``addmm`` or ``x @ W (+ b)``."""
    by_index = {o.index: o for o in graph.operations}
    last = by_index.get(_only_output(graph))
    if last is None:
        return None
    refs = [a.index if isinstance(a, Ref) else None for a in last.args]
    if last.operator == "aten.linear.default" and refs[0] is not None and refs[1] is not None:
        return Head([last], refs[0], refs[1], refs[2] if len(refs) > 2 else None, False)
    if last.operator == "aten.addmm.default" and refs[1] is not None and refs[2] is not None and not last.kwargs:
        return Head([last], refs[1], refs[2], refs[0], True)
    if last.operator in ("aten.mm.default", "aten.matmul.default") and refs[0] is not None and refs[1] is not None:
        return Head([last], refs[0], refs[1], None, True)
    if last.operator == "aten.add.Tensor" and not last.kwargs and None not in refs:
        for first, second in ((refs[0], refs[1]), (refs[1], refs[0])):
            before = by_index.get(first) if first is not None else None
            bias = graph.layouts.get(second) if second is not None else None
            used_once = sum(first in o.inputs for o in graph.operations) == 1
            if before is None or bias is None or bias.batch is not None or len(bias.shape) != 1 or not used_once:
                continue
            product = find_head(replace(graph, output=(Ref(before.index),), last_use={}, readers=Counter()))
            if product is not None and product.bias is None:
                return replace(product, operations=[*product.operations, last], bias=second)
    return None


def _only_output(graph: Graph) -> int:
    leaves = [leaf for leaf in pytree.tree_leaves(graph.output) if isinstance(leaf, Ref)]
    if len(leaves) != 1:
        raise InputError(f"the network must answer one tensor of logits, not {len(leaves)}")
    return leaves[0].index


class Network:
    """A feed-forward model."""

    steps = 1

    def __init__(self, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
        self.model = model
        # TorchScript that was made by tracing can be called in a trace, but is none of torch.export's modules.
        whole = _Call(model) if isinstance(model, torch.jit.ScriptModule) else model
        self.main = trace(model, whole, "forward", [_example(model, x)], training=training)
        self._check()

    @property
    def graphs(self) -> dict[str, Graph]:
        """Every graph of the network, by role."""
        return {"forward": self.main}

    def _check(self) -> None:
        for graph in self.graphs.values():
            check_rules(graph)

    @cached_property
    def head(self) -> Head | None:
        """The last dense layer, if there is one and its margins are real numbers with the network's own rounding."""
        head, types = find_head(self.main), kinds(self.main)
        return head if head is None or all(types[o.index].plain for o in head.operations) else None

    @cached_property
    def few_layers(self) -> bool:
        """Whether slack that a layer adds meets only a few more that widen it."""
        weighted = [o for o in self.main.operations if any(i in self.main.tensors for i in o.inputs)]
        return len(weighted) <= FEW_LAYERS

    @cached_property
    def ordered(self) -> list[Operation]:
        """Operations of the main graph as they are evaluated where nobody looks on."""
        return pooled_first(self.main)

    def largest(self) -> int:
        """Numbers of a sample in the largest value of any operation."""
        return max(_largest(graph) for graph in self.graphs.values())

    def alive(self) -> int:
        """About how many numbers of a sample are alive at once."""
        return 6 * self.largest()

    def run(self, context: Context, tensors: Tensors, x: Interval, observe: StepObserver | None = None) -> Final:
        """Evaluate up to the last layer."""
        values = tensors.of(self.main)
        values[self.main.inputs[0]] = x
        return self._finish(context, self.main, values, observe, 0)

    def _finish(
        self, context: Context, graph: Graph, values: dict[int, Value], observe: StepObserver | None, time: int
    ) -> Final:
        head = set() if self.head is None else {o.index for o in self.head.operations}
        operations = self.ordered if observe is None else graph.operations
        body = [o for o in operations if o.index not in head and o.index not in values]
        watch = None if observe is None else lambda o, args, result: observe(time, o, args, result)
        evaluate(context, graph, values, body, observe=watch)
        if self.head is not None and isinstance(hidden := values.get(self.head.hidden), Interval):
            hidden.owned = False  # margins and logits may both be asked for
        return Final(context, graph, values, self.head)


class _Call(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.cell(x)
        return answer


class _InitialState(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_t: Tensor) -> list[Tensor]:
        return list(pytree.tree_leaves(self.cell.initial_state(x_t.shape[0])))  # type: ignore[operator]  # the protocol


class _Step(nn.Module):
    def __init__(self, cell: nn.Module, structure: Any) -> None:
        super().__init__()
        self.cell, self.structure = cell, structure

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        state = pytree.tree_unflatten(list(tensors[1:]), self.structure)
        output, state = self.cell.step(tensors[0], state)  # type: ignore[operator]  # the protocol
        return [output, *pytree.tree_leaves(state)]


class _Readout(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, outputs: Tensor) -> Tensor:
        return self.cell.readout(outputs)  # type: ignore[operator]  # the protocol


def _first_state(model: nn.Module) -> Any:
    with torch.no_grad(), untouched(model):
        try:
            return model.initial_state(2)  # type: ignore[operator]  # the protocol
        except InputError:
            raise
        except Exception as error:  # a network raises whatever it likes
            told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(f"initial_state(batch) of the recurrent network fails: {told}") from error


class RecurrentNetwork(Network):
    """A recurrent model: its one-step graph, walked once a time step.

    What depends on parameters alone is evaluated once; what depends on the input but on no state, once for all time
    steps together, so that the products of the input layer serve every step and every ε.
    """

    def __init__(self, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
        self.model = model
        if x.dim() != 3 or x.shape[1] < 1:
            raise InputError(f"a recurrent network takes x of shape [samples, time, inputs], not {list(x.shape)}")
        self.steps = x.shape[1]
        x_t = _example(model, x)[:, 0]
        leaves, structure = pytree.tree_flatten(_first_state(model))
        if not all(isinstance(s, Tensor) for s in leaves):
            raise InputError("initial_state must answer tensors, or tuples, lists or dictionaries of tensors")
        self.initial = trace(model, _InitialState(model), "initial", [x_t], training=training)
        self.step = trace(model, _Step(model, structure), "step", [x_t, *leaves], training=training)
        answered = pytree.tree_leaves(self.step.output)
        if len(answered) != 1 + len(leaves) or not all(isinstance(part, Ref) for part in answered):
            raise InputError(
                f"step must answer an output and the next state, {len(leaves)} tensors as in initial_state, and no "
                "other values"
            )
        produced = self.step.layouts[answered[0].index]
        outputs = torch.zeros(
            (1, self.steps, *[s or 1 for s in produced.shape[1:]]), dtype=x_t.dtype, device=x_t.device
        )
        self.main = trace(model, _Readout(model), "readout", [outputs], training=training)
        self.averaging = averaging(self.main)
        on_state = dependants(self.step, self.step.inputs[1:])
        on_input = dependants(self.step, self.step.inputs[:1]) - on_state
        operations = self.step.operations
        self.fixed = [o for o in operations if o.index not in on_state and o.index not in on_input]
        on_fixed = _needed(operations, on_input)
        self.driven = [o for o in operations if o.index in on_input or (o in self.fixed and o.index in on_fixed)]
        self.moving = [o for o in operations if o.index in on_state]
        needed = {i for o in self.moving for i in o.inputs} | {r.index for r in pytree.tree_leaves(self.step.output)}
        self.drive = sorted((on_input & needed) | (set(self.step.inputs[:1]) & needed))
        self.saturates = saturates(self.step)
        self._check()

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs of initial state, step and readout."""
        return {"initial_state": self.initial, "step": self.step, "readout": self.main}

    def largest(self) -> int:
        """Numbers of a sample in the largest value of one step, which a dozen values of a step share the cache with."""
        return 8 * max(_largest(self.initial), _largest(self.step))

    def alive(self) -> int:
        """About how many numbers of a sample are alive at once."""
        output = pytree.tree_leaves(self.step.output)[0].index
        # Both ends of all outputs and their copies for the readout, if it wants them all, and the two products of the
        # drive that ε share.
        kept = 0 if self.averaging else 4 * _count(self.step.layouts[output].shape)
        return self.steps * (kept + 2 * _largest(self.step)) + 1

    @cached_property
    def few_layers(self) -> bool:
        """Never: each step meets all later ones."""
        return False

    def run(self, context: Context, tensors: Tensors, x: Interval, observe: StepObserver | None = None) -> Final:
        """Evaluate all time steps, and the readout up to the last layer."""
        started = tensors.of(self.initial)
        started[self.initial.inputs[0]] = replace(x.map(lambda t: t[:, 0]), bound=None)
        evaluate(context, self.initial, started)
        state = [_interval(context, started[r.index]) for r in pytree.tree_leaves(self.initial.output)]
        fixed = evaluate(context, self.step, tensors.of(self.step), self.fixed, keep=True)
        fixed = {i: _signed(v) for i, v in fixed.items()}
        inputs, results = self.step.inputs, pytree.tree_leaves(self.step.output)
        outputs = Outputs(self.steps, self.averaging)
        saturation = Saturation.of(context, self.steps) if self.saturates and observe is None else None
        going = context  # of the samples that are still computed
        block = self._block(context)
        drive: list[dict[int, Value]] = []
        for time in range(self.steps):
            if time % block == 0:
                context.time = time
                drive = self._drive(context, tensors, x.map(partial(_steps, first=time, count=block)))
            driven = drive[time % block]
            if saturation is not None:
                before = going.sweep.samples
                if saturation.leaves_some(time):
                    outputs.lose(saturation.rows_of(saturation.left), self.steps - time)
                    state = [taken(s, saturation.stay, before) for s in state]
                    fixed = _taken(fixed, saturation.stay, before)
                    going = saturation.context
                if saturation.none_left:
                    break
                driven = _taken(driven, saturation.samples, context.sweep.samples)
            going.time = time
            values = fixed | driven
            values.update(zip(inputs[1:], state, strict=True))
            watch = None if observe is None else (lambda o, args, result, t=time: observe(t, o, args, result))
            evaluate(going, self.step, values, self.moving, observe=watch)
            output = going.expanded(_interval(going, values[results[0].index]))
            outputs.add(output, None if saturation is None else saturation.rows)
            if saturation is not None:
                saturation.look(output, time)
            state = [_interval(going, values[r.index]) for r in results[1:]]
            if time % MEASURE_EVERY == MEASURE_EVERY - 1:
                state = [replace(s, bound=None) for s in state]
        if saturation is not None:
            saturation.remember()
        values = tensors.of(self.main)
        place, value = outputs.value(context)
        values[self.main.inputs[0] if place is None else place] = value
        return self._finish(context, self.main, values, observe, self.steps - 1)

    def _block(self, context: Context) -> int:
        """Time steps whose drive is computed together: long enough for the products, short enough for the cache."""
        width = _largest(self.step) * context.sweep.values.numel() * torch.finfo(context.dtype).bits // 8
        return max(1, min(self.steps, DRIVE_BYTES // width))

    def _drive(self, context: Context, tensors: Tensors, x: Interval) -> list[dict[int, Value]]:
        """Everything that depends on the input alone, a dictionary a time step: rows ``[E, T, N]`` while computed."""
        everywhere = Context(context.sweep.repeated(x.shape[1]), context.rounding, memo=context.memo, time=context.time)
        values = tensors.of(self.step)
        values[self.step.inputs[0]] = x.map(lambda t: t.transpose(0, 1).flatten(0, 1))
        evaluate(everywhere, self.step, values, self.driven, keep=True)
        steps = [_unstacked(_interval(context, values[i]), x.shape[1], context.sweep.samples) for i in self.drive]
        return [{i: step[t] for i, step in zip(self.drive, steps, strict=True)} for t in range(x.shape[1])]


def _interval(context: Context, value: Value) -> Interval:
    if isinstance(value, Parameter):
        value = context.interval(value)
    assert isinstance(value, Interval)
    value.owned = False  # a state is also an output, and read again in the next step
    return value


def _taken(values: dict[int, Value], places: Tensor | None, samples: int) -> dict[int, Value]:
    return {i: taken(v, places, samples) if isinstance(v, Interval) else v for i, v in values.items()}


def _steps(t: Tensor, first: int, count: int) -> Tensor:
    return t[:, first : first + count]


def _needed(operations: list[Operation], targets: set[int]) -> set[int]:
    """Positions that the target operations read, directly or not."""
    needed = set(targets)
    for operation in reversed(operations):
        if operation.index in needed:
            needed.update(operation.inputs)
    return needed


def _signed(value: Value) -> Value:
    """A value that every step multiplies by: whether it is at least 0 is worth a look."""
    if not isinstance(value, Interval) or value.nonnegative or value.lower.numel() == 0:
        return value
    return replace(value, nonnegative=bool(value.lower.detach().amin() >= value.slack))


def _unstacked(v: Interval, steps: int, samples: int) -> list[Interval]:
    """The time steps of a value computed for several of them."""
    assert v.batch is not None
    dim = v.batch

    def parts(t: Tensor) -> list[Tensor]:
        unbound = t.unflatten(dim, (-1, steps, samples * v.merged)).unbind(dim + 1)
        return [part.flatten(dim, dim + 1) for part in unbound]

    lower = parts(v.lower)
    upper = lower if v.is_point else parts(v.upper)
    return [replace(v, lower=low, upper=high) for low, high in zip(lower, upper, strict=True)]


def _largest(graph: Graph) -> int:
    return max((_count(v.shape) for v in graph.layouts.values() if v.batch is not None), default=1)


def _count(shape: tuple[int | None, ...]) -> int:
    count = 1
    for size in shape:
        count *= size or 1
    return count


def _example(model: nn.Module, x: Tensor) -> Tensor:
    """One sample in the dtype and on the device of the model."""
    like = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), None)
    dtype, device = (x.dtype, x.device) if like is None else (like.dtype, like.device)
    return torch.zeros(x[:1].shape, dtype=dtype if dtype.is_floating_point else torch.float32, device=device)


def network(model: nn.Module, x: Tensor, *, training: bool = False) -> Network:
    """The model as graphs, traced for inputs like ``x``; ``training`` as for :func:`.graph.trace`."""
    kind = RecurrentNetwork if is_recurrent(model) and not _of_other_use(model) else Network
    return kind(model, x, training=training)


def _of_other_use(model: nn.Module) -> bool:
    """Whether a network with a forward of its own merely has methods of the protocol's names."""
    if isinstance(model, RecurrentModule) or type(model).forward is nn.Module.forward:
        return False
    try:
        _first_state(model)
    except InputError:
        return True
    return False
