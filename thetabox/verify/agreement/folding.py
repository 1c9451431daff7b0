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
from thetabox.verify.agreement.given import asked, logits
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
            expected = logits(problem, run)
        with running(model, problem.x) as run:
            answers = [(logits(problem, run), expected)]
            for size, mode in ways(network(model, problem.x)):
                places = repeated(few, size)
                with suppress(InputError):  # a batch that it does not take
                    answers.append((asked(problem, run, places, mode=mode).double(), expected[places]))
    if not all(near(answer, other, NEAR) for answer, other in answers):
        raise InputError(
            "the network is not the function that would be bounded: with its batch norms folded it returns other "
            "logits; certify it without fold"
        )
