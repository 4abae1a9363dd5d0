from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import flipped
from safetensors.torch import load_file
from torch import nn

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.model.weights import load_weights, save_weights

Note = Callable[[str, object], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the weights of a network."""
    save_weights(DigitCNN(), tmp_path / "weights")
    return tmp_path / "weights"


def test_weights_come_back_as_they_were(path: Path) -> None:
    saved, loaded = DigitCNN(), DigitCNN()
    saved(torch.rand(8, 1, 28, 28))  # moves the batch statistics too
    save_weights(saved, path)
    load_weights(loaded, path)
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)


def test_the_file_is_plain_safetensors(path: Path) -> None:
    assert load_file(path).keys() == DigitCNN().state_dict().keys()


def test_the_memory_layout_does_not_change_the_bytes(path: Path) -> None:
    network = DigitCNN()
    load_weights(network, path)
    content = path.read_bytes()
    save_weights(network.to(memory_format=torch.channels_last), path)
    assert path.read_bytes() == content


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match="run `dvc repro train`"):
        load_weights(DigitCNN(), tmp_path / "weights")


@pytest.mark.fault
def test_any_flipped_bit_and_any_lost_end_is_noticed(path: Path, record_property: Note) -> None:
    content = path.read_bytes()
    places = [*range(0, 2_000, 17), *range(2_000, len(content), 1_001)]  # the header and beyond
    damaged = [flipped(content, place) for place in places]
    truncated = [content[:kept] for kept in (0, 7, 100, 30_000)]
    record_property("faults", len(damaged))
    for other in damaged + truncated:
        path.write_bytes(other)
        with pytest.raises(MnistCnnError, match=f"{path} is damaged"):
            load_weights(DigitCNN(), path)


def test_weights_that_are_not_finite_are_refused(path: Path) -> None:
    network = DigitCNN()
    network.classifier.bias.data[3] = torch.nan
    save_weights(network, path)
    with pytest.raises(MnistCnnError, match=r"has NaN or infinity in classifier\.bias"):
        load_weights(DigitCNN(), path)


def test_another_networks_weights_are_refused(path: Path) -> None:
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(MnistCnnError, match=f"{path} is from another network") as refusal:
        load_weights(DigitCNN(), path)
    assert "\n" not in str(refusal.value)
