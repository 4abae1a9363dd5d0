"""Export a trained network to ONNX: the graph is built from its layers, operator by operator.

Every runtime is meant to read it alike, so it has only operators, shapes and an opset that also
older and smaller runtimes know.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS, PIXEL_MEAN, PIXEL_STD
from mnist_cnn.onnxfile.contract import INPUT, LABELS_KEY, NOT_A_DIGIT, OUTPUTS
from mnist_cnn_train.data.catalog import CREDITS, MNIST, Description
from mnist_cnn_train.model.networks import (
    MIN_VARIANCE,
    SHIFTS,
    Contrast,
    DigitNetwork,
    FastDigitCNN,
)

OPSET = 17  # of ONNX 1.12; every later runtime reads it too
PRODUCER = "mnist-cnn"
LOGITS, PROBABILITIES = OUTPUTS

NORMALIZATIONS = {
    "fixed": f"(image / 255 - {PIXEL_MEAN}) / {PIXEL_STD}",
    "image": "by the mean and deviation of each image",
}


def describe(
    network: DigitNetwork, weights_sha256: str, accuracy: float, data: Description = MNIST
) -> dict[str, str]:
    """Return the ONNX file's metadata: the network, its dataset, and its test accuracy.

    `accuracy` is from 0 to 1.
    """
    return {
        LABELS_KEY: ",".join(data.names),
        "pixels": "0 is background, 255 is ink",
        "normalization": f"{NORMALIZATIONS[network.normalization]}, inside the graph",
        "dataset": CREDITS[data.dataset],
        "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
        "tta_views": str(network.tta_views),
        "test_accuracy": str(accuracy),
        "weights_sha256": weights_sha256,
        "license": "MIT",
    }


def export_onnx(
    network: DigitNetwork,
    metadata: Mapping[str, str],
    classes: int = len(LABELS),
    int8: bool = False,
) -> ModelProto:
    """Export `network` as one self-contained ONNX model with a dynamic batch size.

    The same network gives the same bytes.

    Args:
        network: is not changed.
        metadata: stored as the model's properties.
        classes: number of labels; one more logit is that of `NOT_A_DIGIT`.
        int8: store the weights in eight bits; see `Graph.weight`.

    Raises:
        TypeError: if the network has a layer whose operator is not known here.
        onnx.checker.ValidationError: if the graph is not valid ONNX.
    """
    # Double precision, so that a constant is rounded once, whatever is folded into it.
    exact = deepcopy(network).cpu().double().eval()
    graph = Graph(int8)
    features = _add_layers(graph, exact, _add_input(graph, exact))
    outputs = _add_classifier(graph, exact, features, classes)
    model = graph.to_model(outputs)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(name: str, *shape: str | int, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class Graph:
    """An ONNX graph under construction. Each node has the name of the value that it computes."""

    def __init__(self, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.shapes: list[ValueInfoProto] = []

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add the node `name`, and return its name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Any, kind: type = np.float32) -> str:
        """Add the constant `name`, and return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def weight(self, name: str, values: npt.NDArray[np.float64]) -> str:
        """Add the weights of a layer, one row or kernel per output, and return their name.

        In int8, they are integers, and nodes divide them by the number of steps in one, a number
        for each output. A runtime does that once, when it opens the file: the arithmetic for images
        stays in floats. With integer arithmetic, even onnxruntime's fastest kernels take 1.6 times
        as long for layers with so few channels.
        """
        if not self.int8:
            return self.constant(name, values)
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
        steps = 127 / np.maximum(largest, 1e-30)
        rounded = self.constant(f"{name}.int8", np.rint(values * steps), np.int8)
        floats = self.add("Cast", f"{name}.float", rounded, to=TensorProto.FLOAT)
        # OpenVINO takes a product with a scale for its own format of compressed weights, for which
        # it also rounds the features of images.
        return self.add("Div", name, floats, self.constant(f"{name}.steps", steps))

    def reshape(
        self, name: str, value: str, batch: str, *shape: int, kind: int = TensorProto.FLOAT
    ) -> str:
        """Add a node that gives `value` another shape, of any `batch`, and return its name."""
        # From this shape, tools infer the batch of all values that follow.
        self.shapes.append(_value(name, batch, *shape, kind=kind))
        return self.add(
            "Reshape", name, value, self.constant(f"{name}.shape", [-1, *shape], np.int64)
        )

    def slice(self, name: str, value: str, **bounds: list[int]) -> str:
        """Add a node that cuts `value` to `bounds`: its starts, ends and axes; return its name."""
        inputs = [self.constant(f"{name}.{key}", at, np.int64) for key, at in bounds.items()]
        return self.add("Slice", name, value, *inputs)

    def to_model(self, outputs: list[ValueInfoProto]) -> ModelProto:
        """Return the model that computes `outputs` from the images."""
        image = _value(INPUT, "batch", IMAGE_SIZE, IMAGE_SIZE, kind=TensorProto.UINT8)
        graph = helper.make_graph(
            self.nodes, PRODUCER, [image], outputs, self.constants, value_info=self.shapes
        )
        opsets = [helper.make_opsetid("", OPSET)]
        oldest = helper.find_min_ir_version_for(opsets)
        return helper.make_model(
            graph, producer_name=PRODUCER, opset_imports=opsets, ir_version=oldest
        )


