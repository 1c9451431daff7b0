"""Ctrl-C and SIGTERM: one line that says what was kept, and why where nothing was; what is proven is written first."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import thetabox as tb
from tests.cli.interrupting import POSIX, said
from thetabox.cli.commands import certify
from thetabox.errors import Terminated

SMALL = ("--data", "digits", "--samples", 6, "--epsilon", "0,1e-3", "--domain", "interval")

pytestmark = POSIX


def test_before_anything_is_read(run, cnn, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr(certify, "read_all", interrupted)
    line = said(run("certify", cnn, *SMALL, "--out", tmp_path / "out"))
    assert "nothing was kept" in line
    assert "had not begun" in line
    assert not (tmp_path / "out").exists()


def test_before_the_first_part_is_done(run, cnn, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr("thetabox.verify.search.sweep.grid", interrupted)
    line = said(run("certify", cnn, *SMALL, "--out", tmp_path / "out"))
    assert "nothing was kept" in line
    assert "no part of the proof was finished" in line
    assert not (tmp_path / "out").exists()


def test_after_a_part_is_done(run, cnn, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr(certify, "ProgressLine", lambda bar, title: interrupted)
    line = said(run("certify", cnn, *SMALL, "--no-attack", "--no-radius", "--out", tmp_path / "out"))
    assert "the finished part is kept" in line
    assert list((tmp_path / "out").glob("partial/*/*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["certified_radius", "attack"])
def test_the_proof_is_written_before_what_comes_after(run, cnn, tmp_path, monkeypatch, interrupted, step):
    seen = []

    def stop(*args, **kwargs):
        seen.extend(sorted(path.name for path in (tmp_path / "out").iterdir()))
        assert tb.Certificate.load(tmp_path / "out").epsilon.tolist() == [0, 1e-3]
        interrupted()

    monkeypatch.setattr(tb, step, stop)
    given = () if step == "certified_radius" else ("--no-radius",)
    line = said(run("certify", cnn, *SMALL, *given, "--out", tmp_path / "out"))
    assert seen[:1] == ["certificate.json"]
    assert "samples.csv" in seen
    assert "holds the proof" in line
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_goes_wrong_after_the_proof_costs_no_proof(run, cnn, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise tb.InputError("no")

    monkeypatch.setattr(tb, "attack", broken)
    result = run("certify", cnn, *SMALL, "--no-radius", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert tb.Certificate.load(tmp_path / "out").verified.shape == (2, 6)


def test_the_handler_is_put_back(run):
    def mine(*_: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN, mine):
            signal.signal(signal.SIGTERM, handler)
            assert run("methods").exit_code == 0
            assert run("nonesuch").exit_code == 2
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_who_ignores_the_signal_goes_on_ignoring_it(run, cnn, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    real = tb.certify
    monkeypatch.setattr(tb, "certify", lambda *a, **k: (os.kill(os.getpid(), signal.SIGTERM), real(*a, **k))[1])
    try:
        given = ("--no-attack", "--no-radius", "--out", tmp_path / "out")
        assert run("certify", cnn, *SMALL, *given).exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_there_are_no_signals(run):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run("methods").exit_code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_termination_is_a_keyboard_interrupt():
    assert issubclass(Terminated, KeyboardInterrupt)
