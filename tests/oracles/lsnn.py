"""The LSNN in exact arithmetic: Arb balls decide every spike, the rest is rational.

One time step (Büchel, Faber, Muir, ICLR 2022), state starting at zero, H(0) = 0:

    b ← ρ b + (1 − ρ) z,  ρ = exp(−dt/τ_adapt);   A = threshold + β b
    v ← α v + (1 − α)(x W_in + z W_rec) − z A dt,  α = exp(−dt/τ)
    z ← [r ≤ 0.1] · H(v − A);   r ← clip(r + n_refr z − 1, 0, n_refr)
    logits = mean_t(z) W_out + b_out

The diagonal of W_rec does not count. Given the spikes the logits are rational, so they are returned exactly.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq
from scipy.optimize import linprog

from tests.oracles import layers
from tests.oracles.networks import Extremes
from tests.oracles.rational import Exact, box_ends, exact, interior_points, sampled_vertices, vertex_count, vertices

READOUT = ("W_out", "b_out")
WEIGHTS = ("W_in", "W_rec", "W_out", "b_out")
NEURON = ("threshold", "tau", "tau_adapt", "beta")


class Undecided(ArithmeticError):
    """A membrane potential meets its threshold to thousands of bits: no ball can tell the side."""


def parameters(model: Any) -> dict[str, Exact]:
    """Weights and neuron parameters of a ``thetabox.models.LSNN`` as fractions."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: exact(found[name]) for name in (*WEIGHTS, *NEURON) if name in found}
    units = values["W_in"].shape[1]
    for name in NEURON:
        values[name] = np.broadcast_to(values[name], (units,))
    return values


def tiny(seed: int, inputs: int = 2, units: int = 3, classes: int = 2, gain: float = 0.2) -> dict[str, Exact]:
    """Random float32 parameters of a small network that spikes now and then."""
    rng = np.random.default_rng(seed)
    draw = {
        "W_in": rng.normal(0, gain, (inputs, units)),
        "W_rec": rng.normal(0, gain, (units, units)),
        "W_out": rng.normal(0, 1, (units, classes)),
        "b_out": rng.normal(0, 0.1, classes),
        "threshold": np.full(units, 0.01),
        "tau": np.full(units, 20.0),
        "tau_adapt": np.full(units, 98.0),
        "beta": np.full(units, 2.0),
    }
    return {name: exact(value.astype(np.float32)) for name, value in draw.items()}


def spikes(x: Any, values: dict[str, Exact], *, refractory: float = 2, dt: float = 1.0) -> np.ndarray[Any, Any]:
    """Spikes [T, units] of 0 and 1 for one sample x [T, inputs].

    Raises:
        Undecided: the potential equals its threshold to 4096 bits.
    """
    inputs = exact(x)
    for bits in (128, 512, 4096):
        found = _simulate(inputs, values, Fraction(refractory), Fraction(dt), bits)
        if found is not None:
            return found
    raise Undecided("a potential lies on its threshold")


def logits(x: Any, values: dict[str, Exact], *, refractory: float = 2, dt: float = 1.0) -> Exact:
    """Exact logits [classes] of one sample x [T, inputs]."""
    return _rates(spikes(x, values, refractory=refractory, dt=dt)) @ values["W_out"] + values["b_out"]


def extremes(
    values: dict[str, Exact],
    x: Any,
    epsilon: float,
    label: int | None = None,
    *,
    perturbed: Iterable[str] = WEIGHTS,
    limit: int = 4096,
    inner: int = 64,
    seed: int = 0,
    refractory: float = 2,
    dt: float = 1.0,
    kind: str = "relative",
) -> Extremes:
    """Least and greatest logits and least margin of one sample, over vertices and inner points of the box.

    The diagonal of W_rec is left alone (it does nothing), and the readout's worst weights follow in closed form from
    the spike counts, so only W_in, the off-diagonal of W_rec and named neuron parameters are enumerated: all vertices
    when there are at most ``limit``, else ``limit`` random ones. A spike train is not monotone in a weight: the
    result lies inside the truth, see :func:`reachable` for all of it.
    """
    names = [name for name in perturbed if name in values and name not in READOUT]
    ends = {name: box_ends(values[name], epsilon, kind) for name in names}
    for name, (low, _) in ends.items():
        if name == "W_rec":
            np.fill_diagonal(low, Fraction(0))
            np.fill_diagonal(ends[name][1], Fraction(0))
    if ends:
        low = np.concatenate([pair[0].ravel() for pair in ends.values()])
        high = np.concatenate([pair[1].ravel() for pair in ends.values()])
    else:
        low = high = np.empty(0, dtype=object)
    count = vertex_count(low, high)
    corners = vertices(low, high) if count <= limit else sampled_vertices(low, high, limit, seed)
    trains = []
    for source in (corners, interior_points(low, high, inner, seed)):
        for flat in source:
            point, start = dict(values), 0
            for name, (first, _) in ends.items():
                point[name] = flat[start : start + first.size].reshape(first.shape)
                start += first.size
            trains.append(spikes(x, point, refractory=refractory, dt=dt))
    return readout_extremes(values, trains, epsilon, label, perturbed=perturbed, kind=kind, exhaustive=count <= limit)


