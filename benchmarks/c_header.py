"""Accuracy, size and work of the C header, by the compilers and valgrind that are installed.

Run it after `dvc repro` and `python -m mnist_cnn_train c-header`; writes metrics/c_header.json.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mnist_cnn.core.files import read_json, sha256, write_json
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.experiments.paths import C_HEADER
from mnist_cnn_train.model.networks import build, predict_logits
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.pipeline.params import load_params
from mnist_cnn_train.pipeline.paths import ONNX_INT8_MODEL, RAW_DATA, WEIGHTS

HEADERS = Path("models").resolve()
PROGRAM = """
#include <stdio.h>
#include "mnist_cnn.h"
static uint8_t image[784];
static int32_t logits[MNIST_CNN_CLASSES];
int main(void)
{
    while (fread(image, 1, sizeof image, stdin) == sizeof image)
        putchar(mnist_cnn_predict(image, logits));
    return 0;
}
"""
# All of a firmware but the start of the processor; the image and the logits are the caller's.
FIRMWARE = """
#include "mnist_cnn.h"
void *memcpy(void *to, const void *from, __SIZE_TYPE__ size)
{
    for (char *a = to, *b = (char *)from; size; size--)
        *a++ = *b++;
    return to;
}
__attribute__((noinline)) int classify(const uint8_t *image, int32_t *logits)
{
    return mnist_cnn_predict(image, logits);
}
void _start(void)
{
    for (;;)
        classify((const uint8_t *)0x20000000, (int32_t *)0x20000400);
}
"""
TARGETS = {
    "Cortex-M0": "arm-none-eabi-gcc -mcpu=cortex-m0 -mthumb",
    "Cortex-M4": "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb",
    "RV32EC": "riscv64-unknown-elf-gcc -march=rv32ec -mabi=ilp32e",
    "RV32IMAC": "riscv64-unknown-elf-gcc -march=rv32imac -mabi=ilp32",
    "x86-64": "gcc -static -no-pie -fno-pie -fno-asynchronous-unwind-tables",
}
LINKED = "-std=c99 -Os -ffreestanding -nostdlib -nostartfiles -fstack-usage"


@dataclass(frozen=True)
class Size:
    """Bytes of flash, of static RAM, and of the stack below the caller."""

    flash: int
    ram: int
    stack: int


def run(folder: Path, *command: str | Path, **options: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a command that must succeed."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, **options)  # noqa: S603


def compiled(folder: Path, level: str) -> Path:
    """Compile the program that reads images and prints their classes as bytes."""
    (folder / "main.c").write_text(PROGRAM)
    run(folder, "cc", "-std=c99", level, "-I", HEADERS, "main.c", "-o", "main")
    return folder / "main"


def measure_size(folder: Path, compiler: str) -> Size:
    """Link the firmware, with what it needs of the compiler's library, and measure it."""
    (folder / "firmware.c").write_text(FIRMWARE)
    program, *options = compiler.split()
    options += LINKED.split()
    run(folder, program, *options, "-I", HEADERS, "firmware.c", "-lgcc", "-o", "firmware")
    sizes = run(folder, program.replace("gcc", "size"), "firmware").stdout.decode()
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    # The functions on the longest path call each other; `_start` and `memcpy` are not of them.
    frames = re.findall(r":(\w+)\t(\d+)", next(folder.glob("*.su")).read_text())
    stack = sum(int(size) for name, size in frames if name not in ("_start", "memcpy"))
    return Size(text + data, data + bss, stack)


def count_instructions(folder: Path, level: str, images: npt.NDArray[np.uint8]) -> int:
    """Count the instructions of one image: those of eleven, less those of one, by ten."""
    main = compiled(folder, level)

    def count(number: int) -> int:
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", main]
        said = run(folder, *command, input=images[:number].tobytes()).stderr.decode()
        return int(re.findall(r"Collected : (\d+)", said)[0])

    return (count(11) - count(1)) // 10


def measure(folder: Path) -> dict[str, Any]:
    """Measure the header of the network that the pipeline has trained last; ready for JSON."""
    digits, params = read_test_digits(RAW_DATA), load_params()
    network = build(params.model, len(digits.names))
    load_weights(network, WEIGHTS)
    logits = predict_logits(network, torch.from_numpy(digits.images)).numpy()
    printed = run(folder, compiled(folder, "-O2"), input=digits.images.tobytes()).stdout
    labels = np.frombuffer(printed, np.uint8)
    others = {
        "accuracy": digits.labels,
        "agreement_pytorch": logits.argmax(axis=1),
        "agreement_int8_onnx": DigitModel(ONNX_INT8_MODEL).run(digits.images).logits.argmax(axis=1),
    }
    return {
        "weights_sha256": sha256(WEIGHTS),
        "accuracy_pytorch": float((logits.argmax(axis=1) == digits.labels).mean()),
        **{name: float((labels == other).mean()) for name, other in others.items()},
        "sizes": {
            target: asdict(measure_size(folder, compiler))
            for target, compiler in TARGETS.items()
            if shutil.which(compiler.split()[0])
        },
        "x86_64_instructions": {
            level: count_instructions(folder, level, digits.images)
            for level in ("-Os", "-O2")
            if shutil.which("valgrind")
        },
    }


def main() -> None:
    """Replace the figures of the pipeline's architecture in metrics/c_header.json."""
    report = read_json(C_HEADER) if C_HEADER.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        report[load_params().model.architecture] = measure(Path(folder))
    write_json(C_HEADER, report)


if __name__ == "__main__":
    main()
