"""The tasks by name, and the one function that loads them."""

from __future__ import annotations

import difflib
from pathlib import Path

from thetabox.data import cifar10, digits, ecg, ecg_beats, fashion_mnist, speech, vowels
from thetabox.data.arrays import load_arrays
from thetabox.data.dataset import SPLITS, Dataset
from thetabox.data.task import Task
from thetabox.errors import InputError

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK for module in (digits, vowels, fashion_mnist, ecg, ecg_beats, speech, cifar10)
}


def load(name: str | Path, split: str = "test", data_dir: str | Path | None = None) -> Dataset:
    """Loads one split of a task, or your own data.

    Args:
        name: a task of ``TASKS``, or the path of a ``.npz`` file with ``x`` and ``y`` (see ``load_arrays``).
        split: ``train``, ``validation`` or ``test``.
        data_dir: folder that holds the task's files. Without it: the folder named by the environment variable
            ``THETABOX_DATA``, else a download with checksums into the cache folder.

    Raises:
        InputError: unknown task or split, missing or damaged files, a download that failed.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    task = TASKS.get(str(name))
    if task is not None:
        return task.read(split, None if data_dir is None else Path(data_dir))
    path = Path(name)
    if path.suffix == ".npz" or path.exists():
        return load_arrays(path, split)
    near = difflib.get_close_matches(str(name), TASKS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise InputError(f"unknown task {str(name)!r}{hint}; there are {', '.join(TASKS)}, or give a .npz file")
