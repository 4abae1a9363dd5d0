from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.held_out import HELD_OUT
from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.transforms.corruptions import TRAINING, corrupt, corrupt_batch

ALL = {**TRAINING, **HELD_OUT}


@pytest.fixture(scope="module")
def images(test_digits: Dataset) -> Tensor:
    return to_input(torch.from_numpy(test_digits.images[:100]))


def corrupted(name: str, images: Tensor, severity: float, seed: int = 0) -> Tensor:
    return corrupt(images, ALL[name], torch.full((len(images),), severity), (seed,))


def test_no_corruption_is_both_trained_on_and_held_out() -> None:
    assert len(TRAINING) + len(HELD_OUT) == len(ALL)
    assert len(HELD_OUT) >= 10


@pytest.mark.parametrize("name", ALL)
def test_more_severity_changes_more_but_not_shape_and_range(name: str, images: Tensor) -> None:
    changes = []
    for severity in (0.01, 0.2, 0.6, 1.0):
        found = corrupted(name, images, severity)
        assert (found.shape, found.dtype) == (images.shape, torch.float32)
        assert found.isfinite().all()
        assert 0 <= found.min() <= found.max() <= 1
        changes.append((found - images).abs().mean().item())
    assert changes[1:] == sorted(changes[1:])
    assert changes[-1] > 0.02


@pytest.mark.parametrize("name", ALL)
def test_the_key_alone_decides_what_is_drawn(name: str, images: Tensor) -> None:
    first, again = (corrupted(name, images, 0.8) for _ in range(2))
    assert torch.equal(first, again)
    if name not in ("coarse", "thin", "thicken", "pixelate"):  # nothing is drawn for them
        assert not torch.equal(first, corrupted(name, images, 0.8, seed=1))


def test_images_are_not_changed_in_place(images: Tensor) -> None:
    before = images.clone()
    for name in ALL:
        corrupted(name, images, 1.0)
    corrupt_batch(images, 1.0, (0,))
    assert torch.equal(images, before)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_about_the_share_that_is_asked_for_is_struck(share: float, images: Tensor) -> None:
    many = images.repeat(10, 1, 1, 1)
    changed = (corrupt_batch(many, share, (1, 2)) != many).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(share + (1 - share) * 0.3 * share, abs=0.06)
    assert torch.equal(corrupt_batch(many, share, (1, 2)), corrupt_batch(many, share, (1, 2)))


def test_training_uses_exactly_its_damage(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    noting = Mock(wraps=corrupt)
    monkeypatch.setattr("mnist_cnn_train.transforms.corruptions.corrupt", noting)
    corrupt_batch(images.repeat(10, 1, 1, 1), 1.0, (0,))
    assert {call.args[1] for call in noting.call_args_list} == set(TRAINING.values())
