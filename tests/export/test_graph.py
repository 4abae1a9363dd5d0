from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torchvision.transforms import functional as reference

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.parity import check_parity
from mnist_cnn_train.model.networks import DeepDigitCNN, DigitCNN

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


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString())


def test_the_contract_is_uint8_images_in_and_logits_and_probabilities_out(
    model: ModelProto,
) -> None:
    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
        return value.name, tensor.elem_type, shape

    assert [signature(value) for value in model.graph.input] == [
        ("image", TensorProto.UINT8, ["batch", 28, 28])
    ]
    assert [signature(value) for value in model.graph.output] == [
        ("logits", TensorProto.FLOAT, ["batch", 10]),
        ("probabilities", TensorProto.FLOAT, ["batch", 10]),
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]


def test_normalization_is_inside_the_graph(
    model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    """Against torchvision's normalization and the bare layers."""
    logits, probabilities = session(model).run(None, {"image": few.images})
    images = torch.stack(
        [reference.normalize(reference.to_tensor(i), [0.1307], [0.3081]) for i in few.images]
    )
    with torch.no_grad():
        features = network.features(images)
        expected = network.classifier(features.flatten(1))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities, expected.softmax(1), atol=1e-6)


@pytest.mark.slow
def test_normalization_by_image_is_inside_the_graph_too(few: Dataset) -> None:
    torch.manual_seed(0)
    network = DigitCNN(normalization="image").eval()
    exported = export_onnx(network, OPSET, describe(network, "0" * 64, 0.5))
    assert check_parity(exported, network, few, 1e-4, (1, 600)).agreement == 1
    properties = {entry.key: entry.value for entry in exported.metadata_props}
    assert properties["normalization"].startswith("by the mean and deviation of each image")


def test_the_file_stands_alone_and_says_what_it_is(model: ModelProto) -> None:
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["labels"].split(",") == list("0123456789")
    assert metadata["parameters"] == "8890"
    assert metadata["tta_views"] == "1"
    assert metadata["weights_sha256"] == "0" * 64
    assert metadata["license"] == "MIT"
    assert metadata["dataset"].startswith("MNIST")
    assert "0.1307" in metadata["normalization"]
    assert "0.3081" in metadata["normalization"]
    assert len(model.SerializeToString()) <= 38_000


def test_nothing_of_this_machine_is_in_the_file(model: ModelProto) -> None:
    content = model.SerializeToString()
    for trace in (b"site-packages", b"onnx_export.py", b"Traceback", b"File ", b".py"):
        assert trace not in content
    for folder in (Path.cwd(), Path.home(), Path(torch.__file__).parent):
        assert str(folder).encode() not in content
    parts = [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    assert not any(part.doc_string or part.metadata_props for part in parts)


def test_the_format_is_the_oldest_that_has_the_opset(model: ModelProto) -> None:
    assert model.ir_version == 8  # of ONNX 1.13, as opset 18: https://onnx.ai, "Versioning"


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
    logits = session(model).run(["logits"], {"image": few.images})[0]
    assert parity.accuracy == (logits.argmax(1) == few.labels).mean()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [DigitCNN, DeepDigitCNN])
def test_parity_holds_for_each_network_in_several_views(
    architecture: type[DigitCNN | DeepDigitCNN], few: Dataset
) -> None:
    torch.manual_seed(0)
    network = architecture(tta_views=9)
    model = export_onnx(network, OPSET, describe(network, "0" * 64, 0.5))
    parity = check_parity(model, network, few, tolerance=1e-4, batch_sizes=[1, 7, 256])
    assert parity.agreement == 1
    assert len(model.SerializeToString()) < 60_000


def changed(model: ModelProto, change) -> ModelProto:
    """A copy of `model` whose last bias went through `change`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    bias = next(
        tensor for tensor in copy.graph.initializer if tensor.name.endswith("classifier.bias")
    )
    values = change(numpy_helper.to_array(bias).copy())
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return copy


def test_a_difference_above_the_tolerance_fails(
    model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    shifted = changed(model, lambda bias: bias + np.float32(0.01))
    message = r"in batches of 1, onnxruntime differs from torch by 0\.01, more than"
    with pytest.raises(MnistCnnError, match=message):
        check_parity(shifted, network, few, tolerance=1e-3)
    check_parity(shifted, network, few, tolerance=0.02, batch_sizes=[256])


def test_a_nan_fails(model: ModelProto, network: DigitCNN, few: Dataset) -> None:
    broken = changed(model, lambda bias: bias * np.float32("nan"))
    with pytest.raises(MnistCnnError, match="differs from torch by nan"):
        check_parity(broken, network, few, tolerance=1.0, batch_sizes=[256])


def test_another_class_fails_however_large_the_tolerance(
    model: ModelProto, network: DigitCNN, few: Dataset
) -> None:
    swapped = changed(model, lambda bias: bias + np.linspace(0, 1, 10, dtype=np.float32))
    with pytest.raises(MnistCnnError, match=r"reads test image \d+ as \d, torch as \d"):
        check_parity(swapped, network, few, tolerance=2.0, batch_sizes=[256])
