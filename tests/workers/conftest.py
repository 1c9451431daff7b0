from __future__ import annotations

from collections.abc import Iterator

import pytest

from thetabox.workers import LocalProcesses


@pytest.fixture(scope="session")
def two() -> Iterator[LocalProcesses]:
    """Two processes; what a test does to them the next does not see."""
    with LocalProcesses(2) as executor:
        yield executor
