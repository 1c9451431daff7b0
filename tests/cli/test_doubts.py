"""What is allowed and rarely meant is said in one line, and nothing else changes; what is ordinary is not said."""

from __future__ import annotations

import json

import numpy as np
import pytest

import thetabox as tb

FAST = ("--domain", "interval", "--no-attack", "--no-radius")
SMALL = ("--data", "digits", "--samples", 4)


@pytest.fixture
def model(tmp_path):
    """A small network that says on what it was trained."""
    path = tmp_path / "m.safetensors"
    network = tb.models.ConvNet(input=(1, 8, 8), channels=(2,), kernel=3, hidden=(), classes=10)
    tb.save(network, path, info={"task": "digits"})
    return path


@pytest.fixture
def certified(run, tmp_path):
    def call(model, *given, epsilon="0,1e-3", out="out"):
        result = run("certify", model, *given, *FAST, "--epsilon", epsilon, "--out", tmp_path / out)
        assert result.exit_code == 0, result.output
        return result.stderr.strip().splitlines()

    return call


def pixels(path, factor: float, kind=np.float32):
    test = tb.data.load("digits", "test").subset(4)
    np.savez(path, x=(test.x.numpy() * factor).round().astype(kind), y=test.y.numpy())
    return path


def test_ordinary_calls_say_nothing(certified, model):
    assert certified(model, *SMALL) == []
    assert certified(model, *SMALL, epsilon="1") == []  # the same network and data again


def test_a_relative_box_beyond_zero(certified, model):
    (line,) = certified(model, *SMALL, epsilon="0,5")
    assert "at ε = 5 a relative box" in line
    assert "write 0.05" in line
    assert certified(model, *SMALL, "--box-kind", "absolute", epsilon="0,5", out="b") == []


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_data_of_another_scale_than_the_training(certified, model, tmp_path, kind):
    (line,) = certified(model, "--data", pixels(tmp_path / "d.npz", 255, kind))
    assert "reach 255, and those of digits, on which the network was trained, 1" in line


@pytest.mark.slow
def test_pixels_of_bytes_where_nothing_is_known_of_the_training(certified, tmp_path):
    network = tb.models.ConvNet(input=(1, 8, 8), channels=(2,), kernel=3, hidden=(), classes=10)
    tb.save(network, tmp_path / "n.safetensors")
    (line,) = certified(tmp_path / "n.safetensors", "--data", pixels(tmp_path / "d.npz", 255))
    assert "divide by 255" in line
    # Small whole numbers, and shares, are no bytes.
    for name, factor in (("e", 10), ("f", 1)):
        assert certified(tmp_path / "n.safetensors", "--data", pixels(tmp_path / f"{name}.npz", factor), out=name) == []


@pytest.mark.slow
def test_a_folder_that_holds_another_result(certified, run, model, tmp_path):
    certified(model, *SMALL)
    other = tmp_path / "other.safetensors"
    tb.save(tb.models.ConvNet(input=(1, 8, 8), channels=(3,), kernel=3, hidden=(), classes=10), other)
    (line,) = certified(other, *SMALL)
    assert line.endswith("certificate.json is of another network, and will be written over")
    (line,) = certified(other, "--data", "digits", "--samples", 5)
    assert line.endswith("certificate.json is of other data, and will be written over")
    radii = ("--domain", "interval", "--out", tmp_path / "radii")
    assert run("radius", model, *SMALL, *radii).stderr == ""
    assert "radius.json is of another network" in run("radius", other, *SMALL, *radii).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": 3}', "[" * 100_000, json.dumps({"model": {"sha256": 1}})]
)
def test_whatever_stands_in_the_file_is_no_error(certified, model, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "certificate.json").write_text(content)
    assert len(certified(model, *SMALL)) <= 1
