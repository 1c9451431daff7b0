"""What a proof of yield found, and its form on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.shown import Columns, Shown, about
from thetabox.verify.yields import stored
from thetabox.verify.yields.chips import accuracy_of_chips, mean_accuracy
from thetabox.verify.yields.stored import SCHEMA
from thetabox.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thetabox.measure.sampled_yield import SampledYield

# Shares of chips for which the file says the accuracy that they reach.
SHARES = (0.9, 0.99, 0.999)


@dataclass(repr=False)
class YieldCertificate(Shown):
    """How likely chips of random mismatch are to classify each sample right, at least; a sequence of records.

    Attributes:
        sigma: ``[S]``.
        delta: smallest probability proven that a chip misclassifies a sample, ``[S, N]`` float64; 1 where nothing is.
        asked: the failure probability that was asked for.
        label, predicted: ``[N]``.
        noise, box: of which errors, of which parameters.
        method: name of the proof that was asked for.
        proven_by: name of the proof that gave each entry of ``delta``; empty where none did, ``[S][N]``; without rows
            where that is not known.
        ledger: for each σ, what the proof of the proven sample with the largest ``delta`` spent: proof → group of
            events → number of events, and probability that any of them fails; these add up to that ``delta``.
        model_info, data_info: what it speaks of.
        checked: how the module was compared with the graph of the proof (see :mod:`thetabox.verify.agreement`).
        options: of the search.
        seconds: time that the proofs took; 0 in a certificate that was loaded.
        finished: whether every proof that was planned was tried; what a time limit cut leaves what was proven.
    """

    sigma: Float[Tensor, " levels"]
    delta: Float[Tensor, "levels samples"]
    asked: float
    label: Int[Tensor, " samples"]
    predicted: Int[Tensor, " samples"]
    noise: Noise = field(default_factory=Noise)
    box: Box = field(default_factory=Box)
    method: str = "auto"
    proven_by: list[list[str]] = field(default_factory=list)
    ledger: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]] = field(default_factory=list)
    model_info: dict[str, Any] = field(default_factory=dict)
    data_info: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = True

    @property
    def proven(self) -> Bool[Tensor, "levels samples"]:
        """Samples that a chip classifies right with a probability of at least 1 - ``asked``."""
        return self.delta <= self.asked

    @property
    def proven_share(self) -> Float[Tensor, " levels"]:
        """Proven samples divided by samples, ``[S]``."""
        return self.proven.double().mean(1)

    @property
    def mean_accuracy(self) -> Float[Tensor, " levels"]:
        """Mean over chips of the accuracy on these samples, at least, ``[S]``."""
        return mean_accuracy(self.delta)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy without errors."""
        return float((self.predicted == self.label).double().mean())

    def chips(self, share: float = 0.99) -> Float[Tensor, " levels"]:
        r"""Accuracy on these samples that at least ``share`` of all chips reach, ``[S]``.

        By Markov's inequality over every sample's :math:`\delta_n`: more than m of the samples S fail with probability
        at most :math:`\sum_S \delta_n/(m+1)`, whatever ties them together.

        Raises:
            InputError: a share that does not lie between 0 and 1.
        """
        return accuracy_of_chips(self.delta, share)

    def claim(self, index: int) -> str:
        """One sentence: what is proven at ``sigma[index]``."""
        sigma, total = float(self.sigma[index]), self.label.numel()
        count, reached = int(self.proven[index].sum()), round(float(self.chips(0.99)[index]) * total)
        return (
            f"At σ = {sigma!r}, for each of {count} of these {total} samples, all but a share of {self.asked!r} of all "
            f"chips classify it right; and at least 0.99 of all chips classify at least {reached} of the {total} "
            f"right: for {self.errors}, independent of each other"
            f"{'' if self.noise.independent else ' but for those in common'}."
        )

    @property
    def errors(self) -> str:
        """In words: which errors, of what size, of which parameters."""
        # Late, as in save.
        from thetabox.report.facts import UNITS, patterns

        return f"{self.noise.errors} of size σ τ, τ = {UNITS[self.box.kind]}, of {patterns(self.box.describe(), 'σ')}"

    def proofs(self, index: int) -> dict[str, int]:
        """How many of the samples proven at ``sigma[index]`` each proof gave; empty where that is not known."""
        if not self.proven_by:
            return {}
        named = zip(self.proven_by[index], self.proven[index].tolist(), strict=True)
        return dict(sorted(Counter(name for name, holds in named if holds).items()))

    def to_json(self) -> dict[str, Any]:
        """The content of ``yield.json``."""
        total, proven, mean = self.label.numel(), self.proven, self.mean_accuracy
        chips = {share: self.chips(share) for share in SHARES}
        return {
            "schema": SCHEMA,
            "tool": {"name": "thetabox", "version": __version__, "torch": str(torch.__version__)},
            "model": self.model_info,
            "data": self.data_info,
            "noise": self.noise.describe(),
            "box": self.box.describe(),
            "delta": self.asked,
            "method": self.method,
            "options": self.options,
            "arithmetic": "real",
            **({} if self.finished else {"finished": False}),
            "clean_accuracy": self.clean_accuracy,
            "curve": [
                {
                    "sigma": sigma,
                    "proven": int(proven[s].sum()),
                    "total": total,
                    "proven_by": self.proofs(s),
                    "proven_share": int(proven[s].sum()) / total,
                    "mean_accuracy": float(mean[s]),
                    "chips": [{"share": share, "accuracy": float(reached[s])} for share, reached in chips.items()],
                    "claim": self.claim(s),
                    "ledger": self.ledger[s] if self.ledger else {},
                }
                for s, sigma in enumerate(self.sigma.tolist())
            ],
            "checked": self.checked,
            # Two runs on the same inputs are the same file: the time stands in the report alone.
            "seconds": None,
        }

    def rows(self) -> Iterator[tuple[int, int, int, float, float, bool, str]]:
        """Rows of ``samples.csv``, in the order of :data:`thetabox.verify.yields.stored.COLUMNS`."""
        label, predicted, proven = self.label.tolist(), self.predicted.tolist(), self.proven.tolist()
        proofs = self._proofs()
        for s, (sigma, failures) in enumerate(zip(self.sigma.tolist(), self.delta.tolist(), strict=True)):
            for n, failure in enumerate(failures):
                yield n, label[n], predicted[n], sigma, failure, proven[s][n], proofs[s][n]

    def columns(self) -> Columns:
        samples = {"label": self.label, "predicted": self.predicted}
        cells = {"delta": self.delta, "proven": self.proven, "proven_by": self._proofs()}
        return Columns.of(samples, {"sigma": self.sigma}, cells)

    def _proofs(self) -> list[list[str]]:
        """``proven_by``, empty where nothing is proven or known."""
        named = self.proven_by or [[""] * len(self)] * len(self.sigma)
        bounded = (self.delta < 1.0).tolist()
        return [[n if b else "" for n, b in zip(*row, strict=True)] for row in zip(named, bounded, strict=True)]

    def __len__(self) -> int:
        return self.label.numel()

    def headline(self) -> str:
        known = about(self.data_info, len(self), self.clean_accuracy)
        how = f"{self.noise.errors}, failures of {self.asked:g}"
        return "; ".join([known, how, *(["not finished"] if not self.finished else [])])

    def summary(self) -> tuple[list[str], list[list[str]]]:
        # Late, as in save.
        from thetabox.report.yield_curve import at_least

        proven, reached = self.proven.sum(1).tolist(), self.chips(0.99).tolist()
        rows = zip(self.sigma.tolist(), proven, reached, strict=True)
        names = ["σ", "proven", "of", "accuracy of 0.99 of chips"]
        return names, [[f"{s:.4g}", str(count), str(len(self)), at_least(chips)] for s, count, chips in rows]

    def plot(self, sampled: SampledYield | None = None) -> Figure:
        """What is proven over σ, and beside it what sampled chips did at the same σ."""
        # Late, as in save.
        from thetabox.report.yield_curve import yield_curve
        from thetabox.report.yield_figure import yield_figure

        return yield_figure(yield_curve(self, sampled))

    def save(self, out: str | Path, sampled: SampledYield | None = None) -> None:
        """Write yield.json, samples.csv, yield.png, yield.pdf and report.html into the folder ``out``.

        Args:
            out: the folder, made when absent.
            sampled: what :func:`thetabox.sampled_yield` found at the same σ, to stand beside, labelled as statistical.
        """
        # Late: a report is made of certificates.
        from thetabox.report.yields import write_yield

        write_yield(Path(out), self, sampled)

    @classmethod
    def load(cls, path: str | Path) -> YieldCertificate:
        """Read a stored proven yield: its folder, or the ``yield.json`` in it (``samples.csv`` stands beside).

        Raises:
            InputError: no such file, no proven yield, or one that is not as it was written.
        """
        path = Path(path)
        path = path / "yield.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"no proven yield at {path}")
        facts = stored.facts(path)
        delta, label, predicted, proofs = stored.samples(path.with_name("samples.csv"), facts)
        stored.check_ledger(path, facts, delta, proofs)
        certificate = cls(
            sigma=torch.tensor([point["sigma"] for point in facts["curve"]], dtype=torch.float64),
            delta=delta,
            asked=facts["delta"],
            label=label,
            predicted=predicted,
            noise=Noise(**facts["noise"]),
            box=Box(**facts["box"]),
            method=facts["method"],
            proven_by=proofs if any(map(any, proofs)) else [],
            ledger=[point["ledger"] for point in facts["curve"]],
            model_info=facts["model"],
            data_info=facts["data"],
            checked=facts["checked"],
            options=facts["options"],
            finished=facts.get("finished", True),
        )
        stored.compare(path, facts, certificate.to_json())
        return certificate
