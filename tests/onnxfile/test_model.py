from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.onnxfile.checksum import add_checksum
from mnist_cnn.onnxfile.contract import NOT_A_DIGIT_THRESHOLD_KEY
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn.reader.recognizer import NO_DIGIT, Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.parity import check_parity
from mnist_cnn_train.export.thresholds import set_thresholds
from mnist_cnn_train.model.networks import ReaderCNN, predict_logits

Sets = tuple[Dataset, Dataset]


@pytest.fixture(scope="module")
def network() -> ReaderCNN:
    torch.manual_seed(0)
    return ReaderCNN(normalization="image", tta_views=5, classes=11).eval()


@pytest.fixture(scope="module")
def exported(network: ReaderCNN) -> bytes:
    return export_onnx(network, describe(network, "0" * 64, 0.5)).SerializeToString()


@pytest.fixture
def rejecting(exported: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(exported)


def test_the_eleventh_class_is_an_output_of_its_own(
    rejecting: onnx.ModelProto, network: ReaderCNN, small_digits: Sets, tmp_path: Path
) -> None:
    digits = small_digits[1]
    assert check_parity(rejecting, network, digits, 1e-4, [1, 100]).agreement == 1
    (tmp_path / "model.onnx").write_bytes(add_checksum(rejecting))
    outputs = DigitModel(tmp_path / "model.onnx").run(digits.images)
    logits = predict_logits(network, torch.from_numpy(digits.images))
    assert np.allclose(outputs.logits, logits[:, :10], atol=1e-4)
    assert np.allclose(outputs.probabilities, logits[:, :10].softmax(1), atol=1e-5)
    assert outputs.is_doubtful is None


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_at_most_the_rate_that_was_asked_for_is_doubtful(
    rate: float, rejecting: onnx.ModelProto, small_digits: Sets, tmp_path: Path
) -> None:
    images = small_digits[1].images
    set_thresholds(rejecting, images, rate)
    assert NOT_A_DIGIT_THRESHOLD_KEY in {entry.key for entry in rejecting.metadata_props}
    (tmp_path / "model.onnx").write_bytes(add_checksum(rejecting))
    doubtful = DigitModel(tmp_path / "model.onnx").run(images).is_doubtful
    assert doubtful is not None
    assert rate - 0.05 <= doubtful.mean() <= rate
    read = Recognizer(tmp_path / "model.onnx").predict_batch(images)
    assert [warning == NO_DIGIT for warning in read.warnings] == doubtful.tolist()


def test_a_model_without_a_threshold_is_no_reader(
    rejecting: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(add_checksum(rejecting))
    with pytest.raises(MnistCnnError, match="was made by an older pipeline"):
        Recognizer(tmp_path / "model.onnx")
