"""The IDX file format."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError

# Type of the values, by the third byte of a file.
TYPES: dict[int, np.dtype[np.uint8 | np.int32]] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}


def read_idx(path: Path) -> npt.NDArray[np.uint8 | np.int32]:
    """Read an IDX file; raises OSError, or what `parse_idx` raises."""
    return parse_idx(np.fromfile(path, np.uint8), str(path))


def parse_idx(content: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8 | np.int32]:
    """Parse the content of an IDX file of unsigned bytes or 32-bit integers.

    Source: the format's description on the MNIST page: two zero bytes, the type (0x08 is unsigned
    byte, 0x0C is int), the number of axes, each axis's length as a big-endian 32-bit integer, then
    the values, big-endian, the last axis changing fastest.

    Raises:
        MnistCnnError: if the content is not IDX, or its length differs from what its header states.
    """
    if len(content) < 4 or content[:2].any() or int(content[2]) not in TYPES:
        raise MnistCnnError(f"{name} is not an IDX file of bytes or integers; download it again")
    kind, axes = TYPES[int(content[2])], int(content[3])
    start = 4 + 4 * axes
    if len(content) < start:
        raise MnistCnnError(f"{name} ends within its header; download it again")
    shape = struct.unpack(f">{axes}I", content[4:start].tobytes())
    if len(content) - start != math.prod(shape) * kind.itemsize:
        raise MnistCnnError(
            f"{name} holds {(len(content) - start) // kind.itemsize:,} values, but its header "
            f"states {' x '.join(map(str, shape))}; download it again"
        )
    try:
        return content[start:].view(kind).reshape(shape)
    except ValueError:  # no values, but too many or too long axes for an array
        raise MnistCnnError(f"{name} states axes that no array has; download it again") from None


def to_idx(values: npt.NDArray[Any]) -> bytes:
    """Serialize an array as IDX, the inverse of `parse_idx`; all but uint8 become 32-bit."""
    code = 8 if values.dtype == np.uint8 else 12
    header = struct.pack(f">4B{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return header + values.astype(TYPES[code]).tobytes()
