"""The user's network beside its copy with the batch norms folded."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models.copies import duplicate
from thetabox.models.fold import folded
from thetabox.models.running import running
from thetabox.verify.agreement.batches import FEW, repeated, ways
from thetabox.verify.agreement.given import all_logits, logits_of
from thetabox.verify.agreement.nearness import NEAR, near
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network import network
from thetabox.verify.problem import Problem


def compare_folded(problem: Problem, model: nn.Module) -> None:
    """The user's network beside its fold in double precision: every sample, in batches of several sizes.

    Raises:
        InputError: they differ.
    """
    few = torch.arange(min(FEW, len(problem.x)))
    with torch.no_grad(), sound_kernels():
        with running(folded(duplicate(model).double())) as run:
            expected = all_logits(problem, run)
        with running(model, problem.x) as run:
            pairs = [(all_logits(problem, run), expected)]
            for size, mode in ways(network(model, problem.x)):
                samples = repeated(few, size)
                with suppress(InputError):  # a batch that it does not take
                    pairs.append((logits_of(problem, run, samples, mode=mode).double(), expected[samples]))
    if not all(near(one, other, NEAR) for one, other in pairs):
        raise InputError(
            "the network is not the function that would be bounded: with its batch norms folded it returns other "
            "logits; certify it without fold"
        )
