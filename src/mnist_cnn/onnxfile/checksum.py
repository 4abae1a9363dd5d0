"""SHA-256 embedded in an ONNX file, which detects even one flipped bit.

Needs neither torch nor the onnx package.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from mnist_cnn.onnxfile.contract import CHECKSUM_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

_BLANK = b"0" * 64

# Protocol Buffers encoding of a property: the key, then field 2 (0x12), of 64 bytes, the value.
_NOTED = re.compile(re.escape(CHECKSUM_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})", re.DOTALL)


def add_checksum(model: "ModelProto") -> bytes:
    """Add the checksum property to `model`, and return the serialized file."""
    noted = model.metadata_props.add()
    noted.key, noted.value = CHECKSUM_KEY, _BLANK.decode()
    content = model.SerializeToString()
    noted.value = hashlib.sha256(content).hexdigest()
    with_checksum: bytes = model.SerializeToString()
    return with_checksum


def is_damaged(content: bytes) -> bool:
    """Whether an ONNX file's embedded SHA-256 contradicts its content; False if it has none."""
    noted = _NOTED.search(content)
    if noted is None:
        return False
    blank = content[: noted.start(1)] + _BLANK + content[noted.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() != noted[1]
