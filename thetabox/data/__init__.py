"""Tasks: named data sets with fixed splits, and your own data from ``.npz``.

>>> from thetabox.data import load
>>> test = load("digits", "test")
>>> list(test.x.shape), len(test.subset(100))
([360, 1, 8, 8], 100)
"""

from thetabox.data.arrays import from_arrays, load_arrays
from thetabox.data.dataset import SPLITS, Dataset
from thetabox.data.registry import TASKS, load
from thetabox.data.task import Task

__all__ = ["SPLITS", "TASKS", "Dataset", "Task", "from_arrays", "load", "load_arrays"]
