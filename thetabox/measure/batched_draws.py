"""One network under many draws of its weights: several draws in one batched call where that is faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from thetabox.errors import InputError
from thetabox.measure.box_points import Weights
from thetabox.measure.inputs import numbers_for, own_precision, working_copy
from thetabox.measure.many_lsnn import many_logits
from thetabox.models.copies import not_followed
from thetabox.models.lsnn import LSNN
from thetabox.models.recurrent import is_recurrent

Score = Callable[[Tensor, Tensor], Tensor]
"""(logits [..., n, classes], labels [n]) → sum over the n samples [...]."""
Run = Callable[[int, int], tuple[float, list[Tensor]]]
"""(first draw, draws) → (seconds a draw, logits)."""

# Draws of one batched call that are tried in turn, while each is faster than the one before.
BATCHES = (4, 8, 32)
# A call that takes longer keeps a core busy with few large operators: batching gains nothing and takes memory. Seconds,
# of a network as a whole and of a recurrent one, whose operators work on one time step. On one core batching gave: LSNN
# 12-32-9, 64 samples, T = 30, 4 ms a call, 2.8 to 3.8; 12-64-9, 100 samples, T = 60, 9 ms, 1.4 to 1.6; 12-128-9, 16 ms,
# 1.0 to 1.4; small CNN, 360 samples, 6 ms, 1.0 to 1.3; the paper's CNN, 64 samples, 50 ms, 0.95.
LONGEST_CALL = 0.005
LONGEST_RECURRENT_CALL = 0.03
# Draws by which the two ways are compared: the same ones in both, so that a difference would be seen.
COMPARED = 2
# With fewer draws a trial would cost more than it gains.
FEWEST = 20
GAIN = 0.95


def correct_count(logits: Float[Tensor, "*draw sample classes"], y: Tensor) -> Float[Tensor, "*draw"]:
    """Samples whose label has the largest logit."""
    return (logits.argmax(-1) == y).sum(-1).double()


def loss_sum(logits: Float[Tensor, "*draw sample classes"], y: Tensor) -> Float[Tensor, "*draw"]:
    """Cross entropy, summed over the samples, nats."""
    log_p = logits.double().log_softmax(-1)
    return -log_p.gather(-1, y.expand(log_p.shape[:-1])[..., None])[..., 0].sum(-1)


class ManyWeights:
    """A network whose weights are replaced draw by draw, and the data it is measured on.

    Several draws go into one call (``torch.func.vmap`` over stacked weights, or
    :func:`thetabox.measure.many_lsnn.many_logits`) where a short trial on the first draws
    finds that faster; large networks and ones that vmap refuses take one draw after the other. Both ways see the same
    weights and the same chunks of data, and the trial takes its first draws in both ways: where they differ in any
    logit, the draws are taken one by one.

    Args:
        model: any network; a copy is worked on.
        x: inputs [N, ...], on the CPU.
        y: labels [N], on the CPU.
        device: where to compute.
        chunk: samples of the data in one call.
        batch: draws in one call; found by trial when omitted.
        dtype: precision; the network's own when omitted.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        device: torch.device,
        chunk: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype or own_precision(model)
        self.device = device
        self.network = working_copy(model, device, self.dtype)
        self.tensors = {**dict(self.network.network.named_parameters()), **dict(self.network.network.named_buffers())}
        self.parts = [
            (numbers_for(x[start : start + chunk], device, self.dtype), y[start : start + chunk].to(device))
            for start in range(0, len(x), chunk)
        ]
        self.batch = batch

    def scores(
        self,
        weights: Callable[[int], Weights],
        count: int,
        score: Score,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, " draw"]:
        """Sum of ``score`` over the data for draws 0 … ``count`` − 1; arguments as of :meth:`visit`."""
        totals = torch.empty(count, dtype=torch.float64)

        def see(draws: slice, logits: list[Tensor]) -> None:
            sums = [score(part, y) for part, (_, y) in zip(logits, self.parts, strict=True)]
            totals[draws] = torch.stack(sums).sum(0).cpu()

        self.visit(weights, count, see, progress)
        return totals

    @torch.no_grad()
    def visit(
        self,
        weights: Callable[[int], Weights],
        count: int,
        see: Callable[[slice, list[Tensor]], None],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Run draws 0 … ``count`` − 1.

        Args:
            weights: draw → the tensors that it replaces, by name (each call in rising order of draws, some twice).
            count: number of draws.
            see: called with each stretch of draws and their logits, for every part of the data [draws, n, classes]
                ([n, classes] for a draw by itself).
            progress: called with the number of draws done.
        """

        def run(start: int, size: int) -> tuple[float, list[Tensor]]:
            """Draws start … start + size − 1, by one call; returns seconds a draw, and the logits."""
            began = self._clock()
            drawn = [weights(draw) for draw in range(start, start + size)]
            try:
                logits = self._one(drawn[0]) if size == 1 else self._batched(drawn)
            except (InputError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a network raises whatever it likes, and torch under vmap
                raise not_followed(error) from error
            see(slice(start, start + size), logits)
            if progress is not None:
                progress(start + size)
            return (self._clock() - began) / size, logits

        with self._kept():
            if self.batch is None:
                done, self.batch = self._trial(weights, count, run)
            else:
                done = 0
            while done < count:
                size = min(self.batch, count - done)
                run(done, size)
                done += size

    def _clock(self) -> float:
        """Seconds; of the processor where one thread does the work, so that a busy machine does not sway the trial."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    def _trial(self, weights: Callable[[int], Weights], count: int, run: Run) -> tuple[int, int]:
        """(draws done, draws in one call from here on), by time on the first draws; their scores are kept."""
        if count < FEWEST:
            return 0, 1
        longest = LONGEST_RECURRENT_CALL if is_recurrent(self.network.network) else LONGEST_CALL
        alone = [run(draw, 1) for draw in range(COMPARED)]
        best, size, done = alone[-1][0], 1, COMPARED
        if best / len(self.parts) > longest:
            return done, size
        if not self._same([weights(draw) for draw in range(COMPARED)], [logits for _, logits in alone]):
            return done, size
        for batch in BATCHES:
            if batch > count - done:
                break
            seconds, _ = run(done, batch)
            done += batch
            if seconds > GAIN * best:
                break
            best, size = seconds, batch
        return done, size

    def _same(self, drawn: list[Weights], alone: list[list[Tensor]]) -> bool:
        """Whether one call for all gives the same logits; False also where vmap refuses the network."""
        try:
            together = self._batched(drawn)
        except InputError:
            raise
        except Exception:  # whatever torch, or the network, cannot do in a batch of weights, or memory does not hold
            return False
        return all(
            torch.equal(part, torch.stack([logits[index] for logits in alone])) for index, part in enumerate(together)
        )

    def _one(self, weights: Weights) -> list[Tensor]:
        """Logits of each part of the data, under one draw."""
        for name, value in weights.items():
            self.tensors[name].copy_(value)
        return [self.network(x) for x, _ in self.parts]

    def _batched(self, drawn: list[Weights]) -> list[Tensor]:
        """The same, [draws, ...], of several draws in one call."""
        stacked = {
            f"network.{name}": torch.stack([one[name] for one in drawn]).to(self.device, self.dtype)
            for name in drawn[0]
        }
        network = self.network.network
        # A subclass may compute something else.
        if type(network) is LSNN:
            weights = {name.removeprefix("network."): value for name, value in stacked.items()}
            return [many_logits(network, weights, x) for x, _ in self.parts]
        return [vmap(lambda w, x=x: functional_call(self.network, w, (x,)))(stacked) for x, _ in self.parts]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """The copy's own weights are back afterwards."""
        before = {name: value.clone() for name, value in self.tensors.items()}
        try:
            yield
        finally:
            for name, value in before.items():
                self.tensors[name].copy_(value)
