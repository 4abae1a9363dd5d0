from copy import deepcopy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto
from scipy.special import softmax

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export import int8 as quantization
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.int8 import check_int8, quantize
from mnist_cnn_train.export.parity import run_logits
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.pipeline.params import Params
from mnist_cnn_train.training.loop import train

Sets = tuple[Dataset, Dataset]

DESCRIPTION = describe(DigitCNN(), "0" * 64, 0.5)


@pytest.fixture(scope="module")
def model(small_digits: Sets, params: Params) -> ModelProto:
    """A network that reads most digits, so that losing some would show."""
    short = {"epochs": 2, "unaugmented_epochs": 0, "batch_size": 50, "ema_decay": 0.9}
    recipe = params.train.model_copy(update={**short, "device": "cpu"})
    network = train(*small_digits, params.model, recipe).network
    return export_onnx(network, params.export.opset, {})


@pytest.fixture(scope="module")
def small(model: ModelProto, small_digits: Sets) -> ModelProto:
    return quantize(model, small_digits[0], DESCRIPTION)


@pytest.fixture(scope="module")
def validation(small_digits: Sets) -> Dataset:
    return small_digits[1]


def test_all_weights_are_in_eight_bits_with_a_scale_for_each_channel(small: ModelProto) -> None:
    tensors = {tensor.name: tensor for tensor in small.graph.initializer}
    weights = [tensor for tensor in tensors.values() if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in weights} == {TensorProto.UINT8}  # INT8 may saturate
    shapes = sorted(tuple(tensor.dims) for tensor in weights)
    assert shapes == [(8, 1, 3, 3), (10, 288), (16, 8, 3, 3), (32, 16, 3, 3)]
    inputs = [node.input for node in small.graph.node if node.op_type == "DequantizeLinear"]
    scales = {values: tensors[scale].dims for values, scale, *_ in inputs}
    assert all(list(scales[tensor.name]) == [tensor.dims[0]] for tensor in weights)


def test_the_contract_is_that_of_the_larger_file(small: ModelProto, model: ModelProto) -> None:
    assert small.graph.input == model.graph.input
    assert small.graph.output == model.graph.output
    assert small.opset_import == model.opset_import
    assert small.ir_version == model.ir_version
    assert {node.domain for node in small.graph.node} == {""}  # no runtime's own operators


def test_it_fits_into_16_kb_with_its_metadata(small: ModelProto) -> None:
    assert len(small.SerializeToString()) <= 16_100
    assert {entry.key: entry.value for entry in small.metadata_props} == DESCRIPTION


def test_it_reads_nearly_as_well(small: ModelProto, model: ModelProto, validation: Dataset) -> None:
    full = float((run_logits(model, validation.images).argmax(1) == validation.labels).mean())
    assert full > 0.8
    assert abs(full - check_int8(small, model, validation, 1.0, 0.01)) <= 0.01
    (logits, probabilities), (_, exact) = (
        onnxruntime.InferenceSession(file.SerializeToString()).run(
            None, {"image": validation.images}
        )
        for file in (small, model)
    )
    np.testing.assert_allclose(probabilities, softmax(logits, axis=1), atol=1e-6)
    assert 0 < np.abs(probabilities - exact).mean() < 0.02


def test_too_large_a_drop_of_accuracy_fails(
    small: ModelProto, model: ModelProto, validation: Dataset
) -> None:
    broken = deepcopy(small)
    (last,) = (tensor for tensor in broken.graph.initializer if list(tensor.dims) == [10, 288])
    zeros = np.full((10, 288), 128, np.uint8)
    last.CopyFrom(onnx.numpy_helper.from_array(zeros, last.name))
    with pytest.raises(MnistCnnError, match=r"accuracy drops by 0\.\d+, more than"):
        check_int8(broken, model, validation, 1.0, 0.1)
    check_int8(model, model, validation, 1e-4, 0.0)


def test_onnxruntime_reads_it_as_it_is_written(small: ModelProto, validation: Dataset) -> None:
    images = validation.images
    native, written = run_logits(small, images), run_logits(small, images, as_written=True)
    assert (native.argmax(1) == written.argmax(1)).mean() > 0.99
    step = max(np.diff(np.unique(written)).min(), 0.01)  # of the logits' eight bits
    assert np.abs(native - written).max() < 3 * step


def test_a_file_that_is_read_otherwise_than_it_is_written_fails(
    small: ModelProto, model: ModelProto, validation: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor that saturates, which this one may not be."""

    def run(model: ModelProto, images: np.ndarray, as_written: bool = False) -> np.ndarray:
        logits = run_logits(model, images, as_written=True)
        return logits if as_written else logits - 1.9

    monkeypatch.setattr(quantization, "run_logits", run)
    with pytest.raises(MnistCnnError, match=r"differ from what the file says by 1\.90, more than"):
        check_int8(small, model, validation, 0.5, 1.0)


def test_quantizing_again_gives_the_same_bytes(
    small: ModelProto, model: ModelProto, small_digits: Sets
) -> None:
    again = quantize(model, small_digits[0], DESCRIPTION)
    assert again.SerializeToString() == small.SerializeToString()
