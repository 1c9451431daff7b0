"""What networks answer beside logits, read as logits of the same order."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.masked import masked_tensor

import thetabox as tb
from thetabox.errors import Notice
from thetabox.models.outputs import read_as, reading

pytestmark = pytest.mark.usefixtures("without_notices")


class Pair(NamedTuple):
    hidden: Tensor
    logits: Tensor


class Answering(nn.Module):
    """A small network whose answer is made by a function of itself and its hidden values."""

    def __init__(self, answer: Callable[[Answering, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.three, self.one = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self, self.first(x).relu())


X = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
PLAIN = Answering(lambda m, h: m.three(h))
THREE = {
    "tuple": lambda m, h: (m.three(h), h),
    "list": lambda m, h: [m.three(h)],
    "nested": lambda m, h: ((m.three(h), h), h),
    "dictionary": lambda m, h: {"hidden": h, "logits": m.three(h)},
    "one entry": lambda m, h: {"scores": m.three(h), "loss": None},
    "named tuple": lambda m, h: Pair(h, m.three(h)),
    "attribute": lambda m, h: SimpleNamespace(logits=m.three(h), loss=None),
    "image of one pixel": lambda m, h: m.three(h)[:, :, None, None],
}
ONE = {
    "column": lambda m, h: m.one(h),
    "row": lambda m, h: m.one(h).squeeze(1),
    "in a tuple": lambda m, h: (m.one(h)[:, 0], h),
}


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("answer", THREE.values(), ids=THREE.keys())
def test_certified_as_the_plain_network_is(answer: Any) -> None:
    network, y = Answering(answer), PLAIN(X).argmax(1)
    mine = tb.certify(network, X, y, [0.0, 1e-3, 1e-1])
    plain = tb.certify(PLAIN, X, y, [0.0, 1e-3, 1e-1])
    assert torch.equal(mine.margin, plain.margin)
    assert torch.equal(mine.predicted, plain.predicted)
    assert "answer" in mine.model_info
    assert "answer" not in plain.model_info
    assert torch.equal(tb.certified_radius(network, X, y), tb.certified_radius(PLAIN, X, y))
    assert torch.equal(tb.logit_bounds(network, X, 0.1).lower, tb.logit_bounds(PLAIN, X, 0.1).lower)
    assert torch.equal(tb.attack(network, X, y, [0.1]).correct, tb.attack(PLAIN, X, y, [0.1]).correct)
    assert torch.equal(tb.mismatch(network, X, y, [0.3], 4).accuracy, tb.mismatch(PLAIN, X, y, [0.3], 4).accuracy)
    assert [o.rule for o in tb.inspect(network, X)]


@pytest.mark.slow
@pytest.mark.parametrize("answer", ONE.values(), ids=ONE.keys())
def test_one_logit_is_two_classes(answer: Any) -> None:
    network = Answering(answer)
    z = network.one(network.first(X).relu())[:, 0].double().detach()
    y = (z > 0).long()
    assert 0 < int(y.sum()) < len(y)
    found = tb.certify(network, X, y, [0.0, 1e-3, 1e-1])
    assert found.clean_accuracy == 1.0
    torch.testing.assert_close(found.margin[0], z.abs(), rtol=1e-5, atol=1e-6)
    assert found.margin[0].le(z.abs() + 1e-6).all()
    wrong = tb.certify(network, X, 1 - y, [0.0])
    assert wrong.clean_accuracy == 0.0
    assert not wrong.verified.any()
    # As the same network with two outputs, 0 and z.
    two = Answering(lambda m, h: m.two(h))
    two.two = nn.Linear(8, 2)
    two.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        two.two.weight.copy_(torch.cat([torch.zeros(1, 8), network.one.weight]))
        two.two.bias.copy_(torch.cat([torch.zeros(1), network.one.bias]))
    other = tb.certify(two, X, y, [0.0, 1e-3, 1e-1])
    torch.testing.assert_close(found.margin, other.margin, rtol=1e-9, atol=1e-12)


def test_one_logit_of_zero_is_no_proof() -> None:
    network = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 1.0]]))
    for y in (torch.tensor([0, 1]), torch.tensor([1, 1])):
        assert not tb.certify(network, x, y, 0.0).verified[0, 0]
    assert tb.certify(network, x, torch.tensor([0, 1]), 0.5).verified[0, 1]


class Spiking(nn.Module):
    """As snnTorch's tutorials: spikes and potentials of every step, stacked."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, spikes, potentials = x.new_zeros(x.shape[0], 8), x.new_zeros(x.shape[0], 3), [], []
        for _ in range(5):
            mem1 = 0.9 * mem1 + self.first(x)
            spk1 = (mem1 > 0.5).to(x.dtype)
            mem1 = mem1 - 0.5 * spk1
            mem2 = 0.9 * mem2 + self.second(spk1)
            spk2 = (mem2 > 0.1).to(x.dtype)
            mem2 = mem2 - 0.1 * spk2
            spikes.append(spk2)
            potentials.append(mem2)
        return self.answer(torch.stack(spikes), torch.stack(potentials))


