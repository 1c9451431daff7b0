"""The one training loop: every method, every network, reproducible, interruptible and resumable."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.models import is_recurrent, logits, save
from thetabox.train import resume_file
from thetabox.train.history import Best, Epoch, TrainResult, copied
from thetabox.train.methods import Method, Step, run_step
from thetabox.train.methods import method as method_of
from thetabox.train.progress_bar import TrainingBar
from thetabox.train.settings import TrainingSettings

SAVE_EVERY_SECONDS = 10.0
EVALUATION_BATCH = 1024
# What torch reports of a batch norm that is given one number a channel.
ALONE = "Expected more than 1 value per channel"


class Labelled(Protocol):
    """Anything with inputs ``x [N, ...]`` and labels ``y [N]``, such as ``thetabox.data.Dataset``."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...


Data = Labelled | tuple[Any, Any]


def fit(
    model: nn.Module,
    train: Data,
    validation: Data,
    method: str | Method = "standard",
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    set: Mapping[str, Any] | None = None,
    optimizer: str = "adam",
    schedule: str = "constant",
    weight_decay: float = 0.0,
    inverse_weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    rate_penalty: float = 0.0,
    target_rate: float = 10.0,
    input_noise: float = 0.0,
    time_shift: int = 0,
    warp: float = 0.0,
    repeat_rare: int = 1,
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    out: str | os.PathLike[str] | None = None,
    info: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> TrainResult:
    r"""Train ``model`` in place and leave it at its best epoch by validation accuracy (ties: lower loss).

    The same arguments give the same weights bit for bit on one machine, device and thread count, resumed or not.
    Ctrl-C ends the training; the best weights so far stand in the model and in ``out``.

    Args:
        model: any module that maps x to logits; recurrent ones by the protocol.
        train: object with ``x`` and ``y``, or a pair (x, y), of tensors or arrays.
        validation: the same.
        method: a name of ``METHODS``, several joined by ``+``, or a :class:`Method`.
        epochs: passes over the training data.
        batch_size: samples a step.
        lr: rate of the optimiser.
        seed: of batch order, noise and dropout (initial weights are the caller's).
        set: hyper-parameters of the method.
        optimizer: ``"adam"`` or ``"sgd"`` (Nesterov momentum 0.9).
        schedule: ``"constant"``, ``"cosine"`` (to zero), ``"late-cosine"`` (constant for 60 % of the epochs, then to
            zero), or ``"steps"`` (× 0.2 at 20 %, 40 % and 53 % of the epochs: 60, 120, 160 of 300).
        weight_decay: L2 penalty of the optimiser.
        inverse_weight_decay: λ ≥ 0; after every step the parameters are pushed outwards,
            :math:`\theta \leftarrow (1 + \eta\lambda)\,\theta` with η the rate of the moment, which buys robustness
            against noise of constant size and none against relative noise
            (:func:`thetabox.measure.constant_noise`; Fig. S4 of arXiv 2106.05009). Apart from the gradient, as Adam
            would divide it away. Neuron parameters are not trained and stay.
        clip_norm: largest gradient norm, 0 for none.
        rate_penalty: spiking networks: adds ``rate_penalty`` · mean over units of (rate/target − 1)².
        target_rate: the target of it, Hz (with dt in ms); a unit's rate is its mean spikes a step, over dt.
        input_noise: standard deviation of noise on the training inputs.
        repeat_rare: samples of rare classes come up to this many times an epoch, up to the most common class's count.
        time_shift: training sequences [N, T, inputs] are moved by up to so many steps, their ends repeated.
        warp: share of the training images [N, channels, height, width] that a small random affine map of their own
            turns, shifts, shears and scales, drawn anew every time (:mod:`thetabox.train.warp`).
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``.
        threads: CPU threads; by default 1 for recurrent networks, whose steps are too small to share, else torch's.
        progress: show a progress bar.
        on_epoch: called after every epoch.
        out: checkpoint file for the best weights, renewed while training goes on. Beside it lies, until the end,
            ``out + ".resume"``.
        info: facts for the checkpoint's metadata (task, …).
        resume: go on from the resume file if there is one.

    Raises:
        InputError: bad data or settings, an unknown method, a loss that is not finite, a resume file of other settings.
    """
    chosen = method_of(method, set) if isinstance(method, str) else method
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        optimizer=optimizer,
        schedule=schedule,
        weight_decay=weight_decay,
        inverse_weight_decay=inverse_weight_decay,
        clip_norm=clip_norm,
        rate_penalty=rate_penalty,
        target_rate=target_rate,
        input_noise=input_noise,
        time_shift=time_shift,
        warp=warp,
        repeat_rare=repeat_rare,
    )
    where = choose_device(device)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    data, held_out = _arrays(train, "training", where, dtype), _arrays(validation, "validation", where, dtype)
    facts = {"method": method if isinstance(method, str) else method.name, "hyper_parameters": repr(chosen)}
    facts |= asdict(settings)
    with _surroundings(model, threads, where), TrainingBar(progress) as bar:
        training = _Training(model.to(where), data, held_out, chosen, settings, where)
        keeper = Checkpointer(training, None if out is None else Path(out), {**facts, **(info or {})}, resume)
        bar.begin(len(training.history) * training.batches, epochs * training.batches)
        interrupted = _interrupted(training, keeper, bar, on_epoch)
        if training.best.state:
            model.load_state_dict(training.best.state)
        model.eval()
        keeper.close(interrupted)
    best = training.best
    return TrainResult(model, max(best.accuracy, 0.0), best.epoch, training.history, training.seconds(), interrupted)


