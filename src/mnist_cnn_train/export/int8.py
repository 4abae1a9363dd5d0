"""Static int8 quantization of the ONNX model, to a third of its size."""

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

# Operators with weights, and those between them; softmax stays in floats.
QUANTIZED = ["Conv", "Gemm", "MaxPool"]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Feeds images to onnxruntime's calibration in batches."""

    def __init__(self, images: npt.NDArray[np.uint8], size: int = 100) -> None:
        self.batches: Iterator[npt.NDArray[np.uint8]] = (
            images[start : start + size] for start in range(0, len(images), size)
        )

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(model: ModelProto, calibration: Dataset, metadata: Mapping[str, str]) -> ModelProto:
    """Quantize weights (with a scale per channel) and activations of `model` to eight bits.

    Both are unsigned: with signed weights, onnxruntime uses an instruction that saturates at 16
    bits on processors with AVX2 but without VNNI, so logits would differ there.

    The graph has QuantizeLinear and DequantizeLinear around the usual operators (QDQ), so that
    any ONNX runtime can run it. The same arguments give the same bytes.

    Source: B. Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR 2018.

    Args:
        model: result of `export_onnx`.
        calibration: images whose activations determine the ranges, by minimum and maximum.
        metadata: stored as the model's properties.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:  # the quantizer writes only to files
        path = Path(folder) / "int8.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # hides advice on a step that the exporter has done already
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
            error.filename = error.filename or folder  # None if the disk is full
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
    """Copy `model` with short names of inner values; long ones are a sixth of the file."""
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
    """Compare `small` with `model`, and its optimized with its unoptimized execution, on `digits`.

    Args:
        small: result of `quantize` for `model`.
        model: result of `export_onnx`.
        digits: images that the network was not trained on, or the comparison would be biased.
        tolerance: largest difference of a logit between onnxruntime's optimized execution, in
            integers on this processor, and its execution of the graph as written.
        limit: largest drop in accuracy compared with `model`.

    Returns:
        The accuracy of `small`, from 0 to 1, which is the same on all processors.

    Raises:
        CheckFailedError: if a logit differs by more, or the accuracy drops by more.
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
    if loss > limit + 1e-9:  # allow for rounding
        raise CheckFailedError(
            f"in int8 the accuracy drops by {loss:.4f}, more than export.max_int8_accuracy_drop "
            f"{limit:g}; no int8 model was written"
        )
    return accuracies[1]
