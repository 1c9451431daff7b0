"""Write docs/operators.md, the table of supported operators, from the tables of rules: ``python docs/operators.py``."""

from __future__ import annotations

import inspect
from collections.abc import Container
from pathlib import Path

import thetabox.verify  # noqa: F401  # fills the table
from thetabox.verify.histories.description.operators import RULES as FOLLOWED
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.linear.walk import BACKWARD

INTRODUCTION = (
    "Written by `docs/operators.py` from the tables of rules. All of these are bounded by intervals. The last two",
    "columns say which the domain `linear` goes back through, in the forms that its rules take, and which the domain",
    "`histories` understands in the step of a spiking network that is checked against its description. An operator",
    "that is not listed and that torch itself computes by calling others (`torch.square`, `torch.clip`, `F.glu`, …) is",
    "bounded as those.",
)


def page() -> str:
    """The page as Markdown."""
    by_rule: dict[str, list[str]] = {}
    for operator, rule in TABLE.items():
        if operator.startswith("aten.") and rule.function.__module__.startswith("thetabox."):
            what = (inspect.getdoc(rule.function) or "").splitlines()[0]
            by_rule.setdefault(f"{rule.function.__module__.rsplit('.', 1)[-1]}|{what}", []).append(operator)
    lines = ["# Supported operators", "", *INTRODUCTION, ""]
    lines += ["| family | operators | what | `linear` | `histories` |", "| --- | --- | --- | --- | --- |"]
    for key, operators in sorted(by_rule.items()):
        family, what = key.split("|", 1)
        cells = [family, _listed(operators), what.replace("|", chr(92) + "|")]
        cells += [_some(operators, BACKWARD), _some(operators, _followed(operators))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _listed(operators: list[str]) -> str:
    return ", ".join(f"`{o}`" for o in sorted(operators))


def _followed(operators: list[str]) -> set[str]:
    """Those that a description of a step is followed through."""
    return {o for o in operators if o.split(".")[1] in FOLLOWED}


def _some(operators: list[str], table: Container[str]) -> str:
    known = [o for o in operators if o in table]
    if len(known) in (0, len(operators)):
        return "yes" if known else ""
    return _listed(known)


if __name__ == "__main__":
    Path(__file__).with_name("operators.md").write_text(page(), encoding="utf-8")
