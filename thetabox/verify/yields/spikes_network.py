"""A spiking network as proofs of its yield see it: cells, and its weights with their errors as two matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from thetabox.errors import InputError, NoProof
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.models.memory import identity, named_tensors
from thetabox.noise import Noise
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.description.check import INSTEAD, check_description
from thetabox.verify.histories.description.runs import NEURON
from thetabox.verify.histories.layers import Layer, layer_of
from thetabox.verify.histories.leaky import AdaptiveCells, description
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem
from thetabox.verify.yields.martingale import SHIFT_ERROR
from thetabox.verify.yields.sizes import gains, read_more_than_once
from thetabox.verify.yields.spikes_matrix import NoisyMatrix

OTHERWISE = "use sampled_yield"
FLOAT64 = Rounding(torch.float64)


class SpikingNetwork:
    """A network of leaky cells, several layers as one, whose weights have errors.

    What all parameters of a chip or of a tensor share is one more error in the same sums, and drifts are known or
    unknown parts of them, so every :class:`~thetabox.Noise` is taken.

    Args:
        problem: the traced network; its own box is not looked at.
        sizes: name → square roots of the variance proxies at σ = 1.
        noise: its kind, what it shares, and its drift.

    Attributes:
        cells: constants, with the weights at the centre of their errors.
        potentials: W_in and below it, where there is one, W_rec without its diagonal.
        readout: W_out and below it b_out, or zeros.
        device: of all these.
        tail: of a linear function of the errors, as in :mod:`.tails`.

    Raises:
        InputError: a network that the proofs do not fit.
    """

    def __init__(self, problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> None:
        self.described = _described(problem, sizes)
        self.problem, self.noise, self.unit = problem, noise, dict(sizes)
        self.device = problem.settings.device
        self.tail = "exact" if noise.kind == "gaussian" else noise.kind
        self.held = named_tensors(problem.model)
        self.own = {identity(self.held[name]): name for name in sizes}
        with torch.no_grad():
            context = Context(RowEpsilons(torch.zeros(1, 1, dtype=torch.float64, device=self.device)), FLOAT64)
            try:
                self.cells = AdaptiveCells(problem, context)
            except InputError as error:
                raise _instead(error) from None
            layers = self._layers()
            # Behind what has drifted.
            self.cells.weight_in, self.cells.weight_rec = layers[0].weight_in, layers[0].weight_rec
            self.potentials, self.readout = _matrix(_read, layers), _matrix(_read_out, layers)

    def _layers(self) -> list[Layer]:
        """The network at the centre, and what its parameters are off by: size, unknown drift, shared errors."""
        gain = gains(self.problem.model, self.problem.settings.box, self.unit)
        centre, around = {}, {}
        for name in self.unit:
            theta = self.held[name].detach().cpu().double()
            shift, bound = self.noise.shift(name), self.noise.bound(name)
            centre[name] = theta * (1.0 + shift)
            rounding = SHIFT_ERROR * (1.0 + abs(shift)) if shift else 0.0
            around[name] = theta.abs() * (bound * (1.0 + SHIFT_ERROR) + rounding)
        shared = []
        chip, layer = (self.noise.correlated.get(what, 0.0) * (1.0 + SHIFT_ERROR) for what in ("chip", "layer"))
        if chip:
            shared.append({name: t * chip for name, t in gain.items()})
        if layer:
            shared += [{name: t * layer} for name, t in gain.items()]
        values = {name: t.detach().cpu().double() for name, t in self.held.items()}
        return [self._layer({**values, **centre}), *map(self._layer, (self.unit, around, *shared))]

    def _layer(self, numbers: Mapping[str, Tensor]) -> Layer:
        """The network's layers as one, of these numbers in place of its parameters'; zeros where there is none."""

        def find(name: str) -> Parameter:
            tensor = self.held[name]
            size = numbers.get(self.own.get(identity(tensor), name))
            if size is None:
                size = torch.zeros(tensor.shape, dtype=torch.float64)
            return Parameter(size.to(self.device))

        return layer_of(find, self.described)


def _read(layer: Layer) -> Tensor:
    """W_in and below it, where there is one, W_rec."""
    recurrent = [] if layer.weight_rec is None else [layer.weight_rec.theta]
    return torch.cat([layer.weight_in.theta, *recurrent])


def _read_out(layer: Layer) -> Tensor:
    """W_out and below it b_out, or zeros."""
    weight = layer.weight_out.theta
    return torch.cat([weight, torch.zeros_like(weight[:1]) if layer.bias_out is None else layer.bias_out.theta[None]])


def _matrix(of: Callable[[Layer], Tensor], layers: list[Layer]) -> NoisyMatrix:
    theta, size, around, *shared = (of(layer) for layer in layers)
    return NoisyMatrix(theta, size, around, [t for t in shared if bool(t.any())])


def _described(problem: Problem, sizes: Mapping[str, Tensor]) -> tuple[LeakyCells, ...]:
    """How the network describes itself.

    Raises:
        InputError: the proof does not fit it.
    """
    network, model = problem.network, problem.model
    if not isinstance(network, RecurrentNetwork) or not isinstance(model, Leaky):
        raise NoProof(
            f"proven yield of networks in time is for spiking networks of leaky cells, which {type(model).__name__} "
            f"does not say it is (a method leaky_cells); {OTHERWISE}"
        )
    if problem.settings.rounding != FLOAT64:
        raise InputError("proven yield is computed in precision 'float64', of real arithmetic")
    try:
        described = description(model)
        check_description(problem, described)
    except InputError as error:
        raise _instead(error) from None
    held = named_tensors(model)
    neuron = {identity(held[name]) for says in described for role in NEURON if (name := getattr(says, role))}
    exact = next((name for name in sizes if identity(held[name]) in neuron), None)
    if exact is not None:
        raise NoProof(
            f"{exact} is in the box, and proven yield of spiking networks is for errors of weights alone; exclude it, "
            f"or {OTHERWISE}"
        )
    several = [name for graph in (network.step, network.main) for name in read_more_than_once(graph, model, sizes)]
    if several:
        raise NoProof(
            f"{several[0]} is read more than once a step; proven yield of spiking networks does not cover that: "
            f"exclude it from the box, or {OTHERWISE}"
        )
    return described


def _instead(error: InputError) -> NoProof:
    """Why the domain 'histories' refuses a network, with what helps here."""
    return NoProof(str(error).replace(INSTEAD, OTHERWISE))