def _interrupted(
    training: _Training, keeper: Checkpointer, bar: TrainingBar, on_epoch: Callable[[Epoch], None] | None
) -> bool:
    """Train to the end; whether an interrupt came before."""
    try:
        while len(training.history) < training.settings.epochs:
            record = training.epoch(bar.advance)
            bar.show(record, training.best.accuracy)
            keeper.epoch_done()
            if on_epoch is not None:
                on_epoch(record)
    except KeyboardInterrupt:
        return True
    return False


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy, mean cross entropy) in evaluation mode; the model's mode is left as it was."""
    mode = model.training
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for first in range(0, len(x), EVALUATION_BATCH):
            labels = y[first : first + EVALUATION_BATCH]
            answer = logits(model, x[first : first + EVALUATION_BATCH])
            correct += int((answer.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(answer, labels, reduction="sum"))
    model.train(mode)
    return correct / len(y), loss / len(y)


class _Training:
    """A training between two epochs: everything that a resumed one must find again."""

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        method: Method,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.model, self.method, self.settings, self.device = model, method, settings, device
        self.x, self.y = data
        self.held_out = held_out
        self.places = settings.places(self.y)
        self.batches = settings.batches(len(self.places))
        _check_fits(model, self.x, self.y, held_out)
        torch.manual_seed(settings.seed)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.Generator(device).manual_seed(settings.seed + 1)
        self.theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = settings.make_optimizer(self.theta.values())
        self.schedule = settings.make_schedule(self.optimizer)
        self.penalty = settings.output_penalty(model)
        self.best = Best()
        self.history: list[Epoch] = []
        self._started, self._earlier = time.perf_counter(), 0.0

    def epoch(self, advance: Callable[[], None]) -> Epoch:
        """One pass over the data and one over the validation data."""
        number = len(self.history) + 1
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        order = self.places[torch.randperm(len(self.places), generator=self.order).to(self.device)]
        for index in range(self.batches):
            last = index == self.batches - 1
            rows = order[index * self.settings.batch_size :][: None if last else self.settings.batch_size]
            total += self._step(rows, (number - 1) * self.batches + index).double() * len(rows)
            advance()
        self.schedule.step()
        loss = float(total) / len(self.places)
        if not math.isfinite(loss):
            raise InputError(f"the training loss became {loss} in epoch {number}; lower lr (now {self.settings.lr:g})")
        with _as_stored(self.method, self.theta):
            record = Epoch(number, loss, *evaluate(self.model, *self.held_out))
            if number == self._settled_from():
                self.best = Best()
            self.best.improve(record, self.model)
        self.history.append(record)
        return record

    def _settled_from(self) -> int:
        """The first epoch whose weights count, if there is a ramp: the whole of it at its end, or else the last one."""
        return min(math.floor(self.method.settled_at * self.settings.epochs) + 1, self.settings.epochs)

    def seconds(self) -> float:
        """Time spent, earlier parts included."""
        return self._earlier + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, copied."""
        random = [self.order.get_state(), self.noise.get_state(), torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        return {
            "model": copied(self.model.state_dict()),
            "optimizer": copied(self.optimizer.state_dict()),
            "schedule": copied(self.schedule.state_dict()),
            "random": random,
            "best": asdict(self.best),
            "history": [asdict(record) for record in self.history],
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for target, value in zip((self.order, self.noise), state["random"], strict=False):
            target.set_state(value)
        torch.set_rng_state(state["random"][2])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][3], self.device)
        self.best = Best(**state["best"])
        self.history = [Epoch(**record) for record in state["history"]]
        self._earlier = state["seconds"]

    def _step(self, rows: Tensor, index: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        theta: dict[str, Tensor] = dict(self.theta)
        x = self.settings.augment(self.x[rows], self.noise)
        done = index / self.batches / self.settings.epochs
        step = Step(self.model, x, self.y[rows], theta, self.noise, done, self.penalty, index, self._descend)
        try:
            loss = run_step(self.method, step)
        except ValueError as error:
            if ALONE not in str(error):
                raise
            raise InputError(
                f"batch norm cannot be trained on a batch of {len(rows)}; take a batch_size of 2 or more, and 2 samples"
            ) from None
        self._descend()
        return loss

    def _descend(self) -> None:
        if self.settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.theta.values(), self.settings.clip_norm)
        self.optimizer.step()
        self.settings.grow(self.theta.values(), self.optimizer)


class Checkpointer:
    """Checkpoint and resume file of a training; does nothing without a path."""

    def __init__(self, training: _Training, path: Path | None, facts: Mapping[str, Any], resume: bool) -> None:
        self.training, self.path, self.facts = training, path, facts
        self._written = time.perf_counter()
        self._state: dict[str, Any] | None = None
        if path is None:
            return
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"cannot write {path}: " + ("it is a folder" if path.is_dir() else "no such folder"))
        data = resume_file.digest(training.x, training.y, *training.held_out)
        shapes = [[name, list(value.shape)] for name, value in training.model.state_dict().items()]
        self._identity = json.dumps([facts, str(training.device), data, shapes], sort_keys=True, default=str)
        self._side = resume_file.path_for(path)
        if resume and self._side.exists():
            training.restore(resume_file.read(self._side, self._identity))

    def epoch_done(self) -> None:
        """Remember where the epoch ended, and write it down every few seconds."""
        if self.path is None:
            return
        self._state = self.training.state()
        if time.perf_counter() - self._written > SAVE_EVERY_SECONDS:
            resume_file.write(self._side, self._identity, self._state)
            newest = self._state["model"]
            self.training.model.load_state_dict(self.training.best.state)
            self._save()
            self.training.model.load_state_dict(newest)
            self._written = time.perf_counter()

    def close(self, interrupted: bool) -> None:
        """The best weights, which the model holds now, into the checkpoint; the resume file goes unless interrupted."""
        if self.path is None:
            return
        if self.training.best.state:
            self._save()
        if not interrupted:
            self._side.unlink(missing_ok=True)
        elif self._state is not None:
            resume_file.write(self._side, self._identity, self._state)

    def _save(self) -> None:
        assert self.path is not None
        best = self.training.best
        facts = {**self.facts, "best_epoch": best.epoch, "best_validation_accuracy": best.accuracy}
        save(self.training.model, self.path, facts)


def _arrays(data: Data, name: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    try:
        x, y = data if isinstance(data, tuple | list) else (data.x, data.y)
    except (AttributeError, ValueError):
        raise InputError(f"the {name} data must have x and y, or be a pair of them") from None
    # Not copied: every batch is, and a data set may be large.
    x = checks.array(x, f"x of the {name} data", own=False)
    if x.ndim == 0 or x.numel() == 0:
        raise InputError(f"the {name} data is empty")
    if x.is_floating_point():
        x = x.to(dtype)  # as the network computes; nothing is claimed of the samples of a training
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"the {name} inputs hold NaN or infinite values")
    y = checks.labels(y, len(x), f"y of the {name} data")
    if int(y.min()) < 0:
        raise InputError(f"the {name} labels must be integers of at least 0")
    return x.to(device), y.to(device)


def _check_fits(model: nn.Module, x: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor]) -> None:
    """One forward pass before anything is trained: input shape and number of classes."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            classes = logits(model, x[:1]).shape[1]
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        detail = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"the network does not take inputs of shape {list(x.shape[1:])}: {detail}") from None
    finally:
        model.train(mode)
    if held_out[0].shape[1:] != x.shape[1:]:
        shapes = f"{list(x.shape[1:])} and {list(held_out[0].shape[1:])}"
        raise InputError(f"training and validation inputs have different shapes: {shapes}")
    largest = max(int(y.max()), int(held_out[1].max()))
    if largest >= classes:
        raise InputError(f"labels go up to {largest}, but the network has {classes} classes")


@contextlib.contextmanager
def _as_stored(method: Method, theta: Mapping[str, Tensor]) -> Iterator[None]:
    """The parameters as the method's device would hold them, inside (those of quantised training: rounded)."""
    with torch.no_grad():
        before = {name: value.detach() for name, value in theta.items()}
        stored = method.stored(before)
        if stored is before:
            yield
            return
        before = {name: value.clone() for name, value in before.items()}
        for name, value in theta.items():
            value.copy_(stored[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in theta.items():
                value.copy_(before[name])


@contextlib.contextmanager
def _surroundings(model: nn.Module, threads: int | None, device: torch.device) -> Iterator[None]:
    """Thread count, deterministic convolution and global random state for the time of a training."""
    before, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if threads is None and device.type == "cpu" and is_recurrent(model):
        threads = 1
    torch.set_num_threads(threads or before)
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic = deterministic
