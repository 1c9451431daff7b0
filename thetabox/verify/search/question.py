"""What all parts of a run read: the problem, the labels, and each domain that bounds it, made once a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from thetabox.verify import domains
from thetabox.verify.domain import Domain
from thetabox.verify.problem import Problem
from thetabox.verify.search import cascade
from thetabox.verify.search.cascade import Stage


@dataclass
class Question:
    """A problem with its labels; what goes to another process is these, and domains are made there.

    Attributes:
        problem, labels: what is asked.
        stages: of ``auto``, by name, those that were begun.
    """

    problem: Problem
    labels: Int[Tensor, " all"]
    stages: dict[str, Stage] = field(default_factory=dict)
    _domains: dict[str, Domain] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {"problem": self.problem, "labels": self.labels, "stages": {}, "_domains": {}}

    def domain(self, name: str) -> Domain:
        """A domain with the options of the settings, which are those of the domain that they name."""
        if name not in self._domains:
            settings = self.problem.settings
            options = settings.options if name == settings.domain else None
            self._domains[name] = domains.domain_class(name)(self.problem, options)
        return self._domains[name]

    def stage(self, name: str) -> Stage:
        """A stage of ``auto``."""
        if name not in self.stages:
            self.stages |= {stage.name: stage for stage in cascade.stages(self.problem)}
        return self.stages[name]
