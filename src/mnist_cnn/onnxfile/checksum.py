"""The SHA-256 that an ONNX file carries of itself, so that one flipped bit is noticed.

Needs neither torch nor the onnx package.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from mnist_cnn.onnxfile.contract import CHECKSUM_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

_BLANK = b"0" * 64

# As protocol buffers write a property: its key, then field 2 (0x12), 64 bytes long, the value.
_NOTED = re.compile(re.escape(CHECKSUM_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})", re.DOTALL)


def add_checksum(model: "ModelProto") -> bytes:
    """The file of `model`, which is changed by nothing but the added property."""
    noted = model.metadata_props.add()
    noted.key, noted.value = CHECKSUM_KEY, _BLANK.decode()
    content = model.SerializeToString()
    noted.value = hashlib.sha256(content).hexdigest()
    with_checksum: bytes = model.SerializeToString()
    return with_checksum


def is_damaged(content: bytes) -> bool:
    """Whether a file of ONNX carries a SHA-256 that its content does not have."""
    noted = _NOTED.search(content)
    if noted is None:
        return False
    blank = content[: noted.start(1)] + _BLANK + content[noted.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() != noted[1]
