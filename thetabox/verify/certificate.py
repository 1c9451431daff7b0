"""What a certification found, and its form on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.shown import Columns, Shown, about
from thetabox.verify import stored
from thetabox.verify.domain import Profile
from thetabox.verify.stored import SCHEMA
from thetabox.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thetabox.measure.attack import AttackResult


@dataclass(repr=False)
class Certificate(Shown):
    """Verified samples at every ε; a sequence of its samples' records.

    Attributes:
        epsilon: ``[E]``.
        margin: proven lower bound of ``min_k (logit_y - logit_k)``, ``[E, N]``; minus infinity where nothing is known.
        label, predicted: ``[N]``.
        domain, criterion, options, sound, arithmetic, precision, box: how it was proven.
        model_info, data_info: what it speaks of.
        seconds: time that the bounds took; 0 in a certificate that was loaded, for its file does not say.
        radius: certified radius of each sample ``[N]``, if it was computed.
        baseline: verified accuracy ``[E]`` by disjoint logit intervals, if it was computed.
        profile: where verification fails first, if it was asked for.
        checked: how the module was compared with the graph that was bounded (see :mod:`thetabox.verify.agreement`).
        finished: whether every stage ran to its end; a time limit that cut the work leaves proofs that hold, and
            samples of which nothing more is known.
    """

    epsilon: Float[Tensor, " levels"]
    margin: Float[Tensor, "levels samples"]
    label: Int[Tensor, " samples"]
    predicted: Int[Tensor, " samples"]
    domain: str = "interval"
    criterion: str = "margin"
    options: dict[str, Any] = field(default_factory=dict)
    sound: bool = True
    arithmetic: str = "real"
    precision: str = "float64"
    box: Box = field(default_factory=Box)
    model_info: dict[str, Any] = field(default_factory=dict)
    data_info: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    radius: Float[Tensor, " samples"] | None = None
    baseline: Float[Tensor, " levels"] | None = None
    profile: Profile | None = None
    finished: bool = True
    checked: dict[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> Bool[Tensor, "levels samples"]:
        """Samples whose margin is proven to be above 0; a tie is not."""
        return self.margin > 0

    @property
    def verified_accuracy(self) -> Float[Tensor, " levels"]:
        """Verified samples divided by samples, ``[E]``."""
        return self.verified.double().mean(1)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy of the unperturbed network, in float64."""
        return float((self.predicted == self.label).double().mean())

    def to_json(self) -> dict[str, Any]:
        """The content of ``certificate.json``."""
        total = self.label.numel()
        counts = self.verified.sum(1).tolist()
        return {
            "schema": SCHEMA,
            "tool": {"name": "thetabox", "version": __version__, "torch": str(torch.__version__)},
            "model": self.model_info,
            "data": self.data_info,
            "box": self.box.describe(),
            "domain": self.domain,
            "options": {"criterion": self.criterion, **self.options},
            "sound": self.sound,
            **({} if self.finished else {"finished": False}),
            "arithmetic": self.arithmetic,
            "precision": self.precision,
            "clean_accuracy": self.clean_accuracy,
            "curve": [
                {"epsilon": epsilon, "verified": count, "total": total, "verified_accuracy": count / total}
                for epsilon, count in zip(self.epsilon.tolist(), counts, strict=True)
            ],
            "checked": self.checked,
            # Two runs on the same inputs are the same file: the time stands in the report alone.
            "seconds": None,
        }

    def rows(self) -> Iterator[tuple[int, int, int, float, float, bool]]:
        """Rows of ``samples.csv``, in the order of :data:`thetabox.verify.stored.COLUMNS`."""
        label, predicted, verified = self.label.tolist(), self.predicted.tolist(), self.verified.tolist()
        for e, (epsilon, margins) in enumerate(zip(self.epsilon.tolist(), self.margin.tolist(), strict=True)):
            for n, margin in enumerate(margins):
                yield n, label[n], predicted[n], epsilon, margin, verified[e][n]

    def columns(self) -> Columns:
        samples = {"label": self.label, "predicted": self.predicted}
        if self.radius is not None:
            samples["radius"] = self.radius
        return Columns.of(samples, {"epsilon": self.epsilon}, {"margin": self.margin, "verified": self.verified})

    def __len__(self) -> int:
        return self.label.numel()

    def headline(self) -> str:
        how = f"{self.box.kind} box, domain {self.domain}"
        known = about(self.data_info, len(self), self.clean_accuracy)
        return "; ".join(
            [
                known,
                how,
                *(["it proves nothing"] if not self.sound else []),
                *(["not finished"] if not self.finished else []),
            ]
        )

    def summary(self) -> tuple[list[str], list[list[str]]]:
        counts = self.verified.sum(1).tolist()
        rows = zip(self.epsilon.tolist(), counts, strict=True)
        return ["ε", "verified", "of"], [[f"{e:.4g}", str(count), str(len(self))] for e, count in rows]

    def plot(self, attack: AttackResult | None = None) -> Figure:
        """Verified accuracy over ε, and above it what an attack at the same ε leaves."""
        # Late, as in save.
        from thetabox.report.figures import accuracy_figure
        from thetabox.report.results import curve_of

        return accuracy_figure(curve_of(self, attack))

    def save(self, out: str | Path, attack: AttackResult | None = None) -> None:
        """Write certificate.json, samples.csv, verified_accuracy.png and .pdf, report.html into the folder ``out``."""
        # Late, and the one circle that is meant: a report is made of certificates.
        from thetabox import report

        report.write(Path(out), self, attack)

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a stored certificate: its folder, or the ``certificate.json`` in it (``samples.csv`` stands beside).

        Raises:
            InputError: no such file, not a certificate, or one that is not as it was written.
        """
        path = Path(path)
        path = path / "certificate.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"no certificate at {path}")
        facts = stored.facts(path)
        margin, label, predicted = stored.samples(path.with_name("samples.csv"), facts)
        options = dict(facts["options"])
        return cls(
            epsilon=torch.tensor([point["epsilon"] for point in facts["curve"]], dtype=torch.float64),
            margin=margin,
            label=label,
            predicted=predicted,
            domain=facts["domain"],
            criterion=options.pop("criterion", "margin"),
            options=options,
            sound=facts["sound"],
            finished=facts.get("finished", True),
            checked=dict(facts.get("checked", {})),
            arithmetic=facts["arithmetic"],
            precision=facts["precision"],
            box=Box(**facts["box"]),
            model_info=facts["model"],
            data_info=facts["data"],
            seconds=float(facts.get("seconds") or 0.0),
        )
