"""The ONNX files in every runtime that is installed: agreement and speed on one thread.

Writes metrics/runtimes.json; docs/runtimes.md says how to install the runtimes.
"""

import argparse
import base64
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn.core.files import write_json
from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.onnxfile.session import open_model
from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.experiments.paths import RUNTIMES as RESULTS
from mnist_cnn_train.pipeline.paths import ONNX_INT8_MODEL, ONNX_MODEL, RAW_DATA
from mnist_cnn_train.pipeline.processor import this_processor

FILES = {"fp32": ONNX_MODEL, "int8": ONNX_INT8_MODEL, "reader": DEFAULT_MODEL}
IMAGES = 500
ONE_BY_ONE = 100  # of them are also read alone
BATCH = 32
PACKAGES = Path(os.environ.get("NODE_MODULES", ".venv/node_modules"))

Images = npt.NDArray[np.uint8]  # [n, 28, 28]
Probabilities = npt.NDArray[np.float32]  # [n, 10]
# From images and a batch size to probabilities and the mean time for an image, in seconds.
Run = Callable[[Images, int], tuple[Probabilities, float]]


@dataclass(frozen=True)
class Runtime:
    """A runtime that was started, and what opens a file in it."""

    version: str
    open: Callable[[Path], Run]


class MissingError(Exception):
    """A runtime is not installed; the message says how to install it."""


