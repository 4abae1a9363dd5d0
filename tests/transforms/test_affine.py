import math
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.pipeline.params import Augmentation
from mnist_cnn_train.transforms.affine import affine_matrices, sample_distortions, warp

RANGES = Augmentation(rotation=10, shear=8, translation=0.07, scale=0.1, corruption=0.0)


@pytest.fixture(scope="module")
def images(test_digits: Dataset) -> Tensor:
    return to_input(torch.from_numpy(test_digits.images[:64]))


def test_a_batch_is_distorted_as_torchvision_distorts_each_image(images: Tensor) -> None:
    draw = torch.Generator().manual_seed(0)
    count = len(images)
    degrees, shear, across, down, zoom = torch.rand((5, count), generator=draw) * 2 - 1
    degrees, shear, zoom = 30 * degrees, 20 * shear, 1 + 0.3 * zoom
    shift = torch.stack([across, down], dim=1) * 0.2
    matrices = affine_matrices(degrees.deg2rad(), shear.deg2rad(), shift, zoom)
    expected = [
        reference.affine(
            images[index],
            angle=degrees[index].item(),
            translate=[28 * part for part in shift[index].tolist()],
            scale=zoom[index].item(),
            shear=[shear[index].item(), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        for index in range(count)
    ]
    torch.testing.assert_close(warp(images, matrices), torch.stack(expected), atol=1e-4, rtol=0)


def test_ranges_of_zero_change_nothing(images: Tensor) -> None:
    none = Augmentation(rotation=0, shear=0, translation=0, scale=0, corruption=0)
    unchanged = warp(images, sample_distortions(len(images), none, (0,)))
    torch.testing.assert_close(unchanged, images, atol=1e-5, rtol=0)


def test_every_image_is_distorted_in_its_own_way(images: Tensor) -> None:
    same = images[:1].expand(8, -1, -1, -1)
    drawn = warp(same, sample_distortions(8, RANGES, (0,)))
    assert len({image.numpy().tobytes() for image in drawn}) == 8


def test_the_key_alone_decides_the_distortions() -> None:
    first = sample_distortions(8, RANGES, (1, 2))
    assert torch.equal(first, sample_distortions(8, RANGES, (1, 2)))
    for key in ((1, 3), (2, 2), (2, 1), (1, 2, 1)):
        assert not torch.equal(first, sample_distortions(8, RANGES, key))


def test_draws_fill_their_ranges_and_stay_within(monkeypatch: pytest.MonkeyPatch) -> None:
    noting = Mock(wraps=affine_matrices)
    monkeypatch.setattr("mnist_cnn_train.transforms.affine.affine_matrices", noting)
    sample_distortions(10_000, RANGES, (0,))
    drawn = noting.call_args.kwargs
    widths = {"rotation": math.radians(10), "shear": math.radians(8), "translation": 0.07}
    for name, width in {**widths, "scale": 0.1}.items():
        offset = (drawn[name] - (1 if name == "scale" else 0)) / width
        assert [offset.min(), offset.max()] == pytest.approx([-1, 1], abs=0.01)
        assert offset.mean() == pytest.approx(0, abs=0.03)
