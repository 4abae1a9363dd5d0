from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.helper import make_tensor_value_info
from torchvision.transforms.functional import normalize

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.parity import check_parity, run_logits
from mnist_cnn_train.model.networks import DeepDigitCNN, DigitCNN, DigitNetwork

OPSET = 18


@pytest.fixture(scope="module")
def network(test_digits: Dataset) -> DigitCNN:
    """Random weights, with batch statistics of real digits, so that folding them shows."""
    torch.manual_seed(0)
    network = DigitCNN()
    for start in range(0, 1000, 100):
        pixels = torch.from_numpy(test_digits.images[start : start + 100])
        network(pixels.unsqueeze(1) / 255)
    return network.eval()


@pytest.fixture(scope="module")
def model(network: DigitCNN) -> ModelProto:
    return export_onnx(network, OPSET, describe(network, "0" * 64, 0.5))


@pytest.fixture(scope="module")
def few(test_digits: Dataset) -> Dataset:
    return test_digits.take(np.arange(600))


def metadata_of(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_uint8_images_go_in_and_logits_and_probabilities_come_out(model: ModelProto) -> None:
    image = make_tensor_value_info("image", TensorProto.UINT8, ["batch", 28, 28])
    assert list(model.graph.input) == [image]
    assert list(model.graph.output) == [
        make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10])
        for name in ("logits", "probabilities")
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert model.ir_version == 8  # the oldest, of ONNX 1.13, as opset 18: https://onnx.ai


def test_normalization_is_in_the_graph(model: ModelProto, network: DigitCNN, few: Dataset) -> None:
    """Against torchvision's normalization and the bare layers."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits, probabilities = session.run(None, {"image": few.images})
    scaled = torch.from_numpy(few.images).unsqueeze(1) / 255
    with torch.no_grad():
        features = network.features(normalize(scaled, [0.1307], [0.3081]))
        expected = network.classifier(features.flatten(1))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities, expected.softmax(1), atol=1e-6)


def test_the_file_stands_alone_and_says_what_it_is(model: ModelProto) -> None:
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    metadata = metadata_of(model)
    stated = {"parameters": "8890", "tta_views": "1", "weights_sha256": "0" * 64, "license": "MIT"}
    assert metadata.items() >= {**stated, "labels": ",".join("0123456789")}.items()
    assert metadata["dataset"].startswith("MNIST")
    assert "0.1307" in metadata["normalization"]
    assert "0.3081" in metadata["normalization"]


def test_nothing_of_this_machine_is_in_the_file(model: ModelProto) -> None:
    content = model.SerializeToString()
    for trace in ("site-packages", ".py", "Traceback", "File "):
        assert trace.encode() not in content
    for folder in (Path.cwd(), Path.home(), Path(torch.__file__).parent):
        assert str(folder).encode() not in content
    parts = [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    assert not any(part.doc_string or part.metadata_props for part in parts)


@pytest.mark.slow
def test_two_exports_have_the_same_bytes(model: ModelProto, network: DigitCNN) -> None:
    again = export_onnx(network, OPSET, describe(network, "0" * 64, 0.5))
    assert again.SerializeToString() == model.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(18, 24))
def test_every_allowed_opset_agrees_with_torch(opset: int, network: DigitCNN, few: Dataset) -> None:
    exported = export_onnx(network, opset, {})
    assert exported.opset_import[0].version == opset
    assert check_parity(exported, network, few, tolerance=1e-4, batch_sizes=[256]).agreement == 1


def test_parity_holds_in_every_batch_size(
    model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    parity = check_parity(model, network, few, tolerance=1e-4)
    assert 0 < parity.largest_difference < 1e-4
    assert parity.agreement == 1
    assert parity.accuracy == (run_logits(model, few.images).argmax(1) == few.labels).mean()
    check_parity(changed(model, 0.01), network, few, tolerance=0.02, batch_sizes=[256])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "settings", "normalization"),
    [
        (DigitCNN, {"normalization": "image"}, "by the mean and deviation of each image"),
        (DigitCNN, {"tta_views": 9}, ""),
        (DeepDigitCNN, {"tta_views": 9}, ""),
    ],
)
def test_parity_holds_for_other_networks_and_settings(
    architecture: type[DigitNetwork], settings: dict[str, Any], normalization: str, few: Dataset
) -> None:
    torch.manual_seed(0)
    network = architecture(**settings).eval()
    model = export_onnx(network, OPSET, describe(network, "0" * 64, 0.5))
    assert check_parity(model, network, few, 1e-4, batch_sizes=[1, 7, 256]).agreement == 1
    assert metadata_of(model)["normalization"].startswith(normalization)
    assert len(model.SerializeToString()) < 60_000


def changed(model: ModelProto, change: Any) -> ModelProto:
    """A copy of `model` to whose last bias `change` is added."""
    copy = deepcopy(model)
    bias = next(one for one in copy.graph.initializer if one.name.endswith("classifier.bias"))
    values = numpy_helper.to_array(bias) + np.float32(change)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return copy


@pytest.mark.parametrize(
    ("change", "tolerance", "message"),
    [
        (0.01, 1e-3, r"in batches of 1, onnxruntime differs from torch by 0\.01, more than"),
        (np.nan, 1.0, "differs from torch by nan"),
        (np.linspace(0, 1, 10), 2.0, r"reads test image \d+ as \d, torch as \d"),
    ],
    ids=["difference above the tolerance", "nan", "another class"],
)
def test_a_file_that_does_not_agree_with_torch_fails(
    change: Any, tolerance: float, message: str, model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    with pytest.raises(MnistCnnError, match=message):
        check_parity(changed(model, change), network, few, tolerance)
