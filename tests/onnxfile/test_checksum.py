import os
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from conftest import flipped

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.onnxfile.checksum import add_checksum, is_damaged
from mnist_cnn.onnxfile.session import open_model
from mnist_cnn.reader.recognizer import Recognizer


@pytest.fixture
def content(trained_model: Path) -> bytes:
    return trained_model.read_bytes()


def test_a_whole_file_is_not_broken_and_says_the_same(content: bytes) -> None:
    assert not is_damaged(content)
    model = onnx.load_from_string(content)
    del model.metadata_props[-1]
    bare = model.SerializeToString()
    assert not is_damaged(bare)  # it has no checksum
    assert add_checksum(model) == content
    onnxruntime.InferenceSession(content)


@pytest.mark.fault
def test_any_flipped_bit_is_noticed_and_told_with_what_mends_it(
    content: bytes, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / "digits.onnx"
    places = range(0, len(content), 101)
    record_property("faults", len(places))
    for place in places:
        path.write_bytes(flipped(content, place))
        with pytest.raises(MnistCnnError, match=r"digits\.onnx"):
            Recognizer(path)
    path.write_bytes(flipped(content, len(content) // 2))
    with pytest.raises(MnistCnnError, match=r"digits\.onnx is damaged: .*`make repair`"):
        Recognizer(path)


@pytest.mark.fault
def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    path.touch()
    os.truncate(path, 2**40)  # sparse: a terabyte that takes no room
    with pytest.raises(MnistCnnError, match="is too large for a digit reader"):
        open_model(path)
