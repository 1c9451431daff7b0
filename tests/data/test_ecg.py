"""The task ecg: rhythm, filter and windows by hand, the splits on the real records where they are at hand."""

import numpy as np
import pytest

from thetabox.data import ecg, load
from thetabox.data.mitbih import Record

RATE = 360.0


def test_patients_are_kept_apart():
    train, validation, test = (set(ecg.RECORDS[split]) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not (train | validation) & test
    assert (len(train), len(validation), len(test)) == (16, 5, 22)
    # 201 and 202 are one person; 102, 104, 107 and 217 have pacemakers.
    assert not (train | validation | test) & {201, 102, 104, 107, 217}


def test_classes_of_the_aami():
    names = ecg.TASK.classes
    assert {letter: names[ecg.AAMI[letter]] for letter in "NLRejAaJSVEF/fQ"} == {
        **dict.fromkeys("NLRej", "normal"),
        **dict.fromkeys("AaJS", "supraventricular"),
        **dict.fromkeys("VE", "ventricular"),
        "F": "fusion",
        **dict.fromkeys("/fQ", "unknown"),
    }


def test_band_pass_keeps_the_band_only():
    time = np.arange(36000) / RATE

    def gain(frequency):
        wave = np.sin(2 * np.pi * frequency * time)[None]
        return np.abs(ecg.band_pass(wave, RATE)).max()

    assert gain(0.1) < 1e-9
    assert gain(50.0) < 1e-9
    assert gain(10.0) == pytest.approx(1, abs=1e-3)
    assert np.abs(ecg.band_pass(np.full((1, 1000), 3.0), RATE)).max() < 1e-9


def test_rhythm_by_hand():
    # A beat every 0.8 s, one of them 0.4 s early.
    beats = np.arange(30) * 0.8 * RATE
    assert np.abs(ecg.rhythm(beats, RATE)).max() < 1e-9
    beats[15] -= 0.4 * RATE
    before, after, rate = ecg.rhythm(beats, RATE)[15] * ecg.RHYTHM_SCALE
    # Twenty-one intervals around it: 0.4, 1.2 and nineteen of 0.8 s.
    assert (before, after, rate) == pytest.approx((np.log(0.5), np.log(1.5), np.log(0.5)))


def _record(leads=("MLII", "V1")):
    time = np.arange(19800) / RATE  # whole periods: the filter has no edge to see
    signal = np.stack([np.sin(2 * np.pi * 5 * time), 3 * np.sin(2 * np.pi * 2 * time)])
    return Record("7", RATE, leads, signal, np.asarray([100, 300, 600, 900, 19790]), ("N", "V", "~", "A", "N"))


def test_windows_by_hand():
    x, labels = ecg.beat_windows(_record())
    # The first and the last beat have no whole window; the annotation of noise is no beat.
    assert x.shape == (2, *ecg.TASK.shape)
    assert labels == [ecg.AAMI["V"], ecg.AAMI["A"]]
    time = (300 + (np.arange(100) - 40) * 5) / RATE
    np.testing.assert_allclose(x[0, :, 0], np.sqrt(2) * np.sin(2 * np.pi * 5 * time), atol=0.02)
    np.testing.assert_allclose(x[0, :, 1], np.sqrt(2) * np.sin(2 * np.pi * 2 * time), atol=0.02)
    # A slope leads its sine by a quarter of a period, half a step of 5 samples late.
    late = time - 2.5 / RATE
    np.testing.assert_allclose(x[0, :, 2], np.sqrt(2) * np.cos(2 * np.pi * 5 * late), atol=0.02)
    assert (x[:, :, 4:] == x[:, :1, 4:]).all()


def test_lead_mlii_comes_first():
    swapped = _record(("V5", "MLII"))
    x, _ = ecg.beat_windows(swapped)
    plain, _ = ecg.beat_windows(_record())
    np.testing.assert_array_equal(x[:, :, 0], plain[:, :, 1])


@pytest.mark.long
def test_the_real_set(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path))
    data = load("ecg", "validation", shared_data)
    assert tuple(data.x.shape[1:]) == ecg.TASK.shape
    assert data.class_counts == [500, 136, 298, 17, 2]
    assert set(data.groups) == {str(number) for number in ecg.RECORDS["validation"]}
    assert load("ecg", "validation", shared_data).sha256 == data.sha256
    assert len(list((tmp_path / "processed").iterdir())) == 1
