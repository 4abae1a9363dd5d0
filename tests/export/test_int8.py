import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export import int8 as quantization
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.int8 import check_int8, quantize
from mnist_cnn_train.export.parity import run_logits
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.pipeline.params import Params
from mnist_cnn_train.training.loop import train

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def description() -> dict[str, str]:
    return describe(DigitCNN(), "0" * 64, 0.5)


@pytest.fixture(scope="module")
def model(small_digits: tuple[Dataset, Dataset], params: Params) -> ModelProto:
    """A network that reads most digits, so that losing some would show."""
    short = {"epochs": 2, "unaugmented_epochs": 0, "batch_size": 50, "ema_decay": 0.9}
    recipe = params.train.model_copy(update={**short, "device": "cpu"})
    network = train(*small_digits, params.model, recipe).network
    return export_onnx(network, params.export.opset, {})


@pytest.fixture(scope="module")
def small(
    model: ModelProto, small_digits: tuple[Dataset, Dataset], description: dict[str, str]
) -> ModelProto:
    return quantize(model, small_digits[0], description)


def test_all_weights_are_in_eight_bits_with_a_scale_for_each_channel(small: ModelProto) -> None:
    weights = [tensor for tensor in small.graph.initializer if len(tensor.dims) > 1]
    assert [tensor.data_type for tensor in weights] == [
        TensorProto.UINT8
    ] * 4  # INT8 saturates on some processors
    assert {tuple(tensor.dims) for tensor in weights} == {
        (8, 1, 3, 3),
        (16, 8, 3, 3),
        (32, 16, 3, 3),
        (10, 288),
    }
    dims = {tensor.name: list(tensor.dims) for tensor in small.graph.initializer}
    scales = {
        node.input[0]: dims[node.input[1]]
        for node in small.graph.node
        if node.op_type == "DequantizeLinear"
    }
    assert all(scales[tensor.name] == [tensor.dims[0]] for tensor in weights)


def test_the_contract_is_that_of_the_larger_file(small: ModelProto, model: ModelProto) -> None:
    assert list(small.graph.input) == list(model.graph.input)
    assert list(small.graph.output) == list(model.graph.output)
    assert list(small.opset_import) == list(model.opset_import)
    assert small.ir_version == model.ir_version
    assert {node.domain for node in small.graph.node} == {""}  # no runtime's own operators


def test_it_fits_into_16_kb_with_its_metadata(
    small: ModelProto, description: dict[str, str]
) -> None:
    assert len(small.SerializeToString()) <= 16_100
    assert {entry.key: entry.value for entry in small.metadata_props} == description


def test_it_reads_as_well_and_gives_probabilities(
    small: ModelProto, model: ModelProto, small_digits: tuple[Dataset, Dataset]
) -> None:
    validation = small_digits[1]
    full = float((run_logits(model, validation.images).argmax(1) == validation.labels).mean())
    assert full > 0.8
    assert abs(full - check_int8(small, model, validation, 1.0, 0.01)) <= 0.01
    session = onnxruntime.InferenceSession(small.SerializeToString())
    logits, probabilities = session.run(None, {"image": validation.images})
    expected = torch.from_numpy(logits).softmax(1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    fine = onnxruntime.InferenceSession(model.SerializeToString())
    exact = fine.run(None, {"image": validation.images})[1]
    assert 0 < np.abs(probabilities - exact).mean() < 0.02


def test_a_loss_above_the_limit_fails(
    small: ModelProto, model: ModelProto, small_digits: tuple[Dataset, Dataset]
) -> None:
    broken = ModelProto()
    broken.CopyFrom(small)
    for tensor in broken.graph.initializer:
        if tuple(tensor.dims) == (10, 288):
            zeros = np.full((10, 288), 128, np.uint8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    with pytest.raises(MnistCnnError, match=r"accuracy drops by 0\.\d+, more than"):
        check_int8(broken, model, small_digits[1], 1.0, 0.1)
    check_int8(model, model, small_digits[1], 1e-4, 0.0)


def test_onnxruntime_reads_it_as_it_is_written(
    small: ModelProto, small_digits: tuple[Dataset, Dataset]
) -> None:
    images = small_digits[1].images
    native, written = run_logits(small, images), run_logits(small, images, as_written=True)
    assert (native.argmax(1) == written.argmax(1)).mean() > 0.99
    step = max(np.diff(np.unique(written)).min(), 0.01)  # of the logits' eight bits
    assert np.abs(native - written).max() < 3 * step


def test_a_file_that_is_read_otherwise_than_it_is_written_fails(
    small: ModelProto,
    model: ModelProto,
    small_digits: tuple[Dataset, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a processor that saturates, which this one may not be."""

    def run(model: ModelProto, images: Images, as_written: bool = False) -> Logits:
        logits = run_logits(model, images, as_written=True)
        return logits if as_written else logits - 1.9

    monkeypatch.setattr(quantization, "run_logits", run)
    with pytest.raises(MnistCnnError, match=r"differ from what the file says by 1\.90, more than"):
        check_int8(small, model, small_digits[1], 0.5, 1.0)


def test_the_same_model_and_digits_give_the_same_bytes(
    small: ModelProto,
    model: ModelProto,
    small_digits: tuple[Dataset, Dataset],
    description: dict[str, str],
) -> None:
    again = quantize(model, small_digits[0], description)
    assert again.SerializeToString() == small.SerializeToString()
