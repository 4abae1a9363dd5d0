from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import flipped
from safetensors.torch import load_file
from torch import nn

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.model.weights import load_weights, save_weights


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    saved, loaded = DigitCNN(), DigitCNN()
    saved(torch.rand(8, 1, 28, 28))  # moves the batch statistics too
    save_weights(saved, tmp_path / "weights")
    load_weights(loaded, tmp_path / "weights")
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    network = DigitCNN()
    save_weights(network, tmp_path / "weights")
    assert load_file(tmp_path / "weights").keys() == network.state_dict().keys()


def test_the_memory_layout_does_not_change_the_bytes(tmp_path: Path) -> None:
    network = DigitCNN()
    save_weights(network, tmp_path / "a")
    save_weights(network.to(memory_format=torch.channels_last), tmp_path / "b")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match="run `dvc repro train`"):
        load_weights(DigitCNN(), tmp_path / "weights")


@pytest.mark.parametrize("kept", [0, 7, 100, 30_000])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_weights(DigitCNN(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MnistCnnError, match=f"{path} is damaged"):
        load_weights(DigitCNN(), path)


@pytest.mark.fault
def test_any_flipped_bit_is_noticed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / "weights"
    save_weights(DigitCNN(), path)
    content = path.read_bytes()
    places = [*range(0, 2_000, 17), *range(2_000, len(content), 1_001)]  # the header and beyond
    record_property("faults", len(places))
    for place in places:
        path.write_bytes(flipped(content, place))
        with pytest.raises(MnistCnnError, match=f"{path} is damaged"):
            load_weights(DigitCNN(), path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = DigitCNN()
    network.classifier.bias.data[3] = torch.nan
    save_weights(network, tmp_path / "weights")
    with pytest.raises(MnistCnnError, match=r"has NaN or infinity in classifier\.bias"):
        load_weights(DigitCNN(), tmp_path / "weights")


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(MnistCnnError, match=f"{path} is from another network") as refusal:
        load_weights(DigitCNN(), path)
    assert "\n" not in str(refusal.value)
