"""Export a trained network to ONNX."""

from collections.abc import Mapping
from typing import cast

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS, PIXEL_MEAN, PIXEL_STD
from mnist_cnn.onnxfile.contract import INPUT, LABELS_KEY, NOT_A_DIGIT, OUTPUTS
from mnist_cnn_train.data.catalog import CREDITS, MNIST, Description
from mnist_cnn_train.model.networks import DigitNetwork, to_input

NORMALIZATIONS = {
    "fixed": f"(image / 255 - {PIXEL_MEAN}) / {PIXEL_STD}",
    "image": "by the mean and deviation of each image",
}


class Deployable(nn.Module):
    """`network` with pre- and postprocessing: from uint8 ``[batch, 28, 28]`` to the outputs."""

    def __init__(self, network: DigitNetwork, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        rejects = network.classifier.out_features > classes
        self.output_names = [*OUTPUTS, NOT_A_DIGIT] if rejects else OUTPUTS

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return logits and probabilities, ``[batch, classes]``, and perhaps `NOT_A_DIGIT`."""
        logits = self.network(to_input(image))
        if len(self.output_names) == len(OUTPUTS):
            return logits, logits.softmax(dim=1)
        of_digits = logits[:, : self.classes]
        return of_digits, of_digits.softmax(dim=1), logits.softmax(dim=1)[:, self.classes]


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
    network: DigitNetwork, opset: int, metadata: Mapping[str, str], classes: int = len(LABELS)
) -> ModelProto:
    """Export `network` as one self-contained ONNX model with a dynamic batch size.

    The same network gives the same bytes, since paths and times of this machine are removed.

    Args:
        network: is put in evaluation mode.
        opset: opset version of the default ONNX domain.
        metadata: stored as the model's properties.
        classes: number of labels; one more logit is that of `NOT_A_DIGIT`.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid ONNX.
    """
    deployed = Deployable(network, classes).eval()
    program = cast(  # only the older exporter returns None
        "torch.onnx.ONNXProgram",
        torch.onnx.export(
            deployed,
            # With an example of one image, the exporter would fix the batch at one.
            (torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8),),
            input_names=[INPUT],
            output_names=deployed.output_names,
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
