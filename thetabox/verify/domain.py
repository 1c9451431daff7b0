"""What a domain is: a way to bound the margins of a network over its box, at hand for one problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.effort import FREE, Meter
from thetabox.verify.problem import Problem, Which
from thetabox.verify.unfinished import Unfinished


@dataclass(frozen=True)
class Profile:
    """Where verification fails first.

    Attributes:
        kind: ``layers`` (share of activations whose kink lies inside their interval), ``steps`` (share of spikes
            that are uncertain at each time step) or ``losses`` (how what the proof loses is shared out over layers).
        names: of the layers, or the time steps.
        share: ``[E, L]``, in 0 to 1.
        unit, caption: what the share is of, where a domain counts something else: a plural after "uncertain", and a
            sentence.
    """

    kind: str
    names: list[str]
    share: Float[Tensor, "levels places"]
    unit: str = ""
    caption: str = ""


class Domain(ABC):
    """Bounds of one network in one domain.

    Attributes:
        name: as users give it.
        sound: whether its bounds are proofs.
        defaults: option → default.
        renamed: former option → its name and values today, which are still taken.
        shares: whether the ε of a sweep share work, with the same bounds.
        cascade: what ``auto`` tries after plain intervals: options of each stage, cheap ones first.
        meter: what each pair of the present call may cost, to be paid by a stage that costs more than its
            :meth:`passes`, and looked at by any that takes long.
        follows: as a stage: cheaper ones failed before, on samples where the unperturbed network is right.
        unfinished: where a domain that :meth:`resumes` keeps proofs that ended for want of effort; a later call for the
            same sample and ε goes on with what is kept there. ``None`` where nobody will ask again.

    Args:
        problem: the traced network, its parameters, box, rounding and inputs.
        options: over the defaults.

    Raises:
        InputError: an unknown option, or a network that the domain does not fit (the message names a domain that does).
    """

    name: ClassVar[str]
    sound: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {}
    renamed: ClassVar[Mapping[str, tuple[str, Mapping[Any, Any]]]] = {}
    shares: ClassVar[bool] = False
    cascade: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def __init__(self, problem: Problem, options: Mapping[str, Any] | None = None) -> None:
        strange = sorted(set(options or {}) - set(self.defaults))
        if strange:
            known = f"; it has {', '.join(self.defaults)}" if self.defaults else ""
            raise InputError(f"the domain {self.name!r} has no option {strange[0]!r}{known}")
        self.problem = problem
        self.options = {**self.defaults, **(options or {})}
        self.meter: Meter = FREE
        self.follows = False
        self.unfinished: Unfinished[Any] | None = None

    @classmethod
    def is_meant_for(cls, problem: Problem) -> bool:
        """Whether the network is of the kind that the domain exists for: ``auto`` then tries it before other dear ones.

        Why such a network does not fit after all stands in the certificate, also where another domain takes it.
        """
        return False

    @abstractmethod
    def margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        """Proven lower bounds of ``min_k (logit_y - logit_k)``, float64 on the CPU; minus infinity where there is none.

        Args:
            which: the samples, as a range or as indices in the problem's ``x``.
            epsilon: ε of each sample, any number of times over.
            y: labels of all samples of the problem.
        """

    @abstractmethod
    def logits(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Interval:
        """Bounds of the logits, rows ``[E samples, K]``, float64 on the CPU."""

    def logit_margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        """The least logit of class y less the largest of another; arguments as for :meth:`margins`."""
        ends = known_ends(self.logits(which, epsilon))
        label = y[which].repeat(len(epsilon))[:, None]
        others = ends.upper.scatter(1, label, -torch.inf).amax(1)
        difference = (ends.lower.gather(1, label).squeeze(1) - others).view(epsilon.shape)
        # Rounded down: the difference of two float64 numbers is off by half a unit in the last place.
        return torch.nextafter(difference, torch.full_like(difference, -torch.inf))

    def passes(self, criterion: str) -> float:
        """Forward passes that a sample and ε costs at least, paid before it is tried (:mod:`thetabox.verify.effort`).

        Args:
            criterion: ``margin`` for :meth:`margins`, ``logits`` for :meth:`logits`.
        """
        return 1.0

    def resumes(self, criterion: str) -> bool:
        """Whether a proof that ended for want of effort can go on with more (branch and bound); see ``unfinished``."""
        return False

    def samples_at_once(self, levels: int) -> int:
        """How many samples, each with ``levels`` ε, fit memory together."""
        return self.problem.chunk_size(levels)

    def facts(self, *, whole: bool) -> dict[str, Any]:
        """What the domain found out about the network, for the certificate; with ``whole`` also what takes a second."""
        return {}

    def profile(self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]) -> Profile | None:
        """Where the proof of these samples loses its certainty, by layer or time step, where the domain can tell."""
        return None


def known_ends(ends: Interval) -> Interval:
    """Ends that are numbers, infinite where nothing is known."""
    lower, upper = ends.lower, ends.upper
    lower = torch.where(lower.isnan() | (lower == torch.inf), -torch.inf, lower)
    return Interval(lower, torch.where(upper.isnan() | (upper == -torch.inf), torch.inf, upper))
