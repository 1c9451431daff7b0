"""Whether a network does what its description says: a proof speaks of the description, so nothing may be left out."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thetabox.errors import InputError
from thetabox.models.leaky import LeakyCells
from thetabox.models.precision import default_dtype
from thetabox.models.recurrent import run_steps
from thetabox.verify.engine import Engine

NEURON = ("threshold", "tau", "tau_adapt", "beta")
# Random parameters that the network is run at, beside its own.
TRIALS = 2
# Inputs of the trials: some of the user's, and noise of these sizes times their largest, so that every cell spikes.
OWN, NOISES = 4, (1.0, 4.0, 30.0)
# How near to its threshold a potential may lie, relative to the largest of the run, where two sums may disagree.
TIE = 1e-9

INSTEAD = "use the domain 'interval'"


def check_description(engine: Engine, described: Sequence[LeakyCells]) -> None:
    """Compare a network with its description: names, shapes, and float64 runs at its own and at random parameters.

    The random parameters move what the box moves, each as the box may (a zero stays a zero in a relative box), so that
    a tensor that enters otherwise than described is seen even where its own values happen to hide it.

    Raises:
        InputError: they differ, or the box holds a tensor that the description does not name.
    """
    values = engine.tensors.values
    _check_names(engine, described)
    _check_shapes(described, values)
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(engine.model).double().to(engine.settings.device).eval()
    x = _inputs(engine.x, generator).to(engine.settings.device)
    moved = [name for name, value in values.items() if id(value) in engine.tensors.factors]
    stored = {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }
    own = {name: stored[name].detach().clone() for name in moved}
    for trial in range(1 + TRIALS):
        with torch.no_grad(), default_dtype(torch.float64):
            if trial:
                for name in moved:
                    stored[name].copy_(_elsewhere(name, own[name], engine.settings.box.kind, generator))
            start = pytree.tree_leaves(model.initial_state(len(x)))  # type: ignore[operator]  # the protocol
            if any(bool(leaf.any()) for leaf in start):
                raise InputError(
                    f"the network's initial_state is not zero, from which leaky_cells says it starts; {INSTEAD}"
                )
            spikes = run_steps(model, x)  # type: ignore[arg-type]  # the protocol, which the description is of
            bits = torch.rand(spikes.shape, generator=generator, dtype=torch.float64).to(x.device)
            bits = torch.cat([(bits < 0.3).double(), spikes])
            answer = model.readout(bits)  # type: ignore[operator]  # the protocol
            if not _same_spikes(spikes, described, stored, x) or not _same_answer(answer, described[-1], stored, bits):
                raise InputError(
                    "the network does something else than leaky_cells says of it, so the domain 'histories' cannot "
                    f"speak of it; {INSTEAD}"
                )


def _check_names(engine: Engine, described: Sequence[LeakyCells]) -> None:
    values = engine.tensors.values
    for says in described:
        last = says is described[-1]
        if (says.weight_out is None) is last or (says.bias_out is not None and not last):
            raise InputError(
                "leaky_cells must name weight_out, and a bias_out if there is one, for the last layer alone"
            )
        if says.refractory != int(says.refractory) or says.refractory < 0:
            raise InputError(f"leaky_cells says refractory={says.refractory}; it must be a whole number of at least 0")
        if not (math.isfinite(says.dt) and says.dt > 0):
            raise InputError(f"leaky_cells says dt={says.dt}; it must be positive and finite")
    if len({says.dt for says in described}) > 1:
        raise InputError("leaky_cells says that layers have time steps of different length; they must have one")
    named = [n for says in described for n in vars(says).values() if isinstance(n, str)]
    missing = next((n for n in named if n not in values), None)
    if missing is not None:
        raise InputError(f"leaky_cells names {missing!r}, which the network does not have")
    known = {id(values[n]) for n in named}
    strange = sorted(n for n, v in values.items() if id(v) in engine.tensors.factors and id(v) not in known)
    if strange:
        raise InputError(
            f"the box holds {strange[0]!r}, of which leaky_cells says nothing; exclude it from the box, or {INSTEAD}"
        )


def _check_shapes(described: Sequence[LeakyCells], values: dict[str, Tensor]) -> None:
    below = None
    for says in described:
        weight = values[says.weight_in]
        units = weight.shape[-1] if weight.dim() == 2 else -1
        wanted: list[tuple[str | None, tuple[int, ...]]] = [
            (says.weight_in, (len(weight) if below is None else below, units)),
            (says.weight_rec, (units, units)),
        ]
        if says.weight_out is not None:
            out = values[says.weight_out]
            wanted.append((says.weight_out, (units, out.shape[-1] if out.dim() else -1)))
            wanted.append((says.bias_out, tuple(out.shape[-1:])))
        for name, shape in wanted:
            if name is not None and values[name].shape != shape:
                raise InputError(f"leaky_cells names {name!r} of shape {list(values[name].shape)}, not {list(shape)}")
        for role in NEURON:
            name = getattr(says, role)
            if name is not None and values[name].numel() not in (1, units):
                raise InputError(
                    f"leaky_cells names {name!r} for {role}; it holds {values[name].numel()} values, not {units}"
                )
        if (says.beta is None) != (says.tau_adapt is None):
            raise InputError("leaky_cells must name both beta and tau_adapt, or neither")
        below = units


def _inputs(x: Tensor, generator: torch.Generator) -> Tensor:
    own = x[:OWN].double()
    size = float(own.abs().max()) or 1.0
    noise = [size * s * (2.0 * torch.rand(own.shape, generator=generator, dtype=torch.float64) - 1.0) for s in NOISES]
    return torch.cat([own, *noise])


def _elsewhere(name: str, value: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Random values of a tensor that its box, large enough, holds; time constants stay positive."""
    factor = (0.5 + torch.rand(value.shape, generator=generator, dtype=torch.float64)).to(value.device)
    if kind == "relative" or name.rsplit(".", 1)[-1] in NEURON:
        return value * factor
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    return value * factor + 0.3 * max(float(value.square().mean().sqrt()), 1e-3) * noise


