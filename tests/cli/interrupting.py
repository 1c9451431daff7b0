"""Signals that end a command, and the one line that it ends with."""

from __future__ import annotations

import signal
import sys

import pytest
from click.testing import Result

WAYS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")


def said(result: Result) -> str:
    assert result.exit_code == 130, (result.exit_code, result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in result.output
    return lines[0]
