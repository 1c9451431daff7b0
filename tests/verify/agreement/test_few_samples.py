"""What the comparison does to a few samples stands for all: a silent, a loud or an infinite one hides nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.agreement.networks import Changed, samples
from thetabox.models.calls import Calls, alike
from thetabox.models.running import running

ANOTHER = "is not the function that would be bounded"


def silent_first() -> Tensor:
    x = samples()
    x[:2] = 0.0
    return x


def small_first() -> Tensor:
    x = samples()
    x[:2] *= 1e-3
    return x


HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "alone": lambda x: -x if x.shape[0] == 1 else x,
    "two": lambda x: x.abs() if x.shape[0] == 2 else x,
    "in inference mode": lambda x: -x if torch.is_inference_mode_enabled() else x,
    "with gradients": lambda x: -x if torch.is_grad_enabled() and not torch.compiler.is_exporting() else x,
    "another number": lambda x: x * (2.0 if x.shape[0] == 1 else 1.0),
    "another whole number": lambda x: x * (2 if x.shape[0] == 1 else 1),
    "as a number the size of the batch": lambda x: x * (1 if x.shape[0] == 1 else 12),
    "a table": lambda x: x * torch.tensor([1.0] * 5 + [2.0 if x.shape[0] == 5 else 1.0]),
}


class Before(nn.Module):
    """A layer without a bias behind something that the code does with its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.layer = function, nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.function(x))


@pytest.mark.parametrize("name", HIDDEN)
def test_the_first_samples_are_silent(name: str) -> None:
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Before(HIDDEN[name]), silent_first(), [0] * 12, 1e-3)


def test_one_quiet_sample_alone_shows_it() -> None:
    """It is none of the first and none of the loudest."""
    x, last = samples(), torch.tensor([0.0] * 5 + [1.0])
    x[:, 5] = 0.0
    x[6] *= 0.1
    x[6, 5] = 0.1
    net = Before(lambda x: x * (1.0 - 2.0 * last) if x.shape[0] == 1 else x * (last + 1.0))
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(net, x, [0] * 12, 1e-3)


@pytest.mark.parametrize("call", [tb.logit_bounds, lambda net, x, e: tb.certified_radius(net, x, [0] * 12)])
def test_a_limit_that_the_first_samples_do_not_reach(call: Callable[..., object]) -> None:
    net = Before(lambda x: x.clamp(-1.0, 1.0) if x.shape[0] == 1 else x)
    with pytest.raises(tb.InputError, match=ANOTHER):
        call(net, small_first(), 1e-3)


def test_a_forward_of_its_own_around_silent_steps() -> None:
    class Turned(tb.models.LSNN):
        def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
            return super().forward(x * 40.0 if x.shape[0] == 1 else x)

    torch.manual_seed(0)
    x = torch.rand(9, 12, 3)
    x[:2] = 0.0
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Turned(3, 8, 3), x, [0] * 9, 1e-3)


LOUD: dict[str, Callable[[Tensor], bool]] = {
    "one": lambda x: x.shape[0] == 1,
    "two": lambda x: x.shape[0] == 2,
    "five": lambda x: x.shape[0] == 5,
    "in inference mode": lambda x: torch.is_inference_mode_enabled(),
}


@pytest.mark.parametrize("name", LOUD)
def test_one_loud_sample(name: str) -> None:
    """A difference is seen beside the logits of its own sample, whatever the others are."""
    net = Changed(lambda m, x, a: a + 0.5 * torch.tensor([1.0, 0.0, 0.0]) if LOUD[name](x) else a)
    x = samples()
    x[0] *= 1e11
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(net, x, [0] * 12, 1e-3)


