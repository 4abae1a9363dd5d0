from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.helper import make_tensor_value_info
from onnx.reference import ReferenceEvaluator
from torch import nn
from torchvision.transforms.functional import normalize

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.graph import NORMALIZATIONS, OPSET, describe, export_onnx
from mnist_cnn_train.export.parity import check_parity, run_logits
from mnist_cnn_train.model.networks import ARCHITECTURES, DigitCNN, DigitNetwork

BATCHES = {"batch", "batch*views"}

Network = TypeVar("Network", bound=DigitNetwork)


def with_statistics(network: Network) -> Network:
    """Give random values of both signs to batch norm, so that folding them shows."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                tensor.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def network(test_digits: Dataset) -> DigitCNN:
    """Random weights, with batch statistics of real digits."""
    torch.manual_seed(0)
    network = DigitCNN()
    for start in range(0, 1000, 100):
        pixels = torch.from_numpy(test_digits.images[start : start + 100])
        network(pixels.unsqueeze(1) / 255)
    return network.eval()


@pytest.fixture(scope="module")
def model(network: DigitCNN) -> ModelProto:
    return export_onnx(network, describe(network, "0" * 64, 0.5))


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
    assert model.producer_name == "mnist-cnn"
    assert model.ir_version == 8  # the oldest, of ONNX 1.12, as opset 17: https://onnx.ai


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


def test_two_exports_have_the_same_bytes(model: ModelProto, network: DigitCNN) -> None:
    again = export_onnx(network, describe(network, "0" * 64, 0.5))
    assert again.SerializeToString() == model.SerializeToString()


def test_parity_holds_in_every_batch_size(
    model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    parity = check_parity(model, network, few, tolerance=1e-4)
    assert 0 < parity.largest_difference < 1e-4
    assert parity.agreement == 1
    assert parity.accuracy == (run_logits(model, few.images).argmax(1) == few.labels).mean()
    check_parity(changed(model, 0.01), network, few, tolerance=0.02, batch_sizes=[256])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalization", ["fixed", "image"])
@pytest.mark.parametrize(("views", "rejects"), [(1, False), (1, True), (5, True), (9, False)])
def test_every_network_gives_what_torch_gives(
    architecture: str, normalization: str, views: int, rejects: bool, few: Dataset
) -> None:
    torch.manual_seed(0)
    network = with_statistics(ARCHITECTURES[architecture](0, views, normalization, 10 + rejects))
    model = export_onnx(network, describe(network, "0" * 64, 0.5))
    assert check_parity(model, network, few.take(np.arange(50)), 1e-4, [1, 7]).agreement == 1
    assert metadata_of(model)["normalization"].startswith(NORMALIZATIONS[normalization])
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    assert {value.name for value in values} >= {node.name for node in model.graph.node}
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} <= BATCHES


def test_a_layer_without_an_operator_is_refused() -> None:
    network = DigitCNN()
    network.features.append(nn.Softplus())
    with pytest.raises(TypeError, match=r"no operator for Softplus"):
        export_onnx(network, {})


def test_older_and_smaller_runtimes_know_all_that_is_in_the_graph(model: ModelProto) -> None:
    found = [node.op_type for node in model.graph.node]
    block = ["Conv", "Relu", "MaxPool"]
    assert found == ["Reshape", "Cast", "Sub", *block, *block, *block, "Flatten", "Gemm", "Softmax"]
    assert all(node.output == [node.name] for node in model.graph.node)
    attributes = {node.op_type: {one.name for one in node.attribute} for node in model.graph.node}
    assert attributes["Conv"] == {"kernel_shape", "pads"}  # OpenCV 4 needs both
    assert not attributes["Reshape"]  # some converters refuse allowzero


@pytest.mark.parametrize("int8", [False, True])
def test_onnxs_reference_implementation_agrees(network: DigitCNN, int8: bool, few: Dataset) -> None:
    model = export_onnx(network, {}, int8=int8)
    images = few.images[:20]
    logits = ReferenceEvaluator(model).run(["logits"], {"image": images})[0]
    np.testing.assert_allclose(logits, run_logits(model, images), atol=1e-5)


def changed(model: ModelProto, change: Any) -> ModelProto:
    """A copy of `model` to whose last bias `change` is added."""
    copy = deepcopy(model)
    bias = next(one for one in copy.graph.initializer if one.name == "logits.bias")
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
