"""Noise: what is refused, which pattern counts, and what is written down."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thetabox.errors import InputError
from thetabox.noise import KINDS, Noise

READ = {"scale": "factor", "drift": "shift", "drift_bound": "bound"}
READ_OTHERWISE = {"scale": 1.0, "drift": 0.0, "drift_bound": 0.0}
DENSE = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
PATTERNED = ("scale", "drift", "drift_bound")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "uniform"}, "unknown noise 'uniform'; choose one of gaussian, subgaussian"),
        ({"kind": "Gaussian"}, "unknown noise 'Gaussian'"),
        ({"kind": None}, "unknown noise None"),
        ({"kind": ["gaussian"]}, "unknown noise"),
        ({"scale": 2.0}, "scale of the noise must be a dictionary of pattern to number, not float"),
        ({"scale": [("*", 1.0)]}, "not list"),
        ({"drift": None}, "drift of the noise must be a dictionary of pattern to number, not NoneType"),
        ({"scale": {"*": "1"}}, "scale of the noise"),
        ({"scale": {"*": True}}, "True"),
        ({"scale": {"*": None}}, "None"),
        ({"scale": {"*": 1j}}, "1j"),
        ({"scale": {3: 1.0}}, "3"),
        ({"scale": {"*bias": -0.5}}, r"scale of the noise for '\*bias' is -0.5; it must be a finite number of"),
        ({"drift_bound": {"*": -0.1}}, "drift_bound of the noise for '.*' is -0.1; .* at least 0"),
        ({"correlated": {"chip": -0.1}}, "correlated of the noise for 'chip' is -0.1; .* at least 0"),
        ({"correlated": {"wafer": 0.1}}, "unknown key 'wafer' of correlated noise; choose among chip, layer"),
        ({"correlated": {"*": 0.1}}, "unknown key"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        Noise(**arguments)  # type: ignore[arg-type]  # on purpose
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", [*PATTERNED, "correlated"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(what: str, number: float) -> None:
    with pytest.raises(InputError, match=f"^{what} of the noise for 'chip' is {number}; it must be a finite number"):
        Noise(**{what: {"chip": number}})  # type: ignore[arg-type]  # on purpose


def test_only_a_known_drift_has_a_sign() -> None:
    assert Noise(drift={"*": -0.05}).shift("w") == -0.05


@pytest.mark.parametrize("number", [2, np.float32(2.0), np.int64(2), Fraction(2)])
def test_numbers_of_any_real_type_become_floats(number: object) -> None:
    noise = Noise(scale={"*": number}, correlated={"chip": number})  # type: ignore[dict-item]  # on purpose
    assert [type(v) for v in (*noise.scale.values(), *noise.correlated.values())] == [float, float]
    assert noise.factor("w") == 2.0


def test_without_patterns_nothing_is_scaled_or_shifted() -> None:
    noise = Noise()
    assert (noise.factor("w"), noise.shift("w"), noise.bound("w")) == (1.0, 0.0, 0.0)
    noise = Noise(scale={"a": 2.0}, drift={"a": 0.1}, drift_bound={"a": 0.2})
    assert (noise.factor("b"), noise.shift("b"), noise.bound("b")) == (1.0, 0.0, 0.0)
    assert (noise.factor("a"), noise.shift("a"), noise.bound("a")) == (2.0, 0.1, 0.2)


def test_the_first_pattern_that_matches_counts_not_the_closest() -> None:
    noise = Noise(scale={"*bias": 0.5, "0.*": 2.0, "0.bias": 9.0, "*": 3.0})
    assert [noise.factor(name) for name in NAMES] == [2.0, 0.5, 3.0, 0.5]
    assert Noise(scale={"*": 3.0, "*bias": 0.5}).factor("0.bias") == 3.0


def test_a_factor_of_zero_is_a_match_and_no_default() -> None:
    assert Noise(scale={"*bias": 0.0, "*": 2.0}).factor("0.bias") == 0.0


def test_patterns_heed_case_and_brackets() -> None:
    noise = Noise(scale={"W_*": 2.0, "[02].weight": 3.0, "?.bias": 4.0})
    assert [noise.factor(n) for n in ("W_in", "w_in", "2.weight", "1.weight", "0.bias", "10.bias")] == [
        2.0,
        1.0,
        3.0,
        1.0,
        4.0,
        1.0,
    ]


@given(st.dictionaries(st.sampled_from(["*", "*.weight", "0.*", "2.bias", "x"]), st.floats(0.0, 10.0)))
def test_a_factor_is_that_of_the_first_match_or_one(scale: dict[str, float]) -> None:
    matches = {
        "*": NAMES,
        "*.weight": ["0.weight", "2.weight"],
        "0.*": ["0.weight", "0.bias"],
        "2.bias": ["2.bias"],
        "x": [],
    }
    noise = Noise(scale=scale)
    for name in NAMES:
        first = [number for pattern, number in scale.items() if name in matches[pattern]][:1] or [1.0]
        assert noise.factor(name) == first[0]


@pytest.mark.parametrize("what", PATTERNED)
def test_a_pattern_that_matches_nothing_is_refused(what: str) -> None:
    noise = Noise(**{what: {"*bias": 0.1, "fc.*": 0.2}})  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match=rf"^the {what} pattern 'fc\.\*' of the noise matches none of") as error:
        noise.on(DENSE, NAMES)
    # Some names that there are, not all of a large network.
    assert str(error.value).endswith("0.weight, 0.bias, 2.weight, …")
    # Those that are not in the box are none.
    with pytest.raises(InputError, match=r"none of 0\.bias$"):
        Noise(**{what: {"*weight": 0.1}}).on(DENSE, ["0.bias"])  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match=r"none of no parameters$"):
        noise.on(DENSE, [])


def test_a_pattern_behind_one_that_takes_all_still_matches() -> None:
    noise = Noise(scale={"*": 1.0, "0.bias": 2.0}).on(DENSE, NAMES)
    assert [noise.factor(name) for name in NAMES] == [1.0] * 4
    assert Noise(correlated={"chip": 0.1}).on(DENSE, NAMES) == Noise(correlated={"chip": 0.1})
    assert Noise().on(DENSE, []) == Noise()


class _Shared(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(2, 2, bias=False)
        self.two = torch.nn.Linear(2, 2)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("what", PATTERNED)
def test_every_name_of_a_tensor_counts(what: str) -> None:
    wrapped, shared = torch.nn.DataParallel(DENSE), _Shared()
    names = [f"module.{name}" for name in NAMES]
    for pattern in ("0.weight", "module.0.weight", "0.w*"):
        noise = Noise(**{what: {pattern: 0.5}}).on(wrapped, names)  # type: ignore[arg-type]  # one of three
        asked = getattr(noise, READ[what])
        assert [asked(name) for name in names] == [0.5] + [READ_OTHERWISE[what]] * 3
    given = {what: {"two.weight": 0.5}}
    noise = Noise(**given).on(shared, ["one.weight", "two.bias"])  # type: ignore[arg-type]  # one of three
    asked = getattr(noise, READ[what])
    assert [asked("one.weight"), asked("two.bias")] == [0.5, READ_OTHERWISE[what]]


def test_names_are_no_patterns() -> None:
    model = torch.nn.Module()
    model.add_module("a[0]", torch.nn.Linear(2, 2))
    model.add_module("a0", torch.nn.Linear(2, 2))
    names = [name for name, _ in model.named_parameters()]
    noise = Noise(scale={"a0.*": 0.5, "a[[]*": 3.0}).on(model, names)
    assert [noise.factor(name) for name in names] == [3.0, 3.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("noise", "independent", "drawable"),
    [
        (Noise(), True, True),
        (Noise("subgaussian"), True, False),
        (Noise(correlated={"chip": 0.1}), False, True),
        (Noise(correlated={"layer": 0.1}), False, True),
        (Noise(correlated={"chip": 0.0, "layer": 0.0}), True, True),
        (Noise(drift={"*": -0.1}, scale={"*": 2.0}), True, True),
        (Noise(drift_bound={"*": 0.1}), True, False),
        (Noise(drift_bound={"*": 0.0}), True, True),
    ],
)
def test_what_is_independent_and_what_can_be_drawn(noise: Noise, independent: bool, drawable: bool) -> None:
    assert (noise.independent, noise.drawable) == (independent, drawable)


def test_the_callers_dictionaries_may_change_later() -> None:
    for what in (*PATTERNED, "correlated"):
        numbers = {"chip": 2.0}
        noise = Noise(**{what: numbers})  # type: ignore[arg-type]  # on purpose
        numbers["chip"] = 3.0
        noise.describe()[what]["chip"] = 4.0
        assert getattr(noise, what) == {"chip": 2.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        noise.kind = "subgaussian"  # type: ignore[misc]  # on purpose


@given(
    st.sampled_from(KINDS),
    st.dictionaries(st.text(max_size=5), st.floats(0.0, 1e9), max_size=3),
    st.dictionaries(st.sampled_from(["chip", "layer"]), st.floats(0.0, 1.0)),
    st.dictionaries(st.text(max_size=5), st.floats(-1e9, 1e9), max_size=3),
    st.dictionaries(st.text(max_size=5), st.floats(0.0, 1e9), max_size=3),
)
def test_a_description_gives_the_noise_back_through_json(
    kind: str,
    scale: dict[str, float],
    correlated: dict[str, float],
    drift: dict[str, float],
    bound: dict[str, float],
) -> None:
    noise = Noise(kind, scale, correlated, drift, bound)
    entry = noise.describe()
    assert list(entry) == [f.name for f in dataclasses.fields(Noise)]
    again = Noise(**json.loads(json.dumps(entry)))
    assert again == noise
    # The first match counts, so the order of the patterns is part of it.
    assert [list(getattr(again, w)) for w in PATTERNED] == [list(getattr(noise, w)) for w in PATTERNED]
