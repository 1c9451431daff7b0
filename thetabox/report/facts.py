"""What every page says about where its numbers come from: model, data, box."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from thetabox.report.results import number

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate
    from thetabox.verify.yields.certificate import YieldCertificate

Rows = list[tuple[str, str | Markup]]

# What a box's ε, or a noise's σ, is a multiple of.
UNITS = {"relative": "|θ|", "absolute": "1", "range": "max θ − min θ of its tensor"}


def origin(certificate: Certificate | YieldCertificate) -> Rows:
    """Which model and which samples, with their hashes."""
    model, data = certificate.model_info, certificate.data_info
    parameters, perturbed = count_text(model.get("parameters")), count_text(model.get("perturbed"))
    samples = count_text(certificate.label.shape[0])
    rows: Rows = [("model", source(certificate)), ("model sha256", _hash(model.get("sha256")))]
    if "file" in model:
        rows.append(("file of the model", _file(model["file"])))
    if "code" in model:
        changed = ", ".join(f"{name}={value}" for name, value in (model.get("set") or {}).items())
        rows.append(("class of the model", f"{model['code']}{f' with {changed}' if changed else ''}"))
        rows.append(("its file's sha256", _hash(model.get("code_sha256"))))
    if "cells" in model:
        rows.append(("spiking cells", str(model["cells"])))
    if "branching_ratio" in model:
        ratio = f"{number(model['branching_ratio'])}: so many other cells change their spikes with a marginal one"
        rows.append(("branching ratio", f"{ratio}; proofs go far where it is 1 or less"))
    return [
        *rows,
        ("parameters", f"{parameters}, of which {perturbed} in the box"),
        ("data", f"{data.get('name') or 'arrays in memory'}, {samples} samples"),
        ("data sha256", _hash(data.get("sha256"))),
    ]


def interface(model: Mapping[str, Any]) -> Rows:
    """How inputs and outputs of the network are read, where they are not one tensor of each."""
    rows: Rows = []
    if "inputs" in model:
        rows.append(("inputs", ", ".join(str(shape) for shape in model["inputs"])))
    if "answer" in model:
        rows.append(("answer read as", str(model["answer"])))
    return rows


def source(certificate: Certificate | YieldCertificate) -> str:
    """Name of the model."""
    return str(certificate.model_info.get("source") or "model")


def patterns(box: Mapping[str, Any], size: str = "ε") -> str:
    """Which parameters a box holds, in words; ``size`` is what its factors multiply."""
    text = "every weight and bias" if box["include"] == "*" else f"parameters {box['include']}"
    if box["exclude"]:
        text += f" but {box['exclude']}"
    if box["scale"]:
        text += f"; {size} times " + ", ".join(f"{number(f)} for {p}" for p, f in box["scale"].items())
    return text + ("; batch norm folded" if box["fold"] else "")


def count_text(value: Any) -> str:
    """A count with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value if value is not None else "–")


def _file(facts: Mapping[str, Any]) -> str:
    """What is known of a graph file: by what it was written, and whether batch norms stand in it."""
    said = [f"{facts.get('format')} by {facts.get('producer')}"]
    words = {
        "opset": "opset",
        "batch_norm": "batch norm:",
        "output": "logits:",
        "batch": "batch:",
        "dynamics": "dynamics",
        "framework": "as in",
        "update": "that is",
    }
    return "; ".join([*said, *(f"{word} {facts[key]}" for key, word in words.items() if key in facts)])


def _hash(value: Any) -> str | Markup:
    text = str(value or "–")
    return Markup("<code>{}</code>").format(text) if re.fullmatch(r"[0-9a-f]{16,}", text) else text
