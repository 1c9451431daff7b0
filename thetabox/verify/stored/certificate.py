"""A stored certificate's two files, read as strictly as they were written: what one says, the other must say too."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify.arguments import CRITERIA
from thetabox.verify.arithmetic.rounding import ARITHMETICS, PRECISIONS
from thetabox.verify.stored.files import check_origin, content, demand, is_number, is_whole, rows

SCHEMA = "thetabox.certificate/1"
COLUMNS = ("sample", "label", "predicted", "epsilon", "margin", "verified")
KIND = "certificate"

_demand = partial(demand, KIND)


def facts(path: Path) -> dict[str, Any]:
    """The content of ``certificate.json``, each entry of its kind, its curve in itself consistent.

    Raises:
        InputError: it is not a certificate, or was changed by hand.
    """
    stored = content(KIND, path)
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise InputError(f"{path} is not a {SCHEMA} certificate")
    kinds = {"model": dict, "data": dict, "box": dict, "options": dict, "domain": str, "sound": bool, "curve": list}
    kinds |= {"checked": dict}
    for key, kind in kinds.items():
        _demand(isinstance(stored.get(key), kind), path, f"{key!r} is missing or of another kind")
    _demand(isinstance(stored.get("finished", True), bool), path, "'finished' is neither true nor false")
    _demand(stored.get("arithmetic") in ARITHMETICS, path, f"its arithmetic is {stored.get('arithmetic')!r}")
    _demand(stored.get("precision") in tuple(PRECISIONS), path, f"its precision is {stored.get('precision')!r}")
    criterion = stored["options"].get("criterion", CRITERIA[0])
    _demand(criterion in CRITERIA, path, f"its criterion is {criterion!r}")
    _demand(stored["box"].keys() == Box().describe().keys(), path, "its box lacks entries or has others")
    _demand(is_number(stored.get("seconds") or 0.0), path, "its 'seconds' are no number")
    _check_curve(path, stored["curve"])
    check_origin(KIND, path, stored["model"], stored["data"])
    total = stored["curve"][0]["total"]
    _demand(stored["data"]["samples"] == total, path, "its curve and its data differ in samples")
    _demand(stored["checked"].get("samples") == total, path, "it was not compared with the network on every sample")
    _check_stages(path, stored)
    return stored


def samples(path: Path, stored: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(margin ``[E, N]``, label ``[N]``, predicted ``[N]``) of ``samples.csv``, which must fit the certificate.

    Raises:
        InputError: rows are missing, doubled or in another order, or say other things than the certificate.
    """
    epsilons = [float(point["epsilon"]) for point in stored["curve"]]
    total = stored["curve"][0]["total"]
    margin = torch.empty(len(epsilons), total, dtype=torch.float64)
    table = list(rows(KIND, path, COLUMNS, "ε", epsilons, total))
    for row in table:
        bound, where = row.bound, row.where
        _demand(bound < math.inf, path, f"the margin of {where} is no lower bound")  # NaN is not below infinity either
        said = row.holds == (bound > 0)
        _demand(said, path, f"{where} is {row.cells[5]} of being verified at a margin of {row.cells[4]}")
        predicted = not row.holds or row.label == row.predicted
        _demand(predicted, path, f"{where} is verified for a class that is not predicted")
        margin[row.level, row.sample] = bound
    of_sample = [(row.label, row.predicted) for row in table[:total]]
    counts = (margin > 0).sum(1).tolist()
    _demand(counts == [point["verified"] for point in stored["curve"]], path, "its counts are not the certificate's")
    right = sum(label == predicted for label, predicted in of_sample)
    clean = stored.get("clean_accuracy")
    _demand(_close(clean, right / total), path, "its accuracy is not the same")
    labels, predictions = zip(*of_sample, strict=True)
    return margin, torch.tensor(labels), torch.tensor(predictions)


def _check_stages(path: Path, stored: dict[str, Any]) -> None:
    """What the stages of ``auto`` proved, and with what effort."""
    options = stored["options"]
    if stored["domain"] != "auto":
        return
    for key in ("proven_by", "effort"):
        _demand(key in options, path, f"it lacks {key!r}, which 'auto' writes")
    effort, stages = options["effort"], options["proven_by"]
    _demand(effort is None or (is_number(effort) and effort >= 0), path, f"its effort is {effort!r}")
    counts: list[Any] = list(stages.values()) if isinstance(stages, dict) else [None]
    counted = all(isinstance(c, list) and len(c) == len(stored["curve"]) and all(map(is_whole, c)) for c in counts)
    _demand(counted, path, "what its stages proved is no count for each ε")
    for place, point in enumerate(stored["curve"]):
        _demand(sum(c[place] for c in counts) >= point["verified"], path, "its stages proved less than it counts")


def _check_curve(path: Path, curve: list[Any]) -> None:
    _demand(bool(curve), path, "its curve holds no ε")
    for point in curve:
        _demand(isinstance(point, dict), path, "its curve is damaged")
        epsilon, verified, total = (point.get(key) for key in ("epsilon", "verified", "total"))
        _demand(is_number(epsilon) and epsilon >= 0, path, f"its curve has an ε of {epsilon!r}")
        _demand(is_whole(total) and total >= 1, path, f"its curve speaks of {total!r} samples")
        _demand(total == curve[0]["total"], path, "the points of its curve differ in samples")
        _demand(is_whole(verified) and 0 <= verified <= total, path, f"it counts {verified!r} of {total} samples")
        share = point.get("verified_accuracy")
        _demand(_close(share, verified / total), path, "a share is not its count")


def _close(value: Any, expected: float) -> bool:
    return is_number(value) and math.isclose(float(value), expected, abs_tol=1e-12)
