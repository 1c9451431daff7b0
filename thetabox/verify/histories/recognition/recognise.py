"""The leaky cells of a network: found once, looked at again in a run, kept for as long as its values are held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.deep_copy import deep_copy
from thetabox.models.precision import default_dtype
from thetabox.models.recurrent import called
from thetabox.models.twins import RUNNING
from thetabox.verify.histories.forward import run
from thetabox.verify.histories.neurons import Spiking
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.loop import of_loop
from thetabox.verify.histories.recognition.network import spiking
from thetabox.verify.histories.recognition.protocol import of_protocol
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.network.graph import Graph, Layout
from thetabox.verify.problem import Problem

# Operators that compare numbers, as spikes do.
COMPARISONS = tuple(f"aten.{name}." for name in ("gt", "ge", "lt", "le", "sign", "heaviside", "floor"))
# Products of a step that are read one by one.
MOST_PRODUCTS = 1 << 20
# Samples that are run beside the network, how near to a threshold two sums may disagree, and how far logits may.
SAMPLES, TIE, CLOSE = 64, 1e-9, 1e-7


@dataclass(frozen=True)
class Recognised:
    """A network of leaky cells.

    Attributes:
        net: its layers.
        columns: which entry of a sample every input of a step is.
    """

    net: Spiking
    columns: Int[Tensor, "time inputs"]

    def inputs(self, x: Float[Tensor, "samples ..."]) -> Float[Tensor, "samples time inputs"]:
        """What enters at every step."""
        return x.flatten(1)[:, self.columns.to(x.device)]


_known: WeakKeyDictionary[Tensors, WeakKeyDictionary[Graph, Recognised | str]] = WeakKeyDictionary()


def recognised(problem: Problem) -> Recognised:
    """The cells of a network.

    Raises:
        NotRecognised: it is not made of leaky cells, or cannot be seen to be.
    """
    held = _known.setdefault(problem.tensors, WeakKeyDictionary())
    verdict = held.get(problem.network.main)
    if verdict is None:
        try:
            with torch.no_grad():
                verdict = _recognised(problem)
        except NotRecognised as error:
            verdict = str(error)
        except (RecursionError, ZeroDivisionError):
            verdict = "a step of it computes something that is not read here"
        held[problem.network.main] = verdict
    if isinstance(verdict, str):
        raise NotRecognised(verdict)
    return verdict


def looks_spiking(problem: Problem) -> bool:
    """Whether anything of the network compares numbers."""
    graphs = problem.network.graphs.values()
    return any(o.operator.startswith(COMPARISONS) for graph in graphs for o in graph.operations)


def _products(problem: Problem) -> int:
    """Products of a sample in the layers of a step, each weight's once."""
    products: dict[str, int] = {}
    for graph in problem.network.graphs.values():
        for o in graph.operations:
            name = next((graph.tensors[i] for i in o.inputs[1:2] if i in graph.tensors), None)
            if name is not None and isinstance(o.layout, Layout):
                weight = problem.tensors.values[name]
                if weight.dim() >= 2:
                    count = math.prod(size for size in o.layout.shape if size is not None)
                    products[name] = max(products.get(name, 0), count * weight[0].numel())
    return sum(products.values())


def _recognised(problem: Problem) -> Recognised:
    if not looks_spiking(problem):
        raise NotRecognised("nothing in it compares a potential with a threshold")
    if _products(problem) > MOST_PRODUCTS:
        raise NotRecognised("its layers are larger than what is read here")
    equations = _equations(problem)
    cells = Recognised(spiking(equations), equations.columns)
    if _differs(problem, cells):
        raise NotRecognised("what was read of its cells does not run as the network does")
    return cells


def _equations(problem: Problem) -> Equations:
    network = problem.network
    return of_protocol(problem, network) if isinstance(network, RecurrentNetwork) else of_loop(problem, network)


def _differs(problem: Problem, cells: Recognised) -> bool:
    """A second look: whether float64 runs of some samples part, but for those that come near to a threshold."""
    x = problem.x[:SAMPLES].double().to(problem.settings.device)
    ran = run(cells.net, cells.inputs(x))
    with RUNNING:
        model = deep_copy(problem.model).double().to(x.device).eval()
    try:
        with default_dtype(torch.float64):
            logits = called(model, x)
    except Exception:  # a network raises whatever it likes
        return False  # it does not run in double precision; its graphs have decided
    if problem.network.ending or not isinstance(logits, Tensor) or logits.shape != ran.logits.shape:
        return False
    size = ran.logits.abs().amax(1) + 1.0
    return bool((((logits - ran.logits).abs().amax(1) > CLOSE * size) & (ran.nearest > TIE)).any())
