"""Whatever form inputs, labels and numbers come in, they are read as they are, copied, or refused in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor

import thetabox as tb
from thetabox import checks
from thetabox.train import fit

X, Y = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
N = X.numpy()
F32 = torch.float32


def network(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(6, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 3))


PUBLIC: dict[str, Callable[..., Any]] = {
    "certify": lambda m, x, y: tb.certify(m, x, y, [0.0, 1e-3]).margin,
    "certified_radius": lambda m, x, y: tb.certified_radius(m, x, y, domain="interval"),
    "logit_bounds": lambda m, x, y: tb.logit_bounds(m, x, 1e-3).lower,
    "attack": lambda m, x, y: tb.attack(m, x, y, [1e-3], steps=2).margin,
    "mismatch": lambda m, x, y: tb.mismatch(m, x, y, 0.1, samples=3).accuracy,
}
# One of each door: what both verify and measure call reads the same things for all their functions.
DOORS = ("logit_bounds", "mismatch")
LABELLED = ("certify", "mismatch")


@functools.cache
def expected(name: str) -> torch.Tensor:
    found: torch.Tensor = PUBLIC[name](network(), X, Y)
    return found


FORMS: dict[str, Any] = {
    "mirrored twice": N[:, ::-1].copy()[:, ::-1],
    "big-endian": N.astype(">f4"),
    "long double": N.astype(np.longdouble),
    "rows in a list": list(X),
    "arrays in a tuple": tuple(N),
    "mixed lists": [list(X[0]), X[1], N[2], [np.float32(v) for v in N[3]]],
    "columns first": np.asfortranarray(N),
    "strided": np.repeat(N, 2, axis=1)[:, ::2],
    "read-only": np.frombuffer(N.tobytes(), np.float32).reshape(4, 6),
    "sparse": X.to_sparse(),
    "compressed": X.to_sparse_csr(),
    "of another layout": X.to_mkldnn(),
    "with a gradient": X.clone().requires_grad_(),
    "of a graph": X.clone().requires_grad_() * 1,
    "a parameter": nn.Parameter(X),
    "transposed": X.t().contiguous().t(),
    "matrix": np.asmatrix(N),
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("form", FORMS)
def test_inputs_in_any_form(name: str, form: str) -> None:
    assert torch.equal(PUBLIC[name](network(), FORMS[form], Y), expected(name))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_takes_other_forms(name: str) -> None:
    assert torch.equal(PUBLIC[name](network(), FORMS["mirrored twice"], Y.double().numpy()[::-1][::-1]), expected(name))


EXACT: dict[str, tuple[Any, torch.dtype]] = {
    "plain floats": ([[0.1, 0.2], [0.3, 1.0]], torch.float64),
    "floats and whole numbers": ([[0.1, 2**53], [3, 1]], torch.float64),
    "whole numbers": ([[2**60 + 1, 2], [3, 4]], torch.int64),
    "half beside whole": ([torch.tensor([0.5, 1.5]).half(), torch.tensor([2049, 3])], torch.float64),
    "single beside whole": ([torch.tensor([0.5, 1.5]), torch.tensor([2**24 + 1, 3])], torch.float64),
    "single beside plain": ([torch.tensor([0.5, 1.5]), [0.1, 0.2]], torch.float64),
    "half beside the other half": ([torch.tensor([1.0, 2049.0]).bfloat16(), torch.tensor([0.1, 3.0]).half()], F32),
    "short beside long": ([torch.tensor([1, 2], dtype=torch.int32), torch.tensor([2**60 + 1, 3])], torch.int64),
    "unsigned beside long": ([torch.tensor([1, 2], dtype=torch.uint64), torch.tensor([5, 3])], torch.float64),
    "scalars of two types": ([[np.float32(0.1), np.float64(0.1)], [np.int64(3), np.float16(0.1)]], torch.float64),
}


@pytest.mark.parametrize("form", EXACT)
def test_lists_hold_every_number_as_it_was_given(form: str) -> None:
    given, dtype = EXACT[form]
    found = checks.array(given, "x")
    assert found.dtype == dtype
    assert found.tolist() == [[v.item() if isinstance(v, Tensor | np.generic) else v for v in row] for row in given]


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
def test_plain_lists_are_read_in_double_precision(double: bool) -> None:
    x = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]] * 4
    model = network().double() if double else network()
    exact = torch.tensor(x, dtype=torch.float64)
    for name in PUBLIC:
        assert torch.equal(PUBLIC[name](model, x, Y), PUBLIC[name](model, exact, Y))
    assert not torch.equal(tb.logit_bounds(model, x, 1e-3).lower, tb.logit_bounds(model, exact.float(), 1e-3).lower)
    found = fit(model, (x, Y), (exact, Y), "standard", epochs=1, batch_size=2, lr=0.01, progress=False)
    assert len(found.history) == 1


def forms_of_labels() -> dict[str, Any]:
    return {
        "list": Y.tolist(),
        "floats": Y.double(),
        "bytes": Y.to(torch.uint8),
        "big-endian": Y.numpy().astype(">i2"),
        "mirrored": Y.numpy()[::-1].copy()[::-1],
        "unsigned": Y.numpy().astype(np.uint64),
        "scalars": list(Y),
        "sparse": Y.to_sparse(),
    }


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("form", forms_of_labels())
def test_labels_in_any_form(name: str, form: str) -> None:
    assert torch.equal(PUBLIC[name](network(), X, forms_of_labels()[form]), expected(name))


BAD_INPUTS: dict[str, Any] = {
    "more digits than float64": np.full((4, 6), np.longdouble(1) / 3),
    "beyond 2**53": torch.full((4, 6), 2**53 + 1, dtype=torch.uint64),
    "complex": X + 0j,
    "complex array": N + 0j,
    "objects": np.array([[1, 2]] * 4, dtype=object),
    "ragged": [[1, 2], [3]],
    "ragged tensors": [torch.ones(2), torch.ones(3)],
    "text": "abc",
    "text array": np.array([["a"]] * 4),
    "none": None,
    "a dictionary": {"x": X},
    "a set": {1, 2},
    "a generator": (row for row in X),
    "dates": np.array([["2020-01-01"]] * 4, dtype="M8[D]"),
    "records": np.zeros(4, dtype=[("a", "f4")]),
    "masked": np.ma.masked_greater(N, 0.5),
    "masked in a list": [np.ma.masked_greater(row, 0.5) for row in N],
    "masked beside tensors": [X[0], np.ma.masked_greater(N[1], -1.0), X[2], X[3]],
    "masked deep in lists": [[np.ma.masked, *row[1:]] for row in N.tolist()],
    "masked tensor": masked_tensor(X, X > 0.5),
    "wrapped": TwoTensor(X, X),
    "complex beside real": [X[0], X[1] + 1j, X[2], X[3]],
    "whole beside others beyond 2**53": [[2**53 + 1, 0.5]] * 4,
    "whole tensors beside others beyond 2**53": [torch.full((6,), 2**53 + 1), *X[1:]],
    "whole scalars of two types": [[np.uint64(2**63 + 1), np.int64(1)]] * 4,
    "meta": X.to("meta"),
    "quantised": torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "NaN": X * float("nan"),
    "infinite": X / 0,
    "huge numbers": [[10**400] * 6] * 4,
    "none at all": X[:0],
    "no values": X[:, :0],
    "one number": np.float64(1),
    "one row": X[0],
}


@pytest.mark.thin(7)
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_inputs_that_are_none(name: str, kind: str) -> None:
    value = BAD_INPUTS[kind]
    with pytest.raises(tb.InputError) as caught:
        PUBLIC[name](network(), value, Y if kind != "none at all" else Y[:0])
    assert "\n" not in str(caught.value)
    assert "x" in str(caught.value)


@pytest.mark.parametrize("name", [n for n in PUBLIC if n != "logit_bounds"])
@pytest.mark.parametrize(
    "y",
    [
        Y + 0.5,
        torch.tensor([0.0, 1.0, float("nan"), 0.0]),
        torch.tensor([0.0, 1.0, float("inf"), 0.0]),
        np.array([0, 1, 2, 2**64 - 1], dtype=np.uint64),
        Y + 0j,
        Y[:, None],
        Y[:3],
        ["a", "b", "c", "d"],
        None,
        3,
        Y + 2**62,
    ],
    ids=str,
)
def test_labels_that_are_none(name: str, y: Any) -> None:
    with pytest.raises(tb.InputError) as caught:
        PUBLIC[name](network(), X, y)
    assert "\n" not in str(caught.value)


def test_pixels_are_numbers() -> None:
    pixels = (X * 255).to(torch.uint8)
    found = tb.logit_bounds(network(), pixels.double(), 1e-3).lower
    for x in (pixels, pixels.numpy(), pixels.to(torch.uint16), pixels.tolist()):
        assert torch.equal(tb.logit_bounds(network(), x, 1e-3).lower, found)
    assert torch.equal(
        tb.attack(network(), pixels, Y, 1e-3, steps=2).margin,
        tb.attack(network(), pixels.double(), Y, 1e-3, steps=2).margin,
    )
    assert checks.inputs(X > 0.5).dtype == torch.float64
    assert checks.inputs(torch.arange(6).view(2, 3), keep_indices=True).dtype == torch.int64


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_caller_holds_is_never_written_to(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    array = x.numpy().copy()
    before, found = x.clone(), PUBLIC[name](network(), x.clone(), Y)
    for given in (x, array):
        assert torch.equal(PUBLIC[name](network(inplace=True), given, Y), found)
    assert torch.equal(x, before)
    assert (array == before.numpy()).all()


NUMBERS: dict[str, tuple[Any, list[float]]] = {
    "a float": (0.1, [0.1]),
    "zero from below": (-0.0, [0.0]),
    "a tuple": ((0.1, 0.2), [0.1, 0.2]),
    "mirrored": (np.array([0.1, 0.2])[::-1], [0.2, 0.1]),
    "big-endian": (np.array([0.1, 0.2], dtype=">f8"), [0.1, 0.2]),
    "a scalar of numpy": (np.float64(0.1), [0.1]),
    "tensors in a list": ([torch.tensor(0.25), 0.1], [0.25, 0.1]),
    "scalars in a list": ([np.float64(0.1), np.float32(0.25)], [0.1, 0.25]),
    "whole numbers": ([0, 1], [0.0, 1.0]),
    "a range": (range(3), [0.0, 1.0, 2.0]),
    "with a gradient": (torch.tensor([0.25], requires_grad=True), [0.25]),
}


@pytest.mark.parametrize("form", NUMBERS)
def test_numbers_in_any_form(form: str) -> None:
    given, expected = NUMBERS[form]
    found = checks.numbers(given, "epsilon")
    assert found.tolist() == expected
    assert not (found.signbit()).any()


BAD_NUMBERS = [
    *(True, [True], np.bool_(True), torch.tensor([True]), "a", ["0.1"], None, [None], 1j, [1j], torch.tensor([1j])),
    *(np.array([1j]), 10**400, [10**400], [], np.zeros(0), [[0.1]], float("nan"), [0.1, float("inf")], -1, {0.1}),
    *(Decimal("0.1"), {"a": 1}, np.longdouble(1) / 3, lambda: 0, torch.tensor([0.1], device="meta")),
]


@pytest.mark.parametrize(
    "value", BAD_NUMBERS, ids=lambda v: "function" if callable(v) else f"{type(v).__name__} {v!r}"[:40]
)
def test_numbers_that_are_none(value: Any) -> None:
    for call in (
        lambda: tb.certify(network(), X, Y, value),
        lambda: tb.logit_bounds(network(), X, value),
        lambda: tb.attack(network(), X, Y, value),
        lambda: tb.mismatch(network(), X, Y, value),
        lambda: tb.certified_radius(network(), X, Y, max_epsilon=value),
        lambda: tb.certified_radius(network(), X, Y, rtol=value),
    ):
        with pytest.raises(tb.InputError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_one_number_where_one_is_meant() -> None:
    with pytest.raises(tb.InputError, match="max_epsilon must be one number"):
        tb.certified_radius(network(), X, Y, max_epsilon=[0.1, 0.2])


def test_a_sweep_in_an_array_is_a_sweep() -> None:
    for sweep in ([1e-3, 1e-2], np.array([1e-3, 1e-2]), np.array([1e-2, 1e-3])[::-1]):
        assert tb.logit_bounds(network(), X, sweep).lower.shape == (2, 4, 3)
    for one in (1e-3, np.float64(1e-3), np.array(1e-3), torch.tensor(1e-3), torch.full((4,), 1e-3)):
        assert tb.logit_bounds(network(), X, one).lower.shape == (4, 3)


class Weighted(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.to(x.dtype)


class With(nn.Module):
    def __init__(self, offset: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("offset", offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.offset


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.LazyLinear(3)), "no shape"),
        (nn.Linear(6, 3, device="meta"), "meta"),
        (Weighted(torch.full((6, 3), float("nan"))), "NaN"),
        (Weighted(torch.ones(6, 3).to_sparse()), "sparse"),
        (Weighted(torch.full((6, 3), float("nan")).to(torch.float8_e4m3fn)), "NaN"),
        (nn.Linear, "torch.nn.Module"),
        (Weighted(torch.full((6, 3), 1j)), "complex"),
        (With(torch.ones(3) + 0j), "complex"),
        (With((torch.ones(3) + 1j).conj().imag), "resolve_neg"),
        (With(TwoTensor(torch.ones(3), torch.ones(3))), "TwoTensor"),
        (None, "torch.nn.Module"),
        ("model.safetensors", "torch.nn.Module"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_models_without_numbers(name: str, model: Any, said: str) -> None:
    with pytest.raises(tb.InputError, match=said) as caught:
        PUBLIC[name](model, X, Y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_network_made_in_inference_mode(name: str) -> None:
    with torch.inference_mode():
        model = network()
    if name in ("attack", "mismatch"):
        assert torch.equal(PUBLIC[name](model, X, Y), expected(name))
        return
    # torch.export traces no such network.
    with pytest.raises(tb.InputError, match=r"(?i)inference tensor") as caught:
        PUBLIC[name](model, X, Y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PUBLIC)
def test_where_tensors_are_made_without_values(name: str) -> None:
    model = network()
    with torch.device("meta"), pytest.raises(tb.InputError, match="meta device"):
        PUBLIC[name](model, X, Y)