@pytest.mark.parametrize("samples", [1, 5, 7])
def test_spikes_of_every_step_are_added_up(samples: int) -> None:
    """Five samples and five steps are told apart too."""
    tutorial, summed, x = Spiking(lambda s, p: (s, p)), Spiking(lambda s, p: s.sum(0)), X[:samples]
    y = summed(x).argmax(1)
    mine, plain = (tb.certify(network, x, y, [0.0, 1e-3, 1e-2]) for network in (tutorial, summed))
    assert torch.equal(mine.margin, plain.margin)
    assert "left_out" not in mine.options  # its cells are recognised
    assert mine.model_info["answer"] == (
        "output[0] of 2: spikes [time, samples, classes], their sums over time as logits"
    )
    assert torch.equal(tb.attack(tutorial, x, y, [0.1]).correct, tb.attack(summed, x, y, [0.1]).correct)


class Late(Spiking):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x[0])


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (Spiking(lambda s, p: p), X, r"a record of 5 time steps \[time, samples, classes\]"),
        (Spiking(lambda s, p: s.transpose(0, 1)), X, "must return logits"),
        (Late(lambda s, p: s.sum(0)), X[:, None].repeat(1, 6, 1), "takes time in front of the samples"),
        (Late(lambda s, p: s), X[:, None].repeat(1, 6, 1), "takes time in front of the samples"),
    ],
)
def test_other_records_are_refused_in_a_line(network: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(tb.InputError, match=message) as caught:
        tb.certify(network, x, torch.zeros(len(x)).long(), 1e-3)
    assert "\n" not in str(caught.value)


REFUSED = {
    "two tensors in a dictionary": (lambda m, h: {"a": m.three(h), "b": h}, "which of these are the logits is open"),
    "no tensor in a dictionary": (lambda m, h: {}, "a dictionary of nothing"),
    "classes": (lambda m, h: m.three(h).argmax(1), "whole numbers or truth values"),
    "a sequence of logits": (lambda m, h: m.three(h)[:, None].repeat(1, 2, 1), r"not \[4, 2, 3\]"),
    "text": (lambda m, h: "logits", "returns a str"),
    "nothing": (lambda m, h: None, "returns a NoneType"),
    "an empty tuple": (lambda m, h: (), "returns a tuple"),
    "one sample alone": (lambda m, h: m.three(h)[0], "must return logits"),
    "one of two probabilities": (lambda m, h: m.three(h)[:, :2].softmax(1)[:, 1], "whether it is a logit or a prob"),
    "sparse": (lambda m, h: m.three(h).to_sparse(), "a tensor of the layout sparse_coo"),
    "compressed": (lambda m, h: m.three(h).to_sparse_csr(), "a tensor of the layout sparse_csr"),
    "mkldnn": (lambda m, h: m.three(h).to_mkldnn(), "a tensor of the layout mkldnn"),
    "nested": (lambda m, h: torch.nested.nested_tensor([*m.three(h)]), "a nested tensor"),
    "quantised": (lambda m, h: torch.quantize_per_tensor(m.three(h), 0.1, 0, torch.qint8), "a quantised tensor"),
    "without numbers": (lambda m, h: m.three(h).to("meta"), "a tensor without numbers"),
    "of eight bits": (lambda m, h: m.three(h).to(torch.float8_e4m3fn), "a tensor of float8_e4m3fn"),
    "masked": (lambda m, h: masked_tensor(m.three(h), h[:, :3] > 0), "a MaskedTensor"),
}


@pytest.mark.parametrize(("answer", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_one_line(answer: Any, message: str) -> None:
    for call in (tb.certify, tb.attack, tb.mismatch):
        with pytest.raises(tb.InputError, match=message) as caught:
            call(Answering(answer), X, torch.zeros(7).long(), [0.1])
        assert "\n" not in str(caught.value)


class Sparse(nn.Module):
    """Of the protocol for recurrent networks, whose readout says what its answer is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def initial_state(self, samples: int) -> Tensor:
        return torch.zeros(samples, 3)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return state, self.layer(x) + state

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.sum(1).to_sparse()

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = self.initial_state(len(x)), []
        for t in range(x.shape[1]):
            output, state = self.step(x[:, t], state)
            outputs.append(output)
        return self.readout(torch.stack(outputs, 1))


@pytest.mark.parametrize("call", [tb.certify, tb.attack, tb.mismatch])
def test_a_recurrent_network_that_answers_no_plain_tensor(call: Any) -> None:
    with pytest.raises(tb.InputError, match="a tensor of the layout sparse_coo"):
        call(Sparse(), torch.randn(4, 3, 2), torch.zeros(4).long(), [0.1])


def test_said_once_and_left_as_it_was() -> None:
    network = Answering(THREE["tuple"]).train()
    held, hooks = dict(vars(network)), len(network._forward_hooks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tb.certify(network, X, PLAIN(X).argmax(1), 0.1)
    notices = [w for w in caught if issubclass(w.category, Notice)]
    assert [str(w.message) for w in notices] == ["the network's answer is read as output[0] of 2: logits"]
    assert notices[0].filename == __file__
    assert vars(network) == held
    assert len(network._forward_hooks) == hooks
    assert network.training
    assert isinstance(network(X), tuple)


def test_own_hooks_run_before_the_reading() -> None:
    network = Answering(THREE["tuple"])
    network.register_forward_hook(lambda module, args, answer: (answer[0] * 2, answer[1]))
    y = PLAIN(X).argmax(1)
    doubled = tb.certify(network, X, y, [0.0])
    torch.testing.assert_close(doubled.margin, 2 * tb.certify(PLAIN, X, y, [0.0]).margin)
    assert len(network._forward_hooks) == 1


def test_a_module_of_parametrised_class() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    network = Two(4, 3)
    nn.utils.parametrize.register_parametrization(network, "weight", nn.Hardtanh())
    with torch.no_grad():
        y = network(X)[0].argmax(1)
    assert tb.certify(network, X, y, 0.0).clean_accuracy == 1.0


def test_what_is_read_is_the_same_tensor() -> None:
    network = Answering(THREE["dictionary"])
    answer = reading(network, X)
    assert answer is not None
    assert answer.path == ("logits",)
    assert torch.equal(read_as(network, answer)(X), network(X)["logits"])
    assert reading(PLAIN, X) is None


def test_a_wrong_part_of_a_graph_is_told_apart_behind_the_reading() -> None:
    """The comparison of graph and module holds of what is read: a branch that no trace shows is found."""

    class Hidden(Answering):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x * (2.0 if len(x) == 17 else 1.0))

    with pytest.raises(tb.InputError):
        tb.certify(Hidden(THREE["tuple"]), X, PLAIN(X).argmax(1), 0.1)


@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
def test_counts_over_steps_are_taken_as_they_are(steps: int) -> None:
    """Spikes that happen to add up to one, or to the number of steps, are no probabilities; a softmax stays one."""

    class Counts(nn.Module):
        def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.scale, self.last = nn.Parameter(torch.ones(())), last

        def forward(self, x: Tensor) -> Tensor:
            return self.last((x * self.scale).sum(1))

    counts = torch.distributions.Multinomial(steps, torch.ones(3)).sample((5,)) / steps
    x = torch.stack([counts, torch.zeros_like(counts)], 1)
    assert reading(Counts(lambda sums: sums.clone()), x) is None
    certain = reading(Counts(lambda sums: torch.softmax(1000.0 * (sums + torch.arange(3.0)), 1)), x)
    assert certain is not None
    assert certain.kind == "probabilities"
    shares = torch.softmax(torch.randn(5, 2, 3), 2) / 2
    read = reading(Counts(lambda sums: sums.clone()), shares)
    assert read is not None
    assert read.kind == "probabilities"
