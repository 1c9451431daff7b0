"""Settings of the process and of its threads that bounds rely on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import thetabox as tb
from thetabox.models.shared_setting import Shared
from thetabox.verify.kernels import plain_precision, sound_kernels

FLUSHING = """
import sys, torch, thetabox as tb
from torch import nn

torch.set_flush_denormal(True)
torch.set_num_threads({threads})
for _ in range({warm}):
    torch.ones(1 << 20) * 2  # the pool starts, and flushes


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full(({count},), 1.5 * 2.0**-1022, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.05], dtype=torch.float64))

    def forward(self, x):
        h = (x * self.weight) * 0.25 * 2.0**1000 * 2.0**22
        return torch.cat([h.amax(1, keepdim=True), h.amin(1, keepdim=True) * 0 + self.bias], 1)


x = torch.ones(2, {count}, dtype=torch.float64)
bounds = tb.logit_bounds(Small(), x, 0.01, domain="interval")
print(bounds.lower[0, 0].item() <= 0.375 * 1.01 - 1e-12 and bounds.upper[0, 0].item() >= 0.375 * 1.01)
print(bounds.lower[0, 0].item() <= 0.375 * 0.99)
print(torch.get_num_threads() == {threads})
print(bool((torch.tensor([2.0**-1074], dtype=torch.float64) * 1.0 == 0).item()))
"""


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "warm", "count"), [(2, 1, 100_000), slow(2, 0, 100_000), slow(3, 1, 250_000), (1, 1, 50)]
)
def test_worker_threads_that_flush(threads: int, warm: int, count: int) -> None:
    """Both ends hold, and afterwards threads and flushing are as they were."""
    code = FLUSHING.format(threads=threads, warm=warm, count=count)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 4


def test_threads_that_do_not_flush_stay() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with sound_kernels():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def _settings() -> tuple[object, ...]:
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.mkldnn.conv.fp32_precision,
        backends.mkldnn.rnn.fp32_precision,
        backends.cudnn.enabled,
    )


@pytest.mark.parametrize("context", [sound_kernels, plain_precision])
def test_the_last_thread_restores(context: Callable[[], AbstractContextManager[None]]) -> None:
    """The first thread leaves while the second is inside: its settings hold until it leaves too."""
    before = _settings()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    wanted = _settings()
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def second() -> None:
        with context():
            inside.set()
            leave.wait(60)
            seen.append(_settings())

    other = threading.Thread(target=second)
    try:
        with context():
            own = _settings()
            other.start()
            assert inside.wait(60)
        assert _settings() == own
        leave.set()
        other.join(60)
        assert seen == [own]
        assert own != wanted
        assert _settings() == wanted
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before[1]
    assert _settings() == before


def test_a_setting_that_cannot_be_made_is_not_kept() -> None:
    attempts = []

    @contextmanager
    def setting() -> Iterator[None]:
        attempts.append("made")
        if len(attempts) == 1:
            raise RuntimeError("not now")
        yield
        attempts.append("restored")

    shared = Shared(setting)
    with pytest.raises(RuntimeError), shared():
        raise AssertionError("entered")
    with shared(), shared():
        assert attempts == ["made", "made"]
    assert attempts == ["made", "made", "restored"]


@pytest.mark.slow
def test_two_threads_certify_at_once() -> None:
    """As one by one, and with every setting as before."""
    torch.manual_seed(0)
    models = [
        nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)) for _ in range(4)
    ]
    x, y = torch.randn(24, 6), torch.randint(3, (24,))
    epsilon = [0.0, 1e-3, 1e-2]

    def run(model: nn.Module) -> torch.Tensor:
        return tb.certify(model, x, y, epsilon, domain="linear", arithmetic="float32").margin

    before = _settings()
    alone = [run(model) for model in models]
    together: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(models))}
    failed = []

    def work(place: int) -> None:
        try:
            for _ in range(3):
                together[place].append(run(models[place]))
        except BaseException as error:  # a thread's own errors are lost
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(models))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(300)
    assert not failed
    assert _settings() == before
    for place, found in together.items():
        assert len(found) == 3
        assert all(torch.equal(f, alone[place]) for f in found)
