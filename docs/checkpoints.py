"""Write the table of ONNX operators at the end of docs/checkpoints.md: ``python docs/checkpoints.py``."""

from __future__ import annotations

import inspect
from pathlib import Path

from thetabox.models.onnx import OPERATORS
from thetabox.models.onnx.tails import ML_DECISIONS

PAGE = Path(__file__).with_suffix(".md")
MARK = "<!-- written by docs/checkpoints.py -->\n"


def table() -> str:
    """The table as Markdown."""
    lines = ["| operator | what | attributes | weights |", "| --- | --- | --- | --- |"]
    for (domain, name), operator in sorted(OPERATORS.items()):
        if not operator.function.__module__.startswith("thetabox."):
            continue
        what = (inspect.getdoc(operator.function) or "").splitlines()[0].replace("|", chr(92) + "|")
        cells = [f"`{domain + '.' if domain else ''}{name}`", what, ", ".join(operator.attributes)]
        weights = "any" if len(operator.weights) > 4 else ", ".join(str(place + 1) for place in operator.weights)
        lines.append(f"| {' | '.join([*cells, weights])} |")
    ml = ", ".join(f"`{name}`" for name in sorted(ML_DECISIONS))
    return "\n".join(
        [
            "The last column says which inputs are weights, counted from 1. `Constant` holds numbers; of `ai.onnx.ml`,",
            f"`LinearClassifier` and `Scaler` are read, and {ml} are left out behind the scores.",
            "",
            *lines,
            "",
        ]
    )


def page() -> str:
    """The page with its table."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(MARK) + len(MARK)] + table()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
