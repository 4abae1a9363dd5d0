from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.int8 import check_int8
from mnist_cnn_train.export.parity import run_logits
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.pipeline.params import Params
from mnist_cnn_train.training.loop import train

Sets = tuple[Dataset, Dataset]


@pytest.fixture(scope="module")
def network(small_digits: Sets, params: Params) -> DigitCNN:
    """A network that reads most digits, so that losing some would show."""
    short = {"epochs": 2, "unaugmented_epochs": 0, "batch_size": 50, "ema_decay": 0.9}
    recipe = params.train.model_copy(update={**short, "device": "cpu"})
    network = train(*small_digits, params.model, recipe).network
    assert isinstance(network, DigitCNN)
    return network


@pytest.fixture(scope="module")
def model(network: DigitCNN) -> ModelProto:
    return export_onnx(network, {})


@pytest.fixture(scope="module")
def small(network: DigitCNN) -> ModelProto:
    return export_onnx(network, describe(network, "0" * 64, 0.5), int8=True)


@pytest.fixture(scope="module")
def validation(small_digits: Sets) -> Dataset:
    return small_digits[1]


def tensors_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def test_every_weight_is_within_half_a_step_of_what_it_was(
    small: ModelProto, model: ModelProto
) -> None:
    full, eight = tensors_of(model), tensors_of(small)
    weights = [name for name in full if name.endswith(".weight")]
    assert len(weights) == 4
    for name in weights:
        rounded, steps = eight[f"{name}.int8"], eight[f"{name}.steps"]
        assert rounded.dtype == np.int8
        assert steps.shape == (len(rounded), *(1,) * (rounded.ndim - 1))  # one for each output
        assert (np.abs(rounded).reshape(len(rounded), -1).max(axis=1) == 127).all()
        assert (np.abs(rounded - full[name] * steps) <= 0.501).all()


def test_it_fits_into_12_kb_with_its_metadata(small: ModelProto) -> None:
    assert len(small.SerializeToString()) <= 12_000


def test_the_contract_and_the_arithmetic_are_those_of_the_larger_file(
    small: ModelProto, model: ModelProto
) -> None:
    assert small.graph.input == model.graph.input
    assert small.graph.output == model.graph.output
    assert small.opset_import == model.opset_import
    assert small.ir_version == model.ir_version
    unpacking = {f"{name}{end}" for name in tensors_of(model) for end in ("", ".float")}
    kept = [node for node in small.graph.node if node.name not in unpacking]
    assert kept == list(model.graph.node)


def test_it_reads_nearly_as_well(small: ModelProto, model: ModelProto, validation: Dataset) -> None:
    full, found = (run_logits(one, validation.images) for one in (model, small))
    accuracy = float((full.argmax(1) == validation.labels).mean())
    assert accuracy > 0.8
    assert abs(accuracy - check_int8(small, model, validation, 0.01)) <= 0.01
    assert 0 < np.abs(found - full).max() < 0.05 * np.abs(full).max()


def test_a_channel_without_weights_stays_without_them(validation: Dataset) -> None:
    torch.manual_seed(0)
    network = DigitCNN()
    network.features[0][0].weight.data[3] = 0
    logits = run_logits(export_onnx(network, {}, int8=True), validation.images[:10])
    assert np.isfinite(logits).all()


def test_too_large_a_drop_of_accuracy_fails(
    small: ModelProto, model: ModelProto, validation: Dataset
) -> None:
    broken = deepcopy(small)
    (last,) = (one for one in broken.graph.initializer if one.name == "logits.weight.int8")
    assert last.data_type == TensorProto.INT8
    last.CopyFrom(numpy_helper.from_array(np.zeros((10, 288), np.int8), last.name))
    with pytest.raises(MnistCnnError, match=r"accuracy drops by 0\.\d+, more than"):
        check_int8(broken, model, validation, 0.1)
    check_int8(model, model, validation, 0.0)


def test_a_runtime_unpacks_the_weights_once(small: ModelProto, tmp_path: Path) -> None:
    """Not for each image: else it is slower than the larger file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(small.SerializeToString(), options)
    left = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "Div" not in left
