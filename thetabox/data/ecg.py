"""``ecg``: heart beats of the MIT-BIH Arrhythmia Database in the five classes of the AAMI, patients kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import Dataset, balanced_order
from thetabox.data.files import processed
from thetabox.data.mitbih import CITATION, HOME, LICENCE, Record, read_record, record_files
from thetabox.data.task import Task

# ANSI/AAMI EC57: normal and bundle branch block, supraventricular, ventricular, fusion, paced or unknown.
AAMI = {
    **dict.fromkeys("NLRej", 0),
    **dict.fromkeys("AaJS", 1),
    **dict.fromkeys("VE", 2),
    "F": 3,
    **dict.fromkeys("/fQ", 4),
}
# Records of de Chazal, O'Dwyer, Reilly (2004): DS1 trains, DS2 tests; the four paced records are in neither. 201 (DS1)
# and 202 (DS2) are one person, so 201 is left out here. Five records of DS1, with all five classes, validate.
RECORDS = {
    "train": (106, 108, 109, 112, 114, 115, 116, 119, 122, 203, 207, 208, 209, 220, 223, 230),
    "validation": (101, 118, 124, 205, 215),
    "test": (
        100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210,
        212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234,
    ),
}  # a table  # fmt: skip
# At most so many beats of a class: nine of ten beats are normal. The test split stays as it is.
LIMIT = {"train": 3000, "validation": 500, "test": None}

STEPS, BEFORE, STRIDE = 100, 40, 5  # 100 steps at 72 Hz, the annotated R peak at step 40
BAND = (0.5, 30.0)  # Hz
RHYTHM_SCALE = 0.25
RHYTHM_BEATS = 10


def band_pass(signal: Float[np.ndarray, "leads samples"], rate: float) -> Float[np.ndarray, "leads samples"]:
    """Keeps ``BAND`` by a zero-phase filter with raised-cosine edges, 0.2 Hz wide below and 10 Hz wide above."""
    frequency = np.fft.rfftfreq(signal.shape[1], 1 / rate)
    lower = np.clip((frequency - BAND[0] + 0.2) / 0.2, 0, 1)
    upper = np.clip((BAND[1] + 10 - frequency) / 10, 0, 1)
    gain = (1 - np.cos(np.pi * lower)) * (1 - np.cos(np.pi * upper)) / 4
    return np.fft.irfft(np.fft.rfft(signal) * gain, signal.shape[1])


def rhythm(beats: Float[np.ndarray, " beats"], rate: float) -> Float[np.ndarray, "beats 3"]:
    """How early a beat comes, how long the next one waits, and the rate, as logarithms over ``RHYTHM_SCALE``.

    With the interval before a beat p, after it n, and c the mean of the intervals of up to ten beats before and ten
    after it (its own included): log(p/c), log(n/c), log(p/0.8 s), each clipped to ±1.2 before scaling.
    """
    interval = np.diff(beats) / rate
    before, after = np.concatenate([interval[:1], interval]), np.concatenate([interval, interval[-1:]])
    total = np.concatenate([[0.0], np.cumsum(before)])
    index = np.arange(len(beats))
    start, stop = np.maximum(index - RHYTHM_BEATS, 0), np.minimum(index + RHYTHM_BEATS + 1, len(beats))
    around = (total[stop] - total[start]) / (stop - start)
    ratios = np.stack([before / around, after / around, before / 0.8], axis=1)
    return np.clip(np.log(ratios), -1.2, 1.2) / RHYTHM_SCALE


def beat_windows(record: Record) -> tuple[Float32[np.ndarray, "beats steps 7"], list[int]]:
    """One window a beat: leads MLII and other, their slopes, and three constant channels of rhythm.

    The record is band-passed and divided by its standard deviation lead by lead, so that no patient's amplitude
    matters; slopes are differences of neighbouring steps, scaled alike. Beats whose window leaves the record are
    left out.
    """
    main = record.leads.index("MLII")
    signal = band_pass(record.signal[[main, 1 - main]], record.rate)
    signal /= signal.std(1, keepdims=True)
    # 5 samples before each: the slope over one step.
    slope = signal - np.concatenate([signal[:, :1].repeat(STRIDE, 1), signal[:, :-STRIDE]], axis=1)
    slope /= slope.std(1, keepdims=True)
    channels = np.concatenate([signal, slope]).T
    chosen = [
        (sample, AAMI[symbol]) for sample, symbol in zip(record.sample, record.symbol, strict=True) if symbol in AAMI
    ]
    beats = np.asarray([sample for sample, _ in chosen], dtype=np.float64)
    timing = rhythm(beats, record.rate)
    offsets = (np.arange(STEPS) - BEFORE) * STRIDE
    windows, labels = [], []
    for (sample, label), pace in zip(chosen, timing, strict=True):
        position = sample + offsets
        if position[0] < 0 or position[-1] >= len(channels):
            continue
        windows.append(np.concatenate([channels[position], np.tile(pace, (STEPS, 1))], axis=1))
        labels.append(label)
    return np.asarray(windows, dtype=np.float32), labels


def _make(split: str, files: dict[str, tuple[Path, Path, Path]]) -> dict[str, np.ndarray]:
    windows, labels, patients = [], [], []
    for name, paths in files.items():
        beats, classes = beat_windows(read_record(*paths))
        windows.append(beats)
        labels += classes
        patients += [name] * len(classes)
    x, y, groups = np.concatenate(windows), np.asarray(labels, dtype=np.int64), np.asarray(patients)
    limit = LIMIT[split]
    if limit is not None:
        # In balanced order the rank of a beat within its class is what decides.
        order = balanced_order(y, seed=0)
        kept = np.concatenate([order[y[order] == label][:limit] for label in range(len(TASK.classes))])
        index = np.sort(kept)
        x, y, groups = x[index], y[index], groups[index]
    return {"x": x, "y": y, "groups": groups}


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Beats ``[N, 100, 7]``; the record number is the group."""
    files = record_files(TASK.name, [str(number) for number in RECORDS[split]], data_dir)
    recipe = f"ecg 1 {split} {RECORDS[split]} {LIMIT} {STEPS} {BEFORE} {STRIDE} {BAND} {RHYTHM_SCALE} {RHYTHM_BEATS}"
    sources = [path for paths in files.values() for path in paths]
    arrays = processed(TASK.name, recipe, sources, lambda: _make(split, files))
    return from_arrays(
        arrays["x"],
        arrays["y"],
        name=TASK.name,
        split=split,
        classes=list(TASK.classes),
        groups=arrays["groups"].tolist(),
    )


TASK = Task(
    name="ecg",
    title="MIT-BIH arrhythmia, beats in five AAMI classes",
    shape=(STEPS, 7),
    classes=("normal", "supraventricular", "ventricular", "fusion", "unknown"),
    licence=LICENCE,
    source=HOME,
    citation=CITATION,
    description="A window a beat, 100 steps at 72 Hz, R peak at step 40: leads MLII and other, band-passed 0.5-30 Hz "
    "and scaled by record, their slopes, and three constant channels of rhythm (intervals, rate). "
    "Patients of DS1 (de Chazal et al. 2004, without 201, who is 202 of DS2) train and validate, at most 3,000 and 500 "
    "beats a class; patients of DS2 test, every beat.",
    embedded=False,
    read=read,
)
