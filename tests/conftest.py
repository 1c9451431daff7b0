"""What every test shares: one thread, fixed seeds, patient hypothesis, the folder of real data."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Derandomised, so that a failure in CI is a failure at home too.
hypothesis.settings.register_profile(
    "thetabox",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("thetabox")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that use the legacy generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets: THETABOX_DATA, else ../shared/data beside the repository."""
    named = os.environ.get("THETABOX_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data sets not found at {folder}; set THETABOX_DATA to the folder that holds them")
    return folder
