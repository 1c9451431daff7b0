"""Exact confidence bounds from counts of independent draws."""

from __future__ import annotations

import numpy as np

# The special functions are computed to some 1e-14; a bound gives away far more.
SLACK = 1e-9


def probability_at_least(right: np.ndarray, draws: int, confidence: float) -> np.ndarray:
    r"""Lower bounds of a probability of which ``right`` of ``draws`` draws were.

    The least p with :math:`P(\mathrm{Bin}(n, p) \ge k) > 1 -` confidence (Clopper and Pearson, Biometrika 1934), for
    one count at a time.
    """
    from scipy.special import betaincinv  # late: takes long to import

    some = np.maximum(right, 1)
    bound = betaincinv(some, draws - some + 1, 1.0 - confidence)
    return np.where(right > 0, np.maximum(bound * (1.0 - SLACK) - SLACK, 0.0), 0.0)


def worst_that_counts(draws: int, share: float, confidence: float) -> int:
    r"""Which of the draws, the worst first, is a lower bound of what a share of all reaches; 0 where none is.

    The r-th worst is one with confidence :math:`P(\mathrm{Bin}(n, 1 - share) \ge r)`, for if it were above the quantile
    fewer than r draws lay below that (Wilks, Annals of Mathematical Statistics 1941, for r = 1: 459 draws for 0.99 and
    0.99).
    """
    from scipy.special import bdtr  # late: takes long to import

    ranks = np.arange(1, draws + 1)
    wrong = bdtr(ranks - 1, draws, 1.0 - share) * (1.0 + SLACK)
    return int((wrong <= 1.0 - confidence).sum())


def draws_needed(share: float, confidence: float) -> int:
    """The least number of draws of which the worst is such a bound: 1 - share^n is at least the confidence."""
    needed = max(1, int(np.ceil(np.log1p(-confidence) / np.log(share))))
    while worst_that_counts(needed, share, confidence) < 1:
        needed += 1
    return needed
