"""``digits``: the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import Dataset, balanced_order
from thetabox.data.task import Task

TEST, VALIDATION = 360, 180


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Digits ``[N, 1, 8, 8]`` in [0, 1] (grey levels / 16); class-balanced splits of 1257, 180 and 360."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    labels = bunch.target.astype(np.int64)
    order = balanced_order(labels, seed=0)
    parts = {
        "test": order[:TEST],
        "validation": order[TEST : TEST + VALIDATION],
        "train": order[TEST + VALIDATION :],
    }
    index = np.sort(parts[split])
    return from_arrays(images[index], labels[index], name=TASK.name, split=split, classes=list(TASK.classes))


TASK = Task(
    name="digits",
    title="Handwritten digits, 8×8 grey",
    shape=(1, 8, 8),
    classes=tuple("0123456789"),
    licence="CC BY 4.0 (UCI), as shipped with scikit-learn",
    source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
    description="Grey levels divided by 16. Fixed class-balanced splits of 1257 / 180 / 360 images; "
    "writers are not told apart in the set.",
    embedded=True,
    read=read,
)
