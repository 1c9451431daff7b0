"""A stored certificate's two files, read as strictly as they were written: what one says, the other must say too."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.box import Box
from thetabox.checks import LARGEST_WHOLE
from thetabox.errors import InputError
from thetabox.verify.arguments import CRITERIA
from thetabox.verify.arithmetic.rounding import ARITHMETICS, PRECISIONS

SCHEMA = "thetabox.certificate/1"
COLUMNS = ("sample", "label", "predicted", "epsilon", "margin", "verified")
SHA256 = re.compile("[0-9a-f]{64}")
TRUTH = {"true": True, "false": False}


def facts(path: Path) -> dict[str, Any]:
    """The content of ``certificate.json``, each entry of its kind, its curve in itself consistent.

    Raises:
        InputError: it is not a certificate, or was changed by hand.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not a readable certificate ({type(error).__name__}: {_line(error)})") from error
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
    _demand(_number(stored.get("seconds") or 0.0), path, "its 'seconds' are no number")
    _check_curve(path, stored["curve"])
    _check_facts(path, stored["model"], stored["data"])
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
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *table = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or _line(error)}") from error
    _demand(tuple(header) == COLUMNS, path, f"its columns are not {', '.join(COLUMNS)}")
    if len(table) != total * len(epsilons):
        raise InputError(f"{path} has {len(table)} rows, the certificate speaks of {total * len(epsilons)}")
    margin = torch.empty(len(epsilons), total, dtype=torch.float64)
    of_sample: list[tuple[int, int]] = []
    for line, row in enumerate(table):
        sweep, sample = divmod(line, total)
        where = f"line {line + 2}"
        try:
            number, label, predicted = (int(cell) for cell in row[:3])
            epsilon, bound = (float(cell) for cell in row[3:5])
            verified = TRUTH[row[5]]
            _demand(len(row) == len(COLUMNS), path, f"{where} has {len(row)} columns")
        except (ValueError, KeyError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read at {where}") from None
        _demand(number == sample, path, f"{where} is of sample {number}, where sample {sample} belongs")
        _demand(epsilon == epsilons[sweep], path, f"{where} is of another ε than the certificate's curve")
        _demand(bound < math.inf, path, f"the margin of {where} is no lower bound")  # NaN is not below infinity either
        _demand(verified == (bound > 0), path, f"{where} is {row[5]} of being verified at a margin of {row[4]}")
        _demand(not verified or label == predicted, path, f"{where} is verified for a class that is not predicted")
        classes = all(0 <= one < LARGEST_WHOLE for one in (label, predicted))
        _demand(classes, path, f"{where} has a class that is none")
        if sweep == 0:
            of_sample.append((label, predicted))
        _demand(of_sample[sample] == (label, predicted), path, f"{where} has another label or prediction than before")
        margin[sweep, sample] = bound
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
    _demand(effort is None or (_number(effort) and effort >= 0), path, f"its effort is {effort!r}")
    counts: list[Any] = list(stages.values()) if isinstance(stages, dict) else [None]
    counted = all(isinstance(c, list) and len(c) == len(stored["curve"]) and all(map(_whole, c)) for c in counts)
    _demand(counted, path, "what its stages proved is no count for each ε")
    for place, point in enumerate(stored["curve"]):
        _demand(sum(c[place] for c in counts) >= point["verified"], path, "its stages proved less than it counts")


def _check_facts(path: Path, model: dict[str, Any], data: dict[str, Any]) -> None:
    for what, entries, texts, counts in (
        ("model", model, ("source",), ("parameters", "perturbed")),
        ("data", data, ("name",), ("samples",)),
    ):
        for key in texts:
            _demand(isinstance(entries.get(key), str), path, f"{key!r} of its {what} is no text")
        for key in counts:
            _demand(_whole(entries.get(key)), path, f"{key!r} of its {what} is no whole number")
            _demand(entries[key] > 0, path, f"{key!r} of its {what} is {entries[key]}")
        known = entries.get("sha256")
        _demand(isinstance(known, str) and bool(SHA256.fullmatch(known)), path, f"its {what} has no SHA-256")
    _demand(isinstance(data.get("path", ""), str), path, "'path' of its data is no text")


def _check_curve(path: Path, curve: list[Any]) -> None:
    _demand(bool(curve), path, "its curve holds no ε")
    for point in curve:
        _demand(isinstance(point, dict), path, "its curve is damaged")
        epsilon, verified, total = (point.get(key) for key in ("epsilon", "verified", "total"))
        _demand(_number(epsilon) and epsilon >= 0, path, f"its curve has an ε of {epsilon!r}")
        _demand(_whole(total) and total >= 1, path, f"its curve speaks of {total!r} samples")
        _demand(total == curve[0]["total"], path, "the points of its curve differ in samples")
        _demand(_whole(verified) and 0 <= verified <= total, path, f"it counts {verified!r} of {total} samples")
        share = point.get("verified_accuracy")
        _demand(_close(share, verified / total), path, "a share is not its count")


def _number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what floats hold
        return False


def _close(value: Any, expected: float) -> bool:
    return _number(value) and math.isclose(float(value), expected, abs_tol=1e-12)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _demand(holds: bool, path: Path, what: str) -> None:
    if not holds:
        raise InputError(f"{path} is not a certificate as it was written: {what}")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
