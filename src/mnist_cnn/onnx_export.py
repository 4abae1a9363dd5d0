"""The deployable graph: uint8 pixels in, logits and probabilities out, checked against torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn
from tqdm import tqdm

from mnist_cnn.contract import INPUT, LABELS, OUTPUTS
from mnist_cnn.digits import IMAGE_SIZE, MNIST, PIXEL_MEAN, PIXEL_STD, Description, Digits
from mnist_cnn.errors import CheckFailedError
from mnist_cnn.model import DigitNetwork, predict_logits, to_input

NORMALISATIONS = {
    "fixed": f"(image / 255 - {PIXEL_MEAN}) / {PIXEL_STD}",
    "image": "by the mean and deviation of each image",
}

CREDITS = {
    "mnist": "MNIST (Y. LeCun, C. Cortes, C. J. C. Burges)",
    "fashion-mnist": "Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf)",
    "kmnist": "KMNIST (T. Clanuwat et al.; adapted from the Kuzushiji dataset by NIJL and others)",
    "qmnist": "QMNIST (C. Yadav, L. Bottou)",
    "emnist-digits": "EMNIST digits (G. Cohen, S. Afshar, J. Tapson, A. van Schaik)",
    "folder": "pictures of the user's own",
}

# One image, a batch that divides nothing, a usual one, and the whole test set at once.
BATCH_SIZES = (1, 7, 256, 10_000)


@dataclass(frozen=True)
class Parity:
    """How onnxruntime compares with torch on the same images.

    Attributes:
        largest_difference: between two logits of the same image and class, over all batch sizes;
            its last digits depend on the processor.
        agreement: the smallest share of images, over all batch sizes, with the same class.
        accuracy: by onnxruntime, the smallest over all batch sizes.
    """

    largest_difference: float
    agreement: float
    accuracy: float

    @property
    def difference_at_most(self) -> float:
        """The next power of ten above `largest_difference`, which is alike on all processors."""
        return 10.0 ** math.ceil(math.log10(max(self.largest_difference, 1e-9)))


class Deployable(nn.Module):
    """`network` with what surrounds it: from uint8 ``[batch, 28, 28]`` to both outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, each float ``[batch, classes]``."""
        logits = self.network(to_input(image))
        return logits, logits.softmax(dim=1)


def describe(
    network: DigitNetwork, weights_sha256: str, accuracy: float, data: Description = MNIST
) -> dict[str, str]:
    """What the ONNX file says about itself, and about the `data` it learnt from and was judged by.

    Its `accuracy` on the test images is from 0 to 1.
    """
    return {
        LABELS: ",".join(data.names),
        "pixels": "0 is background, 255 is ink",
        "normalisation": f"{NORMALISATIONS[network.normalisation]}, inside the graph",
        "dataset": CREDITS[data.dataset],
        "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
        "views": str(network.views),
        "test_accuracy": str(accuracy),
        "weights_sha256": weights_sha256,
        "licence": "MIT",
    }


def export_onnx(network: nn.Module, opset: int, metadata: Mapping[str, str]) -> ModelProto:
    """Export `network` as one self-contained ONNX model with a dynamic batch.

    The same network gives the same bytes: nothing of this machine is in them, neither its
    folders nor the time.

    Args:
        network: from float ``[n, 1, 28, 28]`` in [0, 1] to logits; is put in evaluation mode.
        opset: of the default ONNX domain.
        metadata: kept in the model's own properties.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    program = cast(  # None is returned by the older exporter alone
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
    # The oldest format that has these operators, so that older runtimes read it too.
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _strip(model: ModelProto) -> None:
    """Drop what the exporter notes for debugging: stack traces, with paths of this machine.

    And what no runtime needs: the shapes within, and the names of nodes.
    """
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        node.ClearField("name")
    named = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *named):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def run_logits(
    model: ModelProto,
    images: npt.NDArray[np.uint8],
    as_written: bool = False,
    batch_size: int = 100,
) -> npt.NDArray[np.float32]:
    """Logits, ``[n, classes]``, that onnxruntime gives of `images`, uint8 ``[n, 28, 28]``."""
    session = open_session(model, as_written)
    batches = [
        session.run(OUTPUTS[:1], {INPUT: images[start : start + batch_size]})[0]
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches)


def open_session(model: ModelProto, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open `model` for the CPU, on one thread.

    Args:
        model: what to open.
        as_written: run one operator after the other, as the file has them, which gives the same
            bits on every processor; else as its users do, in what is quickest on this one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one rounding, however many cores there are
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check_parity(
    model: ModelProto,
    network: nn.Module,
    digits: Digits,
    tolerance: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """Run `model` on all of `digits` in each of `batch_sizes`, and compare it with `network`.

    Raises:
        CheckFailedError: a logit or probability differs by more than `tolerance`, or an image
            gets another class.
    """
    expected_logits = predict_logits(network, torch.from_numpy(digits.images))
    expected = [expected_logits.numpy(), expected_logits.softmax(dim=1).numpy()]
    expected_class = expected[0].argmax(axis=1)
    session = open_session(model)
    differences, agreements, accuracies = [], [], []
    with tqdm(
        total=len(batch_sizes) * len(digits), unit="image", desc="parity", disable=None
    ) as progress:
        for size in batch_sizes:
            batches = []
            for start in range(0, len(digits), size):
                batch = digits.images[start : start + size]
                batches.append(session.run(OUTPUTS, {INPUT: batch}))
                progress.update(len(batch))
            found = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
            gaps = [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
            # A NaN compares false with everything, so the test says what is fine.
            if not max(gaps) <= tolerance:
                raise CheckFailedError(
                    f"in batches of {size}, onnxruntime differs from torch by {max(gaps):.2g}, "
                    f"more than export.tolerance {tolerance:g}; no model was written"
                )
            found_class = found[0].argmax(axis=1)
            differences.append(gaps[0])
            agreements.append(float((found_class == expected_class).mean()))
            accuracies.append(float((found_class == digits.labels).mean()))
            if agreements[-1] < 1:
                index = int((found_class != expected_class).argmax())
                raise CheckFailedError(
                    f"in batches of {size}, onnxruntime reads test image {index} as "
                    f"{found_class[index]}, torch as {expected_class[index]}; no model was written"
                )
    return Parity(max(differences), min(agreements), min(accuracies))
