"""Whether two sets of draws differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError

Draws = Tensor | np.ndarray | Sequence[float]


def mann_whitney(a: Draws, b: Draws) -> float:
    r"""Two-sided p-value of the Mann-Whitney U test between the draws of two methods.

    The chance, were both drawn from one distribution, of a U at least as far from its mean as
    :math:`U = \#\{(i, j): a_i > b_j\} + \tfrac12 \#\{(i, j): a_i = b_j\}`: exact for few draws without ties, else by
    the normal approximation with its correction for ties.

    Args:
        a: accuracies of one method, any shape (for example ``MismatchResult.accuracy[l]``).
        b: of the other.

    Raises:
        InputError: no draws, or draws that are not finite.

    Source: Mann and Whitney (1947); used between training methods by Büchel, Faber, Muir (ICLR 2022), section 4.
    """
    from scipy.stats import mannwhitneyu  # late: takes half a second to import

    values = [torch.as_tensor(draws, dtype=torch.float64).detach().cpu().reshape(-1).numpy() for draws in (a, b)]
    for draws in values:
        if not len(draws) or not np.isfinite(draws).all():
            raise InputError("mann_whitney needs at least one draw on each side, all of them finite")
    if np.unique(np.concatenate(values)).size == 1:
        return 1.0
    return float(mannwhitneyu(*values, alternative="two-sided").pvalue)