def _add_input(graph: Graph, network: DigitNetwork) -> str:
    """Add what comes before the first layer: views and normalization."""
    one = (1, IMAGE_SIZE, IMAGE_SIZE)
    value = graph.reshape("images", INPUT, "batch", *one, kind=TensorProto.UINT8)
    value = graph.add("Cast", "pixels", value, to=TensorProto.FLOAT)
    if network.tta_views > 1:
        kernels = graph.constant("shifted.weight", _shifts(network.tta_views))
        value = graph.add("Conv", "shifted", value, kernels, kernel_shape=[3, 3], pads=[1] * 4)
        value = graph.reshape("views", value, "batch*views", *one)
    if isinstance(network, FastDigitCNN):
        value = graph.slice("cropped", value, starts=[2, 2], ends=[-2, -2], axes=[2, 3])
    if network.normalization == "fixed":  # `_layers` divides by the standard deviation
        return graph.add("Sub", "centered", value, graph.constant("mean", 255 * PIXEL_MEAN))
    affine = graph.constant("normalized.scale", [1]), graph.constant("normalized.bias", [0])
    epsilon = 255**2 * MIN_VARIANCE
    return graph.add("InstanceNormalization", "normalized", value, *affine, epsilon=epsilon)


def _shifts(views: int) -> npt.NDArray[np.float32]:
    """Return the kernels, ``[views, 1, 3, 3]``, that shift an image by each of `SHIFTS`."""
    kernels = np.zeros((views, 1, 3, 3), np.float32)
    for kernel, (down, right) in zip(kernels, SHIFTS, strict=False):
        kernel[0, 1 - down, 1 - right] = 1
    return kernels


def _add_layers(graph: Graph, network: DigitNetwork, value: str) -> str:
    """Add the layers, numbered by their convolution."""
    number = 0
    for layer in _layers(network):
        number += isinstance(layer, nn.Conv2d)
        match layer:
            case nn.Conv2d():
                # The kernel's shape is optional, but not for OpenCV 4.
                size = {"kernel_shape": layer.kernel_size, "pads": [1] * 4}
                value = _add_weighted(graph, "Conv", f"conv{number}", value, layer, **size)
                if isinstance(layer, Contrast):
                    value = graph.add("Abs", f"abs{number}", value)
            case nn.BatchNorm2d():
                value = _add_batch_norm(graph, f"norm{number}", value, layer)
            case nn.ReLU():
                value = graph.add("Relu", f"relu{number}", value)
            case nn.MaxPool2d():
                size = {"kernel_shape": [2, 2], "strides": [2, 2]}
                value = graph.add("MaxPool", f"pool{number}", value, **size)
            case _:
                raise TypeError(f"the export to ONNX has no operator for {layer}")
    return value


def _layers(network: DigitNetwork) -> list[nn.Module]:
    """Return the layers as runtimes compute them fastest; their composition is the same function.

    Batch norm and the input's standard deviation are folded into convolutions, and ReLU comes
    before max-pool, with which it commutes: runtimes fuse it with the convolution.
    """
    layers: list[nn.Module] = []
    for layer in network.features.modules():
        previous = layers[-1] if layers else None
        if type(previous) is nn.Conv2d and isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(previous, layer)
        elif isinstance(previous, nn.MaxPool2d) and isinstance(layer, nn.ReLU):
            layers.insert(-1, layer)
        elif not isinstance(layer, nn.Sequential):
            layers.append(layer)
    first = layers[0]
    if network.normalization == "fixed" and isinstance(first, nn.Conv2d):
        first.weight.data /= 255 * PIXEL_STD
    return layers


def _add_weighted(
    graph: Graph, operator: str, name: str, value: str, layer: nn.Conv2d | nn.Linear, **more: Any
) -> str:
    """Add a convolution or a linear layer with its weights."""
    inputs = [graph.weight(f"{name}.weight", layer.weight.detach().numpy())]
    if layer.bias is not None:
        inputs.append(graph.constant(f"{name}.bias", layer.bias.detach()))
    return graph.add(operator, name, value, *inputs, **more)


def _add_batch_norm(graph: Graph, name: str, value: str, layer: nn.BatchNorm2d) -> str:
    tensors = {
        "scale": layer.weight.detach(),
        "bias": layer.bias.detach(),
        "mean": layer.running_mean,
        "variance": layer.running_var,
    }
    inputs = [graph.constant(f"{name}.{key}", tensor) for key, tensor in tensors.items()]
    return graph.add("BatchNormalization", name, value, *inputs, epsilon=layer.eps)


def _add_classifier(
    graph: Graph, network: DigitNetwork, value: str, classes: int
) -> list[ValueInfoProto]:
    """Add what comes after the last layer, and return the outputs."""
    linear = network.classifier
    if network.tta_views > 1:  # the mean of the views' features has the mean of their logits
        shape = (network.tta_views, linear.in_features)
        value = graph.reshape("view_features", value, "batch", *shape)
        value = graph.add("ReduceMean", "features", value, axes=[1], keepdims=0)
    else:
        value = graph.add("Flatten", "features", value)
    rejects = linear.out_features > classes
    value = _add_weighted(graph, "Gemm", "scores" if rejects else LOGITS, value, linear, transB=1)
    outputs = [_value(name, "batch", classes) for name in OUTPUTS]
    if rejects:
        shares = graph.add("Softmax", "score_probabilities", value, axis=1)
        last = graph.slice("last", shares, starts=[classes], ends=[classes + 1], axes=[1])
        graph.reshape(NOT_A_DIGIT, last, "batch")
        value = graph.slice(LOGITS, value, starts=[0], ends=[classes], axes=[1])
        outputs.append(_value(NOT_A_DIGIT, "batch"))
    graph.add("Softmax", PROBABILITIES, value, axis=1)
    return outputs
