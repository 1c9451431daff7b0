"""The user's network beside its copy with the batch norms folded."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models.copies import duplicate
from thetabox.models.fold import folded
from thetabox.models.running import running
from thetabox.verify.agreement.nearness import NEAR, near
from thetabox.verify.agreement.own import FEW, MEMORY
from thetabox.verify.agreement.refusal import SIZES
from thetabox.verify.engine import Engine
from thetabox.verify.network import network
from thetabox.verify.rounding import sound_kernels


def compare_folded(engine: Engine, model: nn.Module) -> None:
    """The user's network beside its fold in double precision: every sample, in batches of several sizes.

    Raises:
        InputError: they differ.
    """
    x, few = engine.x, engine.x[:FEW]
    at_once = max(1, MEMORY // (8 * engine.network.alive()))
    with torch.no_grad(), sound_kernels():
        with running(folded(duplicate(model).double())) as run:
            expected = torch.cat([run(part) for part in x.split(at_once)])
        sizes = {*SIZES, *(n for graph in network(model, x).graphs.values() for n in graph.batch_sizes)}
        with running(model) as run:
            answers = [(torch.cat([run(part) for part in x.split(at_once)]), expected)]
            for size in sorted(sizes):
                places = torch.arange(size) % len(few)
                with suppress(InputError):  # a batch that it does not take
                    answers.append((run(few[places], gradients=size % 2 == 1), expected[places]))
    if not all(near(answer.double(), other.double(), NEAR) for answer, other in answers):
        raise InputError(
            "the network is not the function that would be bounded: with its batch norms folded it answers other "
            "logits; certify it without fold"
        )
