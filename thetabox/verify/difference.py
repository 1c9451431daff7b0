"""Two claims about the same samples, one beside the other: what was proven before and is not now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.certificate import Certificate
from thetabox.verify.yields import YieldCertificate

Claim = Certificate | YieldCertificate


@dataclass(frozen=True)
class Difference:
    """What two claims prove of the same samples.

    Attributes:
        kind: ``"epsilon"``, or ``"sigma"`` for proven yields.
        levels: every ε or σ that both hold, ascending, ``[L]``.
        label: ``[N]``.
        before, after: whether each sample is proven, ``[L, N]``.
        bound_before, bound_after: its margin, or for yields its failure probability, ``[L, N]``.
        notes: in what else the two differ, one line each.
    """

    kind: str
    levels: Float[Tensor, " levels"]
    label: Int[Tensor, " samples"]
    before: Bool[Tensor, "levels samples"]
    after: Bool[Tensor, "levels samples"]
    bound_before: Float[Tensor, "levels samples"]
    bound_after: Float[Tensor, "levels samples"]
    notes: list[str]

    @property
    def lost(self) -> Bool[Tensor, "levels samples"]:
        """Proven before and not after."""
        return self.before & ~self.after

    @property
    def gained(self) -> Bool[Tensor, "levels samples"]:
        """Proven after and not before."""
        return self.after & ~self.before

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every sample that was lost anywhere, at the lowest level where that is so, those of low levels first."""
        lost = self.lost
        first = torch.where(lost.any(0), lost.double().argmax(0), len(lost))
        for n in first.argsort(stable=True).tolist():
            if (at := int(first[n])) == len(lost):
                return
            yield {
                "sample": n,
                "label": int(self.label[n]),
                self.kind: float(self.levels[at]),
                "before": _finite(float(self.bound_before[at, n])),
                "after": _finite(float(self.bound_after[at, n])),
            }

    def to_json(self) -> dict[str, Any]:
        """The content of the document that ``thetabox diff --json`` prints."""
        counts = {name: t.sum(1).tolist() for name, t in self._shown().items()}
        return {
            "schema": "thetabox.diff/1",
            "samples": self.label.numel(),
            "curve": [
                {self.kind: level, **{name: count[i] for name, count in counts.items()}}
                for i, level in enumerate(self.levels.tolist())
            ],
            "lost": list(self.samples()),
            "notes": self.notes,
        }

    def _shown(self) -> Mapping[str, Tensor]:
        return {"before": self.before, "after": self.after, "lost": self.lost, "gained": self.gained}


def diff(before: Claim, after: Claim) -> Difference:
    """Compare two certificates, or two proven yields, sample by sample, at every ε or σ that both hold.

    The networks may differ, and how their claims were proven; the question may not: the samples, the box or the noise,
    what counts as proven, and the arithmetic.

    Args:
        before: what was proven first.
        after: what is proven now.

    Raises:
        InputError: the two answer different questions, hold no level in common, or one of them is no proof.

    Example:
        >>> import thetabox as tb
        >>> test = tb.data.load("digits", "test").subset(10)
        >>> model = tb.models.ConvNet(input=(1, 8, 8), channels=(4,), kernel=3, hidden=(), classes=10)
        >>> one = tb.certify(model, test.x, test.y, [0, 1e-3], domain="interval")
        >>> two = tb.certify(model, test.x, test.y, [0, 1e-3], domain="auto")
        >>> int(tb.diff(one, two).lost.sum())
        0
    """
    if type(before) is not type(after):
        raise InputError("a claim of yield is never compared with one of a box: give two of one kind")
    one, other = _Side.of(before), _Side.of(after)
    _check_same(one, other)
    levels = sorted({*one.levels} & {*other.levels})
    symbol = {"epsilon": "ε", "sigma": "σ"}[one.kind]
    if not levels:
        raise InputError(f"the two hold no {symbol} in common, so there is nothing to compare")
    rows_before, rows_after = ([side.levels.index(level) for level in levels] for side in (one, other))
    alone = [f"{symbol} = {level!r}" for level in sorted({*one.levels} ^ {*other.levels})]
    return Difference(
        kind=one.kind,
        levels=torch.tensor(levels, dtype=torch.float64),
        label=before.label,
        before=one.proven[rows_before],
        after=other.proven[rows_after],
        bound_before=one.bound[rows_before],
        bound_after=other.bound[rows_after],
        notes=[*_notes(one, other), *([f"in one of the two alone: {', '.join(alone)}"] if alone else [])],
    )


@dataclass(frozen=True)
class _Side:
    """One of two claims, of whichever kind: what is asked of it, how it was proven, and what is."""

    claim: Claim
    kind: str
    levels: list[float]
    bound: Tensor
    proven: Tensor
    asked: Mapping[str, Any]
    ways: Mapping[str, Any]

    @classmethod
    def of(cls, claim: Claim) -> _Side:
        box = claim.box.describe()
        if isinstance(claim, YieldCertificate):
            asked: dict[str, Any] = {"noise": claim.noise.describe(), "failure probability": claim.asked, "box": box}
            ways: dict[str, Any] = {"method": claim.method, "options": claim.options}
            return cls(claim, "sigma", claim.sigma.tolist(), claim.delta, claim.proven, asked, ways)
        if not claim.sound:
            raise InputError(f"a certificate of the domain {claim.domain!r} proves nothing that could be lost")
        asked = {"criterion": claim.criterion, "arithmetic": claim.arithmetic, "box": box}
        ways = {"domain": claim.domain, "precision": claim.precision, "options": claim.options}
        return cls(claim, "epsilon", claim.epsilon.tolist(), claim.margin, claim.verified, asked, ways)


def _check_same(before: _Side, after: _Side) -> None:
    """Refuse two claims that answer different questions.

    Raises:
        InputError: what differs, by name.
    """
    labels = [side.claim.label for side in (before, after)]
    hashes = [side.claim.data_info.get("sha256") for side in (before, after)]
    if not torch.equal(*labels) or (None not in hashes and hashes[0] != hashes[1]):
        raise InputError("the two speak of other samples; certify both networks on the same data, split and samples")
    for name, one in before.asked.items():
        if one != (other := after.asked[name]):
            raise InputError(f"the two answer different questions: {name} {_parts(one, other)}")


def _parts(one: Any, other: Any) -> str:
    """What differs, of tables the entries that do."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return ", ".join(f"{name} {one.get(name)!r} and {other.get(name)!r}" for name in names)
    return f"{one!r} and {other!r}"


def _notes(before: _Side, after: _Side) -> Iterator[str]:
    """In what two comparable claims differ beside what they prove."""
    models = [side.claim.model_info.get("sha256") for side in (before, after)]
    if None in models:
        yield "not every claim says which network it speaks of"
    else:
        yield "the same network" if models[0] == models[1] else "another network"
    for name, one in before.ways.items():
        if one != (other := after.ways[name]):
            yield f"{name}: {_parts(one, other)}"
    for which, side in (("first", before), ("second", after)):
        if not side.claim.finished:
            yield f"the {which} was cut by its time limit: it may prove less than it could"


def _finite(number: float) -> float | None:
    """JSON knows no infinity: of such a margin nothing is known."""
    return number if abs(number) < float("inf") else None
