"""Atomic file writes, JSON files and checksums."""

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
    """Yield a temporary path that is renamed to `path` if the block succeeds.

    The block may create a file or a folder there. The temporary path is next to `path`, because a
    rename is atomic only within one file system. If the block raises, `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)  # left by a killed run
    try:
        yield partial
        for file in [partial] if partial.is_file() else sorted(partial.iterdir()):
            with file.open("rb") as written:
                os.fsync(written.fileno())  # otherwise a power cut may leave an empty file
        if path.is_dir():
            _remove(path)  # a rename cannot replace a folder that is not empty
        partial.replace(path)
    except OSError as error:
        # "Disk full" names no file, and the temporary name means nothing to the user.
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
    """Write `content` to `path` atomically; raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically as indented JSON; NaN and infinity raise ValueError."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that `write_json` wrote.

    Raises:
        MnistCnnError: if the file is missing or damaged.
        OSError: if the file cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path}; run `dvc repro`") from None
    except ValueError:
        raise MnistCnnError(f"{path} is damaged; run `dvc repro`") from None
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
