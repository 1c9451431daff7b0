"""The one training loop: every method, every network, reproducible, interruptible and resumable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thetabox.device import choose_device
from thetabox.models import is_recurrent
from thetabox.train.checkpointer import Checkpointer
from thetabox.train.given import Data, arrays
from thetabox.train.history import Epoch, TrainResult
from thetabox.train.methods import Method
from thetabox.train.methods import method as method_of
from thetabox.train.progress_bar import TrainingBar
from thetabox.train.settings import TrainingSettings
from thetabox.train.training import Training


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
    data, held_out = arrays(train, "training", where, dtype), arrays(validation, "validation", where, dtype)
    facts = {"method": method if isinstance(method, str) else method.name, "hyper_parameters": repr(chosen)}
    facts |= asdict(settings)
    with _surroundings(model, threads, where), TrainingBar(progress) as bar:
        training = Training(model.to(where), data, held_out, chosen, settings, where)
        keeper = Checkpointer(training, None if out is None else Path(out), {**facts, **(info or {})}, resume)
        return _trained(training, keeper, bar, on_epoch)


def _trained(
    training: Training, keeper: Checkpointer, bar: TrainingBar, on_epoch: Callable[[Epoch], None] | None
) -> TrainResult:
    """Train to the end or an interrupt, and leave the model at its best epoch."""
    bar.begin(len(training.history) * training.batches, training.settings.epochs * training.batches)
    interrupted = _interrupted(training, keeper, bar, on_epoch)
    model, best = training.model, training.best
    if best.state:
        model.load_state_dict(best.state)
    model.eval()
    keeper.close(interrupted)
    return TrainResult(model, max(best.accuracy, 0.0), best.epoch, training.history, training.seconds(), interrupted)


def _interrupted(
    training: Training, keeper: Checkpointer, bar: TrainingBar, on_epoch: Callable[[Epoch], None] | None
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
