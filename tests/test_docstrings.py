"""Examples in the docstrings of the public functions are run."""

from __future__ import annotations

import doctest

import pytest

import thetabox as tb

SHOWN = {
    "Box": tb.Box,
    "Noise": tb.Noise,
    "attack": tb.attack,
    "certified_radius": tb.certified_radius,
    "certify": tb.certify,
    "inspect": tb.inspect,
    "logit_bounds": tb.logit_bounds,
    "certify_yield": tb.certify_yield,
    "mismatch": tb.mismatch,
    "proven_sigma": tb.proven_sigma,
    "sampled_yield": tb.sampled_yield,
    "workers.LocalProcesses": tb.workers.LocalProcesses,
    "workers.Pool": tb.workers.Pool,
    "workers.on_cluster": tb.workers.on_cluster,
}


@pytest.mark.parametrize("name", SHOWN)
def test_example(name: str) -> None:
    tests = doctest.DocTestFinder(recurse=False).find(SHOWN[name], name)
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    assert sum(runner.run(test).failed for test in tests) == 0
