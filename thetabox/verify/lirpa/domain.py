"""The ``lirpa`` domain: what auto_LiRPA reports for the same network and box, never as a proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.box import Box
from thetabox.deep_copy import deep_copy
from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.models.twins import RUNNING
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain
from thetabox.verify.lirpa.bounds import METHODS, library, lirpa_bounds

if TYPE_CHECKING:
    from thetabox.verify.problem import Problem, Which

# Dense rows of lowered convolutions are large: this many samples at a time.
AT_ONCE = 32


class Lirpa(Domain):
    """auto_LiRPA's bounds, without outward rounding: a second opinion whose results are not sound.

    The option ``method`` is one of "IBP", "CROWN-IBP", "CROWN" and "CROWN-Optimized".

    Raises:
        InputError: auto_LiRPA is not installed, an unknown method, a network that it is not given (the message names a
            domain that takes it), or float32 arithmetic, of which it knows nothing.

    Source: Xu et al., Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond (NeurIPS 2020).
    """

    name = "lirpa"
    sound = False
    defaults: ClassVar[Mapping[str, Any]] = {"method": "CROWN-IBP"}

    def __init__(self, problem: Problem, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem, options)
        if self.options["method"] not in METHODS:
            raise InputError(
                f"the domain 'lirpa' has no method {self.options['method']!r}; it has {', '.join(METHODS)}"
            )
        if problem.settings.rounding.network:
            raise InputError("the domain 'lirpa' knows real arithmetic only; use the domain interval for float32")
        library()
        # A folded network is folded already.
        box = problem.settings.box
        self.box = Box(box.kind, box.include, box.exclude, box.scale)
        with RUNNING:
            self.model = deep_copy(problem.model).to(problem.settings.rounding.dtype)
        try:
            self._bounds(slice(0, 1), 0.0, None, "IBP")
        except InputError as error:
            raise InputError(f"{error}; the domain interval takes this network") from None

    def margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        """Bounds of all ``logit_y - logit_k`` as rows of their own; not proven."""
        value = self._one(epsilon)
        classes = self.logits(slice(0, 1), epsilon.new_zeros(1, 1)).lower.shape[1]
        one_hot = torch.eye(classes, dtype=torch.float64)
        others = torch.tensor([[k for k in range(classes) if k != label] for label in y[which].tolist()])
        rows = one_hot[y[which]][:, None] - one_hot[others]
        lower, _ = self._bounds(which, value, rows, self.options["method"])
        return lower.amin(1)[None].expand(len(epsilon), -1)

    def logits(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Interval:
        """Bounds of the logits; not proven."""
        lower, upper = self._bounds(which, self._one(epsilon), None, self.options["method"])
        return Interval(lower.repeat(len(epsilon), 1), upper.repeat(len(epsilon), 1))

    def samples_at_once(self, levels: int) -> int:
        return AT_ONCE

    def _one(self, epsilon: Tensor) -> float:
        values = epsilon.unique()
        if len(values) > 1:
            raise OneEpsilonAtATime("auto_LiRPA takes one ε at a time")
        return float(values[0])

    def _bounds(self, which: Which, epsilon: float, rows: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
        x = self.problem.x[which].to(self.problem.settings.rounding.dtype)
        if rows is not None:
            rows = rows.to(x.dtype)
        lower, upper = lirpa_bounds(self.model, x, epsilon, method, box=self.box, rows=rows)
        return lower.double().cpu(), upper.double().cpu()
