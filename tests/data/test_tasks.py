"""The registry, and the two tasks that come with the package."""

import pytest
import torch

from thetabox.data import SPLITS, TASKS, load
from thetabox.errors import InputError


@pytest.mark.parametrize("name", TASKS)
def test_registry_entry_is_complete(name):
    task = TASKS[name]
    assert task.name == name
    assert all((task.title, task.shape, task.classes, task.licence, task.citation, task.description))
    assert task.source.startswith("https://")
    assert task.sequence == (len(task.shape) == 2)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.embedded])
@pytest.mark.parametrize("split", SPLITS)
def test_embedded_task(name, split):
    task, data = TASKS[name], load(name, split)
    assert (data.name, data.split) == (name, split)
    assert tuple(data.x.shape[1:]) == task.shape
    assert data.x.dtype == torch.float32
    assert data.classes == list(task.classes)
    assert min(data.class_counts) > 0
    assert data.sha256 == load(name, split).sha256


@pytest.mark.parametrize(("name", "sizes"), [("digits", (1257, 180, 360)), ("vowels", (216, 54, 370))])
def test_splits_have_their_sizes_and_share_nothing(name, sizes):
    parts = [load(name, split) for split in SPLITS]
    assert tuple(len(part) for part in parts) == sizes
    seen = [{row.numpy().tobytes() for row in part.x} for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_digits_are_grey_levels():
    data = load("digits")
    assert data.x.min() == 0
    assert data.x.max() == 1
    assert torch.equal(data.x * 16, (data.x * 16).round())


def test_vowels_are_normalised_on_the_training_split():
    train = load("vowels", "train")
    assert train.x.mean((0, 1)).abs().max() < 1e-5
    assert (train.x.std((0, 1), unbiased=False) - 1).abs().max() < 1e-5
    # Frame t is the utterance's frame ⌊t·length/60⌋: with at most 29 frames every frame appears twice or more.
    assert torch.equal(train.x[:, 0], train.x[:, 1])


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean digits"):
        load("digit")
    with pytest.raises(InputError, match="unknown split 'dev'"):
        load("digits", "dev")
