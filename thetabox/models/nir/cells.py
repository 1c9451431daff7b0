"""The update of one neuron's time step, put together from how current, potential and spike follow each other.

Every function takes the constants of the node by name. Written plainly (sums, products, one comparison), for proofs
read the equations off the traced graph of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.models.nir.constants import Stored
from thetabox.models.nir.layers import NirLayer

Constants = Mapping[str, Tensor]
Current = Float[Tensor, "batch ..."]

Synapse = Callable[[Tensor, Tensor, Constants], tuple[Tensor, Tensor]]
"""From the current i of the step before and the input u: what drives the potential, and the next i."""
Membrane = Callable[[Tensor, Tensor, Constants], Tensor]
"""From the potential v of the step before and what drives it: the potential before any spike."""
Firing = Callable[[Tensor, Tensor, Constants], tuple[Tensor, Tensor]]
"""From the potential, and a quantity of the step before (:attr:`Update.before`): the spikes, and the next potential."""


@dataclass(frozen=True)
class Update:
    """One row of the table of dynamics.

    Attributes:
        membrane: how the potential moves.
        firing: how it spikes and is reset; ``None`` for a leaky readout, which gives its potential out.
        synapse: how its current follows the input; ``None`` where the input is the current.
        before: what the firing asks for of the step before, besides the potential: its spikes ``z``, which are part of
            the state then, or its potential ``v``.
    """

    membrane: Membrane
    firing: Firing | None
    synapse: Synapse | None = None
    before: Literal["z", "v"] = "v"


class NirNeurons(NirLayer):
    """A layer of neurons: potential v, current i where there is a synapse, spikes z where the reset waits for them.

    Args:
        update: the equations.
        constants: by the names that the equations know them by; buffers of this module.
        rest: the constant that the potential starts from; zero without.
    """

    def __init__(self, update: Update, constants: Constants, rest: str | None = None) -> None:
        super().__init__()
        self.update, self.rest, self.named = update, rest, tuple(constants)
        self.remembers = ("v", *["i"] * (update.synapse is not None), *["z"] * (update.before == "z"))
        for name, value in constants.items():
            self.register_buffer(name, value)

    def start(self, zeros: Float[Tensor, "batch ..."]) -> list[Tensor]:
        rest = zeros.clone() if self.rest is None else zeros + self.get_buffer(self.rest)
        return [rest, *(zeros.clone() for _ in self.remembers[1:])]

    def advance(self, u: Current, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        c = {name: self.get_buffer(name) for name in self.named}
        before, *others = state
        after: list[Tensor] = []
        if self.update.synapse is not None:
            u, i = self.update.synapse(others[0], u, c)
            after.append(i)
        v = self.update.membrane(before, u, c)
        if self.update.firing is None:
            return v, [v, *after]
        if self.update.before == "z":
            z, v = self.update.firing(v, others[-1], c)
            return z, [v, *after, z]
        z, v = self.update.firing(v, before, c)
        return z, [v, *after]


Builder = Callable[[Stored], NirNeurons]
"""From the constants of a node to its neurons."""


# How the potential moves.


def decays(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← βv + u."""
    return c["decay"] * v + u


def decays_scaled(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← αv + (1 − α)u."""
    return c["decay"] * v + (1 - c["decay"]) * u


def sums(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v + u."""
    return v + u


def sums_scaled(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v + g u."""
    return v + c["gain"] * u


def leaks(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v + κ(u + v_leak − v)."""
    return v + c["rate"] * (u + c["v_leak"] - v)


def leaks_scaled(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v + κ(r u + v_leak − v)."""
    return v + c["rate"] * (c["gain"] * u + c["v_leak"] - v)


def leaks_from_reset(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v + κ(u − (v − v_reset)): it leaks to where it is reset to."""
    return v + c["rate"] * (u - (v - c["v_reset"]))


def leaks_alone_from_reset(v: Tensor, u: Tensor, c: Constants) -> Tensor:
    """Update v ← v − κ(v − v_reset) + u: the potential leaks, its input does not."""
    return v - c["rate"] * (v - c["v_reset"]) + u


# How the current follows the input.


def current(i: Tensor, u: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Update i ← αi + u, which drives the potential."""
    i = c["decay_syn"] * i + u
    return i, i


def current_before(i: Tensor, u: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Update i ← α_s(i + u), which drives the potential."""
    i = c["decay_syn"] * (i + u)
    return i, i


def jump(i: Tensor, u: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Drive the potential by j = i + u; then i ← j − κ_s j."""
    j = i + u
    return j, j - c["rate_syn"] * j


def current_euler(i: Tensor, u: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Update i ← i + κ_s(w_in u − i), which drives the potential."""
    i = i + c["rate_syn"] * (c["w_in"] * u - i)
    return i, i


# How it spikes and is reset; H(0) = 0 unless the name says otherwise.


def subtracts_later(v: Tensor, z: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Update v ← v − z_prev θ; z = H(v − θ)."""
    v = v - z * c["threshold"]
    return (v > c["threshold"]).to(v.dtype), v


def zeroes_later(v: Tensor, z: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Update v ← (1 − z_prev) v, the input of this step included; z = H(v − θ)."""
    v = (1 - z) * v
    return (v > c["threshold"]).to(v.dtype), v


def subtracts(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = H(v − θ); v ← v − zθ."""
    z = (v > c["threshold"]).to(v.dtype)
    return z, v - z * c["threshold"]


def subtracts_once(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Let ρ = H(v_prev − θ); v ← v − ρθ; z = H(v − θ); v ← v − (z − ρ)θ."""
    again = (before > c["threshold"]).to(v.dtype)
    v = v - again * c["threshold"]
    z = (v > c["threshold"]).to(v.dtype)
    return z, v - (z - again) * c["threshold"]


def zeroes(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = H(v − θ); v ← 0 where z."""
    z = (v > c["threshold"]).to(v.dtype)
    return z, (1 - z) * v


def resets(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = H(v − θ); v ← v_reset where z."""
    fires = v > c["threshold"]
    return fires.to(v.dtype), torch.where(fires, c["v_reset"], v)


def resets_at(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = H(v − θ) with H(0) = 1; v ← v_reset where z."""
    fires = v >= c["threshold"]
    return fires.to(v.dtype), torch.where(fires, c["v_reset"], v)


def subtracts_at(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = H(v − θ) with H(0) = 1; v ← v − zθ."""
    z = (v >= c["threshold"]).to(v.dtype)
    return z, v - z * c["threshold"]


def counts(v: Tensor, before: Tensor, c: Constants) -> tuple[Tensor, Tensor]:
    """Spikes z = ⌊v/θ⌋ spikes in one step, none below zero; v ← v − zθ."""
    z = torch.floor(v / c["threshold"]).clamp(min=0)
    return z, v - z * c["threshold"]
