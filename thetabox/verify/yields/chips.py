r"""From failure probabilities of single samples to what a chip does on all of them.

However a chip's errors tie its samples together, the expected number of failures among a set S of samples is at most
:math:`\sum_S \delta_n`, and by Markov's inequality more than m of them fail with probability at most :math:`\sum_S
\delta_n / (m + 1)`.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.linear.constant import gamma_sum


def accuracy_of_chips(failure: Float[Tensor, "levels samples"], share: float) -> Float[Tensor, " levels"]:
    """Accuracy that at least ``share`` of all chips reach; S and m are chosen so that it is largest.

    Args:
        failure: proven bounds of each sample's failure probability.
        share: of the chips, above 0 and below 1.

    Raises:
        InputError: a share that is none.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 < share < 1.0:
        raise InputError(f"share is {share!r}; it must be a number between 0 and 1")
    return torch.tensor([_reached(row, 1 - Fraction(share)) for row in failure.tolist()], dtype=torch.float64)


def _reached(failure: list[float], may_miss: Fraction) -> float:
    """Accuracy of all but a share ``may_miss`` of the chips, in exact arithmetic."""
    expected, most = Fraction(0), 0
    # The k samples that fail least are the best choice of k.
    for chosen, probability in enumerate(sorted(failure), 1):
        expected += Fraction(probability)
        # The least m with expected / (m + 1) <= may_miss.
        failing = max(0, ceil(expected / may_miss) - 1)
        most = max(most, chosen - failing)
    return most / len(failure)


def mean_accuracy(failure: Float[Tensor, "levels samples"]) -> Float[Tensor, " levels"]:
    """Proven mean over chips of the accuracy on these samples, rounded down."""
    return ((1.0 - failure).mean(1) * (1.0 - gamma_sum(failure.shape[1]))).clamp(min=0.0)