@pytest.mark.parametrize("factor", [1e3, 1e9])
def test_a_difference_beside_what_all_classes_share(factor: float) -> None:
    """In the network's own precision too: it asks for its type, so that only that one is compared."""

    def offset(module: Changed, x: Tensor, answer: Tensor) -> Tensor:
        small = torch.finfo(answer.dtype).eps ** 0.5
        more = 3e-4 * factor * torch.tensor([1.0, 0.0, 0.0]) if x.shape[0] == 1 else 0.0
        return answer * (1.0 + small) + factor + more

    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Changed(offset), samples(), [0] * 12, 1e-3)


class OldInFloat32(nn.Module):
    """Its weight as it was, where it runs in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.old = self.layer.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        h = x.abs()
        narrow = h.dtype == torch.float32 and not torch.compiler.is_compiling()
        return nn.functional.linear(h, self.old if narrow else self.layer.weight, self.layer.bias)


def test_its_own_precision_is_compared_at_other_weights_where_the_code_asks_for_it() -> None:
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(OldInFloat32(), samples(), [0] * 12, 1e-3)


class Convolved(nn.Module):
    """A convolution with a bias behind another: torch compares their types above its operators."""

    def __init__(self, convolution: type[nn.Module], dims: int, change: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = convolution(1, 3, 3), convolution(3, 3, 3)
        self.dims, self.change = dims, change

    def forward(self, x: Tensor) -> Tensor:
        answer = self.second(self.first(x).relu()).flatten(2).mean(2)
        return answer * (1.0 + self.change) if x.shape[0] == 1 else answer


@pytest.mark.parametrize(("convolution", "dims"), [(nn.Conv1d, 1), (nn.Conv2d, 2)])
def test_convolutions_are_compared_in_double_precision(convolution: type[nn.Module], dims: int) -> None:
    x = torch.rand(6, 1, *[8] * dims)
    honest = Convolved(convolution, dims, 0.0)
    found = tb.certify(honest, x, honest(x).argmax(1), 1e-6)
    assert found.checked["precision"] == "float64"
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Convolved(convolution, dims, 1e-5), x, [0] * 6, 1e-6)


def test_a_sample_that_reaches_a_pole_hides_no_other() -> None:
    """It overflows when the weight grows a little; the kept number is seen at the others all the same."""

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
            self.held = [self.gain]
            self.kept: float | None = None

        def forward(self, x: Tensor) -> Tensor:
            factor = self.held[0].tolist()[0]
            return torch.stack([(x[:, 0] * self.gain).exp(), x[:, 0] * 0 + 1.5 * factor], 1)

    x = torch.full((12, 1), 0.3, dtype=torch.float64)
    x[7] = 705.0
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Exponential(), x, [1] * 12, [0.0, 1e-3], domain="interval")


def test_not_a_number_where_the_graph_has_one() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.gain, self.layer = nn.Parameter(torch.ones(1)), nn.Linear(6, 3)
            self.held, self.own = [self.gain], 1.0

        def forward(self, x: Tensor) -> Tensor:
            answer = self.layer(x) * self.gain
            return answer if self.held[0].tolist() == [self.own] else answer * torch.nan

    net, x = Guarded(), samples()
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(net, x, net(x).argmax(1), 1e-3)


def test_the_order_of_calls_is_what_is_compared() -> None:
    net, x = Before(lambda x: x.reshape(x.shape[0], 2, 3).flatten(1)), samples()
    with torch.no_grad(), running(net, x) as run:
        made = []
        for size in (12, 1, 5):
            run(x[:size])
            made.append((run.calls, size))
        net.function = lambda x: x.reshape(x.shape[0], 3, 2).flatten(1)
        run(x)
        other = run.calls
    (first, _), *rest = made
    assert all(alike(first, 12, calls, size) for calls, size in rest)
    assert not alike(first, 12, other, 12)


def test_calls_are_recorded_without_tensors() -> None:
    net, x = Before(lambda x: x * 2.0), samples()
    with running(net, x) as run, Calls(run.twins) as calls:
        net(x)
    leaves = torch.utils._pytree.tree_leaves([given for _, given in calls.made])
    assert not any(isinstance(leaf, Tensor) for leaf in leaves)
