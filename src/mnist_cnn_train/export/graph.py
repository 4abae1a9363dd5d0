"""Export a trained network to ONNX."""

from collections.abc import Mapping
from typing import cast

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mnist_cnn.core.mnist import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD
from mnist_cnn.onnxfile.contract import INPUT, LABELS_KEY, OUTPUTS
from mnist_cnn_train.data.catalog import CREDITS, MNIST, Description
from mnist_cnn_train.model.networks import DigitNetwork, to_input

NORMALIZATIONS = {
    "fixed": f"(image / 255 - {PIXEL_MEAN}) / {PIXEL_STD}",
    "image": "by the mean and deviation of each image",
}


class Deployable(nn.Module):
    """`network` with pre- and postprocessing: from uint8 ``[batch, 28, 28]`` to both outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, each float ``[batch, classes]``."""
        logits = self.network(to_input(image))
        return logits, logits.softmax(dim=1)


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


def export_onnx(network: nn.Module, opset: int, metadata: Mapping[str, str]) -> ModelProto:
    """Export `network` as one self-contained ONNX model with a dynamic batch size.

    The same network gives the same bytes, since paths and times of this machine are removed.

    Args:
        network: maps float ``[n, 1, 28, 28]`` in [0, 1] to logits; is put in evaluation mode.
        opset: opset version of the default ONNX domain.
        metadata: stored as the model's properties.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid ONNX.
    """
    program = cast(  # only the older exporter returns None
        "torch.onnx.ONNXProgram",
        torch.onnx.export(
            Deployable(network).eval(),
            # With an example of one image, the exporter would fix the batch at one.
            (torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8),),
            input_names=[INPUT],
            output_names=OUTPUTS,
            opset_version=opset,
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        ),
    )
    model = program.model_proto
    _strip(model)
    # The oldest format with these operators, for the sake of older runtimes.
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _strip(model: ModelProto) -> None:
    """Remove debugging information (stack traces with local paths), inner shapes and node names.

    No runtime needs any of these.
    """
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        node.ClearField("name")
    named = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *named):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
