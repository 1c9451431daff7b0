"""The one training loop: every method, every network, reproducible, interruptible and resumable."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models import is_recurrent, logits, save
from thetabox.models.checkpoint import write_atomically
from thetabox.train.methods import Method, Step, run_step
from thetabox.train.methods import method as method_of

RESUME_SUFFIX = ".resume"
RESUME_EVERY_SECONDS = 10.0
EVALUATION_BATCH = 1024


class Labelled(Protocol):
    """Anything with inputs ``x [N, ...]`` and labels ``y [N]``, such as ``thetabox.data.Dataset``."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...


@dataclass(frozen=True)
class Epoch:
    """One line of the training history; losses are means over the training batches."""

    epoch: int
    loss: float
    validation_accuracy: float
    validation_loss: float


@dataclass
class TrainResult:
    """What a training gave: the model at its best epoch, by validation.

    Attributes:
        model: the same module that was passed in, holding the best weights, in evaluation mode, on its device.
        best_validation_accuracy, best_epoch: of these weights.
        history: one entry an epoch.
        seconds: time spent, earlier parts of a resumed training included.
        interrupted: whether Ctrl-C ended it early.
    """

    model: nn.Module
    best_validation_accuracy: float
    best_epoch: int
    history: list[Epoch]
    seconds: float
    interrupted: bool = False


@dataclass
class _Best:
    accuracy: float = -1.0
    loss: float = math.inf
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def improve(self, record: Epoch, model: nn.Module) -> bool:
        better = (record.validation_accuracy, -record.validation_loss) > (self.accuracy, -self.loss)
        if better:
            self.accuracy, self.loss, self.epoch = record.validation_accuracy, record.validation_loss, record.epoch
            self.state = _copied(model.state_dict())
        return better


