"""What every test shares: one thread, fixed seeds, patient hypothesis, the folder of real data."""

from __future__ import annotations

import functools
import gc
import os
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn
from torch._export import utils as _export_utils

from thetabox.errors import Notice
from thetabox.models import heap, plain
from thetabox.verify.agreement import compare
from thetabox.verify.network import feedforward, recurrent, trace
from thetabox.verify.problem import Problem, tensor_hash

# Derandomised, so that a failure in CI is a failure at home too.
hypothesis.settings.register_profile(
    "thetabox",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # drawing a network takes its time
)
hypothesis.settings.load_profile("thetabox")
torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that tests start would each compile the whole package
# Torch looks all of its operators up anew for every decomposition, since more may come from C++: half of its time.
_export_utils._materialize_cpp_cia_ops = functools.cache(_export_utils._materialize_cpp_cia_ops)

# Of an error, the program looks through all of its objects; tests set aside those that they did not make.
WHOLE_HEAP = heap.objects
heap.objects = gc.get_objects


@pytest.fixture
def whole_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program itself looks through, for tests of that."""
    monkeypatch.setattr(heap, "objects", WHOLE_HEAP)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of many tests alike, marked ``thin(n, quick=m)``, one in n is not ``long``, and of those one in m not ``slow``.

    ``n`` is for combinations of sizes, types and functions, never where each parameter is an operator or a way to a
    wrong certificate. Choose it without a common factor with the parameters that stand beside each other.
    """
    seen: Counter[str] = Counter()
    for item in items:
        thin = item.get_closest_marker("thin")
        if thin is not None:
            name = item.nodeid.partition("[")[0]
            every = thin.args[0] if thin.args else 1
            kept, rest = divmod(seen[name], every)
            if rest:
                item.add_marker("long")
            elif kept % thin.kwargs.get("quick", 1):
                item.add_marker("slow")
            seen[name] += 1


@pytest.fixture(autouse=True)
def _set_aside() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture
def without_notices() -> Iterator[None]:
    """For tests that are not about how a network or a file is read, of which notices tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # said of nearly every network of these tests
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # libraries that use the legacy generator
    torch.manual_seed(0)


KEPT: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


@pytest.fixture(autouse=True, scope="module")
def _kept_for_one_file() -> Iterator[None]:
    """A problem holds its model, which would keep itself for ever, and Python slower with every one."""
    yield
    KEPT.clear()


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trace and one comparison of a network for all calls, where every public call would make its own.

    For tests that look at bounds, of networks whose code stays as it is: these take far longer than the bounds.
    """

    def traced(model: nn.Module, module: nn.Module, role: str, examples: Any, **how: Any) -> Any:
        key = role, tuple((e.shape[1:], e.dtype, e.device) for e in examples), tuple(how.items())
        kept = KEPT.setdefault(model, {})
        if key not in kept:
            kept[key] = trace.trace(model, module, role, examples, **how)
        return kept[key]

    def kept_of(model: nn.Module, x: torch.Tensor, *how: Any) -> tuple[dict[Any, Any], Any]:
        weights = [*model.state_dict().values()]
        return KEPT.setdefault(model, {}), (*how, x.shape, x.dtype, tensor_hash([x, *weights]))

    def checked(problem: Problem, epsilon: torch.Tensor, x: Any = None) -> Any:
        kept, key = kept_of(problem.model, problem.x, repr(problem.settings))
        if key not in kept:
            kept[key] = check(problem, epsilon, x)
        return kept[key]

    def read(model: nn.Module, x: torch.Tensor, *, as_classes: bool) -> Any:
        kept, key = kept_of(model, x, "output", as_classes)
        if key not in kept:
            kept[key] = reading(model, x, as_classes=as_classes)
        return kept[key]

    for caller in (feedforward, recurrent):
        monkeypatch.setattr(caller, "trace", traced)
    check, reading = compare.check, plain.reading
    monkeypatch.setattr(compare, "check", checked)
    monkeypatch.setattr(plain, "reading", read)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets: THETABOX_DATA, else ../shared/data beside the repository."""
    named = os.environ.get("THETABOX_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data sets not found at {folder}; set THETABOX_DATA to the folder that holds them")
    return folder