def _same_spikes(spikes: Tensor, described: Sequence[LeakyCells], values: dict[str, Tensor], x: Tensor) -> bool:
    """Whether the last layer's trains agree up to the first tie of each sample, in whatever layer.

    Raises:
        InputError: of several layers one stays silent, or ties excuse every sample, so that nothing was compared.
    """
    excused = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for says in described[:-1]:
        x, gap, size = spikes_of(says, values, x)
        excused |= (gap.abs() <= TIE * size).any(2).cumsum(1) > 0
        _check_told(bool(x.any()))
    said, gap, size = spikes_of(described[-1], values, x)
    if len(described) > 1:
        _check_told(bool((said.bool() & ~excused[:, :, None]).any()))
    if spikes.shape != said.shape:
        return False
    differ = spikes != said
    later = differ.any(2).cumsum(1).cumsum(1) > 1
    return bool(((gap.abs() <= TIE * size) | ~differ | (later | excused)[:, :, None]).all())


def _check_told(compared: bool) -> None:
    if not compared:
        raise InputError(
            "a layer of the network never spikes in trial runs, so that its description cannot be checked; " + INSTEAD
        )


def _same_answer(answer: Tensor, says: LeakyCells, values: dict[str, Tensor], outputs: Tensor) -> bool:
    weight = values[says.weight_out or ""]
    said = outputs.mean(1) @ weight
    if says.bias_out is not None:
        said = said + values[says.bias_out]
    size = float(weight.abs().sum(0).max()) + 1.0
    return answer.shape == said.shape and float((answer - said).abs().max()) <= TIE * size


def spikes_of(says: LeakyCells, values: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Spikes and v − A, ``[N, T, units]``, by the description's equations in float64, and the size of their terms."""
    weight = values[says.weight_in]
    units = weight.shape[1]

    def each(name: str | None) -> Tensor:
        return weight.new_zeros(units) if name is None else values[name].reshape(-1).expand(units)

    rec = None
    if says.weight_rec is not None:
        rec = values[says.weight_rec] * (1.0 - torch.eye(units, dtype=weight.dtype, device=weight.device))
    alpha = torch.exp(-says.dt / each(says.tau))
    rho = weight.new_zeros(units) if says.tau_adapt is None else torch.exp(-says.dt / each(says.tau_adapt))
    threshold, beta = each(says.threshold), each(says.beta)
    v = b = z = silent = x.new_zeros(len(x), units)
    spikes, gaps = [], []
    for x_t in x.unbind(1):
        b = rho * b + (1 - rho) * z
        level = threshold + beta * b
        drive = x_t @ weight if rec is None else x_t @ weight + z @ rec
        v = alpha * v + (1 - alpha) * drive - z * level * says.dt
        free = silent == 0
        z = (free & (v > level)).to(x.dtype)
        silent = torch.where(z > 0, max(says.refractory - 1.0, 0.0), (silent - 1).clamp(min=0))
        spikes.append(z)
        gaps.append(torch.where(free, v - level, torch.inf))
    size = float(x.abs().max()) * float(weight.abs().sum(0).max()) + float((threshold.abs() + beta.abs()).max())
    size += 0.0 if rec is None else float(rec.abs().sum(0).max())
    return torch.stack(spikes, 1), torch.stack(gaps, 1), size
