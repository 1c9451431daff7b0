"""The long short-term memory spiking network (LSNN): adaptive leaky integrate-and-fire neurons, recurrent or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.leaky import LeakyCells
from thetabox.models.recurrent import RecurrentModule, check_sequence, run_steps
from thetabox.models.spike import Spike
from thetabox.models.spike_train import REFRACTORY_LEVEL, SpikeTrain, spikes_alone

# What is computed in one for all steps, as long as it is this network's own.
IN_ONE = ("initial_state", "step")
# Values of the neurons, one a unit.
NEURON = ("tau", "tau_adapt", "threshold", "beta")


class LSNNState(NamedTuple):
    """Membrane potential v, adaptation b, last spike z, refractory counter r; each [batch, units]."""

    v: Tensor
    b: Tensor
    z: Tensor
    r: Tensor


class LSNN(RecurrentModule):
    r"""Recurrent network of adaptive leaky integrate-and-fire neurons, read out from mean spike rates.

    One time step, in this order (spikes z of the step before on the right-hand sides):

    .. math::
        b &\leftarrow \rho b + (1-\rho) z, \quad \rho = e^{-dt/\tau_{adapt}}, \qquad A = thr + \beta b \\
        v &\leftarrow \alpha v + (1-\alpha)(x W_{in} + z W_{rec}) - z A\,dt, \quad \alpha = e^{-dt/\tau} \\
        z &\leftarrow [r \le 0.1]\; H(v - A), \qquad r \leftarrow \mathrm{clip}(r + n_{refr} z - 1, 0, n_{refr}) \\
        \text{logits} &= \mathrm{mean}_t(z) W_{out} + b_{out}

    The state starts at zero, H(0) = 0, and r is tested before its update: ``refractory=2`` is one silent step.
    The diagonal of ``W_rec`` is masked and contributes nothing. ``W_in``, ``W_rec``, ``W_out``, ``b_out`` are the
    parameters; ``threshold``, ``tau``, ``tau_adapt``, ``beta`` are float buffers, one value a unit.
    (Bellec et al. 2018; Büchel, Faber, Muir, ICLR 2022.)

    Args:
        inputs, units, classes: sizes.
        tau, tau_adapt: time constants of membrane and adaptation, in the unit of ``dt`` (ms).
        threshold: firing threshold at rest (dimensionless, as the membrane potential).
        beta: strength of the threshold's adaptation.
        refractory: n_refr, time steps.
        dt: time step (ms).
        recurrent: without it there is no ``W_rec`` (feed-forward spiking network).

    Raises:
        InputError: sizes below 1, or time constants, thresholds, dt that are not positive and finite.
    """

    off_diagonal: Tensor
    threshold: Tensor
    tau: Tensor
    tau_adapt: Tensor
    beta: Tensor

    def __init__(
        self,
        inputs: int,
        units: int = 256,
        classes: int = 2,
        *,
        tau: float | Sequence[float] = 20.0,
        tau_adapt: float | Sequence[float] = 98.0,
        threshold: float | Sequence[float] = 0.01,
        beta: float | Sequence[float] = 2.0,
        refractory: int = 2,
        dt: float = 1.0,
        recurrent: bool = True,
    ) -> None:
        super().__init__()
        if min(inputs, units, classes) < 1:
            raise InputError(f"LSNN sizes must be at least 1, not inputs={inputs}, units={units}, classes={classes}")
        if not (math.isfinite(dt) and dt > 0):
            raise InputError(f"LSNN dt is {dt}; it must be positive and finite")
        if refractory < 0:
            raise InputError(f"LSNN refractory is {refractory}; it must be at least 0")
        self.inputs, self.units, self.classes = inputs, units, classes
        self.refractory, self.dt, self.recurrent = refractory, float(dt), recurrent
        neuron = {"tau": tau, "tau_adapt": tau_adapt, "threshold": threshold, "beta": beta}
        for name, value in neuron.items():
            self.register_buffer(name, _per_unit(name, value, units))
        self.W_in = nn.Parameter(torch.randn(inputs, units) / math.sqrt(inputs))
        if recurrent:
            self.W_rec = nn.Parameter(torch.randn(units, units) / math.sqrt(units))
            self.register_buffer("off_diagonal", 1.0 - torch.eye(units), persistent=False)
        self.W_out = nn.Parameter(torch.randn(units, classes) / math.sqrt(units))
        self.b_out = nn.Parameter(torch.zeros(classes))
        self.config: dict[str, Any] = {
            "inputs": inputs,
            "units": units,
            "classes": classes,
            **{name: _plain(value) for name, value in neuron.items()},
            "refractory": refractory,
            "dt": float(dt),
            "recurrent": recurrent,
        }

    def initial_state(self, batch: int) -> LSNNState:
        """Silent state: four tensors of zeros [batch, units]."""
        # Four tensors, not one four times: torch.export would take the parts of a shared one for the same input.
        return LSNNState(*(self.W_out.new_zeros(batch, self.units) for _ in range(4)))

    def step(
        self, x_t: Float[Tensor, "batch inputs"], state: LSNNState
    ) -> tuple[Float[Tensor, "batch units"], LSNNState]:
        """One time step; the output is the spikes z (0 or 1)."""
        v, b, z, r = state
        alpha, rho = torch.exp(-self.dt / self.tau), torch.exp(-self.dt / self.tau_adapt)
        drive = x_t @ self.W_in
        if self.recurrent:
            drive = drive + z @ (self.W_rec * self.off_diagonal)
        b = rho * b + (1 - rho) * z
        threshold = self.threshold + self.beta * b
        v = alpha * v + (1 - alpha) * drive - z * threshold * self.dt
        z = (r <= REFRACTORY_LEVEL).to(v.dtype) * Spike.apply(v, threshold)
        r = torch.clamp(r + self.refractory * z - 1, 0, self.refractory)
        return z, LSNNState(v, b, z, r)

    def outputs(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time units"]:
        """Spikes of all steps: as ``step`` in a loop, faster (see :class:`SpikeTrain`)."""
        check_sequence(x, self.inputs)
        if any(getattr(getattr(self, name), "__func__", None) is not getattr(LSNN, name) for name in IN_ONE):
            return run_steps(self, x)  # a subclass has a step of its own
        alpha, rho = torch.exp(-self.dt / self.tau), torch.exp(-self.dt / self.tau_adapt)
        # One product of two matrices: under vmap over the weights as well, and each step's drive lies in one piece.
        frames = x.transpose(0, 1)
        drive = ((frames.reshape(-1, self.inputs) @ self.W_in) * (1 - alpha)).unflatten(0, frames.shape[:2])
        weights = (1 - alpha) * self.W_rec * self.off_diagonal if self.recurrent else None
        neurons = (alpha, rho, self.threshold, self.beta, self.refractory, self.dt)
        if torch.is_grad_enabled():
            spikes, *_ = SpikeTrain.apply(drive, weights, *neurons)
        else:
            spikes = spikes_alone(drive, weights, *neurons)
        return spikes.transpose(0, 1)

    def readout(self, outputs: Float[Tensor, "batch time units"]) -> Float[Tensor, "batch classes"]:
        """Logits: mean spikes a step, times ``W_out``, plus ``b_out``."""
        return outputs.mean(1) @ self.W_out + self.b_out

    def leaky_cells(self) -> LeakyCells:
        """What this network is made of, for proofs that follow the histories of its cells."""
        recurrent = "W_rec" if self.recurrent else None
        names = ("W_out", "b_out", "threshold", "tau", "tau_adapt", "beta")
        return LeakyCells("W_in", recurrent, *names, dt=self.dt, refractory=self.refractory)

    def check(self) -> None:
        """Whether the neurons' values are those of neurons, however they came here: a file, or set in place.

        Raises:
            InputError: a time constant is not positive and finite, or a threshold or β is not finite.
        """
        for name in NEURON:
            _check_neuron(name, getattr(self, name))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in NEURON:
            if isinstance(value := state_dict.get(prefix + name), Tensor):
                _check_neuron(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def config_from(state: dict[str, Tensor]) -> dict[str, Any]:
        """Sizes read off the shapes of a state_dict (neuron values come with it as buffers)."""
        inputs, units = state["W_in"].shape
        return {"inputs": inputs, "units": units, "classes": len(state["b_out"]), "recurrent": "W_rec" in state}


def _per_unit(name: str, value: float | Sequence[float], units: int) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
    if values.ndim > 1 or (values.ndim == 1 and len(values) != units):
        raise InputError(
            f"LSNN {name} has shape {list(values.shape)}; give one number, or one for each of {units} units"
        )
    low = values.min()
    if not torch.isfinite(values).all() or low < 0 or (low == 0 and name != "beta"):
        raise InputError(f"LSNN {name} must be positive and finite, not {_plain(value)}")
    return values.expand(units).clone()


def _check_neuron(name: str, value: Tensor) -> None:
    """A decay exp(−dt/τ) is below 1 for positive τ alone."""
    time = name.rsplit(".", 1)[-1].startswith("tau")
    wrong = ~torch.isfinite(value) | ((value <= 0) & time)
    if bool(wrong.any()):
        kind = "positive and finite" if time else "finite"
        raise InputError(f"LSNN {name} holds {float(value[wrong][0])}; it must be {kind}: mend the model or its file")


def _plain(value: float | Sequence[float]) -> float | list[float]:
    plain: float | list[float] = torch.as_tensor(value, dtype=torch.float64).tolist()
    return plain
