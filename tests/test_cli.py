import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mnist_cnn.cli import commands, describe_file
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.model import DigitCNN
from mnist_cnn.onnx_export import describe, export_onnx


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = DigitCNN()
    path = tmp_path_factory.mktemp("model") / "digits.onnx"
    path.write_bytes(export_onnx(network, 18, describe(network, "f" * 64)).SerializeToString())
    return path


def test_info_tells_what_the_file_is(model: Path) -> None:
    result = CliRunner().invoke(commands, ["info", str(model)])
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.output.splitlines())
    told = {name: text.strip() for name, text in lines.items()}
    assert told["input image"] == "tensor(uint8) ['batch', 28, 28]"
    assert told["parameters"] == "8890"
    assert told["weights_sha256"] == "f" * 64
    assert told["file"].endswith(f"{model.stat().st_size:,} bytes")


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_missing_or_broken_file_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    if content is not None:
        path.write_bytes(content)
    result = subprocess.run(
        [Path(sys.executable).with_name("mnist-cnn"), "info", path], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr


def test_a_truncated_model_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    path.write_bytes(model.read_bytes()[:20_000])
    with pytest.raises(MnistCnnError, match="is not a usable ONNX model"):
        describe_file(path)


@pytest.mark.slow
def test_the_command_needs_no_torch() -> None:
    program = "import sys, mnist_cnn.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
