"""The page of supported operators is the table of rules."""

from __future__ import annotations

import runpy
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"


def test_page_is_current() -> None:
    written = runpy.run_path(str(PAGE.with_suffix(".py")))["page"]()
    assert PAGE.read_text(encoding="utf-8") == written, "run: python docs/operators.py"
