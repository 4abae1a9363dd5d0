"""Speed and memory of `mnist-cnn score` by the number of images and workers; prints a table.

The images are MNIST's test images, shifted by up to two pixels: as ready ones of 28x28, or as PNG.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.pipeline.paths import RAW_DATA

CASES = (("ready", 100_000), ("ready", 1_000_000), ("PNG", 10_000))
WORKERS = (1, 2)
SHIFTS = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """One run of the command: wall-clock and processor seconds, and the peak in bytes.

    The peak is of the memory of all processes together, where shared pages count once.
    """

    seconds: float
    processor: float
    peak: int


def shifted(images: Images, count: int) -> Iterator[Images]:
    """The images, again and again, each time shifted otherwise, until there are `count`."""
    for start in range(0, count, len(images)):
        shift = SHIFTS[start // len(images) % len(SHIFTS)]
        yield np.roll(images, shift, axis=(1, 2))[: count - start]


def as_png(pixels: Images) -> bytes:
    """Black on white."""
    content = io.BytesIO()
    Image.fromarray(255 - pixels).save(content, "PNG")
    return content.getvalue()


def write(images: Images, kind: str, count: int, path: Path) -> None:
    """A Parquet file of `count` images, 10,000 to a row group."""
    of = pa.binary(images[0].size) if kind == "ready" else pa.binary()
    encode = np.ndarray.tobytes if kind == "ready" else as_png
    with pq.ParquetWriter(path, pa.schema({"image": of})) as writer:
        for some in shifted(images, count):
            writer.write_table(pa.table({"image": pa.array(map(encode, some), of)}))


def run(source: Path, output: Path, workers: int) -> Run:
    """Run the command once, and watch it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = Path(sys.executable).with_name("mnist-cnn")
    start = time.perf_counter()
    peak = 0
    command = [program, "score", source, output, "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:  # noqa: S603
        first = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, memory(first))
            time.sleep(0.1)
    seconds = time.perf_counter() - start
    if running.returncode:
        raise SystemExit(running.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, used, peak)


def memory(first: psutil.Process) -> int:
    """Bytes of a process and all that it started."""
    total = 0
    try:
        for process in (first, *first.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass  # just ended
    return total


def main() -> None:
    """Run each case in turn, and take the quicker of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    images = read_test_digits(RAW_DATA).images
    print("| images | workers | images/s | core-µs an image | peak | bytes in | bytes out |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in CASES:
            source = Path(folder) / f"{kind}.parquet"
            write(images, kind, count, source)
            for workers in WORKERS:
                runs = []
                for number in range(rounds):
                    output = Path(folder) / f"{kind}-{count}-{workers}-{number}"
                    runs.append(run(source, output, workers))
                best = min(runs, key=lambda found: found.seconds)
                out = sum(part.stat().st_size for part in output.glob("*.parquet"))
                print(
                    f"| {count:,} {kind} | {workers} | {count / best.seconds:,.0f} "
                    f"| {best.processor / count * 1e6:.1f} "
                    f"| {max(found.peak for found in runs) / 1e6:.0f} MB "
                    f"| {source.stat().st_size / count:.0f} | {out / count:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
