r"""Before any proof: the graph that is bounded is the module that runs.

A proof speaks of the traced graph. What a user runs is the module: Python code with hooks, branches and attributes.
Here the two are held against each other, at the numbers that the certificate is about:

1. the module's own forward of every sample lies inside the bounds at ε = 0, up to the arithmetic of that run: in
   float64 and in the network's precision, in one batch, one by one, and at every batch size at which the code may
   branch, with gradients on and off;
2. with the parameters moved in place to corners and random points of the box (all at once and each alone) the module
   answers what the graph does, and lies inside the bounds at that ε.

Where the graph is without jumps the two are compared as numbers: they call the same operators. Where it has
comparisons, a sum in another order may flip one; the module must then lie inside the bounds of a network whose every
operation may be off by :data:`ROUNDOFF`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.models.recurrent import run_steps
from thetabox.models.running import Running, running
from thetabox.models.twins import NARROW
from thetabox.verify.context import Context, Sweep
from thetabox.verify.engine import Engine
from thetabox.verify.interval import Interval
from thetabox.verify.network import RecurrentNetwork, Tensors
from thetabox.verify.replay import replay
from thetabox.verify.request import Settings, input_interval
from thetabox.verify.rounding import SAFETY, Rounding, gamma, sound_kernels

# Roundoff of a double-precision run, with room for sums in any order and fused or folded operators.
ROUNDOFF = 2.0**-45
# How near, relative to the largest number of a run, two double-precision runs of the same operators come.
NEAR = 2.0**-33
# The same for a run in the network's own precision beside one in double precision, before bounds are asked.
NEAR_OWN = 2.0**-10
# Batch sizes that are always tried, beside those at which a trace says that the code may branch.
SIZES = (1, 2, 3, 4, 5, 9, 17)
# Samples that stand for all where the parameters are moved, and how far those are moved at least.
FEW, FAR = 2, 0.05
POINTS = 3
# Calls with one input, to see whether they differ.
REPEATS = 8
# Operators that jump, beside those that answer a truth value, or are so steep somewhere that rounding becomes large.
JUMPS = ("sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "div", "log", "pow")
# Bytes of the values of one run.
MEMORY = 1 << 30


@dataclass(frozen=True)
class Agreement:
    """What was compared.

    Attributes:
        logits: of the unperturbed network, float64.
        record: for the certificate.
    """

    logits: Float[Tensor, "samples classes"]
    record: dict[str, Any]


@dataclass(frozen=True)
class Evaluated(Rounding):
    """Bounds of a network whose every operation is off by a little, in whatever order it is evaluated.

    Attributes:
        roundoff: relative error of an operation.
    """

    roundoff: float = ROUNDOFF

    def of_dot(self, terms: int) -> float:
        return super().of_dot(terms) + 1.01 * gamma(terms + 4, self.roundoff)

    def of_sum(self, terms: int) -> float:
        return super().of_sum(terms) + gamma(terms + 4, self.roundoff)

    def of_operation(self, roundings: int = 1) -> float:
        return super().of_operation(roundings) + roundings * self.roundoff * SAFETY


def begin(
    model: nn.Module, settings: Settings, x: Float[Tensor, "samples ..."], epsilon: Float[Tensor, " sweeps"]
) -> tuple[Engine, Agreement]:
    """What every public function that bounds begins with: the network traced, its box looked at, the two compared.

    Raises:
        InputError: as :func:`check`, or nothing moves in the box.
    """
    engine = Engine(model, settings, x)
    settings.box.check(engine.model)
    return engine, check(engine, epsilon)


def check(engine: Engine, epsilon: Float[Tensor, " sweeps"]) -> Agreement:
    """Compare the engine's graph with its module.

    Raises:
        InputError: they differ; the message says in what, and the likely reason.
    """
    unread = _unread(engine)
    with torch.no_grad(), sound_kernels():
        wide = _runs_wide(engine)
        with running(engine.model, wide=wide) as run:
            own = _OwnForward(engine, run)
            own.compare_all()
            own.compare_sizes()
        if wide and _narrow(engine):
            with running(engine.model, wide=False) as narrow:
                _compare_precision(engine, narrow, own.logits)
        moved = _compare_moved(engine, epsilon, wide)
    record = {
        "samples": len(own.logits),
        "batch_sizes": own.sizes,
        "tensors_moved": moved,
        "precision": "float64" if wide else str(run.dtype).removeprefix("torch."),
        "unread": unread,
        "constants": sum(t.numel() for g in engine.network.graphs.values() for t in g.constants.values()),
    }
    return Agreement(own.logits, record)


def _unread(engine: Engine) -> list[str]:
    """Parameters in the box that the network never reads.

    Raises:
        InputError: it reads none of those in the box, so that nothing would be perturbed.
    """
    tensors = engine.tensors
    graphs = engine.network.graphs.values()
    read = {id(tensors.values[name]) for g in graphs for i, name in g.tensors.items() if g.readers[i]}
    boxed = [name for name, value in tensors.values.items() if id(value) in tensors.factors]
    unread = [name for name in boxed if id(tensors.values[name]) not in read]
    if boxed and len(unread) == len(boxed):
        raise InputError(
            f"the network reads no parameter of the box ({', '.join(boxed[:3])}{', …' * (len(boxed) > 3)}), so nothing "
            "would be perturbed: it computes with copies of them, or with other tensors"
        )
    return unread


def _narrow(engine: Engine) -> bool:
    """Whether anything in the network is of less than double precision."""
    return any(dtype in NARROW for graph in engine.network.graphs.values() for dtype in graph.dtypes.values())


def _runs_wide(engine: Engine) -> bool:
    """Whether the module can be run in float64; a few fused operators of torch have no such form."""
    try:
        with running(engine.model) as run:
            run(engine.x[:FEW])
    except InputError:
        with running(engine.model, wide=False) as run:
            run(engine.x[:FEW])
        return False
    return True


class _OwnForward:
    """The module at its own weights."""

    def __init__(self, engine: Engine, run: Running) -> None:
        self.engine, self.run = engine, run
        self.near = NEAR if run.wide else NEAR_OWN
        self.logits = torch.empty(0)
        self.sizes: list[int] = []

    def compare_all(self) -> None:
        """Every sample, in one batch where memory allows, with its bounds at ε = 0; a few with the graph."""
        engine, run = self.engine, self.run
        at_once = max(1, MEMORY // (8 * engine.network.alive()))
        self.logits = torch.cat([run(part) for part in engine.x.split(at_once)]).double()
        if not bool(self.logits.isfinite().all()):
            raise InputError("the network answers NaN or infinite logits at its own weights")
        few = min(FEW, len(engine.x))
        graph, size = replay(engine.network, run.read, run.inputs(engine.x[:few]), wide=run.wide)
        self._same(graph, slice(0, few), "its forward differs from what was traced", size)
        outside = _outside(_at_zero(engine, slice(None), _values(run)), self.logits, self.near)
        if len(outside):
            _refuse(engine, f"its forward of sample {int(outside[0])} lies outside the bounds at ε = 0")

    def compare_sizes(self) -> None:
        """A few samples in batches of several sizes, with gradients on and off."""
        graphs = self.engine.network.graphs.values()
        few = min(FEW, len(self.engine.x))
        for size in sorted({*SIZES, *(n for graph in graphs for n in graph.batch_sizes)}):
            places = torch.arange(size) % few
            try:
                answer = self.run(self.engine.x[places], gradients=size % 2 == 1)
            except InputError:
                if size == len(self.engine.x):
                    raise
                continue  # a batch that the network does not take is none that it answers otherwise
            self.sizes.append(size)
            self._same(
                answer, places, f"its answer in a batch of {size} differs from that in one of {len(self.logits)}"
            )

    def _same(self, answer: Tensor, which: slice | Tensor, what: str, size: float = 0.0) -> None:
        own, answer = self.logits[which], answer.double().cpu()
        if own.shape == answer.shape:
            size = max(size, float(own.abs().max()), float(answer.abs().max()))
            if bool(((own - answer).abs() <= self.near * size).all()):
                return
            if _explained(self.engine, which, _values(self.run), answer, self.near):
                return
        _refuse(self.engine, what)


def _compare_precision(engine: Engine, run: Running, wide: Tensor) -> None:
    """Every sample in the network's own precision: near the answers in double precision, or within its rounding."""
    at_once = max(1, MEMORY // (8 * engine.network.alive()))
    own = torch.cat([run(part) for part in engine.x.split(at_once)]).double()
    size = torch.maximum(wide.abs(), own.abs()).amax(1, keepdim=True)
    apart = ~((own - wide).abs() <= NEAR_OWN * size).all(1)
    places = apart.nonzero().squeeze(1)
    if not len(places):
        return
    if run.dtype is torch.float32:
        rounding = Rounding(torch.float64, "float32")
    else:
        rounding = Evaluated(torch.float64, "real", 4.0 * torch.finfo(run.dtype).eps)
    try:
        bounds = _at_zero(engine, places, None, rounding)
    except InputError:  # sums too long for any bound in this precision
        return
    # Of what overflowed nothing is known, neither of the number nor of its bounds.
    known = bounds.lower.isfinite() & bounds.upper.isfinite()
    told = Interval(torch.where(known, bounds.lower, -torch.inf), torch.where(known, bounds.upper, torch.inf))
    outside = _outside(told, torch.where(known, own[places], 0.0), NEAR_OWN)
    if len(outside):
        name = str(run.dtype).removeprefix("torch.")
        _refuse(engine, f"its forward of sample {int(places[outside[0]])} in {name} lies outside the bounds at ε = 0")


def _compare_moved(engine: Engine, epsilon: Tensor, wide: bool) -> int:
    """The module with its parameters moved in place beside the graph with the same; how many tensors were moved.

    What was found of a trace holds as long as the trace does, so this is done once for each.
    """
    names = [n for n, value in engine.tensors.values.items() if id(value) in engine.tensors.factors]
    key = ("moved", repr(engine.settings.box), *engine.network.graphs.values(), wide)
    checked = engine.network.main.checked
    if key in checked or not names:
        return len(names)
    with running(engine.model, wide=wide) as run:
        moving = _Moving(engine, run, names)
        top = float(epsilon.max())
        for reach in (top, min(max(top, FAR), 0.5)):
            for point in range(POINTS):
                moving.compare_all(reach, point)
        for name in names:
            moving.compare_alone(name)
    checked.add(key)
    return len(names)


class _Moving:
    """Parameters at random points and corners of the box."""

    def __init__(self, engine: Engine, run: Running, names: list[str]) -> None:
        self.engine, self.run, self.names = engine, run, names
        self.few = torch.arange(min(FEW, len(engine.x)))
        self.own = {name: run.read(name).clone() for name in names}
        self.generator = torch.Generator().manual_seed(0)
        self.box = engine.settings.box
        self.near = NEAR if run.wide else NEAR_OWN

    def compare_all(self, reach: float, point: int) -> None:
        """All tensors moved: corners, then points between; the module against the graph, and inside the bounds."""
        self.run.move({name: self._moved(name, reach, corner=point % 2 == 0) for name in self.names})
        answer = self._compare("with all parameters moved, the module answers another thing than the traced graph")
        self.run.move(self.own)
        if answer is not None and reach > 0:
            bounds = _plain_bounds(self.engine, self.few, reach)
            if bounds is not None and len(_outside(bounds, answer, self.near)):
                _refuse(self.engine, f"with its parameters moved by ε = {reach:g} its answer lies outside the bounds")

    def compare_alone(self, name: str) -> None:
        """One tensor moved."""
        self.run.move({name: self._moved(name, FAR, corner=True)})
        self._compare(f"moving {name!r} does not change the module's answer as it changes that of the traced graph")
        self.run.move({name: self.own[name]})

    def _moved(self, name: str, reach: float, *, corner: bool) -> Tensor:
        own = self.own[name]
        drawn = 2.0 * torch.rand(own.shape, generator=self.generator, dtype=torch.float64) - 1.0
        drawn = (drawn.sign() if corner else drawn).to(own.device)
        factor = self.engine.tensors.factors[id(self.engine.tensors.values[name])]
        # A little inside: the ends of the box are rounded outward, those of a move are not.
        radius = self.box.unit_radius(own.double()) * (reach * factor * (1.0 - 2.0**-40))
        return own + drawn * radius

    def _compare(self, what: str) -> Tensor | None:
        """The module's answer, once it is known to be that of the graph; ``None`` where it is not a number."""
        engine, run = self.engine, self.run
        x = engine.x[self.few]
        answer = run(x).double()
        graph, size = replay(engine.network, run.read, run.inputs(x), wide=run.wide)
        graph = graph.double().cpu()
        if not bool(graph.isfinite().all() and answer.isfinite().all()):
            return None  # a box that reaches a pole: nothing can be proven there
        size = max(size, float(answer.abs().max()))
        near = bool(((answer - graph).abs() <= self.near * size).all())
        if not near and not _explained(engine, self.few, _values(run), answer, self.near):
            _refuse(engine, what, self._culprit() if "all" in what else None)
        return answer

    def _culprit(self) -> str | None:
        """The tensor whose movement alone shows the difference."""
        self.run.move(self.own)
        for name in self.names:
            try:
                self.compare_alone(name)
            except InputError:
                return name
            finally:
                self.run.move(self.own)
        return None


def _values(run: Running) -> dict[str, Tensor]:
    """All tensors as they are in a run."""
    return {name: run.read(name) for name in run.tensors}


def _at_zero(
    engine: Engine, which: slice | Tensor, values: Mapping[str, Tensor] | None, rounding: Rounding | None = None
) -> Interval:
    """Logits of the graph at ε = 0 with room for any evaluation in double precision; ``values`` for its tensors."""
    rounding = rounding or Evaluated(torch.float64, "real", ROUNDOFF)
    settings = replace(engine.settings, rounding=rounding)
    tensors = Tensors(engine.model, settings.box, rounding, settings.device, values)
    parts = []
    for places in torch.arange(len(engine.x))[which].split(engine.chunk_size(1)):
        sweep = Sweep(torch.zeros(1, len(places), dtype=torch.float64, device=settings.device))
        context = Context(sweep, rounding, few_layers=engine.network.few_layers)
        final = engine.network.run(context, tensors, input_interval(engine.x[places], settings))
        parts.append(final.logits().settled(rounding.own))
    lower, upper = (torch.cat([getattr(p, end).double().cpu() for p in parts]) for end in ("lower", "upper"))
    return Interval(lower, upper)


def _explained(
    engine: Engine, which: slice | Tensor, values: Mapping[str, Tensor], answer: Tensor, near: float
) -> bool:
    """Whether rounding alone may make an answer: it lies in bounds that tell something, or that a jump makes wide."""
    bounds = _at_zero(engine, which, values)
    if len(_outside(bounds, answer, near)):
        return False
    width = (bounds.upper - bounds.lower).amax()
    return _jumps(engine) or bool(width <= NEAR_OWN * answer.abs().amax())


def _plain_bounds(engine: Engine, which: Tensor, epsilon: float) -> Interval | None:
    """The certificate's own bounds, where intervals have any."""
    try:
        return engine.logits(which, torch.full((1, len(which)), epsilon, dtype=torch.float64))
    except OneEpsilonAtATime:
        return None


def _outside(bounds: Interval, logits: Tensor, near: float) -> Tensor:
    """Rows that lie outside, by more than rounding."""
    if bounds.lower.shape != logits.shape:
        return torch.arange(max(len(logits), 1))
    room = near * logits.abs().amax(1, keepdim=True)
    inside = (logits >= bounds.lower - room) & (logits <= bounds.upper + room)
    return (~inside.all(1)).nonzero().squeeze(1)


def _jumps(engine: Engine) -> bool:
    """Whether rounding may become a difference that is seen, at a jump or a pole: bounds then tell what it may be."""
    operations = [o for graph in engine.network.graphs.values() for o in graph.operations]
    return any(o.dtype is torch.bool or o.operator.split(".")[1:2] in [[name] for name in JUMPS] for o in operations)


def _refuse(engine: Engine, what: str, culprit: str | None = None) -> NoReturn:
    where = f" ({culprit!r} alone shows it)" if culprit else ""
    raise InputError(f"the network is not the function that would be bounded: {what}{where}; {_reason(engine)}")


def _reason(engine: Engine) -> str:
    """Why a module and its trace are likely to differ."""
    x = engine.x[:1]
    try:
        with running(engine.model) as run:
            first = run(x).double()

            def same(answer: Tensor) -> bool:
                return torch.allclose(answer[:1].double(), first, NEAR_OWN, NEAR_OWN * float(first.abs().max()))

            if not all(same(run(x)) for _ in range(REPEATS)):
                return "two calls with the same input differ: it draws random numbers, or counts its calls"
            sizes = {*SIZES, len(engine.x), *(n for g in engine.network.graphs.values() for n in g.batch_sizes)}
            if not all(same(run(x.expand(size, *x.shape[1:]))) for size in sizes):
                return "its answer depends on how many samples are in the batch"
            if not same(run(x, gradients=True)):
                return "its answer depends on whether gradients are recorded"
            if isinstance(engine.network, RecurrentNetwork):
                held = run.inputs(x)
                with run.twins:
                    stepwise = engine.model.readout(run_steps(engine.model, held))  # type: ignore[operator, arg-type]  # the protocol
                if not same(stepwise.cpu()):
                    return (
                        "its forward (with hooks, and methods that it overrides) does something else than step and "
                        "readout, of which the proof would speak"
                    )
    except InputError:
        pass
    return (
        "its code does something else while it is traced (a branch on torch.compiler.is_exporting(), on the dtype, on "
        "the mode), or reads weights in a way that cannot be followed"
    )