def readout_extremes(
    values: dict[str, Exact],
    trains: Iterable[Any],
    epsilon: float,
    label: int | None = None,
    *,
    perturbed: Iterable[str] = WEIGHTS,
    kind: str = "relative",
    exhaustive: bool = False,
) -> Extremes:
    """Exact extremes of logits and margin over the readout's box and the given spike trains [T, units]."""
    trains = [np.asarray(train) for train in trains]
    named = set(perturbed)
    weight, bias = (box_ends(values[name], epsilon if name in named else 0.0, kind) for name in READOUT)
    weight = (weight[0].T, weight[1].T)
    least = most = None
    margin: Fraction | None = None
    for counts in {tuple(int(n) for n in train.sum(0)) for train in trains}:
        rate = _rates(np.array(counts)[None], len(trains[0]))
        low, high = layers.dense_hull(weight, bias, (rate, rate))
        least = low if least is None else np.minimum(least, low)
        most = high if most is None else np.maximum(most, high)
        if label is not None:
            rows = layers.margin_minimum(weight, bias, (rate, rate), label)
            worst = min(row for k, row in enumerate(rows) if k != label)
            margin = worst if margin is None else min(margin, worst)
    assert least is not None
    assert most is not None
    return Extremes(least, most, margin, len(trains), exhaustive)


def reachable(
    values: dict[str, Exact],
    x: Any,
    epsilon: float,
    *,
    refractory: float = 2,
    dt: float = 1.0,
    kind: str = "relative",
    limit: int = 20000,
) -> dict[tuple[tuple[int, ...], ...], dict[str, Exact]]:
    """Every joint spike train reachable within the box of W_in and W_rec, each with weights that produce it.

    Once the spikes of all units are fixed, a unit's potential is linear in its own incoming weights, and the
    constraints of different units share no weight. So a train is reachable exactly when one small linear program a
    unit is feasible. The tree of trains is walked step by step; each train found at its end is confirmed by an exact
    simulation with the witness weights, so the answer is inside the truth, and complete but for trains whose
    feasible set is thinner than the programs' tolerance (about 1e-9 of the threshold). Expects W_rec.
    """
    search = _Tree(values, exact(x), epsilon, int(refractory), float(dt), kind, limit)
    found = {}
    for train in search.trains():
        point = {**values, **search.witness(train)}
        seen = tuple(tuple(int(z) for z in row) for row in spikes(x, point, refractory=refractory, dt=dt))
        found[seen] = point
    return found


