"""The task ecg-beats: windows and splits by hand, the whole on made-up records and, where at hand, the real ones."""

from dataclasses import replace

import numpy as np
import pytest

from thetabox.data import SPLITS, ecg_beats, load
from thetabox.data.mitbih import Record, all_records
from thetabox.errors import InputError

BEAT = np.exp(-np.square(np.arange(-60, 61) / 8))  # an upward wave a third of a second long


def _record(beats, *, second=True):
    """Beats as (sample of the annotation, letter, sample of the peak, height)."""
    signal = np.zeros((2, 6000))
    for _, _, peak, height in beats:
        signal[0, peak - 60 : peak + 61] += height * BEAT
        signal[1, peak - 60 : peak + 61] -= second * height * BEAT
    return Record("7", 360.0, ("MLII", "V1"), signal, np.asarray([b[0] for b in beats]), tuple(b[1] for b in beats))


def test_windows_by_hand():
    x, labels = ecg_beats.beat_windows(
        _record([(1000, "V", 1020, 2.0), (2000, "N", 2000, 1.0), (3000, "R", 2960, 5.0)])
    )
    assert x.shape == (3, *ecg_beats.TASK.shape)
    assert [ecg_beats.TASK.classes[label] for label in labels] == ["ventricular", "normal", "right bundle branch block"]
    assert (x[:, :, 0].argmax(1) == 50).all()
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(1), 1, atol=1e-6)
    # Every second sample, and neither height nor a late annotation is seen.
    wave = np.exp(-np.square((np.arange(100) - 50) * 2 / 8))
    np.testing.assert_allclose(x[1, :, 0], (wave - wave.mean()) / wave.std(), atol=1e-5)
    np.testing.assert_allclose(x[:, :, 0], x[[1, 1, 1], :, 0], atol=1e-5)
    np.testing.assert_allclose(x[:, :, 1], -x[:, :, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("beat", "kept"),
    [
        ((1000, "L", 1040, 1.0), True),  # the peak at step 70
        ((1000, "L", 960, 1.0), True),  # at step 30
        ((1000, "L", 1042, 1.0), False),
        ((1000, "L", 958, 1.0), False),
        ((1000, "L", 1000, -1.0), False),  # it points downwards
        ((1000, "A", 1000, 1.0), False),  # of another class
        ((1000, "+", 1000, 1.0), False),  # no beat
        ((150, "L", 150, 1.0), False),  # the window may leave the record
        ((5850, "L", 5850, 1.0), False),
    ],
)
def test_which_beats_are_kept(beat, kept):
    x, labels = ecg_beats.beat_windows(_record([beat]))
    assert (len(x), len(labels)) == (kept, kept)


def test_a_flat_channel_stays_at_zero():
    x, _ = ecg_beats.beat_windows(_record([(1000, "N", 1000, 1.0)], second=False))
    assert (x[:, :, 1] == 0).all()


def test_every_split_is_balanced():
    labels = np.repeat(np.arange(4), [70, 40, 50, 60])
    split = ecg_beats.places(labels)
    counts = [np.bincount(labels[split == place], minlength=4).tolist() for place in range(3)]
    assert counts == [[32] * 4, [4] * 4, [4] * 4]
    assert (split == -1).sum() == 30 + 10 + 20
    # At random: a run of one record's beats goes to every split.
    assert set(split[:70]) == {-1, 0, 1, 2}


def test_the_split_is_the_same_on_every_machine():
    split = ecg_beats.places(np.arange(40) % 4)
    assert np.flatnonzero(split == 1).tolist() == [4, 7, 14, 33]
    assert np.flatnonzero(split == 2).tolist() == [26, 28, 35, 37]


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """All 48 records, each with twelve beats whose noise tells them apart, as if they lay in a folder."""
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path / "cache"))

    def record_files(task, names, data_dir):
        for name in names:
            (tmp_path / name).touch()
        return {name: (tmp_path / name,) * 3 for name in names}

    def read_record(path, *_):
        beats = [(400 * n + 400, "NLRV"[n % 4], 400 * n + 400, 1.0) for n in range(12)]
        record = _record(beats)
        noise = np.random.default_rng(int(path.name)).normal(0, 0.05, record.signal.shape)
        return replace(record, signal=record.signal + noise)

    monkeypatch.setattr(ecg_beats, "record_files", record_files)
    monkeypatch.setattr(ecg_beats, "read_record", read_record)


def _check(parts, fewest):
    """Shapes, balance, shares, and that no beat is in two splits."""
    size = 4 * fewest
    assert [tuple(part.x.shape[1:]) for part in parts] == [ecg_beats.TASK.shape] * 3
    for part in parts:
        assert part.classes == list(ecg_beats.TASK.classes)
        assert len(set(part.class_counts)) == 1
    assert sum(len(part) for part in parts) == size
    assert [len(part) / size for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    beats = [{row.tobytes() for row in part.x.numpy()} for part in parts]
    assert sum(len(part) for part in beats) == len(beats[0] | beats[1] | beats[2]) == size


def test_the_task_on_made_up_records(made_up):
    parts = [load("ecg-beats", split) for split in SPLITS]
    _check(parts, 144)
    assert set(parts[1].groups) | set(parts[2].groups) <= set(parts[0].groups) == set(all_records())
    assert [load("ecg-beats", split).sha256 for split in SPLITS] == [part.sha256 for part in parts]


def test_a_folder_without_the_records(tmp_path):
    with pytest.raises(InputError, match=r"task ecg-beats: record 100 .* not found"):
        load("ecg-beats", "test", tmp_path)


@pytest.mark.long
def test_the_real_set(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path))
    parts = [load("ecg-beats", split, shared_data) for split in SPLITS]
    _check(parts, 4622)
    # The same patients in all parts: whoever is tested or validated was trained on.
    train, validation, test = (set(part.groups) for part in parts)
    assert validation | test <= train
    assert len(train) == 48
    assert len(validation & test) > 30
    # All three splits come from one file of the cache.
    assert len(list((tmp_path / "processed").iterdir())) == 1
    assert load("ecg-beats", "test", shared_data).sha256 == parts[2].sha256
