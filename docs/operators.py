"""Write docs/operators.md, the table of supported operators, from the table of rules: ``python docs/operators.py``."""

from __future__ import annotations

import inspect
from pathlib import Path

import thetabox.verify  # noqa: F401  # fills the table
from thetabox.verify.interpreter.rules.table import TABLE


def page() -> str:
    """The page as Markdown."""
    by_rule: dict[str, list[str]] = {}
    for operator, rule in TABLE.items():
        if operator.startswith("aten.") and rule.function.__module__.startswith("thetabox."):
            what = (inspect.getdoc(rule.function) or "").splitlines()[0]
            by_rule.setdefault(f"{rule.function.__module__.rsplit('.', 1)[-1]}|{what}", []).append(operator)
    lines = ["# Supported operators", "", "Written by `docs/operators.py` from the table of rules.", ""]
    lines += ["| family | operators | what |", "| --- | --- | --- |"]
    for key, operators in sorted(by_rule.items()):
        family, what = key.split("|", 1)
        lines.append(
            f"| {family} | {', '.join(f'`{o}`' for o in sorted(operators))} | {what.replace('|', chr(92) + '|')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("operators.md").write_text(page(), encoding="utf-8")
