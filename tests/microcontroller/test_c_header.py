import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from conftest import REPOSITORY, shell
from torch import Tensor, nn
from torch.nn import functional

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.cli import commands
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.microcontroller.header import to_header
from mnist_cnn_train.microcontroller.quantize import QuantizedNetwork, quantize
from mnist_cnn_train.model.networks import ARCHITECTURES, DigitCNN, DigitNetwork, predict_logits
from mnist_cnn_train.model.weights import save_weights
from mnist_cnn_train.pipeline.params import Params
from mnist_cnn_train.training.loop import train

needs_a_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler, cc")

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
SANITIZED = ["-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
MAIN = """
#include <stdio.h>
#include "mnist_cnn.h"

int main(void)
{
    uint8_t image[784];
    int32_t logits[MNIST_CNN_CLASSES];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        int32_t label = mnist_cnn_predict(image, logits);
        fwrite(&label, sizeof label, 1, stdout);
        fwrite(logits, sizeof logits, 1, stdout);
    }
    return 0;
}
"""


def run_c(
    network: QuantizedNetwork, images: npt.NDArray[np.uint8], folder: Path, *options: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Labels and logits of `images` from the compiled header of `network`."""
    (folder / "mnist_cnn.h").write_text(to_header(network, "base", list("0123456789"), "0" * 64))
    (folder / "main.c").write_text(MAIN)
    shell("cc", *STRICT, *options, "main.c", "-o", "main", cwd=folder)
    printed = shell(folder / "main", input=images.tobytes(), text=False).stdout
    values = np.frombuffer(printed, np.int32).reshape(len(images), 11)
    return values[:, 0], values[:, 1:]


def integer_logits(
    network: QuantizedNetwork, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """The logits of `network` by torch, in doubles, which hold all its integers exactly."""

    def double(values: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).double()

    end = 28 - network.crop
    values = torch.from_numpy(images)[:, None, network.crop : end, network.crop : end].double()
    for layer in network.layers:
        weights = double(layer.weights).permute(0, 3, 1, 2)
        values = functional.conv2d(values - layer.zero, weights, padding=1)
        values = functional.max_pool2d(values, 1 + layer.pool)
        values = (values + double(layer.biases)[:, None, None]).relu()
        scaled = values.long() * torch.from_numpy(layer.scales)[:, None, None]
        values = ((scaled + 2**31) >> 32).clamp(max=255).double()
    features = values.permute(0, 2, 3, 1).flatten(1)
    logits = functional.linear(features, double(network.weights).flatten(1))
    return (logits.long() + torch.from_numpy(network.biases)).numpy()


def with_statistics(network: DigitNetwork) -> DigitNetwork:
    """Random batch norm, whose weights are positive, since max-pool may come before it."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 2)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def odd_images(digits: Dataset) -> npt.NDArray[np.uint8]:
    """Digits, also inverted, and images of one color and of noise."""
    constants = np.repeat(np.uint8([0, 33, 255]), 784).reshape(3, 28, 28)
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    few = digits.images[:100]
    return np.concatenate([few, 255 - few, constants, noise])


@needs_a_compiler
@pytest.mark.parametrize("architecture", ["base", "fast", "deep"])
def test_c_computes_the_integer_network_to_the_bit_without_undefined_behavior(
    architecture: str, few: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = quantize(with_statistics(ARCHITECTURES[architecture]()), few)
    images = odd_images(few)
    expected = integer_logits(network, images)
    labels, logits = run_c(network, images, tmp_path, "-O2", *SANITIZED)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(labels, expected.argmax(1))
    assert (run_c(network, images, tmp_path, "-Os")[1] == expected).all()


@pytest.fixture(scope="module")
def few(small_digits: tuple[Dataset, Dataset]) -> Dataset:
    return small_digits[0].take(np.arange(200))


@pytest.fixture(scope="module")
def trained(small_digits: tuple[Dataset, Dataset], params: Params) -> DigitCNN:
    short = {"epochs": 2, "unaugmented_epochs": 0, "batch_size": 50, "ema_decay": 0.9}
    recipe = params.train.model_copy(update={**short, "device": "cpu"})
    network = train(*small_digits, params.model, recipe).network
    assert isinstance(network, DigitCNN)
    return network.eval()


@needs_a_compiler
def test_c_agrees_with_the_float_network(
    trained: DigitCNN, small_digits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    training, validation = small_digits
    network = quantize(trained, training)
    labels, logits = run_c(network, validation.images, tmp_path, "-O2")
    expected = predict_logits(trained, torch.from_numpy(validation.images)).numpy()
    difference = np.abs(logits / network.steps_per_logit - expected)
    assert difference.mean() < 0.01 * expected.std()  # 0.013 if the image were padded with 0
    assert (labels == expected.argmax(1)).mean() >= 0.99


@needs_a_compiler
def test_the_documented_program_prints_the_class_of_each_image(
    few: Dataset, tmp_path: Path
) -> None:
    network = quantize(DigitCNN().eval(), few)
    expected, _ = run_c(network, few.images, tmp_path)
    document = (REPOSITORY / "docs/microcontroller.md").read_text()
    (tmp_path / "main.c").write_text(re.findall(r"```c\n(.*?)```", document, re.DOTALL)[0])
    shell("cc", *STRICT, "main.c", "-o", "main", cwd=tmp_path)
    printed = shell(tmp_path / "main", input=few.images.tobytes(), text=False).stdout
    assert printed.split() == [b"%d" % label for label in expected]


REFUSED = {
    "architecture base, fast or deep": ARCHITECTURES["reader"](),
    "normalization: fixed": DigitCNN(normalization="image"),
    "tta_views: 1": DigitCNN(tta_views=5),
    "not_a_digit: false": DigitCNN(classes=11),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_another_network_is_refused(setting: str, few: Dataset) -> None:
    with pytest.raises(MnistCnnError, match=rf"^the C header .*model\.{setting}.*$"):
        quantize(REFUSED[setting], few)


def test_a_negative_factor_after_max_pool_is_refused(few: Dataset) -> None:
    network = ARCHITECTURES["fast"]()
    network.features[2].weight.data[3] = -1
    with pytest.raises(MnistCnnError, match="positive weights in batch norm after max-pool"):
        quantize(network, few)


def test_a_channel_without_weights_or_activations_is_quantized(few: Dataset) -> None:
    network = with_statistics(DigitCNN())
    for convolution in (network.features[0][0], network.features[1][0]):
        convolution.weight.data[0] = 0
    network.features[2][1].bias.data[:] = -100  # the last layer is 0 for every image
    for layer in quantize(network, few).layers:
        assert np.abs(layer.biases).max() <= 2**24
        assert layer.scales.min() >= 0
        assert layer.scales.max() < 2**32


@pytest.fixture
def project(raw_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the command reads."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw").symlink_to(raw_data)
    save_weights(DigitCNN(), tmp_path / "models/model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_one_header_of_integers(project: Path) -> None:
    result = CliRunner().invoke(commands, ["c-header"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    header = (project / "models/mnist_cnn.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    assert re.findall(r"#include .*", code) == ["#include <stdint.h>"]
    assert not re.search(r"\b(float|double|malloc)\b|\d\.\d", code)


def test_nothing_is_written_for_another_network(project: Path) -> None:
    settings = project / "params.yaml"
    settings.write_text(settings.read_text().replace("tta_views: 1", "tta_views: 9"))
    result = CliRunner().invoke(commands, ["c-header", "--output", "new.h"])
    assert result.exit_code != 0
    assert not list(project.glob("*new.h*"))


def test_class_names_cannot_end_the_comment(few: Dataset) -> None:
    network = quantize(DigitCNN().eval(), few)
    header = to_header(network, "base", ["*/", "ä\\", "T-shirt/top", *"3456789"], "0" * 64)
    assert "Classes: __, __, T-shirt_top, 3," in header
