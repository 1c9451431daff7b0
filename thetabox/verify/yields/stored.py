"""A stored proven yield's two files, read as strictly as they were written: what one says, the other must say too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.stored import SCHEMA as SCHEMA_OF_A_BOX
from thetabox.verify.stored.files import check_origin, content, demand, is_number, is_whole, rows
from thetabox.verify.yields.proofs import AUTO, METHODS

SCHEMA = "thetabox.yield/1"
COLUMNS = ("sample", "label", "predicted", "sigma", "delta", "proven", "proven_by")
# What the events of a ledger may add up to less than the failure probability that they explain: sums are rounded.
ROUNDED = 1e-6
KIND = "proven yield"
KINDS = {"model": dict, "data": dict, "noise": dict, "box": dict, "options": dict, "checked": dict, "curve": list}

_demand = partial(demand, KIND)


def facts(path: Path) -> dict[str, Any]:
    """The content of ``yield.json``, each entry of which a certificate is made of its kind.

    Raises:
        InputError: it is not a proven yield, or was changed by hand.
    """
    stored = content(KIND, path)
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
    _demand(is_number(asked) and 0.0 < asked < 1.0, path, f"its 'delta' is {asked!r}")
    _demand(bool(stored["curve"]), path, "its curve holds no σ")
    for point in stored["curve"]:
        _demand(isinstance(point, dict), path, "its curve is damaged")
        sigma, total = point.get("sigma"), point.get("total")
        _demand(is_number(sigma) and sigma >= 0, path, f"its curve has a σ of {sigma!r}")
        _demand(is_whole(total) and total >= 1, path, f"its curve speaks of {total!r} samples")
        _demand(total == stored["curve"][0]["total"], path, "the points of its curve differ in samples")
        _demand(isinstance(point.get("ledger"), dict), path, "a point of its curve lacks its ledger")
    sigmas = [point["sigma"] for point in stored["curve"]]
    _demand(len(set(sigmas)) == len(sigmas), path, "its curve has a σ twice")
    check_origin(KIND, path, stored["model"], stored["data"])
    total = stored["curve"][0]["total"]
    _demand(stored["data"]["samples"] == total, path, "its curve and its data differ in samples")
    _demand(stored["checked"].get("samples") == total, path, "it was not compared with the network on every sample")
    return dict(stored)


def samples(
    path: Path, stored: Mapping[str, Any]
) -> tuple[Float[Tensor, "levels samples"], Int[Tensor, " samples"], Int[Tensor, " samples"], list[list[str]]]:
    """(delta ``[S, N]``, label ``[N]``, predicted ``[N]``, names of proofs ``[S][N]``) of ``samples.csv``, in order.

    Raises:
        InputError: rows are missing, doubled or in another order, or say other things than ``yield.json``.
    """
    sigmas = [float(point["sigma"]) for point in stored["curve"]]
    total = stored["curve"][0]["total"]
    delta = torch.empty(len(sigmas), total, dtype=torch.float64)
    proofs: list[list[str]] = [[] for _ in sigmas]
    table = list(rows(KIND, path, COLUMNS, "σ", sigmas, total))
    for row in table:
        failure, where = row.bound, row.where
        _demand(0.0 <= failure <= 1.0, path, f"the failure probability of {where} is none")  # nor is NaN one
        said = row.holds == (failure <= stored["delta"])
        _demand(said, path, f"{where} is {row.cells[5]} of being proven at a failure probability of {row.cells[4]}")
        right = row.label == row.predicted or failure == 1.0
        _demand(right, path, f"{where} bounds the failures of a class that is not predicted")
        delta[row.level, row.sample] = failure
        proofs[row.level].append(row.cells[6])
    _check_proofs(path, proofs, delta)
    of_sample = [(row.label, row.predicted) for row in table[:total]]
    labels, predictions = zip(*of_sample, strict=True)
    return delta, torch.tensor(labels), torch.tensor(predictions), proofs


def _check_proofs(path: Path, proofs: list[list[str]], delta: Float[Tensor, "levels samples"]) -> None:
    """Every bound below 1 has the proof that gave it, and no other entry has one; or none is known of any."""
    if not any(name for row in proofs for name in row):
        return
    for n, (name, failure) in enumerate(zip(chain(*proofs), delta.flatten().tolist(), strict=True)):
        _demand(not name or name in METHODS, path, f"line {n + 2} is proven by {name!r}, which is not known here")
        _demand(bool(name) == (failure < 1.0), path, f"line {n + 2} does not say which proof gave its bound")


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


def check_ledger(
    path: Path, stored: Mapping[str, Any], delta: Float[Tensor, "levels samples"], proofs: list[list[str]]
) -> None:
    """A ledger holds one proof's events, which add up to the largest failure probability that is proven, by that proof.

    Raises:
        InputError: it does not.
    """
    for point, failures, names in zip(stored["curve"], delta, proofs, strict=True):
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
        largest = float(proven.max())
        _demand(total >= largest * (1.0 - ROUNDED), path, f"{where} spends less than the claim")
        hardest = {name for name, failure in zip(names, failures.tolist(), strict=True) if failure == largest}
        _demand(hardest == {""} or not hardest.isdisjoint(ledger), path, f"{where} is of another proof than the claim")


def _entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"events", "probability"}:
        return False
    events, probability = entry["events"], entry["probability"]
    return is_number(events) and events > 0 and is_number(probability) and 0.0 <= probability <= 1.0


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
