"""Phase-change memory devices: programming noise, drift and read noise of a conductance, each by itself."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.errors import InputError

G_MAX = 25.0
"""Largest conductance, µS. All conductances here are relative to it: 0 … 1."""
T_0 = 20.0
"""First reading after programming, s: drift counts from it."""
T_READ = 250e-9
"""Length of a read pulse, s."""


def programming_spread(g: Float[Tensor, " *devices"]) -> Float[Tensor, " *devices"]:
    r"""Standard deviation of programming noise, relative to :data:`G_MAX`.

    .. math:: \sigma_{prog} = \max(-1.1731 g^2 + 1.9650 g + 0.2635, 0)\,\mu S / 25\,\mu S

    Source: Joshi et al., Nature Communications 11, 2473 (2020), in the fit that aihwkit documents.
    """
    return (-1.1731 * g**2 + 1.9650 * g + 0.2635).clamp(min=0) / G_MAX


def programmed(
    g: Float[Tensor, " *devices"], *, generator: torch.Generator | None = None
) -> Float[Tensor, " *devices"]:
    r"""Conductances after programming to the targets ``g``; a negative one becomes 0.

    .. math:: g_{prog} = \max(g + \mathcal{N}(0, \sigma_{prog}(g)^2), 0)
    """
    return (g + programming_spread(g) * _normal(g, generator)).clamp(min=0)


def exponent_law(g: Float[Tensor, " *devices"]) -> tuple[Float[Tensor, " *devices"], Float[Tensor, " *devices"]]:
    r"""Mean and standard deviation of the drift exponent of devices with targets ``g``.

    .. math::
        \mu_\nu = \mathrm{clip}(-0.0155 \ln g + 0.0244, 0.049, 0.1), \quad
        \sigma_\nu = \mathrm{clip}(-0.0125 \ln g - 0.0059, 0.008, 0.045)

    At g = 0 the logarithm is −∞, so both stand at their upper ends.
    """
    log = g.log()
    return (-0.0155 * log + 0.0244).clamp(0.049, 0.1), (-0.0125 * log - 0.0059).clamp(0.008, 0.045)


def drift_exponents(
    g: Float[Tensor, " *devices"], *, generator: torch.Generator | None = None
) -> Float[Tensor, " *devices"]:
    r"""One drift exponent for each device, :math:`\nu = |\mathcal{N}(\mu_\nu(g), \sigma_\nu(g)^2)|`, g the target."""
    mean, spread = exponent_law(g)
    return (mean + spread * _normal(g, generator)).abs()


def drifted(
    g: Float[Tensor, " *devices"],
    time: float,
    exponent: Float[Tensor, " *devices"] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " *devices"]:
    r"""Conductances ``time`` seconds after programming.

    .. math:: g(t) = g \left(\frac{time + t_0}{t_0}\right)^{-\nu}, \qquad t_0 = 20\,s

    Args:
        g: conductances as programmed.
        time: seconds since the end of programming.
        exponent: ν of each device; drawn by :func:`drift_exponents` with ``g`` as the targets when omitted.
        generator: of that draw.

    Raises:
        InputError: a time that is negative or not finite.
    """
    exponent = drift_exponents(g, generator=generator) if exponent is None else exponent
    return g * ((_checked(time) + T_0) / T_0) ** -exponent


def read_spread(g: Float[Tensor, " *devices"], time: float) -> Float[Tensor, " *devices"]:
    r"""Standard deviation of read noise as a share of the conductance: 1/f noise from programming to the reading.

    .. math:: Q(g) \sqrt{\ln \frac{t + t_r}{2 t_r}}, \quad Q = \min(0.0088\, g^{-0.65}, 0.2), \quad t = time + t_0

    with :math:`t_r` = 250 ns. The g of Q is the conductance as programmed: so aihwkit computes it, where its manual
    writes the target.

    Raises:
        InputError: a time that is negative or not finite.
    """
    elapsed = _checked(time) + T_0
    return (0.0088 / g**0.65).clamp(max=0.2) * math.sqrt(math.log((elapsed + T_READ) / (2 * T_READ)))


def read(
    g: Float[Tensor, " *devices"],
    time: float,
    programmed: Float[Tensor, " *devices"] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " *devices"]:
    r"""Conductances as one reading sees them; a negative one becomes 0.

    .. math:: g_{read} = \max(g + g\, Q(g_{prog}) \sqrt{\ln\tfrac{t + t_r}{2 t_r}}\; \mathcal{N}(0, 1), 0)

    Args:
        g: conductances at the time of the reading (drifted).
        time: seconds since the end of programming.
        programmed: conductances before drift, for Q; ``g`` when omitted.
        generator: of the draw.

    Raises:
        InputError: a time that is negative or not finite.
    """
    share = read_spread(g if programmed is None else programmed, time)
    return (g + g * share * _normal(g, generator)).clamp(min=0)


def _normal(g: Tensor, generator: torch.Generator | None) -> Tensor:
    # Drawn where the generator lives, so that a seed means the same devices on CPU and CUDA.
    where = g.device if generator is None else generator.device
    return torch.randn(g.shape, generator=generator, dtype=g.dtype, device=where).to(g.device)


def _checked(time: float) -> float:
    if not (math.isfinite(time) and time >= 0):
        raise InputError(f"time is {time}; it must be a finite number of seconds of at least 0")
    return time
