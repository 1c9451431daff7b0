"""Data sets of arrays: fixed subsets, identity, splits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thetabox.data import Dataset, from_arrays
from thetabox.data.dataset import balanced_order, fixed_order
from thetabox.errors import InputError


def _dataset(labels: list[int], groups: list[str] | None = None) -> Dataset:
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    return from_arrays(x, np.asarray(labels), classes=["a", "b", "c", "d"], groups=groups)


def test_fixed_order_is_the_same_for_ever():
    # Literals: a change of this order would silently change every published number.
    assert fixed_order(8, 0).tolist() == [7, 0, 4, 6, 2, 5, 1, 3]
    assert fixed_order(8, 1).tolist() != fixed_order(8, 0).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_subset_is_balanced_nested_and_without_repeats(labels, n, seed):
    data = _dataset(labels)
    chosen = data.subset(n, seed)
    assert len(chosen) == min(n, len(data))
    values = chosen.x[:, 0].tolist()
    assert len(set(values)) == len(values)
    assert chosen.y.tolist() == [labels[int(value)] for value in values]
    # As balanced as the sizes allow: a class behind the leader by more than one is used up.
    taken, available = np.asarray(chosen.class_counts), np.asarray(data.class_counts)
    behind = taken < taken.max() - 1
    assert (taken[behind] == available[behind]).all()
    if n < len(data):
        smaller = data.subset(max(1, n // 2), seed)
        assert torch.equal(smaller.x, chosen.x[: len(smaller)])


def test_balanced_order_lets_the_classes_take_turns():
    labels = np.asarray([0] * 5 + [1] * 2 + [2])
    assert labels[balanced_order(labels, 0)].tolist() == [0, 1, 2, 0, 1, 0, 0, 0]


def test_subset_carries_groups():
    data = _dataset([0, 1, 2, 3, 0], groups=["p", "q", "r", "s", "t"])
    chosen = data.subset(3)
    assert chosen.groups == [data.groups[int(value)] for value in chosen.x[:, 0]]


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_subset_refuses_what_is_not_a_count(n):
    with pytest.raises(InputError, match="positive integer"):
        _dataset([0, 1]).subset(n)


def test_sha256_sees_inputs_labels_and_shape():
    data = _dataset([0, 1, 2, 3])
    assert data.sha256 == _dataset([0, 1, 2, 3]).sha256
    assert data.sha256 != _dataset([0, 1, 2, 2]).sha256
    assert data.sha256 != from_arrays(data.x + 1, data.y).sha256
    assert from_arrays(torch.zeros(2, 4), [0, 1]).sha256 != from_arrays(torch.zeros(2, 2, 2), [0, 1]).sha256
    assert data.info == {"name": "arrays", "sha256": data.sha256, "samples": 4}
