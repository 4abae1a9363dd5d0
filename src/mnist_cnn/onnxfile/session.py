"""Open an exported ONNX file and run batches of images through it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.onnxfile.checksum import is_damaged
from mnist_cnn.onnxfile.contract import INPUT, OUTPUTS

MAX_MODEL_BYTES = 100_000_000  # 2,000 times the size of the pipeline's model
BATCH = 32  # larger batches do not fit the processor's cache


def open_model(path: Path, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open an ONNX file for the CPU, on one thread.

    Args:
        path: the file.
        as_written: disable graph optimization: slower, but the same bits on every processor.

    Raises:
        MnistCnnError: if the file is missing, damaged or too large, or onnxruntime cannot read it.
    """
    if not path.is_file():
        raise MnistCnnError(f"there is no file {path}")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise MnistCnnError(
            f"{path} is too large for a digit reader, over {MAX_MODEL_BYTES:,} bytes"
        )
    content = path.read_bytes()
    if is_damaged(content):
        raise MnistCnnError(
            f"{path} is damaged: its SHA-256 is not the one noted in it; copy it again, or run "
            "`make repair` where it was made"
        )
    return open_content(content, as_written, str(path))


def open_content(
    content: bytes, as_written: bool = False, name: str = "the model"
) -> onnxruntime.InferenceSession:
    """Open the content of an ONNX file as `open_model` does; errors call it `name`.

    Raises:
        MnistCnnError: if onnxruntime cannot read it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same rounding for any number of cores
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base class
        reason = one_line(error).rpartition(" : ")[2]
        raise MnistCnnError(f"{name} is not a usable ONNX model: {reason}") from None


def read_logits(
    session: onnxruntime.InferenceSession,
    images: npt.NDArray[np.uint8],
    batch_size: int = BATCH,
) -> npt.NDArray[np.float32]:
    """Return logits ``[n, classes]`` of uint8 ``[n, 28, 28]``, n at least 1, in batches."""
    return run_batches(session, OUTPUTS[:1], images, batch_size)[0]


def run_batches(
    session: onnxruntime.InferenceSession,
    outputs: list[str],
    images: npt.NDArray[np.uint8],
    batch_size: int = BATCH,
) -> list[npt.NDArray[np.float32]]:
    """Return each of `outputs`, ``[n, classes]``, for uint8 ``[n, 28, 28]``, n at least 1."""
    batches = [
        session.run(outputs, {INPUT: images[start : start + batch_size]})
        for start in range(0, len(images), batch_size)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
