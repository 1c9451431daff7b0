"""``ecg-beats``: heart beats of the MIT-BIH Arrhythmia Database in four balanced classes, split at random.

The ECG task of Büchel, Faber, Muir (ICLR 2022). Beats of one patient stand in all three splits, so that a network
meets at test the hearts it was trained on: its accuracy says nothing of a patient it has never seen, which is what
the task ``ecg`` asks.

The paper's, by its authors' public settings: four classes, as many beats of each as the rarest has; two channels,
every second sample, each channel of a beat normalised, 100 steps centred on the largest peak of the first channel; a
beat whose peak lies before step 30 or after step 70 of its window is left out; 80, 10 and 10 % at random.

Ours, where these leave it open or differ:

1. The classes are the four commonest annotations, N, L, R and V; the settings number the classes and do not name them.
2. A beat's window is 100 steps around its annotation, cut anew from the record around the peak. Theirs is the
   beat's own stretch of the record, lengthened by its edge values.
3. Which beats of the commoner classes are kept is drawn from all 48 records; theirs are the first ones.
4. Each class by itself is split 80 : 10 : 10, by :func:`thetabox.data.dataset.fixed_order`: all splits are balanced,
   and the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import SPLITS, Dataset, fixed_order
from thetabox.data.files import processed
from thetabox.data.mitbih import CITATION, HOME, LICENCE, Record, all_records, read_record, record_files
from thetabox.data.task import Task

CLASSES = {"N": "normal", "L": "left bundle branch block", "R": "right bundle branch block", "V": "ventricular"}
STEPS, STRIDE = 100, 2  # 100 steps at 180 Hz
EARLIEST, LATEST = 30, 70  # steps of a window between which its largest peak must lie
ENDS = (0.8, 0.9)  # shares of a class where training and validation end
SEED = 0


def beat_windows(record: Record) -> tuple[Float32[np.ndarray, "beats steps 2"], list[int]]:
    """One window a beat, its largest peak of the first channel at step 50, each channel of mean 0 and deviation 1.

    Left out are beats whose peak is not near the annotation, as most that point downwards, and those whose window
    leaves the record.
    """
    offsets = (np.arange(STEPS) - STEPS // 2) * STRIDE
    # A window moves by half its width at most.
    inside = range(STEPS * STRIDE, record.signal.shape[1] - STEPS * STRIDE)
    letters = list(CLASSES)
    windows, labels = [], []
    for sample, symbol in zip(record.sample.tolist(), record.symbol, strict=True):
        if symbol not in CLASSES or sample not in inside:
            continue
        peak = int(record.signal[0, sample + offsets].argmax())
        if not EARLIEST <= peak <= LATEST:
            continue
        window = record.signal[:, sample + offsets[peak] + offsets].T
        deviation = window.std(0)
        # A channel that is flat stays at 0.
        windows.append((window - window.mean(0)) / np.where(deviation > 0, deviation, 1))
        labels.append(letters.index(symbol))
    return np.asarray(windows, dtype=np.float32).reshape(-1, STEPS, 2), labels


def places(labels: Int64[np.ndarray, " beats"]) -> Int64[np.ndarray, " beats"]:
    """The split of every beat, as a place in ``SPLITS``; −1 for those of a class that has more than the rarest."""
    order = fixed_order(len(labels), SEED, TASK.name)
    fewest = int(np.bincount(labels, minlength=len(CLASSES)).min())
    ends = [round(share * fewest) for share in ENDS]
    rank_split = np.searchsorted(ends, np.arange(fewest), side="right")
    split = np.full(len(labels), -1, dtype=np.int64)
    for label in range(len(CLASSES)):
        split[order[labels[order] == label][:fewest]] = rank_split
    return split


def _make(files: dict[str, tuple[Path, Path, Path]]) -> dict[str, np.ndarray]:
    windows, labels, records = [], [], []
    for name, paths in files.items():
        beats, classes = beat_windows(read_record(*paths))
        windows.append(beats)
        labels += classes
        records += [name] * len(classes)
    y = np.asarray(labels, dtype=np.int64)
    split = places(y)
    kept = split >= 0
    return {"x": np.concatenate(windows)[kept], "y": y[kept], "groups": np.asarray(records)[kept], "split": split[kept]}


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Beats ``[N, 100, 2]``; the record number is the group."""
    files = record_files(TASK.name, all_records(), data_dir)
    recipe = f"ecg-beats 1 {list(CLASSES)} {STEPS} {STRIDE} {EARLIEST} {LATEST} {ENDS} {SEED}"
    sources = [path for paths in files.values() for path in paths]
    arrays = processed(TASK.name, recipe, sources, lambda: _make(files))
    index = np.flatnonzero(arrays["split"] == SPLITS.index(split))
    return from_arrays(
        arrays["x"][index],
        arrays["y"][index],
        name=TASK.name,
        split=split,
        classes=list(TASK.classes),
        groups=arrays["groups"][index].tolist(),
    )


TASK = Task(
    name="ecg-beats",
    title="MIT-BIH arrhythmia, beats in four balanced classes",
    shape=(STEPS, 2),
    classes=tuple(CLASSES.values()),
    licence=LICENCE,
    source=HOME,
    citation=CITATION,
    description="A window a beat, 100 steps at 180 Hz, both channels as recorded, each of mean 0 and deviation 1, the "
    "largest peak of the first at step 50. As many beats of each class as the rarest has, from all 48 records, split "
    "at random 80/10/10: beats of the same patients train, validate and test (Büchel, Faber, Muir, ICLR 2022). For "
    "patients never seen, see ecg.",
    embedded=False,
    read=read,
)