class _Tree:
    """Search for reachable joint spike trains; programs are kept by (unit, what the unit sees)."""

    def __init__(
        self, values: dict[str, Exact], x: Exact, epsilon: float, refractory: int, dt: float, kind: str, limit: int
    ) -> None:
        self.x = x.astype(float)
        self.units = values["W_in"].shape[1]
        self.refractory, self.dt, self.limit = refractory, dt, limit
        self.neuron = {name: values[name].astype(float) for name in NEURON}
        self.box = {name: box_ends(values[name], epsilon, kind) for name in ("W_in", "W_rec")}
        self.solve = lru_cache(maxsize=None)(self._solve)

    def trains(self) -> list[tuple[tuple[int, ...], ...]]:
        level: list[tuple[tuple[int, ...], ...]] = [()]
        for _ in range(len(self.x)):
            longer = []
            for train in level:
                rows: list[tuple[int, ...]] = [()]
                for unit in range(self.units):
                    can = [z for z in (0, 1) if self.solve(unit, train, z) is not None]
                    rows = [(*row, z) for row in rows for z in can]
                longer += [(*train, row) for row in rows]
            level = longer
            if len(level) > self.limit:
                raise ValueError(f"more than {self.limit} spike trains: take a smaller ε")
        return level

    def witness(self, train: tuple[tuple[int, ...], ...]) -> dict[str, Exact]:
        weights = {name: pair[0].copy() for name, pair in self.box.items()}
        inputs = self.x.shape[1]
        for unit in range(self.units):
            solution = self.solve(unit, train[:-1], train[-1][unit])
            assert solution is not None
            column = np.concatenate([weights["W_in"][:, unit], weights["W_rec"][:, unit]])
            high = np.concatenate([self.box["W_in"][1][:, unit], self.box["W_rec"][1][:, unit]])
            point = np.minimum(np.maximum(exact(solution), column), high)
            weights["W_in"][:, unit], weights["W_rec"][:, unit] = point[:inputs], point[inputs:]
        return weights

    def _solve(self, unit: int, train: tuple[tuple[int, ...], ...], last: int) -> np.ndarray[Any, Any] | None:
        """Weights that give this unit its part of ``train`` and then ``last``, or None."""
        par = {name: float(value[unit]) for name, value in self.neuron.items()}
        alpha, rho = np.exp(-self.dt / par["tau"]), np.exp(-self.dt / par["tau_adapt"])
        size = self.x.shape[1] + self.units
        feature, reset, b, r = np.zeros(size), 0.0, 0.0, 0
        before: tuple[int, ...] = (0,) * self.units
        rows, bounds = [], []
        for step, row in enumerate((*train, None)):
            b = rho * b + (1 - rho) * before[unit]
            threshold = par["threshold"] + par["beta"] * b
            others = np.array(before, dtype=float)
            others[unit] = 0.0
            feature = alpha * feature + (1 - alpha) * np.concatenate([self.x[step], others])
            reset = alpha * reset + before[unit] * threshold * self.dt
            spike = last if row is None else row[unit]
            if r == 0:
                sign = -1.0 if spike else 1.0
                rows.append([*(sign * feature), 1.0])
                bounds.append(sign * (threshold + reset))
            elif spike:
                return None
            r = min(max(r + self.refractory * spike - 1, 0), self.refractory)
            before = tuple(spike if u == unit else 0 for u in range(self.units)) if row is None else row
        low, high = (
            np.concatenate([self.box["W_in"][end][:, unit], self.box["W_rec"][end][:, unit]]).astype(float)
            for end in (0, 1)
        )
        scale = max(abs(par["threshold"]), 1e-6)
        box = [*zip(low, high, strict=True), (-scale, scale)]
        if not rows:
            return (low + high) / 2
        answer = linprog([*np.zeros(size), -1.0], A_ub=np.array(rows), b_ub=np.array(bounds), bounds=box)
        if answer.status != 0 or answer.x[-1] <= 1e-9 * scale:
            return None
        return np.asarray(answer.x[:-1])


def _simulate(
    x: Exact, values: dict[str, Exact], refractory: Fraction, dt: Fraction, bits: int
) -> np.ndarray[Any, Any] | None:
    kept, ctx.prec = ctx.prec, bits
    try:
        units = values["W_in"].shape[1]
        w_in = _balls(values["W_in"])
        w_rec = _balls(values["W_rec"]) if "W_rec" in values else None
        step = _ball(dt)
        neuron = {name: _balls(values[name]) for name in NEURON}
        alpha, rho = ([(-step / t).exp() for t in neuron[name]] for name in ("tau", "tau_adapt"))
        v, b = [arb(0)] * units, [arb(0)] * units
        z, r = [0] * units, [Fraction(0)] * units
        out = []
        for row in x:
            balls = _balls(row)
            after = list(z)
            for i in range(units):
                b[i] = rho[i] * b[i] + (1 - rho[i]) * z[i]
                threshold = neuron["threshold"][i] + neuron["beta"][i] * b[i]
                drive = sum((balls[j] * w_in[j, i] for j in range(len(balls))), arb(0))
                if w_rec is not None:
                    drive += sum((w_rec[j, i] for j in range(units) if j != i and z[j]), arb(0))
                v[i] = alpha[i] * v[i] + (1 - alpha[i]) * drive
                if z[i]:
                    v[i] -= threshold * step
                after[i] = 0
                if r[i] == 0:
                    if v[i] > threshold:
                        after[i] = 1
                    elif not v[i] <= threshold:
                        return None
                r[i] = min(max(r[i] + refractory * after[i] - 1, Fraction(0)), refractory)
            z = after
            out.append(list(z))
        return np.array(out, dtype=np.int64)
    finally:
        ctx.prec = kept


def _rates(train: np.ndarray[Any, Any], steps: int | None = None) -> Exact:
    total = train.sum(0)
    return np.array([Fraction(int(n), steps or len(train)) for n in total], dtype=object)


def _ball(value: Fraction) -> arb:
    return arb(fmpq(value.numerator, value.denominator))


def _balls(values: Exact) -> Any:
    out = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        out[index] = _ball(values[index])
    return out


def random_inputs(seed: int, steps: int = 5, inputs: int = 2) -> Exact:
    """Gaussian input [T, inputs], float32 numbers as fractions."""
    return exact(np.random.default_rng(seed).normal(0, 1, (steps, inputs)).astype(np.float32))


def some_point(values: dict[str, Exact], epsilon: float, seed: int) -> Iterator[tuple[str, Exact]]:
    """One random point of the relative box of all weights, name by name."""
    rng = random.Random(seed)
    for name in WEIGHTS:
        if name in values:
            yield name, list(interior_points(*box_ends(values[name], epsilon), 2, rng.randrange(1 << 30)))[1]