def _import(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingError(f"pip install {package}") from None


def _in_batches(predict: Callable[[Images], Any]) -> Run:
    def run(images: Images, size: int) -> tuple[Probabilities, float]:
        predict(images[:size])  # untimed: the first call after another runtime's is slower
        start = time.perf_counter()
        parts = [predict(images[at : at + size]) for at in range(0, len(images), size)]
        seconds = (time.perf_counter() - start) / len(images)
        return np.concatenate(parts), seconds

    return run


@contextmanager
def onnxruntime() -> Iterator[Runtime]:
    """The runtime that all others are compared with."""

    def open_file(path: Path) -> Run:
        session = open_model(path)
        return _in_batches(lambda images: session.run(["probabilities"], {"image": images})[0])

    yield Runtime(_import("onnxruntime", "onnxruntime").__version__, open_file)


@contextmanager
def reference() -> Iterator[Runtime]:
    """The operators as the standard defines them, in NumPy; not made for speed."""
    evaluator = _import("onnx.reference", "onnx").ReferenceEvaluator

    def open_file(path: Path) -> Run:
        session = evaluator(str(path))
        return _in_batches(lambda images: session.run(["probabilities"], {"image": images})[0])

    yield Runtime(_import("onnx", "onnx").__version__, open_file)


@contextmanager
def openvino() -> Iterator[Runtime]:
    """By default, it computes in bfloat16 on processors that can."""
    package = _import("openvino", "openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def open_file(path: Path) -> Run:
        request = package.Core().compile_model(path, "CPU", settings).create_infer_request()
        return _in_batches(lambda images: request.infer([images])["probabilities"].copy())

    yield Runtime(package.__version__.split("-")[0], open_file)


@contextmanager
def opencv() -> Iterator[Runtime]:
    """It takes images with a channel; OpenCV 4 reads three dimensions as something else."""
    cv2 = _import("cv2", "opencv-python-headless")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)

    def open_file(path: Path) -> Run:
        network = cv2.dnn.readNetFromONNX(str(path))

        def predict(images: Images) -> Any:
            network.setInput(images[:, None])
            return network.forward("probabilities").copy()

        return _in_batches(predict)

    yield Runtime(cv2.__version__, open_file)
    cv2.setNumThreads(threads)


def _javascript() -> str:
    return Path(__file__).with_suffix(".js").read_text()


def _package(name: str) -> tuple[Path, str]:
    """The folder of an npm package, and its version."""
    folder = (PACKAGES / name).resolve()
    if not folder.is_dir():
        raise MissingError(f"npm install --prefix .venv {name}")
    return folder, json.loads((folder / "package.json").read_text())["version"]


@contextmanager
def node() -> Iterator[Runtime]:
    """A new process for each run."""
    folder, version = _package("onnxruntime-node")
    program = shutil.which("node")
    if not program:
        raise MissingError("install Node.js")
    script = f"""{_javascript()}
        const [package, path, size] = process.argv.slice(1);
        const ort = require(package);
        const pixels = new Uint8Array(require("fs").readFileSync(0));
        ort.InferenceSession.create(path, {{ intraOpNumThreads: 1 }})
            .then(async (session) => {{
                await runInBatches(ort, session, pixels, Number(size));
                return runInBatches(ort, session, pixels, Number(size));
            }})
            .then((found) => console.log(JSON.stringify(found)));"""

    def open_file(path: Path) -> Run:
        def run(images: Images, size: int) -> tuple[Probabilities, float]:
            command = [program, "-e", script, str(folder), str(path), str(size)]
            done = subprocess.run(  # noqa: S603
                command, input=images.tobytes(), capture_output=True, check=True
            )
            return _found(json.loads(done.stdout))

        return run

    yield Runtime(version, open_file)


@contextmanager
def web() -> Iterator[Runtime]:
    """WebAssembly in Chromium, without a server and without a network."""
    folder, version = _package("onnxruntime-web")
    playwright = _import("playwright.sync_api", "playwright")
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    chromium = next(filter(None, browsers), None)
    if not chromium:
        raise MissingError("apt-get install chromium")

    def fulfill(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        if not name:
            route.fulfill(body="", content_type="text/html")
            return
        kind = "application/wasm" if name.endswith(".wasm") else "text/javascript"
        route.fulfill(path=folder / "dist" / name, content_type=kind)

    with playwright.sync_playwright() as driver:
        sandbox = os.geteuid() != 0  # Chromium's refuses to run as root
        browser = driver.chromium.launch(executable_path=chromium, chromium_sandbox=sandbox)

        def open_file(path: Path) -> Run:
            page = browser.new_page()
            page.route("**/*", fulfill)
            page.goto("http://localhost/")
            page.add_script_tag(url="/ort.wasm.min.js")
            page.add_script_tag(content=_javascript())
            page.evaluate(
                """async (file) => {
                    ort.env.wasm.numThreads = 1;
                    window.decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                    window.session = await ort.InferenceSession.create(decode(file));
                }""",
                base64.b64encode(path.read_bytes()).decode(),
            )

            def run(images: Images, size: int) -> tuple[Probabilities, float]:
                pixels = base64.b64encode(images.tobytes()).decode()
                call = "([pixels, size]) => runInBatches(ort, session, decode(pixels), size)"
                return _found(page.evaluate(call, [pixels, size]))

            return run

        yield Runtime(f"{version}, Chromium {browser.version}", open_file)
        browser.close()


def _found(result: dict[str, Any]) -> tuple[Probabilities, float]:
    probabilities = np.array(result["probabilities"], np.float32).reshape(-1, 10)
    return probabilities, result["seconds"]


RUNTIMES = {
    "onnxruntime": onnxruntime,
    "onnxruntime-node": node,
    "onnxruntime-web": web,
    "OpenVINO": openvino,
    "OpenCV": opencv,
    "onnx ReferenceEvaluator": reference,
}


def compare(found: Probabilities, expected: Probabilities) -> dict[str, Any]:
    """How many classes of `found` are those of `expected`, and how far probabilities differ."""
    return {
        "same_classes": int((found.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        "largest_difference": float(f"{np.abs(found - expected).max():.0e}"),
    }


def measure(runs: dict[str, Run], images: Images, rounds: int) -> dict[str, dict[str, Any]]:
    """Compare all with the first of `runs`, in batches, and take the least time over `rounds`.

    In each round, all take turns. Whatever else the machine does only adds to times.
    """
    seconds: dict[tuple[str, int], list[float]] = {}
    probabilities = {}
    for _ in range(rounds):
        for name, run in runs.items():
            for size, count in ((1, ONE_BY_ONE), (BATCH, len(images))):
                probabilities[name], taken = run(images[:count], size)
                seconds.setdefault((name, size), []).append(taken)
    expected, _ = next(iter(runs.values()))(images, len(images))
    return {
        name: {
            **compare(probabilities[name], expected),
            "microseconds": round(1e6 * min(seconds[name, 1]), 1),
            "images_per_second": round(1 / min(seconds[name, BATCH])),
        }
        for name in runs
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default 5)")
    rounds = parser.parse_args().rounds
    images = read_test_digits(RAW_DATA).images[:IMAGES]
    with ExitStack() as stack:
        started = {}
        for name, start in RUNTIMES.items():
            try:
                started[name] = stack.enter_context(start())
            except MissingError as error:
                print(f"{name}: skipped, {error}")
        report: dict[str, Any] = {
            "processor": str(this_processor()),
            "images": IMAGES,
            "batch": BATCH,
            "versions": {name: runtime.version for name, runtime in started.items()},
            "files": {},
        }
        for kind, path in FILES.items():
            if not path.is_file():
                raise MnistCnnError(f"there is no {path}; run `dvc repro`")
            runs = {name: runtime.open(path) for name, runtime in started.items()}
            md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            report["files"][kind] = {"md5": md5, "runtimes": measure(runs, images, rounds)}
            print(json.dumps({kind: report["files"][kind]["runtimes"]}, indent=2))
    write_json(RESULTS, report)


if __name__ == "__main__":
    with exit_on_error("runtimes"):
        main()
