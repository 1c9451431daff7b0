"""Which tensors of a network a method disturbs, by the name patterns of ``thetabox.Box``, and how far they may go."""

from __future__ import annotations

from torch import Tensor, nn

from thetabox.box import NEURON_PARAMETERS, Box
from thetabox.train.methods.method import Weights

BATCH_NORM = "*norm*,*bn*,*shortcut.1.*"
"""Names of batch norm's parameters in ``ResNet32`` and in most networks; the authors leave them out of attacks."""

LEAST_SHARE = 0.05
"""Neuron parameters (thresholds, time constants) keep at least this share of their value, so they stay positive."""

INCLUDE_MEANING = 'tensors that are disturbed, patterns as of a Box ("*,threshold,tau,tau_adapt,beta": neurons too)'
EXCLUDE_MEANING = "patterns that are left out again (batch norm)"


def disturbed(model: nn.Module, weights: Weights, include: str, exclude: str) -> Weights:
    """The tensors that patterns choose: from ``weights`` where they are there, else the model's own (detached).

    Args:
        model: the network; its parameters and float buffers are what there is to choose from.
        weights: parameter tensors by name.
        include: as of :class:`thetabox.box.Box`: ``*`` stands for weights and biases; neuron parameters must be named.
        exclude: patterns that are left out again.
    """
    of_model = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    chosen = Box(include=include, exclude=exclude).factors(model, may_miss=BATCH_NORM)
    return {name: weights[name] if name in weights else of_model[name].detach() for name in chosen}


def inside(name: str, delta: Tensor, size: float) -> Tensor:
    """Relative offsets δ clipped to [−size, size]; a neuron parameter θ(1 + δ) also stays positive."""
    return delta.clamp(min=max(-size, lowest(name)), max=size)


def lowest(name: str) -> float:
    """The least relative offset of a tensor."""
    return LEAST_SHARE - 1 if name.rsplit(".", 1)[-1] in NEURON_PARAMETERS else float("-inf")
