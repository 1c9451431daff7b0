"""What some tests cannot do without."""

from __future__ import annotations

import importlib.util

import pytest

MISSING = importlib.util.find_spec("auto_LiRPA") is None
auto_lirpa = pytest.mark.skipif(MISSING, reason="auto_LiRPA is not installed (make test installs it)")
