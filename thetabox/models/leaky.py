"""How a spiking network says that it is made of leaky cells, so that a proof may follow their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class LeakyCells:
    r"""One layer of adaptive leaky integrate-and-fire cells with a linear readout of mean spike counts.

    The network whose outputs are the spikes z of, step by step (z of the step before on the right-hand sides),

    .. math::
        b &\leftarrow \rho b + (1-\rho) z, \quad \rho = e^{-dt/\tau_{adapt}}, \qquad A = thr + \beta b \\
        v &\leftarrow \alpha v + (1-\alpha)(x W_{in} + z (W_{rec} - \mathrm{diag}\,W_{rec})) - z A\,dt,
            \quad \alpha = e^{-dt/\tau} \\
        z &\leftarrow [r \le 0.1]\; H(v - A), \qquad r \leftarrow \mathrm{clip}(r + n_{refr} z - 1, 0, n_{refr}) \\
        \text{logits} &= \mathrm{mean}_t(z) W_{out} + b_{out}

    from zero, with H(0) = 0. All strings are names of the model's parameters or buffers. In a network of several layers
    x of every layer but the first is the spikes z of the layer below in the same step, and only the last has a readout.

    Attributes:
        weight_in: W_in [inputs, units].
        weight_rec: W_rec [units, units]; its diagonal does not count. ``None`` for a feed-forward layer.
        weight_out: W_out [units, classes]; ``None`` for all layers but the last.
        bias_out: b_out [classes], ``None`` for none.
        threshold, tau, tau_adapt, beta: one value a unit; ``beta`` is ``None`` where thresholds do not adapt, and
            ``tau_adapt`` then too.
        dt: time step, in the unit of the time constants.
        refractory: n_refr, time steps.
    """

    weight_in: str
    weight_rec: str | None
    weight_out: str | None
    bias_out: str | None
    threshold: str
    tau: str
    tau_adapt: str | None
    beta: str | None
    dt: float
    refractory: int


@runtime_checkable
class Leaky(Protocol):
    """A recurrent network (see :class:`thetabox.models.Recurrent`) of leaky cells: a layer, or several in order."""

    def leaky_cells(self) -> LeakyCells | Sequence[LeakyCells]: ...
