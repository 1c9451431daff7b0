"""A proof of yield one σ after the other, each kept as soon as it is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import thetabox as tb
from thetabox import report
from thetabox.cli.console import Steps
from thetabox.cli.inputs import Given
from thetabox.cli.kept import PARTIAL, part_kept
from thetabox.errors import InputError, UnsupportedOperator
from thetabox.verify.effort import Deadline
from thetabox.version import __version__


class Parts:
    """Certificates of single σ in a folder of their own, below ``partial``.

    Args:
        folder: of the output.
        given: network, samples and box.
        how: what else the question is: ``delta``, ``noise``, ``method``.
    """

    def __init__(self, folder: Path, given: Given, how: dict[str, Any]) -> None:
        self.given, self.how = given, how
        self.partial = folder / PARTIAL
        asked = {
            "tool": [__version__, str(torch.__version__)],
            "model": given.model_info,
            "data": given.data_info,
            "box": given.box.describe(),
            **how,
            "noise": how["noise"].describe(),
        }
        # The order of patterns counts.
        digest = hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()
        self.folder = self.partial / f"yield-{digest[:16]}"

    def certify(
        self, sigmas: Sequence[float], device: str, deadline: Deadline, progress: Steps | None
    ) -> tb.YieldCertificate:
        """The certificate of all σ; those that lie here are not proven again.

        Raises:
            InputError: the proof refuses the network, or anything else that was given.
        """
        with part_kept(self.partial, "no σ was finished yet"):
            parts = []
            for place, sigma in enumerate(sigmas):
                part = self._read(sigma)
                if part is None:
                    steps = None if progress is None else _among(progress, place, len(sigmas))
                    part = self._prove(sigma, device, deadline, steps)
                    if part.finished:
                        report.write_yield_proof(self.folder / repr(sigma), part)
                parts.append(part)
            return joined(parts)

    def remove(self) -> None:
        """Nothing of this needs to be kept any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # something else is in it
            self.partial.rmdir()

    def _prove(self, sigma: float, device: str, deadline: Deadline, progress: Any) -> tb.YieldCertificate:
        try:
            return tb.certify_yield(
                self.given.model,
                self.given.data.x,
                self.given.data.y,
                [sigma],
                box=self.given.box,
                device=device,
                progress=progress,
                timeout=deadline.left,
                model_info=self.given.model_info,
                data_info=self.given.data_info,
                **self.how,
            )
        except InputError as error:
            if isinstance(error, UnsupportedOperator) or "sampled_yield" in str(error):
                raise InputError(f"{error} (thetabox yield --sampled-only draws chips alone)") from error
            raise

    def _read(self, sigma: float) -> tb.YieldCertificate | None:
        try:
            part = tb.YieldCertificate.load(self.folder / repr(sigma))
        except InputError:  # not there, or damaged: it is proven anew
            return None
        return part if part.sigma.tolist() == [sigma] else None


def joined(parts: Sequence[tb.YieldCertificate]) -> tb.YieldCertificate:
    """One certificate of those of single σ, in their order."""
    known = all(part.proven_by for part in parts)
    return replace(
        parts[0],
        sigma=torch.cat([part.sigma for part in parts]),
        delta=torch.cat([part.delta for part in parts]),
        proven_by=[row for part in parts for row in part.proven_by] if known else [],
        ledger=[row for part in parts for row in part.ledger],
        seconds=sum(part.seconds for part in parts),
        finished=all(part.finished for part in parts),
    )


def _among(progress: Steps, place: int, count: int) -> Any:
    return lambda done, total: progress(place * total + done, count * total)
