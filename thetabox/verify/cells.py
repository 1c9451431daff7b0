"""What the verifier sees of a spiking network: its cells, or why it sees none, and how uncertainty spreads in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.leaky import Leaky
from thetabox.models.plain import plain
from thetabox.models.several import Several
from thetabox.models.twins import RUNNING
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories import Histories
from thetabox.verify.histories.branching import branching
from thetabox.verify.histories.recognition import looks_spiking, recognised
from thetabox.verify.histories.recognition.describe import lines, summary
from thetabox.verify.problem import Problem, Settings

# Samples whose spikes are flipped.
SAMPLES = 100


def cells(model: nn.Module, x: Tensor | Several, box: Box | None = None, *, spread: bool = False) -> list[str]:
    """What is said of a spiking network, line by line; nothing of a network that compares no numbers.

    Args:
        model: any network that can be certified.
        x: inputs, of which only the shape matters, but for ``spread``.
        box: as for :func:`thetabox.certify`.
        spread: also flip the least certain spikes of up to 100 samples, and say how many others change for that.

    Raises:
        InputError: the network cannot be traced, or does not take such inputs.
    """
    with torch.no_grad(), RUNNING:
        asked = plain(model, x)
        settings = Settings(box or Box(), Rounding(torch.float64), torch.device("cpu"), "histories", "float64")
        problem = Problem(asked.model, settings, asked.x.double())
        if not (isinstance(problem.model, Leaky) or looks_spiking(problem)):
            return []
        try:
            domain = Histories(problem)
        except InputError as error:
            return [f"not recognised as leaky cells: {error}"]
        if isinstance(problem.model, Leaky):
            described = ["leaky cells, as the network describes itself (leaky_cells)"]
        else:
            net = recognised(problem).net
            described = [f"recognised: {summary(net)}", *(f"  {line}" for line in lines(net))]
        if spread:
            seen = branching(domain.engine, SAMPLES)
            described.append(
                f"branching ratio {seen.ratio:.2f}: so many other cells change their spikes when one of the "
                f"{seen.flips} least certain spikes does; above about 1 few proofs go beyond the first uncertain spike "
                f"(here at ε of about {seen.smallest:.1g}), and training with noise, l1 or counts lowers it"
            )
        return described
