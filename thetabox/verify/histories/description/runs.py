"""A network beside its description, in runs: a second look at what :mod:`.structure` has proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thetabox.deep_copy import deep_copy
from thetabox.models.leaky import LeakyCells
from thetabox.models.memory import named_tensors
from thetabox.models.precision import default_dtype
from thetabox.models.recurrent import run_steps
from thetabox.models.twins import RUNNING
from thetabox.verify.problem import Problem

NEURON = ("threshold", "tau", "tau_adapt", "beta")
# Random parameters that the network is run at, beside its own.
TRIALS = 2
# Inputs of these trials: some of the user's, and noise of these sizes times their largest, so that every cell spikes.
OWN, NOISES = 4, (1.0, 4.0, 30.0)
# Samples that are run together.
CHUNK = 64
# How near to its threshold a potential may lie, relative to the largest of the run, where two sums may disagree.
TIE = 1e-9


def differs(problem: Problem, described: Sequence[LeakyCells]) -> bool:
    """Whether float64 runs part: of every sample at the network's own values, of some and of noise at others too.

    The random parameters move what the box moves, each as the box may (a zero stays a zero in a relative box).
    """
    generator = torch.Generator().manual_seed(0)
    device = problem.settings.device
    with RUNNING:
        model = deep_copy(problem.model).double().to(device).eval()
    moved = problem.tensors.boxed
    stored = named_tensors(model)
    own = {name: stored[name].detach().clone() for name in moved}
    noisy = _inputs(problem.x, generator)
    with torch.no_grad(), default_dtype(torch.float64):
        others = problem.x[OWN:].split(CHUNK) if len(problem.x) > OWN else ()
        for x in [noisy, *others]:
            if _differ(model, described, stored, x.double().to(device), generator):
                return True
        for _ in range(TRIALS):
            for name in moved:
                stored[name].copy_(_elsewhere(name, own[name], problem.settings.box.kind, generator))
            if _differ(model, described, stored, noisy.to(device), generator):
                return True
    return False


def _inputs(x: Tensor, generator: torch.Generator) -> Tensor:
    some = x[:OWN].double()
    size = float(some.abs().max()) or 1.0
    noise = [size * s * (2.0 * torch.rand(some.shape, generator=generator, dtype=torch.float64) - 1.0) for s in NOISES]
    return torch.cat([some, *noise])


def _elsewhere(name: str, value: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Random values of a tensor that its box, large enough, holds; time constants stay positive."""
    factor = (0.5 + torch.rand(value.shape, generator=generator, dtype=torch.float64)).to(value.device)
    if kind == "relative" or name.rsplit(".", 1)[-1] in NEURON:
        return value * factor
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    return value * factor + 0.3 * max(float(value.square().mean().sqrt()), 1e-3) * noise


def _differ(
    model: torch.nn.Module,
    described: Sequence[LeakyCells],
    values: Mapping[str, Tensor],
    x: Tensor,
    generator: torch.Generator,
) -> bool:
    """At the values that the network has now: its last layer's trains, and its logits of trains."""
    spikes = run_steps(model, x)  # type: ignore[arg-type]  # the protocol, which the description is of
    bits = torch.rand(spikes[:OWN].shape, generator=generator, dtype=torch.float64).to(x.device)
    bits = torch.cat([(bits < 0.3).double(), spikes])
    logits = model.readout(bits)  # type: ignore[operator]  # the protocol
    return not (_same_spikes(spikes, described, values, x) and _same_logits(logits, described[-1], values, bits))


def _same_spikes(spikes: Tensor, described: Sequence[LeakyCells], values: Mapping[str, Tensor], x: Tensor) -> bool:
    """Whether the last layer's trains agree up to the first tie of each sample, in whatever layer."""
    excused = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for says in described[:-1]:
        x, gap, size = spikes_of(says, values, x)
        excused |= (gap.abs() <= TIE * size).any(2).cumsum(1) > 0
    said, gap, size = spikes_of(described[-1], values, x)
    if spikes.shape != said.shape:
        return False
    # A surrogate's gradient may leave a spike a roundoff from 1, as (1 + s) - s is.
    differ = (spikes - said).abs() > TIE
    later = differ.any(2).cumsum(1).cumsum(1) > 1
    return bool(((gap.abs() <= TIE * size) | ~differ | (later | excused)[:, :, None]).all())


def _same_logits(logits: Tensor, says: LeakyCells, values: Mapping[str, Tensor], outputs: Tensor) -> bool:
    weight = values[says.weight_out or ""]
    said = outputs.mean(1) @ weight
    if says.bias_out is not None:
        said = said + values[says.bias_out]
    size = float(weight.abs().sum(0).max()) + 1.0
    return logits.shape == said.shape and float((logits - said).abs().max()) <= TIE * size


def spikes_of(says: LeakyCells, values: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, float]:
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
