"""Files that appear whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_cnn.core.errors import MnistCnnError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` only if the block succeeds.

    The block may make a file or a folder there. It lies beside `path`, since a rename is
    atomic only within one file system. When the block raises, `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)  # left by a run that was killed
    try:
        yield partial
        for file in [partial] if partial.is_file() else sorted(partial.iterdir()):
            with file.open("rb") as written:
                os.fsync(written.fileno())  # else a power cut may leave an empty file
        if path.is_dir():
            _remove(path)  # a rename replaces a file, but no folder with files in it
        partial.replace(path)
    except OSError as error:
        # A disk that is full names no file, and our own name says nothing to the user.
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON; NaN and infinities are refused with ValueError."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file that `write_json` wrote.

    Raises:
        MnistCnnError: it is missing or damaged.
        OSError: it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path}; run `dvc repro`") from None
    except ValueError:
        raise MnistCnnError(f"{path} is damaged; run `dvc repro`") from None
    return content


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