def fit(
    model: nn.Module,
    train: Labelled | tuple[Any, Any],
    validation: Labelled | tuple[Any, Any],
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
    clip_norm: float = 0.0,
    rate_penalty: float = 0.0,
    target_rate: float = 10.0,
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

    Args:
        model: any module that maps x to logits; recurrent ones by the protocol.
        train, validation: objects with ``x`` and ``y``, or pairs (x, y), tensors or arrays.
        method: a name of ``METHODS``, several joined by ``+``, or a :class:`Method`.
        epochs, batch_size, lr: as usual; ``lr`` is the rate of Adam (or SGD).
        seed: of batch order, noise and dropout (initial weights are the caller's).
        set: hyper-parameters of the method.
        optimizer: ``"adam"`` or ``"sgd"`` (Nesterov momentum 0.9).
        schedule: ``"constant"``, ``"cosine"`` (to zero), or ``"steps"`` (× 0.2 at 20 %, 40 % and 53 % of the epochs:
            60, 120, 160 of 300).
        weight_decay: L2 penalty of the optimiser.
        clip_norm: largest gradient norm, 0 for none.
        rate_penalty, target_rate: spiking networks: adds ``rate_penalty`` · mean over units of (rate/target − 1)², the
            rate of a unit being its mean spikes a step / dt, ``target_rate`` in Hz with dt in ms.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``.
        threads: CPU threads; by default 1 for recurrent networks, whose steps are too small to share, else torch's.
        progress: show a progress bar.
        on_epoch: called after every epoch.
        out: checkpoint file; holds the best weights from the first improvement on. Beside it lies, until the end,
            ``out + ".resume"``.
        info: facts for the checkpoint's metadata (task, …).
        resume: go on from the side file if there is one.

    Raises:
        InputError: bad data or settings, an unknown method, a loss that is not finite, a side file of other settings.
    """
    chosen = method_of(method, set) if isinstance(method, str) else method
    where = _device(device)
    x, y = _arrays(train, "training", where)
    x_val, y_val = _arrays(validation, "validation", where)
    _check_settings(epochs, batch_size, lr, schedule, optimizer)
    path = None if out is None else Path(out)
    facts = {
        "method": method if isinstance(method, str) else method.name,
        "settings": repr(chosen),
        **{"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "optimizer": optimizer},
        **{"schedule": schedule, "weight_decay": weight_decay, "clip_norm": clip_norm},
        **{"rate_penalty": rate_penalty, "target_rate": target_rate},
    }
    identity = json.dumps([facts, str(where), _digest(x, y, x_val, y_val), _shapes(model)], sort_keys=True)
    started = time.perf_counter()
    spent = 0.0
    history: list[Epoch] = []
    best = _Best()
    interrupted = False
    with _reproducible(model, threads, where):
        torch.manual_seed(seed)
        model.to(where)
        model.train()
        _check_fits(model, x, y)
        theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
        stepper = _optimizer(optimizer, list(theta.values()), lr, weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(stepper, _rate_factor(schedule, epochs))
        order = torch.Generator().manual_seed(seed)
        noise = torch.Generator(where).manual_seed(seed + 1)
        penalty = _rate_penalty(model, rate_penalty, target_rate)

        def snapshot() -> dict[str, Any]:
            return {
                "identity": identity,
                "model": _copied(model.state_dict()),
                "optimizer": _copied(stepper.state_dict()),
                "scheduler": _copied(scheduler.state_dict()),
                "random": [order.get_state(), noise.get_state(), torch.get_rng_state(), *_cuda_random(where)],
                "best": asdict(best),
                "history": [asdict(record) for record in history],
                "seconds": spent + time.perf_counter() - started,
            }

        side = None if path is None else path.with_name(path.name + RESUME_SUFFIX)
        if side is not None and resume and side.exists():
            stored = _read_side_file(side, identity)
            model.load_state_dict(stored["model"])
            stepper.load_state_dict(stored["optimizer"])
            scheduler.load_state_dict(stored["scheduler"])
            order_state, noise_state, global_state, *cuda_state = stored["random"]
            order.set_state(order_state)
            noise.set_state(noise_state)
            torch.set_rng_state(global_state)
            if cuda_state:
                torch.cuda.set_rng_state(cuda_state[0], where)
            best = _Best(**stored["best"])
            history = [Epoch(**record) for record in stored["history"]]
            spent = stored["seconds"]
        finished = snapshot()
        written = time.perf_counter()
        saved_epoch = best.epoch
        batches = math.ceil(len(x) / batch_size)
        try:
            with _Bar(progress, epochs * batches, len(history) * batches) as bar:
                for epoch in range(len(history) + 1, epochs + 1):
                    model.train()
                    total = torch.zeros((), dtype=torch.float64, device=where)
                    for index, rows in enumerate(torch.randperm(len(x), generator=order).split(batch_size)):
                        rows = rows.to(where)
                        done = (epoch - 1 + index / batches) / epochs
                        stepper.zero_grad(set_to_none=True)
                        step = Step(model, x[rows], y[rows], theta, noise, done, penalty)
                        total += run_step(chosen, step).double() * len(rows)
                        if clip_norm > 0:
                            nn.utils.clip_grad_norm_(theta.values(), clip_norm)
                        stepper.step()
                        bar.advance()
                    scheduler.step()
                    loss = (total / len(x)).item()
                    if not math.isfinite(loss):
                        raise InputError(f"the training loss became {loss} in epoch {epoch}; lower lr (now {lr:g})")
                    accuracy, validation_loss = evaluate(model, x_val, y_val)
                    record = Epoch(epoch, loss, accuracy, validation_loss)
                    history.append(record)
                    best.improve(record, model)
                    bar.show(record, best.accuracy)
                    if on_epoch is not None:
                        on_epoch(record)
                    finished = snapshot()
                    if path is not None and side is not None and time.perf_counter() - written > RESUME_EVERY_SECONDS:
                        saved_epoch = _save_best(path, model, best, saved_epoch, facts, info)
                        _write_side_file(side, finished)
                        written = time.perf_counter()
        except KeyboardInterrupt:
            interrupted = True
            if side is not None and finished["history"]:
                _write_side_file(side, finished)
        if best.state:
            model.load_state_dict(best.state)
        if path is not None and best.state:
            save(model, path, _info(facts, info, best))
            if not interrupted and side is not None:
                side.unlink(missing_ok=True)
        model.eval()
    seconds = spent + time.perf_counter() - started
    return TrainResult(model, max(best.accuracy, 0.0), best.epoch, history, seconds, interrupted)


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy, mean cross entropy) in evaluation mode, which is left as it was."""
    mode = model.training
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for part, labels in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
            answer = logits(model, part)
            correct += int((answer.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(answer, labels, reduction="sum"))
    model.train(mode)
    return correct / len(y), loss / len(y)


class _Bar:
    """Progress bar over optimiser steps, with loss and validation accuracy; silent when not wanted."""

    def __init__(self, shown: bool, total: int, completed: int) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, disable=not shown)
        self._task = self._progress.add_task("training", total=total, completed=completed, state="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._progress.advance(self._task)

    def show(self, record: Epoch, best: float) -> None:
        state = f"loss {record.loss:.4f}  validation {record.validation_accuracy:.4f} (best {best:.4f})"
        self._progress.update(self._task, state=state)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda is not available here; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _arrays(data: Labelled | tuple[Any, Any], name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = data if isinstance(data, tuple) else (data.x, data.y)
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if len(x) == 0:
        raise InputError(f"the {name} data is empty")
    if y.shape != x.shape[:1]:
        raise InputError(f"the {name} data has {len(x)} inputs, but labels of shape {list(y.shape)}")
    if y.is_floating_point() or y.is_complex() or int(y.min()) < 0:
        raise InputError(f"the {name} labels must be integers of at least 0")
    if not torch.isfinite(x).all():
        raise InputError(f"the {name} inputs hold NaN or infinite values")
    return x.to(device, torch.get_default_dtype()), y.to(device, torch.int64)


def _check_settings(epochs: int, batch_size: int, lr: float, schedule: str, optimizer: str) -> None:
    if epochs < 1 or batch_size < 1:
        raise InputError(f"epochs and batch_size must be at least 1, not {epochs} and {batch_size}")
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"lr is {lr}; it must be positive and finite")
    if schedule not in ("constant", "cosine", "steps"):
        raise InputError(f"unknown schedule {schedule!r}; choose constant, cosine or steps")
    if optimizer not in ("adam", "sgd"):
        raise InputError(f"unknown optimizer {optimizer!r}; choose adam or sgd")


def _check_fits(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward pass before anything is trained: input shape and number of classes."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            classes = logits(model, x[:1]).shape[1]
    except (RuntimeError, IndexError) as error:
        detail = str(error).strip().splitlines()[0]
        raise InputError(f"the network does not take inputs of shape {list(x.shape[1:])}: {detail}") from None
    finally:
        model.train(mode)
    if int(y.max()) >= classes:
        raise InputError(f"labels go up to {int(y.max())}, but the network has {classes} classes")


def _optimizer(name: str, parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=decay)
    return torch.optim.Adam(parameters, lr, weight_decay=decay)


def _rate_factor(schedule: str, epochs: int) -> Callable[[int], float]:
    def factor(epoch: int) -> float:
        done = epoch / epochs
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        if schedule == "steps":
            return float(0.2 ** sum(done >= at for at in (60 / 300, 120 / 300, 160 / 300)))
        return 1.0

    return factor


def _rate_penalty(model: nn.Module, strength: float, target: float) -> Callable[[Tensor], Tensor] | None:
    if strength <= 0 or not is_recurrent(model) or type(model).forward is nn.Module.forward:
        return None
    per_step = target * float(getattr(model, "dt", 1.0)) / 1000
    return lambda outputs: strength * (outputs.mean((0, 1)) / per_step - 1).square().mean()


@contextlib.contextmanager
def _reproducible(model: nn.Module, threads: int | None, device: torch.device) -> Iterator[None]:
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


def _cuda_random(device: torch.device) -> list[Tensor]:
    return [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []


def _copied(value: Any) -> Any:
    """Deep copy of nested dicts and lists of tensors, off the graph."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _digest(*arrays: Tensor) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(list(array.shape)).encode())
        digest.update(array.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _shapes(model: nn.Module) -> list[list[Any]]:
    return [[name, list(value.shape)] for name, value in model.state_dict().items()]


def _info(facts: Mapping[str, Any], info: Mapping[str, Any] | None, best: _Best) -> dict[str, Any]:
    return {**facts, "best_epoch": best.epoch, "best_validation_accuracy": best.accuracy, **(info or {})}


def _save_best(
    path: Path, model: nn.Module, best: _Best, saved: int, facts: Mapping[str, Any], info: Mapping[str, Any] | None
) -> int:
    """Put the best weights into the checkpoint while training goes on with the newest."""
    if best.epoch != saved:
        newest = _copied(model.state_dict())
        model.load_state_dict(best.state)
        save(model, path, _info(facts, info, best))
        model.load_state_dict(newest)
    return best.epoch


def _write_side_file(side: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(side, buffer.getvalue())


def _read_side_file(side: Path, identity: str) -> dict[str, Any]:
    try:
        stored = torch.load(side, weights_only=True)
        same = stored["identity"] == identity
    except Exception as error:
        raise InputError(
            f"{side}: cannot be resumed from; delete it to start afresh ({type(error).__name__})"
        ) from None
    if not same:
        raise InputError(f"{side}: belongs to a training with other settings or data; use those, or delete it")
    return dict(stored)
