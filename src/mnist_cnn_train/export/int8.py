"""The ONNX file in eight bits: a third of the size, with ranges taken from real digits."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn.onnxfile.contract import INPUT
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.parity import run_logits

# What has weights, and what lies between; softmax stays as it is.
QUANTIZED = ["Conv", "Gemm", "MaxPool"]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Images as onnxruntime's calibration asks for them, a batch at a time."""

    def __init__(self, images: npt.NDArray[np.uint8], size: int = 100) -> None:
        self.batches: Iterator[npt.NDArray[np.uint8]] = (
            images[start : start + size] for start in range(0, len(images), size)
        )

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(model: ModelProto, calibration: Dataset, metadata: Mapping[str, str]) -> ModelProto:
    """`model` with weights and activations in eight bits, the weights with a scale per channel.

    Both are unsigned. With signed weights, onnxruntime multiplies by an instruction that saturates
    at 16 bits on processors with AVX2 and without VNNI, and so reads other logits there.

    The graph has QuantizeLinear and DequantizeLinear around the usual operators (QDQ), so that
    any ONNX runtime reads it. The same arguments give the same bytes.

    Source: B. Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR 2018.

    Args:
        model: what `export_onnx` gives.
        calibration: digits whose activations set the ranges, from least to largest.
        metadata: kept in the model's own properties.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:  # the quantizer writes only to files
        path = Path(folder) / "int8.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises a step that the exporter has done already
        try:
            quantize_static(
                _shortly_named(model),
                path,
                _Batches(calibration.images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QUInt8,
            )
        except OSError as error:
            error.filename = error.filename or folder  # where the disk is full
            raise
        finally:
            root.setLevel(level)
        small = onnx.load(path)
    del small.graph.value_info[:]  # shapes that any runtime infers
    for node in small.graph.node:
        node.ClearField("name")
    small.ClearField("metadata_props")
    onnx.helper.set_model_props(small, dict(metadata))
    onnx.checker.check_model(small, full_check=True)
    return small


def _shortly_named(model: ModelProto) -> ModelProto:
    """A copy of `model` whose inner values have short names, which else are a sixth of the file."""
    short = ModelProto()
    short.CopyFrom(model)
    graph = short.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    inner = [tensor.name for tensor in graph.initializer]
    inner += [name for node in graph.node for name in node.output if name not in kept]
    names = {name: f"v{number}" for number, name in enumerate(inner)}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.value_info[:]
    return short


def check_int8(
    small: ModelProto, model: ModelProto, digits: Dataset, tolerance: float, limit: float
) -> float:
    """Compare `small` on `digits` with `model`, and with what its own file says, to the letter.

    Args:
        small: what `quantize` gave of `model`.
        model: what `export_onnx` gave.
        digits: which the network has not learned from, else the comparison flatters it.
        tolerance: the largest difference of a logit between what onnxruntime makes of the file on
            this processor, in integers, and what it says.
        limit: the largest loss of accuracy against `model`.

    Returns:
        The accuracy of `small`, from 0 to 1, alike on all processors.

    Raises:
        CheckFailedError: a logit differs by more, or more accuracy is lost.
    """
    written = run_logits(small, digits.images, as_written=True)
    difference = float(np.abs(run_logits(small, digits.images) - written).max())
    if not difference <= tolerance:
        raise CheckFailedError(
            f"onnxruntime reads the int8 model on this processor by logits that differ from what "
            f"the file says by {difference:.2f}, more than export.int8_tolerance {tolerance:g}; no "
            "int8 model was written"
        )
    full = run_logits(model, digits.images, as_written=True)
    accuracies = [float((of.argmax(axis=1) == digits.labels).mean()) for of in (full, written)]
    loss = accuracies[0] - accuracies[1]
    if loss > limit + 1e-9:  # a difference of two shares is not exact
        raise CheckFailedError(
            f"in int8 the accuracy drops by {loss:.4f}, more than export.max_int8_accuracy_drop "
            f"{limit:g}; no int8 model was written"
        )
    return accuracies[1]
