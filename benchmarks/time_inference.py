"""Latency and throughput of the ONNX files on one and two threads, against torch and mnist-8."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.model.networks import build, to_input
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.pipeline.params import load_params
from mnist_cnn_train.pipeline.paths import ONNX_INT8_MODEL, ONNX_MODEL, RAW_DATA, WEIGHTS

Images = npt.NDArray[np.uint8]
Reader = Callable[[Images], object]

CHUNKS = (1, 4, 16, 32, 64, 128, 256, 1024, 10_000)


def readers(threads: int, mnist8: Path | None) -> dict[str, Reader]:
    """What reads a batch of images, uint8 ``[n, 28, 28]``, by name."""
    torch.set_num_threads(threads)
    network = build(load_params().model)
    load_weights(network, WEIGHTS)
    network.eval()
    compiled = torch.compile(network, dynamic=True)

    def by_torch(model: Callable[[torch.Tensor], torch.Tensor]) -> Reader:
        def read(images: Images) -> object:
            with torch.inference_mode():
                return model(to_input(torch.from_numpy(images))).softmax(1)

        return read

    found: dict[str, Reader] = {
        "onnxruntime": _by_onnxruntime(ONNX_MODEL, threads),
        "onnxruntime, int8": _by_onnxruntime(ONNX_INT8_MODEL, threads),
        "torch": by_torch(network),
        "torch, compiled": by_torch(compiled),
    }
    if mnist8:
        one = _session(mnist8, threads)
        name = one.get_inputs()[0].name
        found["mnist-8"] = lambda images: [
            one.run(None, {name: image[None, None].astype(np.float32)}) for image in images
        ]
    return found


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _by_onnxruntime(path: Path, threads: int) -> Reader:
    session = _session(path, threads)
    return lambda images: session.run(None, {"image": images})


@dataclass(frozen=True)
class Row:
    """Microseconds for an image: the median of all rounds, the least and the most."""

    reader: str
    threads: int
    chunk: int
    microseconds: float
    low: float
    high: float


def measure(rounds: int, mnist8: Path | None) -> list[Row]:
    """Microseconds for an image in each chunk size: the median of all rounds, in turn."""
    images = read_test_digits(RAW_DATA).images
    rows = []
    for threads in (1, 2):
        contenders = readers(threads, mnist8)
        for chunk in CHUNKS:
            times: dict[str, list[float]] = {name: [] for name in contenders}
            repeats = max(3, 2000 // chunk)
            for _ in range(rounds):
                for name, read in contenders.items():
                    read(images[:chunk])
                    taken = []
                    for repeat in range(repeats):
                        first = repeat * chunk % (len(images) - chunk + 1)
                        batch = images[first : first + chunk]
                        start = time.perf_counter()
                        read(batch)
                        taken.append(time.perf_counter() - start)
                    times[name].append(median(taken) / chunk * 1e6)
            for name, values in times.items():
                rows.append(Row(name, threads, chunk, median(values), min(values), max(values)))
    return rows
