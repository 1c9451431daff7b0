"""A stored proven yield's two files, read as strictly as they were written: what one says, the other must say too."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.box import Box
from thetabox.checks import LARGEST_WHOLE
from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.stored import SCHEMA as SCHEMA_OF_A_BOX
from thetabox.verify.stored import SHA256, TRUTH
from thetabox.verify.yields.proofs import AUTO, METHODS

SCHEMA = "thetabox.yield/1"
COLUMNS = ("sample", "label", "predicted", "sigma", "delta", "proven")
# What the events of a ledger may add up to less than the failure probability that they explain: sums are rounded.
ROUNDED = 1e-6
KINDS = {"model": dict, "data": dict, "noise": dict, "box": dict, "options": dict, "checked": dict, "curve": list}


def facts(path: Path) -> dict[str, Any]:
    """The content of ``yield.json``, each entry of which a certificate is made of its kind.

    Raises:
        InputError: it is not a proven yield, or was changed by hand.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not a readable proven yield ({type(error).__name__}: {_line(error)})") from error
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if schema == SCHEMA_OF_A_BOX:
        raise InputError(f"{path} is the certificate of a box, and no proven yield")
    if schema != SCHEMA:
        raise InputError(f"{path} is not a {SCHEMA} file")
    for key, kind in KINDS.items():
        _demand(isinstance(stored.get(key), kind), path, f"{key!r} is missing or of another kind")
    _demand(isinstance(stored.get("finished", True), bool), path, "'finished' is neither true nor false")
    for key, own in (("box", Box().describe()), ("noise", Noise().describe())):
        _demand(stored[key].keys() == own.keys(), path, f"its {key} lacks entries or has others")
    method, asked = stored.get("method"), stored.get("delta")
    _demand(isinstance(method, str) and method in (AUTO, *METHODS), path, f"its method is {method!r}")
    _demand(_number(asked) and 0.0 < asked < 1.0, path, f"its 'delta' is {asked!r}")
    _demand(bool(stored["curve"]), path, "its curve holds no σ")
    for point in stored["curve"]:
        _demand(isinstance(point, dict), path, "its curve is damaged")
        sigma, total = point.get("sigma"), point.get("total")
        _demand(_number(sigma) and sigma >= 0, path, f"its curve has a σ of {sigma!r}")
        _demand(_whole(total) and total >= 1, path, f"its curve speaks of {total!r} samples")
        _demand(total == stored["curve"][0]["total"], path, "the points of its curve differ in samples")
        _demand(isinstance(point.get("ledger"), dict), path, "a point of its curve lacks its ledger")
    sigmas = [point["sigma"] for point in stored["curve"]]
    _demand(len(set(sigmas)) == len(sigmas), path, "its curve has a σ twice")
    _check_origin(path, stored["model"], stored["data"])
    total = stored["curve"][0]["total"]
    _demand(stored["data"]["samples"] == total, path, "its curve and its data differ in samples")
    _demand(stored["checked"].get("samples") == total, path, "it was not compared with the network on every sample")
    return dict(stored)


def samples(
    path: Path, stored: Mapping[str, Any]
) -> tuple[Float[Tensor, "sweeps samples"], Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """(delta ``[S, N]``, label ``[N]``, predicted ``[N]``) of ``samples.csv``, each row in its place.

    Raises:
        InputError: rows are missing, doubled or in another order, or say other things than ``yield.json``.
    """
    sigmas = [float(point["sigma"]) for point in stored["curve"]]
    total = stored["curve"][0]["total"]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *table = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or _line(error)}") from error
    _demand(tuple(header) == COLUMNS, path, f"its columns are not {', '.join(COLUMNS)}")
    if len(table) != total * len(sigmas):
        raise InputError(f"{path} has {len(table)} rows, the proven yield speaks of {total * len(sigmas)}")
    delta = torch.empty(len(sigmas), total, dtype=torch.float64)
    of_sample: list[tuple[int, int]] = []
    for line, row in enumerate(table):
        sweep, sample = divmod(line, total)
        where = f"line {line + 2}"
        _demand(len(row) == len(COLUMNS), path, f"{where} has {len(row)} columns")
        try:
            number, label, predicted = (int(cell) for cell in row[:3])
            sigma, failure = (float(cell) for cell in row[3:5])
            proven = TRUTH[row[5]]
        except (ValueError, KeyError):
            raise InputError(f"{path} cannot be read at {where}") from None
        _demand(number == sample, path, f"{where} is of sample {number}, where sample {sample} belongs")
        _demand(sigma == sigmas[sweep], path, f"{where} is of another σ than the curve")
        _demand(0.0 <= failure <= 1.0, path, f"the failure probability of {where} is none")  # nor is NaN one
        said = proven == (failure <= stored["delta"])
        _demand(said, path, f"{where} is {row[5]} of being proven at a failure probability of {row[4]}")
        right = label == predicted or failure == 1.0
        _demand(right, path, f"{where} bounds the failures of a class that is not predicted")
        classes = all(0 <= one < LARGEST_WHOLE for one in (label, predicted))
        _demand(classes, path, f"{where} has a class that is none")
        if sweep == 0:
            of_sample.append((label, predicted))
        _demand(of_sample[sample] == (label, predicted), path, f"{where} has another label or prediction than before")
        delta[sweep, sample] = failure
    labels, predictions = zip(*of_sample, strict=True)
    return delta, torch.tensor(labels), torch.tensor(predictions)


