"""``vowels``: JapaneseVowels, who of nine speakers said it, from 12 cepstrum coefficients over time.

Kudo, Toyama, Shimbo (1999), UCI Machine Learning Repository, CC BY 4.0; see ATTRIBUTION.md beside the data files.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import Dataset, balanced_order
from thetabox.data.task import Task

STEPS = 60
VALIDATION = 54


def _parse(name: str) -> tuple[Float64[np.ndarray, "samples steps 12"], Int64[np.ndarray, " samples"]]:
    """Reads a ``.ts`` file: a line a sample, channels joined by ``:``, the class last; frames repeated to 60 steps."""
    text = gzip.decompress((files(__package__) / name).read_bytes()).decode("utf-8")
    lines = [line for line in text.splitlines() if line and line[0] not in "#@"]
    samples, labels = [], []
    for line in lines:
        *channels, label = line.split(":")
        frames = np.asarray([channel.split(",") for channel in channels], dtype=np.float64).T
        samples.append(frames[np.arange(STEPS) * len(frames) // STEPS])
        labels.append(int(label) - 1)
    return np.stack(samples), np.asarray(labels, dtype=np.int64)


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Vowels ``[N, 60, 12]``: frame t is the utterance's frame ⌊t·length/60⌋, normalised per coefficient."""
    x, y = _parse("JapaneseVowels_TRAIN.ts.gz")
    order = balanced_order(y, seed=0)
    train = np.sort(order[VALIDATION:])
    mean, deviation = x[train].mean((0, 1)), x[train].std((0, 1))
    if split == "test":
        x, y = _parse("JapaneseVowels_TEST.ts.gz")
    else:
        index = train if split == "train" else np.sort(order[:VALIDATION])
        x, y = x[index], y[index]
    x = ((x - mean) / deviation).astype(np.float32)
    return from_arrays(x, y, name=TASK.name, split=split, classes=list(TASK.classes))


TASK = Task(
    name="vowels",
    title="Japanese vowels, nine speakers",
    shape=(STEPS, 12),
    classes=tuple(f"speaker {number}" for number in range(1, 10)),
    licence="CC BY 4.0 (UCI)",
    source="https://archive.ics.uci.edu/dataset/128/japanese+vowels",
    citation="Kudo, Toyama, Shimbo: Multidimensional Curve Classification Using Passing-Through Regions, "
    "Pattern Recognition Letters 20(11-13):1103-1111, 1999",
    description="12 LPC cepstrum coefficients, 7 to 29 frames stretched to 60 steps, normalised by mean and standard "
    "deviation of the training split. The official 370 test utterances; of the 270 training ones, 6 a class "
    "validate. The class is the speaker, so speakers are shared by nature.",
    embedded=True,
    read=read,
)