def compare(path: Path, stored: Mapping[str, Any], follows: Mapping[str, Any]) -> None:
    """Refuse what does not follow from the samples: counts, shares, accuracies, the claims in words, ledgers.

    Args:
        path: of ``yield.json``.
        stored: its content.
        follows: what the certificate that was made of both files would write.

    Raises:
        InputError: they differ, in more than the versions that wrote them.
    """
    for key in (stored.keys() | follows.keys()) - {"tool", "curve"}:
        _demand(_same(stored.get(key), follows.get(key)), path, f"{key!r} does not follow from its samples")
    for point, own in zip(stored["curve"], follows["curve"], strict=True):
        for key in point.keys() | own.keys():
            what = f"{key!r} at σ = {own['sigma']:g} does not follow from its samples"
            _demand(_same(point.get(key), own.get(key)), path, what)


def check_ledger(path: Path, stored: Mapping[str, Any], delta: Float[Tensor, "sweeps samples"]) -> None:
    """A ledger holds one proof's events, which add up to the largest failure probability that is proven.

    Raises:
        InputError: it does not.
    """
    for point, failures in zip(stored["curve"], delta, strict=True):
        where, ledger = f"the ledger at σ = {point['sigma']:g}", point["ledger"]
        proven = failures[failures <= stored["delta"]]
        _demand(bool(ledger) == bool(len(proven)), path, f"{where} does not fit what is proven")
        if not ledger:
            continue
        known = len(ledger) == 1 and all(name in METHODS for name in ledger)
        _demand(known, path, f"{where} is not of one proof that is known here")
        groups = next(iter(ledger.values()))
        entries: list[Any] = list(groups.values()) if isinstance(groups, dict) else [None]
        _demand(all(map(_entry, entries)), path, f"{where} is damaged")
        total = math.fsum(entry["probability"] for entry in entries)
        _demand(total >= float(proven.max()) * (1.0 - ROUNDED), path, f"{where} spends less than the claim")


def _entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"events", "probability"}:
        return False
    events, probability = entry["events"], entry["probability"]
    return _number(events) and events > 0 and _number(probability) and 0.0 <= probability <= 1.0


def _check_origin(path: Path, model: dict[str, Any], data: dict[str, Any]) -> None:
    for what, entries, text, counts in (
        ("model", model, "source", ("parameters", "perturbed")),
        ("data", data, "name", ("samples",)),
    ):
        _demand(isinstance(entries.get(text), str), path, f"{text!r} of its {what} is no text")
        for key in counts:
            _demand(_whole(entries.get(key)), path, f"{key!r} of its {what} is no whole number")
            _demand(entries[key] > 0, path, f"{key!r} of its {what} is {entries[key]}")
        known = entries.get("sha256")
        _demand(isinstance(known, str) and bool(SHA256.fullmatch(known)), path, f"its {what} has no SHA-256")
    _demand(isinstance(data.get("path", ""), str), path, "'path' of its data is no text")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what floats hold
        return False


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _demand(holds: bool, path: Path, what: str) -> None:
    if not holds:
        raise InputError(f"{path} is not a proven yield as it was written: {what}")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
